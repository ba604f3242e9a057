"""Pictures of what runs do with a few test samples, as a report embeds them."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["StoredPair", "StoredPicture", "StoredPictures"]


@dataclass(frozen=True, kw_only=True)
class StoredPicture:
    """A JPEG file's content, made by this process, and in words what it shows."""

    jpeg: bytes
    text: str


@dataclass(frozen=True, kw_only=True)
class StoredPair:
    """A test sample: what is right, and what the network made of it."""

    title: str
    truth: StoredPicture
    found: StoredPicture


@dataclass(frozen=True, kw_only=True)
class StoredPictures:
    """What is kept of a run.

    Args:
        pairs: none where the run keeps no pictures, or they can't be shown.
        problem: why they can't be shown, with the file; empty where they can.
    """

    pairs: tuple[StoredPair, ...] = ()
    problem: str = ""
