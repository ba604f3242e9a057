"""What scheduling costs: seconds a run, with everything but the run itself.

Runs are queued that end at once. What is left is the queue, the way to a worker process and back, the claim and its
release, and the record: all that a sweep costs beside training and measuring. It is the time from the first run's end
to the last one's, by their number.

    python benchmarks/scheduler.py [--runs 1000] [--more 10000] [--repeats 5] [--jobs 1]
"""

import argparse
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from machine import machine

from bibench.bench import pool, worker
from bibench.bench.executor import run_plan
from bibench.bench.pool import Limits
from bibench.bench.worker import Outcome, Settings
from bibench.recipes import SGD, Recipe
from bibench.records import Figure, Record, RunConfig

ALLOWED = 0.01
RUN_SECONDS = 60.0


def plan(count: int) -> list[RunConfig]:
    """Full-precision runs, each with four that start from it."""
    recipe = Recipe(optimizer=SGD(lr=0.1), epochs=1, batch_size=64)
    common = {"task": "digits", "architecture": "digits_cnn", "family": "cnns", "metric": "accuracy", "recipe": recipe}
    runs: list[RunConfig] = []
    for seed in range(count // 5):
        first = RunConfig(**common, algorithm="fp32", method="full_precision", seed=seed)
        runs.append(first)
        runs += [
            RunConfig(**common, algorithm=name, operator=name, method="fine_tune", seed=seed, parent=first.id)
            for name in ("bnn", "xnor", "dorefa", "recu")
        ]
    return runs


def end_at_once(config, settings, store, on_progress, claim, stop):
    """In place of a run: only its record."""
    on_progress(0.0)
    store.folder(config.id).mkdir(parents=True, exist_ok=True)
    record = Record(
        id=config.id,
        run=config,
        status="ok",
        figures=(Figure(name="accuracy", value=50.0, unit="percent"),),
        environment=None,
        finished="2000-01-01T00:00:00+00:00",
    )
    return record if store.commit(record, claim) else store.record(config.id)


def work(*arguments):
    """A worker process whose runs end at once."""
    worker._run = end_at_once
    WORK(*arguments)


WORK = pool._work


@dataclass
class Ends:
    """When each run ended."""

    times: list[float] = field(default_factory=list)

    def started(self, run: RunConfig) -> None:
        """See `Listener`."""

    def progressed(self, run_id: str, share: float) -> None:
        """See `Listener`."""

    def elsewhere(self, run: RunConfig) -> None:
        """See `Listener`."""

    def finished(self, outcome: Outcome) -> None:
        """See `Listener`."""
        assert outcome.status == "ok", outcome.message
        self.times.append(time.perf_counter())


def seconds(runs: list[RunConfig], jobs: int) -> float:
    """Of a run, after the first one, before which the worker process starts."""
    with tempfile.TemporaryDirectory() as folder:
        ends = Ends()
        run_plan(
            runs, Settings(out=Path(folder)), jobs=jobs, listener=ends, limits=Limits(hang_seconds=3600.0)
        )  # with limits, so that one run at a time is in a process too
        return (ends.times[-1] - ends.times[0]) / (len(ends.times) - 1)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--more", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    pool._work = work
    print(f"{options.repeats} repeats, {options.jobs} worker processes; {machine()}")
    plans = {count: plan(count) for count in (options.runs, options.more)}
    times: dict[int, list[float]] = {count: [] for count in plans}
    for _ in range(options.repeats):  # in turns, so that what else the machine does falls on both
        for count, runs in plans.items():
            times[count].append(seconds(runs, options.jobs))
    medians = {count: statistics.median(each) for count, each in times.items()}
    for count, each in times.items():
        print(
            f"{count:,} runs queued: {1e3 * medians[count]:.1f} ms a run "
            f"({1e3 * min(each):.1f}..{1e3 * max(each):.1f}), {medians[count] / RUN_SECONDS:.3%} of a "
            f"{RUN_SECONDS:.0f} s run"
        )
    few, many = medians[options.runs], medians[options.more]
    print(f"{options.more / options.runs:g}x more runs: {options.more * many / (options.runs * few):.2f}x the time")
    print(f"at most {ALLOWED:.0%} of a {RUN_SECONDS:.0f} s run: {'yes' if few <= ALLOWED * RUN_SECONDS else 'no'}")


if __name__ == "__main__":
    main()
