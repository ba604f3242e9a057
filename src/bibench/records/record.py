"""The record of one run and its schema."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bibench.recipes import Recipe
from bibench.records.figures import Figure, Figures, parse_figures

__all__ = [
    "SCHEMA_VERSION",
    "Absence",
    "Environment",
    "Method",
    "Record",
    "RecordError",
    "RunConfig",
    "read_record",
]

SCHEMA_VERSION = 1

Method = Literal["full_precision", "checkpoint", "fine_tune", "from_scratch", "partial_pretraining", "published"]

_ADDED: dict[str, Any] = {"devices": 1, "optimizer_state": "reset", "heads": False}
"""Fields that came later count in a run's identity where they differ from this, so that earlier runs keep theirs."""

_ADDED_TO_RECIPES: dict[str, Any] = {"steps": None, "distillation": None}

_DESCRIPTIVE = {"family", "metric", "group", "main", "setting", "point", "share"}
"""Fields of a run that are not part of its identity."""

_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
"""One text for one configuration, whatever the order of its fields."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]

_ADVICE = "delete it and run the suite again"


class RecordError(ValueError):
    """A stored record that cannot be read: not JSON, another schema version, or not matching the schema."""


_Model = TypeVar("_Model", bound="_Frozen")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    def model_copy(self: _Model, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> _Model:
        """A copy with some fields replaced; what was computed from the old ones is computed anew."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied


class Absence(_Frozen):
    """Why a figure is not there: its record will not have it, and that is no failure of the run.

    Args:
        name: of the figure.
        status: ``not_deployable``: nothing can run the network; ``not_measured``: nothing has.
        reason: in prose.
    """

    name: str
    status: Literal["not_deployable", "not_measured"]
    reason: str


class RunConfig(_Frozen):
    """Everything that decides a run's result. Its identity is the hash of this.

    Args:
        task, architecture: registry names.
        algorithm: the label in scores; ``"fp32"`` for full precision.
        operator: registry name of the algorithm (equal to the label unless a suite gives another), or None.
        options: the algorithm's options.
        method: how the weights came about.
        seed: seeds initialisation, data order and augmentation.
        recipe: how it is trained; None where a publication doesn't say it.
        parent: identity of the run whose final weights this one starts from.
        checkpoint: SHA-256 of the user's file that it starts from: a trained model's weights (method
            ``"checkpoint"``), or pretrained ones (method ``"full_precision"``).
        task_version: version of the task's definition.
        shortcuts: whether 1x1 projection shortcuts are binarized too.
        heads: whether the parts that a model names as its heads are binarized too.
        padding_value: what a binarized convolution pads with.
        devices: processes that share each batch; batch statistics are taken over all of it on GPUs, and on each one's
            part on CPUs.
        optimizer_state: ``"keep"``: a binarized run starts from the optimizer's state at the end of its parent, which
            keeps it for that; ``"reset"``: from none.
        family, metric, group, main, setting, point, share: these describe, and are not part of the identity. The
            architecture's family; the name of the task's score; the row of the learning-task track that the task counts
            in (empty: its own); whether it is the run that stands for its task, architecture, algorithm and seed; the
            hyperparameter setting of the sensitivity grid that it is (``sgd-0.1x-step``), if any; the point of a
            training curve that it is (``from_scratch-4000``), if any; and in partial pre-training the share of the
            budget that full precision was to have, which its whole steps come close to.
    """

    task: str
    architecture: str
    algorithm: str
    operator: str | None = None
    options: dict[str, Any] = {}
    method: Method
    seed: int
    recipe: Recipe | None
    parent: str | None = None
    checkpoint: str | None = None
    task_version: int = 1
    shortcuts: bool = False
    heads: bool = False
    padding_value: Literal[-1, 0, 1] = 0
    devices: Annotated[int, Field(ge=1)] = 1
    optimizer_state: Literal["reset", "keep"] = "reset"
    family: str
    metric: str
    group: str = ""
    main: bool = True
    setting: str | None = None
    point: str | None = None
    share: float | None = None

    @property
    def known_recipe(self) -> Recipe:
        """The recipe of a run that can be trained.

        Raises:
            ValueError: a published run, whose recipe isn't known.
        """
        if self.recipe is None:
            raise ValueError(f"{self.id} is a published run: its recipe isn't known")
        return self.recipe

    @cached_property
    def id(self) -> str:
        """A readable name that ends in the hash of the configuration.

        The label is in the name but not in the hash's place: two labels of one configuration are two runs.
        """
        content = self.model_dump(mode="json", exclude=_DESCRIPTIVE)
        for part, added in ((content, _ADDED), (content["recipe"] or {}, _ADDED_TO_RECIPES)):
            for name, default in added.items():
                if name in part and part[name] == default:
                    del part[name]
        digest = hashlib.sha256(_CANONICAL.encode(content).encode()).hexdigest()[:10]
        return f"{self.task}-{self.architecture}-{self.algorithm}-s{self.seed}-{digest}"


class Environment(_Frozen):
    """Where a run ran."""

    bibench: str
    commit: str | None
    python: str
    torch: str
    platform: str
    processor: str
    accelerator: str | None
    threads: int


class Record(_Frozen):
    """The result of one run.

    Args:
        id: identity of the configuration.
        status: ``"ok"`` or ``"failed"``.
        reason: why it failed.
        figures: the final figures; the task's score among them if the run is ok.
        absences: figures that a track could not take, and why.
        measured: the tracks that took their figures.
        phases: seconds by phase (``load``, ``convert``, ``train``, ``evaluate``, ``checkpoint``, ``measure``), over all
            attempts save those of ``load`` and ``convert``, which is the binarization of the network.
        data: fingerprint of the data set.
        weights: SHA-256 of the file with the final weights; None if the run failed, or in records of earlier versions.
        optimizer: SHA-256 of the file with the optimizer's final state, where the run keeps it.
        files: the folder below the run's own that has its files; empty for the run's own.
        environment: where it ran; None for a published result.
        notes: what a reader must know, such as that the data are a subset.
        finished: UTC time, ISO 8601.
    """

    schema_version: Literal[1] = 1
    id: str
    run: RunConfig
    status: Literal["ok", "failed"]
    reason: str | None = None
    figures: Figures = Figures.of(())
    absences: tuple[Absence, ...] = ()
    measured: tuple[str, ...] = ()
    phases: dict[str, _Finite] = {}
    data: str | None = None
    weights: str | None = None
    optimizer: str | None = None
    files: Annotated[str, Field(pattern=r"^(attempt-[0-9]{1,6})?$")] = ""
    notes: tuple[str, ...] = ()
    environment: Environment | None
    finished: str

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Record:
        """A copy with some fields replaced; ``figures`` may be any sequence of them."""
        if update is not None and "figures" in update:
            update = {**update, "figures": Figures.of(update["figures"])}
        return super().model_copy(update=update, deep=deep)

    def figure(self, name: str) -> Figure | None:
        """The figure of that name that was measured under no special conditions, or None."""
        place = self.figures.kinds.plain.get(name)
        return None if place is None else self.figures[place]

    def figures_under(self, name: str, *conditions: str) -> dict[tuple[str, ...], Figure]:
        """The figures of that name which were measured under just these conditions, by their values."""
        figures = self.figures
        return {key: figures[place] for key, place in figures.kinds.under(name, conditions).items()}

    def number(self, name: str) -> float | None:
        """The value of `figure`."""
        place = self.figures.kinds.plain.get(name)
        return None if place is None else self.figures.values[place]

    def numbers_under(self, name: str, *conditions: str) -> dict[tuple[str, ...], float]:
        """The values of `figures_under`."""
        values = self.figures.values
        return {key: values[place] for key, place in self.figures.kinds.under(name, conditions).items()}


def read_record(path: Path) -> Record:
    """Read and validate one ``record.json``.

    Raises:
        RecordError: not JSON, another schema version, or a field that doesn't match; names file and field.
    """
    return parse_record(path.read_bytes(), str(path))


def parse_record(text: str | bytes, path: str) -> Record:
    """Validate the JSON text of one record; ``path`` names it in messages.

    Raises:
        RecordError: see `read_record`.
    """
    record = _in_parts(text)
    try:
        record = record or Record.model_validate_json(text)
    except ValidationError as error:
        raise RecordError(f"{path}: {_what_is_wrong(text, error)}; {_ADVICE}") from error
    if "schema_version" not in record.model_fields_set:
        raise RecordError(f"{path}: {_NO_RECORD}; {_ADVICE}")
    return record


_KEY = b'"figures"'
_BEGIN, _END = b"\n " + _KEY + b": [\n", b'\n ],\n "absences"'


def _in_parts(text: str | bytes) -> Record | None:
    """A record whose figures are read apart, in half the time; None where it isn't laid out so, or isn't valid.

    A line can't begin within a string of JSON, and no other field has this key.
    """
    if isinstance(text, str):
        return None
    begin, end = text.find(_BEGIN), text.rfind(_END)
    rest = text[:begin] + b"\n " + _KEY + b": [" + text[end:]
    if not 0 <= begin < end or rest.count(_KEY) > 1:
        return None
    try:
        figures = parse_figures(text[begin + len(_BEGIN) : end])
        record = Record.model_validate_json(rest)
    except ValidationError:
        return None
    if figures is None or "figures" not in record.model_fields_set:
        return None
    record.__dict__["figures"] = figures
    return record


_NO_RECORD = "not a record of bibench, it has no schema_version"


def _what_is_wrong(text: str | bytes, error: ValidationError) -> str:
    """Why the JSON text of a record isn't valid: what it is as a whole comes before its first wrong field."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as invalid:
        return f"not valid JSON ({invalid})"
    if not isinstance(content, dict) or "schema_version" not in content:
        return _NO_RECORD
    version = content["schema_version"]
    if version != SCHEMA_VERSION:
        return f"schema version {version!r}, expected {SCHEMA_VERSION}; it was written by another version of bibench"
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"field '{where}': {first['msg']} (found {first.get('input')!r})"
