"""Every instruction set against the interpreter in NumPy that was written from the format's description."""

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from native_programs import convolution, exact_programs, rounded_programs, simple
from random_shapes import convolutions

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


def test_gelu_is_the_formula_with_an_error_function_that_is_rounded_right(engine):
    """But for a few numbers on which roundings meet: then by the last bit of ``1 + erf``."""
    special = [math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-38, -1e-30, 3e38, -3e38]
    turn = np.linspace(5.5, 5.6, 10_001)
    x = np.concatenate([np.linspace(-8, 8, 20_001), turn, -turn, special]).astype(np.float32)
    erf = np.array([math.erf(v) for v in x * np.float32(math.sqrt(0.5))], dtype=np.float32)
    with np.errstate(invalid="ignore"):
        want = np.float32(0.5) * x * (1 + erf)
    program = simple("UNARY", [x], x.size, [1, x.size])
    for isa in engine.instruction_sets():
        for threads in (1, 3):
            (got,) = run(engine, program, isa, threads)
            other = np.flatnonzero((got.view("u4") != want.view("u4")) & ~(np.isnan(got) & np.isnan(want)))
            assert len(other) < 0.0005 * len(x), isa
            bound = 2.0**-24 * np.abs(x[other]) + np.spacing(np.abs(want[other]))
            assert (np.abs(got[other] - want[other]) <= bound).all(), isa
            assert ((got < 0) == (want < 0)).all(), isa


def test_an_index_outside_the_table_ends_the_run_and_the_next_one_works(engine):
    data, _ = EXACT["embedding"]
    model = engine.Engine(data)
    for bad in (-1, 4):
        with pytest.raises(engine.NativeError, match=str(bad)):
            model.run([np.array([0, 0, bad, 0])], 1)
    assert_same_bits(model.run([np.array([3, 0, 2, 9])], 1), reference.run(*EXACT["embedding"]), "after an error")


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
