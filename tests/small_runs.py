"""Small real runs for tests: the digits in a few epochs, and what must be equal when a run is repeated."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from bibench.bench.store import Store
from bibench.models.image import digits_cnn
from bibench.nn import resolve
from bibench.recipes import SGD, Adam, Constant, Recipe
from bibench.records import Figure, Record, RunConfig
from bibench.tasks.base import Data
from bibench.tasks.digits import digits
from bibench.training import Trained, build_model, train

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")
DATA: Data = digits.load(None, False)
SGD_RECIPE = Recipe(optimizer=SGD(lr=0.1, momentum=0.9, weight_decay=1e-4), epochs=3, batch_size=256)
ADAM_RECIPE = Recipe(optimizer=Adam(lr=1e-3), epochs=3, batch_size=256)
CONSTANT = Constant()


def config(algorithm: str = "bnn", recipe: Recipe = ADAM_RECIPE, **content: Any) -> RunConfig:
    """A run on the digits; a binarized one starts from scratch."""
    full = algorithm == "fp32"
    if not full:
        resolve(algorithm)
    defaults: dict[str, Any] = {
        "task": "digits",
        "architecture": "digits_cnn",
        "algorithm": algorithm,
        "operator": None if full else algorithm,
        "method": "full_precision" if full else "from_scratch",
        "seed": 0,
        "recipe": recipe,
        "family": "cnns",
        "metric": "accuracy",
    }
    return RunConfig(**(defaults | content))


def model_of(run: RunConfig, start: Path | None = None) -> Any:
    """The run's model before its first step."""
    return build_model(run, task=digits, architecture=digits_cnn, data=DATA, start=start)


def trained(run: RunConfig, folder: Path, *, model: Any = None, **settings: Any) -> Trained:
    """Train a run in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    return train(run, model_of(run) if model is None else model, task=digits, data=DATA, folder=folder, **settings)


def suite_file(folder: Path, text: str = "", **content: str) -> Path:
    """Write a suite on the digits: two epochs, ``bnn`` and ``recu``; ``content`` replaces keys, ``text`` follows."""
    recipe = content.pop("recipe", "{epochs: 2, batch_size: 256}")
    keys = {
        "name": "small",
        "tasks": f"\n  - task: digits\n    full_precision: {recipe}\n    binarized: {recipe}",
        "algorithms": "[bnn, recu]",
        "seeds": "1",
        "measure": "{corruptions: [contrast], severities: [5], step_repeats: 1}",
    }
    path = folder / f"{content.get('name', 'small')}.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (keys | content).items()) + text, encoding="utf-8")
    return path


def command(*arguments: object) -> list[str]:
    """The command line of ``bibench`` with these arguments."""
    return [sys.executable, "-m", "bibench", *map(str, arguments)]


def bibench(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``bibench`` in a process of its own."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**os.environ, "COLUMNS": "120"} | environment,
    )


TIMES = ("time_cost", "time_cost_lowest", "time_cost_highest", "step_time", "full_precision_step_time")


def untimed(record: Record) -> list[Figure]:
    """The figures of a record that are the same whenever and wherever it was run."""
    return [figure for figure in record.figures if figure.name not in TIMES and figure.unit != "ms"]  # nor latencies


def content(folder: Path) -> dict[str, Any]:
    """Everything in a store that must be the same, bit for bit, however the runs were executed: not times."""
    found: dict[str, Any] = {}
    for record in Store(folder).records():
        path = folder / "runs" / record.id
        found[record.id] = (record.status, record.reason, untimed(record), record.data)
        for name in (
            "model.safetensors",
            "optimizer.safetensors",
            "predictions.safetensors",
            "epochs.csv",
            "layers.csv",
        ):
            if (path / name).exists():
                found[f"{record.id}/{name}"] = (path / name).read_bytes()
    return found
