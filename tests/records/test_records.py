"""Identity of a run, and reading of records, good and bad."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from bibench.recipes import SGD, Adam, Constant, Recipe
from bibench.records import Environment, Figure, Record, RecordError, Results, RunConfig, read_record

RECIPE = Recipe(optimizer=SGD(lr=0.1), epochs=2, batch_size=8)


def run_config(**changes: Any) -> RunConfig:
    fields: dict[str, Any] = {
        "task": "digits",
        "architecture": "digits_cnn",
        "algorithm": "bnn",
        "operator": "bnn",
        "method": "fine_tune",
        "seed": 0,
        "recipe": RECIPE,
        "parent": "digits-digits_cnn-fp32-s0-0123456789",
        "family": "cnns",
        "metric": "accuracy",
    }
    return RunConfig(**(fields | changes))


def record(**changes: Any) -> Record:
    run = run_config()
    fields: dict[str, Any] = {
        "id": run.id,
        "run": run,
        "status": "ok",
        "figures": (Figure(name="accuracy", value=91.5, unit="percent", samples=360, higher_is_better=True),),
        "phases": {"train": 1.5},
        "environment": Environment(
            bibench="0.1.0", commit=None, python="3.12", torch="2.9", platform="p", processor="c",
            accelerator=None, threads=2,
        ),
        "finished": "2025-01-01T00:00:00Z",
    }  # fmt: skip
    return Record(**(fields | changes))


def test_the_identity_of_a_configuration_stays_as_it_is() -> None:
    # Stored results are found by this. If this test fails, every stored result is orphaned: raise the schema
    # version and say so in the changelog, or take the change back.
    assert run_config().id == "digits-digits_cnn-bnn-s0-282aba0e56"


@pytest.mark.parametrize(
    "changes",
    [
        {"task": "cifar10"},
        {"architecture": "resnet20"},
        {"algorithm": "other"},
        {"operator": "xnor"},
        {"options": {"gain": 2}},
        {"method": "from_scratch"},
        {"seed": 1},
        {"parent": None},
        {"checkpoint": "ab" * 32},
        {"task_version": 2},
        {"shortcuts": True},
        {"heads": True},
        {"padding_value": 1},
        {"devices": 2},
        {"optimizer_state": "keep"},
        {"method": "partial_pretraining"},
        {"recipe": Recipe(optimizer=SGD(lr=0.2), epochs=2, batch_size=8)},
        {"recipe": Recipe(optimizer=Adam(lr=0.1), epochs=2, batch_size=8)},
        {"recipe": Recipe(optimizer=SGD(lr=0.1), epochs=3, batch_size=8)},
        {"recipe": Recipe(optimizer=SGD(lr=0.1), steps=2, batch_size=8)},
        {"recipe": Recipe(optimizer=SGD(lr=0.1), epochs=2, batch_size=8, schedule=Constant())},
        {"recipe": Recipe(optimizer=SGD(lr=0.1), epochs=2, batch_size=8, decay_scales=True)},
    ],
)
def test_whatever_decides_the_result_is_in_the_identity(changes: dict[str, Any]) -> None:
    assert run_config(**changes).id.rsplit("-", 1)[1] != run_config().id.rsplit("-", 1)[1]


def test_every_field_is_either_decisive_or_descriptive() -> None:
    decisive = {
        "task", "architecture", "algorithm", "operator", "options", "method", "seed", "recipe", "parent",
        "checkpoint", "task_version", "shortcuts", "heads", "padding_value", "devices", "optimizer_state",
    }  # fmt: skip
    # a new field belongs in the test above too, or it is left out of the identity like these
    assert set(RunConfig.model_fields) - decisive == {
        "family", "metric", "group", "main", "setting", "point", "share",
    }  # fmt: skip
    described = run_config(family="mlps", metric="f1", main=False, setting="a", point="b", share=0.3)
    assert described.id == run_config().id


def test_the_order_of_options_does_not_matter() -> None:
    assert run_config(options={"a": 1, "b": 2}).id == run_config(options={"b": 2, "a": 1}).id


def test_identity_survives_json() -> None:
    run = run_config(options={"gain": 0.1})
    assert RunConfig.model_validate_json(run.model_dump_json()).id == run.id


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_text(record().model_dump_json(), encoding="utf-8")
    assert read_record(path) == record()


def content(**changes: Any) -> str:
    return json.dumps(json.loads(record().model_dump_json()) | changes)


def without(field: str) -> str:
    return json.dumps({name: value for name, value in json.loads(content()).items() if name != field})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        (content()[:-20], "not valid JSON"),
        ("[]", "not a record of bibench, it has no schema_version"),
        ("{}", "not a record of bibench, it has no schema_version"),
        (without("schema_version"), "not a record of bibench, it has no schema_version"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 5000, "not valid JSON|not a record"),
        (content(schema_version=2), "schema version 2, expected 1"),
        (content(status="fine"), r"field 'status'.*found 'fine'"),
        (content(extra=1), r"field 'extra'"),
        (content(figures=[{"name": "accuracy", "value": None, "unit": "percent"}]), r"field 'figures.0.value'"),
        (content(figures=[{"name": "accuracy", "value": float("nan"), "unit": "percent"}]), r"'figures.0.value'"),
        (content(figures=[{"name": "accuracy", "value": 1e100, "unit": "percent"}]), r"between -1e\+100 and 1e\+100"),
        (content(figures=[{"name": "accuracy", "value": -1e308, "unit": "percent"}]), "figures.0.value"),
        (content(phases={"train": float("inf")}), r"field 'phases.train'"),
    ],
)
def test_a_bad_record_is_named_with_its_field(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "record.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match=message) as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert str(caught.value).endswith("; delete it and run the suite again")


def test_bytes_that_are_no_text_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecordError, match="not valid JSON"):
        read_record(path)


def test_a_figure_is_finite() -> None:
    with pytest.raises(ValidationError):
        Figure(name="accuracy", value=float("nan"), unit="percent")


def test_records_and_figures_are_found_by_name() -> None:
    made = record()
    results = Results(plan=[made.run], records=[made, made])
    assert results.record(made.id) == made
    assert results.record("another") is None
    assert results.predictions(made.id) is None
    figure = made.figure("accuracy")
    assert figure is not None
    assert figure.value == 91.5
    assert made.figure("f1") is None


def test_what_is_made_of_results_is_made_once() -> None:
    made: list[Results] = []

    def count(results: Results) -> int:
        made.append(results)
        return len(results.records)

    results, other = Results(plan=[], records=[record()]), Results(plan=[], records=[])
    assert [results.once(count), results.once(count), other.once(count)] == [1, 1, 0]
    assert made == [results, other]


def test_a_copy_of_a_run_has_the_identity_of_its_own_fields() -> None:
    run = run_config()
    assert run.model_copy(update={"seed": run.seed + 1}).id == run_config(seed=run.seed + 1).id != run.id
    assert run.model_copy(update={"main": False, "setting": "sgd-1x-step"}).id == run.id


def test_a_copy_of_a_record_finds_its_own_figures() -> None:
    made = record()
    assert made.figure("accuracy") is not None
    other = Figure(name="f1", value=0.5, unit="ratio", conditions={"subset": "a"})
    copied = made.model_copy(update={"figures": (other,)})
    assert copied.figure("accuracy") is None
    assert copied.figure("f1") is None
    assert copied.figures_under("f1", "subset") == {("a",): other}
    assert made.figures_under("f1", "subset") == {}


def test_figures_are_found_under_just_these_conditions() -> None:
    def figure(value: float, **conditions: str) -> Figure:
        return Figure(name="accuracy", value=value, unit="percent", conditions=conditions)

    clean, foggy, both = figure(1.0), figure(2.0, corruption="fog"), figure(3.0, corruption="fog", severity="1")
    made = record().model_copy(update={"figures": (clean, foggy, both)})
    assert made.figure("accuracy") == clean
    assert made.figures_under("accuracy", "severity", "corruption") == {("1", "fog"): both}
    assert made.figures_under("accuracy", "corruption") == {("fog",): foggy}
    assert made.figures_under("accuracy") == {(): clean}
