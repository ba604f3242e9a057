"""ReActNet: signs with a learned threshold per input channel, mean-magnitude scale."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bibench.algorithms.algorithm import Algorithm, LayerSpec, Rule, Threshold
from bibench.algorithms.gradients import approx_ste, hard_ste, surrogate
from bibench.algorithms.rules import MeanScale, Sign, sgn, unscaled

__all__ = ["ShiftedSign", "reactnet"]


class ShiftedSign(Rule):
    """``sgn(a - t_c)`` with a threshold learned per input channel, initially 0 (BiBench, eq. 19), approx gradient."""

    formula = "sgn({x} - t_c)"
    gradient = "approx"

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.zeros(layer.in_features, device=layer.device, dtype=layer.dtype))
        self.shape = layer.per_channel

    def forward(self, x: Tensor) -> Tensor:
        shifted = x - self.threshold.view(self.shape).to(x.dtype)
        return surrogate(sgn(shifted), shifted, approx_ste)

    def deployed_threshold(self) -> Threshold:
        # a - t rounded is negative exactly where a < t: the difference of two unequal numbers never rounds to 0.
        return Threshold(self.threshold.detach())


def reactnet(*, scale_in_gradient: bool = True) -> Algorithm:
    """``o = (sgn(a - t_c) * sgn(w)) · m_o`` (BiBench, eq. 19 and 20; Liu et al., 2020).

    The operator is the shifted sign. RPReLU and duplicated activations belong to the architecture.

    Args:
        scale_in_gradient: False leaves the scale out of the weight's gradient.

    >>> reactnet().title
    'ReActNet'
    """
    return Algorithm(
        name="reactnet",
        title="ReActNet",
        source="Liu et al., 2020; BiBench eq. 19, 20",
        weight=unscaled(lambda layer: Sign(hard_ste, "hard"), when=not scale_in_gradient),
        activation=ShiftedSign,
        scale=MeanScale,
    )
