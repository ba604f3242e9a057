"""Budgets in seconds: iterations are timed once, the times stay with the results and give the same steps again."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from bibench.bench import calibration
from bibench.bench.benchmark import prepare, run_suite
from bibench.bench.calibration import calibrate
from bibench.bench.plan import Budget, PlanError, make_plan
from bibench.bench.store import Store, StoreError
from bibench.bench.suite import Suite, load_suite
from bibench.bench.worker import Settings
from bibench.training import save_weights
from bibench.training.speed import iteration_times, steps_in
from bibench.training.step_time import StepTimes
from small_runs import config, model_of, suite_file

SECONDS = {"fp32": 0.1, "bnn": 0.2, "recu": 0.3, "pact": 0.4}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Iterations that take what `SECONDS` says, the longer the more often they were timed; what was timed when."""
    calls: list[list[str]] = []

    def timed(models: Any, **settings: Any) -> dict[str, StepTimes]:
        calls.append(list(models))
        slower = len(calls)
        return {name: StepTimes((9.0, SECONDS[name] * slower, 0.001), 10) for name in models}

    monkeypatch.setattr(calibration, "iteration_times", timed)
    return calls


@pytest.fixture
def suite(tmp_path: Any) -> Suite:
    recipe = "{steps: 40, batch_size: 256}"
    tracks = "tracks: [learning_task]\non_request: [pact]\n"
    return load_suite(
        str(suite_file(tmp_path, tracks, method="partial_pretraining", recipe=recipe, algorithms="[bnn]"))
    )


def steps(runs: Any) -> list[tuple[str, int]]:
    return [(run.algorithm, run.recipe.steps) for run in runs]


class Silent:
    def started(self, run: Any) -> None: ...
    def progressed(self, run_id: str, share: float) -> None: ...
    def finished(self, outcome: Any) -> None: ...


def run_quietly(suite: Suite, settings: Settings, **arguments: Any) -> list[Any]:
    """The runs of this command that were not finished before."""
    _, outcomes = run_suite(suite, settings, jobs=1, listener=lambda todo: Silent(), **arguments)
    assert {outcome.status for outcome in outcomes} <= {"ok"}
    return [outcome.run for outcome in outcomes]


def test_a_store_keeps_its_times_and_so_its_steps(tmp_path, suite, clock):
    """2 s: 20 steps of full precision, 2 / (0.05 + 0.1) = 13 of half bnn, 2 / (0.05 + 0.2) = 8 of half pact."""
    settings, budget = Settings(out=tmp_path / "store"), Budget(seconds=2)
    assert steps(run_quietly(suite, settings, budget=budget)) == [("fp32", 20), ("fp32", 6), ("bnn", 7)]
    kept = {"digits digits_cnn fp32": 0.1, "digits digits_cnn bnn": 0.2}
    path = settings.out / "calibration.json"
    assert json.loads(path.read_text()) == kept == Store(settings.out).calibration()
    assert run_quietly(suite, settings, budget=budget) == []
    assert clock == [["fp32", "bnn"]]  # not timed again

    joined = run_quietly(suite, settings, budget=budget, only={"algorithm": ["pact"]})
    assert clock == [["fp32", "bnn"], ["fp32", "pact"]]  # by now everything takes twice as long
    assert json.loads(path.read_text()) == kept | {"digits digits_cnn pact": 0.8}
    assert steps(joined) == [("fp32", 2), ("pact", 2)]  # 2 / (0.05 + 0.4) = 4
    assert run_quietly(suite, settings, budget=budget) == []

    with pytest.raises(StoreError, match=r"seconds was 2(\.0)?, is 3"):
        run_quietly(suite, settings, budget=Budget(seconds=3))
    with pytest.raises(StoreError, match=r"seconds was 2(\.0)?, is null"):
        run_quietly(suite, settings)
    assert json.loads(path.read_text()) == kept | {"digits digits_cnn pact": 0.8}


TIMED = """
import sys, time
from pathlib import Path
from bibench.bench import benchmark
from bibench.cli import app

def timed(runs, settings, known):
    if known:
        return real(runs, settings, known)
    (meet / str(seconds)).touch()
    while len(list(meet.iterdir())) < 2:
        time.sleep(0.01)
    return {f"{run.task} {run.architecture} {run.algorithm}": seconds for run in runs}

meet, seconds, real = Path(sys.argv[1]), float(sys.argv[2]), benchmark.calibrate
benchmark.calibrate = timed
app(sys.argv[3:])
"""
"""The command line, with times of its own: what two commands measure differs, and neither writes before both have."""


@pytest.mark.slow
def test_two_commands_at_once_end_with_the_times_of_one(tmp_path):
    suite = suite_file(tmp_path, algorithms="[bnn]", tracks="[learning_task]")
    meet, out = tmp_path / "meet", tmp_path / "out"
    meet.mkdir()
    arguments = ("run", suite, "--out", out, "--seconds", 0.5, "--jobs", 1, "--lease-seconds", 5)
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", TIMED, *map(str, (meet, seconds, *arguments))],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seconds in (0.05, 0.1)
    ]
    try:
        said = [command.communicate(timeout=240) for command in commands]
    finally:
        for command in commands:
            command.kill()
            command.wait()
    assert [command.returncode for command in commands] == [0, 0], said
    store = Store(out)
    times = store.calibration()
    assert set(times) == {"digits digits_cnn fp32", "digits digits_cnn bnn"}
    (seconds,) = set(times.values())
    assert steps(store.plan()) == [("fp32", round(0.5 / seconds)), ("bnn", round(0.5 / seconds))]
    assert [record.status for record in store.records()] == ["ok", "ok"]
    assert store.discarded() == 0


def test_without_seconds_nothing_is_timed(tmp_path, suite, clock):
    settings = Settings(out=tmp_path / "store")
    for budget in (None, Budget(steps=4), Budget(epochs=2)):
        assert prepare(suite, settings, budget=budget).calibration == {}
    assert clock == []
    run_quietly(suite, settings, budget=Budget(steps=4), only={"algorithm": ["fp32"]})
    assert not (settings.out / "calibration.json").exists()


def test_what_is_not_asked_for_is_not_timed(tmp_path, clock):
    text = "on_request: [pact]\ncurves: {budgets: [0.5, 1]}\n"
    tasks = (
        "\n  - {task: digits, architectures: [digits_cnn], on_request: [digits_mlp]}"
        "\n  - {task: digits, architectures: [digits_transformer]}"
    )
    suite = load_suite(str(suite_file(tmp_path, text, tasks=tasks, method="from_scratch")))
    settings = Settings(out=tmp_path / "store")

    def planned(**only: Any) -> set[tuple[str, str]]:
        clock.clear()
        runs = prepare(suite, settings, budget=Budget(seconds=2), only=only).runs
        return {(run.architecture, run.algorithm) for run in runs}

    assert planned(algorithm=["recu"], architecture=["digits_cnn"]) == {("digits_cnn", "fp32"), ("digits_cnn", "recu")}
    assert clock == [["fp32", "recu"]]
    assert planned(algorithm=["pact"], architecture=["digits_mlp"]) == {("digits_mlp", "fp32"), ("digits_mlp", "pact")}
    assert clock == [["fp32", "pact"]]
    assert planned(method=["full_precision"]) == {("digits_cnn", "fp32"), ("digits_transformer", "fp32")}
    assert clock == [["fp32"], ["fp32"]]
    # Which points there are is known once all is timed: 6 steps of 0.3 s in 2 s, and half of these.
    assert planned(point=["from_scratch-3"], architecture=["digits_cnn"]) == {("digits_cnn", "recu")}
    assert clock == [["fp32", "bnn", "recu"]]
    with pytest.raises(PlanError, match=r"point=from_scratch-11: not in suite 'small'; did you mean 'from_scr"):
        planned(point=["from_scratch-11"], architecture=["digits_cnn"])


def test_seconds_with_full_precision_weights_of_ones_own(tmp_path, suite, clock):
    save_weights(tmp_path / "weights.safetensors", model_of(config("fp32")))
    settings = Settings(out=tmp_path / "store", checkpoint=tmp_path / "weights.safetensors")
    runs = prepare(suite.model_copy(update={"method": "fine_tune"}), settings, budget=Budget(seconds=2)).runs
    assert [(run.method, run.recipe.steps) for run in runs] == [("checkpoint", 20), ("fine_tune", 10)]


def test_every_network_is_timed_with_its_own_recipe_on_the_runs_threads(tmp_path, suite, monkeypatch):
    seen: dict[str, Any] = {}

    def timed(models: Any, **settings: Any) -> dict[str, StepTimes]:
        seen.update(settings, threads=torch.get_num_threads(), models=models)
        return {name: StepTimes((0.0123456, 0.0123456, 7.0), 10) for name in models}

    monkeypatch.setattr(calibration, "iteration_times", timed)
    runs = make_plan(suite)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = calibrate(
            runs, Settings(out=tmp_path, threads=1), {"digits digits_cnn fp32": 0.5, "other net bnn": 2.0}
        )
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    # the median, to three digits; what was known stays
    assert found == {"digits digits_cnn fp32": 0.5, "other net bnn": 2.0, "digits digits_cnn bnn": 0.0123}
    assert (seen["threads"], seen["device"], seen["skip"]) == (1, "cpu", 3)
    assert {name: recipe.optimizer.name for name, recipe in seen["recipes"].items()} == {"fp32": "sgd", "bnn": "adam"}
    assert [
        name for name, model in seen["models"].items() if any("Binary" in type(m).__name__ for m in model.modules())
    ] == ["bnn"]


@pytest.mark.parametrize(("batch_size", "most"), [(64, 10), (512, 1), (1437, 1)])
def test_real_times_also_of_epochs_with_few_batches(tmp_path, monkeypatch, batch_size, most):
    counts = []

    def counted(models: Any, **settings: Any) -> dict[str, StepTimes]:
        found = iteration_times(models, **settings)
        counts.extend(times.steps for times in found.values())
        return found

    monkeypatch.setattr(calibration, "iteration_times", counted)
    suite = load_suite(str(suite_file(tmp_path, algorithms="[bnn]", recipe=f"{{epochs: 1, batch_size: {batch_size}}}")))
    prepared = prepare(suite, Settings(out=tmp_path / "store"), budget=Budget(seconds=1000))
    assert set(prepared.calibration) == {"digits digits_cnn fp32", "digits digits_cnn bnn"}
    assert counts == [most, most]
    for run in prepared.runs:
        seconds = prepared.calibration[f"digits digits_cnn {run.algorithm}"]
        assert 0 < seconds < 10
        assert float(f"{seconds:.3g}") == seconds
        assert run.recipe.steps == steps_in(1000, [(1, seconds)])


@pytest.mark.parametrize("seconds", [0, 0.05, -1, float("nan"), float("inf")])
def test_seconds_that_are_no_budget(tmp_path, suite, clock, seconds):
    with pytest.raises(PlanError, match=rf"^--seconds {seconds:g}: digits digits_cnn fp32: the budget "):
        prepare(suite, Settings(out=tmp_path / "store"), budget=Budget(seconds=seconds))
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1.', "can't be read"),
        ("[]", "expected a JSON object of seconds by network; delete it to measure anew"),
        ('{"a": "1.0"}', "expected a JSON object of seconds"),
        ('{"a": 0.0}', "expected a JSON object of seconds"),
        ('{"a": -1.0}', "expected a JSON object of seconds"),
        ('{"a": NaN}', "expected a JSON object of seconds"),
        ('{"a": Infinity}', "expected a JSON object of seconds"),
        ('{"a": true}', "expected a JSON object of seconds"),
    ],
)
def test_a_broken_file_of_times_is_named(tmp_path, suite, clock, text, message):
    settings = Settings(out=tmp_path / "store")
    settings.out.mkdir()
    path = settings.out / "calibration.json"
    path.write_text(text)
    with pytest.raises(StoreError, match=message) as caught:
        prepare(suite, settings, budget=Budget(seconds=2))
    assert str(path) in str(caught.value)
    assert clock == []
