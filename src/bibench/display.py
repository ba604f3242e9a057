"""What a person sees while runs go on: a live display in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass

from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from bibench.bench.queue import work_of
from bibench.bench.worker import Outcome
from bibench.records import RunConfig
from bibench.report.words import counted, duration

__all__ = ["Display"]


def _name(run: RunConfig) -> str:
    """The run in words; what is only a part of something says of what, or how long it is."""
    part = run.setting or run.point
    if part is None and not run.main:
        part = f"{run.known_recipe.budget:,} {run.known_recipe.unit}"
    return f"{run.task} {run.architecture} {run.algorithm} seed {run.seed}" + ("" if part is None else f" {part}")


@dataclass
class _Network:
    """Runs of a network on a task: their work, what was done of it here, in how many seconds, and what is left."""

    work: float = 0.0
    done: float = 0.0
    seconds: float = 0.0
    left: float = 0.0
    runs_left: int = 0


@dataclass
class _Running:
    """A run that goes on: since when, the share that is done, and the one that it was continued from."""

    since: float
    share: float = 0.0
    continued: float | None = None


class Display:
    """A `Listener` that shows what runs, how each run ended, and the time left.

    The time left is what the rest takes at the pace that each network had so far, with as many runs at a time: seconds
    over work, which is the training samples that a run sees; what a run had done before it was continued is left out.
    Of networks that haven't run yet nothing is known, and their runs are counted apart.

    Args:
        runs: what there is to do.
        console: where to show it.
    """

    def __init__(self, runs: list[RunConfig], console: Console) -> None:
        self.console = console
        self.total = len(runs)
        self.weights = {run.id: work for run, work in zip(runs, work_of(runs), strict=True)}
        self.networks: dict[tuple[str, str], _Network] = {}
        for run in runs:
            network = self._network(run)
            network.work += self.weights[run.id]
            network.left += self.weights[run.id]
            network.runs_left += 1
        self.runs = {run.id: run for run in runs}
        self.running: dict[str, _Running] = {}
        self.done = 0.0
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
        self.running[run.id] = _Running(since=time.monotonic())
        if self.live is not None:
            self.names[run.id] = self.bars.add_task(_name(run), total=1.0)

    def progressed(self, run_id: str, share: float) -> None:
        running = self.running.get(run_id)
        if running is None:  # told late, by a process that has ended
            return
        if running.continued is None:
            running.continued = share
        running.share = max(share, running.share)
        if self.live is not None and run_id in self.names:
            self.bars.update(self.names[run_id], completed=share)
            self._refresh()

    def elsewhere(self, run: RunConfig) -> None:
        self.others.add(run.id)
        self.running.pop(run.id, None)
        self._remove_bar(run.id)

    def finished(self, outcome: Outcome) -> None:
        self.ended += 1
        self._count(outcome.run)
        self._remove_bar(outcome.run.id)
        style = {"ok": "green", "failed": "red", "error": "bold red"}[outcome.status]
        left = self._left_in_words()
        tail = f"  ({left})" if left and self.live is None else ""
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

    def _network(self, run: RunConfig) -> _Network:
        return self.networks.setdefault((run.task, run.architecture), _Network())

    def _count(self, run: RunConfig) -> None:
        """A run that has ended is work done, and none that is left."""
        network, work = self._network(run), self.weights[run.id]
        network.left -= work
        network.runs_left -= 1
        self.done += work
        running = self.running.pop(run.id, None)
        if running is not None:
            network.done += work * (1.0 - (running.continued or 0.0))
            network.seconds += time.monotonic() - running.since

    def left(self) -> tuple[float | None, int]:
        """Seconds left for runs of which something is known, or None; and how many others there are."""
        now = time.monotonic()
        done = {key: network.done for key, network in self.networks.items()}
        seconds = {key: network.seconds for key, network in self.networks.items()}
        left = {key: network.left for key, network in self.networks.items()}
        for run_id, running in self.running.items():
            run, work = self.runs[run_id], self.weights[run_id]
            key = run.task, run.architecture
            left[key] -= work * running.share
            here = work * (running.share - (running.continued or 0.0))
            if here > 0:
                done[key] += here
                seconds[key] += now - running.since
        known = [key for key, network in self.networks.items() if done[key] > 0.01 * network.work]
        others = sum(network.runs_left for key, network in self.networks.items() if key not in known)
        together = sum(seconds.values()) / max(now - self.start, 1e-9)
        rest = sum(left[key] * seconds[key] / done[key] for key in known) / max(together, 1e-9)
        return (rest if known else None), others

    def _left_in_words(self) -> str:
        seconds, others = self.left()
        if seconds is None:
            return ""
        more = f", and {counted(others, 'run')} of other networks" if others else ""
        return f"about {duration(seconds)} left{more}"

    def _refresh(self) -> None:
        text = f"{self.ended} of {self.total} runs"
        text += f", {len(self.others)} of another process" if self.others else ""
        left = self._left_in_words()
        text += f", {left}" if left else ""
        now = sum(self.weights[run_id] * running.share for run_id, running in self.running.items())
        self.bars.update(self.overall, description=text, completed=self.done + now)
