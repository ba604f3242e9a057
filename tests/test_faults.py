"""Interrupted, killed, out of space: nothing finished is lost, the rest continues to the same results, bit for bit."""

import contextlib
import csv
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from operator import attrgetter
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

import bibench
from bibench.bench.plan import make_plan
from bibench.bench.store import Store
from bibench.bench.suite import load_suite
from bibench.bench.worker import Settings, execute
from bibench.cli import app
from misbehaving import misbehaving
from needed_tools import lacks
from small_runs import command, content, suite_file

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
EPOCHS = 16
MARK = "BIBENCH_TEST_MARK"


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return suite_file(
        tmp_path_factory.mktemp("suite"), algorithms="[recu]", recipe=f"{{epochs: {EPOCHS}, batch_size: 128}}"
    )


def complete(suite, out, *options):
    result = CliRunner().invoke(app, ["run", str(suite), "--out", str(out), "--seeds", "2", "--jobs", "1", *options])
    assert result.exit_code == 0, result.output


@pytest.fixture(scope="module")
def undisturbed(suite, tmp_path_factory):
    """What the suite's store holds when nothing happens."""
    out = tmp_path_factory.mktemp("undisturbed") / "store"
    complete(suite, out)
    return content(out)


class Started:
    """A command in a process group of its own, whose processes can be told by their environment."""

    def __init__(self, *command, **environment):
        self.mark = f"{MARK}={uuid.uuid4()}"
        name, _, value = self.mark.partition("=")
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {name: value} | environment,
            start_new_session=True,
            # A shell's background jobs ignore Ctrl-C, and hand that on to whatever they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def alive(self):
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                dead = (path / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                marked = self.mark.encode() in (path / "environ").read_bytes().split(b"\0")
            except OSError:  # it has just ended
                continue
            if marked and not dead:
                found.append(int(path.name))
        return found

    def kill(self):
        """End everything at once, as a machine does that loses its power."""
        while alive := self.alive():
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def workers(self):
        return [p for p in self.alive() if b"--multiprocessing-fork" in Path(f"/proc/{p}/cmdline").read_bytes()]

    def end(self, seconds=60):
        """Status and messages, once the driver and everything that it started are gone."""
        try:
            out, err = self.process.communicate(timeout=seconds)
            end = time.monotonic() + seconds
            while self.alive() and time.monotonic() < end:
                time.sleep(0.05)
            assert self.alive() == []
        finally:
            self.kill()
        return self.process.returncode, out, err


class Driver(Started):
    """``bibench run``."""

    def __init__(self, *arguments, **environment):
        super().__init__(*command("run", *arguments, "--checkpoint-seconds", 0), **environment)


def on_path(folder):
    """``PYTHONPATH`` with one more folder."""
    return os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])


def when(condition, driver, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        if driver.process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"it didn't come to that: {driver.end()}")
        time.sleep(0.01)


def unfinished(out):
    """The epoch of every checkpoint in a store."""
    epochs = []
    for path in out.glob("runs/*/checkpoint.json"):
        if not (path.parent / "record.json").exists():
            try:
                epochs.append(json.loads(path.read_text())["epoch"])
            except FileNotFoundError:  # finished just now
                continue
    return epochs


CSV, TENSORBOARD = ("--logger", "csv"), ("--logger", "tensorboard")


def epochs_logged(out):
    """The epochs of each run that have ended, which a CSV log has at once."""
    found = {}
    for path in out.glob("logs/csv/*/metrics.csv"):
        with path.open(encoding="utf-8", newline="") as file:
            found[path.parent.name] = {int(float(row["epoch"])) for row in csv.DictReader(file)}
    return found


def repeated(out, before):
    """The most epochs of a run that were trained again after ``before``; only what is new is in TensorBoard's log."""
    most = 0
    for run, ended in before.items():
        after = set()
        for path in out.glob(f"logs/tensorboard/{run}/*"):
            events = EventAccumulator(str(path))
            events.Reload()
            after |= {event.step for event in events.Scalars("train_loss")}
        assert after | ended == {int(row["epoch"]) for row in Store(out).epochs(run)}
        most = max(most, len(after & ended))
    return most


STOPPED = "stopped; what is finished is kept: run the same command again to continue\n"


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "to", "jobs", "status", "message"),
    [
        pytest.param(signal.SIGINT, "group", 1, 130, STOPPED, id="ctrl-c"),
        pytest.param(signal.SIGINT, "group", 2, 130, STOPPED, id="ctrl-c-two-jobs"),
        pytest.param(signal.SIGTERM, "driver", 2, 130, STOPPED, id="terminated"),
        pytest.param(signal.SIGKILL, "driver", 2, -9, "", id="killed"),
    ],
)
def test_stopped_in_the_middle_and_run_again(suite, undisturbed, tmp_path, number, to, jobs, status, message):
    out = tmp_path / "store"
    driver = Driver(suite, "--out", out, "--seeds", 2, "--jobs", jobs, *CSV)
    when(lambda: any(2 <= epoch < EPOCHS - 5 for epoch in unfinished(out)), driver)
    (os.killpg if to == "group" else os.kill)(driver.process.pid, number)
    ended, _, told = driver.end()
    assert ended == status
    assert told == message or number == signal.SIGKILL  # then only Python's own resource tracker has something to say
    assert "Traceback" not in told
    assert any(0 < epoch < EPOCHS for epoch in unfinished(out))  # it is in the middle that it continues
    before = epochs_logged(out)
    assert any(0 < len(ended) < EPOCHS for ended in before.values())

    complete(suite, out, *TENSORBOARD)
    assert content(out) == undisturbed
    assert repeated(out, before) <= 1
    assert not list(out.rglob("*checkpoint*"))
    assert not list(out.glob("runs/*/.*"))


SHARED = 30
"""Epochs of a run that two processes share."""


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory):
    """What makes a run that two processes share, and what its store holds when nothing happens."""
    folder = tmp_path_factory.mktemp("shared")
    recipe = f"{{epochs: {SHARED}, batch_size: 512}}"
    arguments = (suite_file(folder, algorithms="[]", recipe=recipe, tracks="[learning_task]"), "--devices", 2)
    assert Driver(*arguments, "--out", folder / "store", "--jobs", 1).end(240)[0] == 0
    return arguments, content(folder / "store")


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "options", "status"),
    [
        pytest.param(signal.SIGTERM, ("--jobs", 1), 130, id="terminated"),
        pytest.param(signal.SIGTERM, ("--jobs", 2), 130, id="terminated-two-jobs"),
        pytest.param(signal.SIGTERM, ("--jobs", 1, "--grace-seconds", 1), 130, id="terminated-with-grace"),
        pytest.param(signal.SIGKILL, ("--jobs", 2), -9, id="killed-two-jobs"),
    ],
)
def test_stopped_while_two_processes_share_a_run_and_run_again(shared_run, tmp_path, number, options, status):
    """Only the driver is told. Once the run's claim is given up, both are gone and nothing more is written."""
    arguments, undisturbed = shared_run
    out = tmp_path / "store"
    arguments = (*arguments, "--out", out, *options)
    driver = Driver(*arguments)
    when(lambda: any(2 <= epoch < SHARED / 2 for epoch in unfinished(out)), driver, 240)
    started = sorted(driver.workers())  # with a pool its worker process, which starts them, is the first
    assert len(started) == (2 if options == ("--jobs", 1) else 3)
    os.kill(driver.process.pid, number)
    (folder,) = out.glob("runs/*")
    claims, end = Store(out).claims, time.monotonic() + 60
    while not claims.standing(folder.name).state.released:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert not {*started[-2:]} & {*driver.alive()}
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    ended, _, told = driver.end()
    assert ended == status
    assert number == signal.SIGKILL or (told.endswith(STOPPED) and "Traceback" not in told)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    (epoch,) = unfinished(out)
    assert 2 <= epoch < SHARED

    assert Driver(*arguments).end(240)[0] == 0
    assert content(out) == undisturbed
    assert not list(out.glob("runs/*/.*"))


@linux
@pytest.mark.slow
def test_killed_in_the_second_part_of_a_partial_pretraining_and_run_again(tmp_path):
    recipe = "{optimizer: {name: sgd, lr: 0.05}, steps: 180, batch_size: 128}"  # 90 in each part, 11 an epoch
    suite = suite_file(
        tmp_path,
        "optimizer_state: keep\n",
        method="partial_pretraining",
        algorithms="[recu]",
        recipe=recipe,
        tracks="[learning_task]",
    )
    out = tmp_path / "store"
    driver = Driver(suite, "--out", out, "--seeds", 1, "--jobs", 1, "--only", "method=partial_pretraining", *CSV)
    runs = make_plan(load_suite(str(suite)))
    (folder,) = [Store(out).folder(run.id) for run in runs if run.operator]
    when(lambda: folder.exists() and any(2 <= epoch < 6 for epoch in unfinished(out)), driver)
    os.kill(driver.process.pid, signal.SIGKILL)
    assert driver.end()[0] == -signal.SIGKILL
    assert not (folder / "record.json").exists()
    assert 2 <= json.loads((folder / "checkpoint.json").read_text())["epoch"] < 9
    before = epochs_logged(out)
    assert 2 <= len(before[folder.name]) < 9

    result = CliRunner().invoke(app, ["run", str(suite), "--out", str(out), "--jobs", "1", *TENSORBOARD])
    assert result.exit_code == 0, result.output
    assert repeated(out, before) <= 1
    for run in runs:
        assert execute(run, Settings(out=tmp_path / "undisturbed")).status == "ok"
    found = content(out)
    assert found == content(tmp_path / "undisturbed")
    assert sum(name.endswith("optimizer.safetensors") for name in found) == 1
    assert len(Store(out).records()) == 3


@linux
@pytest.mark.slow
def test_ctrl_c_is_the_drivers_business_from_a_workers_first_moment(suite, tmp_path):
    """A terminal sends Ctrl-C to every process; a worker that is still starting must not die of it."""
    driver = Driver(suite, "--out", tmp_path / "store", "--seeds", 2, "--jobs", 2, "--epochs", 1)
    when(lambda: len(driver.workers()) == 2, driver)
    for _ in range(4):
        time.sleep(0.2)
        for process in driver.workers():
            os.kill(process, signal.SIGINT)
    status, out, err = driver.end(240)
    assert (status, err) == (0, "")
    assert "4 runs in" in out


@linux
@pytest.mark.slow
def test_sigterm_with_a_time_of_grace(suite, undisturbed, tmp_path):
    """To all processes, as a machine does that is taken away; runs end their epoch and give their claims up."""
    out = tmp_path / "store"
    driver = Driver(suite, "--out", out, "--seeds", 2, "--jobs", 1, "--grace-seconds", 60, *CSV)
    when(lambda: any(2 <= epoch < EPOCHS - 5 for epoch in unfinished(out)), driver)
    os.killpg(driver.process.pid, signal.SIGTERM)
    status, _, told = driver.end()
    assert (status, told) == (130, STOPPED)
    (epoch,) = unfinished(out)
    assert 2 < epoch < EPOCHS  # the one in which it was told is in the checkpoint too
    store = Store(out)
    claims = [store.claims.standing(path.name) for path in out.glob("runs/*") if not (path / "record.json").exists()]
    assert [claim.state.released for claim in claims] == [True]
    before = epochs_logged(out)
    complete(suite, out, *TENSORBOARD)
    assert content(out) == undisturbed
    assert repeated(out, before) == 0


@linux
@pytest.mark.slow
def test_sigterm_and_an_epoch_that_lasts_longer_than_the_time_of_grace(tmp_path):
    path = suite_file(tmp_path, algorithms="[sleepy]", recipe="{epochs: 1, batch_size: 512}")
    out, installed = tmp_path / "store", misbehaving(tmp_path / "installed")
    driver = Driver(path, "--out", out, "--jobs", 1, "--grace-seconds", 1, PYTHONPATH=on_path(installed))
    when(lambda: list(out.glob("runs/*-sleepy-*/claim-*")), driver)
    driver.process.terminate()
    status, _, told = driver.end()
    assert (status, told) == (130, STOPPED)


@pytest.fixture
def own_signals():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.skipif(sys.platform == "win32", reason="a process there can't tell itself to end")
@pytest.mark.parametrize(
    ("where", "options"),
    [
        pytest.param("bench.benchmark.load_data", (), id="data"),
        pytest.param("bench.benchmark.calibrate", ("--seconds", "1"), id="times"),
        pytest.param("cli.run.write_page", (), id="report"),
    ],
)
def test_sigterm_with_a_time_of_grace_that_no_run_could_use(tmp_path, monkeypatch, own_signals, where, options):
    """While data are loaded, iterations timed or the report is written, it ends the command at once."""
    path, out, after = suite_file(tmp_path, algorithms="[]", tracks="[learning_task]"), tmp_path / "store", []
    arguments = ["run", str(path), "--out", str(out), "--jobs", "1", *options]
    if where == "cli.run.write_page":  # then the runs are done
        assert CliRunner().invoke(app, arguments).exit_code == 0
    whole = attrgetter(where)(bibench)

    def terminated(*arguments, **named):
        os.kill(os.getpid(), signal.SIGTERM)
        after.append(whole(*arguments, **named))
        return after[-1]

    monkeypatch.setattr(f"bibench.{where}", terminated)
    result = CliRunner().invoke(app, [*arguments, "--grace-seconds", "600"])
    assert (result.exit_code, result.stderr, after) == (130, STOPPED, [])


JUMPING_CLOCK = """
import random
import time

real = time.time
time.time = lambda: real() + random.choice((-86400.0, 0.0, 86400.0))
"""


@linux
@pytest.mark.slow
@pytest.mark.parametrize("clock", ["", JUMPING_CLOCK], ids=["", "with clocks that jump by a day"])
def test_two_drivers_at_once(suite, undisturbed, tmp_path, clock):
    (tmp_path / "sitecustomize.py").write_text(clock, encoding="utf-8")
    out = tmp_path / "store"
    arguments = (suite, "--out", out, "--seeds", 2, "--jobs", 2, "--lease-seconds", 8)  # they ask every 0.8 s
    drivers = [Driver(*arguments, PYTHONPATH=on_path(tmp_path)) for _ in range(2)]
    for driver in drivers:
        status, told, err = driver.end(240)
        assert (status, err) == (0, "")
        assert told.count("] ok ") == 4  # what the other one did is done
    assert content(out) == undisturbed
    assert Store(out).discarded() == 0
    assert not list(out.glob("runs/*/attempt-*"))
    assert not list(out.glob("runs/*/claim-*"))


@linux
@pytest.mark.slow
def test_two_hundred_runs_and_a_worker_killed_every_few_seconds(tmp_path):
    path = suite_file(
        tmp_path, algorithms="[bnn]", seeds="100", recipe="{epochs: 2, batch_size: 256}", tracks="[learning_task]"
    )
    out, chance, marks = tmp_path / "store", random.Random(0), list(range(20, 200, 20))

    def finished():
        return len(list(out.glob("runs/*/record.json")))

    for _ in range(5):  # a run whose process was killed three times is an error, which the next command mends
        driver = Driver(path, "--out", out, "--jobs", 2)
        while driver.process.poll() is None:
            if marks and finished() >= marks[0]:
                del marks[0]
                time.sleep(chance.uniform(0, 0.5))
                os.kill(chance.choice(driver.workers()), signal.SIGKILL)
            time.sleep(0.05)
        status, _, err = driver.end()
        assert status == 0 or "was killed by signal 9" in err
        if status == 0:
            break
    assert (status, err, marks) == (0, "", [])
    assert Store(out).discarded() == 0

    assert CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "calm"), "--jobs", "1"]).exit_code == 0
    found = content(out)
    assert len(found) == 200 * 4  # record, weights, predictions, epochs
    assert found == content(tmp_path / "calm")


@contextlib.contextmanager
def ray_node(*options, **environment):
    """A part of a Ray cluster: all of its processes."""
    ray = Path(sys.executable).with_name("ray")
    node = Started(ray, "start", *options, "--block", "--disable-usage-stats", **environment)
    try:
        yield node
    finally:
        node.kill()
        node.end()


def token(folder):
    """What lets this test alone use the cluster that it starts."""
    path = folder / "token"
    path.write_text(uuid.uuid4().hex, encoding="utf-8")
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(path)}


@linux
@pytest.mark.slow
def test_ctrl_c_on_ray(suite, undisturbed, tmp_path):
    out = tmp_path / "store"
    driver = Driver(suite, "--out", out, "--seeds", 2, "--executor", "ray", *CSV, **token(tmp_path))
    when(lambda: any(2 <= epoch < EPOCHS - 5 for epoch in unfinished(out)), driver, 240)
    os.killpg(driver.process.pid, signal.SIGINT)
    status, _, told = driver.end()
    assert (status, told) == (130, STOPPED)
    store = Store(out)
    claims = [store.claims.standing(path.name) for path in out.glob("runs/*") if not (path / "record.json").exists()]
    assert claims
    assert all(claim.state.released for claim in claims)
    before = epochs_logged(out)
    complete(suite, out, *TENSORBOARD)
    assert content(out) == undisturbed
    assert repeated(out, before) <= 1


@linux
@pytest.mark.slow
def test_a_ray_node_dies_in_the_middle_of_a_run_and_another_one_goes_on(suite, undisturbed, tmp_path):
    out, environment = tmp_path / "store", token(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"127.0.0.1:{port}"
    head = ("--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")
    node = (f"--address={address}", "--num-cpus=1")
    with ray_node(*head, **environment) as cluster:
        when(lambda: accepts_connections(port), cluster, 120)
        with ray_node(*node, **environment) as first:
            arguments = ("--seeds", 2, "--executor", "ray", "--address", address, *CSV, *TENSORBOARD)
            driver = Driver(suite, "--out", out, *arguments, **environment)
            when(lambda: any(2 <= epoch < EPOCHS - 5 for epoch in unfinished(out)), driver, 240)
            first.kill()
        assert any(0 < epoch < EPOCHS for epoch in unfinished(out))
        before = epochs_logged(out)
        shutil.rmtree(out / "logs" / "tensorboard")  # which may have only a part of what the node did
        with ray_node(*node, **environment):
            status, told, err = driver.end(400)
    assert (status, err) == (0, "")
    assert told.count("] ok ") == 4
    assert content(out) == undisturbed
    assert repeated(out, before) <= 1


def accepts_connections(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


RAY = ("--executor", "ray")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--run-memory", "4"], "--run-memory 4: expected a number with M, G or T, such as 4G"),
        (["--run-memory", "0G"], "--run-memory 0G: expected a number with M, G or T, such as 4G"),
        (["--hang-seconds", "9", "--devices", "2"], "--hang-seconds 9: with --devices 2 a run tells of no steps"),
        (["--executor", "slurm"], "--executor slurm: expected local or ray"),
        (["--address", "auto"], "--address auto: only with --executor ray"),
        (["--gpus-per-run", "1"], "--gpus-per-run 1.0: only with --executor ray"),
        ([*RAY, "--jobs", "2"], "--jobs: only with --executor local; on Ray the cluster says how much it holds"),
        ([*RAY, "--grace-seconds", "2"], "--grace-seconds: only with --executor local; on Ray the nodes are others'"),
        ([*RAY, "--gpus-per-run", "0.5"], "--gpus-per-run 0.5: with --device cpu a run needs none"),
        (
            [*RAY, "--gpus-per-run", "0", "--device", "cuda"],
            "--gpus-per-run 0: with --device cuda a run needs a share of a GPU such as 0.25, or whole ones",
        ),
    ],
)
def test_options_that_make_no_sense(tmp_path, options, message):
    path = suite_file(tmp_path)
    result = CliRunner().invoke(app, ["run", str(path), "--out", str(tmp_path / "store"), *options])
    assert (result.exit_code, result.stderr) == (2, f"error: {message}\n")
    assert not (tmp_path / "store").exists()


def test_a_truncated_checkpoint_is_named_and_the_others_go_on(tmp_path):
    path = suite_file(tmp_path, recipe="{epochs: 3, batch_size: 256}")
    out = tmp_path / "store"
    arguments = ["run", str(path), "--out", str(out), "--jobs", "1"]
    assert CliRunner().invoke(app, [*arguments, "--only", "algorithm=fp32"]).exit_code == 0
    bnn = next(run for run in make_plan(load_suite(str(path))) if run.algorithm == "bnn")

    def stop(share):
        if share > 0.8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(bnn, Settings(out=out, checkpoint_seconds=0), stop)
    folder = Store(out).folder(bnn.id)
    (tensors,) = folder.glob("checkpoint-*.safetensors")
    tensors.write_bytes(tensors.read_bytes()[:1000])

    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1
    assert f"error  digits digits_cnn bnn seed 0: {tensors} has 1000 bytes" in result.stdout
    assert f"delete {folder} and run the same command again" in result.stdout
    assert [record.run.algorithm for record in Store(out).records()] == ["fp32", "recu"]
    shutil.rmtree(folder)
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert len(Store(out).records()) == 3


SCRIPT = """
mount -t tmpfs -o size=$SIZE tmpfs "$DISK" || exit 99
"$@" > "$RESULT/first" 2>&1; echo $? > "$RESULT/status"
ls -A "$DISK"/store/runs/* > "$RESULT/files"
mount -o remount,size=100m "$DISK"
"$@" > "$RESULT/second" 2>&1; echo $? >> "$RESULT/status"
cp -r "$DISK/store" "$RESULT/store"
"""


def can_mount():
    probe = ["unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return bool(shutil.which("unshare")) and subprocess.run(probe, capture_output=True, check=False).returncode == 0


@linux
@pytest.mark.slow
def test_a_full_disk(suite, undisturbed, tmp_path):
    if not can_mount():
        lacks("a disk of its own needs user and mount namespaces (unshare --user --mount)")
    weights = max(len(value) for name, value in undisturbed.items() if name.endswith("model.safetensors"))
    # SGD has one number a weight and Adam two, beside the weights; while a checkpoint is written the last one is
    # there too. The two full-precision runs need 5 times their weights at most, and the one after them 8 times.
    size = int(5.5 * weights)
    (tmp_path / "disk").mkdir()
    environment = {"DISK": tmp_path / "disk", "RESULT": tmp_path, "SIZE": size}
    run = command(
        "run", suite, "--out", tmp_path / "disk" / "store", "--jobs", 1, "--seeds", 2, "--checkpoint-seconds", 0
    )
    # The mount is in a namespace of its own and is gone with it.
    subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", SCRIPT, "sh", *run],
        env=os.environ | {name: str(value) for name, value in environment.items()},
        check=True,
        timeout=120,
    )
    first, second = ((tmp_path / name).read_text() for name in ("first", "second"))
    assert (tmp_path / "status").read_text().split() == ["1", "0"], first + second
    assert "[1/4] ok     digits digits_cnn fp32 seed 0" in first
    assert "[2/4] ok     digits digits_cnn fp32 seed 1" in first
    assert "[3/4] error  digits digits_cnn recu seed 0: No space left on device: " in first
    assert "free some space and run the same command again: nothing finished is lost" in first
    assert "[4/4]" not in first  # every other run would meet it too
    assert "Traceback" not in first
    assert ".tmp" not in (tmp_path / "files").read_text()
    assert "2 runs to do" in second  # the finished ones are not repeated
    assert content(tmp_path / "store") == undisturbed
    assert not list((tmp_path / "disk").iterdir())
