"""Convolutions of a program, binary and full-precision, as LceBconv2d and TensorFlow Lite's own.

Padding: +1 is a bit of 0 and -1 a bit of 1, put around the packed map. 0 is LCE's own, which takes off again what it
has added; but TensorFlow's "SAME" pads a convolution with stride as little as it can, which shifts its windows. There
the map gets rows and columns behind its last ones, so many that "SAME" begins where PyTorch does, and what these add to
the result is cut off. Where that can't be done, the map is padded with +1 and a constant at the borders takes it off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bibench.deploy.format import Operation
from bibench.deploy.lce_graph import WORD, Array, LceGraph
from bibench.deploy.lce_windows import Axis, around, inside, windows
from bibench.deploy.refusals import IN_FULL_PRECISION
from bibench.deploy.tflite import ACTIVATIONS, SAME, VALID

__all__ = ["binary_convolution", "float_convolution", "magnitudes"]


def _axes(op: Operation) -> tuple[Axis, Axis]:
    """A convolution's windows, down and across."""
    p = op.params
    found = [Axis(p[0 + d], p[13 + d], (p[5 + d] - 1) * p[9 + d] + 1, p[7 + d], p[11 + d]) for d in range(2)]
    return found[0], found[1]


def binary_convolution(graph: LceGraph, op: Operation) -> None:
    """BCONV."""
    p, axes = op.params, _axes(op)
    channels, groups, outputs = p[2:5]
    if groups > 1:
        graph.refuse(f"takes no groups in its default kernels (this layer has {groups})", IN_FULL_PRECISION)
    weights = graph.constant(op.constants[0])
    assert weights is not None
    negative = weights.reshape(outputs, *p[5:7], channels)
    factor, shift, slope, threshold = (graph.constant(index) for index in op.constants[1:5])
    factor = np.ones(outputs) if factor is None else factor.astype(np.float64)
    position = op.values[2] >= 0 or op.constants[5] >= 0
    residual, act, halves = op.values[1] >= 0, p[21], p[20] == 1
    signs_alone = shift is None and bool((abs(factor) == 1).all())
    on_sums = threshold is not None and op.values[3] < 0 and signs_alone and not (residual or position or act)
    given = _map_of(graph, op, axes)
    if on_sums and given.packs:
        assert threshold is not None
        negative = negative ^ (factor < 0)[:, None, None, None]
        graph.tensors[op.values[4]] = _products(
            graph, op, axes, given, negative, [-1, -1, _limits(graph, negative, threshold, halves)]
        )
        return
    offset = np.zeros(outputs) if shift is None or position else shift.astype(np.float64)
    if halves:
        offset = offset + factor * _weight_sums(negative) / 2
        factor = factor / 2
    if on_sums:
        assert threshold is not None
        offset, threshold = offset - threshold, None
    y = _products(graph, op, axes, given, negative, [graph.floats(factor), graph.floats(offset), -1])
    if given.missing:
        y = graph.scaled(y, None, -given.missing * factor * _outside(op, axes, negative))
    if position:
        y = _positions(graph, op, y, shift)
    _finish(graph, op, y, slope, threshold)


@dataclass(frozen=True)
class _Map:
    """A packed map for LceBconv2d.

    Args:
        bits: the tensor.
        padding: what LceBconv2d does itself: `SAME` or `VALID`.
        zeros: whether it pads with zeros.
        missing: how many times the weights that lie outside of the map have been counted too often.
    """

    bits: int
    padding: int
    zeros: bool = False
    missing: int = 0

    @property
    def packs(self) -> bool:
        """Whether LceBconv2d can pack its results."""
        return not self.zeros and not self.missing


def _map_of(graph: LceGraph, op: Operation, axes: Sequence[Axis]) -> _Map:
    """A convolution's input, padded as far as LceBconv2d doesn't do that itself."""
    p, channels = op.params, op.params[2]
    words = -(-channels // WORD)
    bits = graph.shaped(op.values[0], (1, *p[:2], words))
    if not any(axis.padded for axis in axes):
        return _Map(bits, VALID)
    pad = p[19] if p[20] == 0 else 1 if p[19] == 1 else -1
    more = [axis.extended for axis in axes]
    if pad == 1 and more == [0, 0]:
        return _Map(bits, SAME)
    if pad == 0 and None not in more:
        behind = [(0, 0), *((0, extra or 0) for extra in more), (0, 0)]
        return _Map(graph.padded(bits, behind, 0, np.int32), SAME, zeros=True)
    if pad == -1 and (words == 1 or channels % WORD == 0):  # all words are to be the same
        full = -1 if channels % WORD == 0 else (1 << channels) - 1
        return _Map(graph.padded(bits, around(axes), full, np.int32), VALID)
    return _Map(graph.padded(bits, around(axes), 0, np.int32), VALID, missing=1 - pad)


def _limits(graph: LceGraph, negative: Array, threshold: Array, halves: bool) -> int:
    """What a count of products that are -1 exceeds where the sum is below the threshold."""
    limit = threshold.astype(np.float64)
    if halves:  # the sum over {0, 1} is half of that over {-1, +1} and the weights' sum
        limit = 2 * limit - _weight_sums(negative)
    taps = negative[0].size
    return graph.file.constant(np.clip(np.floor((taps - limit) / 2), -1, taps).astype(np.int32))


def _outside(op: Operation, axes: Sequence[Axis], negative: Array) -> Array:
    """At each position, the sum of the weights whose inputs lie outside of the map: [OH, OW, O]."""
    within = [inside(axis, *sizes) for axis, *sizes in zip(axes, op.params[5:7], op.params[9:11], strict=True)]
    weights = negative.shape[3] - 2.0 * negative.sum(3)
    covered: Array = np.einsum("yi,xj,oij->yxo", *within, weights)
    return _weight_sums(negative) - covered


def _weight_sums(negative: Array) -> Array:
    """Of each filter, the sum of its weights."""
    sums: Array = negative[0].size - 2.0 * negative.sum((1, 2, 3))
    return sums


def _products(
    graph: LceGraph,
    op: Operation,
    axes: Sequence[Axis],
    given: _Map,
    negative: Array,
    behind: Sequence[int],
) -> int:
    """LceBconv2d; ``behind`` are factors, summands and, for packed bits, thresholds."""
    p = op.params
    channels, outputs = p[2], p[4]
    last, dtype = (outputs, np.float32) if behind[-1] < 0 else (-(-outputs // WORD), np.int32)
    y = graph.file.add(
        "LceBconv2d",
        [given.bits, graph.file.constant(_packed(negative)), *behind],
        (1, *windows(graph.file.shape(given.bits), axes, given.padding), last),
        dtype,
        channels_in=channels,
        dilation_height_factor=p[9],
        dilation_width_factor=p[10],
        fused_activation_function=0,
        pad_values=int(not given.zeros),
        padding=given.padding,
        stride_height=axes[0].stride,
        stride_width=axes[1].stride,
    )
    return graph.cut(y, (0, 0, 0, 0), (1, axes[0].out, axes[1].out, last), dtype)


def _packed(negative: Array) -> Array:
    """Channels, innermost, into words, least significant bit first."""
    channels = negative.shape[-1]
    padded = np.concatenate([negative, np.zeros((*negative.shape[:-1], -channels % WORD), bool)], -1)
    found: Array = np.packbits(padded, axis=-1, bitorder="little").view("<i4")
    return found


def _positions(graph: LceGraph, op: Operation, y: int, shift: Array | None) -> int:
    """The factor of each position, and what is added behind it."""
    shape = graph.file.shape(y)
    sides = (1, 1, 1, 1) if op.params[26] == -1 else (1, *shape[1:3], 1)
    if op.values[2] >= 0:
        factor = graph.shaped(op.values[2], sides)
    else:
        stored = graph.constant(op.constants[5])
        assert stored is not None
        factor = graph.floats(stored.reshape(sides))
    return graph.scaled(graph.file.add("MUL", [y, factor], shape), None, shift)


def _activation(op: Operation) -> int:
    """The number of a convolution's clamp, where another operator can do it on its way; 0 for none."""
    bounds = (op.floats[0], op.floats[1])
    return ACTIVATIONS[bounds][0] if op.params[21] == 1 and bounds in ACTIVATIONS else 0


def _finish(
    graph: LceGraph, op: Operation, y: int, slope: Array | None, threshold: Array | None, *, clamped: bool = False
) -> None:
    """A convolution's residual, activation, unless that has been done, and bits."""
    act, shape = op.params[21], graph.file.shape(y)
    if op.values[1] >= 0:
        activation = _activation(op)
        y = graph.file.add("ADD", [y, graph.shaped(op.values[1], shape)], shape, activation=activation)
        clamped = bool(activation)
    if act == 1 and not clamped:
        y = graph.clamped(y, *op.floats[:2])
    elif act == 2:
        y = graph.prelu(y, slope)
    if op.values[3] >= 0:
        graph.tensors[op.values[3]] = y
    if op.values[4] >= 0:
        graph.tensors[op.values[4]] = graph.quantized(y, threshold)


def float_convolution(graph: LceGraph, op: Operation) -> None:
    """FCONV."""
    p, axes = op.params, _axes(op)
    channels, groups, outputs = p[2:5]
    weights, factor, shift, slope, threshold = (graph.constant(index) for index in op.constants[:5])
    assert weights is not None
    kernel = weights.reshape(outputs, p[5], p[6], channels // groups).astype(np.float64)
    if factor is not None:
        kernel = kernel * factor[:, None, None, None]
    x = graph.shaped(op.values[0], (1, p[17], p[18], channels))
    bias = np.zeros(outputs) if shift is None else shift
    activation = _activation(op) if op.values[1] < 0 else 0
    depthwise = groups > 1 and groups == channels
    y = graph.file.add(
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        [x, graph.floats(kernel.transpose(3, 1, 2, 0) if depthwise else kernel), graph.floats(bias)],
        (1, *windows(graph.file.shape(x), axes, VALID), outputs),
        np.float32,
        padding=VALID,
        stride_width=p[8],
        stride_height=p[7],
        dilation_width=p[10],
        dilation_height=p[9],
        activation=activation,
        **({"multiplier": outputs // channels} if depthwise else {}),
    )
    y = graph.cut(y, (0, 0, 0, 0), (1, axes[0].out, axes[1].out, outputs))
    _finish(graph, op, y, slope, threshold, clamped=bool(activation))


def magnitudes(graph: LceGraph, op: Operation) -> None:
    """KMAP."""
    p, axes = op.params, _axes(op)
    shape = (1, *p[:2], p[2])  # of one group: the convolution behind is refused where there are more
    x = graph.file.add("ABS", [graph.shaped(op.values[0], shape)], shape)
    x = graph.file.add("MEAN", [x, graph.file.numbers(3)], (1, *p[:2], 1), keep_dims=True)
    x = graph.padded(x, around(axes), p[15], np.float32)
    box = np.full((1, p[5], p[6], 1), 1 / (p[5] * p[6]))
    graph.tensors[op.values[1]] = graph.file.add(
        "CONV_2D",
        [x, graph.floats(box), graph.floats(np.zeros(1))],
        (1, axes[0].out, axes[1].out, 1),
        padding=VALID,
        stride_width=p[8],
        stride_height=p[7],
        dilation_width=p[10],
        dilation_height=p[9],
    )
