"""Operations that only arrange elements anew: most cost nothing, the others a copy."""

from __future__ import annotations

import math
from collections.abc import Callable

from bibench.deploy.build import Builder, only
from bibench.deploy.capture import Node, Ref
from bibench.deploy.views import Buffer, View, contiguous

__all__ = ["ARRANGEMENTS", "SAME"]

SAME = frozenset({"alias", "clone", "contiguous", "detach", "dropout", "feature_dropout", "lift_fresh", "_to_copy"})
"""Operations whose result has the elements of their input."""


def _same(build: Builder, node: Node) -> None:
    given = next(iter(node.arguments.values()))
    out = only(node)
    if build.graph.dtypes[out] != build.graph.dtypes[given.value]:
        build.refuse(
            f"it converts {build.graph.dtypes[given.value]} to {build.graph.dtypes[out]}", "export a float32 model"
        )
    view = build.view(given)
    build.values[out] = view


def _reshape(build: Builder, node: Node) -> None:
    view, shape = build.view(node.arguments["self"]), build.shape(node)
    reshaped = view.reshape(shape)
    if reshaped is None:
        reshaped = build.arranged(view).reshape(shape)
    assert reshaped is not None
    build.values[only(node)] = reshaped


def _permute(build: Builder, node: Node) -> None:
    view = build.view(node.arguments["self"])
    dims = len(view.dims)
    if node.op == "permute":
        order = [d % dims for d in node.arguments["dims"]]
    else:
        one, other = (1, 0) if node.op == "t" else (node.arguments["dim0"], node.arguments["dim1"])
        order = list(range(dims))
        if dims:
            one, other = one % dims, other % dims
            order[one], order[other] = order[other], order[one]
    build.values[only(node)] = view.permute(order)


def _expand(build: Builder, node: Node) -> None:
    build.values[only(node)] = build.view(node.arguments["self"]).expand(build.shape(node))


def _repeat(build: Builder, node: Node) -> None:
    view, repeats = build.view(node.arguments["self"]), list(node.arguments["repeats"])
    for _ in range(len(repeats) - len(view.dims)):
        view = view.insert(0)
    sizes = [size for pair in zip(repeats, view.shape, strict=True) for size in pair]
    for d in reversed(range(len(repeats))):
        view = view.insert(d)
    wide = view.expand(sizes).reshape(build.shape(node))
    assert wide is not None
    build.values[only(node)] = wide


def _unsqueeze(build: Builder, node: Node) -> None:
    view, dim = build.view(node.arguments["self"]), node.arguments["dim"]
    build.values[only(node)] = view.insert(dim % (len(view.dims) + 1))


def _select(build: Builder, node: Node) -> None:
    view = build.view(node.arguments["self"])
    dim = node.arguments["dim"] % len(view.dims)
    build.values[only(node)] = view.select(dim, node.arguments["index"] % view.shape[dim])


def _part(build: Builder, view: View, dim: int, start: int, length: int, step: int = 1) -> View:
    part = view.slice(dim, start, length, step)
    if part is None:
        part = build.arranged(view).slice(dim, start, length, step)
    assert part is not None
    return part


def _slice(build: Builder, node: Node) -> None:
    view, given = build.view(node.arguments["self"]), node.arguments
    dim = given["dim"] % len(view.dims)
    start, _, step = slice(given["start"], given["end"], given["step"]).indices(view.shape[dim])
    build.values[only(node)] = _part(build, view, dim, start, build.shape(node)[dim], step)


def _split(build: Builder, node: Node) -> None:
    view = build.view(node.arguments["self"])
    dim, start = node.arguments["dim"] % len(view.dims), 0
    for output in node.outputs:
        assert output is not None
        length = build.graph.shapes[output][dim]
        build.values[output] = _part(build, view, dim, start, length)
        start += length


def _unbind(build: Builder, node: Node) -> None:
    view = build.view(node.arguments["self"])
    for index, output in enumerate(node.outputs):
        assert output is not None
        build.values[output] = view.select(node.arguments["dim"] % len(view.dims), index)


def _cat(build: Builder, node: Node) -> None:
    given = [entry for entry in node.arguments["tensors"] if isinstance(entry, Ref) or entry.numel()]
    views, shape = [build.view(entry) for entry in given], build.shape(node)
    dim = node.arguments["dim"] % len(shape)
    if node.op == "stack":
        views = [view.insert(dim) for view in views]
    order = (0, 2, 3, 1) if len(shape) == 4 else tuple(range(len(shape)))
    out = Buffer(views[0].buffer.type, math.prod(shape))
    strides, stride = [0] * len(shape), 1
    for d in reversed(order):
        strides[d] = stride
        stride *= shape[d]
    at = 0
    for view in views:
        build.place(view, out, at * strides[dim], strides)
        at += view.shape[dim]
    build.values[only(node)] = contiguous(out, shape, order)


def _pad(build: Builder, node: Node) -> None:
    view, pad = build.view(node.arguments["self"]), node.arguments["pad"]
    if node.arguments["value"] != 0:
        build.refuse(f"it pads with {node.arguments['value']}", "pad with 0")
    pads = [(0, 0)] * len(view.dims)
    for i in range(len(pad) // 2):
        low, high = pad[2 * i], pad[2 * i + 1]
        dim = len(view.dims) - 1 - i
        if low < 0 or high < 0:
            size = view.shape[dim] + min(low, 0) + min(high, 0)
            view = _part(build, view, dim, max(-low, 0), size)
        pads[dim] = (max(low, 0), max(high, 0))
    order = (0, 2, 3, 1) if len(view.dims) == 4 else None
    build.values[only(node)] = build.arranged(view, order, tuple(pads))


def _upsample(build: Builder, node: Node) -> None:
    view, shape = build.view(node.arguments["self"]), build.shape(node)
    _, channels, height, width = view.shape
    if shape[2] % height or shape[3] % width:
        build.refuse("upsampling by a factor that isn't whole can't be exported", "use a whole scale_factor")
    wide = view.insert(3).insert(5).expand((1, channels, height, shape[2] // height, width, shape[3] // width))
    reshaped = wide.reshape(shape)
    assert reshaped is not None
    build.values[only(node)] = reshaped


def _pixel_shuffle(build: Builder, node: Node) -> None:
    view, factor = build.view(node.arguments["self"]), node.arguments["upscale_factor"]
    _, channels, height, width = view.shape
    split = view.reshape((1, channels // factor**2, factor, factor, height, width))
    assert split is not None
    moved = split.permute((0, 1, 4, 2, 5, 3)).reshape(build.shape(node))
    assert moved is not None
    build.values[only(node)] = moved


def _channel_shuffle(build: Builder, node: Node) -> None:
    view, groups = build.view(node.arguments["self"]), node.arguments["groups"]
    _, channels, *space = view.shape
    split = view.reshape((1, groups, channels // groups, *space))
    assert split is not None
    moved = split.permute((0, 2, 1, *range(3, 3 + len(space)))).reshape(view.shape)
    assert moved is not None
    build.values[only(node)] = moved


ARRANGEMENTS: dict[str, Callable[[Builder, Node], None]] = {
    **dict.fromkeys(SAME, _same),
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "_reshape_alias", "squeeze"), _reshape),
    **dict.fromkeys(("permute", "transpose", "t"), _permute),
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split"), _split),
    **dict.fromkeys(("cat", "stack"), _cat),
    "expand": _expand,
    "repeat": _repeat,
    "unsqueeze": _unsqueeze,
    "select": _select,
    "slice": _slice,
    "unbind": _unbind,
    "constant_pad_nd": _pad,
    "upsample_nearest2d": _upsample,
    "pixel_shuffle": _pixel_shuffle,
    "channel_shuffle": _channel_shuffle,
}
