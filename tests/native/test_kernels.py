"""Every instruction set against the interpreter in NumPy that was written from the format's description."""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from native_programs import Convolution, convolution, exact_programs, rounded_programs

import packed_reference as reference

EXACT, ROUNDED = exact_programs(), rounded_programs()


def run(engine, program, isa, threads=1):
    data, inputs = program
    flat = [np.ascontiguousarray(array).reshape(-1) for array in inputs]
    return engine.Engine(data, isa=isa, threads=threads).run(flat, 1)


def assert_same_bits(got, want, message):
    for number, (a, b) in enumerate(zip(got, want, strict=True)):
        assert a.dtype == b.dtype, message
        different = np.flatnonzero(a.view(f"u{a.itemsize}") != b.view(f"u{b.itemsize}"))
        first = different[:1]
        assert different.size == 0, (
            f"{message}: output {number}, {different.size} of {a.size} numbers differ, first number {first}: "
            f"{a[first]}, expected {b[first]}"
        )


@pytest.mark.parametrize("name", EXACT)
def test_exact_programs_give_the_references_bits(engine, name):
    want = reference.run(*EXACT[name])
    for isa in engine.instruction_sets():
        for threads in (1, 3):
            assert_same_bits(run(engine, EXACT[name], isa, threads), want, f"{name}, {isa}, {threads} threads")


@pytest.mark.parametrize("name", ROUNDED)
def test_other_programs_differ_by_rounding_only(engine, name):
    want = reference.run(*ROUNDED[name])
    for isa in engine.instruction_sets():
        for got, expected in zip(run(engine, ROUNDED[name], isa, 2), want, strict=True):
            np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6 * np.abs(expected).max(), err_msg=isa)


@pytest.mark.parametrize("name", ["chain", "groups", "bits only", "bit pool", "product 01", "zero-one"])
def test_every_value_on_the_way_is_the_references(engine, name):
    data, inputs = EXACT[name]
    program, written = reference.parse(data), reference.trace(data, inputs)
    for isa in engine.instruction_sets():
        model, seen = engine.Engine(data, isa=isa), []

        def compare(operation, model=model, seen=seen):
            for index, content in written[operation].items():
                value = program.values[index]
                found = model.value(index, value.count, value.type)
                assert_same_bits([found], [content], f"operation {operation}, value {index}")
            seen.append(operation)

        model.observe([np.ascontiguousarray(array).reshape(-1) for array in inputs], compare)
        assert seen == list(range(len(program.operations)))


def test_a_batch_is_its_samples(engine):
    data, (image,) = EXACT["chain"]
    images = np.stack([image, image[::-1], -image])
    want = [reference.run(data, [sample])[0] for sample in images]
    for isa in engine.instruction_sets():
        (got,) = engine.Engine(data, isa=isa, threads=2).run([np.ascontiguousarray(images).reshape(-1)], 3)
        assert_same_bits([got], [np.concatenate(want)], isa)


def test_an_index_outside_the_table_ends_the_run_and_the_next_one_works(engine):
    data, _ = EXACT["embedding"]
    model = engine.Engine(data)
    for bad in (-1, 4):
        with pytest.raises(engine.NativeError, match=str(bad)):
            model.run([np.array([0, 0, bad, 0])], 1)
    assert_same_bits(model.run([np.array([3, 0, 2, 9])], 1), reference.run(*EXACT["embedding"]), "after an error")


def pair(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw):
    kind = draw(st.sampled_from(["BCONV", "BCONV", "BCONV", "FCONV", "ICONV"]))
    size = st.one_of(st.integers(1, 40), st.sampled_from([32, 64, 96, 128, 33, 65]))
    groups, depthwise = 1, False
    channels, outputs = draw(size), draw(st.one_of(st.integers(1, 70), st.sampled_from([32, 64, 96])))
    if kind != "ICONV":
        shape = draw(st.sampled_from(["plain", "plain", "groups", "groups of words", "depthwise"]))
        depthwise = shape == "depthwise"
        if depthwise:
            groups = outputs = channels = draw(st.integers(2, 100))
        elif shape != "plain":
            groups = draw(st.integers(2, 4))
            each = 32 * draw(st.integers(1, 2)) if shape == "groups of words" else draw(st.integers(2, 40))
            channels = groups * each
            outputs = groups * draw(st.one_of(st.integers(1, 40), st.sampled_from([32, 64])))
    may_be_bits = groups == 1 or depthwise or (outputs // groups) % 32 == 0
    bits_out = draw(st.one_of(st.none(), st.tuples(*[st.integers(0, 2)] * 4))) if may_be_bits else None
    c = Convolution(
        kind=kind,
        height=draw(st.integers(1, 9)),
        width=draw(st.integers(1, 20)),
        channels=channels,
        groups=groups,
        outputs=outputs,
        kernel=draw(st.one_of(st.just((1, 1)), st.just((3, 3)), pair(1, 5))),
        stride=draw(st.one_of(st.just((1, 1)), pair(1, 3))),
        dilation=draw(st.one_of(st.just((1, 1)), pair(1, 3))),
        padding=draw(pair(0, 4)),
        spare=draw(st.one_of(st.just((0, 0, 0, 0)), st.tuples(*[st.integers(0, 2)] * 4))),
        pad_value=draw(st.integers(-1, 1)),
        operand=draw(st.integers(0, 1)),
        scale=draw(st.booleans()),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        act=draw(st.integers(0, 2)),
        maps=draw(st.sampled_from(["none", "one", "shared"] + ["group"] * (not depthwise))),
        constant_map=draw(st.booleans()),
        threshold=draw(st.booleans()),
        float_out=bits_out is None or draw(st.booleans()),
        bits_out=bits_out,
        seed=draw(st.integers(0, 1000)),
    )
    assume(min(c.size) >= 1)
    return c


def check(engine, shape, threads):
    program = convolution(shape)
    want = reference.run(*program)
    for isa in engine.instruction_sets():
        assert_same_bits(run(engine, program, isa, threads), want, f"{shape}, {isa}, {threads} threads")


SETTINGS = {
    "deadline": None,
    "print_blob": False,
    "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
}


@settings(max_examples=100, derandomize=True, **SETTINGS)
@given(shape=convolutions(), threads=st.sampled_from([1, 1, 2, 5]))
def test_convolutions_of_any_shape(engine, shape, threads):
    check(engine, shape, threads)


@pytest.mark.slow
@settings(max_examples=3000, **SETTINGS)
@given(shape=convolutions(), threads=st.sampled_from([1, 1, 2, 5]))
def test_many_more_convolutions(engine, shape, threads):
    check(engine, shape, threads)


def test_without_the_library_the_error_says_what_to_do(monkeypatch, tmp_path):
    from bibench.native import engine

    missing = tmp_path / "libbibench_engine.so"
    monkeypatch.setattr(engine, "library_path", lambda: missing)
    load = engine._library.__wrapped__  # not the one that is kept for the whole process
    with pytest.raises(engine.NativeError) as raised:
        load()
    assert str(missing) in str(raised.value)
    assert "is not built" in str(raised.value)
    assert "Install a C++17 compiler" in str(raised.value)
    missing.write_bytes(b"no library")
    with pytest.raises(engine.NativeError, match=r"can't be loaded: .*install bibench again"):
        load()
