"""The geometry that float and binary products share: windows over maps, and columns as they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bibench.deploy.build import Builder, only
from bibench.deploy.capture import Node
from bibench.deploy.steps import Array
from bibench.deploy.views import Buffer, Dim, View, contiguous

__all__ = ["ADVICE", "Geometry", "columns_of", "keep_map", "of_tokens", "stored_columns", "two"]

ADVICE = "leave this layer out of the exported model, or replace it"


@dataclass(frozen=True)
class Geometry:
    """A convolution over a map, as the format has it.

    Args:
        size, out: height and width of input and output.
        kernel, stride, dilation: of the convolution.
        pads: padding at the top and at the left.
    """

    size: tuple[int, int]
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    pads: tuple[int, int] = (0, 0)
    out: tuple[int, int] = (1, 1)

    @property
    def padded(self) -> tuple[int, int]:
        """Height and width that hold the padded input and every window."""
        return (self._padded(0), self._padded(1))

    def _padded(self, d: int) -> int:
        window = (self.out[d] - 1) * self.stride[d] + (self.kernel[d] - 1) * self.dilation[d] + 1
        return max(self.pads[d] + self.size[d], window)

    def params(self, channels: int, groups: int, outputs: int) -> list[int]:
        """``p0`` to ``p14``."""
        return [
            *self.size,
            channels,
            groups,
            outputs,
            *self.kernel,
            *self.stride,
            *self.dilation,
            *self.pads,
            *self.out,
        ]


def two(values: Any, dims: int, empty: int = 1) -> tuple[int, int]:
    """Height and width of what is given for one or two dimensions; a single number is for each."""
    given = [int(value) for value in values]
    given = given * dims if len(given) == 1 else given
    return (empty, given[0]) if dims == 1 else (given[0], given[1])


def columns_of(view: View, dim: int) -> tuple[Dim, list[int]]:
    """A dimension's atoms, and their order in memory."""
    atoms = view.dims[dim]
    return atoms, sorted(range(len(atoms)), key=lambda i: -atoms[i][1])


def stored_columns(weight: Array, view: View, dim: int) -> Array:
    """A weight (O, K) with its columns in the order in which the view's dimension K lies in memory."""
    atoms, order = columns_of(view, dim)
    split = weight.reshape(weight.shape[0], *(size for size, _ in atoms))
    moved: Array = split.transpose(0, *(1 + i for i in order)).reshape(weight.shape)
    return moved


def keep_map(build: Builder, node: Node, out: Buffer, outputs: int, geometry: Geometry, dims: int) -> None:
    """Take a map [H][W][C] as the result, a tensor (1, C, H, W) or (1, C, W)."""
    view = contiguous(out, (1, outputs, *geometry.out), (0, 2, 3, 1))
    build.values[only(node)] = view if dims == 2 else view.remove(2)


def of_tokens(x: View, out: Buffer, outputs: int) -> View:
    """The result of a linear map over the last dimension, its positions stored as the input's are."""
    rows = x.without([len(x.dims) - 1])[:-1]
    last: Dim = ((outputs, 1),) if outputs > 1 else ()
    return View(out, (*(tuple((n, s * outputs) for n, s in dim) for dim in rows), last))
