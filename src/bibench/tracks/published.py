"""The published results, scored by the functions that score own runs; and own results beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bibench.records import Figure, Results, Score, Status
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
    """An own score on one network beside the published one of Tables 7 to 9.

    Args:
        task, architecture, algorithm, metric: of both; ``"fp32"`` is full precision.
        own: mean over ``seeds`` seeds.
        std: sample standard deviation over them, None with one.
        seeds: how many.
        published: the raw figure, in the same unit.
        source: which table it is in.
        difference: own minus published.
        subset: of the test data, None for all of it.
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
    """Own scores of the main runs that have a counterpart in Tables 7 to 9, in the plan's order.

    The counterpart has the same task, architecture, algorithm, metric, unit and subset of the test data. Runs without
    an ok record are left out.

    >>> beside_raw(Results(plan=[], records=[]))
    []
    """
    published = {place: figures[0] for place, figures in _by_place(published_results()).items()}
    found = []
    for place, figures in _by_place(results).items():
        other = published.get(place)
        if other is None:
            continue
        task, architecture, algorithm, metric, _, subset = place
        spread = mean_interval([figure.value for figure in figures])
        found.append(
            BesideRaw(
                task=task,
                architecture=architecture,
                algorithm=algorithm,
                metric=metric,
                own=spread.mean,
                std=spread.std,
                seeds=spread.count,
                published=other.value,
                source=other.source,
                difference=spread.mean - other.value,
                subset=subset,
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


_Place = tuple[str, str, str, str, str, str | None]


def _by_place(results: Results) -> dict[_Place, list[Figure]]:
    """The scores of the main runs, one a seed, by task, architecture, algorithm, metric, unit and subset."""
    found: dict[_Place, list[Figure]] = {}
    for run in {run.id: run for run in results.main}.values():
        record = results.record(run.id)
        if record is None or record.status != "ok":
            continue
        whole = record.figure(run.metric)
        own: list[tuple[str | None, Figure]] = [] if whole is None else [(None, whole)]
        own += [(key[0], figure) for key, figure in record.figures_under(run.metric, "subset").items()]
        for subset, figure in own:
            place = (run.task, run.architecture, run.algorithm, run.metric, figure.unit, subset)
            found.setdefault(place, []).append(figure)
    return found


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
