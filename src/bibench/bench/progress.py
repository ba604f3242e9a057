"""How far a store is: what is done, who works on what, what went wrong, and what the rest would take."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from bibench.bench.claims import ClaimState, Watch
from bibench.bench.queue import work_of
from bibench.bench.store import Store
from bibench.records import Record, RunConfig

__all__ = ["Error", "Failed", "Hours", "Observer", "Progress", "Running"]


@dataclass(frozen=True, kw_only=True)
class Running:
    """A run that a process works on.

    Args:
        run: its identity.
        host, pid: of the process.
        share: of the training that is done.
        since: UTC time when the process took it, by its own clock.
        silent: whether nothing has been heard of the process for as long as others wait before they take over.
    """

    run: str
    host: str
    pid: int
    share: float
    since: str
    silent: bool


@dataclass(frozen=True, kw_only=True)
class Failed:
    """A run that failed, which is its result, and why."""

    run: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Error:
    """A run that ended in an error, and will be tried again: its message, or the last line of its traceback."""

    run: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Hours:
    """Hours of runs, all their phases counted, for each of the devices that share a run's batches.

    Runs that share a device count in full each: a record doesn't say how many others there were.

    Args:
        gpu: on an accelerator.
        cpu: without one.
    """

    gpu: float
    cpu: float

    def __add__(self, other: Hours) -> Hours:
        return Hours(gpu=self.gpu + other.gpu, cpu=self.cpu + other.cpu)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far the runs are that a store was asked for.

    Args:
        planned: how many there are.
        done: how many have a result, those that failed included.
        waiting: how many nobody works on; those with an error included.
        lost: how many will not be run, since a run that they start from failed, or one that this starts from.
        failed, running, errors: the runs.
        taken_over: how many a process took over from one that was slow or gone on another machine.
        discarded: how many results came after another process's, and were discarded.
        spent: by the finished runs.
        left: by those that run or wait, at the pace of finished ones of their network and algorithm, or else of their
            network.
        unknown: how many of these no finished run says anything about; they are not in ``left``.
        seconds_left: until the end with as many devices at work as now; None where nothing runs or something is
            unknown.
    """

    planned: int
    done: int
    waiting: int
    lost: int
    failed: tuple[Failed, ...]
    running: tuple[Running, ...]
    errors: tuple[Error, ...]
    taken_over: int
    discarded: int
    spent: Hours
    left: Hours
    unknown: int
    seconds_left: float | None

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.done + self.lost == self.planned and not self.running


@dataclass(frozen=True)
class _Result:
    """What is remembered of a finished run."""

    failed: str | None
    hours: Hours
    taken_over: bool

    @classmethod
    def of(cls, record: Record) -> _Result:
        hours = sum(record.phases.values()) * record.run.devices / 3600
        gpu = record.environment is not None and record.environment.accelerator is not None
        reason = record.reason or "failed without a reason"
        return cls(
            failed=reason if record.status == "failed" else None,
            hours=Hours(gpu=hours, cpu=0.0) if gpu else Hours(gpu=0.0, cpu=hours),
            taken_over=bool(record.files),
        )


class Observer:
    """Looks at a store again and again; what it has read of finished runs it doesn't read a second time.

    Args:
        store: that exists.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._watch = Watch(store.claims)
        self._results: dict[str, _Result] = {}
        self._plan: tuple[RunConfig, ...] = ()
        self._version: tuple[int, int, int] | None = None

    def look(self) -> Progress:
        """How far it is now.

        Raises:
            StoreError, RecordError: a file that can't be read; the message names it.
        """
        self.store.sync()
        plan = self._planned()
        for run in plan:
            record = None if run.id in self._results else self.store.record(run.id)
            if record is not None:
                self._results[run.id] = _Result.of(record)
        done = {run.id: self._results[run.id] for run in plan if run.id in self._results}
        claims = {name: state for name, state in self.store.claims.running().items() if _held(state)}
        silent = {name for name in claims if self._watch.expired(name) is not None}
        lost = _lost(plan, done)
        rest = [run for run in plan if run.id not in done and run.id not in lost]
        left, unknown = _left(plan, rest, done, {name: state.share for name, state in claims.items()})
        busy = sum(run.devices for run in plan if run.id in claims)
        return Progress(
            planned=len(plan),
            done=len(done),
            waiting=sum(run.id not in claims for run in rest),
            lost=len(lost),
            failed=tuple(Failed(run=name, reason=own.failed) for name, own in done.items() if own.failed is not None),
            running=tuple(_running(run.id, claims[run.id], run.id in silent) for run in plan if run.id in claims),
            errors=tuple(error for run in rest if run.id not in claims and (error := self._error(run.id)) is not None),
            taken_over=sum(own.taken_over for own in done.values())
            + sum(bool(state.files) for state in claims.values()),
            discarded=self.store.discarded(),
            spent=_total(own.hours for own in done.values()),
            left=left,
            unknown=unknown,
            seconds_left=None if unknown or not busy else 3600 * (left.gpu + left.cpu) / busy,
        )

    def _planned(self) -> Sequence[RunConfig]:
        """The plan, which is read again if its file is another one by now: of 100,000 runs that takes seconds."""
        path = self.store.root / "plan.json"
        status = path.stat() if path.is_file() else None
        version = None if status is None else (status.st_mtime_ns, status.st_size, status.st_ino)
        if version != self._version:
            self._plan = tuple(self.store.plan())
            self._version = version
        return self._plan

    def _error(self, run_id: str) -> Error | None:
        path = self.store.folder(run_id) / "error.log"
        if not path.is_file():
            return None
        lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return Error(run=run_id, message=lines[-1] if lines else "error.log is empty")


def _held(state: ClaimState) -> bool:
    return not state.released and not state.holder.gone


def _running(name: str, state: ClaimState, silent: bool) -> Running:
    holder = state.holder
    return Running(run=name, host=holder.host, pid=holder.pid, share=state.share, since=state.since, silent=silent)


def _total(hours: Iterable[Hours]) -> Hours:
    return sum(hours, Hours(gpu=0.0, cpu=0.0))


def _lost(plan: Iterable[RunConfig], done: Mapping[str, _Result]) -> set[str]:
    """The runs without a result that start from one that failed, or from one of these; parents come first."""
    failed = {name for name, own in done.items() if own.failed is not None}
    lost: set[str] = set()
    for run in plan:
        if run.id not in done and (run.parent in failed or run.parent in lost):
            lost.add(run.id)
    return lost


def _left(
    plan: Sequence[RunConfig], rest: Iterable[RunConfig], done: Mapping[str, _Result], shares: Mapping[str, float]
) -> tuple[Hours, int]:
    """Hours that the rest of a plan takes, and how many runs of it nothing is known of.

    A run takes as long for its work as the finished ones of its network and algorithm did for theirs, or else as those
    of its network, or half of it if it is half done.
    """
    paces: dict[tuple[str, ...], tuple[Hours, float]] = {}
    works = dict(zip((run.id for run in plan), work_of(plan), strict=True))
    for run in plan:
        if run.id in done and done[run.id].failed is None and works[run.id] > 0:
            for place in _places(run):
                hours, work = paces.get(place, (Hours(gpu=0.0, cpu=0.0), 0.0))
                paces[place] = (hours + done[run.id].hours, work + works[run.id])
    found: list[Hours] = []
    unknown = 0
    for run in rest:
        if not works[run.id]:
            continue
        pace = next((paces[place] for place in _places(run) if place in paces), None)
        if pace is None:
            unknown += 1
            continue
        hours, work = pace
        part = works[run.id] * (1 - shares.get(run.id, 0.0)) / work
        found.append(Hours(gpu=part * hours.gpu, cpu=part * hours.cpu))
    return _total(found), unknown


def _places(run: RunConfig) -> tuple[tuple[str, ...], ...]:
    return (run.task, run.architecture, run.algorithm), (run.task, run.architecture)
