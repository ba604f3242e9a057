"""Made-up images of the sizes that the paper's networks are deployed for: nothing to read, and nothing to learn.

Latency, size and operations of a network depend on no weight, so what only measures these needs no data set.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch

from bibench.recipes import SGD, Adam, Recipe
from bibench.tasks.base import Data, Task
from bibench.tasks.classification import ACCURACY, ImagesInMemory, commonest, evaluate, fingerprint, loss

__all__ = ["noise32", "noise224"]

_TRAIN, _TEST = 16, 8


def _load(side: int, classes: int, root: Path | None, subset: bool) -> Data:
    """Images of uniform noise and labels drawn at random, always the same."""
    generator = np.random.default_rng(0)

    def split(count: int) -> ImagesInMemory:
        return ImagesInMemory(
            images=torch.from_numpy(generator.integers(256, size=(count, 3, side, side), dtype=np.uint8)),
            labels=torch.from_numpy(generator.integers(classes, size=count)),
            mean=(127.5,) * 3,
            std=(73.9,) * 3,
        )

    train, test = split(_TRAIN), split(_TEST)
    arrays = (part.numpy() for own in (train, test) for part in (own.images, own.labels))
    return Data(
        train=train,
        test=test,
        outputs=classes,
        fingerprint=fingerprint(*arrays),
        notes=(f"images of {side} pixels are noise: scores on them say nothing",),
        trivial=commonest(test.labels),
    )


def _task(side: int, classes: int, architectures: tuple[str, ...]) -> Task:
    return Task(
        name=f"noise{side}",
        title=f"Noise, {side} pixels",
        modality="image",
        architectures=architectures,
        load=partial(_load, side, classes),
        input_shape=(3, side, side),
        loss=loss,
        evaluate=evaluate,
        metric=ACCURACY,
        training_samples=_TRAIN,
        outputs=classes,
        full_precision=Recipe(optimizer=SGD(lr=0.1), steps=1, batch_size=2),
        binarized=Recipe(optimizer=Adam(lr=1e-3), steps=1, batch_size=2),
        source="made up",
    )


noise32 = _task(32, 10, ("vgg_small",))
"""Inputs and outputs as CIFAR-10's.

>>> noise32.load(None, False).test.images.shape
torch.Size([8, 3, 32, 32])
"""

noise224 = _task(224, 1000, ("resnet18", "resnet34"))
"""Inputs and outputs as ImageNet's."""
