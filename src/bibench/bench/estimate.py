"""What a suite would cost: training time, from steps that are measured on this machine."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from bibench import registry
from bibench.models.base import Architecture
from bibench.nn import binarize, resolve
from bibench.recipes import Recipe
from bibench.records import RunConfig
from bibench.tasks.base import Batch, Task
from bibench.training.step_time import TrainingStep, measure_steps

__all__ = ["Estimate", "estimate", "samples_of"]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Training time of a plan on one thread of this machine.

    Args:
        seconds: by network (task and architecture), summed over its runs; None where the size of the task's training
            set is not known.
        probe: the network on which the algorithms were compared with full precision.
        factors: step time over that of full precision, by algorithm, measured on the probe.
    """

    seconds: dict[tuple[str, str], float | None]
    probe: tuple[str, str]
    factors: dict[str, float]

    @property
    def total(self) -> float:
        """Seconds over all networks that could be estimated."""
        return sum(seconds for seconds in self.seconds.values() if seconds is not None)


def estimate(runs: Sequence[RunConfig], on_progress: Callable[[str], None] = lambda text: None) -> Estimate:
    """Estimate the training time of a plan: an order of magnitude, without evaluation and measuring.

    A full-precision training step is timed on every network, on a small batch of random inputs, and scaled to the run's
    samples and epochs. How much longer a binarized step takes is timed on the network with the fastest step and taken
    to be the same on the others.

    Args:
        runs: the plan.
        on_progress: is told what is timed next.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        networks = list(dict.fromkeys((run.task, run.architecture) for run in runs))
        recipes = {(run.task, run.architecture): run.known_recipe for run in runs}
        per_sample: dict[tuple[str, str], float] = {}
        timed: dict[object, float] = {}
        for network in networks:
            alike = _alike(network, recipes[network])
            if alike not in timed:  # the same architecture on inputs of one size, as on the tasks of GLUE
                on_progress(" ".join(network))
                timed[alike] = _seconds(network, [None], recipes[network])[0]
            per_sample[network] = timed[alike]
        probe = min(per_sample, key=lambda network: per_sample[network])
        algorithms = {run.algorithm: run for run in runs if run.operator is not None}
        factors = {"fp32": 1.0}
        for name, run in algorithms.items():
            on_progress(f"{' '.join(probe)} {name}")
            own, full = _seconds(probe, [run, None], recipes[probe])
            factors[name] = own / full
    finally:
        torch.set_num_threads(threads)
    seconds: dict[tuple[str, str], float | None] = {}
    for network in networks:
        counts = [
            (samples_of(run), factors[run.algorithm])
            for run in runs
            if (run.task, run.architecture) == network and run.method != "checkpoint"
        ]
        known = [count * factor for count, factor in counts if count is not None]
        seconds[network] = per_sample[network] * sum(known) if len(known) == len(counts) else None
    return Estimate(seconds=seconds, probe=probe, factors=factors)


def samples_of(run: RunConfig) -> int | None:
    """Training samples that a run sees, over all its epochs; None where the task's number isn't known."""
    recipe = run.known_recipe
    if recipe.steps is not None:
        return recipe.steps * recipe.batch_size
    samples: int | None = registry.get("tasks", run.task).training_samples
    return None if samples is None else recipe.budget * samples


def _seconds(network: tuple[str, str], runs: Sequence[RunConfig | None], recipe: Recipe) -> list[float]:
    """Seconds a sample of a training step, for binarized runs and full precision (None), in turns."""
    task: Task = registry.get("tasks", network[0])
    architecture: Architecture = registry.get("architectures", network[1])
    count = _samples(architecture.build(task.input_shape, task.outputs or 10), task, recipe)
    batch: Batch
    if task.make_batch is not None:
        batch = task.make_batch(count)
    else:  # nothing is learned here, so any loss will do, and labels aren't needed
        batch = task.example().repeat(count // 2, *[1] * len(task.input_shape))
        task = dataclasses.replace(task, loss=_any_loss)
    steps = {}
    for index, run in enumerate(runs):
        model = architecture.build(task.input_shape, task.outputs or 10)
        teacher, own = None, dataclasses.replace(recipe, distillation=None)
        if run is not None and run.operator is not None:
            teacher, own = copy.deepcopy(model), recipe
            model = binarize(model, resolve(run.operator, **run.options), example=task.example(), inplace=True)
        steps[str(index)] = TrainingStep(model, task=task, batch=batch, recipe=own, teacher=teacher)
    times = measure_steps(steps, repeats=2, warm_up=1, device=torch.device("cpu"))
    return [times[str(index)].median / count for index in range(len(runs))]


def _alike(network: tuple[str, str], recipe: Recipe) -> object:
    task: Task = registry.get("tasks", network[0])
    return network[1], task.input_shape, task.outputs, type(recipe.optimizer), recipe.batch_size


def _samples(model: nn.Module, task: Task, recipe: Recipe) -> int:
    """How many samples to time a step on: a whole batch where a step is mostly overhead, few where it takes seconds."""
    whole = recipe.batch_size + recipe.batch_size % 2
    with torch.no_grad():
        example = task.example()
        model.eval()(example)
        began = time.perf_counter()
        model(example)
        taken = time.perf_counter() - began
    return whole if taken < 2e-3 else min(16, whole) if taken < 2e-2 else 2


def _any_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    outputs: torch.Tensor = model(batch)
    return outputs.float().square().mean()
