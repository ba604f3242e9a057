"""Plots as SVG text that takes its ink from the page around it, so that it reads in light and in dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from bibench.records import Results
from bibench.report.summary import TaskTable
from bibench.tracks.relative import FULL_PRECISION, algorithms_in
from bibench.tracks.statistics import mean_interval

__all__ = ["Epochs", "accuracy_plot", "learning_curves"]

Epochs = Callable[[str], Sequence[Mapping[str, Any]]]
"""From the identity of a run to its epochs: ``epoch``, ``train_loss`` and one key for each evaluated figure."""

_INK = "#0a0b0c"  # stands for the page's own text colour, see _svg
_BLUE = "#0072b2"  # Okabe & Ito's colours, which the colour-blind can tell apart
_ORANGE = "#d55e00"
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": _INK,
    "text.parse_math": False,  # a label from a suite is text, whatever it looks like
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.6,
    "svg.fonttype": "none",
}


def accuracy_plot(table: TaskTable, architecture: str) -> str | None:
    """Each algorithm's score on one task and architecture, as SVG; None while there is no score.

    A large dot is the mean over seeds, its bar the 95 % t interval, small dots the seeds, and the dashed line the
    mean of full precision. The axis follows the scores: intervals that are far wider leave it, ending at its edge.
    """
    algorithms = [name for name in table.algorithms if name != FULL_PRECISION]
    values = [value for name in table.algorithms for value in table.cells[name, architecture].values.values()]
    if not values:
        return None
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(5.6, 1.1 + 0.3 * len(algorithms)), layout="constrained")
        axes = canvas.add_subplot()
        axes.set_xlim(_limits(values, table.unit))
        for place, name in enumerate(algorithms):
            cell = table.cells[name, architecture]
            spread = cell.spread
            if spread is None:
                axes.text(0.02, place, cell.text, transform=axes.get_yaxis_transform(), va="center", alpha=0.7)
                continue
            if spread.low is not None and spread.high is not None:
                axes.plot([spread.low, spread.high], [place, place], color=_BLUE, linewidth=2, solid_capstyle="butt")
                dots = list(cell.values.values())
                axes.plot(dots, [place] * len(dots), ".", color=_INK, markersize=5, alpha=0.55, zorder=4)
            axes.plot([spread.mean], [place], "o", color=_BLUE, markersize=7, zorder=3)
        full = table.cells[FULL_PRECISION, architecture].spread
        if full is not None:
            axes.axvline(full.mean, color=_ORANGE, linestyle="--", linewidth=1.4)
            side = "right" if full.mean > sum(axes.get_xlim()) / 2 else "left"
            label = f"full precision {full.mean:.2f}"
            axes.text(full.mean, 1, label, transform=axes.get_xaxis_transform(), ha=side, va="bottom", color=_ORANGE)
        axes.set_yticks(range(len(algorithms)), algorithms)
        axes.set_ylim(len(algorithms) - 0.4, -0.6)
        axes.set_xlabel(f"{table.metric} ({table.unit})")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        return _svg(canvas, f"{table.metric} of each algorithm on {table.task}, {architecture}")


def _limits(values: Sequence[float], unit: str) -> tuple[float, float]:
    margin = 0.3 * (max(values) - min(values) or 1.0)
    low, high = min(values) - margin, max(values) + margin
    if min(values) >= 0:
        low = max(low, 0.0)
    return low, min(high, 100.0) if unit == "percent" else high


def learning_curves(results: Results, table: TaskTable, architecture: str, epochs: Epochs) -> str | None:
    """The test metric against the epoch, one panel an algorithm, as SVG; None where no run has epochs.

    The line is the mean over seeds, the band their minimum and maximum, the dashed line full precision.
    """
    curves = {
        name: _curve(results, table, architecture, name, epochs)
        for name in (FULL_PRECISION, *algorithms_in(results.plan))
    }
    full = curves.pop(FULL_PRECISION)
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return None
    columns = min(3, len(curves))
    rows = -(-len(curves) // columns)
    with mpl.rc_context(_STYLE):
        canvas = Canvas(figsize=(9.2, 0.4 + 1.75 * rows), layout="constrained")
        panels: list[Axes] = list(canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
        for axes, (name, curve) in zip(panels, curves.items(), strict=False):
            if full:
                axes.plot(list(full), [_mean(values) for values in full.values()], "--", color=_ORANGE, linewidth=1.2)
            at = list(curve)
            if any(len(values) > 1 for values in curve.values()):
                low, high = [min(values) for values in curve.values()], [max(values) for values in curve.values()]
                axes.fill_between(at, low, high, color=_BLUE, alpha=0.25, linewidth=0)
            marker = "o" if len(curve) == 1 else None
            axes.plot(at, [_mean(values) for values in curve.values()], color=_BLUE, linewidth=1.6, marker=marker)
            axes.set_title(name, loc="left", pad=3, fontweight="bold")
            axes.grid()
        panels[0].xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        for axes in panels[len(curves) :]:
            axes.set_axis_off()
        canvas.supxlabel("epoch", fontsize=10)
        canvas.supylabel(f"{table.metric} ({table.unit})", fontsize=10)
        return _svg(canvas, f"{table.metric} by epoch on {table.task}, {architecture}")


def _curve(
    results: Results, table: TaskTable, architecture: str, algorithm: str, epochs: Epochs
) -> dict[int, list[float]]:
    """The metric of each seed, by epoch."""
    curve: dict[int, list[float]] = {}
    for run in results.plan:
        if (run.task, run.architecture, run.algorithm) == (table.task, architecture, algorithm):
            for row in epochs(run.id):
                if row.get(run.metric) not in (None, ""):
                    curve.setdefault(int(row["epoch"]), []).append(float(row[run.metric]))
    return dict(sorted(curve.items()))


def _mean(values: Sequence[float]) -> float:
    return mean_interval(values).mean


def _svg(canvas: Canvas, title: str) -> str:
    """The SVG element alone, in the page's colours and with names that no other plot of the page has."""
    salt = re.sub(r"[^a-zA-Z0-9]+", "-", title).lower()
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Title": title, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = svg.replace(_BLUE, f"var(--plot, {_BLUE})").replace(_ORANGE, f"var(--full, {_ORANGE})")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{salt}-", svg)
    return svg.replace("<svg ", '<svg role="img" ', 1)
