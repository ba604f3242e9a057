"""COPY and BINARY with any strides, against the interpreter that was written from the format's description."""

import math

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx_models import session

from bibench.deploy.format import Program
from bibench.deploy.onnx_file import ONNX, onnx_model
from packed_reference import ARENA, FLOAT32, INPUT, OUTPUT, Writer, run

PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def program(counts, outputs):
    """A program in the making: its writer, and its inputs and outputs of these numbers of floats."""

    def ports(kind, sizes):
        return [{"name": f"{kind}{i}", "shape": [size], "dtype": "float32"} for i, size in enumerate(sizes)]

    writer = Writer({"model": "Copies", "layers": [], "inputs": ports("x", counts), "outputs": ports("y", outputs)})
    found = [writer.value(FLOAT32, count, INPUT) for count in counts]
    return writer, found, [writer.value(FLOAT32, count, OUTPUT) for count in outputs]


def check(writer, counts):
    """The program's outputs in ONNX Runtime, for a batch of two, are those of the interpreter; the model."""
    writer.metadata["operations"] = [f"operation {i}" for i in range(len(writer._operations))]
    content = writer.file()
    model = onnx_model(Program.from_bytes(content), ONNX)
    inputs = [np.random.default_rng(i).standard_normal((2, count), np.float32) for i, count in enumerate(counts)]
    answers = session(model).run(None, {f"x{i}": x for i, x in enumerate(inputs)})
    for sample in range(2):
        expected = run(content, [x[sample] for x in inputs])
        for got, want in zip(answers, expected, strict=True):
            np.testing.assert_array_equal(got[sample], want)
    return model


def ops(model):
    return [node.op_type for node in model.graph.node]


def copy_params(entries, read, written, strides=None):
    """Parameters of a COPY of entries (size, stride, low padding, size read)."""
    if strides is None:
        strides = [math.prod(entry[0] for entry in entries[i + 1 :]) for i in range(len(entries))]
    full = [(1, 0, 0, 1)] * (5 - len(entries)) + list(entries)
    columns = [[entry[i] for entry in full] for i in range(4)]
    return [*columns[0], *columns[1], *columns[2], *columns[3], *[0] * (5 - len(entries)), *strides, read, written, 4]


@PROPERTY
@given(st.data())
def test_one_copy(data):
    """With any strides, repeated and overlapping ones among them."""
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    entries, reach = [], 1
    for _ in range(draw(1, 5)):
        size, low, high = draw(1, 3), draw(0, 1), draw(0, 1)
        stride = data.draw(st.sampled_from([0, 1, 2, 3, 4, 6, 12, 24]))
        entries.append((low + size + high, stride, low, size))
        reach += (size - 1) * stride
    offset = draw(0, 5)
    count = max(data.draw(st.sampled_from([24, 48, reach + offset])), reach + offset)
    writer, (x,), (y,) = program([count], [math.prod(entry[0] for entry in entries)])
    writer.operation("COPY", [x, y], params=copy_params(entries, offset, 0))
    check(writer, [count])


@PROPERTY
@given(st.data())
def test_a_copy_of_ranges_is_no_gather(data):
    """Parts of a tensor's dimensions in any order, padded: slices, a transposition and a pad, or less."""
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    shape = data.draw(st.lists(st.integers(2, 4), min_size=1, max_size=4))
    strides = [math.prod(shape[d + 1 :]) for d in range(len(shape))]
    entries, offset = [], 0
    for d in data.draw(st.permutations(range(len(shape)))):
        start = draw(0, shape[d] - 1)
        size, low = draw(1, shape[d] - start), draw(0, 1)
        offset += start * strides[d]
        entries.append((low + size + draw(0, 1), strides[d], low, size))
    count = math.prod(shape)
    writer, (x,), (y,) = program([count], [math.prod(entry[0] for entry in entries)])
    writer.operation("COPY", [x, y], params=copy_params(entries, offset, 0))
    assert "Gather" not in ops(check(writer, [count]))


@PROPERTY
@given(st.data())
def test_several_copies_into_a_buffer(data):
    """Parts beside each other in any order, read straight or transposed, from one input or several, some padded."""
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    rows, inner = draw(1, 3), draw(1, 3)
    widths = data.draw(st.lists(st.integers(1, 3), min_size=2, max_size=3))
    lows = [draw(0, 1) if data.draw(st.booleans()) else 0 for _ in widths]
    whole = sum(widths) + sum(lows)
    counts = [rows * width * inner for width in widths]
    one = data.draw(st.booleans())
    writer, xs, (y,) = program([max(counts)] if one else counts, [rows * whole * inner])
    at = 0
    for i in data.draw(st.permutations(range(len(widths)))):
        width, low = widths[i], lows[i]
        strides = (1, rows * inner, rows) if data.draw(st.booleans()) else (width * inner, inner, 1)
        sizes = ((rows, 0), (width, low), (inner, 0))
        entries = [(low + n, stride, low, n) for (n, low), stride in zip(sizes, strides, strict=True)]
        params = copy_params(entries, 0, at * inner, [whole * inner, inner, 1])
        writer.operation("COPY", [xs[0 if one else i], y], params=params)
        at += low + width
    check(writer, [max(counts)] if one else counts)


def test_a_concatenation_of_maps_is_one():
    writer, (a, b), (y,) = program([12, 24], [36])
    for x, channels, at in ((a, 1, 0), (b, 2, 1)):
        entries = [(12, channels, 0, 12), (channels, 1, 0, channels)]
        writer.operation("COPY", [x, y], params=copy_params(entries, 0, at, [3, 1]))
    assert ops(check(writer, [12, 24])).count("Concat") == 1
    assert "Gather" not in ops(check(writer, [12, 24]))


def test_what_ranges_cannot_say_is_picked():
    writer, (x,), (y,) = program([12], [6])
    writer.operation("COPY", [x, y], params=copy_params([(2, 3, 0, 2), (3, 2, 0, 3)], 1, 0))
    assert "Gather" in ops(check(writer, [12]))


@PROPERTY
@given(st.data())
def test_arithmetic_with_strides(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    sizes = [draw(1, 3) for _ in range(draw(1, 4))]
    columns = [[data.draw(st.sampled_from([0, 1, 2, 3, 6, 12])) for _ in sizes] for _ in range(2)]
    offsets = [draw(0, 3), draw(0, 3)]
    counts = [
        data.draw(st.sampled_from([0, 12])) + at + 1 + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True))
        for strides, at in zip(columns, offsets, strict=True)
    ]
    constant = data.draw(st.booleans())
    params = [draw(0, 5), *[1] * (5 - len(sizes)), *sizes]
    for strides in columns:
        params += [*[0] * (5 - len(sizes)), *strides]
    writer, xs, (y,) = program(counts[:1] if constant else counts, [math.prod(sizes)])
    if constant:
        content = np.random.default_rng(0).uniform(0.5, 2, counts[1])
        writer.operation("BINARY", [xs[0], None, y], [writer.constant(content)], [*params, *offsets])
    else:
        writer.operation("BINARY", [*xs, y], params=[*params, *offsets])
    check(writer, counts[:1] if constant else counts)


def test_a_residual_keeps_the_map_as_it_is():
    """Neither a transposition nor a reshape around the sum of two maps."""
    writer, xs, (y,) = program([24, 24], [24])
    maps = [writer.value(FLOAT32, 24, ARENA) for _ in xs]
    for x, stored in zip(xs, maps, strict=True):
        writer.operation("COPY", [x, stored], params=copy_params([(2, 2, 0, 2), (2, 1, 0, 2), (6, 4, 0, 6)], 0, 0))
    writer.operation("BINARY", [*maps, y], params=[0, 1, 1, 1, 1, 24, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0])
    assert ops(check(writer, [24, 24])).count("Transpose") == 1
