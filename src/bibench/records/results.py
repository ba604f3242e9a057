"""A set of results as scores see it: what was planned, and what is there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bibench.records.record import Record, RunConfig

__all__ = ["Results"]


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

    def record(self, run_id: str) -> Record | None:
        """The record of a planned run, or None while there is none."""
        return self._by_id.get(run_id)

    @cached_property
    def main(self) -> list[RunConfig]:
        """The planned runs that stand for their task, architecture, algorithm and seed."""
        return [run for run in self.plan if run.main]

    @cached_property
    def _by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self.records}
