"""Tracks: pure functions from stored records to the scores of a scorecard."""

from __future__ import annotations

from collections.abc import Sequence

from bibench.records import Results, Score
from bibench.tracks.base import Track
from bibench.tracks.relative import ScoreError

__all__ = ["ScoreError", "score"]


def score(results: Results, tracks: Sequence[Track]) -> list[Score]:
    """The scorecard: the scores of all tracks, in their order.

    Args:
        results: planned runs and their records; nothing is run.
        tracks: the tracks to score.

    Raises:
        ScoreError: records that cannot be compared, such as partners with different units; names both.

    >>> score(Results(plan=[], records=[]), tracks=[])
    []
    """
    return [own for track in tracks for own in track.score(results)]
