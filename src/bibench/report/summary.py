"""The content of tables and plots before it takes a form: scores by task and by track, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bibench.records import Results, Score
from bibench.tracks.comparisons import Comparison, ties
from bibench.tracks.relative import FULL_PRECISION, Row, algorithms_in, rows_in
from bibench.tracks.statistics import Interval, mean_interval

__all__ = [
    "Card",
    "Cell",
    "Missing",
    "TaskTable",
    "duration",
    "interval_text",
    "missing",
    "scorecards",
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
    """

    values: Mapping[int, float]
    failed: int
    planned: int
    best: bool = False

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


@dataclass(frozen=True, kw_only=True)
class TaskTable:
    """Scores on one task, full precision first; ``cells`` by (algorithm, architecture), ``unit`` of the metric."""

    task: str
    metric: str
    unit: str
    seeds: int
    algorithms: tuple[str, ...]
    architectures: tuple[str, ...]
    cells: Mapping[tuple[str, str], Cell]

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
    rows = rows_in(results.plan)
    return [_task_table(results, task, rows, best) for task in dict.fromkeys(task for task, _ in rows)]


def _task_table(results: Results, task: str, rows: Iterable[Row], best: Mapping[Row, tuple[str, ...]]) -> TaskTable:
    runs = [run for run in results.plan if run.task == task]
    architectures = tuple(architecture for own, architecture in rows if own == task)
    algorithms = (FULL_PRECISION, *algorithms_in(runs))
    cells = {}
    units = []
    for algorithm in algorithms:
        for architecture in architectures:
            own = {run.id: run for run in runs if (run.algorithm, run.architecture) == (algorithm, architecture)}
            values, failed = {}, 0
            for run in own.values():
                record = results.record(run.id)
                figure = record.figure(run.metric) if record is not None and record.status == "ok" else None
                if figure is not None:
                    values[run.seed] = figure.value
                    units.append(figure.unit)
                failed += record is not None and record.status == "failed"
            cells[algorithm, architecture] = Cell(
                values=values,
                failed=failed,
                planned=len(own),
                best=algorithm in best.get((task, architecture), ()),
            )
    return TaskTable(
        task=task,
        metric=runs[0].metric,
        unit=units[0] if units else "no unit yet",
        seeds=len({run.seed for run in runs}),
        algorithms=algorithms,
        architectures=architectures,
        cells=cells,
    )


@dataclass(frozen=True, kw_only=True)
class Card:
    """The scores of one track, by (algorithm, metric)."""

    track: str
    algorithms: tuple[str, ...]
    metrics: tuple[str, ...]
    scores: Mapping[tuple[str, str], Score]

    @property
    def title(self) -> str:
        """The track, and what the cells hold."""
        some = next(iter(self.scores.values()))
        seeds = max(score.seeds for score in self.scores.values())
        how = f"mean [95 % interval] over {seeds} seeds" if seeds > 1 else "one seed, so no interval"
        return f"{self.track}: {some.unit} of full precision, {how}" if seeds else f"{self.track}: no score yet"


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
    """``"[93.10, 95.98]"``, or nothing where there is no interval."""
    return "" if score is None or score.low is None or score.high is None else f"[{score.low:.2f}, {score.high:.2f}]"


@dataclass(frozen=True, kw_only=True)
class Missing:
    """One thing that is missing (a run, or a reason) and the scores that wait for it."""

    text: str
    failed: bool
    metrics: tuple[str, ...]
    algorithms: tuple[str, ...]


def missing(scores: Sequence[Score]) -> list[Missing]:
    """Everything that keeps scores from being complete: failures first, then what more of them wait for."""
    waiting: dict[str, list[Score]] = {}
    for score in scores:
        for text in score.missing:
            waiting.setdefault(text, []).append(score)
    found = [
        Missing(
            text=text,
            failed=all(score.status == "failed" for score in own),
            metrics=tuple(dict.fromkeys(score.metric for score in own)),
            algorithms=tuple(dict.fromkeys(score.algorithm for score in own)),
        )
        for text, own in waiting.items()
    ]
    return sorted(found, key=lambda item: (not item.failed, -len(item.algorithms)))


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(4.2), duration(75), duration(7500)
    ('4.2 s', '1 min 15 s', '2 h 05 min')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
