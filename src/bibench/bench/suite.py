"""Suites: which tasks, architectures, algorithms and seeds make up a benchmark. Plain YAML, read safely."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from bibench import registry, yaml_lines
from bibench.nn import resolve
from bibench.recipes import SGD, Adam, Cosine, Distillation, Optimizer, Recipe, Schedule, Step, split_budget
from bibench.tasks.base import Task
from bibench.tasks.corruptions import CORRUPTIONS
from bibench.tracks.base import Measuring
from bibench.training.distillation import check_distillation
from bibench.yaml_lines import explain, line_of

__all__ = [
    "AlgorithmEntry",
    "AwaitedEntry",
    "BinarizedMethod",
    "Curves",
    "Sensitivity",
    "Splits",
    "Suite",
    "SuiteError",
    "TaskEntry",
    "check_partial",
    "load_suite",
    "recipe_for",
    "shipped_suites",
]

_RECIPE: TypeAdapter[Recipe] = TypeAdapter(Recipe)

BinarizedMethod = Literal["fine_tune", "from_scratch", "partial_pretraining"]
"""How a binarized network can come about, see `bibench.training.methods`."""

WITHOUT_TEACHER = (
    "distillation learns from the full-precision run that a network starts from, and training from scratch (partial "
    "pre-training with a share of 0, too) starts from none; choose fine_tune or partial_pretraining, or leave "
    "distillation out"
)
IN_FULL_PRECISION = (
    "distillation is of binarized networks, which learn from full precision; take it out of the recipe full_precision"
)

_Part = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, lt=1)]
_TRACKS = (
    "learning_task",
    "neural_architecture",
    "corruption_robustness",
    "training_consumption",
    "theoretical_complexity",
    "hardware_inference",
)


class SuiteError(ValueError):
    """A suite that can't be used; the message names file, line, key, value and what was expected."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class AlgorithmEntry(_Frozen):
    """An algorithm of a suite: a registry name, options, and a label if the name alone would be ambiguous."""

    name: str
    options: dict[str, Any] = {}
    label: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.+-]*$", max_length=64)] | None = None

    @property
    def title(self) -> str:
        """The label in scores."""
        return self.label or self.name


MOST_SEEDS = 1000


def seeds_up_to(count: int) -> tuple[int, ...]:
    """The seeds 0, 1, ..., ``count - 1``.

    Raises:
        ValueError: fewer than one, or more than make sense.
    """
    if not 1 <= count <= MOST_SEEDS:
        raise ValueError(f"expected 1 to {MOST_SEEDS} seeds, found {count}")
    return tuple(range(count))


def _entries(value: Any) -> Any:
    return [{"name": item} if isinstance(item, str) else item for item in value] if isinstance(value, list) else value


class TaskEntry(_Frozen):
    """A task of a suite.

    Args:
        task: registry name.
        architectures: registry names; the task's own list by default.
        on_request: architectures that run only when ``--only architecture=NAME`` asks for them.
        optional: whether the task runs only when ``--only task=NAME`` asks for it.
        full_precision, binarized: fields of the task's default recipes to replace.
    """

    task: str
    architectures: tuple[str, ...] = ()
    on_request: tuple[str, ...] = ()
    optional: bool = False
    full_precision: dict[str, Any] = {}
    binarized: dict[str, Any] = {}


class AwaitedEntry(_Frozen):
    """What a track of the published benchmark can't measure yet on a task's runs; it is listed.

    Args:
        track: that would measure it.
        task, architectures: of the runs.
        title: the tables of the paper that wait for it.
    """

    track: str
    task: str
    architectures: Annotated[tuple[str, ...], Field(min_length=1)]
    title: str = ""


class Sensitivity(_Frozen):
    """The grid of hyperparameter settings whose spread is an algorithm's sensitivity (BiBench, equation 6).

    Every optimizer with every rate and every schedule, on one network, for full precision and for each algorithm. What
    a setting doesn't say (epochs, batch size, weight decay) is as in the task's recipe for the kind of network.

    Args:
        task, architecture: the network.
        optimizers: with their 1x learning rates.
        rates: factors of these.
        schedules: learning-rate schedules.
        seeds: how many, or which; the suite's by default.
        method: how binarized networks start; the suite's by default.
        release_momentum: SGD without momentum where the schedule is a step, as in the paper's public release.
    """

    task: str
    architecture: str
    optimizers: Annotated[tuple[Optimizer, ...], Field(min_length=1)] = (SGD(lr=0.1), Adam(lr=1e-3))
    rates: Annotated[tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...], Field(min_length=1)] = (1.0, 0.1)
    schedules: Annotated[tuple[Schedule, ...], Field(min_length=1)] = (Cosine(), Step(milestones=(0.5, 0.75)))
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = ()
    method: BinarizedMethod | None = None
    release_momentum: bool = False

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return seeds_up_to(value) if isinstance(value, int) and not isinstance(value, bool) else value

    def settings(self, recipe: Recipe) -> dict[str, Recipe]:
        """The recipe of every setting, by its label such as ``"sgd-0.1x-step"``.

        >>> grid = Sensitivity(task="digits", architecture="digits_cnn", rates=(1.0,))
        >>> list(grid.settings(Recipe(optimizer=Adam(lr=1e-3), epochs=2, batch_size=8)))
        ['sgd-1x-cosine', 'sgd-1x-step', 'adam-1x-cosine', 'adam-1x-step']
        """
        found: dict[str, Recipe] = {}
        for optimizer, rate, schedule in itertools.product(self.optimizers, self.rates, self.schedules):
            # Rounded, so that 0.1 · 0.1 is what one would write.
            lr = float(f"{optimizer.lr * rate:.12g}")
            changes: dict[str, Any] = {"lr": lr, "weight_decay": recipe.optimizer.weight_decay}
            if self.release_momentum and schedule.name == "step" and isinstance(optimizer, SGD):
                changes["momentum"] = 0.0
            own = dataclasses.replace(optimizer, **changes)
            found[f"{optimizer.name}-{rate:g}x-{schedule.name}"] = dataclasses.replace(
                recipe, optimizer=own, schedule=schedule
            )
        return found


class Curves(_Frozen):
    """Training curves: the score that trainings of different lengths reach (Partial pre-training, figures 1 and 2).

    Every point is a training of its own, with the whole schedule compressed into its budget.

    Args:
        budgets: parts of the recipe's budget; 1 is all of it.
        methods: which trainings. ``partial_pretraining`` has the budget in total, as the others do; ``fine_tune``
            starts from the whole full-precision training and has the budget beside it.
        shares: full precision's shares of the budget in partial pre-training; the suite's by default.
    """

    budgets: Annotated[tuple[_Part, ...], Field(min_length=1)] = (0.0625, 0.125, 0.25, 0.5, 1.0)
    methods: Annotated[tuple[Literal["full_precision", BinarizedMethod], ...], Field(min_length=1)] = (
        "full_precision",
        "from_scratch",
        "partial_pretraining",
    )
    shares: tuple[_Share, ...] = ()


class Splits(_Frozen):
    """Partial pre-training with every length of one part beside every length of the other (its figure 3).

    Args:
        task, architecture: the network.
        full_precision, binarized: lengths of the two parts, as parts of the recipe's budget.
    """

    task: str
    architecture: str
    full_precision: Annotated[tuple[_Part, ...], Field(min_length=1)]
    binarized: Annotated[tuple[_Part, ...], Field(min_length=1)]


class Suite(_Frozen):
    """A benchmark: every algorithm on every architecture of every task, for every seed.

    Args:
        name, description: in prose and reports.
        version: raised when a change makes results incomparable with earlier ones.
        tasks: what is learned, on which architectures.
        algorithms: names, or ``{name, options, label}``.
        on_request: algorithms that run only when ``--only algorithm=NAME`` asks for them.
        seeds: how many (0, 1, ...), or which.
        method: how binarized networks start: ``fine_tune`` from the full-precision run's weights (the paper's),
            ``from_scratch`` from its initialisation, or ``partial_pretraining`` from a full-precision run that has a
            share of the budget.
        share: that share.
        optimizer_state: of partial pre-training: ``reset`` gives the binarized part an optimizer without history;
            ``keep`` gives it the momenta of the full-precision part, where both have the same kind of optimizer.
        curves: trainings of different lengths; None for none.
        splits: partial pre-training with different shares; None for none.
        tracks: which scores.
        sensitivity: the grid of hyperparameter settings for the training-consumption track; None for none.
        measure: how much the tracks measure on a finished run.
        awaiting: what tracks can't measure yet.
        shortcuts: binarize 1x1 projection shortcuts too.
        heads: binarize a detector's heads too.
        padding_value: what binarized convolutions pad with.
        layer_statistics: record flip rate, sign balance and dead weights by layer and epoch.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
    version: int = 1
    description: str = ""
    tasks: Annotated[tuple[TaskEntry, ...], Field(min_length=1)]
    algorithms: tuple[AlgorithmEntry, ...]
    on_request: tuple[AlgorithmEntry, ...] = ()
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (0,)
    method: BinarizedMethod = "fine_tune"
    share: _Share = 0.5
    optimizer_state: Literal["reset", "keep"] = "reset"
    curves: Curves | None = None
    splits: Splits | None = None
    tracks: tuple[str, ...] = _TRACKS
    sensitivity: Sensitivity | None = None
    measure: Measuring = Measuring()
    awaiting: tuple[AwaitedEntry, ...] = ()
    shortcuts: bool = False
    heads: bool = False
    padding_value: Literal[-1, 0, 1] = 0
    layer_statistics: bool = False

    _as_entries = field_validator("algorithms", "on_request", mode="before")(_entries)

    @field_validator("seeds", mode="before")
    @classmethod
    def _count(cls, value: Any) -> Any:
        return seeds_up_to(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("seeds")
    @classmethod
    def _some(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) != len(value):
            raise ValueError("expected at least one seed, each once")
        return value


def recipe_for(entry: TaskEntry, task: Task, kind: Literal["full_precision", "binarized"]) -> Recipe:
    """The task's default recipe with the suite's fields in place of its own.

    An optimizer or schedule without a ``name`` is the default one with some of its fields replaced; a budget in steps
    takes the place of one in epochs.
    """
    default = dataclasses.asdict(getattr(task, kind))
    if {"epochs", "steps"} & getattr(entry, kind).keys():
        default |= {"epochs": None, "steps": None}
    own = {}
    for key, value in getattr(entry, kind).items():
        base = default.get(key)
        partly = isinstance(value, dict) and "name" not in value and isinstance(base, dict)
        own[key] = base | value if partly else value
    return _RECIPE.validate_python(default | own)


def shipped_suites() -> list[str]:
    """Names of the suites that come with bibench."""
    return sorted(file.name[:-5] for file in resources.files("bibench.suites").iterdir() if file.name.endswith(".yaml"))


def load_suite(name_or_path: str) -> Suite:
    """Load a shipped suite by name, or any suite by the path of its YAML file.

    Raises:
        SuiteError: no such suite, invalid YAML, a wrong key, type or name; with the line.

    >>> load_suite("quick").seeds
    (0, 1, 2)
    """
    path = Path(name_or_path)
    if name_or_path in shipped_suites():
        where, text = name_or_path, (resources.files("bibench.suites") / f"{name_or_path}.yaml").read_text("utf-8")
    elif path.suffix in (".yaml", ".yml") or path.is_file():
        try:
            where, text = str(path), path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SuiteError(f"{path}: can't be read as a suite ({error})") from error
    else:
        near = registry.did_you_mean(name_or_path, shipped_suites())
        raise SuiteError(
            f"unknown suite '{name_or_path}'{near} (shipped: {', '.join(shipped_suites())}; "
            "or give the path of a .yaml file)"
        )
    return parse_suite(text, where)


def parse_suite(text: str, where: str) -> Suite:
    """Parse and validate a suite's text; ``where`` names it in messages."""
    try:
        content, root = yaml_lines.parse(text, where, "name, tasks and algorithms")
    except yaml_lines.YamlError as error:
        raise SuiteError(str(error)) from error
    try:
        suite = Suite.model_validate(content)
    except ValidationError as error:
        raise SuiteError(explain(error, root, where, partial(_known_keys, Suite))) from error
    _check_names(suite, root, where)
    return suite


def _check_names(suite: Suite, root: yaml.Node, where: str) -> None:
    def at(loc: Sequence[str | int], action: Callable[[], Any]) -> Any:
        try:
            return action()
        except ValidationError as error:
            keys = partial(_known_keys, Recipe)
            raise SuiteError(explain(error, root, where, keys, prefix=tuple(loc))) from error
        except ValueError as error:
            raise SuiteError(f"{where}, line {line_of(root, loc)}: {error}") from error

    networks: set[tuple[str, str]] = set()
    for i, entry in enumerate(suite.tasks):
        task: Task = at(("tasks", i, "task"), lambda entry=entry: registry.get("tasks", entry.task))  # type: ignore[misc]
        for key in ("architectures", "on_request"):
            for j, name in enumerate(getattr(entry, key)):
                architecture = at(("tasks", i, key, j), lambda name=name: registry.get("architectures", name))  # type: ignore[misc]
                if architecture.modality != task.modality:
                    raise SuiteError(
                        f"{where}, line {line_of(root, ('tasks', i, key, j))}: architecture '{name}' takes "
                        f"{architecture.modality} inputs, task '{task.name}' has {task.modality} inputs"
                    )
        for name in _networks(entry):
            if (entry.task, name) in networks:
                raise SuiteError(
                    f"{where}, line {line_of(root, ('tasks', i))}: task '{entry.task}' with architecture '{name}' is "
                    "already given; its scores could not be told apart"
                )
            networks.add((entry.task, name))
        for kind in ("full_precision", "binarized"):
            at(("tasks", i, kind), lambda entry=entry, task=task, kind=kind: recipe_for(entry, task, kind))  # type: ignore[misc]
    labels: set[str] = set()
    for key in ("algorithms", "on_request"):
        for j, algorithm in enumerate(getattr(suite, key)):
            loc = (key, j)
            at(loc, lambda algorithm=algorithm: resolve(algorithm.name, **algorithm.options))  # type: ignore[misc]
            label = algorithm.title.lower()  # names of folders, on file systems that may ignore case
            if label in labels or label == "fp32":
                raise SuiteError(
                    f"{where}, line {line_of(root, loc)}: two algorithms are called '{algorithm.title}'; "
                    "give each a label of its own"
                )
            labels.add(label)
    _check_sensitivity(suite, at, root, where)
    _check_partial(suite, at, root, where)
    _check_distillation(suite, at, root, where)
    if suite.splits is not None:
        _check_network(suite, "splits", at, root, where)
    for j, name in enumerate(suite.measure.corruptions):
        if name not in CORRUPTIONS:
            near = registry.did_you_mean(name, CORRUPTIONS)
            line = line_of(root, ("measure", "corruptions", j))
            raise SuiteError(
                f"{where}, line {line}: unknown corruption '{name}'{near} (known: {', '.join(CORRUPTIONS)})"
            )
    for j, name in enumerate(suite.tracks):
        at(("tracks", j), lambda name=name: registry.get("tracks", name))  # type: ignore[misc]


def _check_sensitivity(suite: Suite, at: Callable[..., Any], root: yaml.Node, where: str) -> None:
    grid = suite.sensitivity
    if grid is None:
        return
    task = _check_network(suite, "sensitivity", at, root, where)
    line = line_of(root, ("sensitivity",))
    count = len(grid.optimizers) * len(grid.rates) * len(grid.schedules)
    if len(grid.settings(task.binarized)) < count:
        raise SuiteError(
            f"{where}, line {line}: two settings of the sensitivity grid have the same name; give each optimizer, rate "
            "and kind of schedule once"
        )


def _check_network(suite: Suite, key: str, at: Callable[..., Any], root: yaml.Node, where: str) -> Task:
    """Check that the network of a part of the suite is one of its networks; returns its task."""
    part = getattr(suite, key)
    task: Task = at((key, "task"), lambda: registry.get("tasks", part.task))
    at((key, "architecture"), lambda: registry.get("architectures", part.architecture))
    networks = {(entry.task, name) for entry in suite.tasks for name in _networks(entry)}
    if (part.task, part.architecture) not in networks:
        raise SuiteError(
            f"{where}, line {line_of(root, (key,))}: '{key}' is on task '{part.task}' with architecture "
            f"'{part.architecture}', which the suite's tasks don't have; add it there, or choose one of "
            f"{', '.join(' with '.join(network) for network in sorted(networks))}"
        )
    return task


def _check_partial(suite: Suite, at: Callable[..., Any], root: yaml.Node, where: str) -> None:
    """Check that the budgets of partial pre-training can be split in two."""
    grid = suite.sensitivity
    grid_method = (grid.method or suite.method) if grid is not None else None
    methods = {suite.method, grid_method, *(suite.curves.methods if suite.curves else ())}
    if "partial_pretraining" not in methods and suite.splits is None:
        return
    for i, entry in enumerate(suite.tasks):
        task: Task = registry.get("tasks", entry.task)
        full, binarized = recipe_for(entry, task, "full_precision"), recipe_for(entry, task, "binarized")
        at(("tasks", i), partial(check_partial, task, full, binarized, suite.optimizer_state))
        if suite.method == "partial_pretraining":
            at(("share",), partial(split_budget, binarized.budget, suite.share))
        if grid is not None and _on_grid(grid, entry) and grid_method == "partial_pretraining":
            for own in grid.settings(binarized).values():
                at(("sensitivity",), partial(check_partial, task, full, own, suite.optimizer_state))


def _networks(entry: TaskEntry) -> tuple[str, ...]:
    """The architectures of a task of a suite, those on request too."""
    return (*(entry.architectures or registry.get("tasks", entry.task).architectures), *entry.on_request)


def _on_grid(grid: Sensitivity, entry: TaskEntry) -> bool:
    """Whether the network of the sensitivity grid is one of an entry's."""
    return grid.task == entry.task and grid.architecture in _networks(entry)


def _check_distillation(suite: Suite, at: Callable[..., Any], root: yaml.Node, where: str) -> None:
    """Check that binarized networks which learn from full precision can do so."""
    grid, curves = suite.sensitivity, suite.curves
    for i, entry in enumerate(suite.tasks):
        task: Task = registry.get("tasks", entry.task)
        if recipe_for(entry, task, "full_precision").distillation is not None:
            line = line_of(root, ("tasks", i, "full_precision", "distillation"))
            raise SuiteError(f"{where}, line {line}: {IN_FULL_PRECISION}")
        weights = recipe_for(entry, task, "binarized").distillation
        if weights is None:
            continue
        place = ("tasks", i, "binarized", "distillation")
        for name in _networks(entry):
            at(place, partial(check_distillation, weights, task, registry.get("architectures", name)))
        methods = {suite.method, *(curves.methods if curves else ())}
        if grid is not None and _on_grid(grid, entry):
            methods.add(grid.method or suite.method)
        shares = {suite.share, *(curves.shares if curves else ())} if "partial_pretraining" in methods else set()
        if "from_scratch" in methods or 0 in shares:
            raise SuiteError(f"{where}, line {line_of(root, place)}: {WITHOUT_TEACHER}")


def check_partial(task: Task, full: Recipe, binarized: Recipe, optimizer_state: Literal["reset", "keep"]) -> None:
    """Check that the two recipes of a task can share one budget, and the optimizer's state where it is kept.

    Raises:
        ValueError: they can't.
    """
    for what, one, other in (
        ("batch_size", full.batch_size, binarized.batch_size),
        ("unit of the budget", full.unit, binarized.unit),
    ):
        if one != other:
            raise ValueError(
                f"partial pre-training splits one budget, so both recipes of task '{task.name}' need the same {what}; "
                f"full_precision has {one}, binarized {other}"
            )
    if optimizer_state == "keep" and full.optimizer.name != binarized.optimizer.name:
        raise ValueError(
            f"optimizer_state is 'keep', but task '{task.name}' has {full.optimizer.name} in full precision and "
            f"{binarized.optimizer.name} binarized; give both the same optimizer, or choose 'reset'"
        )


_PARTS: dict[str, tuple[type[Any], ...]] = {
    "tasks": (TaskEntry,),
    "algorithms": (AlgorithmEntry,),
    "on_request": (AlgorithmEntry,),
    "sensitivity": (Sensitivity, SGD, Adam, Step, Cosine),
    "measure": (Measuring,),
    "curves": (Curves,),
    "splits": (Splits,),
    "awaiting": (AwaitedEntry,),
}


def _known_keys(model: type[Any], loc: Sequence[str | int]) -> Iterable[str]:
    """Keys that can stand at a place of a suite, or in a recipe: enough for a suggestion."""
    parts: tuple[type[Any], ...] = (Recipe, SGD, Adam, Step, Cosine, Distillation)
    if model is not Recipe:
        parts = _PARTS.get(str(loc[0]), (Suite,)) if len(loc) > 1 else (Suite,)
    for part in parts:
        yield from getattr(part, "model_fields", None) or getattr(part, "__dataclass_fields__", {})
