"""Time and peak memory of a training step, measured side by side with full precision.

The step is the loop's own (`bibench.training.loop.optimize`): gradients to None, forward, loss and the rules'
penalties, backward, clipping, the optimizer, in the recipe's precision. Reading batches, evaluating and writing
checkpoints are not part of it. Where a binarized training has the epochs and the batches of full precision, as in
BiBench, the ratio of two steps stands for that of two trainings.

Source: BiBench, section 3.2 (equation 6, ``E(T_train / T_train_bi)``) and section 5.2.1.
"""

from __future__ import annotations

import copy
import gc
import math
import statistics
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from bibench.nn import set_progress
from bibench.recipes import Recipe
from bibench.tasks.base import Batch, Task
from bibench.training.loop import make_optimizer, optimize
from bibench.training.processes import make_fabric

__all__ = [
    "Consumption",
    "Ratio",
    "StepTimes",
    "TrainingStep",
    "compare_training",
    "measure_steps",
    "peak_memory",
    "ratio",
]

LEAST_SECONDS = 0.02
"""What a repeat lasts at least: far above the timer's resolution, and above the system's usual interruptions."""


@dataclass(frozen=True)
class StepTimes:
    """The time of a step, in seconds, one value a repeat.

    Args:
        seconds: mean time of a step in each repeat, in order.
        steps: steps in a repeat.

    Raises:
        ValueError: no repeat, or a time that is not positive and finite.

    >>> StepTimes((0.3, 0.1, 0.2)).median
    0.2
    """

    seconds: tuple[float, ...]
    steps: int = 1

    def __post_init__(self) -> None:
        if not self.seconds or not all(0 < value < math.inf for value in self.seconds):
            raise ValueError(f"times of a step: expected positive seconds, one a repeat, got {self.seconds}")

    @property
    def median(self) -> float:
        """Median over the repeats."""
        return statistics.median(self.seconds)

    @property
    def lowest(self) -> float:
        """Lowest over the repeats."""
        return min(self.seconds)

    @property
    def highest(self) -> float:
        """Highest over the repeats."""
        return max(self.seconds)


@dataclass(frozen=True)
class Ratio:
    """A ratio in percent over the repeats of a measurement; above 100 the binarized step is the faster one."""

    median: float
    lowest: float
    highest: float


def ratio(full_precision: StepTimes, binarized: StepTimes) -> Ratio:
    """``100 · T_fp / T_bi`` in percent, taken within each repeat, so that a machine's changing load cancels.

    Raises:
        ValueError: not the same number of repeats.

    Source: BiBench, equation 6: 82 % for BNN says that its step takes 1/0.82 times as long as full precision.

    >>> ratio(StepTimes((1.0, 2.0, 1.0)), StepTimes((2.0, 4.0, 1.6)))
    Ratio(median=50.0, lowest=50.0, highest=62.5)
    """
    if len(full_precision.seconds) != len(binarized.seconds):
        raise ValueError(
            f"{len(full_precision.seconds)} repeats of full precision and {len(binarized.seconds)} of the binarized "
            "step; measure both in one call of measure_steps"
        )
    percents = [100 * (a / b) for a, b in zip(full_precision.seconds, binarized.seconds, strict=True)]
    return Ratio(statistics.median(percents), min(percents), max(percents))


def measure_steps(
    candidates: Mapping[str, Callable[[], object]],
    *,
    repeats: int = 7,
    warm_up: int = 2,
    steps: int | None = None,
    device: str | torch.device = "cpu",
) -> dict[str, StepTimes]:
    """Time steps in turns, in one process.

    Each candidate first takes ``warm_up`` steps that aren't timed. Then each repeat gives one time of every candidate;
    every other repeat goes through them backwards (A B C, C B A, ...), so that a drift within repeats hits all alike.
    Garbage is collected before each repeat and not while one is timed; a device is waited for before and after a time
    is taken. Torch's random generators are left as they were.

    Args:
        candidates: a function by name that takes one step, such as a `TrainingStep`.
        repeats: times of each candidate.
        warm_up: steps of each candidate before (the first one compiles, allocates and makes the optimizer's state).
        steps: steps in a repeat, the same for all; by default as many as the candidates need to last `LEAST_SECONDS`
            each, found out in one to a few more steps of each.
        device: that the steps compute on.

    Raises:
        ValueError: no candidate, fewer than 1 repeat or step, a negative warm-up, or a device that is neither a CPU
            nor CUDA.

    >>> times = measure_steps({"short": lambda: time.sleep(0.001), "long": lambda: time.sleep(0.01)}, repeats=3)
    >>> times["short"].median < times["long"].median, len(times["long"].seconds)
    (True, 3)
    """
    if not candidates:
        raise ValueError("no step to measure: expected at least one candidate")
    for name, value, least in (("repeats", repeats, 1), ("warm_up", warm_up, 0), ("steps", steps, 1)):
        if value is not None and value < least:
            raise ValueError(f"{name} is {value}: expected {least} or more")
    where = _resolved(device)
    order = list(candidates)
    times: dict[str, list[float]] = {name: [] for name in order}
    with _undisturbed(where):
        for step in candidates.values():
            for _ in range(warm_up):
                step()
        count = steps or max(_steps_to_last(step, where) for step in candidates.values())
        for repeat in range(repeats):
            gc.collect(0)  # what the last repeat left; a full collection would take longer than many a repeat
            for name in reversed(order) if repeat % 2 else order:
                times[name].append(_seconds(candidates[name], count, where) / count)
    return {name: StepTimes(tuple(seconds), count) for name, seconds in times.items()}


def _seconds(step: Callable[[], object], count: int, device: torch.device) -> float:
    _wait_for(device)
    start = time.perf_counter()
    for _ in range(count):
        step()
    _wait_for(device)
    return time.perf_counter() - start


def _steps_to_last(step: Callable[[], object], device: torch.device) -> int:
    count = 1
    while (seconds := _seconds(step, count, device)) < LEAST_SECONDS:
        wanted = 1.1 * LEAST_SECONDS * count / max(seconds, 1e-9)
        count = max(count + 1, min(10 * count, math.ceil(wanted)))
    return count


class TrainingStep:
    """One training step of a model on one batch, as the loop takes it; call it as often as needed.

    It trains a copy: the model, its buffers and its gradients stay as they are. The copy is in training mode and as at
    the start of the recipe: the progress of its rules is that of the first epoch, the learning rate that of the first
    step. What a rule does in training only (FDA's noise network, ReCU's standardisation) is thus part of the step, also
    for a model whose training is over. None of the package's rules computes more or less at another progress.

    Args:
        model: on any device, in any mode.
        task: whose loss is minimised.
        batch: what the task's loss takes; moved to the device. None: `take` gets one each time.
        recipe: optimizer, precision and bounds. Its batch size isn't used.
        device: ``"cpu"`` or ``"cuda"``.
        compiled: compile the copy with ``torch.compile``.
        teacher: the full-precision network to learn from; needed, and copied, only where the recipe has distillation.

    Raises:
        ValueError: a batch without samples, or a device that is neither a CPU nor CUDA.

    >>> from bibench.tasks.digits import digits
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> batch = torch.rand(8, 1, 8, 8), torch.arange(8)
    >>> step = TrainingStep(model, task=digits, batch=batch, recipe=digits.full_precision)
    >>> step(), torch.equal(step.model[1].weight, model[1].weight)
    (None, False)
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        task: Task,
        batch: Batch | None = None,
        recipe: Recipe,
        device: str | torch.device = "cpu",
        compiled: bool = False,
        teacher: nn.Module | None = None,
    ) -> None:
        leaves = tree_leaves(batch)
        if not leaves or any(isinstance(leaf, Tensor) and leaf.numel() == 0 for leaf in leaves):
            raise ValueError("the batch has no samples: expected at least one")
        self.device = _resolved(device)
        self.batch = tree_map(lambda leaf: leaf.to(self.device) if isinstance(leaf, Tensor) else leaf, batch)
        self.model = copy.deepcopy(model).train()
        set_progress(self.model, 0, recipe.epochs or 1)
        self.compiled = compiled
        if compiled:
            self.model.compile()
        self._task, self._recipe = task, recipe
        self._plain_optimizer = make_optimizer(self.model, recipe)
        for group in self._plain_optimizer.param_groups:
            group["lr"] = recipe.learning_rate(0.0)
        devices = 1 if self.device.index is None else [self.device.index]
        self._teacher: nn.Module | None = None
        if teacher is not None and recipe.distillation is not None:
            self._teacher = copy.deepcopy(teacher).to(self.device).eval()
        self._fabric = make_fabric(self.device.type, devices, precision=recipe.precision)
        self._network, self._optimizer = self._fabric.setup(self.model, self._plain_optimizer)
        self.release_gradients()

    def __call__(self) -> None:
        """Take the step.

        Raises:
            ValueError: it has no batch.
        """
        if self.batch is None:
            raise ValueError("the step has no batch: give it one when it is made, or call take(batch)")
        self.take(self.batch)

    def take(self, batch: Batch) -> None:
        """Take the step on this batch, which is on the device."""
        optimize(
            self._fabric,
            self._network,
            self._optimizer,
            batch,
            task=self._task,
            recipe=self._recipe,
            teacher=self._teacher,
        )

    def release_gradients(self) -> None:
        """Set all gradients to None, as every step does at its start."""
        self.model.zero_grad(set_to_none=True)

    def held_bytes(self) -> int:
        """Bytes on the device that outlast a step: parameters, buffers, optimizer state and batch, each tensor once.

        A teacher's parameters and buffers count too.
        """
        state = self._plain_optimizer.state.values()
        tensors = tree_leaves([list(state), self.batch])
        for network in (self.model, self._teacher):
            if network is not None:
                tensors += [*network.parameters(), *network.buffers()]
        sizes = {
            tensor.data_ptr(): tensor.numel() * tensor.element_size()
            for tensor in tensors
            if isinstance(tensor, Tensor) and tensor.device.type == self.device.type
        }
        return sum(sizes.values())


def peak_memory(step: TrainingStep) -> int:
    """The most bytes that a training step needs at once, in tensors on its device.

    It is what the step holds all the time (`TrainingStep.held_bytes`: parameters, buffers, optimizer state, batch) plus
    the highest sum, during the step, of what it allocated and has not released yet: activations kept for the backward
    pass, gradients, intermediate results. The step starts without gradients and isn't the first one. Other tensors on
    the device don't count.

    - CUDA: what PyTorch's caching allocator counts, in blocks of 512 bytes, workspaces of kernels included; not the
      context, nor what the allocator keeps in reserve. The device's peak statistics are reset.
    - CPU: the sizes of the storages that operators return, the same on every processor. Not seen: buffers inside an
      operator, such as a convolution's rearranged weights (0 to 5 % of the peak with batches of 64 and 256 on small
      convolutional networks, 14 % with a batch of 32 and weights that outweigh it), sparse tensors, libraries' own
      memory, Python. Code compiled by ``torch.compile`` allocates past the operators, so a compiled step is refused.

    Torch's random generators are left as they were.

    Raises:
        ValueError: a compiled step on a CPU.

    >>> from bibench.tasks.digits import digits
    >>> batch = torch.rand(8, 1, 8, 8), torch.arange(8)
    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    >>> step = TrainingStep(model, task=digits, batch=batch, recipe=digits.full_precision)
    >>> peak_memory(step) > step.held_bytes() > 4 * (64 * 10 + 10) + 4 * 8 * 64
    True
    """
    on_cpu = step.device.type == "cpu"
    if on_cpu and step.compiled:
        raise ValueError("the peak memory of a compiled step can't be measured on a CPU; measure it without compiling")
    with _undisturbed(step.device):
        step()
        step.release_gradients()  # what is allocated before the step must not hold what the step begins by releasing
        held = step.held_bytes()
        if on_cpu:
            seen = _Allocations()
            with seen:
                step()
            return held + seen.peak
        _wait_for(step.device)
        before: int = torch.cuda.memory_allocated(step.device)
        torch.cuda.reset_peak_memory_stats(step.device)
        step()
        _wait_for(step.device)
        peak: int = torch.cuda.max_memory_allocated(step.device)
        return held + peak - before


class _Allocations(TorchDispatchMode):
    """Bytes of the storages that operators return and that aren't released yet, and their highest sum.

    Not the profiler's memory events: they count the same, with the buffers inside operators that a processor needs, but
    the profiler writes to stderr, can't run inside another one, and gives them by no public name.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = 0
        self._now = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = _storages((args, kwargs)).keys()
        result = func(*args, **(kwargs or {}))
        for key, storage in _storages(result).items():
            if key not in given and key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self._now += storage.nbytes()
                weakref.finalize(storage, self._released, key).atexit = False
        self.peak = max(self.peak, self._now)
        return result

    def _released(self, key: int) -> None:
        self._now -= self._sizes.pop(key)


def _storages(values: Any) -> dict[int, torch.UntypedStorage]:
    """The memory behind the dense tensors in a nested structure, by identity."""
    tensors = [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor) and leaf.layout == torch.strided]
    storages = [tensor.untyped_storage() for tensor in tensors]
    return {storage._cdata: storage for storage in storages}


@dataclass(frozen=True, kw_only=True)
class Consumption:
    """What a binarized training step takes, and the full-precision one beside it (the partner).

    Args:
        time_ratio, lowest, highest: ``100 · T_fp / T_bi`` in percent: the median over the repeats, and their range.
        seconds, partner_seconds: time of a step, the median over the repeats.
        peak_memory, partner_peak_memory: the most bytes that a step needs at once, as the function `peak_memory`
            defines them.
        repeats: times taken of each.
        steps: steps in each repeat.
    """

    time_ratio: float
    lowest: float
    highest: float
    seconds: float
    partner_seconds: float
    peak_memory: int
    partner_peak_memory: int
    repeats: int
    steps: int


def compare_training(
    model: nn.Module,
    partner: nn.Module,
    *,
    task: Task,
    batch: Batch,
    recipe: Recipe,
    partner_recipe: Recipe | None = None,
    device: str | torch.device = "cpu",
    repeats: int = 7,
) -> Consumption:
    """Time and peak memory of a binarized model's training step beside full precision's, in turns, on the same batch.

    Both models, and torch's random generators, stay as they are.

    Args:
        model, partner: binarized and full precision.
        task, batch: for both.
        recipe: of the binarized model.
        partner_recipe: of the full-precision one, where it isn't the same. Another optimizer or precision is then part
            of what the ratio tells. In distillation the partner is the teacher, and learns without.
        device: ``"cpu"`` or ``"cuda"``.
        repeats: times taken of each.

    Raises:
        ValueError: a batch without samples, fewer than 1 repeat, or a device that is neither a CPU nor CUDA.

    >>> from bibench import binarize
    >>> from bibench.tasks.digits import digits
    >>> linear = [nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)]
    >>> partner = nn.Sequential(*linear)
    >>> model = binarize(partner, "bnn", example=digits.example())
    >>> batch = torch.rand(8, 1, 8, 8), torch.arange(8)
    >>> found = compare_training(model, partner, task=digits, batch=batch, recipe=digits.binarized, repeats=3)
    >>> found.repeats, found.lowest <= found.time_ratio <= found.highest
    (3, True)
    """

    def step_of(network: nn.Module, own: Recipe, teacher: nn.Module | None = None) -> TrainingStep:
        return TrainingStep(network, task=task, batch=batch, recipe=own, device=device, teacher=teacher)

    steps = {
        "full precision": step_of(partner, replace(partner_recipe or recipe, distillation=None)),
        "binarized": step_of(model, recipe, teacher=partner),
    }
    times = measure_steps(steps, repeats=repeats, device=device)
    percent = ratio(times["full precision"], times["binarized"])
    return Consumption(
        time_ratio=percent.median,
        lowest=percent.lowest,
        highest=percent.highest,
        seconds=times["binarized"].median,
        partner_seconds=times["full precision"].median,
        peak_memory=peak_memory(steps["binarized"]),
        partner_peak_memory=peak_memory(steps["full precision"]),
        repeats=repeats,
        steps=times["binarized"].steps,
    )


def _resolved(device: str | torch.device) -> torch.device:
    """The device with its index, where there are several."""
    found = torch.device(device)
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f"steps are measured on 'cpu' or 'cuda', not on '{found}'")
    if found.type == "cuda" and found.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu") if found.type == "cpu" else found


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """No garbage collection inside; afterwards torch's generators are as before."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        with torch.random.fork_rng(devices=[] if device.index is None else [device.index]):
            yield
    finally:
        if collecting:
            gc.enable()
