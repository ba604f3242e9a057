"""Learning-rate schedules: functions of progress ``p`` in [0, 1] that return a factor of the base rate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

__all__ = ["Constant", "Cosine", "Linear", "Schedule", "Step"]


@dataclass(frozen=True, kw_only=True)
class Constant:
    """``factor(p) = 1``.

    >>> Constant()(0.5)
    1.0
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Literal["constant"] = "constant"

    def __call__(self, progress: float) -> float:
        return 1.0


@dataclass(frozen=True, kw_only=True)
class Step:
    """``factor(p) = gamma^k`` with ``k`` the number of milestones at or before ``p``.

    Milestones are shares of the budget, so ``(0.5, 0.75)`` is "at epochs 100 and 150 of 200".

    >>> [Step(milestones=(0.5, 0.75))(p) for p in (0.49, 0.5, 0.8)]
    [1.0, 0.1, 0.010000000000000002]
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Literal["step"] = "step"
    milestones: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    gamma: Annotated[float, Field(gt=0)] = 0.1

    def __call__(self, progress: float) -> float:
        return float(self.gamma ** sum(progress >= milestone for milestone in self.milestones))


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """``factor(p) = final + (1 - final)·(1 + cos(pi·p))/2`` (Loshchilov & Hutter, 2017, without restarts).

    >>> Cosine()(0.5)
    0.5
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Literal["cosine"] = "cosine"
    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __call__(self, progress: float) -> float:
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``factor(p) = 1 - (1 - final)·p``.

    >>> Linear()(0.25)
    0.75
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Literal["linear"] = "linear"
    final: Annotated[float, Field(ge=0, le=1)] = 0.0

    def __call__(self, progress: float) -> float:
        return 1 - (1 - self.final) * progress


Schedule = Annotated[Constant | Step | Cosine | Linear, Field(discriminator="name")]
