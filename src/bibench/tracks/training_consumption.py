"""The training-consumption track: what training costs, and how much hangs on the hyperparameters (equation 6)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from bibench.records import Figure, Record, Results, RunConfig, Score
from bibench.tracks.base import FinishedRun, Track
from bibench.tracks.lookup import (
    FULL_PRECISION,
    Lack,
    Lookup,
    PerSeed,
    Row,
    by_seed,
    check_comparable,
    make_score,
    ratio,
    runs_by,
    status_of,
)
from bibench.tracks.statistics import jackknife_interval, quadratic_mean
from bibench.training.seeds import derive_seed
from bibench.training.step_time import compare_training

__all__ = ["settings_in", "training_consumption"]

_NAME = "training_consumption"
_PAPER = "the paper has 8 settings (SGD and Adam, 1x and 0.1x, cosine and step) and 5 trials of each"


def _measure(run: FinishedRun) -> list[Figure]:
    """Time and peak memory of a training step, in turns with full precision, both with the binarized run's recipe.

    Where that has distillation, the binarized step includes the teacher's part.
    """
    if run.config.operator is None:
        return []
    recipe = run.config.known_recipe
    device = torch.device(run.device)
    batch = next(iter(run.data.train.batches(recipe.batch_size, device=device, seed=derive_seed(0, "step time"))))
    with torch.random.fork_rng(devices=[]):
        partner = run.architecture.build(run.task.input_shape, run.data.outputs).to(device)
    found = compare_training(
        run.model,
        partner,
        task=run.task,
        batch=batch,
        recipe=recipe,
        partner_recipe=recipe,
        device=device,
        repeats=run.measuring.step_repeats,
    )
    return [
        Figure(name=name, value=value, unit=unit, samples=found.repeats, higher_is_better=better)
        for name, value, unit, better in (
            ("time_cost", found.time_ratio, "percent", True),
            ("time_cost_lowest", found.lowest, "percent", None),
            ("time_cost_highest", found.highest, "percent", None),
            ("step_time", found.seconds, "s", False),
            ("full_precision_step_time", found.partner_seconds, "s", None),
            ("step_peak_memory", found.peak_memory, "bytes", False),
            ("full_precision_step_peak_memory", found.partner_peak_memory, "bytes", None),
        )
    ]


@dataclass(frozen=True)
class _Grid:
    """The sensitivity grid of one network.

    Args:
        row: task and architecture.
        settings: in the plan's order.
        trials: for each algorithm, accuracy by setting and seed, or what is missing.
    """

    row: Row
    settings: tuple[str, ...]
    seeds: tuple[int, ...]
    trials: Mapping[str, Mapping[tuple[str, int], float] | Sequence[Lack]]

    @property
    def note(self) -> str:
        """Which grid it is."""
        count = len(self.settings) * len(self.seeds)
        whole = len(self.settings) >= 8 and len(self.seeds) >= 5
        size = f"{_counted(len(self.settings), 'setting')} x {_counted(len(self.seeds), 'seed')}"
        trials = f"{_counted(count, 'trial')} ({', '.join(self.settings)})"
        return f"{' '.join(self.row)}: {size} = {trials}" + ("" if whole else f"; reduced, {_PAPER}")


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def settings_in(plan: Sequence[RunConfig]) -> dict[Row, tuple[str, ...]]:
    """The sensitivity settings of each network that has some: by optimizer, then rate, then schedule.

    Each of the three is in the order in which the plan first has it. Runs that are part of other tracks too come
    first in a plan, so its own order would tear the grid apart.
    """
    found: dict[Row, dict[str, None]] = {}
    for run in plan:
        if run.setting is not None:
            found.setdefault((run.task, run.architecture), {})[run.setting] = None
    return {row: tuple(_in_order(settings)) for row, settings in found.items()}


def _in_order(settings: Iterable[str]) -> list[str]:
    parts = {setting: setting.split("-") for setting in settings}
    places: list[dict[str, int]] = []
    for own in parts.values():
        for index, part in enumerate(own):
            if index == len(places):
                places.append({})
            places[index].setdefault(part, len(places[index]))
    return sorted(parts, key=lambda setting: [places[index][part] for index, part in enumerate(parts[setting])])


def _grids(lookup: Lookup, algorithms: Sequence[str]) -> list[_Grid]:
    plan = [run for run in lookup.results.plan if run.setting is not None]
    grids = []
    for row, settings in settings_in(plan).items():
        own = [run for run in plan if (run.task, run.architecture) == row]
        by_algorithm: dict[str, list[RunConfig]] = {}
        for run in own:
            by_algorithm.setdefault(run.algorithm, []).append(run)
        seeds = tuple(sorted({run.seed for run in own}))
        first: list[tuple[Record, Figure]] = []
        trials = {
            name: _trials(lookup, by_algorithm.get(name, ()), (*row, name), settings, seeds, first)
            for name in (FULL_PRECISION, *algorithms)
        }
        grids.append(_Grid(row, settings, seeds, trials))
    return grids


def _trials(
    lookup: Lookup,
    runs: Sequence[RunConfig],
    place: tuple[str, str, str],
    settings: Sequence[str],
    seeds: Sequence[int],
    first: list[tuple[Record, Figure]],
) -> dict[tuple[str, int], float] | list[Lack]:
    """The accuracies of one algorithm's runs; ``first`` keeps the grid's first trial, with which all must compare."""
    by_place = runs_by(runs, lambda run: (run.setting or "", run.seed))
    values: dict[tuple[str, int], float] = {}
    lacks: list[Lack] = []
    for setting in settings:
        for seed in seeds:
            run = by_place.get((setting, seed))
            if run is None:
                if by_place:
                    lacks.append(Lack(f"{' '.join(place)} {setting} s{seed}: not in this suite"))
                continue
            record = lookup.of(run)
            if isinstance(record, Lack):
                lacks.append(record)
                continue
            figure = record.figure(run.metric)
            if figure is None:
                lacks.append(Lack(f"{run.id}: its record has no figure '{run.metric}'", "failed"))
            else:
                if not first:
                    first.append((record, figure))
                check_comparable(record, figure, *first[0])
                values[setting, seed] = figure.value
    if not by_place:
        return [Lack(f"{' '.join(place)}: no sensitivity runs in this suite")]
    return lacks or values


def _pooled_std(values: Sequence[float]) -> float:
    """Sample standard deviation (ddof 1) over all trials of all settings; exactly 0 where they are the same."""
    if min(values) == max(values):
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _sensitivity(grids: Sequence[_Grid], algorithm: str, without: int | None = None) -> float | list[Lack]:
    """``100 · std(A_fp) / std(A_bi)``, the mean over networks, or what is missing; leaving out a seed if asked to."""
    if not grids:
        return [Lack("no sensitivity grid in this suite")]
    ratios = []
    lacks: list[Lack] = []
    for grid in grids:
        stds = []
        for name in (algorithm, FULL_PRECISION):
            trials = grid.trials[name]
            if not isinstance(trials, Mapping):
                lacks += trials
                continue
            values = [value for (_, seed), value in trials.items() if seed != without]
            if len(values) < 2:
                lacks.append(Lack(f"{' '.join(grid.row)}: one trial has no standard deviation"))
            else:
                stds.append(_pooled_std(values))
        if len(stds) == 2:
            found = ratio(stds[1], stds[0]) if stds[1] > 0 else None
            if found is None:
                constant = algorithm if stds[1] > 0 else FULL_PRECISION
                lacks.append(Lack(f"{' '.join(grid.row)} {constant}: all trials scored the same", "failed"))
            else:
                ratios.append(100 * found)
    return lacks or sum(ratios) / len(ratios)


def _score(results: Results) -> list[Score]:
    """Equation 6, as ratios of full precision over binarized; higher is better.

    - ``sensitivity`` in percent: ``std(A_hyper) / std(A_hyper_bi)``, the standard deviation pooled over all settings
      and seeds of the grid. Its interval is a jackknife over seeds, since it is no mean over them.
    - ``time_cost`` in percent: ``E(T_train / T_train_bi)``, the time of a training step, measured side by side. Epochs
      and steps are the same, so the step stands for the training.
    - ``om_train``: ``sqrt(1/2 · (time_cost^2 + sensitivity^2))``, with a jackknife interval over the seeds of both.

    The note says which grid it was. Grids that lack a run are ``incomplete``.

    Source: BiBench, equation 6; Efron & Tibshirani, 1993, An Introduction to the Bootstrap, chapter 11 (jackknife).
    """
    lookup = results.once(Lookup)
    grids = _grids(lookup, lookup.algorithms)
    note = "; ".join(grid.note for grid in grids)
    scores = []
    for algorithm in lookup.algorithms:

        def time_cost(row: Row, seed: int, algorithm: str = algorithm) -> float | list[Lack]:
            record = lookup.record(row, algorithm, seed)
            found = record if isinstance(record, Lack) else lookup.value(record, "time_cost", _NAME)
            return [found] if isinstance(found, Lack) else found

        rows = lookup.rows_measured(algorithm, "time_cost", _NAME)
        times = by_seed(lookup.seeds(algorithm), rows, time_cost) if rows else [Lack("no network was timed")]
        scores += [
            _jackknifed("sensitivity", algorithm, lambda left, a=algorithm: _sensitivity(grids, a, left), grids, note),  # type: ignore[misc]
            make_score(track=_NAME, metric="time_cost", algorithm=algorithm, per_seed=times),
            _jackknifed(
                "om_train",
                algorithm,
                lambda left, a=algorithm, t=times: _overall(grids, a, t, left),  # type: ignore[misc]
                grids,
                note,
                times,
            ),
        ]
    order = ("sensitivity", "time_cost", "om_train")
    return sorted(scores, key=lambda score: order.index(score.metric))


def _overall(grids: Sequence[_Grid], algorithm: str, times: PerSeed, without: int | None) -> float | list[Lack]:
    sensitivity = _sensitivity(grids, algorithm, without)
    lacks = [] if isinstance(sensitivity, float) else sensitivity
    if not isinstance(times, Mapping):
        return [*lacks, *times]
    if not isinstance(sensitivity, float):
        return lacks
    kept = [value for seed, value in times.items() if seed != without]
    return quadratic_mean([sensitivity, sum(kept) / len(kept)])


def _jackknifed(
    metric: str,
    algorithm: str,
    estimate: Callable[[int | None], float | list[Lack]],
    grids: Sequence[_Grid],
    note: str,
    times: PerSeed | None = None,
) -> Score:
    value = estimate(None)
    if not isinstance(value, float):
        return Score(
            track=_NAME,
            metric=metric,
            algorithm=algorithm,
            value=None,
            status=status_of(value),
            mode="literal",
            missing=tuple(dict.fromkeys(lack.text for lack in value)),
            note=note,
        )
    shared = set.intersection(*(set(grid.seeds) for grid in grids))
    if isinstance(times, Mapping):
        shared &= set(times)
    left_out = [estimate(seed) for seed in sorted(shared)] if len(shared) > 1 else []
    numbers = [item for item in left_out if isinstance(item, float)]
    low, high = jackknife_interval(value, numbers) if numbers and len(numbers) == len(left_out) else (None, None)
    return Score(
        track=_NAME,
        metric=metric,
        algorithm=algorithm,
        value=value,
        low=low,
        high=high,
        mode="literal",
        seeds=max(len(shared), 1),
        note=note,
    )


training_consumption = Track(
    name=_NAME,
    title="Training consumption",
    description=(
        "What training costs and how much hangs on the hyperparameters, as full precision over binarized: the time of "
        "a training step, the standard deviation of the score over a grid of hyperparameter settings and seeds, and "
        "the quadratic mean of the two, om_train (BiBench, equation 6)."
    ),
    score=_score,
    measure=_measure,
)
