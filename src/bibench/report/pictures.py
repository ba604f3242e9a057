"""What networks do with a few test samples, side by side, before it takes a form."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from bibench.records import Results, StoredPicture, StoredPictures
from bibench.report.summary import TaskTable
from bibench.tracks.lookup import FULL_PRECISION

__all__ = ["PicturesOf", "Shown", "ShownSample", "shown_samples"]

PicturesOf = Callable[[str], StoredPictures]
"""From the identity of a run to its pictures."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture of a row, or why it isn't there.

    Args:
        caption: what stands below it: an algorithm, or that this is the truth.
        text: what it shows, in words; without a source why it isn't there.
        source: a ``data:`` URI; empty where there is no picture.
    """

    caption: str
    text: str
    source: str = ""


@dataclass(frozen=True, kw_only=True)
class ShownSample:
    """A row: one test sample, and what each algorithm made of it on one architecture."""

    architecture: str
    title: str
    seed: int
    pictures: tuple[Shown, ...]


def shown_samples(results: Results, table: TaskTable, pictures: PicturesOf) -> list[ShownSample]:
    """A row for each architecture and test sample: the truth, full precision, then the algorithms.

    All of a row are of one seed, the lowest with pictures of that architecture.

    Args:
        results: planned runs and records.
        table: of the task.
        pictures: from the identity of a run to its pictures.

    Returns:
        Nothing where no run has pictures.
    """
    rows = []
    for architecture in table.architectures:
        runs: dict[int, dict[str, str]] = {}
        for algorithm in table.algorithms:
            for run in results.main_of(table.task, architecture, algorithm):
                runs.setdefault(run.seed, {})[algorithm] = run.id
        for seed in sorted(runs):
            kept = {algorithm: pictures(run_id) for algorithm, run_id in runs[seed].items()}
            if any(own.pairs for own in kept.values()):
                break
        else:
            continue
        of_seed = {algorithm: kept.get(algorithm, StoredPictures()) for algorithm in table.algorithms}
        first = next(own for own in of_seed.values() if own.pairs)
        for number, pair in enumerate(first.pairs):
            found = [_found(algorithm, own, number, pair.title) for algorithm, own in of_seed.items()]
            shown = (_shown("truth", pair.truth), *found)
            rows.append(ShownSample(architecture=architecture, title=pair.title, seed=seed, pictures=shown))
    return rows


def _found(algorithm: str, own: StoredPictures, number: int, title: str) -> Shown:
    caption = "full precision" if algorithm == FULL_PRECISION else algorithm
    if own.problem:
        return Shown(caption=caption, text=own.problem)
    if number >= len(own.pairs) or own.pairs[number].title != title:
        return Shown(caption=caption, text="no picture of this sample")
    return _shown(caption, own.pairs[number].found)


def _shown(caption: str, picture: StoredPicture) -> Shown:
    encoded = base64.b64encode(picture.jpeg).decode("ascii")
    return Shown(caption=caption, text=picture.text, source=f"data:image/jpeg;base64,{encoded}")
