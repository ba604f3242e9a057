"""The published results, scored by the functions that score own runs; and own results beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bibench.records import Figure, Record, Results, RunConfig, Score, Status
from bibench.records.published import PrintedCell, printed_cells, published_results
from bibench.tracks import score
from bibench.tracks.base import Mode, Track
from bibench.tracks.corruption_robustness import corruption_robustness
from bibench.tracks.hardware_inference import hardware_inference
from bibench.tracks.learning_task import learning_task
from bibench.tracks.neural_architecture import neural_architecture
from bibench.tracks.statistics import mean_interval
from bibench.tracks.theoretical_complexity import theoretical_complexity
from bibench.tracks.training_consumption import training_consumption

__all__ = [
    "TRACKS",
    "Beside",
    "BesideRaw",
    "Cell",
    "CellStatus",
    "beside",
    "beside_raw",
    "recompute",
    "without_counterpart",
]

TRACKS: tuple[Track, ...] = (
    learning_task,
    neural_architecture,
    corruption_robustness,
    training_consumption,
    theoretical_complexity,
    hardware_inference,
)
"""Those of Tables 2 and 3, in their order."""

CellStatus = Literal["exact", "close", "differs", "not_reproducible", "not_deployable"]

_ROUNDING = 0.005 + 1e-9
"""A printed cell has two decimals."""

_CLOSE = 0.01 + 1e-9
"""The printed overall metrics were made from rounded components, which costs this much."""

_STAND_INS = {("training_consumption", "time_cost"), ("hardware_inference", "compression")}
"""These have no raw table: the printed cell itself is the published record's figure, and nothing is left to compare."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of Table 2 or 3 and what comes out of the raw tables.

    Args:
        track, metric, algorithm: as in `bibench.records.Score`.
        printed: None where the cell says that the algorithm cannot be deployed.
        recomputed: None where there is nothing to recompute it from.
        difference: recomputed minus printed, in the metric's unit.
        status: ``exact`` (equal after rounding to two decimals), ``close`` (within 0.01), ``differs`` (the equation as
            it is written gives another figure), ``not_reproducible`` (no definition gives the printed one, or no raw
            table is published) or ``not_deployable``.
    """

    track: str
    metric: str
    algorithm: str
    printed: float | None
    recomputed: float | None
    difference: float | None
    status: CellStatus


def recompute(mode: Mode = "paper", results: Results | None = None) -> list[Cell]:
    """Score the published raw figures and compare with every cell of Tables 2 and 3, in their order.

    Cells that rest on Tables 7 to 13 are within 0.01 in mode ``"paper"``. Nothing is fitted: what the package counts or
    computes otherwise stands beside the printed cell as it is, and the cells whose only source they are themselves
    have no recomputed value. ``om_train`` and ``om_infer`` rest on such cells for one of their components.

    Args:
        mode: ``"paper"``: what gives the printed cells; ``"literal"``: the equations as they are written.
        results: other raw figures than the published ones, such as corrected ones.

    >>> [(cell.metric, cell.printed, round(cell.recomputed, 2), cell.status) for cell in recompute()[:1]]
    [('cifar10', 94.54, 94.54, 'exact')]
    """
    scores = score(published_results() if results is None else results, TRACKS, mode)
    found = {(own.track, own.metric, own.algorithm): own.value for own in scores}
    return [_compared(cell, found.get((cell.track, cell.metric, cell.algorithm)), mode) for cell in printed_cells()]


def _compared(cell: PrintedCell, value: float | None, mode: Mode) -> Cell:
    if (cell.track, cell.metric) in _STAND_INS:
        value = None
    difference = None if value is None or cell.value is None else value - cell.value
    return Cell(
        track=cell.track,
        metric=cell.metric,
        algorithm=cell.algorithm,
        printed=cell.value,
        recomputed=value,
        difference=difference,
        status="not_deployable" if cell.value is None else _status(difference, mode),
    )


def _status(difference: float | None, mode: Mode) -> CellStatus:
    if difference is None:
        return "not_reproducible"
    if abs(difference) <= _CLOSE:
        return "exact" if abs(difference) <= _ROUNDING else "close"
    return "differs" if mode == "literal" else "not_reproducible"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """An own score beside the printed cell of the same track, metric and algorithm.

    Args:
        track, metric, algorithm: of both.
        own: mean over seeds, None where there is no score.
        status: of the own score, as in `bibench.records.Score`.
        printed: None where the cell says that the algorithm cannot be deployed.
        difference: own minus printed, in the metric's unit; None where one of them lacks.
        note: which components each is over, where those of an overall metric aren't the same.
    """

    track: str
    metric: str
    algorithm: str
    own: float | None
    status: Status
    printed: float | None
    difference: float | None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class BesideRaw:
    """An own score on one network beside the published one of Tables 7 to 13.

    Those on corrupted images (Tables 10 and 11) and of the sensitivity grid (Tables 12 and 13) are of ResNet-18 on
    CIFAR-10 alone.

    Args:
        task, architecture, algorithm, metric: of both; ``"fp32"`` is full precision.
        own: mean over ``seeds`` seeds.
        std: sample standard deviation over them, None with one.
        seeds: how many.
        published: the raw figure, in the same unit; of a setting, the mean over its trials.
        source: which table it is in.
        difference: own minus published.
        subset: of the test data, None for all of it.
        corruption, severity: of the test images, None for clean ones.
        origin: where the own corrupted images come from; the paper doesn't say it of its own.
        setting: of the sensitivity grid, None for the run that stands for its network.
    """

    task: str
    architecture: str
    algorithm: str
    metric: str
    own: float
    std: float | None
    seeds: int
    published: float
    source: str | None
    difference: float
    subset: str | None = None
    corruption: str | None = None
    severity: int | None = None
    origin: str | None = None
    setting: str | None = None


def beside(scores: Sequence[Score]) -> list[Beside]:
    """Own scores that have a printed counterpart, in the order of Tables 2 and 3.

    A printed cell is about the paper's tasks and networks, so a difference means something only where the own score is
    about the same ones; for the tracks whose components are tasks, the note says when they aren't.

    >>> own = Score(track="learning_task", metric="cifar10", algorithm="recu", value=97.0)
    >>> [(row.own, row.printed, round(row.difference, 2)) for row in beside([own])]
    [(97.0, 96.72, 0.28)]
    """
    cells = printed_cells()
    own = {(one.track, one.metric, one.algorithm): one for one in scores}
    pairs = [(cell, own.get((cell.track, cell.metric, cell.algorithm))) for cell in cells]
    return [
        Beside(
            track=one.track,
            metric=one.metric,
            algorithm=one.algorithm,
            own=one.value,
            status=one.status,
            printed=cell.value,
            difference=None if one.value is None or cell.value is None else one.value - cell.value,
            note=_other_components(one, scores, cells),
        )
        for cell, one in pairs
        if one is not None
    ]


def beside_raw(results: Results) -> list[BesideRaw]:
    """Own scores with a counterpart in Tables 7 to 13: those of the main runs in the plan's order, then the grid's.

    The counterpart has the same task, architecture, algorithm, metric and unit, and the same subset of the test data,
    corruption and severity, or setting of the sensitivity grid. Runs without an ok record are left out; images of two
    origins are not averaged.

    >>> beside_raw(Results(plan=[], records=[]))
    []
    """
    published = _by_place(published_results())
    found = []
    for place, figures in _by_place(results).items():
        others = published.get(place._replace(origin=None))
        if others is None:
            continue
        spread, printed = (mean_interval([figure.value for figure in own]) for own in (figures, others))
        found.append(
            BesideRaw(
                task=place.task,
                architecture=place.architecture,
                algorithm=place.algorithm,
                metric=place.metric,
                own=spread.mean,
                std=spread.std,
                seeds=spread.count,
                published=printed.mean,
                source=others[0].source,
                difference=spread.mean - printed.mean,
                subset=place.subset,
                corruption=place.corruption,
                severity=None if place.severity is None else int(place.severity),
                origin=place.origin,
                setting=place.setting,
            )
        )
    return found


def without_counterpart(scores: Sequence[Score], results: Results) -> tuple[int, int]:
    """How many own scores, and how many own raw figures, nothing published stands beside.

    >>> without_counterpart([Score(track="learning_task", metric="digits", algorithm="bnn", value=99.0)],
    ...                     Results(plan=[], records=[]))
    (1, 0)
    """
    own = {(one.track, one.metric, one.algorithm) for one in scores}
    return len(own) - len(beside(scores)), len(_by_place(results)) - len(beside_raw(results))


class _Place(NamedTuple):
    """What figures have in common that differ by seed, or trial; see `BesideRaw`."""

    task: str
    architecture: str
    algorithm: str
    metric: str
    unit: str
    subset: str | None = None
    corruption: str | None = None
    severity: str | None = None
    origin: str | None = None
    setting: str | None = None


def _by_place(results: Results) -> dict[_Place, list[Figure]]:
    """The scores of the main runs and of the sensitivity grid, one a seed, by their place."""
    found: dict[_Place, list[Figure]] = {}

    def add(run: RunConfig, figure: Figure, **more: str | None) -> None:
        place = _Place(run.task, run.architecture, run.algorithm, run.metric, figure.unit, **more)
        found.setdefault(place, []).append(figure)

    for run, record in _ok_records(results, results.main):
        if (whole := record.figure(run.metric)) is not None:
            add(run, whole)
        for (subset,), figure in record.figures_under(run.metric, "subset").items():
            add(run, figure, subset=subset)
        for (corruption, severity), figure in record.figures_under(run.metric, "corruption", "severity").items():
            add(run, figure, corruption=corruption, severity=severity, origin=figure.mode)
    for run, record in _ok_records(results, [run for run in results.plan if run.setting is not None]):
        if (whole := record.figure(run.metric)) is not None:
            add(run, whole, setting=run.setting)
    return found


def _ok_records(results: Results, runs: Sequence[RunConfig]) -> Iterator[tuple[RunConfig, Record]]:
    for run in {run.id: run for run in runs}.values():
        record = results.record(run.id)
        if record is not None and record.status == "ok":
            yield run, record


def _other_components(one: Score, scores: Sequence[Score], cells: Sequence[PrintedCell]) -> str:
    """What an overall metric is over, where that are other tasks than the paper's."""

    def components(rows: Sequence[Score | PrintedCell]) -> list[str]:
        names = dict.fromkeys(row.metric for row in rows if (row.track, row.algorithm) == (one.track, one.algorithm))
        if one.track == "corruption_robustness":
            return [name for name in names if name.endswith("_c")]
        return [name for name in names if not name.startswith("om_")]

    if one.metric not in ("om_task", "om_robust"):
        return ""
    own, printed = components(scores), components(cells)
    return "" if set(own) == set(printed) else f"own over {', '.join(own)}; printed over {', '.join(printed)}"
