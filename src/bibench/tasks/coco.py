"""COCO 2017: images and their instances in the data set's own layout."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bibench.recipes import Adam, Cosine, Recipe
from bibench.tasks.average_precision import coco_figures
from bibench.tasks.base import Data, DataError, Task
from bibench.tasks.detection import MEAN_AP, evaluate_coco, example, loss, made_up
from bibench.tasks.detection_files import LARGEST, Annotations, check_name, detection_data, files_in, left_out
from bibench.tasks.detection_pictures import pictures

__all__ = ["coco17", "coco17_small"]

_CATEGORIES, _TRAIN, _TEST = 80, 118_287, 5_000
_TRAIN_FILE, _TEST_FILE = "instances_train2017.json", "instances_val2017.json"
_LAYOUT = f"""expected in the folder, or in a folder coco/, coco17/ or coco128/ below it:
  annotations/{_TRAIN_FILE}, annotations/{_TEST_FILE}
  train2017/   118,287 images
  val2017/     5,000 images, the test"""
_SUBSET = "complete it, or accept a part of the data set with --allow-subset"
_REPAIR = "unpack it again from the archive"

Integers = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Instances:
    """One file's images, by ascending id, and annotations.

    Args:
        path: the file.
        names: the file of each image, below the folder that holds all.
        ids: int64 ``(images,)``.
        sizes: int64 ``(images, 2)``, height and width.
        image: int64 ``(annotations,)``, the number of each one's image here.
        numbers: int64 ``(annotations,)``, their ids.
        boxes: float64 ``(annotations, 4)``, left, top, width, height.
        labels: int64 ``(annotations,)``, from 1 by ascending id of the category.
        crowd: bool ``(annotations,)``.
        areas: float64 ``(annotations,)``, in pixels, of the segment.
        categories: id and name of each, by ascending id.
    """

    path: Path
    names: list[str]
    ids: Integers
    sizes: Integers
    image: Integers
    numbers: Integers
    boxes: npt.NDArray[np.float64]
    labels: Integers
    crowd: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64]
    categories: tuple[tuple[int, str], ...]


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -LARGEST < value < LARGEST


def _is_box(value: Any) -> bool:
    return type(value) is list and len(value) == 4 and all(map(_is_number, value))


def _is_area(value: Any) -> bool:
    return _is_number(value) and value >= 0


def _is_flag(value: Any) -> bool:
    return type(value) is int and value in (0, 1)


def _is_text(value: Any) -> bool:
    return type(value) is str


@dataclass(frozen=True)
class _Table:
    """A list of the file: images, annotations or categories."""

    path: Path
    kind: str
    entries: list[dict[str, Any]]

    def place(self, number: int) -> str:
        """An entry's place: its id, or where it has none its number from 1."""
        key = self.entries[number].get("id")
        return f"{self.path}, {self.kind} {key if _is_id(key) else f'at position {number + 1:,}'}"

    def column(self, key: str, fits: Callable[[Any], bool], expected: str, default: Any = None) -> list[Any]:
        """One value of every entry."""
        values = [entry.get(key, default) for entry in self.entries]
        for number, value in enumerate(values):
            if not fits(value):
                raise DataError(f"{self.place(number)}: '{key}' is {ascii(value)[:60]}, expected {expected}; {_REPAIR}")
        return values

    def ids(self) -> Integers:
        """Every entry's id, each once."""
        found = np.array(self.column("id", _is_id, "a whole number"), dtype=np.int64)
        order = np.argsort(found, kind="stable")
        again = order[1:][found[order[1:]] == found[order[:-1]]]
        if len(again):
            number = int(again.min())
            raise DataError(f"{self.place(number)}: the id is there twice, again at position {number + 1:,}; {_REPAIR}")
        return found

    def looked_up(self, key: str, known: Integers, what: str) -> Integers:
        """The position among the known ids, ascending, that each entry's value of ``key`` has."""
        values = np.array(self.column(key, _is_id, "a whole number"), dtype=np.int64)
        positions = np.searchsorted(known, values)
        wrong = np.flatnonzero(np.append(known, -1)[positions] != values)
        if len(wrong):
            raise DataError(f"{self.place(int(wrong[0]))}: {what} {values[wrong[0]]} is not in the file; {_REPAIR}")
        return positions


def _without_segments(entry: dict[str, Any]) -> dict[str, Any]:
    """Drop an annotation's outline as soon as it is read: it is most of the file, and nothing here needs it."""
    entry.pop("segmentation", None)
    return entry


def _tables(path: Path) -> list[_Table]:
    """Images, annotations and categories of a file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"), object_hook=_without_segments)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{path}, line {error.lineno}, column {error.colno:,}: no JSON: {error.msg}; {_REPAIR}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}; {_REPAIR}") from error
    found = []
    for kind in ("image", "annotation", "category"):
        key = "categories" if kind == "category" else f"{kind}s"
        entries = content.get(key) if isinstance(content, dict) else None
        if not isinstance(entries, list):
            raise DataError(f"{path}: no list '{key}'; expected an object with images, annotations and categories")
        wrong = next((number for number, entry in enumerate(entries) if not isinstance(entry, dict)), None)
        if wrong is not None:
            raise DataError(
                f"{path}, {kind} at position {wrong + 1:,}: {ascii(entries[wrong])[:60]}, expected an object; {_REPAIR}"
            )
        found.append(_Table(path, kind, entries))
    return found


def _read(path: Path, folder: str) -> _Instances:
    """A file of instances, whose images are in a folder.

    Peak memory is 2.2 times the file's size (measured on 5 to 74 MB); what is returned takes 65 bytes an annotation.
    """
    images, annotations, categories = _tables(path)
    names = images.column("file_name", _is_text, "a file's name")
    ids = images.ids()
    for number, name in enumerate(names):
        check_name(name, images.place(number))
    sides = [images.column(key, _is_id, "a whole number of pixels") for key in ("height", "width")]
    order, numbers = np.argsort(ids), categories.ids()
    titles = categories.column("name", _is_text, "a category's name")
    by_id = np.argsort(numbers)
    return _Instances(
        path=path,
        names=[f"{folder}/{names[number]}" for number in order],
        ids=ids[order],
        sizes=np.array(sides, dtype=np.int64).T[order],
        image=annotations.looked_up("image_id", ids[order], "image"),
        numbers=annotations.ids(),
        boxes=np.array(
            annotations.column("bbox", _is_box, "left, top, width and height in pixels, finite"), dtype=np.float64
        ).reshape(-1, 4),
        labels=annotations.looked_up("category_id", numbers[by_id], "category") + 1,
        crowd=np.array(annotations.column("iscrowd", _is_flag, "0 or 1", 0), dtype=np.bool_),
        areas=np.array(annotations.column("area", _is_area, "a number of pixels, finite"), dtype=np.float64),
        categories=tuple((int(numbers[number]), titles[number]) for number in by_id),
    )


def _check_together(train: _Instances, test: _Instances) -> None:
    if train.categories != test.categories:
        lone = sorted(set(train.categories) ^ set(test.categories))
        raise DataError(
            f"{test.path}: other categories than {train.path.name}, such as {lone[0][1]!a} with the id {lone[0][0]}; "
            f"{_REPAIR}"
        )
    both = np.intersect1d(train.ids, test.ids)
    if len(both):
        raise DataError(f"{test.path}, image {both[0]}: it is in {train.path.name} too; {_REPAIR}")


def _there(root: Path, parts: Sequence[_Instances], subset: bool) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Which images have their file, and a note on the others."""
    folders = {name.partition("/")[0] for part in parts for name in part.names}
    files = {f"{folder}/{name}" for folder in folders for name in files_in(root / folder, _LAYOUT)}
    listed = [(name, part, number) for part in parts for name, number in zip(part.names, part.ids, strict=True)]
    missing = [f"{name} ({part.path.name}, image {number})" for name, part, number in listed if name not in files]
    there = np.array([name in files for name, _, _ in listed], dtype=np.bool_)
    return there, left_out(root, "listed images", missing, subset)


def _find(root: Path) -> Path:
    for folder in (root / "coco", root / "coco17", root / "coco128", root):
        if (folder / "annotations" / _TRAIN_FILE).is_file():
            return folder
    raise DataError(f"no COCO 2017 in {root}; {_LAYOUT}")


def _load(root: Path | None, subset: bool, *, name: str, short: int, long: int) -> Data:
    """Read the instances below ``root``; see `bibench.tasks.base.Task`."""
    if root is None:
        raise DataError(f"the task {name} needs its files: name their folder with --data DIR; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {_LAYOUT}")
    folder = _find(root)
    parts = [_read(folder / "annotations" / _TRAIN_FILE, "train2017")]
    divided = subset and not (folder / "annotations" / _TEST_FILE).exists()
    if not divided:
        parts.append(_read(folder / "annotations" / _TEST_FILE, "val2017"))
        _check_together(*parts)
    there, notes = _there(folder, parts, subset)
    if divided:
        notes.insert(0, f"no {_TEST_FILE}: every fifth training image, by ascending id, is the test")
        test = np.arange(1, 1 + there.sum()) % 5 == 0
    else:
        test = np.repeat([False, True], [len(part.ids) for part in parts])[there]
    categories = tuple(title for _, title in parts[0].categories)
    counts = (len(categories), int((~test).sum()), int(test.sum()))
    if counts != (_CATEGORIES, _TRAIN, _TEST):
        part = (
            f"{counts[0]:,} of {_CATEGORIES} categories, {counts[1]:,} of {_TRAIN:,} training and "
            f"{counts[2]:,} of {_TEST:,} test images"
        )
        if not subset:
            raise DataError(f"{folder} has {part}; {_SUBSET}; {_LAYOUT}")
        notes.insert(0, part)
    return detection_data(_joined(folder, parts, there, test), categories, notes, coco_figures, short=short, long=long)


def _joined(
    root: Path, parts: Sequence[_Instances], there: npt.NDArray[np.bool_], test: npt.NDArray[np.bool_]
) -> Annotations:
    """The images that are there, of all files."""
    firsts = np.cumsum([0, *(len(part.ids) for part in parts)])
    image = np.concatenate([part.image + first for part, first in zip(parts, firsts[:-1], strict=True)])
    kept = there[image]
    owner = np.repeat(np.arange(len(parts)), [len(part.image) for part in parts])[kept]
    numbers = np.concatenate([part.numbers for part in parts])[kept]
    boxes = np.concatenate([part.boxes for part in parts])[kept]
    names = [name for part in parts for name in part.names]
    return Annotations(
        root=root,
        names=[name for name, found in zip(names, there, strict=True) if found],
        test=test,
        sizes=np.concatenate([part.sizes for part in parts])[there],
        image=(np.cumsum(there) - 1)[image[kept]],
        boxes=np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1),
        labels=np.concatenate([part.labels for part in parts])[kept],
        ignored=np.concatenate([part.crowd for part in parts])[kept],
        areas=np.concatenate([part.areas for part in parts])[kept],
        origin=0,
        places=lambda number: f"{parts[owner[number]].path.name}, annotation {numbers[number]}",
    )


def _task(name: str, title: str, short: int, long: int) -> Task:
    recipe = Recipe(
        optimizer=Adam(lr=1e-4), schedule=Cosine(), epochs=12, batch_size=16, warmup=0.05, gradient_clip=10.0
    )
    return Task(
        name=name,
        title=title,
        modality="detection",
        architectures=("faster_rcnn",),
        load=partial(_load, name=name, short=short, long=long),
        input_shape=(3, short, long),
        make_example=partial(example, long),
        make_batch=partial(made_up, short=short, long=long),
        loss=loss,
        evaluate=evaluate_coco,
        metric=MEAN_AP,
        training_samples=_TRAIN,
        outputs=_CATEGORIES,
        full_precision=recipe,
        binarized=recipe,
        source="Lin et al., Microsoft COCO: Common Objects in Context, ECCV 2014",
        pictures=pictures,
    )


coco17 = _task("coco17", "COCO17", 800, 1_333)
"""118,287 training and 5,000 test photographs with objects of 80 categories; mAP over IoUs of 0.5 to 0.95.

>>> coco17.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task coco17 needs its files: name their folder with --data DIR; ...
"""

coco17_small = _task("coco17_small", "COCO17 at 160 pixels", 160, 267)
"""COCO17 with images of at most 160 by 267 pixels, for a processor."""
