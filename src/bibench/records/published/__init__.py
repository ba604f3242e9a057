"""The published figures of BiBench as records like those of own runs, and the cells of the papers' summary tables.

README.md beside this file tells where they come from, what was repaired and what is inferred.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

from bibench.records.record import Record, parse_record
from bibench.records.results import Results

__all__ = ["PrintedCell", "PrintedFigure", "printed_cells", "published_results", "published_training_speed"]


@dataclass(frozen=True, kw_only=True)
class PrintedCell:
    """One cell of Table 2 or 3.

    Args:
        track, metric, algorithm: as in `bibench.records.Score`.
        unit: ``"percent"`` or ``"ratio"``.
        value: None where the cell says that the algorithm cannot be deployed.
        printed: the text of the cell.
        source: which table it is in.
    """

    track: str
    metric: str
    algorithm: str
    unit: str
    value: float | None
    printed: str
    source: str


@dataclass(frozen=True, kw_only=True)
class PrintedFigure:
    """One figure that *Fast Binarized Neural Network Training with Partial Pre-Training* prints.

    Args:
        task, architecture: in the names of this package; ``"all"`` is the mean over its four networks.
        metric: the task's score after the whole budget, or as in the track ``training_speed``.
        algorithm: ``"fp32"`` or ``"pact"``.
        value, unit: of the figure.
        plus_minus: what stands behind ±, which the paper doesn't explain; None where nothing does.
        source: which table or section it is in.
    """

    task: str
    architecture: str
    metric: str
    algorithm: str
    value: float
    unit: str
    plus_minus: float | None
    source: str


def _text(name: str) -> str:
    return (resources.files(__name__) / name).read_text(encoding="utf-8")


@cache
def published_results() -> Results:
    """Every raw figure of Tables 7 to 17, as a plan and its records; the records say in which table each is.

    Raises:
        RecordError: the package's file doesn't fit the schema.

    >>> found = published_results()
    >>> run = next(run for run in found.main if (run.task, run.algorithm) == ("imagenet", "recu"))
    >>> figure = found.record(run.id).figure("accuracy")
    >>> figure.value, figure.unit, figure.source
    (54.51, 'percent', 'BiBench, Table 7')
    """
    records: Sequence[Record] = tuple(
        parse_record(line, f"raw.jsonl, line {number}")
        for number, line in enumerate(_text("raw.jsonl").splitlines(), start=1)
    )
    return Results(plan=tuple(record.run for record in records), records=records)


def printed_cells() -> list[PrintedCell]:
    """The cells of Tables 2 and 3, in their order.

    >>> cell = printed_cells()[0]
    >>> cell.track, cell.metric, cell.algorithm, cell.value, cell.source
    ('learning_task', 'cifar10', 'bnn', 94.54, 'BiBench, Table 2')
    """
    return [PrintedCell(**content) for content in json.loads(_text("printed.json"))]


@cache
def published_training_speed() -> tuple[PrintedFigure, ...]:
    """The final scores, training speeds and speedups that the paper on partial pre-training prints.

    >>> figure = published_training_speed()[0]
    >>> figure.task, figure.architecture, figure.algorithm, figure.metric, figure.value, figure.plus_minus
    ('cifar10', 'resnet20e', 'fp32', 'accuracy', 90.75, 0.26)
    """
    return tuple(PrintedFigure(**content) for content in json.loads(_text("partial_pretraining.json")))
