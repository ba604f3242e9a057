"""Images and the objects in them, read from the files of a detection data set in its original layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from bibench.tasks.average_precision import Detections, Truth
from bibench.tasks.base import Data, DataError, Trivial
from bibench.tasks.classification import fingerprint
from bibench.tasks.detection import DetectionBatch, Figures
from bibench.tasks.preprocessing import open_image, read_image
from bibench.tasks.workers import WORKERS, read_batches

__all__ = [
    "LARGEST",
    "Annotations",
    "DetectionFiles",
    "Objects",
    "check_name",
    "detection_data",
    "files_in",
    "fitted",
    "left_out",
]

_LEAST = 0.01
"""Least width and height of a box in pixels: float32 tells the edges of smaller ones apart no more, once mirrored and
scaled, in images of up to 65,535 pixels."""
LARGEST = 1e9
"""More pixels than any image has along a side, and far from where float32 overflows."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Annotations:
    """What the files of a data set say of its images, training and test together, boxes unchecked.

    Args:
        root: the folder that names are below.
        names: path of each image file below it.
        test: bool ``(images,)``, whether an image is of the test split.
        sizes: int64 ``(images, 2)``, height and width as annotated.
        image: int64 ``(objects,)``, the image of each object.
        boxes: float64 ``(objects, 4)``, left, top, right, bottom as annotated, finite.
        labels: int64 ``(objects,)``, from 1.
        ignored: bool ``(objects,)``: difficult, or a crowd.
        areas: float64 ``(objects,)`` in pixels; None: the boxes'.
        origin: number of the first pixel, where boxes hold pixels up to the last one; 0 where they hold edges.
        places: where an object is annotated, by its number, below the root: to be named in notes.
    """

    root: Path
    names: Sequence[str]
    test: npt.NDArray[np.bool_]
    sizes: npt.NDArray[np.int64]
    image: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    ignored: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float64] | None
    origin: int
    places: Callable[[int], str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Objects:
    """The images of a split and the objects in them, without the pixels.

    All objects are in flat arrays, those of image ``i`` from ``starts[i]`` to ``starts[i + 1]``. An image takes 16
    bytes and its name, an object 25 bytes.

    Args:
        root: the folder that names are below.
        names: bytes ``(images,)``, path of each image file below it.
        sizes: int32 ``(images, 2)``, height and width of the file.
        starts: int64 ``(images + 1,)``.
        boxes: float32 ``(objects, 4)``, left, top, right, bottom edge in pixels of the file.
        labels: int32 ``(objects,)``, from 1.
        ignored: bool ``(objects,)``.
        areas: float32 ``(objects,)``, in pixels of the file.
    """

    root: Path
    names: npt.NDArray[np.bytes_]
    sizes: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    ignored: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def image(self) -> npt.NDArray[np.int64]:
        """int64 ``(objects,)``: the image of each object."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def path(self, index: int) -> Path:
        """The file of an image."""
        return self.root / os.fsdecode(self.names[index])

    def of(self, index: int) -> slice:
        """The objects of an image."""
        return slice(int(self.starts[index]), int(self.starts[index + 1]))

    def part(self, images: npt.NDArray[np.bool_]) -> Objects:
        """Some of the images, in their order."""
        objects = images[self.image]
        return Objects(
            root=self.root,
            names=self.names[images],
            sizes=self.sizes[images],
            starts=np.concatenate(([0], np.cumsum(np.diff(self.starts)[images]))),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            ignored=self.ignored[objects],
            areas=self.areas[objects],
        )

    def truths(self) -> list[Truth]:
        """What is in each image, as the metrics take it."""
        return [
            Truth(
                boxes=self.boxes[own].astype(np.float64),
                labels=self.labels[own].astype(np.int64),
                ignored=self.ignored[own],
                areas=self.areas[own].astype(np.float64),
            )
            for own in map(self.of, range(len(self)))
        ]


@dataclass(frozen=True, eq=False)
class _Sample:
    """An image ``(height, width, 3)``, uint8, its file's height and width, its objects and its number."""

    pixels: npt.NDArray[np.uint8]
    original: tuple[int, int]
    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int32]
    ignored: npt.NDArray[np.bool_]
    areas: npt.NDArray[np.float32]
    index: int


def fitted(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """Height and width after scaling down, in the same aspect, to sides of at most ``short`` and ``long``.

    An image that fits already keeps its size; no side becomes 0.

    >>> fitted(480, 640, 160, 267), fitted(100, 50, 160, 267), fitted(2000, 1, 160, 267)
    ((160, 213), (100, 50), (267, 1))
    """
    scale = min(1.0, short / min(height, width), long / max(height, width))
    return max(1, round(scale * height)), max(1, round(scale * width))


@dataclass(frozen=True)
class _Samples(Dataset[_Sample | DataError]):
    """Images by their number: mirrored half of the time with a seed, as they are without."""

    objects: Objects
    short: int
    long: int
    seed: int | None

    def __getitem__(self, index: int) -> _Sample | DataError:
        try:
            image = read_image(self.objects.path(index)).convert("RGB")
        except DataError as error:
            return error
        width, height = image.size
        rows, columns = fitted(height, width, self.short, self.long)
        if (columns, rows) != image.size:
            image = image.resize((columns, rows), Image.Resampling.BILINEAR)
        own = self.objects.of(index)
        boxes, pixels = self.objects.boxes[own], np.asarray(image)
        # A function of seed and sample, whichever process computes it, whenever.
        if self.seed is not None and np.random.default_rng((self.seed, index)).random() < 0.5:
            pixels = pixels[:, ::-1]
            boxes = np.stack((width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]), axis=1)
        return _Sample(
            pixels=pixels,
            original=(height, width),
            boxes=boxes,
            labels=self.objects.labels[own],
            ignored=self.objects.ignored[own],
            areas=self.objects.areas[own],
            index=index,
        )


def _padded(rows: Sequence[npt.NDArray[Any]], most: int, dtype: torch.dtype) -> Tensor:
    """One row an image, each followed by zeros up to ``most`` objects."""
    found = torch.zeros(len(rows), most, *rows[0].shape[1:], dtype=dtype)
    for place, row in zip(found, rows, strict=True):
        place[: len(row)] = torch.from_numpy(row)
    return found


def _collate(samples: list[_Sample]) -> DetectionBatch:
    """A batch whose images are bytes, as large as the largest of them."""
    sizes = torch.tensor([sample.pixels.shape[:2] for sample in samples])
    images = torch.zeros(len(samples), 3, *sizes.amax(dim=0).tolist(), dtype=torch.uint8)
    for place, sample in zip(images, samples, strict=True):
        height, width, _ = sample.pixels.shape
        place[:, :height, :width] = torch.from_numpy(sample.pixels.copy()).movedim(-1, 0)
    most = max(len(sample.labels) for sample in samples)
    return DetectionBatch(
        images=images,
        sizes=sizes,
        originals=torch.tensor([sample.original for sample in samples]),
        boxes=_padded([sample.boxes for sample in samples], most, torch.float32),
        labels=_padded([sample.labels for sample in samples], most, torch.int64),
        ignored=_padded([sample.ignored for sample in samples], most, torch.bool),
        areas=_padded([sample.areas for sample in samples], most, torch.float32),
        numbers=torch.tensor([sample.index for sample in samples]),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class DetectionFiles:
    """A split whose images stay on disk and are decoded by worker processes as they are needed.

    An image whose shorter side is above ``short`` or longer side above ``long`` is scaled down (bilinear, antialiased),
    keeping its aspect; others stay as they are. Training: mirrored with probability 1/2. What a batch holds depends on
    the seed alone, not on the number of workers. Orientation tags are ignored, as torchvision does.

    Args:
        objects: the images and what is in them.
        short, long: the most that their sides are to have, in pixels.
        workers: processes that decode images; 0 decodes in this one.

    Raises:
        DataError: on iteration, a file that is not an image or was cut off.
    """

    objects: Objects
    short: int
    long: int
    workers: int = WORKERS

    def __len__(self) -> int:
        return len(self.objects)

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[DetectionBatch]:
        """Iterate over batches; see `bibench.tasks.base.Split.batches`."""
        samples = _Samples(self.objects, self.short, self.long, seed)
        for batch in read_batches(
            samples, len(self), batch_size, seed=seed, collate=_collate, workers=self.workers, device=device
        ):
            moved = DetectionBatch(*(part.to(device, non_blocking=True) for part in batch))
            yield moved._replace(images=moved.images.to(torch.float32).div_(255))


def check_name(name: str, where: str) -> None:
    """Refuse a name that is not a plain one of a file in its folder.

    Raises:
        DataError: it has folders, or is none.

    >>> check_name("../secret.jpg", "instances.json, image 9")
    Traceback (most recent call last):
    bibench.tasks.base.DataError: instances.json, image 9: '../secret.jpg', expected a file's name without folders
    """
    if name in ("", ".", "..") or not set("/\\").isdisjoint(name) or not name.isprintable():
        raise DataError(f"{where}: {name[:80]!a}, expected a file's name without folders")


def files_in(folder: Path, layout: str) -> list[str]:
    """The names in a folder.

    Raises:
        DataError: there is no such folder; the message has the layout.
    """
    try:
        return os.listdir(folder)
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror}; {layout}") from error


def left_out(root: Path, what: str, places: Sequence[str], subset: bool) -> list[str]:
    """A note of what is missing on disk, if anything is.

    Args:
        root: the data set's folder.
        what: is missing, in prose.
        places: one for each.
        subset: whether a part of the data set is accepted.

    Raises:
        DataError: it isn't, and something is missing.
    """
    if places and not subset:
        raise DataError(
            f"{root}: {what} missing: {len(places):,}, such as {places[0]}; complete them, or leave them out with "
            "--allow-subset"
        )
    return [f"{what} missing: {len(places):,}, such as {places[0]}"] if places else []


def _headers(paths: Sequence[Path]) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
    """Height and width of each image, from the head of its file, and the file's length in bytes."""
    sizes, lengths = np.empty((len(paths), 2), np.int32), np.empty(len(paths), np.int64)
    for number, path in enumerate(paths):
        with open_image(path) as image:
            sizes[number] = image.size[::-1]
        lengths[number] = path.stat().st_size
    return sizes, lengths


def _checked(found: Annotations, sizes: npt.NDArray[np.int32]) -> tuple[Objects, list[str]]:
    """The objects whose boxes are boxes in their image, image by image, and notes on the others.

    Boxes to learn from are cut at the edge of their image. Boxes of the test split stay as they are annotated, as the
    challenges' own evaluations have them.
    """
    edges = (found.boxes - [found.origin, found.origin, 0, 0]).astype(np.float32)
    inside = edges.clip(0, np.tile(sizes[found.image, ::-1], 2).astype(np.float32))
    extent = np.minimum(found.boxes[:, 2:] - found.boxes[:, :2], inside[:, 2:] - inside[:, :2]).min(axis=1)
    good = extent >= _LEAST
    beyond = good & (inside != edges).any(axis=1)
    notes = [
        f"{what}: {len(numbers):,}, such as {found.places(int(numbers[0]))}"
        for what, mask in (
            ("boxes empty, reversed or outside their image, left out", ~good),
            ("boxes partly outside their image (cut in training)", beyond),
        )
        if len(numbers := np.flatnonzero(mask))
    ]
    boxes = np.where(found.test[found.image, None], edges, inside)
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) if found.areas is None else found.areas
    order = np.argsort(found.image, kind="stable")
    order = order[good[order]]
    counts = np.bincount(found.image[order], minlength=len(sizes))
    objects = Objects(
        root=found.root,
        names=np.array([os.fsencode(name) for name in found.names], dtype=np.bytes_),
        sizes=sizes,
        starts=np.concatenate(([0], np.cumsum(counts))),
        boxes=boxes[order],
        labels=found.labels[order].astype(np.int32),
        ignored=found.ignored[order],
        areas=areas[order].astype(np.float32),
    )
    return objects, notes


def _mean_box(train: Objects, test: Objects) -> tuple[int, list[Detections]]:
    """The commonest class, and of each test image the mean box of its training objects, relative to the image."""
    counted = ~train.ignored
    commonest = int(np.bincount(train.labels[counted]).argmax())
    own = counted & (train.labels == commonest)
    relative = train.boxes[own] / np.tile(train.sizes[train.image[own], ::-1], 2)
    boxes = relative.mean(axis=0) * np.tile(test.sizes[:, ::-1], 2)
    one = np.array([commonest])
    return commonest, [Detections(boxes=box[None], labels=one, scores=np.ones(1)) for box in boxes]


_NOTHING = 0.05
"""Percent points of mAP, which is no mean over images and has no standard error, that are as good as none."""


def detection_data(
    found: Annotations, labels: tuple[str, ...], notes: Sequence[str], figures: Figures, *, short: int, long: int
) -> Data:
    """The splits of a data set, with notes on what was left out, and the score of a constant answer.

    The size of an image is that of its file. Training images without an object that counts are left out.

    Args:
        found: what its files say.
        labels: names of the classes.
        notes: what is known so far of the data set.
        figures: the task's metric.
        short, long: the most that the sides of an image are to have, in pixels.

    Raises:
        DataError: an image file that can't be read, or no object to learn or to find.
    """
    sizes, lengths = _headers([found.root / name for name in found.names])
    objects, flaws = _checked(found, sizes)
    others = np.flatnonzero((sizes != found.sizes).any(axis=1))
    if len(others):
        first = others[0]
        flaws.append(
            f"images of another size than annotated (the file's counts): {len(others):,}, such as {found.names[first]}"
        )
    counts = np.bincount(objects.image[~objects.ignored], minlength=len(objects)) > 0
    empty = int((~found.test & ~counts).sum())
    if empty:
        flaws.append(f"training images without an object that counts, left out: {empty:,}")
    for half, mask in (("training", ~found.test), ("test", found.test)):
        if not (counts & mask).any():
            raise DataError(f"{found.root}: no {half} image has an object that counts; check its lists and annotations")
    train, test = objects.part(~found.test & counts), objects.part(found.test)
    commonest, guesses = _mean_box(train, test)
    score = 100 * figures(test.truths(), guesses, len(labels))["map"]
    content = (objects.names, lengths, found.test, sizes, objects.starts)
    boxes = (objects.boxes, objects.labels, objects.ignored, objects.areas)
    return Data(
        train=DetectionFiles(objects=train, short=short, long=long),
        test=DetectionFiles(objects=test, short=short, long=long),
        outputs=len(labels),
        fingerprint=fingerprint(*content, *boxes),
        notes=("; ".join((*notes, *flaws)),) if notes or flaws else (),
        labels=labels,
        trivial=Trivial(
            answer=f"the mean box of the commonest class ({labels[commonest - 1]}) on every image",
            value=score,
            margin=_NOTHING,
        ),
    )
