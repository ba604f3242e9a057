"""The script that writes the tables of docs/formats.md, as a module."""

import importlib.util
import sys
from pathlib import Path

_spec = importlib.util.spec_from_file_location("tools.formats", Path(__file__).parents[2] / "tools" / "formats.py")
TOOL = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = TOOL  # where its dataclasses look for their types
_spec.loader.exec_module(TOOL)
