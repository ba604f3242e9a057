"""What a track is: what it measures on a finished run, and how records become its scores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from bibench.records import Figure, Results, RunConfig, Score
from bibench.tasks.base import Data, Task

__all__ = ["FinishedRun", "Track"]


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run right after training, as a track's ``measure`` sees it; the model is in evaluation mode."""

    config: RunConfig
    model: nn.Module
    task: Task
    data: Data


def _nothing(run: FinishedRun) -> list[Figure]:
    return []


@dataclass(frozen=True, kw_only=True)
class Track:
    """One track of the benchmark.

    Args:
        name, title: in records and in prose.
        description: what it tells, in one sentence, with its equation.
        score: a pure function of stored results.
        measure: figures taken on a finished run beside the task's own; none by default.
    """

    name: str
    title: str
    description: str
    score: Callable[[Results], list[Score]]
    measure: Callable[[FinishedRun], list[Figure]] = _nothing
