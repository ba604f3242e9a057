"""ShapeNet parts: which of an object's parts each of its points belongs to, from the txt or the HDF5 release."""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bibench.recipes import Adam, Cosine, Recipe
from bibench.tasks.base import Data, DataError, Task, Trivial
from bibench.tasks.cache import kept
from bibench.tasks.classification import fingerprint
from bibench.tasks.points import (
    MEAN_IOU,
    Clouds,
    Floats,
    content_hash,
    evaluate_parts,
    loss,
    open_hdf5,
    read_rows,
    unit_sphere,
)

__all__ = ["CATEGORIES", "POINTS", "shapenet", "shapenet_normals"]

POINTS = 2_048
CATEGORIES: tuple[tuple[str, range], ...] = (
    ("Airplane", range(0, 4)),
    ("Bag", range(4, 6)),
    ("Cap", range(6, 8)),
    ("Car", range(8, 12)),
    ("Chair", range(12, 16)),
    ("Earphone", range(16, 19)),
    ("Guitar", range(19, 22)),
    ("Knife", range(22, 24)),
    ("Lamp", range(24, 28)),
    ("Laptop", range(28, 30)),
    ("Motorbike", range(30, 36)),
    ("Mug", range(36, 38)),
    ("Pistol", range(38, 41)),
    ("Rocket", range(41, 44)),
    ("Skateboard", range(44, 47)),
    ("Table", range(47, 50)),
)
"""The 16 categories in the releases' order, with the numbers that their parts have in both releases."""

_PARTS = 50
_TRAIN, _TEST = 14_007, 2_874
"""The field trains on the training and the validation split together, 12,137 and 1,870 objects."""
_VERSION = 1
"""Raised when the way points are chosen changes, so that nobody meets those of an earlier one."""
_NUMBERS = {name: number for number, (name, _) in enumerate(CATEGORIES)}
_COLUMNS = "x y z nx ny nz part"

_TXT, _HDF5 = "shapenetcore_partanno_segmentation_benchmark_v0_normal", "hdf5_data"
_LAYOUT = f"""expected one of these below the folder (or the folder itself):
  {_TXT}/
    synsetoffset2category.txt, <synset>/<object>.txt with rows {_COLUMNS},
    train_test_split/shuffled_{{train,val,test}}_file_list.json
  {_HDF5}/
    all_object_categories.txt, {{train,val,test}}_hdf5_file_list.txt and the ply_data_*.h5 that they name"""
_SUBSET = "complete it, or accept a part of the data set with --allow-subset"
_REPAIR = "unpack it again from the archive"


@dataclass(frozen=True, kw_only=True)
class _Half:
    """Objects: clouds ``(objects, 3 or 6, points)``, the part of each point, and each one's category."""

    points: Floats
    parts: npt.NDArray[np.int64]
    category: npt.NDArray[np.int64]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text: {error}; {_LAYOUT}") from error


def _categories(path: Path) -> list[tuple[str, int]]:
    """Of each line of a list of categories its synset and the category's number."""
    found = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 2 or fields[0] not in _NUMBERS:
            raise DataError(
                f"{path}, line {number}: {line[:60]!a}, expected a category and its synset, such as "
                f"'Airplane 02691156'; known are {', '.join(_NUMBERS)}; {_REPAIR}"
            )
        found.append((fields[1], _NUMBERS[fields[0]]))
    if not found:
        raise DataError(f"{path} names no categories; {_REPAIR}")
    return found


def _check_parts(where: str, parts: npt.NDArray[np.int64], category: int, places: Sequence[int]) -> None:
    """Refuse a part that isn't one of the category's; ``places`` are the lines or rows to name."""
    name, own = CATEGORIES[category]
    wrong = np.flatnonzero((parts < own.start) | (parts >= own.stop))
    if len(wrong):
        raise DataError(
            f"{where} {places[wrong[0]]:,}: part {parts[wrong[0]]}, expected {own.start} to {own.stop - 1}, those of "
            f"{name}; {_REPAIR}"
        )


def _rows(path: Path) -> npt.NDArray[np.float64]:
    """An object's rows, all lines at once by numpy's reader."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy only warns of a file without rows
        try:
            rows = np.loadtxt(path, dtype=np.float64, ndmin=2, comments=None, encoding="ascii")
        except (ValueError, UserWarning):
            rows = np.empty((0, 0))
    if rows.shape[1:] != (7,) or not np.isfinite(rows).all() or (rows[:, 6] != np.trunc(rows[:, 6])).any():
        raise DataError(f"{_broken_line(path)}; {_REPAIR}")
    return rows


def _broken_line(path: Path) -> str:
    """What is wrong with a file that is known to be broken: its first line that isn't a row, or that it has none."""
    number = 0
    for number, line in enumerate(path.read_bytes().decode("latin1").split("\n"), 1):
        fields = line.split()
        if not fields:
            continue
        if len(fields) != 7:
            return f"{path}, line {number}: {line[:80]!a} has {len(fields)} columns, expected 7 ({_COLUMNS})"
        try:
            values = [float(field) for field in fields]
        except ValueError:
            values = [np.nan]
        if not np.isfinite(values).all() or values[6] != np.trunc(values[6]):
            return f"{path}, line {number}: {line[:80]!a}, expected finite numbers, the last a whole one ({_COLUMNS})"
    return f"{path} has no points"


def _listed(path: Path, categories: dict[str, int]) -> list[tuple[str, int]]:
    """Files and categories of a split list, whose entries are ``shape_data/<synset>/<object>``."""
    try:
        entries: Any = json.loads(_text(path))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: {error.msg}; {_REPAIR}") from error
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: expected a list of objects such as 'shape_data/02691156/<object>'; {_REPAIR}")
    found = []
    for number, entry in enumerate(entries, 1):
        fields = entry.split("/") if isinstance(entry, str) else []
        if len(fields) < 2 or fields[-2] not in categories or fields[-1] in ("", ".", ".."):
            raise DataError(
                f"{path}, entry {number:,}: {str(entry)[:60]!a}, expected 'shape_data/<synset>/<object>' with a synset "
                f"of synsetoffset2category.txt; {_REPAIR}"
            )
        found.append((f"{fields[-2]}/{fields[-1]}.txt", categories[fields[-2]]))
    return found


def _read_txt(folder: Path, normals: bool, subset: bool) -> tuple[list[_Half], list[str]]:
    categories = dict(_categories(folder / "synsetoffset2category.txt"))
    halves, missing = [], []
    for splits in (("train", "val"), ("test",)):
        listed = [
            entry
            for split in splits
            for entry in _listed(folder / "train_test_split" / f"shuffled_{split}_file_list.json", categories)
        ]
        there = [(name, category) for name, category in listed if (folder / name).is_file()]
        missing += [name for name, _ in listed if not (folder / name).is_file()]
        if missing and not subset:
            raise DataError(f"{folder / missing[0]} is missing, though its split list names it; {_SUBSET}")
        if not there:
            raise DataError(f"{folder} has no objects of {' and '.join(splits)}; {_LAYOUT}")
        hashes = content_hash(folder, [name for name, _ in there])
        key = hashlib.sha256(b"".join(hashes[name] + bytes([category]) for name, category in there)).hexdigest()
        make = partial(_chosen, folder, there, hashes)
        shape = (len(there), 7, POINTS)
        objects = kept(f"points/parts-v{_VERSION}-{key}.npy", "sampled points", np.float32, shape, make)
        halves.append(
            _Half(
                points=np.ascontiguousarray(objects[:, : 6 if normals else 3]),
                parts=objects[:, 6].astype(np.int64),
                category=np.array([category for _, category in there], dtype=np.int64),
            )
        )
    return halves, [f"listed objects missing: {len(missing):,}, such as {missing[0]}"] if missing else []


def _chosen(folder: Path, objects: Sequence[tuple[str, int]], hashes: dict[str, bytes]) -> Floats:
    """Points of each object and their parts, ``(objects, 7, points)``.

    They are drawn by its content's hash: different ones if it has enough, else all, and some again.
    """
    chosen = np.empty((len(objects), 7, POINTS), dtype=np.float32)
    for place, (name, category) in zip(chosen, objects, strict=True):
        path = folder / name
        rows = _rows(path)
        lines = [number for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
        _check_parts(f"{path}, line", rows[:, 6].astype(np.int64), category, lines)
        generator = np.random.default_rng(int.from_bytes(hashes[name], "little"))
        picks = generator.permutation(len(rows))[:POINTS]
        if len(picks) < POINTS:
            picks = np.concatenate((picks, generator.integers(len(rows), size=POINTS - len(picks))))
        place[:] = rows[picks].T
        place[:3] = unit_sphere(rows[picks, :3].astype(np.float32)).T
    return chosen


def _read_hdf5(folder: Path, normals: bool) -> tuple[list[_Half], list[str]]:
    if normals:
        raise DataError(f"{folder}: the HDF5 release has no normals; use the task shapenet, which needs none")
    numbers = np.array([number for _, number in _categories(folder / "all_object_categories.txt")])
    halves = []
    for splits in (("train", "val"), ("test",)):
        files = [
            folder / Path(line.strip()).name
            for split in splits
            for line in _text(folder / f"{split}_hdf5_file_list.txt").split("\n")
            if line.strip()
        ]
        if not files:
            raise DataError(f"{folder}: the lists of {' and '.join(splits)} name no files; {_REPAIR}")
        parts = [_read_file(path, numbers) for path in files]
        halves.append(
            _Half(
                points=np.concatenate([part.points for part in parts]),
                parts=np.concatenate([part.parts for part in parts]),
                category=np.concatenate([part.category for part in parts]),
            )
        )
    return halves, []


def _read_file(path: Path, numbers: npt.NDArray[np.int64]) -> _Half:
    with open_hdf5(path) as file:
        points = unit_sphere(read_rows(file, "data", (POINTS, 3)))
        labels = read_rows(file, "label", (), whole=True)
        parts = read_rows(file, "pid", (POINTS,), whole=True)
    if not len(points) == len(labels) == len(parts):
        raise DataError(
            f"{path}: {len(points):,} rows in 'data', {len(labels):,} in 'label' and {len(parts):,} in 'pid'; {_REPAIR}"
        )
    wrong = np.flatnonzero((labels < 0) | (labels >= len(numbers)))
    if len(wrong):
        raise DataError(
            f"{path}, array 'label', row {wrong[0]:,}: {labels[wrong[0]]}, expected 0 to {len(numbers) - 1}, a line of "
            f"all_object_categories.txt; {_REPAIR}"
        )
    category = numbers[labels]
    for row, (own, number) in enumerate(zip(parts, category, strict=True)):
        _check_parts(f"{path}, array 'pid', row", own, number, [row] * len(own))
    return _Half(points=np.ascontiguousarray(points.transpose(0, 2, 1)), parts=parts, category=category)


def _trivial(train: _Half, test: _Half) -> Trivial:
    """The mean IoU in percent of predicting, for all points of an object, its category's most frequent part."""
    frequent = np.zeros((len(CATEGORIES), _PARTS))
    np.add.at(frequent, (train.category[:, None], train.parts), 1)
    ious = []
    for parts, category in zip(test.parts, test.category, strict=True):
        own = CATEGORIES[category][1]
        share = np.bincount(parts, minlength=_PARTS)[own.start : own.stop] / len(parts)
        best = int(frequent[category, own.start : own.stop].argmax())
        right = share[best]  # of all points, which all are predicted to be of this part
        ious.append((right + (np.delete(share, best) == 0).sum()) / len(own))
    by_category = [np.array(ious)[test.category == number] for number in np.unique(test.category)]
    return Trivial(
        answer="each category's most frequent part everywhere",
        value=100.0 * float(np.mean([own.mean() for own in by_category])),
        margin=200.0 * math.sqrt(sum(own.var() / len(own) for own in by_category)) / len(by_category),
    )


def _find(root: Path) -> tuple[Path, bool, list[str]]:
    """The folder to read, whether it is the txt release, and the name of the other if it is there too."""
    places = [root / _TXT, root / _HDF5, root]
    found = [(path, True) for path in places if (path / "synsetoffset2category.txt").is_file()]
    found += [(path, False) for path in places if (path / "all_object_categories.txt").is_file()]
    if not found:
        raise DataError(f"no ShapeNet parts in {root}; {_LAYOUT}")
    (folder, txt), *others = found
    return folder, txt, [path.name for path, _ in others]


def _load(root: Path | None, subset: bool, *, normals: bool) -> Data:
    """Read the objects below ``root``; see `bibench.tasks.base.Task`."""
    if root is None:
        raise DataError(f"the task shapenet needs its files: name their folder with --data DIR; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {_LAYOUT}")
    folder, txt, others = _find(root)
    halves, notes = _read_txt(folder, normals, subset) if txt else _read_hdf5(folder, normals)
    notes = [f"{folder.name} ({'txt' if txt else 'HDF5'} release)", *notes]
    train, test = halves
    categories = len(np.unique(np.concatenate((train.category, test.category))))
    counts = (categories, len(train.category), len(test.category))
    if counts != (len(CATEGORIES), _TRAIN, _TEST):
        part = (
            f"{counts[0]:,} of {len(CATEGORIES)} categories, {counts[1]:,} of {_TRAIN:,} training and "
            f"{counts[2]:,} of {_TEST:,} test objects"
        )
        if not subset:
            raise DataError(f"{folder} has {part}; {_SUBSET}; {_LAYOUT}")
        notes.append(part)
    if others:
        notes.append(f"{', '.join(others)} also there and not used (name a folder itself to choose it)")
    splits = [
        Clouds(
            points=torch.from_numpy(half.points),
            answers=torch.from_numpy(half.parts),
            category=torch.from_numpy(half.category),
            categories=len(CATEGORIES),
        )
        for half in halves
    ]
    return Data(
        train=splits[0],
        test=splits[1],
        outputs=(len(CATEGORIES), _PARTS),
        fingerprint=fingerprint(*(array for half in halves for array in (half.points, half.parts, half.category))),
        notes=("; ".join(notes),),
        trivial=_trivial(train, test),
    )


def _example(channels: int) -> Tensor:
    """Two clouds of random points, an airplane and a bag."""
    points = torch.randn(2, channels, POINTS, generator=torch.Generator().manual_seed(0))
    category = torch.eye(len(CATEGORIES))[:2, :, None].expand(-1, -1, POINTS)
    return torch.cat((points, 2 * category - 1), dim=1)


_RECIPE = Recipe(optimizer=Adam(lr=1e-3), schedule=Cosine(), epochs=200, batch_size=256)


def _task(name: str, title: str, channels: int) -> Task:
    return Task(
        name=name,
        title=title,
        modality="points",
        architectures=("pointnet",),
        load=partial(_load, normals=channels == 6),
        input_shape=(channels + len(CATEGORIES), POINTS),
        make_example=partial(_example, channels),
        loss=loss,
        evaluate=partial(evaluate_parts, parts=CATEGORIES),
        metric=MEAN_IOU,
        training_samples=_TRAIN,
        outputs=(len(CATEGORIES), _PARTS),
        full_precision=_RECIPE,
        binarized=_RECIPE,
        version=2,  # the mean over objects was the score before
        source="Yi et al., A Scalable Active Framework for Region Annotation in 3D Shape Collections, 2016",
    )


shapenet = _task("shapenet", "ShapeNet parts", 3)
"""16,881 objects of 16 categories with 50 kinds of parts, 2,048 points each; mean IoU over the categories.

Trained on the training and validation splits together. The category is given, as the field does.

>>> shapenet.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task shapenet needs its files: name their folder with --data DIR; ...
"""

shapenet_normals = _task("shapenet_normals", "ShapeNet parts with normals", 6)
"""The same with normals, which only the txt release has."""
