"""A process that stands still loses its run to another one, and what it does when it goes on again does no harm."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from bibench.bench.claims import Watch
from bibench.bench.store import Store
from bibench.bench.worker import Settings, execute
from bibench.recipes import SGD, Recipe
from small_runs import config

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes can't be made to stand still"),
]

RUN = config("recu", Recipe(optimizer=SGD(lr=0.1), epochs=12, batch_size=128))

WORK = """
import sys
from pathlib import Path
from bibench.bench.worker import Settings, execute
from bibench.records import RunConfig
def told(share):
    if share >= float(sys.argv[3]):
        print("there", flush=True)
        sys.stdin.readline()
run = RunConfig.model_validate_json(sys.argv[2])
outcome = execute(run, Settings(out=Path(sys.argv[1]), lease=1.0, checkpoint_seconds=0), told)
print(outcome.status, outcome.message)
"""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    assert execute(RUN, Settings(out=out)).status == "ok"
    return Store(out)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_who_stands_still_is_taken_over(tmp_path, undisturbed, share):
    """At a half it notices at the next step; at the end it notices only that there is a record already."""
    command = [sys.executable, "-c", WORK, str(tmp_path), RUN.model_dump_json(), str(share)]
    slow = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert slow.stdout.readline() == "there\n"
        os.kill(slow.pid, signal.SIGSTOP)
        store = Store(tmp_path)
        watch = Watch(store.claims)
        start = time.monotonic()
        while (token := watch.expired(RUN.id)) is None:
            assert execute(RUN, Settings(out=tmp_path)).status == "busy"
            assert time.monotonic() < start + 60
            time.sleep(0.1)
        assert time.monotonic() - start >= 1.0
        shares = []
        assert execute(RUN, Settings(out=tmp_path), shares.append, takeover=token).status == "ok"
        assert shares[0] >= share - 2 / 12  # from the checkpoint that the slow one left
        os.kill(slow.pid, signal.SIGCONT)
        told, _ = slow.communicate("\n" * 1000)
    finally:
        slow.kill()
        slow.wait()
    last = told.splitlines()[-1]
    record = store.record(RUN.id)
    if share < 1:
        assert last == f"busy {RUN.id} was taken over by another process"
        assert store.discarded() == 0
    else:
        assert last.startswith("ok ")  # the other's result
        assert store.discarded() == 1
        (path,) = (tmp_path / "discarded").iterdir()
        assert json.loads(path.read_text())["claim"]["holder"]["pid"] == slow.pid
    expected = undisturbed.record(RUN.id)
    assert (record.files, record.weights, record.figures) == ("attempt-2", expected.weights, expected.figures)
    assert store.predictions(RUN.id).tobytes() == undisturbed.predictions(RUN.id).tobytes()
    assert store.epochs(RUN.id) == undisturbed.epochs(RUN.id)
    left = {path.relative_to(store.folder(RUN.id)).parts[0] for path in store.folder(RUN.id).rglob("*.*")}
    assert left == {"record.json", "attempt-2"}
