"""Plots of the hardware-inference track, as SVG in the page's colours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, geometric_mean

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from bibench.report.plots import BLUE, INK, ORANGE, STYLE, page_svg
from bibench.tracks.places import Place

__all__ = ["computing_power_plot"]


def computing_power_plot(own: Sequence[Place], published: Sequence[Place]) -> str | None:
    """Speedup against computing power (BiBench, Figure 3), as SVG; None where no own place has both.

    A small dot is a network at one place (device, threads, library), mean over algorithms; a large one is a device: the
    mean speedup and the geometric mean of operations a second over its dots. Own devices have their names.
    """
    rows = _rows(own)
    if not rows:
        return None
    with mpl.rc_context(STYLE):
        canvas = Canvas(figsize=(9.2, 4.2), layout="constrained")
        axes = canvas.add_subplot()
        for devices, colour, marker, label in (
            (_rows(published), INK, "o", "BiBench, Tables 14 to 17"),
            (rows, BLUE, "D", "measured here"),
        ):
            dots = [dot for dots in devices.values() for dot in dots]
            axes.plot(*zip(*dots, strict=True), marker, color=colour, markersize=3.5, alpha=0.4, markeredgewidth=0)
            axes.plot(
                *zip(*map(_middle, devices.values()), strict=True),
                marker,
                color=colour,
                markersize=8,
                markerfacecolor="none",
                markeredgewidth=1.6,
                label=label,
                zorder=3,
            )
        for name, dots in rows.items():
            axes.annotate(name, _middle(dots), (8, 0), textcoords="offset points", va="center", color=BLUE)
        axes.axhline(1, color=ORANGE, linestyle="--", linewidth=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_minor_locator(NullLocator())
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.set_xlabel("computing power: billion multiply-accumulates a second in full precision")
        axes.set_ylabel("speedup of binarized networks")
        axes.legend(frameon=False)
        axes.grid()
        return page_svg(canvas, "Speedup against computing power")


def _rows(found: Sequence[Place]) -> Mapping[str, list[tuple[float, float]]]:
    """Computing power and speedup of each network at each place, mean over algorithms, by device."""
    groups: dict[tuple[str, ...], list[Place]] = {}
    for place in found:
        if place.rate is not None and place.rate > 0:
            row = (place.device, place.threads, place.library, place.task, place.architecture)
            groups.setdefault(row, []).append(place)
    devices: dict[str, list[tuple[float, float]]] = {}
    for (device, *_), places in groups.items():
        power = fmean(place.rate / 1e9 for place in places if place.rate is not None)
        devices.setdefault(device, []).append((power, fmean(place.speedup for place in places)))
    return devices


def _middle(dots: Sequence[tuple[float, float]]) -> tuple[float, float]:
    return geometric_mean(power for power, _ in dots), fmean(speedup for _, speedup in dots)
