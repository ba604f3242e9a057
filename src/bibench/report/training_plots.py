"""Plots of the training-speed track, as SVG in the page's colours."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, MultipleLocator, NullLocator

from bibench.report.plots import BLUE, GREEN, INK, ORANGE, STYLE, page_svg
from bibench.report.training import Training, budget_words, drawn
from bibench.tracks.speedup import Point
from bibench.tracks.training_speed import Network

__all__ = ["curves_plot", "splits_plot"]

_LINES: dict[str, dict[str, Any]] = {
    "full_precision": {"color": ORANGE, "linestyle": "--", "marker": "o", "markersize": 4},
    "from_scratch": {"color": INK, "linestyle": "-", "marker": "s", "markersize": 4},
    "partial_pretraining": {"color": BLUE, "linestyle": "-", "marker": "o", "markersize": 5},
    "fine_tune": {"color": GREEN, "linestyle": ":", "marker": "^", "markersize": 5},
}
"""A method is told by its marker and dashes too, not by its colour alone."""

_WIDE = 4
"""Budgets that span more than this factor are shown on a logarithmic axis."""


def curves_plot(network: Network) -> str | None:
    """Score against the budget, and beside it against the time, as SVG; None where no curve has two points.

    A point is the median over seeds, the band their lowest and highest score (Partial pre-training, figures 1 and 2).
    """
    curves = [curve for curve in drawn(network) if curve.trials]
    if not any(len(curve.trials) > 1 for curve in curves):
        return None
    budgets = [budget for curve in curves for budget in curve.trials]
    wide = max(budgets) > _WIDE * min(budgets)
    seconds = [point.cost for curve in curves for point in curve.points("seconds")]
    what = budget_words(network)
    scales = {
        "budget": (1000, f"thousand {what}") if max(budgets) >= 10_000 else (1, what),
        "seconds": _time_scale(max(seconds)),
    }
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(9.2, 3.5), layout="constrained")
        panels: Sequence[Axes] = canvas.subplots(1, 2, sharey=True)
        for axes, (cost, (unit, words)) in zip(panels, scales.items(), strict=True):
            if wide:
                axes.set_xscale("log")
                axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axes.xaxis.set_minor_locator(NullLocator())
            else:
                axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
            for curve in curves:
                style = _LINES.get(curve.method, _LINES["partial_pretraining"])
                _line(axes, curve.points(cost), unit, curve.title, style)
            axes.set_xlabel(words if cost == "budget" else f"{words} of training")
            axes.grid()
        panels[0].set_ylabel(f"{network.metric} ({network.unit})")
        handles, labels = panels[0].get_legend_handles_labels()
        canvas.legend(handles, labels, loc="outside upper left", ncols=len(labels), frameon=False, handlelength=2.8)
        return page_svg(canvas, f"{network.metric} by {what} and by time on {_where(network)}")


def _line(axes: Axes, points: Sequence[Point], unit: float, title: str, style: dict[str, Any]) -> None:
    at = [point.cost / unit for point in points]
    if any(point.trials > 1 for point in points):
        low, high = [point.lowest for point in points], [point.highest for point in points]
        axes.fill_between(at, low, high, color=style["color"], alpha=0.16, linewidth=0)
    axes.plot(at, [point.score for point in points], linewidth=1.6, label=title, **style)


def _time_scale(longest: float) -> tuple[float, str]:
    """The unit in which times up to this many seconds are short numbers, in seconds and in words."""
    return (3600, "hours") if longest >= 3 * 3600 else (60, "minutes") if longest >= 10 * 60 else (1, "seconds")


_MARKERS = "osD^vP*X"


def splits_plot(training: Training) -> str | None:
    """Score against the full-precision share, a line a total budget, as SVG; None without several splits of a budget.

    A point is the median over seeds, its upright line their lowest and highest; it is filled at the share of the
    highest mean (Partial pre-training, figure 3b). The larger the budget, the deeper the colour.
    """
    network, splits = training.network, training.splits
    if splits is None:
        return None
    count = len(splits.lines)
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(6.6, 3.4), layout="constrained")
        axes = canvas.add_subplot()
        for place, (total, line) in reversed(list(enumerate(splits.lines.items()))):
            depth = 0.4 + 0.6 * (place + 1) / count
            aside = 0.03 * ((place + 0.5) / count - 0.5)  # so that the upright lines of two budgets can be told apart
            at = [share + aside for share in line]
            medians = [statistics.median(scores) for scores in line.values()]
            if any(len(scores) > 1 for scores in line.values()):
                axes.vlines(at, *_ends(list(line.values())), color=BLUE, alpha=0.5 * depth, linewidth=1.2)
            marker = _MARKERS[place % len(_MARKERS)]
            filled = [number for number, share in enumerate(line) if share == splits.best.get(total)]
            own: dict[str, Any] = {"color": BLUE, "alpha": depth, "marker": marker, "markersize": 6.5}
            axes.plot(at, medians, linewidth=1.6, markerfacecolor="none", label=f"{total:,}", **own)
            axes.plot([at[n] for n in filled], [medians[n] for n in filled], linestyle="none", zorder=3, **own)
        axes.xaxis.set_major_locator(MultipleLocator(0.25))
        axes.set_xlabel("share of full precision in the budget")
        axes.set_ylabel(f"{network.metric} ({network.unit})")
        axes.grid()
        canvas.legend(loc="outside right upper", title=training.budget_words, frameon=False)
        return page_svg(canvas, f"{network.metric} by share of full precision on {_where(network)}")


def _ends(scores: Sequence[Sequence[float]]) -> tuple[list[float], list[float]]:
    return [min(own) for own in scores], [max(own) for own in scores]


def _where(network: Network) -> str:
    return f"{', '.join(network.row)}, {network.algorithm}"
