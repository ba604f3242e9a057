"""The record of one run and its schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from bibench.recipes import Recipe

__all__ = [
    "SCHEMA_VERSION",
    "Environment",
    "Figure",
    "Method",
    "Record",
    "RecordError",
    "RunConfig",
    "read_record",
]

SCHEMA_VERSION = 1

LARGEST = 1e100
"""Figures are smaller than this, in either direction, so that no score overflows."""

Method = Literal["full_precision", "checkpoint", "fine_tune", "from_scratch"]

_ADDED: dict[str, Any] = {"devices": 1}
"""Fields that came later count in a run's identity where they differ from this, so that earlier runs keep theirs."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]


def _bounded(value: float) -> float:
    if abs(value) >= LARGEST:
        raise ValueError(f"expected a number between {-LARGEST:g} and {LARGEST:g}")
    return value


_ADVICE = "delete it and run the suite again"


class RecordError(ValueError):
    """A stored record that cannot be read: not JSON, another schema version, or not matching the schema."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Figure(_Frozen):
    """One measured figure.

    Args:
        name: such as ``"accuracy"``.
        value: finite and smaller than `LARGEST`; a figure that could not be measured is left out, never 0.
        unit: ``"percent"``, ``"ratio"``, ``"s"``, ``"nats"``, ``"count"``, ...
        samples: how many samples it was counted over.
        higher_is_better: None where neither direction is better.
        mode: which of several definitions, where there are several.
    """

    name: str
    value: Annotated[_Finite, AfterValidator(_bounded)]
    unit: str
    samples: int | None = None
    higher_is_better: bool | None = None
    mode: str | None = None


class RunConfig(_Frozen):
    """Everything that decides a run's result. Its identity is the hash of this.

    Args:
        task, architecture: registry names.
        algorithm: the label in scores; ``"fp32"`` for full precision.
        operator: registry name of the algorithm (equal to the label unless a suite gives another), or None.
        options: the algorithm's options.
        method: how the weights came about.
        seed: seeds initialisation, data order and augmentation.
        recipe: how it is trained.
        parent: identity of the run whose final weights this one starts from.
        checkpoint: SHA-256 of the user's file that it starts from (method ``"checkpoint"``).
        task_version: version of the task's definition.
        shortcuts: whether 1x1 projection shortcuts are binarized too.
        padding_value: what a binarized convolution pads with.
        devices: processes that share each batch; batch statistics are taken on each one's part.
        family, metric: the architecture's family and the name of the task's score; they describe, and are not
            part of the identity.
    """

    task: str
    architecture: str
    algorithm: str
    operator: str | None = None
    options: dict[str, Any] = {}
    method: Method
    seed: int
    recipe: Recipe
    parent: str | None = None
    checkpoint: str | None = None
    task_version: int = 1
    shortcuts: bool = False
    padding_value: Literal[-1, 0, 1] = 0
    devices: Annotated[int, Field(ge=1)] = 1
    family: str
    metric: str

    @property
    def id(self) -> str:
        """A readable name that ends in the hash of the configuration.

        The label is in the name but not in the hash's place: two labels of one configuration are two runs.
        """
        content = self.model_dump(mode="json", exclude={"family", "metric"})
        for name, default in _ADDED.items():
            if content[name] == default:
                del content[name]
        canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:10]
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
        phases: seconds by phase (``load``, ``train``, ``evaluate``, ``checkpoint``, ``measure``), over all attempts.
        data: fingerprint of the data set.
        weights: SHA-256 of the file with the final weights; None if the run failed, or in records of earlier versions.
        notes: what a reader must know, such as that the data are a subset.
        finished: UTC time, ISO 8601.
    """

    schema_version: Literal[1] = 1
    id: str
    run: RunConfig
    status: Literal["ok", "failed"]
    reason: str | None = None
    figures: tuple[Figure, ...] = ()
    phases: dict[str, _Finite] = {}
    data: str | None = None
    weights: str | None = None
    notes: tuple[str, ...] = ()
    environment: Environment
    finished: str

    def figure(self, name: str) -> Figure | None:
        """The figure of that name, or None."""
        return next((figure for figure in self.figures if figure.name == name), None)


def read_record(path: Path) -> Record:
    """Read and validate one ``record.json``.

    Raises:
        RecordError: not JSON, another schema version, or a field that doesn't match; names file and field.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: not valid JSON ({error}); {_ADVICE}") from error
    if not isinstance(content, dict) or "schema_version" not in content:
        raise RecordError(f"{path}: not a record of bibench, it has no schema_version; {_ADVICE}")
    version = content["schema_version"]
    if version != SCHEMA_VERSION:
        raise RecordError(
            f"{path}: schema version {version!r}, expected {SCHEMA_VERSION}; "
            f"it was written by another version of bibench; {_ADVICE}"
        )
    try:
        return Record.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        found = f"{first['msg']} (found {first.get('input')!r})"
        raise RecordError(f"{path}: field '{where}': {found}; {_ADVICE}") from error
