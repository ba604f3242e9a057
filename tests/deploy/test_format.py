import contextlib
import json
import random
import struct
import zlib

import numpy as np
import pytest

from bibench.deploy.format import SLOTS, Code, Constant, Operation, PackedError, Place, Program, Type, Value, words
from packed_reference import parse


def program(**changes):
    given = {
        "values": (
            Value(Place.INPUT, Type.FLOAT32, 0, 6),
            Value(Place.ARENA, Type.BITS, 64, 3),
            Value(Place.OUTPUT, Type.FLOAT32, 0, 4),
            Value(Place.INPUT, Type.INT64, 1, 2),
        ),
        "constants": (
            Constant.floats(np.array([1.5, -np.inf, 1e300])),
            Constant.bits(np.array([True, False, True] * 5)),
            Constant.int8(np.array([-128, 127, 0])),
        ),
        "operations": (
            Operation(Code.PACK, (0, 1, -1, -1, -1, -1), (0, *[-1] * 7), (*range(5), *[0] * 27), (0.0,) * 4),
            Operation(Code.BCONV, (1, -1, -1, 2, -1, -1), (1, 0, *[-1] * 6), (-1,) * 32, (-1.0, 1.0, 0.0, 0.0)),
        ),
        "arena": 128,
        "metadata": {"name": "naïve", "list": [1, 2.5, None]},
    }
    return Program(**{**given, **changes})


def signed(content):
    """The content with its length and checksum made right."""
    content = content[:16] + struct.pack("<Q", len(content)) + content[24:]
    return content[:12] + struct.pack("<I", zlib.crc32(content[16:])) + content[16:]


def test_what_is_written_is_read():
    one = program()
    assert Program.from_bytes(one.to_bytes()) == one
    assert [value.offset for value in one.inputs] == [0, 1]
    assert one.constants[0].array().tolist() == [1.5, -np.inf, np.inf]
    assert one.constants[1].array().tolist() == [True, False, True] * 5
    assert one.constants[2].array().tolist() == [-128, 127, 0]


def test_the_independent_reader_agrees():
    one = program()
    other = parse(one.to_bytes())
    assert (other.arena, other.inputs, other.outputs) == (128, 2, 1)
    assert other.metadata == one.metadata
    for mine, theirs in zip(one.constants, other.constants, strict=True):
        np.testing.assert_array_equal(mine.array(), theirs)
    assert [operation.params for operation in other.operations] == [operation.params for operation in one.operations]
    assert [(v.place, v.type, v.offset, v.count) for v in other.values] == [
        (v.place, v.type, v.offset, v.count) for v in one.values
    ]


def test_files(tmp_path):
    path = tmp_path / "net.bib"
    assert program().write(path) == path.stat().st_size
    assert Program.read(path) == program()
    with pytest.raises(PackedError, match=r"missing\.bib can't be read: No such file"):
        Program.read(tmp_path / "missing.bib")
    path.write_bytes(b"PK\3\4")
    with pytest.raises(PackedError, match=r"net\.bib: not a packed file"):
        Program.read(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: b"", "not a packed file"),
        (lambda c: b"PK" + c[2:], "not a packed file: it begins with b'PKBPACK"),
        (lambda c: c[:5], "5 bytes, too few"),
        (lambda c: c[:79], "79 bytes, too few"),
        (lambda c: c[:200], "200 bytes, its header says .*cut off"),
        (lambda c: c + b"x", "followed by something else"),
        (lambda c: c[:8] + struct.pack("<I", 2) + c[12:], "packed format 2, expected 1"),
        (lambda c: c[:-1] + bytes([c[-1] ^ 1]), "checksum"),
        (lambda c: signed(c[:48] + struct.pack("<I", 2**31) + c[52:]), "table of 2147483648 operations"),
        (lambda c: signed(c[:40] + struct.pack("<I", 2**32 - 1) + c[44:]), "table of 4294967295 values"),
        (lambda c: signed(c[:56] + struct.pack("<Q", 2**63) + c[64:]), "the metadata is at bytes"),
        (lambda c: signed(c[:64] + struct.pack("<Q", 2**63) + c[72:]), "the metadata is at bytes"),
        (lambda c: signed(c[:52] + struct.pack("<I", 1) + c[56:]), "reserved"),
        (lambda c: signed(c[:32] + struct.pack("<I", 3) + c[36:]), "3 inputs have the values"),
        (lambda c: signed(c[:36] + struct.pack("<I", 2**32 - 1) + c[40:]), "4294967295 outputs have the values"),
        (lambda c: signed(c[:24] + struct.pack("<Q", 64) + c[32:]), "value 1: bytes 64 to 76 of an arena of 64"),
        (lambda c: signed(c[:80] + struct.pack("<I", 9) + c[84:]), "value 0: place 9"),
        (lambda c: signed(c[:84] + struct.pack("<I", 4) + c[88:]), "value 0: .*type 4"),
        (lambda c: signed(c[:208] + struct.pack("<I", 3) + c[212:]), "constant 0: type 3"),
        (lambda c: signed(c[:216] + struct.pack("<Q", 2**62) + c[224:]), "constant 0: bytes"),
        (lambda c: signed(c[:216] + struct.pack("<Q", 80) + c[224:]), "constant 0: bytes 80"),
        (lambda c: signed(c[:304] + struct.pack("<I", 18) + c[308:]), "operation 0: code 18"),
        (lambda c: signed(c[:308] + struct.pack("<i", 4) + c[312:]), r"operation 0 \(PACK\): value 4 of 4"),
        (lambda c: signed(c[:308] + struct.pack("<i", -2) + c[312:]), r"operation 0 \(PACK\): value -2"),
        (lambda c: signed(c[:332] + struct.pack("<i", 3) + c[336:]), r"operation 0 \(PACK\): constant 3 of 3"),
    ],
)
def test_damage_is_named(damage, message):
    with pytest.raises(PackedError, match=message):
        Program.from_bytes(damage(program().to_bytes()))


@pytest.mark.parametrize("text", [b'["a list"]', b"{", b"[" * 100_000, b'{"\xff": 1}'], ids=range(4))
def test_metadata_that_is_no_object(text):
    content = program(metadata={"x": "y" * 200_000}).to_bytes()
    where, length = struct.unpack_from("<QQ", content, 56)
    with pytest.raises(PackedError, match="metadata"):
        Program.from_bytes(signed(content[:where] + text.ljust(length) + content[where + length :]))


def test_metadata_that_json_does_not_take():
    for bad in ({"x": float("nan")}, {"x": object()}):
        with pytest.raises(PackedError, match="metadata can't be written as JSON"):
            program(metadata=bad).to_bytes()


def test_no_prefix_is_a_file():
    content = program().to_bytes()
    for length in range(len(content)):
        with pytest.raises(PackedError):
            Program.from_bytes(content[:length])


def test_random_damage_is_refused_or_read_and_nothing_else():
    content, draw = program().to_bytes(), random.Random(0)
    for _ in range(3000):
        damaged = bytearray(content)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(24, 712)] = draw.choice((0, 1, 4, 64, 127, 255, draw.randrange(256)))
        with contextlib.suppress(PackedError):
            Program.from_bytes(signed(bytes(damaged)))


def test_the_tables_have_the_sizes_of_the_document():
    content = program().to_bytes()
    assert struct.unpack_from("<IIIII", content, 32) == (2, 1, 4, 3, 2)
    where, length = struct.unpack_from("<QQ", content, 56)
    assert where == 80 + 32 * 4 + 32 * 3 + 204 * 2
    assert json.loads(content[where : where + length]) == program().metadata
    assert SLOTS == {"values": 6, "constants": 8, "params": 32, "floats": 4}


@pytest.mark.parametrize(
    ("channels", "groups", "expected"), [(1, 1, 1), (33, 1, 2), (33, 33, 2), (64, 2, 2), (66, 2, 4), (40, 4, 4)]
)
def test_words_of_a_pixel(channels, groups, expected):
    assert words(channels, groups) == expected
