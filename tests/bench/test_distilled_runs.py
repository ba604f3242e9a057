"""Distillation from a suite to its records: what a run is, what is refused and where, and that a score says so."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bibench.bench.benchmark import prepare, run_suite
from bibench.bench.estimate import estimate
from bibench.bench.plan import Budget, PlanError, make_plan
from bibench.bench.store import Store
from bibench.bench.suite import Suite, SuiteError, TaskEntry, parse_suite
from bibench.bench.worker import Settings
from bibench.nn import summary
from bibench.recipes import Distillation
from bibench.training import loop
from small_runs import ADAM_RECIPE, config

DIGITS = """
name: distilled
tasks:
  - task: digits
    architectures: [digits_cnn]
    full_precision: {epochs: 1}
    binarized:
      epochs: 1
      distillation: {logits: 0.5}
algorithms: [bnn]
"""
BERT = """
name: distilled
tasks:
  - task: glue_sst2
    architectures: [bert_tiny4]
    binarized: {distillation: {logits: 1.0, hidden: 1.0, similarity: 1.0}}
algorithms: [bnn]
"""


def silent(runs: Any) -> Any:
    class Silent:
        def started(self, run: Any) -> None: ...
        def progressed(self, run_id: str, share: float) -> None: ...
        def finished(self, outcome: Any) -> None:
            assert outcome.status == "ok", outcome.message

    return Silent()


# What a run is


def test_runs_without_distillation_keep_their_identity_and_others_have_their_own() -> None:
    plain = config("bnn", ADAM_RECIPE)
    assert "distillation" in plain.model_dump()["recipe"]
    assert plain.id == "digits-digits_cnn-bnn-s0-c7491d9297"  # as before there was distillation
    weights = (Distillation(), Distillation(logits=0.5), Distillation(labels=0.5), Distillation(hidden=1.0))
    ids = {config("bnn", replace(ADAM_RECIPE, distillation=own)).id for own in weights}
    assert len(ids | {plain.id}) == 5


def test_a_run_with_distillation_is_read_back_as_it_was() -> None:
    run = config("bnn", replace(ADAM_RECIPE, distillation=Distillation(hidden=0.25)))
    assert type(run).model_validate_json(run.model_dump_json()) == run


def test_the_suite_says_it_of_the_binarized_runs_and_full_precision_stays_the_same() -> None:
    runs = {run.algorithm: run for run in make_plan(parse_suite(DIGITS, "test"))}
    plain = parse_suite(DIGITS.replace("distillation: {logits: 0.5}", "batch_size: 64"), "test")
    others = {run.algorithm: run for run in make_plan(plain)}
    assert runs["bnn"].recipe.distillation == Distillation(logits=0.5)
    assert replace(runs["bnn"].recipe, distillation=None) == others["bnn"].recipe
    assert runs["bnn"].id != others["bnn"].id
    assert runs["fp32"] == others["fp32"]
    assert {run.recipe.distillation for run in make_plan(parse_suite(BERT, "test")) if run.operator} == {
        Distillation(hidden=1.0, similarity=1.0)
    }


def test_the_suite_of_the_documentation_is_whole() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- distilled suite -->\n```yaml\n(.*?)```", page, re.DOTALL)
    assert found
    weights = {run.algorithm: run.recipe.distillation for run in make_plan(parse_suite(found[1], "docs/tasks.md"))}
    every = Distillation(labels=1, logits=1, hidden=1, similarity=1)
    assert weights == {"fp32": None, "bireal": every, "reactnet": every}


def test_partial_pretraining_distils_from_its_full_precision_part_and_a_grid_in_every_setting() -> None:
    text = DIGITS.replace("epochs: 1", "epochs: 4") + "method: partial_pretraining\nsensitivity: {task: digits, "
    runs = make_plan(parse_suite(text + "architecture: digits_cnn}\n", "test"))
    binarized = [run for run in runs if run.operator]
    assert len(binarized) == 1 + 8 - 1
    for run in runs:
        assert (run.known_recipe.distillation is not None) == (run.parent is not None) == (run.operator is not None)


# What is refused


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        (DIGITS.replace("logits:", "logit:"), 9, r"unknown key '.*distillation.logit'; did you mean 'logits'\?"),
        (DIGITS.replace("0.5", "-1"), 9, "'tasks.0.binarized.distillation.logits' is -1: .*greater than or equal to 0"),
        (DIGITS.replace("0.5", "0"), 9, "'tasks.0.binarized.distillation': logits, hidden and similarity are all 0"),
        (DIGITS.replace("{logits: 0.5}", "yes"), 9, "'tasks.0.binarized.distillation' is True: expected a mapping"),
        (DIGITS.replace("logits: 0.5", "hidden: 1"), 9, "architecture 'digits_cnn': Sequential shows no hidden"),
        (DIGITS.replace("{epochs: 1}", "{distillation: {}}"), 6, "distillation is of binarized networks"),
        (DIGITS + "method: from_scratch\n", 9, "training from scratch .* starts from none; choose fine_tune"),
        (DIGITS + "curves: {budgets: [1]}\n", 9, "training from scratch"),
        (DIGITS.replace("epochs: 1", "steps: 4") + "method: partial_pretraining\nshare: 0\n", 9, "a share of 0"),
        (
            DIGITS + "sensitivity: {task: digits, architecture: digits_cnn, method: from_scratch}\n",
            9,
            "training from scratch",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_distilled_is_refused_with_its_line(text: str, line: int, message: str) -> None:
    with pytest.raises(SuiteError, match=rf"^test, line {line}: .*{message}"):
        parse_suite(text, "test")


def test_a_grid_of_another_network_does_not_matter() -> None:
    text = DIGITS.replace("algorithms", "  - {task: digits, architectures: [digits_mlp]}\nalgorithms")
    grid = "sensitivity: {task: digits, architecture: digits_mlp, method: from_scratch}\n"
    assert parse_suite(text + grid, "test").sensitivity is not None


@pytest.mark.parametrize("changes", [{"method": "from_scratch"}, {"kind": "full_precision"}])
def test_a_suite_that_was_never_parsed_is_refused_by_the_plan(changes: dict[str, str]) -> None:
    recipe = {changes.pop("kind", "binarized"): {"distillation": {}}}
    entry = TaskEntry(task="digits", architectures=("digits_cnn",), **recipe)
    suite = Suite(name="made", tasks=(entry,), algorithms=[{"name": "bnn"}], **changes)
    with pytest.raises(PlanError, match=r"^task 'digits': distillation "):
        make_plan(suite)


# Its records


def test_a_run_learns_from_its_parent_and_its_record_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[Any] = []
    train = loop._train

    def noted(fabric: Any, job: Any, *more: Any) -> Any:
        taught.append(job.teacher)
        return train(fabric, job, *more)

    monkeypatch.setattr(loop, "_train", noted)
    suite = parse_suite(DIGITS + "tracks: [learning_task, training_consumption]\nmeasure: {step_repeats: 1}\n", "test")
    settings = Settings(out=tmp_path / "store")
    run_suite(suite, settings, jobs=1, listener=silent)
    store = Store(settings.out)
    full, binarized = (store.record(run.id) for run in make_plan(suite))
    assert full is not None
    assert binarized is not None
    assert taught[0] is None
    assert not summary(taught[1]).binarized
    weights, parent = taught[1].state_dict(), load_file(store.weights(full.id))
    assert weights.keys() == parent.keys()
    assert all(torch.equal(tensor, parent[name]) for name, tensor in weights.items())
    assert binarized.notes == (
        *full.notes,
        "binarized digits_cnn on digits learned from full precision too "
        "(distillation: labels 1, logits 0.5, hidden 0, similarity 0)",
    )
    assert binarized.figure("time_cost") is not None
    plain = DIGITS.replace("distillation: {logits: 0.5}", "batch_size: 64")
    others = Settings(out=tmp_path / "plain")
    run_suite(parse_suite(plain + "tracks: [learning_task]\n", "test"), others, jobs=1, listener=silent)
    without = next(record for record in Store(others.out).records() if record.run.operator)
    assert binarized.weights != without.weights


def test_estimates_and_budgets_in_seconds_count_the_teacher(tmp_path: Path) -> None:
    suite = parse_suite(DIGITS, "test")
    found = estimate(make_plan(suite))
    assert found.factors["bnn"] > 0
    prepared = prepare(suite, Settings(out=tmp_path / "store"), budget=Budget(seconds=1.0))
    assert set(prepared.calibration) == {"digits digits_cnn fp32", "digits digits_cnn bnn"}
