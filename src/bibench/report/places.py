"""Latencies by the place where they were taken, as tables, where a network has more than one."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from bibench.records import Results
from bibench.report.figure_tables import FigureTable
from bibench.report.words import short_time
from bibench.tracks.lookup import Lookup
from bibench.tracks.places import Place

__all__ = ["place_tables"]


def place_tables(results: Results, found: Sequence[Place]) -> list[FigureTable]:
    """Each network that was timed at several places: a line for each place, a column for each algorithm.

    Args:
        results: planned runs and records.
        found: of the same results, from `bibench.tracks.places.places`.

    >>> place_tables(Results(plan=[], records=[]), [])
    []
    """
    tables = []
    for task, architecture in results.once(Lookup).rows:
        own = [place for place in found if (place.task, place.architecture) == (task, architecture)]
        lines: dict[str, dict[str, Place]] = {}
        for place in own:
            lines.setdefault(_where(place), {})[place.algorithm] = place
        if len(lines) < 2:
            continue
        algorithms = [name for name in results.once(Lookup).algorithms if any(name in line for line in lines.values())]
        rows = {
            where: (
                short_time(fmean(place.full_precision for place in line.values()) / 1000),
                *(_cell(line[name]) if name in line else "not measured" for name in algorithms),
            )
            for where, line in lines.items()
        }
        tables.append(
            FigureTable(
                task=task,
                architecture=architecture,
                seeds=_seeds(own),
                columns=("full precision", *algorithms),
                rows=rows,
            )
        )
    return tables


def _seeds(found: Sequence[Place]) -> str:
    fewest, most = min(place.seeds for place in found), max(place.seeds for place in found)
    if most == 1:
        return "one seed"
    return f"mean over {fewest if fewest == most else f'{fewest} to {most}'} seeds"


def _where(place: Place) -> str:
    crowded = place.cores is not None and place.threads.isdecimal() and int(place.threads) > place.cores
    cores = f" on {place.cores} cores" if crowded else ""
    return f"{place.device}, threads: {place.threads}{cores}, {place.library}"


def _cell(place: Place) -> str:
    return f"{short_time(place.latency / 1000)}, {place.speedup:.2f}x"
