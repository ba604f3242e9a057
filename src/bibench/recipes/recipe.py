"""Optimizers and the recipe: everything that decides how a network is trained, apart from the network."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from bibench.recipes.schedules import Cosine, Schedule

__all__ = ["SGD", "Adam", "Distillation", "Optimizer", "Recipe", "split_budget"]

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Share = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class SGD:
    """Stochastic gradient descent with momentum, as ``torch.optim.SGD``."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Literal["sgd"] = "sgd"
    lr: _Positive
    momentum: _Share = 0.9
    weight_decay: _NonNegative = 0.0
    nesterov: bool = False


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam (Kingma & Ba, 2015), as ``torch.optim.Adam``: weight decay is added to the gradient."""

    __pydantic_config__ = ConfigDict(extra="forbid")
    name: Literal["adam"] = "adam"
    lr: _Positive
    betas: tuple[_Share, _Share] = (0.9, 0.999)
    weight_decay: _NonNegative = 0.0


Optimizer = Annotated[SGD | Adam, Field(discriminator="name")]


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """What a binarized network learns from full precision: weights of the terms of its loss.

    `bibench.training.distillation` has the terms. BiBERT's published code has ``labels=0.5``, ``logits=1/classes``,
    ``hidden=1`` and ``similarity=1``.

    Args:
        labels: of the task's own loss.
        logits: of the outputs, for any network.
        hidden: of the hidden states, where the network shows them (BERT).
        similarity: of the similarities among queries, among keys and among values, where it shows them.

    Raises:
        ValueError: nothing is learned from full precision.

    >>> Distillation(hidden=1.0, similarity=1.0)
    Distillation(labels=1.0, logits=1.0, hidden=1.0, similarity=1.0)
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    labels: _NonNegative = 1.0
    logits: _NonNegative = 1.0
    hidden: _NonNegative = 0.0
    similarity: _NonNegative = 0.0

    def __post_init__(self) -> None:
        if not (self.logits or self.inside):
            raise ValueError("logits, hidden and similarity are all 0: give one of them a weight, or no distillation")

    @property
    def inside(self) -> bool:
        """Whether the network has to show what it computes on the way to its outputs."""
        return self.hidden > 0 or self.similarity > 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimizer, schedule and budget of one training.

    The budget is in epochs or in steps of the optimizer; the schedule is a function of progress, so it is compressed or
    stretched into whatever the budget is.

    Args:
        optimizer: the optimizer and its base learning rate.
        schedule: factor of the base rate as a function of progress.
        epochs: passes over the training samples; None where ``steps`` is given.
        steps: steps of the optimizer, in place of ``epochs``; the last epoch may be a part of one.
        batch_size: samples a step, over all devices together.
        warmup: share of the budget in which the rate grows linearly from 0; the schedule runs on the rest.
        precision: ``"32-true"``, or ``"bf16-mixed"`` for bfloat16 autocast.
        gradient_clip: upper bound of the gradient's global 2-norm, or None.
        latent_clip: latent weights of binarized layers are clamped to ``[-latent_clip, latent_clip]`` after each
            step (Courbariaux et al., 2016, algorithm 1, has 1), or None.
        decay_scales: whether weight decay also acts on the thresholds and scales of binarized layers.
        distillation: what a binarized network also learns from the full-precision one that it starts from, or None.

    >>> Recipe(optimizer=SGD(lr=0.1), epochs=200, batch_size=128).learning_rate(0.5)
    0.05
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    optimizer: Optimizer
    schedule: Schedule = Cosine()
    epochs: Annotated[int, Field(ge=1)] | None = None
    steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)]
    warmup: _Share = 0.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    gradient_clip: _Positive | None = None
    latent_clip: _Positive | None = None
    decay_scales: bool = False
    distillation: Distillation | None = None

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError(f"expected either epochs or steps, found epochs={self.epochs} and steps={self.steps}")

    @property
    def budget(self) -> int:
        """The budget in its own unit."""
        return self.epochs or self.steps or 0

    @property
    def unit(self) -> Literal["epochs", "steps"]:
        """What the budget is counted in."""
        return "steps" if self.epochs is None else "epochs"

    def with_budget(self, budget: int) -> Recipe:
        """The recipe with another budget in the same unit; its schedule is compressed or stretched into it.

        >>> Recipe(optimizer=SGD(lr=0.1), steps=64_000, batch_size=128).with_budget(4_000).steps
        4000
        """
        return replace(self, epochs=budget) if self.epochs is not None else replace(self, steps=budget)

    def total_steps(self, steps_an_epoch: int) -> int:
        """Steps of the optimizer, where an epoch has so many.

        >>> Recipe(optimizer=SGD(lr=0.1), epochs=3, batch_size=128).total_steps(391)
        1173
        """
        return self.steps if self.epochs is None else self.epochs * steps_an_epoch  # type: ignore[return-value]

    def total_epochs(self, steps_an_epoch: int) -> int:
        """Epochs begun; the last is a part of one where the steps are no multiple of ``steps_an_epoch``."""
        return -(-self.total_steps(steps_an_epoch) // steps_an_epoch)

    def learning_rate(self, progress: float) -> float:
        """The learning rate at progress ``p`` in [0, 1] of the whole budget."""
        if progress < self.warmup:
            return self.optimizer.lr * progress / self.warmup
        return self.optimizer.lr * self.schedule((progress - self.warmup) / (1 - self.warmup))


def split_budget(budget: int, share: float) -> tuple[int, int]:
    """A budget's part in full precision and its part binarized, for partial pre-training; they sum to the budget.

    The first is ``share · budget``, rounded; what lies just between two numbers goes to the binarized part.

    Args:
        budget: steps or epochs.
        share: of the full-precision part, in [0, 1].

    Raises:
        ValueError: a share outside [0, 1], or a budget too short to hold both parts.

    Source: Partial pre-training, section 3, whose share is 0.5.

    >>> split_budget(64_000, 0.5), split_budget(5, 0.5), split_budget(10, 0.25)
    ((32000, 32000), (2, 3), (2, 8))
    """
    if not 0 <= share <= 1:
        raise ValueError(f"the share of full precision is {share}: expected a number from 0 to 1, such as 0.5")
    # The share as it is written: 0.55 of 50 is 27.5, and in binary floating point a little more.
    first = math.ceil(Fraction(str(share)) * budget - Fraction(1, 2))
    if (share > 0 and first < 1) or (share < 1 and first >= budget):
        raise ValueError(
            f"a budget of {budget} is too short for a share of {share:g} in full precision: one of the two parts would "
            "have nothing; give a larger budget, or one in steps"
        )
    return first, budget - first
