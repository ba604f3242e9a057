"""Strided reads and writes said in whole dimensions: which part of which dimension of a tensor they touch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

__all__ = ["Entry", "Span", "cumulative", "nested", "spans", "split"]


@dataclass(frozen=True)
class Entry:
    """A dimension of a loop over several buffers.

    Args:
        size: how many steps it has.
        strides: how far each buffer moves in a step; 0 stays.
        low, high: steps before and behind, at which nothing is read and zeros are written.
    """

    size: int
    strides: tuple[int, ...]
    low: int = 0
    high: int = 0

    @property
    def padded(self) -> int:
        """All its steps."""
        return self.low + self.size + self.high


@dataclass(frozen=True)
class Span:
    """The part of a dimension that is touched: ``start`` to ``start + size``, by entry ``entry`` (None: one index)."""

    start: int
    size: int
    entry: int | None


def cumulative(shape: Sequence[int]) -> tuple[int, ...]:
    """Strides of a shape without gaps.

    >>> cumulative((2, 3, 4))
    (12, 4, 1)
    """
    return tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))


def nested(entries: Sequence[Entry], which: int, count: int) -> tuple[int, ...] | None:
    """A shape of ``count`` numbers whose strides are those of the entries, or None where these don't nest.

    >>> nested([Entry(2, (4,)), Entry(2, (1,))], 0, 12)
    (3, 4)
    """
    steps = {entry.strides[which] for entry in entries if entry.size > 1 and entry.strides[which]}
    edges = [count, *sorted(steps | {1}, reverse=True)]
    if any(outer % inner for outer, inner in pairwise(edges)):
        return None
    return tuple(outer // inner for outer, inner in pairwise(edges))


def split(entries: Sequence[Entry], which: int, shape: Sequence[int]) -> list[Entry]:
    """The same loop, with entries that run over several dimensions of a buffer of this shape taken apart.

    >>> split([Entry(12, (1, 0))], 0, (3, 4))
    [Entry(size=3, strides=(4, 0), low=0, high=0), Entry(size=4, strides=(1, 0), low=0, high=0)]
    """
    extent = {stride: size for size, stride in zip(shape, cumulative(shape), strict=True) if size > 1}
    found: list[Entry] = []
    for entry in entries:
        if entry.low or entry.high:
            found.append(entry)
            continue
        parts: list[Entry] = []
        size, strides = entry.size, entry.strides
        while (inner := extent.get(strides[which], size)) < size and size % inner == 0:
            parts.insert(0, Entry(inner, strides))
            size, strides = size // inner, tuple(stride * inner for stride in strides)
        found += [Entry(size, strides), *parts]
    return found


def spans(entries: Sequence[Entry], which: int, offset: int, shape: Sequence[int]) -> list[Span] | None:
    """What of each dimension is touched, or None where it isn't one range of each.

    >>> spans([Entry(2, (4,))], 0, 5, (3, 4))
    [Span(start=1, size=2, entry=0), Span(start=1, size=1, entry=None)]
    >>> spans([Entry(3, (4,))], 0, 5, (3, 4))
    """
    by_stride = {e.strides[which]: i for i, e in enumerate(entries) if e.size > 1 and e.strides[which]}
    found: list[Span] = []
    for size, stride in zip(shape, cumulative(shape), strict=True):
        entry = by_stride.pop(stride, None) if size > 1 else None
        start, offset = divmod(offset, stride)
        length = 1 if entry is None else entries[entry].size
        if start + length > size:
            return None
        found.append(Span(start, length, entry))
    moving = sum(1 for e in entries if e.size > 1 and e.strides[which])
    used = sum(1 for span in found if span.entry is not None)
    return found if not by_stride and not offset and used == moving else None
