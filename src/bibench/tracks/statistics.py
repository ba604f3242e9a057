"""The statistics behind scores: intervals over seeds, paired bootstrap over test samples, quadratic mean."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

__all__ = [
    "Difference",
    "Interval",
    "jackknife_interval",
    "mean_interval",
    "paired_bootstrap",
    "paired_bootstraps",
    "quadratic_mean",
]

_COUNTS = 1 << 18  # resample counts held at once: 2 MB of integers, so that counting stays in the processor's cache
_MEANS = 1 << 24  # resampled means held at once: 128 MB


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its spread, in the values' unit; ``std``, ``low`` and ``high`` are None for a single value."""

    mean: float
    std: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Mean of ``first`` minus mean of ``second`` with its interval, in the scores' unit."""

    first: str
    second: str
    difference: float
    low: float
    high: float

    @property
    def distinguishable(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def quadratic_mean(values: Sequence[float]) -> float:
    """``sqrt(1/N · sum x_i^2)``, the mean behind every overall metric of BiBench (equations 2, 3, 5, 6, 8, 9).

    Raises:
        ValueError: no values.

    >>> quadratic_mean([1.0, 7.0])
    5.0
    """
    if not values:
        raise ValueError("quadratic_mean needs at least one value, got none")
    return math.sqrt(math.fsum(value * value for value in values) / len(values))


def mean_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean, sample standard deviation (ddof 1) and Student's t interval of independent values, such as one a seed.

    ``mean ± t_{n-1, (1+level)/2} · std / sqrt(n)``. One value has no spread, hence no interval: it is an example.

    Raises:
        ValueError: no values, or a level outside (0, 1).

    >>> found = mean_interval([90.0, 92.0])
    >>> found.mean, round(found.low, 2), round(found.high, 2)
    (91.0, 78.29, 103.71)
    """
    if not values:
        raise ValueError("mean_interval needs at least one value, got none")
    if not 0 < level < 1:
        raise ValueError(f"level is a probability between 0 and 1, got {level}")
    count = len(values)
    mean = math.fsum(values) / count
    if count == 1:
        return Interval(mean=mean, std=None, low=None, high=None, count=1)
    std = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (count - 1))
    half = float(stdtrit(count - 1, (1 + level) / 2)) * std / math.sqrt(count)
    return Interval(mean=mean, std=std, low=mean - half, high=mean + half, count=count)


def jackknife_interval(value: float, left_out: Sequence[float], level: float = 0.95) -> tuple[float, float]:
    """Student's t interval around an estimate, from the estimates that leave out one unit (such as a seed) each.

    ``value ± t_{n-1} · se`` with ``se = sqrt((n-1)/n · sum (x_i - mean x)^2)``. For a mean of n values this
    is the interval of `mean_interval`; it also holds for what is no mean, such as a ratio of standard deviations.

    Raises:
        ValueError: fewer than two units.

    Source: Efron & Tibshirani, 1993, An Introduction to the Bootstrap, equation 11.5.

    >>> low, high = jackknife_interval(91.0, [92.0, 90.0])
    >>> round(low, 2), round(high, 2)
    (78.29, 103.71)
    """
    count = len(left_out)
    if count < 2:
        raise ValueError(f"jackknife_interval needs at least two units to leave out, got {count}")
    mean = math.fsum(left_out) / count
    error = math.sqrt((count - 1) / count * math.fsum((item - mean) ** 2 for item in left_out))
    half = float(stdtrit(count - 1, (1 + level) / 2)) * error
    return value - half, value + half


def paired_bootstrap(
    scores: Mapping[str, npt.NDArray[np.floating]],
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Difference]:
    """Differences of mean scores between all pairs of algorithms, with percentile intervals over test samples.

    Each algorithm's scores are averaged over seeds first. A resample then draws as many test samples as there are,
    with replacement, the same ones for all algorithms, so what makes a sample hard for everyone cancels.
    The interval is about the choice of test samples only, and pairs are not corrected for their number.

    Args:
        scores: by algorithm, an array of shape (seeds, samples); samples in the same order for all.
        resamples: how many.
        seed: of the resampling.
        level: of the interval.

    Raises:
        ValueError: arrays that are not (seeds, samples), that differ in shape, or that are empty.

    Source: Efron & Tibshirani, 1993, An Introduction to the Bootstrap, chapters 8 (paired) and 13 (percentile).

    >>> right, wrong = np.ones((1, 50)), np.zeros((1, 50))
    >>> paired_bootstrap({"a": right, "b": wrong}, resamples=100)
    [Difference(first='a', second='b', difference=1.0, low=1.0, high=1.0)]
    """
    [(_, found)] = paired_bootstraps([("", scores)], resamples=resamples, seed=seed, level=level)
    return found


_Key = TypeVar("_Key")


def paired_bootstraps(
    groups: Iterable[tuple[_Key, Mapping[str, npt.NDArray[np.floating]]]],
    *,
    resamples: int = 10_000,
    seed: int = 0,
    level: float = 0.95,
    all_pairs: int | None = None,
) -> Iterator[tuple[_Key, list[Difference]]]:
    """`paired_bootstrap` of each group of algorithms, such as those of one network.

    Each gives what it gives alone; groups with as many samples that follow each other share the work of drawing them.

    Args:
        groups: the scores of each, after a key that comes back with its differences.
        resamples, seed, level: see `paired_bootstrap`.
        all_pairs: up to so many algorithms all pairs of a group are compared, and beyond it, where these would be too
            many, only those with its best, which has the highest mean; None: always all.

    Raises:
        ValueError: see `paired_bootstrap`.
    """
    keys: list[_Key] = []
    waiting: list[_Gaps] = []
    for key, scores in groups:
        own = _Gaps.of(scores, all_pairs)
        held = resamples * sum(len(group.pairs) for group in waiting)
        if waiting and (len(own.values) != len(waiting[0].values) or held > _MEANS):
            yield from zip(keys, _intervals(waiting, resamples, seed, level), strict=True)
            keys, waiting = [], []
        keys.append(key)
        waiting.append(own)
    yield from zip(keys, _intervals(waiting, resamples, seed, level), strict=True)


@dataclass(frozen=True, kw_only=True)
class _Gaps:
    """Pairs of algorithms, and how much more the first scores than the second: (samples, pairs), mean over seeds."""

    pairs: Sequence[tuple[str, str]]
    values: npt.NDArray[np.float64]

    @classmethod
    def of(cls, scores: Mapping[str, npt.NDArray[np.floating]], all_pairs: int | None) -> _Gaps:
        shapes = {name: values.shape for name, values in scores.items()}
        if len(set(shapes.values())) > 1 or any(len(shape) != 2 or 0 in shape for shape in shapes.values()):
            raise ValueError(f"paired_bootstrap needs arrays of one shape (seeds, samples) with entries, got {shapes}")
        means = {name: values.mean(axis=0, dtype=np.float64) for name, values in scores.items()}
        pairs = list(combinations(means, 2))
        if all_pairs is not None and len(means) > all_pairs:
            best = max(means, key=lambda name: means[name].mean())
            pairs = [pair for pair in pairs if best in pair]
        if not pairs:
            return cls(pairs=(), values=np.empty((0, 0)))
        return cls(pairs=pairs, values=np.stack([means[first] - means[second] for first, second in pairs], axis=1))


def _intervals(groups: Sequence[_Gaps], resamples: int, seed: int, level: float) -> Iterator[list[Difference]]:
    """The differences of groups with the same number of samples."""
    resampled = _resampled_means([group.values for group in groups], resamples, np.random.default_rng(seed))
    for group, means in zip(groups, resampled, strict=True):
        if not group.pairs:
            yield []
            continue
        lows, highs = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
        yield [
            Difference(first=first, second=second, difference=float(gap), low=float(low), high=float(high))
            for (first, second), gap, low, high in zip(group.pairs, group.values.mean(axis=0), lows, highs, strict=True)
        ]


def _resampled_means(
    matrices: Sequence[npt.NDArray[np.float64]], resamples: int, generator: np.random.Generator
) -> list[npt.NDArray[np.float64]]:
    """Means of each column over resampled rows, the same rows of all matrices; of each, shape (resamples, columns).

    How often each row was drawn, times the matrix: the same as gathering the rows, and far faster.
    """
    samples = len(matrices[0]) if matrices else 0
    means = [np.empty((resamples, matrix.shape[1])) for matrix in matrices]
    if not samples:
        return means
    chunk = max(1, _COUNTS // samples)
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        drawn = generator.integers(0, samples, size=(size, samples))
        drawn += np.arange(size)[:, None] * samples
        counts = np.bincount(drawn.ravel(), minlength=size * samples).reshape(size, samples)
        weights = counts.astype(np.float64)
        for own, matrix in zip(means, matrices, strict=True):
            own[start : start + size] = weights @ matrix / samples
    return means
