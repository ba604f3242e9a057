"""Handwritten digits: 1,797 images of 8x8 pixels that come with scikit-learn. Nothing to download, seconds a run."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from bibench.recipes import SGD, Adam, Recipe
from bibench.tasks.base import Corrupted, Data, Task
from bibench.tasks.classification import ACCURACY, ImagesInMemory, commonest, evaluate, fingerprint, loss
from bibench.tasks.corruption_cache import generated
from bibench.tasks.preprocessing import Preprocessing

__all__ = ["digits"]

_TEST = 360
_EPOCHS = 12
_NAMES = tuple("0123456789")
_PREPROCESSING = Preprocessing(channels=1, size=(8, 8), high=16, mean=(4.9,), std=(6.0,))


def _corrupted(test: ImagesInMemory, name: str, severity: int) -> Corrupted:
    """The test digits under a corruption, for which they are photographs of 0 to 255 in three equal channels."""
    photographs = np.rint(test.images.numpy() * (255 / 16)).astype(np.uint8).repeat(3, axis=1).transpose(0, 2, 3, 1)
    images = np.rint(generated(photographs, name, severity).mean(axis=3) * (16 / 255)).astype(np.uint8)
    return Corrupted(split=test.with_images(torch.from_numpy(images[:, None])), origin="generated")


def _load(root: Path | None, subset: bool) -> Data:
    """Split the digits into 1,437 training and 360 test images, stratified by class, always the same."""
    from sklearn.datasets import load_digits  # 130 MB, which a plan or a score doesn't need
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    images = pixels.reshape(-1, 1, 8, 8).astype(np.uint8)
    parts = train_test_split(images, labels.astype(np.int64), test_size=_TEST, stratify=labels, random_state=0)
    train_images, test_images, train_labels, test_labels = parts

    def split(images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], pad: int) -> ImagesInMemory:
        return ImagesInMemory(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(labels),
            mean=_PREPROCESSING.mean,
            std=_PREPROCESSING.std,
            pad=pad,
        )

    test = split(test_images, test_labels, pad=0)
    return Data(
        train=split(train_images, train_labels, pad=1),
        test=test,
        outputs=10,
        fingerprint=fingerprint(train_images, train_labels, test_images, test_labels),
        corrupted=partial(_corrupted, test),
        trivial=commonest(test_labels, _NAMES),
    )


digits = Task(
    name="digits",
    title="Digits",
    modality="image",
    architectures=("digits_cnn",),
    load=_load,
    input_shape=(1, 8, 8),
    loss=loss,
    evaluate=evaluate,
    metric=ACCURACY,
    training_samples=1_437,
    outputs=10,
    full_precision=Recipe(optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4), epochs=_EPOCHS, batch_size=64),
    binarized=Recipe(optimizer=Adam(lr=1e-3), epochs=_EPOCHS, batch_size=64),
    source="Alpaydin & Kaynak, Optical Recognition of Handwritten Digits, UCI, 1998; scikit-learn's load_digits",
    preprocessing=_PREPROCESSING,
    labels=_NAMES,
)
"""The quick task: the whole benchmark in a minute on a laptop. Pixels are 0 to 16.

>>> data = digits.load(None, False)
>>> len(data.train), len(data.test)
(1437, 360)
"""
