"""Algorithms of somebody else's package whose training hangs, takes all memory, or kills its process."""

from __future__ import annotations

from pathlib import Path

ALGORITHMS = '''\
"""Signs, until the first training step."""

import os
import signal
import time
from pathlib import Path

import torch

from bibench.algorithms import Algorithm, Sign


def slope(x):
    return torch.ones_like(x)


class Misbehaving(Sign):
    def __init__(self, misbehave):
        super().__init__(slope)
        self.misbehave = misbehave

    def forward(self, x):
        if self.training:
            self.misbehave()
        return super().forward(x)


def algorithm(name, misbehave):
    return Algorithm(
        name=name, title=name, weight=lambda layer: Misbehaving(misbehave), activation=lambda layer: Sign(slope)
    )


def sleep():
    time.sleep(600)


def start_another(memory):
    """A process that this one's end doesn't end; its number is in the file."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    Path(memory).write_text(str(pid), encoding="utf-8")


def eat():
    taken = [torch.ones(2**18) for _ in range(1024)]  # a gigabyte
    time.sleep(600)


def sleepy():
    return algorithm("sleepy", sleep)


def hungry():
    return algorithm("hungry", eat)


def dying(*, memory=""):
    """Dies whenever it is trained; with a file to remember it, only the first time, and leaves a process behind."""

    def die():
        if memory and Path(memory).exists():
            return
        if memory:
            start_another(memory)
        os.kill(os.getpid(), signal.SIGKILL)

    return algorithm("dying", die)
'''


def misbehaving(folder: Path) -> str:
    """Write the package as an installed one into the folder; returns what to put on ``PYTHONPATH``."""
    info = folder / "bibench_misbehaving-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "bibench_misbehaving.py").write_text(ALGORITHMS, encoding="utf-8")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bibench-misbehaving\nVersion: 1.0\n", encoding="utf-8")
    names = ("sleepy", "hungry", "dying")
    points = "".join(f"{name} = bibench_misbehaving:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[bibench.algorithms]\n{points}", encoding="utf-8")
    return str(folder)
