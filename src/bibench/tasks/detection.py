"""What the detection tasks share: their batches, the loss, and the evaluation by the rules of VOC or COCO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bibench.tasks.average_precision import Detections, Truth, average_precisions, coco_figures, per_image
from bibench.tasks.base import Evaluation, Metric

__all__ = [
    "MEAN_AP",
    "DetectionBatch",
    "Figures",
    "evaluate_coco",
    "evaluate_voc",
    "example",
    "loss",
    "made_up",
    "voc_figures",
]

MEAN_AP = Metric(name="map")
"""Mean average precision over the classes, in percent."""


class DetectionBatch(NamedTuple):
    """Images with the objects in them; the first dimension of every tensor is the image.

    Args:
        images: float32 ``(batch, 3, height, width)``, 0 to 1; each image at the top left, zeros around it.
        sizes: int64 ``(batch, 2)``, height and width of each image in ``images``.
        originals: int64 ``(batch, 2)``, height and width of its file.
        boxes: float32 ``(batch, most, 4)``, ``x1, y1, x2, y2`` in pixels of the file, mirrored where the image is:
            0 is its left or upper edge, its width or height the other one.
        labels: int64 ``(batch, most)``, from 1; 0 where there is no object.
        ignored: bool ``(batch, most)``: difficult (VOC) or a crowd (COCO), not learned and neither right
            nor wrong to find.
        areas: float32 ``(batch, most)``, pixels of the file: the segment's (COCO) or the box's (VOC).
        numbers: int64 ``(batch,)``, each sample's in its split.
    """

    images: Tensor
    sizes: Tensor
    originals: Tensor
    boxes: Tensor
    labels: Tensor
    ignored: Tensor
    areas: Tensor
    numbers: Tensor


def _images(batch: DetectionBatch) -> list[Tensor]:
    """Each image of a batch without what fills it up."""
    return [
        image[:, :height, :width] for image, (height, width) in zip(batch.images, batch.sizes.tolist(), strict=True)
    ]


def _targets(batch: DetectionBatch) -> list[dict[str, Tensor]]:
    """What torchvision's detectors learn from: boxes in pixels of the given images, and labels."""
    scale = (batch.sizes / batch.originals).flip(1).repeat(1, 2)  # x, y, x, y
    boxes = batch.boxes * scale[:, None].to(batch.boxes)
    kept = (batch.labels > 0) & ~batch.ignored
    return [
        {"boxes": own[keep], "labels": labels[keep]}
        for own, labels, keep in zip(boxes, batch.labels, kept, strict=True)
    ]


def loss(model: nn.Module, batch: DetectionBatch) -> Tensor:
    """The sum of the detector's own losses; ignored objects are not learned.

    For Faster R-CNN those of the region proposal network and of the predictors, each of classes and of boxes (Ren et
    al., 2015, eq. 1); for SSD those of classes and boxes (Liu et al., 2016, eq. 1).

    Args:
        model: a detector of torchvision's kind in training mode, see `bibench.models.detection`.
        batch: of images.
    """
    losses: dict[str, Tensor] = model(_images(batch), _targets(batch))
    return torch.stack([value.float() for value in losses.values()]).sum()


def _numpy(values: Tensor, kind: Any) -> Any:
    return values.detach().cpu().numpy().astype(kind)


def _found(model: nn.Module, batches: Iterable[DetectionBatch]) -> tuple[list[Truth], list[Detections]]:
    """What is in the images and what the model finds in them, both in pixels of the files."""
    truths, detections = [], []
    for batch in batches:
        for place, found in enumerate(model(_images(batch))):
            there = batch.labels[place] > 0
            truths.append(
                Truth(
                    boxes=_numpy(batch.boxes[place][there], np.float64),
                    labels=_numpy(batch.labels[place][there], np.int64),
                    ignored=_numpy(batch.ignored[place][there], np.bool_),
                    areas=_numpy(batch.areas[place][there], np.float64),
                )
            )
            scale = _numpy(batch.originals[place], np.float64) / _numpy(batch.sizes[place], np.float64)
            detections.append(
                Detections(
                    boxes=_numpy(found["boxes"], np.float64) * np.tile(scale[::-1], 2),
                    labels=_numpy(found["labels"], np.int64),
                    scores=_numpy(found["scores"], np.float64),
                )
            )
    if not truths:
        raise ValueError("an evaluation needs at least one batch, got none; check the test split")
    return truths, detections


Figures = Callable[[Sequence[Truth], Sequence[Detections], int], dict[str, float]]
"""``map``, 0 to 1, among others, of one truth and one detection an image and the number of classes."""


def _evaluate(model: nn.Module, batches: Iterable[DetectionBatch], figures: Figures) -> Evaluation:
    truths, detections = _found(model, batches)
    labels = [one.labels for one in truths] + [one.labels for one in detections]
    classes = int(np.concatenate(labels).max(initial=1))
    return Evaluation(
        figures={name: 100.0 * value for name, value in figures(truths, detections, classes).items()},
        per_sample=per_image(truths, detections, classes),
    )


def voc_figures(truths: Sequence[Truth], detections: Sequence[Detections], classes: int) -> dict[str, float]:
    eleven = average_precisions(truths, detections, classes, points=11)
    every = average_precisions(truths, detections, classes, points=None)
    return {"map": _mean(eleven), "map_all_points": _mean(every)}


def _mean(precisions: Any) -> float:
    """The mean over the classes that have an object; 0 where none has."""
    known = precisions[~np.isnan(precisions)]
    return float(known.mean()) if known.size else 0.0


def evaluate_voc(model: nn.Module, batches: Iterable[DetectionBatch]) -> Evaluation:
    """Mean average precision at an IoU of 0.5 by the rules of VOC, in percent.

    ``map`` has 11 points, as VOC 2007 and BiBench (equations 25 to 28); ``map_all_points`` is the area under the
    curve, as VOC from 2010 on. Classes without an object in the test split don't count. The model is in evaluation
    mode, without gradients.

    Raises:
        ValueError: there is no batch.
    """
    return _evaluate(model, batches, voc_figures)


def evaluate_coco(model: nn.Module, batches: Iterable[DetectionBatch]) -> Evaluation:
    """Mean average precision by the rules of COCO, in percent.

    ``map`` is the mean over IoUs of 0.5, 0.55, ..., 0.95; ``map_50`` and ``map_75`` at one of them; ``map_small``,
    ``map_medium`` and ``map_large`` of objects below 32², up to 96² and above pixels, where there are some.

    Raises:
        ValueError: there is no batch.
    """
    return _evaluate(model, batches, coco_figures)


def example(long: int) -> Tensor:
    """Two images as large as a network gets to see, whichever side is the longer: ``(2, 3, long, long)``, 0 to 1."""
    return torch.rand(2, 3, long, long, generator=torch.Generator().manual_seed(0))


def made_up(count: int, short: int, long: int) -> DetectionBatch:
    """A batch of random images with one object each, to time a step on where there are no data.

    >>> made_up(2, 60, 100).boxes[1]
    tensor([[25., 15., 75., 45.]])
    """
    sizes = torch.tensor([[short, long]]).repeat(count, 1)
    box = torch.tensor([long / 4, short / 4, long * 3 / 4, short * 3 / 4])
    return DetectionBatch(
        images=torch.rand(count, 3, short, long, generator=torch.Generator().manual_seed(0)),
        sizes=sizes,
        originals=sizes,
        boxes=box.repeat(count, 1, 1),
        labels=torch.ones(count, 1, dtype=torch.int64),
        ignored=torch.zeros(count, 1, dtype=torch.bool),
        areas=torch.full((count, 1), long * short / 4),
        numbers=torch.arange(count),
    )
