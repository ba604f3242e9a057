"""Sliding windows, as PyTorch and as TensorFlow place them, and the pools of a program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bibench.deploy.format import Operation
from bibench.deploy.lce_graph import WORD, Array, LceGraph, Shape
from bibench.deploy.tflite import SAME, VALID

__all__ = ["Axis", "around", "bit_pool", "inside", "pool", "windows"]


@dataclass(frozen=True)
class Axis:
    """One direction of a sliding window.

    Args:
        size, out: of input and output.
        extent: of the window, dilation included.
        stride: its steps.
        low: padding in front.
    """

    size: int
    out: int
    extent: int
    stride: int
    low: int

    @property
    def high(self) -> int:
        """Padding behind, so that the last window fits."""
        return max((self.out - 1) * self.stride + self.extent - self.low - self.size, 0)

    @property
    def padded(self) -> bool:
        """Whether there is any."""
        return bool(self.low or self.high)

    @property
    def extended(self) -> int | None:
        """How many positions have to be added behind so that "SAME" has its windows where they are here.

        None where no number does that. What is added must not be seen by the windows that count; and LCE pads maps
        that are smaller than the window wrongly.

        >>> Axis(size=8, out=4, extent=3, stride=2, low=1).extended
        1
        """
        for more in range(1 if self.high else self.stride + 1):
            size = self.size + more
            steps = -(-size // self.stride)
            padding = max((steps - 1) * self.stride + self.extent - size, 0)
            if padding // 2 == self.low and steps >= self.out and size >= self.extent:
                return more
        return None


def around(axes: Sequence[Axis]) -> list[tuple[int, int]]:
    """A map's padding."""
    return [(0, 0), *((axis.low, axis.high) for axis in axes), (0, 0)]


def inside(axis: Axis, kernel: int, dilation: int) -> Array:
    """Which elements of each window lie inside of the map: [out, kernel]."""
    at = np.arange(axis.out)[:, None] * axis.stride - axis.low + np.arange(kernel) * dilation
    found: Array = (at >= 0) & (at < axis.size)
    return found


def windows(shape: Shape, axes: Sequence[Axis], padding: int) -> list[int]:
    """How many windows a map of a shape has, as TensorFlow counts them."""
    return [
        -(-side // axis.stride) if padding == SAME else (side - axis.extent) // axis.stride + 1
        for side, axis in zip(shape[1:3], axes, strict=True)
    ]


def pool(graph: LceGraph, op: Operation) -> None:
    """POOL."""
    p = op.params
    kind, channels = p[0], p[3]
    if p[12:14] != (1, 1):
        graph.refuse(f"pools no dilated windows (this one has {p[12]} x {p[13]})")
    axes = [Axis(p[1 + d], p[10 + d], p[4 + d], p[6 + d], p[8 + d]) for d in range(2)]
    x = graph.padded(
        graph.shaped(op.values[0], (1, *p[1:3], channels)), around(axes), -np.inf if kind == 0 else 0.0, np.float32
    )
    y = graph.file.add(
        "MAX_POOL_2D" if kind == 0 else "AVERAGE_POOL_2D",
        [x],
        (1, *windows(graph.file.shape(x), axes, VALID), channels),
        padding=VALID,
        stride_width=p[7],
        stride_height=p[6],
        filter_width=p[5],
        filter_height=p[4],
    )
    y = graph.cut(y, (0, 0, 0, 0), (1, *p[10:12], channels))
    if kind == 1:  # over what is inside the map alone
        counts = [inside(axis, size, 1).sum(1) for axis, size in zip(axes, p[4:6], strict=True)]
        y = graph.scaled(y, p[4] * p[5] / np.multiply.outer(*counts)[:, :, None], None)
    graph.tensors[op.values[1]] = y


def bit_pool(graph: LceGraph, op: Operation) -> None:
    """BITPOOL, as LceBMaxPool2d."""
    p = op.params
    if p[19:21] != (1, 1):
        graph.refuse(f"pools no dilated windows (this one has {p[19]} x {p[20]})")
    words = -(-p[2] // WORD)
    axes = [Axis(p[0 + d], p[9 + d], p[3 + d], p[5 + d], p[7 + d]) for d in range(2)]
    x = graph.shaped(op.values[0], (1, *p[:2], words))
    x = graph.padded(x, around(axes), -1, np.int32)
    y = graph.file.add(
        "LceBMaxPool2d",
        [x],
        (1, *windows(graph.file.shape(x), axes, VALID), words),
        np.int32,
        padding=VALID,
        stride_width=p[6],
        stride_height=p[5],
        filter_width=p[4],
        filter_height=p[3],
    )
    graph.tensors[op.values[1]] = graph.cut(y, (0, 0, 0, 0), (1, *p[9:11], words), np.int32)
