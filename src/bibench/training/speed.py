"""Time of a training iteration over real batches, and the iterations that fit into a wall-clock budget.

An iteration is reading and augmenting a batch and the loop's own step on it (`bibench.training.loop.optimize`).
`bibench.training.step_time.measure_steps` takes its steps on a batch that is there already, so it tells what
binarization costs; this tells how long a training takes. Evaluating and writing checkpoints are not part of it.

Source: "Fast Binarized Neural Network Training with Partial Pre-Training", section 5.2: table 2, the time of an
iteration, and figure 2, accuracy at a wall-clock budget.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from bibench.recipes import Recipe
from bibench.tasks.base import Data, Task
from bibench.training.seeds import derive_seed
from bibench.training.step_time import StepTimes, TrainingStep, _resolved, _seconds, _undisturbed

__all__ = ["iteration_times", "steps_in"]

_ROUNDING = 1e-9
"""What shares and budgets may be off by, relative to themselves: far above rounding, far below a step."""


def iteration_times(
    models: Mapping[str, nn.Module],
    *,
    task: Task,
    data: Data,
    recipes: Mapping[str, Recipe],
    teachers: Mapping[str, nn.Module] = MappingProxyType({}),
    device: str | torch.device = "cpu",
    epochs: int = 5,
    skip: int = 3,
    most: int | None = None,
) -> dict[str, StepTimes]:
    """Time training iterations over whole epochs of several models, in turns, in one process.

    Each epoch gives one time of every candidate: the mean over its batches after the first ``skip``, in which worker
    processes start, caches fill and the optimizer's state is made. Every other epoch goes through the candidates
    backwards (A B, B A, ...), so that a machine's drift hits all alike. Epoch ``e`` has the same batches for all that
    have the same batch size: those of the seed ``derive_seed(0, "speed", e)``. Garbage is collected before each
    candidate's epoch and not within; a device is waited for before and after what is timed.

    A candidate is a `TrainingStep`: a copy of the model in training mode, at the start of its recipe, which goes on
    learning from epoch to epoch. The models and torch's random generators stay as they are. The copies, their
    gradients and the states of their optimizers are on the device together.

    Args:
        models: by name.
        task: whose loss is minimised.
        data: whose training split is read.
        recipes: optimizer, precision, bounds and batch size, for each model's name. Their budgets aren't used.
        teachers: full-precision networks, for those whose recipe has distillation.
        device: ``"cpu"`` or ``"cuda"``.
        epochs: times of each candidate.
        skip: batches at the start of each epoch that train and aren't timed.
        most: batches of each epoch that are timed, where a whole one takes too long; far more than worker processes
            read ahead, or the time is of batches that were there already. None: all that the epoch has.

    Returns:
        By name, the seconds of an iteration in each epoch; ``steps`` are the iterations timed in an epoch. The paper's
        figures are their mean, in iterations per second, and a ratio of two means.

    Raises:
        ValueError: no candidate, recipes that don't name the same ones, fewer than 1 epoch or timed batch, a negative
            skip, an epoch with no batch after the skipped ones, fewer batches than `Split.batches` promises, or a
            device that is neither a CPU nor CUDA.

    Source: section 5.2: "timing the mean time to complete a training epoch across 5 epochs, ignoring the first 3
    batches in each epoch", each iteration "processing one batch of data".

    >>> from bibench.tasks.digits import digits
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> recipes = {"fp32": digits.full_precision}
    >>> times = iteration_times({"fp32": model}, task=digits, data=digits.load(None, False), recipes=recipes, epochs=2)
    >>> len(times["fp32"].seconds), times["fp32"].steps  # of 1437 // 64 = 22 batches
    (2, 19)
    """
    if not models:
        raise ValueError("no model to measure: expected at least one candidate")
    if models.keys() != recipes.keys():
        raise ValueError(f"recipes are for {sorted(recipes)}, models are {sorted(models)}: expected one for each model")
    for name, value, least in (("epochs", epochs, 1), ("skip", skip, 0), ("most", most, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}: expected {least} or more")
    counts: dict[str, int] = {}
    for name in models:
        batch_size = recipes[name].batch_size
        found = max(1, len(data.train) // batch_size)
        if found <= skip:
            raise ValueError(
                f"'{name}': the number of batches in an epoch is {found} (of {batch_size} samples), so none is left "
                f"after skip={skip}; choose a skip below {found}, or a smaller batch_size"
            )
        counts[name] = found - skip if most is None else min(most, found - skip)
    where = _resolved(device)
    steps = {
        name: TrainingStep(model, task=task, recipe=recipes[name], device=where, teacher=teachers.get(name))
        for name, model in models.items()
    }
    order = list(models)
    times: dict[str, list[float]] = {name: [] for name in order}
    with _undisturbed(where):
        for epoch in range(epochs):
            for name in reversed(order) if epoch % 2 else order:
                gc.collect(0)  # what the last epoch left
                size = recipes[name].batch_size
                times[name].append(_epoch(steps[name], data, size, epoch, skip=skip, count=counts[name]))
    return {name: StepTimes(tuple(seconds), counts[name]) for name, seconds in times.items()}


def _epoch(step: TrainingStep, data: Data, batch_size: int, epoch: int, *, skip: int, count: int) -> float:
    """Mean seconds of an iteration over ``count`` batches after the first ``skip``.

    The batches are dropped on return: worker processes end after the time is taken and before the next candidate's.
    """
    batches = data.train.batches(batch_size, device=step.device, seed=derive_seed(0, "speed", epoch))
    try:
        for _ in range(skip):
            step.take(next(batches))
        return _seconds(lambda: step.take(next(batches)), count, step.device) / count
    except StopIteration:
        raise ValueError(
            f"the training split ended before {skip + count} batches of {batch_size} samples: expected "
            f"max(1, {len(data.train)} // {batch_size}) of them, as Split.batches promises"
        ) from None


def steps_in(seconds: float, parts: Sequence[tuple[float, float]]) -> int:
    """Iterations that fit into a wall-clock budget: ``floor(seconds / sum(share_i · seconds_i))``.

    It turns a budget of time into one of steps where parts of a training have iterations of different length: full
    precision is ``[(1, t_fp)]``, partial pre-training ``[(s, t_fp), (1 - s, t_bi)]``. What happens between the parts,
    such as binarizing the network, is not counted. A budget that lacks less than 1e-9 of itself to a whole number of
    iterations gives that number: ``1000 · t`` seconds are 1000 iterations, whatever rounding made of the product.

    Args:
        seconds: the budget.
        parts: for each part its share of the iterations and the seconds that one of them takes.

    Raises:
        ValueError: a budget that isn't finite or is shorter than one iteration, shares outside [0, 1] or whose sum
            isn't 1 (within 1e-9), or a time of an iteration that is not positive and finite.

    Source: section 5.2, figure 2.

    >>> steps_in(60.0, [(1.0, 0.25)]), steps_in(60.0, [(0.5, 0.25), (0.5, 0.5)])
    (240, 160)
    """
    shares = [share for share, _ in parts]
    if not all(0 <= share <= 1 for share in shares) or abs(math.fsum(shares) - 1) > _ROUNDING:
        raise ValueError(f"shares of the iterations are {shares}: expected values from 0 to 1 whose sum is 1")
    each = [time for _, time in parts]
    if not all(0 < time < math.inf for time in each):
        raise ValueError(f"seconds of an iteration are {each}: expected positive, finite ones")
    if not math.isfinite(seconds):
        raise ValueError(f"the budget is {seconds} seconds: expected a finite time")
    mean = math.fsum(share * time for share, time in parts)
    if (steps := math.floor(seconds / mean * (1 + _ROUNDING))) < 1:
        raise ValueError(
            f"the budget of {seconds:g} s is shorter than one iteration, which takes {mean:g} s; give it at least that"
        )
    return steps
