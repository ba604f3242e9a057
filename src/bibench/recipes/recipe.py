"""Optimizers and the recipe: everything that decides how a network is trained, apart from the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from bibench.recipes.schedules import Cosine, Schedule

__all__ = ["SGD", "Adam", "Optimizer", "Recipe"]

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
class Recipe:
    """Optimizer, schedule and budget of one training.

    Args:
        optimizer: the optimizer and its base learning rate.
        schedule: factor of the base rate as a function of progress.
        epochs: passes over the training samples.
        batch_size: samples a step, over all devices together.
        warmup: share of the budget in which the rate grows linearly from 0; the schedule runs on the rest.
        precision: ``"32-true"``, or ``"bf16-mixed"`` for bfloat16 autocast.
        gradient_clip: upper bound of the gradient's global 2-norm, or None.
        latent_clip: latent weights of binarized layers are clamped to ``[-latent_clip, latent_clip]`` after each
            step (Courbariaux et al., 2016, algorithm 1, has 1), or None.
        decay_scales: whether weight decay also acts on the thresholds and scales of binarized layers.

    >>> Recipe(optimizer=SGD(lr=0.1), epochs=200, batch_size=128).learning_rate(0.5)
    0.05
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    optimizer: Optimizer
    schedule: Schedule = Cosine()
    epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    warmup: _Share = 0.0
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    gradient_clip: _Positive | None = None
    latent_clip: _Positive | None = None
    decay_scales: bool = False

    def learning_rate(self, progress: float) -> float:
        """The learning rate at progress ``p`` in [0, 1] of the whole budget."""
        if progress < self.warmup:
            return self.optimizer.lr * progress / self.warmup
        return self.optimizer.lr * self.schedule((progress - self.warmup) / (1 - self.warmup))
