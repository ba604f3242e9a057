"""ReCU: weights standardised and clamped at a quantile that grows while training, learned scale."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from bibench.algorithms.algorithm import Algorithm, LayerSpec, Rule, Threshold
from bibench.algorithms.gradients import approx_ste, identity_ste, surrogate
from bibench.algorithms.rules import LearnedScale, MeanScale, choose, sgn

__all__ = ["RectifiedSign", "StandardisedSign", "recu", "tau"]

_EPSILON = 1e-5


def tau(epoch: int, total: int) -> float:
    """The quantile ``A·exp(p) + B`` with ``p = epoch / total``: 0.85 at p = 0, 0.99 at p = 1.

    >>> tau(0, 10)
    0.85
    """
    slope = 0.14 / (math.e - 1)
    return slope * math.exp(epoch / total) + (0.85 - slope)


class RectifiedSign(Rule):
    """``sgn(clip(w1, -Q, Q))`` of the weight standardised per filter.

    ``w1 = 2·sqrt(2)·(w - mean w) / sqrt(var w + 1e-5)`` with the unbiased variance over the filter. ``Q`` is detached;
    the gradient is the identity through the sign, 1 inside the clamp and 0 outside, and exact through the
    standardisation.

    Args:
        layer: the layer.
        quantile: ``"laplace"``: ``Q = -mean|w1|·ln(2 - 2τ)`` over the layer, the τ-quantile of a Laplace distribution,
            as in the authors' code; ``"empirical"``: the τ and 1 - τ quantiles of ``w1`` (BiBench, eq. 21).

    Raises:
        ValueError: a filter of a single weight, whose variance is not defined.
    """

    formula = "sgn(recu({x}))"
    gradient = "identity in the clamp"
    tau: Tensor

    def __init__(self, layer: LayerSpec, quantile: Literal["laplace", "empirical"] = "laplace") -> None:
        super().__init__()
        size = math.prod(layer.weight_shape[1:])
        if size < 2:
            raise ValueError(
                f"recu standardises each filter and needs 2 or more weights in it; this layer's weight has shape "
                f"{layer.weight_shape}: leave it out with a filter"
            )
        self.quantile = quantile
        # A tensor, so that a new epoch neither recompiles a compiled model nor waits for the device.
        self.register_buffer("tau", torch.tensor(tau(0, 1), device=layer.device), persistent=False)

    def set_progress(self, epoch: int, total: int) -> None:
        self.tau.fill_(tau(epoch, total))

    def forward(self, w: Tensor) -> Tensor:
        dims = tuple(range(1, w.dim()))
        centred = w - w.mean(dim=dims, keepdim=True)
        standard = 2 * math.sqrt(2) * centred / (centred.var(dim=dims, keepdim=True) + _EPSILON).sqrt()
        low, high = self._bounds(standard.detach())
        clamped = torch.minimum(torch.maximum(standard, low), high)
        return surrogate(sgn(clamped), clamped, identity_ste)

    def _bounds(self, standard: Tensor) -> tuple[Tensor, Tensor]:
        if self.quantile == "laplace":
            bound = -standard.abs().mean() * torch.log(2 - 2 * self.tau).to(standard.dtype)
            return -bound, bound
        ordered = standard.flatten().sort().values  # torch.quantile refuses more than 16 million elements
        return _quantile(ordered, 1 - self.tau), _quantile(ordered, self.tau)

    def extra_repr(self) -> str:
        return f"quantile={self.quantile}"


def _quantile(ordered: Tensor, q: Tensor) -> Tensor:
    position = q.double() * (ordered.numel() - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=ordered.numel() - 1)
    return torch.lerp(ordered[below], ordered[above], (position - below).to(ordered.dtype))


class StandardisedSign(Rule):
    """``sgn(a)``; in training ``a`` is divided by its standard deviation over the sample (linear: the token) first.

    The division changes no sign, only the gradient, which is the approx rule at the divided value.
    """

    formula = "sgn(a)"
    gradient = "approx of a / std"

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        self.sample_dims = layer.sample_dims

    def forward(self, x: Tensor) -> Tensor:
        if self.training and x.flatten(self.sample_dims[0]).shape[-1] > 1:  # a single value has no spread
            x = x / (x.var(dim=self.sample_dims, keepdim=True) + _EPSILON).sqrt()
        return surrogate(sgn(x), x, approx_ste)

    def deployed_threshold(self) -> Threshold:
        return Threshold(torch.zeros(()))


def recu(
    *,
    quantile: Literal["laplace", "empirical"] = "laplace",
    scale: Literal["learned", "statistics"] = "learned",
) -> Algorithm:
    """``o = (sgn(a) * sgn(recu(w))) · α_c`` (BiBench, eq. 21; Xu et al., 2021).

    Args:
        quantile: how the clamp's bound is found, see `RectifiedSign`.
        scale: ``"learned"`` as in the authors' code, or ``"statistics"``: ``m_o``, as Table 6 of BiBench.

    >>> recu(scale="statistics").name
    'recu'
    """
    choose("quantile", quantile, ("laplace", "empirical"))
    choose("scale", scale, ("learned", "statistics"))
    return Algorithm(
        name="recu",
        title="ReCU",
        source="Xu et al., 2021b; BiBench eq. 21",
        weight=lambda layer: RectifiedSign(layer, quantile),
        activation=StandardisedSign,
        scale=LearnedScale if scale == "learned" else MeanScale,
    )
