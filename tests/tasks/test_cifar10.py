"""CIFAR-10: both published layouts, parts of the data set, and files that are damaged or hostile."""

import hashlib
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bibench import registry
from bibench.tasks import cifar10 as module
from bibench.tasks import corruption_cache
from bibench.tasks.base import DataError
from bibench.tasks.cifar10 import cifar10
from bibench.tasks.corruptions import CORRUPTIONS, corrupt

NAMES = [f"data_batch_{number}" for number in range(1, 6)] + ["test_batch"]


def _rows(count, seed=0):
    """Random pixels; the labels go round."""
    pixels = np.random.default_rng(seed).integers(256, size=(count, 3072), dtype=np.uint8)
    return pixels, np.arange(count) % 10


def _pickled(pixels, labels, protocol=2):
    return pickle.dumps({b"data": pixels, b"labels": [int(label) for label in labels]}, protocol=protocol)


def _binary(pixels, labels):
    return np.hstack([labels[:, None].astype(np.uint8), pixels]).tobytes()


@pytest.fixture
def python_folder(tmp_path):
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        (folder / name).write_bytes(_pickled(*_rows(20, seed)))
    return folder


@pytest.fixture
def binary_folder(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for seed, name in enumerate(NAMES):
        (folder / f"{name}.bin").write_bytes(_binary(*_rows(20, seed)))
    return folder


def test_both_layouts_hold_the_same_data_set(python_folder, binary_folder):
    python, binary = cifar10.load(python_folder, True), cifar10.load(binary_folder, True)
    assert python.fingerprint == binary.fingerprint
    assert torch.equal(python.train.images, binary.train.images)
    pixels, labels = _rows(20, seed=2)
    assert torch.equal(python.train.images[40:60], torch.from_numpy(pixels).view(-1, 3, 32, 32))
    assert python.train.labels[40:60].tolist() == labels.tolist()
    assert (len(python.train), len(python.test), python.outputs) == (100, 20, 10)
    assert (python.train.pad, python.train.flip, python.test.pad, python.test.flip) == (4, True, 0, False)


def test_the_folder_above_is_accepted_too(python_folder):
    assert cifar10.load(python_folder.parent, True).fingerprint == cifar10.load(python_folder, True).fingerprint


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_reads_every_pickle_protocol(python_folder, protocol):
    """Protocols up to 2, as the original has, write bytes as a call of ``_codecs.encode`` or as a Python 2 string."""
    before = cifar10.load(python_folder, True).fingerprint
    (python_folder / "test_batch").write_bytes(_pickled(*_rows(20, 5), protocol))
    assert cifar10.load(python_folder, True).fingerprint == before


@pytest.mark.parametrize("old", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_reads_what_either_numpy_wrote(python_folder, old):
    content = _pickled(*_rows(20, 5), protocol=0)
    written = b"numpy._core.multiarray" if b"numpy._core.multiarray" in content else b"numpy.core.multiarray"
    (python_folder / "test_batch").write_bytes(content.replace(written, old))
    assert len(cifar10.load(python_folder, True).test) == 20


def _original(monkeypatch, folder, rows):
    """Declare what lies in the folder to be the original data set."""
    md5 = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    python = module._VERSIONS[0]
    declared = module._Version(folder=python.folder, suffix="", read=python.read, md5=md5)
    monkeypatch.setattr(module, "_VERSIONS", (declared, module._VERSIONS[1]))
    monkeypatch.setattr(module, "_ROWS", rows)


@pytest.mark.parametrize("subset", [False, True])
def test_the_original_needs_no_note(monkeypatch, python_folder, subset):
    _original(monkeypatch, python_folder, rows=20)
    data = cifar10.load(python_folder, subset)
    assert (len(data.train), len(data.test), data.notes) == (100, 20, ())


def test_the_original_binary_files_are_known_by_rows_and_class_counts(monkeypatch, binary_folder):
    monkeypatch.setattr(module, "_ROWS", 20)
    assert cifar10.load(binary_folder, False).notes == ()
    pixels, labels = _rows(20, 5)
    labels[0] = 9
    (binary_folder / "test_batch.bin").write_bytes(_binary(pixels, labels))
    with pytest.raises(DataError, match=r"has 1, 2, .*, 3 images of the classes 0 to 9, the original has 2 of each"):
        cifar10.load(binary_folder, False)
    (binary_folder / "test_batch.bin").write_bytes(_binary(*_rows(10, 5)))
    with pytest.raises(DataError, match=r"test_batch.bin has 10 images, the original has 20.*--allow-subset"):
        cifar10.load(binary_folder, False)


def test_a_wrong_checksum_is_named_with_both(python_folder):
    found = hashlib.md5((python_folder / "data_batch_1").read_bytes()).hexdigest()
    with pytest.raises(DataError) as error:
        cifar10.load(python_folder, False)
    for part in ("data_batch_1", found, "c99cafc152244af753f735de768cd75f", "cifar-10-batches-py/", "--allow-subset"):
        assert part in str(error.value)


def test_a_missing_batch_is_an_error_or_a_note(monkeypatch, python_folder):
    _original(monkeypatch, python_folder, rows=20)
    (python_folder / "data_batch_4").unlink()
    with pytest.raises(DataError, match=r"data_batch_4 is missing.*--allow-subset"):
        cifar10.load(python_folder, False)
    data = cifar10.load(python_folder, True)
    assert len(data.train) == 80
    assert data.notes == ("80 of 50,000 training and 20 of 10,000 test images",)


@pytest.mark.parametrize("missing", [NAMES[:5], NAMES[5:]])
def test_a_part_needs_a_training_batch_and_the_test_batch(python_folder, missing):
    for name in missing:
        (python_folder / name).unlink()
    with pytest.raises(DataError, match=f"has no image in {missing[0]}"):
        cifar10.load(python_folder, True)


def test_no_folder_and_an_empty_folder_are_explained(tmp_path):
    with pytest.raises(DataError, match=r"--data DIR(.|\n)*cifar-10-batches-py/"):
        cifar10.load(None, False)
    with pytest.raises(DataError, match=r"no CIFAR-10 batch in .*(.|\n)*cifar-10-batches-py/"):
        cifar10.load(tmp_path, True)


class _Hostile:
    """Pickled, it is an order to call a function."""

    def __init__(self, function, *arguments):
        self.order = (function, arguments)

    def __reduce__(self):
        return self.order


@pytest.mark.parametrize("subset", [False, True])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_does_nothing(python_folder, tmp_path, subset, protocol):
    mark = tmp_path / "mark"
    hostile = pickle.dumps({b"data": _Hostile(os.system, f"touch {mark}"), b"labels": []}, protocol=protocol)
    (python_folder / "data_batch_1").write_bytes(hostile)
    with pytest.raises(DataError, match="data_batch_1") as error:
        cifar10.load(python_folder, subset)
    assert not mark.exists()
    if subset:
        assert f"{os.name}.system" in str(error.value)
    pickle.loads(hostile)  # the same bytes do harm where any name is let in
    assert mark.exists()


@pytest.mark.parametrize(
    "name", [(eval, "1"), (getattr, "", "join"), (__import__, "os"), (np.load, "x"), (np.fromfile, "x"), (bytes, 3)]
)
def test_any_other_name_is_refused(python_folder, name):
    function, *arguments = name
    (python_folder / "test_batch").write_bytes(pickle.dumps(_Hostile(function, *arguments), protocol=4))
    with pytest.raises(DataError, match=rf"test_batch: .* refers to .*{function.__name__}"):
        cifar10.load(python_folder, True)


def test_bytes_cannot_pose_as_pointers_to_objects(python_folder):
    """numpy's constructor would believe a pickle that hands it bytes as an array of Python objects."""
    order = pickle.dumps(_Hostile(np.ndarray, (1, 3072), "O", b"\1" * 8 * 3072), protocol=4)
    (python_folder / "test_batch").write_bytes(order)
    with pytest.raises(DataError, match="test_batch: cannot be read as a CIFAR-10 batch"):
        cifar10.load(python_folder, True)


def test_an_array_stored_by_columns_is_read_alike(python_folder):
    before = cifar10.load(python_folder, True).fingerprint
    pixels, labels = _rows(20, 5)
    (python_folder / "test_batch").write_bytes(_pickled(np.asfortranarray(pixels), labels))
    assert cifar10.load(python_folder, True).fingerprint == before


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 0.999))
def test_a_truncated_batch_is_refused(python_folder, share):
    content = _pickled(*_rows(20, 5))
    (python_folder / "test_batch").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"test_batch: cannot be read as a CIFAR-10 batch.*unpack it again"):
        cifar10.load(python_folder, True)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([], "not a CIFAR-10 batch"),
        ({b"data": _rows(2)[0]}, "not a CIFAR-10 batch"),
        ({b"data": 3, b"labels": [0]}, "'data' is of type int"),
        ({b"data": np.zeros((2, 3072)), b"labels": [0, 1]}, "array of type 'f8', expected 'u1'"),
        ({b"data": np.zeros((2, 9), np.uint8), b"labels": [0, 1]}, r"of shape \(2, 9\), expected .* 3072"),
        ({b"data": _rows(2)[0], b"labels": [0, 10]}, "'labels' is not a list of whole numbers from 0 to 9"),
        ({b"data": _rows(2)[0], b"labels": [0, -1]}, "'labels' is not"),
        ({b"data": _rows(2)[0], b"labels": "01"}, "'labels' is not"),
        ({b"data": _rows(2)[0], b"labels": [0, 1.0]}, "'labels' is not"),
        ({b"data": _rows(2)[0], b"labels": [0]}, "2 images but 1 labels"),
    ],
)
def test_other_content_is_refused(python_folder, batch, message):
    (python_folder / "data_batch_2").write_bytes(pickle.dumps(batch, protocol=2))
    with pytest.raises(DataError, match=f"data_batch_2: .*{message}.*unpack it again"):
        cifar10.load(python_folder, True)


def test_damaged_binary_files_are_refused(binary_folder):
    path = binary_folder / "data_batch_3.bin"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin: 61,459 bytes are not a whole number of rows of 3,073"):
        cifar10.load(binary_folder, True)
    content[3 * 3073] = 10
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"data_batch_3.bin: row 3 has label 10, expected 0 to 9"):
        cifar10.load(binary_folder, True)


def test_corrupted_images_are_generated_and_kept(python_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "cache"))
    data = cifar10.load(python_folder, True)
    for _ in range(2):
        corrupted = data.corrupted("frost", 4)
        assert corrupted.origin == "generated"
        assert torch.equal(corrupted.split.labels, data.test.labels)
        expected = corrupt(data.test.images.permute(0, 2, 3, 1).numpy(), "frost", 4)
        assert np.array_equal(corrupted.split.images.permute(0, 2, 3, 1).numpy(), expected)
        assert (corrupted.split.mean, corrupted.split.pad) == (data.test.mean, 0)
    assert [path.name for path in tmp_path.rglob("*.npy")] == ["frost-4.npy"]


@pytest.mark.parametrize("beside", [False, True])
def test_original_corrupted_images_are_used_if_they_are_there(python_folder, monkeypatch, tmp_path, beside):
    monkeypatch.setattr(corruption_cache, "_ROWS", 30)  # of which the test batch has the first 20
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(256, size=(150, 32, 32, 3), dtype=np.uint8)
    for name in CORRUPTIONS:
        np.save(folder / f"{name}.npy", pixels)
    np.save(folder / "labels.npy", np.tile(np.arange(30) % 10, 5).astype(np.uint8))
    root = python_folder if beside else tmp_path
    data = cifar10.load(root, True)
    corrupted = data.corrupted("fog", 2)
    assert corrupted.origin == "original files"
    assert np.array_equal(corrupted.split.images.permute(0, 2, 3, 1).numpy(), pixels[30:50])
    assert torch.equal(corrupted.split.labels, data.test.labels)
    inputs, _ = next(corrupted.split.batches(20, device=torch.device("cpu")))
    assert inputs[3, 1, 5, 6].item() == pytest.approx((pixels[33, 5, 6, 1] / 255 - 0.4822) / 0.2435, rel=1e-4)
    assert not (tmp_path / "cache").exists()
    (folder / "fog.npy").unlink()
    with pytest.raises(DataError, match=r"CIFAR-10-C/fog.npy is missing"):
        cifar10.load(root, True)
    np.save(folder / "fog.npy", pixels)
    np.save(folder / "labels.npy", np.zeros(150, np.uint8))
    with pytest.raises(DataError, match=r"labels.npy: row 1 has label 0, test image 1 has 1"):
        cifar10.load(root, True)


def test_recipes_are_the_published_ones():
    full, binarized = cifar10.full_precision, cifar10.binarized
    assert (full.optimizer.lr, full.optimizer.momentum, full.optimizer.weight_decay) == (0.1, 0.9, 1e-4)
    assert (binarized.optimizer.lr, binarized.optimizer.weight_decay) == (1e-3, 0)
    assert full.epochs == binarized.epochs == 200
    assert full.batch_size == binarized.batch_size == 128
    assert full.schedule == binarized.schedule
    assert full.schedule.name == "cosine"
    assert registry.get("tasks", "cifar10") is cifar10
    assert all(registry.get("architectures", name).modality == "image" for name in cifar10.architectures)


def test_real_subset(real_data, tmp_path):
    folder = real_data / "cifar-10-lossless-subset"
    data = cifar10.load(folder, True)
    assert (len(data.train), len(data.test)) == (7051, 1017)
    assert data.notes == (
        "7,051 of 50,000 training and 1,017 of 10,000 test images; checksums differ from the original",
    )
    assert data.test.labels[:5].tolist() == [3, 8, 8, 0, 6]  # cat, ship, ship, airplane, frog
    assert data.train.labels[:5].tolist() == [6, 9, 9, 4, 1]  # frog, truck, truck, deer, automobile
    images, _ = next(data.train.batches(7000, device=torch.device("cpu"), seed=0))
    assert images.mean().abs() < 0.35  # black borders pull it below 0
    images, _ = next(data.test.batches(1017, device=torch.device("cpu")))
    assert images.mean(dim=(0, 2, 3)) == pytest.approx(0, abs=0.1)
    assert images.std(dim=(0, 2, 3)) == pytest.approx(1, abs=0.1)
    with pytest.raises(DataError, match=r"data_batch_1 has MD5 \w{32}, the original has c99cafc1.*--allow-subset"):
        cifar10.load(folder, False)

    copy = tmp_path / "copy"
    shutil.copytree(folder / "cifar-10-batches-py", copy)
    content = (copy / "data_batch_2").read_bytes()
    for length in (0, 1000, len(content) // 2, len(content) - 1):
        (copy / "data_batch_2").write_bytes(content[:length])
        with pytest.raises(DataError, match="data_batch_2"):
            cifar10.load(copy, True)
