"""The content of the training-speed track's tables and plots: speedups, scores at equal cost, splits of a budget."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from bibench.records import Record, Results
from bibench.records.published import PrintedFigure, published_training_speed
from bibench.report.words import counted
from bibench.tracks.lookup import FULL_PRECISION, Lack, status_of
from bibench.tracks.speedup import Speedup
from bibench.tracks.training_speed import EVEN, Curve, Network, measured_speedup, networks

__all__ = [
    "EqualCost",
    "GainRow",
    "SpeedCell",
    "SpeedRow",
    "SpeedTable",
    "Splits",
    "Training",
    "drawn",
    "speed_table",
    "trainings",
]


@dataclass(frozen=True, kw_only=True)
class SpeedCell:
    """One figure in words.

    Args:
        text: the figure, or in a word why there is none.
        span: the lowest and the highest that it is a mean of.
        detail: what it rests on.
        published: the paper's figure; empty where it has none.
        state: ``"failed"``, ``"wait"``, or nothing where there is a figure.
    """

    text: str
    span: str = ""
    detail: str = ""
    published: str = ""
    state: Literal["", "failed", "wait"] = ""


@dataclass(frozen=True, kw_only=True)
class SpeedRow:
    """The speedups and the slowdown of one algorithm on one network; a cell a column of the table."""

    task: str
    architecture: str
    algorithm: str
    cells: tuple[SpeedCell, ...]


@dataclass(frozen=True, kw_only=True)
class SpeedTable:
    """Speedups and slowdowns: a row a network and algorithm.

    Args:
        columns: a heading each, and one of what its cells rest on.
        rows: in the plan's order.
        published: what the paper says of all its networks together, in a sentence; empty where no row is one of them.
    """

    columns: tuple[tuple[str, str], ...]
    rows: tuple[SpeedRow, ...]
    published: str


_COLUMNS = (("by iterations", "target scores"), ("by wall-clock", "target scores"), ("slowdown", "iterations/s"))


def speed_table(results: Results) -> SpeedTable | None:
    """What partial pre-training and binarization do to the length of a training; None where nothing is binarized.

    The published figures stand beside those of the same task, architecture and algorithm.
    """
    curves = {(*network.row, network.algorithm): network for network in networks(results)}
    places = dict.fromkeys(
        (run.task, run.architecture, run.algorithm)
        for run in results.plan
        if run.algorithm != FULL_PRECISION and (run.main or run.point is not None)
    )
    if not places:
        return None
    rows = tuple(_speed_row(results, place, curves.get(place)) for place in places)
    published = ""
    if any(cell.published for row in rows for cell in row.cells):
        mean = _published("all", "all", "pact")["iteration_speedup"]
        published = f"by iterations {mean.value:.2f}x is published, the mean over four networks"
    return SpeedTable(columns=_COLUMNS, rows=rows, published=published)


def _speed_row(results: Results, place: tuple[str, str, str], network: Network | None) -> SpeedRow:
    printed = _published(*place)
    return SpeedRow(
        task=place[0],
        architecture=place[1],
        algorithm=place[2],
        cells=(
            _speedup_cell(network, "budget", printed.get("iteration_speedup")),
            _speedup_cell(network, "seconds", printed.get("wall_clock_speedup")),
            _slowdown_cell(_main_records(results, place), printed),
        ),
    )


def _speedup_cell(network: Network | None, cost: str, printed: PrintedFigure | None) -> SpeedCell:
    published = "" if printed is None else f"{printed.value:.2f}x"
    if network is None:
        return SpeedCell(text="no curves", published=published, state="wait")
    found = measured_speedup(network, cost)
    if not isinstance(found, Speedup):
        return SpeedCell(text=_status_words(found), published=published, state=_state(found))
    every = found.used + found.left_out
    of = f"{found.used} of {every}" if found.left_out else f"all {every}"
    return SpeedCell(
        text=f"{found.value:.2f}x",
        span=f"{found.low:.2f} to {found.high:.2f}",
        detail=f"{of}, {'' if found.converged else 'not '}converged",
        published=published,
    )


def _status_words(lacks: Sequence[Lack]) -> str:
    return status_of(lacks).replace("_", " ")


def _state(lacks: Sequence[Lack]) -> Literal["failed", "wait"]:
    return "failed" if status_of(lacks) == "failed" else "wait"


_SPEEDS = ("iteration_speed", "full_precision_iteration_speed")


def _slowdown_cell(records: Sequence[Record], printed: Mapping[str, PrintedFigure]) -> SpeedCell:
    """The mean over seeds of the slowdown, and of the two speeds."""
    published = ""
    if {"slowdown", *_SPEEDS} <= printed.keys():
        published = f"{printed['slowdown'].value:.2f}x, {_speeds_text([printed[name].value for name in _SPEEDS])}"
    values = _values(records, "slowdown")
    if not values:
        return SpeedCell(text="not measured" if records else "no result", published=published, state="wait")
    lows, highs = _values(records, "slowdown_lowest"), _values(records, "slowdown_highest")
    speeds = [statistics.fmean(own) for name in _SPEEDS if (own := _values(records, name))]
    return SpeedCell(
        text=f"{statistics.fmean(values):.2f}x",
        span=f"{min(lows):.2f} to {max(highs):.2f}" if lows and highs else "",
        detail=_speeds_text(speeds) if len(speeds) == len(_SPEEDS) else "",
        published=published,
    )


def _speeds_text(speeds: Sequence[float]) -> str:
    return "{:,.2f} against {:,.2f}".format(*speeds)


def _values(records: Sequence[Record], name: str) -> list[float]:
    return [figure.value for record in records if (figure := record.figure(name)) is not None]


def _main_records(results: Results, place: tuple[str, str, str]) -> list[Record]:
    """The records of a place's main runs that are ok."""
    ids = dict.fromkeys(run.id for run in results.main_of(*place))
    found = (results.record(run_id) for run_id in ids)
    return [record for record in found if record is not None and record.status == "ok"]


def _published(task: str, architecture: str, algorithm: str) -> dict[str, PrintedFigure]:
    """The published figures of a place by metric."""
    return {
        figure.metric: figure
        for figure in published_training_speed()
        if (figure.task, figure.architecture, figure.algorithm) == (task, architecture, algorithm)
    }


@dataclass(frozen=True, kw_only=True)
class EqualCost:
    """Scores after the same total budget, full precision's part included.

    Args:
        columns: the methods that have a budget in common with another.
        rows: by total budget that two of them have a cell a method, ``""`` where it has no run of that budget.
    """

    columns: tuple[str, ...]
    rows: Mapping[int, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class GainRow:
    """What the best share of one total budget gains over an even split, in words; ``interval`` may be empty."""

    budget: int
    share: str
    gain: str
    interval: str
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Splits:
    """Partial pre-training with several splits of a budget (the paper's figure 3).

    Args:
        first: budgets of full precision, ascending.
        second: budgets of the binarized part, descending, so that equal totals lie on falling diagonals.
        medians: score by the two, where there are runs.
        lines: scores of the seeds by total budget, then by share, of the budgets that were split in most ways; share 0
            is training from scratch.
        omitted: other budgets that were split in several ways, in words; empty where there are none.
        best: the best share by total budget, where `gains` says one.
        gains: a row a total budget.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    medians: Mapping[tuple[int, int], float]
    lines: Mapping[int, Mapping[float, tuple[float, ...]]]
    omitted: str
    best: Mapping[int, float]
    gains: tuple[GainRow, ...]

    def depth(self, first: int, second: int) -> int:
        """Where a median lies between the lowest and the highest, in percent."""
        low, high = min(self.medians.values()), max(self.medians.values())
        return round(100 * (self.medians[first, second] - low) / (high - low)) if high > low else 0


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is shown of one algorithm on one network.

    Args:
        network: its curves.
        seeds: how many the fullest point has.
        equal_cost: None where no two methods have a common budget.
        splits: None where no budget was split in several ways.
        published: the paper's final scores of this network, in words; empty where it has none.
    """

    network: Network
    seeds: int
    equal_cost: EqualCost | None
    splits: Splits | None
    published: str

    @property
    def title(self) -> str:
        """The network and the algorithm."""
        task, architecture = self.network.row
        return f"{architecture} on {task}, {self.network.algorithm}"

    @property
    def budget_words(self) -> str:
        """What budgets are counted in."""
        return budget_words(self.network)

    @property
    def lacking(self) -> str:
        """How many runs that the curves need have no result, in words; empty where all have one."""
        count = len(dict.fromkeys(lack.text for lack in self.network.lacks))
        return (
            f"{counted(count, 'run')} that these curves need {'has' if count == 1 else 'have'} no result"
            if count
            else ""
        )

    def number(self, score: float) -> str:
        """A score for people."""
        return _number(score, self.network.unit)


def trainings(results: Results) -> list[Training]:
    """What there is to show of each algorithm and network that has a training curve."""
    return [
        Training(
            network=network,
            seeds=max((len(own) for curve in network.curves for own in curve.trials.values()), default=0),
            equal_cost=_equal_cost(network),
            splits=_splits(network),
            published=_published_scores(network),
        )
        for network in networks(results)
    ]


def drawn(network: Network) -> list[Curve]:
    """The curves of the methods, full precision first; of partial pre-training that of the even split.

    Where no budget was split evenly, it is the share with the most budgets. The others are in `Splits`.
    """
    found: dict[str, Curve] = {}
    for curve in network.curves:
        before = found.get(curve.method)
        if before is None or (curve.share == EVEN, len(curve.trials)) > (before.share == EVEN, len(before.trials)):
            found[curve.method] = curve
    order = ("full_precision", "from_scratch", "partial_pretraining")
    return sorted(found.values(), key=lambda curve: order.index(curve.method) if curve.method in order else len(order))


def budget_words(network: Network) -> str:
    """What budgets are counted in, as the paper calls it."""
    return "iterations" if network.budget_unit == "steps" else network.budget_unit


def _number(score: float, unit: str) -> str:
    return f"{score:.2f}" if unit == "percent" else f"{score:.3f}"


def _equal_cost(network: Network) -> EqualCost | None:
    counts = Counter(budget for curve in drawn(network) for budget in curve.trials)
    budgets = sorted(budget for budget, count in counts.items() if count > 1)
    curves = [curve for curve in drawn(network) if curve.trials.keys() & set(budgets)]
    most = max((len(own) for curve in curves for own in curve.trials.values()), default=0)
    rows = {
        budget: tuple(_scores_text(curve.trials.get(budget, {}), most, network.unit) for curve in curves)
        for budget in budgets
    }
    return EqualCost(columns=tuple(curve.title for curve in curves), rows=rows) if rows else None


def _scores_text(trials: Mapping[int, tuple[float, float]], most: int, unit: str) -> str:
    """``"89.17 (88.06 to 90.00)"``, with the number of seeds where it is fewer than the most."""
    scores = [score for score, _ in trials.values()]
    if not scores:
        return ""
    parts = [f"{_number(min(scores), unit)} to {_number(max(scores), unit)}"] if len(scores) > 1 else []
    parts += [counted(len(scores), "seed")] if len(scores) < most else []
    return _number(statistics.median(scores), unit) + (f" ({'; '.join(parts)})" if parts else "")


_LINES = 8
"""Of so many budgets the splits are drawn: more lines can't be told apart."""


def _splits(network: Network) -> Splits | None:
    by_share = network.by_share()
    if not by_share:
        return None
    cells = _grid(network.cells)
    scratch = network.curve("from_scratch")
    lines: dict[int, dict[float, tuple[float, ...]]] = {}
    for total in sorted(sorted(by_share, key=lambda total: (-len(by_share[total]), -total))[:_LINES]):
        from_scratch = {} if scratch is None else scratch.trials.get(total, {})
        lines[total] = {0.0: tuple(score for score, _ in from_scratch.values())} if from_scratch else {}
        lines[total] |= {share: tuple(scores.values()) for share, scores in by_share[total].items()}
    gains = network.gains()
    return Splits(
        first=tuple(sorted({first for first, _ in cells})),
        second=tuple(sorted({second for _, second in cells}, reverse=True)),
        medians={place: statistics.median(scores.values()) for place, scores in cells.items()},
        lines=lines,
        omitted=counted(len(by_share) - len(lines), "other budget") if len(by_share) > len(lines) else "",
        best={total: gain.share for total, gain in gains.items()},
        gains=tuple(
            GainRow(
                budget=total,
                share=f"{gain.share:g}",
                gain=f"{gain.gain:+.{2 if network.unit == 'percent' else 3}f}",
                interval=(
                    ""
                    if gain.low is None or gain.high is None or gain.share == EVEN
                    else f"[{_number(gain.low, network.unit)}, {_number(gain.high, network.unit)}]"
                ),
                seeds=len(gain.seeds),
            )
            for total, gain in gains.items()
        ),
    )


def _grid(cells: Mapping[tuple[int, int], Mapping[int, float]]) -> dict[tuple[int, int], Mapping[int, float]]:
    """The cells that share a row or a column with another: one alone is a point of a curve and no part of the grid."""
    return {
        (first, second): scores
        for (first, second), scores in sorted(cells.items())
        if sum(first == other for other, _ in cells) > 1 or sum(second == other for _, other in cells) > 1
    }


def _published_scores(network: Network) -> str:
    """``"full precision 90.75 ± 0.26, pact 83.30 ± 0.25"``, or nothing."""
    found = []
    for algorithm, title in ((FULL_PRECISION, "full precision"), (network.algorithm, network.algorithm)):
        figure = _published(*network.row, algorithm).get(network.metric)
        if figure is None or (network.unit and figure.unit != network.unit):
            return ""
        found.append(f"{title} {_number(figure.value, figure.unit)} ± {_number(figure.plus_minus or 0.0, figure.unit)}")
    return ", ".join(found)
