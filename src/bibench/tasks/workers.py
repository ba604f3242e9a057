"""Samples that are read from files by worker processes as they are needed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from bibench.tasks.base import Batch, DataError

__all__ = ["WORKERS", "read_batches"]

WORKERS = min(8, os.cpu_count() or 1)
"""Processes that read files by default."""


def _collate(samples: list[Any], *, collate: Callable[[list[Any]], Batch]) -> Batch | DataError:
    """A batch of the samples, or the first error among them."""
    return next((sample for sample in samples if isinstance(sample, DataError)), None) or collate(samples)


def read_batches(
    dataset: Dataset[Any],
    samples: int,
    batch_size: int,
    *,
    seed: int | None,
    collate: Callable[[list[Any]], Batch],
    workers: int,
    device: torch.device,
) -> Iterator[Batch]:
    """Iterate over batches on the CPU, in the order that `bibench.tasks.base.Split.batches` promises.

    Args:
        dataset: a sample by its number. An unreadable file is a `DataError` in the sample's place: raised in a worker,
            it would arrive wrapped in the worker's traceback.
        samples: how many there are.
        batch_size: samples a batch.
        seed: of a training epoch's order; None: every sample, in order.
        collate: makes a batch of samples, in a worker.
        workers: processes; 0 reads in this one.
        device: where batches go afterwards: they are in pinned memory for a CUDA device.

    Raises:
        DataError: the first error among a batch's samples.

    >>> batches = read_batches([10, 20, 30], 3, 2, seed=None, collate=sum, workers=0, device=torch.device("cpu"))
    >>> list(batches)
    [30, 30]
    """
    order = torch.arange(samples)
    if seed is not None:
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
        order = order[: max(batch_size, samples // batch_size * batch_size)]
    loader = DataLoader(
        dataset,
        batch_sampler=[part.tolist() for part in torch.split(order, batch_size)],
        num_workers=workers,
        collate_fn=partial(_collate, collate=collate),
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else the loader would draw from the global one
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch
