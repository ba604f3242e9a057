"""Partial pre-training on real data, from a suite to its speedups."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from bibench.bench.benchmark import run_suite, score_store
from bibench.bench.store import Store
from bibench.bench.suite import parse_suite
from bibench.bench.worker import Settings
from bibench.display import Display
from bibench.tracks.training_speed import networks

SUITE = """
name: real
tasks:
  - task: cifar10
    architectures: [resnet20e]
    full_precision: &cifar10
      optimizer: {name: sgd, lr: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.0001}
      schedule: {name: step, milestones: [0.5, 0.75]}
      steps: 9
      batch_size: 128
    binarized: *cifar10
  - {task: movielens, full_precision: {steps: 20}, binarized: {steps: 20}}
algorithms: [pact]
method: partial_pretraining
tracks: [training_speed]
curves: {budgets: [0.5, 1]}
measure: {iterations: 1}
"""


@pytest.mark.slow
def test_real_photographs_and_ratings_from_a_suite_to_its_curves(tmp_path: Path, real_data: Path) -> None:
    for name in ("cifar-10-lossless-subset/cifar-10-batches-py", "ml-latest-small"):
        (tmp_path / Path(name).name).symlink_to(real_data / name)
    settings = Settings(out=tmp_path / "out", data=tmp_path, allow_subset=True)
    suite = parse_suite(SUITE, "test")
    _, outcomes = run_suite(suite, settings, jobs=1, listener=lambda todo: Display(todo, Console(quiet=True)))
    assert {outcome.status for outcome in outcomes} == {"ok"}
    results, scores, _ = score_store(Store.open(settings.out))
    budgets = {network.row: [list(curve.trials) for curve in network.curves] for network in networks(results)}
    # full precision, from scratch, and both parts of partial pre-training together
    assert budgets == {("cifar10", "resnet20e"): [[4, 9]] * 3, ("movielens", "ncf"): [[10, 20]] * 3}
    parts = {
        run.point: results.record(run.parent or "").run.known_recipe.steps  # type: ignore[union-attr]
        for run in results.plan
        if run.method == "partial_pretraining" and run.task == "cifar10"
    }
    assert parts == {"partial_pretraining-2+2": 2, "partial_pretraining-4+5": 4}
    assert {score.status for score in scores if score.metric == "slowdown"} == {"ok"}
