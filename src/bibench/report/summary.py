"""The content of tables and plots before it takes a form: scores by task and by track, figures, and what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from bibench.records import Record, Results, RunConfig, Score, Status
from bibench.report.words import amount, counted, short_time, size
from bibench.tracks.comparisons import Comparison, ties
from bibench.tracks.corruption_robustness import CorruptionType, corruption_types, rows_with_images
from bibench.tracks.lookup import FULL_PRECISION, Lookup, Row, algorithms_in
from bibench.tracks.statistics import Interval, mean_interval
from bibench.tracks.training_consumption import settings_in
from bibench.tracks.trivial import TrivialLevel, trivial_level

__all__ = [
    "Card",
    "Cell",
    "Corruptions",
    "FigureTable",
    "Grid",
    "HeatMap",
    "Missing",
    "TaskTable",
    "complexity_tables",
    "corruption_tables",
    "cost_tables",
    "deployment_tables",
    "interval_text",
    "missing",
    "not_deployable",
    "scorecards",
    "sensitivity_grids",
    "setting_parts",
    "status_text",
    "task_tables",
]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """The scores of one algorithm on one task and architecture.

    Args:
        values: score by seed, of the runs that are ok.
        failed: how many runs failed.
        planned: how many were planned.
        best: whether it is the best of its column, or cannot be told apart from it.
        trivial: whether its mean is at the level of a trivial answer.
    """

    values: Mapping[int, float]
    failed: int
    planned: int
    best: bool = False
    trivial: bool = False

    @property
    def spread(self) -> Interval | None:
        """Mean, standard deviation and interval over seeds; None while there is no score."""
        return mean_interval(list(self.values.values())) if self.values else None

    @property
    def text(self) -> str:
        """The cell in words: ``"92.10 ± 0.31"``, with the count where it is not all seeds."""
        spread = self.spread
        if self.planned == 0:
            return "not planned"
        if spread is None:
            return "failed" if self.failed else "incomplete"
        text = f"{spread.mean:.2f}" if spread.std is None else f"{spread.mean:.2f} ± {spread.std:.2f}"
        if spread.count < self.planned:
            text += f" ({spread.count} of {self.planned}{', failed' if self.failed else ''})"
        return text

    @property
    def marked(self) -> str:
        """The cell in words with its marks: ``*`` at a trivial level, ``~`` among the best."""
        return " ".join(filter(None, (self.text, "*" if self.trivial else "", "~" if self.best else "")))


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """Scores on one task, full precision first.

    Args:
        task, metric, unit: what was scored.
        seeds: how many the plan has.
        algorithms, architectures: rows and columns.
        cells: by (algorithm, architecture).
        level: of a trivial answer, where the task says one.
    """

    task: str
    metric: str
    unit: str
    seeds: int
    algorithms: tuple[str, ...]
    architectures: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]
    level: TrivialLevel | None

    @property
    def trivial(self) -> str | None:
        """What a trivial answer scores, and with it what the mark ``*`` says, where a cell has it."""
        if self.level is None:
            return None
        score = f"{self.level.value:.2f} {self.level.unit}"
        if not any(cell.trivial for cell in self.cells.values()):
            return f"{self.level.answer} would score {score}"
        return f"* not better by more than {self.level.margin:.3g} than {self.level.answer}, which would score {score}"

    @property
    def title(self) -> str:
        """What the cells hold, such as ``"cifar10: accuracy in percent, mean ± std over 3 seeds"``."""
        how = f"mean ± std over {self.seeds} seeds" if self.seeds > 1 else "one seed"
        return f"{self.task}: {self.metric} in {self.unit}, {how}"

    @property
    def incomplete(self) -> bool:
        """Whether some cell has fewer seeds than planned."""
        return any(len(cell.values) < cell.planned for cell in self.cells.values())


def task_tables(results: Results, found: Sequence[Comparison]) -> list[TaskTable]:
    """One table a task: what each algorithm scored on each architecture.

    Args:
        results: planned runs and records.
        found: comparisons of the same results, for marking the best.
    """
    best = ties(found)
    rows = results.once(Lookup).rows
    return [_task_table(results, task, rows, best) for task in dict.fromkeys(task for task, _ in rows)]


def _task_table(results: Results, task: str, rows: Iterable[Row], best: Mapping[Row, tuple[str, ...]]) -> TaskTable:
    runs = [run for run in results.main if run.task == task]
    architectures = tuple(architecture for own, architecture in rows if own == task)
    algorithms = (FULL_PRECISION, *algorithms_in(runs))
    level = trivial_level(record for run in runs if (record := results.record(run.id)) is not None)
    cells = {}
    units: list[str] = []
    for algorithm in algorithms:
        for architecture in architectures:
            cell = _cell(results, results.main_of(task, architecture, algorithm), units)
            cells[algorithm, architecture] = replace(
                cell,
                best=algorithm in best.get((task, architecture), ()),
                trivial=level is not None and cell.spread is not None and level.covers(cell.spread.mean),
            )
    return TaskTable(
        task=task,
        metric=runs[0].metric,
        unit=units[0] if units else "no unit yet",
        seeds=len({run.seed for run in runs}),
        algorithms=algorithms,
        architectures=architectures,
        cells=cells,
        level=level,
    )


def _cell(results: Results, runs: Iterable[RunConfig], units: list[str]) -> Cell:
    """The scores of some runs; adds their units to ``units``."""
    own = {run.id: run for run in runs}
    values, failed = {}, 0
    for run in own.values():
        record = results.record(run.id)
        if record is None or record.status == "failed":
            failed += record is not None
            continue
        place = record.figures.kinds.plain.get(run.metric)
        if place is not None:
            values[run.seed] = record.figures.values[place]
            units.append(record.figures.kinds.figures[place].unit)
    return Cell(values=values, failed=failed, planned=len(own))


@dataclass(frozen=True, kw_only=True)
class Card:
    """The scores of one track, by (algorithm, metric)."""

    track: str
    algorithms: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: Mapping[tuple[str, str], Score]

    @property
    def title(self) -> str:
        """The track, and what the cells hold, as far as that is the same in all of them."""
        valued = [score for score in self.scores.values() if score.value is not None]
        if not valued:
            return f"{self.track}: no score yet"
        parts = [*self._unit_words(), *(["as the paper counts"] if self.mode == "paper" else []), _spread_words(valued)]
        return f"{self.track}: {', '.join(parts)}"

    @property
    def mode(self) -> str | None:
        """Which reading of the equations, where all scores say so."""
        modes = {score.mode for score in self.scores.values()}
        return modes.pop() if len(modes) == 1 else None

    @property
    def units(self) -> dict[str, str]:
        """The unit of each metric where they differ; empty where the title says the one that all have."""
        one = len(set(self._units.values())) <= 1
        return {metric: "" if one else self._units[metric] for metric in self.metrics}

    @property
    def notes(self) -> tuple[tuple[str, str], ...]:
        """Each note once, before it whose it is: metrics, and algorithms where it isn't all of them."""
        holders: dict[str, list[Score]] = {}
        for score in self.scores.values():
            if score.note:
                holders.setdefault(score.note, []).append(score)
        return tuple((self._whose(own), note) for note, own in holders.items())

    @property
    def lower_is_better(self) -> tuple[str, ...]:
        """The metrics of which less is better; of all others more is."""
        return tuple(metric for metric in self.metrics if (self.track, metric) in _LOWER_IS_BETTER)

    @property
    def settled(self) -> str | None:
        """The one status in words that every score has, if it is one that more runs would not change.

        Scores that are not there because a run is still to come may be among them.
        """
        states = {score.status for score in self.scores.values()} - {"incomplete"}
        return states.pop().replace("_", " ") if len(states) == 1 and states <= _SETTLED else None

    @property
    def reasons(self) -> tuple[tuple[str, str], ...]:
        """Why scores are not measured, not deployable or not reproducible, before each whose it is."""
        holders: dict[str, tuple[list[Score], dict[str, None]]] = {}
        for score in self.scores.values():
            if score.status in _SETTLED:
                for text in score.missing:
                    _, reason = _place_and_reason(text)
                    own, texts = holders.setdefault(reason, ([], {}))
                    own.append(score)
                    texts[text] = None
        return tuple((self._whose(own), _counted(reason, list(texts))) for reason, (own, texts) in holders.items())

    @property
    def _units(self) -> dict[str, str]:
        return {score.metric: score.unit for score in self.scores.values()}

    def _unit_words(self) -> list[str]:
        units = set(self._units.values())
        if len(units) > 1:
            return []
        return ["percent of full precision" if units == {"percent"} and self.track in _RELATIVE else units.pop()]

    def _whose(self, scores: Sequence[Score]) -> str:
        algorithms = tuple(dict.fromkeys(score.algorithm for score in scores))
        metrics = ", ".join(metric for metric in self.metrics if any(score.metric == metric for score in scores))
        return metrics if len(algorithms) == len(self.algorithms) else f"{metrics} of {', '.join(algorithms)}"


_RELATIVE = ("learning_task", "neural_architecture")
"""Tracks whose scores are shares of the full-precision score."""

_LOWER_IS_BETTER = {
    *(("corruption_robustness", metric) for metric in ("mean_gap", "mce", "relative_mce")),
    ("training_speed", "slowdown"),
}

_SETTLED: frozenset[Status] = frozenset({"not_measured", "not_deployable", "not_reproducible"})
"""Statuses that are no failure, and that more runs of the suite would not change."""


def _spread_words(scores: Sequence[Score]) -> str:
    counts = {score.seeds for score in scores}
    seeds = f"{max(counts)} seeds" if len(counts) == 1 else f"{min(counts)} to {max(counts)} seeds"
    if max(counts) <= 1:
        return "one seed, so no interval"
    if not any(map(interval_text, scores)):
        return f"the same for each of {seeds}"
    # A score with an interval and without a standard deviation is no mean over seeds, such as a ratio of deviations.
    kind = "value" if any(score.std is None and score.low is not None for score in scores) else "mean"
    return f"{kind} [95 % interval] over {seeds}"


def scorecards(scores: Sequence[Score]) -> list[Card]:
    """The scores by track, in their order."""
    return [
        Card(
            track=track,
            algorithms=tuple(dict.fromkeys(score.algorithm for score in scores if score.track == track)),
            metrics=tuple(dict.fromkeys(score.metric for score in scores if score.track == track)),
            scores={(score.algorithm, score.metric): score for score in scores if score.track == track},
        )
        for track in dict.fromkeys(score.track for score in scores)
    ]


def status_text(score: Score | None) -> str:
    """``"94.54"``, or the status in words where there is no value.

    >>> status_text(Score(track="t", metric="m", algorithm="bnn", value=None, status="not_deployable"))
    'not deployable'
    """
    if score is None:
        return "no score"
    return score.status.replace("_", " ") if score.value is None else f"{score.value:.2f}"


def interval_text(score: Score | None) -> str:
    """``"[93.10, 95.98]"``, or nothing where there is no interval, or one without width: of what was counted.

    >>> interval_text(Score(track="t", metric="m", algorithm="bnn", value=2.5, low=2.5, high=2.5))
    ''
    """
    if score is None or score.low is None or score.high is None:
        return ""
    # Not just equal: a mean of equal numbers may be off by a rounding.
    if math.isclose(score.low, score.high, rel_tol=1e-9, abs_tol=1e-12):
        return ""
    return f"[{score.low:.2f}, {score.high:.2f}]"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """One thing that is missing (a run, or a reason) and the scores that wait for it.

    Args:
        text: what is missing.
        failed: whether all of these scores failed.
        metrics, algorithms: of these scores.
        places: where one text stands for several, such as runs that failed for one reason: all of them.
    """

    text: str
    failed: bool
    metrics: tuple[str, ...]
    algorithms: tuple[str, ...]
    places: tuple[str, ...] = ()


_FEW = 3
"""Up to so many things with one reason are listed one by one."""


def missing(scores: Sequence[Score], results: Results) -> list[Missing]:
    """Everything that keeps scores from being complete: failures first, then what more of them wait for.

    What nothing has measured, or nothing can, is no gap that more runs would fill, and not listed.
    """
    settled = {text for score in scores if score.status == "not_measured" for text in score.missing}
    waiting: dict[str, list[Score]] = {}
    for score in scores:
        if score.status not in _SETTLED:
            for text in score.missing:
                if text not in settled:
                    waiting.setdefault(text, []).append(score)
    planned = {run.id for run in results.plan}
    groups: dict[tuple[str, bool], list[str]] = {}
    for text, own in waiting.items():
        _, reason = _place_and_reason(_explained(text, planned, results))
        groups.setdefault((reason, all(score.status == "failed" for score in own)), []).append(text)
    found = []
    for (reason, failed), texts in groups.items():
        parts = [[text] for text in texts] if len(texts) <= _FEW else [texts]
        for part in parts:
            full = [_explained(text, planned, results) for text in part]
            own = [score for text in part for score in waiting[text]]
            found.append(
                Missing(
                    text=full[0] if len(part) == 1 else _counted(reason, full),
                    failed=failed,
                    metrics=tuple(dict.fromkeys(score.metric for score in own)),
                    algorithms=tuple(dict.fromkeys(score.algorithm for score in own)),
                    places=() if len(part) == 1 else tuple(_place_and_reason(text)[0] for text in full),
                )
            )
    return sorted(found, key=lambda item: (not item.failed, -len(item.algorithms)))


def not_deployable(results: Results) -> list[tuple[str, tuple[str, ...], str]]:
    """What nothing can deploy: network, algorithms and reason, by network.

    Args:
        results: of which the main runs' absences with status ``not_deployable`` are taken.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for run in results.main:
        record = results.record(run.id)
        reasons = set() if record is None else {one.reason for one in record.absences if one.status == "not_deployable"}
        for reason in reasons:
            found.setdefault((f"{run.architecture} on {run.task}", reason), []).append(run.algorithm)
    return [(network, tuple(dict.fromkeys(names)), reason) for (network, reason), names in found.items()]


def _explained(text: str, planned: Container[str], results: Results) -> str:
    """A text that is only the identity of a run, with what that run lacks."""
    if text not in planned:
        return text
    return f"{text}: {'not run yet' if results.record(text) is None else 'run, but not measured by this track yet'}"


def _place_and_reason(text: str) -> tuple[str, str]:
    """``"RUN: reason"`` in its two parts; a text without a place is all reason."""
    place, colon, reason = text.partition(": ")
    return (place, reason) if colon else ("", text)


_RUN = re.compile(r".*[- ]s\d+(-[0-9a-f]{10})?")


def _counted(reason: str, texts: Sequence[str]) -> str:
    """A reason, and how many have it; as it is where it belongs to no place."""
    places = [place for place, _ in map(_place_and_reason, texts) if place]
    if not places:
        return reason
    what = "seed" if all(place.startswith("seed ") for place in places) else "case"
    what = "run" if all(_RUN.fullmatch(place) for place in places) else what
    return f"{reason} ({counted(len(places), what)})"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The sensitivity grid of one network: scores under different training settings.

    Args:
        task, architecture: the network.
        metric, unit: of the scores.
        settings: by optimizer, rate and schedule.
        seeds: how many.
        algorithms: full precision first.
        cells: by (algorithm, setting); the best setting of each algorithm is marked.
    """

    task: str
    architecture: str
    metric: str
    unit: str
    settings: tuple[str, ...]
    seeds: int
    algorithms: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

    @property
    def title(self) -> str:
        """What the cells hold."""
        how = f"mean ± std over {self.seeds} seeds" if self.seeds > 1 else "one seed"
        return f"{self.architecture} on {self.task}: {self.metric} in {self.unit} by training setting, {how}"

    def deviation(self, algorithm: str) -> float | None:
        """Standard deviation over all trials of all settings, which equation 6 compares; None while a trial lacks."""
        cells = [self.cells[algorithm, setting] for setting in self.settings]
        trials = [value for cell in cells for value in cell.values.values()]
        complete = all(len(cell.values) == cell.planned > 0 for cell in cells)
        return mean_interval(trials).std if complete else None


_SETTING = re.compile(r"(.+?)-([0-9.]+(?:e[+-]?[0-9]+)?x)-(.+)")


def setting_parts(setting: str) -> tuple[str, ...]:
    """Optimizer, rate and schedule of a setting; a label of another form is one part.

    >>> setting_parts("sgd-0.1x-step"), setting_parts("mine")
    (('sgd', '0.1x', 'step'), ('mine',))
    """
    parts = _SETTING.fullmatch(setting)
    return parts.groups() if parts else (setting,)


def sensitivity_grids(results: Results) -> list[Grid]:
    """The sensitivity grid of each network that the plan has one for."""
    grids = []
    for (task, architecture), settings in settings_in(results.plan).items():
        network = (task, architecture)
        runs = [run for run in results.plan if run.setting is not None and (run.task, run.architecture) == network]
        algorithms = (FULL_PRECISION, *algorithms_in(runs))
        trials: dict[tuple[str, str | None], list[RunConfig]] = {}
        for run in runs:
            trials.setdefault((run.algorithm, run.setting), []).append(run)
        cells: dict[tuple[str, str], Cell] = {}
        units: list[str] = []
        for algorithm in algorithms:
            own = {setting: _cell(results, trials.get((algorithm, setting), ()), units) for setting in settings}
            means = {setting: cell.spread.mean for setting, cell in own.items() if cell.spread is not None}
            best = max(means, key=lambda setting: means[setting]) if len(means) > 1 else None
            for setting, cell in own.items():
                cells[algorithm, setting] = replace(cell, best=setting == best)
        grids.append(
            Grid(
                task=task,
                architecture=architecture,
                metric=runs[0].metric,
                unit=units[0] if units else "no unit yet",
                settings=settings,
                seeds=len({run.seed for run in runs}),
                algorithms=algorithms,
                cells=cells,
            )
        )
    return grids


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
        every = _records(results, task, architecture, algorithms)
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
            (name, corruption, severity): _mean(values[corruption, str(severity)])
            for corruption in corruptions
            for severity in severities
            if (corruption, str(severity)) in values
        }
        for corruption in ("", *corruptions):
            together = [value for key, some in values.items() if corruption in ("", key[0]) for value in some]
            if together:
                by_corruption[name, corruption] = _mean(together)
        clean = [number for record in own if (number := record.number(record.run.metric)) is not None]
        by_severity[name] = {0: clean} if clean else {}
        for severity, some_keys in at_severity.items():
            seeds = [[one[key] for key in some_keys if key in one] for one in scores]
            if any(seeds):
                by_severity[name][severity] = [_mean(some) for some in seeds if some]
    return Corruptions(
        task=task,
        architecture=architecture,
        metric=figures[0].name,
        unit=figures[0].unit,
        seeds=_seeds_words(records.values()),
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
        means = {"": [_mean(list(own.values())) for own in numbers if own]}
        means |= {corruption: [own[corruption] for own in numbers if corruption in own] for corruption in corruptions}
        found |= {(name, corruption): _mean(own) for corruption, own in means.items() if own}
    return found


@dataclass(frozen=True, kw_only=True)
class FigureTable:
    """Figures of one network in words: a heading for each column, and each algorithm's cells."""

    task: str
    architecture: str
    seeds: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]

    @property
    def title(self) -> str:
        """The network, and over what the cells are means."""
        return f"{self.architecture} on {self.task}, {self.seeds}"


def complexity_tables(results: Results) -> list[FigureTable]:
    """What was counted on each network: parameters, operations, memory traffic, and the ratios from them."""
    return _figure_tables(
        results,
        {
            "parameters": _meaned("parameters", amount),
            "kept parameters": _meaned("kept_parameters", amount),
            "operations": _meaned("operations", amount),
            "kept operations": _meaned("kept_operations", amount),
            "bit-operations": _meaned("bit_operations", amount),
            "memory traffic": _meaned("memory_traffic", size),
            "speedup": _meaned("speedup", "{:.2f}x".format),
            "compression": _meaned("compression", "{:.2f}x".format),
        },
    )


def cost_tables(results: Results) -> list[FigureTable]:
    """What a training step of each network took, in time and memory, beside full precision."""
    return _figure_tables(
        results,
        {
            "time cost": _time_cost,
            "step": _meaned("step_time", short_time),
            "full-precision step": _meaned("full_precision_step_time", short_time),
            "peak memory": _meaned("step_peak_memory", size),
            "full-precision peak memory": _meaned("full_precision_step_peak_memory", size),
        },
    )


def deployment_tables(results: Results) -> list[FigureTable]:
    """What each network is where it is deployed, beside full precision: latency, size, and the file's own score."""
    return _figure_tables(
        results,
        {
            "latency": _latency("latency"),
            "full precision": _latency("full_precision_latency"),
            "fastest full precision": _fastest,
            "speedup": _quotient("full_precision_latency"),
            "over the fastest": _quotient("fastest_full_precision_latency"),
            "file": _meaned("packed_bytes", size),
            "compression": _meaned("storage_compression", "{:.2f}x".format),
            "score of the file": _shipped_score,
            "difference from PyTorch": _shipped_difference,
        },
    )


_PLACE = ("device", "threads", "library")


def _taken(records: Sequence[Record], name: str) -> list[float]:
    """A latency of some records at all the places where it was taken."""
    found: list[float] = []
    for record in records:
        figures = record.figures
        found += [figures.values[place] for place in figures.kinds.under(name, _PLACE).values()]
    return found


def _latency(name: str) -> _Column:
    def column(records: Sequence[Record]) -> str | None:
        values, lows, highs = (_taken(records, name + end) for end in ("", "_lower_quartile", "_upper_quartile"))
        text = _milliseconds(_mean(values)) if values else None
        if not lows or not highs:
            return text
        low, high = _milliseconds(_mean(lows)), _milliseconds(_mean(highs))
        same = low.split()[1] == high.split()[1]
        return f"{text} ({low.split()[0] if same else low} to {high})"

    return column


def _milliseconds(value: float) -> str:
    return short_time(value / 1000)


def _fastest(records: Sequence[Record]) -> str | None:
    name = "fastest_full_precision_latency"
    values = _taken(records, name)
    if not values:
        return None
    names: dict[str | None, None] = {}
    for kinds in dict.fromkeys(record.figures.kinds for record in records):
        names |= dict.fromkeys(kinds.figures[place].mode for _, place in sorted(kinds.under(name, _PLACE).items()))
    return ", ".join((_milliseconds(_mean(values)), *(text for text in names if text)))


def _quotient(name: str) -> _Column:
    def column(records: Sequence[Record]) -> str | None:
        quotients: list[float] = []
        for record in records:
            kinds, values = record.figures.kinds, record.figures.values
            full = kinds.under(name, _PLACE)
            if full:  # where no other runtime was timed, full precision in the own one is the fastest
                full = kinds.under("full_precision_latency", _PLACE) | full
            own = kinds.under("latency", _PLACE)
            quotients += [
                values[full[at]] / values[place] for at, place in own.items() if at in full and values[place] > 0
            ]
        return f"{_mean(quotients):.2f}x" if quotients else None

    return column


def _shipped(records: Sequence[Record]) -> list[tuple[float, float]]:
    """The scores of shipped files, and those of the networks in PyTorch."""
    pairs = ((record.number(f"packed_{record.run.metric}"), record.number(record.run.metric)) for record in records)
    return [(own, trained) for own, trained in pairs if own is not None and trained is not None]


def _shipped_score(records: Sequence[Record]) -> str | None:
    found = _shipped(records)
    if not found:
        return None
    figures = (record.figure(f"packed_{record.run.metric}") for record in records)
    return f"{_mean([own for own, _ in found]):.2f} {next(figure.unit for figure in figures if figure is not None)}"


def _shipped_difference(records: Sequence[Record]) -> str | None:
    found = _shipped(records)
    return f"{_mean([own - trained for own, trained in found]):+.2f}" if found else None


_Column = Callable[[Sequence[Record]], str | None]
"""From the records of an algorithm, one a seed, to its cell; None where they have no such figure."""


def _meaned(name: str, words: Callable[[float], str]) -> _Column:
    def column(records: Sequence[Record]) -> str | None:
        values = [value for record in records if (value := record.number(name)) is not None]
        return words(_mean(values)) if values else None

    return column


def _time_cost(records: Sequence[Record]) -> str | None:
    text = _meaned("time_cost", "{:.1f} %".format)(records)
    lows = [value for record in records if (value := record.number("time_cost_lowest")) is not None]
    highs = [value for record in records if (value := record.number("time_cost_highest")) is not None]
    return f"{text} ({min(lows):.1f} to {max(highs):.1f})" if text and lows and highs else text


def _figure_tables(results: Results, columns: Mapping[str, _Column]) -> list[FigureTable]:
    found = []
    algorithms = results.once(Lookup).algorithms
    for task, architecture in results.once(Lookup).rows:
        records = _records(results, task, architecture, algorithms)
        cells = {name: {title: column(own) for title, column in columns.items()} for name, own in records.items()}
        shown = [title for title in columns if any(own[title] is not None for own in cells.values())]
        if shown:
            rows = {
                name: tuple(own[title] or ("not measured" if records[name] else "no result") for title in shown)
                for name, own in cells.items()
            }
            seeds = _seeds_words(records.values())
            found.append(
                FigureTable(task=task, architecture=architecture, seeds=seeds, columns=tuple(shown), rows=rows)
            )
    return found


def _records(results: Results, task: str, architecture: str, algorithms: Iterable[str]) -> dict[str, list[Record]]:
    """The records of a network's main runs that are ok, by algorithm; an empty list where one has none."""
    found = {}
    for name in algorithms:
        ids = dict.fromkeys(run.id for run in results.main_of(task, architecture, name))
        records = (results.record(run_id) for run_id in ids)
        found[name] = [record for record in records if record is not None and record.status == "ok"]
    return found


def _seeds_words(records: Iterable[Sequence[Record]]) -> str:
    """Over how many seeds the figures of these records are means, one sequence an algorithm; some may be empty."""
    counts = [len(own) for own in records if own]
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "one seed"
    return f"mean over {most} seeds" if fewest == most else f"mean over {fewest} to {most} seeds"


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
