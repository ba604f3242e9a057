"""A set of results as scores see it: what was planned, and what is there."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from bibench.records.record import Record, RunConfig

__all__ = ["Results", "collector_paused"]


@contextmanager
def collector_paused() -> Iterator[None]:
    """Without Python's collector of reference cycles: records have none, and millions of figures to look through.

    What nothing refers to any more goes at once, as ever.

    >>> with collector_paused():
    ...     gc.isenabled()
    False
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


_T = TypeVar("_T")


def _no_predictions(run_id: str) -> npt.NDArray[np.float32] | None:
    return None


@dataclass(frozen=True)
class Results:
    """Planned runs and their records.

    Args:
        plan: the runs that were asked for; a metric is complete when each of those it needs has an ok record.
        records: what is stored, in any order.
        predictions: per-sample scores of a run by its identity, float32 of shape (samples,), or None if not kept.
    """

    plan: Sequence[RunConfig]
    records: Sequence[Record]
    predictions: Callable[[str], npt.NDArray[np.float32] | None] = field(default=_no_predictions)

    _made: dict[Callable[[Results], Any], Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, make: Callable[[Results], _T]) -> _T:
        """What a function makes of these results: made for the first who asks, and kept for the others.

        >>> results = Results(plan=[], records=[])
        >>> results.once(lambda own: len(own.plan))
        0
        """
        if make not in self._made:
            self._made[make] = make(self)
        return cast(_T, self._made[make])

    def record(self, run_id: str) -> Record | None:
        """The record of a planned run, or None while there is none."""
        return self._by_id.get(run_id)

    @cached_property
    def main(self) -> list[RunConfig]:
        """The planned runs that stand for their task, architecture, algorithm and seed."""
        return [run for run in self.plan if run.main]

    def main_of(self, task: str, architecture: str, algorithm: str) -> Sequence[RunConfig]:
        """The main runs of an algorithm on a network, one a seed, in the plan's order."""
        return self._by_place.get((task, architecture, algorithm), ())

    @cached_property
    def _by_place(self) -> dict[tuple[str, str, str], list[RunConfig]]:
        found: dict[tuple[str, str, str], list[RunConfig]] = {}
        for run in self.main:
            found.setdefault((run.task, run.architecture, run.algorithm), []).append(run)
        return found

    @cached_property
    def _by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self.records}
