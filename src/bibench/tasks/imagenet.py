"""ImageNet (ILSVRC 2012) from a tree of image files, one folder a class."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from bibench.recipes import SGD, Adam, Cosine, Recipe
from bibench.tasks.base import Corrupted, Data, DataError, Task
from bibench.tasks.classification import ACCURACY, ImageBatch, commonest, evaluate, loss, normalise
from bibench.tasks.corruptions import check_corruption, corrupt
from bibench.tasks.preprocessing import Preprocessing, read_image
from bibench.tasks.workers import WORKERS, read_batches

__all__ = ["ImageFiles", "imagenet"]

_CLASSES, _TRAIN, _TEST = 1_000, 1_281_167, 50_000
_PREPROCESSING = Preprocessing(
    channels=3,
    size=(224, 224),
    resize=256,
    mean=tuple(255 * value for value in (0.485, 0.456, 0.406)),
    std=tuple(255 * value for value in (0.229, 0.224, 0.225)),
)

_LAYOUT = """expected in the folder, or in a folder imagenet/ below it:
  train/<class>/*.JPEG   1,281,167 images in 1,000 classes
  val/<class>/*.JPEG     50,000 images in the same classes (sort them into folders by their class)"""
_SUBSET = "complete it, or accept a part of the data set with --allow-subset"

_AUGMENT = v2.Compose([v2.RandomResizedCrop(224, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])


_Sample = tuple[Tensor, int]


@dataclass(frozen=True)
class _Crops(Dataset[_Sample | DataError]):
    """One uint8 crop ``(3, 224, 224)`` and label a sample: at random with a seed, of the centre without.

    An unreadable file is returned as the error, as `read_batches` takes it.
    """

    samples: list[tuple[str, int]]
    seed: int | None
    corruption: tuple[str, int] | None

    def __getitem__(self, index: int) -> _Sample | DataError:
        path, label = self.samples[index]
        try:
            image = read_image(Path(path)).convert("RGB")
        except DataError as error:
            return error
        if self.seed is None:
            crop = _PREPROCESSING.pixels(image)
            if self.corruption is not None:
                corrupted = corrupt(crop.movedim(0, -1)[None].numpy(), *self.corruption, first=index)
                crop = torch.from_numpy(corrupted[0]).movedim(-1, 0).contiguous()
            return crop, label
        # The augmentation is a function of seed and sample, whichever process computes it, whenever. Only the CPU's
        # generator is what torchvision draws from; torch.manual_seed would also reset an accelerator's for good.
        with torch.random.fork_rng(devices=[]):
            state = np.random.SeedSequence((self.seed, index)).generate_state(1, np.uint64)
            torch.default_generator.manual_seed(int(state[0]))
            return _AUGMENT(image), label


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """A split whose images stay on disk and are decoded by worker processes as they are needed.

    Training: a random crop of 8 to 100 % of the area, resized to 224x224, mirrored half of the time. Evaluation: the
    shorter side is resized to 256, and the centre of 224x224 is cut. What a batch holds depends on the seed alone, not
    on the number of workers.

    Args:
        samples: path and label of each image.
        workers: processes that decode images; 0 decodes in this one.
        corruption: name and severity of the corruption that the centres get in evaluation. It is computed each time,
            about 20 ms an image on one core (zoom_blur 150 ms, elastic_transform 60 ms), and nothing is kept: 50,000
            images would take 7.5 GB for each corruption and severity.

    Raises:
        DataError: on iteration, a file that is not an image or was cut off.
    """

    samples: list[tuple[str, int]]
    workers: int = WORKERS
    corruption: tuple[str, int] | None = None

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, batch_size: int, *, device: torch.device, seed: int | None = None) -> Iterator[ImageBatch]:
        """Iterate over ``(inputs, labels)``; see `bibench.tasks.base.Split.batches`."""
        crops = _Crops(self.samples, seed, self.corruption)
        for batch in read_batches(
            crops, len(self), batch_size, seed=seed, collate=default_collate, workers=self.workers, device=device
        ):
            images, labels = (part.to(device, non_blocking=True) for part in batch)
            yield normalise(images, _PREPROCESSING.mean, _PREPROCESSING.std), labels


def _folder(path: Path) -> ImageFolder:
    try:
        return ImageFolder(str(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataError(f"{path}: {error}; {_LAYOUT}") from error


def _fingerprint(root: Path, samples: list[tuple[str, int]]) -> str:
    """SHA-256 over names and sizes: reading 150 GB before each run would take longer than some runs."""
    digest = hashlib.sha256()
    for name, size in sorted((Path(path).relative_to(root).as_posix(), os.path.getsize(path)) for path, _ in samples):
        digest.update(f"{name}\0{size}\n".encode())
    return digest.hexdigest()


def _corrupted(test: ImageFiles, name: str, severity: int) -> Corrupted:
    check_corruption(name, severity)  # here, not in a worker process
    return Corrupted(split=replace(test, corruption=(name, severity)), origin="generated")


def _load(root: Path | None, subset: bool) -> Data:
    """List the images below ``root``; see `bibench.tasks.base.Task`."""
    if root is None:
        raise DataError(f"the task imagenet needs its files: name their folder with --data DIR; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {_LAYOUT}")
    root = next((folder for folder in (root / "imagenet", root) if (folder / "train").is_dir()), root)
    train, test = _folder(root / "train"), _folder(root / "val")
    if train.classes != test.classes:
        lone = sorted(set(train.classes) ^ set(test.classes))
        raise DataError(
            f"{root}: train has {len(train.classes):,} classes and val {len(test.classes):,}; "
            f"{len(lone):,} are in one of them only, such as {lone[0]}; {_LAYOUT}"
        )
    found = (len(train.classes), len(train), len(test))
    notes: tuple[str, ...] = ()
    if found != (_CLASSES, _TRAIN, _TEST):
        part = (
            f"{found[0]:,} of {_CLASSES:,} classes, {found[1]:,} of {_TRAIN:,} training and "
            f"{found[2]:,} of {_TEST:,} test images"
        )
        if not subset:
            raise DataError(f"{root} has {part}; {_SUBSET}; {_LAYOUT}")
        notes = (part,)
    centres = ImageFiles(samples=test.samples)
    return Data(
        train=ImageFiles(samples=train.samples),
        test=centres,
        outputs=len(train.classes),
        fingerprint=_fingerprint(root, train.samples + test.samples),
        notes=notes,
        corrupted=partial(_corrupted, centres),
        labels=tuple(train.classes),
        trivial=commonest([label for _, label in test.samples], train.classes),
    )


imagenet = Task(
    name="imagenet",
    title="ImageNet",
    modality="image",
    architectures=("resnet18", "resnet34"),
    load=_load,
    input_shape=(3, 224, 224),
    loss=loss,
    evaluate=evaluate,
    metric=ACCURACY,
    training_samples=1_281_167,
    outputs=1_000,
    full_precision=Recipe(
        optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4), schedule=Cosine(), epochs=100, batch_size=256
    ),
    binarized=Recipe(optimizer=Adam(lr=1e-3), schedule=Cosine(), epochs=100, batch_size=256),
    source="Russakovsky et al., ImageNet Large Scale Visual Recognition Challenge, IJCV 2015",
    preprocessing=_PREPROCESSING,
)
"""1,281,167 training and 50,000 test photographs in 1,000 classes, read from files.

>>> imagenet.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task imagenet needs its files: name their folder with --data DIR; ...
"""
