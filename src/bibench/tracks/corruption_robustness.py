"""The corruption-robustness track: how much less a network knows of corrupted images (equations 4, 5 and 31)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bibench.records import Figure, Kinds, Record, Results, Score
from bibench.tasks.corruptions import CORRUPTIONS
from bibench.tracks.base import FinishedRun, Mode, Track
from bibench.tracks.lookup import (
    FULL_PRECISION,
    Lack,
    Lookup,
    PerSeed,
    Row,
    ScoreError,
    check_comparable,
    make_score,
    not_measured,
    ratios,
)
from bibench.tracks.statistics import quadratic_mean

__all__ = ["CorruptionType", "corruption_robustness", "corruption_types", "rows_with_images"]

_NAME = "corruption_robustness"
_CONDITIONS = ("corruption", "severity")


def _measure(run: FinishedRun) -> list[Figure]:
    """The task's score on every corrupted test set; none for a task without images.

    Each figure's conditions are ``corruption`` and ``severity``; its mode says whether the original files were used.
    """
    if run.data.corrupted is None:
        return []
    figures = []
    metric = run.task.metric
    # Without gradients there is room for more, and small networks spend most of their time between batches.
    batch_size = max(run.config.known_recipe.batch_size, 512)
    for corruption in run.measuring.corruptions or CORRUPTIONS:
        for severity in run.measuring.severities:
            corrupted = run.data.corrupted(corruption, severity)
            with torch.no_grad():
                batches = corrupted.split.batches(batch_size, device=torch.device(run.device))
                evaluation = run.task.evaluate(run.model, batches)
            figures.append(
                Figure(
                    name=metric.name,
                    value=evaluation.figures[metric.name],
                    unit=metric.unit,
                    samples=len(evaluation.per_sample),
                    higher_is_better=metric.higher_is_better,
                    mode=corrupted.origin,
                    conditions={"corruption": corruption, "severity": str(severity)},
                )
            )
    return figures


_Floats = npt.NDArray[np.float64]
_Places = npt.NDArray[np.intp]


@dataclass(frozen=True)
class _Run:
    """One binarized run beside its partner: scores in percent, clean, and by corruption and severity."""

    row: Row
    full_clean: float
    full: _Floats
    clean: float
    binarized: _Floats
    corruptions: tuple[str, ...]


@dataclass(frozen=True)
class _Cells:
    """The cells of one algorithm, each one corruption and severity of a network and seed: arrays (cells,) in percent.

    Args:
        seeds: how many.
        types: task, architecture and corruption.
        seed, type: of each cell, as places among these.
        full_gap, gap: equation 4, of full precision and of the binarized network.
        full_error, error: what their corrupted scores lack to 100.
    """

    seeds: int
    types: Sequence[tuple[str, str, str]]
    seed: _Places
    type: _Places
    full_gap: _Floats
    gap: _Floats
    full_error: _Floats
    error: _Floats

    @classmethod
    def of(cls, runs: Sequence[Sequence[_Run]]) -> _Cells:
        """The cells of the runs of each seed."""
        every = [run for own in runs for run in own]
        sizes = [len(run.corruptions) for run in every]
        types: dict[tuple[str, str, str], int] = {}
        kinds: dict[tuple[Row, tuple[str, ...]], _Places] = {}
        for run in every:
            if (run.row, run.corruptions) not in kinds:
                places = [types.setdefault((*run.row, name), len(types)) for name in run.corruptions]
                kinds[run.row, run.corruptions] = np.array(places, np.intp)
        full = _joined([run.full for run in every])
        binarized = _joined([run.binarized for run in every])
        return cls(
            seeds=len(runs),
            types=tuple(types),
            seed=np.repeat(np.arange(len(runs)), [sum(len(run.corruptions) for run in own) for own in runs]),
            type=_joined([kinds[run.row, run.corruptions] for run in every]).astype(np.intp),
            full_gap=np.repeat([run.full_clean for run in every], sizes) - full,
            gap=np.repeat([run.clean for run in every], sizes) - binarized,
            full_error=100 - full,
            error=100 - binarized,
        )

    def of_task(self, task: str) -> _Cells:
        """Those of one task."""
        own = np.array([name == task for name, *_ in self.types], bool)[self.type]
        arrays = ("seed", "type", "full_gap", "gap", "full_error", "error")
        return dataclasses.replace(self, **{name: getattr(self, name)[own] for name in arrays})

    @cached_property
    def ratio(self) -> _Floats:
        """``G_fp / G_bi``, NaN where a gap is 0 or below."""
        return np.where(self.full_gap > 0, 100 * ratios(self.full_gap, self.gap), np.nan)

    @property
    def everything(self) -> _Places:
        """One group of all cells."""
        return np.zeros_like(self.type)

    @property
    def kind(self) -> _Places:
        """Of each cell a place for its task and corruption, whatever the architecture."""
        kinds: dict[tuple[str, str], int] = {}
        found = [kinds.setdefault((task, corruption), len(kinds)) for task, _, corruption in self.types]
        return np.array(found, np.intp)[self.type]

    def sums(self, values: _Floats, group: _Places) -> _Floats:
        """Sums of cells by seed and group, each in the order of the cells: (seeds, groups)."""
        groups = int(group.max(initial=0)) + 1
        added = np.bincount(self.seed * groups + group, values, self.seeds * groups).astype(np.float64, copy=False)
        return added.reshape(self.seeds, groups)

    def means(self, values: _Floats, group: _Places) -> _Floats:
        """Means of cells by seed and group, those that are NaN left out; NaN where none is left: (seeds, groups)."""
        there = ~np.isnan(values)
        with np.errstate(invalid="ignore"):
            return self.sums(np.where(there, values, 0.0), group) / self.sums(there.astype(float), group)

    def by_type(self, values: _Floats, references: _Floats) -> _Floats:
        """Sums over those of the reference in percent: (seeds, types), NaN where that has none."""
        return 100 * ratios(self.sums(values, self.type), self.sums(references, self.type))

    @cached_property
    def there(self) -> npt.NDArray[np.bool_]:
        """Which types each seed has: (seeds, types)."""
        return self.sums(np.ones_like(self.gap), self.type) > 0


def _score(results: Results, mode: Mode = "literal") -> list[Score]:
    """Equation 5, and what stands beside it.

    For each seed, with the gap ``G = A_clean - A_corrupted`` in percent points (equation 4):

    - ``TASK_c`` and ``om_robust`` in percent: ``sqrt(1/C · sum_i E^2(G_fp / G_bi))`` over the C corruption types, E
      over severities and architectures; above 100 the binarized network loses less than full precision does. A cell
      whose gap is 0 or below, in either network, is left out, and the note counts them.
    - ``gap_ratio`` in percent: ``mean G_fp / mean G_bi`` over all cells, which needs no cell left out.
    - ``mean_gap`` in percent points: mean ``G_bi``.
    - ``mce`` in percent (equation 31): mean over corruption types and networks of the binarized network's errors,
      summed over severities, over those of the reference network, which is its full-precision partner.
    - ``relative_mce`` in percent: the same of gaps in the place of errors. Types under which the reference has no
      errors (no gap) are left out and counted, in both.

    Statuses, seeds and errors as in :func:`bibench.tracks.relative.relative_scores`. A task without images is left out,
    as soon as one of its runs has shown that there are none.

    Source: BiBench, equations 4, 5 and 31; Hendrycks & Dietterich, 2019, section 4 (mCE and relative mCE).
    """
    scores: list[Score] = []
    for algorithm in results.once(Lookup).algorithms:
        scores += _scores_of(results, algorithm, mode)
    # The tasks first, in the plan's order, since sorting keeps it.
    return sorted(scores, key=lambda score: _ORDER.index(score.metric) if score.metric in _ORDER else -1)


def _paper(results: Results) -> list[Score]:
    """What gives Table 2: the plain mean of ``G_fp / G_bi`` over all cells, as one corruption task."""
    return _score(results, "paper")


_COMPANIONS = ("gap_ratio", "mean_gap", "mce", "relative_mce")
_ORDER = (*_COMPANIONS, "om_robust")


def rows_with_images(results: Results) -> dict[Row, bool]:
    """Whether there are scores on corrupted images, for each row of which a run has been measured."""
    found: dict[Row, bool] = {}
    for run in results.main:
        row = (run.task, run.architecture)
        record = None if found.get(row) else results.record(run.id)
        if record is not None and record.status == "ok":
            if _has_corrupted(record):
                found[row] = True
            elif _NAME in record.measured:
                found[row] = False
    return found


def _scores_of(results: Results, algorithm: str, mode: Mode) -> list[Score]:
    lookup, with_images = results.once(Lookup), results.once(rows_with_images)
    seeds = lookup.seeds(algorithm)
    rows = [row for row in lookup.rows if with_images.get(row, True)]
    lacks: dict[str, list[Lack]] = {task: [] for task, _ in rows}
    runs: list[list[_Run]] = [[] for _ in seeds]
    for own, seed in zip(runs, seeds, strict=True):
        for row in rows:
            found = results.once(_Runs).of(row, algorithm, seed)
            if isinstance(found, _Run):
                own.append(found)
            else:
                lacks[row[0]] += found
    everything = [lack for own in lacks.values() for lack in own]
    if not rows:
        everything = [Lack("no task with corrupted images in this suite")]

    def score(
        metric: str,
        values: Sequence[float | Lack],
        unit: str = "percent",
        lacking: Sequence[Lack] = everything,
        note: str = "",
    ) -> Score:
        per_seed = lacking or _per_seed(seeds, values)
        return make_score(
            track=_NAME, metric=metric, algorithm=algorithm, per_seed=per_seed, unit=unit, mode=mode, note=note
        )

    ratio_of = _mean_ratio if mode == "paper" else _quadratic_ratio

    def of_task(task: str) -> Score:
        own = cells.of_task(task)
        return score(f"{task}_c", ratio_of(own), lacking=lacks[task], note=_left_out(own))

    def of_errors(metric: str, errors: _Floats) -> Score:
        return score(metric, _mean_error(errors, cells.there), note=_types_left_out(errors[cells.there]))

    cells = _Cells.of(runs)
    return [
        *(of_task(task) for task in lacks if any(found and row[0] == task for row, found in with_images.items())),
        score("gap_ratio", _gap_ratio(cells)),
        score("mean_gap", cells.means(cells.gap, cells.everything)[:, 0].tolist(), "points"),
        of_errors("mce", cells.by_type(cells.error, cells.full_error)),
        of_errors("relative_mce", cells.by_type(cells.gap, cells.full_gap)),
        score("om_robust", ratio_of(cells), note=_left_out(cells)),
    ]


def _joined(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.empty(0)


def _left_out(cells: _Cells) -> str:
    count = np.count_nonzero(np.isnan(cells.ratio))
    return f"{count} of {len(cells.ratio)} cells left out: a gap of 0 or below" if count else ""


def _per_seed(seeds: Sequence[int], values: Sequence[float | Lack]) -> PerSeed:
    found = dict(zip(seeds, values, strict=True))
    lacks = [
        dataclasses.replace(item, text=f"seed {seed}: {item.text}")
        for seed, item in found.items()
        if isinstance(item, Lack)
    ]
    return lacks or {seed: item for seed, item in found.items() if not isinstance(item, Lack)}


class _Sets:
    """The corrupted sets that runs were measured on; they must be the same for all runs of a task."""

    def __init__(self) -> None:
        self._first: dict[str, Record] = {}
        self._checked: set[tuple[str, Kinds, str | None]] = set()

    def check(self, task: str, record: Record) -> None:
        """Compare a run with the one of its task that came first.

        Raises:
            ScoreError: other corruptions or severities, or what `check_comparable` refuses.
        """
        first = self._first.setdefault(task, record)
        alike = (task, record.figures.kinds, record.data)
        if alike in self._checked:
            return
        figures, known = (one.figures_under(one.run.metric, *_CONDITIONS) for one in (record, first))
        if differing := figures.keys() ^ known.keys():
            raise ScoreError(
                f"cannot compare '{record.id}' with '{first.id}': they were measured under different corruptions or "
                f"severities (only one has {', '.join(sorted(' '.join(key) for key in differing))}); "
                "run one of them again"
            )
        for key, figure in figures.items():
            check_comparable(record, figure, first, known[key])
        self._checked.add(alike)


class _Runs:
    """The runs of some results beside their partners, each read once."""

    def __init__(self, results: Results) -> None:
        self._lookup = results.once(Lookup)
        self._sets: dict[str, _Sets] = {}
        self._found: dict[tuple[Row, str, int], _Run | list[Lack]] = {}

    def of(self, row: Row, algorithm: str, seed: int) -> _Run | list[Lack]:
        """What one row and seed scored, or what is missing.

        Raises:
            ScoreError: records that can't be compared.
        """
        place = (row, algorithm, seed)
        if place not in self._found:
            sets = self._sets.setdefault(algorithm, _Sets())
            self._found[place] = _run(self._lookup.pair(row, algorithm, seed), row, sets)
        return self._found[place]


def _run(found: tuple[Record, Record] | list[Lack], row: Row, sets: _Sets) -> _Run | list[Lack]:
    if isinstance(found, list):
        return found
    places = [record.figures.kinds.under(record.run.metric, _CONDITIONS) for record in found]
    missing = [
        not_measured(record, "corrupted scores", _NAME) for own, record in zip(places, found, strict=True) if not own
    ]
    if missing:
        return missing
    for record in found:
        sets.check(row[0], record)
    clean = [record.figure(record.run.metric) for record in found]
    own, full = clean
    if own is None or full is None:
        return [
            Lack(f"{record.id}: its record has no figure '{record.run.metric}'", "failed")
            for record, figure in zip(found, clean, strict=True)
            if figure is None
        ]
    check_comparable(found[0], own, found[1], full)
    lack = _unfit(found[0], own)
    if lack is not None:
        return [lack]
    binarized, partner = (np.frombuffer(record.figures.values) for record in found)
    return _Run(
        row=row,
        full_clean=full.value,
        full=partner[[places[1][key] for key in places[0]]],
        clean=own.value,
        binarized=binarized[list(places[0].values())],
        corruptions=tuple([corruption for corruption, _ in places[0]]),
    )


def _unfit(record: Record, own: Figure) -> Lack | None:
    """Why a score has no gaps, if it hasn't."""
    kinds = record.figures.kinds
    for place in kinds.under(own.name, _CONDITIONS).values():
        figure = kinds.figures[place]
        if figure.unit != "percent" or own.unit != "percent":
            unit = own.unit if figure.unit == "percent" else figure.unit
            return Lack(f"{record.id}: errors need a score in percent, not in {unit}", "failed")
        if figure.higher_is_better is False:
            return Lack(f"{record.id}: '{figure.name}' is better when lower, and has no gap", "failed")
    return None


def _has_corrupted(record: Record) -> bool:
    return bool(record.figures.kinds.under(record.run.metric, _CONDITIONS))


_NO_GAP = Lack("no corrupted set has a gap above 0 in both networks", "failed")


def _quadratic_ratio(cells: _Cells) -> list[float | Lack]:
    means = [own[~np.isnan(own)].tolist() for own in cells.means(cells.ratio, cells.kind)]
    return [quadratic_mean(own) if own else _NO_GAP for own in means]


def _mean_ratio(cells: _Cells) -> list[float | Lack]:
    """The mean over all cells, added by task and corruption type."""
    found: list[dict[int, list[float]]] = [{} for _ in range(cells.seeds)]
    for seed, kind, one in zip(cells.seed.tolist(), cells.kind.tolist(), cells.ratio.tolist(), strict=True):
        if not math.isnan(one):
            found[seed].setdefault(kind, []).append(one)
    every = [[one for own in by_kind.values() for one in own] for by_kind in found]
    return [sum(own) / len(own) if own else _NO_GAP for own in every]


def _gap_ratio(cells: _Cells) -> list[float | Lack]:
    full, own = (cells.sums(gaps, cells.everything)[:, 0] for gaps in (cells.full_gap, cells.gap))
    lack = Lack("a mean gap is 0 or below: corrupted images are no harder", "failed")
    found = np.where(full > 0, 100 * ratios(full, own), np.nan)
    return [lack if math.isnan(value) else value for value in found.tolist()]


@dataclass(frozen=True, kw_only=True)
class CorruptionType:
    """What one corruption type costs one network, over all its severities.

    Args:
        gap: mean of ``G = A_clean - A_corrupted`` in percent points (equation 4).
        error: the corruption error in percent (equation 31): the network's errors, summed over severities, over those
            of the reference, which is its full-precision partner; None where the reference has none.
        relative_error: the same of gaps in the place of errors.
    """

    gap: float
    error: float | None
    relative_error: float | None


def corruption_types(results: Results) -> dict[tuple[str, str, str], dict[int, dict[str, CorruptionType]]]:
    """What each corruption type costs, by task, architecture and algorithm, then by seed, then by type.

    Full precision is among the algorithms, as its own reference. Left out are runs without an ok record, a partner or
    scores on corrupted images in percent. The means over types are ``mean_gap``, ``mce`` and ``relative_mce``.

    Raises:
        ScoreError: as the track's scores: records that can't be compared.

    Source: BiBench, equations 4 and 31.

    >>> corruption_types(Results(plan=[], records=[]))
    {}
    """
    lookup = results.once(Lookup)
    with_images = results.once(rows_with_images)
    rows = [row for row in lookup.rows if with_images.get(row)]
    found: dict[tuple[str, str, str], dict[int, dict[str, CorruptionType]]] = {}
    for algorithm in (FULL_PRECISION, *lookup.algorithms):
        for row in rows:
            runs = {seed: results.once(_Runs).of(row, algorithm, seed) for seed in lookup.seeds(algorithm)}
            own = {seed: run for seed, run in runs.items() if isinstance(run, _Run)}
            if own:
                place = (*row, algorithm)
                found[place] = dict(zip(own, _types(_Cells.of([[run] for run in own.values()])), strict=True))
    return found


def _types(cells: _Cells) -> list[dict[str, CorruptionType]]:
    """The corruption types of one network, for each seed."""
    numbers = zip(
        cells.there.tolist(),
        cells.means(cells.gap, cells.type).tolist(),
        cells.by_type(cells.error, cells.full_error).tolist(),
        cells.by_type(cells.gap, cells.full_gap).tolist(),
        strict=True,
    )
    return [
        {
            corruption: CorruptionType(gap=gap, error=_number(error), relative_error=_number(relative))
            for (*_, corruption), there, gap, error, relative in zip(cells.types, *own, strict=True)
            if there
        }
        for own in numbers
    ]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _mean_error(errors: _Floats, there: npt.NDArray[np.bool_]) -> list[float | Lack]:
    """The mean over the corruption types of each seed that have an error."""
    lack = Lack("the reference, full precision, has none of these errors under any corruption", "failed")
    numbers = [own[has & ~np.isnan(own)].tolist() for own, has in zip(errors, there, strict=True)]
    return [sum(own) / len(own) if own else lack for own in numbers]


def _types_left_out(errors: _Floats) -> str:
    count = np.count_nonzero(np.isnan(errors))
    what = "the reference, full precision, has none of these errors there"
    return f"{count} of {len(errors)} corruption types left out: {what}" if count else ""


corruption_robustness = Track(
    name=_NAME,
    title="Corruption robustness",
    description=(
        "How much less each algorithm loses on corrupted images than full precision does: the quadratic mean over "
        "corruption types of the ratio of gaps, om_robust (BiBench, equation 5). Beside it the ratio of mean gaps, the "
        "mean gap, and the mean corruption error and its relative form with full precision as the reference "
        "(equation 31)."
    ),
    score=_score,
    paper=_paper,
    measure=_measure,
)
