"""Tracks: pure functions from stored records to the scores of a scorecard."""

from __future__ import annotations

from collections.abc import Sequence

from bibench.records import Results, Score
from bibench.tracks.base import Mode, Track
from bibench.tracks.lookup import ScoreError

__all__ = ["Mode", "ScoreError", "score"]


def score(results: Results, tracks: Sequence[Track], mode: Mode = "literal") -> list[Score]:
    """The scorecard: the scores of all tracks, in their order.

    Args:
        results: planned runs and their records; nothing is run.
        tracks: the tracks to score.
        mode: ``"literal"``: the equations as they are written. ``"paper"``: what gives the published figures back,
            for tracks that read their equation in two ways.

    Raises:
        ScoreError: records that cannot be compared, such as partners with different units; names both.

    >>> score(Results(plan=[], records=[]), tracks=[])
    []
    """
    return [
        own
        for track in tracks
        for own in (track.paper if mode == "paper" and track.paper is not None else track.score)(results)
    ]
