"""What loaded and augmented batches cost: training steps over them against the same steps on one fixed batch.

Batches from memory, or mapped from a file: both are measured in one run, step by step in turns, so that a busy machine
slows both. The fixed batch is the one just loaded, since those of text differ in length; a repeat's figure is the ratio
of its median steps. Batches that worker processes read from files: in turns of all steps of a repeat, since workers
would go on reading while the fixed batch has its turn; the figure is the ratio of the whole times, without the first
step, in which the workers start. Without ``--data`` the images are random bytes in CIFAR-10's shape; they cost the
same. Other tasks need their files, or a part of them.

    python benchmarks/input_pipeline.py [--data DIR] [--architecture resnet20] [--steps 10] [--repeats 9]
    python benchmarks/input_pipeline.py --task speech_commands --data DIR --batch-size 96
    python benchmarks/input_pipeline.py --task glue_sst2 --data DIR --batch-size 32
    python benchmarks/input_pipeline.py --task voc07 --data DIR --batch-size 8 [--workers 2]
"""

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import nn

from bibench import registry
from bibench.tasks.base import Batch, Split, Task
from bibench.tasks.classification import ImagesInMemory

Times = tuple[float, ...]
"""Seconds a step on loaded batches and on the fixed one."""


def random_images(samples: int = 50_000) -> ImagesInMemory:
    """Random bytes, augmented as CIFAR-10 is."""
    generator = torch.Generator().manual_seed(0)
    return ImagesInMemory(
        images=torch.randint(256, (samples, 3, 32, 32), dtype=torch.uint8, generator=generator),
        labels=torch.randint(10, (samples,), generator=generator),
        mean=(127.5,) * 3,
        std=(64.0,) * 3,
        pad=4,
        flip=True,
    )


def seconds(task: Task, model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterator[Batch]) -> float:
    """The time to get one batch and train a step on it, until the device has finished."""
    start = time.perf_counter()
    batch = next(batches)
    optimizer.zero_grad()
    loss = task.loss(model, batch)
    loss.backward()
    optimizer.step()
    if loss.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def by_steps(timed: Callable[[Iterator[Batch]], float], loaded: Iterator[Batch], steps: int) -> Times:
    """The median step that loads its batch, and the same step again on that batch, in turns."""
    loaded, again = itertools.tee(loaded)
    spent = [(timed(loaded), timed(again)) for _ in range(steps)]
    return tuple(statistics.median(column) for column in zip(*spent, strict=True))


def by_blocks(timed: Callable[[Iterator[Batch]], float], loaded: Generator[Batch], steps: int) -> Times:
    """The mean step on each, all steps on loaded batches before those on a fixed one, without the first of each."""
    means = []
    fixed = next(loaded)
    for batches in (loaded, itertools.repeat(fixed)):
        timed(batches)
        means.append(statistics.mean(timed(batches) for _ in range(steps - 1)))
        loaded.close()  # ends the workers
    return means[0], means[1]


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--task", default="cifar10")
    parser.add_argument("--data", type=Path, help="folder with the data set, or a part of it; random images without")
    parser.add_argument("--architecture", help="the task's first without")
    parser.add_argument("--steps", type=int, default=10, help="training steps a measurement")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument(
        "--workers", type=int, help="processes that read files, for tasks that have any; the task's number without"
    )
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    task: Task = registry.get("tasks", options.task)
    options.architecture = options.architecture or task.architectures[0]
    split: Split
    if options.data:
        data = task.load(options.data, True)
        split, outputs = data.train, data.outputs
    elif options.task == "cifar10":
        split, outputs = random_images(), 10
    else:
        parser.error(f"--task {options.task} needs --data")
    if options.workers is not None:
        if not hasattr(split, "workers"):
            parser.error(
                f"--workers {options.workers}: the samples of {options.task} are in memory or mapped "
                f"({type(split).__name__}), and no worker processes read them; leave --workers out"
            )
        split = replace(split, workers=options.workers)
    needed = (options.steps + 1) * options.batch_size
    if len(split) < needed:
        parser.error(f"--steps {options.steps} needs {needed:,} samples, found {len(split):,}")
    device = torch.device(options.device)
    torch.manual_seed(0)
    model = registry.get("architectures", options.architecture).build(task.input_shape, outputs).to(device)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    workers = getattr(split, "workers", 0)
    measure = by_blocks if workers else by_steps
    ratios, times = [], []
    for repeat in range(-1, options.repeats):
        loaded = split.batches(options.batch_size, device=device, seed=repeat + 1)
        augmented, repeated = measure(partial(seconds, task, model, optimizer), loaded, options.steps)
        if repeat >= 0:  # the first was to warm up
            ratios.append(augmented / repeated)
            times.append(1000 * repeated)

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    print(f"{options.architecture}, batch {options.batch_size}, {options.steps} steps, {options.repeats} repeats")
    print(f"machine: {name}, torch {torch.__version__}, {torch.get_num_threads()} threads, {workers} workers")
    print(f"step on one fixed batch: median {statistics.median(times):.1f} ms ({min(times):.1f}..{max(times):.1f})")
    print(f"augmented / fixed: median {statistics.median(ratios):.3f} ({min(ratios):.3f}..{max(ratios):.3f})")


if __name__ == "__main__":
    main()
