"""Which algorithms can be told apart."""

import numpy as np
import numpy.typing as npt
import pytest
from made_records import failed_record, ok_record, run_config

from bibench.records import Results
from bibench.tracks import ScoreError
from bibench.tracks.comparisons import ALL_PAIRS, Comparison, comparisons, ties


def made(right: dict[tuple[str, int], int], samples: int = 200) -> Results:
    """Predictions in which each (algorithm, seed) is right on its first so many samples."""
    plan = [run_config("t", "a", algorithm, seed) for algorithm, seed in right]
    predictions: dict[str, npt.NDArray[np.float32]] = {}
    for run in plan:
        hit = np.zeros(samples, np.float32)
        hit[: right[run.algorithm, run.seed]] = 1
        predictions[run.id] = hit
    return Results(plan=plan, records=[ok_record(run, 50.0) for run in plan], predictions=predictions.get)


def test_pairs_by_hand() -> None:
    # bnn is right on 100 of 200, recu on 101 (half a point more: one sample), fda on 150 (25 points more)
    found = comparisons(made({("fp32", 0): 190, ("bnn", 0): 100, ("recu", 0): 101, ("fda", 0): 150}), resamples=500)
    assert [(one.first, one.second) for one in found] == [("bnn", "recu"), ("bnn", "fda"), ("recu", "fda")]
    assert [one.difference for one in found] == pytest.approx([-0.5, -25.0, -24.5])
    assert [one.distinguishable for one in found] == [False, True, True]
    assert all(one.low <= one.difference <= one.high for one in found)
    assert ties(found) == {("t", "a"): ("fda",)}


def test_ties_names_the_best_first() -> None:
    found = comparisons(made({("bnn", 0): 100, ("recu", 0): 150, ("fda", 0): 149}), resamples=500)
    assert ties(found) == {("t", "a"): ("recu", "fda")}


def test_seeds_are_averaged() -> None:
    found = comparisons(made({("bnn", 0): 100, ("bnn", 1): 110, ("fda", 0): 120, ("fda", 1): 140}), resamples=200)
    assert [one.difference for one in found] == pytest.approx([-12.5])  # (105 - 130)/200


def test_only_equal_seeds_are_compared() -> None:
    right = {("bnn", 0): 100, ("bnn", 1): 100, ("recu", 0): 100, ("fda", 0): 120}
    found = comparisons(made(right), resamples=100)
    assert [(one.first, one.second) for one in found] == [("recu", "fda")]


def test_the_largest_comparable_group_decides_who_is_best() -> None:
    def pair(first: str, second: str, difference: float) -> Comparison:
        return Comparison(
            task="t", architecture="a", first=first, second=second, difference=difference,
            low=difference - 1, high=difference + 1, distinguishable=abs(difference) > 1,
        )  # fmt: skip

    found = [pair("a", "b", 5.0), pair("a", "c", 0.5), pair("b", "c", -4.5), pair("x", "y", 80.0)]
    assert ties(found) == {("t", "a"): ("a", "c")}


def test_failed_runs_and_runs_without_predictions_are_left_out() -> None:
    whole = made({("bnn", 0): 100, ("recu", 0): 100, ("fda", 0): 120})
    bnn, recu, fda = whole.plan
    records = [ok_record(bnn, 50.0), failed_record(recu, "NaN"), ok_record(fda, 60.0)]
    found = comparisons(Results(plan=whole.plan, records=records, predictions=whole.predictions), resamples=100)
    assert [(one.first, one.second) for one in found] == [("bnn", "fda")]
    assert comparisons(Results(plan=whole.plan, records=whole.records)) == []


def test_runs_of_a_sensitivity_grid_are_no_seeds_of_the_main_ones() -> None:
    whole = made({("bnn", 0): 100, ("fda", 0): 120})
    grid = [run_config("t", "a", name, main=False, setting="s", padding_value=1) for name in ("bnn", "fda")]
    predictions = {run.id: whole.predictions(run.id) for run in whole.plan} | {
        run.id: np.full(200, run.algorithm == "bnn", np.float32) for run in grid
    }
    records = [*whole.records, *(ok_record(run, 50.0) for run in grid)]
    both = Results(plan=[*whole.plan, *grid], records=records, predictions=predictions.get)
    assert comparisons(both, resamples=100) == comparisons(whole, resamples=100)


def test_different_test_sets_cannot_be_paired() -> None:
    one = made({("bnn", 0): 100, ("fda", 0): 120})
    first, second = (run.id for run in one.plan)
    shorter = {first: np.ones(200, np.float32), second: np.ones(100, np.float32)}
    with pytest.raises(ScoreError, match=rf"'{first}' \(200 samples\) and '{second}' \(100 samples\)"):
        comparisons(Results(plan=one.plan, records=one.records, predictions=shorter.get))


def test_of_many_algorithms_only_the_pairs_with_the_best_are_compared() -> None:
    right = {(f"a{place}", 0): 60 + place for place in range(ALL_PAIRS)} | {("best", 0): 180, ("near", 0): 179}
    found = comparisons(made(right), resamples=300)
    assert len(found) == ALL_PAIRS + 1
    assert all("best" in (one.first, one.second) for one in found)
    assert ties(found) == {("t", "a"): ("best", "near")}
    del right["a0", 0], right["a1", 0]
    assert len(comparisons(made(right), resamples=300)) == ALL_PAIRS * (ALL_PAIRS - 1) / 2
