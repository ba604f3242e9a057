"""Worker processes: what one of them does or suffers is nobody else's business."""

import dataclasses
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bibench.bench import pool
from bibench.bench.benchmark import run_suite
from bibench.bench.pool import Limits, LimitsError, Pool, Throttle
from bibench.bench.store import Store
from bibench.bench.suite import load_suite
from bibench.bench.worker import Settings
from misbehaving import misbehaving
from small_runs import SGD_RECIPE, config, suite_file

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
