"""The machine that trains: its name in records and tables, and its memory."""

from __future__ import annotations

import ctypes
import platform
import sys
from pathlib import Path

__all__ = ["keep_freed_memory", "processor"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Parameters of ``mallopt``, from glibc's ``malloc.h``."""


def processor() -> str:
    """The processor's name, as the system gives it.

    >>> bool(processor())
    True
    """
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, for its next training step.

    glibc gives blocks above 32 MB back to the system at once, so that each step gets its activations page by page, and
    zeroed: more than half of the time of a step of PointNet (``benchmarks/freed_memory.py``). It costs fragments, a
    seventh more memory there. Of free memory at the end of the heap 2 GB are kept. Where the C library isn't glibc this
    does nothing.

    >>> keep_freed_memory()
    """
    if platform.libc_ver()[0] == "glibc":
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
