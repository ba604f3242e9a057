"""What it saves that training processes keep the memory that they free (`bibench.training.machine.keep_freed_memory`).

A step of each network on one fixed batch of random input, in a process that keeps it and in one that doesn't, in turns;
seconds of a processor, those of the system included. Linux with glibc only.

    python benchmarks/freed_memory.py [--steps 4] [--repeats 5]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys

import torch
from machine import machine
from torch.nn import functional as F

from bibench import registry
from bibench.training.machine import keep_freed_memory

NETWORKS: dict[str, tuple[tuple[int, ...], int]] = {
    "pointnet": ((3, 1024), 16),
    "pointnet_vanilla": ((3, 1024), 16),
    "resnet20": ((3, 32, 32), 128),
    "resnet18": ((3, 32, 32), 128),
    "fsmn": ((1, 32, 32), 96),
}
"""The shape of an input, and how many a batch has."""


def step_cost(name: str, steps: int) -> tuple[float, float, float]:
    """Seconds of a processor a step, those of them that were the system's, and peak memory in GB."""
    shape, count = NETWORKS[name]
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = registry.get("architectures", name).build(shape, 10)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    inputs, labels = torch.randn(count, *shape), torch.randint(10, (count,))

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    step()
    before = resource.getrusage(resource.RUSAGE_SELF)
    for _ in range(steps):
        step()
    after = resource.getrusage(resource.RUSAGE_SELF)
    system = (after.ru_stime - before.ru_stime) / steps
    return (after.ru_utime - before.ru_utime) / steps + system, system, after.ru_maxrss / 1e6


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=2, metavar=("NETWORK", "HOW"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        name, how = options.child
        if how == "kept":
            keep_freed_memory()
        print(json.dumps(step_cost(name, options.steps)))
        return
    torch.set_num_threads(1)
    print(machine())
    for name in NETWORKS:
        found: dict[str, list[tuple[float, float, float]]] = {"kept": [], "given back": []}
        for _ in range(options.repeats):
            for how, costs in found.items():
                command = [sys.executable, __file__, "--steps", str(options.steps), "--child", name, how]
                costs.append(tuple(json.loads(subprocess.check_output(command))))
        ratios = [ours[0] / theirs[0] for ours, theirs in zip(found["kept"], found["given back"], strict=True)]
        medians = {
            how: [statistics.median(column) for column in zip(*costs, strict=True)] for how, costs in found.items()
        }
        print(
            f"{name}: kept over given back {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}); "
            + "; ".join(
                f"{how} {1000 * total:.0f} ms a step, {1000 * system:.0f} of them the system's, {memory:.2f} GB"
                for how, (total, system, memory) in medians.items()
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
