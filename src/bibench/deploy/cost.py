"""What the operations of a packed program take, counted: arithmetic by unit, and bytes read and written.

A multiplication and an addition are two operations, as `bibench.native.peak` counts them. What a convolution does per
output after its sum (scales, residual, clamp, threshold) are float operations, one for each step that it has; a
transcendental function counts as one. Bytes are those of every operand, read once, and every result, written once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from bibench.deploy.format import Code, Operation, Program

__all__ = ["Cost", "Peaks", "costs", "limit"]


@dataclass(frozen=True)
class Cost:
    """What an operation takes for one sample.

    Args:
        binary, floats, int8: operations by the unit that does them.
        bytes: read and written.
    """

    binary: int = 0
    floats: int = 0
    int8: int = 0
    bytes: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Both together.

        >>> Cost(binary=1, bytes=2) + Cost(floats=3, bytes=4)
        Cost(binary=1, floats=3, int8=0, bytes=6)
        """
        return Cost(
            self.binary + other.binary, self.floats + other.floats, self.int8 + other.int8, self.bytes + other.bytes
        )


@dataclass(frozen=True)
class Peaks:
    """What one core does at most: operations a second by unit, and bytes a second copied; see `bibench.native.peak`."""

    binary: float
    floats: float
    int8: float
    copy: float


def limit(cost: Cost, peaks: Peaks, threads: int = 1) -> float:
    """The least seconds in which an operation could be done: ``max(operations / peak, bytes / copy)``, over threads.

    The operations of an operation's units follow each other, since they share a core. What lies in a cache is read
    faster than memory is copied, so a small operation may take less.

    >>> limit(Cost(binary=100, floats=10, bytes=8), Peaks(binary=100.0, floats=10.0, int8=1.0, copy=1.0))
    8.0
    """
    arithmetic = cost.binary / peaks.binary + cost.floats / peaks.floats + cost.int8 / peaks.int8
    return max(arithmetic, cost.bytes / peaks.copy) / threads


def costs(program: Program) -> list[Cost]:
    """What each operation of a program takes for one sample, in their order."""
    found = []
    for operation in program.operations:
        counted = _COUNTS[operation.code](operation)
        found.append(Cost(counted.binary, counted.floats, counted.int8, _bytes(operation, program)))
    return found


def _bytes(operation: Operation, program: Program) -> int:
    """Bytes of operands and results: whole buffers, save where an operation touches a part of one."""
    p = operation.params
    if operation.code is Code.COPY:
        return 2 * math.prod(p[:5]) * p[27]
    if operation.code is Code.EMBED:
        number, _, width = p[:3]
        return number * (8 + 2 * 4 * width)
    values = sum(program.values[index].bytes for index in operation.values if index >= 0)
    return values + sum(program.constants[index].bytes for index in operation.constants if index >= 0)


def _epilogue(operation: Operation) -> int:
    """Float operations of a convolution's outputs after their sums."""
    p = operation.params
    outputs = p[13] * p[14] * p[4]
    _, residual, position, _, bits, _ = operation.values
    _, scale, offset, _, _, constant_position, *_ = operation.constants
    steps = sum(index >= 0 for index in (max(position, constant_position), scale, offset, residual, bits))
    return outputs * (steps + (2 if p[21] else 0))  # a clamp is two comparisons; a slope, a comparison and a product


def _products(operation: Operation) -> int:
    """Multiplications and additions of a convolution."""
    p = operation.params
    return 2 * p[13] * p[14] * p[4] * p[5] * p[6] * (p[2] // max(p[3], 1))


def _elementwise(operation: Operation) -> Cost:
    return Cost(floats=math.prod(operation.params[1:6]))


_UNARY_OPERATIONS = {0: 2, 12: 2, 13: 2}


def _kmap(operation: Operation) -> Cost:
    p = operation.params
    magnitudes = 2 * p[0] * p[1] * p[2]
    return Cost(floats=magnitudes + p[13] * p[14] * p[3] * p[5] * p[6])


def _bmatmul(operation: Operation) -> Cost:
    b, m, k, n = operation.params[:4]
    return Cost(binary=2 * b * m * k * n, floats=b * m * n)


def _layernorm(operation: Operation) -> Cost:
    affine = sum(index >= 0 for index in operation.constants[:2])
    return Cost(floats=operation.params[0] * operation.params[1] * (5 + affine))


_COUNTS: Mapping[Code, Callable[[Operation], Cost]] = {
    Code.COPY: lambda operation: Cost(),
    Code.PACK: lambda operation: Cost(floats=math.prod(operation.params[:3])),
    Code.BCONV: lambda operation: Cost(binary=_products(operation), floats=_epilogue(operation)),
    Code.FCONV: lambda operation: Cost(floats=_products(operation) + _epilogue(operation)),
    Code.ICONV: lambda operation: Cost(int8=_products(operation), floats=_epilogue(operation)),
    Code.POOL: lambda operation: Cost(
        floats=operation.params[10] * operation.params[11] * math.prod(operation.params[3:6])
    ),
    Code.BITPOOL: lambda operation: Cost(
        binary=operation.params[9] * operation.params[10] * math.prod(operation.params[2:5])
    ),
    Code.KMAP: _kmap,
    Code.BINARY: _elementwise,
    Code.UNARY: lambda operation: Cost(floats=operation.params[1] * _UNARY_OPERATIONS.get(operation.params[0], 1)),
    Code.MATMUL: lambda operation: Cost(floats=2 * math.prod(operation.params[:4])),
    Code.BMATMUL: _bmatmul,
    Code.SOFTMAX: lambda operation: Cost(floats=5 * operation.params[0] * operation.params[1]),
    Code.LAYERNORM: _layernorm,
    Code.MEAN: lambda operation: Cost(floats=operation.params[0] * operation.params[1]),
    Code.EMBED: lambda operation: Cost(),
    Code.QUANTIZE: lambda operation: Cost(floats=4 * math.prod(operation.params[:3])),
}
