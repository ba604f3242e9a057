"""What scores have in common: finding the runs that one needs, and saying what is missing where there is no score."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from bibench.records import Figure, Record, Results, RunConfig, Score, Status
from bibench.tracks.base import Mode
from bibench.tracks.statistics import mean_interval, quadratic_mean

__all__ = [
    "FULL_PRECISION",
    "Lack",
    "Lookup",
    "PerSeed",
    "Row",
    "ScoreError",
    "algorithms_in",
    "by_seed",
    "entered_as_0",
    "make_score",
    "overall",
    "ratio",
    "ratios",
    "rows_in",
]

FULL_PRECISION = "fp32"

_LARGEST = 1e150
"""Ratios from here on would overflow in the quadratic mean."""

Row = tuple[str, str]
"""A task and an architecture: one row of the paper's Tables 7 to 9."""

_T = TypeVar("_T")
_Place = TypeVar("_Place", bound=Hashable)


class ScoreError(ValueError):
    """Stored results that can't be compared with each other; the message names the runs."""


@dataclass(frozen=True)
class Lack:
    """Why a value cannot be had.

    Args:
        text: the identity of a run that would help, or a reason.
        status: what that makes of the score.
    """

    text: str
    status: Status = "incomplete"


PerSeed = Mapping[int, float] | Sequence[Lack]
"""A value by seed, or everything that it lacks."""


def algorithms_in(plan: Sequence[RunConfig]) -> list[str]:
    """The labels of a plan without full precision, in its order."""
    return list(dict.fromkeys(run.algorithm for run in plan if run.algorithm != FULL_PRECISION))


def rows_in(plan: Sequence[RunConfig]) -> dict[Row, RunConfig]:
    """The (task, architecture) pairs that a plan binarizes, in its order, each with one of its runs.

    Runs that are only part of a sensitivity grid don't count.
    """
    rows: dict[Row, RunConfig] = {}
    for run in plan:
        if run.main and run.algorithm != FULL_PRECISION:
            rows.setdefault((run.task, run.architecture), run)
    return rows


def runs_by(runs: Iterable[RunConfig], place: Callable[[RunConfig], _Place]) -> dict[_Place, RunConfig]:
    """Runs by their place.

    Raises:
        ScoreError: two different runs for one place.
    """
    found: dict[_Place, RunConfig] = {}
    for run in runs:
        other = found.setdefault(place(run), run)
        if other.id != run.id:
            setting = "" if run.setting is None else ", setting"
            raise ScoreError(
                f"'{other.id}' and '{run.id}' are different runs of one task, architecture, algorithm{setting} and "
                "seed; give one of them another algorithm label"
            )
    return found


class Lookup:
    """The main runs of some results by place, and their records.

    Raises:
        ScoreError: two different main runs planned for one task, architecture, algorithm and seed.
    """

    def __init__(self, results: Results) -> None:
        self.results = results
        self.rows = rows_in(results.plan)
        self.algorithms = algorithms_in(results.main)
        self._runs = runs_by(results.main, lambda run: ((run.task, run.architecture), run.algorithm, run.seed))
        self._units: dict[str, tuple[Record, str]] = {}
        self._seeds: dict[str, set[int]] = {}
        for run in results.main:
            self._seeds.setdefault(run.algorithm, set()).add(run.seed)

    def seeds(self, algorithm: str) -> list[int]:
        """The seeds that the plan has for an algorithm."""
        return sorted(self._seeds.get(algorithm, ()))

    def record(self, row: Row, algorithm: str, seed: int) -> Record | Lack:
        """The record of a main run that is ok, or what is missing."""
        run = self._runs.get((row, algorithm, seed))
        if run is None:
            return Lack(f"{row[0]}-{row[1]}-{algorithm}-s{seed}: not in this suite")
        return self.of(run)

    def rows_measured(self, algorithm: str, name: str, track: str) -> list[Row]:
        """The rows for which a track has, or can still get, its figure of that name.

        A row drops out once the track has measured its runs and has no such figure: it does not apply there.
        """

        def counts(record: Record | Lack) -> bool:
            return isinstance(record, Lack) or track not in record.measured or name in record.figures.kinds.plain

        seeds = self.seeds(algorithm)
        return [row for row in self.rows if any(counts(self.record(row, algorithm, seed)) for seed in seeds)]

    def of(self, run: RunConfig) -> Record | Lack:
        """The record of a planned run that is ok, or what is missing."""
        record = self.results.record(run.id)
        if record is None:
            return Lack(run.id)
        if record.status == "failed":
            return Lack(f"{run.id}: {record.reason or 'failed without a reason'}", "failed")
        return record

    def value(self, record: Record, name: str, track: str, **conditions: str) -> float | Lack:
        """The value of a figure that a track measures, for means over records; or what is missing.

        Raises:
            ScoreError: a record that was asked before has it in another unit.
        """
        figures = record.figures
        if conditions:
            place = figures.kinds.under(name, tuple(conditions)).get(tuple(conditions.values()))
        else:
            place = figures.kinds.plain.get(name)
        if place is None:
            return not_measured(record, name, track)
        unit = figures.kinds.figures[place].unit
        first, other = self._units.setdefault(name, (record, unit))
        if unit != other:
            raise _incomparable(record, first, f"unit of {name}", unit, other)
        return figures.values[place]

    def pair(self, row: Row, algorithm: str, seed: int) -> tuple[Record, Record] | list[Lack]:
        """The records of a binarized run and of its full-precision partner, or all that is missing of the two."""
        found = [self.record(row, algorithm, seed), self.record(row, FULL_PRECISION, seed)]
        lacks = [item for item in found if isinstance(item, Lack)]
        binarized, partner = found
        if isinstance(binarized, Lack) or isinstance(partner, Lack):
            return lacks
        return binarized, partner


def not_measured(record: Record, name: str, track: str) -> Lack:
    """Why a record has no figure of that name."""
    for absence in record.absences:
        if absence.name == name:
            return Lack(f"{record.id}: {absence.reason}", absence.status)
    if track not in record.measured:
        return Lack(record.id)  # it can be measured on the stored weights
    return Lack(f"{record.id}: its record has no figure '{name}'", "failed")


def check_comparable(first: Record, figure: Figure, second: Record, partner: Figure) -> None:
    """Refuse figures whose ratio or difference would mean nothing.

    Raises:
        ScoreError: other data, or another name, unit, or definition (such as the origin of corrupted images).
    """
    if (first.data, figure.name, figure.unit, figure.mode) == (second.data, partner.name, partner.unit, partner.mode):
        return
    for what, one, other in (
        ("data fingerprint", first.data, second.data),
        ("figure", figure.name, partner.name),
        ("unit", figure.unit, partner.unit),
        ("definition", figure.mode, partner.mode),
    ):
        if one != other:
            raise _incomparable(first, second, what, one, other)


def ratio(value: float, reference: float) -> float | None:
    """``value / reference``, or None where the reference isn't above 0, or so close to it that means would overflow.

    >>> ratio(3.0, 4.0), ratio(3.0, 0.0), ratio(3.0, 1e-300)
    (0.75, None, None)
    """
    found = value / reference if reference > 0 else math.inf
    return found if abs(found) < _LARGEST else None


def ratios(values: npt.NDArray[np.float64], references: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """`ratio` of each of two arrays' pairs, NaN in the place of None.

    >>> ratios(np.array([3.0, 3.0]), np.array([4.0, 0.0])).tolist()
    [0.75, nan]
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = values / references
    return np.where((references > 0) & (np.abs(found) < _LARGEST), found, np.nan)


def _incomparable(first: Record, second: Record, what: str, one: str | None, other: str | None) -> ScoreError:
    return ScoreError(
        f"cannot compare '{first.id}' ({what} '{one}') with '{second.id}' ({what} '{other}'); "
        "run one of them again so that both agree"
    )


def by_seed(seeds: Sequence[int], rows: Sequence[_T], value: Callable[[_T, int], float | list[Lack]]) -> PerSeed:
    """For each seed the mean of ``value`` over rows, or everything that it lacks."""
    values: dict[int, float] = {}
    lacks: list[Lack] = []
    for seed in seeds:
        found = [value(row, seed) for row in rows]
        lacks += [lack for item in found if isinstance(item, list) for lack in item]
        numbers = [item for item in found if not isinstance(item, list)]
        if len(numbers) == len(rows) > 0:
            values[seed] = sum(numbers) / len(numbers)
    return lacks or values


def overall(parts: Sequence[PerSeed]) -> PerSeed:
    """For each seed the quadratic mean over components, a negative one entered as 0; or everything that they lack."""
    lacks = [lack for part in parts if not isinstance(part, Mapping) for lack in part]
    complete = [part for part in parts if isinstance(part, Mapping)]
    if lacks or len(complete) < len(parts) or not complete:
        return lacks
    return {seed: quadratic_mean([max(part[seed], 0.0) for part in complete]) for seed in _shared_seeds(complete)}


def entered_as_0(parts: Mapping[str, PerSeed]) -> str:
    """Which components `overall` enters as 0, as the note of its score; nothing where it has no value.

    >>> entered_as_0({"glue_cola": {0: -3.0}, "glue_rte": {0: 60.0}})
    'glue_cola is negative, entered as 0'
    """
    complete = {name: part for name, part in parts.items() if isinstance(part, Mapping)}
    if len(complete) < len(parts) or not complete:
        return ""
    seeds = _shared_seeds(list(complete.values()))
    notes = []
    for name, part in complete.items():
        count = sum(part[seed] < 0 for seed in seeds)
        some = f" for {count} of {len(seeds)} seeds" if count < len(seeds) else ""
        notes += [f"{name} is negative{some}, entered as 0"] if count else []
    return "; ".join(notes)


def _shared_seeds(parts: Sequence[Mapping[int, float]]) -> list[int]:
    return [seed for seed in parts[0] if all(seed in part for part in parts)]


def status_of(lacks: Sequence[Lack]) -> Status:
    """The status of a score that lacks these."""
    kinds = {lack.status for lack in lacks}
    order: tuple[Status, ...] = ("failed", "not_deployable", "incomplete", "not_measured")
    return next((status for status in order if status in kinds), "incomplete")


def make_score(
    *,
    track: str,
    metric: str,
    algorithm: str,
    per_seed: PerSeed,
    unit: str = "percent",
    mode: Mode = "literal",
    note: str = "",
) -> Score:
    """A score: mean, standard deviation and 95 % interval over seeds, or why there is none."""
    if not isinstance(per_seed, Mapping) or not per_seed:
        lacks = [] if isinstance(per_seed, Mapping) else per_seed
        return Score(
            track=track,
            metric=metric,
            algorithm=algorithm,
            value=None,
            status=status_of(lacks),
            unit=unit,
            mode=mode,
            missing=tuple(dict.fromkeys(lack.text for lack in lacks)),
            note=note,
        )
    spread = mean_interval(list(per_seed.values()))
    return Score(
        track=track,
        metric=metric,
        algorithm=algorithm,
        value=spread.mean,
        low=spread.low,
        high=spread.high,
        unit=unit,
        mode=mode,
        std=spread.std,
        seeds=spread.count,
        note=note,
    )
