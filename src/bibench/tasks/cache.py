"""A folder of the user's for what can be made again: it is taken from there, or made and kept."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import platformdirs

from bibench.files import atomic_write

__all__ = ["CACHE_VARIABLE", "cache_folder", "kept", "warn_not_kept"]

CACHE_VARIABLE = "BIBENCH_CACHE"

_Number = TypeVar("_Number", bound=np.generic)


def cache_folder() -> Path:
    """The folder of what can be made again: ``$BIBENCH_CACHE``, else the platform's (``~/.cache/bibench`` on Linux)."""
    chosen = os.environ.get(CACHE_VARIABLE)
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("bibench", appauthor=False)


def kept(
    name: str,
    what: str,
    dtype: type[_Number],
    shape: tuple[int, ...],
    make: Callable[[], npt.NDArray[_Number]],
) -> npt.NDArray[_Number]:
    """An array from the cache if it is there, else made and kept for the next time.

    A damaged file is replaced. Where nothing can be written, a warning says so, once, and the array is made each time.
    Several processes may do this at once: each writes a whole file and moves it into place.

    Args:
        name: the file below `cache_folder`, such as ``"points/off-3a1c.npy"``; it must change with whatever decides
            the content.
        what: what is kept, in the plural, for the warning.
        dtype, shape: the array's.
        make: computes it.

    Returns:
        The array, mapped from the file and read as it is used; writing into it changes no file.

    >>> import tempfile
    >>> from unittest import mock
    >>> with tempfile.TemporaryDirectory() as folder, mock.patch.dict(os.environ, {CACHE_VARIABLE: folder}):
    ...     squares = kept("a/squares.npy", "squares", np.int64, (4,), lambda: np.arange(4) ** 2)
    ...     print(squares, *(path.name for path in Path(folder).rglob("*.npy")))
    [0 1 4 9] squares.npy
    """
    path = cache_folder() / name
    found = _read(path, dtype, shape)
    if found is not None:
        return found
    made = make()

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:  # a file, since save would append .npy to a name
            np.save(file, made, allow_pickle=False)

    try:
        atomic_write(path, write)
    except OSError as error:
        warn_not_kept(what, error)
        return made
    found = _read(path, dtype, shape)
    return made if found is None else found


def _read(path: Path, dtype: type[_Number], shape: tuple[int, ...]) -> npt.NDArray[_Number] | None:
    """The kept array, or None where it is missing or not whole."""
    try:
        # Copy on write: torch wants arrays that could be written, and the file stays as it is.
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except Exception:  # missing, or damaged: a damaged header can raise almost anything
        return None
    return array if isinstance(array, np.memmap) and (array.dtype, array.shape) == (dtype, shape) else None


def warn_not_kept(what: str, error: OSError) -> None:
    """Warn, once in a process, that the cache can't be written."""
    _warn(what, cache_folder(), error.strerror or str(error))


@functools.cache
def _warn(what: str, folder: Path, reason: str) -> None:
    warnings.warn(
        f"{what} cannot be kept in {folder}: {reason}; they are made anew each time. "
        f"Set {CACHE_VARIABLE} to a folder that can be written",
        stacklevel=5,
    )
