"""The corruption-robustness track: how much less a network knows of corrupted images (equations 4, 5 and 31)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch

from bibench.records import Figure, Record, Results, Score
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
    ratio,
)
from bibench.tracks.statistics import quadratic_mean

__all__ = ["CorruptionType", "corruption_robustness", "corruption_types", "rows_with_images"]

_NAME = "corruption_robustness"

_T = TypeVar("_T")


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


_Sets = Mapping[tuple[str, ...], Figure]
"""A run's scores by corruption and severity."""


@dataclass(frozen=True)
class _Cell:
    """One corruption and severity of one task and architecture: scores in percent, clean and corrupted."""

    task: str
    architecture: str
    corruption: str
    full_clean: float
    full: float
    binarized_clean: float
    binarized: float

    @property
    def full_gap(self) -> float:
        """Equation 4 for full precision."""
        return self.full_clean - self.full

    @property
    def gap(self) -> float:
        """Equation 4 for the binarized network."""
        return self.binarized_clean - self.binarized

    @cached_property
    def ratio(self) -> float | None:
        """``G_fp / G_bi`` in percent, or None where a gap is 0 or below."""
        found = ratio(self.full_gap, self.gap) if self.full_gap > 0 else None
        return None if found is None else 100 * found


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
    lookup = Lookup(results)
    with_images = rows_with_images(results)
    scores: list[Score] = []
    for algorithm in lookup.algorithms:
        scores += _scores_of(lookup, algorithm, mode, with_images)
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
            if _corrupted(record):
                found[row] = True
            elif _NAME in record.measured:
                found[row] = False
    return found


def _scores_of(lookup: Lookup, algorithm: str, mode: Mode, with_images: Mapping[Row, bool]) -> list[Score]:
    seeds = lookup.seeds(algorithm)
    rows = [row for row in lookup.rows if with_images.get(row, True)]
    lacks: dict[str, list[Lack]] = {task: [] for task, _ in rows}
    cells: dict[int, list[_Cell]] = {seed: [] for seed in seeds}
    sets: dict[str, tuple[Record, _Sets]] = {}
    for seed in seeds:
        for row in rows:
            found = _cells(lookup, row, algorithm, seed, sets)
            lacks[row[0]] += [item for item in found if isinstance(item, Lack)]
            cells[seed] += [item for item in found if isinstance(item, _Cell)]
    everything = [lack for own in lacks.values() for lack in own]
    if not rows:
        everything = [Lack("no task with corrupted images in this suite")]

    def score(
        metric: str,
        value: Callable[[Sequence[_T]], float | Lack],
        unit: str,
        lacking: Sequence[Lack] = everything,
        note: str = "",
        *,
        of: Mapping[int, Sequence[_T]],
    ) -> Score:
        per_seed = lacking or _per_seed(of, value)
        return make_score(
            track=_NAME, metric=metric, algorithm=algorithm, per_seed=per_seed, unit=unit, mode=mode, note=note
        )

    ratio_of = _mean_ratio if mode == "paper" else _quadratic_ratio

    def of_task(task: str) -> Score:
        note = _left_out([cell for own in cells.values() for cell in own if cell.task == task])
        own = {seed: [cell for cell in every if cell.task == task] for seed, every in cells.items()}
        return score(f"{task}_c", ratio_of, "percent", lacks[task], note, of=own)

    types = {seed: tuple(_types(own).values()) for seed, own in cells.items()}

    def of_errors(metric: str, error: _Error) -> Score:
        note = _types_left_out([one for own in types.values() for one in own], error)
        return score(metric, lambda own: _mean_error(own, error), "percent", note=note, of=types)

    return [
        *(of_task(task) for task in lacks if any(found and row[0] == task for row, found in with_images.items())),
        score("gap_ratio", _gap_ratio, "percent", of=cells),
        score("mean_gap", lambda own: sum(cell.gap for cell in own) / len(own), "points", of=cells),
        of_errors("mce", lambda one: one.error),
        of_errors("relative_mce", lambda one: one.relative_error),
        score(
            "om_robust",
            ratio_of,
            "percent",
            note=_left_out([cell for own in cells.values() for cell in own]),
            of=cells,
        ),
    ]


def _left_out(cells: Sequence[_Cell]) -> str:
    count = sum(cell.ratio is None for cell in cells)
    return f"{count} of {len(cells)} cells left out: a gap of 0 or below" if count else ""


def _per_seed(items: Mapping[int, Sequence[_T]], value: Callable[[Sequence[_T]], float | Lack]) -> PerSeed:
    found = {seed: value(own) for seed, own in items.items()}
    lacks = [
        dataclasses.replace(item, text=f"seed {seed}: {item.text}")
        for seed, item in found.items()
        if isinstance(item, Lack)
    ]
    return lacks or {seed: item for seed, item in found.items() if not isinstance(item, Lack)}


def _cells(
    lookup: Lookup, row: Row, algorithm: str, seed: int, sets: dict[str, tuple[Record, _Sets]]
) -> list[_Cell | Lack]:
    """The cells of one row and seed, or what is missing.

    ``sets`` keeps, for each task, the run that came first and its corrupted sets; they must be the same for all runs.
    """
    found = lookup.pair(row, algorithm, seed)
    if isinstance(found, list):
        return list(found)
    both = [_corrupted(record) for record in found]
    missing: list[_Cell | Lack] = [
        not_measured(record, "corrupted scores", _NAME)
        for figures, record in zip(both, found, strict=True)
        if not figures
    ]
    if missing:
        return missing
    for figures, record in zip(both, found, strict=True):
        first, known = sets.setdefault(row[0], (record, figures))
        if differing := figures.keys() ^ known.keys():
            raise ScoreError(
                f"cannot compare '{record.id}' with '{first.id}': they were measured under different corruptions or "
                f"severities (only one has {', '.join(sorted(' '.join(key) for key in differing))}); "
                "run one of them again"
            )
        for key, figure in figures.items():
            check_comparable(record, figure, first, known[key])
    clean = [record.figure(record.run.metric) for record in found]
    own, full = clean
    if own is None or full is None:
        return [
            Lack(f"{record.id}: its record has no figure '{record.run.metric}'", "failed")
            for record, figure in zip(found, clean, strict=True)
            if figure is None
        ]
    binarized, partner = both
    check_comparable(found[0], own, found[1], full)
    cells: list[_Cell | Lack] = []
    for key, figure in binarized.items():
        if figure.unit != "percent" or own.unit != "percent":
            unit = own.unit if figure.unit == "percent" else figure.unit
            return [Lack(f"{found[0].id}: errors need a score in percent, not in {unit}", "failed")]
        if figure.higher_is_better is False:
            return [Lack(f"{found[0].id}: '{figure.name}' is better when lower, and has no gap", "failed")]
        cells.append(
            _Cell(
                task=row[0],
                architecture=row[1],
                corruption=key[0],
                full_clean=full.value,
                full=partner[key].value,
                binarized_clean=own.value,
                binarized=figure.value,
            )
        )
    return cells


def _corrupted(record: Record) -> _Sets:
    return record.figures_under(record.run.metric, "corruption", "severity")


def _ratios(cells: Sequence[_Cell]) -> dict[tuple[str, str], list[float]]:
    """``100 · G_fp / G_bi`` of the usable cells, by task and corruption type."""
    ratios: dict[tuple[str, str], list[float]] = {}
    for cell in cells:
        if cell.ratio is not None:
            ratios.setdefault((cell.task, cell.corruption), []).append(cell.ratio)
    return ratios


_NO_GAP = Lack("no corrupted set has a gap above 0 in both networks", "failed")


def _quadratic_ratio(cells: Sequence[_Cell]) -> float | Lack:
    by_type = _ratios(cells)
    return quadratic_mean([sum(own) / len(own) for own in by_type.values()]) if by_type else _NO_GAP


def _mean_ratio(cells: Sequence[_Cell]) -> float | Lack:
    ratios = [ratio for own in _ratios(cells).values() for ratio in own]
    return sum(ratios) / len(ratios) if ratios else _NO_GAP


def _gap_ratio(cells: Sequence[_Cell]) -> float | Lack:
    full, own = sum(cell.full_gap for cell in cells), sum(cell.gap for cell in cells)
    found = ratio(full, own) if full > 0 else None
    if found is None:
        return Lack("a mean gap is 0 or below: corrupted images are no harder", "failed")
    return 100 * found


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
    lookup = Lookup(results)
    with_images = rows_with_images(results)
    rows = [row for row in lookup.rows if with_images.get(row)]
    found: dict[tuple[str, str, str], dict[int, dict[str, CorruptionType]]] = {}
    for algorithm in (FULL_PRECISION, *lookup.algorithms):
        sets: dict[str, tuple[Record, _Sets]] = {}
        for row in rows:
            for seed in lookup.seeds(algorithm):
                cells = _cells(lookup, row, algorithm, seed, sets)
                own = _types([cell for cell in cells if isinstance(cell, _Cell)])
                if own:
                    by_name = {corruption: one for (*_, corruption), one in own.items()}
                    found.setdefault((*row, algorithm), {})[seed] = by_name
    return found


def _types(cells: Sequence[_Cell]) -> dict[tuple[str, str, str], CorruptionType]:
    """By task, architecture and corruption type."""
    groups: dict[tuple[str, str, str], list[_Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.task, cell.architecture, cell.corruption), []).append(cell)
    found = {}
    for key, own in groups.items():
        gap = sum(cell.gap for cell in own)
        error = ratio(sum(100 - cell.binarized for cell in own), sum(100 - cell.full for cell in own))
        relative = ratio(gap, sum(cell.full_gap for cell in own))
        found[key] = CorruptionType(
            gap=gap / len(own),
            error=None if error is None else 100 * error,
            relative_error=None if relative is None else 100 * relative,
        )
    return found


_Error = Callable[[CorruptionType], float | None]


def _mean_error(types: Iterable[CorruptionType], error: _Error) -> float | Lack:
    numbers = [found for one in types if (found := error(one)) is not None]
    if not numbers:
        return Lack("the reference, full precision, has none of these errors under any corruption", "failed")
    return sum(numbers) / len(numbers)


def _types_left_out(types: Iterable[CorruptionType], error: _Error) -> str:
    errors = [error(one) for one in types]
    count = sum(found is None for found in errors)
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
