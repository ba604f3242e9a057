"""Worker processes: what one of them does or suffers is nobody else's business."""

import dataclasses
import itertools
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bibench.bench import pool
from bibench.bench.benchmark import run_suite
from bibench.bench.executor import run_plan
from bibench.bench.pool import Limits, LimitsError, Pool, Throttle, gpus_by_run, visible_gpus
from bibench.bench.store import Store
from bibench.bench.suite import load_suite
from bibench.bench.worker import Settings
from misbehaving import misbehaving
from small_runs import SGD_RECIPE, config, content, suite_file

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def running(pid):
    """Whether a process is there and hasn't ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Silent:
    def __init__(self, todo):
        pass

    def started(self, run):
        pass

    def progressed(self, run_id, share):
        pass

    def finished(self, outcome):
        pass

    def elsewhere(self, run):
        pass


@linux
@pytest.mark.slow
def test_runs_that_hang_die_or_take_all_memory_end_alone(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(misbehaving(tmp_path / "installed"))
    once = f"{{name: dying, label: once, options: {{memory: '{tmp_path / 'died'}'}}}}"
    suite = load_suite(
        str(
            suite_file(
                tmp_path,
                algorithms=f"[dying, {once}, hungry, sleepy, bnn]",
                recipe="{epochs: 1, batch_size: 512}",
                tracks="[learning_task]",
            )
        )
    )
    _, outcomes = run_suite(
        suite,
        Settings(out=tmp_path / "store"),
        jobs=2,
        listener=Silent,
        limits=Limits(memory=2**30, hang_seconds=25),
    )
    ends = {outcome.run.algorithm: outcome for outcome in outcomes}
    assert len(ends) == len(outcomes) == 6
    assert {name: end.status for name, end in ends.items()} == {
        "fp32": "ok",
        "dying": "error",
        "once": "ok",
        "hungry": "error",
        "sleepy": "error",
        "bnn": "ok",
    }
    assert ends["dying"].message == (
        "its process was killed by signal 9 (SIGKILL, as the system does where memory is short), 3 times in all; run "
        "the same command again to go on from its checkpoint, with a smaller --jobs if memory is short"
    )
    used = r"over --run-memory 1G: it had [\d.]+G of resident memory; its process was killed"
    assert re.fullmatch(used, ends["hungry"].message)
    silent = r"over --hang-seconds 25: no training step ended for [23]\d s; its process was killed"
    assert re.fullmatch(silent, ends["sleepy"].message)
    assert multiprocessing.active_children() == []
    assert not running(int((tmp_path / "died").read_text()))  # which the process that died had started
    assert len(Store(tmp_path / "store").records()) == 3


@linux
def test_memory_is_that_of_a_process_and_all_that_it_started():
    """A process that starts one which takes 64 MB."""
    inner = "import time; taken = bytearray(b'x') * 2**26; print('there', flush=True); time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    process = subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "there\n"
        found = pool._resident([process.pid, os.getpid()])
        alone = pool._processes()[process.pid][1]
        assert found[process.pid] - alone > 2**26
        assert found[os.getpid()] > found[process.pid]  # which this process started
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.slow
def test_a_worker_that_is_told_to_stop_gives_its_claim_up(tmp_path):
    told = []
    workers = Pool(
        1, Settings(out=tmp_path), limits=Limits(), on_progress=lambda name, share: told.append((name, share))
    )
    run = config("fp32", dataclasses.replace(SGD_RECIPE, epochs=10_000))
    workers.start(run, None)
    assert (workers.running, workers.free) == (1, False)
    while not any(share > 0 for _, share in told):
        assert workers.wait(0.1) == []
    assert {name for name, _ in told} == {run.id}
    workers.stop()
    assert multiprocessing.active_children() == []
    assert Store(tmp_path).claims.standing(run.id).state.released


@given(st.lists(st.integers(0, 99).map(str), unique=True), st.integers(1, 5))
def test_runs_at_a_time_have_gpus_of_their_own(gpus, devices):
    shares = [share.split(",") for share in gpus_by_run(gpus, devices)]
    assert len(shares) == len(gpus) // devices
    assert all(len(share) == devices for share in shares)
    assert list(itertools.chain(*shares)) == gpus[: len(shares) * devices]


@pytest.mark.parametrize(
    ("names", "visible"),
    [
        (None, ["0", "1", "2"]),
        ("2,GPU-8f6,5", ["2", "GPU-8f6", "5"]),
        ("4,5,6,-1,7", ["4", "5", "6"]),  # CUDA stops at the first that isn't there
    ],
)
def test_gpus_are_those_that_the_driver_may_use(monkeypatch, names, visible):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if names is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", names)
    assert visible_gpus() == visible


@pytest.mark.slow
def test_each_worker_process_has_gpus_of_its_own(tmp_path, monkeypatch):
    """Four GPUs, made up, of which a run takes two, and three runs at a time: the third one shares the first's."""
    monkeypatch.syspath_prepend(misbehaving(tmp_path / "installed"))
    monkeypatch.setattr(torch.cuda, "init", lambda: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,GPU-8f6,7")
    runs = [config("telling", devices=2, seed=seed) for seed in range(3)]
    outcomes = run_plan(runs, Settings(out=tmp_path / "store", device="cuda"), jobs=3, listener=Silent([]))
    assert sorted(outcome.message.partition(" (")[0] for outcome in outcomes) == [
        "RuntimeError: CUDA_VISIBLE_DEVICES is 2,3",
        "RuntimeError: CUDA_VISIBLE_DEVICES is 2,3",
        "RuntimeError: CUDA_VISIBLE_DEVICES is GPU-8f6,7",
    ]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "2,3,GPU-8f6,7"


def test_a_process_that_follows_one_has_its_gpus(tmp_path, monkeypatch):
    taken, spawn = [], multiprocessing.get_context("spawn")

    def spawned(settings, slot, gpus):
        taken.append(gpus)
        return pool._Worker(spawn.Process(), spawn.Pipe()[0], slot)

    monkeypatch.setattr(pool, "_spawn", spawned)
    monkeypatch.setattr(pool, "_kill", lambda process: None)
    workers = Pool(3, Settings(out=tmp_path), limits=Limits(), on_progress=print, gpus=["4,5", "6,7", "1,2"])
    for seed in range(3):
        workers.start(config("bnn", seed=seed), None)
    assert taken == ["4,5", "6,7", "1,2"]
    assert workers._dead(workers._workers[1]) == []
    assert taken[3:] == ["6,7"]


def test_progress_is_passed_on_now_and_then_and_at_the_end(monkeypatch):
    now, told = [0.0], []
    monkeypatch.setattr(pool.time, "monotonic", lambda: now[0])
    progress = Throttle(told.append)
    for step in range(11):
        now[0] += 0.09
        progress(step / 10)
    assert told == [0.2, 0.5, 0.8, 1.0]


def test_a_limit_on_memory_needs_proc(monkeypatch):
    Limits(memory=1)
    monkeypatch.setattr(Path, "is_file", lambda path: False)
    with pytest.raises(LimitsError, match="--run-memory needs /proc, which this system doesn't have; leave it out"):
        Limits(memory=1)
    assert not Limits().any
    assert Limits(hang_seconds=1.0).any


@linux
@pytest.mark.slow
def test_runs_that_were_over_a_limit_go_on_without_it_to_the_same_scores(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(misbehaving(tmp_path / "installed"))
    memories = {name: tmp_path / f"{name}-was" for name in ("hungry", "sleepy")}
    entries = [f"{{name: {name}, options: {{memory: '{path}', step: 10}}}}" for name, path in memories.items()]
    suite = load_suite(
        str(
            suite_file(
                tmp_path,
                algorithms=f"[{', '.join(entries)}]",
                recipe="{epochs: 3, batch_size: 256}",  # 6 steps an epoch, so they end in the second
                tracks="[learning_task]",
            )
        )
    )
    out, limits = tmp_path / "store", Limits(memory=2**30, hang_seconds=25)
    _, outcomes = run_suite(suite, Settings(out=out, checkpoint_seconds=0), jobs=2, listener=Silent, limits=limits)
    assert {outcome.run.algorithm: outcome.status for outcome in outcomes} == {
        "fp32": "ok",
        "hungry": "error",
        "sleepy": "error",
    }
    saved = [json.loads(path.read_text())["epoch"] for path in out.glob("runs/*/checkpoint.json")]
    assert saved == [1, 1]
    assert all(path.exists() for path in memories.values())

    for place in (out, tmp_path / "undisturbed"):
        _, outcomes = run_suite(suite, Settings(out=place), jobs=1, listener=Silent)
        assert [outcome for outcome in outcomes if outcome.status != "ok"] == []
    assert content(out) == content(tmp_path / "undisturbed")
