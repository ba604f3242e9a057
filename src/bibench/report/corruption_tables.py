"""Scores on corrupted test sets as tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean

from bibench.records import Record, Results
from bibench.report.figure_tables import ok_records, seeds_words
from bibench.tracks.corruption_robustness import CorruptionType, corruption_types, rows_with_images
from bibench.tracks.lookup import FULL_PRECISION, Lookup
from bibench.tracks.statistics import mean_interval

__all__ = ["Corruptions", "HeatMap", "corruption_tables"]


@dataclass(frozen=True)
class HeatMap:
    """Numbers by their place in a table, the algorithm first, which are coloured by their size."""

    cells: Mapping[tuple[str | int, ...], float]

    @cached_property
    def _range(self) -> tuple[float, float]:
        return min(self.cells.values()), max(self.cells.values())

    def share(self, value: float | None) -> int:
        """Where a value lies between the lowest and the highest of the table, in percent."""
        return 0 if value is None else _share(value, *self._range)


def _share(value: float, low: float, high: float) -> int:
    return round(100 * (value - low) / (high - low)) if high > low else 0


@dataclass(frozen=True, kw_only=True)
class Corruptions:
    """Scores of one network on corrupted test sets, averaged over severities or over corruption types.

    Args:
        task, architecture: the network.
        metric, unit: of the scores.
        seeds: over how many of them values are means, in words.
        origins: where the corrupted images come from.
        severities: which there are.
        algorithms: those with corrupted scores, full precision first.
        corruptions: in the order in which they were measured.
        by_corruption: mean over severities and seeds, by (algorithm, corruption); ``""`` is the mean over all types.
        by_severity: for each algorithm mean over corruption types of each seed, by severity; 0 is the clean test set.
        accuracies: every score, mean over seeds, by (algorithm, corruption, severity).
        gaps: mean loss against the clean test set in percent points, as ``by_corruption``; empty where the score isn't
            in percent.
        errors: corruption error in percent of full precision's, as ``gaps`` and without full precision; ``""`` is the
            mean over the types that have one.
    """

    task: str
    architecture: str
    metric: str
    unit: str
    seeds: str
    origins: tuple[str, ...]
    severities: tuple[int, ...]
    algorithms: tuple[str, ...]
    corruptions: tuple[str, ...]
    by_corruption: Mapping[tuple[str, str], float]
    by_severity: Mapping[str, Mapping[int, Sequence[float]]]
    accuracies: HeatMap
    gaps: HeatMap
    errors: HeatMap

    def clean(self, algorithm: str) -> float | None:
        """Mean over seeds on the clean test set."""
        values = self.by_severity[algorithm].get(0)
        return mean_interval(values).mean if values else None

    def share(self, value: float | None) -> int:
        """Where a value lies between the lowest and the highest of the table, in percent."""
        return 0 if value is None else _share(value, *self._range)

    @cached_property
    def _range(self) -> tuple[float, float]:
        clean = (self.clean(name) for name in self.algorithms)
        every = [*self.by_corruption.values(), *(mean for mean in clean if mean is not None)]
        return min(every), max(every)


def corruption_tables(results: Results) -> list[Corruptions]:
    """The scores on corrupted test sets, for each network that has some."""
    found = []
    algorithms = (FULL_PRECISION, *results.once(Lookup).algorithms)
    types = corruption_types(results)
    with_images = results.once(rows_with_images)
    for task, architecture in results.once(Lookup).rows:
        if not with_images.get((task, architecture)):
            continue
        every = ok_records(results, task, architecture, algorithms)
        corrupted = {name: [record for record in own if _corrupted_places(record)] for name, own in every.items()}
        records = {name: own for name, own in corrupted.items() if own}
        if records:
            own_types = {name: list(types.get((task, architecture, name), {}).values()) for name in records}
            found.append(_corruption_table(task, architecture, records, own_types))
    return found


def _corrupted_places(record: Record) -> Mapping[tuple[str, ...], int]:
    return record.figures.kinds.under(record.run.metric, ("corruption", "severity"))


_Types = Sequence[Mapping[str, CorruptionType]]
"""What corruption types cost a network, a mapping a seed."""


def _corruption_table(
    task: str, architecture: str, records: Mapping[str, Sequence[Record]], types: Mapping[str, _Types]
) -> Corruptions:
    # Runs that were measured alike share what their figures are, so this looks at few.
    alike = {record.figures.kinds: record for own in records.values() for record in own}
    figures = [kinds.figures[at] for kinds, record in alike.items() for at in _corrupted_places(record).values()]
    keys = list(dict.fromkeys(key for record in alike.values() for key in _corrupted_places(record)))
    corruptions = tuple(dict.fromkeys(corruption for corruption, _ in keys))
    severities = tuple(sorted({int(severity) for _, severity in keys}))
    at_severity = {severity: [key for key in keys if int(key[1]) == severity] for severity in severities}
    accuracies: dict[tuple[str | int, ...], float] = {}
    by_corruption: dict[tuple[str, str], float] = {}
    by_severity: dict[str, dict[int, list[float]]] = {}
    for name, own in records.items():
        scores = [record.numbers_under(record.run.metric, "corruption", "severity") for record in own]
        values: dict[tuple[str, ...], list[float]] = {}
        for one in scores:
            for key, value in one.items():
                values.setdefault(key, []).append(value)
        accuracies |= {
            (name, corruption, severity): fmean(values[corruption, str(severity)])
            for corruption in corruptions
            for severity in severities
            if (corruption, str(severity)) in values
        }
        for corruption in ("", *corruptions):
            together = [value for key, some in values.items() if corruption in ("", key[0]) for value in some]
            if together:
                by_corruption[name, corruption] = fmean(together)
        clean = [number for record in own if (number := record.number(record.run.metric)) is not None]
        by_severity[name] = {0: clean} if clean else {}
        for severity, some_keys in at_severity.items():
            seeds = [[one[key] for key in some_keys if key in one] for one in scores]
            if any(seeds):
                by_severity[name][severity] = [fmean(some) for some in seeds if some]
    return Corruptions(
        task=task,
        architecture=architecture,
        metric=figures[0].name,
        unit=figures[0].unit,
        seeds=seeds_words(records.values()),
        origins=tuple(dict.fromkeys(figure.mode or "of unknown origin" for figure in figures)),
        severities=severities,
        algorithms=tuple(records),
        corruptions=corruptions,
        by_corruption=by_corruption,
        by_severity=by_severity,
        accuracies=HeatMap(accuracies),
        gaps=HeatMap(_by_type(types, corruptions, lambda one: one.gap)),
        errors=HeatMap(
            _by_type(
                {name: own for name, own in types.items() if name != FULL_PRECISION}, corruptions, lambda one: one.error
            )
        ),
    )


def _by_type(
    types: Mapping[str, _Types], corruptions: Iterable[str], number: Callable[[CorruptionType], float | None]
) -> dict[tuple[str | int, ...], float]:
    """A number of each algorithm and corruption type, mean over seeds; ``""`` is the mean over types of each seed."""
    found: dict[tuple[str | int, ...], float] = {}
    for name, seeds in types.items():
        numbers = [
            {corruption: value for corruption, one in seed.items() if (value := number(one)) is not None}
            for seed in seeds
        ]
        means = {"": [fmean(list(own.values())) for own in numbers if own]}
        means |= {corruption: [own[corruption] for own in numbers if corruption in own] for corruption in corruptions}
        found |= {(name, corruption): fmean(own) for corruption, own in means.items() if own}
    return found
