"""One row of a scorecard."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Score", "Status"]

Status = Literal["ok", "incomplete", "failed", "not_deployable", "not_measured", "not_reproducible"]


@dataclass(frozen=True, kw_only=True)
class Score:
    """One metric of one algorithm.

    Args:
        track, metric: names as in the published Tables 2 and 3, such as ``"learning_task"``, ``"om_task"``.
        algorithm: the label.
        value: mean over seeds, None when incomplete, failed or not deployable.
        low, high: 95 % interval over seeds, None with one seed.
        status: ``ok``, ``incomplete`` (runs are missing), ``failed`` (a run that it needs failed),
            ``not_deployable``, ``not_measured`` (nothing can measure it yet) or ``not_reproducible`` (a publication
            doesn't say how).
        unit: ``"percent"``, ``"ratio"``, ...
        mode: which definition, where there are several.
        std: sample standard deviation over seeds, None with one seed.
        seeds: how many seeds the value is the mean of.
        missing: identities of the runs that would complete it, or reasons of those that failed.
        note: what a reader must know of it, such as which hyperparameter settings it is about.
    """

    track: str
    metric: str
    algorithm: str
    value: float | None
    low: float | None = None
    high: float | None = None
    status: Status = "ok"
    unit: str = "percent"
    mode: str | None = None
    std: float | None = None
    seeds: int = 0
    missing: tuple[str, ...] = ()
    note: str = ""
