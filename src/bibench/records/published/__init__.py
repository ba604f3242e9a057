"""The published figures of BiBench as records like those of own runs, and the cells of its summary tables.

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

__all__ = ["PrintedCell", "printed_cells", "published_results"]


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
