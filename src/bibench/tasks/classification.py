"""What the image classification tasks share: loss, metric and data sets that fit into memory."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bibench.tasks.base import Evaluation, Metric, Trivial

__all__ = [
    "ACCURACY",
    "ImageBatch",
    "ImagesInMemory",
    "commonest",
    "crop_and_flip",
    "evaluate",
    "fingerprint",
    "loss",
    "normalise",
]

ACCURACY = Metric(name="accuracy")
"""Share of test samples whose largest output is the right class, in percent."""

ImageBatch = tuple[Tensor, Tensor]
"""Inputs ``(batch, channels, height, width)``, float32, and labels ``(batch,)``, int64."""


def loss(model: nn.Module, batch: ImageBatch) -> Tensor:
    """Mean cross-entropy over the batch, in nats: ``-mean log softmax(model(x))[y]``.

    >>> loss(nn.Flatten(), (torch.zeros(2, 10, 1, 1), torch.tensor([3, 7])))
    tensor(2.3026)
    """
    inputs, labels = batch
    return F.cross_entropy(model(inputs).float(), labels)


def evaluate(model: nn.Module, batches: Iterable[ImageBatch]) -> Evaluation:
    """Accuracy in percent and mean cross-entropy in nats over all batches; 1.0 or 0.0 per sample.

    The model is in evaluation mode, without gradients.

    Raises:
        ValueError: there is no batch.

    >>> evaluate(nn.Flatten(), [(torch.eye(4).view(4, 4, 1, 1), torch.tensor([0, 1, 2, 0]))]).figures["accuracy"]
    75.0
    """
    losses, hits = [], []
    for inputs, labels in batches:
        outputs = model(inputs).float()
        losses.append(F.cross_entropy(outputs, labels, reduction="none"))
        hits.append(outputs.argmax(dim=1) == labels)
    if not hits:
        raise ValueError("an evaluation needs at least one batch, got none; check the test split")
    # One transfer at the end: asking for figures after each batch would stall an accelerator.
    correct = torch.cat(hits).cpu().numpy()
    mean_loss = torch.cat(losses).double().mean().item()
    return Evaluation(
        figures={"accuracy": 100.0 * float(correct.mean()), "loss": mean_loss}, per_sample=correct.astype(np.float32)
    )


def commonest(labels: Sequence[int] | npt.NDArray[np.integer] | Tensor, names: Sequence[str] = ()) -> Trivial:
    """The accuracy in percent of giving each test sample the commonest of their labels.

    With its share ``p`` of ``n`` samples: ``100 p``, and a margin of ``200 sqrt(p (1 - p) / n)``.

    Args:
        labels: of the test samples, from 0.
        names: of the labels, to say which.

    >>> commonest([0, 1, 1, 1], ["bad", "good"])
    Trivial(answer="one answer for all test samples ('good')", value=75.0, margin=43.30127018922193)
    """
    counts = np.bincount(np.asarray(labels))
    share = float(counts.max()) / len(labels)
    name = f" ('{names[int(counts.argmax())]}')" if names else ""
    return Trivial(
        answer=f"one answer for all test samples{name}",
        value=100.0 * share,
        margin=200.0 * math.sqrt(share * (1 - share) / len(labels)),
    )


def fingerprint(*arrays: npt.NDArray[np.generic]) -> str:
    """SHA-256 over the arrays' shapes, types and content, as hexadecimal digits.

    >>> fingerprint(np.zeros(3, np.uint8))[:8]
    '664e6a3a'
    """
    digest = hashlib.sha256()
    for array in arrays:
        little_endian = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(f"{little_endian.dtype.str}{little_endian.shape}".encode())
        digest.update(little_endian.data)
    return digest.hexdigest()


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """``(images - mean) / std`` by channel, as float32; ``mean`` and ``std`` are in the pixels' own unit.

    >>> normalise(torch.full((1, 1, 1, 1), 10, dtype=torch.uint8), (8.0,), (4.0,)).item()
    0.5
    """
    scale = torch.tensor((mean, std), device=images.device)[..., None, None]
    # In one order of memory, whatever the images' is: it decides which algorithms a convolution can use.
    values = images.to(torch.float32, memory_format=torch.contiguous_format)
    return values.sub_(scale[0]).div_(scale[1])


def crop_and_flip(images: Tensor, top: Tensor, left: Tensor, mirror: Tensor, pad: int) -> Tensor:
    """Pad each image with zeros, cut its own window of the original size, and mirror it where asked.

    Args:
        images: ``(batch, channels, height, width)``, any type.
        top, left: int64 ``(batch,)``, the window's corner in the padded image, from 0 to ``2 * pad``.
        mirror: bool ``(batch,)``, true for a horizontal flip.
        pad: zeros on each side.

    >>> image = torch.tensor([[[[1, 2], [3, 4]]]])
    >>> crop_and_flip(image, torch.tensor([0]), torch.tensor([1]), torch.tensor([True]), pad=1)
    tensor([[[[0, 0],
              [2, 1]]]])
    """
    _, _, height, width = images.shape
    rows = top[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = left[:, None] + torch.where(mirror[:, None], columns.flip(0), columns)
    padded = F.pad(images, (pad, pad, pad, pad)).movedim(1, -1)
    sample = torch.arange(len(images), device=images.device)
    # One gather for the whole batch; with the channels last, each index moves a whole pixel.
    cut = padded[sample[:, None, None], rows[:, :, None], columns[:, None, :]]
    return cut.movedim(-1, 1).contiguous()


@dataclass(eq=False, kw_only=True)
class ImagesInMemory:
    """A split whose images are held as bytes, augmented a batch at a time without a loop over images.

    Order and augmentation depend on the seed of ``batches`` alone, not on torch's global generator or the device.

    Args:
        images: uint8 ``(samples, channels, height, width)``.
        labels: int64 ``(samples,)``.
        mean, std: normalisation by channel, in the pixels' own unit (0 to 255 for photographs).
        pad: training images are padded with this many zeros on each side and cropped at random to their size.
        flip: training images are mirrored with probability 1/2.

    Raises:
        ValueError: the shapes or types are others.

    >>> images = torch.zeros(10, 3, 4, 4, dtype=torch.uint8)
    >>> split = ImagesInMemory(images=images, labels=torch.arange(10), mean=(0.0,) * 3, std=(255.0,) * 3, pad=1)
    >>> [len(labels) for _, labels in split.batches(4, device=torch.device("cpu"), seed=0)]
    [4, 4]
    """

    images: Tensor
    labels: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]
    pad: int = 0
    flip: bool = False
    _held: dict[torch.device, ImageBatch] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            raise ValueError(
                "images must be uint8 of shape (samples, channels, height, width), "
                f"got {self.images.dtype} of shape {tuple(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"labels must be int64 of shape ({len(self.images)},), one an image, "
                f"got {self.labels.dtype} of shape {tuple(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.images)

    def with_images(self, images: Tensor) -> ImagesInMemory:
        """The same split with other images: labels, normalisation and augmentation stay.

        Args:
            images: uint8, of the shape of those that are there.

        Raises:
            ValueError: the shape or type is another.

        >>> ones = torch.ones(2, 1, 4, 4, dtype=torch.uint8)
        >>> split = ImagesInMemory(images=ones, labels=torch.arange(2), mean=(0.0,), std=(1.0,))
        >>> split.with_images(3 * ones).labels
        tensor([0, 1])
        """
        if images.shape != self.images.shape:
            raise ValueError(f"images must be of shape {tuple(self.images.shape)}, got {tuple(images.shape)}")
        return replace(self, images=images)

    def _on(self, device: torch.device) -> ImageBatch:
        """Images and labels on a device, moved there once."""
        if device not in self._held:
            self._held[device] = (self.images.to(device), self.labels.to(device))
        return self._held[device]

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[ImageBatch]:
        """Iterate over ``(inputs, labels)``; see `bibench.tasks.base.Split.batches`."""
        images, labels = self._on(device)
        if seed is None:
            for part, answers in zip(torch.split(images, batch_size), torch.split(labels, batch_size), strict=True):
                yield normalise(part, self.mean, self.std), answers
            return

        # All random numbers of the epoch are drawn on the CPU and moved at once: the same on every device.
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(self), generator=generator).to(device)
        top = torch.randint(2 * self.pad + 1, (len(self),), generator=generator).to(device)
        left = torch.randint(2 * self.pad + 1, (len(self),), generator=generator).to(device)
        mirror = (torch.rand(len(self), generator=generator) < 0.5 * self.flip).to(device)
        for start in range(0, max(1, len(self) // batch_size) * batch_size, batch_size):
            chosen = slice(start, start + batch_size)
            picked = images[order[chosen]]
            if self.pad or self.flip:
                picked = crop_and_flip(picked, top[chosen], left[chosen], mirror[chosen], self.pad)
            yield normalise(picked, self.mean, self.std), labels[order[chosen]]
