"""Operations on each element: activations and arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from bibench.deploy.build import ARITHMETIC, ELSEWHERE, Builder, numbers, only
from bibench.deploy.capture import Node, Ref
from bibench.deploy.views import View

__all__ = ["ELEMENTWISE"]


def _clamp(build: Builder, node: Node) -> None:
    given = node.arguments
    low, high = given.get("min", given.get("min_val")), given.get("max", given.get("max_val"))
    if node.op in ("relu", "relu6"):
        low, high = 0, None if node.op == "relu" else 6
    if any(isinstance(bound, (Tensor, Ref)) for bound in (low, high)):
        build.refuse("a clamp whose bounds are tensors can't be exported", "use numbers, or maximum and minimum")
    floats = (-math.inf if low is None else float(low), math.inf if high is None else float(high))
    build.values[only(node)] = build.unary(0, build.view(given["self"]), floats=floats)


_UNARY = {
    "sigmoid": 3,
    "tanh": 4,
    "silu": 5,
    "exp": 6,
    "sqrt": 7,
    "abs": 8,
    "hardswish": 10,
    "hardsigmoid": 11,
}


def _unary(build: Builder, node: Node) -> None:
    build.values[only(node)] = build.unary(_UNARY[node.op], build.view(node.arguments["self"]))


def _gelu(build: Builder, node: Node) -> None:
    kind = 2 if node.arguments["approximate"] == "tanh" else 1
    build.values[only(node)] = build.unary(kind, build.view(node.arguments["self"]))


def _leaky_relu(build: Builder, node: Node) -> None:
    slope = float(node.arguments["negative_slope"])
    build.values[only(node)] = build.unary(9, build.view(node.arguments["self"]), floats=(slope,))


def _prelu(build: Builder, node: Node) -> None:
    view, weight = build.view(node.arguments["self"]), node.arguments["weight"]
    if not isinstance(weight, Tensor):
        build.refuse("a PReLU whose slope is computed can't be exported", ELSEWHERE)
    if len(view.dims) > 1 and weight.numel() > 1:
        view = build.channelwise(view, 1)
    view = build.dense(view)
    slope = build.per_channel(numbers(weight), view)
    if slope is None:
        build.refuse(f"a PReLU with slopes of shape {tuple(weight.shape)} can't be exported", "one slope a channel")
    build.values[only(node)] = build.unary(12, view, constants=[slope])


def _neg(build: Builder, node: Node) -> None:
    build.values[only(node)] = build.affine(build.view(node.arguments["self"]), np.full((), -1.0), np.zeros(()))


def _reciprocal(build: Builder, node: Node) -> None:
    build.values[only(node)] = build.arithmetic("div", build.view(1.0), build.view(node.arguments["self"]))


def _square(build: Builder, node: Node) -> None:
    view = build.view(node.arguments["self"])
    exponent = node.arguments.get("exponent", 2)
    if exponent == 0.5:
        build.values[only(node)] = build.unary(7, view)
    elif exponent == 2:
        build.values[only(node)] = build.arithmetic("mul", view, view)
    else:
        build.refuse(f"the power {exponent} can't be exported", "use the powers 2 and 0.5")


def _arithmetic(build: Builder, node: Node) -> None:
    given = node.arguments
    kind, a, b = node.op, given["self"], given["other"]
    if kind == "rsub":
        kind, a, b = "sub", b, a
    if kind == "div" and given.get("rounding_mode"):
        build.refuse(f"division with rounding_mode={given['rounding_mode']!r} can't be exported", "divide exactly")
    alpha = float(given.get("alpha", 1) or 1)
    build.values[only(node)] = _combined(build, kind, a, b, alpha if node.op != "rsub" else 1.0)
    if node.op == "rsub" and alpha != 1:
        build.refuse("rsub with alpha can't be exported", "multiply apart from it")


def _combined(build: Builder, kind: str, a: Any, b: Any, alpha: float) -> View:
    if isinstance(a, Ref) and isinstance(b, Ref):
        right = build.view(b)
        if alpha != 1:
            right = build.affine(right, np.full((), alpha), np.zeros(()))
        return build.arithmetic(kind, build.view(a), right)
    if isinstance(a, Ref):
        view, constant = build.view(a), numbers(b) * alpha
        if constant.ndim > len(view.dims) or np.broadcast_shapes(view.shape, constant.shape) != view.shape:
            return build.arithmetic(kind, view, constant)
        one, none = np.ones(()), np.zeros(())
        if kind == "add":
            return build.affine(view, one, constant)
        if kind == "sub":
            return build.affine(view, one, -constant)
        if kind == "mul":
            return build.affine(view, constant, none)
        if (
            kind == "div"
            and constant.size == 1
            and constant
            and math.frexp(abs(float(constant.reshape(-1)[0])))[0] == 0.5
        ):
            return build.affine(view, 1 / constant, none)  # by a power of two: exact
        return build.arithmetic(kind, view, constant)
    view, constant = build.view(b), numbers(a)
    if kind in ("add", "mul"):
        return _combined(build, kind, b, a, 1.0) if alpha == 1 else build.affine(view, np.full((), alpha), constant)
    if kind in ("maximum", "minimum"):
        return build.arithmetic(kind, view, constant)
    if kind == "sub":
        negative = build.affine(view, np.full((), -alpha), np.zeros(()))
        return (
            build.arithmetic("add", negative, constant)
            if constant.size > 1
            else build.affine(view, np.full((), -alpha), constant)
        )
    return build.arithmetic(kind, build.view(a), view)


ELEMENTWISE: dict[str, Callable[[Builder, Node], None]] = {
    **dict.fromkeys(("relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max"), _clamp),
    **dict.fromkeys(_UNARY, _unary),
    **dict.fromkeys((*ARITHMETIC, "rsub"), _arithmetic),
    **dict.fromkeys(("pow", "square"), _square),
    "gelu": _gelu,
    "leaky_relu": _leaky_relu,
    "_prelu_kernel": _prelu,
    "neg": _neg,
    "reciprocal": _reciprocal,
}
