"""Intervals and the bootstrap, against scipy and against a naive loop."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from bibench.tracks import statistics
from bibench.tracks.statistics import mean_interval, paired_bootstrap, paired_bootstraps, quadratic_mean


@pytest.mark.parametrize("level", [0.5, 0.95, 0.99])
@pytest.mark.parametrize("count", [2, 3, 10])
def test_mean_interval_is_students_t(count: int, level: float) -> None:
    values = np.random.default_rng(count).normal(90, 3, count)
    found = mean_interval(list(values), level)
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(level)
    assert (found.low, found.high) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert found.std == pytest.approx(values.std(ddof=1))
    assert (found.mean, found.count) == (pytest.approx(values.mean()), count)


def test_one_value_has_no_interval() -> None:
    found = mean_interval([91.0])
    assert (found.mean, found.std, found.low, found.high, found.count) == (91.0, None, None, None, 1)


def test_mean_interval_refuses_what_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])
    with pytest.raises(ValueError, match="level"):
        mean_interval([1.0], level=95)


def test_quadratic_mean() -> None:
    assert quadratic_mean([1.0, 7.0]) == 5.0  # sqrt((1 + 49)/2)
    with pytest.raises(ValueError, match="at least one"):
        quadratic_mean([])


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=9))
def test_quadratic_mean_lies_between_mean_and_maximum(values: list[float]) -> None:
    found = quadratic_mean(values)
    assert sum(values) / len(values) <= found * (1 + 1e-9)
    assert found <= max(values) * (1 + 1e-9)


def hits(seeds: int, samples: int, *rates: float) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(3)
    return {f"a{i}": (generator.random((seeds, samples)) < rate).astype(np.float32) for i, rate in enumerate(rates)}


def test_bootstrap_equals_a_naive_loop_over_the_same_indices() -> None:
    scores = hits(2, 40, 0.9, 0.8, 0.5)
    found = paired_bootstrap(scores, resamples=200, seed=5)
    drawn = np.random.default_rng(5).integers(0, 40, size=(200, 40))  # one chunk: 200·40 counts fit
    means = {name: values.mean(axis=0) for name, values in scores.items()}
    pairs = [("a0", "a1"), ("a0", "a2"), ("a1", "a2")]
    assert [(one.first, one.second) for one in found] == pairs
    for one in found:
        gaps = [means[one.first][row].mean() - means[one.second][row].mean() for row in drawn]
        assert one.difference == pytest.approx(means[one.first].mean() - means[one.second].mean(), abs=1e-6)
        assert (one.low, one.high) == pytest.approx(tuple(np.quantile(gaps, [0.025, 0.975])), abs=1e-6)


def test_bootstrap_agrees_with_scipy_over_many_chunks() -> None:
    scores = hits(1, 2000, 0.9, 0.88)
    found = paired_bootstrap(scores, resamples=2000)[0]
    expected = scipy.stats.bootstrap(
        (scores["a0"][0], scores["a1"][0]),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        vectorized=True,
        n_resamples=2000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert found.low == pytest.approx(expected.low, abs=2e-3)
    assert found.high == pytest.approx(expected.high, abs=2e-3)


def test_pairing_tells_apart_what_independent_samples_would_not() -> None:
    base = hits(1, 500, 0.6)["a0"]
    better = base.copy()
    better[0, np.flatnonzero(base[0] == 0)[:10]] = 1  # right wherever base is, and on 10 samples more
    found = paired_bootstrap({"better": better, "base": base}, resamples=2000)[0]
    assert found.difference == pytest.approx(0.02)
    assert found.distinguishable  # the standard error of two independent means is 0.03


def test_bootstrap_of_equal_scores_is_exactly_zero() -> None:
    same = hits(3, 100, 0.7)["a0"]
    found = paired_bootstrap({"a": same, "b": same.copy()}, resamples=50)[0]
    assert (found.difference, found.low, found.high, found.distinguishable) == (0.0, 0.0, 0.0, False)


def test_bootstrap_is_the_same_every_time() -> None:
    scores = hits(1, 50, 0.9, 0.8)
    assert paired_bootstrap(scores, resamples=100) == paired_bootstrap(scores, resamples=100)
    assert paired_bootstrap({"a": scores["a0"]}) == []


@pytest.mark.parametrize("bad", [np.ones(5), np.ones((1, 6)), np.ones((0, 5)), np.ones((1, 0))])
def test_bootstrap_refuses_shapes_that_cannot_be_paired(bad: np.ndarray) -> None:
    with pytest.raises(ValueError, match="one shape"):
        paired_bootstrap({"a": np.ones((1, 5)), "b": bad})


def test_groups_give_together_what_each_gives_alone() -> None:
    groups = {"x": hits(2, 60, 0.9, 0.8, 0.5), "y": hits(1, 60, 0.7, 0.6), "z": hits(1, 45, 0.7, 0.6), "alone": {}}
    found = dict(paired_bootstraps(groups.items(), resamples=300, seed=4))
    assert found == {key: paired_bootstrap(scores, resamples=300, seed=4) for key, scores in groups.items()}
    assert [len(differences) for differences in found.values()] == [3, 1, 1, 0]


def test_groups_that_are_too_large_to_hold_at_once_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [(place, hits(1, 50, 0.9, 0.8 - place / 10)) for place in range(4)]
    whole = list(paired_bootstraps(groups, resamples=100))
    monkeypatch.setattr(statistics, "_MEANS", 100)
    assert list(paired_bootstraps(groups, resamples=100)) == whole


def test_beyond_so_many_algorithms_only_pairs_with_the_best_are_compared() -> None:
    scores = hits(2, 80, 0.5, 0.95, 0.7, 0.6)
    every = paired_bootstrap(scores, resamples=200)
    [(_, few)] = paired_bootstraps([("", scores)], resamples=200, all_pairs=3)
    assert [(one.first, one.second) for one in few] == [("a0", "a1"), ("a1", "a2"), ("a1", "a3")]
    expected = [one for one in every if "a1" in (one.first, one.second)]
    for own, alike in zip(few, expected, strict=True):
        assert (own.difference, own.low, own.high) == pytest.approx((alike.difference, alike.low, alike.high))
    [(_, all_of_them)] = paired_bootstraps([("", scores)], resamples=200, all_pairs=4)
    assert all_of_them == every
