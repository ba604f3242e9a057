"""The training-speed track on made records with known answers, and what it measures on a real run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from bibench.models.image import digits_cnn
from bibench.recipes import SGD, Recipe
from bibench.records import Figure, Record, Results, RunConfig
from bibench.tasks.digits import digits
from bibench.tracks.base import FinishedRun, Measuring
from bibench.tracks.lookup import ScoreError
from bibench.tracks.speedup import Speedup
from bibench.tracks.training_speed import measured_speedup, networks, training_speed
from small_runs import DATA, config, model_of

SEEDS = (0, 1, 2)
BUDGETS = (100, 200, 400, 800)


def made(
    method: str,
    budget: int,
    score: float | None,
    *,
    seed: int = 0,
    parent: Record | None = None,
    seconds: float | None = None,
    convert: float = 0.0,
    **more: Any,
) -> Record:
    """A stored run; one without a score failed."""
    full = method == "full_precision"
    labels = {"share": 0.5} if method == "partial_pretraining" else {}
    run = RunConfig(
        **{
            "task": "cifar10",
            "architecture": "resnet20e",
            "algorithm": "fp32" if full else "pact",
            "operator": None if full else "pact",
            "method": method,
            "seed": seed,
            "recipe": Recipe(optimizer=SGD(lr=0.1), steps=budget, batch_size=128),
            "parent": None if parent is None else parent.id,
            "family": "cnns",
            "metric": "accuracy",
            "main": False,
            "point": f"{method}-{budget}-{parent.id if parent else ''}",
        }
        | labels
        | more
    )
    figure = Figure(name="accuracy", value=score or 0.0, unit="percent", samples=10, higher_is_better=True)
    return Record(
        id=run.id,
        run=run,
        status="failed" if score is None else "ok",
        reason="diverged" if score is None else None,
        figures=() if score is None else (figure,),
        phases={
            "load": 99.0,
            "convert": convert,
            "train": float(budget if seconds is None else seconds),
            "evaluate": 7.0,
        },
        data="same",
        environment=None,
        finished="now",
    )


def partial(first: int, second: int, score: float | None, *, seed: int = 0, **more: Any) -> list[Record]:
    """A full-precision part, and the binarized part that starts from it."""
    parent = made("full_precision", first, 90.0, seed=seed, point=None)
    return [parent, made("partial_pretraining", second, score, seed=seed, parent=parent, **more)]


def results(records: Sequence[Record], without: Sequence[str] = ()) -> Results:
    plan = list({record.id: record.run for record in records}.values())
    return Results(plan=plan, records=[record for record in records if record.id not in without])


def curves(
    scratch: Callable[[int], float], faster: Callable[[int], float], *, seeds: Sequence[int] = SEEDS, **more: Any
) -> list[Record]:
    """Both curves as functions of the total budget; a seed shifts both by the same."""
    found = []
    for seed in seeds:
        for budget in BUDGETS:
            found.append(made("from_scratch", budget, scratch(budget) + seed, seed=seed))
            found += partial(budget // 2, budget // 2, faster(budget) + seed, seed=seed, **more)
    return found


def line(budget: float) -> float:
    return 10 + 0.1 * budget


def twice(budget: int) -> float:
    """What `line` reaches with twice the budget."""
    return line(2 * budget)


def scores_of(records: Sequence[Record]) -> dict[str, Any]:
    return {score.metric: score for score in training_speed.score(results(records))}


def test_a_curve_that_needs_half_the_budget_is_twice_as_fast_by_iterations():
    score = scores_of(curves(line, twice))["iteration_speedup"]
    assert score.value == pytest.approx(2.0)
    assert (score.status, score.unit, score.seeds) == ("ok", "ratio", 3)
    assert score.low == pytest.approx(2.0)  # leaving out a seed shifts both curves alike
    assert "cifar10 resnet20e: 2.00" in score.note
    assert "not converged" in score.note  # 90 and 170 percent at the end


def test_by_seconds_the_parts_and_the_conversion_between_them_count_and_nothing_else():
    # a step takes a second in either part, so the full-precision half of 800 costs 400 s, the other half 400 s more
    records = curves(line, line, convert=0.0)
    assert scores_of(records)["wall_clock_speedup"].value == pytest.approx(1.0)
    half = [*curves(line, line, seconds=0.5, convert=0.5)]  # the binarized part and its conversion: a second in all
    network = networks(results(half))[0]
    curve = network.curve("partial_pretraining", 0.5)
    assert {budget: own[0][1] for budget, own in curve.trials.items()} == {
        100: 51.0,
        200: 101.0,
        400: 201.0,
        800: 401.0,
    }
    assert {budget: own[0][1] for budget, own in network.curve("from_scratch").trials.items()} == {
        budget: float(budget) for budget in BUDGETS
    }


def test_the_median_over_seeds_is_what_is_compared():
    records = curves(line, twice)
    worst = [
        record.model_copy(update={"figures": (replace(record.figures[0], value=1.0),)})
        if record.run.method == "from_scratch" and record.run.seed == 0
        else record
        for record in records
    ]
    # medians: from scratch line + 1 (seeds 0 and 1 are 1 and line + 1), partial twice + 1
    assert scores_of(worst)["iteration_speedup"].value == pytest.approx(2.0)
    point = networks(results(worst))[0].curve("from_scratch").points("budget")[0]
    assert (point.lowest, point.score, point.highest) == (1.0, line(100) + 1, line(100) + 2)


def test_what_is_missing_or_failed_is_named():
    records = curves(line, twice)
    gone = records[0].id
    found = {score.metric: score for score in training_speed.score(results(records, [gone]))}
    assert (found["iteration_speedup"].status, found["iteration_speedup"].missing) == ("incomplete", (gone,))
    parent = next(record.id for record in records if record.run.algorithm == "fp32")
    lacks = {score.metric: score for score in training_speed.score(results(records, [parent]))}
    assert lacks["wall_clock_speedup"].missing == (parent,)
    failed = [*records, made("from_scratch", 1600, None, seed=0)]
    assert scores_of(failed)["iteration_speedup"].status == "failed"


def test_curves_with_too_few_points_and_missing_curves_say_so():
    short = [*partial(50, 50, 30.0), made("from_scratch", 100, 20.0)]
    score = scores_of(short)["iteration_speedup"]
    assert score.value is None
    assert "at least 2 points" in score.missing[0]
    alone = [record for record in curves(line, twice) if record.run.method != "from_scratch"]
    assert scores_of(alone)["iteration_speedup"].missing == (
        "cifar10 resnet20e pact: no curve of from_scratch in this suite",
    )
    assert scores_of([]) == {}


def test_curves_that_never_meet_are_reported_and_not_extrapolated():
    records = curves(lambda budget: 10 + budget / 100, lambda budget: 50 + budget / 100)
    score = scores_of(records)["iteration_speedup"]
    assert score.value is None
    assert "no score to compare at" in score.missing[0]


def test_other_data_or_a_metric_that_falls_is_refused():
    records = curves(line, twice)
    other = records[-1].model_copy(update={"data": "other"})
    with pytest.raises(ScoreError, match="data fingerprint"):
        training_speed.score(results([*records[:-1], other]))
    down = [
        record.model_copy(update={"figures": (replace(record.figures[0], higher_is_better=False),)})
        for record in records
    ]
    assert "better when lower" in scores_of(down)["iteration_speedup"].missing[0]


def test_splits_of_one_budget_are_compared_with_the_even_one():
    records = []
    for seed in SEEDS:
        for first, second, score in ((100, 300, 50.0), (200, 200, 52.0), (300, 100, 55.0), (100, 100, 40.0)):
            share = first / (first + second)
            records += partial(first, second, score + seed * (1 if first == 300 else 2), seed=seed, share=share)
    network = networks(results(records))[0]
    assert list(network.by_share()) == [400]  # 200 was split in one way
    assert list(network.by_share()[400]) == [0.25, 0.5, 0.75]
    gain = network.gains()[400]
    assert (gain.share, gain.gain) == (0.75, pytest.approx(2.0))  # 3, 2 and 1 over the seeds
    score = scores_of(records)["split_gain"]
    assert (score.value, score.unit, score.seeds) == (pytest.approx(2.0), "percent", 3)
    assert score.note.startswith("cifar10 resnet20e, 400 steps: share 0.75 is the best of 0.25, 0.5, 0.75; chosen and")
    assert score.low == pytest.approx(2 - 4.302652 / 3**0.5, abs=1e-5)  # t with 2 degrees of freedom, std 1


def test_where_the_even_split_is_the_best_there_is_nothing_to_gain():
    records = [*partial(100, 300, 50.0, share=0.25), *partial(200, 200, 52.0, share=0.5)]
    score = scores_of(records)["split_gain"]
    assert (score.value, score.note) == (
        0.0,
        "cifar10 resnet20e, 400 steps: the even split is the best of the shares 0.25, 0.5",
    )


def test_a_budget_whose_even_split_is_not_there_has_no_gain():
    records = [*partial(100, 300, 50.0, share=0.25), *partial(300, 100, 51.0, share=0.75)]
    network = networks(results(records))[0]
    assert network.gains() == {}
    assert "split_gain" not in scores_of(records)


def test_fine_tuning_costs_what_its_full_precision_training_costs():
    parent = made("full_precision", 800, 90.0)
    records = [parent, made("fine_tune", 100, 60.0, parent=parent, convert=1.0)]
    curve = networks(results(records))[0].curve("fine_tune")
    assert curve.trials == {900: {0: (60.0, 901.0)}}
    assert networks(results(records))[0].curve("full_precision").trials == {800: {0: (90.0, 800.0)}}


def test_the_slowdown_is_the_mean_over_networks_and_seeds():
    records = []
    for seed, value in enumerate((1.2, 1.3)):
        run = config("bnn", seed=seed)
        figure = Figure(name="slowdown", value=value, unit="ratio", samples=5, higher_is_better=False)
        records.append(
            Record(
                id=run.id,
                run=run,
                status="ok",
                figures=(figure,),
                measured=("training_speed",),
                environment=None,
                finished="now",
            )
        )
    score = scores_of(records)["slowdown"]
    assert (score.value, score.seeds) == (pytest.approx(1.25), 2)


def test_it_times_iterations_beside_full_precision():
    run = FinishedRun(
        config=config("pact"),
        model=model_of(config("pact")).eval(),
        architecture=digits_cnn,
        task=digits,
        data=DATA,
        measuring=Measuring(iterations=1),
    )
    found = {figure.name: figure for figure in training_speed.measure(run)}
    own, full = found["iteration_speed"], found["full_precision_iteration_speed"]
    assert (own.unit, own.samples, own.higher_is_better) == ("1/s", 5, True)
    assert found["slowdown"].value == pytest.approx(full.value / own.value)
    assert found["slowdown_lowest"].value <= found["slowdown_highest"].value
    assert training_speed.measure(FinishedRun(**(vars(run) | {"config": config("fp32")}))) == []


def test_epochs_of_three_batches_leave_nothing_to_time():
    recipe = Recipe(optimizer=SGD(lr=0.1), epochs=1, batch_size=400)  # 1437 // 400 = 3
    run = config("pact", recipe)
    finished = FinishedRun(config=run, model=model_of(run), architecture=digits_cnn, task=digits, data=DATA)
    (absence,) = training_speed.measure(finished)
    assert (absence.name, absence.status) == ("slowdown", "not_measured")
    assert absence.reason == "an epoch has 3 batches, of which the first 3 aren't timed"


def test_the_speedup_can_be_had_for_one_network_alone():
    found = measured_speedup(networks(results(curves(line, twice)))[0], "budget")
    assert isinstance(found, Speedup)
    assert (found.used, found.left_out) == (100, 0)
