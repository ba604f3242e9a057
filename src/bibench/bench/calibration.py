"""Wall-clock budgets: what an iteration takes on this machine, measured once and kept with the results."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from bibench import registry
from bibench.bench.worker import Settings, load_data
from bibench.models.base import Architecture
from bibench.records import RunConfig
from bibench.tasks.base import Task
from bibench.training import build_model, full_precision_model
from bibench.training.loop import steps_an_epoch
from bibench.training.speed import iteration_times

__all__ = ["calibrate"]

_EPOCHS = 3
_SKIPPED = 3
_ITERATIONS = 10
"""Timed in each epoch, after the skipped ones."""


def calibrate(runs: Sequence[RunConfig], settings: Settings, known: Mapping[str, float]) -> dict[str, float]:
    """Seconds of a training iteration of every network and algorithm of a plan, reading the batches included.

    Full precision and the algorithms of a network take turns. Nothing else should run on the machine meanwhile; runs
    that share it later take longer than what is measured here.

    Args:
        runs: the plan.
        settings: where the data are, the device and its threads.
        known: what an earlier call found, which is kept: the same budget must be the same steps.

    Returns:
        By task, architecture and algorithm, such as ``"cifar10 resnet20 fp32"``.
    """
    found = dict(known)
    networks: dict[tuple[str, str], dict[str, RunConfig]] = {}
    for run in runs:
        networks.setdefault((run.task, run.architecture), {}).setdefault(run.algorithm, run)
    threads = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        for (task_name, architecture_name), by_algorithm in networks.items():
            places = {name: f"{task_name} {architecture_name} {name}" for name in by_algorithm}
            if all(place in found for place in places.values()):
                continue
            task: Task = registry.get("tasks", task_name)
            architecture: Architecture = registry.get("architectures", architecture_name)
            data = load_data(task_name, settings.data, settings.allow_subset)
            recipes = {name: run.known_recipe for name, run in by_algorithm.items()}
            models: dict[str, nn.Module] = {
                name: build_model(run, task=task, architecture=architecture, data=data)
                for name, run in by_algorithm.items()
            }
            teachers = {
                name: full_precision_model(run, task=task, architecture=architecture, data=data)
                for name, run in by_algorithm.items()
                if recipes[name].distillation is not None
            }
            times = iteration_times(
                models,
                task=task,
                data=data,
                recipes=recipes,
                teachers=teachers,
                device=settings.device,
                epochs=_EPOCHS,
                skip=min(_SKIPPED, *(steps_an_epoch(data, recipe) - 1 for recipe in recipes.values())),
                most=_ITERATIONS,
            )
            for name, place in places.items():
                found.setdefault(place, _significant(statistics.median(times[name].seconds)))
    finally:
        torch.set_num_threads(threads)
    return found


def _significant(seconds: float) -> float:
    """Three significant digits: more are noise, and make budgets that look exact."""
    return round(seconds, 2 - math.floor(math.log10(seconds)))
