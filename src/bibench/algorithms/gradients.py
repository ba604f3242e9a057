"""Gradient rules: what stands for the derivative of the sign, which is zero almost everywhere.

A rule ("slope") is a function of the operand before binarization that returns the factor by which the incoming
gradient is multiplied. It never modifies that gradient in place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["Slope", "approx_ste", "closed_hard_ste", "hard_ste", "identity_ste", "surrogate"]

Slope = Callable[[Tensor], Tensor]


class _Surrogate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None


def surrogate(value: Tensor, x: Tensor, slope: Slope) -> Tensor:
    """Return ``value`` exactly, with ``d value / d x := slope(x)``.

    Args:
        value: the forward result, same shape as ``x``.
        x: what the gradient flows to.
        slope: the gradient rule; evaluated only when a gradient is asked for.

    >>> x = torch.tensor([0.5, 2.0], requires_grad=True)
    >>> surrogate(torch.ones(2), x, hard_ste).sum().backward()
    >>> x.grad
    tensor([1., 0.])
    """
    if torch.is_grad_enabled() and x.requires_grad:
        with torch.no_grad():
            factor = slope(x)
        result: Tensor = _Surrogate.apply(x, value, factor)
        return result
    return value


def hard_ste(x: Tensor) -> Tensor:
    """``1[|x| < 1]`` (BiBench, eq. 12; Courbariaux et al., 2016). Boolean: a byte an element is kept for backward."""
    return x.abs() < 1


def closed_hard_ste(x: Tensor) -> Tensor:
    """``1[|x| <= 1]`` (Partial pre-training, section 4.3)."""
    return x.abs() <= 1


def approx_ste(x: Tensor) -> Tensor:
    """``max(0, 2 - 2|x|)``: the derivative of Bi-Real's piecewise polynomial (BiBench, eq. 16; Liu et al., 2018)."""
    return (2 - 2 * x.abs()).clamp(min=0)


def identity_ste(x: Tensor) -> Tensor:
    """``1`` everywhere (Bengio et al., 2013)."""
    return torch.ones_like(x, dtype=torch.bool)
