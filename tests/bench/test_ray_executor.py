"""Runs on Ray: what is submitted when, and what becomes of what is lost; against a cluster that does as it is told.

A real cluster, and a node of it that dies, are in test_faults.py.
"""

import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from bibench.bench import claims, ray_executor
from bibench.bench.claims import Holder
from bibench.bench.pool import Limits
from bibench.bench.ray_executor import Cluster, ClusterError, RayWorkers
from bibench.bench.store import Store
from bibench.bench.worker import Outcome, Settings
from small_runs import config


class RayError(Exception):
    pass


class RayTaskError(RayError):
    pass


class Exceptions:
    RayError = RayError
    RayTaskError = RayTaskError


class FakeRay:
    """A cluster whose tasks end when a test says so; a task is its arguments, and its number."""

    exceptions = Exceptions

    def __init__(self, *nodes):
        self.resources = list(nodes)
        self.options = None
        self.submitted = []
        self.ended = {}
        self.cancelled = []
        self.connected = True

    def nodes(self):
        return [{"Alive": True, "Resources": node} for node in self.resources] + [
            {"Alive": False, "Resources": {"CPU": 64.0}}
        ]

    def remote(self, **options):
        self.options = options
        return lambda function: Task(self)

    def submit(self, *arguments):
        self.submitted.append(arguments)
        return len(self.submitted) - 1

    def wait(self, tasks, *, num_returns, timeout):
        ended = [task for task in tasks if task in self.ended][:num_returns]
        return ended, [task for task in tasks if task not in ended]

    def get(self, task):
        if isinstance(self.ended[task], Exception):
            raise self.ended[task]
        return self.ended[task]

    def cancel(self, task, force=False):
        self.cancelled.append((task, force))

    def shutdown(self):
        self.connected = False


class Task:
    def __init__(self, ray):
        self.remote = ray.submit


@pytest.fixture
def ray(monkeypatch):
    """Two nodes with 3 and 2 CPUs."""
    found = FakeRay({"CPU": 3.0, "memory": 8.0 * 2**30}, {"CPU": 2.0, "memory": 2.0 * 2**30, "GPU": 1.0})
    monkeypatch.setattr(ray_executor, "_connect", lambda cluster: found)
    monkeypatch.setattr(ray_executor, "_JOIN", 0.0)
    return found


def workers(tmp_path, cluster=None, *, limits=None, told=None, **settings):
    told = [] if told is None else told
    return RayWorkers(
        cluster or Cluster(),
        Settings(out=tmp_path, **settings),
        limits=limits or Limits(),
        on_progress=lambda name, share: told.append((name, share)),
    )


def ok(run):
    return Outcome(run=run, status="ok", message="", seconds=1.0)


@pytest.mark.parametrize(
    ("cluster", "settings", "limits", "room", "options"),
    [
        (Cluster(), {}, None, 5, {"num_cpus": 1}),
        (Cluster(cpus=2), {"threads": 2}, None, 2, {"num_cpus": 2}),
        (Cluster(), {}, Limits(memory=2 * 2**30), 4, {"num_cpus": 1, "memory": 2 * 2**30}),
        (Cluster(gpus=0.5), {"device": "cuda"}, None, 2, {"num_cpus": 1, "num_gpus": 0.5}),
        (Cluster(gpus=0.1), {"device": "cuda"}, None, 2, {"num_cpus": 1, "num_gpus": 0.1}),  # it has 2 CPUs
    ],
)
def test_as_many_as_the_nodes_hold_and_a_few_more_are_submitted(
    ray, tmp_path, cluster, settings, limits, room, options
):
    found = workers(tmp_path, cluster, limits=limits, **settings)
    assert ray.options == options | {"max_retries": 0}
    runs = [config("fp32", seed=seed) for seed in range(20)]
    submitted = 0
    while found.free:
        found.start(runs[submitted], None)
        submitted += 1
    assert submitted == found.running == room + 2
    assert [arguments[0] for arguments in ray.submitted] == runs[:submitted]
    ray.ended[1] = ok(runs[1])
    assert found.wait(0.0) == [ok(runs[1])]
    assert (found.running, found.free) == (room + 1, True)


def test_a_cluster_that_grows_gets_more(ray, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(ray_executor.time, "monotonic", lambda: now[0])
    found = workers(tmp_path)
    for seed in range(7):
        found.start(config("fp32", seed=seed), None)
    ray.resources.append({"CPU": 1.0})
    assert not found.free
    now[0] += 3.0
    assert found.wait(0.0) == []
    assert found.free


def test_a_cluster_on_which_no_run_can_start_is_refused(ray, tmp_path):
    message = r"no node of the Ray cluster has what a run needs \(CPU 4\); add one, or ask for less"
    with pytest.raises(ClusterError, match=message):
        workers(tmp_path, Cluster(cpus=4))
    assert not ray.connected


def test_a_lost_run_is_submitted_again_and_is_an_error_the_third_time(ray, tmp_path):
    found = workers(tmp_path)
    lost, other = config("fp32"), config("fp32", seed=1)
    found.start(lost, 7)
    found.start(other, None)
    for task, left in ((0, 2), (2, 2), (3, 1)):
        ray.ended[task] = RayError("The node has died.\nMore.")
        outcomes = found.wait(0.0)
        assert found.running == left
    assert [(arguments[0], arguments[3]) for arguments in ray.submitted] == [
        (lost, 7),
        (other, None),
        (lost, 7),
        (lost, 7),
    ]
    (outcome,) = outcomes
    assert (outcome.run, outcome.status) == (lost, "error")
    assert outcome.message == "lost by Ray 3 times: RayError: The node has died."


def test_a_node_that_lacks_the_package_is_named_as_the_reason(ray, tmp_path):
    found = workers(tmp_path)
    found.start(config("fp32"), None)
    ray.ended[0] = RayTaskError("Traceback\nModuleNotFoundError: No module named 'bibench'")
    message = "a node can't execute runs: ModuleNotFoundError: No module named 'bibench'; install the same bibench"
    with pytest.raises(ClusterError, match=message):
        found.wait(0.0)


def test_progress_is_what_the_claims_say_in_turns(ray, tmp_path, monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr(ray_executor.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(ray_executor, "_LOOKS", 2)
    holder = Holder(host="elsewhere", system=None, pid=1, started=None)
    monkeypatch.setattr(claims, "this_process", lambda: holder)
    found = workers(tmp_path, told=told)
    runs = [config("fp32", seed=seed) for seed in range(4)]
    for run in runs:
        found.start(run, None)
    for index, run in enumerate(runs[:3]):
        claim = Store(tmp_path).claims.take(run.id)
        claim.progressed(index / 4)
        claim.beat()
    for _ in range(2):
        now[0] += 3.0
        found.wait(0.0)
    assert told == [(runs[0].id, 0.0), (runs[1].id, 0.25), (runs[2].id, 0.5)]  # the fourth hasn't begun


def test_stopped_all_are_cancelled_and_by_force_those_that_stay(ray, tmp_path):
    found = workers(tmp_path)
    for seed in range(3):
        found.start(config("fp32", seed=seed), None)
    ray.ended[1] = RayError("cancelled")
    found.finish_epochs()
    assert ray.cancelled == [(0, False), (1, False), (2, False), (0, True), (2, True)]
    assert found.running == 0
    assert not ray.connected


def test_paths_are_absolute_on_the_nodes_and_addresses_stay(ray, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = RayWorkers(
        Cluster(),
        Settings(out=Path("out"), data=Path("data"), checkpoint=Path("weights")),
        limits=Limits(),
        on_progress=lambda name, share: None,
    )
    found.start(config("fp32"), None)
    settings = ray.submitted[0][1]
    assert (settings.out, settings.data) == (tmp_path / "out", tmp_path / "data")
    assert settings.checkpoint == tmp_path / "weights"
    remote = Settings(out="s3://bucket/results")
    assert ray_executor._everywhere(remote) == remote


class FakePool:
    """A pool that remembers what it is told, and whose runs end as the test says."""

    made: list = []  # noqa: RUF012

    def __init__(self, size, settings, *, limits, on_progress):
        self.told = [("new", size, settings.threads, limits.memory)]
        self.end = ok
        FakePool.made.append(self)

    def start(self, run, takeover):
        self.run = run
        self.told.append(("start", run.seed, takeover))

    def wait(self, seconds):
        return [self.end(self.run)]

    def close(self):
        self.told.append("close")

    def stop(self):
        self.told.append("stop")


def test_on_a_node_a_run_has_a_process_that_the_next_one_uses_again(tmp_path, monkeypatch):
    monkeypatch.setattr(ray_executor, "Pool", FakePool)
    monkeypatch.setattr(ray_executor, "_pool", None)
    monkeypatch.setattr(FakePool, "made", [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    runs, settings, limits = [config("fp32", seed=seed) for seed in range(5)], Settings(out=tmp_path), Limits(memory=9)
    for run, takeover in ((runs[0], None), (runs[1], 3)):
        assert ray_executor._execute(run, settings, limits, takeover) == ok(run)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    ray_executor._execute(runs[2], settings, limits, None)
    first, second = FakePool.made
    assert first.told == [("new", 1, 1, 9), ("start", 0, None), ("start", 1, 3), "close"]
    assert second.told == [("new", 1, 1, 9), ("start", 2, None)]

    def cancelled(run):
        raise KeyboardInterrupt

    second.end = cancelled
    with pytest.raises(KeyboardInterrupt):
        ray_executor._execute(runs[3], settings, limits, None)
    assert second.told[2:] == [("start", 3, None), "stop"]
    ray_executor._execute(runs[4], settings, limits, None)
    assert FakePool.made[2].told == [("new", 1, 1, 9), ("start", 4, None)]


def test_without_ray_one_message_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ClusterError, match=r"--executor ray needs Ray: pip install 'bibench\[ray\]'"):
        ray_executor._connect(Cluster())


class Refusing:
    """Ray where no cluster answers, or one whose start takes SIGTERM for itself."""

    def __init__(self, error=None):
        self.error = error
        self.options = None

    def init(self, **options):
        self.options = options
        if self.error is not None:
            raise self.error
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def test_no_cluster_at_an_address(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", Refusing(ConnectionError("nobody")))
    with pytest.raises(ClusterError, match=r"--address auto: no Ray cluster answers there \(nobody\); 'ray start'"):
        ray_executor._connect(Cluster(address="auto"))


@pytest.mark.parametrize("address", ["head", ":6379", "ray://head:10001", "head:http"])
def test_an_address_that_is_none_is_named(monkeypatch, address):
    monkeypatch.setitem(sys.modules, "ray", Refusing())
    with pytest.raises(ClusterError, match=f"--address {address}: expected HOST:PORT, or auto"):
        ray_executor._connect(Cluster(address=address))


def test_where_nobody_listens_ray_isnt_started(monkeypatch):
    stub = Refusing()
    monkeypatch.setitem(sys.modules, "ray", stub)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ray_executor._connect(Cluster(address=f"127.0.0.1:{port}"))
        assert stub.options["address"] == f"127.0.0.1:{port}"
    stub.options = None
    with pytest.raises(ClusterError, match=f"--address 127.0.0.1:{port}: no Ray cluster answers there"):
        ray_executor._connect(Cluster(address=f"127.0.0.1:{port}"))
    assert stub.options is None


@pytest.mark.parametrize(("address", "given"), [(None, "local"), ("auto", "auto")])
def test_connecting_ships_nothing_and_leaves_sigterm_alone(monkeypatch, address, given):
    monkeypatch.delenv("RAY_USAGE_STATS_ENABLED", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    stub = Refusing()
    monkeypatch.setitem(sys.modules, "ray", stub)
    ray_executor._connect(Cluster(address=address))
    assert signal.getsignal(signal.SIGTERM) == before
    assert stub.options["address"] == given
    assert "runtime_env" not in stub.options
    assert os.environ.pop("RAY_USAGE_STATS_ENABLED") == "0"
