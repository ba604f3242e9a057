"""``bibench run --measure-on``: what is measured on devices is recorded once, by device, and scored."""

import json
import platform
import shutil
from types import SimpleNamespace

import pytest
import s3fs
from typer.testing import CliRunner

from bibench.bench import claims, device_grid
from bibench.bench.claims import Claims
from bibench.bench.device_grid import DeviceGrid, measure_on_devices
from bibench.bench.plan import make_plan
from bibench.bench.storage import Folder
from bibench.bench.store import Store
from bibench.bench.suite import load_suite
from bibench.bench.worker import Settings, execute
from bibench.cli import app
from bibench.deploy.devices import load_devices, read_device_record
from bibench.deploy.format import PackedError
from bibench.records import Absence
from bibench.report.places import place_tables
from bibench.tracks.places import places
from needed_tools import ENGINE
from object_store import environment, server
from small_runs import suite_file

pytestmark = pytest.mark.skipif(not ENGINE, reason="the engine isn't built")

PLACE = ("device", "threads", "library")


def run(*arguments, status=0):
    result = CliRunner().invoke(app, ["run", *map(str, arguments)])
    assert result.exit_code == status, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    return suite_file(
        tmp_path_factory.mktemp("suite"),
        recipe="{epochs: 1, batch_size: 256}",
        tracks="[theoretical_complexity, hardware_inference]",
    )


@pytest.fixture(scope="module")
def trained(suite, tmp_path_factory):
    """Finished runs of bnn and recu, measured on no device but this machine."""
    out = tmp_path_factory.mktemp("trained") / "out"
    run(suite, "--out", out, "--jobs", 1)
    return out


@pytest.fixture
def out(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "out")


@pytest.fixture
def devices(tmp_path):
    """Write a list of devices."""

    def written(*lines):
        path = tmp_path / "devices.yaml"
        path.write_text("devices:\n" + "".join(f"  - {{{line}}}\n" for line in lines))
        return path

    return written


@pytest.fixture
def runner(tmp_path):
    """A runner for which a call takes as many nanoseconds as the file has bytes, over threads; it notes what it did."""
    path = tmp_path / "runner"
    state = '{"governor": null, "kilohertz": null, "millidegrees": null}'
    path.write_text(
        f"""#!/bin/sh
echo "$@" >> {tmp_path}/asked
[ ! -e {tmp_path}/broken ] || exit 3
time=$(($(wc -c < "$1") / $2))
times=$time
for _ in $(seq 2 "$4"); do times="$times, $time"; done
echo '{{"schema_version": 1, "threads": '$2', "warm_up": '$3', "calls": 1, "nanoseconds": ['$times'],
"peak_bytes": null, "model_bytes": 1000, "isa": "neon", "processor": "Cortex-A72", "cores": 2,
"before": {state}, "after": {state}, "checksum": "0123456789abcdef"}}'
"""
    )
    return path


def asked(runner):
    """The files, threads and repeats that the runner was asked for, and forget them."""
    path = runner.with_name("asked")
    lines = path.read_text().splitlines() if path.exists() else []
    path.unlink(missing_ok=True)
    return [(line.split()[0].rpartition("/")[2], int(line.split()[1]), int(line.split()[3])) for line in lines]


def binarized(out):
    return {record.run.algorithm: record for record in Store(out).records() if record.run.operator is not None}


def latencies(record, name="latency"):
    return {at: figure.value for at, figure in record.figures_under(name, *PLACE).items()}


def test_every_binarized_run_is_measured_on_every_device(suite, out, devices, runner):
    before = {name: latencies(record) for name, record in binarized(out).items()}
    listed = devices("name: pi4, target: local, threads: [1, 4]", "name: desk, target: local")
    result = run(suite, "--out", out, "--measure-on", listed, "--runner", runner)
    lines = [line for line in result.stdout.splitlines() if "(Cortex-A72): digits-" in line]
    assert [line.split(":")[0] for line in lines] == ["pi4 (Cortex-A72)", "desk (Cortex-A72)"] * 2
    turns = [("network.bibpack", 20), ("network1.bibpack", 20), ("network1.bibpack", 21), ("network.bibpack", 21)]
    found = asked(runner)
    assert [(name, count) for name, _, count in found] == turns * 6
    assert [threads for _, threads, _ in found[:12]] == [1] * 4 + [4] * 4 + [1] * 4
    for name, record in binarized(out).items():
        own, full = latencies(record), latencies(record, "full_precision_latency")
        size = record.figure("packed_bytes").value
        new = {at: value for at, value in own.items() if at not in before[name]}
        assert new == pytest.approx(
            {
                ("pi4 (Cortex-A72)", "1", "bibench (neon)"): size / 1e6,
                ("pi4 (Cortex-A72)", "4", "bibench (neon)"): size // 4 / 1e6,
                ("desk (Cortex-A72)", "1", "bibench (neon)"): size / 1e6,
            }
        )
        assert before[name].items() <= own.items()  # this machine's own
        full_size = full["pi4 (Cortex-A72)", "1", "bibench (neon)"] * 1e6
        assert full_size > record.figure("full_precision_bytes").value  # a file of its own, with the same parameters
        taken = record.figures_under("latency", *PLACE)["pi4 (Cortex-A72)", "4", "bibench (neon)"]
        assert (taken.unit, taken.samples, taken.higher_is_better) == ("ms", 41, False)
        cores = record.figures_under("cores", *PLACE)
        assert cores["pi4 (Cortex-A72)", "4", "bibench (neon)"].value == 2
        kept = read_device_record(out / "devices" / "pi4.json")
        (result_,) = [one for one in kept.results if one.run == record.id]
        assert [one.threads for one in result_.measurements] == [1, 1, 4, 4]
        assert result_.bytes == size
    # the mean over all places, this machine's own included, each alike
    scores = json.loads(CliRunner().invoke(app, ["score", str(out), "--json"]).stdout)
    (speedup,) = [
        s for s in scores if (s["track"], s["metric"], s["algorithm"]) == ("hardware_inference", "speedup", "bnn")
    ]
    record = binarized(out)["bnn"]
    full = latencies(record, "full_precision_latency")
    ratios = [full[at] / value for at, value in latencies(record).items()]
    assert len(ratios) == 4
    assert speedup["value"] == pytest.approx(sum(ratios) / 4)
    assert speedup["note"] == "more threads than cores: 4 on pi4 (Cortex-A72) with 2"


def test_the_report_and_the_score_show_it_by_device(suite, out, devices, runner):
    listed = devices("name: pi4, target: local, threads: [4]")
    text = run(suite, "--out", out, "--measure-on", listed, "--runner", runner).stdout
    assert "hardware_inference by device: digits_cnn on digits, one seed" in text
    results = Store(out).results()
    (table,) = place_tables(results, places(results))
    assert list(table.rows)[1] == "pi4 (Cortex-A72), threads: 4 on 2 cores, bibench (neon)"
    assert list(table.rows)[1] in text
    page = (out / "report.html").read_text()
    assert "pi4 (Cortex-A72), threads: 4 on 2 cores" in page
    assert "Speedup against computing power" in page


def test_what_is_measured_is_not_measured_again(suite, out, devices, runner):
    first = devices("name: pi4, target: local")
    run(suite, "--out", out, "--measure-on", first, "--runner", runner)
    assert len(asked(runner)) == 8
    before = {name: latencies(record) for name, record in binarized(out).items()}
    run(suite, "--out", out, "--measure-on", first, "--runner", runner)
    assert asked(runner) == []
    more = devices("name: pi4, target: local, threads: [1, 2]")
    run(suite, "--out", out, "--measure-on", more, "--runner", runner, "--only", "algorithm=recu")
    assert {threads for _, threads, _ in asked(runner)} == {2}
    assert latencies(binarized(out)["bnn"]) == before["bnn"]
    assert len(latencies(binarized(out)["recu"])) == len(before["recu"]) + 1


def test_the_suite_says_on_how_many_threads(trained, tmp_path, devices, runner):
    """For devices that name none, and for this machine."""
    suite = suite_file(
        tmp_path,
        recipe="{epochs: 1, batch_size: 256}",
        algorithms="[bnn]",
        tracks="[hardware_inference]",
        measure="{threads: [1, 2]}",
    )
    listed = devices("name: pi4, target: local", "name: pi5, target: local, threads: [3]")
    run(suite, "--out", tmp_path / "out", "--jobs", 1, "--measure-on", listed, "--runner", runner)
    found = [(device.split()[0], threads) for device, threads, _ in latencies(binarized(tmp_path / "out")["bnn"])]
    assert found[2:] == [("pi4", "1"), ("pi4", "2"), ("pi5", "3")]
    assert [threads for _, threads in found[:2]] == ["1", "2"]


def test_a_device_that_fails_leaves_no_trace_and_does_not_stop_the_others(suite, out, devices, runner):
    before = {name: record.figures for name, record in binarized(out).items()}
    listed = devices("name: gone, target: 'ssh://nobody@127.0.0.1:1'", "name: pi4, target: local")
    runner.with_name("broken").touch()
    result = run(suite, "--out", out, "--measure-on", listed, "--runner", runner, status=1)
    errors = result.stderr.splitlines()
    assert errors[0].startswith("error: gone is left out: ssh://nobody@127.0.0.1:1: the connection failed: ")
    ids = [record.id for record in binarized(out).values()]
    assert sorted(errors[1:]) == sorted(f"error: pi4: {name}: local: the runner failed: status 3" for name in ids)
    assert {name: record.figures for name, record in binarized(out).items()} == before
    assert list(out.glob("devices/**/*.*")) == []
    asked(runner)
    runner.with_name("broken").unlink()
    result = run(suite, "--out", out, "--measure-on", listed, "--runner", runner, status=1)
    assert result.stderr.count("\n") == 1
    assert len(asked(runner)) == 8
    assert [path.name for path in out.glob("devices/**/*.*")] == ["pi4.json"]


def test_a_device_that_vanishes_is_left_out(suite, out, devices, runner, monkeypatch):
    answers = iter(["x86_64"])

    def machine_of(target):
        try:
            return next(answers)
        except StopIteration:
            raise device_grid.TargetError("local: it is gone") from None

    monkeypatch.setattr(device_grid, "machine_of", machine_of)
    runner.with_name("broken").touch()
    result = run(suite, "--out", out, "--measure-on", devices("name: pi4, target: local"), "--runner", runner, status=1)
    first, second = result.stderr.splitlines()
    assert first.endswith("local: the runner failed: status 3")
    assert second == "error: pi4 is left out: local: it is gone"
    assert len(asked(runner)) == 1


def test_a_device_that_no_runner_fits_is_left_out_once(suite, out, devices, monkeypatch, tmp_path):
    monkeypatch.setattr(device_grid, "machine_of", lambda target: "pdp11")
    (out / "report.html").unlink()
    result = run(suite, "--out", out, "--measure-on", devices("name: pi4, target: local"), status=1)
    assert result.stderr.startswith("error: pi4 is left out: local: no runner for pdp11 came with this installation (")
    assert result.stderr.count("\n") == 1
    assert (out / "report.html").exists()


def test_another_device_of_the_same_name_is_refused(suite, out, devices, runner):
    run(suite, "--out", out, "--measure-on", devices("name: pi4, target: local"), "--runner", runner)
    asked(runner)
    path = out / "devices" / "pi4.json"
    path.write_text(path.read_text().replace('"target": "local"', '"target": "ssh://pi@camera"'))
    listed = devices("name: pi4, target: local, threads: [2]")
    result = run(suite, "--out", out, "--measure-on", listed, "--runner", runner, status=1)
    machine = platform.machine()
    assert result.stderr.startswith(
        f"error: pi4 is left out: {path} is of ssh://pi@camera ({machine}), not local ({machine}); give the device"
    )
    assert asked(runner) == []


def test_runs_that_nothing_here_could_measure_get_their_figures(suite, out, devices, runner):
    """Such as those of a GPU."""
    store = Store(out)
    for record in binarized(out).values():
        absences = tuple(
            Absence(name=name, status="not_measured", reason="on a GPU") for name in ("latency", "storage_compression")
        )
        figures = tuple(
            one for one in record.figures if "latency" not in one.name and one.unit not in ("ratio", "bytes")
        )
        changed = record.model_copy(update={"figures": figures, "absences": absences})
        (store.folder(record.id) / "record.json").write_text(changed.model_dump_json())
    run(suite, "--out", out, "--measure-on", devices("name: pi4, target: local"), "--runner", runner)
    for record in binarized(out).values():
        assert record.absences == ()
        size = record.figure("packed_bytes").value
        assert latencies(record) == {("pi4 (Cortex-A72)", "1", "bibench (neon)"): pytest.approx(size / 1e6)}
        full = record.figure("full_precision_bytes").value
        assert record.figure("storage_compression").value == pytest.approx(full / size)


@pytest.mark.slow
def test_what_other_machines_have_run_is_measured(suite, devices, runner, tmp_path, monkeypatch):
    """As after ``--executor ray``: this machine's mirror of the bucket has none of the results yet."""
    with server() as port:
        for name, value in environment(port).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        settings = Settings(out="s3://results/elsewhere", tracks=("hardware_inference",))
        plan = [one for one in make_plan(load_suite(str(suite))) if one.algorithm in ("fp32", "bnn")]
        Store(settings.out).begin({"name": "small"}, plan, {})
        monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "node"))
        for one in plan:
            assert execute(one, settings).status == "ok"
        monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "here"))
        grid = DeviceGrid(devices=load_devices(devices("name: pi4, target: local")), runners=(runner,))
        told = []
        measure_on_devices(plan, settings, grid, told=told.append, failed=pytest.fail)
        assert [line.split(":")[0] for line in told] == ["pi4 (Cortex-A72)"]
        monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "a third"))
        store = Store.open(settings.out)
        assert ("pi4 (Cortex-A72)", "1", "bibench (neon)") in latencies(store.record(plan[-1].id))
        assert (store.root / "devices" / "pi4.json").is_file()


def test_what_was_added_meanwhile_stays(suite, out, devices, runner, monkeypatch):
    """Another process takes a run over, and adds to its record, while this one is about to."""
    before = binarized(out)["bnn"]
    original = Store.amend
    other = Store(out)

    def meanwhile(store, record, claim):
        monkeypatch.setattr(Store, "amend", original)
        found = other.record(record.id)
        taken = other.claims.take(record.id, takeover=claim.token)
        other.amend(found.model_copy(update={"notes": (*found.notes, "added")}), taken)
        store.amend(record, claim)

    monkeypatch.setattr(Store, "amend", meanwhile)
    listed = devices("name: pi4, target: local")
    run(suite, "--out", out, "--measure-on", listed, "--runner", runner, "--only", "algorithm=bnn")
    record = binarized(out)["bnn"]
    assert record.notes == (*before.notes, "added")
    assert ("pi4 (Cortex-A72)", "1", "bibench (neon)") in latencies(record)


def test_a_device_on_which_another_process_measures_is_waited_for(suite, out, devices, runner, monkeypatch):
    """And what that one has measured isn't measured again."""
    given = (suite, "--out", out, "--measure-on", devices("name: pi4, target: local"), "--runner", runner)
    other = Claims(Folder(out), "devices").take("pi4")
    done = []

    def meanwhile(seconds):
        done.append(asked(runner))
        other.finish()
        run(*given)
        done.append(asked(runner))

    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=meanwhile))
    run(*given)
    assert [len(calls) for calls in done] == [0, 8]
    assert asked(runner) == []
    assert [path.name for path in out.glob("devices/**/*.*")] == ["pi4.json"]


def test_what_cannot_be_packed_is_recorded_once(suite, out, devices, runner, monkeypatch):
    def export_run(config, model, path, **settings):
        if config.algorithm == "bnn":
            raise PackedError(f"{path}: it has a part that nothing packs")
        return original(config, model, path, **settings)

    original = device_grid.export_run
    monkeypatch.setattr(device_grid, "export_run", export_run)
    listed = devices("name: pi4, target: local")
    run(suite, "--out", out, "--measure-on", listed, "--runner", runner)
    assert len(asked(runner)) == 4
    reason = "it has a part that nothing packs"
    assert {one.name: (one.status, one.reason) for one in binarized(out)["bnn"].absences} == {
        "latency": ("not_deployable", reason),
        "storage_compression": ("not_deployable", reason),
    }
    monkeypatch.setattr(device_grid, "export_run", None)  # it isn't tried again
    run(suite, "--out", out, "--measure-on", listed, "--runner", runner)


def test_what_is_refused(suite, tmp_path, devices, runner):
    def said(*arguments):
        result = run(*arguments, "--out", tmp_path / "none", status=2)
        assert not (tmp_path / "none").exists()
        return result.stderr

    assert "--runner: only with --measure-on" in said(suite, "--runner", runner)
    assert "--ssh-config: only with --measure-on" in said(suite, "--ssh-config", runner)
    listed = devices("name: a, target: local")
    assert f"{tmp_path}/no: can't be read (No such file" in said(
        suite, "--measure-on", listed, "--runner", runner, "--runner", tmp_path / "no"
    )
    assert "can't be read as a list of devices" in said(suite, "--measure-on", tmp_path / "no.yaml")
    assert "line 2: 'devices.0.target' is missing" in said(suite, "--measure-on", devices("name: a, targt: local"))
    other = suite_file(tmp_path, name="other", tracks="[learning_task]")
    assert "suite 'other' doesn't score hardware_inference" in said(
        other, "--measure-on", devices("name: a, target: local")
    )
