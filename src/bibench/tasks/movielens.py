"""MovieLens: which film a user will rate next, from the original files of MovieLens 20M, 1M, 100K or latest-small."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bibench.recipes import Adam, Constant, Recipe
from bibench.tasks.base import Data, DataError, Task
from bibench.tasks.classification import fingerprint
from bibench.tasks.ranking import HIT_RATE, TOP, LabelledPairs, LeaveOneOut, evaluate, leave_one_out, loss, most_popular

__all__ = ["NEGATIVES", "movielens"]

NEGATIVES = 4
"""Training negatives a positive, drawn anew in each epoch (MLPerf recommendation v0.5; He et al., 2017, figure 7)."""

_EPOCHS = 8
"""The paper's 387,925 iterations: 20,000,263 ratings less 138,493 held out, times 5, in batches of 2,048, are 48,490.65
a pass, and 387,925 / 48,490.65 = 8.000."""

_FIELDS = (
    ("userId", re.compile(rb"\d{1,18}"), "a whole number"),
    ("movieId", re.compile(rb"\d{1,18}"), "a whole number"),
    ("rating", re.compile(rb"\d+(\.\d*)?"), "a number"),
    ("timestamp", re.compile(rb"\d{1,18}"), "whole seconds since 1970"),
)
_HEADER = ",".join(name for name, _, _ in _FIELDS)
_BOM = b"\xef\xbb\xbf"
_REPAIR = "unpack it again from the archive"


@dataclass(frozen=True, kw_only=True)
class _Version:
    """One of the published versions: where it lies, how a line looks, and how many ratings there are."""

    title: str
    folder: str
    file: str
    separator: str
    header: bool
    ratings: int


_VERSIONS = (
    _Version(title="20M", folder="ml-20m", file="ratings.csv", separator=",", header=True, ratings=20_000_263),
    _Version(title="1M", folder="ml-1m", file="ratings.dat", separator="::", header=False, ratings=1_000_209),
    _Version(title="100K", folder="ml-100k", file="u.data", separator="\t", header=False, ratings=100_000),
    # GroupLens may change this one; it has been the same since September 2018.
    _Version(
        title="latest-small",
        folder="ml-latest-small",
        file="ratings.csv",
        separator=",",
        header=True,
        ratings=100_836,
    ),
)
"""In the order of preference: the paper's first, then by size."""

_LAYOUT = """expected one of these below the folder (or the folder itself, under its name here):
  ml-20m/ratings.csv            userId,movieId,rating,timestamp with this header (MovieLens 20M, which the paper uses)
  ml-1m/ratings.dat             user::item::rating::timestamp                    (MovieLens 1M)
  ml-100k/u.data                user item rating timestamp, with tabs            (MovieLens 100K)
  ml-latest-small/ratings.csv   as ml-20m                                        (MovieLens latest-small)
unpacked from the archives at https://grouplens.org/datasets/movielens"""


def _find(root: Path) -> tuple[Path, _Version, list[str]]:
    """The preferred version's file, the version, and the folders of others that are there too."""
    name = root.resolve().name
    for version in _VERSIONS:
        if version.folder == name and (root / version.file).is_file():
            return root / version.file, version, []
    present = [version for version in _VERSIONS if (root / version.folder / version.file).is_file()]
    if not present:
        raise DataError(f"no MovieLens ratings in {root}; {_LAYOUT}")
    first, *others = present
    return root / first.folder / first.file, first, [version.folder for version in others]


def _broken_line(path: Path, version: _Version) -> str | None:
    """What is wrong with a file that is known to be broken: its first line that isn't a rating, or that it has none."""
    separator = version.separator.encode()
    ratings = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            content = line.removeprefix(_BOM) if number == 1 else line
            content = content.strip(b"\r\n")
            if not content or (version.header and number == 1):
                continue
            shown = ascii(content[:80].decode("latin1"))
            fields = content.split(separator)
            if len(fields) != len(_FIELDS):
                return (
                    f"{path}, line {number}: {shown} has {len(fields)} fields, expected {len(_FIELDS)} "
                    f"({', '.join(name for name, _, _ in _FIELDS)}) separated by {version.separator!r}"
                )
            for field, (name, pattern, expected) in zip(fields, _FIELDS, strict=True):
                if not pattern.fullmatch(field.strip()):
                    found = ascii(field[:40].decode("latin1"))
                    return f"{path}, line {number}: {shown} has the {name} {found}, expected {expected}"
            ratings += 1
    return None if ratings else f"{path} has no ratings"


def _parse(path: Path, version: _Version) -> npt.NDArray[Any]:
    """All lines at once by numpy's reader, as records with the fields user, item, rating and time.

    Raises:
        ValueError: some line isn't a rating.
    """
    # numpy takes separators of one character, so "::" is read as two with an empty column between them.
    gap = [("", "S1")] * (len(version.separator) - 1)
    columns = [("user", "i8"), *gap, ("item", "i8"), *gap, ("rating", "f8"), *gap, ("time", "i8")]
    dtype = np.dtype([(name or f"gap{index}", kind) for index, (name, kind) in enumerate(columns)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy would read 3.7 as the whole number 3, with a warning
        try:
            rows = np.atleast_1d(
                np.loadtxt(
                    path,
                    dtype=dtype,
                    delimiter=version.separator[0],
                    skiprows=int(version.header),
                    comments=None,
                    encoding="utf-8-sig",
                )
            )
        except Warning as warning:
            raise ValueError(str(warning)) from warning
    gaps = any(rows[name].any() for name in dtype.names or () if name.startswith("gap"))
    negative = any((rows[name] < 0).any() for name in ("user", "item", "time"))
    if gaps or negative or not np.isfinite(rows["rating"]).all() or (rows["rating"] < 0).any():
        raise ValueError("a value is out of range")
    return rows


def _read(path: Path, version: _Version) -> npt.NDArray[Any]:
    """The ratings of a file; a broken line is named.

    Raises:
        DataError: no ratings, another header, or a broken line.
    """
    if version.header:
        with path.open("rb") as file:
            first = file.readline(200).removeprefix(_BOM).strip(b"\r\n")
        if first != _HEADER.encode():
            raise DataError(
                f"{path}, line 1: the header is {first[:80].decode('latin1')!a}, expected '{_HEADER}'; {_REPAIR}"
            )
    try:
        return _parse(path, version)
    except ValueError as error:
        raise DataError(f"{_broken_line(path, version) or f'{path}: {error}'}; {_REPAIR}") from error


def _load(root: Path | None, subset: bool) -> Data:
    """Read and split the ratings below ``root``; see `bibench.tasks.base.Task`."""
    if root is None:
        raise DataError(f"the task movielens needs its files: name their folder with --data DIR; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {_LAYOUT}")
    path, version, others = _find(root)
    rows = _read(path, version)
    if len(rows) != version.ratings and not subset:
        raise DataError(
            f"{path} has {len(rows):,} ratings, the original has {version.ratings:,}; "
            "put the original in its place, or accept a part of the data set with --allow-subset"
        )
    held_out = leave_one_out(rows["user"], rows["item"], rows["time"])
    if held_out is None:
        raise DataError(f"{path}: every user has rated a single film, and one is needed to train and one to test")
    train, test = held_out.train, LeaveOneOut(train=held_out.train, test=held_out.test)
    few = int((train.available - 1 < test.negatives).sum())
    part = f" of {version.ratings:,}" if len(rows) != version.ratings else ""
    notes = [
        f"MovieLens {version.title}: {len(rows):,}{part} ratings, {train.users:,} users, {train.items:,} films",
        "" if version is _VERSIONS[0] else f"the paper's figures are of MovieLens {_VERSIONS[0].title}",
        f"{', '.join(others)} also there and not used (name a folder itself to choose it)" if others else "",
        f"earlier ratings of a film by the same user left out: {held_out.repeated:,}" if held_out.repeated else "",
        f"users with a single rating left out: {held_out.single:,}" if held_out.single else "",
        f"users with fewer than {test.negatives} other films, ranked against all of those: {few:,}" if few else "",
        f"hr{TOP}_all and ndcg{TOP}_all of {test.full_users:,} users" if len(test) > test.full_users else "",
    ]
    return Data(
        train=LabelledPairs(interactions=train, negatives=NEGATIVES),
        test=test,
        outputs=(train.users, train.items),
        fingerprint=fingerprint(train.user.numpy(), train.item.numpy(), held_out.test.numpy()),
        notes=("; ".join(note for note in notes if note),),
        trivial=most_popular(train, test),
    )


def _example() -> Tensor:
    """Two pairs that every model has: one user and two films."""
    return torch.tensor([[0, 0], [0, 1]])


_RECIPE = Recipe(optimizer=Adam(lr=5e-4, betas=(0.9, 0.999)), schedule=Constant(), epochs=_EPOCHS, batch_size=2_048)

movielens = Task(
    name="movielens",
    title="MovieLens",
    modality="ratings",
    architectures=("ncf",),
    load=_load,
    input_shape=(2,),
    make_example=_example,
    loss=loss,
    evaluate=evaluate,
    metric=HIT_RATE,
    training_samples=(20_000_263 - 138_493) * (1 + NEGATIVES),
    outputs=(138_493, 26_744),
    full_precision=_RECIPE,
    binarized=_RECIPE,
    source="Harper & Konstan, The MovieLens Datasets, 2015; recipe: Partial pre-training, table 1",
)
"""Each user's latest rating is held out and ranked among 999 films that the user hasn't rated (HR@10).

A rating says only that a user has seen a film: its stars aren't used. The recipe is the paper's for MovieLens 20M; the
smaller versions get as many epochs, which are far fewer steps.

>>> movielens.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task movielens needs its files: name their folder with --data DIR; ...
"""
