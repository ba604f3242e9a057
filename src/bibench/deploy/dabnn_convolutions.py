"""Convolutions and pools of a program, and the bits behind them, as layers of daBNN.

BinConv2D takes floats, makes their signs itself, pads with -1 and counts the products that are -1. An Affine makes the
sum of the count; where PyTorch pads with something else, a constant map is added to the count that takes the
difference off. Where only bits are read of the result, the same Affine cuts it at the program's integer thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bibench.deploy.dabnn_graph import Array, Blob, DabnnGraph, above
from bibench.deploy.format import Operation, Place
from bibench.deploy.lce_convolutions import _axes, _outside, _weight_sums
from bibench.deploy.lce_windows import Axis
from bibench.deploy.refusals import IN_FULL_PRECISION

__all__ = ["binary_convolution", "bit_pool", "float_convolution", "pool"]

_POOLED = ((2, 2), (3, 3))
_DIRECT = (64, 128, 256, 512, 1024)
"""Channels for which daBNN has 3 x 3 kernels; its others copy a window at once, to a place of its own."""
_MOST_TAPS = 60_000


@dataclass(frozen=True)
class _Windows:
    """A convolution's windows on a map of the file.

    Args:
        kernel, strides, pads: down and across.
        out: height and width of the result.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    out: tuple[int, int] = (1, 1)

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """Above, right, below and left."""
        return (*self.pads, *self.pads)


def _windows(graph: DabnnGraph, axes: Sequence[Axis], channels: int, x: Blob) -> _Windows:
    """The windows of one or of many pixels on a map, which the program may see in another shape."""
    down, across = axes
    height, width, _ = x.shape
    graph.whole(x, down.size * across.size * channels)
    alone = (down.extent, across.extent, down.stride, across.stride, down.padded, across.padded) == (1, 1, 1, 1, 0, 0)
    if x.shape != (down.size, across.size, channels):
        if alone and down.size * across.size == 1:
            return _Windows((height, width))  # the whole map is one pixel
        if alone and channels == x.shape[2]:
            return _Windows((1, 1), out=(height, width))
        graph.refuse(
            f"keeps a map of {height} x {width} with {x.shape[2]} channels, and this reads it in another shape"
        )
    for axis in axes:
        if axis.out != (axis.size + 2 * axis.low - axis.extent) // axis.stride + 1:
            graph.refuse(f"pads both sides alike, and this pads {axis.low} in front and {axis.high} behind")
    both = (down.size, down.extent, down.stride, down.low), (across.size, across.extent, across.stride, across.low)
    if both[0] != both[1] and not alone:
        graph.refuse("computes square windows on square maps alone: it exchanges height and width", IN_FULL_PRECISION)
    return _Windows(
        (down.extent, across.extent), (down.stride, across.stride), (down.low, across.low), (down.out, across.out)
    )


def _convolved(graph: DabnnGraph, kind: str, x: Blob, windows: _Windows, weight: str, outputs: int, bias: str) -> Blob:
    return graph.add(
        kind,
        (*windows.out, outputs),
        input=x.name,
        weight=weight,
        pads=windows.padding,
        strides=windows.strides,
        dilations=(1, 1),
        **({"bias": bias} if bias else {}),
    )


def _checked(graph: DabnnGraph, op: Operation) -> tuple[Blob, tuple[Axis, Axis], _Windows]:
    """A convolution's input and windows, as far as both kinds have the same."""
    p, axes = op.params, _axes(op)
    if p[3] > 1:
        graph.refuse(f"has no groups (this layer has {p[3]})")
    if p[9:11] != (1, 1):
        graph.refuse(f"has no dilation (this layer has {p[9]} x {p[10]})")
    x = graph.inside(op.values[0], axes, (p[15], p[16], p[17], p[18]), p[2])
    return x, axes, _windows(graph, axes, p[2], x)


def binary_convolution(graph: DabnnGraph, op: Operation) -> None:
    """BCONV."""
    p, outputs = op.params, op.params[4]
    if op.values[2] >= 0 or op.constants[5] >= 0:
        graph.refuse("scales channels, not positions", IN_FULL_PRECISION)
    x, axes, windows = _checked(graph, op)
    _check_kernels(graph, x, windows, outputs)
    weights = graph.constant(op.constants[0])
    assert weights is not None
    negative = weights.reshape(outputs, *p[5:7], p[2])
    factor, shift, slope, threshold = (graph.constant(index) for index in op.constants[1:5])
    y = _convolved(
        graph, "BinConv2D", x, windows, graph.file.bits(~negative.reshape(outputs, *windows.kernel, -1)), outputs, ""
    )
    scale, center = _sum_of_count(op, axes, negative)
    if center.ndim > 1:
        y = graph.sum(y, graph.file.floats(-center[None]))
        center = np.zeros(outputs)
    factor = np.ones(outputs) if factor is None else factor.astype(np.float64)
    exact = shift is None and bool((abs(factor) == 1).all())
    if exact and threshold is not None and op.values[1] < 0 and op.values[3] < 0 and p[21] == 0:
        limit = np.clip(np.ceil(threshold.astype(np.float64)), -negative[0].size - 1, negative[0].size + 1) - 0.5
        graph.blobs[op.values[4]] = graph.affine(y, scale * factor, -scale * factor * center - limit)
        return
    if exact:
        y = graph.affine(y, scale * factor, -scale * factor * center)
    else:
        y = graph.affine(y, 1, -center) if center.any() else y
        y = graph.affine(y, scale * factor, 0 if shift is None else shift)
    _finish(graph, op, y, slope, threshold, zeros=shift is None or bool((shift == 0).any()))


def _sum_of_count(op: Operation, axes: Sequence[Axis], negative: Array) -> tuple[float, Array]:
    """Factor and center so that ``factor·(count - center)`` is the sum: of each filter, or also of each position."""
    p = op.params
    taps, halves = negative[0].size, p[20] == 1
    scale = -1.0 if halves else -2.0
    center = (taps + (_weight_sums(negative) if halves else np.zeros(len(negative)))) / 2
    # how much more than -1, or 0 for operands in {0, 1}, the padding is
    more = max(p[19], 0) if halves else p[19] + 1
    if more and any(axis.padded for axis in axes):
        center = center - more * _outside(op, axes, negative) / scale
    return scale, center


def _check_kernels(graph: DabnnGraph, x: Blob, windows: _Windows, outputs: int) -> None:
    """Refuse what daBNN's binary kernels abort on, or compute wrongly."""
    height, _, channels = x.shape
    words, (down, across) = channels // 64, windows.kernel
    direct = (down, across) == (3, 3) and windows.strides[0] == windows.strides[1]
    if channels == 64 and not direct and down * across % 2:
        graph.refuse(f"computes no {down} x {across} binary convolution of 64 channels", IN_FULL_PRECISION)
    if channels == 64 and direct and (windows.out[0] * windows.out[1] % 2 or outputs % 2):
        graph.refuse(
            "computes 3 x 3 binary convolutions of 64 channels for an even number of pixels and of filters, and this "
            f"has {windows.out[0]} x {windows.out[1]} and {outputs}",
            IN_FULL_PRECISION,
        )
    if down * across * channels >= _MOST_TAPS and not (direct and channels in _DIRECT):
        graph.refuse(
            f"computes binary convolutions of fewer than {_MOST_TAPS:,} products, and this is of "
            f"{down * across * channels:,}",
            IN_FULL_PRECISION,
        )
    for rows in (height, height + 2 * windows.pads[0]):
        if rows * words % 2 and rows * words > 1:
            graph.refuse(
                f"packs {channels} channels for an even number of rows alone, and this has {rows}", IN_FULL_PRECISION
            )


def float_convolution(graph: DabnnGraph, op: Operation) -> None:
    """FCONV."""
    outputs = op.params[4]
    x, _, windows = _checked(graph, op)
    weights, factor, shift, slope, threshold = (graph.constant(index) for index in op.constants[:5])
    assert weights is not None
    kernel = weights.reshape(outputs, *windows.kernel, x.shape[2]).astype(np.float64)
    if factor is not None:
        kernel = kernel * factor[:, None, None, None]
    bias = np.zeros(outputs) if shift is None else shift
    more = -outputs % 4 if windows.out == (1, 1) and _is_result(graph, op) else 0
    if more:  # daBNN holds no such row: further scores that are never the largest
        kernel = np.concatenate([kernel, np.zeros((more, *kernel.shape[1:]))])
        bias = np.concatenate([bias, np.full(more, np.finfo(np.float32).min)])
    y = _convolved(graph, "FpConv2D", x, windows, graph.file.floats(kernel), outputs + more, graph.file.floats(bias))
    zeros = bool(((abs(kernel).max((1, 2, 3)) == 0) & (bias == 0)).any())
    _finish(graph, op, y, slope, threshold, zeros=zeros)


def _is_result(graph: DabnnGraph, op: Operation) -> bool:
    """Whether nothing happens to a convolution's sums but that they are put out."""
    read = any(op.values[3] in other.values for other in graph.program.operations if other is not op)
    return (
        op.values[3] >= 0
        and graph.program.values[op.values[3]].place is Place.OUTPUT
        and not read
        and op.values[1] < 0
        and op.values[4] < 0
        and op.params[21] == 0
    )


def _finish(
    graph: DabnnGraph, op: Operation, y: Blob, slope: Array | None, threshold: Array | None, *, zeros: bool
) -> None:
    """A convolution's residual, activation and bits; ``zeros`` says that many numbers may be 0 exactly."""
    act, floats = op.params[21], op.values[3] >= 0
    if op.values[1] >= 0:
        y = graph.sum(y, _like(graph, op.values[1], y).name)
    if act == 1 and not floats and _keeps_bits(op.floats[0], op.floats[1], threshold):
        act = 0
    if act == 1:
        y = graph.clamped(y, *op.floats[:2])
        zeros = zeros or 0 in op.floats[:2]
    elif act == 2:
        assert slope is not None
        y = graph.prelu(y, slope)
    if floats:
        graph.blobs[op.values[3]] = y
    if op.values[4] >= 0:
        if threshold is not None:
            y = graph.affine(graph.copied(y) if floats else y, 1, above(threshold))
        graph.blobs[op.values[4]] = y
        if threshold is None and zeros:
            graph.raise_zeros(op.values[4])


def _keeps_bits(low: float, high: float, threshold: Array | None) -> bool:
    """Whether a clamp changes nothing about what is below the thresholds."""
    limit = np.zeros(1) if threshold is None else threshold
    return bool(((low < limit) & (limit <= high)).all())


def _like(graph: DabnnGraph, index: int, y: Blob) -> Blob:
    """A value that is added to a map of the same shape."""
    other = graph.blob(index)
    if other.shape != y.shape:
        graph.refuse(f"adds maps of one shape, and these have {y.shape} and {other.shape}")
    return other


def pool(graph: DabnnGraph, op: Operation) -> None:
    """POOL."""
    p = op.params
    _pooled(graph, op, p[0], p[1:14])


def bit_pool(graph: DabnnGraph, op: Operation) -> None:
    """BITPOOL: the maximum of floats has the maximum's sign."""
    p = op.params
    _pooled(graph, op, 0, (*p[:11], *p[19:21]))


def _pooled(graph: DabnnGraph, op: Operation, kind: int, p: Sequence[int]) -> None:
    """A pool; ``p`` are sizes, channels, window, strides, padding, sizes of the result, and dilation."""
    if tuple(p[11:13]) != (1, 1):
        graph.refuse(f"pools no dilated windows (this one has {p[11]} x {p[12]})")
    x = graph.blob(op.values[0])
    graph.whole(x, p[0] * p[1] * p[2])
    axes = [Axis(p[0 + d], p[9 + d], p[3 + d], p[5 + d], p[7 + d]) for d in range(2)]
    if tuple(p[3:5]) == tuple(p[:2]) and tuple(p[9:11]) == (1, 1) and p[2] == x.shape[2]:
        windows = _Windows((x.shape[0], x.shape[1]))
        if x.shape[0] != x.shape[1]:
            graph.refuse("pools square maps alone: it exchanges height and width")
    else:
        windows = _windows(graph, axes, p[2], x)
    if kind == 0 and (windows.kernel not in _POOLED or x.shape[2] % 4):
        graph.refuse(
            "has maxima of 2 x 2 and 3 x 3 pixels and multiples of 4 channels, and this is of "
            f"{windows.kernel[0]} x {windows.kernel[1]} and {x.shape[2]}"
        )
    if kind and windows.pads != (0, 0) and (kind == 2 or windows.kernel == windows.strides == (2, 2)):
        graph.refuse("averages over no padding, and this pads")
    graph.blobs[op.values[1]] = graph.add(
        "AvePool" if kind else "MaxPool",
        (*windows.out, x.shape[2]),
        input=x.name,
        kernel_shape=windows.kernel,
        pads=windows.padding,
        strides=windows.strides,
    )
