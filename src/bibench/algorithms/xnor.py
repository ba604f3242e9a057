"""XNOR-Net: signs, scaled by the weights' mean magnitude and by a map of the activations' mean magnitude."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bibench.algorithms.algorithm import Algorithm, Cost, Factors, LayerSpec
from bibench.algorithms.gradients import hard_ste
from bibench.algorithms.rules import MeanScale, Sign, choose, unscaled

__all__ = ["ActivationScale", "xnor"]

_CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


class ActivationScale(nn.Module):
    """``m_o · K``: the scale of XNOR-Net (BiBench, eq. 14), detached.

    For convolutions ``K`` is the mean of ``|a|`` over the group's channels, convolved with a box of ``1 / kernel size``
    with the convolution's own stride, padding and dilation: shape ``(N, groups -> out, *output)``. Where the operand is
    padded with -1 or +1, ``|a|`` is padded with 1. For linear maps ``K`` is the mean of ``|a|`` of each token.

    Args:
        layer: the layer.
        activation_scale: ``"map"`` as above, or ``"sample"``: one scalar, the mean of ``|a|`` over the sample.
    """

    box: Tensor

    def __init__(self, layer: LayerSpec, activation_scale: Literal["map", "sample"] = "map") -> None:
        super().__init__()
        self.layer = layer
        self.activation_scale: Literal["map", "sample"] = activation_scale
        self.formula = "m_o · K" if activation_scale == "map" else "m_o · mean |a|"
        self.weight_scale = MeanScale(layer)
        kernel = layer.weight_shape[2:]
        box = torch.ones(layer.groups, 1, *kernel, device=layer.device, dtype=layer.dtype)
        self.register_buffer("box", box, persistent=False)  # ones, which every dtype holds exactly
        self.size = box[0].numel()

    def forward(self, product: Tensor, x: Tensor, w: Tensor) -> Tensor:
        with torch.no_grad():
            factor = self._map(x) if self.activation_scale == "map" else self._per_sample(x)
        scaled: Tensor = self.weight_scale(product * factor.to(product.dtype), x, w)
        return scaled

    def factors(self, weight: Tensor, output_size: tuple[int, ...]) -> Factors:
        """``m_o``, and what K is computed as."""
        return Factors(self.weight_scale.factors(weight, output_size).channel, activation=self.activation_scale)

    def cost(self, layer: LayerSpec, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Cost:
        """The stored ``m_o``, and what is computed for every input.

        One operation per element of the input for the mean of ``|a|``; for the map of a convolution the box, one
        operation per element of the kernel, group and output position; two per element of the output, for K and m_o.

        >>> layer = LayerSpec(dims=2, in_features=8, out_features=4, weight_shape=(4, 8, 3, 3))
        >>> ActivationScale(layer).cost(layer, (1, 8, 6, 6), (1, 4, 4, 4))  # 8*36 + 9*16 + 2*64
        Cost(parameters=4, operations=560)
        """
        outputs = math.prod(output_shape)
        box = 0
        if layer.dims and self.activation_scale == "map":
            box = outputs // layer.out_features * layer.groups * self.size
        mean = Cost(0, math.prod(input_shape) + box + outputs)
        return mean + self.weight_scale.cost(layer, input_shape, output_shape)

    def _per_sample(self, x: Tensor) -> Tensor:
        unbatched = x.dim() <= self.layer.dims + 1
        return x.abs().mean() if unbatched else x.abs().mean(dim=tuple(range(1, x.dim())), keepdim=True)

    def _map(self, x: Tensor) -> Tensor:
        layer = self.layer
        if layer.dims == 0:
            return x.abs().mean(dim=-1, keepdim=True)
        batched = x if x.dim() == layer.dims + 2 else x.unsqueeze(0)
        samples, channels, *space = batched.shape
        magnitude = batched.abs().reshape(samples, layer.groups, channels // layer.groups, *space).mean(dim=2)
        magnitude = layer.pad(magnitude, value=abs(layer.padding_value))
        convolution = _CONVOLUTIONS[layer.dims - 1]
        factor = convolution(magnitude, self.box, None, layer.stride, 0, layer.dilation, layer.groups)
        factor = (factor / self.size).repeat_interleave(layer.out_features // layer.groups, dim=1)
        return factor if x.dim() == layer.dims + 2 else factor.squeeze(0)


def xnor(*, activation_scale: Literal["map", "sample"] = "map", scale_in_gradient: bool = True) -> Algorithm:
    """``o = (sgn(a) * sgn(w)) · K m_o`` (BiBench, eq. 14; Rastegari et al., 2016).

    Args:
        activation_scale: ``"map"``: K is a map over positions; ``"sample"``: one scalar a sample.
        scale_in_gradient: False leaves the weight's scale out of the weight's gradient.

    >>> xnor(activation_scale="sample").name
    'xnor'
    """
    choose("activation_scale", activation_scale, ("map", "sample"))
    return Algorithm(
        name="xnor",
        title="XNOR",
        source="Rastegari et al., 2016; BiBench eq. 14",
        weight=unscaled(lambda layer: Sign(hard_ste, "hard"), when=not scale_in_gradient),
        activation=lambda layer: Sign(hard_ste, "hard"),
        scale=lambda layer: ActivationScale(layer, activation_scale),
    )
