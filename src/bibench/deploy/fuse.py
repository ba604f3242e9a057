"""Steps joined: what follows a convolution goes into its epilogue, and so do the bits that the next layers read."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from bibench.deploy.format import CONVOLUTIONS, Code, Place, Type, words
from bibench.deploy.steps import Array, Step, readers, uniform
from bibench.deploy.views import Buffer

__all__ = ["fuse"]

_MAP = slice(0, 3)


def fuse(steps: list[Step], exact: Callable[[list[Step]], None] = lambda steps: None) -> list[Step]:
    """The same program in fewer steps.

    Args:
        steps: as lowered; they are changed.
        exact: what rewrites thresholds, given all steps once the epilogues have been joined and before bits are.
    """
    _join_affine(steps)
    _pool_last(steps)
    _join_epilogues(steps)
    _pool_bits(steps)
    _share_bits(steps)
    exact(steps)
    _join_bits(steps)
    return steps


def _only_reader(read: dict[Buffer, list[Step]], buffer: Buffer | None) -> Step | None:
    """The step that alone reads a buffer which isn't an output of the model."""
    if buffer is None or buffer.place is not Place.ARENA:
        return None
    found = read.get(buffer, [])
    return found[0] if len(found) == 1 else None


def _channels(step: Step, outputs: int) -> list[Array] | None:
    """An affine or PReLU step's constants over a convolution's output channels, or None."""
    constants = [constant for constant in step.constants if constant is not None]
    if step.params[2] == outputs:
        return constants
    if all(uniform(constant) for constant in constants):
        return [np.full(outputs, constant[0]) for constant in constants]
    return None


def _join_affine(steps: list[Step]) -> None:
    """Two affine steps in a row become one."""
    read = readers(steps)
    for step in list(steps):
        while step.code is Code.UNARY and step.params[0] == 13:
            after = _only_reader(read, step.values[1])
            if after is None or after.code is not Code.UNARY or after.params[:3] != step.params[:3]:
                break
            (a, b), (c, d) = step.constants[:2], after.constants[:2]
            assert a is not None
            assert b is not None
            assert c is not None
            assert d is not None
            after.constants[:2] = [a * c, b * c + d]
            after.values[0] = step.values[0]
            after.nodes[:0] = step.nodes
            steps.remove(step)
            read = readers(steps)
            step = after


def _pool_last(steps: list[Step]) -> None:
    """A maximum over windows and what doesn't decrease elementwise change places, so that the latter can be joined."""
    changed = True
    while changed:
        changed = False
        read = readers(steps)
        writer = {buffer: step for step in steps for buffer in step.outputs}
        for pool in steps:
            if pool.code is not Code.POOL or pool.params[0] != 0:
                continue
            source, after = pool.values[0], _only_reader(read, pool.values[1])
            assert source is not None
            before = writer.get(source)
            if after is None or after.code is not Code.UNARY or _only_reader(read, source) is not pool:
                continue
            if before is None or (before.code not in CONVOLUTIONS and before.code is not Code.UNARY):
                continue
            channels, out_size = pool.params[3], pool.params[10:12]
            if source.count != math.prod(pool.params[1:4]) or after.params[1] != math.prod(out_size) * channels:
                continue  # only the beginning of a map is read
            if not _keeps_order(after, channels):
                continue
            middle, out = Buffer(Type.FLOAT32, source.count), after.values[1]
            after.values[:2] = [source, middle]
            after.params[1] = source.count
            pool.values[:2] = [middle, out]
            steps.remove(after)
            steps.insert(steps.index(pool), after)
            changed = True
            break


def _keeps_order(step: Step, channels: int) -> bool:
    kind = step.params[0]
    if kind == 13:
        factor = step.constants[0]
        return step.params[2] in (1, channels) and factor is not None and bool((factor >= 0).all())
    if kind == 12:
        slope = step.constants[0]
        return step.params[2] in (1, channels) and slope is not None and bool((slope >= 0).all())
    return kind == 0 or (kind == 9 and step.floats[0] >= 0)


def _join_epilogues(steps: list[Step]) -> None:
    """Affine steps, then a residual, then an activation go into the convolution before them."""
    for step in [step for step in steps if step.code in CONVOLUTIONS]:
        while _join_next(steps, step):
            pass


def _join_next(steps: list[Step], step: Step) -> bool:
    buffer = step.values[3]
    after = _only_reader(readers(steps), buffer)
    if after is None or buffer is None or step.params[21]:
        return False
    outputs = step.params[4]
    if after.code is Code.BINARY:
        a, b = after.values[:2]
        flat = after.params[1:16] == [*[1] * 4, buffer.count, *[0] * 4, 1, *[0] * 4, 1]
        other = b if a is buffer else a
        if after.params[0] != 0 or step.values[1] is not None or not flat or any(after.params[16:18]):
            return False
        if other is None or other is buffer:
            return False
        step.values[1] = other
        step.values[3] = after.values[2]
    elif after.code is Code.UNARY:
        kind = after.params[0]
        if after.params[1] != buffer.count:
            return False
        if kind == 13:
            constants = _channels(after, outputs)
            if constants is None or step.values[1] is not None:
                return False
            one, zero = np.ones(outputs), np.zeros(outputs)
            factor, shift = (
                given if given is not None else empty
                for given, empty in zip(step.constants[1:3], (one, zero), strict=True)
            )
            step.constants[1:3] = [factor * constants[0], shift * constants[0] + constants[1]]
        elif kind == 0:
            step.params[21] = 1
            step.floats[:2] = after.floats[:2]
        elif kind in (9, 12):
            slopes = [np.full(outputs, after.floats[0])] if kind == 9 else _channels(after, outputs)
            if slopes is None:
                return False
            step.params[21], step.constants[3] = 2, slopes[0]
        else:
            return False
        step.values[3] = after.values[1]
    else:
        return False
    step.nodes += after.nodes
    steps.remove(step)
    steps[steps.index(after)] = step  # where all that it reads has been computed
    return True


def _packs(pack: Step, height: int, width: int) -> bool:
    """Whether a whole map is packed; as so many pixels of another shape it is, without padding."""
    return pack.params[:2] == [height, width] or (_unpadded(pack) and math.prod(pack.params[:2]) == height * width)


def _dense(pack: Step) -> bool:
    """Whether packed bits have the layout that an epilogue writes."""
    channels, groups = pack.params[2:4]
    return groups == 1 or channels // groups == 1 or channels // groups % 32 == 0


def _pool_bits(steps: list[Step]) -> None:
    """Bits of a maximum are the maximum of the bits, at a fraction of the memory."""
    for pool in [step for step in steps if step.code is Code.POOL and step.params[0] == 0]:
        out, source = pool.values[1], pool.values[0]
        assert out is not None
        assert source is not None
        packs = readers(steps).get(out, [])
        channels = pool.params[3]
        fits = (
            packs
            and out.place is Place.ARENA
            and all(
                pack.code is Code.PACK
                and _dense(pack)
                and pack.params[2] == channels
                and _packs(pack, *pool.params[10:12])
                for pack in packs
            )
        )
        if not fits:
            continue
        height, width = pool.params[1:3]
        for pack in packs:
            bits = Buffer(Type.BITS, height * width * words(channels, 1))
            first = Step.make(
                Code.PACK,
                [source, bits],
                [height, width, channels, 1, 0, 0, height, width],
                constants=[pack.constants[0]],
                nodes=pack.nodes,
            )
            pads = pack.params[4:8] if pack.params[:2] == pool.params[10:12] else [0, 0, *pool.params[10:12]]
            params = [*pool.params[1:12], 0, 0, height, width, *pads, *pool.params[12:14]]
            second = Step.make(Code.BITPOOL, [bits, pack.values[1]], params, nodes=pool.nodes)
            steps[steps.index(pack)] = second
            steps.insert(steps.index(second), first)
        steps.remove(pool)


def _unpadded(pack: Step) -> bool:
    return pack.params[4:8] == [0, 0, *pack.params[:2]]


def _same_threshold(one: Step, other: Step) -> bool:
    a, b = one.constants[0], other.constants[0]
    empty = np.zeros(one.params[2], np.float32)
    return np.array_equal(empty if a is None else a, empty if b is None else b)


def _share_bits(steps: list[Step]) -> None:
    """The same bits of the same map are packed once, with the padding that the most demanding reader needs."""
    kept: list[Step] = []
    for pack in [step for step in steps if step.code is Code.PACK]:
        for other in kept:
            same_layout = pack.params[3] == other.params[3] or (_dense(pack) and _dense(other))
            if other.values[0] is not pack.values[0] or not same_layout or not _same_threshold(pack, other):
                continue
            if pack.params[:8] == other.params[:8] or (
                pack.params[2] == other.params[2] and _merge(steps, other, pack)
            ):
                _replace(steps, pack.values[1], other.values[1])
                other.nodes += pack.nodes
                steps.remove(pack)
                break
        else:
            kept.append(pack)


def _merge(steps: Sequence[Step], one: Step, other: Step) -> bool:
    """Give two packed maps the padding that both need; only convolutions read padded ones."""
    if one.params[:3] != other.params[:3]:
        return False
    read = readers(steps)
    users = [reader for pack in (one, other) for buffer in pack.outputs for reader in read.get(buffer, [])]
    if any(user.code is not Code.BCONV for user in users):
        return False
    top, left = (max(pack.params[4 + i] for pack in (one, other)) for i in range(2))
    height, width = (
        start + max(pack.params[6 + i] - pack.params[4 + i] for pack in (one, other))
        for i, start in enumerate((top, left))
    )
    bits = one.values[1]
    assert bits is not None
    bits.count = bits.count // (one.params[6] * one.params[7]) * height * width
    one.params[4:8] = [top, left, height, width]
    for user in users:
        user.params[15:19] = one.params[4:8]
    return True


def _replace(steps: Sequence[Step], old: Buffer | None, new: Buffer | None) -> None:
    for step in steps:
        step.values = [new if value is old and value is not None else value for value in step.values]


def _join_bits(steps: list[Step]) -> None:
    """A convolution whose result is packed packs it itself; and keeps the floats only if somebody reads them."""
    for step in [step for step in steps if step.code in CONVOLUTIONS]:
        floats = step.values[3]
        if floats is None:
            continue
        found = readers(steps).get(floats, [])
        groups, outputs = step.params[3:5]
        writes_dense = groups == 1 or (outputs // groups) % 32 == 0 or groups == step.params[2] == outputs
        for pack in found:
            if pack.code is not Code.PACK or not writes_dense or not _dense(pack) or step.values[4] is not None:
                continue
            if pack.params[2] != outputs or not _packs(pack, *step.params[13:15]):
                continue
            step.values[4], step.constants[4] = pack.values[1], pack.constants[0]
            step.params[22:26] = (
                pack.params[4:8] if pack.params[:2] == step.params[13:15] else [0, 0, *step.params[13:15]]
            )
            steps.remove(pack)
        if floats.place is Place.ARENA and step.values[4] is not None and floats not in readers(steps):
            step.values[3] = None
