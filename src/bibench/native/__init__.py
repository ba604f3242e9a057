"""The packed engine's shared library, through its C interface (``bibench.h``); nothing here knows what a network is."""

from bibench.native.engine import Engine, NativeError, instruction_sets, library_path, peak

__all__ = ["Engine", "NativeError", "instruction_sets", "library_path", "peak"]
