"""Where processes meet: files by name, each of which only one process can create, in a folder or an object store."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from bibench.files import temporary_beside, write_bytes
from bibench.tasks.cache import cache_folder

__all__ = ["Folder", "ObjectStore", "Storage", "StoreError", "StoreUnreachable", "is_url", "mirror_of", "patiently"]

_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)", re.DOTALL)
_PLACE = re.compile(r"[a-z0-9][a-z0-9._-]+(/[A-Za-z0-9_=-][A-Za-z0-9_.=-]*)*/?")
_INSTALL = {"s3": "s3fs", "gs": "gcsfs"}
"""Object stores with an exclusive create on the server, and what fsspec reaches them with.

With others fsspec would look first and write then, which two processes can do at once.
"""

_T = TypeVar("_T")


class StoreError(ValueError):
    """A place that can't be used as a store; the message names it and says what to do."""


class StoreUnreachable(StoreError):
    """A store that didn't answer for as long as it was waited for: any run would meet this now."""


def is_url(address: Path | str) -> bool:
    """Whether an address is one of an object store, such as ``s3://bucket/results``."""
    return isinstance(address, str) and _URL.fullmatch(address) is not None


def mirror_of(url: str) -> Path:
    """The local folder that holds what was read of an object store and what goes there; it can be deleted any time."""
    return cache_folder() / "stores" / hashlib.sha256(url.rstrip("/").encode()).hexdigest()[:16]


class Storage(Protocol):
    """Files by their names, such as ``runs/ID/record.json``."""

    def read(self, name: str) -> bytes | None:
        """A file's content; None if there is none."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically, in place of the one that is there."""

    def create(self, name: str, content: bytes) -> bool:
        """Write a file that isn't there; False, with nothing written, if it is. Of several processes one gets True."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def names(self, folder: str) -> list[str]:
        """The names of the files directly in a folder, sorted; none if there is no such folder."""

    def listing(self, folder: str = "") -> dict[str, str]:
        """The files in a folder and below it by their whole names, each with what tells its versions apart."""


class Folder:
    """A folder of the file system, maybe one that several machines share.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        try:
            return (self.root / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        write_bytes(self.root / name, content)

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`; by a hard link, which network file systems too make for one process only.

        Raises:
            StoreError: the file system has no hard links.
        """
        path = self.root / name
        whole = temporary_beside(path)
        try:
            write_bytes(whole, content)
        except OSError as error:
            error.filename = str(path)
            raise
        try:
            os.link(whole, path)
        except FileExistsError:
            return False
        except FileNotFoundError:
            raise
        except OSError as error:
            raise StoreError(
                f"{self.root}: its file system can't create a file for one process alone ({error.strerror}: no hard "
                "links), so two processes could do the same run; choose another --out"
            ) from error
        finally:
            whole.unlink(missing_ok=True)
        return True

    def remove(self, name: str) -> None:
        """See `Storage`."""
        (self.root / name).unlink(missing_ok=True)

    def names(self, folder: str) -> list[str]:
        """See `Storage`."""
        try:
            found = list(os.scandir(self.root / folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(entry.name for entry in found if not entry.is_dir() and not entry.name.endswith(".tmp"))

    def listing(self, folder: str = "") -> dict[str, str]:
        """See `Storage`."""
        found: dict[str, str] = {}
        for path in (self.root / folder).rglob("*"):
            with contextlib.suppress(FileNotFoundError):  # removed just now
                status = path.lstat()
                if not stat.S_ISDIR(status.st_mode):
                    found[path.relative_to(self.root).as_posix()] = f"{status.st_mtime_ns} {status.st_size}"
        return found


class ObjectStore:
    """A part of a bucket, through fsspec: Amazon S3 and what speaks its protocol, Google Cloud Storage.

    Keys and addresses of the service come from where its own tools have them (environment, configuration files).
    What fails for a reason that may pass is tried again for a while.

    Args:
        url: ``s3://bucket/folder`` or ``gs://bucket/folder``.
        patience: for how many seconds an operation is tried.

    Raises:
        StoreError: another kind of address, or the package for it isn't installed.
    """

    def __init__(self, url: str, *, patience: float = 300.0) -> None:
        match = _URL.fullmatch(url)
        protocol, place = match.groups() if match else ("", "")
        plain = _PLACE.fullmatch(place) is not None and ".." not in place
        shown = url if plain else f"{protocol}://... (not shown, since there may be keys in it)"
        if protocol not in _INSTALL:
            raise StoreError(
                f"{shown}: expected a folder, s3://BUCKET/FOLDER or gs://BUCKET/FOLDER; of other places it isn't known "
                "that they create a file for one process alone"
            )
        if not plain:
            raise StoreError(
                f"{shown}: expected {protocol}://BUCKET/FOLDER with names of letters, digits and . _ = -; keys don't "
                "belong in an address, they come from the environment or the service's own configuration files"
            )
        try:
            import fsspec

            self._files: Any = fsspec.filesystem(protocol, use_listings_cache=False)
        except ImportError as error:
            raise StoreError(
                f"{url} needs the package {_INSTALL[protocol]}: pip install 'bibench[{protocol}]'"
            ) from error
        self.url = url.rstrip("/")
        self.patience = patience
        self._base = place.rstrip("/")

    def check(self) -> None:
        """Create a file twice, which a store must refuse once; see that it can be reached, without trying again.

        Raises:
            StoreError: it can't be reached, or it let the second one replace the first.
        """
        once = ObjectStore(self.url, patience=0.0)
        name = f".probe-{os.urandom(8).hex()}"
        try:
            if not once.create(name, b"1") or once.create(name, b"2"):
                raise StoreError(
                    f"{self.url}: it doesn't create a file for one process alone (it ignores If-None-Match, or the "
                    "like), so two processes could do the same run; choose another --out"
                )
        except FileNotFoundError as error:
            raise StoreError(f"{self.url}: {_first_line(error)}; make the bucket first") from error
        finally:
            once.remove(name)

    def read(self, name: str) -> bytes | None:
        """See `Storage`."""
        try:
            return self._patiently(lambda: bytes(self._files.cat_file(self._path(name))))
        except FileNotFoundError:
            return None

    def write(self, name: str, content: bytes) -> None:
        """See `Storage`."""
        self._patiently(lambda: self._files.pipe_file(self._path(name), content))

    def create(self, name: str, content: bytes) -> bool:
        """See `Storage`."""
        try:
            self._patiently(lambda: self._files.pipe_file(self._path(name), content, mode="create"))
        except FileExistsError:
            # It may be this process's own: where the answer to a first try got lost, a second one finds it there.
            return self.read(name) == content
        return True

    def remove(self, name: str) -> None:
        """See `Storage`."""
        try:
            self._patiently(lambda: self._files.rm_file(self._path(name)))
        except FileNotFoundError:
            return

    def names(self, folder: str) -> list[str]:
        """See `Storage`."""
        try:
            found = self._patiently(lambda: self._files.ls(self._path(folder), detail=True, refresh=True))
        except FileNotFoundError:
            return []
        return sorted(entry["name"].rpartition("/")[2] for entry in found if entry["type"] == "file")

    def listing(self, folder: str = "") -> dict[str, str]:
        """See `Storage`."""
        try:
            found = self._patiently(lambda: self._files.find(self._path(folder), detail=True, refresh=True))
        except FileNotFoundError:
            return {}
        return {
            path.removeprefix(f"{self._base}/"): f"{entry.get('ETag') or entry.get('etag')} {entry['size']}"
            for path, entry in found.items()
        }

    def read_many(self, names: Iterable[str]) -> dict[str, bytes]:
        """The contents of several files, read side by side; those that have gone are left out."""
        paths = {self._path(name): name for name in names}
        if not paths:
            return {}
        found = self._patiently(lambda: self._files.cat(list(paths), on_error="return"))
        contents = found if isinstance(found, dict) else {next(iter(paths)): found}
        result = {}
        for path, content in contents.items():
            if isinstance(content, FileNotFoundError):
                continue
            if isinstance(content, Exception):
                content = self.read(paths[path])
            if content is not None:
                result[paths[path]] = content
        return result

    def fetch(self, name: str, path: Path) -> bool:
        """Copy a file to the local disk, atomically; False if there is none."""
        content = self.read(name)
        if content is None:
            return False
        write_bytes(path, content)
        return True

    def _path(self, name: str) -> str:
        return f"{self._base}/{name}" if name else self._base

    def _patiently(self, operation: Callable[[], _T]) -> _T:
        """Do it, and again for a while if the store can't be reached."""
        return patiently(operation, self.url, self.patience)


def patiently(
    operation: Callable[[], _T],
    place: str,
    patience: float,
    *,
    wait: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> _T:
    """Do something in a place that may not be reachable for a while; once a pause of up to 30 seconds is over, again.

    Args:
        operation: safe to do twice.
        place: named in messages.
        patience: seconds after which it is given up.
        wait, clock: the time.

    Raises:
        FileNotFoundError, FileExistsError: at once; these are answers.
        StoreError: at once; the place doesn't let this process in.
        StoreUnreachable: it can't be reached in time.
    """
    end = clock() + patience
    pause = 0.5
    told = False
    while True:
        try:
            return operation()
        except (FileNotFoundError, FileExistsError):
            raise
        except PermissionError as error:
            raise StoreError(f"{place}: {_first_line(error)}; may these keys read, write and list there?") from error
        except Exception as error:
            # Each service has errors of its own for what may pass, and not all of them are OSErrors.
            if type(error).__name__ in _NO_KEYS:
                raise StoreError(f"{place}: {_first_line(error)}") from error
            if clock() + pause > end:
                raise StoreUnreachable(
                    f"{place} can't be reached ({type(error).__name__}: {_first_line(error)})"
                    + (f", tried for {patience:.0f} s" if patience else "")
                    + "; nothing finished is lost: run the same command again"
                ) from error
            if not told:
                say = partial(print, file=sys.stderr, flush=True)
                say(f"note: {place} can't be reached ({_first_line(error)}); trying again for {patience:.0f} s")
                told = True
        wait(pause)
        pause = min(2 * pause, 30.0)


_NO_KEYS = ("NoCredentialsError", "PartialCredentialsError", "DefaultCredentialsError", "ParamValidationError")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
