"""Worker processes, one run at a time each: what happens to one of them is nobody else's business."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, resource_tracker
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import torch

from bibench.bench.worker import Outcome, Settings, execute
from bibench.records import RunConfig

__all__ = ["RETRIES", "Limits", "LimitsError", "Pool", "Throttle", "gpus_by_run", "visible_gpus"]

RETRIES = 2
"""How often a run is started again after its process died, before that is an error."""

_LOOK = 0.5
"""Seconds between two looks at the processes."""

_LEAVE = 5.0
"""Seconds in which a process that is told to stop gives its claim up, before it is killed."""

_NOTHING = object()

_NOW = signal.SIGUSR1 if hasattr(signal, "SIGUSR1") else signal.SIGTERM
"""What tells a worker to stop at once. Ctrl-C and SIGTERM, which all processes may get, are for the driver."""


class LimitsError(ValueError):
    """A limit that can't be kept on this system."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a run may take before its process is killed.

    Args:
        memory: bytes of resident memory of its process and all that this started.
        hang_seconds: seconds in which no training step ends. Loading, evaluating and measuring tell of no steps, so it
            has to be longer than each of these.

    Raises:
        LimitsError: a limit on memory where the system has no ``/proc``.
    """

    memory: int | None = None
    hang_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.memory is not None and not Path("/proc/self/stat").is_file():
            raise LimitsError("--run-memory needs /proc, which this system doesn't have; leave it out")

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.memory is not None or self.hang_seconds is not None


class Throttle:
    """Pass progress on a few times a second at most."""

    def __init__(self, report: Callable[[float], object], seconds: float = 0.2) -> None:
        self.report = report
        self.seconds = seconds
        self.last = 0.0

    def __call__(self, share: float) -> None:
        now = time.monotonic()
        if now - self.last >= self.seconds or share >= 1:
            self.last = now
            self.report(share)


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, by the names that ``CUDA_VISIBLE_DEVICES`` has for them.

    >>> len(visible_gpus()) == torch.cuda.device_count()
    True
    """
    count = torch.cuda.device_count()
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return [str(index) for index in range(count)] if names is None else names.split(",")[:count]


def gpus_by_run(gpus: Sequence[str], devices: int) -> list[str]:
    """What ``CUDA_VISIBLE_DEVICES`` is for each of the runs that can have so many GPUs of their own at a time.

    >>> gpus_by_run(["0", "1", "2", "5", "7"], 2)
    ['0,1', '2,5']
    """
    return [",".join(gpus[first : first + devices]) for first in range(0, len(gpus) - devices + 1, devices)]


@dataclass(eq=False)
class _Worker:
    """A process and what it does."""

    process: SpawnProcess
    pipe: connection.Connection[Any, Any]
    slot: int
    run: RunConfig | None = None
    name: str = ""
    takeover: int | None = None
    since: float = 0.0
    heard: float = math.inf
    """When it last told of anything; a process that only starts isn't waited for impatiently."""


class Pool:
    """So many worker processes at most, started when they are needed and used again.

    Args:
        size: how many.
        settings: for every run.
        limits: for every run.
        on_progress: is told a run's identity and the share of it that is done.
        gpus: what ``CUDA_VISIBLE_DEVICES`` is for the first process, the second and so on, and again from the start;
            without any it is as it is here.
    """

    def __init__(
        self,
        size: int,
        settings: Settings,
        *,
        limits: Limits,
        on_progress: Callable[[str, float], None],
        gpus: Sequence[str] = (),
    ) -> None:
        self._size = size
        self._gpus = gpus
        self._settings = settings
        self._limits = limits
        self._on_progress = on_progress
        self._workers: list[_Worker] = []
        self._deaths: Counter[str] = Counter()
        self._ending = False
        self._looked = time.monotonic()

    @property
    def running(self) -> int:
        """How many runs are in work."""
        return sum(worker.run is not None for worker in self._workers)

    @property
    def free(self) -> bool:
        """Whether another run can start."""
        return self.running < self._size and not self._ending

    def start(self, run: RunConfig, takeover: int | None) -> None:
        """Start a run in a free process."""
        worker = next((worker for worker in self._workers if worker.run is None), None)
        if worker is None:
            slot = min(set(range(self._size)) - {worker.slot for worker in self._workers})
            worker = _spawn(self._settings, slot, self._gpus[slot % len(self._gpus)] if self._gpus else None)
            self._workers.append(worker)
        worker.run, worker.name, worker.takeover = run, run.id, takeover
        worker.since = time.monotonic()
        worker.heard = max(worker.heard, worker.since)
        _tell(worker, (run, takeover))

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended, after so many seconds at most."""
        busy = {worker.pipe: worker for worker in self._workers if worker.run is not None}
        outcomes = []
        for pipe in connection.wait(list(busy), timeout=min(seconds, _LOOK)):
            outcomes += self._listen(busy[pipe])  # type: ignore[index]
        if time.monotonic() - self._looked >= _LOOK:
            outcomes += self._look()
            self._looked = time.monotonic()
        return outcomes

    def _listen(self, worker: _Worker) -> list[Outcome]:
        while True:
            try:
                message: Any = worker.pipe.recv() if worker.pipe.poll() else _NOTHING
            except (EOFError, OSError):
                return self._dead(worker)
            if message is _NOTHING:
                return []
            worker.heard = time.monotonic()
            if isinstance(message, Outcome):
                worker.run = None
                return [message]
            if message is not None:
                self._on_progress(worker.name, message)

    def _look(self) -> list[Outcome]:
        """Find processes that died without a word, and those that take more than they may."""
        outcomes = []
        busy = [worker for worker in self._workers if worker.run is not None]
        used = _resident([worker.process.pid for worker in busy]) if self._limits.memory is not None else {}
        for worker in busy:
            if not worker.process.is_alive():
                outcomes += self._listen(worker)  # its last words
                if worker.run is not None and worker in self._workers:  # what it started may keep its pipe open
                    outcomes += self._dead(worker)
            elif (over := self._over(worker, used.get(worker.process.pid, 0))) is not None:
                self._remove(worker)
                outcomes.append(_error(worker, f"{over}; its process was killed"))
        return outcomes

    def _over(self, worker: _Worker, used: int) -> str | None:
        """Which limit a run is over, and by how much."""
        memory, hang = self._limits.memory, self._limits.hang_seconds
        if memory is not None and used > memory:
            return f"over --run-memory {_size(memory)}: it had {_size(used)} of resident memory"
        silent = time.monotonic() - worker.heard
        if hang is not None and silent > hang:
            return f"over --hang-seconds {hang:g}: no training step ended for {silent:.0f} s"
        return None

    def _dead(self, worker: _Worker) -> list[Outcome]:
        """Start a run again whose process died, unless that has happened too often."""
        run = worker.run
        self._remove(worker)
        if run is None or self._ending:
            return []
        self._deaths[worker.name] += 1
        times = self._deaths[worker.name]
        if times <= RETRIES:
            self.start(run, worker.takeover)
            return []
        advice = "run the same command again to go on from its checkpoint, with a smaller --jobs if memory is short"
        return [_error(worker, f"its process {_end(worker.process)}, {times} times in all; {advice}")]

    def _remove(self, worker: _Worker) -> None:
        """Make sure that a process and what it started are gone."""
        self._workers.remove(worker)
        _kill(worker.process)
        worker.pipe.close()

    def finish_epochs(self) -> None:
        """Let every run end with its epoch: it is saved, and its process ends without an outcome."""
        self._ending = True
        for worker in self._workers:
            _tell(worker, None)

    def close(self) -> None:
        """Let the idle processes end."""
        for worker in self._workers:
            worker.pipe.close()
        self._join()

    def stop(self) -> None:
        """Stop every run at once; its claim is given up."""
        for worker in self._workers:
            if worker.process.pid is not None and worker.process.exitcode is None:
                os.kill(worker.process.pid, _NOW)
        self._join()

    def _join(self) -> None:
        end = time.monotonic() + _LEAVE
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
        while self._workers:
            self._remove(self._workers[-1])


def _tell(worker: _Worker, order: tuple[RunConfig, int | None] | None) -> None:
    with suppress(OSError):  # the process is dead, which `Pool.wait` finds
        worker.pipe.send(order)


def _error(worker: _Worker, message: str) -> Outcome:
    run = worker.run
    assert run is not None
    return Outcome(run=run, status="error", message=message, seconds=time.monotonic() - worker.since)


def _end(process: SpawnProcess) -> str:
    """How a process ended, in words."""
    code = process.exitcode
    if code is None or code >= 0:
        return f"ended with status {code}"
    memory = ", as the system does where memory is short" if -code == signal.SIGKILL else ""
    return f"was killed by signal {-code} ({signal.Signals(-code).name}{memory})"


def _size(count: int) -> str:
    """Bytes as a person gives them, such as ``1.5G``."""
    return f"{count / 2**30:.3g}G" if count >= 2**30 else f"{count / 2**20:.3g}M"


def _kill(process: SpawnProcess) -> None:
    """Kill a process and those that it started, which are a group of their own, and wait for it."""
    process.kill()
    if process.pid is not None and hasattr(os, "killpg"):
        with suppress(ProcessLookupError):  # nothing of it is left, or it hasn't come so far as to be one
            os.killpg(process.pid, signal.SIGKILL)
    process.join()


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and bytes of resident memory of every process that there is (Linux)."""
    page = os.sysconf("SC_PAGE_SIZE")
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            status = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        found[int(path.parent.name)] = int(status[1]), int(status[21]) * page
    return found


def _families(processes: dict[int, tuple[int, int]], heads: Iterable[int]) -> dict[int, list[int]]:
    """Each of some processes with all that it started, directly or not; itself first.

    >>> _families({1: (0, 0), 2: (1, 0), 3: (2, 0), 4: (1, 0)}, [2, 4])
    {2: [2, 3], 4: [4]}
    """
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in processes.items():
        children.setdefault(parent, []).append(pid)
    families = {}
    for head in heads:
        family = [head]
        for pid in family:
            family += children.get(pid, [])
        families[head] = family
    return families


def _resident(pids: Iterable[int | None]) -> dict[int | None, int]:
    """Bytes of resident memory of each of some processes and all that it started."""
    processes = _processes()
    families = _families(processes, [pid for pid in pids if pid is not None])
    return {head: sum(processes.get(pid, (0, 0))[1] for pid in family) for head, family in families.items()}


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold back Ctrl-C; a process started meanwhile inherits that until it can ignore it, rather than die of it."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # which would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _spawn(settings: Settings, slot: int, gpus: str | None) -> _Worker:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs, settings, os.getpid(), gpus))
    with _interrupts_held():
        process.start()
    theirs.close()  # so that the pipe ends when the process does
    return _Worker(process, ours, slot)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _work(pipe: connection.Connection[Any, Any], settings: Settings, parent: int, gpus: str | None) -> None:
    """Execute what comes through the pipe, until it is closed or this process is told to stop."""
    if gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus  # which CUDA reads when it starts, with the first run
    try:
        if hasattr(os, "setsid"):
            os.setsid()  # a group of its own, see _kill
        signal.signal(_NOW, _interrupt)
        for number in {signal.SIGINT, signal.SIGTERM} - {_NOW}:
            signal.signal(number, signal.SIG_IGN)
        if hasattr(signal, "pthread_sigmask"):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})  # see _interrupts_held
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
        pipe.send(None)  # from here on it is the run that may hang, and not the start of Python
        while (order := pipe.recv()) is not None:
            run, takeover = order
            # While a run goes on, the only thing that comes is the wish that it ends.
            pipe.send(execute(run, settings, Throttle(pipe.send), takeover=takeover, stop=pipe.poll))
    except (KeyboardInterrupt, EOFError, BrokenPipeError):  # the driver's wish, or its end
        pass
    finally:
        signal.signal(_NOW, signal.SIG_IGN)  # it is ending already


def _end_with(parent: int) -> None:
    """End this process when its driver has ended, however that came about."""
    while os.getppid() == parent:
        time.sleep(_LOOK)
    if sys.platform != "win32":
        os.kill(os.getpid(), _NOW)  # as if it had told
        time.sleep(_LEAVE)
    os._exit(1)
