"""What all six tracks share: finding runs, statuses, seeds, and records that are no good."""

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import everything, failed_record, figure, ok_record, run_config, with_records

from bibench.records import Absence, Record, RecordError, Results, Score, read_record
from bibench.tracks import ScoreError, score
from bibench.tracks.base import Track
from bibench.tracks.comparisons import comparisons
from bibench.tracks.corruption_robustness import corruption_robustness
from bibench.tracks.hardware_inference import hardware_inference
from bibench.tracks.learning_task import learning_task
from bibench.tracks.lookup import (
    Lack,
    Lookup,
    algorithms_in,
    by_seed,
    check_comparable,
    entered_as_0,
    make_score,
    not_measured,
    overall,
    ratio,
    ratios,
    rows_in,
    status_of,
)
from bibench.tracks.neural_architecture import neural_architecture
from bibench.tracks.theoretical_complexity import theoretical_complexity
from bibench.tracks.training_consumption import training_consumption

SIX = (
    learning_task,
    neural_architecture,
    corruption_robustness,
    training_consumption,
    theoretical_complexity,
    hardware_inference,
)
OVERALL = {"om_task", "om_arch", "om_robust", "om_train", "om_comp", "om_infer"}


def numbers(seed: int) -> Any:
    generator = random.Random(seed)
    return lambda: generator.uniform(1.0, 80.0)


@pytest.mark.parametrize("mode", ["literal", "paper"])
def test_every_overall_metric_has_an_interval_over_several_seeds(mode: Any) -> None:
    found = score(everything((0, 1, 2), numbers(0)), SIX, mode)
    overalls = [one for one in found if one.metric in OVERALL]
    assert {one.metric for one in overalls} == OVERALL
    assert {one.algorithm for one in overalls} == {"bnn", "fda"}
    for one in found:
        assert (one.status, one.seeds) == ("ok", 3), one
        assert one.low is not None
        assert one.high is not None
        assert one.value is not None
        assert one.low < one.value < one.high


@pytest.mark.parametrize("mode", ["literal", "paper"])
def test_with_one_seed_there_is_no_interval(mode: Any) -> None:
    for one in score(everything((5,), numbers(1)), SIX, mode):
        assert (one.status, one.seeds) == ("ok", 1), one
        assert (one.low, one.high, one.std) == (None, None, None)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 1000), mode=st.sampled_from(["literal", "paper"]))
def test_order_and_duplicates_of_records_do_not_matter(seed: int, mode: Any) -> None:
    made = everything((0, 1), numbers(seed))
    generator = random.Random(seed)
    records = [*made.records, *generator.sample(list(made.records), 20)]
    generator.shuffle(records)
    records = [one.model_copy(update={"figures": tuple(reversed(one.figures))}) for one in records]
    before, after = score(made, SIX, mode), score(Results(plan=made.plan, records=records), SIX, mode)
    assert [(one.metric, one.algorithm) for one in before] == [(one.metric, one.algorithm) for one in after]
    for one, other in zip(before, after, strict=True):
        assert (one.status, one.note) == (other.status, other.note)
        assert (other.value, other.low, other.high) == pytest.approx((one.value, one.low, one.high), rel=1e-9)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), data=st.data())
def test_a_lost_record_never_changes_a_value_only_takes_it_away(seed: int, data: st.DataObject) -> None:
    made = everything((0, 1), numbers(seed))
    lost = data.draw(st.sampled_from(list(made.records)))
    before = score(made, SIX)
    changed = score(with_records(made, {lost.id: None}), SIX)
    after = {(one.track, one.metric, one.algorithm): one for one in changed}
    affected = 0
    for one in before:
        other = after[one.track, one.metric, one.algorithm]
        if other != one:
            affected += 1
            assert (other.status, other.value) == ("incomplete", None)
            assert other.missing == (lost.id,)
            assert one.algorithm == lost.run.algorithm or lost.run.algorithm == "fp32"
    assert affected


def test_a_track_without_another_reading_is_scored_as_written() -> None:
    made = everything((0,), numbers(2))
    assert score(made, [training_consumption], "paper") == score(made, [training_consumption])
    only = Track(name="t", title="T", description="", score=lambda results: [])
    assert score(made, [only], "paper") == []


def test_full_precision_is_no_competitor() -> None:
    assert {one.algorithm for one in score(everything((0,), numbers(3)), SIX)} == {"bnn", "fda"}
    assert algorithms_in([run_config("t", "a", name) for name in ("fp32", "fda", "bnn", "fda")]) == ["fda", "bnn"]


def test_an_empty_plan_has_no_scores() -> None:
    assert score(Results(plan=[], records=[]), SIX) == []


def test_grid_runs_are_not_compared_either() -> None:
    def predictions(_: str) -> Any:
        raise AssertionError("nobody asks for these")

    grid = [run_config("t", "a", name, main=False, setting="s") for name in ("fp32", "bnn", "fda")]
    results = Results(plan=grid, records=[ok_record(run, 80.0) for run in grid], predictions=predictions)
    assert comparisons(results) == []
    assert rows_in(grid) == {}
    assert Lookup(results).algorithms == []


def test_rows_are_in_the_plans_order_and_without_full_precision() -> None:
    places = [("t2", "a", "fp32"), ("t1", "b", "bnn"), ("t1", "a", "bnn"), ("t1", "b", "fda"), ("t3", "c", "fp32")]
    plan = [run_config(*place) for place in places]
    assert list(rows_in(plan)) == [("t1", "b"), ("t1", "a")]
    assert rows_in(plan)["t1", "b"].algorithm == "bnn"


def test_seeds_are_those_of_main_runs() -> None:
    plan = [run_config("t", "a", "bnn", seed) for seed in (3, 1)]
    plan += [run_config("t", "a", "bnn", 7, main=False), run_config("t", "a", "fda", 8)]
    assert Lookup(Results(plan=plan, records=[])).seeds("bnn") == [1, 3]


def test_a_pair_or_everything_that_it_lacks() -> None:
    own, full = run_config("t", "a", "bnn"), run_config("t", "a", "fp32")
    row = ("t", "a")

    def pair(*records: Record) -> object:
        return Lookup(Results(plan=[own, full], records=records)).pair(row, "bnn", 0)

    both = (ok_record(own, 60.0), ok_record(full, 80.0))
    assert pair(*both) == both
    assert pair() == [Lack(own.id), Lack(full.id)]
    assert pair(both[0]) == [Lack(full.id)]
    assert pair(both[1]) == [Lack(own.id)]
    assert pair(both[0], failed_record(full, "NaN")) == [Lack(f"{full.id}: NaN", "failed")]
    assert Lookup(Results(plan=[own], records=both)).pair(row, "bnn", 0) == [Lack("t-a-fp32-s0: not in this suite")]


def test_rows_drop_out_once_they_are_measured_and_have_nothing() -> None:
    runs = {name: [run_config("t", name, "bnn", seed) for seed in (0, 1)] for name in ("a", "b", "c", "d")}
    plan = [run for own in runs.values() for run in own]
    cost = figure("cost", 1.0, "s")
    records = [
        ok_record(runs["a"][0], 0.0, figures=(cost,), measured=("track",)),
        ok_record(runs["a"][1], 0.0, figures=(), measured=("track",)),  # one seed has it
        ok_record(runs["b"][0], 0.0, figures=(), measured=("track",)),
        ok_record(runs["b"][1], 0.0, figures=(), measured=("track",)),  # does not apply
        ok_record(runs["c"][0], 0.0, figures=(), measured=("track",)),
        ok_record(runs["c"][1], 0.0, figures=(), measured=("other",)),  # not measured yet
        ok_record(runs["d"][0], 0.0, figures=(), measured=("track",)),  # the other is missing
    ]
    found = Lookup(Results(plan=plan, records=records)).rows_measured("bnn", "cost", "track")
    assert found == [("t", "a"), ("t", "c"), ("t", "d")]


def test_why_a_figure_is_not_there() -> None:
    run = run_config("t", "a", "bnn")
    absent = Absence(name="cost", status="not_deployable", reason="no kernel")
    assert not_measured(ok_record(run, 1.0), "cost", "track") == Lack(run.id)
    done = ok_record(run, 1.0, measured=("track",), absences=(absent,))
    assert not_measured(done, "cost", "track") == Lack(f"{run.id}: no kernel", "not_deployable")
    assert not_measured(done, "size", "track") == Lack(f"{run.id}: its record has no figure 'size'", "failed")


def test_the_value_of_a_figure_that_a_track_measures() -> None:
    run = run_config("t", "a", "bnn")
    lookup = Lookup(Results(plan=[run], records=[]))
    made = ok_record(run, 0.0, figures=(figure("cost", 1.0, "s"), figure("cost", 2.0, "s", {"device": "pi"})))
    assert lookup.value(made, "cost", "track") == 1.0
    assert lookup.value(made, "cost", "track", device="pi") == 2.0
    assert lookup.value(made, "cost", "track", device="mac") == Lack(run.id)
    assert lookup.value(made, "size", "track") == Lack(run.id)


@given(st.lists(st.tuples(*[st.floats(-1e200, 1e200)] * 2)))
def test_ratios_are_those_of_each_pair(pairs: list[tuple[float, float]]) -> None:
    values, references = np.array(pairs).reshape(-1, 2).T
    found = [None if np.isnan(one) else one for one in ratios(values, references)]
    assert found == [ratio(*pair) for pair in pairs]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"name": "f1"}, r"figure 'accuracy'.*figure 'f1'"),
        ({"unit": "ratio"}, r"unit 'percent'.*unit 'ratio'"),
        ({"mode": "other"}, r"definition 'None'.*definition 'other'"),
    ],
)
def test_figures_that_cannot_be_compared(change: dict[str, str], what: str) -> None:
    own, full = ok_record(run_config("t", "a", "bnn"), 60.0), ok_record(run_config("t", "a", "fp32"), 80.0)
    check_comparable(own, own.figures[0], full, full.figures[0])
    with pytest.raises(ScoreError, match=what) as caught:
        check_comparable(own, own.figures[0], full, replace(full.figures[0], **change))
    assert own.id in str(caught.value)
    assert full.id in str(caught.value)
    assert "run one of them again" in str(caught.value)


@pytest.mark.parametrize("algorithm", ["bnn", "fda"])
@pytest.mark.parametrize(
    ("track", "mode", "name", "conditions", "units"),
    [
        (training_consumption, "literal", "time_cost", {}, ("percent", "ratio")),
        (theoretical_complexity, "literal", "speedup", {}, ("ratio", "percent")),
        (theoretical_complexity, "literal", "compression", {}, ("ratio", "percent")),
        (theoretical_complexity, "paper", "speedup", {"counting": "paper"}, ("ratio", "percent")),
        (hardware_inference, "literal", "storage_compression", {}, ("ratio", "bytes")),
    ],
)
def test_figures_of_two_units_are_not_averaged(
    algorithm: str, track: Track, mode: Any, name: str, conditions: dict[str, str], units: tuple[str, str]
) -> None:
    made = everything((0, 1), numbers(6))
    changed = next(
        one for one in made.records if (one.run.architecture, one.run.algorithm, one.run.seed) == ("vgg", algorithm, 1)
    )
    figures = [
        replace(one, unit=units[1]) if (one.name, one.conditions) == (name, conditions) else one
        for one in changed.figures
    ]
    assert changed.figures != tuple(figures)
    mixed = with_records(made, {changed.id: changed.model_copy(update={"figures": tuple(figures)})})
    with pytest.raises(ScoreError, match="cannot compare") as caught:
        score(mixed, [track], mode)
    text = str(caught.value)
    assert f"'{changed.id}' (unit of {name} '{units[1]}')" in text
    other = next(one for one in made.records if one.id != changed.id and one.id in text)
    assert f"'{other.id}' (unit of {name} '{units[0]}')" in text


def test_other_data_cannot_be_compared() -> None:
    own = ok_record(run_config("t", "a", "bnn"), 60.0, data="one")
    full = ok_record(run_config("t", "a", "fp32"), 80.0, data="two")
    with pytest.raises(ScoreError, match=r"data fingerprint 'one'.*data fingerprint 'two'"):
        check_comparable(own, own.figures[0], full, full.figures[0])


def test_ratios_that_would_overflow_are_none() -> None:
    assert ratio(-3.0, 4.0) == -0.75
    for value, reference in [(1.0, 0.0), (1.0, -1.0), (9e99, 1e-100), (-9e99, 1e-100), (0.0, 0.0), (9e99, 5e-324)]:
        assert ratio(value, reference) is None
    assert ratio(0.0, 1e-300) == 0.0


def test_by_seed_takes_the_mean_over_rows_or_all_lacks() -> None:
    table = {("a", 0): 1.0, ("b", 0): 3.0, ("a", 1): 5.0, ("b", 1): 9.0}
    assert by_seed([0, 1], ["a", "b"], lambda row, seed: table[row, seed]) == {0: 2.0, 1: 7.0}

    def lacking(row: str, seed: int) -> float | list[Lack]:
        return table[row, seed] if seed == 0 else [Lack(f"{row}{seed}")]

    assert by_seed([0, 1], ["a", "b"], lacking) == [Lack("a1"), Lack("b1")]


def test_overall_enters_a_negative_component_as_0() -> None:
    assert overall([{0: 3.0, 1: -4.0}, {0: 4.0, 1: 4.0}]) == {
        0: pytest.approx(math.sqrt(12.5)),
        1: pytest.approx(math.sqrt(8.0)),
    }
    assert overall([{0: 3.0}, [Lack("x")], [Lack("y")]]) == [Lack("x"), Lack("y")]
    assert overall([]) == []


def test_a_component_that_is_entered_as_0_is_named() -> None:
    parts = {"a": {0: 3.0, 1: 0.0}, "b": {0: -4.0, 1: 4.0, 2: -9.0}, "c": {0: -1.0, 1: -2.0}}
    assert entered_as_0(parts) == "b is negative for 1 of 2 seeds, entered as 0; c is negative, entered as 0"
    assert entered_as_0({"a": parts["a"]}) == entered_as_0({}) == ""
    assert entered_as_0({**parts, "d": [Lack("x")]}) == ""  # nothing is entered into what has no value


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        (["incomplete", "failed", "not_measured"], "failed"),
        (["incomplete", "not_deployable", "not_measured"], "not_deployable"),
        (["not_measured", "incomplete"], "incomplete"),
        (["not_measured"], "not_measured"),
        ([], "incomplete"),
    ],
)
def test_the_status_of_several_lacks(kinds: list[Any], expected: str) -> None:
    assert status_of([Lack("x", kind) for kind in kinds]) == expected


def test_a_score_says_each_lack_once_in_order() -> None:
    made = make_score(
        track="t",
        metric="m",
        algorithm="bnn",
        per_seed=[Lack("b"), Lack("a", "failed"), Lack("b")],
        note="n",
        unit="ratio",
    )
    assert made == Score(
        track="t", metric="m", algorithm="bnn", value=None, status="failed", unit="ratio", mode="literal",
        missing=("b", "a"), note="n",
    )  # fmt: skip
    nothing = make_score(track="t", metric="m", algorithm="bnn", per_seed={})
    assert (nothing.status, nothing.value) == ("incomplete", None)


def stored(tmp_path: Path, **changes: Any) -> Path:
    content = json.loads(ok_record(run_config("t", "a", "bnn"), 80.0).model_dump_json())
    path = tmp_path / "record.json"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e100, None, "high"])
def test_a_figure_that_is_no_number_is_refused_with_file_and_field(tmp_path: Path, value: Any) -> None:
    path = stored(tmp_path, figures=[{"name": "accuracy", "value": value, "unit": "percent"}])
    with pytest.raises(RecordError, match=r"field 'figures\.0\.value'") as caught:
        read_record(path)
    assert str(path) in str(caught.value)
    assert str(value) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"schema_version": 2}, "schema version 2, expected 1"),
        ({"absences": [{"name": "latency", "status": "broken", "reason": ""}]}, r"field 'absences\.0\.status'"),
        ({"measured": "training_consumption"}, "field 'measured'"),
        ({"figures": [{"name": "a", "value": 1, "unit": "s", "conditions": {"threads": 4}}]}, "conditions.threads"),
    ],
)
def test_records_of_another_form_are_refused(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(RecordError, match=text):
        read_record(stored(tmp_path, **changes))


@pytest.mark.parametrize("track", SIX[:3], ids=lambda track: track.name)
def test_other_data_than_the_partners_is_an_error_that_names_both(track: Track) -> None:
    made = everything((0,), numbers(4))
    changed = next(one for one in made.records if (one.run.architecture, one.run.algorithm) == ("vgg", "fda"))
    other = with_records(made, {changed.id: changed.model_copy(update={"data": "of another day"})})
    with pytest.raises(ScoreError, match="data fingerprint 'of another day'") as caught:
        track.score(other)
    assert changed.id in str(caught.value)


@pytest.mark.parametrize("track", SIX[:3], ids=lambda track: track.name)
def test_a_missing_partner_is_named(track: Track) -> None:
    made = everything((0,), numbers(4))
    partner = next(one for one in made.records if (one.run.architecture, one.run.algorithm) == ("vgg", "fp32"))
    plan = [run for run in made.plan if run.id != partner.id]
    for one in track.score(Results(plan=plan, records=made.records)):
        if one.value is None:
            assert one.status == "incomplete"
            assert one.missing == ("cifar10-vgg-fp32-s0: not in this suite",)
        else:
            assert one.metric in {"glue", "kws", "transformers", "mlps"}
