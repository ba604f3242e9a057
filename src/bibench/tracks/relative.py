"""Relative accuracy: a binarized network's score over its full-precision partner's, and means of it.

Equations 2 and 3 of BiBench differ only in which rows, pairs of (task, architecture), are averaged into one component
before the quadratic mean. Both tracks say which and come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bibench.records import Figure, Record, Results, RunConfig, Score, Status
from bibench.tracks.statistics import mean_interval, quadratic_mean

__all__ = ["FULL_PRECISION", "Row", "ScoreError", "algorithms_in", "relative_scores", "rows_in"]

FULL_PRECISION = "fp32"

_LARGEST = 1e150
"""Ratios from here on would overflow in the quadratic mean."""

Row = tuple[str, str]
"""A task and an architecture: one row of the paper's Tables 7 to 9."""


class ScoreError(ValueError):
    """Stored results that can't be compared with each other; the message names the runs."""


@dataclass(frozen=True)
class _Lack:
    """Why a value cannot be had: a run is not there yet, or it failed and stays so."""

    text: str
    failed: bool = False


_PerSeed = dict[int, float] | list[_Lack]
"""A component's value by seed, or everything that it lacks."""


def algorithms_in(plan: Sequence[RunConfig]) -> list[str]:
    """The labels of a plan without full precision, in its order."""
    return list(dict.fromkeys(run.algorithm for run in plan if run.algorithm != FULL_PRECISION))


def rows_in(plan: Sequence[RunConfig]) -> dict[Row, str]:
    """The (task, architecture) pairs that a plan binarizes, in its order, each with the architecture's family."""
    return {(run.task, run.architecture): run.family for run in plan if run.algorithm != FULL_PRECISION}


def relative_scores(
    results: Results, *, track: str, components: Mapping[str, Sequence[Row]], overall: str, mode: str = "literal"
) -> list[Score]:
    """Score every algorithm of the plan by its accuracy relative to full precision.

    For each component and seed ``E = mean over rows of 100 · A_bi(row, seed) / A_fp(row, seed)`` in percent, and
    ``overall = quadratic mean over components of max(E, 0)``. Values are means over the seeds that the plan has for
    the algorithm, with sample standard deviation and 95 % t interval over them.

    A score is ``failed`` if a run that it needs failed, has no usable figure, or has a full-precision partner whose
    score is zero, negative or next to zero, since nothing can be said relative to that; else ``incomplete`` if a run
    has no record yet, was never planned, or the component has no rows. Negative scores (a correlation) enter their
    component as they are, and a component that stays negative enters the overall metric as 0: squared, it would count
    as merit.

    Args:
        results: planned runs and records; each binarized run needs the ``fp32`` run of its task, architecture, seed.
        track: name of the track.
        components: the metrics, each with the rows that it averages.
        overall: name of the overall metric.
        mode: which reading of the equation the components follow.

    Returns:
        The scores by component, then algorithm, and those of the overall metric at the end.

    Raises:
        ScoreError: two different runs planned for one place, or partners whose figures differ in name, unit or data.

    Source: BiBench (Qin et al., 2023), equations 2 and 3.
    """
    runs = _by_place(results.plan)
    scores = []
    for algorithm in algorithms_in(results.plan):
        seeds = sorted({run.seed for run in results.plan if run.algorithm == algorithm})
        found = {
            metric: _component(results, runs, metric, rows, algorithm, seeds) for metric, rows in components.items()
        }
        found[overall] = _overall(list(found.values()), seeds)
        scores += [
            _score(track=track, metric=metric, algorithm=algorithm, mode=mode, per_seed=per_seed)
            for metric, per_seed in found.items()
        ]
    order = [*components, overall]
    return sorted(scores, key=lambda score: order.index(score.metric))


_Place = tuple[Row, str, int]


def _by_place(plan: Sequence[RunConfig]) -> dict[_Place, RunConfig]:
    runs: dict[_Place, RunConfig] = {}
    for run in plan:
        other = runs.setdefault(((run.task, run.architecture), run.algorithm, run.seed), run)
        if other.id != run.id:
            raise ScoreError(
                f"'{other.id}' and '{run.id}' are different runs of one task, architecture, algorithm and seed; "
                "give one of them another algorithm label"
            )
    return runs


def _component(
    results: Results,
    runs: Mapping[_Place, RunConfig],
    metric: str,
    rows: Sequence[Row],
    algorithm: str,
    seeds: Sequence[int],
) -> _PerSeed:
    if not rows:
        return [_Lack(f"no {metric} in this suite")]
    values: dict[int, float] = {}
    lacks: list[_Lack] = []
    for seed in seeds:
        ratios = []
        for row in rows:
            ratio = _ratio(results, runs, row, algorithm, seed)
            if isinstance(ratio, float):
                ratios.append(ratio)
            else:
                lacks += ratio
        if len(ratios) == len(rows):
            values[seed] = sum(ratios) / len(ratios)
    return lacks or values


def _overall(parts: Sequence[_PerSeed], seeds: Sequence[int]) -> _PerSeed:
    complete = [part for part in parts if isinstance(part, dict)]
    if len(complete) == len(parts):
        return {seed: quadratic_mean([max(part[seed], 0.0) for part in complete]) for seed in seeds}
    return [lack for part in parts if isinstance(part, list) for lack in part]


def _ratio(
    results: Results, runs: Mapping[_Place, RunConfig], row: Row, algorithm: str, seed: int
) -> float | list[_Lack]:
    """``100 · A_bi / A_fp`` in percent, or what it lacks."""
    binarized = _figure(results, runs, (row, algorithm, seed))
    partner = _figure(results, runs, (row, FULL_PRECISION, seed))
    lacks = [found for found in (binarized, partner) if isinstance(found, _Lack)]
    if isinstance(binarized, _Lack) or isinstance(partner, _Lack):
        return lacks
    _check_comparable(*binarized, *partner)
    if partner[1].value <= 0 or abs(ratio := 100 * binarized[1].value / partner[1].value) >= _LARGEST:
        text = f"the full-precision {partner[1].name} is {partner[1].value:g}, which nothing can be relative to"
        return [_Lack(f"{partner[0].id}: {text}", failed=True)]
    return ratio


def _figure(results: Results, runs: Mapping[_Place, RunConfig], place: _Place) -> tuple[Record, Figure] | _Lack:
    (task, architecture), algorithm, seed = place
    run = runs.get(place)
    if run is None:
        return _Lack(f"{task}-{architecture}-{algorithm}-s{seed}: not in this suite")
    record = results.record(run.id)
    if record is None:
        return _Lack(run.id)
    if record.status == "failed":
        return _Lack(f"{run.id}: {record.reason or 'failed without a reason'}", failed=True)
    figure = record.figure(run.metric)
    if figure is None:
        return _Lack(f"{run.id}: its record has no figure '{run.metric}'", failed=True)
    if figure.higher_is_better is False:
        return _Lack(f"{run.id}: '{run.metric}' is better when lower, and has no relative accuracy", failed=True)
    return record, figure


def _check_comparable(first: Record, figure: Figure, second: Record, partner: Figure) -> None:
    """Raise ScoreError where a ratio of the two figures would mean nothing."""
    for what, one, other in (
        ("figure", figure.name, partner.name),
        ("unit", figure.unit, partner.unit),
        ("data fingerprint", first.data, second.data),
    ):
        if one != other:
            raise ScoreError(
                f"cannot compare '{first.id}' ({what} '{one}') with '{second.id}' ({what} '{other}'); "
                "run one of them again so that both agree"
            )


def _score(*, track: str, metric: str, algorithm: str, mode: str, per_seed: _PerSeed) -> Score:
    if isinstance(per_seed, list):
        status: Status = "failed" if any(lack.failed for lack in per_seed) else "incomplete"
        missing = tuple(dict.fromkeys(lack.text for lack in per_seed))
        return Score(
            track=track, metric=metric, algorithm=algorithm, value=None, status=status, mode=mode, missing=missing
        )
    spread = mean_interval(list(per_seed.values()))
    return Score(
        track=track,
        metric=metric,
        algorithm=algorithm,
        value=spread.mean,
        low=spread.low,
        high=spread.high,
        mode=mode,
        std=spread.std,
        seeds=spread.count,
    )
