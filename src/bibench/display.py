"""What a person sees while runs go on: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from bibench.bench.queue import work_of
from bibench.bench.worker import Outcome
from bibench.records import RunConfig
from bibench.report.summary import duration

__all__ = ["Display"]


def _name(run: RunConfig) -> str:
    """The run in words; what is only a part of something says of what, or how long it is."""
    part = run.setting or run.point
    if part is None and not run.main:
        part = f"{run.known_recipe.budget:,} {run.known_recipe.unit}"
    return f"{run.task} {run.architecture} {run.algorithm} seed {run.seed}" + ("" if part is None else f" {part}")


class Display:
    """A `Listener` that shows what runs, how each run ended, and the time left.

    The time left is the time so far over the share of the work that was done in it, each run counted by the training
    samples that it sees; what a run had done before it was continued is left out.

    Args:
        runs: what there is to do.
        console: where to show it.
    """

    def __init__(self, runs: list[RunConfig], console: Console) -> None:
        self.console = console
        self.total = len(runs)
        self.weights = {run.id: work for run, work in zip(runs, work_of(runs), strict=True)}
        self.shares: dict[str, float] = {}
        self.continued: dict[str, float] = {}
        self.names: dict[str, TaskID] = {}
        self.others: set[str] = set()
        self.ended = 0
        self.start = time.monotonic()
        self.bars = Progress(
            TextColumn("  {task.description:<44}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %")
        )
        self.overall = self.bars.add_task("", total=sum(self.weights.values()) or 1.0)
        self.live = (
            Live(self.bars, console=console, refresh_per_second=4, transient=True) if console.is_terminal else None
        )

    def __enter__(self) -> Display:
        self.start = time.monotonic()
        if self.live is not None:
            self.live.start()
            self._refresh()
        return self

    def __exit__(self, *exception: object) -> None:
        if self.live is not None:
            self.live.stop()

    def started(self, run: RunConfig) -> None:
        self.others.discard(run.id)
        if self.live is not None:
            self.names[run.id] = self.bars.add_task(_name(run), total=1.0)

    def progressed(self, run_id: str, share: float) -> None:
        if run_id not in self.shares:
            self.continued[run_id] = share
        self.shares[run_id] = max(share, self.shares.get(run_id, 0.0))
        if self.live is not None and run_id in self.names:
            self.bars.update(self.names[run_id], completed=share)
            self._refresh()

    def elsewhere(self, run: RunConfig) -> None:
        self.others.add(run.id)
        self._remove_bar(run.id)

    def finished(self, outcome: Outcome) -> None:
        self.ended += 1
        self.shares[outcome.run.id] = 1.0
        self._remove_bar(outcome.run.id)
        style = {"ok": "green", "failed": "red", "error": "bold red"}[outcome.status]
        left = self.left()
        tail = f"  (about {duration(left)} left)" if left is not None and self.live is None else ""
        # One print, so that the bars aren't drawn into the middle of the line.
        line = Text(f"[{self.ended:>{len(str(self.total))}}/{self.total}] {outcome.status:<6} ", style=style)
        line.append(
            f"{_name(outcome.run)}: {outcome.message}  {duration(outcome.seconds)}{tail}", style="not bold default"
        )
        self.console.print(line, soft_wrap=True, highlight=False)
        sys.stdout.flush()
        if outcome.status == "error" and not sys.stderr.isatty():  # in a terminal it would stand there twice
            print(f"error: {_name(outcome.run)}: {outcome.message}", file=sys.stderr)

    def _remove_bar(self, run_id: str) -> None:
        if self.live is not None and run_id in self.names:
            self.bars.remove_task(self.names.pop(run_id))
            self._refresh()

    def left(self) -> float | None:
        """Seconds left, or None as long as nothing can be said."""
        total = sum(self.weights.values())
        done = self._done(self.shares)
        here = done - self._done(self.continued)
        return (time.monotonic() - self.start) * (total - done) / here if here > 0.01 * total else None

    def _done(self, shares: Mapping[str, float]) -> float:
        return sum(self.weights.get(run_id, 0.0) * share for run_id, share in shares.items())

    def _refresh(self) -> None:
        left = self.left()
        text = f"{self.ended} of {self.total} runs"
        text += f", {len(self.others)} of another process" if self.others else ""
        text += "" if left is None else f", about {duration(left)} left"
        self.bars.update(self.overall, description=text, completed=self._done(self.shares))
