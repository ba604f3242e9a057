"""Agreement of rankings, by counting pairs, and its bootstrap against a naive loop."""

import math
from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from bibench.tracks.agreement import rank_agreement


def tau_by_counting(first: list[float], second: list[float]) -> float | None:
    """Kendall's tau-b from its definition; None where it is 0/0."""
    concordant = discordant = only_first = only_second = 0
    for (x, y), (other_x, other_y) in combinations(zip(first, second, strict=True), 2):
        product = np.sign(x - other_x) * np.sign(y - other_y)
        concordant += product > 0
        discordant += product < 0
        only_first += x == other_x and y != other_y
        only_second += x != other_x and y == other_y
    orders = concordant + discordant
    scale = math.sqrt((orders + only_first) * (orders + only_second))
    return (concordant - discordant) / scale if scale else None


def flat(means: list[float], seeds: int = 1, samples: int = 5) -> dict[str, npt.NDArray[np.float64]]:
    """Algorithms a0, a1, ... whose every sample has the mean score: what resampling cannot change."""
    return {f"a{i}": np.full((seeds, samples), mean) for i, mean in enumerate(means)}


def hits(seeds: int, samples: int, rates: list[float], seed: int = 3) -> dict[str, npt.NDArray[np.float32]]:
    generator = np.random.default_rng(seed)
    return {f"a{i}": (generator.random((seeds, samples)) < rate).astype(np.float32) for i, rate in enumerate(rates)}


@pytest.mark.parametrize(
    ("second", "tau"),
    [
        ([1, 2, 3, 4], 1.0),
        ([4, 3, 2, 1], -1.0),
        ([2, 1, 3, 4], 4 / 6),  # one of six pairs is discordant
        ([3, 1, 2, 4], 2 / 6),  # two are
        ([1, 1, 2, 3], 5 / math.sqrt(6 * 5)),  # one is tied on the second side
    ],
)
def test_tau_by_hand(second: list[float], tau: float) -> None:
    for other in flat(second), dict(zip(("a0", "a1", "a2", "a3"), second, strict=True)):
        found = rank_agreement(flat([1, 2, 3, 4]), other, resamples=20)
        assert found.tau == pytest.approx(tau)
        # no sample and no seed differs from another, so nothing can change
        assert (found.low, found.high) == (pytest.approx(tau), pytest.approx(tau))


few = st.lists(st.integers(0, 4), min_size=3, max_size=7)


@given(few.flatmap(lambda first: st.tuples(st.just(first), st.permutations(first) | few)))
def test_tau_by_counting_pairs(pair: tuple[list[int], list[int]]) -> None:
    size = min(map(len, pair))
    first, second = ([float(value) for value in side[:size]] for side in pair)
    expected = tau_by_counting(first, second)
    if expected is None:
        with pytest.raises(ValueError, match="tau-b is not defined"):
            rank_agreement(flat(first), flat(second), resamples=1)
        return
    found = rank_agreement(flat(first), flat(second), resamples=1)
    assert found.tau == pytest.approx(expected)
    assert -1 <= found.low <= found.high <= 1
    reverse = rank_agreement(flat(first), flat([-value for value in second]), resamples=1)
    assert reverse.tau == pytest.approx(-found.tau)
    swapped = rank_agreement(flat(second), flat(first), resamples=1)
    assert (swapped.tau, swapped.first, swapped.second) == (pytest.approx(found.tau), found.second, found.first)
    assert found.first == tuple(sorted(found.algorithms, key=lambda name: -first[int(name[1:])]))


def test_orders_are_best_first() -> None:
    first, second = flat([0.2, 0.9, 0.5]), {"a0": 30.0, "a1": 10.0, "a2": 20.0}
    found = rank_agreement(first, second, resamples=1)
    assert (found.algorithms, found.first, found.second) == (
        ("a0", "a1", "a2"),
        ("a1", "a2", "a0"),
        ("a0", "a2", "a1"),
    )
    lower = rank_agreement(first, second, resamples=1, higher_is_better=False)
    assert (lower.first, lower.second, lower.tau) == (found.first[::-1], found.second[::-1], found.tau)


def test_tied_algorithms_stay_in_their_order() -> None:
    for higher_is_better, expected in (True, ("a1", "a0", "a2")), (False, ("a0", "a2", "a1")):
        found = rank_agreement(flat([1, 2, 1]), flat([1, 2, 3]), resamples=1, higher_is_better=higher_is_better)
        assert found.first == expected


def test_only_algorithms_of_both_sides_count() -> None:
    first = flat([1, 2, 3, 4])
    second = {"other": 99.0, "a3": 3.0, "a1": 2.0, "a0": 1.0}
    found = rank_agreement(first, second, resamples=1)
    assert (found.algorithms, found.tau) == (("a0", "a1", "a3"), pytest.approx(1.0))
    # those left out need not fit the others
    assert rank_agreement({**first, "odd": np.ones(3)}, second, resamples=1) == found
    assert rank_agreement(first, {**second, "odd": math.nan}, resamples=1) == found


def test_what_rounding_alone_tells_apart_is_tied() -> None:
    # 0.1 + 0.2 + 0.3 depends on the order of summation; a0 and a1 have the same samples
    first = {"a0": np.array([[0.1, 0.2, 0.3]]), "a1": np.array([[0.3, 0.2, 0.1]]), "a2": np.array([[0.3, 0.3, 0.3]])}
    assert first["a0"].mean() != first["a1"].mean()
    found = rank_agreement(first, {"a0": 1.0, "a1": 2.0, "a2": 3.0}, resamples=1)
    assert found.tau == pytest.approx(2 / math.sqrt(3 * 2))
    assert found.first == ("a2", "a0", "a1")


def test_equal_algorithms_are_tied_in_every_resample() -> None:
    generator = np.random.default_rng(0)
    worse, better = generator.random((3, 50)), generator.random((3, 50)) + 5
    first = {"a0": worse, "a1": better, "a2": better.copy(), "a3": better.copy()}
    found = rank_agreement(first, {"a0": 1.0, "a1": 2.0, "a2": 3.0, "a3": 4.0}, resamples=300)
    tau = 3 / math.sqrt(3 * 6)
    assert (found.tau, found.low, found.high) == (pytest.approx(tau), pytest.approx(tau), pytest.approx(tau))


def naive(
    sides: list[npt.NDArray[np.float64]], rows: list[npt.NDArray[np.int64]], seeds: list[npt.NDArray[np.int64]]
) -> npt.NDArray[np.float64]:
    """Taus of resamples, one by one; seeds as how often each was drawn."""
    taus = []
    for i in range(len(rows[0])):
        means = [
            side[:, np.repeat(np.arange(side.shape[1]), counts[i])][:, :, row[i]].mean(axis=(1, 2))
            for side, row, counts in zip(sides, rows, seeds, strict=True)
        ]
        tau = scipy.stats.kendalltau(*(np.round(side, 12) for side in means)).statistic
        taus.append(0.0 if np.isnan(tau) else tau)
    return np.array(taus)


@pytest.mark.parametrize("samples", [(40, 40), (40, 30)])
def test_bootstrap_equals_a_naive_loop_over_the_same_draws(samples: tuple[int, int]) -> None:
    first = hits(3, samples[0], [0.5, 0.55, 0.6, 0.7])
    second = hits(2, samples[1], [0.5, 0.6, 0.6, 0.65], seed=4)
    found = rank_agreement(first, second, resamples=300, seed=5)
    generator = np.random.default_rng(5)
    rows = [generator.integers(0, samples[0], size=(300, samples[0]))]  # one chunk: 300·40 counts fit
    # as many samples are taken to be the same samples, and drawn once
    rows.append(rows[0] if samples[0] == samples[1] else generator.integers(0, samples[1], size=(300, samples[1])))
    seeds = [generator.multinomial(3, [1 / 3] * 3, size=300), generator.multinomial(2, [1 / 2] * 2, size=300)]
    taus = naive([np.stack(list(side.values())).astype(np.float64) for side in (first, second)], rows, seeds)
    assert len(np.unique(taus)) > 5
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(taus, [0.025, 0.975])))
    assert found.low < found.tau < found.high


def test_figures_are_fixed() -> None:
    first = hits(1, 40, [0.5, 0.55, 0.6, 0.7])
    found = rank_agreement(first, {"a0": 1.0, "a1": 2.0, "a2": 3.0, "a3": 4.0}, resamples=300, seed=5)
    rows = np.random.default_rng(5).integers(0, 40, size=(300, 40))
    side = np.stack(list(first.values())).astype(np.float64)
    taus = naive(
        [side, np.arange(4.0).reshape(4, 1, 1)],
        [rows, np.zeros((300, 1), np.int64)],
        [np.ones((300, 1), np.int64)] * 2,
    )
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(taus, [0.025, 0.975])))


def test_seeds_are_resampled() -> None:
    # all samples are alike, and one seed of three orders the algorithms the other way: a resample that draws it twice
    # or thrice, which is 7 in 27, has the reverse order
    one, other = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])
    first = {f"a{i}": np.repeat([[one[i]], [one[i]], [other[i]]], 4, axis=1) for i in range(3)}
    figures = {"a0": 1.0, "a1": 2.0, "a2": 3.0}
    found = rank_agreement(first, figures, resamples=1000)
    assert (found.tau, found.low, found.high) == (pytest.approx(1), pytest.approx(-1), pytest.approx(1))
    lows = [rank_agreement(first, figures, resamples=1000, level=level).low for level in (0.36, 0.6)]
    assert lows == pytest.approx([1, -1])  # quantiles at 32 % and 20 %; 7 in 27 is 26 %


def test_samples_are_paired_over_algorithms_and_sides() -> None:
    # what samples share is far more than what algorithms differ by
    generator = np.random.default_rng(0)
    shared = generator.normal(0, 100, (1, 400))
    first = {f"a{i}": shared + 0.01 * i + generator.normal(0, 0.01, (1, 400)) for i in range(4)}
    assert rank_agreement(first, dict(zip(first, range(4), strict=True)), resamples=200).low == pytest.approx(1)
    # a ranking agrees with itself in every resample, even where the algorithms hardly differ
    close = hits(1, 100, [0.5, 0.5, 0.5, 0.5])
    found = rank_agreement(close, close, resamples=200)
    assert (found.tau, found.low, found.high) == (pytest.approx(1), pytest.approx(1), pytest.approx(1))
    # but not with one sample fewer, as those are drawn on their own
    assert rank_agreement(close, {name: own[:, 1:] for name, own in close.items()}, resamples=200).low < 0.9


def test_seeds_of_the_sides_are_drawn_apart() -> None:
    one, other = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])
    first = {f"a{i}": np.repeat([[one[i]], [one[i]], [other[i]]], 4, axis=1) for i in range(3)}
    assert rank_agreement(first, first, resamples=200).low == pytest.approx(-1)


def test_a_resample_that_ties_all_counts_as_none() -> None:
    # only the first of two samples orders the algorithms, so a quarter of the resamples lacks it
    first = {f"a{i}": np.array([[float(i), 7.0]]) for i in range(3)}
    found = rank_agreement(first, {"a0": 1.0, "a1": 2.0, "a2": 3.0}, resamples=1000)
    assert (found.tau, found.low, found.high) == (pytest.approx(1), 0.0, pytest.approx(1))
    against = rank_agreement(first, {"a0": 3.0, "a1": 2.0, "a2": 1.0}, resamples=1000)
    assert (against.tau, against.low, against.high) == (pytest.approx(-1), pytest.approx(-1), 0.0)


def test_the_same_every_time_and_a_wider_level_is_wider() -> None:
    sides = hits(2, 60, [0.5, 0.55, 0.6, 0.7]), hits(2, 60, [0.5, 0.6, 0.65, 0.7], seed=4)
    assert rank_agreement(*sides, resamples=100) == rank_agreement(*sides, resamples=100)
    assert rank_agreement(*sides, resamples=100, seed=1) != rank_agreement(*sides, resamples=100)
    narrow, wide = (rank_agreement(*sides, resamples=400, level=level) for level in (0.5, 0.99))
    assert wide.low < narrow.low <= narrow.high < wide.high


def test_a_side_that_orders_nothing_has_no_tau() -> None:
    tied, good = flat([0.5, 0.5, 0.5]), flat([1, 2, 3])
    with pytest.raises(ValueError, match="mean scores of a0, a1, a2 are all the same in first"):
        rank_agreement(tied, good)
    with pytest.raises(ValueError, match="are all the same in second"):
        rank_agreement(good, {"a0": 0.0, "a1": 0.0, "a2": 0.0})


def test_two_algorithms_are_too_few() -> None:
    good = flat([1, 2, 3])
    with pytest.raises(ValueError, match=r"got 2 \(a0, a2\) of \['a0', 'a1', 'a2'\] and \['a0', 'a2', 'b'\]"):
        rank_agreement(good, {"a2": 1.0, "a0": 2.0, "b": 3.0})
    with pytest.raises(ValueError, match=r"got 0 \(none\)"):
        rank_agreement(good, {})


@pytest.mark.parametrize("bad", [np.ones(5), np.ones((1, 6)), np.ones((0, 5)), np.ones((1, 0)), 1.0])
def test_shapes_that_cannot_be_paired_are_refused(bad: npt.NDArray[np.float64]) -> None:
    good = flat([1, 2, 3])
    with pytest.raises(ValueError, match=r"one shape \(seeds, samples\) with entries in first, got"):
        rank_agreement({**good, "a1": bad}, good)
    with pytest.raises(ValueError, match="with entries, or one figure each in second, got"):
        rank_agreement(good, {**good, "a1": bad})


def test_figures_on_the_first_side_have_nothing_to_resample() -> None:
    with pytest.raises(ValueError, match="in first"):
        rank_agreement({"a0": 1.0, "a1": 2.0, "a2": 3.0}, flat([1, 2, 3]))


def test_scores_that_are_not_finite_are_refused() -> None:
    good = flat([1, 2, 3])
    with pytest.raises(ValueError, match="'a2' can't be ranked: its scores in first are not all finite"):
        rank_agreement({**good, "a2": np.array([[1, 1, 1, 1, np.nan]])}, good)
    with pytest.raises(ValueError, match="'a1' can't be ranked: its scores in second are not all finite"):
        rank_agreement(good, {"a0": 1.0, "a1": math.inf, "a2": 2.0})


def test_resamples_and_level_are_checked() -> None:
    good = flat([1, 2, 3])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        rank_agreement(good, good, resamples=0)
    for level in 0.0, 1.0, 95.0:
        with pytest.raises(ValueError, match=f"probability between 0 and 1, got {level}"):
            rank_agreement(good, good, level=level)
