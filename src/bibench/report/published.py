"""The published tables in a terminal: printed beside recomputed, and own results beside both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bibench.report.tables import print_plainly
from bibench.tracks.base import Mode
from bibench.tracks.published import Beside, BesideRaw, Cell, CellStatus

__all__ = ["print_beside", "print_recomputed"]

_STYLES = {
    "exact": "green",
    "close": "green",
    "differs": "yellow",
    "not_reproducible": "yellow",
    "not_deployable": "dim",
}
_MEANING: dict[CellStatus, str] = {
    "exact": "equal to what is printed, rounded to two decimals",
    "close": "within 0.01",
    "differs": "another figure, in this reading of the equations",
    "not_reproducible": "no reading gives it: there is no raw table, or the paper counts in a way that it doesn't say",
    "not_deployable": "printed as such",
}


def print_recomputed(cells: Sequence[Cell], mode: Mode, console: Console) -> None:
    """Print the cells of Tables 2 and 3, a table a track: printed, recomputed, difference and status.

    Args:
        cells: from `bibench.tracks.published.recompute`.
        mode: which reading they are in.
        console: where to.
    """

    def show(chosen: Console) -> None:
        for track in dict.fromkeys(cell.track for cell in cells):
            own = [cell for cell in cells if cell.track == track]
            rows = (
                (
                    Text(cell.metric),
                    Text(cell.algorithm),
                    _number(cell.printed),
                    _number(cell.recomputed),
                    _difference(cell.difference),
                    Text(cell.status.replace("_", " "), style=_STYLES[cell.status]),
                )
                for cell in own
            )
            _print(chosen, f"{track}, {mode}", ("metric", "algorithm", "printed", "recomputed", "difference", ""), rows)
        counts = Counter(cell.status for cell in cells)
        chosen.print(Text(f"{len(cells)} cells of the paper's Tables 2 and 3, in the reading '{mode}':", style="bold"))
        for status, meaning in _MEANING.items():
            if counts[status]:
                chosen.print(
                    Text(f"  {counts[status]:>3} {status.replace('_', ' ')}: {meaning}", style=_STYLES[status])
                )
        chosen.print(
            Text("om_train and om_infer use the printed time cost and storage, which have no raw table", style="dim")
        )

    print_plainly(console, show)


def print_beside(cells: Sequence[Beside], raw: Sequence[BesideRaw], console: Console) -> None:
    """Print own scores and own figures beside the published ones, with the difference.

    Args:
        cells, raw: from `bibench.tracks.published.beside` and ``beside_raw``.
        console: where to.
    """

    def show(chosen: Console) -> None:
        if raw:
            headings = ("task", "architecture", "algorithm", "own", "std", "seeds", "published", "difference", "source")
            figures = (
                (
                    Text(row.task),
                    Text(row.architecture),
                    Text(row.algorithm),
                    _number(row.own),
                    _number(row.std),
                    Text(str(row.seeds), justify="right"),
                    _number(row.published),
                    _difference(row.difference),
                    Text(row.source or "", style="dim"),
                )
                for row in raw
            )
            _print(chosen, "scores on tasks", headings, figures)
        for track in dict.fromkeys(cell.track for cell in cells):
            rows = (
                (
                    Text(cell.metric),
                    Text(cell.algorithm),
                    _number(cell.own) if cell.own is not None else Text(cell.status.replace("_", " "), style="dim"),
                    _number(cell.printed) if cell.printed is not None else Text("not deployable", style="dim"),
                    _difference(cell.difference),
                )
                for cell in cells
                if cell.track == track
            )
            _print(chosen, track, ("metric", "algorithm", "own", "published", "difference"), rows)
        if not cells and not raw:
            chosen.print(Text("nothing here has a published counterpart"))
        else:
            text = "own results are on the suite's tasks, networks and budget: a difference is no failure to reproduce"
            chosen.print(Text(text, style="dim"))

    print_plainly(console, show)


def _print(console: Console, title: str, headings: Sequence[str], rows: Iterable[Sequence[Text]]) -> None:
    table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
    numbers = {"printed", "recomputed", "difference", "own", "std", "seeds", "published"}
    for heading in headings:
        table.add_column(heading, no_wrap=True, justify="right" if heading in numbers else "left")
    for row in rows:
        table.add_row(*row)
    console.print(Text(title, style="bold"))
    console.print(table)
    console.print()


def _number(value: float | None) -> Text:
    return Text("-" if value is None else f"{value:.2f}", style="dim" if value is None else "")


def _difference(value: float | None) -> Text:
    return Text("-" if value is None else f"{value:+.3f}", style="dim" if value is None else "")
