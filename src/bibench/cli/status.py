"""Commands that look at a sweep while it goes on: how far it is, and what happened to a run."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from bibench.bench.history import History, history
from bibench.bench.plan import PlanError
from bibench.bench.progress import Hours, Observer, Progress
from bibench.bench.store import Store
from bibench.cli.app import JsonOption, StoreArgument, address, app, clear_errors, out
from bibench.cli.finished import run_place
from bibench.report import print_plainly
from bibench.report.words import counted, duration

__all__ = ["logs", "status"]

_SECONDS = 2.0
"""Between two looks."""

_SHOWN = 20
"""Longer lists end with how many more there are; `--json` has all."""


@app.command()
def status(
    folder: StoreArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Look again every 2 s until nothing is left to do.")] = False,
    price: Annotated[
        float | None,
        typer.Option("--price-per-hour", min=0, help="Of one GPU; where there is none, of one run on a CPU."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how far a sweep is: what is done, who works on what, what went wrong, what the rest would take."""
    with clear_errors():
        if watch and as_json:
            raise PlanError("--watch draws for people and --json prints once; leave one of them out")
        observer = Observer(Store.open(address(folder)))
        found = observer.look()
        if as_json:
            print(json.dumps(dataclasses.asdict(found) | _cost(found, price), indent=1, allow_nan=False))
        elif watch:
            with Live(_page(found, price), console=out, auto_refresh=False) as live:
                while not found.finished:
                    time.sleep(_SECONDS)
                    found = observer.look()
                    live.update(_page(found, price), refresh=True)
        else:
            print_plainly(out, lambda console: console.print(_page(found, price)))


def _cost(found: Progress, price: float | None) -> dict[str, float]:
    """What was spent, and what all would cost, in the price's currency; nothing without a price."""
    if price is None:
        return {}
    spent, whole = (price * (hours.gpu + hours.cpu) for hours in (found.spent, found.spent + found.left))
    return {"cost": spent, "cost_of_all": whole}


def _page(found: Progress, price: float | None) -> Group:
    return Group(*(Text(line) for line in _lines(found, price)), *_tables(found))


def _lines(found: Progress, price: float | None) -> Iterator[str]:
    failed = f" ({len(found.failed)} of them failed)" if found.failed else ""
    yield (
        f"{found.done:,} of {counted(found.planned, 'run')} done{failed}, {len(found.running):,} running, "
        f"{found.waiting:,} waiting" + (f", {len(found.errors):,} of them after an error" if found.errors else "")
    )
    if found.lost:
        yield f"can't be run, since their full-precision run failed: {counted(found.lost, 'run')}"
    if found.taken_over or found.discarded:
        late = counted(found.discarded, "result")
        yield f"taken over: {counted(found.taken_over, 'run')}; late and discarded: {late}"
    whole = found.spent + found.left
    yield f"so far {_hours(found.spent)}; all runs about {_hours(whole)}{_unknown(found)}"
    if price is not None:
        cost = _cost(found, price)
        yield f"cost so far {cost['cost']:,.2f}; all runs about {cost['cost_of_all']:,.2f}{_unknown(found)}"
    if found.seconds_left is not None and not found.finished:
        yield f"about {duration(found.seconds_left)} left with {counted(len(found.running), 'run')} at a time"
    elif not found.finished:
        yield "time left: unknown, since " + (
            "nothing runs" if not found.running else "no run of some networks has finished"
        )


def _hours(hours: Hours) -> str:
    parts = [f"{hours.gpu:,.2f} GPU hours"] if hours.gpu else []
    parts += [f"{duration(3600 * hours.cpu)} on CPUs"] if hours.cpu or not parts else []
    return " and ".join(parts)


def _unknown(found: Progress) -> str:
    return f", without {counted(found.unknown, 'run')} of networks of which none has finished" if found.unknown else ""


def _tables(found: Progress) -> Iterator[RenderableType]:
    running = [
        (own.run, f"{100 * own.share:.0f} %", f"{own.host} ({own.pid})", own.since, "silent" if own.silent else "")
        for own in found.running
    ]
    yield from _table("running", ("run", "trained", "host (process)", "since", ""), running)
    yield from _table("failed", ("run", "reason"), [(own.run, own.reason) for own in found.failed])
    yield from _table("errors; tried again", ("run", "message"), [(own.run, own.message) for own in found.errors])


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[RenderableType]:
    if not rows:
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows[:_SHOWN]:
        table.add_row(*(Text(cell) for cell in row))
    yield Text()
    yield table
    if len(rows) > _SHOWN:
        yield Text(f"and {len(rows) - _SHOWN:,} more; --json has all")


@app.command()
def logs(
    folder: Annotated[
        str, typer.Argument(metavar="RUN", help="Folder of a run (DIR/runs/NAME), or of results with NAME behind it.")
    ],
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Of the run, where RUN is the results.")] = None,
) -> None:
    """Say what happened to a run: who took it, what each epoch gave, how it ended, and the traceback of an error."""
    with clear_errors():
        place, inside = run_place(folder) if name is None else (address(folder), name)
        if inside is None:
            raise PlanError(f"{folder}: not the folder of a run; give DIR/runs/NAME, or DIR NAME")
        found = history(Store.open(place), inside)
        print_plainly(out, lambda console: _print_history(found, console))


def _print_history(found: History, console: Console) -> None:
    console.print(Text(found.run, style="bold"))
    for line in _history_lines(found):
        console.print(Text(line))
    if found.epochs:
        table = Table(box=None, pad_edge=False)
        for key in found.epochs[0]:
            table.add_column(key, justify="right")
        for row in found.epochs:
            table.add_row(*(f"{value:.6g}" for value in row.values()))
        console.print(table)
    if found.error:
        console.print(Text("error.log", style="bold"))
        console.print(Text(found.error.rstrip()))


def _history_lines(found: History) -> Iterator[str]:
    if found.claim is not None:
        times = counted(found.claim.token, "time")
        state = found.claim.state
        yield (
            f"taken {times}; the newest claim can't be read"
            if state is None
            else (
                f"taken {times}, last by {state.holder.host} (process {state.holder.pid}) since {state.since}: "
                f"{100 * state.share:.0f} % trained"
                + (", given up" if state.released else ", ended" if found.claim.free else "")
            )
        )
    record = found.record
    if record is None:
        yield "no result yet"
        return
    where = record.environment
    on = "" if where is None else f" on {where.accelerator or where.processor}"
    how = "ok" if record.status == "ok" else f"failed: {record.reason or 'without a reason'}"
    yield f"{how}, {record.finished}{on}"
    yield ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in record.phases.items())
    if record.files:
        yield f"taken over from a process that was slow or gone: its files are in {record.files}"
