"""Speedups and splits, by hand on piecewise linear curves, and what has to hold for any."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from bibench.tracks.speedup import (
    Point,
    SpeedupError,
    Trial,
    best_split,
    cost_to,
    median_curve,
    speedup,
)


def curve(*pairs: tuple[float, float], spread: float = 0.0) -> list[Point]:
    """Points at (cost, score); with a spread, of three trials that lie so far around it."""
    return [
        Point(cost=cost, score=score, lowest=score - spread, highest=score + spread, trials=3 if spread else 1)
        for cost, score in pairs
    ]


def scaled(points: list[Point], cost: float) -> list[Point]:
    return curve(*((point.cost * cost, point.score) for point in points))


costs = st.floats(1, 1e6)
scores = st.floats(0.1, 1)
curves = st.lists(st.tuples(costs, scores), min_size=2, max_size=6).map(lambda pairs: curve(*pairs))


def test_median_curve_by_hand() -> None:
    trials = {
        "long": [Trial(cost=30, score=0.9), Trial(cost=10, score=0.5), Trial(cost=11, score=0.6)],
        "short": [Trial(cost=4, score=0.3), Trial(cost=2, score=0.2)],
    }
    assert median_curve(trials) == (
        Point(cost=3, score=0.25, lowest=0.2, highest=0.3, trials=2),  # of two the mean
        Point(cost=11, score=0.6, lowest=0.5, highest=0.9, trials=3),  # each its own median: no trial has both
    )


def test_one_trial_is_its_own_range() -> None:
    found = median_curve({1: [Trial(cost=5.0, score=0.4)]})
    assert found == (Point(cost=5.0, score=0.4, lowest=0.4, highest=0.4, trials=1),)


@given(st.data())
def test_order_of_trials_and_budgets_does_not_matter(data: st.DataObject) -> None:
    trial = st.builds(Trial, cost=costs, score=scores)
    trials = data.draw(st.dictionaries(st.integers(), st.lists(trial, min_size=1, max_size=5), min_size=1, max_size=5))
    shuffled = {
        budget: data.draw(st.permutations(trials[budget])) for budget in data.draw(st.permutations(list(trials)))
    }
    found = median_curve(trials)
    assert median_curve(shuffled) == found
    assert [point.cost for point in found] == sorted(np.median([one.cost for one in own]) for own in trials.values())
    assert sum(point.trials for point in found) == sum(map(len, trials.values()))


def test_median_curve_refuses_nothing() -> None:
    with pytest.raises(SpeedupError, match="at least one budget, got none"):
        median_curve({})
    with pytest.raises(SpeedupError, match="budget 500 has no trials"):
        median_curve({100: [Trial(cost=1, score=1)], 500: []})


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_costs_are_finite_and_above_zero(cost: float) -> None:
    with pytest.raises(SpeedupError, match=f"trial's cost is a finite number above 0, got {cost}"):
        Trial(cost=cost, score=0.5)
    with pytest.raises(SpeedupError, match=f"point's cost is a finite number above 0, got {cost}"):
        Point(cost=cost, score=0.5, lowest=0.5, highest=0.5, trials=1)


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_are_finite(score: float) -> None:
    with pytest.raises(SpeedupError, match=f"trial's score is a finite number, got {score}"):
        Trial(cost=1, score=score)
    with pytest.raises(SpeedupError, match=f"point's score is a finite number, got {score}"):
        Point(cost=1, score=score, lowest=score, highest=score, trials=1)


@pytest.mark.parametrize(
    ("lowest", "highest"), [(0.6, 0.7), (0.3, 0.4), (math.nan, 0.6), (0.4, math.nan), (-math.inf, 0.6), (0.4, math.inf)]
)
def test_a_points_score_lies_in_its_range(lowest: float, highest: float) -> None:
    with pytest.raises(SpeedupError, match="from its lowest to its highest"):
        Point(cost=1, score=0.5, lowest=lowest, highest=highest, trials=3)


def test_a_point_rests_on_a_trial() -> None:
    with pytest.raises(SpeedupError, match="at least one trial, got 0"):
        Point(cost=1, score=0.5, lowest=0.5, highest=0.5, trials=0)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (0.25, 100),  # the first point
        (0.375, 150),  # halfway to the second
        (0.5, 200),
        (0.625, 300),
        (0.75, 400),  # the last
        (0.2, None),  # below the first: not extrapolated
        (0.8, None),  # never
    ],
)
def test_cost_to_by_hand(target: float, expected: float | None) -> None:
    assert cost_to(curve((100, 0.25), (200, 0.5), (400, 0.75)), target) == expected


def test_the_first_crossing_counts() -> None:
    fell = curve((1, 0.25), (2, 0.75), (3, 0.5), (5, 1.0))
    assert cost_to(fell, 0.5) == 1.5  # and again at 3
    assert cost_to(fell, 0.75) == 2  # and again at 4
    assert cost_to(fell, 0.875) == 4.5  # only after the fall


def test_a_curve_that_starts_above_the_target_and_falls_below_it_has_no_cost_for_it() -> None:
    assert cost_to(curve((1, 0.6), (2, 0.4), (3, 0.8)), 0.5) is None


def test_a_plateau_is_reached_where_it_begins() -> None:
    flat = curve((1, 0.25), (2, 0.5), (3, 0.5), (4, 0.5), (5, 0.75))
    assert cost_to(flat, 0.5) == 2
    assert cost_to(flat, 0.625) == 4.5
    assert cost_to(curve((1, 0.5), (2, 0.5)), 0.5) == 1


def test_points_of_equal_cost_are_a_step() -> None:
    step = curve((1, 0.25), (3, 0.75), (3, 0.5), (4, 1.0))
    assert cost_to(step, 0.375) == 2  # on the way to the lower of the two
    assert cost_to(step, 0.625) == 3
    assert cost_to(step, 0.75) == 3
    assert cost_to(curve((3, 0.75), (3, 0.5)), 0.5) == 3


@given(curves, scores)
def test_cost_to_is_the_first_crossing_of_exact_arithmetic(points: list[Point], target: float) -> None:
    rows = sorted((Fraction(point.cost), Fraction(point.score)) for point in points)
    goal = Fraction(target)
    crossings = [
        low_cost if low == goal else low_cost + (goal - low) / (high - low) * (high_cost - low_cost)
        for (low_cost, low), (high_cost, high) in pairwise(rows)
        if min(low, high) <= goal <= max(low, high) and not (low == high != goal)
    ]
    found = cost_to(points, target)
    if goal < rows[0][1] or goal > max(score for _, score in rows):
        assert found is None
    else:
        assert found == pytest.approx(float(min(crossings)), rel=1e-9)


@given(st.data())
def test_order_of_points_does_not_matter(data: st.DataObject) -> None:
    points = data.draw(curves)
    target = data.draw(st.sampled_from(points)).score
    assert cost_to(data.draw(st.permutations(points)), target) == cost_to(points, target)


def test_cost_to_refuses_what_is_no_curve() -> None:
    for points in [], curve((1, 0.5)):
        with pytest.raises(SpeedupError, match=f"at least 2 points to draw a line between, got {len(points)}"):
            cost_to(points, 0.5)
    with pytest.raises(SpeedupError, match="target is a finite score, got nan"):
        cost_to(curve((1, 0.5), (2, 0.6)), math.nan)


def test_half_the_cost_is_a_speedup_of_two() -> None:
    slow, fast = curve((200, 0.25), (600, 0.5), (2400, 1.0)), curve((100, 0.25), (300, 0.5), (1200, 1.0))
    found = speedup(slow, fast)
    assert (found.value, found.low, found.high) == (2.0, 2.0, 2.0)
    assert (found.used, found.left_out, found.converged) == (100, 0, True)


def test_harmonic_mean_by_hand() -> None:
    # scores 0.5, 0.75 and 1: baseline at 100, 300, 500, faster at 100, 200, 300; ratios 1, 3/2, 5/3
    found = speedup(curve((100, 0.5), (500, 1.0)), curve((100, 0.5), (300, 1.0)), targets=3)
    assert found.value == pytest.approx(3 / (1 + 2 / 3 + 3 / 5))  # 45/34 = 1.3235; arithmetic 1.3889, geometric 1.3572
    assert (found.low, found.high) == (1.0, pytest.approx(5 / 3))


def test_harmonic_mean_against_scipy() -> None:
    slow, fast = curve((10, 0.1), (50, 0.6), (90, 0.9)), curve((8, 0.2), (20, 0.7), (90, 0.95))
    targets = np.linspace(0.475, 0.9, 100)
    ratios = [
        np.interp(target, [0.1, 0.6, 0.9], [10, 50, 90]) / np.interp(target, [0.2, 0.7, 0.95], [8, 20, 90])
        for target in targets
    ]
    found = speedup(slow, fast)
    assert found.value == pytest.approx(scipy.stats.hmean(ratios))
    assert (found.low, found.high) == (pytest.approx(min(ratios)), pytest.approx(max(ratios)))
    assert found.used == 100


def test_scores_begin_at_a_share_of_the_highest_of_both_curves() -> None:
    # the highest is 1.0, on one curve only; the scores are 0.5 and 0.75 whichever curve that is
    low, high = curve((100, 0.25), (300, 0.75)), curve((10, 0.25), (70, 1.0))
    # at 0.5 it is 200 against 30, at 0.75 300 against 50
    assert speedup(low, high, targets=2).value == pytest.approx(2 / (30 / 200 + 50 / 300))
    assert speedup(high, low, targets=2).value == pytest.approx(2 / (200 / 30 + 300 / 50))
    # from 0.25: 100 against 10
    assert speedup(low, high, targets=2, least=0.25).value == pytest.approx(2 / (10 / 100 + 50 / 300))


def test_what_only_one_curve_reaches_does_not_enter_and_is_no_convergence() -> None:
    slow = curve((100, 0.25), (200, 0.5), spread=0.01)
    found = speedup(slow, curve((50, 0.25), (100, 0.5), (1000, 0.75), spread=0.01))
    assert (found.value, found.converged) == (2.0, False)  # whatever the faster curve costs above 0.5
    assert (found.used, found.left_out) == (100, 0)


@pytest.mark.parametrize(
    ("spread", "converged"), [(0.0, False), (0.124, False), (0.125, True), (0.2, True)]
)  # 0.5 and 0.75 are 0.25 apart
def test_curves_converge_if_the_ranges_of_their_best_points_meet(spread: float, converged: bool) -> None:
    slow, fast = curve((1, 0.25), (2, 0.5), spread=spread), curve((1, 0.25), (2, 0.75), spread=spread)
    assert speedup(slow, fast).converged is converged
    assert speedup(fast, slow).converged is converged


def test_convergence_is_about_the_best_points_not_the_last() -> None:
    fell = [*curve((1, 0.25), (2, 0.75)), *curve((3, 0.5), spread=0.25)]
    assert not speedup(fell, curve((1, 0.25), (2, 0.7))).converged  # the last point's range would hold 0.7
    assert speedup(fell, curve((1, 0.25), (2, 0.75))).converged


def test_of_equal_best_points_the_order_does_not_matter() -> None:
    wide, narrow = curve((2, 0.5), spread=0.25), curve((2, 0.5), spread=0.01)
    start, other = curve((1, 0.25)), curve((1, 0.25), (2, 0.75))
    assert speedup(start + wide + narrow, other) == speedup(start + narrow + wide, other)


@pytest.mark.parametrize("targets", [2, 3, 7, 100, 1000])
def test_the_highest_score_of_both_is_reached_whatever_rounding_does(targets: int) -> None:
    generator = np.random.default_rng(targets)
    for top in generator.uniform(0.5, 0.9, 20):
        found = speedup(curve((1, 0.1), (2, top)), curve((1, 0.2), (3, 0.95), (4, 0.9)), targets=targets)
        assert (found.used, found.left_out) == (targets, 0)


def test_scores_below_the_first_point_are_left_out_and_counted() -> None:
    # scores 0.5, 0.625, 0.75, 0.875, 1.0; the faster curve starts at 0.75
    slow, fast = curve((100, 0.5), (500, 1.0)), curve((100, 0.75), (200, 1.0))
    found = speedup(slow, fast, targets=5)
    assert (found.used, found.left_out) == (3, 2)
    # 300, 400, 500 against 100, 150, 200
    assert found.value == pytest.approx(3 / (1 / 3 + 3 / 8 + 2 / 5))
    # the other way it is the baseline that starts late
    found = speedup(fast, slow, targets=5)
    assert (found.used, found.left_out, found.value) == (3, 2, pytest.approx(3 / (3 + 8 / 3 + 5 / 2)))


def test_a_fall_does_not_change_what_was_reached_before() -> None:
    slow, fast = curve((200, 0.5), (400, 1.0)), curve((100, 0.5), (200, 1.0))
    assert speedup(slow, [*fast, *curve((300, 0.1), (400, 0.9))]).value == 2.0
    assert speedup([*slow, *curve((500, 0.1), (600, 0.9))], fast).value == 2.0


def test_the_highest_common_score_may_be_the_lowest_of_interest() -> None:
    found = speedup(curve((1, 0.25), (4, 0.5)), curve((1, 0.25), (2, 0.5), (3, 1.0)))
    assert (found.value, found.used) == (2.0, 100)  # all scores are 0.5


@given(curves, curves, st.integers(2, 50), st.floats(0, 1))
def test_every_score_that_both_start_below_is_reached(
    slow: list[Point], fast: list[Point], targets: int, least: float
) -> None:
    tops = [max(point.score for point in points) for points in (slow, fast)]
    start = max(min(points, key=lambda point: (point.cost, point.score)).score for points in (slow, fast))
    if least * max(tops) > min(tops) or start > min(tops):
        with pytest.raises(SpeedupError, match="no score to compare at"):
            speedup(slow, fast, targets=targets, least=least)
        return
    found = speedup(slow, fast, targets=targets, least=least)
    assert found.used == sum(target >= start for target in np.linspace(least * max(tops), min(tops), targets).tolist())
    assert found.used + found.left_out == targets
    assert found.low * (1 - 1e-9) <= found.value <= found.high * (1 + 1e-9)


grown = st.lists(scores, min_size=2, max_size=6, unique=True).flatmap(
    lambda own: st.lists(costs, min_size=len(own), max_size=len(own)).map(
        lambda paid: curve((min(paid), 0.01), *zip(sorted(paid), sorted(own), strict=True))
    )
)
"""Curves that start low enough for every score and never fall."""
wide = st.floats(1e-3, 1e3)


def compared(slow: list[Point], fast: list[Point]) -> bool:
    """Whether the lower curve ends above half of the higher, so that there are scores to compare at."""
    tops = [max(point.score for point in points) for points in (slow, fast)]
    return min(tops) >= 0.5 * max(tops)


@given(grown)
def test_a_curve_against_itself_is_exactly_one(points: list[Point]) -> None:
    found = speedup(points, points)
    assert (found.value, found.low, found.high, found.left_out, found.converged) == (1.0, 1.0, 1.0, 0, True)


@given(grown, wide)
def test_costs_divided_by_k_are_a_speedup_of_k(points: list[Point], k: float) -> None:
    found = speedup(points, scaled(points, 1 / k))
    assert (found.value, found.low, found.high) == pytest.approx((k, k, k), rel=1e-9)


@given(grown.flatmap(lambda slow: st.tuples(st.just(slow), grown.filter(lambda fast: compared(slow, fast)))), wide)
def test_the_unit_of_cost_does_not_matter(pair: tuple[list[Point], list[Point]], unit: float) -> None:
    slow, fast = pair
    assert speedup(scaled(slow, unit), scaled(fast, unit)).value == pytest.approx(speedup(slow, fast).value, rel=1e-9)
    # one curve's alone multiplies
    assert speedup(scaled(slow, unit), fast).value == pytest.approx(unit * speedup(slow, fast).value, rel=1e-9)


@given(grown.flatmap(lambda slow: st.tuples(st.just(slow), grown.filter(lambda fast: compared(slow, fast)))))
def test_swapped_curves_invert_the_extremes_and_never_gain_both_ways(pair: tuple[list[Point], list[Point]]) -> None:
    there, back = speedup(*pair), speedup(*reversed(pair))
    assert (back.low, back.high) == pytest.approx((1 / there.high, 1 / there.low), rel=1e-9)
    # the harmonic mean of 1/r is 1 over the arithmetic mean of r, which is at least the harmonic
    assert there.value * back.value <= 1 + 1e-9
    assert (there.used, there.left_out, there.converged) == (back.used, back.left_out, back.converged)


def test_speedup_refuses_what_it_cannot_compare() -> None:
    good = curve((1, 0.25), (2, 1.0))
    for pair in (good, good[:1]), (good[:1], good):
        with pytest.raises(SpeedupError, match="at least 2 points to draw a line between, got 1"):
            speedup(*pair)
    with pytest.raises(SpeedupError, match="highest score of the two curves is 0"):
        speedup(curve((1, -1.0), (2, 0.0)), curve((1, -1.0), (2, -0.5)))
    with pytest.raises(SpeedupError, match=r"one curve ends at 0\.4, below 0\.5, which is 0\.5 of the highest, 1\.0"):
        speedup(curve((1, 0.25), (2, 0.4)), good)
    with pytest.raises(SpeedupError, match=r"curves start at 0\.25 and 0\.9, .* all scores from 0\.475 to 0\.8"):
        speedup(curve((1, 0.25), (2, 0.8)), curve((1, 0.9), (2, 0.95)))
    with pytest.raises(SpeedupError, match="at least 2, got 1"):
        speedup(good, good, targets=1)
    for least in -0.1, 1.1, math.nan:
        with pytest.raises(SpeedupError, match=f"share of the highest score from 0 to 1, got {least}"):
            speedup(good, good, least=least)
    assert issubclass(SpeedupError, ValueError)


def test_best_split_by_hand() -> None:
    # paired differences of 0.25 to 0.5: 0.5, 0.75, 1.0
    found = best_split(
        {0.25: {0: 80.5, 1: 81.75, 2: 83.0}, 0.5: {0: 80.0, 1: 81.0, 2: 82.0}, 0.75: {0: 70.0, 1: 90.0, 2: 80.0}}
    )
    assert (found.share, found.gain, found.seeds) == (0.25, 0.75, (0, 1, 2))
    expected = scipy.stats.ttest_1samp([0.5, 0.75, 1.0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_only_seeds_that_all_shares_have_count() -> None:
    # seed 9 alone would make 0.25 the best, and 0.5 lacks it; 0.75 is best by the mean over 1 and 2
    found = best_split({0.25: {1: 1.0, 2: 1.0, 9: 99.0}, 0.5: {2: 2.0, 1: 1.0}, 0.75: {1: 3.0, 2: 2.0, 9: 0.0}})
    assert (found.share, found.gain, found.seeds) == (0.75, 1.0, (1, 2))


def test_another_reference() -> None:
    scores = {0.0: {0: 1.0}, 0.5: {0: 2.0}, 1.0: {0: 4.0}}
    assert best_split(scores, reference=0.0).gain == 3.0
    assert best_split(scores).gain == 2.0


def test_one_seed_has_no_interval() -> None:
    found = best_split({0.5: {7: 1.0}, 0.25: {7: 1.5}})
    assert (found.gain, found.low, found.high, found.seeds) == (0.5, None, None, (7,))


def test_a_reference_that_is_the_best_gains_nothing() -> None:
    found = best_split({0.25: {0: 1.0, 1: 2.0}, 0.5: {0: 3.0, 1: 2.0}})
    assert (found.share, found.gain, found.low, found.high) == (0.5, 0.0, 0.0, 0.0)


def test_of_equal_shares_the_nearest_to_the_reference_wins_then_the_smaller() -> None:
    tied = {0.9: {0: 2.0}, 0.75: {0: 2.0}, 0.25: {0: 2.0}, 0.1: {0: 2.0}}
    assert best_split({**tied, 0.5: {0: 1.0}}).share == 0.25
    assert best_split({**tied, 0.5: {0: 2.0}}).share == 0.5
    assert best_split(dict(reversed(list(tied.items()))) | {0.5: {0: 1.0}}).share == 0.25


@given(
    st.dictionaries(
        st.floats(0, 1), st.fixed_dictionaries({seed: st.floats(0, 100) for seed in range(3)}), min_size=1, max_size=5
    )
)
def test_the_best_of_several_never_loses(scores: dict[float, dict[int, float]]) -> None:
    reference = next(iter(scores))
    found = best_split(scores, reference)
    assert found.gain >= 0
    means = {share: np.mean(list(own.values())) for share, own in scores.items()}
    assert found.gain == pytest.approx(max(means.values()) - means[reference], abs=1e-9)


def test_best_split_refuses_what_cannot_be_paired() -> None:
    with pytest.raises(SpeedupError, match=r"reference 0\.5 is not among the shares \[0\.25, 0\.75\]"):
        best_split({0.75: {0: 1.0}, 0.25: {0: 1.0}})
    with pytest.raises(SpeedupError, match=r"reference 0\.5 is not among the shares \[\]"):
        best_split({})
    with pytest.raises(SpeedupError, match=r"no seed is common .* 0\.25: \[1, 2\]; 0\.5: \[0\]"):
        best_split({0.5: {0: 1.0}, 0.25: {2: 1.0, 1: 1.0}})
    with pytest.raises(SpeedupError, match=r"share 0\.25 with seed 3 is nan"):
        best_split({0.5: {3: 1.0}, 0.25: {3: math.nan}})
    with pytest.raises(SpeedupError, match=r"from 0 to 1, got 25"):
        best_split({0.5: {0: 1.0}, 25: {0: 1.0}})
