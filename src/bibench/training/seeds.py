"""Seeds for every purpose, derived from a run's one seed."""

from __future__ import annotations

import hashlib

__all__ = ["derive_seed"]


def derive_seed(seed: int, *purpose: str | int) -> int:
    """A seed in [0, 2^63) for a purpose, such as ``("data", epoch)``; the same on every machine.

    Every epoch is seeded anew, so a resumed run needs no generator state to go on as it would have.

    >>> derive_seed(0, "data", 1) == derive_seed(0, "data", 1) != derive_seed(0, "data", 2)
    True
    """
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
