"""CIFAR-10 from its original files, either the Python or the binary version.

The Python version consists of pickles, which can run any code when loaded. They are read by an unpickler that knows
the few names of which an array of bytes consists, puts its own stand-ins in their place, and refuses all others.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.datasets import CIFAR10

from bibench.recipes import SGD, Adam, Cosine, Recipe
from bibench.tasks.base import Corrupted, Data, DataError, Task
from bibench.tasks.classification import ACCURACY, ImagesInMemory, commonest, evaluate, fingerprint, loss
from bibench.tasks.corruption_cache import Originals, generated
from bibench.tasks.preprocessing import Preprocessing

__all__ = ["cifar10"]

_ROWS = 10_000
_PIXELS = 3 * 32 * 32
_PREPROCESSING = Preprocessing(
    channels=3,
    size=(32, 32),
    mean=tuple(255 * value for value in (0.4914, 0.4822, 0.4465)),
    std=tuple(255 * value for value in (0.2470, 0.2435, 0.2616)),
)
_LABELS = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""In the order of their numbers, as in the original's ``batches.meta``."""

_LAYOUT = """expected in the folder, or in one of these folders below it:
  cifar-10-batches-py/   data_batch_1 ... data_batch_5, test_batch               (the Python version) or
  cifar-10-batches-bin/  data_batch_1.bin ... data_batch_5.bin, test_batch.bin   (the binary version),
10,000 images each, unpacked from the archive at https://www.cs.toronto.edu/~kriz/cifar.html"""
_REPAIR = "unpack it again from the archive"
_SUBSET = "put the original in its place, or accept a part of the data set with --allow-subset"

_Rows = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]


def _encode(text: str, encoding: str) -> bytes:
    """What Python 3 writes into old pickles for bytes is a call of ``_codecs.encode`` with latin1."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes encoded as {encoding!r}, expected 'latin1'")
    return text.encode(encoding)


class _Uint8:
    """Stands in for ``numpy.dtype``, and is of one type only."""

    def __init__(self, name: str | bytes, *_: object) -> None:
        if name not in ("u1", b"u1"):
            raise pickle.UnpicklingError(f"it has an array of type {name!r}, expected 'u1'")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing to bytes."""


class _Array:
    """Stands in for ``numpy.ndarray``, whose own constructor would take a pickle's bytes for pointers to objects."""

    array: npt.NDArray[np.uint8] = np.zeros(0, dtype=np.uint8)

    def __init__(self, *_: object) -> None:
        """Start empty: a pickle gives shape and content afterwards."""

    def __setstate__(self, state: tuple[int, tuple[int, ...], _Uint8, bool, bytes]) -> None:
        _, shape, _, fortran, content = state
        self.array = np.frombuffer(content, dtype=np.uint8).reshape(shape, order="F" if fortran else "C")


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,  # its name since numpy 2
    ("numpy", "ndarray"): None,  # only an argument of _reconstruct
    ("numpy", "dtype"): _Uint8,
    ("_codecs", "encode"): _encode,
}


class _Unpickler(pickle.Unpickler):
    """Reads built-in containers and arrays of bytes; any other name is refused before it is imported."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(
                f"it refers to {module}.{name}, which no CIFAR-10 file does and may be harmful"
            )
        return _ALLOWED[module, name]


def _read_pickle(path: Path, content: bytes) -> _Rows:
    """Pixels and labels of a batch of the Python version."""
    try:
        batch = _Unpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can raise almost anything
        raise DataError(f"{path}: cannot be read as a CIFAR-10 batch: {error}; {_REPAIR}") from error
    if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
        raise DataError(f"{path}: not a CIFAR-10 batch, which is a dictionary with 'data' and 'labels'; {_REPAIR}")
    pixels, labels = batch[b"data"], batch[b"labels"]
    if not isinstance(pixels, _Array) or pixels.array.shape[1:] != (_PIXELS,):
        found = f"of shape {pixels.array.shape}" if isinstance(pixels, _Array) else f"of type {type(pixels).__name__}"
        raise DataError(f"{path}: 'data' is {found}, expected an array of shape (rows, {_PIXELS}); {_REPAIR}")
    if not isinstance(labels, list) or not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise DataError(f"{path}: 'labels' is not a list of whole numbers from 0 to 9; {_REPAIR}")
    return pixels.array, np.array(labels, dtype=np.int64)


def _read_binary(path: Path, content: bytes) -> _Rows:
    """Pixels and labels of a batch of the binary version: rows of one label byte and 3,072 pixel bytes."""
    if len(content) % (1 + _PIXELS):
        raise DataError(
            f"{path}: {len(content):,} bytes are not a whole number of rows of {1 + _PIXELS:,}; "
            f"the file was cut off; {_REPAIR}"
        )
    rows = np.frombuffer(content, dtype=np.uint8).reshape(-1, 1 + _PIXELS)
    if len(rows) and rows[:, 0].max() > 9:
        raise DataError(f"{path}: row {rows[:, 0].argmax()} has label {rows[:, 0].max()}, expected 0 to 9; {_REPAIR}")
    return rows[:, 1:], rows[:, 0].astype(np.int64)


@dataclass(frozen=True, kw_only=True)
class _Version:
    """One of the two published versions: where it lies, how a file is read, and the files' published checksums."""

    folder: str
    suffix: str
    read: Callable[[Path, bytes], _Rows]
    md5: Mapping[str, str]


_TRAIN = tuple(name for name, _ in CIFAR10.train_list)
_TEST = tuple(name for name, _ in CIFAR10.test_list)
_VERSIONS = (
    _Version(
        folder="cifar-10-batches-py",
        suffix="",
        read=_read_pickle,
        md5=dict([*CIFAR10.train_list, *CIFAR10.test_list]),
    ),
    # Only the archive of the binary version has a published checksum: its rows and class counts are checked.
    _Version(folder="cifar-10-batches-bin", suffix=".bin", read=_read_binary, md5={}),
)


def _find(root: Path) -> tuple[Path, _Version]:
    """The folder that holds at least one batch, and its version."""
    for version in _VERSIONS:
        for folder in (root / version.folder, root):
            if any((folder / (name + version.suffix)).is_file() for name in _TRAIN + _TEST):
                return folder, version
    raise DataError(f"no CIFAR-10 batch in {root}; {_LAYOUT}")


def _read(folder: Path, version: _Version, names: tuple[str, ...], subset: bool) -> tuple[_Rows, bool]:
    """The rows of the named batches, and whether all of them have the original's checksum (or none is published)."""
    batches: list[_Rows] = []
    original = True
    for name in names:
        path = folder / (name + version.suffix)
        if not path.is_file():
            if subset:
                continue
            raise DataError(f"{path} is missing; {_SUBSET}; {_LAYOUT}")
        content = path.read_bytes()
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        expected = version.md5.get(name, found)
        if found != expected:
            if not subset:
                raise DataError(f"{path} has MD5 {found}, the original has {expected}; {_SUBSET}; {_LAYOUT}")
            original = False
        pixels, labels = version.read(path, content)
        if len(pixels) != len(labels):
            raise DataError(f"{path}: {len(pixels):,} images but {len(labels):,} labels; {_REPAIR}")
        if len(labels) != _ROWS and not subset:
            raise DataError(f"{path} has {len(labels):,} images, the original has {_ROWS:,}; {_SUBSET}; {_LAYOUT}")
        batches.append((pixels, labels))
    rows = sum(len(labels) for _, labels in batches)
    if not rows:
        raise DataError(f"{folder} has no image in {' or '.join(name + version.suffix for name in names)}; {_LAYOUT}")
    pixels, labels = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    counts = np.bincount(labels, minlength=10)
    if not subset and len(set(counts)) != 1:
        raise DataError(
            f"{folder} has {', '.join(map(str, counts))} images of the classes 0 to 9, "
            f"the original has {rows // 10:,} of each; {_SUBSET}; {_LAYOUT}"
        )
    return (pixels, labels), original


def _split(rows: _Rows, *, augmented: bool) -> ImagesInMemory:
    pixels, labels = rows
    return ImagesInMemory(
        images=torch.from_numpy(pixels).reshape(-1, 3, 32, 32),
        labels=torch.from_numpy(labels),
        mean=_PREPROCESSING.mean,
        std=_PREPROCESSING.std,
        pad=4 if augmented else 0,
        flip=augmented,
    )


def _corrupted(test: ImagesInMemory, originals: Originals | None, name: str, severity: int) -> Corrupted:
    """The test images under a corruption: CIFAR-10-C's own where they are there, else generated."""
    if originals is not None:
        images = originals(name, severity)
    else:
        images = generated(test.images.movedim(1, -1).numpy(), name, severity)
    return Corrupted(
        split=test.with_images(torch.from_numpy(images).movedim(-1, 1)),
        origin="generated" if originals is None else "original files",
    )


def _originals(*folders: Path, labels: npt.NDArray[np.int64]) -> Originals | None:
    """CIFAR-10-C in the first of the folders that has it; None where none has."""
    found = (folder / "CIFAR-10-C" for folder in folders if (folder / "CIFAR-10-C").is_dir())
    return next((Originals(folder, labels) for folder in found), None)


def _load(root: Path | None, subset: bool) -> Data:
    """Read the batches below ``root``; see `bibench.tasks.base.Task`."""
    if root is None:
        raise DataError(f"the task cifar10 needs its files: name their folder with --data DIR; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {_LAYOUT}")
    folder, version = _find(root)
    train, original_train = _read(folder, version, _TRAIN, subset)
    test, original_test = _read(folder, version, _TEST, subset)
    notes = []
    if len(train[1]) != 5 * _ROWS or len(test[1]) != _ROWS:
        notes.append(f"{len(train[1]):,} of 50,000 training and {len(test[1]):,} of 10,000 test images")
    if not (original_train and original_test):
        notes.append("checksums differ from the original")
    test_split = _split(test, augmented=False)
    return Data(
        train=_split(train, augmented=True),
        test=test_split,
        outputs=10,
        fingerprint=fingerprint(*train, *test),
        notes=("; ".join(notes),) if notes else (),
        corrupted=partial(_corrupted, test_split, _originals(root, folder.parent, labels=test[1])),
        trivial=commonest(test[1]),
    )


cifar10 = Task(
    name="cifar10",
    title="CIFAR-10",
    modality="image",
    architectures=("resnet20", "resnet18", "resnet34", "vgg_small"),
    load=_load,
    input_shape=(3, 32, 32),
    loss=loss,
    evaluate=evaluate,
    metric=ACCURACY,
    training_samples=50_000,
    outputs=10,
    full_precision=Recipe(
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4), schedule=Cosine(), epochs=200, batch_size=128
    ),
    binarized=Recipe(optimizer=Adam(lr=1e-3), schedule=Cosine(), epochs=200, batch_size=128),
    source="Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    preprocessing=_PREPROCESSING,
    labels=_LABELS,
)
"""50,000 training and 10,000 test photographs of 32x32 pixels in 10 classes.

Training images are padded by 4 pixels, cropped at random, and mirrored half of the time.

The corrupted test images are CIFAR-10-C's own where its files (``labels.npy`` and 19 others) are in a folder
``CIFAR-10-C/`` in the data folder or beside the batches' folder; else they are generated.

>>> cifar10.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task cifar10 needs its files: name their folder with --data DIR; ...
"""
