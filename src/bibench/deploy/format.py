"""The packed file: a program for one sample, its constants and its metadata, read and written (docs/packed-format.md).

Reading checks the file and executes nothing; the engine checks what each operation touches before it runs.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bibench.files import write_bytes

__all__ = [
    "CONVOLUTIONS",
    "OUTPUTS",
    "SLOTS",
    "Code",
    "Constant",
    "Operation",
    "PackedError",
    "Place",
    "Program",
    "Type",
    "Value",
    "words",
]

MAGIC = b"BIBPACK\n"
VERSION = 1
SLOTS = {"values": 6, "constants": 8, "params": 32, "floats": 4}
"""How many of each an operation has room for."""

_HEADER = struct.Struct("<8sIIQQIIIIIIQQQ")
_VALUE = struct.Struct("<IIQQQ")
_CONSTANT = struct.Struct("<IIQQQ")
_OPERATION = struct.Struct("<I6i8i32i4f")
_ALIGNMENT = 64
Array = npt.NDArray[Any]


class PackedError(ValueError):
    """A model that can't become a packed program, or a file that isn't one; the message says why and what to do."""


class Code(IntEnum):
    """What an operation does."""

    COPY = 1
    PACK = 2
    BCONV = 3
    FCONV = 4
    ICONV = 5
    POOL = 6
    BITPOOL = 7
    KMAP = 8
    BINARY = 9
    UNARY = 10
    MATMUL = 11
    BMATMUL = 12
    SOFTMAX = 13
    LAYERNORM = 14
    MEAN = 15
    EMBED = 16
    QUANTIZE = 17


CONVOLUTIONS = (Code.BCONV, Code.FCONV, Code.ICONV)
"""The operations that share their geometry and their epilogue."""

OUTPUTS: Mapping[Code, tuple[int, ...]] = {
    code: (3, 4) if code in CONVOLUTIONS else (2,) if code in (Code.BINARY, Code.MATMUL, Code.BMATMUL) else (1,)
    for code in Code
}
"""Which of an operation's values it writes; it reads the others."""


class Place(IntEnum):
    """Where a value lives."""

    ARENA = 0
    INPUT = 1
    OUTPUT = 2


class Type(IntEnum):
    """What a value or a constant is made of; the count of packed bits is in 32-bit words for values, in bits else."""

    FLOAT32 = 0
    BITS = 1
    INT64 = 2
    UINT8 = 3
    INT8 = 4


_BYTES = {Type.FLOAT32: 4, Type.BITS: 4, Type.INT64: 8, Type.UINT8: 1}
_DTYPES: dict[int, np.dtype[Any]] = {
    Type.FLOAT32: np.dtype("<f4"),
    Type.BITS: np.dtype("u1"),
    Type.INT8: np.dtype("i1"),
}


def words(channels: int, groups: int) -> int:
    """32-bit words of a packed pixel, see "Bits in memory" in docs/packed-format.md.

    >>> words(40, 1), words(40, 40), words(80, 2)
    (2, 2, 4)
    """
    each = channels // groups
    return -(-channels // 32) if each % 32 == 0 or each == 1 else groups * -(-each // 32)


@dataclass(frozen=True)
class Value:
    """A buffer.

    Args:
        place, type: where it lives and what it holds.
        offset: bytes into the arena, or the number of the input or output.
        count: numbers, or 32-bit words of bits.
    """

    place: Place
    type: Type
    offset: int
    count: int

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.count * _BYTES[self.type]


@dataclass(frozen=True)
class Constant:
    """Numbers that operations use.

    Args:
        type: float32, bits or int8.
        count: numbers, or bits.
        content: as it is stored.
    """

    type: Type
    count: int
    content: bytes

    @classmethod
    def floats(cls, array: Array) -> Constant:
        """Numbers, rounded to float32 once."""
        with np.errstate(over="ignore"):  # what is too large is infinite, as in the model's own float32
            return cls(Type.FLOAT32, array.size, np.ascontiguousarray(array, "<f4").tobytes())

    @classmethod
    def bits(cls, array: Array) -> Constant:
        """Truth values: true is a set bit, which means -1.

        >>> Constant.bits(np.array([True, False, False, True])).content
        b'\\t'
        """
        return cls(Type.BITS, array.size, np.packbits(array.reshape(-1).astype(bool), bitorder="little").tobytes())

    @classmethod
    def int8(cls, array: Array) -> Constant:
        """Whole numbers from -128 to 127."""
        return cls(Type.INT8, array.size, np.ascontiguousarray(array, "i1").tobytes())

    def array(self) -> Array:
        """The content: float32, int8, or truth values."""
        stored: Array = np.frombuffer(self.content, _DTYPES[self.type])
        if self.type is Type.BITS:
            stored = np.unpackbits(stored, bitorder="little")[: self.count].astype(bool)
        return stored

    @property
    def bytes(self) -> int:
        """Its size."""
        return len(self.content)


@dataclass(frozen=True)
class Operation:
    """One step; what each number means depends on the code."""

    code: Code
    values: tuple[int, ...]
    constants: tuple[int, ...]
    params: tuple[int, ...]
    floats: tuple[float, ...]


@dataclass(frozen=True)
class Program:
    """A network for one sample.

    Args:
        values, constants, operations: the tables.
        arena: bytes that the values need.
        metadata: about it all, as JSON takes it.
    """

    values: tuple[Value, ...]
    constants: tuple[Constant, ...]
    operations: tuple[Operation, ...]
    arena: int
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The inputs, in their order."""
        return tuple(sorted((v for v in self.values if v.place is Place.INPUT), key=lambda v: v.offset))

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The outputs, in their order."""
        return tuple(sorted((v for v in self.values if v.place is Place.OUTPUT), key=lambda v: v.offset))

    def metadata_json(self) -> bytes:
        """The metadata as JSON.

        Raises:
            PackedError: what JSON doesn't take.
        """
        try:
            return json.dumps(self.metadata, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
        except (TypeError, ValueError) as error:
            raise PackedError(
                f"the metadata can't be written as JSON: {error}; give plain numbers and texts"
            ) from error

    def to_bytes(self) -> bytes:
        """The file's content.

        Raises:
            PackedError: metadata that JSON doesn't take.
        """
        text = self.metadata_json()
        tables = [_VALUE.pack(v.place, v.type, v.offset, v.count, 0) for v in self.values]
        at = _HEADER.size + _VALUE.size * len(self.values) + _CONSTANT.size * len(self.constants)
        at += _OPERATION.size * len(self.operations)
        where, at = at, at + len(text)
        body = [text]
        for constant in self.constants:
            gap = -at % _ALIGNMENT
            body += [bytes(gap), constant.content]
            tables.append(_CONSTANT.pack(constant.type, 0, at + gap, constant.count, 0))
            at += gap + len(constant.content)
        tables += [_OPERATION.pack(o.code, *o.values, *o.constants, *o.params, *o.floats) for o in self.operations]
        numbers = (len(self.inputs), len(self.outputs), len(self.values), len(self.constants), len(self.operations))
        header = _HEADER.pack(MAGIC, VERSION, 0, at, self.arena, *numbers, 0, where, len(text), 0)
        rest = b"".join([header[16:], *tables, *body])
        return header[:12] + struct.pack("<I", zlib.crc32(rest)) + rest

    def write(self, path: Path) -> int:
        """Write the file atomically; the number of its bytes."""
        return write_bytes(path, self.to_bytes())

    @classmethod
    def read(cls, path: Path) -> Program:
        """Read a file.

        Raises:
            PackedError: it isn't there, or isn't a packed file of this version, whole and unchanged.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise PackedError(f"{path} can't be read: {error.strerror or error}") from error
        try:
            return cls.from_bytes(content)
        except PackedError as error:
            raise PackedError(f"{path}: {error}") from error

    @classmethod
    def from_bytes(cls, content: bytes) -> Program:
        """Read a file's content.

        Raises:
            PackedError: it isn't a packed file of this version, whole and unchanged.
        """
        arena, (inputs, outputs, *lengths), where, length = _header(content)
        tables = []
        at = _HEADER.size
        for layout, number, kind in zip(
            (_VALUE, _CONSTANT, _OPERATION), lengths, ("values", "constants", "operations"), strict=True
        ):
            end = at + layout.size * number
            if end > len(content):
                raise PackedError(f"the table of {number} {kind} ends at byte {end} of {len(content)}{_DAMAGED}")
            tables.append(list(layout.iter_unpack(content[at:end])))
            at = end
        if where < at or where + length > len(content):
            raise PackedError(f"the metadata is at bytes {where} to {where + length} of {len(content)}{_DAMAGED}")
        try:
            metadata = json.loads(content[where : where + length].decode())
        except (ValueError, RecursionError) as error:
            raise PackedError(f"the metadata isn't JSON ({error}){_DAMAGED}") from error
        if not isinstance(metadata, dict):
            raise PackedError(f"the metadata is a {type(metadata).__name__}, expected an object{_DAMAGED}")
        values = tuple(_value(i, row, arena) for i, row in enumerate(tables[0]))
        for place, number in ((Place.INPUT, inputs), (Place.OUTPUT, outputs)):
            found = sorted(value.offset for value in values if value.place is place)
            if len(found) != number or found != list(range(number)):
                kind = place.name.lower()
                raise PackedError(f"{number} {kind}s have the values {found[:8]}, expected one each{_DAMAGED}")
        constants = tuple(_constant(i, row, content, at) for i, row in enumerate(tables[1]))
        operations = tuple(_operation(i, row, len(values), len(constants)) for i, row in enumerate(tables[2]))
        return cls(values, constants, operations, arena, metadata)


_DAMAGED = "; the file is damaged or was written by something else: export it again"


def _header(content: bytes) -> tuple[int, tuple[int, ...], int, int]:
    """Arena, the five numbers of table entries, offset and length of the metadata."""
    if content[:8] != MAGIC[: len(content)] or not content:
        raise PackedError(f"not a packed file: it begins with {content[:8]!r}, expected {MAGIC!r}")
    if len(content) < _HEADER.size:
        raise PackedError(f"{len(content)} bytes, too few for the header of {_HEADER.size}: the file was cut off")
    _, version, crc, length, arena, *numbers, zero, where, text, reserved = _HEADER.unpack_from(content)
    if version != VERSION:
        raise PackedError(f"packed format {version}, expected {VERSION}: export the model again with this bibench")
    if length != len(content):
        state = "cut off" if length > len(content) else "followed by something else"
        raise PackedError(f"{len(content)} bytes, its header says {length}: the file was {state}; copy it again")
    found = zlib.crc32(memoryview(content)[16:])
    if crc != found:
        raise PackedError(f"checksum {found:08x}, its header says {crc:08x}{_DAMAGED}")
    if zero or reserved:
        raise PackedError(f"reserved fields of the header hold {zero} and {reserved}, expected 0{_DAMAGED}")
    return arena, tuple(numbers), where, text


def _value(index: int, row: tuple[int, ...], arena: int) -> Value:
    place, kind, offset, count, reserved = row
    if place not in list(Place) or kind not in _BYTES or reserved or not count:
        raise PackedError(f"value {index}: place {place}, type {kind}, {count} numbers: not in this format{_DAMAGED}")
    value = Value(Place(place), Type(kind), offset, count)
    if value.place is Place.ARENA and (offset % 64 or offset + value.bytes > arena):
        raise PackedError(f"value {index}: bytes {offset} to {offset + value.bytes} of an arena of {arena}{_DAMAGED}")
    return value


def _constant(index: int, row: tuple[int, ...], content: bytes, start: int) -> Constant:
    kind, zero, offset, count, reserved = row
    if kind not in _DTYPES or zero or reserved:
        raise PackedError(f"constant {index}: type {kind}: not in this format{_DAMAGED}")
    size = -(-count // 8) if kind == Type.BITS else count * _DTYPES[kind].itemsize
    if offset % 4 or offset < start or offset + size > len(content):
        raise PackedError(f"constant {index}: bytes {offset} to {offset + size} of {len(content)}{_DAMAGED}")
    return Constant(Type(kind), count, content[offset : offset + size])


def _operation(index: int, row: tuple[Any, ...], values: int, constants: int) -> Operation:
    code, rest = row[0], row[1:]
    if code not in list(Code):
        raise PackedError(f"operation {index}: code {code} is not in this format{_DAMAGED}")
    operation = Operation(Code(code), rest[:6], rest[6:14], rest[14:46], rest[46:])
    for kind, indices, number in (("value", operation.values, values), ("constant", operation.constants, constants)):
        for which in indices:
            if not -1 <= which < number:
                raise PackedError(f"operation {index} ({operation.code.name}): {kind} {which} of {number}{_DAMAGED}")
    return operation
