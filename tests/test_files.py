"""A reader never sees half of a file."""

import errno
import hashlib
import os
from pathlib import Path

import pytest

from bibench.files import atomic_write, file_sha256, write_json, write_text


def test_text_and_json(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "größer\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == "größer\n".encode()
    write_json(tmp_path / "a.json", {"a": 0.1})
    assert (tmp_path / "a.json").read_text() == '{\n "a": 0.1\n}\n'
    write_json(tmp_path / "a.json", [1])
    assert (tmp_path / "a.json").read_text() == "[\n 1\n]\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "new"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 3])
def test_the_hash_is_of_the_whole_content(tmp_path, size):
    content = bytes(range(256)) * (size // 256 + 1)
    (tmp_path / "a").write_bytes(content[:size])
    assert file_sha256(tmp_path / "a") == hashlib.sha256(content[:size]).hexdigest()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan(tmp_path, value):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"a": value})
    assert (tmp_path / "a.json").read_text() == "1\n"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("x"), OSError(errno.ENOSPC, "No space left")])
def test_on_an_error_the_old_file_stays_and_nothing_else(tmp_path, error):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def write(temporary):
        temporary.write_text("half")
        raise error

    with pytest.raises(type(error)) as caught:
        atomic_write(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    if isinstance(error, OSError):
        assert caught.value.filename == str(path)


def test_the_content_is_on_the_disk_before_the_file_is_there(tmp_path, monkeypatch):
    events = []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (events.append("fsync"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (events.append("replace"), replace(path, to)))
    write_text(tmp_path / "a.txt", "x")
    assert events == ["fsync", "replace"]
