"""The training-speed track: how much sooner partial pre-training reaches a score than training from scratch does."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from bibench.records import Absence, Figure, Record, Results, RunConfig, Score
from bibench.tracks.base import FinishedRun, Track
from bibench.tracks.lookup import (
    FULL_PRECISION,
    Lack,
    Lookup,
    Row,
    by_seed,
    check_comparable,
    make_score,
)
from bibench.tracks.speedup import (
    Point,
    Speedup,
    SpeedupError,
    SplitGain,
    Trial,
    best_split,
    median_curve,
    speedup,
)
from bibench.tracks.statistics import jackknife_interval
from bibench.training.speed import iteration_times

__all__ = ["EVEN", "Curve", "Network", "measured_speedup", "networks", "training_speed"]

_NAME = "training_speed"
_EPOCHS, _SKIPPED = 5, 3

EVEN = 0.5
"""The paper's share of full precision."""

_BASELINE, _FASTER = "from_scratch", "partial_pretraining"
_TITLES = {
    "full_precision": "full precision",
    "from_scratch": "from scratch",
    "partial_pretraining": "partial pre-training",
    "fine_tune": "fine-tuning",
}


def _measure(run: FinishedRun) -> list[Figure | Absence]:
    """The time of an iteration over real batches beside full precision, as the paper's Table 2 has it.

    The mean over 5 epochs, the first 3 batches of each left out; both networks take turns and have the binarized run's
    recipe. Where that has distillation, the binarized iteration includes the teacher's part.
    """
    if run.config.operator is None:
        return []
    recipe = run.config.known_recipe
    batches = max(1, len(run.data.train) // recipe.batch_size)
    if batches <= _SKIPPED:
        reason = f"an epoch has {batches} batches, of which the first {_SKIPPED} aren't timed"
        return [Absence(name="slowdown", status="not_measured", reason=reason)]
    with torch.random.fork_rng(devices=[]):
        partner = run.architecture.build(run.task.input_shape, run.data.outputs).to(run.device)
    times = iteration_times(
        {"full precision": partner, "binarized": run.model},
        task=run.task,
        data=run.data,
        recipes={"full precision": replace(recipe, distillation=None), "binarized": recipe},
        teachers={"binarized": partner},
        device=run.device,
        epochs=_EPOCHS,
        skip=_SKIPPED,
        most=run.measuring.iterations,
    )
    full, own = times["full precision"], times["binarized"]
    ratios = [a / b for a, b in zip(own.seconds, full.seconds, strict=True)]
    found = (
        ("iteration_speed", 1 / statistics.fmean(own.seconds), "1/s", True),
        ("full_precision_iteration_speed", 1 / statistics.fmean(full.seconds), "1/s", None),
        ("slowdown", statistics.fmean(own.seconds) / statistics.fmean(full.seconds), "ratio", False),
        ("slowdown_lowest", min(ratios), "ratio", None),
        ("slowdown_highest", max(ratios), "ratio", None),
    )
    return [
        Figure(name=name, value=value, unit=unit, samples=_EPOCHS * own.steps, higher_is_better=better)
        for name, value, unit, better in found
    ]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """The trainings of one method on one network, by total budget.

    Args:
        method: as in `bibench.records.RunConfig`.
        share: of full precision in the budget, in partial pre-training.
        trials: by total budget (that of the full-precision part included) and seed: score and seconds.
    """

    method: str
    share: float | None
    trials: Mapping[int, Mapping[int, tuple[float, float]]]

    def points(self, cost: str, without: int | None = None) -> tuple[Point, ...]:
        """Median, lowest and highest score by cost, which is ``"budget"`` or ``"seconds"``; leaving out a seed."""
        by_budget = {
            budget: [
                Trial(cost=seconds if cost == "seconds" else budget, score=score)
                for seed, (score, seconds) in own.items()
                if seed != without
            ]
            for budget, own in self.trials.items()
        }
        return median_curve({budget: trials for budget, trials in by_budget.items() if trials})

    @property
    def title(self) -> str:
        """The method in prose, with its share where that isn't the paper's."""
        title = _TITLES.get(self.method, self.method)
        return title if self.share in (None, EVEN) else f"{title}, share {self.share:g}"


@dataclass(frozen=True, kw_only=True)
class Network:
    """The training curves of one algorithm on one network.

    Args:
        row: task and architecture.
        algorithm: the label.
        metric, unit: of the score.
        budget_unit: ``"steps"`` or ``"epochs"``.
        curves: full precision first.
        cells: of partial pre-training, score by seed, by the budgets of the full-precision and the binarized part.
        lacks: runs that are missing.
    """

    row: Row
    algorithm: str
    metric: str
    unit: str
    budget_unit: str
    curves: tuple[Curve, ...]
    cells: Mapping[tuple[int, int], Mapping[int, float]]
    lacks: tuple[Lack, ...]

    def curve(self, method: str, share: float | None = None) -> Curve | None:
        """The curve of a method, or None."""
        return next((own for own in self.curves if own.method == method and own.share == share), None)

    def by_share(self) -> dict[int, dict[float, Mapping[int, float]]]:
        """Scores of partial pre-training by total budget, then share; the budgets that were split in several ways."""
        found: dict[int, dict[float, Mapping[int, float]]] = {}
        for (first, second), scores in sorted(self.cells.items()):
            found.setdefault(first + second, {})[_share(first, second)] = scores
        return {total: dict(sorted(shares.items())) for total, shares in sorted(found.items()) if len(shares) > 1}

    def gains(self) -> dict[int, SplitGain]:
        """For each total budget that was also split evenly, what the best split gains over that (its section 6)."""
        return {
            total: best_split(shares, EVEN)
            for total, shares in self.by_share().items()
            if EVEN in shares and set.intersection(*(set(scores) for scores in shares.values()))
        }


def _share(first: int, second: int) -> float:
    return round(first / (first + second), 4)


def networks(results: Results) -> list[Network]:
    """The training curves in some results: one item an algorithm and network, in the plan's order.

    A point's cost in seconds is the training of its two parts and the conversion between them, from just before the
    first iteration until just after the last; reading data, evaluating and writing checkpoints are not in it.

    Raises:
        ScoreError: runs of one network that can't be compared.

    Source: Partial pre-training, sections 4.4 and 5.
    """
    lookup = results.once(Lookup)
    plan = [run for run in results.plan if run.point is not None]
    configs = {run.id: run for run in results.plan}
    rows: dict[tuple[Row, str], list[RunConfig]] = {}
    full_precision: dict[Row, list[RunConfig]] = {}
    for run in plan:
        row = (run.task, run.architecture)
        if run.algorithm != FULL_PRECISION:
            rows.setdefault((row, run.algorithm), []).append(run)
        else:
            full_precision.setdefault(row, []).append(run)
    found = []
    for (row, algorithm), runs in rows.items():
        trials: dict[tuple[str, float | None], dict[int, dict[int, tuple[float, float]]]] = {}
        cells: dict[tuple[int, int], dict[int, float]] = {}
        lacks: list[Lack] = []
        first: list[tuple[Record, Figure]] = []
        for run in (*full_precision.get(row, ()), *runs):
            trial = _trial(lookup, run, configs, first)
            if isinstance(trial, list):
                lacks += trial
                continue
            parent = configs[run.parent].known_recipe.budget if run.parent is not None else 0
            budget = run.known_recipe.budget
            trials.setdefault((run.method, run.share), {}).setdefault(parent + budget, {})[run.seed] = trial
            if run.method == _FASTER:
                cells.setdefault((parent, budget), {})[run.seed] = trial[0]
        figure = first[0][1] if first else None
        found.append(
            Network(
                row=row,
                algorithm=algorithm,
                metric=runs[0].metric,
                unit=figure.unit if figure else "",
                budget_unit=runs[0].known_recipe.unit,
                curves=tuple(
                    Curve(method=method, share=share, trials=dict(sorted(by_budget.items())))
                    for (method, share), by_budget in trials.items()
                ),
                cells=cells,
                lacks=tuple(lacks),
            )
        )
    return found


def _trial(
    lookup: Lookup, run: RunConfig, configs: Mapping[str, RunConfig], first: list[tuple[Record, Figure]]
) -> tuple[float, float] | list[Lack]:
    """Score and seconds of a run, those of the run that it starts from included, or what is missing."""
    record = lookup.of(run)
    if isinstance(record, Lack):
        return [record]
    seconds = record.phases.get("train", 0.0)
    if run.parent is not None and run.parent in configs:
        parent = lookup.of(configs[run.parent])
        if isinstance(parent, Lack):
            return [parent]
        seconds += parent.phases.get("train", 0.0) + record.phases.get("convert", 0.0)
    figure = record.figure(run.metric)
    if figure is None or not seconds > 0:
        return [Lack(f"{run.id}: its record has no figure '{run.metric}' or no training time", "failed")]
    if figure.higher_is_better is False:
        return [Lack(f"{run.id}: '{run.metric}' is better when lower, which the speedup isn't defined for", "failed")]
    if not first:
        first.append((record, figure))
    check_comparable(record, figure, *first[0])
    return figure.value, seconds


def measured_speedup(network: Network, cost: str, without: int | None = None) -> Speedup | list[Lack]:
    """The speedup of partial pre-training with an even split over training from scratch, or what it lacks.

    Args:
        network: its curves.
        cost: ``"budget"`` (iterations) or ``"seconds"`` (wall-clock).
        without: a seed to leave out.
    """
    if network.lacks:
        return list(network.lacks)
    where = f"{' '.join(network.row)} {network.algorithm}"
    baseline, faster = network.curve(_BASELINE), network.curve(_FASTER, EVEN)
    if baseline is None or faster is None:
        lacking = _BASELINE if baseline is None else f"{_FASTER} with share {EVEN}"
        return [Lack(f"{where}: no curve of {lacking} in this suite")]
    try:
        return speedup(baseline.points(cost, without), faster.points(cost, without))
    except SpeedupError as error:
        return [Lack(f"{where}: {error}", "failed")]


def _score(results: Results) -> list[Score]:
    """What partial pre-training and the binary operators do to the length of a training.

    - ``iteration_speedup``, ``wall_clock_speedup``: the harmonic mean over 100 scores of the cost from scratch over
      that with partial pre-training, on the median curves (Partial pre-training, section 4.5); the mean over networks.
      The interval is a jackknife over seeds of the logarithm, since it is a ratio.
    - ``slowdown``: the time of a binarized iteration over that of full precision (its Table 2).
    - ``split_gain``, where there are several splits: what the best share scores above 0.5 at the largest budget, in the
      score's unit (its figure 3), for one network.
    """
    lookup = results.once(Lookup)
    found = networks(results)
    scores: list[Score] = []
    for algorithm in dict.fromkeys((*lookup.algorithms, *(network.algorithm for network in found))):
        own = [network for network in found if network.algorithm == algorithm]
        for metric, cost in (("iteration_speedup", "budget"), ("wall_clock_speedup", "seconds")):
            scores.append(_speedup_score(metric, algorithm, own, cost))

        def slowdown(row: Row, seed: int, algorithm: str = algorithm) -> float | list[Lack]:
            record = lookup.record(row, algorithm, seed)
            found = record if isinstance(record, Lack) else lookup.value(record, "slowdown", _NAME)
            return [found] if isinstance(found, Lack) else found

        rows = lookup.rows_measured(algorithm, "slowdown", _NAME)
        times = by_seed(lookup.seeds(algorithm), rows, slowdown) if rows else [Lack("no network was timed")]
        scores.append(make_score(track=_NAME, metric="slowdown", algorithm=algorithm, per_seed=times, unit="ratio"))
        scores += [_gain_score(network) for network in own if network.gains()][:1]
    order = ("iteration_speedup", "wall_clock_speedup", "slowdown", "split_gain")
    return sorted(scores, key=lambda score: order.index(score.metric))


def _speedup_score(metric: str, algorithm: str, own: Sequence[Network], cost: str) -> Score:
    def mean(without: int | None) -> float | list[Lack]:
        values = [measured_speedup(network, cost, without) for network in own]
        lacks = [lack for value in values if isinstance(value, list) for lack in value]
        numbers = [value.value for value in values if isinstance(value, Speedup)]
        return lacks or statistics.fmean(numbers)

    value = mean(None) if own else [Lack("no training curves in this suite")]
    if not isinstance(value, float):
        return make_score(track=_NAME, metric=metric, algorithm=algorithm, per_seed=value, unit="ratio")
    seeds = sorted(set.intersection(*(_seeds(network) for network in own)))
    low, high = _jackknifed(value, mean, seeds)
    notes = [_describe(network, measured_speedup(network, cost)) for network in own]
    return Score(
        track=_NAME,
        metric=metric,
        algorithm=algorithm,
        value=value,
        low=low,
        high=high,
        unit="ratio",
        mode="literal",
        seeds=len(seeds),
        note="; ".join(notes),
    )


def _jackknifed(
    value: float, estimate: Callable[[int | None], float | list[Lack]], seeds: Sequence[int]
) -> tuple[float | None, float | None]:
    left_out = [estimate(seed) for seed in seeds] if len(seeds) > 1 else []
    logarithms = [math.log(item) for item in left_out if isinstance(item, float)]
    if not logarithms or len(logarithms) < len(left_out):
        return None, None
    low, high = jackknife_interval(math.log(value), logarithms)
    return math.exp(low), math.exp(high)


def _seeds(network: Network) -> set[int]:
    """The seeds that every point of a network's curves has."""
    points = [set(own) for curve in network.curves for own in curve.trials.values()]
    return set.intersection(*points) if points else set()


def _describe(network: Network, found: Speedup | list[Lack]) -> str:
    assert isinstance(found, Speedup)
    left = f", {found.left_out} more below the first point of a curve left out" if found.left_out else ""
    end = "converged" if found.converged else "not converged to the same score"
    return (
        f"{' '.join(network.row)}: {found.value:.2f} ({found.low:.2f} to {found.high:.2f} over {found.used} "
        f"scores{left}; {end})"
    )


def _gain_score(network: Network) -> Score:
    total, gain = max(network.gains().items(), key=lambda item: item[0])
    where = f"{' '.join(network.row)}, {total:,} {network.budget_unit}"
    shares = ", ".join(f"{share:g}" for share in network.by_share()[total])
    if gain.share == EVEN:
        note = f"{where}: the even split is the best of the shares {shares}"
    else:
        caution = "chosen and measured on the same runs, so rather too large"
        note = f"{where}: share {gain.share:g} is the best of {shares}; {caution}"
    return Score(
        track=_NAME,
        metric="split_gain",
        algorithm=network.algorithm,
        value=gain.gain,
        low=gain.low,
        high=gain.high,
        unit=network.unit,
        mode="literal",
        seeds=len(gain.seeds),
        note=note,
    )


training_speed = Track(
    name=_NAME,
    title="Training speed",
    description=(
        "How much sooner partial pre-training reaches a score than training binarized from scratch does, by iterations "
        "and by wall-clock time, and how much slower a binarized iteration is than one in full precision (Partial "
        "pre-training, sections 4.5, 5 and 6)."
    ),
    score=_score,
    measure=_measure,
)
