"""Packed programs built by hand, with inputs: every operation, and convolutions of any shape.

What is *exact* has sums of small multiples of 1/8: they are the same in any order and with any rounding, so outputs can
be compared bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from packed_reference import BITS, FLOAT32, INPUT, INT64, OUTPUT, UINT8, Writer, words

Program = tuple[bytes, list[np.ndarray[Any, Any]]]


@dataclass(frozen=True)
class Convolution:
    """A convolution with its epilogue; ``kind`` is the operation's name."""

    kind: str = "BCONV"
    height: int = 5
    width: int = 6
    channels: int = 8
    groups: int = 1
    outputs: int = 8
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    spare: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Rows and columns that the map has beyond the padding: top, left, bottom, right."""
    pad_value: int = 0
    operand: int = 0
    scale: bool = False
    bias: bool = False
    residual: bool = False
    act: int = 0
    maps: str = "none"
    """``none``, ``one`` (a number), ``shared``, ``group``."""
    constant_map: bool = False
    threshold: bool = False
    float_out: bool = True
    bits_out: tuple[int, int, int, int] | None = None
    """Rows and columns around the pixels: top, left, bottom, right."""
    exact: bool = True
    seed: int = 0

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of the output; below 1 where the kernel doesn't fit."""
        h, w = (
            (n + 2 * p - d * (k - 1) - 1) // s + 1
            for n, p, d, k, s in zip(
                (self.height, self.width), self.padding, self.dilation, self.kernel, self.stride, strict=True
            )
        )
        return h, w

    def __repr__(self) -> str:
        changed = [f for f in fields(self) if getattr(self, f.name) != f.default]
        return f"Convolution({', '.join(f'{f.name}={getattr(self, f.name)!r}' for f in changed)})"


def numbers(rng: np.random.Generator, exact: bool, *shape: int) -> np.ndarray[Any, Any]:
    """Floats around 0, zeros among them; exact ones are small multiples of 1/8."""
    if exact:
        return (rng.integers(-16, 17, shape) / 8).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)


def convolution(c: Convolution) -> Program:
    """The program: the input packed or quantized, or a padded float map; the convolution; its outputs."""
    rng, w = np.random.default_rng(c.seed), Writer()
    top, left = c.padding[0] + c.spare[0], c.padding[1] + c.spare[1]
    rows, columns = top + c.height + c.padding[0] + c.spare[2], left + c.width + c.padding[1] + c.spare[3]
    oh, ow = c.size
    inputs = [numbers(rng, c.exact, c.height, c.width, c.channels)]
    x = w.value(FLOAT32, inputs[0].size, INPUT)
    wide = 4 * -(-c.channels // 4)
    zero = 0
    each = c.channels // c.groups
    if c.kind == "BCONV":
        stored = w.value(BITS, rows * columns * words(c.channels, c.groups))
        limit = w.constant(numbers(rng, c.exact, c.channels)) if c.threshold else None
        w.operation("PACK", [x, stored], [limit], [c.height, c.width, c.channels, c.groups, top, left, rows, columns])
        weights = w.constant(rng.random((c.outputs, *c.kernel, each)) < 0.5, "bits")
    elif c.kind == "FCONV":
        stored = w.value(FLOAT32, rows * columns * c.channels)
        w.operation(
            "COPY",
            [x, stored],
            params=[
                *(1, 1, rows, columns, c.channels),
                *(0, 0, c.width * c.channels, c.channels, 1),
                *(0, 0, top, left, 0),
                *(1, 1, c.height, c.width, c.channels),
                *(0, 0, columns * c.channels, c.channels, 1),
                *(0, 0, 4),
            ],
        )
        weights = w.constant(numbers(rng, c.exact, c.outputs, *c.kernel, each))
    else:
        stored, zero = w.value(UINT8, rows * columns * wide), int(rng.choice([0, 128, 255, rng.integers(256)]))
        w.operation(
            "QUANTIZE",
            [x, stored],
            params=[c.height, c.width, c.channels, top, left, rows, columns, zero, 0],
            floats=[float(rng.choice([8, 120, 300]))],
        )
        integers = rng.integers(-128, 128, (c.outputs, *c.kernel, wide))
        if rng.random() < 0.5:  # as large as they come, where sums in 16 bits would overflow
            integers = rng.choice([-128, 127], integers.shape)
        integers[..., c.channels :] = 0
        weights = w.constant(integers, "int8")

    def given(on: bool, low: int, high: int) -> int | None:
        """Exact ones are powers of two from 2^low on (low < high) or multiples of 1/8 (else)."""
        if not on:
            return None
        if c.exact and low < high:
            return w.constant(2.0 ** rng.integers(low, high, c.outputs) * rng.choice([-1, 1], c.outputs))
        return w.constant(numbers(rng, c.exact, c.outputs))

    residual = None
    if c.residual:
        inputs.append(numbers(rng, c.exact, oh, ow, c.outputs))
        residual = w.value(FLOAT32, inputs[-1].size, INPUT)
    maps = {"none": 0, "one": -1, "shared": 1, "group": c.groups}[c.maps]
    map_value = map_constant = None
    if maps:
        shape = (1,) if maps == -1 else (oh, ow, maps)
        content = 2.0 ** rng.integers(-2, 2, shape) if c.exact else rng.random(shape)
        if c.constant_map:
            map_constant = w.constant(content)
        else:
            inputs.append(content.astype(np.float32))
            map_value = w.value(FLOAT32, content.size, INPUT)
    out = w.value(FLOAT32, oh * ow * c.outputs, OUTPUT) if c.float_out else None
    bits, bits_map = None, (0, 0, 0, 0)
    if c.bits_out:
        above, before, below, behind = c.bits_out
        bits_map = (above, before, above + oh + below, before + ow + behind)
        bits = w.value(BITS, bits_map[2] * bits_map[3] * words(c.outputs, 1))
    w.operation(
        c.kind,
        [stored, residual, map_value, out, bits],
        [
            weights,
            given(c.scale, -2, 2),
            given(c.bias, 0, 0),
            w.constant(2.0 ** -rng.integers(0, 4, c.outputs)) if c.act == 2 else None,
            given(c.threshold and c.bits_out is not None, 0, 0),
            map_constant,
        ],
        [
            *(c.height, c.width, c.channels, c.groups, c.outputs, *c.kernel, *c.stride, *c.dilation, *c.padding),
            *(oh, ow, top, left, rows, columns, {"BCONV": c.pad_value, "FCONV": 0, "ICONV": zero}[c.kind]),
            *(c.operand if c.kind == "BCONV" else 0, c.act, *bits_map, maps),
        ],
        [-3.5, 2.25],
    )
    if bits is not None:  # an output of the program, word by word
        count = bits_map[2] * bits_map[3] * words(c.outputs, 1)
        target = w.value(BITS, count, OUTPUT)
        full = bits_map[2:]
        geometry = [*full, 32 * words(c.outputs, 1), 1, 1, 1, 1, 0, 0, *full, 0, 0, *full, 0, 0, *full, 1, 1]
        w.operation("BITPOOL", [bits, target], params=geometry)
    return w.file(dirty=True), inputs


def simple(
    name: str,
    inputs: list[np.ndarray[Any, Any]],
    count: int,
    params: list[int],
    *,
    constants: list[Any] = (),  # type: ignore[assignment]
    floats: list[float] = (),  # type: ignore[assignment]
    no_b: bool = False,
) -> Program:
    """One operation from inputs to an output of float32; ``no_b``: its second value is absent."""
    w = Writer()
    types = {np.dtype(np.float32): FLOAT32, np.dtype(np.int64): INT64}
    values: list[int | None] = [w.value(types[array.dtype], array.size, INPUT) for array in inputs]
    values += [None] * no_b
    values.append(w.value(FLOAT32, count, OUTPUT))
    w.operation(name, values, [None if c is None else w.constant(c) for c in constants], params, floats)
    return w.file(), inputs


def pool(kind: int, exact: bool, seed: int = 0, nan: bool = False, dilation: int = 1) -> Program:
    rng = np.random.default_rng(seed)
    x = numbers(rng, exact, 7, 9, 19)
    if nan:
        x[2, 3, 4] = np.nan
    kernel = (2, 2) if exact and kind else (3, 2)  # a division by 4 is exact
    pad = 0 if exact and kind else 1
    oh, ow = ((n + 2 * pad - dilation * (k - 1) - 1) // 2 + 1 for n, k in zip((7, 9), kernel, strict=True))
    params = [kind, 7, 9, 19, *kernel, 2, 2, pad, pad, oh, ow, dilation, dilation]
    return simple("POOL", [x], oh * ow * 19, params)


def bit_pool(channels: int = 70, seed: int = 0, dilation: int = 1) -> Program:
    """PACK, BITPOOL to a map with a border, and the words as they lie."""
    rng, w = np.random.default_rng(seed), Writer()
    x = numbers(rng, True, 7, 6, channels)
    source, n = w.value(FLOAT32, x.size, INPUT), words(channels, 1)
    packed = w.value(BITS, 10 * 9 * n)
    oh, ow = ((k + 2 - dilation * 2 - 1) // 2 + 1 for k in (7, 6))
    pooled, out = w.value(BITS, (oh + 3) * (ow + 1) * n), w.value(BITS, oh * ow * n, OUTPUT)
    w.operation("PACK", [source, packed], params=[7, 6, channels, 1, 1, 2, 10, 9])
    geometry = [7, 6, channels, 3, 3, 2, 2, 1, 1, oh, ow, 1, 2, 10, 9, 2, 1, oh + 3, ow + 1, dilation, dilation]
    w.operation("BITPOOL", [packed, pooled], params=geometry)
    again = [oh, ow, channels, 1, 1, 1, 1, 0, 0, oh, ow, 2, 1, oh + 3, ow + 1, 0, 0, oh, ow, 1, 1]
    w.operation("BITPOOL", [pooled, out], params=again)
    return w.file(dirty=True), [x]


def bit_product(operands: tuple[int, int], inner: int = 77, seed: int = 0, factor: float = 0.25) -> Program:
    rng, w = np.random.default_rng(seed), Writer()
    a, b, n = numbers(rng, True, 3, 5, inner), numbers(rng, True, 3, 4, inner), words(inner, 1)
    sources = [w.value(FLOAT32, array.size, INPUT) for array in (a, b)]
    packed = [w.value(BITS, 15 * n), w.value(BITS, 12 * n)]
    out = w.value(FLOAT32, 3 * 5 * 4, OUTPUT)
    for source, target, pixels in zip(sources, packed, (15, 12), strict=True):
        w.operation("PACK", [source, target], params=[pixels, 1, inner, 1, 0, 0, pixels, 1])
    w.operation("BMATMUL", [*packed, out], params=[3, 5, inner, 4, *operands], floats=[factor])
    return w.file(dirty=True), [a, b]


def chain(seed: int = 0) -> Program:
    """A small network whose values share memory: two binary convolutions, a residual, a pool, a head; exact."""
    rng, w = np.random.default_rng(seed), Writer()
    x = numbers(rng, True, 8, 8, 40)
    source = w.value(FLOAT32, x.size, INPUT)
    bits, feature = w.value(BITS, 10 * 10 * 2), w.value(FLOAT32, 8 * 8 * 40)
    bits2, feature2 = w.value(BITS, 10 * 10 * 2), w.value(FLOAT32, 8 * 8 * 40)
    pooled, scores = w.value(FLOAT32, 40), w.value(FLOAT32, 10, OUTPUT)
    geometry = [8, 8, 40, 1, 40, 3, 3, 1, 1, 1, 1, 1, 1, 8, 8, 1, 1, 10, 10]

    def layer() -> list[int]:
        return [
            w.constant(rng.random((40, 3, 3, 40)) < 0.5, "bits"),
            w.constant(2.0 ** -rng.integers(5, 8, 40)),
            w.constant(numbers(rng, True, 40)),
            w.constant(2.0 ** -rng.integers(0, 4, 40)),
        ]

    w.operation("PACK", [source, bits], params=[8, 8, 40, 1, 1, 1, 10, 10])
    w.operation("BCONV", [bits, source, None, feature, bits2], layer(), [*geometry, 0, 0, 2, 1, 1, 10, 10])
    w.operation("BCONV", [bits2, feature, None, feature2], layer(), [*geometry, -1, 0, 1], [-2.0, 2.0])
    w.operation("POOL", [feature2, pooled], params=[1, 8, 8, 40, 8, 8, 8, 8, 0, 0, 1, 1, 1, 1])
    head = [w.constant(numbers(rng, True, 10, 40)), None, w.constant(numbers(rng, True, 10))]
    w.operation("FCONV", [pooled, None, None, scores], head, [1, 1, 40, 1, 10, *[1] * 6, 0, 0, 1, 1, 0, 0, 1, 1])
    return w.file(dirty=True), [x]


def overlapping() -> Program:
    """Breaks the format: a copy to a place that overlaps where it copies from."""
    w = Writer()
    values = [w.value(FLOAT32, 64, INPUT), w.value(FLOAT32, 64), w.value(FLOAT32, 48), w.value(FLOAT32, 48, OUTPUT)]
    w.move(values[2], 64)
    for source, target, count in ((0, 1, 64), (1, 2, 48), (2, 3, 48)):
        params = [1, 1, 1, 1, count, *(0, 0, 0, 0, 1), *[0] * 5, 1, 1, 1, 1, count, *(0, 0, 0, 0, 1), 0, 0, 4]
        w.operation("COPY", [values[source], values[target]], params=params)
    return w.file(), [np.arange(64, dtype=np.float32)]


def exact_programs() -> dict[str, Program]:
    """Programs whose outputs are the same on every machine, bit for bit."""
    conv = Convolution(height=7, width=9, channels=45, outputs=37, padding=(1, 1), bits_out=(1, 0, 2, 1))
    rng = np.random.default_rng(5)
    x = numbers(rng, True, 24)
    found = {
        "chain": chain(),
        "sums": convolution(conv),
        "pad+1": convolution(replace(conv, pad_value=1, seed=1, threshold=True)),
        "pad-1": convolution(replace(conv, pad_value=-1, seed=2, bias=True, scale=True)),
        "zero-one": convolution(replace(conv, operand=1, pad_value=0, seed=3, spare=(1, 2, 0, 1))),
        "zero-one, pad 1": convolution(replace(conv, operand=1, pad_value=1, seed=3, stride=(2, 1))),
        "groups": convolution(replace(conv, channels=60, groups=3, outputs=96, seed=4, residual=True, act=1)),
        "dense groups": convolution(replace(conv, channels=96, groups=3, outputs=27, bits_out=None, seed=5)),
        "depthwise": convolution(replace(conv, channels=45, groups=45, outputs=45, seed=6, act=2, pad_value=-1)),
        "dilation": convolution(replace(conv, dilation=(2, 3), padding=(2, 3), seed=7, maps="shared")),
        "1x1": convolution(replace(conv, kernel=(1, 1), padding=(0, 0), bits_out=(0, 0, 0, 0), seed=8, maps="one")),
        "tokens": convolution(replace(conv, height=50, width=1, kernel=(1, 1), padding=(0, 0), channels=300, seed=9)),
        "bits only": convolution(replace(conv, float_out=False, outputs=5, seed=10, scale=True, bias=True)),
        "float": convolution(replace(conv, kind="FCONV", channels=13, seed=11, bias=True)),
        "float groups": convolution(replace(conv, kind="FCONV", channels=9, groups=3, outputs=12, bits_out=None)),
        "float depthwise": convolution(replace(conv, kind="FCONV", channels=19, groups=19, outputs=19, seed=12)),
        "int8": convolution(replace(conv, kind="ICONV", channels=13, seed=13, bits_out=None)),
        "int8 2": convolution(replace(conv, kind="ICONV", channels=64, seed=14, stride=(2, 2), bits_out=None)),
        "maximum": pool(0, True),
        "maximum with NaN": pool(0, True, nan=True),
        "average": pool(2, True),
        "average inside": pool(1, True),
        "bit pool": bit_pool(),
        "bit pool, dilated": bit_pool(33, dilation=2),
        "product": bit_product((0, 0)),
        "product 01": bit_product((0, 1)),
        "product 10": bit_product((1, 0)),
        "product 11": bit_product((1, 1), 64),
        "embedding": simple(
            "EMBED", [np.array([3, 0, 2, 9])], 6, [2, 4, 3, 0, 2], constants=[numbers(rng, True, 4, 3)]
        ),
        "matrices": simple("MATMUL", [numbers(rng, True, 2, 3, 7), numbers(rng, True, 2, 7, 5)], 30, [2, 3, 7, 5]),
        "matrices, b turned": simple(
            "MATMUL", [numbers(rng, True, 2, 3, 7), numbers(rng, True, 2, 5, 7)], 30, [2, 3, 7, 5, 1]
        ),
        "mean": simple("MEAN", [numbers(rng, True, 3, 8)], 3, [3, 8]),
        "magnitude": simple(
            "KMAP", [numbers(rng, True, 5, 6, 8)], 4 * 5 * 2, [5, 6, 8, 2, 8, 2, 2, 1, 1, 1, 1, 0, 0, 4, 5, 0]
        ),
    }
    for kind in (0, 8, 9):
        found[f"unary {kind}"] = simple("UNARY", [x], 24, [kind, 24], floats=[-0.5, 0.75] if kind == 0 else [0.25])
    for kind, slots in ((12, 1), (13, 2)):
        constants = [numbers(rng, True, 6) for _ in range(slots)]
        found[f"unary {kind}"] = simple("UNARY", [x], 24, [kind, 24, 6], constants=constants)
    for kind in (0, 1, 2, 4, 5):
        strides = [kind, *(1, 2, 3, 4, 2), *(0, 3, 0, 0, 1), *(0, 0, 4, 1, 0), 1, 0]
        ab = [numbers(rng, True, 6), numbers(rng, True, 12)]
        found[f"binary {kind}"] = simple("BINARY", ab, 48, strides)
        found[f"binary {kind}, constant"] = simple("BINARY", ab[:1], 48, strides, constants=[ab[1]], no_b=True)
    return found


def rounded_programs() -> dict[str, Program]:
    """Programs whose outputs differ in the last digits from machine to machine."""
    conv = Convolution(height=7, width=9, channels=45, outputs=37, padding=(1, 1), exact=False, scale=True, bias=True)
    rng = np.random.default_rng(6)
    x, y = numbers(rng, False, 40), numbers(rng, False, 40)
    rows = numbers(rng, False, 5, 33)
    found = {
        "binary": convolution(replace(conv, residual=True, maps="shared")),
        "group maps": convolution(replace(conv, channels=60, groups=3, outputs=33, maps="group", constant_map=True)),
        "float": convolution(replace(conv, kind="FCONV", residual=True, act=2, seed=1)),
        "float depthwise": convolution(replace(conv, kind="FCONV", channels=37, groups=37, seed=2, act=1)),
        "float stride": convolution(replace(conv, kind="FCONV", stride=(2, 2), kernel=(5, 3), seed=3)),
        "int8": convolution(replace(conv, kind="ICONV", channels=37, residual=True, seed=4)),
        "average": pool(1, False),
        "average, whole window": pool(2, False),
        "average, dilated": pool(1, False, dilation=2),
        "softmax": simple("SOFTMAX", [rows], rows.size, [5, 33]),
        "normalized": simple("LAYERNORM", [rows], rows.size, [5, 33], floats=[1e-5]),
        "normalized 2": simple("LAYERNORM", [rows], rows.size, [5, 33], constants=[rows[0], rows[1]], floats=[1e-5]),
        "mean": simple("MEAN", [rows], 5, [5, 33]),
        "matrices": simple(
            "MATMUL", [numbers(rng, False, 2, 9, 21), numbers(rng, False, 2, 21, 35)], 630, [2, 9, 21, 35]
        ),
        "division": simple("BINARY", [x, np.abs(y) + 0.5], 40, [3, 1, 1, 1, 1, 40, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]),
        "magnitude": simple(
            "KMAP", [numbers(rng, False, 5, 6, 46)], 3 * 3 * 2, [5, 6, 46, 2, 8, 3, 3, 2, 2, 1, 1, 1, 1, 3, 3, 1]
        ),
    }
    for kind in range(1, 12):
        source = np.abs(x) if kind == 7 else 3 * x
        found[f"unary {kind}"] = simple("UNARY", [source], 40, [kind, 40], floats=[0.1])
    return found
