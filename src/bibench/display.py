"""What a person sees while runs go on: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from bibench.bench.worker import Outcome
from bibench.records import RunConfig

__all__ = ["Display", "duration"]


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(4.2), duration(75), duration(7500)
    ('4 s', '1 min 15 s', '2 h 05 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _name(run: RunConfig) -> str:
    return f"{run.task} {run.architecture} {run.algorithm} seed {run.seed}"


class Display:
    """A `Listener` that shows what runs, how each run ended, and the time left.

    The time left is the time so far over the share of the work that is done, each run counted by its epochs.

    Args:
        runs: what there is to do.
        console: where to show it.
        quiet: show nothing but errors.
    """

    def __init__(self, runs: list[RunConfig], console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self.live_wanted = console.is_terminal and not quiet
        self.quiet = quiet
        self.total = len(runs)
        self.weights = {run.id: float(run.recipe.epochs) for run in runs}
        self.shares: dict[str, float] = {}
        self.names: dict[str, TaskID] = {}
        self.ended = 0
        self.start = time.monotonic()
        self.bars = Progress(
            TextColumn("  {task.description:<44}"), BarColumn(bar_width=24), TextColumn("{task.percentage:>3.0f} %")
        )
        self.overall = self.bars.add_task("", total=sum(self.weights.values()) or 1.0)
        self.live = Live(self.bars, console=console, refresh_per_second=4, transient=True) if self.live_wanted else None

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
        if self.live is not None:
            self.names[run.id] = self.bars.add_task(_name(run), total=1.0)

    def progressed(self, run_id: str, share: float) -> None:
        self.shares[run_id] = max(share, self.shares.get(run_id, 0.0))
        if self.live is not None and run_id in self.names:
            self.bars.update(self.names[run_id], completed=share)
            self._refresh()

    def finished(self, outcome: Outcome) -> None:
        self.ended += 1
        self.shares[outcome.run.id] = 1.0
        if self.live is not None and outcome.run.id in self.names:
            self.bars.remove_task(self.names.pop(outcome.run.id))
            self._refresh()
        if self.quiet and outcome.status == "ok":
            return
        style = {"ok": "green", "failed": "red", "error": "bold red"}[outcome.status]
        left = self.left()
        tail = f"  (about {duration(left)} left)" if left is not None and self.live is None and not self.quiet else ""
        number = f"[{self.ended:>{len(str(self.total))}}/{self.total}]"
        self.console.print(number, f"{outcome.status:<6}", style=style, end=" ", markup=False, highlight=False)
        self.console.print(
            f"{_name(outcome.run)}: {outcome.message}  {duration(outcome.seconds)}{tail}",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        sys.stdout.flush()

    def left(self) -> float | None:
        """Seconds left, or None as long as nothing can be said."""
        total = sum(self.weights.values())
        done = sum(self.weights.get(run_id, 0.0) * share for run_id, share in self.shares.items())
        return (time.monotonic() - self.start) * (total - done) / done if done > 0.01 * total else None

    def _refresh(self) -> None:
        left = self.left()
        text = f"{self.ended} of {self.total} runs" + ("" if left is None else f", about {duration(left)} left")
        done = sum(self.weights.get(run_id, 0.0) * share for run_id, share in self.shares.items())
        self.bars.update(self.overall, description=text, completed=done)
