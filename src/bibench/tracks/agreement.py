"""How well two rankings of the same algorithms agree, such as a cheap protocol's with an expensive one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bibench.tracks.statistics import _resampled_means

__all__ = ["Agreement", "rank_agreement"]

_ROUNDING = 1e-12  # of the largest score: means that differ by less are equal up to the order of summation


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Kendall's tau-b between two rankings with its interval, and the rankings.

    Args:
        tau: from -1 (reversed) to 1 (the same).
        low, high: percentile bootstrap interval.
        algorithms: those in both rankings.
        first, second: the same algorithms, best first; tied ones as in ``algorithms``.
    """

    tau: float
    low: float
    high: float
    algorithms: tuple[str, ...]
    first: tuple[str, ...]
    second: tuple[str, ...]


def rank_agreement(
    first: Mapping[str, npt.NDArray[np.floating]],
    second: Mapping[str, npt.NDArray[np.floating]] | Mapping[str, float],
    *,
    higher_is_better: bool = True,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Agreement:
    """Kendall's tau-b between the rankings of algorithms by their mean score on two sides, with a bootstrap interval.

    ``tau_b = (P - Q) / sqrt((P + Q + T) · (P + Q + U))`` with P concordant and Q discordant pairs of algorithms, T
    pairs tied on the first side alone and U on the second alone. Means that differ by rounding alone are tied.

    A resample draws, with replacement, as many test samples and as many seeds as there are, the same ones for all
    algorithms of a side, so what makes a sample hard for everyone doesn't reorder them. Sides with the same number of
    samples share the draw of samples (they are taken to be the same test samples); seeds are drawn for each side on its
    own, as they are different trainings. A resample in which a side ties all algorithms has no tau-b and counts as 0:
    such a side speaks neither for nor against the other's order, and leaving it out would hide that it has none.

    The algorithms are fixed: the interval says how sure tau is for these, not what others would give. Few seeds make it
    narrow, since resampling n of them shows ``(n - 1) / n`` of their variance. It tends to lie below tau where
    algorithms are close, since a resample adds its noise to the noise that the scores have already.

    Args:
        first: by algorithm, per-sample scores of shape (seeds, samples); samples and seeds in the same order for all.
        second: the same, or by algorithm one figure, such as a published one, which is taken as it is. Algorithms that
            only one side has are left out.
        higher_is_better: on both sides. It is for the orders; tau is the same either way.
        resamples: how many.
        seed: of the resampling.
        level: of the interval.

    Raises:
        ValueError: fewer than three algorithms in common (two agree or don't, by chance half of the time), a side whose
            arrays are not all (seeds, samples) of one shape, scores that aren't finite, a side on which all algorithms
            are tied (tau-b is 0/0), no resamples, or a level outside (0, 1).

    Source: Kendall, 1945, The treatment of ties in ranking problems (tau-b), as ``scipy.stats.kendalltau``; Efron &
    Tibshirani, 1993, An Introduction to the Bootstrap, chapter 13 (percentile).

    >>> scores = {name: np.full((1, 20), score) for name, score in [("bnn", 0.8), ("react", 0.9), ("recu", 0.7)]}
    >>> found = rank_agreement(scores, {"bnn": 61.2, "react": 65.5, "recu": 66.4}, resamples=100)
    >>> round(found.tau, 4), found.first, found.second
    (-0.3333, ('react', 'bnn', 'recu'), ('recu', 'react', 'bnn'))
    """
    from scipy.stats import kendalltau  # here, so that scoring doesn't wait for it

    if resamples < 1:
        raise ValueError(f"resamples is how often to resample, at least 1, got {resamples}")
    if not 0 < level < 1:
        raise ValueError(f"level is a probability between 0 and 1, got {level}")
    algorithms = tuple(name for name in first if name in second)
    if len(algorithms) < 3:
        raise ValueError(
            f"rank_agreement needs at least three algorithms that both sides have, got {len(algorithms)} "
            f"({', '.join(algorithms) or 'none'}) of {sorted(first)} and {sorted(second)}"
        )
    sides = _stacked("first", first, algorithms), _stacked("second", second, algorithms, or_figures=True)
    ranks = [_ranks(side.mean(axis=(1, 2))[None], side)[0] for side in sides]
    for name, row in zip(("first", "second"), ranks, strict=True):
        if not row.any():
            raise ValueError(
                f"tau-b is not defined where one side has no order: the mean scores of {', '.join(algorithms)} "
                f"are all the same in {name}"
            )
    drawn = [_ranks(means, side) for means, side in zip(_resampled(sides, resamples, seed), sides, strict=True)]
    taus = np.nan_to_num([kendalltau(*pair).statistic for pair in zip(*drawn, strict=True)], nan=0.0)
    low, high = np.quantile(taus, [(1 - level) / 2, (1 + level) / 2])
    orders = [
        tuple(algorithms[i] for i in np.argsort(-row if higher_is_better else row, kind="stable")) for row in ranks
    ]
    return Agreement(
        tau=float(kendalltau(*ranks).statistic),
        low=float(low),
        high=float(high),
        algorithms=algorithms,
        first=orders[0],
        second=orders[1],
    )


def _stacked(
    side: str, scores: Mapping[str, npt.ArrayLike], algorithms: Sequence[str], *, or_figures: bool = False
) -> npt.NDArray[np.float64]:
    """The scores of one side, shape (algorithms, seeds, samples)."""
    arrays = {name: np.asarray(scores[name], dtype=np.float64) for name in algorithms}
    if or_figures and all(array.ndim == 0 for array in arrays.values()):
        # one seed and one sample, which resampling leaves as they are
        arrays = {name: array.reshape(1, 1) for name, array in arrays.items()}
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1 or any(len(shape) != 2 or 0 in shape for shape in shapes.values()):
        expected = "arrays of one shape (seeds, samples) with entries" + (", or one figure each" if or_figures else "")
        raise ValueError(f"rank_agreement needs {expected} in {side}, got {shapes}")
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"'{name}' can't be ranked: its scores in {side} are not all finite")
    return np.stack(list(arrays.values()))


def _ranks(means: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> npt.NDArray[np.intp]:
    """Dense ranks from 0 within each row of (resamples, algorithms); what differs by rounding alone shares one."""
    order = means.argsort(axis=1)
    steps = np.diff(np.take_along_axis(means, order, axis=1), axis=1) > _ROUNDING * np.abs(scores).max()
    ranks = np.zeros(means.shape, dtype=np.intp)
    np.put_along_axis(ranks, order[:, 1:], steps.cumsum(axis=1), axis=1)
    return ranks


def _resampled(sides: Sequence[npt.NDArray[np.float64]], resamples: int, seed: int) -> list[npt.NDArray[np.float64]]:
    """Mean scores by side over resampled samples and seeds, shape (resamples, algorithms)."""
    generator = np.random.default_rng(seed)
    columns = [side.reshape(-1, side.shape[2]).T for side in sides]  # (samples, algorithms · seeds)
    if len({len(own) for own in columns}) == 1:
        together = _resampled_means([np.concatenate(columns, axis=1)], resamples, generator)[0]
        by_side = np.split(together, [columns[0].shape[1]], axis=1)
    else:
        by_side = [_resampled_means([own], resamples, generator)[0] for own in columns]
    found = []
    for side, means in zip(sides, by_side, strict=True):
        algorithms, seeds, _ = side.shape
        counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
        found.append(np.einsum("ras,rs->ra", means.reshape(resamples, algorithms, seeds), counts) / seeds)
    return found
