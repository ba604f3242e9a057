"""PACT at 1 bit: weights are signs, activations 0 or A with a learned amplitude A per layer."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from bibench.algorithms.algorithm import Algorithm, LayerSpec, Rule, Threshold
from bibench.algorithms.gradients import closed_hard_ste
from bibench.algorithms.rules import MeanScale, Sign, choose

__all__ = ["ClippedStep", "pact"]


class _Step(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, amplitude: Tensor) -> Tensor:
        ctx.save_for_backward(x, amplitude)
        return (x > amplitude / 2).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        x, amplitude = ctx.saved_tensors
        # The layer multiplies its product by A, so the incoming gradient carries A, which d(A·bit) must not.
        gradient = gradient / amplitude.to(gradient.dtype)
        inside = (x >= 0) & (x <= amplitude)
        above = (gradient * (x >= amplitude)).sum(dtype=amplitude.dtype)
        return gradient * inside, above


class ClippedStep(Rule):
    """``A·1[a > A/2]``: the operand is the bit, ``A`` a factor of the product (Partial pre-training, section 4.3).

    ``dy/dA = 1[a >= A]``, ``dy/da = 1`` on ``[0, A]`` and 0 elsewhere, where ``y = A·1[a > A/2]``. ``A`` is
    learned, one a layer, initially 3, and adds ``2e-4·A²`` to the loss.
    """

    values = (0, 1)
    formula = "A·1[{x} > A/2]"
    gradient = "1 on [0, A]"

    def __init__(self, layer: LayerSpec, initial: float = 3.0, l2: float = 2e-4) -> None:
        super().__init__()
        self.A = nn.Parameter(torch.tensor(initial, device=layer.device, dtype=layer.dtype))
        self.l2 = l2

    def forward(self, x: Tensor) -> Tensor:
        bits: Tensor = _Step.apply(x, self.A)
        return bits

    def amplitude(self) -> Tensor:
        return self.A.detach()

    def deployed_threshold(self) -> Threshold:
        return Threshold(self.A.detach() / 2, inclusive=False)

    def penalty(self) -> Tensor:
        return self.l2 * self.A.square()


def pact(*, scale: Literal["none", "mean"] = "none") -> Algorithm:
    """``o = A·1[a > A/2] * sgn(w)`` (Partial pre-training, section 4.3; Choi et al., 2018).

    It takes the place of a ReLU, so the network's ReLUs are kept: a Hardtanh would never reach ``A/2``.

    Args:
        scale: ``"none"`` as printed, or ``"mean"``: ``m_o``, static weight scaling.

    >>> pact().relu
    'keep'
    """
    choose("scale", scale, ("none", "mean"))
    return Algorithm(
        name="pact",
        title="PACT (1 bit)",
        source="Choi et al., 2018; Partial pre-training, section 4.3",
        weight=lambda layer: Sign(closed_hard_ste, "closed hard"),
        activation=ClippedStep,
        scale=(lambda layer: None) if scale == "none" else MeanScale,
        relu="keep",
    )
