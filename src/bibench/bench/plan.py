"""The plan: a suite spelled out as runs, and which of them need whose checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

from bibench import registry
from bibench.bench.suite import (
    IN_FULL_PRECISION,
    WITHOUT_TEACHER,
    AlgorithmEntry,
    BinarizedMethod,
    Sensitivity,
    Splits,
    Suite,
    TaskEntry,
    check_partial,
    recipe_for,
)
from bibench.models.base import Architecture
from bibench.recipes import Recipe, split_budget
from bibench.records import RunConfig
from bibench.tasks.base import Task
from bibench.tracks.lookup import FULL_PRECISION
from bibench.training.speed import steps_in

__all__ = ["Budget", "PlanError", "Selection", "make_plan", "parse_only", "with_parents", "with_partners"]

_KEYS = ("task", "architecture", "algorithm", "seed", "method", "setting", "point")

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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
    """What takes the place of every recipe's own budget: one of the three.

    Args:
        epochs, steps: of every training; of both parts together in partial pre-training.
        seconds: of wall-clock time, turned into steps by ``calibration``: the run is then defined by its steps.
        calibration: seconds of a training iteration, by task, architecture and algorithm
            (``"cifar10 resnet20 fp32"``), measured on the machine that runs.

    Raises:
        PlanError: none or several of the three.
    """

    epochs: int | None = None
    steps: int | None = None
    seconds: float | None = None
    calibration: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        given = [name for name in ("epochs", "steps", "seconds") if getattr(self, name) is not None]
        if len(given) != 1:
            raise PlanError(f"a budget is in epochs, steps or seconds; found {' and '.join(given) or 'none'}")

    def applied(self, recipe: Recipe, place: str, *, algorithm: str, share: float) -> Recipe:
        """The recipe with this budget.

        Args:
            recipe: the suite's.
            place: task and architecture.
            algorithm: that is trained for ``1 - share`` of the steps; the rest is full precision.
            share: of full precision.
        """
        if self.seconds is None:
            return dataclasses.replace(recipe, epochs=self.epochs, steps=self.steps)
        parts = ((share, FULL_PRECISION), (1 - share, algorithm))
        try:
            times = [(part, self.calibration[f"{place} {name}"]) for part, name in parts if part > 0]
            steps = steps_in(self.seconds, times)
        except KeyError as error:
            raise PlanError(f"--seconds {self.seconds:g}: the iterations of {error} were not timed") from error
        except ValueError as error:
            raise PlanError(f"--seconds {self.seconds:g}: {place} {algorithm}: {error}") from error
        return dataclasses.replace(recipe, epochs=None, steps=steps)


def make_plan(
    suite: Suite,
    *,
    budget: Budget | None = None,
    only: Selection | None = None,
    checkpoint: str | None = None,
    pretrained: bool = False,
    devices: int = 1,
    partners: bool = True,
) -> list[RunConfig]:
    """The suite's runs, in the order in which they are started; a run's parent comes before it.

    For each seed, task and architecture: one full-precision run, then one for each algorithm. What ``only`` selects
    brings along the full-precision runs that it starts from and is compared with.

    Args:
        suite: the suite.
        budget: in place of every recipe's own.
        only: the part of the suite to run.
        checkpoint: SHA-256 of the full-precision weights to start from, instead of training any.
        pretrained: whether these are of a pretrained part of the network, with which full precision is trained.
        devices: processes that share each batch of a run.
        partners: with the full-precision runs that binarized ones are only compared with.

    Raises:
        PlanError: a selection that is not in the suite, or a budget that its runs can't have.
    """
    only = only or {}
    asked = set(only.get("architecture", ()))
    algorithms = [*suite.algorithms, *(a for a in suite.on_request if a.title in only.get("algorithm", ()))]
    if checkpoint and (suite.method == "partial_pretraining" or suite.curves or suite.splits):
        raise PlanError(
            "--checkpoint gives the weights of a whole full-precision training; partial pre-training and training "
            "curves train their own: leave it out, or use method fine_tune without curves"
        )
    networks = [
        _Network(
            suite=suite,
            entry=entry,
            task=registry.get("tasks", entry.task),
            architecture=registry.get("architectures", name),
            budget=budget,
            devices=devices,
            checkpoint=checkpoint,
            pretrained=pretrained,
        )
        for entry in suite.tasks
        if not entry.optional or entry.task in only.get("task", ())
        for name in _architectures(entry, asked)
    ]
    found: list[RunConfig] = []
    for seed in suite.seeds:
        for network in networks:
            found += network.main(seed, algorithms)
    for part in (_grid, _curves, _splits):
        found += part(suite, networks, algorithms)
    runs = _merged(found)
    _check_selection(suite, only, runs)
    chosen = [run for run in runs if _selected(run, only)]
    return with_partners(chosen, runs) if partners else with_parents(chosen, runs)


def _architectures(entry: TaskEntry, asked: Collection[str]) -> list[str]:
    task: Task = registry.get("tasks", entry.task)
    return [*(entry.architectures or task.architectures), *(name for name in entry.on_request if name in asked)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Network:
    """A task and an architecture of a suite, and the runs that they can have."""

    suite: Suite
    entry: TaskEntry
    task: Task
    architecture: Architecture
    budget: Budget | None
    devices: int
    checkpoint: str | None
    pretrained: bool
    parents: dict[int, RunConfig] = dataclasses.field(default_factory=dict, init=False, repr=False)

    @functools.cached_property
    def recipes(self) -> dict[Literal["full_precision", "binarized"], Recipe]:
        """The suite's recipe for each kind of network."""
        return {
            "full_precision": recipe_for(self.entry, self.task, "full_precision"),
            "binarized": recipe_for(self.entry, self.task, "binarized"),
        }

    def recipe(
        self,
        kind: Literal["full_precision", "binarized"],
        *,
        algorithm: str = FULL_PRECISION,
        share: float = 0.0,
        part: float = 1.0,
    ) -> Recipe:
        """The suite's recipe with what takes its budget's place; ``part`` of that.

        Args:
            kind: of the network.
            algorithm: whose budget, where it is given in seconds.
            share: of full precision in it.
            part: how much of the budget.
        """
        chosen = self.recipes[kind]
        if chosen.batch_size % self.devices:
            raise PlanError(
                f"--devices {self.devices}: the batches of task '{self.task.name}' have {chosen.batch_size} samples, "
                f"which {self.devices} devices can't share evenly"
            )
        if self.budget is not None:
            place = f"{self.task.name} {self.architecture.name}"
            chosen = self.budget.applied(chosen, place, algorithm=algorithm, share=share)
        return chosen if part == 1 else chosen.with_budget(max(1, round(part * chosen.budget)))

    def full_precision(self, seed: int, recipe: Recipe | None = None, **more: Any) -> RunConfig:
        """A full-precision run; with the whole budget by default."""
        own = recipe or self.recipe("full_precision")
        if own.distillation is not None:
            raise PlanError(f"task '{self.task.name}': {IN_FULL_PRECISION}")
        return RunConfig(
            **self._common(seed, own),
            **({"algorithm": FULL_PRECISION, "method": "full_precision"} | more),
        )

    def start(self, seed: int) -> RunConfig:
        """What fine-tuning starts from: the user's weights, or a full-precision run with the whole budget."""
        if self.checkpoint is None or self.pretrained:
            return self.full_precision(seed, checkpoint=self.checkpoint)
        return self.full_precision(seed, method="checkpoint", checkpoint=self.checkpoint)

    def parent(self, seed: int) -> RunConfig:
        """The same as what others only start from: one object for all algorithms."""
        if seed not in self.parents:
            self.parents[seed] = self.start(seed).model_copy(update={"main": False})
        return self.parents[seed]

    def binarized(
        self, seed: int, algorithm: AlgorithmEntry, method: BinarizedMethod, *, part: float = 1.0, share: float = 0.5
    ) -> list[RunConfig]:
        """A binarized run with ``part`` of the budget, after the full-precision run that it starts from, if any."""
        partial = method == "partial_pretraining" and share > 0
        whole = self.recipe("binarized", algorithm=algorithm.title, share=share if partial else 0.0, part=part)
        if partial:
            try:
                first, second = split_budget(whole.budget, share)
            except ValueError as error:
                raise PlanError(f"{self.task.name} {self.architecture.name}: {error}") from error
            return self.partial(seed, algorithm, first, second, share)
        if method == "fine_tune":
            parent = self.parent(seed)
            return [parent, self._binarized(seed, algorithm, "fine_tune", whole, parent)]
        # Without a share of full precision, partial pre-training is training from scratch.
        return [self._binarized(seed, algorithm, "from_scratch", whole)]

    def partial(self, seed: int, algorithm: AlgorithmEntry, first: int, second: int, share: float) -> list[RunConfig]:
        """Partial pre-training with these budgets of the full-precision and the binarized part: two runs."""
        state = self.suite.optimizer_state
        unit = self.recipe("binarized", algorithm=algorithm.title)
        full = self.recipe("full_precision")
        try:
            check_partial(self.task, full, unit, state)
        except ValueError as error:
            raise PlanError(str(error)) from error
        own = full.with_budget(first)
        parent = self.full_precision(seed, own, main=False, optimizer_state=state)
        rest = unit.with_budget(second)
        more = {"optimizer_state": state, "share": share}
        return [parent, self._binarized(seed, algorithm, "partial_pretraining", rest, parent, **more)]

    def _binarized(
        self,
        seed: int,
        algorithm: AlgorithmEntry,
        method: BinarizedMethod,
        recipe: Recipe,
        parent: RunConfig | None = None,
        **more: Any,
    ) -> RunConfig:
        if recipe.distillation is not None and parent is None:
            raise PlanError(f"task '{self.task.name}': {WITHOUT_TEACHER}")
        return RunConfig(
            **self._common(seed, recipe),
            algorithm=algorithm.title,
            operator=algorithm.name,
            options=algorithm.options,
            method=method,
            parent=None if parent is None else parent.id,
            shortcuts=self.suite.shortcuts,
            heads=self.suite.heads,
            padding_value=self.suite.padding_value,
            **more,
        )

    def _common(self, seed: int, recipe: Recipe) -> dict[str, Any]:
        return {
            "task": self.task.name,
            "architecture": self.architecture.name,
            "seed": seed,
            "recipe": recipe,
            "devices": self.devices,
            "task_version": self.task.version,
            "family": self.architecture.family,
            "metric": self.task.metric.name,
            "group": self.task.group,
        }

    def main(self, seed: int, algorithms: Iterable[AlgorithmEntry]) -> list[RunConfig]:
        """The full-precision run of a seed, and the binarized ones that belong to it."""
        runs = [self.start(seed)]
        for algorithm in algorithms:
            runs += self.binarized(seed, algorithm, self.suite.method, share=self.suite.share)
        return runs


def _grid(suite: Suite, networks: Sequence[_Network], algorithms: Sequence[AlgorithmEntry]) -> list[RunConfig]:
    """The runs of the sensitivity grid, after the full-precision runs that they start from."""
    grid = suite.sensitivity
    network = _named(networks, grid) if grid is not None else None
    if grid is None or network is None:
        return []
    runs: list[RunConfig] = []
    for seed in grid.seeds or suite.seeds:
        trained = [[network.full_precision(seed)]]
        trained += [
            network.binarized(seed, entry, grid.method or suite.method, share=suite.share) for entry in algorithms
        ]
        runs += [parent for *parents, _ in trained for parent in parents]
        runs += [
            run.model_copy(update={"recipe": own, "setting": setting, "main": False})
            for *_, run in trained
            for setting, own in grid.settings(run.known_recipe).items()
        ]
    return runs


def _curves(suite: Suite, networks: Sequence[_Network], algorithms: Sequence[AlgorithmEntry]) -> list[RunConfig]:
    """The runs of the training curves, and those that they start from."""
    curves = suite.curves
    if curves is None:
        return []
    runs: list[RunConfig] = []
    for seed, network, part in itertools.product(suite.seeds, networks, curves.budgets):
        if "full_precision" in curves.methods:
            runs.append(_point(network.full_precision(seed, network.recipe("full_precision", part=part))))
        for method, algorithm in itertools.product(curves.methods, algorithms):
            if method == "full_precision":
                continue
            for share in curves.shares or (suite.share,) if method == "partial_pretraining" else (0.0,):
                *parents, run = network.binarized(seed, algorithm, method, part=part, share=share)
                runs += [*parents, _point(run, parents)]
    return runs


def _splits(suite: Suite, networks: Sequence[_Network], algorithms: Sequence[AlgorithmEntry]) -> list[RunConfig]:
    """The runs of partial pre-training with different splits, and those that they start from."""
    splits = suite.splits
    network = _named(networks, splits) if splits is not None else None
    if splits is None or network is None:
        return []
    runs: list[RunConfig] = []
    for seed, algorithm in itertools.product(suite.seeds, algorithms):
        for first, second in itertools.product(splits.full_precision, splits.binarized):
            whole = network.recipe("binarized", algorithm=algorithm.title).budget
            lengths = (max(1, round(first * whole)), max(1, round(second * whole)))
            *parents, run = network.partial(seed, algorithm, *lengths, round(first / (first + second), 4))
            runs += [*parents, _point(run, parents)]
    return runs


def _named(networks: Iterable[_Network], part: Sensitivity | Splits) -> _Network | None:
    """The network of a part of the suite; None where it is on request and wasn't asked for."""
    place = part.task, part.architecture
    return next((own for own in networks if (own.task.name, own.architecture.name) == place), None)


def _point(run: RunConfig, parents: Sequence[RunConfig] = ()) -> RunConfig:
    """The run as a point of a curve, which is named by its method and its budgets."""
    unit = "" if run.known_recipe.unit == "steps" else "ep"
    budgets = "+".join(str(part.known_recipe.budget) for part in (*parents, run))
    return run.model_copy(update={"point": f"{run.method}-{budgets}{unit}", "main": False})


def _merged(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """Each run once: one of a grid or a curve may be the main run too."""
    merged: dict[str, RunConfig] = {}
    for run in runs:
        other = merged.get(run.id)
        if other is not None:
            update = {
                "main": run.main or other.main,
                "setting": run.setting or other.setting,
                "point": run.point or other.point,
                "share": run.share if other.share is None else other.share,
            }
            if all(getattr(other, name) == value for name, value in update.items()):
                continue
            run = run.model_copy(update=update)
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


def _partner(run: RunConfig) -> tuple[str, str, int]:
    return run.task, run.architecture, run.seed


def _selected(run: RunConfig, only: Selection) -> bool:
    return all(any(name in values for name in _names(run, key)) for key, values in only.items())


def _names(run: RunConfig, key: str) -> list[str]:
    """What a run is selected by: a task by its group too, such as all of ``glue``."""
    found = (run.task, run.group or None) if key == "task" else (getattr(run, key),)
    return [str(name) for name in found if name is not None]


def _check_selection(suite: Suite, only: Selection, runs: Sequence[RunConfig]) -> None:
    for key, values in only.items():
        known = list(dict.fromkeys(name for run in runs for name in _names(run, key)))
        if key == "algorithm":
            known += [a.title for a in suite.on_request if a.title not in known]
        if key == "task":
            known += [entry.task for entry in suite.tasks if entry.task not in known]
        if key == "architecture":
            known += [name for entry in suite.tasks for name in entry.on_request if name not in known]
        for value in values:
            if value not in known:
                near = registry.did_you_mean(value, known)
                raise PlanError(f"--only {key}={value}: not in suite '{suite.name}'{near} (it has: {', '.join(known)})")
    if runs and only and not any(_selected(run, only) for run in runs):
        chosen = " ".join(f"{key}={value}" for key, values in only.items() for value in values)
        raise PlanError(f"--only {chosen}: no run of suite '{suite.name}' has all of these")
