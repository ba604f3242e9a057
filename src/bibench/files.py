"""Writing files so that a reader never sees half of one, and their content's hash."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["atomic_write", "file_sha256", "json_text", "temporary_beside", "write_bytes", "write_json", "write_text"]


def atomic_write(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, flush it to the disk and move it into place.

    After a crash at any moment ``path`` is the old file or the new one. On an error the temporary file is removed.

    Raises:
        OSError: such as a full disk; its ``filename`` is set.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        write(temporary)
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename = str(path)  # a failed write doesn't name its file
        raise


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal, read a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def temporary_beside(path: Path) -> Path:
    """A name for a temporary file that no other thread, process or machine has."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")


def write_bytes(path: Path, content: bytes) -> int:
    """Write a file atomically; the number of its bytes."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    atomic_write(path, write)
    return len(content)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically, as UTF-8."""
    write_bytes(path, text.encode())


def json_text(content: Any) -> str:
    """JSON for people to read too; NaN and infinities are refused, since JSON has none."""
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file atomically, see `json_text`."""
    write_text(path, json_text(content))
