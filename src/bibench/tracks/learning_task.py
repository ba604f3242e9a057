"""The learning-task track: how much of full precision's accuracy survives on each task (equation 2)."""

from __future__ import annotations

from bibench.records import Results, Score
from bibench.tracks.base import Mode, Track
from bibench.tracks.lookup import Lookup, Row
from bibench.tracks.relative import relative_scores

__all__ = ["learning_task"]

_LEFT_OUT = ("voc07", "ssd300")
"""Measured for the paper's Table 7, and not part of its Table 2."""


def _score(results: Results, mode: Mode = "literal") -> list[Score]:
    """Equation 2: a component is a task, the mean over all architectures that the plan measures it on.

    ``OM_task = sqrt(1/N · sum_i E^2(A_bi_i / A_i))`` over the plan's N tasks; the parts of a benchmark such as GLUE
    are one task. Statuses, seeds and errors as in :func:`bibench.tracks.relative.relative_scores`. Metrics are named by
    the tasks, and ``om_task``, in percent.
    """
    components: dict[str, list[Row]] = {}
    for row, run in results.once(Lookup).rows.items():
        if mode == "literal" or row != _LEFT_OUT:
            components.setdefault(run.group or run.task, []).append(row)
    return relative_scores(results, track="learning_task", components=components, overall_metric="om_task", mode=mode)


def _paper(results: Results) -> list[Score]:
    """What gives Table 2: VOC07 without SSD300, ShapeNet over its 16 categories and the Overall row."""
    return _score(results, "paper")


learning_task = Track(
    name="learning_task",
    title="Learning task",
    description=(
        "How much of the full-precision score each algorithm keeps: the mean over architectures for each task, "
        "and the quadratic mean over tasks, om_task (BiBench, equation 2)."
    ),
    score=_score,
    paper=_paper,
)
