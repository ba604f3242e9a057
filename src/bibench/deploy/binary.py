"""Binarized layers and products: packed operands, and what declares itself about scales and thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from bibench.deploy.build import Builder, numbers, only
from bibench.deploy.capture import Node
from bibench.deploy.deployed import channel_factor, declared_factors, declared_rule, declared_weight
from bibench.deploy.format import Code, Type, words
from bibench.deploy.geometry import ADVICE, Geometry, columns_of, keep_map, of_tokens, stored_columns, two
from bibench.deploy.steps import Array, Reader
from bibench.deploy.views import Buffer, View, contiguous
from bibench.nn.layers import BinaryLayer, BinaryMatmul

__all__ = ["binary"]

_SMALL_MAP = 32


@dataclass(frozen=True)
class _Operand:
    """A binary layer's input as a map."""

    source: Buffer
    geometry: Geometry
    channels: int
    groups: int
    weight: Array
    threshold: Array
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    repeat: int = 1


def _pack(
    build: Builder,
    source: Buffer,
    size: tuple[int, int],
    channels: int,
    groups: int,
    threshold: Array,
    pads: tuple[int, int],
    padded: tuple[int, int],
) -> Buffer:
    bits = Buffer(Type.BITS, math.prod(padded) * words(channels, groups))
    plain = not threshold.any() and not np.signbit(threshold).any()
    build.emit(
        Code.PACK,
        [source, bits],
        [*size, channels, groups, *pads, *padded],
        constants=[None if plain else threshold],
    )
    return bits


def binary(build: Builder, node: Node) -> None:
    layer = node.function
    if isinstance(layer, BinaryMatmul):
        _binary_matmul(build, node, layer)
        return
    assert isinstance(layer, BinaryLayer)
    name, spec = node.module, layer.spec
    argument = node.arguments["input"]
    view, result = build.view(argument), build.graph.shapes[only(node)]
    if layer.weight.dtype.itemsize != 4:
        build.refuse(f"its weight has dtype {layer.weight.dtype}", "export a float32 model: model.float()")
    if spec.dims > 2:
        build.refuse(f"convolutions over {spec.dims} dimensions can't be exported", ADVICE)
    if spec.padding_mode != "zeros" and any(spec.pads):
        build.refuse(
            f"padding mode {spec.padding_mode!r} can't be exported for a binarized layer",
            'use padding_mode="zeros" with a padding_value of -1, 0 or 1, or leave the layer in full precision',
        )
    if spec.dims and (view.shape[0] != 1 or len(view.shape) != spec.dims + 2):
        build.refuse(
            f"it gets an input of shape {view.shape} for one sample, expected one map", "fold nothing into the batch"
        )
    shape = (1, spec.in_features, *(1,) * spec.dims)
    rule = declared_rule(name, layer.activation_rule, spec.in_features, shape)
    weight = declared_weight(name, layer)
    factors = declared_factors(name, layer, view.shape, result)
    take = _linear_operand if spec.dims == 0 else _map_operand
    operand = take(build, view, weight, rule.threshold, spec, result)
    geometry, groups, outputs = operand.geometry, operand.groups, spec.out_features
    bits = _pack(
        build,
        operand.source,
        geometry.size,
        operand.channels,
        groups,
        operand.threshold,
        geometry.pads,
        geometry.padded,
    )
    base = geometry.params(operand.channels, groups, outputs)
    position, positions, maps = None, None, 0
    if factors.positions is not None:
        positions, maps = numbers(factors.positions).reshape(-1), 1
    if factors.activation is not None:
        position, maps = _magnitude(build, operand, factors.activation, abs(spec.padding_value), outputs)
        if positions is not None:
            build.refuse("its scale has both constant positions and a factor of each input", ADVICE)
    out = Buffer(Type.FLOAT32, math.prod(geometry.out) * outputs)
    factor = channel_factor(factors, outputs) * rule.amplitude
    bias = None if layer.bias is None else numbers(layer.bias)
    params = [*base, *geometry.pads, *geometry.padded, spec.padding_value, rule.operand, 0, 0, 0, *geometry.out]
    constants = [operand.weight, None if (factor == 1).all() else factor, bias]
    step = build.emit(
        Code.BCONV,
        [bits, None, position, out],
        [*params, maps],
        constants=[*constants, None, None, positions],
    )
    step.readers[0] = Reader(
        name, _calls(build, node), "input", operand.shape, operand.axes, operand.repeat, operand.threshold
    )
    if spec.dims:
        keep_map(build, node, out, outputs, geometry, spec.dims)
    elif math.prod(geometry.out) == 1:
        build.values[only(node)] = contiguous(out, result)
    else:
        build.values[only(node)] = of_tokens(build.innermost(view, [len(view.dims) - 1]), out, outputs)


def _calls(build: Builder, node: Node) -> int:
    return sum(other.function is node.function for other in build.graph.nodes[: build.graph.nodes.index(node)])


def _map_operand(
    build: Builder, view: View, weight: Array, threshold: Array, spec: Any, result: tuple[int, ...]
) -> _Operand:
    dims, groups, channels = spec.dims, spec.groups, spec.in_features
    wide = view if dims == 2 else view.insert(2)
    geometry = Geometry(
        size=two(view.shape[2:], dims),
        kernel=two(spec.weight_shape[2:], dims),
        stride=two(spec.stride, dims),
        dilation=two(spec.dilation, dims),
        pads=(spec.pads[2], spec.pads[0]) if dims == 2 else (0, spec.pads[0]),
        out=two(result[2:], dims),
    )
    repeat = spec.out_features // groups if groups == channels and groups > 1 else 1
    shape, axes = (channels, *geometry.size), (1, 2, 0)
    if repeat > 1:
        # A depthwise product has as many outputs as channels: repeat each channel for each of its outputs.
        size = wide.shape
        many = wide.insert(2).expand((1, channels, repeat, *size[2:]))
        stored = build.arranged(many, (0, 3, 4, 1, 2)).buffer
        channels, groups, threshold = channels * repeat, groups * repeat, np.repeat(threshold, repeat)
    else:
        stored = build.map(wide).buffer
    kernel = weight.reshape(*weight.shape[:2], *geometry.kernel).transpose(0, 2, 3, 1)
    return _Operand(stored, geometry, channels, groups, kernel, threshold, shape, axes, repeat)


def _linear_operand(
    build: Builder, view: View, weight: Array, threshold: Array, spec: Any, result: tuple[int, ...]
) -> _Operand:
    last = len(view.dims) - 1
    view = build.innermost(view, [last], ordered=view.numel > spec.in_features)
    outputs, features = weight.shape
    tokens = view.numel // features
    atoms, order = columns_of(view, last)
    if tokens > 1 or len(atoms) < 2:
        geometry = Geometry(size=(tokens, 1), out=(tokens, 1))
        # The positions are compared in the order in which they are stored.
        stored = [(d, i) for d, i, _ in view.stored_atoms() if d != last]
        places = [(d, i) for d, dim in enumerate(view.dims) for i in range(len(dim)) if d != last]
        shape = (*(view.dims[d][i][0] for d, i in places), features)
        axes = (*(places.index(place) for place in stored), len(places))
        return _Operand(
            view.buffer, geometry, features, 1, weight.reshape(outputs, 1, 1, features), threshold, shape, axes
        )
    sizes = tuple(size for size, _ in atoms)
    stored_weight = stored_columns(weight, view, last)
    channels = sizes[order[-1]]
    if channels >= _SMALL_MAP and (threshold == threshold[0]).all():
        # A flattened map stays one, so that the bits can come from what computes it: its whole is the window.
        positions = features // channels
        geometry = Geometry(size=(positions, 1), kernel=(positions, 1))
        kernel = stored_weight.reshape(outputs, positions, 1, channels)
        return _Operand(view.buffer, geometry, channels, 1, kernel, threshold[:channels], sizes, tuple(order))
    geometry = Geometry(size=(1, 1))
    moved = stored_columns(threshold.reshape(1, -1), view, last).reshape(-1)
    kernel = stored_weight.reshape(outputs, 1, 1, features)
    return _Operand(view.buffer, geometry, features, 1, kernel, moved, sizes, tuple(order))


def _magnitude(build: Builder, operand: _Operand, kind: str, outside: int, outputs: int) -> tuple[Buffer, int]:
    """KMAP, and how many maps it has for the position map of the convolution."""
    geometry, groups, maps = operand.geometry, operand.groups, 0
    if kind == "sample":
        geometry, groups, maps, outside = Geometry(size=geometry.size, kernel=geometry.size), 1, -1, 0
    maps = maps or groups
    out = Buffer(Type.FLOAT32, math.prod(geometry.out) * groups)
    params = [*geometry.params(operand.channels, groups, outputs), outside]
    build.emit(Code.KMAP, [operand.source, out], params)
    return out, maps


def _binary_matmul(build: Builder, node: Node, layer: BinaryMatmul) -> None:
    a, b = build.view(node.arguments["a"]), build.view(node.arguments["b"])
    result = build.graph.shapes[only(node)]
    if len(a.dims) < 2 or len(b.dims) < 2:
        build.refuse(f"it multiplies shapes {a.shape} and {b.shape}", "give it matrices of two dimensions or more")
    rows, inner = a.shape[-2:]
    lead = result[:-2]
    factor = 1.0
    packed: list[Buffer] = []
    operands: list[int] = []
    found: list[Reader] = []
    for side, rule, view in (("left", layer.left_rule, a), ("right", layer.right_rule, b)):
        features = view.shape[-1]
        declared = declared_rule(node.module, rule, features, (1, features))
        factor *= declared.amplitude
        operands.append(declared.operand)
        view = view.expand((*lead, *view.shape[-2:]))
        dims, threshold, axes = len(view.dims), declared.threshold, list(range(len(view.dims)))
        if side == "right" and not layer.transpose_right:
            if not (threshold == threshold[0]).all():
                # One threshold a column, and the packed pixels are columns: compare what is left with 0 instead.
                shifted = threshold.astype(np.float64).reshape((1,) * (dims - 1) + (-1,))
                view = build.arithmetic("sub", view, shifted)
                threshold = np.zeros_like(threshold)
            axes[-2:] = axes[:-3:-1]
        threshold = np.full(inner, threshold[0], np.float32) if axes[-1] != dims - 1 else threshold
        stored = build.arranged(view, axes).buffer
        pixels = view.numel // inner
        packed.append(_pack(build, stored, (pixels, 1), inner, 1, threshold, (0, 0), (pixels, 1)))
        found.append(Reader(node.module, _calls(build, node), side, view.shape, tuple(axes), 1, threshold))
    out = Buffer(Type.FLOAT32, math.prod(result))
    params = [math.prod(lead), rows, inner, result[-1], *operands]
    step = build.emit(Code.BMATMUL, [*packed, out], params, floats=[factor])
    step.readers.update(enumerate(found))
    build.values[only(node)] = contiguous(out, result)
