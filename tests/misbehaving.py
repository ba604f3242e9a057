"""Algorithms of somebody else's package whose training hangs, takes all memory, kills its process, or tells on it."""

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
    def __init__(self, misbehave, step):
        super().__init__(slope)
        self.misbehave = misbehave
        self.left = step

    def forward(self, x):
        if self.training:
            self.left -= 1
            if self.left < 1:
                self.misbehave()
        return super().forward(x)


def algorithm(name, misbehave, step=1):
    return Algorithm(
        name=name, title=name, weight=lambda layer: Misbehaving(misbehave, step), activation=lambda layer: Sign(slope)
    )


def once(misbehave, memory):
    """Only where the file isn't there yet; afterwards it is."""

    def maybe():
        if not Path(memory).exists():
            Path(memory).touch()
            misbehave()

    return maybe


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


def sleepy(*, memory="", step=1):
    """Sleeps from a training step on; with a file to remember it, only the first time."""
    return algorithm("sleepy", once(sleep, memory) if memory else sleep, step)


def hungry(*, memory="", step=1):
    """Takes a gigabyte, as `sleepy` sleeps."""
    return algorithm("hungry", once(eat, memory) if memory else eat, step)


def telling():
    """Its layers can't be made, and the error tells the GPUs that their process may use."""

    def tell(layer):
        raise RuntimeError(f"CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES')}")

    return Algorithm(name="telling", title="telling", weight=tell, activation=lambda layer: Sign(slope))


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
    names = ("sleepy", "hungry", "dying", "telling")
    points = "".join(f"{name} = bibench_misbehaving:{name}\n" for name in names)
    (info / "entry_points.txt").write_text(f"[bibench.algorithms]\n{points}", encoding="utf-8")
    return str(folder)
