"""Average precision of detections: the Pascal VOC challenge's, COCO's, and one score an image.

A detection is right when it is the first on an object of its class, by descending score. Precision is the share of
right ones among the detections down to a score, recall the share of the objects that they found; average precision is
the area below precision over recall, and the challenges differ in how they take it.

Sources: Everingham et al., The Pascal Visual Object Classes Challenge, 2010, section 4.2, and its development kits
(until 2009: 11 points, from 2010 on: all points); Lin et al., Microsoft COCO, 2014; BiBench, equations 25 to 28.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from faster_coco_eval import COCO, COCOeval_faster

__all__ = ["Detections", "Truth", "average_precisions", "coco_figures", "per_image"]

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

_LEAST_SCORE = 0.5
"""Of a detection that counts against an image without objects (`per_image`)."""

_COCO_FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")
"""The first six of COCO's twelve, in its order; the others are recalls."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The objects of one image.

    Args:
        boxes: float64 ``(objects, 4)``: left, top, right, bottom in pixels, continuous: a box as wide as the image
            is ``0`` to ``width``.
        labels: int64 ``(objects,)``, from 1.
        ignored: bool ``(objects,)``: difficult (VOC) or crowd (COCO) ones, neither right nor wrong to find.
        areas: float64 ``(objects,)``, in square pixels; COCO's own are those of the segments.

    Raises:
        ValueError: shapes that don't belong together, numbers that are not finite, or reversed boxes.
    """

    boxes: Floats
    labels: Integers
    ignored: Flags
    areas: Floats

    def __post_init__(self) -> None:
        _check("objects", self.boxes, labels=self.labels, ignored=self.ignored, areas=self.areas)


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """What a detector found in one image.

    Args:
        boxes: float64 ``(detections, 4)``, as in `Truth`.
        labels: int64 ``(detections,)``, from 1.
        scores: float64 ``(detections,)``, higher is surer.

    Raises:
        ValueError: shapes that don't belong together, numbers that are not finite, or reversed boxes.
    """

    boxes: Floats
    labels: Integers
    scores: Floats

    def __post_init__(self) -> None:
        _check("detections", self.boxes, labels=self.labels, scores=self.scores)


def _check(what: str, boxes: Floats, **others: npt.NDArray[Any]) -> None:
    count = len(boxes)
    shapes = {name: array.shape for name, array in others.items()}
    if boxes.shape != (count, 4) or any(shape != (count,) for shape in shapes.values()):
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"{what}: boxes {boxes.shape}, {listed}; expected (n, 4), and (n,) with the same n")
    for name, array in {"boxes": boxes, **others}.items():
        bad = array[~np.isfinite(array)]
        if len(bad):
            raise ValueError(f"{what}: {name} holds {bad[0]}; expected finite numbers")
    reversed_ = boxes[(boxes[:, 2:] < boxes[:, :2]).any(axis=1)]
    if len(reversed_):
        raise ValueError(f"{what}: the box {reversed_[0].tolist()} is reversed; expected left, top, right, bottom")


def average_precisions(
    truths: Sequence[Truth],
    detections: Sequence[Detections],
    classes: int,
    *,
    threshold: float = 0.5,
    points: int | None = 11,
) -> Floats:
    """Average precision of each class by the VOC challenge's rules (BiBench, equations 26 to 28).

    A detection belongs to the object of its class and image with the largest intersection over union, the first of
    equals. Below the threshold it is wrong; on an ignored object it doesn't count; the first on an object, by
    descending score, is right, and further ones are wrong. Detections with the same score stay in the order of images
    and rows. Recall is over the objects that are not ignored.

    Args:
        truths, detections: one an image, in the same order.
        classes: how many; labels are 1 to ``classes``.
        threshold: least intersection over union, the challenge's 0.5.
        points: mean of the highest precision at a recall of at least 0, 1/(points - 1), ..., 1: 11 until VOC 2009.
            None: the area below the highest precision at each recall or a higher one, from VOC 2010 on.

    Returns:
        float64 ``(classes,)``, 0 to 1; NaN for a class without an object that counts.

    Raises:
        ValueError: as many truths as detections are expected, and labels from 1 to ``classes``.

    >>> truth = Truth(boxes=np.array([[0.0, 0, 10, 10], [20, 0, 30, 10]]), labels=np.array([1, 1]),
    ...               ignored=np.array([False, False]), areas=np.array([100.0, 100.0]))
    >>> found = Detections(boxes=np.array([[0.0, 0, 10, 10], [1, 0, 11, 10]]), labels=np.array([1, 1]),
    ...                    scores=np.array([0.9, 0.8]))
    >>> average_precisions([truth], [found], 1).round(4)  # precision 1 at the recalls 0 to 0.5
    array([0.5455])
    >>> average_precisions([truth], [found], 1, points=None)
    array([0.5])
    """
    if points is not None and points < 2:
        raise ValueError(f"points is {points}; expected None, or at least 2: the recalls 0 and 1")
    _check_labels(truths, detections, classes)
    judged = [_judge(truth, found, threshold) for truth, found in zip(truths, detections, strict=True)]
    counts = np.concatenate([counts for counts, _ in judged]) if judged else np.zeros(0, bool)
    right = np.concatenate([right for _, right in judged]) if judged else np.zeros(0, bool)
    labels = np.concatenate([found.labels for found in detections]) if judged else np.zeros(0, np.int64)
    scores = np.concatenate([found.scores for found in detections]) if judged else np.zeros(0)
    objects = np.zeros(classes + 1, np.int64)
    for truth in truths:
        objects += np.bincount(truth.labels[~truth.ignored], minlength=classes + 1)
    result = np.full(classes, np.nan)
    for label in range(1, classes + 1):
        if objects[label]:
            own = np.flatnonzero(counts & (labels == label))
            order = own[np.argsort(-scores[own], kind="stable")]
            result[label - 1] = _average_precision(right[order], int(objects[label]), points)
    return result


def per_image(truths: Sequence[Truth], detections: Sequence[Detections], classes: int) -> npt.NDArray[np.float32]:
    """One score an image, for paired comparisons: the mean average precision within it (VOC's rules, 0.5, all points).

    The mean is over the classes of the image's objects that count; detections of other classes don't matter. In an
    image where no object counts the score is 1 if nothing was detected with a score of at least 0.5, else 0;
    detections on ignored objects don't matter here either. The mean over images is not the data set's mean average
    precision, which ranks the detections of all images together.

    Args:
        truths, detections: one an image, in the same order.
        classes: how many; labels are 1 to ``classes``.

    Returns:
        float32 ``(images,)``, 0 to 1.

    Raises:
        ValueError: as in `average_precisions`.

    >>> empty = Truth(boxes=np.zeros((0, 4)), labels=np.zeros(0, int), ignored=np.zeros(0, bool), areas=np.zeros(0))
    >>> found = Detections(boxes=np.array([[0.0, 0, 10, 10]]), labels=np.array([1]), scores=np.array([0.4]))
    >>> per_image([empty], [found], 1)
    array([1.], dtype=float32)
    """
    _check_labels(truths, detections, classes)
    pairs = zip(truths, detections, strict=True)
    return np.array([_image_score(truth, found) for truth, found in pairs], dtype=np.float32)


def _image_score(truth: Truth, found: Detections) -> float:
    counts, right = _judge(truth, found, 0.5)
    present, objects = np.unique(truth.labels[~truth.ignored], return_counts=True)
    if not len(present):
        return float(not (counts & (found.scores >= _LEAST_SCORE)).any())
    order = np.argsort(-found.scores, kind="stable")
    order = order[counts[order]]
    return float(
        np.mean(
            [
                _average_precision(right[order[found.labels[order] == label]], int(number), None)
                for label, number in zip(present, objects, strict=True)
            ]
        )
    )


def coco_figures(truths: Sequence[Truth], detections: Sequence[Detections], classes: int) -> dict[str, float]:
    """COCO's average precisions, by faster-coco-eval: 100 detections an image and class, 101 recalls.

    Ignored objects are crowds: any number of detections may lie in one. The sizes are by `Truth.areas`: small up to 32²
    square pixels, medium up to 96², large above.

    Args:
        truths, detections: one an image, in the same order.
        classes: how many; labels are 1 to ``classes``.

    Returns:
        ``map`` (mean over the classes and the thresholds 0.5, 0.55, ..., 0.95), ``map_50``, ``map_75``, ``map_small``,
        ``map_medium``, ``map_large``, 0 to 1. Those without any object that counts are absent.

    Raises:
        ValueError: as in `average_precisions`.

    >>> truth = Truth(boxes=np.array([[0.0, 0, 10, 10]]), labels=np.array([1]), ignored=np.array([False]),
    ...               areas=np.array([100.0]))
    >>> found = Detections(boxes=np.array([[0.0, 0, 10, 8.2]]), labels=np.array([1]), scores=np.array([0.9]))
    >>> {name: round(value, 4) for name, value in coco_figures([truth], [found], 1).items()}
    {'map': 0.7, 'map_50': 1.0, 'map_75': 1.0, 'map_small': 0.7}
    """
    _check_labels(truths, detections, classes)
    objects = [
        {"bbox": box, "category_id": label, "area": area, "iscrowd": int(ignored), "image_id": image}
        for image, truth in enumerate(truths, start=1)
        for box, label, area, ignored in zip(
            _corner_and_size(truth.boxes),
            truth.labels.tolist(),
            truth.areas.tolist(),
            truth.ignored.tolist(),
            strict=True,
        )
    ]
    found = [
        {"bbox": box, "category_id": label, "score": score, "image_id": image}
        for image, own in enumerate(detections, start=1)
        for box, label, score in zip(_corner_and_size(own.boxes), own.labels.tolist(), own.scores.tolist(), strict=True)
    ]
    known = COCO(
        {
            "images": [{"id": image} for image in range(1, len(truths) + 1)],
            "categories": [{"id": label} for label in range(1, classes + 1)],
            # From 1: the library takes an object numbered 0 for none.
            "annotations": [{"id": number, **one} for number, one in enumerate(objects, start=1)],
        }
    )
    evaluation = COCOeval_faster(known, known.loadRes(found), iouType="bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    values = zip(_COCO_FIGURES, evaluation.stats[: len(_COCO_FIGURES)].tolist(), strict=True)
    return {name: value for name, value in values if value >= 0}  # -1 stands for undefined


def _corner_and_size(boxes: Floats) -> list[list[float]]:
    """COCO's form of boxes: left, top, width, height."""
    return cast(list[list[float]], np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist())


def _check_labels(truths: Sequence[Truth], detections: Sequence[Detections], classes: int) -> None:
    if len(truths) != len(detections):
        raise ValueError(f"{len(truths)} images with objects and {len(detections)} with detections; expected as many")
    for image, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        for what, labels in (("an object", truth.labels), ("a detection", found.labels)):
            bad = labels[(labels < 1) | (labels > classes)]
            if len(bad):
                raise ValueError(f"image {image}: {what} has the label {bad[0]}; expected 1 to {classes}")


def _judge(truth: Truth, found: Detections, threshold: float) -> tuple[Flags, Flags]:
    """Which detections of an image count, and which are right: bool ``(detections,)`` each."""
    counts = np.ones(len(found.scores), bool)
    right = np.zeros(len(found.scores), bool)
    if not len(truth.labels) or not len(found.scores):
        return counts, right
    overlaps = _intersection_over_union(found.boxes, truth.boxes)
    overlaps[found.labels[:, None] != truth.labels] = -1.0
    nearest = overlaps.argmax(axis=1)  # the first of equals
    on_object = overlaps.max(axis=1) >= threshold
    counts = ~(on_object & truth.ignored[nearest])
    order = np.argsort(-found.scores, kind="stable")
    order = order[(on_object & counts)[order]]
    _, first = np.unique(nearest[order], return_index=True)
    right[order[first]] = True
    return counts, right


def _intersection_over_union(first: Floats, second: Floats) -> Floats:
    """``(n, 4)`` and ``(m, 4)`` to ``(n, m)``; 0 where both are empty."""
    corner = np.maximum(first[:, None, :2], second[None, :, :2])
    sides = np.minimum(first[:, None, 2:], second[None, :, 2:]) - corner
    shared = np.prod(np.maximum(sides, 0.0), axis=2)
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return cast(Floats, np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def _average_precision(right: Flags, objects: int, points: int | None) -> float:
    """From which detections are right, by descending score, and the number of objects."""
    found = np.cumsum(right)
    precision = found / np.arange(1, len(right) + 1)
    best = np.maximum.accumulate(precision[::-1])[::-1]  # at this recall or a higher one
    if points is None:
        return float(best[right].sum() / objects)
    steps = points - 1
    # found / objects >= step / steps in whole numbers: 3 of 10 objects are a recall of 0.3.
    places = np.searchsorted(steps * found, objects * np.arange(points), side="left")
    return float(np.append(best, 0.0)[places].sum() / points)
