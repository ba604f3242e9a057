"""Settings of the whole test suite.

Environment variables name data that tests may use and users never need:

- ``BIBENCH_TEST_DATA``: a folder with real data sets, unpacked;
- ``BIBENCH_TEST_SHARED``: a folder with the papers' published figures;
- ``BIBENCH_TEST_LCE``: the environment of Larq Compute Engine, made by ``python benchmarks/lce.py --setup DIR``.

A test that lacks them says so and is skipped, except in CI (``CI`` is set), where lacking them is a failure.
"""

import os
from pathlib import Path

import pytest
import torch

torch.set_num_threads(1)  # tests run in parallel processes; and one thread makes sums reproducible


def _folder(variable: str, content: str) -> Path:
    value = os.environ.get(variable)
    if value and Path(value).is_dir():
        return Path(value)
    lack = f"{content} needed: set {variable} to their folder (now {value!r})"
    if os.environ.get("CI"):
        pytest.fail(lack)
    pytest.skip(lack)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with real data sets."""
    return _folder("BIBENCH_TEST_DATA", "real data sets")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the papers' published figures."""
    return _folder("BIBENCH_TEST_SHARED", "the papers' published figures")


@pytest.fixture(scope="session")
def lce_environment() -> Path:
    """The virtual environment that runs Larq Compute Engine."""
    return _folder("BIBENCH_TEST_LCE", "Larq Compute Engine's environment (python benchmarks/lce.py --setup DIR)")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep tests, and the commands that they start, out of the user's cache."""
    os.environ["BIBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


def pytest_collectstart() -> None:
    """Models that are made while a module is collected, as parameters of its tests, are the same every time."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
