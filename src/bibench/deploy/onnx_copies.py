"""COPY operations as what ONNX has for them: slices, transpositions, padding, concatenation, or else single picks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bibench.deploy.format import Operation
from bibench.deploy.onnx_graph import Array, Tensor, Tensors, physical
from bibench.deploy.strides import Entry, Span, cumulative, nested, spans, split

__all__ = ["copied", "positions"]

_DIMS = 5


def copied(tensors: Tensors, copies: Sequence[Operation], count: int) -> None:
    """What the COPY operations that fill a buffer of ``count`` numbers put into it."""
    key = (copies[0].values[1], 0)
    if len(copies) == 1 and _fills(copies[0], count):
        read = tensors.read((copies[0].values[0], 0), _entries(copies[0]), copies[0].params[25])
        if read is not None and any(entry.low or entry.high for entry in read[1]):
            tensors.keep_padded(key, *read)
            return
        made = None if read is None else read[0]
    else:
        made = _concatenated(tensors, copies, count)
    tensors.add(key, made or _gathered(tensors, copies, count))


def positions(entries: Sequence[Entry], which: int, offset: int) -> Array:
    """Where in a buffer each step of a loop is, of the shape of the loop."""
    shape = tuple(entry.size for entry in entries)
    found = np.full(shape, offset, np.int64)
    for axis, entry in enumerate(entries):
        found += (np.arange(entry.size) * entry.strides[which]).reshape(-1, *(1,) * (len(shape) - axis - 1))
    return found


def _entries(copy: Operation) -> list[Entry]:
    """A COPY as a loop over source and target."""
    p = copy.params
    rows = zip(*(p[i : i + _DIMS] for i in range(0, 5 * _DIMS, _DIMS)), strict=True)
    return [Entry(read, (stride, out), low, size - low - read) for size, stride, low, read, out in rows if size > 1]


def _fills(copy: Operation, count: int) -> bool:
    """Whether it writes all numbers of its target in their order."""
    entries = _entries(copy)
    sizes = [entry.padded for entry in entries]
    dense = cumulative(sizes) == tuple(entry.strides[1] for entry in entries)
    return dense and math.prod(sizes) == count and not copy.params[26]


def _concatenated(tensors: Tensors, copies: Sequence[Operation], count: int) -> Tensor | None:
    """The parts joined along the one dimension in which they follow each other; None where they don't."""
    loops = [_entries(copy) for copy in copies]
    if any(entry.low or entry.high or not entry.strides[0] for loop in loops for entry in loop):
        return None
    first = [_source(tensors, copy, loop) for copy, loop in zip(copies, loops, strict=True)]
    loops = [loop if found is None else found[1] for loop, found in zip(loops, first, strict=True)]
    whole = nested([entry for loop in loops for entry in loop], 1, count)
    if whole is None:
        return None
    shape = tuple(size for size in whole if size > 1)
    parts: list[tuple[list[Span], Tensor, list[Span], int]] = []
    for copy, loop in zip(copies, loops, strict=True):
        entries = split(loop, 1, shape)
        to, found = spans(entries, 1, copy.params[26], shape), _source(tensors, copy, entries)
        if to is None or found is None or found[1] != entries:
            return None
        parts.append((to, found[0], found[2], len(entries)))
    cut = {d for to, *_ in parts for d, span in enumerate(to) if span.size != shape[d]}
    if len(cut) != 1:
        return None
    (axis,) = cut
    parts.sort(key=lambda part: part[0][axis].start)
    ends = [to[axis].start + to[axis].size for to, *_ in parts]
    if [to[axis].start for to, *_ in parts] != [0, *ends[:-1]] or ends[-1] != shape[axis]:
        return None
    to, tensor, touched, number = parts[0]
    by_entry = {span.entry: d for d, span in enumerate(to)}
    wanted = [by_entry[entry] for entry in physical(tensor, touched, number)]
    wanted += [d for d in range(len(shape)) if d not in wanted]
    names = [tensors.taken(tensor, touched, [to[d].entry for d in wanted]) for to, tensor, touched, _ in parts]
    joined = tensors.graph.node("Concat", *names, axis=wanted.index(axis) + 1)
    return Tensor(joined, tuple(shape[d] for d in wanted), tuple(wanted.index(d) for d in range(len(shape))))


def _source(tensors: Tensors, copy: Operation, loop: Sequence[Entry]) -> tuple[Tensor, list[Entry], list[Span]] | None:
    return tensors.region((copy.values[0], 0), loop, 0, copy.params[25])


def _gathered(tensors: Tensors, copies: Sequence[Operation], count: int) -> Tensor:
    """Every number picked on its own; what no copy writes is 0."""
    keys = list(dict.fromkeys((copy.values[0], 0) for copy in copies))
    sizes = [math.prod(tensors.of(key)[0].shape) for key in keys]
    index = np.full(count, sum(sizes), np.int64)
    for copy in copies:
        base = sum(sizes[: keys.index((copy.values[0], 0))])
        entries = _entries(copy)
        inner = copy.params[26] + sum(entry.low * entry.strides[1] for entry in entries)
        around = [Entry(entry.padded, entry.strides) for entry in entries]
        index[positions(around, 1, copy.params[26])] = sum(sizes)
        index[positions(entries, 1, inner)] = base + positions(entries, 0, copy.params[25])
    return tensors.picked(keys, index, (count,))
