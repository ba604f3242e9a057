"""Packed programs as files of daBNN, for one sample.

Maps have their channels last. Where the number of scores isn't a multiple of 4, which is what daBNN's memory holds, as
many follow them that are never the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bibench.deploy.dabnn_convolutions import binary_convolution, bit_pool, float_convolution, pool
from bibench.deploy.dabnn_graph import DabnnGraph, above
from bibench.deploy.format import Code, Operation, Program
from bibench.deploy.refusals import IN_FULL_PRECISION
from bibench.files import write_bytes

__all__ = ["to_dabnn", "write_dabnn", "write_layers"]


def write_dabnn(program: Program, path: Path) -> int:
    """Write a program as a file of daBNN, atomically; the number of its bytes.

    Raises:
        PackedError: what the format can't express; the message names the layer.
        OSError: the file can't be written.
    """
    return write_bytes(path, to_dabnn(program))


def to_dabnn(program: Program) -> bytes:
    """The file's content.

    Raises:
        PackedError: what the format can't express; the message names the layer.

    >>> import torch, bibench
    >>> from bibench.deploy.export import pack
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 3), bibench.nn.BinaryConv2d(8, 4, 2, algorithm="bnn"))
    >>> content = to_dabnn(pack(torch.nn.Sequential(*net, torch.nn.Flatten()), torch.randn(1, 4, 4, 4)))
    >>> b"input" in content, b"output" in content
    (True, True)
    """
    graph = DabnnGraph(program)
    write_layers(graph)
    return graph.file.content(graph.outputs())


def write_layers(graph: DabnnGraph) -> None:
    """Write all operations of a graph's program.

    Raises:
        PackedError: what the format can't express; the message names the layer.
    """
    for number, operation in enumerate(graph.program.operations):
        graph.number = number
        _WRITERS.get(operation.code, _refused)(graph, operation)


def _pack(graph: DabnnGraph, op: Operation) -> None:
    threshold = graph.constant(op.constants[0])
    graph.whole(graph.blob(op.values[0]), math.prod(op.params[:3]))
    if threshold is None:
        graph.blobs[op.values[1]] = graph.blob(op.values[0])
        graph.raise_zeros(op.values[1])
    else:
        graph.blobs[op.values[1]] = graph.affine(graph.fresh(op.values[0]), 1, above(threshold))


def _unary(graph: DabnnGraph, op: Operation) -> None:
    kind, count, channels = op.params[:3]
    graph.whole(graph.blob(op.values[0]), count)
    if kind not in (0, 9, 12, 13) or (kind > 9 and channels != graph.blob(op.values[0]).shape[2]):
        graph.refuse("has ReLU, PReLU and factors of channels as its only functions of one tensor")
    x = graph.fresh(op.values[0])
    if kind == 0:
        y = graph.clamped(x, *op.floats[:2])
    elif kind == 9:
        y = graph.prelu(x, np.array([op.floats[0]]))
    else:
        first, second = (graph.constant(index) for index in op.constants[:2])
        assert first is not None
        y = graph.prelu(x, first) if second is None else graph.affine(x, first, second)
    graph.blobs[op.values[1]] = y


def _binary(graph: DabnnGraph, op: Operation) -> None:
    p = op.params
    whole = p[16:18] == (0, 0) and p[6:11] == p[11:16]
    if p[0] != 0 or op.values[1] < 0 or not whole:
        graph.refuse("adds whole tensors and has no other function of two")
    right = graph.blob(op.values[1])
    left = graph.fresh(op.values[0])
    if left.shape != right.shape or int(np.prod(left.shape)) != int(np.prod(p[1:6])):
        graph.refuse(f"adds maps of one shape, and these have {left.shape} and {right.shape}")
    graph.blobs[op.values[2]] = graph.sum(left, right.name)


def _copy(graph: DabnnGraph, op: Operation) -> None:
    graph.copy(op)


def _magnitudes(graph: DabnnGraph, op: Operation) -> None:
    graph.refuse("scales channels, not positions by the activation's magnitudes", IN_FULL_PRECISION)


def _int8(graph: DabnnGraph, op: Operation) -> None:
    graph.refuse("has no convolution of unsigned bytes as --int8-stem makes it", "export without it")


def _refused(graph: DabnnGraph, op: Operation) -> None:
    graph.refuse(f"has no layer for this ({op.code.name.lower()})")


_WRITERS: dict[Code, Callable[[DabnnGraph, Operation], None]] = {
    Code.BCONV: binary_convolution,
    Code.BINARY: _binary,
    Code.BITPOOL: bit_pool,
    Code.COPY: _copy,
    Code.FCONV: float_convolution,
    Code.KMAP: _magnitudes,
    Code.PACK: _pack,
    Code.POOL: pool,
    Code.QUANTIZE: _int8,
    Code.UNARY: _unary,
}
"""What writes each of a program's operations, as far as the format has it."""
