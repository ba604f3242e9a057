"""Counts of the packed operations, by hand."""

import math

import numpy as np
import pytest

from bibench.deploy.cost import Cost, Peaks, costs, limit
from bibench.deploy.format import SLOTS, Code, Constant, Operation, Place, Program, Type, Value


def operation(code, values=(), constants=(), params=(), floats=()):
    def filled(given, name, empty):
        return (*given, *(empty for _ in range(SLOTS[name] - len(given))))

    return Operation(
        code,
        filled(values, "values", -1),
        filled(constants, "constants", -1),
        filled(params, "params", 0),
        filled(floats, "floats", 0.0),
    )


def cost(code, values=(), constants=(), params=(), sizes=(), stored=()):
    """The cost of one operation; ``sizes`` are (type, count) of the values, ``stored`` the constants."""
    program = Program(
        values=tuple(Value(Place.ARENA, kind, 0, count) for kind, count in sizes),
        constants=tuple(stored),
        operations=(operation(code, values, constants, params),),
        arena=0,
    )
    (found,) = costs(program)
    return found


def convolution(code, groups=1, act=0, constants=(0,), values=(0, -1, -1, 1), stored=(), sizes=()):
    """16 filters of 3x3 over 8 channels of 6x6, stride 2, padding 1: 3x3 outputs."""
    params = [6, 6, 8, groups, 16, 3, 3, 2, 2, 1, 1, 1, 1, 3, 3, 1, 1, 8, 8, 0, 0, act]
    sizes = sizes or ((Type.BITS, 64), (Type.FLOAT32, 144), (Type.BITS, 9), (Type.FLOAT32, 144))
    stored = stored or (Constant.bits(np.zeros(16 * 9 * 8 // groups)), *(Constant.floats(np.zeros(16)),) * 5)
    return cost(code, values, constants, params, sizes, stored)


PRODUCTS = 2 * 9 * 16 * 9 * 8


def test_a_binary_convolution():
    assert convolution(Code.BCONV) == Cost(binary=PRODUCTS, bytes=4 * 64 + 4 * 144 + 144)
    whole = convolution(Code.BCONV, act=1, values=(0, 3, -1, 1, 2), constants=(0, 1, 2, -1, 4, 5))
    # position, A, B, residual, two comparisons of the clamp, threshold
    assert whole.floats == 144 * 7
    assert whole.bytes == 4 * 64 + 4 * 144 * 2 + 4 * 9 + 144 + 4 * 64
    assert convolution(Code.BCONV, groups=2).binary == PRODUCTS // 2
    assert convolution(Code.BCONV, act=2, constants=(0, -1, -1, 3)).floats == 144 * 2


def test_the_other_convolutions_count_in_their_unit():
    scaled = (0, 1)
    assert convolution(Code.FCONV, constants=scaled).floats == PRODUCTS + 144
    found = convolution(Code.ICONV, constants=scaled)
    assert (found.int8, found.floats, found.binary) == (PRODUCTS, 144, 0)


def test_depthwise():
    params = [6, 6, 32, 32, 32, 3, 3, 1, 1, 1, 1, 1, 1, 6, 6, 1, 1, 8, 8]
    sizes = ((Type.BITS, 64), (Type.FLOAT32, 36 * 32))
    stored = (Constant.bits(np.zeros(32 * 9)),)
    assert cost(Code.BCONV, (0, -1, -1, 1), (0,), params, sizes, stored).binary == 2 * 36 * 32 * 9


def test_copies_and_tables_count_what_they_touch():
    large = ((Type.FLOAT32, 10_000), (Type.FLOAT32, 10_000))
    copy = [1, 1, 4, 5, 6, *[0] * 22, 4]
    assert cost(Code.COPY, (0, 1), (), copy, large) == Cost(bytes=2 * 120 * 4)
    table = Constant.floats(np.zeros(100 * 7))
    embed = cost(Code.EMBED, (0, 1), (0,), [3, 100, 7], ((Type.INT64, 6), (Type.FLOAT32, 21)), (table,))
    assert embed == Cost(bytes=3 * 8 + 2 * 3 * 7 * 4)


FLOATS = ((Type.FLOAT32, 60), (Type.FLOAT32, 60), (Type.FLOAT32, 60))


@pytest.mark.parametrize(
    ("code", "params", "expected"),
    [
        (Code.PACK, [3, 4, 5], Cost(floats=60)),
        (Code.POOL, [0, 8, 8, 5, 2, 3, 2, 2, 0, 0, 4, 3], Cost(floats=4 * 3 * 5 * 2 * 3)),
        (Code.BITPOOL, [8, 8, 5, 2, 3, 2, 2, 0, 0, 4, 3], Cost(binary=4 * 3 * 5 * 2 * 3)),
        (Code.KMAP, [6, 6, 8, 2, 16, 3, 3, 2, 2, 1, 1, 1, 1, 3, 3], Cost(floats=2 * 36 * 8 + 9 * 2 * 9)),
        (Code.BINARY, [0, 1, 2, 3, 2, 5], Cost(floats=60)),
        (Code.UNARY, [3, 60], Cost(floats=60)),
        (Code.UNARY, [0, 60], Cost(floats=120)),
        (Code.UNARY, [13, 60, 5], Cost(floats=120)),
        (Code.MATMUL, [2, 3, 4, 5], Cost(floats=240)),
        (Code.BMATMUL, [2, 3, 4, 5], Cost(binary=240, floats=30)),
        (Code.SOFTMAX, [6, 10], Cost(floats=300)),
        (Code.LAYERNORM, [6, 10], Cost(floats=300)),
        (Code.MEAN, [6, 10], Cost(floats=60)),
        (Code.QUANTIZE, [3, 4, 5], Cost(floats=240)),
    ],
)
def test_the_others(code, params, expected):
    found = cost(code, (0, 1), (), params, FLOATS)
    assert Cost(found.binary, found.floats, found.int8) == expected
    assert found.bytes == 4 * 120


def test_a_normalisation_with_weights():
    stored = (Constant.floats(np.zeros(10)), Constant.floats(np.zeros(10)))
    found = cost(Code.LAYERNORM, (0, 1), (0, 1), [6, 10], FLOATS, stored)
    assert (found.floats, found.bytes) == (420, 4 * 140)


def test_every_code_is_counted():
    for code in Code:
        assert math.isfinite(sum(vars(cost(code)).values()))


def test_the_limit_is_the_slower_of_arithmetic_and_memory():
    peaks = Peaks(binary=100.0, floats=10.0, int8=50.0, copy=4.0)
    assert limit(Cost(binary=200, floats=10, int8=50, bytes=8), peaks) == 4.0
    assert limit(Cost(binary=200, bytes=20), peaks) == 5.0
    assert limit(Cost(binary=200, bytes=20), peaks, threads=2) == 2.5
    assert limit(Cost(), peaks) == 0.0
