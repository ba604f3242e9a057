"""What a track is: what it measures on a finished run, and how records become its scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from torch import nn

from bibench.models.base import Architecture
from bibench.records import Absence, Figure, Results, RunConfig, Score
from bibench.tasks.base import Data, Task

__all__ = ["FinishedRun", "Measuring", "Mode", "Track"]

Mode = Literal["literal", "paper"]
"""How equations are read: as they are written, or so that the published figures come out."""


@dataclass(frozen=True, kw_only=True)
class Measuring:
    """How much the tracks measure on a finished run; less of it makes a suite faster.

    Args:
        corruptions: which of CIFAR-10-C's 19; all where the list is empty.
        severities: which of 1 to 5.
        step_repeats: how often a training step is timed, in turns with full precision.
        threads: numbers of threads that latency is measured on, here and on devices that name none.
        iterations: how many iterations of each epoch are timed for the training speed; None: all of them.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    corruptions: tuple[str, ...] = ()
    severities: Annotated[tuple[Annotated[int, Field(ge=1, le=5)], ...], Field(min_length=1)] = (1, 2, 3, 4, 5)
    step_repeats: Annotated[int, Field(ge=1)] = 7
    threads: Annotated[tuple[Annotated[int, Field(ge=1, le=256)], ...], Field(min_length=1)] = (1,)
    iterations: Annotated[int, Field(ge=1)] | None = None


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run right after training, as a track's ``measure`` sees it; the model is in evaluation mode and stays as it is.

    Args:
        config: the run; a main one, never one that is only part of a sensitivity grid.
        model: trained, on ``device``.
        architecture, task, data: what the run names.
        device: ``"cpu"`` or ``"cuda"``.
        measuring: how much to measure.
    """

    config: RunConfig
    model: nn.Module
    architecture: Architecture
    task: Task
    data: Data
    device: str = "cpu"
    measuring: Measuring = field(default_factory=Measuring)


@dataclass(frozen=True, kw_only=True)
class Track:
    """One track of the benchmark.

    Args:
        name, title: in records and in prose.
        description: what it tells, in one sentence, with its equation.
        score: a pure function of stored results; the equations as they are written.
        paper: another reading, which gives the published figures back; None where it is the same.
        measure: figures taken on a finished run beside the task's own, and what could not be taken; None for none.
    """

    name: str
    title: str
    description: str
    score: Callable[[Results], list[Score]]
    paper: Callable[[Results], list[Score]] | None = None
    measure: Callable[[FinishedRun], Sequence[Figure | Absence]] | None = None
