"""Fixtures of the native tests."""

import pytest
from native_tools import lacks

from bibench.native import library_path


@pytest.fixture(scope="session")
def engine():
    """The module, where the library is built."""
    if not library_path().is_file():
        lacks(f"the packed engine needed: {library_path()} is missing, install bibench again with a C++ compiler")
    from bibench.native import engine

    return engine
