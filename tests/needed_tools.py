"""Programs of the system that tests need.

Where one is missing the test says which and is skipped, except in CI (``CI`` is set), where that is a failure.
"""

import os
import platform
import shutil
from pathlib import Path

import pytest

from bibench.native import Engine, NativeError, library_path

try:
    Engine(b"")
except NativeError as error:
    ENGINE = "not built" not in str(error)
    if not ENGINE and os.environ.get("CI"):
        raise  # in CI nothing that needs it is skipped


def lacks(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(what)
    pytest.skip(what)


def need_tool(name: str, package: str) -> str:
    """The tool's path."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if not found:
        lacks(f"{name} needed: apt-get install {package}")
    return str(found)


def need_runner(machine: str = platform.machine()) -> Path:
    """The program that measures, for this machine or one of another architecture, as it came with the package."""
    path = library_path().with_name(f"bibench_runner_{machine}")
    if not path.is_file():
        lacks(
            f"the runner needed: {path} is missing, install bibench again with a C++ compiler that links statically, "
            f"for another machine with {machine}-linux-gnu-g++ (g++-{machine.replace('_', '-')}-linux-gnu)"
        )
    return path
