"""Normalisation, means, softmax, pooling and embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from bibench.deploy.build import ELSEWHERE, Builder, floats, numbers, only
from bibench.deploy.capture import Node, Ref
from bibench.deploy.format import Code, Type
from bibench.deploy.views import Buffer, View, contiguous

__all__ = ["FIRST_ALONE", "REDUCTIONS"]

FIRST_ALONE = frozenset(
    {
        "adaptive_max_pool2d",
        "cudnn_batch_norm",
        "max_pool2d_with_indices",
        "native_batch_norm",
        "native_group_norm",
        "native_layer_norm",
    }
)
"""Operations that return more than is exported: only their first result can be used."""


def _batch_norm(build: Builder, node: Node) -> None:
    given = node.arguments
    mean, variance = given["running_mean"], given["running_var"]
    if given.get("training") or mean is None or variance is None:
        build.refuse(
            "its batch normalisation uses the statistics of the batch, so that a sample's result depends on the others",
            "use track_running_stats=True",
        )
    view = build.view(given["input"])
    deviation = np.sqrt(numbers(variance) + given["eps"])
    factor = (np.ones_like(deviation) if given["weight"] is None else numbers(given["weight"])) / deviation
    shift = (np.zeros_like(factor) if given["bias"] is None else numbers(given["bias"])) - numbers(mean) * factor
    view = build.channelwise(view, 1)
    shape = (-1, *(1,) * (len(view.dims) - 2))
    build.values[only(node)] = build.affine(view, factor.reshape(shape), shift.reshape(shape))


def _layer_norm(build: Builder, node: Node) -> None:
    given = node.arguments
    view, count = build.view(given["input"]), len(given["normalized_shape"])
    dims = list(range(len(view.dims) - count, len(view.dims)))
    view = build.innermost(view, dims)
    constants = [None if given[name] is None else numbers(given[name]).reshape(-1) for name in ("weight", "bias")]
    size = math.prod(view.shape[d] for d in dims)
    out = Buffer(Type.FLOAT32, view.numel)
    build.emit(
        Code.LAYERNORM, [view.buffer, out], [view.numel // size, size], constants=constants, floats=[given["eps"]]
    )
    build.values[only(node)] = view.on(out)


def _group_norm(build: Builder, node: Node) -> None:
    given = node.arguments
    view, groups = build.view(given["input"]), given["group"]
    channels, space = view.shape[1], view.shape[2:]
    stored = build.arranged(view)
    size = view.numel // groups
    out = Buffer(Type.FLOAT32, view.numel)
    build.emit(Code.LAYERNORM, [stored.buffer, out], [groups, size], floats=[given["eps"]])
    normal = stored.on(out)
    shape = (channels, *(1,) * len(space))
    factor, shift = (
        np.full(shape, empty) if given[name] is None else numbers(given[name]).reshape(shape)
        for name, empty in (("weight", 1.0), ("bias", 0.0))
    )
    build.values[only(node)] = build.affine(build.channelwise(normal, 1), factor, shift)


def _softmax(build: Builder, node: Node) -> None:
    view = build.view(node.arguments["self"])
    dim = node.arguments["dim"] % max(len(view.dims), 1)
    view = build.innermost(view, [dim], ordered=False)
    out = Buffer(Type.FLOAT32, view.numel)
    size = view.shape[dim]
    build.emit(Code.SOFTMAX, [view.buffer, out], [view.numel // size, size])
    build.values[only(node)] = view.on(out)


def _mean(build: Builder, node: Node) -> None:
    view = build.view(node.arguments["self"])
    given = node.arguments.get("dim")
    dims = sorted({d % len(view.dims) for d in given}) if given else list(range(len(view.dims)))
    keep = bool(node.arguments.get("keepdim", False))
    if not given or (len(view.dims) > 1 and 0 in dims and view.shape[0] == 1 and len(build.graph.inputs[0].shape) > 0):
        build.refuse("its mean or sum goes over the batch", "reduce the other dimensions alone: such as x.flatten(1)")
    size = math.prod(view.shape[d] for d in dims)
    reduced = _averaged(build, view, dims, size)
    reduced = View(reduced.buffer, reduced.dims if keep else reduced.remove(*dims).dims, reduced.offset)
    if node.op == "sum":
        reduced = build.affine(reduced, np.full((), float(size)), np.zeros(()))
    build.values[only(node)] = reduced


def _averaged(build: Builder, view: View, dims: list[int], size: int) -> View:
    """The mean over dimensions, which get size 1."""
    if size == 1:
        return view
    count = view.numel // size
    out = Buffer(Type.FLOAT32, count)
    stored = view.stored_atoms()
    outer = stored[: sum(len(view.dims[d]) for d in dims)]
    if view.is_dense() and count > 1 and {d for d, _, _ in outer} <= set(dims):
        # Stored outside of the rest, as a map's positions are: an average pool over all of them.
        params = [2, size, 1, count, size, 1, 1, 1, 0, 0, 1, 1, 1, 1]
        build.emit(Code.POOL, [view.buffer, out], params)
    else:
        view = build.innermost(view, dims, ordered=False)
        build.emit(Code.MEAN, [view.buffer, out], [count, size])
    return View(out, view.without(dims))


def _pool(
    build: Builder,
    node: Node,
    kind: int,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> None:
    view, shape = build.view(node.arguments["self"]), build.shape(node)
    if len(shape) != 4 or shape[0] != 1:
        build.refuse(
            f"it pools a tensor of shape {view.shape} for one sample", "pool one map, with its batch dimension"
        )
    if kernel == stride == (1, 1) and not any(pads):
        build.values[only(node)] = view
        return
    stored = build.map(view)
    out = Buffer(Type.FLOAT32, math.prod(shape))
    params = [kind, *view.shape[2:], shape[1], *kernel, *stride, *pads, *shape[2:], *dilation]
    build.emit(Code.POOL, [stored.buffer, out], params)
    build.values[only(node)] = contiguous(out, shape, (0, 2, 3, 1))


def _pair(values: Any) -> tuple[int, int]:
    given = [values] if isinstance(values, int) else list(values)
    return (given[0], given[-1])


def _max_pool(build: Builder, node: Node) -> None:
    given = node.arguments
    kernel = _pair(given["kernel_size"])
    stride = _pair(given["stride"]) if given["stride"] else kernel
    _pool(build, node, 0, kernel, stride, _pair(given["padding"]), _pair(given["dilation"]))


def _avg_pool(build: Builder, node: Node) -> None:
    given = node.arguments
    kernel, pads = _pair(given["kernel_size"]), _pair(given["padding"])
    stride = _pair(given["stride"]) if given["stride"] else kernel
    if given["divisor_override"]:
        build.refuse("an average pool with divisor_override can't be exported", "leave divisor_override out")
    size, out = build.view(given["self"]).shape[-2:], build.shape(node)[-2:]
    inside = all((o - 1) * s + k <= n + 2 * p for o, s, k, n, p in zip(out, stride, kernel, size, pads, strict=True))
    if given["count_include_pad"] and any(pads) and not inside:
        build.refuse(
            "an average pool with ceil_mode that counts the padding can't be exported",
            "use count_include_pad=False or ceil_mode=False",
        )
    whole = given["count_include_pad"] and any(pads)
    _pool(build, node, 2 if whole else 1, kernel, stride, pads)


def _adaptive(build: Builder, node: Node) -> None:
    size, out = build.view(node.arguments["self"]).shape[-2:], build.shape(node)[-2:]
    if size[0] % out[0] or size[1] % out[1]:
        build.refuse(
            f"it pools {size[0]}x{size[1]} to {out[0]}x{out[1]}, windows of different sizes",
            "choose an output size that divides the input's",
        )
    kernel = (size[0] // out[0], size[1] // out[1])
    _pool(build, node, 0 if "max" in node.op else 1, kernel, kernel)


def _embedding(build: Builder, node: Node) -> None:
    table, indices = node.arguments["weight"], node.arguments["indices"]
    if not isinstance(table, Tensor) or not isinstance(indices, Ref):
        build.refuse("an embedding whose table is computed can't be exported", ELSEWHERE)
    view = build.view(indices)
    atoms = view.atoms()
    if len(atoms) > 1:
        view = build.arranged(view)
        atoms = view.atoms()
    stride = atoms[0][1] if atoms else 1
    rows, width = table.shape
    out = Buffer(Type.FLOAT32, view.numel * width)
    build.emit(
        Code.EMBED,
        [view.buffer, out],
        [view.numel, rows, width, view.offset, stride],
        constants=[floats(table)],
    )
    build.values[only(node)] = contiguous(out, (*view.shape, width))


REDUCTIONS: dict[str, Callable[[Builder, Node], None]] = {
    **dict.fromkeys(
        (
            "native_batch_norm",
            "cudnn_batch_norm",
            "miopen_batch_norm",
            "_native_batch_norm_legit_no_training",
            "_batch_norm_no_update",
        ),
        _batch_norm,
    ),
    **dict.fromkeys(("_softmax", "_safe_softmax"), _softmax),
    **dict.fromkeys(("mean", "sum"), _mean),
    **dict.fromkeys(("_adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
    "max_pool2d_with_indices": _max_pool,
    "avg_pool2d": _avg_pool,
    "embedding": _embedding,
}
