"""Tables for the terminal; without one (a pipe, a file) plain aligned text, never cut to a width."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from bibench.records import Results, Score
from bibench.report.figure_tables import FigureTable
from bibench.report.places import place_tables
from bibench.report.summary import (
    Card,
    Missing,
    TaskTable,
    interval_text,
    missing,
    scorecards,
    status_text,
    task_tables,
)
from bibench.report.training import SpeedTable, speed_table
from bibench.tracks.comparisons import Comparison
from bibench.tracks.places import places

__all__ = ["print_plainly", "print_tables"]

_SHOWN = 10  # missing things listed in a terminal; `score --json` and report.html have all
_PLAIN_WIDTH = 1000


def print_tables(
    results: Results, scores: Sequence[Score], found: Sequence[Comparison], console: Console | None = None
) -> None:
    """Print the scores of each task, then the scorecard of each track, then what is missing.

    Beneath the scorecard of the training speed, what each network has of it.

    Args:
        results: planned runs and records.
        scores: of the same results, from :func:`bibench.tracks.score`.
        found: of the same results, from :func:`bibench.tracks.comparisons.comparisons`.
        console: where to; standard output if None.

    >>> print_tables(Results(plan=[], records=[]), [], [])
    """
    print_plainly(console or Console(highlight=False), lambda chosen: _print_all(results, scores, found, chosen))


def print_plainly(console: Console, show: Callable[[Console], None]) -> None:
    """Let ``show`` print to a console; where that is no terminal, as wide as it takes and without trailing blanks."""
    if console.is_terminal:
        show(console)
        return
    plain = Console(file=io.StringIO(), width=_PLAIN_WIDTH, color_system=None, highlight=False)
    with plain.capture() as text:
        show(plain)
    for line in text.get().splitlines():
        console.file.write(line.rstrip() + "\n")


def _print_all(results: Results, scores: Sequence[Score], found: Sequence[Comparison], console: Console) -> None:
    for table in task_tables(results, found):
        _print(console, table.title, table.algorithms, _task_columns(table))
        for line in _task_legend(table):
            console.print(Text(line, style="dim"))
        console.print()
    for card in scorecards(scores):
        if card.settled:
            _print_settled(card, console)
            continue
        _print(console, card.title, card.algorithms, _card_columns(card))
        for line in _card_legend(card):
            console.print(Text(line, style="dim"))
        console.print()
        if card.track == "hardware_inference":
            for content in place_tables(results, results.once(places)):
                _print_places(content, console)
        speeds = speed_table(results) if card.track == "training_speed" else None
        if speeds is not None:
            _print_speeds(speeds, console)
    everyone = len({score.algorithm for score in scores})
    for reason in _missing_lines(missing(scores, results), everyone):
        console.print(reason)


def _print_settled(card: Card, console: Console) -> None:
    """One line for a track that has the same to say of every algorithm."""
    reasons = "; ".join(dict.fromkeys(reason for _, reason in card.reasons))
    line = Text(f"{card.track}: ", style="bold").append(f"{card.settled}{': ' if reasons else ''}{reasons}", "not bold")
    console.print(line)
    console.print()


def _print_places(content: FigureTable, console: Console) -> None:
    cells = zip(*content.rows.values(), strict=True)
    columns = [[Text(heading), *map(Text, own)] for heading, own in zip(content.columns, cells, strict=True)]
    _print(console, f"hardware_inference by device: {content.title}", list(content.rows), columns)
    console.print()


def _print_speeds(content: SpeedTable, console: Console) -> None:
    names = [f"{row.task} {row.architecture} {row.algorithm}" for row in content.rows]
    columns: list[_Column] = []
    for place, (heading, detail) in enumerate(content.columns):
        cells = [row.cells[place] for row in content.rows]
        figures = [Text(cell.text, style=_CELLS[cell.state]) for cell in cells]
        spans = [f" ({cell.span})" if cell.span else "" for cell in cells]
        columns.append(
            [Text(heading), *(figure.append(span, "dim") for figure, span in zip(figures, spans, strict=True))]
        )
        if any(cell.detail for cell in cells):
            columns.append([Text(detail), *(Text(cell.detail, style="dim") for cell in cells)])
        if any(cell.published for cell in cells):
            columns.append([Text("published"), *(Text(cell.published or "-", style="dim") for cell in cells)])
    _print(
        console,
        "training_speed by network (lowest to highest over scores; of the slowdown, over epochs)",
        names,
        columns,
    )
    if content.published:
        console.print(Text(content.published, style="dim"))
    console.print()


_CELLS = {"": "", "failed": "red", "wait": "dim"}

_MARGIN = 3
"""Padding and separator between two columns, which the last column doesn't need."""

_Column = list[Text]
"""A heading and one cell a row."""


def _print(console: Console, title: str, rows: Sequence[str], columns: Iterable[_Column]) -> None:
    """Print a table, in several parts one below the other if it is wider than the console."""
    console.print(Text(title, style="bold"))
    names = [Text(""), *(Text(row) for row in rows)]
    for part in _parts(columns, console.width - _width(names)):
        table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
        # What fits stays on one line; a column that doesn't fit even alone is broken and not cut.
        fits = sum(map(_width, (names, *part))) <= console.width + _MARGIN
        for column in (names, *part):
            table.add_column(column[0], no_wrap=fits, overflow="fold")
        for cells in zip(names[1:], *(column[1:] for column in part), strict=True):
            table.add_row(*cells)
        console.print(table)


def _parts(columns: Iterable[_Column], width: int) -> Iterator[list[_Column]]:
    part: list[_Column] = []
    for column in columns:
        if part and sum(map(_width, part)) + _width(column) > width:
            yield part
            part = []
        part.append(column)
    yield part


def _width(column: _Column) -> int:
    return max(cell.cell_len for cell in column) + _MARGIN


def _task_columns(content: TaskTable) -> Iterator[_Column]:
    for architecture in content.architectures:
        column = [Text(architecture)]
        for algorithm in content.algorithms:
            cell = content.cells[algorithm, architecture]
            style = "bold green" if cell.best else "red" if cell.failed else "" if cell.values else "dim"
            column.append(Text(cell.marked, style=style))
        yield column


def _task_legend(content: TaskTable) -> Iterator[str]:
    if any(cell.best for cell in content.cells.values()):
        yield "~ best of its column, or cannot be told apart from it (paired bootstrap over test samples, 95 %)"
    if content.trivial is not None:
        yield content.trivial
    if content.seeds == 1:
        yield "one seed: an example, not a measurement of the algorithms"


def _card_columns(content: Card) -> Iterator[_Column]:
    for metric in content.metrics:
        unit = content.units[metric]
        column = [Text(f"{metric} ({unit})" if unit else metric)]
        for algorithm in content.algorithms:
            score = content.scores.get((algorithm, metric))
            style = _STYLE.get(score.status, "dim") if score else "dim"
            cell = Text(status_text(score), style=style)
            if interval_text(score):
                cell.append(f" {interval_text(score)}", style="dim")
            column.append(cell)
        yield column


def _card_legend(content: Card) -> Iterator[str]:
    if content.lower_is_better:
        yield f"lower is better: {', '.join(content.lower_is_better)}; for the others higher is"
    for whose, text in (*content.notes, *content.reasons):
        yield f"{whose}: {text}"


_STYLE = {"ok": "", "failed": "red"}


def _missing_lines(found: Sequence[Missing], everyone: int) -> Iterator[RenderableType]:
    if not found:
        return
    yield Text("Why scores are failed or incomplete", style="bold")
    for item in found[:_SHOWN]:
        whose = "all algorithms" if len(item.algorithms) == everyone > 1 else ", ".join(item.algorithms)
        line = Text(item.text, style="red" if item.failed else "")
        yield Padding(line.append(f"  ({', '.join(item.metrics)} of {whose})", style="dim"), (0, 0, 0, 2))
    if len(found) > _SHOWN:
        yield Text(f"  and {len(found) - _SHOWN} more; `bibench score DIR --json` lists all", style="dim")
