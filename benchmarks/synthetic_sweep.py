"""Plans and stores of huge grids, with synthetic results, for `scale.py`.

A run is one of a network, an algorithm and a seed; one network has the grid of the sensitivity track beside.

    python benchmarks/synthetic_sweep.py plan small
    python benchmarks/synthetic_sweep.py write small DIR
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
from safetensors.numpy import save

from bibench import registry
from bibench.bench.plan import make_plan
from bibench.bench.store import Store
from bibench.bench.suite import Suite, parse_suite
from bibench.records import Environment, Figure, Record, RunConfig
from bibench.tasks.corruptions import CORRUPTIONS

T = TypeVar("T")

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda")
GRID = ("digits", "digits_cnn")
SAMPLES, EPOCHS = 1_000, 20
"""Of every test set, and rows of every ``epochs.csv``."""

MEASURED = ("corruption_robustness", "training_consumption", "theoretical_complexity", "hardware_inference")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Size:
    """How many of each make a grid."""

    networks: int
    algorithms: int
    seeds: int
    grid_seeds: int


SIZES = {
    "small": Size(networks=9, algorithms=11, seeds=8, grid_seeds=1),
    "medium": Size(networks=18, algorithms=24, seeds=20, grid_seeds=5),
    "large": Size(networks=45, algorithms=40, seeds=51, grid_seeds=25),
}


def suite_of(size: Size) -> Suite:
    """A suite of so many of the networks that tasks name, with algorithms under labels of their own."""
    networks = [(task, name) for task in registry.names("tasks") for name in registry.get("tasks", task).architectures]
    chosen = [networks[place * len(networks) // size.networks] for place in range(size.networks)]
    tasks = [{"task": task, "architectures": [name]} for task, name in chosen]
    algorithms = [
        {"name": name, "label": f"{name}-{place // len(ALGORITHMS)}"}
        for place in range(size.algorithms)
        for name in (ALGORITHMS[place % len(ALGORITHMS)],)
    ]
    content = {
        "name": "scale",
        "tasks": tasks,
        "algorithms": algorithms,
        "seeds": size.seeds,
        "sensitivity": {"task": GRID[0], "architecture": GRID[1], "seeds": size.grid_seeds},
    }
    return parse_suite(json.dumps(content), "scale")


def plan(name: str) -> None:
    """Plan a size, begin a store with it and go on with that; print seconds of a processor and peak memory in GB."""
    make_plan(suite_of(SIZES["small"]))  # what is loaded once, such as the tasks' modules
    before = memory()
    costs: dict[str, tuple[float, float]] = {}

    def timed(step: str, action: Callable[[], T]) -> T:
        start = time.process_time()
        found = action()
        costs[step] = (time.process_time() - start, memory())
        return found

    runs = timed("planning", lambda: make_plan(suite_of(SIZES[name])))
    with tempfile.TemporaryDirectory() as folder:
        for step in ("beginning", "going on"):
            timed(step, lambda: Store(folder).begin({"name": "scale"}, runs, {}))
    print(json.dumps({"runs": len(runs), "before": before, "costs": costs}))


def memory() -> float:
    """The most memory that this process has had so far, in GB."""
    return int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1e6


def write(name: str, folder: Path) -> None:
    """Write a store that has a record of every run of a size, as a finished sweep leaves it, without the weights."""
    suite = suite_of(SIZES[name])
    runs = make_plan(suite)
    (folder / "runs").mkdir(parents=True)
    (folder / "suite.json").write_text(suite.model_dump_json(exclude={"algorithms", "seeds"}))
    (folder / "plan.json").write_text(json.dumps([run.model_dump(mode="json") for run in runs], indent=1))
    generator = np.random.default_rng(0)
    hard = generator.random(SAMPLES)
    for run in runs:
        own = folder / "runs" / run.id
        own.mkdir()
        score = 30 + 60 * generator.random()
        record = record_of(run, score, generator)
        (own / "record.json").write_text(json.dumps(record.model_dump(mode="json"), indent=1))
        curve = score * (1 - 0.8 * 0.7 ** np.arange(1, EPOCHS + 1))
        rows = [f"{epoch},{1 / epoch},{value}\n" for epoch, value in enumerate(curve, 1)]
        (own / "epochs.csv").write_text(f"epoch,train_loss,{run.metric}\n{''.join(rows)}")
        if run.main:
            right = hard + 0.2 * generator.standard_normal(SAMPLES) < score / 100
            (own / "predictions.safetensors").write_bytes(save({"score": right.astype(np.float32)}))


def record_of(run: RunConfig, score: float, generator: np.random.Generator) -> Record:
    """A record with the figures of every track that would measure on the run."""
    return Record(
        id=run.id,
        run=run,
        status="ok",
        figures=tuple(_figures(run, score, generator)),
        measured=MEASURED if run.main else (),
        phases={"load": 1.0, "convert": 0.2, "train": 3600.0, "evaluate": 60.0, "checkpoint": 2.0, "measure": 30.0},
        data="d" * 64,
        weights="w" * 64,
        environment=Environment(
            bibench="0", commit="c" * 40, python="3.11", torch="2.9", platform="Linux", processor="Some CPU",
            accelerator=None, threads=1,
        ),
        finished="2026-01-01T00:00:00+00:00",
    )  # fmt: skip


def _figures(run: RunConfig, score: float, generator: np.random.Generator) -> Iterator[Figure]:
    def number() -> float:
        return float(1 + generator.random())

    yield Figure(name=run.metric, value=score, unit="percent", samples=SAMPLES, higher_is_better=True)
    yield Figure(name="loss", value=number(), unit="nats", samples=SAMPLES, higher_is_better=False)
    if not run.main:
        return
    if registry.get("tasks", run.task).modality == "image":
        for corruption in CORRUPTIONS:
            for severity in range(1, 6):
                yield Figure(
                    name=run.metric,
                    value=score - 5 * severity * number(),
                    unit="percent",
                    samples=SAMPLES,
                    higher_is_better=True,
                    mode="generated",
                    conditions={"corruption": corruption, "severity": str(severity)},
                )
    if run.operator is None:
        return
    for name in ("time_cost", "time_cost_lowest", "time_cost_highest"):
        yield Figure(name=name, value=50 * number(), unit="percent", samples=7)
    for name in ("step_time", "full_precision_step_time"):
        yield Figure(name=name, value=number(), unit="s", samples=7)
    for conditions in ({}, {"counting": "paper"}):
        for name, unit in (
            ("speedup", "ratio"), ("compression", "ratio"), ("parameters", "count"), ("kept_parameters", "count"),
            ("operations", "count"), ("kept_operations", "count"), ("bit_operations", "count"),
            ("memory_traffic", "bytes"),
        ):  # fmt: skip
            yield Figure(name=name, value=10 * number(), unit=unit, conditions=conditions)
    place = {"device": "Some CPU", "threads": "1", "library": "bibench (avx512)"}
    for name in ("latency", "full_precision_latency"):
        for end in ("", "_lowest", "_lower_quartile", "_upper_quartile"):
            yield Figure(name=name + end, value=number(), unit="ms", samples=15, conditions=place)
    for name in ("pytorch_latency", "onnx_runtime_latency", "fastest_full_precision_latency"):
        yield Figure(name=name, value=number(), unit="ms", samples=15, conditions=place)
    yield Figure(name="storage_compression", value=10 * number(), unit="ratio")
    for name in ("packed_bytes", "full_precision_bytes", "packed_memory"):
        yield Figure(name=name, value=1e6 * number(), unit="bytes")
    yield Figure(name=f"packed_{run.metric}", value=score, unit="percent", samples=SAMPLES, higher_is_better=True)


if __name__ == "__main__":
    if sys.argv[1] == "plan":
        plan(sys.argv[2])
    else:
        write(sys.argv[2], Path(sys.argv[3]))
