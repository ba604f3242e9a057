"""Plots as SVG text that takes its ink from the page around it, so that it reads in light and in dark."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from bibench.records import Results
from bibench.report.corruption_tables import Corruptions
from bibench.report.summary import Grid, TaskTable, setting_parts
from bibench.tracks.lookup import FULL_PRECISION
from bibench.tracks.statistics import mean_interval

__all__ = [
    "BLUE",
    "GREEN",
    "INK",
    "ORANGE",
    "STYLE",
    "Epochs",
    "accuracy_plot",
    "learning_curves",
    "page_svg",
    "sensitivity_plot",
    "severity_plot",
]

Epochs = Callable[[str], Sequence[Mapping[str, Any]]]
"""From the identity of a run to its epochs: ``epoch``, ``train_loss`` and one key for each evaluated figure."""

INK = "#0a0b0c"  # stands for the page's own text colour, see page_svg
BLUE = "#0072b2"  # Okabe & Ito's colours, which the colour-blind can tell apart
ORANGE = "#d55e00"
GREEN = "#009e73"
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "text.parse_math": False,  # a label from a suite is text, whatever it looks like
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "grid.color": INK,
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
    with mpl.rc_context(STYLE):
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
                axes.plot([spread.low, spread.high], [place, place], color=BLUE, linewidth=2, solid_capstyle="butt")
                dots = list(cell.values.values())
                axes.plot(dots, [place] * len(dots), ".", color=INK, markersize=5, alpha=0.55, zorder=4)
            axes.plot([spread.mean], [place], "o", color=BLUE, markersize=7, zorder=3)
        full = table.cells[FULL_PRECISION, architecture].spread
        if full is not None:
            axes.axvline(full.mean, color=ORANGE, linestyle="--", linewidth=1.4)
            side = "right" if full.mean > sum(axes.get_xlim()) / 2 else "left"
            label = f"full precision {full.mean:.2f}"
            axes.text(full.mean, 1, label, transform=axes.get_xaxis_transform(), ha=side, va="bottom", color=ORANGE)
        axes.set_yticks(range(len(algorithms)), algorithms)
        axes.set_ylim(len(algorithms) - 0.4, -0.6)
        axes.set_xlabel(f"{table.metric} ({table.unit})")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x")
        return page_svg(canvas, f"{table.metric} of each algorithm on {table.task}, {architecture}")


def _limits(values: Sequence[float], unit: str, margin: float = 0.3) -> tuple[float, float]:
    margin *= max(values) - min(values) or 1.0
    low, high = min(values) - margin, max(values) + margin
    if min(values) >= 0:
        low = max(low, 0.0)
    return low, min(high, 100.0) if unit == "percent" else high


def learning_curves(results: Results, table: TaskTable, architecture: str, epochs: Epochs) -> str | None:
    """The test metric against the epoch, one panel an algorithm, as SVG; None where no run has epochs.

    The line is the mean over seeds, the band their minimum and maximum, the dashed line full precision.
    """
    curves = {name: _curve(results, table, architecture, name, epochs) for name in table.algorithms}
    full = curves.pop(FULL_PRECISION)
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return None
    title = f"{table.metric} by epoch on {table.task}, {architecture}"
    return _small_multiples(curves, full, title=title, across="epoch", up=f"{table.metric} ({table.unit})")


def severity_plot(table: Corruptions) -> str | None:
    """Score against the severity of corruption, one panel an algorithm, as SVG; None with fewer than two severities.

    Severity 0 is the clean test set. Line, band and dashed line as in `learning_curves`.
    """
    curves = {name: dict(table.by_severity[name]) for name in table.algorithms}
    full = curves.pop(FULL_PRECISION, {})
    if not curves or max(map(len, curves.values())) < 2:
        return None
    title = f"{table.metric} by severity of corruption on {table.task}, {table.architecture}"
    return _small_multiples(curves, full, title=title, across="severity", up=f"{table.metric} ({table.unit})")


_FEW = 6
"""Up to so many points of a curve are marked, so that one sees where there is one."""


def _small_multiples(
    curves: Mapping[str, Mapping[int, Sequence[float]]],
    full: Mapping[int, Sequence[float]],
    *,
    title: str,
    across: str,
    up: str,
) -> str:
    """One panel a curve, each with the curve of full precision; a curve has the values of all seeds at each place."""
    rows, columns = _arrangement(len(curves))
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(9.2, 0.4 + 1.75 * rows), layout="constrained")
        panels = _panels(canvas, rows, columns, len(curves))
        for axes, (name, curve) in zip(panels, curves.items(), strict=True):
            if full:
                axes.plot(list(full), [_mean(values) for values in full.values()], "--", color=ORANGE, linewidth=1.2)
            at = list(curve)
            if any(len(values) > 1 for values in curve.values()):
                low, high = [min(values) for values in curve.values()], [max(values) for values in curve.values()]
                axes.fill_between(at, low, high, color=BLUE, alpha=0.25, linewidth=0)
            means = [_mean(values) for values in curve.values()]
            marker = "o" if len(curve) <= _FEW else None
            axes.plot(at, means, color=BLUE, linewidth=1.6, marker=marker, markersize=4)
            axes.set_title(name, loc="left", pad=3, fontweight="bold")
            axes.grid()
        panels[0].xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        canvas.supxlabel(across, fontsize=10)
        canvas.supylabel(up, fontsize=10)
        return page_svg(canvas, title)


def _arrangement(count: int) -> tuple[int, int]:
    """Rows and columns for so many panels: at most four columns, with the fewest places left empty."""
    if count < 3:
        return 1, count
    columns = min((3, 4), key=lambda columns: -count % columns)
    return -(-count // columns), columns


def _panels(canvas: Canvas, rows: int, columns: int, count: int) -> list[Axes]:
    """So many panels with common axes; the lowest of each column has the numbers."""
    panels: list[Axes] = list(canvas.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    for axes in panels[max(0, count - columns) : count]:
        axes.tick_params(labelbottom=True)
    engine = canvas.get_layout_engine()
    if engine is not None:
        engine.set(wspace=0.03, hspace=0.03)  # type: ignore[call-arg]
    return panels[:count]


def sensitivity_plot(grid: Grid) -> str | None:
    """Scores under each training setting, one panel an algorithm, as SVG; None while there is no score.

    A row is a setting, a circle the mean over seeds (filled: the algorithm's best setting), small dots the seeds, and
    an upright mark the mean of full precision under the same setting. Thin lines part the optimizers.
    """
    shown = [name for name in grid.algorithms if any(grid.cells[name, setting].values for setting in grid.settings)]
    if not shown:
        return None
    places = _places(grid.settings)
    values = [value for cell in grid.cells.values() for value in cell.values.values()]
    rows, columns = _arrangement(len(shown))
    height = places[grid.settings[-1]] + 1
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(9.2, 0.45 + rows * (0.45 + 0.19 * height)), layout="constrained")
        panels = _panels(canvas, rows, columns, len(shown))
        for axes, name in zip(panels, shown, strict=True):
            _settings_panel(axes, grid, name, places)
        panels[0].set_yticks(list(places.values()), [" ".join(setting_parts(setting)) for setting in grid.settings])
        panels[0].set_ylim(height - 0.4, -0.6)
        panels[0].set_xlim(_limits(values, grid.unit, margin=0.08))
        panels[0].xaxis.set_major_locator(MaxNLocator(nbins=5))
        canvas.supxlabel(f"{grid.metric} ({grid.unit})", fontsize=10)
        return page_svg(canvas, f"{grid.metric} by training setting on {grid.task}, {grid.architecture}")


def _settings_panel(axes: Axes, grid: Grid, name: str, places: Mapping[str, float]) -> None:
    colour = ORANGE if name == FULL_PRECISION else BLUE
    for setting, place in places.items():
        cell, full = grid.cells[name, setting], grid.cells[FULL_PRECISION, setting].spread
        if name != FULL_PRECISION and full is not None:
            axes.plot([full.mean], [place], "|", color=ORANGE, markersize=9, markeredgewidth=1.6)
        if cell.spread is None:
            if cell.planned:
                axes.text(0.02, place, cell.text, transform=axes.get_yaxis_transform(), va="center", alpha=0.7, size=8)
            continue
        dots = list(cell.values.values())
        if len(dots) > 1:
            axes.plot([min(dots), max(dots)], [place, place], color=colour, linewidth=1, alpha=0.6)
            axes.plot(dots, [place] * len(dots), ".", color=INK, markersize=4, alpha=0.55, zorder=4)
        face = colour if cell.best else "none"
        axes.plot([cell.spread.mean], [place], "o", color=colour, markersize=6.5, markerfacecolor=face, zorder=3)
    for upper, lower in pairwise(places):
        if setting_parts(upper)[0] != setting_parts(lower)[0]:
            axes.axhline((places[upper] + places[lower]) / 2, color=INK, linewidth=0.6, alpha=0.45)
    deviation = grid.deviation(name)
    axes.set_title(name, loc="left", pad=3, fontweight="bold")
    axes.set_title("" if deviation is None else f"std {deviation:.2f}", loc="right", pad=3, fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")


def _places(settings: Sequence[str]) -> dict[str, float]:
    """A height for each setting, with room between optimizers and a little between rates."""
    places: dict[str, float] = {}
    place = 0.0
    before: tuple[str, ...] = ()
    for setting in settings:
        parts = setting_parts(setting)
        if before:
            place += 1.7 if parts[0] != before[0] else 1.3 if parts[1:2] != before[1:2] else 1.0
        places[setting] = place
        before = parts
    return places


def _curve(
    results: Results, table: TaskTable, architecture: str, algorithm: str, epochs: Epochs
) -> dict[int, list[float]]:
    """The metric of each seed, by epoch."""
    curve: dict[int, list[float]] = {}
    for run in results.main_of(table.task, architecture, algorithm):
        for row in epochs(run.id):
            if row.get(run.metric) not in (None, ""):
                curve.setdefault(int(row["epoch"]), []).append(float(row[run.metric]))
    return dict(sorted(curve.items()))


def _mean(values: Sequence[float]) -> float:
    return mean_interval(values).mean


def page_svg(canvas: Canvas, title: str) -> str:
    """The SVG element alone, in the page's colours and with names that no other plot of the page has."""
    salt = f"{re.sub(r'[^a-zA-Z0-9]+', '-', title).lower()}-{zlib.crc32(title.encode()):08x}"
    out = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": salt}):
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Title": title, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    for colour, name in ((BLUE, "plot"), (ORANGE, "full"), (GREEN, "other")):
        svg = svg.replace(colour, f"var(--{name}, {colour})")
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{salt}-", svg)
    return svg.replace("<svg ", '<svg role="img" ', 1)
