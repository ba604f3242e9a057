"""Equations 4, 5 and 31, by hand and against a computation with numpy."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import by_metric, failed_record, figure, measured_record, ok_record, run_config, with_records

from bibench.records import Figure, Record, Results, Score
from bibench.tracks import ScoreError, score
from bibench.tracks.corruption_robustness import CorruptionType, corruption_robustness, corruption_types

TRACK = "corruption_robustness"

Cells = Mapping[tuple[str, int], float]
"""Accuracy by corruption and severity."""


def corrupted(cells: Cells, unit: str = "percent", mode: str = "generated", **more: object) -> list[Figure]:
    return [
        figure("accuracy", value, unit, {"corruption": name, "severity": severity}, mode=mode, **more)
        for (name, severity), value in cells.items()
    ]


def record(place: tuple[str, str, str, int], clean: float, cells: Cells, **changes: object) -> Record:
    return measured_record(run_config(*place), clean, TRACK, *corrupted(cells), **changes)


def made(scores: Mapping[tuple[str, str, str, int], tuple[float, Cells]]) -> Results:
    """By (task, architecture, algorithm, seed): the clean accuracy and the corrupted ones."""
    records = [record(place, *both) for place, both in scores.items()]
    return Results(plan=[one.run for one in records], records=records)


#                                    clean    fog 1             fog 5             snow 1             snow 5
BY_HAND = {
    ("img", "a", "fp32", 0): (90.0, {("fog", 1): 80.0, ("fog", 5): 60.0, ("snow", 1): 85.0, ("snow", 5): 50.0}),
    ("img", "a", "bnn", 0): (80.0, {("fog", 1): 60.0, ("fog", 5): 50.0, ("snow", 1): 70.0, ("snow", 5): 60.0}),
    ("img", "b", "fp32", 0): (80.0, {("fog", 1): 70.0, ("fog", 5): 60.0, ("snow", 1): 65.0, ("snow", 5): 50.0}),
    ("img", "b", "bnn", 0): (70.0, {("fog", 1): 62.0, ("fog", 5): 54.0, ("snow", 1): 40.0, ("snow", 5): 20.0}),
}
# gaps, full precision: a 10, 30, 5, 40; b 10, 20, 15, 30. Binarized: a 20, 30, 10, 20; b 8, 16, 30, 50.
# their ratios in percent: a 50, 100, 50, 200; b 125, 125, 50, 60


def test_equation_5_by_hand() -> None:
    found = by_metric(corruption_robustness.score(made(BY_HAND)))
    assert list(found) == ["img_c", "gap_ratio", "mean_gap", "mce", "relative_mce", "om_robust"]
    # fog (50 + 100 + 125 + 125)/4 = 100, snow (50 + 200 + 50 + 60)/4 = 90; sqrt((10000 + 8100)/2) = 95.13149
    assert found["om_robust"].value == pytest.approx(95.13149, abs=1e-5)
    assert found["img_c"].value == pytest.approx(95.13149, abs=1e-5)
    assert found["om_robust"] == Score(
        track=TRACK, metric="om_robust", algorithm="bnn", value=found["om_robust"].value, mode="literal", seeds=1
    )


def test_the_paper_takes_the_plain_mean_over_all_cells() -> None:
    found = by_metric(score(made(BY_HAND), [corruption_robustness], "paper"))
    # (50 + 100 + 50 + 200 + 125 + 125 + 50 + 60)/8 = 95
    assert found["om_robust"].value == found["img_c"].value == pytest.approx(95.0)
    assert {one.mode for one in found.values()} == {"paper"}


def test_companions_by_hand() -> None:
    found = by_metric(corruption_robustness.score(made(BY_HAND)))
    assert found["gap_ratio"].value == pytest.approx(100 * 160 / 184)  # the sums of both rows of gaps
    assert found["gap_ratio"].unit == "percent"
    assert (found["mean_gap"].value, found["mean_gap"].unit) == (pytest.approx(23.0), "points")  # 184/8
    # errors summed over severities, binarized over full precision:
    # a: fog (40 + 50)/(20 + 40) = 1.5, snow (30 + 40)/(15 + 50) = 1.076923
    # b: fog (38 + 46)/(30 + 40) = 1.2, snow (60 + 80)/(35 + 50) = 1.647059; mean 1.355995
    assert found["mce"].value == pytest.approx(135.5995, abs=1e-4)
    # gaps: a fog (20 + 30)/(10 + 30) = 1.25, snow (10 + 20)/(5 + 40) = 0.666667
    # b: fog (8 + 16)/(10 + 20) = 0.8, snow (30 + 50)/(15 + 30) = 1.777778; mean 1.123611
    assert found["relative_mce"].value == pytest.approx(112.3611, abs=1e-4)
    assert (found["mce"].unit, found["relative_mce"].unit) == ("percent", "percent")


def test_each_corruption_type_by_hand() -> None:
    found = corruption_types(made(BY_HAND))
    assert list(found) == [("img", name, algorithm) for algorithm in ("fp32", "bnn") for name in ("a", "b")]
    own = found["img", "a", "bnn"][0]
    assert list(own) == ["fog", "snow"]
    # mean gaps 20, 30 and 10, 20; errors and gaps over full precision's as in the companions
    assert (own["fog"].gap, own["snow"].gap) == (pytest.approx(25.0), pytest.approx(15.0))
    assert (own["fog"].error, own["snow"].error) == (pytest.approx(150.0), pytest.approx(100 * 70 / 65))
    assert (own["fog"].relative_error, own["snow"].relative_error) == (pytest.approx(125.0), pytest.approx(200 / 3))
    full = found["img", "b", "fp32"][0]
    assert full["snow"] == CorruptionType(gap=22.5, error=pytest.approx(100.0), relative_error=pytest.approx(100.0))


@settings(deadline=None, max_examples=20)
@given(values=st.lists(st.floats(5.0, 80.0), min_size=8, max_size=8))
def test_the_means_of_corruption_types_are_the_scores(values: list[float]) -> None:
    keys = [("fog", 1), ("fog", 5), ("snow", 1), ("snow", 5)]
    scores = {
        ("img", "a", "fp32", 0): (90.0, dict(zip(keys, values[:4], strict=True))),
        ("img", "a", "bnn", 0): (85.0, dict(zip(keys, values[4:], strict=True))),
    }
    own = corruption_types(made(scores))["img", "a", "bnn"][0].values()
    found = by_metric(corruption_robustness.score(made(scores)))
    assert np.mean([one.gap for one in own]) == pytest.approx(found["mean_gap"].value)
    assert np.mean([one.error for one in own]) == pytest.approx(found["mce"].value)
    assert np.mean([one.relative_error for one in own]) == pytest.approx(found["relative_mce"].value)


def test_types_of_runs_that_lack_something_are_left_out() -> None:
    found = corruption_types(with_records(made(TWO_SEEDS), {run_config("img", "a", "fp32", 1).id: None}))
    assert {place: list(own) for place, own in found.items()} == {
        ("img", "a", "fp32"): [0], ("img", "b", "fp32"): [0, 1], ("img", "a", "bnn"): [0], ("img", "b", "bnn"): [0, 1],
    }  # fmt: skip
    text = [measured_record(run_config("text", "bert", name), 80.0, TRACK) for name in ("fp32", "bnn")]
    assert corruption_types(Results(plan=[one.run for one in text], records=text)) == {}
    scores = {
        ("img", "a", "fp32", 0): (90.0, {("fog", 1): 100.0}),
        ("img", "a", "bnn", 0): (80.0, {("fog", 1): 70.0}),
    }
    fog = corruption_types(made(scores))["img", "a", "bnn"][0]["fog"]
    assert fog == CorruptionType(gap=10.0, error=None, relative_error=None)


def test_a_network_that_loses_less_scores_above_100() -> None:
    scores = {
        ("img", "a", "fp32", 0): (90.0, {("fog", 1): 70.0}),
        ("img", "a", "bnn", 0): (60.0, {("fog", 1): 50.0}),
    }
    assert by_metric(corruption_robustness.score(made(scores)))["om_robust"].value == pytest.approx(200.0)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("img", "a", "bnn", 0), 80.0),  # as good as clean
        (("img", "a", "bnn", 0), 81.0),  # better than clean
        (("img", "a", "fp32", 0), 90.0),
        (("img", "a", "fp32", 0), 90.5),
    ],
)
def test_a_gap_of_zero_or_below_is_left_out_and_counted(place: tuple[str, str, str, int], value: float) -> None:
    clean, cells = BY_HAND[place]
    results = made({**BY_HAND, place: (clean, {**cells, ("fog", 1): value})})
    literal = by_metric(corruption_robustness.score(results))
    # fog without its first cell (100 + 125 + 125)/3 = 116.6667; sqrt((13611.11 + 8100)/2) = 104.19
    for metric in ("om_robust", "img_c"):
        assert literal[metric].value == pytest.approx(104.1900, abs=1e-4)
        assert literal[metric].note == "1 of 8 cells left out: a gap of 0 or below"
    paper = by_metric(score(results, [corruption_robustness], "paper"))["om_robust"]
    assert paper.value == pytest.approx(710 / 7)
    assert paper.note.startswith("1 of 8 cells")
    for metric in ("gap_ratio", "mean_gap", "mce", "relative_mce"):  # these leave out nothing
        assert literal[metric].note == ""
    gap = {"bnn": 184 - 20 + 80 - value, "fp32": 184}[place[2]]
    assert literal["mean_gap"].value == pytest.approx(gap / 8)


def test_a_corruption_without_usable_cells_is_no_component() -> None:
    scores = {
        ("img", "a", "fp32", 0): (90.0, {("fog", 1): 80.0, ("snow", 1): 80.0}),
        ("img", "a", "bnn", 0): (80.0, {("fog", 1): 60.0, ("snow", 1): 80.0}),
    }
    found = by_metric(corruption_robustness.score(made(scores)))["om_robust"]
    assert found.value == pytest.approx(50.0)  # as a 0 it would be 35
    assert found.note.startswith("1 of 2")


def test_without_any_gap_a_score_fails_and_says_why() -> None:
    scores = {
        ("img", "a", "fp32", 0): (90.0, {("fog", 1): 80.0}),
        ("img", "a", "bnn", 0): (10.0, {("fog", 1): 10.0}),
    }
    found = by_metric(corruption_robustness.score(made(scores)))
    for metric in ("om_robust", "img_c"):
        assert (found[metric].status, found[metric].value) == ("failed", None)
        assert found[metric].missing == ("seed 0: no corrupted set has a gap above 0 in both networks",)
    assert found["gap_ratio"].status == "failed"
    assert found["mean_gap"].value == 0.0
    assert found["relative_mce"].value == 0.0


NONE = "the reference, full precision, has none of these errors under any corruption"


@pytest.mark.parametrize("gap", [0.0, -5.0])
def test_no_mean_gap_is_divided_by_unless_above_zero(gap: float) -> None:
    for changed in ("fp32", "bnn"):
        scores = {("img", "a", name, 0): (90.0, {("fog", 1): 80.0, ("fog", 2): 70.0}) for name in ("fp32", "bnn")}
        scores["img", "a", changed, 0] = (90.0, {("fog", 1): 80.0, ("fog", 2): 100.0 - gap * 2})
        found = by_metric(corruption_robustness.score(made(scores)))
        assert (found["gap_ratio"].status, found["gap_ratio"].value) == ("failed", None)
        assert "mean gap is 0 or below" in found["gap_ratio"].missing[0]
        assert found["om_robust"].value == pytest.approx(100.0)  # of the one usable cell
        relative = found["relative_mce"]
        if changed == "fp32":
            assert relative.status == "failed"
            assert relative.missing == (f"seed 0: {NONE}",)
        else:
            assert relative.value == pytest.approx(100 * 2 * gap / 30)


def test_types_under_which_the_reference_has_no_errors_are_left_out_and_counted() -> None:
    scores = {
        ("img", "a", "fp32", 0): (90.0, {("fog", 1): 100.0, ("snow", 1): 80.0}),
        ("img", "a", "bnn", 0): (80.0, {("fog", 1): 70.0, ("snow", 1): 60.0}),
    }
    found = by_metric(corruption_robustness.score(made(scores)))
    assert found["mce"].value == pytest.approx(200.0)  # snow alone: 40/20
    assert found["relative_mce"].value == pytest.approx(200.0)  # 20/10
    why = "left out: the reference, full precision, has none of these errors there"
    assert [found[name].note for name in ("mce", "relative_mce")] == [f"1 of 2 corruption types {why}"] * 2


def test_types_that_a_seed_does_not_have_are_not_counted() -> None:
    cells = {("fog", 1): 100.0, ("snow", 1): 80.0}
    scores = {
        ("img", architecture, algorithm, seed): (90.0, cells)
        for architecture in ("a", "b")
        for algorithm in ("fp32", "bnn")
        for seed in (0, 1)
    }
    results = with_records(made(scores), {run_config("img", "b", "bnn", 1).id: None})
    found = by_metric(corruption_robustness.score(results))
    assert found["mce"].status == "incomplete"
    assert found["mce"].note.startswith("3 of 6 corruption types left out")  # the fog of three runs


def test_a_reference_without_errors_has_no_corruption_error() -> None:
    scores = {
        ("img", "a", "fp32", 0): (100.0, {("fog", 1): 100.0}),
        ("img", "a", "bnn", 0): (90.0, {("fog", 1): 80.0}),
    }
    found = by_metric(corruption_robustness.score(made(scores)))["mce"]
    assert (found.status, found.missing) == ("failed", (f"seed 0: {NONE}",))


TWO_SEEDS = {
    (task, architecture, algorithm, seed): (
        clean + seed,
        {key: value - (5.0 * seed if algorithm == "bnn" else 0) for key, value in cells.items()},
    )
    for (task, architecture, algorithm, _), (clean, cells) in BY_HAND.items()
    for seed in (0, 1)
}


def test_each_seed_has_its_partner_and_there_is_an_interval_over_seeds() -> None:
    found = corruption_robustness.score(made(TWO_SEEDS))
    singles = []
    for seed in (0, 1):
        own = {place: both for place, both in TWO_SEEDS.items() if place[3] == seed}
        singles.append(by_metric(corruption_robustness.score(made(own))))
    for one in found:
        first, second = (single[one.metric].value for single in singles)
        assert first is not None
        assert second is not None
        assert first != second
        assert one.seeds == 2
        assert one.value == pytest.approx((first + second) / 2)
        half = 12.7062047 * abs(first - second) / 2  # t_{1, 0.975} · |x - y|/sqrt(2)/sqrt(2)
        assert one.low == pytest.approx((first + second) / 2 - half)
        assert one.high == pytest.approx((first + second) / 2 + half)
    assert all(one.low is None and one.std is None for single in singles for one in single.values())


def test_tasks_without_images_are_left_out() -> None:
    text = [measured_record(run_config("text", "bert", name), 80.0, TRACK) for name in ("fp32", "bnn")]
    images = made(BY_HAND)
    both = Results(plan=[*(one.run for one in text), *images.plan], records=[*text, *images.records])
    assert corruption_robustness.score(both) == corruption_robustness.score(images)
    found = by_metric(corruption_robustness.score(Results(plan=[one.run for one in text], records=text)))
    assert "text_c" not in found
    assert (found["om_robust"].status, found["om_robust"].missing) == (
        "incomplete",
        ("no task with corrupted images in this suite",),
    )


def test_networks_of_a_task_that_were_measured_without_corruptions_are_left_out() -> None:
    plain = [measured_record(run_config("img", "c", name), 80.0, TRACK) for name in ("fp32", "bnn")]
    images = made(BY_HAND)
    both = Results(plan=[*(one.run for one in plain), *images.plan], records=[*plain, *images.records])
    for mode in ("literal", "paper"):
        assert score(both, [corruption_robustness], mode) == score(images, [corruption_robustness], mode)  # type: ignore[arg-type]


@pytest.mark.parametrize("lack", ["missing", "failed"])
def test_a_run_that_lacks_on_a_task_without_images_does_not_matter(lack: str) -> None:
    text = [measured_record(run_config("text", "bert", name), 80.0, TRACK) for name in ("fp32", "bnn")]
    images = made(BY_HAND)
    both = Results(plan=[*(one.run for one in text), *images.plan], records=[*text, *images.records])
    changed = failed_record(text[1].run, "NaN") if lack == "failed" else None
    found = corruption_robustness.score(with_records(both, {text[1].id: changed}))
    assert found == corruption_robustness.score(images)


def test_two_tasks_have_a_score_each_and_one_overall() -> None:
    other = {("other", *place[1:]): both for place, both in BY_HAND.items() if place[1] == "b"}
    scores = {**BY_HAND, **other}
    place = ("other", "b", "bnn", 0)
    scores[place] = (70.0, {**BY_HAND["img", "b", "bnn", 0][1], ("fog", 1): 70.0})
    found = by_metric(corruption_robustness.score(made(scores)))
    assert list(found)[:2] == ["img_c", "other_c"]
    assert found["img_c"].value == pytest.approx(95.13149, abs=1e-5)
    # fog 125 (its first cell is left out), snow (50 + 60)/2 = 55: sqrt((15625 + 3025)/2) = 96.5660
    assert found["other_c"].value == pytest.approx(96.56604, abs=1e-5)
    # four components: sqrt((10000 + 8100 + 15625 + 3025)/4) = 95.8514
    assert found["om_robust"].value == pytest.approx(95.85145, abs=1e-5)
    assert found["img_c"].note == ""
    assert found["other_c"].note.startswith("1 of 4 cells")
    assert found["om_robust"].note.startswith("1 of 12 cells")


def test_a_task_that_lacks_a_run_does_not_take_the_other_with_it() -> None:
    other = {("other", *place[1:]): both for place, both in BY_HAND.items()}
    lacking = run_config("other", "a", "bnn")
    found = by_metric(
        corruption_robustness.score(with_records(made({**BY_HAND, **other}), {lacking.id: None})),
    )
    assert found["img_c"].status == "ok"
    for metric in ("other_c", "om_robust", "gap_ratio", "mean_gap", "mce", "relative_mce"):
        assert (found[metric].status, found[metric].value) == ("incomplete", None)
        assert found[metric].missing == (lacking.id,)


@pytest.mark.parametrize("algorithm", ["fp32", "bnn"])
def test_missing_and_failed_runs_are_named(algorithm: str) -> None:
    run = run_config("img", "a", algorithm)
    for changed, status, text in [
        (None, "incomplete", run.id),
        (failed_record(run, "diverged"), "failed", f"{run.id}: diverged"),
    ]:
        for one in corruption_robustness.score(with_records(made(BY_HAND), {run.id: changed})):
            assert (one.status, one.value, one.missing) == (status, None, (text,))


@pytest.mark.parametrize("algorithms", [("fp32",), ("bnn",), ("bnn", "fp32")])
def test_a_finished_run_that_was_not_measured_is_named_since_it_can_be(algorithms: tuple[str, ...]) -> None:
    runs = [run_config("img", "a", name) for name in algorithms]
    results = with_records(made(BY_HAND), {run.id: ok_record(run, 80.0) for run in runs})
    found = by_metric(corruption_robustness.score(results))["om_robust"]
    assert (found.status, set(found.missing)) == ("incomplete", {run.id for run in runs})


def test_nothing_finished_yet_names_every_run() -> None:
    results = Results(plan=made(BY_HAND).plan, records=[])
    found = by_metric(corruption_robustness.score(results))["om_robust"]
    assert found.status == "incomplete"
    assert set(found.missing) == {run.id for run in results.plan}


def test_measured_and_yet_without_corrupted_scores_is_a_failure() -> None:
    run = run_config("img", "a", "bnn")
    results = with_records(made(BY_HAND), {run.id: measured_record(run, 80.0, TRACK)})
    found = by_metric(corruption_robustness.score(results))["om_robust"]
    assert found.status == "failed"
    assert found.missing == (f"{run.id}: its record has no figure 'corrupted scores'",)


def test_a_record_without_its_clean_score_is_a_failure() -> None:
    place = ("img", "a", "bnn", 0)
    run = run_config(*place)
    without = ok_record(run, 0.0, figures=tuple(corrupted(BY_HAND[place][1])), measured=(TRACK,))
    found = by_metric(corruption_robustness.score(with_records(made(BY_HAND), {run.id: without})))["om_robust"]
    assert (found.status, found.missing) == ("failed", (f"{run.id}: its record has no figure 'accuracy'",))


@pytest.mark.parametrize("place", [("img", "a", "bnn", 0), ("img", "b", "fp32", 0)])
@pytest.mark.parametrize("change", ["severity", "corruption"])
def test_runs_measured_under_other_corruptions_are_an_error(place: tuple[str, str, str, int], change: str) -> None:
    clean, cells = BY_HAND[place]
    other = dict(cells)
    other[("fog", 3) if change == "severity" else ("frost", 1)] = other.pop(("fog", 1))
    results = made({**BY_HAND, place: (clean, other)})
    with pytest.raises(ScoreError, match="different corruptions or severities") as caught:
        corruption_robustness.score(results)
    assert run_config(*place).id in str(caught.value)
    assert "fog 1" in str(caught.value)
    assert ("fog 3" if change == "severity" else "frost 1") in str(caught.value)


def test_all_networks_of_a_task_are_measured_under_the_same_corruptions() -> None:
    scores = {
        place: (clean, {key: value for key, value in cells.items() if place[1] == "a" or key[1] == 1})
        for place, (clean, cells) in BY_HAND.items()
    }
    with pytest.raises(ScoreError, match="different corruptions or severities"):
        corruption_robustness.score(made(scores))


@pytest.mark.parametrize("both", [True, False])
def test_generated_corruptions_and_original_files_are_not_mixed(both: bool) -> None:
    places = [("img", "a", "bnn", 0), *([("img", "a", "fp32", 0)] if both else [])]
    records = {
        run_config(*place).id: measured_record(
            run_config(*place), BY_HAND[place][0], TRACK, *corrupted(BY_HAND[place][1], mode="original files")
        )
        for place in places
    }
    with pytest.raises(ScoreError, match="cannot compare") as caught:
        corruption_robustness.score(with_records(made(BY_HAND), records))
    for word in ("'original files'", "'generated'", "definition"):
        assert word in str(caught.value)


def test_mixed_units_and_other_data_are_errors() -> None:
    place = ("img", "a", "bnn", 0)
    clean, cells = BY_HAND[place]
    run = run_config(*place)
    ratios = measured_record(run, clean, TRACK, *corrupted(cells, unit="ratio"))
    clean_ratio = Figure(name="accuracy", value=0.8, unit="ratio", higher_is_better=True)
    for changed in (
        ratios,
        ok_record(run, 0.0, figures=(clean_ratio, *corrupted(cells)), measured=(TRACK,)),
        record(place, clean, cells, data="other"),
    ):
        with pytest.raises(ScoreError, match="cannot compare") as caught:
            corruption_robustness.score(with_records(made(BY_HAND), {run.id: changed}))
        assert run.id in str(caught.value)
        assert run_config("img", "a", "fp32").id in str(caught.value)


@pytest.mark.parametrize(
    ("clean_unit", "unit", "better", "text"),
    [
        ("ratio", "ratio", True, "errors need a score in percent, not in ratio"),
        ("ratio", "percent", True, "errors need a score in percent, not in ratio"),
        ("percent", "percent", False, "'accuracy' is better when lower"),
    ],
)
def test_a_metric_without_gaps_fails_and_says_so(clean_unit: str, unit: str, better: bool, text: str) -> None:
    records = []
    for place, (clean, cells) in BY_HAND.items():
        whole = Figure(name="accuracy", value=clean, unit=clean_unit, higher_is_better=better)
        figures = (whole, *corrupted(cells, unit, higher_is_better=better))
        records.append(ok_record(run_config(*place), 0.0, figures=figures, measured=(TRACK,)))
    found = by_metric(corruption_robustness.score(Results(plan=[one.run for one in records], records=records)))
    assert found["om_robust"].status == "failed"
    assert run_config("img", "a", "bnn").id in found["om_robust"].missing[0]
    assert text in found["om_robust"].missing[0]


def test_scores_never_overflow() -> None:
    for full, own in [
        ((9e99, 0.0), (1e-300, 0.0)),
        ((1e-300, 0.0), (9e99, 0.0)),
        ((90.0, -9e99), (90.0, 90.0 - 1e-13)),
    ]:
        for seeds in (1, 2):
            scores = {
                ("img", "a", name, seed): (clean, {("fog", 1): cell})
                for name, (clean, cell) in (("fp32", full), ("bnn", own))
                for seed in range(seeds)
            }
            for mode in ("literal", "paper"):
                for one in score(made(scores), [corruption_robustness], mode):  # type: ignore[arg-type]
                    assert one.status in ("ok", "failed")
                    assert all(value is None or np.isfinite(value) for value in (one.value, one.low, one.std))


@st.composite
def accuracies(draw: st.DrawFn) -> dict[tuple[str, str, str, int], tuple[float, dict[tuple[str, int], float]]]:
    number = st.floats(0.0, 100.0).map(lambda value: round(value, 2))
    return {
        ("img", architecture, algorithm, 0): (
            draw(number),
            {(name, severity): draw(number) for name in ("fog", "snow", "blur") for severity in (1, 3)},
        )
        for architecture in ("a", "b")
        for algorithm in ("fp32", "bnn")
    }


@settings(deadline=None, max_examples=50)
@given(scores=accuracies())
def test_against_numpy(scores: dict[tuple[str, str, str, int], tuple[float, dict[tuple[str, int], float]]]) -> None:
    gaps = {
        name: np.array(
            [
                [[scores["img", a, name, 0][0] - scores["img", a, name, 0][1][c, s] for s in (1, 3)] for a in "ab"]
                for c in ("fog", "snow", "blur")
            ]
        )
        for name in ("fp32", "bnn")
    }  # corruption, architecture, severity
    usable = (gaps["fp32"] > 0) & (gaps["bnn"] > 0)
    literal = by_metric(corruption_robustness.score(made(scores)))
    paper = by_metric(score(made(scores), [corruption_robustness], "paper"))
    if not usable.any():
        assert literal["om_robust"].status == paper["om_robust"].status == "failed"
        return
    ratios = np.where(usable, 100 * gaps["fp32"] / np.where(usable, gaps["bnn"], 1), np.nan)
    means = np.array([np.nanmean(own) for own in ratios if not np.isnan(own).all()])
    assert literal["om_robust"].value == pytest.approx(np.sqrt((means**2).mean()), rel=1e-9)
    assert paper["om_robust"].value == pytest.approx(np.nanmean(ratios), rel=1e-9)
    assert literal["mean_gap"].value == pytest.approx(gaps["bnn"].mean(), abs=1e-9)
    left = int((~usable).sum())
    assert literal["om_robust"].note == (f"{left} of 12 cells left out: a gap of 0 or below" if left else "")
