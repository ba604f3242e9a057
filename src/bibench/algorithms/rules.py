"""Rules and scales that several algorithms share."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bibench.algorithms.algorithm import Cost, Factors, LayerSpec, Rule, Threshold
from bibench.algorithms.gradients import Slope, surrogate

__all__ = ["LearnedScale", "MeanScale", "Sign", "choose", "mean_magnitude", "sgn", "unscaled"]


def choose(option: str, value: str, allowed: tuple[str, ...]) -> None:
    """Refuse an option's value that is not allowed."""
    if value not in allowed:
        raise ValueError(f"option {option}={value!r}: expected one of {', '.join(map(repr, allowed))}")


def sgn(x: Tensor) -> Tensor:
    """``+1 if x >= 0 else -1``, the deployed convention: never 0 (``torch.sign(0)`` is, which breaks packing).

    >>> sgn(torch.tensor([-2.0, -0.0, 0.0, 3.0]))
    tensor([-1.,  1.,  1.,  1.])
    """
    return (x >= 0).to(x.dtype).mul_(2).sub_(1)


class Sign(Rule):
    """``sgn(x)`` with a gradient rule.

    Args:
        slope: the gradient rule.
        gradient: its name in tables.
    """

    formula = "sgn({x})"

    def __init__(self, slope: Slope, gradient: str = "") -> None:
        super().__init__()
        self.slope = slope
        self.gradient = gradient or getattr(slope, "__name__", type(slope).__name__)

    def forward(self, x: Tensor) -> Tensor:
        return surrogate(sgn(x), x, self.slope)

    def deployed_threshold(self) -> Threshold:
        return Threshold(torch.zeros(()))

    def extra_repr(self) -> str:
        return f"gradient={self.gradient}"


def mean_magnitude(w: Tensor, granularity: str = "channel") -> Tensor:
    """``m_o = mean |w_o|`` over each filter, or over the layer; shape ``(out, 1, ...)``, or ``(1, 1, ...)``."""
    return w.abs().mean(dim=tuple(range(1 if granularity == "channel" else 0, w.dim())), keepdim=True)


class MeanScale(nn.Module):
    """Scale by ``m_o = mean |w_o|``, without gradient through it (BiBench, section 2.1; Rastegari et al., 2016).

    Args:
        layer: the layer.
        granularity: ``"channel"``: one factor a filter; ``"layer"``: one a layer.
    """

    def __init__(self, layer: LayerSpec, granularity: Literal["channel", "layer"] = "channel") -> None:
        super().__init__()
        choose("granularity", granularity, ("channel", "layer"))
        self.granularity = granularity
        self.formula = "m_o" if granularity == "channel" else "m"
        self.shape = layer.per_channel

    def forward(self, product: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return product * mean_magnitude(w.detach(), self.granularity).view(self.shape).to(product.dtype)

    def factors(self, weight: Tensor, output_size: tuple[int, ...]) -> Factors:
        """The factor of each filter, or the layer's."""
        return Factors(channel=mean_magnitude(weight.detach(), self.granularity).flatten())

    def cost(self, layer: LayerSpec, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Cost:
        """One stored factor a filter, or one a layer: the latent weights aren't deployed; one operation an output.

        >>> layer = LayerSpec(dims=0, in_features=8, out_features=4, weight_shape=(4, 8))
        >>> MeanScale(layer).cost(layer, (2, 8), (2, 4))
        Cost(parameters=4, operations=8)
        """
        return Cost(layer.out_features if self.granularity == "channel" else 1, math.prod(output_shape))


class LearnedScale(nn.Module):
    """Scale by a learned ``alpha_c`` per output channel, initialised from U[0, 1) as in ReCU's release."""

    formula = "learned α_c"

    def __init__(self, layer: LayerSpec) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(layer.out_features, device=layer.device, dtype=layer.dtype))
        self.shape = layer.per_channel

    def forward(self, product: Tensor, x: Tensor, w: Tensor) -> Tensor:
        return product * self.alpha.view(self.shape).to(product.dtype)

    def factors(self, weight: Tensor, output_size: tuple[int, ...]) -> Factors:
        """The learned factors."""
        return Factors(channel=self.alpha.detach())


class _Unscaled(Rule):
    def __init__(self, rule: Rule, granularity: str) -> None:
        super().__init__()
        self.rule = rule
        self.granularity = granularity
        self.formula, self.gradient = rule.formula, f"{rule.gradient}, unscaled"

    def forward(self, w: Tensor) -> Tensor:
        binary = self.rule(w)
        scale = mean_magnitude(w.detach(), self.granularity)
        inverse = torch.where(scale == 0, 0, 1 / scale)  # a filter of zeros has no gradient in either case
        return surrogate(binary, binary, inverse.expand_as)

    def deployed_threshold(self) -> Threshold | None:
        return self.rule.deployed_threshold()


def unscaled(
    weight: Callable[[LayerSpec], Rule], *, granularity: str = "channel", when: bool = True
) -> Callable[[LayerSpec], Rule]:
    """Leave the static scale ``m_o`` out of the weight's gradient.

    The product is multiplied by ``m_o``, so by the chain rule the gradient of the binarized weight carries that factor;
    this divides it out again, as the release of BiBench does by its order of operations. The forward is unchanged.

    Args:
        weight: builds the weight's rule.
        granularity: of the scale.
        when: False returns ``weight`` as it is.
    """
    return (lambda layer: _Unscaled(weight(layer), granularity)) if when else weight
