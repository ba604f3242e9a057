"""What can be made again is made once, and damage or a folder that can't be written cost time only."""

import warnings
from pathlib import Path

import numpy as np
import pytest

from bibench.tasks import cache
from bibench.tasks.cache import CACHE_VARIABLE, cache_folder, kept


def ones(name="a/ones.npy", dtype=np.float32, shape=(2, 3), made=None):
    def make():
        if made is not None:
            made.append(name)
        return np.ones(shape, dtype)

    return kept(name, "ones", dtype, shape, make)


def test_it_is_made_once_and_again_where_what_is_there_is_not_it(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    made = []
    for _ in range(2):
        found = ones(made=made)
        assert found.tolist() == [[1, 1, 1], [1, 1, 1]]
    assert len(made) == 1
    path = tmp_path / "a" / "ones.npy"
    assert [entry for entry in tmp_path.rglob("*") if entry.is_file()] == [path]
    whole = path.read_bytes()
    for damage in (b"", whole[:-4], b"garbage"):
        path.write_bytes(damage)
        assert ones(made=made).tolist() == [[1, 1, 1], [1, 1, 1]]
        assert path.read_bytes() == whole
    assert len(made) == 4
    ones("a/others.npy", made=made)
    assert ones(shape=(3, 2), made=made).shape == (3, 2)
    assert ones(dtype=np.float64, made=made).dtype == np.float64
    assert len(made) == 7


def test_writing_into_it_changes_no_file(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    found = ones()
    found[0, 0] = 7
    assert ones()[0, 0] == 1


def test_where_nothing_can_be_kept_one_warning_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    cache._warn.cache_clear()
    with pytest.warns(UserWarning, match=r"ones cannot be kept in .*file: .*made anew.* BIBENCH_CACHE") as caught:
        assert ones().tolist() == [[1, 1, 1], [1, 1, 1]]
    assert [Path(warning.filename).name for warning in caught] == ["test_cache.py"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ones()


def test_the_folder_is_the_variables_or_the_platforms(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, "~/kept")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder() == tmp_path / "kept"
    monkeypatch.setenv(CACHE_VARIABLE, "")
    monkeypatch.setattr(cache.platformdirs, "user_cache_path", lambda name, appauthor: Path("platform", name))
    assert cache_folder() == Path("platform", "bibench")
