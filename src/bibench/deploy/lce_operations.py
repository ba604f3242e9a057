"""What each of a program's operations becomes in a file of Larq Compute Engine."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bibench.deploy.format import Code, Operation
from bibench.deploy.lce_convolutions import binary_convolution, float_convolution, magnitudes
from bibench.deploy.lce_copies import binary_operator, copy, strided
from bibench.deploy.lce_graph import LceGraph
from bibench.deploy.lce_windows import bit_pool, pool

__all__ = ["OPERATIONS"]


def _unary(graph: LceGraph, op: Operation) -> None:
    kind, count, channels = op.params[:3]
    x = graph.rows(op.values[0], count, max(channels, 1))
    shape = graph.file.shape(x)
    if kind == 0:
        y = graph.clamped(x, *op.floats[:2])
    elif kind in (1, 2):
        y = graph.file.add("GELU", [x], shape, approximate=kind == 2)
    elif kind == 5:
        y = graph.file.add("MUL", [x, graph.file.add("LOGISTIC", [x], shape)], shape)
    elif kind == 9:
        y = graph.file.add("LEAKY_RELU", [x], shape, alpha=op.floats[0])
    elif kind == 11:
        raised = graph.clamped(graph.scaled(x, None, np.array([3.0])), 0.0, 6.0)
        y = graph.scaled(raised, np.array([1 / 6]), None)
    elif kind == 12:
        y = graph.prelu(x, graph.constant(op.constants[0]))
    elif kind == 13:
        y = graph.scaled(x, *(graph.constant(index) for index in op.constants[:2]))
    else:
        names = {3: "LOGISTIC", 4: "TANH", 6: "EXP", 7: "SQRT", 8: "ABS", 10: "HARD_SWISH"}
        y = graph.file.add(names[kind], [x], shape)
    graph.tensors[op.values[1]] = y


def _pack(graph: LceGraph, op: Operation) -> None:
    height, width, channels = op.params[:3]
    x = graph.shaped(op.values[0], (1, height, width, channels))
    graph.tensors[op.values[1]] = graph.quantized(x, graph.constant(op.constants[0]))


def _matrix_product(graph: LceGraph, op: Operation) -> None:
    batch, rows, inner, columns, transposed = op.params[:5]
    left = graph.shaped(op.values[0], (batch, rows, inner))
    right = graph.shaped(op.values[1], (batch, columns, inner) if transposed else (batch, inner, columns))
    graph.tensors[op.values[2]] = graph.file.add(
        "BATCH_MATMUL", [left, right], (batch, rows, columns), adj_y=bool(transposed)
    )


def _binary_product(graph: LceGraph, op: Operation) -> None:
    """A product of packed operands as one of floats, -1 and 1 or 0 and 1, whose sums are the same integers."""
    batch, rows, inner, columns, *halves = op.params[:6]
    half = np.array([0.5])
    operands = []
    for index, size, zeros in zip(op.values[:2], (rows, columns), halves, strict=True):
        signs = graph.file.add("LceDequantize", [graph.tensors[index]], (1, batch * size, 1, inner))
        x = graph.scaled(signs, half, half) if zeros else signs
        operands.append(graph.reshaped(x, (batch, size, inner)))
    y = graph.file.add("BATCH_MATMUL", operands, (batch, rows, columns), adj_y=True)
    graph.tensors[op.values[2]] = graph.scaled(y, np.array([op.floats[0]]), None)


def _softmax(graph: LceGraph, op: Operation) -> None:
    shape = op.params[:2]
    graph.tensors[op.values[1]] = graph.file.add("SOFTMAX", [graph.shaped(op.values[0], shape)], shape, beta=1.0)


def _layer_norm(graph: LceGraph, op: Operation) -> None:
    shape = op.params[:2]
    single, last = (shape[0], 1), graph.file.numbers(1)
    x = graph.shaped(op.values[0], shape)
    mean = graph.file.add("MEAN", [x, last], single, keep_dims=True)
    squares = graph.file.add("SQUARED_DIFFERENCE", [x, mean], shape)
    variance = graph.file.add("MEAN", [squares, last], single, keep_dims=True)
    inverse = graph.file.add("RSQRT", [graph.scaled(variance, None, np.array([op.floats[0]]))], single)
    y = graph.file.add("MUL", [graph.file.add("SUB", [x, mean], shape), inverse], shape)
    graph.tensors[op.values[1]] = graph.scaled(y, *(graph.constant(index) for index in op.constants[:2]))


def _mean(graph: LceGraph, op: Operation) -> None:
    x = graph.shaped(op.values[0], op.params[:2])
    graph.tensors[op.values[1]] = graph.file.add("MEAN", [x, graph.file.numbers(1)], op.params[:1], keep_dims=False)


def _embedding(graph: LceGraph, op: Operation) -> None:
    number, rows, width, offset, stride = op.params[:5]
    table = graph.constant(op.constants[0])
    assert table is not None
    indices = graph.reshaped(strided(graph, op.values[0], [number], [stride], offset), (number,), np.int64)
    graph.tensors[op.values[1]] = graph.file.add(
        "GATHER", [graph.floats(table.reshape(rows, width)), indices], (number, width)
    )


def _int8(graph: LceGraph, op: Operation) -> None:
    graph.refuse("has no convolution of unsigned bytes as --int8-stem makes it", "export without it")


OPERATIONS: dict[Code, Callable[[LceGraph, Operation], None]] = {
    Code.COPY: copy,
    Code.PACK: _pack,
    Code.BCONV: binary_convolution,
    Code.FCONV: float_convolution,
    Code.ICONV: _int8,
    Code.POOL: pool,
    Code.BITPOOL: bit_pool,
    Code.KMAP: magnitudes,
    Code.BINARY: binary_operator,
    Code.UNARY: _unary,
    Code.MATMUL: _matrix_product,
    Code.BMATMUL: _binary_product,
    Code.SOFTMAX: _softmax,
    Code.LAYERNORM: _layer_norm,
    Code.MEAN: _mean,
    Code.EMBED: _embedding,
    Code.QUANTIZE: _int8,
}
"""What writes each of a program's operations."""
