"""What the point cloud tasks share: clouds in memory and their augmentation, HDF5 files, metrics, kept points."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bibench.files import file_sha256
from bibench.tasks.base import DataError, Evaluation, Metric

__all__ = [
    "MEAN_IOU",
    "Clouds",
    "content_hash",
    "evaluate_classes",
    "evaluate_parts",
    "loss",
    "open_hdf5",
    "read_rows",
    "unit_sphere",
]

Floats = npt.NDArray[np.float32]

MEAN_IOU = Metric(name="miou")
"""Intersection over union of parts, in percent: mean over an object's, over a category's objects, over categories."""

SCALE, SHIFT = (0.8, 1.25), 0.1
"""Training clouds are scaled by a random number and moved by random numbers of up to ``SHIFT`` along each axis."""

_REPAIR = "unpack it again from the archive"


def unit_sphere(points: Floats) -> Floats:
    """Move clouds so that their points' mean is 0, and scale them so that their farthest point is at distance 1.

    Args:
        points: ``(..., points, 3)``; a cloud of one place stays there, at 0.

    >>> unit_sphere(np.array([[0.0, 0, 0], [4, 0, 0]], dtype=np.float32))
    array([[-1.,  0.,  0.],
           [ 1.,  0.,  0.]], dtype=float32)
    """
    centred = points.astype(np.float64) - points.mean(axis=-2, keepdims=True, dtype=np.float64)
    radius = np.sqrt((centred**2).sum(axis=-1, keepdims=True)).max(axis=-2, keepdims=True)
    scaled: Floats = (centred / np.where(radius > 0, radius, 1)).astype(np.float32)
    return scaled


@dataclass(eq=False, kw_only=True)
class Clouds:
    """A split of point clouds in memory, augmented a batch at a time without a loop over clouds.

    A training cloud is scaled by a number drawn from U(0.8, 1.25) and moved by one from U(-0.1, 0.1) along each axis,
    as is usual for PointNet; normals stay. Order and augmentation depend on the seed of ``batches`` alone, not on
    torch's global generator or the device.

    Args:
        points: float32 ``(clouds, channels, points)``; the first three channels are coordinates.
        answers: int64 ``(clouds, ...)``, what is to be predicted: a class, or the part of each point.
        category: int64 ``(clouds,)`` where the category is known; it is then given to the network in further channels
            (+1 for the cloud's own category and -1 for others), and comes third in a batch.
        categories: how many there are; 0 where none is known.

    Raises:
        ValueError: the shapes or types are others.

    >>> split = Clouds(points=torch.zeros(5, 3, 8), answers=torch.arange(5))
    >>> [tuple(points.shape) for points, _ in split.batches(2, device=torch.device("cpu"), seed=0)]
    [(2, 3, 8), (2, 3, 8)]
    """

    points: Tensor
    answers: Tensor
    category: Tensor | None = None
    categories: int = 0
    _held: dict[torch.device, tuple[Tensor, ...]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.points.dtype != torch.float32 or self.points.ndim != 3:
            raise ValueError(
                "points must be float32 of shape (clouds, channels, points), "
                f"got {self.points.dtype} of shape {tuple(self.points.shape)}"
            )
        for name, labels in (("answers", self.answers), ("category", self.category)):
            if labels is not None and (labels.dtype != torch.int64 or labels.shape[:1] != self.points.shape[:1]):
                raise ValueError(
                    f"{name} must be int64 with {len(self.points)} rows, one a cloud, "
                    f"got {labels.dtype} of shape {tuple(labels.shape)}"
                )

    def __len__(self) -> int:
        return len(self.points)

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        """Points, answers and categories on a device, moved there once."""
        if device not in self._held:
            parts = (self.points, self.answers, *(() if self.category is None else (self.category,)))
            self._held[device] = tuple(part.to(device) for part in parts)
        return self._held[device]

    def batches(
        self, batch_size: int, *, device: torch.device, seed: int | None = None
    ) -> Iterator[tuple[Tensor, ...]]:
        """Iterate over ``(points, answers)`` or ``(points, answers, category)``; see `bibench.tasks.base.Split`."""
        held = self._on(device)
        if seed is None:
            for start in range(0, len(self), batch_size):
                yield self._with_category(*(part[start : start + batch_size] for part in held))
            return

        # All random numbers of the epoch are drawn on the CPU and moved at once: the same on every device.
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator).to(device)
        low, high = SCALE
        scale = torch.empty(len(self), 1, 1).uniform_(low, high, generator=generator).to(device)
        shift = torch.empty(len(self), 3, 1).uniform_(-SHIFT, SHIFT, generator=generator).to(device)
        for start in range(0, max(1, len(self) // batch_size) * batch_size, batch_size):
            chosen = slice(start, start + batch_size)
            points, *rest = (part[order[chosen]] for part in held)
            points[:, :3].mul_(scale[chosen]).add_(shift[chosen])
            yield self._with_category(points, *rest)

    def _with_category(self, points: Tensor, answers: Tensor, category: Tensor | None = None) -> tuple[Tensor, ...]:
        if category is None:
            return points, answers
        signs = F.one_hot(category, self.categories).to(points.dtype).mul_(2).sub_(1)
        everywhere = signs[:, :, None].expand(-1, -1, points.shape[2])
        return torch.cat((points, everywhere), dim=1), answers, category


def loss(model: nn.Module, batch: Sequence[Tensor]) -> Tensor:
    """Mean cross-entropy in nats, over clouds or, where each point has an answer, over all points.

    >>> loss(lambda points: torch.zeros(2, 4), (torch.zeros(2, 3, 8), torch.tensor([0, 3])))
    tensor(1.3863)
    """
    return F.cross_entropy(model(batch[0]).float(), batch[1])


def evaluate_classes(model: nn.Module, batches: Iterable[Sequence[Tensor]]) -> Evaluation:
    """Accuracy overall and as the mean over the classes that there are, in percent, and mean cross-entropy in nats.

    The model is in evaluation mode, without gradients. Per sample: 1.0 right, 0.0 wrong.

    Raises:
        ValueError: there is no batch.

    >>> guess = lambda points: torch.tensor([[1.0, 0.0]]).expand(len(points), -1)
    >>> evaluate_classes(guess, [(torch.zeros(4, 3, 8), torch.tensor([0, 0, 0, 1]))]).figures["class_accuracy"]
    50.0
    """
    losses, hits, answers = [], [], []
    for points, classes in batches:
        outputs = model(points).float()
        losses.append(F.cross_entropy(outputs, classes, reduction="none"))
        hits.append(outputs.argmax(dim=1) == classes)
        answers.append(classes)
    if not hits:
        raise ValueError("an evaluation needs at least one batch, got none; check the test split")
    # One transfer at the end: asking for figures after each batch would stall an accelerator.
    right, answer = torch.cat(hits).cpu().numpy(), torch.cat(answers).cpu().numpy()
    count = np.bincount(answer)
    by_class = np.bincount(answer, weights=right)[count > 0] / count[count > 0]
    figures = {
        "accuracy": 100.0 * float(right.mean()),
        "class_accuracy": 100.0 * float(by_class.mean()),
        "loss": torch.cat(losses).double().mean().item(),
    }
    return Evaluation(figures=figures, per_sample=right.astype(np.float32))


def evaluate_parts(
    model: nn.Module, batches: Iterable[Sequence[Tensor]], *, parts: Sequence[tuple[str, range]]
) -> Evaluation:
    """Mean IoU of parts, in percent: over the categories, over all objects, and of each category.

    As the field does (Qi et al., 2017, section 5.1): a point's part is that of its object's category with the largest
    output. An object's IoU is the mean over all parts of its category, where a part that is neither there nor
    predicted counts as 1. A category's is the mean over its objects, one of the subsets; ``miou`` is the mean over the
    categories that there are, as BiBench's row "Overall", and ``miou_objects`` that over all objects. Per sample: the
    object's IoU, 0 to 1.

    Args:
        model: in evaluation mode, without gradients.
        batches: points, parts of the points and category of each object.
        parts: name and parts of each category, in the categories' order.

    Raises:
        ValueError: there is no batch.
    """
    pairs: list[tuple[Tensor, Tensor]] = []
    losses = []
    for points, answers, category in batches:
        outputs = model(points).float()
        losses.append(F.cross_entropy(outputs, answers, reduction="none").mean(dim=1))
        pairs.append((_object_iou(outputs, answers, category, [own for _, own in parts]), category))
    if not pairs:
        raise ValueError("an evaluation needs at least one batch, got none; check the test split")
    ious, categories = (torch.cat(column).cpu().numpy() for column in zip(*pairs, strict=True))
    by_category = {
        name.lower(): 100.0 * float(ious[categories == number].mean(dtype=np.float64))
        for number, (name, _) in enumerate(parts)
        if (categories == number).any()
    }
    figures = {
        "miou": float(np.mean(list(by_category.values()))),
        "miou_objects": 100.0 * float(ious.mean(dtype=np.float64)),
        "loss": torch.cat(losses).double().mean().item(),
    }
    return Evaluation(figures=figures, per_sample=ious.astype(np.float32), subsets=by_category)


def _object_iou(outputs: Tensor, answers: Tensor, category: Tensor, parts: Sequence[range]) -> Tensor:
    """IoU of each object, ``(batch,)``; outputs are ``(batch, parts, points)``."""
    belongs = torch.zeros(len(parts), outputs.shape[1], dtype=torch.bool, device=outputs.device)
    for number, own in enumerate(parts):
        belongs[number, own.start : own.stop] = True
    belongs = belongs[category]
    predicted = outputs.masked_fill(~belongs[:, :, None], -torch.inf).argmax(dim=1)
    chosen, there = (
        F.one_hot(labels, outputs.shape[1]).sum(dim=1, dtype=torch.float64) for labels in (predicted, answers)
    )
    both = F.one_hot(answers, outputs.shape[1]).mul_((predicted == answers)[:, :, None]).sum(dim=1, dtype=torch.float64)
    either = chosen + there - both
    iou = torch.where(either > 0, both / either.clamp(min=1), 1.0)
    return (iou * belongs).sum(dim=1) / belongs.sum(dim=1)


def open_hdf5(path: Path) -> h5py.File:
    """Open an HDF5 file to read.

    Raises:
        DataError: it is missing, cut off, or no HDF5 file.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing; {_REPAIR}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: cannot be read as an HDF5 file: {error}; {_REPAIR}") from error


def read_rows(file: h5py.File, name: str, shape: tuple[int, ...], *, whole: bool = False) -> npt.NDArray[Any]:
    """An array of an open file, as int64 if the numbers must be whole, else as float32.

    Args:
        file: as `open_hdf5` returns it.
        name: the array's.
        shape: what is wanted of each row; an array may have more along a dimension, of which the first are read. Where
            a single number is wanted, ``()``, it may lie in a row of one.
        whole: whether the numbers must be whole.

    Raises:
        DataError: it is missing, cut off, of another shape, or holds what isn't a finite number.
    """
    where = f"{file.filename}, array '{name}'"
    if not isinstance(file.get(name), h5py.Dataset):
        raise DataError(f"{where}: missing; the file has {', '.join(sorted(file)) or 'nothing'}; {_REPAIR}")
    found = file[name]
    have = () if not found.shape or (not shape and found.shape[1:] == (1,)) else found.shape[1:]
    if (
        not found.shape
        or not found.size
        or len(have) != len(shape)
        or any(has < want for has, want in zip(have, shape, strict=True))
    ):
        wanted = ", ".join(["rows", *(f"{want} or more" for want in shape)])
        raise DataError(f"{where}: shape {found.shape}, expected ({wanted}); {_REPAIR}")
    part = (slice(None), *(slice(want) for want in shape))
    try:
        rows = np.asarray(found[part]).reshape(len(found), *shape)
    except (OSError, RuntimeError) as error:
        raise DataError(f"{where}: cannot be read: {error}; {_REPAIR}") from error
    if rows.dtype.kind not in "iuf":
        raise DataError(f"{where}: type {rows.dtype}, expected numbers; {_REPAIR}")
    bad = ~np.isfinite(rows)
    if whole:
        bad |= rows != np.trunc(rows)
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        kind = "whole number" if whole else "finite number"
        raise DataError(f"{where}, row {row:,}: {rows[bad].flat[0]} is no {kind}; {_REPAIR}")
    return rows.astype(np.int64) if whole else rows.astype(np.float32)


def content_hash(folder: Path, names: Iterable[str]) -> dict[str, bytes]:
    """SHA-256 of each file, by its name below the folder."""
    return {name: bytes.fromhex(file_sha256(folder / name)) for name in names}
