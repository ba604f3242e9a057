"""A packed file as a model: arrays and tensors, checks of what is given, and what is said of files that aren't any."""

import dataclasses
import gc
import importlib

import numpy as np
import pytest
import torch

import bibench
from bibench.deploy.format import PackedError
from bibench.deploy.packed import PackedModel, PackedModule, engine_lacks, load_packed
from bibench.native import NativeError, instruction_sets
from bibench.tasks.digits import digits
from packed_programs import linear, lookup_and_sum, written

WEIGHT = np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)
SHAPE = (1, 8, 8)


@pytest.fixture
def path(tmp_path):
    described = {"algorithm": "bnn", "task": "digits", "labels": list(digits.labels)}
    described["preprocessing"] = digits.preprocessing.model_dump(mode="json")
    return written(tmp_path, linear(WEIGHT, SHAPE, **described))


@pytest.fixture
def model(path):
    return load_packed(path)


def images(count=3):
    return np.random.default_rng(1).standard_normal((count, *SHAPE), np.float32)


def test_arrays_in_arrays_out_and_tensors_in_tensors_out(model):
    given = images()
    expected = given.reshape(3, 64) @ WEIGHT.T
    found = model(given)
    assert isinstance(found, np.ndarray)
    assert (found.shape, found.dtype) == ((3, 10), np.float32)
    assert found == pytest.approx(expected, abs=1e-4)
    tensors = model(torch.from_numpy(given))
    assert isinstance(tensors, torch.Tensor)
    assert np.array_equal(tensors.numpy(), found)
    assert model(given[:0]).shape == (0, 10)


def test_what_is_not_contiguous_is_copied_and_what_is_given_stays_as_it_is(model):
    given = images()
    turned = np.ascontiguousarray(given.transpose(0, 1, 3, 2)).transpose(0, 1, 3, 2)
    kept = turned.copy()
    assert np.array_equal(model(turned), model(given))
    assert np.array_equal(turned, kept)
    tensor = torch.from_numpy(given).requires_grad_()
    found = model(tensor)
    assert not found.requires_grad
    assert np.array_equal(model(torch.from_numpy(given)[:, :, ::2].repeat(1, 1, 2, 1)).shape, (3, 10))


def test_results_outlive_the_next_call_and_the_model(path):
    model = load_packed(path)
    first = model(images())
    kept = first.copy()
    model(-images())
    del model
    gc.collect()
    assert np.array_equal(first, kept)


def test_several_inputs_and_outputs(tmp_path):
    table = np.arange(12, dtype=np.float32).reshape(4, 3)
    model = load_packed(written(tmp_path, lookup_and_sum(table)))
    rows, numbers = np.array([3, 0]), np.ones((2, 3), np.float32)
    found = model(rows, numbers)
    assert isinstance(found, tuple)
    assert np.array_equal(found[0], table[[3, 0]])
    assert np.array_equal(found[1], table[[3, 0]] + 1)
    assert all(isinstance(one, torch.Tensor) for one in model(torch.from_numpy(rows), torch.from_numpy(numbers)))
    with pytest.raises(ValueError, match=r"1 inputs given, expected 2: \(batch\) of int64; \(batch, 3\) of float32"):
        model(rows)
    with pytest.raises(ValueError, match="inputs of 1, 2 samples: expected as many of each"):
        model(rows, numbers[:1])
    with pytest.raises(NativeError, match="4"):
        model(np.array([4]), numbers[:1])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros((2, 8, 8), np.float32), r"input 0 has shape \(2, 8, 8\) of float32: expected \(batch, 1, 8, 8\)"),
        (np.zeros((2, 3, 8, 8), np.float32), r"expected \(batch, 1, 8, 8\) of float32"),
        (np.zeros((2, 1, 8, 8)), r"\(2, 1, 8, 8\) of float64: expected \(batch, 1, 8, 8\) of float32"),
        (np.float32(1.0), "of type float32: expected a NumPy array or a tensor"),
        ([[1.0]], "of type list: expected a NumPy array or a tensor"),
        (torch.zeros(2, 64), r"expected \(batch, 1, 8, 8\) of float32"),
        (torch.zeros(2, 1, 8, 8, device="meta"), "input 0 is on 'meta': expected a tensor on the CPU"),
    ],
)
def test_other_inputs_are_refused_with_what_is_expected(model, given, message):
    with pytest.raises(ValueError, match=message):
        model(given)


def test_what_the_file_says_of_itself(path, model):
    assert (model.algorithm, model.task, model.labels) == ("bnn", "digits", digits.labels)
    assert model.preprocessing == digits.preprocessing
    assert (model.size, model.threads, model.isa) == (path.stat().st_size, 1, instruction_sets()[0])
    assert model.memory >= 4 * WEIGHT.size
    assert model.metadata["operations"] == ["classifier"]
    assert (model.inputs[0].shape, model.outputs[0].shape) == ((1, 8, 8), (10,))
    assert repr(model) == (
        f"<PackedModel (batch, 1, 8, 8) of float32 -> (batch, 10) of float32; {model.size:,} bytes, {model.isa}, "
        "threads: 1>"
    )


def test_a_file_that_says_nothing_of_itself(tmp_path):
    bare = linear(WEIGHT, SHAPE)
    bare.metadata.clear()
    model = load_packed(written(tmp_path, bare))
    assert (model.algorithm, model.task, model.labels, model.preprocessing) == (None, None, (), None)
    assert model(images().reshape(3, 64)).shape == (3, 10)  # flat, as the engine has it


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("threads", [1, 3])
def test_threads_and_instruction_sets(path, isa, threads):
    model = load_packed(path, threads, isa)
    assert (model.isa, model.threads) == (isa, threads)
    assert model(images()) == pytest.approx(images().reshape(3, 64) @ WEIGHT.T, abs=1e-4)


def test_as_a_module_in_a_tasks_evaluation(model):
    module = PackedModule(model)
    assert not module.training
    assert list(module.parameters()) == []
    test = digits.load(None, False).test
    found = digits.evaluate(module, test.batches(100, device=torch.device("cpu")))
    inputs, labels = next(test.batches(360, device=torch.device("cpu")))
    right = (inputs.flatten(1) @ torch.from_numpy(WEIGHT).T).argmax(dim=1) == labels
    assert found.figures["accuracy"] == pytest.approx(100 * right.double().mean().item())


def test_a_prepared_call_keeps_its_memory(model):
    call = model.prepared(images(1).copy())
    gc.collect()
    for _ in range(100):
        call()


def test_a_prepared_call_says_what_goes_wrong(tmp_path):
    model = load_packed(written(tmp_path, lookup_and_sum(np.zeros((4, 3), np.float32))))
    call = model.prepared(np.array([9]), np.ones((1, 3), np.float32))
    with pytest.raises(NativeError, match="9"):
        call()


def test_profile(model):
    found = model.profile(images(), repeats=5)
    assert (found.shape, found.dtype) == ((5, 1), np.float64)
    assert (found >= 0).all()
    assert (found < 0.1).all()
    assert model.profile(*model.example(), repeats=1).shape == (1, 1)
    with pytest.raises(ValueError, match="repeats is 0"):
        model.profile(images(), repeats=0)
    with pytest.raises(ValueError, match="no samples"):
        model.profile(images(0))


def test_files_that_are_none(tmp_path, path):
    with pytest.raises(PackedError, match=r"none\.bibpack: no such file"):
        load_packed(tmp_path / "none.bibpack")
    with pytest.raises(PackedError, match="can't be read"):
        load_packed(tmp_path)
    content = path.read_bytes()
    for name, wrong, message in [
        ("text", b"hello", "text: not a packed file"),
        ("empty", b"", "empty: "),
        ("cut", content[:-1], "cut: .*cut off"),
        ("flipped", content[:-1] + bytes([content[-1] ^ 1]), "flipped: checksum"),
    ]:
        (tmp_path / name).write_bytes(wrong)
        with pytest.raises(PackedError, match=message):
            load_packed(tmp_path / name)


def test_a_program_that_the_engine_refuses_is_named_with_its_file(tmp_path):
    wrong = linear(WEIGHT, SHAPE)
    params = list(wrong.operations[0].params)
    params[4] = 11  # outputs that the value has no room for
    program = dataclasses.replace(wrong, operations=(dataclasses.replace(wrong.operations[0], params=tuple(params)),))
    with pytest.raises(PackedError, match=r"model\.bibpack: .*operation 0"):
        load_packed(written(tmp_path, program))


def test_a_preprocessing_that_is_not_understood_is_refused(tmp_path):
    path = written(tmp_path, linear(WEIGHT, SHAPE, preprocessing={"kind": "sound"}))
    with pytest.raises(PackedError, match=r"model\.bibpack: its preprocessing is not understood"):
        load_packed(path)


def test_settings_that_are_not_there(path):
    with pytest.raises(NativeError, match="isa='sse9': expected one of"):
        load_packed(path, isa="sse9")
    with pytest.raises(NativeError, match="threads=0: expected 1 to 256"):
        load_packed(path, threads=0)


def test_without_an_engine_it_is_said_what_to_do(path, monkeypatch):
    assert engine_lacks() is None
    engine = importlib.import_module("bibench.native.engine")
    engine._library.cache_clear()
    try:
        monkeypatch.setattr(engine, "library_path", lambda: path.with_name("none.so"))
        assert "the packed engine is not built" in engine_lacks()
        with pytest.raises(NativeError, match="is not built"):
            load_packed(path)
    finally:
        monkeypatch.undo()
        engine._library.cache_clear()
    assert PackedModel(path.read_bytes())(images()).shape == (3, 10)


def test_it_is_in_the_package():
    assert bibench.load_packed is load_packed
