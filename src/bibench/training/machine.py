"""Which machine this is, as records and tables name it."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

__all__ = ["processor"]


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
