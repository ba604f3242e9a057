"""What a task is: data, loss, metric, recipes and the architectures that it is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bibench.recipes import Recipe

if TYPE_CHECKING:
    from PIL import Image

    from bibench.tasks.preprocessing import Preprocessing

__all__ = [
    "PICTURE_SIDE",
    "Batch",
    "Corrupted",
    "Data",
    "DataError",
    "Evaluation",
    "Metric",
    "Picture",
    "PicturePair",
    "Split",
    "Task",
    "Trivial",
]

Batch = Any
"""Whatever a task's loss and evaluation take: for images ``(inputs, labels)``."""


class DataError(ValueError):
    """Data files that are missing, corrupt or not what they should be. The message names file and layout."""


class Split(Protocol):
    """The training or the test half of a data set."""

    def __len__(self) -> int:
        """Number of samples."""
        ...

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[Batch]:
        """Iterate over batches on ``device``.

        With a ``seed``: shuffled and augmented for training, the same for the same seed whatever ran before,
        ``max(1, len // batch_size)`` batches (the last partial one is left out). Without: every sample once, in
        order, not augmented.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Corrupted:
    """The test split under a corruption.

    Args:
        split: the same samples in the same order.
        origin: whether its images are the published ones or were generated; scores on the two are not to be mixed.
    """

    split: Split
    origin: Literal["original files", "generated"]


@dataclass(frozen=True, kw_only=True)
class Trivial:
    """What is scored without looking at the sample, which a network that has learned something must beat.

    Args:
        answer: what is answered, such as ``"one answer for all test samples ('positive')"``.
        value: its score, in the unit of the task's metric.
        margin: how far beyond ``value`` a score may be by chance: two standard errors over the test set, where the
            metric has one.
    """

    answer: str
    value: float
    margin: float


@dataclass(frozen=True, kw_only=True)
class Data:
    """A loaded data set.

    Args:
        train, test: the two splits.
        outputs: what the model predicts: a number of classes, or the shape of a matrix that it predicts entry by entry,
            such as ``(users, items)``.
        fingerprint: SHA-256 over the content (or, for large trees, over names and sizes), stored with results.
        notes: what a reader of a score must know, such as "4,000 of 50,000 training images".
        corrupted: ``corrupted(name, severity)`` returns the test split under one of
            `bibench.tasks.corruptions.CORRUPTIONS`, severity 1 to 5; None: the task has no images.
        labels: names of the outputs, where the data have them, such as a tree's folders; empty: the task's.
        trivial: what the best answer that looks at no sample scores on the test half; None: nobody has said. Scores at
            its level are marked in reports.
        check_checkpoint: ``check_checkpoint(path)`` raises `DataError` where a user's weights belong to other inputs,
            such as those of another vocabulary; None: any weights that fit the network will do.
    """

    train: Split
    test: Split
    outputs: int | tuple[int, ...]
    fingerprint: str
    notes: tuple[str, ...] = ()
    corrupted: Callable[[str, int], Corrupted] | None = None
    labels: tuple[str, ...] = ()
    trivial: Trivial | None = None
    check_checkpoint: Callable[[Path], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A task's score: its name in records, unit and direction."""

    name: str
    unit: str = "percent"
    higher_is_better: bool = True


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What an evaluation found.

    Args:
        figures: value by name; holds at least the task's metric.
        per_sample: float32, one score a test sample (1.0 right, 0.0 wrong for accuracy), for paired comparisons.
        subsets: the task's metric on subsets of the test half, by name, where its relative score is the mean over them.
    """

    figures: dict[str, float]
    per_sample: npt.NDArray[np.float32]
    subsets: Mapping[str, float] = field(default_factory=dict)


PICTURE_SIDE = 320
"""Most pixels along a side of a picture that a run keeps."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """An image for a report, and in words what it shows, for those who don't see it."""

    image: Image.Image
    text: str


@dataclass(frozen=True, kw_only=True)
class PicturePair:
    """A test sample as a report shows it.

    Args:
        title: which sample it is, such as ``"test image 12"``.
        truth: what is right.
        found: what a network made of it.
    """

    title: str
    truth: Picture
    found: Picture


@dataclass(frozen=True, kw_only=True)
class Task:
    """One learning task.

    Args:
        name: the name in suites and records, such as ``"cifar10"``.
        title: the name in prose.
        modality: what an input is; architectures of the same modality can be used.
        architectures: names of those it is measured on by default.
        load: ``load(root, subset)`` reads the data below ``root`` (None: the task needs no files). ``subset``
            allows a part of the data set, which is then noted; otherwise a part is an error.
        input_shape: shape of one sample, without the batch.
        make_example: returns a model input of batch size 2, where standard normal values are none (indices).
        make_batch: ``make_batch(count)`` returns a batch of made-up samples that the loss takes, to time a step on;
            None: any loss of the model's output on the example will do.
        loss: ``loss(model, batch)`` returns the mean loss over the batch.
        evaluate: ``evaluate(model, batches)`` returns figures; the model is in evaluation mode, without gradients.
        metric: the score.
        full_precision, binarized: default recipes.
        version: raised when a change makes results incomparable with earlier ones.
        training_samples, outputs: of the whole data set, for estimates without the data; None if not known.
        group: the row of the learning-task track that it counts in with others, such as ``"glue"``; empty: its own.
        source: the data set's reference.
        preprocessing: how an original image becomes what `evaluate` sees; None: inputs are no images.
        labels: names of the outputs; empty where there are none, or only the data have them.
        loss_unit: of the figure ``"loss"``, if evaluations have one.
        pictures: ``pictures(model, data)`` shows what a network does with a few test samples, the same ones for every
            network; the model is in evaluation mode, without gradients. None: there is nothing to see.

    Raises:
        DataError: by ``load``, when files are missing or corrupt.
    """

    name: str
    title: str
    modality: str
    architectures: tuple[str, ...]
    load: Callable[[Path | None, bool], Data]
    input_shape: tuple[int, ...]
    loss: Callable[[nn.Module, Batch], Tensor]
    evaluate: Callable[[nn.Module, Iterable[Batch]], Evaluation]
    metric: Metric
    full_precision: Recipe
    binarized: Recipe
    version: int = 1
    training_samples: int | None = None
    outputs: int | tuple[int, ...] | None = None
    make_example: Callable[[], Tensor] | None = None
    make_batch: Callable[[int], Batch] | None = None
    group: str = ""
    source: str = field(default="")
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()
    loss_unit: str = "nats"
    pictures: Callable[[nn.Module, Data], list[PicturePair]] | None = None

    def example(self) -> Tensor:
        """A model input of batch size 2 with the task's shape, for tracing: standard normal, or the task's own."""
        if self.make_example is not None:
            return self.make_example()
        generator = torch.Generator().manual_seed(0)
        return torch.randn(2, *self.input_shape, generator=generator)
