"""ModelNet40: which of 40 objects a cloud of 1,024 points is, from the HDF5 release or from the original meshes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bibench.recipes import Adam, Cosine, Recipe
from bibench.tasks.base import Data, DataError, Task
from bibench.tasks.cache import kept
from bibench.tasks.classification import ACCURACY, commonest, fingerprint
from bibench.tasks.meshes import read_off, sample_surface
from bibench.tasks.points import (
    Clouds,
    Floats,
    content_hash,
    evaluate_classes,
    loss,
    open_hdf5,
    read_rows,
    unit_sphere,
)

__all__ = ["POINTS", "modelnet40", "modelnet40_normals"]

POINTS = 1_024
_CLASSES, _TEST = 40, 2_468
_TRAIN = {"HDF5 release": 9_840, "OFF meshes": 9_843}
_VERSION = 1
"""Raised when the way points are drawn changes, so that nobody meets those of an earlier one."""

_LAYOUT = """expected one of these below the folder (or the folder itself):
  modelnet40_ply_hdf5_2048/   train_files.txt, test_files.txt, shape_names.txt and the ply_data_*.h5 that they name
  ModelNet40/                 <class>/train/*.off and <class>/test/*.off"""
_SUBSET = "complete it, or accept a part of the data set with --allow-subset"
_REPAIR = "unpack it again from the archive"


@dataclass(frozen=True, kw_only=True)
class _Half:
    """Clouds ``(clouds, 6 or 3, points)`` and the class of each."""

    points: Floats
    classes: np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """What a folder holds: both halves, the names of the classes, and what a reader of a score must know."""

    train: _Half
    test: _Half
    names: tuple[str, ...]
    notes: tuple[str, ...] = ()


def _is_hdf5(folder: Path) -> bool:
    return (folder / "train_files.txt").is_file()


def _is_meshes(folder: Path) -> bool:
    return next(folder.glob("*/train/*.off"), None) is not None and not _is_hdf5(folder)


def _find(root: Path) -> tuple[Path, list[str]]:
    """The folder to read, and the names of others that are there too."""
    if _is_hdf5(root) or _is_meshes(root):
        return root, []
    below = sorted((path for path in root.glob("[mM]odel[nN]et*") if path.is_dir()), key=lambda path: path.name)
    usable = [path for path in below if _is_hdf5(path)] + [path for path in below if _is_meshes(path)]
    # The whole data set before parts, the HDF5 release before meshes.
    usable.sort(key=lambda path: not path.name.lower().startswith("modelnet40"))
    if not usable:
        raise DataError(f"no ModelNet in {root}; {_LAYOUT}")
    return usable[0], [path.name for path in usable[1:]]


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list: {error}; {_LAYOUT}") from error
    return [line.strip() for line in lines if line.strip()]


def _read_hdf5(folder: Path, normals: bool) -> _Found:
    names = tuple(_lines(folder / "shape_names.txt"))
    halves = []
    for split in ("train", "test"):
        # The lists have paths of the authors' own folder, of which the last part counts.
        files = [folder / Path(line).name for line in _lines(folder / f"{split}_files.txt")]
        if not files:
            raise DataError(f"{folder / f'{split}_files.txt'} names no files; {_REPAIR}")
        parts = [_read_file(path, normals, names) for path in files]
        halves.append(
            _Half(
                points=np.concatenate([part.points for part in parts]),
                classes=np.concatenate([part.classes for part in parts]),
            )
        )
    return _Found(train=halves[0], test=halves[1], names=names)


def _read_file(path: Path, normals: bool, names: Sequence[str]) -> _Half:
    with open_hdf5(path) as file:
        points = unit_sphere(read_rows(file, "data", (POINTS, 3)))
        classes = read_rows(file, "label", (), whole=True)
        if normals:
            if "normal" not in file:
                raise DataError(f"{path} has no array 'normal'; use the task modelnet40, which needs none")
            points = np.concatenate((points, read_rows(file, "normal", (POINTS, 3))), axis=2)
    if len(points) != len(classes):
        raise DataError(f"{path}: {len(points):,} clouds in 'data' and {len(classes):,} labels in 'label'; {_REPAIR}")
    wrong = np.flatnonzero((classes < 0) | (classes >= len(names)))
    if len(wrong):
        raise DataError(
            f"{path}, array 'label', row {wrong[0]:,}: {classes[wrong[0]]}, expected 0 to {len(names) - 1}, a line of "
            f"shape_names.txt; {_REPAIR}"
        )
    return _Half(points=np.ascontiguousarray(points.transpose(0, 2, 1)), classes=classes)


def _read_meshes(folder: Path, normals: bool, subset: bool) -> _Found:
    names = tuple(sorted({path.parents[1].name for path in folder.glob("*/train/*.off")}))
    halves, empty = [], []
    for split in ("train", "test"):
        files = [
            (f"{name}/{split}/{path.name}", number)
            for number, name in enumerate(names)
            for path in sorted((folder / name / split).glob("*.off"))
        ]
        if not files:
            raise DataError(f"{folder} has no files <class>/{split}/*.off; {_LAYOUT}")
        hashes = content_hash(folder, [name for name, _ in files])
        key = hashlib.sha256(b"".join(hashes.values())).hexdigest()
        name, shape = f"points/off-v{_VERSION}-{key}.npy", (len(files), 6, POINTS)
        points = kept(name, "sampled points", np.float32, shape, partial(_sampled, folder, hashes))
        there = np.isfinite(points[:, 0, 0])
        empty += [name for (name, _), usable in zip(files, there, strict=True) if not usable]
        if not normals:
            points = points[:, :3]
        halves.append(
            _Half(
                points=np.ascontiguousarray(points[there]),
                classes=np.array([number for _, number in files], dtype=np.int64)[there],
            )
        )
    if empty and not subset:
        raise DataError(
            f"{folder / empty[0]}: a mesh with no faces, or none with an area ({len(empty):,} such files); "
            f"{_REPAIR}, or leave them out with --allow-subset"
        )
    notes = (f"meshes with no faces left out: {len(empty):,}, such as {empty[0]}",) if empty else ()
    return _Found(train=halves[0], test=halves[1], names=names, notes=notes)


def _sampled(folder: Path, hashes: dict[str, bytes]) -> Floats:
    """Points of each mesh, ``(meshes, 6, points)``; NaN where there is no surface."""
    clouds = np.full((len(hashes), 6, POINTS), np.nan, dtype=np.float32)
    for cloud, (name, content) in zip(clouds, hashes.items(), strict=True):
        points = sample_surface(read_off(folder / name), POINTS, content)
        if points is not None:
            cloud[:3] = unit_sphere(points[:, :3].astype(np.float32)).T
            cloud[3:] = points[:, 3:].T
    return clouds


def _load(root: Path | None, subset: bool, *, normals: bool) -> Data:
    """Read the clouds below ``root``; see `bibench.tasks.base.Task`."""
    if root is None:
        raise DataError(f"the task modelnet40 needs its files: name their folder with --data DIR; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {_LAYOUT}")
    folder, others = _find(root)
    layout = "HDF5 release" if _is_hdf5(folder) else "OFF meshes"
    found = _read_hdf5(folder, normals) if layout == "HDF5 release" else _read_meshes(folder, normals, subset)
    counts = (len(found.names), len(found.train.classes), len(found.test.classes))
    notes = [f"{folder.name} ({layout})", *found.notes]
    if counts != (_CLASSES, _TRAIN[layout], _TEST):
        part = (
            f"{counts[0]:,} of {_CLASSES:,} classes, {counts[1]:,} of {_TRAIN[layout]:,} training and "
            f"{counts[2]:,} of {_TEST:,} test clouds"
        )
        if not subset:
            raise DataError(f"{folder} has {part}; {_SUBSET}; {_LAYOUT}")
        notes.append(part)
    if others:
        notes.append(f"{', '.join(others)} also there and not used (name a folder itself to choose it)")
    train, test = (
        Clouds(points=torch.from_numpy(half.points), answers=torch.from_numpy(half.classes))
        for half in (found.train, found.test)
    )
    return Data(
        train=train,
        test=test,
        outputs=len(found.names),
        fingerprint=fingerprint(found.train.points, found.train.classes, found.test.points, found.test.classes),
        notes=("; ".join(notes),),
        labels=found.names,
        trivial=commonest(found.test.classes, found.names),
    )


_RECIPE = Recipe(optimizer=Adam(lr=1e-3), schedule=Cosine(), epochs=200, batch_size=256)


def _task(name: str, title: str, channels: int) -> Task:
    return Task(
        name=name,
        title=title,
        modality="points",
        architectures=("pointnet_vanilla", "pointnet"),
        load=partial(_load, normals=channels == 6),
        input_shape=(channels, POINTS),
        loss=loss,
        evaluate=evaluate_classes,
        metric=ACCURACY,
        training_samples=_TRAIN["HDF5 release"],
        outputs=_CLASSES,
        full_precision=_RECIPE,
        binarized=_RECIPE,
        source="Wu et al., 3D ShapeNets, CVPR 2015; point clouds of Qi et al., PointNet, CVPR 2017",
    )


modelnet40 = _task("modelnet40", "ModelNet40", 3)
"""12,308 clouds of 40 kinds of objects, 1,024 points on their surface, centred and in the unit sphere.

Of the HDF5 release's 2,048 points the first 1,024 are used. Of meshes, points are drawn once, uniformly by area, and
kept in the cache.

>>> modelnet40.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task modelnet40 needs its files: name their folder with --data DIR; ...
"""

modelnet40_normals = _task("modelnet40_normals", "ModelNet40 with normals", 6)
"""The same with a normal at each point, as six channels: ``normal`` of the HDF5 release, or that of the mesh's face."""
