"""Figures of each network in words: complexity, training cost and deployment, a table each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from bibench.records import Record, Results
from bibench.report.words import amount, short_time, size
from bibench.tracks.lookup import Lookup

__all__ = [
    "FigureTable",
    "complexity_tables",
    "cost_tables",
    "deployment_tables",
    "ok_records",
    "seeds_words",
]


@dataclass(frozen=True, kw_only=True)
class FigureTable:
    """Figures of one network in words: a heading for each column, and each algorithm's cells."""

    task: str
    architecture: str
    seeds: str
    columns: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]

    @property
    def title(self) -> str:
        """The network, and over what the cells are means."""
        return f"{self.architecture} on {self.task}, {self.seeds}"


def complexity_tables(results: Results) -> list[FigureTable]:
    """What was counted on each network: parameters, operations, memory traffic, and the ratios from them."""
    return _figure_tables(
        results,
        {
            "parameters": _meaned("parameters", amount),
            "kept parameters": _meaned("kept_parameters", amount),
            "operations": _meaned("operations", amount),
            "kept operations": _meaned("kept_operations", amount),
            "bit-operations": _meaned("bit_operations", amount),
            "memory traffic": _meaned("memory_traffic", size),
            "speedup": _meaned("speedup", "{:.2f}x".format),
            "compression": _meaned("compression", "{:.2f}x".format),
        },
    )


def cost_tables(results: Results) -> list[FigureTable]:
    """What a training step of each network took, in time and memory, beside full precision."""
    return _figure_tables(
        results,
        {
            "time cost": _time_cost,
            "step": _meaned("step_time", short_time),
            "full-precision step": _meaned("full_precision_step_time", short_time),
            "peak memory": _meaned("step_peak_memory", size),
            "full-precision peak memory": _meaned("full_precision_step_peak_memory", size),
        },
    )


def deployment_tables(results: Results) -> list[FigureTable]:
    """What each network is where it is deployed, beside full precision: latency, size, and the file's own score."""
    return _figure_tables(
        results,
        {
            "latency": _latency("latency"),
            "full precision": _latency("full_precision_latency"),
            "fastest full precision": _fastest,
            "speedup": _quotient("full_precision_latency"),
            "over the fastest": _quotient("fastest_full_precision_latency"),
            "file": _meaned("packed_bytes", size),
            "compression": _meaned("storage_compression", "{:.2f}x".format),
            "score of the file": _shipped_score,
            "difference from PyTorch": _shipped_difference,
        },
    )


_PLACE = ("device", "threads", "library")


def _taken(records: Sequence[Record], name: str) -> list[float]:
    """A latency of some records at all the places where it was taken."""
    found: list[float] = []
    for record in records:
        figures = record.figures
        found += [figures.values[place] for place in figures.kinds.under(name, _PLACE).values()]
    return found


def _latency(name: str) -> _Column:
    def column(records: Sequence[Record]) -> str | None:
        values, lows, highs = (_taken(records, name + end) for end in ("", "_lower_quartile", "_upper_quartile"))
        text = _milliseconds(fmean(values)) if values else None
        if not lows or not highs:
            return text
        low, high = _milliseconds(fmean(lows)), _milliseconds(fmean(highs))
        same = low.split()[1] == high.split()[1]
        return f"{text} ({low.split()[0] if same else low} to {high})"

    return column


def _milliseconds(value: float) -> str:
    return short_time(value / 1000)


def _fastest(records: Sequence[Record]) -> str | None:
    name = "fastest_full_precision_latency"
    values = _taken(records, name)
    if not values:
        return None
    names: dict[str | None, None] = {}
    for kinds in dict.fromkeys(record.figures.kinds for record in records):
        names |= dict.fromkeys(kinds.figures[place].mode for _, place in sorted(kinds.under(name, _PLACE).items()))
    return ", ".join((_milliseconds(fmean(values)), *(text for text in names if text)))


def _quotient(name: str) -> _Column:
    def column(records: Sequence[Record]) -> str | None:
        quotients: list[float] = []
        for record in records:
            kinds, values = record.figures.kinds, record.figures.values
            full = kinds.under(name, _PLACE)
            if full:  # where no other runtime was timed, full precision in the own one is the fastest
                full = kinds.under("full_precision_latency", _PLACE) | full
            own = kinds.under("latency", _PLACE)
            quotients += [
                values[full[at]] / values[place] for at, place in own.items() if at in full and values[place] > 0
            ]
        return f"{fmean(quotients):.2f}x" if quotients else None

    return column


def _shipped(records: Sequence[Record]) -> list[tuple[float, float]]:
    """The scores of shipped files, and those of the networks in PyTorch."""
    pairs = ((record.number(f"packed_{record.run.metric}"), record.number(record.run.metric)) for record in records)
    return [(own, trained) for own, trained in pairs if own is not None and trained is not None]


def _shipped_score(records: Sequence[Record]) -> str | None:
    found = _shipped(records)
    if not found:
        return None
    figures = (record.figure(f"packed_{record.run.metric}") for record in records)
    return f"{fmean([own for own, _ in found]):.2f} {next(figure.unit for figure in figures if figure is not None)}"


def _shipped_difference(records: Sequence[Record]) -> str | None:
    found = _shipped(records)
    return f"{fmean([own - trained for own, trained in found]):+.2f}" if found else None


_Column = Callable[[Sequence[Record]], str | None]
"""From the records of an algorithm, one a seed, to its cell; None where they have no such figure."""


def _meaned(name: str, words: Callable[[float], str]) -> _Column:
    def column(records: Sequence[Record]) -> str | None:
        values = [value for record in records if (value := record.number(name)) is not None]
        return words(fmean(values)) if values else None

    return column


def _time_cost(records: Sequence[Record]) -> str | None:
    text = _meaned("time_cost", "{:.1f} %".format)(records)
    lows = [value for record in records if (value := record.number("time_cost_lowest")) is not None]
    highs = [value for record in records if (value := record.number("time_cost_highest")) is not None]
    return f"{text} ({min(lows):.1f} to {max(highs):.1f})" if text and lows and highs else text


def _figure_tables(results: Results, columns: Mapping[str, _Column]) -> list[FigureTable]:
    found = []
    algorithms = results.once(Lookup).algorithms
    for task, architecture in results.once(Lookup).rows:
        records = ok_records(results, task, architecture, algorithms)
        cells = {name: {title: column(own) for title, column in columns.items()} for name, own in records.items()}
        shown = [title for title in columns if any(own[title] is not None for own in cells.values())]
        if shown:
            rows = {
                name: tuple(own[title] or ("not measured" if records[name] else "no result") for title in shown)
                for name, own in cells.items()
            }
            seeds = seeds_words(records.values())
            found.append(
                FigureTable(task=task, architecture=architecture, seeds=seeds, columns=tuple(shown), rows=rows)
            )
    return found


def ok_records(results: Results, task: str, architecture: str, algorithms: Iterable[str]) -> dict[str, list[Record]]:
    """The records of a network's main runs that are ok, by algorithm; an empty list where one has none."""
    found = {}
    for name in algorithms:
        ids = dict.fromkeys(run.id for run in results.main_of(task, architecture, name))
        records = (results.record(run_id) for run_id in ids)
        found[name] = [record for record in records if record is not None and record.status == "ok"]
    return found


def seeds_words(records: Iterable[Sequence[Record]]) -> str:
    """Over how many seeds the figures of these records are means, one sequence an algorithm; some may be empty."""
    counts = [len(own) for own in records if own]
    fewest, most = min(counts), max(counts)
    if most == 1:
        return "one seed"
    return f"mean over {most} seeds" if fewest == most else f"mean over {fewest} to {most} seeds"
