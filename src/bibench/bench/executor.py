"""The local executor: runs in this process or in worker processes, parents first, progress as it comes."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from bibench.bench.store import Store
from bibench.bench.worker import Outcome, Settings, execute
from bibench.records import RunConfig

__all__ = ["Listener", "run_plan"]


class Listener(Protocol):
    """What is told while runs go on."""

    def started(self, run: RunConfig) -> None: ...
    def progressed(self, run_id: str, share: float) -> None: ...
    def finished(self, outcome: Outcome) -> None: ...


def run_plan(runs: Sequence[RunConfig], settings: Settings, *, jobs: int, listener: Listener) -> list[Outcome]:
    """Run what isn't finished yet, each after the run whose weights it needs.

    Args:
        runs: the plan, parents before children.
        settings: for every run.
        jobs: how many at a time; 1 runs them in this process.
        listener: is told of starts, progress and ends.

    Returns:
        An outcome for every run that was attempted, and for those whose parent failed.

    Raises:
        KeyboardInterrupt: after the workers have stopped; what is finished stays, the rest continues next time.
    """
    store = Store(settings.out)
    plan = _Plan(runs, store, settings.tracks)
    plan.drop_orphans(listener)
    if jobs == 1:
        while (run := plan.next()) is not None:
            listener.started(run)
            progress = _Throttle(lambda share, run=run: listener.progressed(run.id, share))  # type: ignore[misc]
            plan.end(execute(run, settings, progress), listener)
        return plan.outcomes
    _run_in_processes(plan, settings, jobs, listener)
    return plan.outcomes


class _Plan:
    """Which runs can start, which wait, and how the others ended."""

    def __init__(self, runs: Sequence[RunConfig], store: Store, tracks: Sequence[str]) -> None:
        records = {run.id: store.record(run.id) for run in runs}
        self.ok = {run_id for run_id, record in records.items() if record is not None and record.status == "ok"}
        self.lost = {
            run_id: record.reason for run_id, record in records.items() if record and record.status == "failed"
        }
        self.waiting = [run for run in runs if store.unfinished(run, tracks)]
        self.outcomes: list[Outcome] = []
        self.fatal = False

    def next(self) -> RunConfig | None:
        """Take a run whose parent is there; runs whose parent is lost end as errors."""
        ready = (run for run in self.waiting if run.parent is None or run.parent in self.ok)
        run = None if self.fatal else next(ready, None)
        if run is not None:
            self.waiting.remove(run)
        return run

    def end(self, outcome: Outcome, listener: Listener) -> None:
        self.outcomes.append(outcome)
        listener.finished(outcome)
        if outcome.status == "ok":
            self.ok.add(outcome.run.id)
        self.fatal = self.fatal or outcome.fatal
        if outcome.status != "ok":
            self.lost[outcome.run.id] = outcome.message
        self.drop_orphans(listener)

    def drop_orphans(self, listener: Listener) -> None:
        """End the runs whose full-precision weights will not come."""
        while (run := next((run for run in self.waiting if run.parent in self.lost), None)) is not None:
            self.waiting.remove(run)
            message = f"not run: its full-precision run {run.parent} did not succeed"
            self.end(Outcome(run=run, status="error", message=message, seconds=0.0), listener)


class _Throttle:
    """Pass progress on a few times a second at most."""

    def __init__(self, report: Callable[[float], None], seconds: float = 0.2) -> None:
        self.report = report
        self.seconds = seconds
        self.last = 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self.last >= self.seconds or share >= 1:
            self.last = now
            self.report(share)


_events: Any = None


def _start_worker(events: Any, parent: int) -> None:
    """Prepare a worker process: the driver handles Ctrl-C, and a worker doesn't outlive its driver."""
    global _events
    _events = events
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # held since the start, see _interrupts_held

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _execute_in_worker(run: RunConfig, settings: Settings) -> Outcome:
    return execute(run, settings, _Throttle(lambda share: _events.put((run.id, share))))


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C; a process started meanwhile inherits that until it can ignore it, rather than die of it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _run_in_processes(plan: _Plan, settings: Settings, jobs: int, listener: Listener) -> None:
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    if settings.device == "cuda":
        torch.cuda.init()  # fail here, once, rather than in every worker

    def start() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(jobs, mp_context=context, initializer=_start_worker, initargs=(events, os.getpid()))

    pool = start()
    running: dict[Future[Outcome], RunConfig] = {}
    broken = False
    try:
        while True:
            if broken and not running:
                pool.shutdown()
                pool, broken = start(), False
            while not broken and len(running) < jobs and (run := plan.next()) is not None:
                listener.started(run)
                running[_submit(pool, run, settings)] = run
            if not running:
                break
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            _drain(events, listener)
            for future in done:
                outcome = _outcome(future, running.pop(future))
                broken = broken or isinstance(future.exception(), BrokenProcessPool)
                plan.end(outcome, listener)
        pool.shutdown()
    except BaseException:
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)
        raise


def _submit(pool: ProcessPoolExecutor, run: RunConfig, settings: Settings) -> Future[Outcome]:
    try:
        with _interrupts_held():
            return pool.submit(_execute_in_worker, run, settings)
    except BrokenProcessPool as error:
        future: Future[Outcome] = Future()
        future.set_exception(error)
        return future


def _outcome(future: Future[Outcome], run: RunConfig) -> Outcome:
    """How a run ended; when one worker dies, the pool ends the others too."""
    try:
        return future.result()
    except BrokenProcessPool:
        message = (
            "a worker process died (killed, or out of memory?); run the same command again to continue this run, "
            "with a smaller --jobs if memory is short"
        )
        return Outcome(run=run, status="error", message=message, seconds=0.0)


def _drain(events: Any, listener: Listener) -> None:
    while True:
        try:
            run_id, share = events.get_nowait()
        except queue.Empty:
            return
        listener.progressed(run_id, share)
