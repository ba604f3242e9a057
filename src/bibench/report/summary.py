"""The content of tables and plots before it takes a form: scores by task and by track, and what is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from bibench.records import Results, RunConfig, Score, Status
from bibench.report.words import counted
from bibench.tracks.comparisons import Comparison, ties
from bibench.tracks.lookup import FULL_PRECISION, Lookup, Row, algorithms_in
from bibench.tracks.statistics import Interval, mean_interval
from bibench.tracks.training_consumption import settings_in
from bibench.tracks.trivial import TrivialLevel, trivial_level

__all__ = [
    "Card",
    "Cell",
    "Grid",
    "Missing",
    "TaskTable",
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
