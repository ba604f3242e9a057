"""What a binarized layer declares about its deployment, checked against the layer itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bibench.algorithms import Factors, LayerSpec, Rule
from bibench.deploy.build import numbers
from bibench.deploy.format import PackedError
from bibench.deploy.steps import Array
from bibench.nn.layers import BinaryLayer

__all__ = ["DeployedRule", "declared_factors", "declared_rule", "declared_weight"]


@dataclass(frozen=True)
class DeployedRule:
    """An activation's rule as packed bits have it: the upper value where ``x >= threshold``, float32 of each feature.

    Args:
        threshold: float32, one a feature.
        operand: 0 for {-1, +1}, 1 for {0, 1}.
        amplitude: factor of the product.
    """

    threshold: Array
    operand: int
    amplitude: float


def declared_rule(name: str, rule: Rule, features: int, shape: Sequence[int]) -> DeployedRule:
    """What a rule declares, verified at the threshold and at the next number below it.

    Args:
        name: the layer, for messages.
        rule: in evaluation mode.
        features: how many thresholds there are.
        shape: an input with one element a feature, as ``(1, features, 1, 1)``.

    Raises:
        PackedError: it declares nothing, something that isn't so, or other values than {-1, +1} and {0, 1}.
    """
    kind = type(rule).__name__
    if tuple(rule.values) not in ((-1, 1), (0, 1)):
        raise PackedError(
            f"layer '{name}': its activation rule {kind} has the values {tuple(rule.values)}, expected (-1, 1) or "
            "(0, 1): leave the layer in full precision"
        )
    declared = rule.deployed_threshold() if isinstance(rule, Rule) else None
    if declared is None:
        raise PackedError(
            f"layer '{name}': its activation rule {kind} doesn't say where its operand changes; give it a method "
            "deployed_threshold() that returns a bibench.algorithms.Threshold, or leave the layer in full precision"
        )
    value = declared.value.detach().to("cpu", torch.float32).reshape(-1)
    if value.numel() not in (1, features) or bool(value.isnan().any()):
        raise PackedError(
            f"layer '{name}': {kind} declares {value.numel()} thresholds (NaN among them: "
            f"{bool(value.isnan().any())}), expected 1 or {features} numbers"
        )
    infinity = torch.tensor(float("inf"))
    at = value if declared.inclusive else torch.nextafter(value, infinity)
    at = at.expand(features).contiguous()
    below = torch.nextafter(at, -infinity)
    device = declared.value.device
    low, high = (float(entry) for entry in rule.values)
    for x, expected in ((at, high), (below, low)):
        finite = x.isfinite()
        found = rule(x.reshape(tuple(shape)).to(device)).detach().to("cpu", torch.float32).reshape(-1)
        wrong = (finite & (found != expected)).nonzero().flatten()
        if wrong.numel():
            i = int(wrong[0])
            raise PackedError(
                f"layer '{name}': {kind} declares that its operand changes at {float(at[i])!r} (feature {i}), but "
                f"returns {float(found[i])} at {float(x[i])!r}, expected {expected}; correct its deployed_threshold()"
            )
    amplitude = rule.amplitude()
    return DeployedRule(
        at.numpy().copy(), int(tuple(rule.values) == (0, 1)), 1.0 if amplitude is None else float(amplitude.item())
    )


def declared_weight(name: str, layer: BinaryLayer) -> Array:
    """True where the deployed weight is -1; the shape of the latent weight.

    Raises:
        PackedError: a weight that is neither -1 nor +1.
    """
    weight = layer.binary_weight()
    wrong = weight.abs() != 1
    if bool(wrong.any()):
        raise PackedError(
            f"layer '{name}': its weight rule {type(layer.weight_rule).__name__} returns "
            f"{weight[wrong][0].item()} among its values, expected -1 and +1 alone"
        )
    bits: Array = (weight < 0).cpu().numpy()
    return bits


def declared_factors(name: str, layer: BinaryLayer, x: Sequence[int], y: Sequence[int]) -> Factors:
    """What a layer's scale declares, verified on a random product.

    Args:
        name: the layer, for messages.
        layer: in evaluation mode.
        x, y: shapes of its input and output.

    Raises:
        PackedError: the scale declares nothing, or something that isn't so.
    """
    scale: Any = layer.scale
    if scale is None:
        return Factors()
    kind, spec = type(scale).__name__, layer.spec
    if not hasattr(scale, "factors"):
        raise PackedError(
            f"layer '{name}': its scale {kind} doesn't say what it multiplies with; give it a method "
            "factors(weight, output_size) that returns bibench.algorithms.Factors, or leave the layer in full precision"
        )
    declared: Factors = scale.factors(layer.weight, tuple(y[len(y) - spec.dims :]))
    generator = torch.Generator().manual_seed(0)
    device, dtype = layer.weight.device, layer.weight.dtype
    input = torch.randn(tuple(x), generator=generator).to(device, dtype)
    product = torch.randint(-spec.in_features, spec.in_features + 1, tuple(y), generator=generator).to(device, dtype)
    expected = product
    if declared.activation is not None:
        expected = expected * _magnitude(declared.activation, input, spec)
    if declared.channel is not None:
        expected = expected * declared.channel.to(device).reshape(spec.per_channel)
    if declared.positions is not None:
        expected = expected * declared.positions.to(device)
    found = scale(product, input, layer.weight)
    if found.shape != product.shape or not torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
        raise PackedError(
            f"layer '{name}': its scale {kind} isn't what it declares: on a random product it differs by up to "
            f"{(found - expected).abs().max().item():.3g}; correct its factors()"
        )
    return declared


def _magnitude(kind: str, x: Tensor, spec: LayerSpec) -> Tensor:
    """The factor K of XNOR-Net, written anew from its definition in `Factors`."""
    if kind == "sample":
        return x.abs().mean()
    if spec.dims == 0:
        return x.abs().mean(-1, keepdim=True)
    kernel = spec.weight_shape[2:]
    magnitude = x.abs().unflatten(1, (spec.groups, -1)).mean(2)
    magnitude = F.pad(magnitude, spec.pads, value=abs(spec.padding_value))
    box = torch.full((spec.groups, 1, *kernel), 1 / int(np.prod(kernel)), device=x.device, dtype=x.dtype)
    function = (F.conv1d, F.conv2d, F.conv3d)[spec.dims - 1]
    factor = function(magnitude, box, None, spec.stride, 0, spec.dilation, spec.groups)
    return factor.repeat_interleave(spec.out_features // spec.groups, 1)


def channel_factor(factors: Factors, outputs: int) -> Array:
    """The declared factor of each output channel, in float64."""
    found = np.ones(1) if factors.channel is None else numbers(factors.channel).reshape(-1)
    repeated: Array = np.broadcast_to(found, (outputs,)).copy()
    return repeated
