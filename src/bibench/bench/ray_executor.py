"""Runs on a Ray cluster: each is a task, which hands it to a worker process of its own on the node that it comes to."""

from __future__ import annotations

import dataclasses
import importlib
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bibench.bench.pool import RETRIES, Limits, Pool
from bibench.bench.store import Store
from bibench.bench.worker import Outcome, Settings
from bibench.records import RunConfig

__all__ = ["Cluster", "ClusterError", "RayWorkers", "load_ray"]

_AHEAD = 2
"""Runs that are submitted before there is room for them, so that no node waits for the driver."""

_ASK = 2.0
"""Seconds between two looks at the cluster and at the progress of runs."""

_JOIN = 60.0
"""Seconds in which the first node that can take a run has to join a cluster that has just been started."""

_LOOKS = 20
"""Runs whose progress is read at a time, in turns: each is a file of the store."""

_LEAVE = 10.0
"""Seconds in which cancelled runs give their claims up."""


class ClusterError(ValueError):
    """A cluster that isn't there, or on which no run can start; the message says what to do."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """A Ray cluster, and what a run takes of it beside its memory.

    Args:
        address: ``HOST:PORT``, or ``"auto"`` for the one that this machine is part of; None starts one here.
        cpus: CPUs of a run.
        gpus: GPUs of a run; a part of one is shared with other runs.
    """

    address: str | None = None
    cpus: int = 1
    gpus: float = 0.0


class RayWorkers:
    """Executes runs on a cluster; see `bibench.bench.executor.Workers`.

    A run whose node or worker is lost is submitted again. Its claim says whether it can go on at once.

    Args:
        cluster: where.
        settings: for every run; the store, and the data if any, must be there under the same name on every node.
        limits: for every run; the memory is reserved too.
        on_progress: is told a run's identity and the share of it that is done.

    Raises:
        ClusterError: Ray isn't installed, doesn't answer, or no node can take a run.
    """

    def __init__(
        self, cluster: Cluster, settings: Settings, *, limits: Limits, on_progress: Callable[[str, float], None]
    ) -> None:
        self._ray = _connect(cluster)
        self._settings = _everywhere(settings)
        self._limits = limits
        self._on_progress = on_progress
        self._claims = Store(self._settings.out).claims
        self._tasks: dict[Any, tuple[RunConfig, str, int | None]] = {}
        self._turns: deque[str] = deque()
        self._losses: Counter[str] = Counter()
        self._needs = {"CPU": float(cluster.cpus)}
        options: dict[str, Any] = {"num_cpus": cluster.cpus, "max_retries": 0}
        if cluster.gpus:
            self._needs["GPU"] = options["num_gpus"] = cluster.gpus
        if limits.memory is not None:
            self._needs["memory"] = options["memory"] = limits.memory
        self._task = self._ray.remote(**options)(_execute)
        end = time.monotonic() + _JOIN
        self._room = self._count_room()
        while not self._room and time.monotonic() < end:
            time.sleep(1.0)
            self._room = self._count_room()
        if not self._room:
            self._ray.shutdown()
            listed = ", ".join(f"{name} {amount:g}" for name, amount in self._needs.items())
            raise ClusterError(f"no node of the Ray cluster has what a run needs ({listed}); add one, or ask for less")
        self._asked = time.monotonic()

    def _count_room(self) -> int:
        """How many runs the nodes can hold together."""
        nodes = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        return sum(
            min(int(node.get(name, 0.0) / amount + 1e-6) for name, amount in self._needs.items()) for node in nodes
        )

    @property
    def running(self) -> int:
        """How many runs are submitted."""
        return len(self._tasks)

    @property
    def free(self) -> bool:
        """Whether another run should be submitted."""
        return len(self._tasks) < self._room + _AHEAD

    def start(self, run: RunConfig, takeover: int | None) -> None:
        """Submit a run."""
        name = run.id
        task = self._task.remote(run, self._settings, self._limits, takeover)
        self._tasks[task] = run, name, takeover
        self._turns.append(name)

    def wait(self, seconds: float) -> list[Outcome]:
        """What ended, after so many seconds at most."""
        tasks = list(self._tasks)
        self._ray.wait(tasks, num_returns=1, timeout=seconds)
        ended, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        outcomes = [outcome for task in ended if (outcome := self._outcome(task)) is not None]
        if time.monotonic() - self._asked >= _ASK:
            self._room = self._count_room()
            self._tell_progress()
            self._asked = time.monotonic()
        return outcomes

    def _outcome(self, task: Any) -> Outcome | None:
        """How a task ended; None if it was lost and submitted again."""
        run, name, takeover = self._tasks.pop(task)
        self._turns.remove(name)
        try:
            outcome: Outcome = self._ray.get(task)
        except self._ray.exceptions.RayTaskError as error:
            last = str(error).strip().splitlines()[-1]
            raise ClusterError(f"a node can't execute runs: {last}; install the same bibench on every node") from error
        except self._ray.exceptions.RayError as error:
            self._losses[name] += 1
            if self._losses[name] <= RETRIES:
                self.start(run, takeover)
                return None
            first = (str(error).strip().splitlines() or [""])[0]
            message = f"lost by Ray {self._losses[name]} times: {type(error).__name__}: {first}"
            return Outcome(run=run, status="error", message=message, seconds=0.0)
        return outcome

    def _tell_progress(self) -> None:
        for name in [self._turns[index] for index in range(min(_LOOKS, len(self._turns)))]:
            self._turns.rotate(-1)
            standing = self._claims.standing(name)
            if standing is not None and standing.state is not None:
                self._on_progress(name, standing.state.share)

    def finish_epochs(self) -> None:
        """A cluster has no time of grace: everything is stopped at once."""
        self.stop()

    def close(self) -> None:
        """Leave the cluster."""
        self._ray.shutdown()

    def stop(self) -> None:
        """Cancel every run; its claim is given up."""
        for task in self._tasks:
            self._ray.cancel(task)
        if self._tasks:
            _, left = self._ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=_LEAVE)
            for task in left:
                self._ray.cancel(task, force=True)
        self._tasks.clear()
        self._ray.shutdown()


def load_ray() -> Any:
    """Ray, which is imported where it is asked for.

    Raises:
        ClusterError: it isn't installed.
    """
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ClusterError("--executor ray needs Ray: pip install 'bibench[ray]'") from error


def _connect(cluster: Cluster) -> Any:
    ray = load_ray()
    if cluster.address not in (None, "auto"):
        _check_address(cluster.address)
    before = signal.getsignal(signal.SIGTERM)
    # Nothing of this process's environment goes along, and a cluster that is started here reports to nobody.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"include_dashboard": False} if cluster.address is None else {}
    try:
        ray.init(address=cluster.address or "local", log_to_driver=False, logging_level="error", **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _nobody(cluster.address or "local", error) from error
    signal.signal(signal.SIGTERM, before)  # Ray would end this process its own way
    return ray


def _nobody(address: str, error: Exception) -> ClusterError:
    return ClusterError(f"--address {address}: no Ray cluster answers there ({error}); 'ray start' makes one")


def _check_address(address: str) -> None:
    """Ray itself would try for minutes where nobody answers."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise ClusterError(f"--address {address}: expected HOST:PORT, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _nobody(address, error) from error


def _everywhere(settings: Settings) -> Settings:
    """The settings as they are understood in other folders than this process's."""

    def absolute(path: Path | None) -> Path | None:
        return None if path is None else path.absolute()

    return dataclasses.replace(
        settings,
        out=settings.out.absolute() if isinstance(settings.out, Path) else settings.out,
        data=absolute(settings.data),
        checkpoint=absolute(settings.checkpoint),
    )


_pool: Pool | None = None
"""Of this process, where it is one of Ray's; it is used again by the next task."""

_pool_key: object = None


def _execute(run: RunConfig, settings: Settings, limits: Limits, takeover: int | None) -> Outcome:
    """A task: the run in a process of its own, so that whatever it does is seen as it is on one machine."""
    global _pool, _pool_key
    key = settings, limits, os.environ.get("CUDA_VISIBLE_DEVICES")
    if _pool is not None and _pool_key != key:
        _pool.close()
        _pool = None
    if _pool is None:
        _pool, _pool_key = Pool(1, settings, limits=limits, on_progress=lambda name, share: None), key
    try:
        _pool.start(run, takeover)
        while True:
            for outcome in _pool.wait(1.0):
                return outcome
    except BaseException:  # it is cancelled
        _pool.stop()
        _pool = None
        raise
