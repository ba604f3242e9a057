"""Runs whose store is a bucket: the same results, from any machine, through a line that breaks."""

import os
import subprocess
import threading
import time

import fsspec
import pytest
import s3fs

from bibench.bench import benchmark
from bibench.bench.benchmark import prepare
from bibench.bench.history import history
from bibench.bench.plan import Budget, make_plan
from bibench.bench.store import Store, StoreError
from bibench.bench.suite import load_suite
from bibench.bench.worker import Settings, execute
from bibench.cli.finished import run_place
from object_store import KEYS, Line, environment, server, without_keys
from small_runs import command, suite_file

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def port():
    with server() as port:
        yield port


@pytest.fixture
def machine(port, tmp_path, monkeypatch):
    """Let this process be one of several machines, each with a mirror of its own, that reach the server."""

    def become(name, at=port):
        for key, value in environment(at).items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / name))
        s3fs.S3FileSystem.clear_instance_cache()

    become("first")
    return become


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return suite_file(tmp_path_factory.mktemp("suite"), recipe="{epochs: 4, batch_size: 256}")


@pytest.fixture(scope="module")
def undisturbed(suite, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    for run in make_plan(load_suite(str(suite))):
        assert execute(run, Settings(out=out)).status == "ok"
    return results(Store(out), suite)


def results(store, suite):
    """What must be the same wherever and however a suite was run."""
    found = {}
    for run in make_plan(load_suite(str(suite))):
        record = store.record(run.id)
        trained = [figure for figure in record.figures if figure.name in ("accuracy", "loss") and not figure.conditions]
        found[run.id] = trained, record.weights, store.predictions(run.id).tobytes(), store.epochs(run.id)
    return found


def call(*arguments, **more):
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, check=False, timeout=300, env=os.environ | more
    )


def test_a_bucket_is_as_good_as_a_folder(suite, undisturbed, machine, port):
    url = "s3://results/whole/run"
    result = call("run", suite, "--out", url, "--jobs", 2)
    assert result.returncode == 0, result.stderr
    assert "results in s3://results/whole/run" in result.stdout
    again = call("run", suite, "--out", url)
    assert "nothing to do: 3 runs asked for, 3 finished before" in again.stdout
    machine("another")
    store = Store.open(url)
    assert results(store, suite) == undisturbed
    assert store.discarded() == 0

    scored = call("score", url)
    assert (scored.returncode, scored.stderr) == (0, "")
    assert "recu" in scored.stdout
    run = next(run for run in make_plan(load_suite(str(suite))) if run.algorithm == "recu")
    exported = call("export", f"{url}/runs/{run.id}", "--out", os.environ["BIBENCH_CACHE"] + "/r.bibpack")
    assert exported.returncode == 0, exported.stderr

    files = fsspec.filesystem("s3", endpoint_url=f"http://127.0.0.1:{port}", key="test", secret="a")
    found = files.find("results/whole")
    names = {path.rpartition("/")[2] for path in found}
    assert not [name for name in names if name.startswith(("claim", "checkpoint", ".")) or name.endswith(".tmp")]
    assert {"suite.json", "plan.json", "record.json", "model.safetensors", "report.html"} <= names
    for path in found:
        assert KEYS["AWS_SECRET_ACCESS_KEY"].encode() not in files.cat_file(path)


def test_another_machine_goes_on_where_the_first_was_stopped(suite, undisturbed, machine):
    url = "s3://results/moved"
    first, *others = make_plan(load_suite(str(suite)))
    settings = Settings(out=url, checkpoint_seconds=0)

    def stop(share):
        if share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute(first, settings, stop)
    machine("another")
    shares = []
    assert execute(first, settings, shares.append).status == "ok"
    assert shares[0] == 0.5
    machine("a third")
    for run in others:
        assert execute(run, settings).status == "ok"  # with the weights that the second one left
    machine("a fourth")
    store = Store(url)
    store.sync()
    assert results(store, suite) == undisturbed


def test_a_budget_in_seconds_is_the_same_steps_on_every_machine(suite, machine, monkeypatch):
    times = iter((0.01, 0.02))

    def timed(runs, settings, known):
        return known or dict.fromkeys((f"{run.task} {run.architecture} {run.algorithm}" for run in runs), next(times))

    monkeypatch.setattr(benchmark, "calibrate", timed)
    url = "s3://results/seconds"
    arguments = load_suite(str(suite)), Settings(out=url)
    first = prepare(*arguments, budget=Budget(seconds=1.0))
    Store(url).begin(first.description, first.runs, first.data, first.calibration)
    machine("another")
    again = prepare(*arguments, budget=Budget(seconds=1.0))
    assert again.runs == first.runs
    assert {run.recipe.steps for run in again.runs} == {100}
    Store(url).begin(again.description, again.runs, again.data, again.calibration)
    assert Store.open(url).plan() == first.runs


def test_epochs_of_a_run_that_goes_on_are_told_on_every_machine(suite, machine):
    url = "s3://results/told"
    first, *_ = make_plan(load_suite(str(suite)))
    Store(url).begin({"name": "small"}, [first], {})
    told = []

    def look(share):
        if share == 0.75 and not told:
            machine("another")
            told.extend(history(Store.open(url), first.id).epochs)
            machine("first")

    assert execute(first, Settings(out=url, checkpoint_seconds=0), look).status == "ok"
    whole = Store.open(url).epochs(first.id)
    assert len(told) in (2, 3)  # the third is saved just before or after it is told
    assert told == whole[: len(told)]


def test_a_line_that_is_cut_for_a_while(suite, undisturbed, machine, port, capsys, monkeypatch):
    line = Line(port)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")  # so that what lies above has to try again
    machine("first", line.port)
    url = "s3://results/cut"
    first, *_ = make_plan(load_suite(str(suite)))

    def cut():
        line.cut = True
        time.sleep(6)
        line.cut = False

    def break_it(share):
        if share == 0.5:
            threading.Thread(target=cut).start()
            time.sleep(0.3)

    assert execute(first, Settings(out=url, checkpoint_seconds=0, lease=2.0), break_it).status == "ok"
    assert line.refused > 0
    assert "can't be reached" in capsys.readouterr().err
    store = Store(url)
    store.sync()
    assert store.record(first.id).weights == undisturbed[first.id][1]
    line.close()


def test_two_machines_never_do_a_run_both(suite, undisturbed, machine):
    url = "s3://results/both"
    first, *_ = make_plan(load_suite(str(suite)))
    settings = Settings(out=url, checkpoint_seconds=0)
    inner = []

    def meanwhile(share):
        if share == 0.5 and not inner:
            inner.append(None)
            inner[0] = execute(first, settings)  # of this same process, to which the other's claim counts too

    assert execute(first, settings, meanwhile).status == "ok"
    assert inner[0].status == "busy"
    assert execute(first, settings).status == "ok"  # from the record


def test_who_was_taken_over_is_too_late(suite, undisturbed, machine):
    url = "s3://results/late"
    first, *_ = make_plan(load_suite(str(suite)))
    settings = Settings(out=url, checkpoint_seconds=0, lease=1000.0)
    shares = []

    def stall(share):
        if share == 1.0 and not shares:
            machine("another")
            assert execute(first, settings, shares.append, takeover=1).status == "ok"
            machine("first")

    assert execute(first, settings, stall).status == "ok"  # the other one's
    assert shares[0] == 0.75
    machine("a third")
    store = Store(url)
    store.sync()
    assert store.record(first.id).files == "attempt-2"
    assert store.record(first.id).weights == undisturbed[first.id][1]
    assert store.predictions(first.id).tobytes() == undisturbed[first.id][2]
    assert store.discarded() == 1
    left = [name for name in store.storage.listing(f"runs/{first.id}") if "attempt-2" not in name]
    assert left == [f"runs/{first.id}/record.json"]


def test_a_bucket_that_is_not_there_is_told_at_once(suite, machine, tmp_path):
    result = call("run", suite, "--out", "s3://no-such-bucket/x")
    assert result.returncode == 2
    assert result.stderr.startswith("error: s3://no-such-bucket/x: The specified bucket does not exist; make the")
    assert len(result.stderr.splitlines()) == 1
    nobody = subprocess.run(
        command("score", "s3://results/whole"),
        capture_output=True,
        text=True,
        check=False,
        env=without_keys() | {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"},
    )
    assert nobody.returncode == 2
    assert nobody.stderr.startswith("error: s3://results/whole")


def test_no_results_in_a_bucket(machine):
    with pytest.raises(StoreError, match=r"s3://results/none: no results here \(suite\.json is missing\)"):
        Store.open("s3://results/none")


IMPATIENT = """
from bibench.bench import storage

whole = storage.patiently
storage.patiently = lambda operation, place, patience: whole(operation, place, min(patience, 2.0))
"""


def test_a_line_that_is_cut_for_too_long_and_the_same_command_again(suite, undisturbed, machine, port, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(IMPATIENT, encoding="utf-8")
    line, url = Line(port), "s3://results/gone"
    search = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = os.environ | environment(line.port) | {"AWS_MAX_ATTEMPTS": "1", "PYTHONPATH": search}
    arguments = ("run", suite, "--out", url, "--jobs", 1, "--checkpoint-seconds", 0)
    first = subprocess.Popen(
        command(*arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environ
    )
    files = fsspec.filesystem("s3", endpoint_url=f"http://127.0.0.1:{port}", key="test", secret="a")
    while first.poll() is None and not files.glob("results/gone/runs/*/checkpoint.json", refresh=True):
        time.sleep(0.05)
    line.cut = True
    _, told = first.communicate(timeout=120)
    assert first.returncode == 2
    (error,) = [part for part in told.splitlines() if part.startswith(f"error: {url} can't be reached")]
    assert error.endswith("tried for 2 s; nothing finished is lost: run the same command again")
    assert len(files.glob("results/gone/runs/*/record.json", refresh=True)) < len(undisturbed)

    line.cut = False
    again = call(*arguments, **environment(line.port))
    assert again.returncode == 0, again.stderr
    line.close()
    store = Store(url)
    store.sync()
    assert results(store, suite) == undisturbed
    assert store.discarded() == 0


def test_a_run_by_its_address_also_where_the_store_lies_below_a_folder_called_runs(suite, machine):
    run, *_ = make_plan(load_suite(str(suite)))
    for url in ("s3://results/runs", "s3://results/runs/own"):
        Store(url).begin({"name": "small"}, [run], {})
        assert run_place(url) == (url, None)
        assert run_place(f"{url}/") == (f"{url}/", None)
        assert run_place(f"{url}/runs/{run.id}/") == (url, run.id)
    for url in ("s3://results/whole", "s3://runs/own"):
        assert run_place(url) == (url, None)
