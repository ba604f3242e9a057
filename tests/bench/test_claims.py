"""Claims: one process at a time, and who may take over when."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest

from bibench.bench.claims import LEASE, ClaimLost, Claims, ClaimState, Holder, Watch, this_process
from bibench.bench.storage import Folder

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.fixture
def claims(tmp_path):
    return Claims(Folder(tmp_path))


class Clock:
    """Seconds that the test lets pass."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


HOLD = """
import sys, time
from pathlib import Path
from bibench.bench.claims import Claims
from bibench.bench.storage import Folder
claim = Claims(Folder(Path(sys.argv[1]))).take("run", lease=float(sys.argv[2]))
with claim.beating():
    claim.progressed(0.25)
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other(tmp_path):
    """Another process that holds the claim on ``run``, with a lease of a second."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path), "1"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdin.close()
    process.stdout.close()


def test_what_is_claimed_is_claimed_by_nobody_else(claims):
    claim = claims.take("run")
    assert (claim.token, claim.files) == (1, "")
    assert claims.take("run") is None
    assert claims.take("other").token == 1


def test_what_was_given_up_is_taken_at_once_and_in_the_same_folder(claims):
    with claims.take("run").beating():
        assert claims.take("run") is None
    second = claims.take("run")
    assert (second.token, second.files) == (2, "")


def test_what_is_finished_leaves_nothing(claims, tmp_path):
    with claims.take("run").beating():
        pass
    claim = claims.take("run")
    with claim.beating():
        claim.finish()
    assert list((tmp_path / "runs" / "run").iterdir()) == []
    assert claims.standing("run") is None


def take_all(arguments):
    root, names = arguments
    claims = Claims(Folder(root))
    return [name for name in names if claims.take(name) is not None]


def test_of_many_at_once_one_gets_it(tmp_path):
    names = [f"run-{number}" for number in range(60)]
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        taken = pool.map(take_all, [(tmp_path, names)] * 4, chunksize=1)
    assert sorted(name for some in taken for name in some) == sorted(names)


@linux
def test_a_process_that_was_killed_is_known_to_be_gone(claims, other):
    assert claims.take("run") is None
    other.kill()
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and its parent hasn't noticed
    second = claims.take("run")
    assert (second.token, second.files) == (2, "")


@linux
def test_a_process_that_only_stands_still_keeps_it_for_a_lease(claims, other):
    clock = Clock()
    watch = Watch(claims, clock)
    os.kill(other.pid, signal.SIGSTOP)
    time.sleep(0.3)  # a beat that had begun
    assert watch.expired("run") is None
    clock.now += 0.9
    assert watch.expired("run") is None
    assert claims.take("run") is None
    clock.now += 0.2
    assert watch.expired("run") == 1
    assert claims.take("run", takeover=2) is None  # of another claim
    second = claims.take("run", takeover=1)
    assert (second.token, second.files) == (2, "attempt-2")
    os.kill(other.pid, signal.SIGCONT)
    other.stdin.close()
    other.wait()  # it gives up what it has lost: that changes nothing
    assert second.check()
    second.beat(released=True)
    third = claims.take("run")
    assert (third.token, third.files) == (3, "attempt-2")


@linux
def test_a_process_that_lives_keeps_it_however_long(claims, other):
    clock = Clock()
    watch = Watch(claims, clock)
    beats = set()
    for _ in range(4):
        assert watch.expired("run") is None
        beats.add(claims.standing("run").state.beat)
        clock.now += 100
        time.sleep(0.6)
    assert len(beats) == 4
    assert claims.running()["run"].share == 0.25
    assert claims.running()["run"].holder.pid == other.pid


def test_no_wall_clock_is_ever_compared(claims, monkeypatch):
    claim = claims.take("run", lease=5.0)
    clock = Clock()
    watch = Watch(claims, clock)
    assert watch.expired("run") is None
    monkeypatch.setattr(time, "time", lambda: 1e11)
    assert watch.expired("run") is None
    claim.beat()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    clock.now += 6
    assert watch.expired("run") is None  # there was a beat
    clock.now += 6
    assert watch.expired("run") == 1


def test_who_lost_it_is_told_and_writes_no_more(claims):
    first = claims.take("run")
    second = claims.take("run", takeover=1)
    before = claims.standing("run")
    first.progressed(0.5)
    first.beat()
    with pytest.raises(ClaimLost, match="run was taken over by another process"):
        first.progressed(0.6)
    with pytest.raises(ClaimLost, match="run was taken over by another process"):
        first.confirm()
    second.confirm()
    first.beat(released=True)
    assert claims.standing("run") == before
    assert second.check()


def test_a_number_that_was_used_before_is_not_mistaken_for_ones_own(claims):
    slow = claims.take("run")
    claims.take("run", takeover=1).finish()
    new = claims.take("run")
    assert (slow.token, new.token) == (1, 1)
    slow.beat()
    assert slow.lost
    slow.finish()
    assert new.check()


def test_what_was_taken_over_meanwhile_is_done_again(claims):
    tokens = []

    def action(claim):
        tokens.append(claim.token)
        if len(tokens) == 1:
            claims.take("run", takeover=1).finish()
        claim.confirm()

    claims.alone("run", action)
    assert tokens == [1, 1]
    assert claims.standing("run") is None


def test_what_goes_wrong_alone_is_told_and_the_claim_removed(claims):
    def action(claim):
        raise KeyError(claim.token)

    with pytest.raises(KeyError, match="1"):
        claims.alone("run", action)
    assert claims.standing("run") is None


@linux
def test_another_process_with_the_same_number_is_another_one():
    own = this_process()
    assert not own.gone
    assert own.model_copy(update={"started": "1"}).gone
    assert not own.model_copy(update={"started": "1", "system": "another start of the machine"}).gone
    assert not own.model_copy(update={"pid": 4_000_000_000, "system": None}).gone
    assert own.model_copy(update={"pid": 4_000_000}).gone


HOLDER = Holder(host="h", system=None, pid=1, started=None)
STATE = ClaimState(holder=HOLDER, nonce="0" * 32, since="2026-01-01T00:00:00+00:00").model_dump()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[" * 100_000,
        json.dumps(STATE | {"files": "../../elsewhere"}),
        json.dumps(STATE | {"files": "attempt-2/.."}),
        json.dumps(STATE | {"lease": 1e9}),
        json.dumps(STATE | {"lease": 0}),
        json.dumps(STATE | {"beat": -1}),
        json.dumps(STATE | {"more": 1}),
    ],
)
def test_a_claim_that_makes_no_sense_holds_for_a_lease(claims, tmp_path, content):
    path = tmp_path / "runs" / "run" / "claim-000007.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    clock = Clock()
    watch = Watch(claims, clock)
    assert watch.expired("run") is None
    assert claims.take("run") is None
    clock.now += LEASE - 1
    assert watch.expired("run") is None
    clock.now += 1
    claim = claims.take("run", takeover=watch.expired("run"))
    assert (claim.token, claim.files) == (8, "attempt-8")


def test_something_short_is_done_one_after_the_other(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        pool.map(count, [path] * 40, chunksize=1)
    assert path.read_text() == "40"
    assert not list(tmp_path.glob("claim*"))


def count(path):
    with Claims(Folder(path.parent), below="").held("", wait=0.005):
        number = int(path.read_text())
        time.sleep(0.001)
        path.write_text(str(number + 1))
