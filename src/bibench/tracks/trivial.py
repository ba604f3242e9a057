"""The level of a trivial answer, which a network that has learned something must beat."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bibench.records import Record

__all__ = ["TrivialLevel", "trivial_level"]


@dataclass(frozen=True, kw_only=True)
class TrivialLevel:
    """What is scored without looking at the samples, and how far beyond it a score may be by chance.

    Args:
        answer: what is answered.
        value, margin: in ``unit``.
        unit: of the score.
        higher_is_better: the direction of the score.
    """

    answer: str
    value: float
    margin: float
    unit: str
    higher_is_better: bool = True

    def covers(self, score: float) -> bool:
        """Whether a score is at this level or below it, so that it may come from nothing learned.

        >>> level = TrivialLevel(answer="one answer for all test samples", value=50.0, margin=3.0, unit="percent")
        >>> level.covers(47.0), level.covers(53.0), level.covers(53.1)
        (True, True, False)
        """
        beyond = score - self.value if self.higher_is_better else self.value - score
        return beyond <= self.margin


def trivial_level(records: Iterable[Record]) -> TrivialLevel | None:
    """The level that the first of some records of one task has; None where no task has said one."""
    for record in records:
        kinds, values, metric = record.figures.kinds, record.figures.values, record.run.metric
        level, margin, score = (
            kinds.plain.get(name) for name in (f"trivial_{metric}", f"trivial_{metric}_margin", metric)
        )
        if level is not None and margin is not None and score is not None:
            figure = kinds.figures[level]
            return TrivialLevel(
                answer=figure.mode or "a trivial answer",
                value=values[level],
                margin=values[margin],
                unit=figure.unit,
                higher_is_better=kinds.figures[score].higher_is_better is not False,
            )
    return None
