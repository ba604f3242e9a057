"""The plan: a suite spelled out as runs, and which of them need whose checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from bibench import registry
from bibench.bench.suite import AlgorithmEntry, Sensitivity, Suite, TaskEntry, recipe_for
from bibench.models.base import Architecture
from bibench.recipes import Recipe
from bibench.records import RunConfig
from bibench.tasks.base import Task

__all__ = ["PlanError", "Selection", "make_plan", "parse_only", "with_parents", "with_partners"]

_KEYS = ("task", "architecture", "algorithm", "seed", "setting")

Selection = Mapping[str, Sequence[str]]


class PlanError(ValueError):
    """A selection or setting that fits no run of the suite."""


def parse_only(items: Iterable[str]) -> Selection:
    """Parse ``KEY=VALUE`` selections: several values of one key widen it, several keys narrow it.

    >>> parse_only(["algorithm=bnn", "algorithm=recu", "seed=0"])
    {'algorithm': ['bnn', 'recu'], 'seed': ['0']}
    """
    selection: dict[str, list[str]] = {}
    for item in items:
        key, sign, value = item.partition("=")
        if not sign or not value:
            raise PlanError(f"--only {item}: expected KEY=VALUE, such as algorithm=bnn (keys: {', '.join(_KEYS)})")
        if key not in _KEYS:
            near = registry.did_you_mean(key, _KEYS)
            raise PlanError(f"--only {item}: unknown key '{key}'{near} (keys: {', '.join(_KEYS)})")
        selection.setdefault(key, []).append(value)
    return selection


def make_plan(
    suite: Suite,
    *,
    epochs: int | None = None,
    only: Selection | None = None,
    checkpoint: str | None = None,
    devices: int = 1,
) -> list[RunConfig]:
    """The suite's runs, in the order in which they are started; a run's parent comes before it.

    For each seed, task and architecture: one full-precision run, then one for each algorithm. What ``only`` selects
    brings along the full-precision runs that it starts from and is compared with.

    Args:
        suite: the suite.
        epochs: in place of every recipe's own number.
        only: the part of the suite to run.
        checkpoint: SHA-256 of the full-precision weights to start from, instead of training any.
        devices: processes that share each batch of a run.

    Raises:
        PlanError: a selection that is not in the suite.
    """
    only = only or {}
    asked = set(only.get("architecture", ()))
    algorithms = [*suite.algorithms, *(a for a in suite.on_request if a.title in only.get("algorithm", ()))]
    block = partial(_block, suite, algorithms=algorithms, epochs=epochs, checkpoint=checkpoint, devices=devices)
    found: list[RunConfig] = []
    for seed in suite.seeds:
        for entry in suite.tasks:
            task: Task = registry.get("tasks", entry.task)
            names = [*(entry.architectures or task.architectures), *(n for n in entry.on_request if n in asked)]
            for name in names:
                found += block(entry, task, registry.get("architectures", name), seed)
    found += _grid(suite, block, asked)
    runs = _merged(found)
    _check_selection(suite, only, runs)
    return with_partners([run for run in runs if _selected(run, only)], runs)


def _grid(suite: Suite, block: Callable[..., list[RunConfig]], asked: set[str]) -> list[RunConfig]:
    """The runs of the sensitivity grid, after the full-precision runs that they start from."""
    grid = suite.sensitivity
    if grid is None:
        return []
    entry = next(
        entry
        for entry in suite.tasks
        if entry.task == grid.task
        and grid.architecture
        in (*(entry.architectures or registry.get("tasks", entry.task).architectures), *entry.on_request)
    )
    if grid.architecture in entry.on_request and grid.architecture not in asked:
        return []
    task: Task = registry.get("tasks", entry.task)
    architecture: Architecture = registry.get("architectures", grid.architecture)
    runs = []
    for seed in grid.seeds or suite.seeds:
        runs += block(entry, task, architecture, seed, grid=grid)
    return runs


def _merged(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """Each run once: one of a grid may be the main run too."""
    merged: dict[str, RunConfig] = {}
    for run in runs:
        other = merged.get(run.id)
        if other is not None:
            run = run.model_copy(update={"main": run.main or other.main, "setting": run.setting or other.setting})
        merged[run.id] = run
    return list(merged.values())


def with_parents(chosen: Sequence[RunConfig], runs: Sequence[RunConfig]) -> list[RunConfig]:
    """The chosen runs of a plan, with the full-precision runs that they start from."""
    wanted = {run.id for run in chosen} | {run.parent for run in chosen}
    return [run for run in runs if run.id in wanted]


def with_partners(chosen: Sequence[RunConfig], runs: Sequence[RunConfig]) -> list[RunConfig]:
    """The chosen runs of a plan, with the full-precision runs that they start from and are compared with."""
    wanted = {run.id for run in chosen}
    partners = {_partner(run) for run in chosen if run.main}
    settings = {(*_partner(run), run.setting) for run in chosen if run.setting is not None}
    parents = {run.parent for run in chosen}

    def belongs(run: RunConfig) -> bool:
        if run.id in wanted or run.id in parents:
            return True
        compared = (run.main and _partner(run) in partners) or (*_partner(run), run.setting) in settings
        return run.algorithm == "fp32" and compared

    return [run for run in runs if belongs(run)]


def _block(
    suite: Suite,
    entry: TaskEntry,
    task: Task,
    architecture: Architecture,
    seed: int,
    *,
    algorithms: Iterable[AlgorithmEntry],
    epochs: int | None,
    checkpoint: str | None,
    devices: int,
    grid: Sensitivity | None = None,
) -> list[RunConfig]:
    """The full-precision run of one network and seed, and the binarized ones that belong to it.

    With a ``grid``: every setting of it, for full precision and each algorithm.
    """

    def recipe(kind: Literal["full_precision", "binarized"]) -> Recipe:
        chosen = recipe_for(entry, task, kind)
        if chosen.batch_size % devices:
            raise PlanError(
                f"--devices {devices}: the batches of task '{task.name}' have {chosen.batch_size} samples, which "
                f"{devices} devices can't share evenly"
            )
        return chosen if epochs is None else dataclasses.replace(chosen, epochs=epochs)

    common: dict[str, Any] = {
        "task": task.name,
        "architecture": architecture.name,
        "seed": seed,
        "devices": devices,
        "task_version": task.version,
        "family": architecture.family,
        "metric": task.metric.name,
        "group": task.group,
    }
    partner = RunConfig(
        **common,
        algorithm="fp32",
        method="checkpoint" if checkpoint else "full_precision",
        checkpoint=checkpoint,
        recipe=recipe("full_precision"),
        main=grid is None,
    )
    method = (grid and grid.method) or suite.method
    binarized = [
        RunConfig(
            **common,
            algorithm=algorithm.title,
            operator=algorithm.name,
            options=algorithm.options,
            method=method,
            parent=partner.id if method == "fine_tune" else None,
            recipe=recipe("binarized"),
            shortcuts=suite.shortcuts,
            padding_value=suite.padding_value,
        )
        for algorithm in algorithms
    ]
    if grid is None:
        return [partner, *binarized]
    trained = partner.model_copy(update={"method": "full_precision", "checkpoint": None})
    return [
        *([partner] if method == "fine_tune" else []),
        *(
            run.model_copy(update={"recipe": own, "setting": setting, "main": False})
            for run in (trained, *binarized)
            for setting, own in grid.settings(run.known_recipe).items()
        ),
    ]


def _partner(run: RunConfig) -> tuple[str, str, int]:
    return run.task, run.architecture, run.seed


def _selected(run: RunConfig, only: Selection) -> bool:
    return all(str(getattr(run, key)) in values for key, values in only.items())


def _check_selection(suite: Suite, only: Selection, runs: Sequence[RunConfig]) -> None:
    for key, values in only.items():
        known = list(dict.fromkeys(str(getattr(run, key)) for run in runs if getattr(run, key) is not None))
        if key == "algorithm":
            known += [a.title for a in suite.on_request if a.title not in known]
        if key == "architecture":
            known += [name for entry in suite.tasks for name in entry.on_request if name not in known]
        for value in values:
            if value not in known:
                near = registry.did_you_mean(value, known)
                raise PlanError(f"--only {key}={value}: not in suite '{suite.name}'{near} (it has: {', '.join(known)})")
    if runs and only and not any(_selected(run, only) for run in runs):
        chosen = " ".join(f"{key}={value}" for key, values in only.items() for value in values)
        raise PlanError(f"--only {chosen}: no run of suite '{suite.name}' has all of these")
