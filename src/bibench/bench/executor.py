"""Runs are executed, parents first, in this process, in worker processes, or on a cluster."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch

from bibench.bench.claims import Watch
from bibench.bench.pool import Limits, Pool, Throttle, gpus_by_run, visible_gpus
from bibench.bench.queue import Queue
from bibench.bench.ray_executor import Cluster, RayWorkers
from bibench.bench.store import Store, StoreError
from bibench.bench.worker import Outcome, Settings, execute
from bibench.files import write_text
from bibench.records import RunConfig

__all__ = ["Listener", "Stop", "Workers", "run_plan"]

_TICK = 0.5
"""Seconds after which a driver looks up, whatever happens."""


class Listener(Protocol):
    """What is told while runs go on."""

    def started(self, run: RunConfig) -> None: ...
    def progressed(self, run_id: str, share: float) -> None: ...
    def finished(self, outcome: Outcome) -> None: ...
    def elsewhere(self, run: RunConfig) -> None:
        """A run that was started is another process's; it is looked at again later."""


class Stop:
    """The wish that runs end with their epoch, as a machine tells that is about to be taken away.

    Args:
        grace: seconds that they have for it.
    """

    def __init__(self, grace: float) -> None:
        self.grace = grace
        self.until: float | None = None
        self.heeded = False
        """Whether somebody looks at it now; a wish that nobody would look at is to be an interrupt at once."""

    @contextmanager
    def looked_at(self) -> Iterator[None]:
        """While this lasts it is looked at.

        Raises:
            KeyboardInterrupt: at the end, where somebody wished it in the last moment.
        """
        self.heeded = True
        try:
            yield
        finally:
            self.heeded = False
        if self.requested:
            raise KeyboardInterrupt

    def request(self) -> None:
        """From here on nothing is started, and the time runs."""
        self.until = time.monotonic() + self.grace

    @property
    def requested(self) -> bool:
        """Whether somebody wished it."""
        return self.until is not None

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return self.until is not None and time.monotonic() >= self.until


class Workers(Protocol):
    """What executes runs."""

    @property
    def running(self) -> int:
        """How many runs are in work."""

    @property
    def free(self) -> bool:
        """Whether another run can start."""

    def start(self, run: RunConfig, takeover: int | None) -> None:
        """Start a run; ``takeover`` is for `bibench.bench.worker.execute`."""

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended, after about so many seconds at most."""

    def finish_epochs(self) -> None:
        """Let every run end with its epoch, without an outcome."""

    def close(self) -> None:
        """Nothing more will come."""

    def stop(self) -> None:
        """Stop every run at once."""


class _Here:
    """One run at a time, in this process."""

    def __init__(self, settings: Settings, on_progress: Callable[[str, float], None]) -> None:
        self._settings = settings
        self._on_progress = on_progress
        self._ended: list[Outcome] = []

    @property
    def running(self) -> int:
        return len(self._ended)

    @property
    def free(self) -> bool:
        return not self._ended

    def start(self, run: RunConfig, takeover: int | None) -> None:
        name = run.id
        progress = Throttle(lambda share: self._on_progress(name, share))
        self._ended.append(execute(run, self._settings, progress, takeover=takeover))

    def wait(self, seconds: float) -> list[Outcome]:
        ended, self._ended = self._ended, []
        return ended

    def finish_epochs(self) -> None: ...

    def close(self) -> None: ...

    def stop(self) -> None: ...


def run_plan(
    runs: Sequence[RunConfig],
    settings: Settings,
    *,
    jobs: int,
    listener: Listener,
    limits: Limits | None = None,
    stop: Stop | None = None,
    cluster: Cluster | None = None,
) -> list[Outcome]:
    """Run what isn't finished yet, each after the run whose weights it needs, those with the longest path first.

    Other processes may run the same plan into the same store: each run is done by one of them, and this returns when
    all are done.

    Args:
        runs: the plan, parents before children.
        settings: for every run.
        jobs: how many at a time; 1 runs them in this process, unless there are limits or a time of grace.
        listener: is told of starts, progress and ends.
        limits: for every run.
        stop: is looked at between runs; when it is requested, runs end with their epoch.
        cluster: runs them there, as many at a time as it has room for.

    Returns:
        An outcome for every run that was attempted, and for those whose parent failed.

    Raises:
        KeyboardInterrupt: after the workers have stopped; what is finished stays, the rest continues next time.
    """
    limits, stop = limits or Limits(), stop or Stop(0.0)
    driver = _Driver(runs, settings, listener, stop)
    if driver.done:
        return driver.outcomes
    workers: Workers
    if cluster is not None:
        workers = RayWorkers(cluster, settings, limits=limits, on_progress=listener.progressed)
    elif jobs == 1 and not limits.any and not stop.grace:
        workers = _Here(settings, listener.progressed)
    else:
        gpus: list[str] = []
        if settings.device == "cuda":
            torch.cuda.init()  # fail here, once, rather than in every worker
            gpus = gpus_by_run(visible_gpus(), max(run.devices for run in runs))
        workers = Pool(jobs, settings, limits=limits, on_progress=listener.progressed, gpus=gpus)
    with stop.looked_at(), _closed(workers):
        driver.drive(workers)
    return driver.outcomes


@contextmanager
def _closed(workers: Workers) -> Iterator[None]:
    try:
        yield
    except BaseException:
        workers.stop()
        raise
    workers.close()


class _Driver:
    """Which runs wait, which others are another process's, and how the rest ended."""

    def __init__(self, runs: Sequence[RunConfig], settings: Settings, listener: Listener, stop: Stop) -> None:
        self.store = Store(settings.out)
        self.listener = listener
        self.stop = stop
        self.outcomes: list[Outcome] = []
        self._watch = Watch(self.store.claims)
        self._pause = settings.lease / 10
        self._asked = time.monotonic()
        self._elsewhere: dict[str, RunConfig] = {}
        self._takeovers: dict[str, int] = {}
        self._fatal = False
        records = {run.id: self.store.record(run.id) for run in runs}
        there = {name for name, record in records.items() if record is not None and record.status == "ok"}
        lost = {name for name, record in records.items() if record is not None and record.status == "failed"}
        waiting = []
        for run in runs:
            if not self.store.unfinished(run, settings.tracks):
                continue
            if run.parent in lost:
                lost.add(run.id)
                self._orphan(run)
            else:
                waiting.append(run)
        self.done = not waiting
        self._queue = Queue(waiting, there)

    def drive(self, workers: Workers) -> None:
        """Go on until nothing is left to do."""
        while True:
            if self.stop.requested:
                self._end_with_epochs(workers)
            while workers.free and not self._fatal and (run := self._queue.take()) is not None:
                self.listener.started(run)
                workers.start(run, self._takeovers.pop(run.id, None))
            if not workers.running and (self._fatal or not self._elsewhere):
                return
            if workers.running:
                for outcome in workers.wait(_TICK):
                    self._end(outcome)
            else:
                time.sleep(min(_TICK, self._pause))
            self._ask_again()

    def _end_with_epochs(self, workers: Workers) -> None:
        workers.finish_epochs()
        while workers.running and not self.stop.over:
            for outcome in workers.wait(_TICK):
                self._end(outcome)
        raise KeyboardInterrupt

    def _end(self, outcome: Outcome) -> None:
        name = outcome.run.id
        if outcome.status == "busy":
            self._elsewhere[name] = outcome.run
            self.listener.elsewhere(outcome.run)
            return
        if outcome.status == "error" and not outcome.fatal:
            outcome = self._logged(outcome)
        self.outcomes.append(outcome)
        self.listener.finished(outcome)
        self._fatal = self._fatal or outcome.fatal
        if outcome.status == "ok":
            self._queue.finish(name)
        else:
            for run in self._queue.lose(name):
                self._orphan(run)

    def _logged(self, outcome: Outcome) -> Outcome:
        """Keep what went wrong beside the run, for those who look at the store, and name the file of a traceback."""
        path = self.store.folder(outcome.run.id) / "error.log"
        try:
            write_text(path, outcome.traceback or f"{outcome.message}\n")
            self.store.publish(path)
        except (OSError, StoreError) as error:
            return dataclasses.replace(outcome, message=f"{outcome.message} (error.log could not be written: {error})")
        if not outcome.traceback:
            return outcome
        return dataclasses.replace(outcome, message=f"{outcome.message} (traceback in {path})")

    def _orphan(self, run: RunConfig) -> None:
        """End a run whose full-precision weights will not come."""
        message = f"not run: its full-precision run {run.parent} did not succeed"
        outcome = Outcome(run=run, status="error", message=message, seconds=0.0)
        self.outcomes.append(outcome)
        self.listener.finished(outcome)

    def _ask_again(self) -> None:
        """Queue those runs again that other processes have finished, given up, or left behind."""
        if time.monotonic() - self._asked < self._pause:
            return
        for name in list(self._elsewhere):
            claim = self.store.claims.standing(name)
            token = self._watch.expired(name)
            if claim is None or claim.free or token is not None:
                del self._elsewhere[name]
                self._queue.put_back(name)
                if token is not None:
                    self._takeovers[name] = token
        self._asked = time.monotonic()
