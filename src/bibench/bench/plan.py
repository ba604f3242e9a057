"""The plan: a suite spelled out as runs, and which of them need whose checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from bibench import registry
from bibench.bench.suite import AlgorithmEntry, Suite, TaskEntry, recipe_for
from bibench.models.base import Architecture
from bibench.recipes import Recipe
from bibench.records import RunConfig
from bibench.tasks.base import Task

__all__ = ["PlanError", "Selection", "make_plan", "parse_only", "with_parents"]

_KEYS = ("task", "architecture", "algorithm", "seed")

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
    runs: list[RunConfig] = []
    algorithms = [*suite.algorithms, *(a for a in suite.on_request if a.title in only.get("algorithm", ()))]
    block = partial(_block, suite, algorithms=algorithms, epochs=epochs, checkpoint=checkpoint, devices=devices)
    for seed in suite.seeds:
        for entry in suite.tasks:
            task: Task = registry.get("tasks", entry.task)
            names = [*(entry.architectures or task.architectures), *(n for n in entry.on_request if n in asked)]
            for name in names:
                runs += block(entry, task, registry.get("architectures", name), seed)
    _check_selection(suite, only, runs)
    wanted = {run.id for run in runs if _selected(run, only)}
    partners = {_partner(run) for run in runs if run.id in wanted}
    return [run for run in runs if run.id in wanted or (run.algorithm == "fp32" and _partner(run) in partners)]


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
) -> list[RunConfig]:
    """The full-precision run of one network and seed, and the binarized ones that belong to it."""

    def recipe(kind: Any) -> Recipe:
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
    }
    partner = RunConfig(
        **common,
        algorithm="fp32",
        method="checkpoint" if checkpoint else "full_precision",
        checkpoint=checkpoint,
        recipe=recipe("full_precision"),
    )
    return [
        partner,
        *(
            RunConfig(
                **common,
                algorithm=algorithm.title,
                operator=algorithm.name,
                options=algorithm.options,
                method=suite.method,
                parent=partner.id if suite.method == "fine_tune" else None,
                recipe=recipe("binarized"),
                shortcuts=suite.shortcuts,
                padding_value=suite.padding_value,
            )
            for algorithm in algorithms
        ),
    ]


def _partner(run: RunConfig) -> tuple[str, str, int]:
    return run.task, run.architecture, run.seed


def _selected(run: RunConfig, only: Selection) -> bool:
    return all(str(getattr(run, key)) in values for key, values in only.items())


def _check_selection(suite: Suite, only: Selection, runs: Sequence[RunConfig]) -> None:
    for key, values in only.items():
        known = list(dict.fromkeys(str(getattr(run, key)) for run in runs))
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


def with_parents(runs: Sequence[RunConfig]) -> dict[str, str | None]:
    """Who waits for whom: run identity to the identity of the run whose weights it needs, or None."""
    return {run.id: run.parent for run in runs}
