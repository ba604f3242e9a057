"""What an algorithm is: which rule binarizes the weight, which the activation, and how the product is scaled.

A binarized layer computes, for every algorithm and every kind of layer,

    y = product(activation(x), weight(w)) · scale + bias

where ``product`` is a convolution, a linear map or a matrix product of two-valued operands.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Algorithm", "Composition", "Cost", "Factors", "LayerSpec", "Rule", "Threshold", "composition"]


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """The layer that a rule is built for.

    Args:
        dims: number of spatial dimensions: 1, 2 or 3 for convolutions, 0 for linear maps and matrix products.
        in_features, out_features: channels of input and output.
        weight_shape: ``(out, in / groups, *kernel)``; empty for a product of two activations.
        groups, stride, dilation: of the convolution.
        pads: padding as ``torch.nn.functional.pad`` takes it (last dimension first, left and right).
        padding_mode: ``"zeros"`` (then ``padding_value`` is used), ``"reflect"``, ``"replicate"`` or ``"circular"``.
        padding_value: operand value outside the input: 0, or -1 or +1 for the lower or upper operand value.
        output_size: spatial size of the largest output, where it is known from an example input.
        device, dtype: of parameters.
    """

    dims: int
    in_features: int
    out_features: int
    weight_shape: tuple[int, ...] = ()
    groups: int = 1
    stride: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    padding_mode: str = "zeros"
    padding_value: int = 0
    output_size: tuple[int, ...] | None = None
    device: torch.device | None = None
    dtype: torch.dtype | None = None

    @property
    def per_channel(self) -> tuple[int, ...]:
        """Shape that broadcasts one value a channel over ``(..., channels, *spatial)``."""
        return (-1, *(1,) * self.dims)

    @property
    def sample_dims(self) -> tuple[int, ...]:
        """Dimensions of one sample: channels and space; for linear maps the features of one token."""
        return tuple(range(-1 - self.dims, 0))

    def pad(self, x: Tensor, value: float) -> Tensor:
        """Pad ``x`` of shape ``(..., *spatial)`` as the convolution does, with ``value`` in mode ``"zeros"``."""
        if not any(self.pads):
            return x
        if self.padding_mode == "zeros":
            return F.pad(x, self.pads, value=value)
        return F.pad(x, self.pads, mode=self.padding_mode)


@dataclass(frozen=True)
class Cost:
    """What a part of a deployed binarized layer costs in full precision, beside the product of its bits.

    Args:
        parameters: stored numbers, such as scaling factors and thresholds.
        operations: multiplications, additions or comparisons of one call.

    >>> Cost(64, 3136) + Cost(64, 0)
    Cost(parameters=128, operations=3136)
    """

    parameters: int = 0
    operations: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.operations + other.operations)


@dataclass(frozen=True)
class Threshold:
    """Where a deployed operand changes: it has its upper value where ``x >= value`` (``x > value``, not inclusive).

    Args:
        value: one number, or one an input channel.
        inclusive: whether ``value`` itself belongs to the upper side.
    """

    value: Tensor
    inclusive: bool = True


@dataclass(frozen=True)
class Factors:
    """A layer's scale as it is deployed: ``channel · positions · K``, where what is None counts as 1.

    Args:
        channel: one factor an output channel, or a single one.
        positions: constant factors over the output's positions, of its spatial shape.
        activation: what is computed from each input: ``"map"``, the mean of ``|a|`` over the group's channels, averaged
            over the convolution's window with its own stride, padding and dilation (linear: of each token); or
            ``"sample"``, the mean of ``|a|`` over the whole input.
    """

    channel: Tensor | None = None
    positions: Tensor | None = None
    activation: Literal["map", "sample"] | None = None


class Rule(nn.Module):
    """How one operand becomes two-valued.

    ``forward(x)`` returns a tensor of the same shape that at evaluation holds exactly the two ``values``.
    A rule's parameters with at most one dimension (a value a channel, position or layer: thresholds and scales)
    are exempt from weight decay by default.
    """

    values: tuple[int, int] = (-1, 1)
    """Lower and upper value of the operand."""
    formula: str = ""
    """Forward, in one line, for tables."""
    gradient: str = ""
    """Name of the gradient rule, for tables."""

    def amplitude(self) -> Tensor | None:
        """A factor of the layer's product that belongs to this operand, or None."""
        return None

    def deployed_threshold(self) -> Threshold | None:
        """Where the operand changes at evaluation, as it is deployed; None doesn't say, and can't be exported."""
        return None

    def set_progress(self, epoch: int, total: int) -> None:
        """Called before every epoch (0-based) of ``total``, for what changes while training."""

    def penalty(self) -> Tensor | None:
        """A term that is added to the training loss, or None."""
        return None

    def cost(self, layer: LayerSpec, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Cost:
        """What the rule of an activation keeps in full precision at inference.

        By default its own parameters; one operation per element of the input where it has any, as for a threshold;
        and one per element of the output where it has an `amplitude`. The sign itself is free, as in the paper. A rule
        of a weight costs nothing and isn't asked: what is deployed are its bits.

        Args:
            layer: the layer.
            input_shape, output_shape: of one call, with the batch.

        >>> from bibench.algorithms.reactnet import ShiftedSign
        >>> layer = LayerSpec(dims=0, in_features=8, out_features=4)
        >>> ShiftedSign(layer).cost(layer, (1, 8), (1, 4))
        Cost(parameters=8, operations=8)
        """
        parameters = sum(parameter.numel() for parameter in self.parameters())
        operations = math.prod(input_shape) if parameters else 0
        if self.amplitude() is not None:
            operations += math.prod(output_shape)
        return Cost(parameters, operations)


def _no_scale(layer: LayerSpec) -> None:
    return None


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """A binarization algorithm.

    Args:
        name: the name in suites and records.
        title: the name in prose.
        source: paper and equations.
        weight: builds the weight's rule for a layer.
        activation: builds the activation's rule for a layer; also used for both operands of a product of two
            activations.
        scale: builds a module that is called as ``scale(product, x, w)`` with the layer's product, its input before
            binarization and its latent weight, and returns the scaled product; or returns None: no scale. It may have
            a method ``cost`` as `Rule.cost`; without one it counts as its own parameters and one operation per element
            of the output. To be exported it needs a method ``factors(weight, output_size)`` that returns `Factors` for
            the latent weight and the spatial size of the output (empty for linear maps).
        relu: what becomes of the network's ReLUs: ``"hardtanh"``, since a non-negative input would make every sign
            +1, or ``"keep"``.
        needs_output_size: whether a convolution's scale depends on the size of its output.

    The eight established algorithms and 1-bit PACT are functions that return an ``Algorithm``; their keyword
    arguments are the algorithm's options. So is one of your own:

    >>> from bibench.algorithms import Algorithm, MeanScale, Sign, approx_ste
    >>> mine = Algorithm(
    ...     name="mine",
    ...     weight=lambda layer: Sign(approx_ste, "approx"),
    ...     activation=lambda layer: Sign(approx_ste, "approx"),
    ...     scale=MeanScale,
    ... )
    """

    name: str
    title: str = ""
    source: str = ""
    weight: Callable[[LayerSpec], Rule]
    activation: Callable[[LayerSpec], Rule]
    scale: Callable[[LayerSpec], nn.Module | None] = field(default=_no_scale)
    relu: Literal["hardtanh", "keep"] = "hardtanh"
    needs_output_size: bool = False


class Composition(NamedTuple):
    """An algorithm's parts in words."""

    weight: str
    activation: str
    scale: str
    gradient: str


def composition(algorithm: Algorithm) -> Composition:
    """The parts of an algorithm in words, read off the parts that it builds for a small convolution.

    >>> from bibench.algorithms.bnn import bnn
    >>> composition(bnn())
    Composition(weight='sgn(w)', activation='sgn(a)', scale='none', gradient='hard / hard')
    """
    layer = LayerSpec(dims=2, in_features=2, out_features=2, weight_shape=(2, 2, 3, 3), output_size=(4, 4))
    weight, activation, scale = algorithm.weight(layer), algorithm.activation(layer), algorithm.scale(layer)
    return Composition(
        weight=weight.formula.format(x="w") or type(weight).__name__,
        activation=activation.formula.format(x="a") or type(activation).__name__,
        scale="none" if scale is None else getattr(scale, "formula", "") or type(scale).__name__,
        gradient=f"{weight.gradient or '?'} / {activation.gradient or '?'}",
    )
