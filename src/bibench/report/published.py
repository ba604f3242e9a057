"""The published tables in a terminal: printed beside recomputed, and own results beside both."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bibench.report.tables import _parts, _width, print_plainly
from bibench.tracks.base import Mode
from bibench.tracks.comparisons import Ranking
from bibench.tracks.published import Beside, BesideRaw, Cell, CellStatus

__all__ = ["print_beside", "print_rankings", "print_recomputed"]

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
        whole = [row for row in raw if row.corruption is None and row.setting is None]
        if whole:
            _print(
                chosen,
                "scores on tasks",
                ("task", "architecture", "algorithm", *_RAW),
                ((Text(row.task), Text(row.architecture), Text(row.algorithm), *_raw_cells(row)) for row in whole),
            )
        for network, corrupted in _by_network(row for row in raw if row.corruption is not None).items():
            for origin in dict.fromkeys(row.origin for row in corrupted):
                title = (
                    f"{network} on corrupted images, mean over severities (own images: {origin or 'unknown origin'})"
                )
                _print_corrupted(chosen, title, [row for row in corrupted if row.origin == origin])
        for network, own in _by_network(row for row in raw if row.setting is not None).items():
            _print(
                chosen,
                f"{network}, sensitivity grid: mean over the trials of each setting",
                ("algorithm", "setting", *_RAW),
                ((Text(row.algorithm), Text(row.setting or ""), *_raw_cells(row)) for row in own),
            )
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
            notes = _notes([cell for cell in cells if cell.track == track])
            _print(chosen, track, ("metric", "algorithm", "own", "published", "difference"), rows, notes)
        if not cells and not raw:
            chosen.print(Text("nothing here has a published counterpart"))
        else:
            for text in _CLOSING:
                chosen.print(Text(text, style="dim"))

    print_plainly(console, show)


_CLOSING = (
    "own results are on the suite's tasks, networks and budget: a difference is no failure to reproduce",
    "the published scores on corrupted images and of the sensitivity grid (Tables 10 to 13) are of ResNet-18 on "
    "CIFAR-10 alone",
)

_RAW = ("own", "std", "seeds", "published", "difference", "source")


def _raw_cells(row: BesideRaw) -> tuple[Text, ...]:
    return (
        _number(row.own),
        _number(row.std),
        Text(str(row.seeds), justify="right"),
        _number(row.published),
        _difference(row.difference),
        Text(row.source or "", style="dim"),
    )


def _by_network(rows: Iterable[BesideRaw]) -> dict[str, list[BesideRaw]]:
    found: dict[str, list[BesideRaw]] = {}
    for row in rows:
        found.setdefault(f"{row.task} {row.architecture}", []).append(row)
    return found


def _print_corrupted(console: Console, title: str, raw: Sequence[BesideRaw]) -> None:
    """A line for each algorithm and corruption, with the difference at each severity."""
    severities = sorted({row.severity for row in raw if row.severity is not None})
    groups: dict[tuple[str, str], dict[int | None, BesideRaw]] = {}
    for row in raw:
        groups.setdefault((row.algorithm, row.corruption or ""), {})[row.severity] = row
    rows = []
    for (algorithm, corruption), own in groups.items():
        values = zip(*((row.own, row.published, row.difference) for row in own.values()), strict=True)
        mean, printed, difference = (sum(column) / len(own) for column in values)
        cells = (f"{own[severity].difference:+.2f}" if severity in own else "-" for severity in severities)
        numbers = (_number(mean), _number(printed), _difference(difference))
        rows.append((Text(algorithm), Text(corruption), *numbers, Text(" ".join(cells), style="dim")))
    at = f"difference at severity {' '.join(map(str, severities))}"
    _print(console, title, ("algorithm", "corruption", "own", "published", "difference", at), rows)


def _notes(cells: Sequence[Beside]) -> list[str]:
    """Each note once, behind the scores whose it is."""
    holders: dict[str, list[Beside]] = {}
    for cell in cells:
        if cell.note:
            holders.setdefault(cell.note, []).append(cell)
    return [
        f"{', '.join(dict.fromkeys(cell.metric for cell in own))} of "
        f"{', '.join(dict.fromkeys(cell.algorithm for cell in own))}: {note}"
        for note, own in holders.items()
    ]


def print_rankings(found: Sequence[Ranking], title: str, console: Console) -> None:
    """Print how well two rankings of algorithms agree, a line a network, with both orders.

    Args:
        found: from `bibench.tracks.comparisons.rankings` or ``published_rankings``.
        title: which rankings.
        console: where to.
    """

    def show(chosen: Console) -> None:
        chosen.print(Text(f"{title}: Kendall's tau [95 % interval over seeds and test samples]", style="bold"))
        if not found:
            chosen.print(Text("no network that both have", style="dim"))
        for row in found:
            network = f"  {row.task} {row.architecture}: "
            if row.agreement is None:
                chosen.print(Text(network).append(row.lack, style="dim"))
                continue
            own = row.agreement
            chosen.print(Text(f"{network}{own.tau:.2f} [{own.low:.2f}, {own.high:.2f}]"))
            chosen.print(Text(f"    {' > '.join(own.first)}"))
            chosen.print(Text(f"    {' > '.join(own.second)}"))

    print_plainly(console, show)


_NUMBERS = {"printed", "recomputed", "difference", "own", "std", "seeds", "published"}


def _print(
    console: Console,
    title: str,
    headings: Sequence[str],
    rows: Iterable[Sequence[Text]],
    notes: Sequence[str] = (),
) -> None:
    """Print a table, in several parts one below the other if it is wider than the console."""
    columns = [list(column) for column in zip(map(Text, headings), *rows, strict=True)]
    first = next(index for index, heading in enumerate(headings) if heading in _NUMBERS)
    names = columns[:first]
    console.print(Text(title, style="bold"))
    for part in _parts(columns[first:], console.width - sum(map(_width, names))):
        table = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, show_edge=False, pad_edge=False)
        for column in (*names, *part):
            justify: Literal["left", "right"] = "right" if column[0].plain in _NUMBERS else "left"
            table.add_column(column[0], no_wrap=True, overflow="fold", justify=justify)
        for cells in zip(*(column[1:] for column in (*names, *part)), strict=True):
            table.add_row(*cells)
        console.print(table)
    for note in notes:
        console.print(Text(note, style="dim"))
    console.print()


def _number(value: float | None) -> Text:
    return Text("-" if value is None else f"{value:.2f}", style="dim" if value is None else "")


def _difference(value: float | None) -> Text:
    return Text("-" if value is None else f"{value:+.3f}", style="dim" if value is None else "")
