"""Convolutions, linear maps and matrix products of floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from bibench.deploy.binary import binary
from bibench.deploy.build import Builder, floats, numbers, only
from bibench.deploy.capture import Node, Ref
from bibench.deploy.format import Code, Type
from bibench.deploy.geometry import ADVICE, Geometry, keep_map, of_tokens, stored_columns, two
from bibench.deploy.steps import Array
from bibench.deploy.views import Buffer, View, contiguous

__all__ = ["PRODUCTS"]


def _float_map(
    build: Builder, weight: Array, bias: Array | None, geometry: Geometry, groups: int, stored: Buffer
) -> Buffer:
    """FCONV; the weight is ``[O][KH][KW][C/G]``."""
    outputs, channels = weight.shape[0], weight.shape[3] * groups
    out = Buffer(Type.FLOAT32, math.prod(geometry.out) * outputs)
    params = [*geometry.params(channels, groups, outputs), *geometry.pads, *geometry.padded]
    params += [0, 0, 0, 0, 0, *geometry.out, 0]
    build.emit(Code.FCONV, [stored, None, None, out], params, constants=[weight, None, bias])
    return out


def _convolution(build: Builder, node: Node) -> None:
    arguments = node.arguments
    view, weight = build.view(arguments["input"]), arguments["weight"]
    dims = len(view.shape) - 2
    if not isinstance(weight, Tensor):
        build.refuse("its convolution's weight is computed from the input", ADVICE)
    if arguments["transposed"]:
        build.refuse("transposed convolutions can't be exported", ADVICE)
    if dims not in (1, 2):
        build.refuse(f"convolutions over {dims} dimensions can't be exported", ADVICE)
    if view.shape[0] != 1:
        build.refuse(
            f"its convolution gets {view.shape[0]} maps for one sample", "fold no other dimension into the batch"
        )
    outputs = build.graph.shapes[node.outputs[0]] if node.outputs[0] is not None else ()
    geometry = Geometry(
        size=two(view.shape[2:], dims),
        kernel=two(weight.shape[2:], dims),
        stride=two(arguments["stride"], dims),
        dilation=two(arguments["dilation"], dims),
        pads=two(arguments["padding"], dims, empty=0),
        out=two(outputs[2:], dims),
    )
    wide = view if dims == 2 else view.insert(2)
    after = tuple(
        (pad, full - pad - size) for pad, full, size in zip(geometry.pads, geometry.padded, geometry.size, strict=True)
    )
    stored = build.map(wide, after).buffer
    kernel = floats(weight).reshape(*weight.shape[:2], *geometry.kernel).transpose(0, 2, 3, 1)
    bias = None if arguments["bias"] is None else numbers(arguments["bias"])
    out = _float_map(build, kernel, bias, geometry, int(arguments["groups"]), stored)
    keep_map(build, node, out, weight.shape[0], geometry, dims)


def _linear(build: Builder, x: View, weight: Tensor, bias: Any) -> View:
    """``x · weightᵀ + bias`` over the last dimension, a 1x1 convolution over the others' positions."""
    last = len(x.dims) - 1
    x = build.innermost(x, [last], ordered=False)
    stored = stored_columns(floats(weight), x, last)
    outputs, features = stored.shape
    tokens = x.numel // features
    geometry = Geometry(size=(tokens, 1), out=(tokens, 1))
    shift = None if bias is None else np.broadcast_to(numbers(bias).reshape(-1), (outputs,)).copy()
    out = _float_map(build, stored.reshape(outputs, 1, 1, features), shift, geometry, 1, x.buffer)
    return of_tokens(x, out, outputs)


def _matrix_product(build: Builder, a: Any, b: Any, bias: Any = None) -> View:
    if isinstance(a, Ref) and isinstance(b, Tensor) and (bias is None or isinstance(bias, Tensor)):
        if bias is None or bias.numel() in (1, b.shape[1]):
            return _linear(build, build.view(a), b.t(), bias)
        return build.arithmetic("add", _linear(build, build.view(a), b.t(), None), numbers(bias))
    one = _batched(build, build.view(a).insert(0), build.view(b).insert(0)).remove(0)
    if bias is None:
        return one
    return build.arithmetic("add", one, build.view(bias) if isinstance(bias, Ref) else numbers(bias))


def _batched(build: Builder, a: View, b: View) -> View:
    batch, rows, inner = a.shape
    columns = b.shape[2]
    left = build.arranged(a)
    transposed = not b.is_stored() and sum(s for _, s in b.dims[1][-1:]) < sum(s for _, s in b.dims[2][-1:])
    right = build.arranged(b, (0, 2, 1) if transposed else None)
    out = Buffer(Type.FLOAT32, batch * rows * columns)
    build.emit(Code.MATMUL, [left.buffer, right.buffer, out], [batch, rows, inner, columns, int(transposed)])
    return contiguous(out, (batch, rows, columns))


def _addmm(build: Builder, node: Node) -> None:
    given = node.arguments
    if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        build.refuse("addmm with factors (alpha, beta) can't be exported", "multiply apart from it")
    build.values[only(node)] = _matrix_product(build, given["mat1"], given["mat2"], given["self"])


def _mm(build: Builder, node: Node) -> None:
    build.values[only(node)] = _matrix_product(build, node.arguments["self"], node.arguments["mat2"])


def _functional_linear(build: Builder, node: Node) -> None:
    given = node.arguments
    if not isinstance(given["weight"], Tensor):
        build.refuse("its linear map's weight is computed from the input", "use torch.matmul")
    build.values[only(node)] = _linear(build, build.view(given["input"]), given["weight"], given["bias"])


def _bmm(build: Builder, node: Node) -> None:
    a, b = node.arguments["self"], node.arguments["mat2"]
    if isinstance(b, Tensor) and b.shape[0] == 1:
        build.values[only(node)] = _linear(build, build.view(a), b[0].t(), None)
    else:
        build.values[only(node)] = _batched(build, build.view(a), build.view(b))


def _baddbmm(build: Builder, node: Node) -> None:
    given = node.arguments
    if given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        build.refuse("baddbmm with factors (alpha, beta) can't be exported", "multiply apart from it")
    product = _batched(build, build.view(given["batch1"]), build.view(given["batch2"]))
    added = given["self"]
    other = build.view(added) if isinstance(added, Ref) else numbers(added)
    build.values[only(node)] = build.arithmetic("add", product, other)


PRODUCTS: dict[str, Callable[[Builder, Node], None]] = {
    "convolution": _convolution,
    "addmm": _addmm,
    "mm": _mm,
    "linear": _functional_linear,
    "bmm": _bmm,
    "baddbmm": _baddbmm,
    "binary": binary,
}
