"""Corrupted images that are kept, and CIFAR-10-C's own files: whole, damaged, hostile and missing."""

import errno
import io
import multiprocessing
import os
import pickle
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bibench.tasks import cache
from bibench.tasks import corruption_cache as module
from bibench.tasks.base import DataError
from bibench.tasks.classification import fingerprint
from bibench.tasks.corruption_cache import Originals, generated
from bibench.tasks.corruptions import CORRUPTIONS, corrupt

IMAGES = np.random.default_rng(0).integers(256, size=(3, 8, 8, 3), dtype=np.uint8)


@pytest.fixture
def folder(monkeypatch, tmp_path):
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def calls(monkeypatch):
    """The corruptions that were computed."""
    computed = []

    def counted(images, name, severity):
        computed.append((name, severity))
        return corrupt(images, name, severity)

    monkeypatch.setattr(module, "corrupt", counted)
    return computed


def test_is_generated_once(folder, calls):
    expected = corrupt(IMAGES, "snow", 2)
    for _ in range(3):
        found = generated(IMAGES, "snow", 2)
        assert np.array_equal(found, expected)
        assert isinstance(found, np.memmap)
        found[:] = 0  # a private copy: neither the file nor the next reader sees it
    assert calls == [("snow", 2)]
    path = folder / "corruptions" / f"{fingerprint(IMAGES)}-v1" / "snow-2.npy"
    assert [file for file in folder.rglob("*") if file.is_file()] == [path]
    assert np.array_equal(np.load(path, allow_pickle=False), expected)


def test_other_images_names_severities_and_versions_are_kept_apart(folder, calls, monkeypatch):
    for images, name, severity in (
        (IMAGES, "fog", 1),
        (IMAGES, "fog", 2),
        (IMAGES, "snow", 1),
        (255 - IMAGES, "fog", 1),
    ):
        assert np.array_equal(generated(images, name, severity), corrupt(images, name, severity))
    monkeypatch.setattr(module, "_VERSION", 2)
    generated(IMAGES, "fog", 1)
    assert len(calls) == 5
    assert len(list(folder.rglob("*.npy"))) == 5


def _saved(array, **options):
    content = io.BytesIO()
    np.save(content, array, **options)
    return content.getvalue()


class _Hostile:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (self.mark,)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY",
        b"PK\x03\x04",
        b"noise" * 100,
        _saved(IMAGES)[:-1],
        _saved(IMAGES).replace(b"(3, 8, 8, 3)", b"(3, 8, 8, 3(").replace(b"'shape'", b"'shap\xff'"),
        _saved(IMAGES[:2]),
        _saved(IMAGES.astype(np.int8)),
        _saved(IMAGES.astype(float)),
    ],
)
def test_a_damaged_file_is_replaced(folder, calls, content):
    generated(IMAGES, "fog", 1)
    (path,) = folder.rglob("fog-1.npy")
    path.write_bytes(content)
    for _ in range(2):
        assert np.array_equal(generated(IMAGES, "fog", 1), corrupt(IMAGES, "fog", 1))
    assert len(calls) == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 127), value=st.integers(0, 255))
def test_a_damaged_header_is_no_error(folder, position, value):
    generated(IMAGES, "contrast", 1)
    (path,) = folder.rglob("contrast-1.npy")
    content = bytearray(path.read_bytes())
    content[position] = value
    path.write_bytes(content)
    found = generated(IMAGES, "contrast", 1)
    assert (found.dtype, found.shape) == (np.uint8, IMAGES.shape)


def test_no_pickle_is_loaded(folder, tmp_path):
    generated(IMAGES, "fog", 1)
    (path,) = folder.rglob("fog-1.npy")
    for content in (
        pickle.dumps(_Hostile(tmp_path / "mark")),
        _saved(np.array([_Hostile(tmp_path / "mark")]), allow_pickle=True),
    ):
        path.write_bytes(content)
        assert np.array_equal(generated(IMAGES, "fog", 1), corrupt(IMAGES, "fog", 1))
        assert not (tmp_path / "mark").exists()
    pickle.loads(pickle.dumps(_Hostile(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


def _generate(barrier, results):
    barrier.wait()
    found = [
        np.array_equal(generated(IMAGES, "fog", severity), corrupt(IMAGES, "fog", severity)) for severity in (1, 2, 3)
    ]
    results.put(all(found))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="starts processes by fork")
def test_processes_at_once_do_not_disturb_each_other(folder):
    context = multiprocessing.get_context("fork")
    barrier, results = context.Barrier(4), context.Queue()
    processes = [context.Process(target=_generate, args=(barrier, results)) for _ in range(4)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that this process has threads
        for process in processes:
            process.start()
    assert [results.get(timeout=60) for _ in processes] == [True] * 4
    for process in processes:
        process.join()
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == ["fog-1.npy", "fog-2.npy", "fog-3.npy"]


def test_a_folder_that_cannot_be_written_is_told_once(monkeypatch, tmp_path, calls):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "file"))
    expected = corrupt(IMAGES, "fog", 1)
    with pytest.warns(UserWarning, match=r"cannot be kept in .*file: .*made anew.* BIBENCH_CACHE"):
        assert np.array_equal(generated(IMAGES, "fog", 1), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(generated(IMAGES, "fog", 1), expected)
    assert len(calls) == 2


def test_a_full_disk_is_no_error(folder, monkeypatch):
    def full(path, write):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "atomic_write", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        assert np.array_equal(generated(IMAGES, "fog", 1), corrupt(IMAGES, "fog", 1))


def test_wrong_arguments_touch_no_file(folder):
    for images, name, severity in ((IMAGES, "frog", 1), (IMAGES, "fog", 6), (IMAGES[0], "fog", 1)):
        with pytest.raises(ValueError, match=r"did you mean|severity|images must be"):
            generated(images, name, severity)
    assert not folder.exists()


ROWS = 20
LABELS = (np.arange(ROWS) * 7 % 10).astype(np.int64)


def _pixels(number):
    """What the made file number ``number`` holds: row r of severity s has the value 40 s + 2 r + number % 2."""
    rows = np.repeat(np.arange(5) * 40, ROWS) + np.tile(np.arange(ROWS) * 2, 5) + number % 2
    return np.broadcast_to(rows.astype(np.uint8)[:, None, None, None], (5 * ROWS, 32, 32, 3))


@pytest.fixture
def originals(monkeypatch, tmp_path):
    """CIFAR-10-C with 20 images a severity."""
    monkeypatch.setattr(module, "_ROWS", ROWS)
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    for number, name in enumerate(CORRUPTIONS):
        np.save(folder / f"{name}.npy", _pixels(number))
    np.save(folder / "labels.npy", np.tile(LABELS, 5).astype(np.uint8))
    return folder


@pytest.mark.parametrize("samples", [ROWS, 7])
def test_originals_give_a_severitys_first_rows(originals, samples):
    read = Originals(originals, LABELS[:samples])
    for name, severity in (("gaussian_noise", 1), ("shot_noise", 5), ("jpeg_compression", 3)):
        found = read(name, severity)
        assert isinstance(found, np.memmap)
        expected = _pixels(CORRUPTIONS.index(name))[(severity - 1) * ROWS :][:samples]
        assert np.array_equal(found, expected)
    with pytest.raises(ValueError, match="did you mean 'fog'"):
        read("fogg", 1)
    with pytest.raises(ValueError, match="severity"):
        read("fog", 0)


def test_a_missing_original_is_named(originals, tmp_path):
    for name in (*CORRUPTIONS, "labels"):
        path = (originals / f"{name}.npy").rename(tmp_path / "away")
        with pytest.raises(DataError, match=rf"CIFAR-10-C/{name}.npy is missing.*generated(.|\n)*labels.npy   uint8"):
            Originals(originals, LABELS)
        path.rename(originals / f"{name}.npy")
    Originals(originals, LABELS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (_saved(np.zeros((100, 32, 32, 3))), r"is float64 of shape \(100, 32, 32, 3\), expected uint8 of \(100, 32"),
        (_saved(np.zeros((100, 32, 32, 3), np.int8)), "is int8 of shape"),
        (_saved(np.zeros((20, 32, 32, 3), np.uint8)), r"is uint8 of shape \(20, 32, 32, 3\), expected"),
        (_saved(np.zeros((100, 3, 32, 32), np.uint8)), r"is uint8 of shape \(100, 3, 32, 32\), expected"),
        (_saved(np.zeros((100, 32, 32, 3), np.uint8))[:-1], "cannot be read as an array"),
        (b"", "cannot be read as an array"),
        (b"PK\x03\x04", "cannot be read as an array"),
    ],
)
def test_wrong_originals_are_named(originals, content, message):
    (originals / "frost.npy").write_bytes(content)
    with pytest.raises(DataError, match=f"CIFAR-10-C/frost.npy:? {message}"):
        Originals(originals, LABELS)


def test_an_archive_of_arrays_is_no_original(originals):
    with (originals / "frost.npy").open("wb") as file:
        np.savez(file, np.zeros((100, 32, 32, 3), np.uint8))
    with pytest.raises(DataError, match=r"frost.npy is not one array"):
        Originals(originals, LABELS)


def test_hostile_originals_are_refused(originals, tmp_path):
    for name in ("frost", "labels"):
        good = (originals / f"{name}.npy").read_bytes()
        for content in (
            pickle.dumps(_Hostile(tmp_path / "mark")),
            _saved(np.array([_Hostile(tmp_path / "mark")]), allow_pickle=True),
        ):
            (originals / f"{name}.npy").write_bytes(content)
            with pytest.raises(DataError, match=f"{name}.npy: cannot be read as an array"):
                Originals(originals, LABELS)
        (originals / f"{name}.npy").write_bytes(good)
    assert not (tmp_path / "mark").exists()
    Originals(originals, LABELS)


def test_other_labels_are_named(originals):
    labels = np.load(originals / "labels.npy")
    labels[2 * ROWS + 5] ^= 1
    np.save(originals / "labels.npy", labels)
    found, expected = labels[2 * ROWS + 5], LABELS[5]
    with pytest.raises(DataError, match=rf"labels.npy: row 45 has label {found}, test image 5 has {expected}"):
        Originals(originals, LABELS)
    Originals(originals, LABELS[:5])  # the row isn't used
    np.save(originals / "labels.npy", labels.astype(np.int64))
    with pytest.raises(DataError, match=r"labels.npy is int64 of shape \(100,\), expected uint8 of \(100,\)"):
        Originals(originals, LABELS[:5])


def test_more_test_images_than_originals(originals):
    with pytest.raises(DataError, match="has 20 images a severity, but there are 21 test images"):
        Originals(originals, np.zeros(ROWS + 1, dtype=np.int64))


def test_the_true_layout(tmp_path):
    """50,000 rows; the file has holes, so it takes no space."""
    sparse = np.lib.format.open_memmap(tmp_path / "fog.npy", mode="w+", dtype=np.uint8, shape=(50_000, 32, 32, 3))
    sparse[40_000:40_003] = 9
    del sparse
    for name in CORRUPTIONS:
        if name != "fog":
            (tmp_path / f"{name}.npy").symlink_to(tmp_path / "fog.npy")
    labels = np.arange(10_000) % 10
    np.save(tmp_path / "labels.npy", np.tile(labels, 5).astype(np.uint8))
    found = Originals(tmp_path, labels)("snow", 5)
    assert found.shape == (10_000, 32, 32, 3)
    assert (found[:3] == 9).all()
    assert (found[3:6] == 0).all()
