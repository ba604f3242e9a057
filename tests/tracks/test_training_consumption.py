"""Equation 6, by hand and against numpy."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_records import by_metric, failed_record, figure, measured_record, ok_record, run_config, with_records

from bibench.records import Figure, Record, Results, RunConfig
from bibench.tracks import ScoreError, score
from bibench.tracks.hardware_inference import hardware_inference
from bibench.tracks.learning_task import learning_task
from bibench.tracks.neural_architecture import neural_architecture
from bibench.tracks.statistics import jackknife_interval, mean_interval, quadratic_mean
from bibench.tracks.theoretical_complexity import theoretical_complexity
from bibench.tracks.training_consumption import settings_in, training_consumption

TRACK = "training_consumption"
T_1 = 12.7062047  # the 97.5 % quantile of Student's t with one degree of freedom

Trials = Mapping[tuple[str, str, int], float]
"""By (algorithm, setting, seed): the accuracy."""


def trial(algorithm: str, setting: str, seed: int, architecture: str = "mlp", **changes: object) -> RunConfig:
    # the options stand for the recipe, by which a real grid's runs differ
    fields = {"setting": setting, "main": False, "options": {"setting": setting}, **changes}
    return run_config("t", architecture, algorithm, seed, **fields)


def grid(trials: Trials, architecture: str = "mlp") -> list[Record]:
    return [ok_record(trial(*place, architecture), value) for place, value in trials.items()]


def timed(times: Mapping[tuple[str, str, int], float]) -> list[Record]:
    """Main runs of a binarized network and of its partner; by (architecture, algorithm, seed) the time cost."""
    found = []
    for (architecture, algorithm, seed), value in times.items():
        cost = figure("time_cost", value, "percent")
        found.append(measured_record(run_config("t", architecture, algorithm, seed), 80.0, TRACK, cost))
    for architecture, seed in dict.fromkeys((architecture, seed) for architecture, _, seed in times):
        found.append(measured_record(run_config("t", architecture, "fp32", seed), 90.0, TRACK))
    return found


def made(*groups: Sequence[Record]) -> Results:
    records = [record for group in groups for record in group]
    return Results(plan=[record.run for record in records], records=records)


GRID: Trials = {
    ("fp32", "sgd", 0): 90.0, ("fp32", "sgd", 1): 92.0,
    ("fp32", "adam", 0): 94.0, ("fp32", "adam", 1): 96.0,  # mean 93, squares 9 + 1 + 1 + 9 = 20
    ("bnn", "sgd", 0): 80.0, ("bnn", "sgd", 1): 88.0,
    ("bnn", "adam", 0): 92.0, ("bnn", "adam", 1): 84.0,  # mean 86, squares 36 + 4 + 36 + 4 = 80; sqrt(20/80) = 50 %
}  # fmt: skip
TIMES = {("mlp", "bnn", 0): 80.0, ("cnn", "bnn", 0): 60.0, ("mlp", "bnn", 1): 90.0, ("cnn", "bnn", 1): 70.0}


def test_equation_6_by_hand() -> None:
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(GRID))))
    assert list(found) == ["sensitivity", "time_cost", "om_train"]
    assert {(one.track, one.unit, one.status, one.seeds) for one in found.values()} == {(TRACK, "percent", "ok", 2)}
    assert found["sensitivity"].value == pytest.approx(50.0)  # by setting it would be 1.41/5.66 = 25 %
    # seed 0 (80 + 60)/2 = 70, seed 1 80; mean 75
    assert found["time_cost"].value == pytest.approx(75.0)
    # sqrt((50^2 + 75^2)/2) = sqrt(4062.5)
    assert found["om_train"].value == pytest.approx(63.73774, abs=1e-5)


def test_intervals_by_hand() -> None:
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(GRID))))
    sensitivity = found["sensitivity"]
    # without seed 0: std(92, 96)/std(88, 84) = 100 %; without seed 1: std(90, 94)/std(80, 92) = 33.3333 %
    # se = sqrt(1/2 · 2 · 33.3333^2) = 33.3333
    assert sensitivity.low == pytest.approx(50 - T_1 * 100 / 3)
    assert sensitivity.high == pytest.approx(50 + T_1 * 100 / 3)
    time_cost = found["time_cost"]
    assert time_cost.std == pytest.approx(math.sqrt(50.0))
    assert (time_cost.low, time_cost.high) == (pytest.approx(75 - T_1 * 5), pytest.approx(75 + T_1 * 5))
    # without seed 0: sqrt((100^2 + 80^2)/2) = 90.5539; without seed 1: sqrt((33.3333^2 + 70^2)/2) = 54.8229
    half = T_1 * (math.sqrt(8200) - math.sqrt((10000 / 9 + 4900) / 2)) / 2
    overall = found["om_train"]
    assert (overall.low, overall.high) == (
        pytest.approx(63.7377439 - half, abs=1e-4),
        pytest.approx(63.7377439 + half, abs=1e-4),
    )


def test_the_jackknife_of_a_mean_is_the_t_interval() -> None:
    values = [50.0, 61.0, 58.5, 70.0]
    left_out = [(sum(values) - value) / 3 for value in values]
    expected = mean_interval(values)
    assert jackknife_interval(expected.mean, left_out) == pytest.approx((expected.low, expected.high))
    low, high = jackknife_interval(expected.mean, left_out, level=0.5)
    narrow = mean_interval(values, 0.5)
    assert (low, high) == pytest.approx((narrow.low, narrow.high))
    with pytest.raises(ValueError, match="at least two units"):
        jackknife_interval(1.0, [1.0])


@settings(deadline=None)
@given(
    numbers=st.lists(st.floats(1.0, 99.0).map(lambda value: round(value, 1)), min_size=24, max_size=24),
    costs=st.lists(st.floats(10.0, 200.0), min_size=4, max_size=4),
)
def test_against_numpy(numbers: list[float], costs: list[float]) -> None:
    places = [(name, setting, seed) for name in ("fp32", "bnn") for setting in ("x", "y", "z") for seed in range(4)]
    values = np.array(numbers).reshape(2, 3, 4)
    if np.ptp(values[:, :, 1:]) == 0 or any(
        np.ptp(np.delete(own, seed, axis=1)) < 0.05 for own in values for seed in range(4)
    ):
        return  # tested by hand
    times = {("cnn", "bnn", seed): cost for seed, cost in enumerate(costs)}
    found = by_metric(training_consumption.score(made(timed(times), grid(dict(zip(places, numbers, strict=True))))))

    def ratio(chosen: np.ndarray) -> float:
        return float(100 * chosen[0].std() / chosen[1].std())

    left_out = [ratio(np.delete(values, seed, axis=2)) for seed in range(4)]
    kept = [float(np.delete(costs, seed).mean()) for seed in range(4)]
    assert found["sensitivity"].value == pytest.approx(ratio(values), rel=1e-6)
    assert (found["sensitivity"].low, found["sensitivity"].high) == pytest.approx(
        jackknife_interval(ratio(values), left_out), rel=1e-6, abs=1e-6
    )
    whole = quadratic_mean([ratio(values), float(np.mean(costs))])
    overall = [quadratic_mean([one, cost]) for one, cost in zip(left_out, kept, strict=True)]
    assert found["om_train"].value == pytest.approx(whole, rel=1e-6)
    assert (found["om_train"].low, found["om_train"].high) == pytest.approx(
        jackknife_interval(whole, overall), rel=1e-6, abs=1e-6
    )


def test_one_seed_has_no_interval() -> None:
    trials = {place: value for place, value in GRID.items() if place[2] == 0}
    times = {place: value for place, value in TIMES.items() if place[2] == 0}
    found = by_metric(training_consumption.score(made(timed(times), grid(trials))))
    assert found["sensitivity"].value == pytest.approx(100 / 3)
    for one in found.values():
        assert (one.low, one.high, one.std, one.seeds, one.status) == (None, None, None, 1, "ok")


def test_the_overall_interval_is_over_the_seeds_of_both() -> None:
    one_seed = {place: value for place, value in TIMES.items() if place[2] == 0}
    found = by_metric(training_consumption.score(made(timed(one_seed), grid(GRID))))
    assert found["sensitivity"].low is not None
    assert (found["om_train"].low, found["om_train"].seeds) == (None, 1)
    assert found["om_train"].value == pytest.approx(math.sqrt((2500 + 4900) / 2))


def test_where_leaving_out_a_seed_leaves_no_spread_there_is_no_interval() -> None:
    trials = {**GRID, ("bnn", "adam", 0): 80.0}  # seed 0 alone: 80 twice
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(trials))))
    for metric in ("sensitivity", "om_train"):
        assert found[metric].status == "ok"
        assert (found[metric].low, found[metric].high) == (None, None)


def test_two_networks_count_alike() -> None:
    other = {
        **GRID,
        ("bnn", "sgd", 0): 90.0,
        ("bnn", "sgd", 1): 92.0,
        ("bnn", "adam", 0): 94.0,
        ("bnn", "adam", 1): 96.0,
    }
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(GRID), grid(other, "cnn"))))
    assert found["sensitivity"].value == pytest.approx(75.0)  # (50 + 100)/2
    assert found["sensitivity"].note.count("2 settings x 2 seeds = 4 trials") == 2


def test_the_note_names_the_grid_and_says_that_it_is_reduced() -> None:
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(GRID))))
    for metric in ("sensitivity", "om_train"):
        assert found[metric].note.startswith(
            "t mlp: 2 settings x 2 seeds = 4 trials (sgd, adam); reduced, the paper has 8"
        )
    assert found["time_cost"].note == ""


@pytest.mark.parametrize(("settings", "seeds", "reduced"), [(8, 5, False), (7, 5, True), (8, 4, True)])
def test_the_papers_grid_is_not_reduced(settings: int, seeds: int, reduced: bool) -> None:
    trials = {
        (name, f"s{setting}", seed): 50.0 + setting + seed
        for name in ("fp32", "bnn")
        for setting in range(settings)
        for seed in range(seeds)
    }
    note = by_metric(training_consumption.score(made(timed(TIMES), grid(trials))))["sensitivity"].note
    assert f"{settings} settings x {seeds} seeds = {settings * seeds} trials" in note
    assert ("reduced" in note) == reduced


@pytest.mark.parametrize(
    ("settings", "seeds", "size"),
    [
        (2, 1, "2 settings x 1 seed = 2 trials"),
        (1, 2, "1 setting x 2 seeds = 2 trials"),
        (1, 1, "1 setting x 1 seed = 1 trial "),
    ],
)
def test_one_of_a_kind_has_no_plural(settings: int, seeds: int, size: str) -> None:
    trials = {
        (name, f"s{setting}", seed): 50.0 + setting + seed
        for name in ("fp32", "bnn")
        for setting in range(settings)
        for seed in range(seeds)
    }
    assert size in by_metric(training_consumption.score(made(timed(TIMES), grid(trials))))["sensitivity"].note


@pytest.mark.parametrize("algorithm", ["fp32", "bnn"])
def test_a_missing_or_failed_trial_is_named(algorithm: str) -> None:
    run = trial(algorithm, "adam", 1)
    for changed, status, text in [
        (None, "incomplete", run.id),
        (failed_record(run, "loss is NaN in epoch 2"), "failed", f"{run.id}: loss is NaN in epoch 2"),
        (ok_record(run, 0.0, figures=()), "failed", f"{run.id}: its record has no figure 'accuracy'"),
    ]:
        found = by_metric(training_consumption.score(with_records(made(timed(TIMES), grid(GRID)), {run.id: changed})))
        for metric in ("sensitivity", "om_train"):
            assert (found[metric].status, found[metric].value, found[metric].missing) == (status, None, (text,))
            assert found[metric].note.startswith("t mlp: 2 settings x 2 seeds")
        assert found["time_cost"].status == "ok"


def test_a_suite_without_a_grid_says_so() -> None:
    found = by_metric(training_consumption.score(made(timed(TIMES))))
    for metric in ("sensitivity", "om_train"):
        assert (found[metric].status, found[metric].missing) == ("incomplete", ("no sensitivity grid in this suite",))
    assert found["time_cost"].value == pytest.approx(75.0)


def test_a_trial_or_an_algorithm_that_was_not_planned_is_named() -> None:
    fewer = {place: value for place, value in GRID.items() if place != ("bnn", "adam", 1)}
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(fewer))))["sensitivity"]
    assert (found.status, found.missing) == ("incomplete", ("t mlp bnn adam s1: not in this suite",))
    none = {place: value for place, value in GRID.items() if place[0] == "fp32"}
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(none))))["sensitivity"]
    assert (found.status, found.missing) == ("incomplete", ("t mlp bnn: no sensitivity runs in this suite",))


@pytest.mark.parametrize("algorithm", ["fp32", "bnn"])
@pytest.mark.parametrize("value", [50.0, 28.86])  # 21 times 28.86 has another mean in floating point
def test_trials_that_all_scored_the_same_fail_and_it_is_said(algorithm: str, value: float) -> None:
    places = [(name, f"s{i}", seed) for name in ("fp32", "bnn") for i in range(7) for seed in range(3)]
    trials = {place: value if place[0] == algorithm else 50.0 + i for i, place in enumerate(places)}
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(trials))))
    for metric in ("sensitivity", "om_train"):
        assert (found[metric].status, found[metric].value) == ("failed", None)
        assert found[metric].missing == (f"t mlp {algorithm}: all trials scored the same",)


def test_one_trial_has_no_deviation() -> None:
    trials = {place: value for place, value in GRID.items() if place[1:] == ("sgd", 0)}
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(trials))))["sensitivity"]
    assert (found.status, found.missing) == ("incomplete", ("t mlp: one trial has no standard deviation",))


def test_trials_of_other_units_or_data_or_two_of_one_place_are_errors() -> None:
    run = trial("bnn", "sgd", 0)
    for changed in (ok_record(run, 0.8, "ratio"), ok_record(run, 80.0, data="other")):
        with pytest.raises(ScoreError, match="cannot compare") as caught:
            training_consumption.score(with_records(made(timed(TIMES), grid(GRID)), {run.id: changed}))
        assert run.id in str(caught.value)
    twice = ok_record(trial("bnn", "sgd", 0, padding_value=1), 80.0)
    with pytest.raises(ScoreError, match="are different runs of one task, architecture, algorithm, setting and seed"):
        training_consumption.score(made(timed(TIMES), grid(GRID), [twice]))


def test_main_runs_that_are_part_of_the_grid_count_in_it() -> None:
    main = {run.id: run for run in (trial(name, "sgd", seed, main=True) for name in ("fp32", "bnn") for seed in (0, 1))}
    results = made(grid(GRID))
    plan = [main.get(run.id, run) for run in results.plan]
    assert sum(run.main for run in plan) == 4
    found = by_metric(training_consumption.score(Results(plan=plan, records=results.records)))
    assert found["sensitivity"].value == pytest.approx(50.0)
    assert found["time_cost"].missing == tuple(run.id for run in main.values() if run.algorithm == "bnn")
    accuracy = by_metric(learning_task.score(Results(plan=plan, records=results.records)))["t"]
    assert accuracy.value == pytest.approx((100 * 80 / 90 + 100 * 88 / 92) / 2)


def test_grid_runs_enter_no_other_track() -> None:
    others = [learning_task, neural_architecture, theoretical_complexity, hardware_inference]
    with_grid = made(timed(TIMES), grid(GRID), grid({("fda", "sgd", 0): 1.0}, "resnet"))
    assert score(with_grid, others) == score(made(timed(TIMES)), others)
    assert {one.algorithm for one in training_consumption.score(with_grid)} == {"bnn"}
    assert by_metric(training_consumption.score(made(timed(TIMES), grid(GRID))))["time_cost"].value == pytest.approx(75)


def test_settings_in_a_plan() -> None:
    found = settings_in([*made(timed(TIMES), grid(GRID), grid({("fda", "x", 0): 1.0}, "cnn")).plan])
    assert found == {("t", "mlp"): ("sgd", "adam"), ("t", "cnn"): ("x",)}


def test_what_time_cost_lacks() -> None:
    whole = made(timed(TIMES), grid(GRID))
    run = run_config("t", "cnn", "bnn", 1)
    for changed, status, text in [
        (None, "incomplete", run.id),
        (failed_record(run, "NaN"), "failed", f"{run.id}: NaN"),
        (ok_record(run, 80.0), "incomplete", run.id),  # it can be measured again
        (measured_record(run, 80.0, TRACK), "failed", f"{run.id}: its record has no figure 'time_cost'"),
    ]:
        found = by_metric(training_consumption.score(with_records(whole, {run.id: changed})))
        for metric in ("time_cost", "om_train"):
            assert (found[metric].status, found[metric].value, found[metric].missing) == (status, None, (text,))
        assert found["sensitivity"].status == "ok"


def test_a_network_that_the_track_does_not_time_is_left_out() -> None:
    extra = [
        measured_record(run_config("t", "vgg", name, seed), 80.0, TRACK) for name in ("fp32", "bnn") for seed in (0, 1)
    ]
    found = by_metric(training_consumption.score(made(timed(TIMES), grid(GRID), extra)))
    assert found["time_cost"].value == pytest.approx(75.0)
    found = by_metric(training_consumption.score(made(extra, grid(GRID))))
    assert (found["time_cost"].status, found["time_cost"].missing) == ("incomplete", ("no network was timed",))


def test_lacks_of_both_parts_are_listed() -> None:
    missing = [run_config("t", "cnn", "bnn", 1).id, trial("bnn", "sgd", 0).id]
    whole = made(timed(TIMES), grid(GRID))
    found = by_metric(training_consumption.score(with_records(whole, dict.fromkeys(missing))))["om_train"]
    assert set(found.missing) == set(missing)


def test_scores_never_overflow() -> None:
    for numbers in ((9e99, -9e99, 0.0, 1e-300), (1e-300, 0.0, 9e99, -9e99), (1e-200, 0.0, 90.0, 80.0)):
        trials = dict(zip([("fp32", "a", 0), ("fp32", "b", 0), ("bnn", "a", 0), ("bnn", "b", 0)], numbers, strict=True))
        times = {("mlp", "bnn", 0): 9e99, ("mlp", "bnn", 1): 1e-300}
        for one in training_consumption.score(made(timed(times), grid(trials))):
            assert one.status in ("ok", "failed")
            assert all(value is None or math.isfinite(value) for value in (one.value, one.low, one.std))


def test_a_score_that_is_better_when_lower_has_a_spread_all_the_same() -> None:
    records = []
    for place, value in GRID.items():
        loss = Figure(name="accuracy", value=value, unit="nats", higher_is_better=False)
        records.append(ok_record(trial(*place), 0.0, figures=(loss,)))
    assert by_metric(training_consumption.score(made(timed(TIMES), records)))["sensitivity"].value == pytest.approx(50)
