"""What is checked before anything is run."""

import json

import pytest
import torch

from bibench import registry
from bibench.bench.benchmark import choose_device, default_jobs, missing_runs, prepare, run_suite, score_store
from bibench.bench.plan import Budget, PlanError, make_plan
from bibench.bench.store import Store, StoreError
from bibench.bench.suite import Curves, Splits, load_suite
from bibench.bench.worker import Settings
from bibench.training import CheckpointError, save_weights
from small_runs import config, model_of, suite_file


@pytest.fixture
def suite(tmp_path):
    return load_suite(str(suite_file(tmp_path)))


def test_devices(monkeypatch):
    assert choose_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == "cpu"
    with pytest.raises(PlanError, match="--device cuda: this machine has no GPU"):
        choose_device("cuda")
    with pytest.raises(PlanError, match="--device tpu: expected auto, cpu or cuda"):
        choose_device("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device("auto") == "cuda"


@pytest.mark.parametrize(("gpus", "devices", "jobs"), [(4, 1, 4), (5, 2, 2), (1, 1, 1), (2, 4, 1)])
def test_as_many_runs_at_a_time_as_there_are_gpus_for(monkeypatch, gpus, devices, jobs):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert default_jobs("cuda", devices) == jobs


def test_as_many_runs_at_a_time_as_there_are_cores_for():
    cores = default_jobs("cpu")
    assert cores >= 1
    assert [default_jobs("cpu", devices) for devices in (2, 2 * cores)] == [max(1, cores // 2), 1]


def test_more_devices_than_gpus_are_refused(tmp_path, suite, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    out = tmp_path / "store"
    with pytest.raises(PlanError, match=r"--devices 3: more than the GPUs that PyTorch can use here \(2\)"):
        run_suite(suite, Settings(out=out, device="cuda"), jobs=1, listener=list, devices=3)
    assert not out.exists()


def refused(suite, settings, error, message, **selection):
    with pytest.raises(error, match=message):
        prepare(suite, settings, **selection)
    assert not settings.out.exists()  # the store is as it was


def test_checkpoints_that_cannot_be_used(tmp_path, suite):
    weights = tmp_path / "weights.safetensors"
    settings = Settings(out=tmp_path / "store", checkpoint=weights)
    refused(suite, settings, CheckpointError, r"--checkpoint .*weights\.safetensors: no such file")
    torch.save({"weight": torch.zeros(2)}, weights)
    refused(suite, settings, CheckpointError, r"weights\.safetensors is not a complete safetensors file.*Pickled")
    save_weights(weights, torch.nn.Linear(2, 2))
    refused(suite, settings, CheckpointError, r"weights\.safetensors doesn't fit the model")
    save_weights(weights, model_of(config("fp32")))
    assert {run.method for run in prepare(suite, settings).runs} == {"checkpoint", "fine_tune"}


def test_one_checkpoint_is_for_one_network(tmp_path):
    weights = tmp_path / "weights.safetensors"
    save_weights(weights, model_of(config("fp32")))
    suite = load_suite("cifar10")
    settings = Settings(out=tmp_path / "store", checkpoint=weights)
    refused(suite, settings, PlanError, r"the plan has 4 \(cifar10 resnet18, .*narrow it with --only")


def test_data_that_are_not_there(tmp_path):
    settings = Settings(out=tmp_path / "store", data=tmp_path / "none")
    refused(load_suite("cifar10"), settings, ValueError, str(tmp_path / "none"))


def test_nothing_to_score(tmp_path):
    with pytest.raises(StoreError, match="names no runs"):
        score_store(Store(tmp_path))


def claim(suite, settings, **arguments):
    """What a run does before its first step."""
    prepared = prepare(suite, settings, **arguments)
    Store(settings.out).begin(prepared.description, prepared.runs, prepared.data)


def test_a_store_is_scored_with_the_tracks_of_its_suite(tmp_path, suite):
    settings = Settings(out=tmp_path / "store")
    claim(suite, settings)
    results, scores, tracks = score_store(Store(settings.out))
    assert [track.name for track in tracks] == registry.names("tracks")[:6]
    assert len(results.plan) == 3
    assert {score.status for score in scores} == {"incomplete"}
    claim(suite.model_copy(update={"tracks": ("learning_task",)}), settings)  # what is scored may change
    assert [track.name for track in score_store(Store(settings.out))[2]] == ["learning_task"]


def test_optional_tasks_may_follow_later(tmp_path, suite):
    settings = Settings(out=tmp_path / "store")
    claim(suite, settings)
    optional = suite.tasks[0].model_copy(update={"task": "noise32", "architectures": ("vgg_small",), "optional": True})
    more = suite.model_copy(update={"tasks": (*suite.tasks, optional)})
    claim(more, settings)
    assert {run.task for run in Store(settings.out).plan()} == {"digits"}
    claim(more, settings, only={"task": ["noise32"]})
    assert {run.task for run in Store(settings.out).plan()} == {"digits", "noise32"}


BEFORE_PARTIAL_PRETRAINING = {
    "name": "small",
    "version": 1,
    "description": "",
    "tasks": [
        {
            "task": "digits",
            "architectures": [],
            "on_request": [],
            "full_precision": {"epochs": 2, "batch_size": 256},
            "binarized": {"epochs": 2, "batch_size": 256},
        }
    ],
    "method": "fine_tune",
    "tracks": [
        "learning_task",
        "neural_architecture",
        "corruption_robustness",
        "training_consumption",
        "theoretical_complexity",
        "hardware_inference",
    ],
    "sensitivity": None,
    "measure": {"corruptions": ["contrast"], "severities": [5], "step_repeats": 1},
    "awaiting": [],
    "shortcuts": False,
    "padding_value": 0,
    "epochs": None,
    "checkpoint": None,
    "devices": 1,
}


def test_a_store_of_an_earlier_version_is_still_this_suites(tmp_path, suite):
    settings = Settings(out=tmp_path / "store")
    claim(suite, settings)
    path = settings.out / "suite.json"
    assert json.loads(path.read_text()) == BEFORE_PARTIAL_PRETRAINING
    plan = json.loads((settings.out / "plan.json").read_text())
    for run in plan:
        del run["optimizer_state"], run["point"], run["share"], run["heads"], run["recipe"]["steps"]
    (settings.out / "plan.json").write_text(json.dumps(plan))
    ids = [run.id for run in make_plan(suite)]
    assert [run.id for run in Store(settings.out).plan()] == ids
    claim(suite, settings)
    assert [run.id for run in Store(settings.out).plan()] == ids


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ({"share": 0.25}, r"share was null, is 0\.25"),
        ({"optimizer_state": "keep"}, 'optimizer_state was null, is "keep"'),
        ({"method": "partial_pretraining"}, 'method was "fine_tune", is "partial_pretraining"'),
        ({"heads": True}, "heads was null, is true"),
    ],
)
def test_other_settings_are_another_store(tmp_path, suite, content, what):
    settings = Settings(out=tmp_path / "store")
    claim(suite, settings)
    with pytest.raises(StoreError, match=what):
        claim(suite.model_copy(update=content), settings)


def test_other_budgets_are_another_store(tmp_path, suite):
    settings = Settings(out=tmp_path / "store")
    claim(suite, settings, budget=Budget(steps=4))
    claim(suite, settings, budget=Budget(steps=4))
    for budget, what in (
        (None, "steps was 4, is null"),
        (Budget(epochs=4), "epochs was null, is 4, steps was 4, is n"),
    ):
        with pytest.raises(StoreError, match=what):
            claim(suite, settings, budget=budget)


def test_curves_and_splits_may_join_a_store(tmp_path):
    recipe = "{optimizer: {name: sgd, lr: 0.1}, steps: 30, batch_size: 256}"
    suite = load_suite(str(suite_file(tmp_path, method="partial_pretraining", recipe=recipe, share="0.3333333")))
    settings = Settings(out=tmp_path / "store")
    claim(suite, settings)
    splits = Splits(task="digits", architecture="digits_cnn", full_precision=(1 / 3,), binarized=(2 / 3,))
    claim(suite.model_copy(update={"splits": splits, "curves": Curves(budgets=(1.0,))}), settings)
    claim(suite, settings)
    plan = Store(settings.out).plan()
    partial = [run for run in plan if run.method == "partial_pretraining"]
    assert [(run.algorithm, run.main, run.point, run.share) for run in partial] == [
        (name, True, "partial_pretraining-10+20", 0.3333333) for name in ("bnn", "recu")
    ]
    assert [run.point for run in plan if run.method == "from_scratch"] == ["from_scratch-30"] * 2


def run_quietly(suite, folder, **arguments):
    class Silent:
        def started(self, run): ...
        def progressed(self, run_id, share): ...
        def finished(self, outcome): ...

    runs, outcomes = run_suite(suite, Settings(out=folder), jobs=1, listener=lambda todo: Silent(), **arguments)
    assert {outcome.status for outcome in outcomes} <= {"ok"}
    return runs, [outcome.run for outcome in outcomes]


def test_missing_runs_just_what_would_complete_a_metric(tmp_path):
    text = "sensitivity: {task: digits, architecture: digits_cnn, optimizers: [{name: adam, lr: 0.001}], rates: [1]}\n"
    suite = load_suite(str(suite_file(tmp_path, text)))
    out = tmp_path / "out"
    everything = {run.id for run in make_plan(suite)}
    _, first = run_quietly(suite, out, only={"algorithm": ["bnn"]}, missing="om_task")
    assert [(run.algorithm, run.setting) for run in first] == [("fp32", None), ("bnn", "adam-1x-cosine")]
    _, second = run_quietly(suite, out, missing="om_task")
    assert [(run.algorithm, run.setting) for run in second] == [("recu", "adam-1x-cosine")]
    scores = {(score.metric, score.algorithm): score for score in score_store(Store(out))[1]}
    assert {scores["om_task", name].status for name in ("bnn", "recu")} == {"ok"}
    assert scores["sensitivity", "bnn"].status == "incomplete"
    _, third = run_quietly(suite, out, missing="om_train")
    assert {run.setting for run in third} == {"adam-1x-cosine", "adam-1x-step"}
    assert {run.id for run in (*first, *second, *third)} == everything
    assert run_quietly(suite, out, missing="om_train") == ([], [])
    scores = {(score.metric, score.algorithm): score for score in score_store(Store(out))[1]}
    assert {scores["om_train", name].status for name in ("bnn", "recu")} == {"ok"}
    assert run_quietly(suite, out)[1] == []


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (
            "om_tusk",
            r"--missing om_tusk: not a metric of suite 'small'; did you mean 'om_task'\? \(known: digits, om_task",
        ),
        ("om_arch", r"no run of suite 'small' would complete it: .*no transformers in this suite"),
    ],
)
def test_metrics_that_no_run_can_complete(tmp_path, suite, metric, message):
    runs = make_plan(suite)
    if metric == "om_arch":
        run_quietly(suite, tmp_path / "out")
    with pytest.raises(PlanError, match=message):
        missing_runs(suite, runs, Store(tmp_path / "out"), metric)


def test_missing_brings_the_full_precision_part_along(tmp_path):
    recipe = "{steps: 4, batch_size: 256}"
    suite = load_suite(str(suite_file(tmp_path, method="partial_pretraining", recipe=recipe, tracks="[learning_task]")))
    _, found = run_quietly(suite, tmp_path / "out", only={"algorithm": ["bnn"]}, missing="om_task")
    assert [(run.algorithm, run.method, run.recipe.steps, run.main) for run in found] == [
        ("fp32", "full_precision", 4, True),
        ("fp32", "full_precision", 2, False),
        ("bnn", "partial_pretraining", 2, True),
    ]
    _, found = run_quietly(suite, tmp_path / "out", missing="om_task")
    assert [run.algorithm for run in found] == ["recu"]
    scores = {score.algorithm: score for score in score_store(Store(tmp_path / "out"))[1] if score.metric == "om_task"}
    assert {name: score.status for name, score in scores.items()} == {"bnn": "ok", "recu": "ok"}


def test_a_track_added_to_a_finished_store_measures_and_trains_nothing(tmp_path, suite):
    out = tmp_path / "out"
    few = suite.model_copy(update={"tracks": ("learning_task",)})
    run_quietly(few, out)
    before = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/model.safetensors")}
    _, again = run_quietly(suite, out)
    assert len(again) == 3
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/*/model.safetensors")} == before
    scores = {score.metric: score.status for score in score_store(Store(out))[1]}
    assert {scores[name] for name in ("om_comp", "om_robust", "time_cost")} == {"ok"}
