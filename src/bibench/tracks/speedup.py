"""How much faster one way of training reaches an accuracy than another, and what an uneven split of a budget gains.

Sections 4.4, 4.5 and 6 of "Fast Binarized Neural Network Training with Partial Pre-Training". A curve isn't the
history of one training: each of its points is a training of its own, its schedule compressed into that point's budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from bibench.tracks.statistics import mean_interval

__all__ = ["Point", "Speedup", "SpeedupError", "SplitGain", "Trial", "best_split", "cost_to", "median_curve", "speedup"]


class SpeedupError(ValueError):
    """Trials or curves that no speedup or gain can be said of; the message names what is amiss."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One training from start to end: what it cost (iterations, or seconds) and the score it reached.

    Raises:
        SpeedupError: a cost that isn't finite and above 0, or a score that isn't finite.
    """

    cost: float
    score: float

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, kw_only=True)
class Point:
    """The trials of one budget: median cost, median score, lowest and highest score.

    Raises:
        SpeedupError: a cost that isn't finite and above 0, a score that isn't finite or isn't from ``lowest`` to
            ``highest``, or no trials.
    """

    cost: float
    score: float
    lowest: float
    highest: float
    trials: int

    def __post_init__(self) -> None:
        _check(self)
        if not -math.inf < self.lowest <= self.score <= self.highest < math.inf:
            raise SpeedupError(
                f"a point's score lies from its lowest to its highest, all finite; "
                f"got {self.score} from {self.lowest} to {self.highest}"
            )
        if self.trials < 1:
            raise SpeedupError(f"a point rests on at least one trial, got {self.trials}")


@dataclass(frozen=True, kw_only=True)
class Speedup:
    """How many times cheaper the faster curve is at the same score.

    Args:
        value: harmonic mean over the target scores.
        low, high: the smallest and the largest over the target scores. They show how the speedup changes along the
            curve; they are no interval over trials.
        used: target scores that it is the mean of.
        left_out: target scores below the first point of a curve; that curve's cost is not known there.
        converged: whether the curves end at the same score: the ranges over trials of their best points (the cheapest,
            if several are) meet. One trial has no range, so there it is whether the scores are equal.
    """

    value: float
    low: float
    high: float
    used: int
    left_out: int
    converged: bool


@dataclass(frozen=True, kw_only=True)
class SplitGain:
    """What the best share of full-precision training scores above the reference share, in the scores' unit.

    Args:
        share: the best.
        gain: mean over seeds of its score minus that of the reference.
        low, high: Student's t interval (95 %) of the gain over seeds; None for a single seed.
        seeds: those that all shares have, and that it is the mean of.
    """

    share: float
    gain: float
    low: float | None
    high: float | None
    seeds: tuple[int, ...]


def median_curve(trials: Mapping[Any, Sequence[Trial]]) -> tuple[Point, ...]:
    """One point a budget, in ascending order of cost: the median over its trials, and their lowest and highest score.

    Cost and score have each their own median; of an even number of trials it is the mean of the middle two.

    Args:
        trials: by budget; what a budget is called doesn't matter.

    Raises:
        SpeedupError: no budgets, or one without trials; names it.

    Source: section 4.4 (median and min/max of three trials).

    >>> median_curve({1000: [Trial(cost=1000, score=score) for score in (0.7, 0.5, 0.8)]})
    (Point(cost=1000, score=0.7, lowest=0.5, highest=0.8, trials=3),)
    """
    if not trials:
        raise SpeedupError("a curve needs the trials of at least one budget, got none")
    points = []
    for budget, own in trials.items():
        if not own:
            raise SpeedupError(f"budget {budget!r} has no trials; a point needs at least one")
        scores = [trial.score for trial in own]
        points.append(
            Point(
                cost=median(trial.cost for trial in own),
                score=median(scores),
                lowest=min(scores),
                highest=max(scores),
                trials=len(own),
            )
        )
    return _ordered(points)


def cost_to(curve: Sequence[Point], target: float) -> float | None:
    """The lowest cost at which the piecewise linear curve through (cost, score) reaches a score.

    Between the points ``a`` and ``b`` that it first lies between:
    ``cost_a + (target - score_a) / (score_b - score_a) · (cost_b - cost_a)``. What a curve does later doesn't matter.

    Args:
        curve: in any order; points of equal cost count in ascending order of score.
        target: the score.

    Returns:
        None if the curve never gets there, and if it starts above it: how much less than its first point would have
        done is not known.

    Raises:
        SpeedupError: fewer than two points, or a target that isn't finite.

    >>> curve = [Point(cost=cost, score=score, lowest=score, highest=score, trials=1)
    ...          for cost, score in [(100, 0.5), (200, 0.7), (400, 0.8)]]
    >>> cost_to(curve, 0.75), cost_to(curve, 0.8), cost_to(curve, 0.4), cost_to(curve, 0.9)
    (300.0, 400.0, None, None)
    """
    if not math.isfinite(target):
        raise SpeedupError(f"a target is a finite score, got {target}")
    points = _ordered(curve, least=2)
    if target < points[0].score:
        return None
    # the curve starts at or below the target, so the first point that isn't below it ends the segment that crosses it
    for number, point in enumerate(points):
        if point.score < target:
            continue
        if point.score == target:  # no arithmetic: the highest score of a curve has to be found on it
            return float(point.cost)
        before = points[number - 1]
        share = (target - before.score) / (point.score - before.score)
        return (1 - share) * before.cost + share * point.cost
    return None


def speedup(baseline: Sequence[Point], faster: Sequence[Point], *, targets: int = 100, least: float = 0.5) -> Speedup:
    """How many times cheaper ``faster`` reaches the scores that ``baseline`` reaches.

    ``1 / mean over a of (C_faster(a) / C_baseline(a))``, the harmonic mean of the ratios of `cost_to`, over evenly
    spaced scores a, both ends included, from ``least`` times the highest median score on either curve to the highest
    that both reach. Where the curves have not converged, scores that only one of them reaches don't enter.

    The paper has no rule for a score below the first point of a curve. It is left out and counted: extrapolated costs
    would come from no training.

    Args:
        baseline: curve of what is to be sped up, such as training binarized from scratch, in any order.
        faster: curve of what it is compared with; costs and scores in the same units.
        targets: how many scores, at least two.
        least: lowest score of interest, as a share of the highest, from 0 to 1.

    Raises:
        SpeedupError: a curve of fewer than two points, a highest score that isn't above 0 (half of it is no lower
            bound), no target score that both curves have a cost for, fewer than two targets, or ``least`` out of range.

    Source: section 4.5. Its "maximum accuracy achievable by the binarized network" is read as the highest of the two
    curves, both of binarized networks; "the accuracy at which the techniques converge" as the lower of their maxima.

    >>> from_scratch = [Point(cost=cost, score=score, lowest=score, highest=score, trials=1)
    ...                 for cost, score in [(200, 0.4), (400, 0.8)]]
    >>> half_price = [Point(cost=cost, score=score, lowest=score, highest=score, trials=1)
    ...               for cost, score in [(100, 0.4), (200, 0.8)]]
    >>> speedup(from_scratch, half_price)
    Speedup(value=2.0, low=2.0, high=2.0, used=100, left_out=0, converged=True)
    """
    if targets < 2:
        raise SpeedupError(f"targets is the number of scores from the lowest to the highest, at least 2, got {targets}")
    if not 0 <= least <= 1:
        raise SpeedupError(f"least is a share of the highest score from 0 to 1, got {least}")
    ends = [max(_ordered(curve, least=2), key=lambda point: point.score) for curve in (baseline, faster)]
    best, top = max(end.score for end in ends), min(end.score for end in ends)
    if best <= 0:
        raise SpeedupError(f"the highest score of the two curves is {best}; a share of it needs one above 0")
    lowest = least * best
    if lowest > top:
        raise SpeedupError(
            f"no score to compare at: one curve ends at {top}, below {lowest}, which is {least} of the highest, {best}"
        )
    scores = np.linspace(lowest, top, targets).tolist()  # the last is top itself: rounded up, no curve might reach it
    pairs = [(cost_to(baseline, score), cost_to(faster, score)) for score in scores]
    found = [(slow, fast) for slow, fast in pairs if slow is not None and fast is not None]
    if not found:
        starts = " and ".join(str(_ordered(curve)[0].score) for curve in (baseline, faster))
        raise SpeedupError(
            f"no score to compare at: the curves start at {starts}, of which one is above all scores from {lowest} "
            f"to {top}; trainings with smaller budgets would tell"
        )
    ratios = [slow / fast for slow, fast in found]
    return Speedup(
        value=len(found) / math.fsum(fast / slow for slow, fast in found),
        low=min(ratios),
        high=max(ratios),
        used=len(found),
        left_out=len(pairs) - len(found),
        converged=max(end.lowest for end in ends) <= min(end.highest for end in ends),
    )


def best_split(scores: Mapping[float, Mapping[int, float]], reference: float = 0.5) -> SplitGain:
    """The best share of full-precision training in one total budget, and what it gains over the reference share.

    ``gain = mean over seeds of (score(best, seed) - score(reference, seed))``, with best the share of the highest mean
    score over the seeds that all shares have. Of equal means the share nearest to the reference wins, then the smaller.

    The gain looks larger than it is (winner's curse): the best of several shares is chosen on the very trials that its
    gain is computed from, so it is in part the luckiest, and the gain is never below 0 even where the share makes no
    difference. The interval doesn't correct for that. Fresh seeds of the chosen share and the reference would.

    Args:
        scores: by share of the budget spent in full precision, from 0 to 1, and by seed; higher is better.
        reference: the share to compare with; the paper splits evenly.

    Raises:
        SpeedupError: a share outside [0, 1], a reference that isn't among the shares, no seed that all shares have, or
            a score that isn't finite; names them.

    Source: section 6, figure 3b. The paper shows it without a test.

    >>> found = best_split({0.25: {0: 0.80, 1: 0.82}, 0.5: {0: 0.79, 1: 0.80}, 0.75: {0: 0.75, 1: 0.76}})
    >>> found.share, round(found.gain, 4), found.seeds
    (0.25, 0.015, (0, 1))
    """
    for share, own in scores.items():
        if not 0 <= share <= 1:
            raise SpeedupError(f"a share of full-precision training is from 0 to 1, got {share}")
        for seed, score in own.items():
            if not math.isfinite(score):
                raise SpeedupError(f"the score of share {share} with seed {seed} is {score}; it has to be finite")
    if reference not in scores:
        raise SpeedupError(f"reference {reference} is not among the shares {sorted(scores)}")
    seeds = tuple(sorted(set.intersection(*(set(own) for own in scores.values()))))
    if not seeds:
        by_share = "; ".join(f"{share}: {sorted(own)}" for share, own in sorted(scores.items()))
        raise SpeedupError(f"no seed is common to all shares, so they can't be paired; seeds by share are {by_share}")

    def gains(share: float) -> list[float]:
        return [scores[share][seed] - scores[reference][seed] for seed in seeds]

    # by the gain, which orders as the mean does: so rounding can't choose a share that then loses to the reference
    best = max(scores, key=lambda share: (math.fsum(gains(share)), -abs(share - reference), -share))
    found = mean_interval(gains(best))
    return SplitGain(share=best, gain=found.mean, low=found.low, high=found.high, seeds=seeds)


def _check(item: Trial | Point) -> None:
    kind = type(item).__name__.lower()
    if not 0 < item.cost < math.inf:
        raise SpeedupError(f"a {kind}'s cost is a finite number above 0, got {item.cost}")
    if not math.isfinite(item.score):
        raise SpeedupError(f"a {kind}'s score is a finite number, got {item.score}")


def _ordered(curve: Sequence[Point], least: int = 1) -> tuple[Point, ...]:
    """The points by cost, those of equal cost by score, so that no result hangs on the order that they came in."""
    if len(curve) < least:
        raise SpeedupError(f"a curve needs at least {least} points to draw a line between, got {len(curve)}")
    return tuple(sorted(curve, key=lambda point: (point.cost, point.score, point.lowest, point.highest)))
