"""Places in the arena: a value's memory is given to others once nothing reads it any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bibench.deploy.format import CONVOLUTIONS, Place, Type
from bibench.deploy.steps import Step
from bibench.deploy.views import Buffer

__all__ = ["arrange"]

_ALIGNMENT = 64


def _size(buffer: Buffer) -> int:
    wide = {Type.INT64: 8, Type.UINT8: 1}.get(buffer.type, 4)
    return -(-buffer.count * wide // _ALIGNMENT) * _ALIGNMENT


def arrange(steps: Sequence[Step]) -> tuple[dict[Buffer, int], int]:
    """The byte offset of each buffer in the arena, and the arena's size.

    Two buffers overlap only if one is read for the last time before the other is first written, in an earlier step; or
    if a convolution adds the one for the last time to get the other, which then takes its place: half as much memory
    goes through the cache. The largest are placed first, each at the lowest free place.
    """
    first: dict[Buffer, int] = {}
    last: dict[Buffer, int] = {}
    for number, step in enumerate(steps):
        for buffer in [*step.inputs, *step.outputs]:
            if buffer.place is Place.ARENA:
                first.setdefault(buffer, number)
                last[buffer] = number
    place_of = _in_place(steps, first, last)
    for buffer, place in place_of.items():
        last[place] = max(last[place], last[buffer])
        del first[buffer]
    placed: list[Buffer] = []
    offsets: dict[Buffer, int] = {}
    for buffer in sorted(first, key=lambda b: (-_size(b), first[b])):
        size, at = _size(buffer), 0
        beside = [b for b in placed if first[b] <= last[buffer] and first[buffer] <= last[b]]
        for other in sorted(beside, key=offsets.__getitem__):
            if at + size <= offsets[other]:
                break
            at = max(at, offsets[other] + _size(other))
        offsets[buffer] = at
        placed.append(buffer)
    offsets |= {buffer: offsets[place] for buffer, place in place_of.items()}
    return offsets, max((offsets[b] + _size(b) for b in placed), default=0)


def _in_place(steps: Sequence[Step], first: Mapping[Buffer, int], last: Mapping[Buffer, int]) -> dict[Buffer, Buffer]:
    """The results of convolutions that lie where their residual lay, each with the first buffer of that place."""
    found: dict[Buffer, Buffer] = {}
    for number, step in enumerate(steps):
        residual, out = step.values[1], step.values[3]
        if step.code not in CONVOLUTIONS or residual not in first or out not in first:
            continue
        assert residual is not None
        assert out is not None
        alone = step.values.count(residual) == 1 and last[residual] == number == first[out]
        if alone and residual.count == out.count:
            found[out] = found.get(residual, residual)
    return found
