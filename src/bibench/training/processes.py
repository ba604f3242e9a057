"""The processes of a run: Lightning Fabric as every run has it, and the end of those that it starts."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["children_ended", "make_fabric"]


def make_fabric(device: str, devices: int | Sequence[int] = 1, *, precision: Any, strategy: str = "auto") -> Fabric:
    """Fabric on this machine, whose processes, where it has several, are started by this one.

    In a Slurm job Fabric would take each run for one process of as many as the job has tasks, and wait for the others;
    and its loggers would write in the job's first process only.

    Args:
        device: ``"cpu"`` or ``"cuda"``.
        devices: how many, or their indices.
        precision: of the recipe.
        strategy: Fabric's name of how several devices share a step.

    >>> make_fabric("cpu", precision="32-true").world_size
    1
    """
    from lightning_fabric import Fabric  # here, since importing it takes seconds that only training is worth
    from lightning_fabric.plugins.environments.lightning import LightningEnvironment

    here = LightningEnvironment()
    here.set_global_rank(0)  # of this process in its run; those that it starts get theirs
    indices = devices if isinstance(devices, int) else list(devices)
    return Fabric(accelerator=device, devices=indices, strategy=strategy, precision=precision, plugins=[here])


@contextmanager
def children_ended() -> Iterator[None]:
    """Where an exception ends what is done within, kill the processes that it started, and wait for their end.

    Fabric leaves them alone: they would go on training, and write into the folder of a run that is no longer theirs.
    They are killed since those of a worker ignore milder signals; what they write is whole at any moment.
    """
    before = multiprocessing.active_children()
    try:
        yield
    except BaseException:
        started = [process for process in multiprocessing.active_children() if process not in before]
        for process in started:
            process.kill()
        for process in started:
            process.join()
        raise
