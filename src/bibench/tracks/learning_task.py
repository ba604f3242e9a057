"""The learning-task track: how much of full precision's accuracy survives on each task (equation 2)."""

from __future__ import annotations

from bibench.records import Results, Score
from bibench.tracks.base import Track
from bibench.tracks.relative import Row, relative_scores, rows_in

__all__ = ["learning_task"]


def _score(results: Results) -> list[Score]:
    """Equation 2: a component is a task, the mean over all architectures that the plan measures it on.

    ``OM_task = sqrt(1/N · sum_i E^2(A_bi_i / A_i))`` over the plan's N tasks; statuses, seeds and errors as in
    :func:`bibench.tracks.relative.relative_scores`. Metrics are named by the tasks, and ``om_task``, in percent.
    """
    components: dict[str, list[Row]] = {}
    for row in rows_in(results.plan):
        components.setdefault(row[0], []).append(row)
    return relative_scores(results, track="learning_task", components=components, overall="om_task")


learning_task = Track(
    name="learning_task",
    title="Learning task",
    description=(
        "How much of the full-precision score each algorithm keeps: the mean over architectures for each task, "
        "and the quadratic mean over tasks, om_task (BiBench, equation 2)."
    ),
    score=_score,
)
