"""Corrupted test images, generated once and kept in a folder of the user's, or read from CIFAR-10-C's own files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bibench.tasks.base import DataError
from bibench.tasks.cache import kept
from bibench.tasks.classification import fingerprint
from bibench.tasks.corruptions import CORRUPTIONS, SEVERITIES, check_corruption, corrupt

__all__ = ["Originals", "generated"]

Bytes = npt.NDArray[np.uint8]

_VERSION = 1
"""Raised when `corrupt` changes, so that nobody meets images of an earlier one."""
_ROWS = 10_000


def generated(images: Bytes, name: str, severity: int) -> Bytes:
    """Images corrupted by `corrupt` with seed 0, from the cache if they are there, else kept there for the next time.

    They are kept in ``corruptions/<fingerprint of the images>-v<version>/<name>-<severity>.npy``; see
    `bibench.tasks.cache.kept`.

    Args:
        images, name, severity: see `corrupt`.

    Returns:
        uint8, mapped from the file and read as it is used; writing into it changes no file.

    Raises:
        ValueError: as `corrupt` does.

    >>> import os, tempfile
    >>> from unittest import mock
    >>> images = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    >>> with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {"BIBENCH_CACHE": folder}):
    ...     print(np.unique(generated(images, "brightness", 1)), *(path.name for path in Path(folder).rglob("*.npy")))
    [12] brightness-1.npy
    """
    check_corruption(name, severity)
    path = f"corruptions/{fingerprint(images)}-v{_VERSION}/{name}-{severity}.npy"
    return kept(path, "corrupted images", np.uint8, images.shape, lambda: corrupt(images, name, severity))


class Originals:
    """CIFAR-10-C as published: ``<name>.npy`` for each corruption, and ``labels.npy``, in one folder.

    Each is a uint8 array of 50,000 rows, 10,000 a severity, severity 1 first, in the order of CIFAR-10's test images:
    images of shape ``(50000, 32, 32, 3)``, labels of shape ``(50000,)``. All are checked at once, so that a wrong file
    is found before a network is trained; they are mapped, and pixels are read only when they are used.

    Args:
        folder: that of the files.
        labels: int64 ``(samples,)``, those of the test images at hand, the first rows of the 10,000.

    Raises:
        DataError: a file is missing, can't be read, or has another type, shape or other labels.
    """

    def __init__(self, folder: Path, labels: npt.NDArray[np.int64]) -> None:
        self.folder, self.samples = folder, len(labels)
        found = self._open("labels", ())
        if self.samples > _ROWS:
            raise DataError(
                f"{folder} has {_ROWS:,} images a severity, but there are {self.samples:,} test images; {_REPAIR}"
            )
        different = np.argwhere(found.reshape(len(SEVERITIES), _ROWS)[:, : self.samples] != labels)
        if len(different):
            block, row = different[0]
            raise DataError(
                f"{folder / 'labels.npy'}: row {block * _ROWS + row:,} has label {found[block * _ROWS + row]}, "
                f"test image {row:,} has {labels[row]}; each of its 5 blocks of 10,000 must begin with the labels of "
                f"the {self.samples:,} test images, in their order; {_REPAIR}"
            )
        for name in CORRUPTIONS:
            self._open(name, (32, 32, 3))

    def _open(self, name: str, shape: tuple[int, ...]) -> Bytes:
        path = self.folder / f"{name}.npy"
        expected = (len(SEVERITIES) * _ROWS, *shape)
        if not path.is_file():
            raise DataError(f"{path} is missing; {_REPAIR}; {_LAYOUT}")
        try:
            array = np.load(path, mmap_mode="c", allow_pickle=False)
        except Exception as error:  # a damaged header can raise almost anything
            raise DataError(f"{path}: cannot be read as an array: {error}; {_REPAIR}; {_LAYOUT}") from error
        if not isinstance(array, np.memmap):
            raise DataError(f"{path} is not one array; {_REPAIR}; {_LAYOUT}")
        if (array.dtype, array.shape) != (np.uint8, expected):
            raise DataError(
                f"{path} is {array.dtype} of shape {array.shape}, expected uint8 of {expected}; {_REPAIR}; {_LAYOUT}"
            )
        return array

    def __call__(self, name: str, severity: int) -> Bytes:
        """The images of one corruption: uint8 ``(samples, 32, 32, 3)``, mapped from the file.

        Raises:
            ValueError: an unknown name or another severity.
            DataError: the file has gone or changed since it was checked.
        """
        check_corruption(name, severity)
        start = (severity - 1) * _ROWS
        return self._open(name, (32, 32, 3))[start : start + self.samples]


_LAYOUT = f"""expected in CIFAR-10-C/ beside the batches' folder:
  labels.npy   uint8 (50000,)
  <name>.npy   uint8 (50000, 32, 32, 3), for each of {", ".join(CORRUPTIONS)},
from https://zenodo.org/records/2535967"""
_REPAIR = "unpack it again from the archive, or take the folder away, and the images are generated"
