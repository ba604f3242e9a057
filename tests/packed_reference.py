"""An interpreter of packed files, written from docs/packed-format.md alone: slow, plain, without bibench's code.

Integer sums are exact (int64). Float sums and functions are computed in float64 and rounded once; what follows a
convolution's sum is float32, rounded at each step. The arena is bytes, filled with ones before each run (NaN, or set
bits), so that a value that is read before it is written, or after another one has overwritten it, shows.
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]

ARENA, INPUT, OUTPUT = 0, 1, 2
FLOAT32, BITS, INT64, UINT8, INT8 = 0, 1, 2, 3, 4
NUMBERS = {FLOAT32: np.dtype("<f4"), BITS: np.dtype("<u4"), INT64: np.dtype("<i8"), UINT8: np.dtype("u1")}
CODES = {
    "COPY": 1,
    "PACK": 2,
    "BCONV": 3,
    "FCONV": 4,
    "ICONV": 5,
    "POOL": 6,
    "BITPOOL": 7,
    "KMAP": 8,
    "BINARY": 9,
    "UNARY": 10,
    "MATMUL": 11,
    "BMATMUL": 12,
    "SOFTMAX": 13,
    "LAYERNORM": 14,
    "MEAN": 15,
    "EMBED": 16,
    "QUANTIZE": 17,
}
NAMES = {code: name for name, code in CODES.items()}


class ProgramError(ValueError):
    """The file breaks the format, or a run has to end."""


def need(condition: object, message: str) -> None:
    if not condition:
        raise ProgramError(message)


@dataclass(frozen=True)
class Value:
    place: int
    type: int
    offset: int
    """Bytes into the arena, or the number of the input or output."""
    count: int


@dataclass(frozen=True)
class Operation:
    name: str
    values: tuple[int, ...]
    constants: tuple[int, ...]
    params: tuple[int, ...]
    floats: tuple[float, ...]


@dataclass(frozen=True)
class ParsedProgram:
    arena: int
    inputs: int
    outputs: int
    values: list[Value]
    constants: list[Array]
    """Decoded: float32, int8, or booleans (a set bit, which means -1, is true)."""
    operations: list[Operation]
    metadata: dict[str, Any]

    def value_of(self, place: int, number: int) -> int:
        """Index of the value of an input or output."""
        (found,) = (i for i, v in enumerate(self.values) if v.place == place and v.offset == number)
        return found


def parse(data: bytes) -> ParsedProgram:
    """Read a file's tables and decode its constants."""
    need(len(data) >= 80, f"{len(data)} bytes, a header has 80")
    magic, version, crc, length, arena, inputs, outputs, n_values, n_constants, n_operations, zero = struct.unpack_from(
        "<8sIIQQIIIIII", data
    )
    meta_offset, meta_length, zero2 = struct.unpack_from("<QQQ", data, 56)
    need(magic == b"BIBPACK\n", f"magic {magic!r}")
    need(version == 1, f"version {version}")
    need(length == len(data), f"length {length}, the file has {len(data)}")
    need(crc == zlib.crc32(data[16:]), "CRC")
    need(zero == 0 and zero2 == 0, "reserved header fields")

    at = 80
    values = []
    for i in range(n_values):
        place, kind, offset, count, zero = struct.unpack_from("<IIQQQ", data, at)
        at += 32
        need(place in (ARENA, INPUT, OUTPUT) and kind in NUMBERS and zero == 0, f"value {i}")
        if place == ARENA:
            need(offset % 64 == 0, f"value {i}: offset {offset}")
            need(offset + count * NUMBERS[kind].itemsize <= arena, f"value {i} ends outside the arena")
        values.append(Value(place, kind, offset, count))
    for place, number in ((INPUT, inputs), (OUTPUT, outputs)):
        found = sorted(v.offset for v in values if v.place == place)
        need(found == list(range(number)), f"inputs or outputs {found}, expected one value for each of {number}")

    constants = []
    for i in range(n_constants):
        kind, zero, offset, count, zero2 = struct.unpack_from("<IIQQQ", data, at)
        at += 32
        need(kind in (FLOAT32, BITS, INT8) and zero == zero2 == 0 and offset % 4 == 0, f"constant {i}")
        size = {FLOAT32: 4 * count, BITS: (count + 7) // 8, INT8: count}[kind]
        need(offset + size <= len(data), f"constant {i} ends outside the file")
        raw = np.frombuffer(data, np.uint8, size, offset)
        if kind == BITS:
            constants.append(np.unpackbits(raw, bitorder="little")[:count].astype(bool))
        else:
            constants.append(raw.view("<f4" if kind == FLOAT32 else "i1"))

    operations = []
    for i in range(n_operations):
        code, *rest = struct.unpack_from("<I6i8i32i4f", data, at)
        at += 204
        need(code in NAMES, f"operation {i}: code {code}")
        operation = Operation(
            NAMES[code], tuple(rest[:6]), tuple(rest[6:14]), tuple(rest[14:46]), tuple(map(float, rest[46:]))
        )
        need(all(-1 <= v < n_values for v in operation.values), f"operation {i}: values")
        need(all(-1 <= c < n_constants for c in operation.constants), f"operation {i}: constants")
        operations.append(operation)
    need(meta_offset + meta_length <= len(data), "metadata ends outside the file")
    metadata = json.loads(data[meta_offset : meta_offset + meta_length].decode()) if meta_length else {}
    return ParsedProgram(arena, inputs, outputs, values, constants, operations, metadata)


def run(data: bytes, inputs: Sequence[Array]) -> list[Array]:
    """The outputs for one sample, flat; the inputs may have any shape."""
    machine = _Machine(parse(data), inputs)
    for operation in machine.program.operations:
        machine.step(operation)
    return [array.copy() for array in machine.outputs]


def trace(data: bytes, inputs: Sequence[Array]) -> list[dict[int, Array]]:
    """For each operation the values that it wrote, flat copies by index."""
    machine = _Machine(parse(data), inputs)
    return [machine.step(operation) for operation in machine.program.operations]


# ------------------------------------------------------------------------------------------------- bits in memory


def words(channels: int, groups: int) -> int:
    """32-bit words of a pixel."""
    each = channels // groups
    return -(-channels // 32) if each % 32 == 0 or each == 1 else groups * -(-each // 32)


def unpack_map(packed: Array, height: int, width: int, channels: int, groups: int) -> Array:
    """Set bits ``[height][width][channels]`` of a packed map."""
    count = words(channels, groups)
    bits = np.unpackbits(packed.astype("<u4").view(np.uint8), bitorder="little").astype(bool)
    bits = bits.reshape(height, width, count * 32)
    each = channels // groups
    if each % 32 == 0 or each == 1:
        return bits[:, :, :channels]
    return bits.reshape(height, width, groups, -1)[:, :, :, :each].reshape(height, width, channels)


def pack_map(bits: Array, groups: int, top: int, left: int, height: int, width: int) -> Array:
    """The words of a padded map ``[height][width]`` that holds ``bits`` ``[h][w][channels]`` at ``top``, ``left``."""
    h, w, channels = bits.shape
    each, count = channels // groups, words(channels, groups)
    map_ = np.zeros((height, width, count * 32), bool)
    if each % 32 == 0 or each == 1:
        map_[top : top + h, left : left + w, :channels] = bits
    else:
        grouped = map_.reshape(height, width, groups, -1)
        grouped[top : top + h, left : left + w, :, :each] = bits.reshape(h, w, groups, each)
    return np.packbits(map_, axis=-1, bitorder="little").reshape(-1).view("<u4")


def _operands(bits: Array, operand: int) -> Array:
    """int64: {-1, +1} for operand 0, {0, 1} for operand 1; a set bit is the lower one."""
    return np.where(bits, -1 if operand == 0 else 0, 1).astype(np.int64)


# ----------------------------------------------------------------------------------------------------- the machine


class _Machine:
    def __init__(self, program: ParsedProgram, inputs: Sequence[Array]) -> None:
        self.program = program
        self._arena = np.full(program.arena, 0xFF, np.uint8)
        need(len(inputs) == program.inputs, f"{len(inputs)} inputs, expected {program.inputs}")
        self._inputs, self.outputs = [], []
        for i, array in enumerate(inputs):
            value = program.values[program.value_of(INPUT, i)]
            flat = np.ascontiguousarray(array, NUMBERS[value.type]).reshape(-1).copy()
            need(flat.size == value.count, f"input {i}: {flat.size} numbers, expected {value.count}")
            flat.flags.writeable = False
            self._inputs.append(flat)
        for i in range(program.outputs):
            value = program.values[program.value_of(OUTPUT, i)]
            raw = np.full(value.count * NUMBERS[value.type].itemsize, 0xFF, np.uint8)
            self.outputs.append(raw.view(NUMBERS[value.type]))

    def _memory(self, index: int) -> Array:
        """The value's numbers where they lie."""
        value = self.program.values[index]
        if value.place == INPUT:
            return self._inputs[value.offset]
        if value.place == OUTPUT:
            return self.outputs[value.offset]
        dtype = NUMBERS[value.type]
        return self._arena[value.offset : value.offset + value.count * dtype.itemsize].view(dtype)

    def step(self, operation: Operation) -> dict[int, Array]:
        """Run one operation; what it wrote."""
        self._op = operation
        self._written: list[int] = []
        with np.errstate(all="ignore"):
            getattr(self, f"_{operation.name.lower()}")(*operation.params)
        return {index: self._memory(index).copy() for index in self._written}

    # What an operation names: slot is the number behind v or c.

    def _has(self, slot: int) -> bool:
        return self._op.values[slot] >= 0

    def _read(self, slot: int, type: int, *shape: int) -> Array:
        """A copy of a value, which must be of a type; with a shape it must have room for it, and is cut to it."""
        index = self._op.values[slot]
        need(index >= 0, f"{self._op.name}: v{slot} missing")
        need(self.program.values[index].type == type, f"{self._op.name}: v{slot} has another type")
        memory = self._memory(index)
        if not shape:
            return memory.copy()
        count = math.prod(shape)
        need(count <= memory.size, f"{self._op.name}: v{slot} has {memory.size} numbers, {count} needed")
        return memory[:count].reshape(shape).copy()

    def _write(self, slot: int, type: int, content: Array) -> None:
        index = self._op.values[slot]
        need(index >= 0, f"{self._op.name}: v{slot} missing")
        value = self.program.values[index]
        need(value.place != INPUT, f"{self._op.name}: v{slot} is an input")
        need(value.type == type, f"{self._op.name}: v{slot} has another type")
        flat = content.reshape(-1)
        need(flat.size <= value.count, f"{self._op.name}: v{slot} has {value.count} numbers, {flat.size} needed")
        self._memory(index)[: flat.size] = flat
        self._written.append(index)

    def _constant(self, slot: int, *shape: int, default: float | None = None) -> Array:
        index = self._op.constants[slot]
        if index < 0:
            need(default is not None, f"{self._op.name}: c{slot} missing")
            return np.full(shape, default, np.float32)
        content = self.program.constants[index]
        need(content.size == math.prod(shape), f"{self._op.name}: c{slot} has {content.size}, expected {shape}")
        return content.reshape(shape)

    # ------------------------------------------------------------------------------------------------ operations

    def _copy(self, *p: int) -> None:
        source, target = (self._memory(i) for i in self._op.values[:2])
        dtype = {4: "<u4", 8: "<u8"}[p[27]]
        need(source.itemsize == target.itemsize == p[27], f"COPY: numbers of {source.itemsize} bytes")
        source, target = source.view(dtype).copy(), target.view(dtype)
        sizes, reads, low, inside, writes = (p[k : k + 5] for k in (0, 5, 10, 15, 20))
        index = np.indices(sizes).reshape(5, -1)
        low_, inside_ = np.array(low)[:, None], np.array(inside)[:, None]
        within = ((index >= low_) & (index < low_ + inside_)).all(0)
        where = p[25] + ((index - low_) * np.array(reads)[:, None]).sum(0)
        got = np.zeros(index.shape[1], dtype)
        got[within] = source[where[within]]
        target[p[26] + (index * np.array(writes)[:, None]).sum(0)] = got
        self._written.append(self._op.values[1])

    def _pack(self, *p: int) -> None:
        height, width, channels, groups, top, left, full_height, full_width = p[:8]
        x = self._read(0, FLOAT32, height, width, channels)
        bits = ~(x >= self._constant(0, channels, default=0.0))
        self._write(1, BITS, pack_map(bits, groups, top, left, full_height, full_width))

    def _window(self, padded: Array, y0: int, x0: int) -> list[list[Array]]:
        """``[KH][KW]`` of ``[OH][OW][...]``: the pixels under each weight; the first window starts at y0, x0."""
        p = self._op.params
        (kh, kw), (sh, sw), (dh, dw), (oh, ow) = p[5:7], p[7:9], p[9:11], p[13:15]
        rows, columns = y0 + np.arange(oh) * sh, x0 + np.arange(ow) * sw
        return [[padded[rows + i * dh][:, columns + j * dw] for j in range(kw)] for i in range(kh)]

    def _sum(self, padded: Array, y0: int, x0: int, weights: Array) -> Array:
        """The convolution's sum ``[OH][OW][O]``; weights ``[O][KH][KW][C/G]``."""
        groups, (oh, ow) = self._op.params[3], self._op.params[13:15]
        out, kh, kw, each = weights.shape
        found = np.zeros((oh, ow, groups, out // groups), padded.dtype)
        window = self._window(padded, y0, x0)
        by_group = weights.reshape(groups, out // groups, kh, kw, each)
        for i in range(kh):
            for j in range(kw):
                pixels = window[i][j].reshape(oh, ow, groups, each)
                found += np.einsum("yxgc,goc->yxgo", pixels, by_group[:, :, i, j])
        return found.reshape(oh, ow, out)

    def _epilogue(self, total: Array) -> None:
        p, (low, high) = self._op.params, np.array(self._op.floats[:2], np.float32)
        groups, out, oh, ow, act, maps = p[3], p[4], p[13], p[14], p[21], p[26]
        y = total.astype(np.float32)
        if maps:
            need(maps in (1, groups, -1), f"{self._op.name}: {maps} position maps")
            shape = (1, 1, 1) if maps == -1 else (oh, ow, maps)
            position = self._read(2, FLOAT32, *shape) if self._has(2) else self._constant(5, *shape)
            if maps > 1:
                position = np.repeat(position, out // groups, axis=2)
            y = y * position
        y = y * self._constant(1, out, default=1.0) + self._constant(2, out, default=0.0)
        if self._has(1):
            y = y + self._read(1, FLOAT32, oh, ow, out)
        if act == 1:
            y = np.minimum(np.maximum(y, low), high)
        elif act == 2:
            y = np.where(y >= 0, y, self._constant(3, out) * y)
        need(act in (0, 1, 2) and y.dtype == np.float32, f"{self._op.name}: act {act}")
        need(self._has(3) or self._has(4), f"{self._op.name}: no output")
        if self._has(3):
            self._write(3, FLOAT32, y)
        if self._has(4):
            bits = ~(y >= self._constant(4, out, default=0.0))
            self._write(4, BITS, pack_map(bits, 1, *p[22:26]))

    def _bconv(self, *p: int) -> None:
        ih, iw, channels, groups, out, kh, kw, sh, sw, dh, dw, pt, pl, oh, ow, top, left, hp, wp, pad, operand = p[:21]
        stored = self._read(0, BITS, hp, wp, words(channels, groups))
        x = _operands(unpack_map(stored, hp, wp, channels, groups), operand)[top : top + ih, left : left + iw]
        outside = pad if operand == 0 else max(pad, 0)
        below = max((oh - 1) * sh + (kh - 1) * dh + 1 - pt - ih, 0)
        right = max((ow - 1) * sw + (kw - 1) * dw + 1 - pl - iw, 0)
        padded = np.pad(x, ((pt, below), (pl, right), (0, 0)), constant_values=outside)
        weights = _operands(self._constant(0, out, kh, kw, channels // groups), 0)
        self._epilogue(self._sum(padded, 0, 0, weights))

    def _fconv(self, *p: int) -> None:
        channels, groups, out, kh, kw, pt, pl, top, left, hp, wp = *p[2:7], p[11], p[12], *p[15:19]
        padded = self._read(0, FLOAT32, hp, wp, channels).astype(np.float64)
        weights = self._constant(0, out, kh, kw, channels // groups).astype(np.float64)
        self._epilogue(self._sum(padded, top - pt, left - pl, weights))

    def _iconv(self, *p: int) -> None:
        channels, groups, out, kh, kw, pt, pl, top, left, hp, wp, zero = *p[2:7], p[11], p[12], *p[15:20]
        need(groups == 1, "ICONV: groups")
        stored = self._read(0, UINT8, hp, wp, 4 * -(-channels // 4)).astype(np.int64)
        weights = self._constant(0, out, kh, kw, 4 * -(-channels // 4)).astype(np.int64)
        self._epilogue(self._sum(stored - zero, top - pt, left - pl, weights))

    def _inside(self, size: int, kernel: int, stride: int, low: int, dilation: int, out: int) -> list[list[int]]:
        """For each output row (or column) the input's rows in its window."""
        return [
            [r for r in (o * stride - low + k * dilation for k in range(kernel)) if 0 <= r < size] for o in range(out)
        ]

    def _pool(self, *p: int) -> None:
        kind, ih, iw, channels, kh, kw, sh, sw, pt, pl, oh, ow, dh, dw = p[:14]
        x = self._read(0, FLOAT32, ih, iw, channels)
        y = np.empty((oh, ow, channels), np.float32)
        for i, rows in enumerate(self._inside(ih, kh, sh, pt, dh, oh)):
            for j, columns in enumerate(self._inside(iw, kw, sw, pl, dw, ow)):
                need(rows and columns, "POOL: an empty window")
                window = x[rows][:, columns].reshape(-1, channels)
                if kind == 0:
                    y[i, j] = window.max(0)  # NaN wins
                else:
                    y[i, j] = window.astype(np.float64).sum(0) / (len(window) if kind == 1 else kh * kw)
        self._write(1, FLOAT32, y)

    def _bitpool(self, *p: int) -> None:
        ih, iw, channels, kh, kw, sh, sw, pt, pl, oh, ow, top, left, hp, wp = p[:15]
        out_map, (dh, dw) = p[15:19], p[19:21]
        stored = self._read(0, BITS, hp, wp, words(channels, 1))
        x = unpack_map(stored, hp, wp, channels, 1)[top : top + ih, left : left + iw]
        y = np.empty((oh, ow, channels), bool)
        for i, rows in enumerate(self._inside(ih, kh, sh, pt, dh, oh)):
            for j, columns in enumerate(self._inside(iw, kw, sw, pl, dw, ow)):
                need(rows and columns, "BITPOOL: an empty window")
                y[i, j] = x[rows][:, columns].all((0, 1))
        self._write(1, BITS, pack_map(y, 1, *out_map))

    def _kmap(self, *p: int) -> None:
        ih, iw, channels, groups, _, kh, kw, sh, sw, dh, dw, pt, pl, oh, ow, outside = p[:16]
        x = np.abs(self._read(0, FLOAT32, ih, iw, channels).astype(np.float64))
        means = x.reshape(ih, iw, groups, channels // groups).mean(-1)
        below = max((oh - 1) * sh + (kh - 1) * dh + 1 - pt - ih, 0)
        right = max((ow - 1) * sw + (kw - 1) * dw + 1 - pl - iw, 0)
        padded = np.pad(means, ((pt, below), (pl, right), (0, 0)), constant_values=outside)
        total = sum(pixels for row in self._window(padded, 0, 0) for pixels in row)
        self._write(1, FLOAT32, np.asarray(total / (kh * kw)).astype(np.float32))

    def _binary(self, *p: int) -> None:
        sizes, index = p[1:6], np.indices(p[1:6])
        a = self._read(0, FLOAT32)
        b = self._read(1, FLOAT32) if self._has(1) else self.program.constants[self._op.constants[0]]
        x = a[p[16] + sum(i * s for i, s in zip(index, p[6:11], strict=True))]
        y = b[p[17] + sum(i * s for i, s in zip(index, p[11:16], strict=True))]
        function = (np.add, np.subtract, np.multiply, np.divide, np.maximum, np.minimum)[p[0]]
        self._write(2, FLOAT32, function(x, y).reshape(sizes))

    def _unary(self, *p: int) -> None:
        kind, count, channels = p[:3]
        x32 = self._read(0, FLOAT32, count)
        x = x32.astype(np.float64)
        f0, f1 = self._op.floats[:2]
        simple: dict[int, Callable[[], Array]] = {
            0: lambda: np.minimum(np.maximum(x, f0), f1),
            1: lambda: x * 0.5 * (1 + np.array([math.erf(v) for v in x / math.sqrt(2)])),
            2: lambda: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
            3: lambda: 1 / (1 + np.exp(-x)),
            4: lambda: np.tanh(x),
            5: lambda: x / (1 + np.exp(-x)),
            6: lambda: np.exp(x),
            7: lambda: np.sqrt(x),
            8: lambda: np.abs(x),
            9: lambda: np.where(x >= 0, x, f0 * x),
            10: lambda: x * np.minimum(np.maximum(x + 3, 0), 6) / 6,
            11: lambda: np.minimum(np.maximum(x + 3, 0), 6) / 6,
        }
        if kind in simple:
            self._write(1, FLOAT32, simple[kind]().astype(np.float32))
            return
        rows = x.reshape(-1, channels)
        first = self._constant(0, channels).astype(np.float64)
        if kind == 12:
            y = np.where(rows >= 0, rows, first * rows)
        else:
            need(kind == 13, f"UNARY: {kind}")
            y = rows * first + self._constant(1, channels)
        self._write(1, FLOAT32, y.astype(np.float32))

    def _matmul(self, *p: int) -> None:
        batch, m, k, n, transposed = p[:5]
        a = self._read(0, FLOAT32, batch, m, k).astype(np.float64)
        b = self._read(1, FLOAT32, *((batch, n, k) if transposed else (batch, k, n))).astype(np.float64)
        y = a @ (b.transpose(0, 2, 1) if transposed else b)
        self._write(2, FLOAT32, y.astype(np.float32))

    def _bmatmul(self, *p: int) -> None:
        batch, m, k, n, operand_a, operand_b = p[:6]
        count = words(k, 1)
        a = unpack_map(self._read(0, BITS, batch, m, count), batch, m, k, 1)
        b = unpack_map(self._read(1, BITS, batch, n, count), batch, n, k, 1)
        y = _operands(a, operand_a) @ _operands(b, operand_b).transpose(0, 2, 1)
        self._write(2, FLOAT32, y.astype(np.float32) * np.float32(self._op.floats[0]))

    def _softmax(self, *p: int) -> None:
        x = self._read(0, FLOAT32, *p[:2]).astype(np.float64)
        e = np.exp(x - x.max(1, keepdims=True))
        self._write(1, FLOAT32, (e / e.sum(1, keepdims=True)).astype(np.float32))

    def _layernorm(self, *p: int) -> None:
        x = self._read(0, FLOAT32, *p[:2]).astype(np.float64)
        centred = x - x.mean(1, keepdims=True)
        y = centred / np.sqrt((centred**2).mean(1, keepdims=True) + self._op.floats[0])
        y = y * self._constant(0, p[1], default=1.0) + self._constant(1, p[1], default=0.0)
        self._write(1, FLOAT32, y.astype(np.float32))

    def _mean(self, *p: int) -> None:
        self._write(1, FLOAT32, self._read(0, FLOAT32, *p[:2]).astype(np.float64).mean(1).astype(np.float32))

    def _embed(self, *p: int) -> None:
        count, rows, width, offset, stride = p[:5]
        index = self._read(0, INT64)[offset + stride * np.arange(count)]
        need(((index >= 0) & (index < rows)).all(), f"EMBED: indices {index} outside a table of {rows} rows")
        self._write(1, FLOAT32, self._constant(0, rows, width)[index])

    def _quantize(self, *p: int) -> None:
        height, width, channels, top, left, hp, wp, zero, channels_first = p[:9]
        if channels_first:
            x = self._read(0, FLOAT32, channels, height, width).transpose(1, 2, 0)
        else:
            x = self._read(0, FLOAT32, height, width, channels)
        scaled = np.rint(x * np.float32(self._op.floats[0])).astype(np.float64) + zero
        q = np.minimum(np.fmax(scaled, 0), 255)  # fmax: NaN becomes 0
        y = np.full((hp, wp, 4 * -(-channels // 4)), zero, np.uint8)
        y[top : top + height, left : left + width, :channels] = q
        self._write(1, UINT8, y)


class Writer:
    """A packed file, built by hand: every value has its own place in the arena, so nothing overlaps.

    >>> w = Writer()
    >>> x = w.value(FLOAT32, 4, place=INPUT)
    >>> y = w.value(FLOAT32, 4, place=OUTPUT)
    >>> w.operation("UNARY", [x, y], params=[8, 4])
    >>> run(w.file(), [np.array([-1, 2, -3, 4])])[0].tolist()
    [1.0, 2.0, 3.0, 4.0]
    """

    def __init__(self, metadata: dict[str, Any] | None = None) -> None:
        self.arena = 0
        self.metadata = metadata or {}
        self._values: list[tuple[int, int, int, int]] = []
        self._constants: list[tuple[int, bytes, int]] = []
        self._operations: list[bytes] = []
        self._numbers = {INPUT: 0, OUTPUT: 0}

    def value(self, type: int, count: int, place: int = ARENA) -> int:
        if place == ARENA:
            offset = self.arena
            self.arena += -(-count * NUMBERS[type].itemsize // 64) * 64
        else:
            offset = self._numbers[place]
            self._numbers[place] += 1
        self._values.append((place, type, offset, count))
        return len(self._values) - 1

    def move(self, value: int, offset: int) -> None:
        """Put a value of the arena elsewhere in it, over others."""
        place, type, _, count = self._values[value]
        self._values[value] = (place, type, offset, count)

    def constant(self, content: Any, type: Literal["float32", "bits", "int8"] = "float32") -> int:
        """Numbers; for bits whatever is negative (or True) is a set one."""
        array = np.asarray(content).reshape(-1)
        if type == "bits":
            bits = array if array.dtype == bool else array < 0
            self._constants.append((BITS, np.packbits(bits, bitorder="little").tobytes(), bits.size))
        elif type == "int8":
            self._constants.append((INT8, array.astype(np.int8).tobytes(), array.size))
        else:
            self._constants.append((FLOAT32, array.astype("<f4").tobytes(), array.size))
        return len(self._constants) - 1

    def operation(
        self,
        name: str,
        values: Sequence[int | None],
        constants: Sequence[int | None] = (),
        params: Sequence[int] | dict[int, int] = (),
        floats: Sequence[float] = (),
    ) -> None:
        numbers = dict(params) if isinstance(params, dict) else dict(enumerate(params))
        self._operations.append(
            struct.pack(
                "<I6i8i32i4f",
                CODES[name],
                *[-1 if v is None else v for v in [*values, *[None] * (6 - len(values))]],
                *[-1 if c is None else c for c in [*constants, *[None] * (8 - len(constants))]],
                *[int(numbers.get(i, 0)) for i in range(32)],
                *[*floats, *[0.0] * (4 - len(floats))],
            )
        )

    def file(self, dirty: bool = False) -> bytes:
        """The file's bytes. ``dirty``: its first operation fills the arena with the lowest float, bits 0xff7fffff."""
        if dirty and self.arena:
            here = next(i for i, (place, type, _, _) in enumerate(self._values) if (place, type) == (INPUT, FLOAT32))
            self._values.append((ARENA, FLOAT32, 0, self.arena // 4))
            lowest = self.constant([np.finfo(np.float32).min])
            sizes = {0: 5, 1: 1, 2: 1, 3: 1, 4: 1, 5: self.arena // 4}
            self.operation("BINARY", [here, None, len(self._values) - 1], [lowest], sizes)
            self._operations.insert(0, self._operations.pop())
        at = 80 + 32 * len(self._values) + 32 * len(self._constants) + 204 * len(self._operations)
        content, table = bytearray(), bytearray()
        for place, type, offset, count in self._values:
            table += struct.pack("<IIQQQ", place, type, offset, count, 0)
        for type, raw, count in self._constants:
            content += bytes(-(at + len(content)) % 64)
            table += struct.pack("<IIQQQ", type, 0, at + len(content), count, 0)
            content += raw
        table += b"".join(self._operations)
        text = json.dumps(self.metadata).encode()
        text_at = at + len(content)
        content += text
        head = struct.pack(
            "<QQIIIIIIQQQ",
            at + len(content),
            self.arena,
            self._numbers[INPUT],
            self._numbers[OUTPUT],
            len(self._values),
            len(self._constants),
            len(self._operations),
            0,
            text_at,
            len(text),
            0,
        )
        return seal(b"BIBPACK\n" + struct.pack("<II", 1, 0) + head + table + content)


def seal(data: bytes) -> bytes:
    """The file with the right CRC."""
    return data[:12] + struct.pack("<I", zlib.crc32(data[16:])) + data[16:]
