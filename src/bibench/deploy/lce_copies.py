"""Copies and arithmetic of a program, which read tensors by strides, as operators of TensorFlow Lite."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bibench.deploy.format import Operation
from bibench.deploy.lce_graph import LceGraph, Shape
from bibench.deploy.strides import Entry, nested, spans

__all__ = ["binary_operator", "copy", "strided"]

_PARTS = "has no operator that writes parts of a tensor, other than one behind the other"


def strided(graph: LceGraph, index: int, sizes: Sequence[int], strides: Sequence[int], offset: int) -> int:
    """A strided read of a value: a tensor of these sizes, with 1 in the place of those that are repeated."""
    count, dtype = graph.program.values[index].count, graph.dtype(index)
    entries = [Entry(size, (stride,)) for size, stride in zip(sizes, strides, strict=True)]
    shape = nested(entries, 0, count)
    touched = None if shape is None else spans(entries, 0, offset, shape)
    if shape is None or touched is None:
        graph.refuse("takes whole ranges of a tensor's dimensions, and this reads something else")
    moved = [span.entry for span in touched if span.entry is not None]
    result = tuple(size if k in moved else 1 for k, size in enumerate(sizes))
    parts = tuple(span.size for span in touched)
    order = [k for _, k in sorted((span.entry, k) for k, span in enumerate(touched) if span.entry is not None)]
    order += [k for k, span in enumerate(touched) if span.entry is None]
    if index in graph.maps and parts == shape and _to_the_end(order, shape, graph.maps[index][0]):
        return graph.reshaped(graph.tensors[index], result)
    tensor = graph.cut(graph.shaped(index, shape), tuple(span.start for span in touched), parts, dtype)
    if [k for k in order if parts[k] > 1] != sorted(k for k in order if parts[k] > 1):
        moved_shape = [parts[k] for k in order]
        tensor = graph.file.add("TRANSPOSE", [tensor, graph.file.numbers(*order)], moved_shape, dtype)
    return graph.reshaped(tensor, result, dtype)


def _to_the_end(order: Sequence[int], shape: Shape, channels: int) -> bool:
    """Whether a transposition of a map with its channels first puts these last and leaves the rest in order."""
    kept = [k for k in order if shape[k] > 1]
    return shape[0] == channels and kept == [*sorted(kept)[1:], sorted(kept)[0]]


def copy(graph: LceGraph, op: Operation) -> None:
    """COPY; those that write parts of the same value become one concatenation."""
    target = op.values[1]
    copies = graph.copies[target]
    if op is not copies[-1]:
        return  # they are put together where the last one is
    count, dtype = graph.program.values[target].count, graph.dtype(target)
    parts, at, outer = [], 0, 1
    for one in copies:
        p, order = one.params, _outermost_first(one)
        sizes, strides = [p[k] for k in order], [p[20 + k] for k in order]
        run = _run(sizes, strides)
        outer = math.prod(sizes) // run
        rest = [(size, stride) for size, stride in zip(sizes, strides, strict=True) if size > 1 and stride >= run]
        if p[26] != at or _run(*zip(*rest, strict=True), start=count // outer) != count:
            graph.refuse(_PARTS)
        tensor = _gathered(graph, one, order)
        parts.append(tensor if len(copies) == 1 else graph.reshaped(tensor, (outer, run), dtype))
        at += run
    if at * outer != count:
        graph.refuse(_PARTS)
    graph.tensors[target] = (
        parts[0] if len(parts) == 1 else graph.file.add("CONCATENATION", parts, (outer, at), dtype, axis=1)
    )


def _outermost_first(op: Operation) -> list[int]:
    """A copy's dimensions as they lie in what it writes."""
    return sorted(range(5), key=lambda k: (op.params[k] > 1, -op.params[20 + k]))


def _gathered(graph: LceGraph, op: Operation, order: Sequence[int]) -> int:
    """What a copy reads, with its dimensions in an order, and with zeros around it."""
    p, dtype = op.params, graph.dtype(op.values[0])
    sizes, strides, low, inside = (tuple(p[start + k] for k in order) for start in (0, 5, 10, 15))
    first = 1 if sizes[0] == 1 else 0
    tensor = strided(graph, op.values[0], inside, strides, p[25])
    tensor = graph.repeated(graph.reshaped(tensor, graph.file.shape(tensor)[first:], dtype), inside[first:], dtype)
    pads = [(a, size - a - n) for size, a, n in zip(sizes, low, inside, strict=True)]
    return graph.padded(tensor, pads[first:], 0, dtype)


def _run(sizes: Sequence[int] = (), strides: Sequence[int] = (), *, start: int = 1) -> int:
    """How many numbers the innermost dimensions write without gaps, ``start`` being the distance of the last ones."""
    for size, stride in reversed(list(zip(sizes, strides, strict=True))):
        if size > 1:
            if stride != start:
                break
            start *= size
    return start


def binary_operator(graph: LceGraph, op: Operation) -> None:
    """BINARY."""
    p = op.params
    sizes = p[1:6]
    left = strided(graph, op.values[0], sizes, p[6:11], p[16])
    if op.values[1] >= 0:
        right = strided(graph, op.values[1], sizes, p[11:16], p[17])
    else:
        stored = graph.constant(op.constants[0])
        assert stored is not None
        single = [size if stride else 1 for size, stride in zip(sizes, p[11:16], strict=True)]
        steps = [4 * stride for stride in p[11:16]]
        right = graph.file.constant(np.lib.stride_tricks.as_strided(stored[p[17] :], single, steps).copy())
    name = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM")[p[0]]
    first = next((k for k, size in enumerate(sizes) if size > 1), 4)
    operands = [graph.reshaped(tensor, graph.file.shape(tensor)[first:]) for tensor in (left, right)]
    shape = np.broadcast_shapes(*map(graph.file.shape, operands))
    graph.tensors[op.values[2]] = graph.repeated(graph.file.add(name, operands, shape), sizes[first:])
