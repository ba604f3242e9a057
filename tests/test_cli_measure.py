"""The command that measures on devices: what it prints, its JSON, what it keeps, and what it refuses."""

import json
import platform
import re
from types import SimpleNamespace

import numpy as np
import pytest
import s3fs

from bibench.bench import claims
from bibench.bench.claims import Claims
from bibench.bench.storage import Folder
from bibench.bench.store import Store
from bibench.deploy import measuring
from bibench.deploy.devices import read_device_record
from needed_tools import need_runner, need_tool
from object_store import environment, server
from packed_programs import linear, written
from test_cli import call, refused


@pytest.fixture
def network(tmp_path):
    return written(tmp_path, linear(np.ones((4, 16), np.float32), (16,), run="digits-bnn"))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder where this machine's folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


@pytest.fixture
def store(tmp_path):
    """A folder of results, without any."""
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / "suite.json").write_text('{"name": "small"}')
    return folder


@pytest.fixture
def runner(tmp_path):
    """A runner that always says the same of any number of threads."""
    path = tmp_path / "runner"
    state = '{"governor": "schedutil", "kilohertz": 1800000, "millidegrees": 41000}'
    path.write_text(
        f"""#!/bin/sh
echo '{{"schema_version": 1, "threads": '$2', "warm_up": '$3', "calls": 2, "nanoseconds": [4000000, 8000000, 6000000],
"peak_bytes": 9100000, "model_bytes": 1000, "isa": "neon", "processor": "Cortex-A72", "cores": 2, "before": {state},
"after": {state.replace("41000", "52600")}, "checksum": "0123456789abcdef"}}'
"""
    )
    return path


def test_the_table(network, runner, temporary):
    lines = call("measure", network, "--threads", "1,4", "--repeats", 3, "--runner", runner).stdout.splitlines()
    assert lines[0] == (
        f"{network} on local: Cortex-A72, {platform.machine()}, neon; medians over 3 repeats of one sample"
    )
    assert re.split(r"  +", lines[1].strip()) == [
        *("threads", "median", "middle half", "a second", "peak memory", "governor", "clock", "temperature")
    ]
    for line, threads in zip(lines[2:4], ("1", "4"), strict=True):
        assert re.split(r"  +", line.strip()) == [
            *(threads, "3.00 ms", "2.50 ms to 3.50 ms", "333", "9.10 MB", "schedutil", "1.80 GHz", "41 °C, then 53 °C")
        ]
    assert lines[4:] == ["note: 4 threads on 2 cores"]
    assert list(temporary.iterdir()) == []


def test_json_and_the_kept_record(network, runner, store, temporary):
    text = call("measure", network, "--repeats", 3, "--runner", runner, "--out", store, "--json").stdout
    (found,) = json.loads(text)
    assert (found["device"], found["target"], found["machine"]) == ("local", "local", platform.machine())
    assert (found["file"], found["bytes"], found["run"]) == ("model.bibpack", network.stat().st_size, "digits-bnn")
    (row,) = found["measurements"]
    seconds = row["seconds"]
    assert seconds.pop("quartiles") == pytest.approx([0.0025, 0.0035])
    assert seconds == pytest.approx({"median": 0.003, "lowest": 0.002, "highest": 0.004})
    record = read_device_record(store / "devices" / "local.json")
    (kept,) = record.results
    assert kept.model_dump(mode="json") == {
        key: [{k: v for k, v in row.items() if k != "seconds"}] if key == "measurements" else value
        for key, value in found.items()
        if key not in ("device", "target", "machine")
    }
    assert Store.open(store).records() == []
    again = call("measure", network, "--repeats", 3, "--runner", runner, "--out", store).stdout
    assert again.splitlines()[-1] == f"kept in {store / 'devices' / 'local.json'}"
    assert len(read_device_record(store / "devices" / "local.json").results) == 1


def test_this_machine_for_real(network, temporary):
    need_runner()
    (found,) = json.loads(call("measure", network, "--threads", "1,2", "--repeats", 4, "--warm-up", 0, "--json").stdout)
    assert [(row["threads"], row["warm_up"], len(row["nanoseconds"])) for row in found["measurements"]] == [
        (1, 0, 4),
        (2, 0, 4),
    ]
    assert list(temporary.iterdir()) == []


def test_an_arm_device_gets_the_runner_that_came_with_the_package(network, temporary, tmp_path, monkeypatch):
    """With this machine in its place, which says that it is one, and emulates what is put there."""
    need_runner("aarch64")
    qemu = need_tool("qemu-aarch64", "qemu-user")
    (here,) = json.loads(call("measure", network, "--repeats", 3, "--json").stdout)
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (
        ("uname", "echo aarch64"),
        ("chmod", f'/bin/chmod "$@"; case "$2" in */runner) mv "$2" "$2.arm"; cp {tools}/emulated "$2";; esac'),
        ("emulated", f'exec {qemu} "$0.arm" "$@"'),
    ):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o700)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    (there,) = json.loads(call("measure", network, "--repeats", 3, "--json").stdout)
    assert there["machine"] == "aarch64"
    (one,), (other,) = here["measurements"], there["measurements"]
    assert (other["isa"], other["checksum"]) == ("neon", one["checksum"])
    assert list(temporary.iterdir()) == []


@pytest.fixture
def devices(tmp_path):
    path = tmp_path / "devices.yaml"
    path.write_text(
        "devices:\n  - {name: desk, target: local, threads: [2, 1]}\n  - {name: gone, target: 'ssh://nobody@127.0.0.1:1'}\n"
        "  - {name: table, target: local}\n"
    )
    return path


def test_one_device_that_fails_does_not_stop_the_others(network, runner, devices, store, temporary):
    arguments = ["measure", network, "--devices", devices, "--repeats", 3, "--runner", runner, "--out", store]
    result = call(*arguments, status=1)
    assert result.stderr.startswith("error: ssh://nobody@127.0.0.1:1: ")
    assert result.stderr.count("\n") == 1
    assert [line for line in result.stdout.splitlines() if " on " in line and "medians" in line] == [
        f"{network} on {name} (local): Cortex-A72, {platform.machine()}, neon; medians over 3 repeats of one sample"
        for name in ("desk", "table")
    ]
    assert sorted(path.name for path in store.rglob("*.json")) == ["desk.json", "suite.json", "table.json"]
    (kept,) = read_device_record(store / "devices" / "desk.json").results
    assert [one.threads for one in kept.measurements] == [2, 1]
    rows = json.loads(call(*arguments, "--json", status=1).stdout)
    assert [(row["device"], "error" in row) for row in rows] == [("desk", False), ("gone", True), ("table", False)]
    assert (
        call("measure", network, "--devices", devices, "--target", "table", "--repeats", 3, "--runner", runner).stderr
        == ""
    )


def test_a_name_that_is_taken_is_found_before_anything_is_measured(network, runner, devices, store, temporary):
    asked = runner.with_name("asked")
    runner.write_text(runner.read_text().replace("#!/bin/sh\n", f"#!/bin/sh\necho >> {asked}\n"))
    given = ["measure", network, "--repeats", 3, "--runner", runner, "--out", store, "--devices", devices, "--json"]
    call(*given, status=1)
    path = store / "devices" / "desk.json"
    path.write_text(path.read_text().replace('"target": "local"', '"target": "ssh://pi@camera"'))
    asked.unlink()
    result = call(*given, status=1)
    said = (
        f"{path} is of ssh://pi@camera ({platform.machine()}), not local ({platform.machine()}); give the device a name"
    )
    assert result.stderr.startswith(f"error: {said}")
    desk, gone, table = json.loads(result.stdout)
    assert desk["error"].startswith(said)
    assert ("error" in gone, len(table["measurements"])) == (True, 1)
    assert asked.read_text() == "\n"


def test_it_waits_for_who_measures_there_for_the_same_results(network, runner, store, temporary, monkeypatch):
    other = Claims(Folder(store), "devices").take("local")
    waited = []

    def wait(seconds):
        waited.append([path.name for path in store.glob("devices/**/*.*")])
        other.finish()

    monkeypatch.setattr(claims, "time", SimpleNamespace(sleep=wait))
    call("measure", network, "--repeats", 3, "--runner", runner, "--out", store)
    assert waited == [["claim-000001.json"]]
    assert [path.name for path in store.glob("devices/**/*.*")] == ["local.json"]


def test_a_failure_is_not_kept(network, tmp_path, store, temporary):
    bad = tmp_path / "bad"
    bad.write_text("#!/bin/sh\necho hello\n")
    text = refused("measure", network, "--runner", bad, "--out", store, status=1)
    assert text.startswith("local: what the runner printed is no measurement (")
    assert [path.name for path in store.rglob("*") if path.is_file()] == ["suite.json"]
    assert list(temporary.iterdir()) == []


def test_who_stops_it_is_told_what_is_left(network, runner, tmp_path, temporary, monkeypatch):
    def stopped(text):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "parse_measurement", stopped)
    assert call("measure", network, "--runner", runner, status=130).stderr.startswith("stopped; ")
    assert list(temporary.iterdir()) == []
    (tmp_path / "rm").write_text("#!/bin/sh\necho stuck >&2\nexit 1\n")
    (tmp_path / "rm").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    first, second = call("measure", network, "--runner", runner, status=130).stderr.splitlines()
    (left,) = temporary.iterdir()
    assert first == f"error: local: {left} can't be removed there: stuck"
    assert second.startswith("stopped; ")


@pytest.mark.slow
def test_an_object_store_keeps_it(network, runner, tmp_path, temporary, monkeypatch):
    with server() as port:
        for name, value in (environment(port) | {"BIBENCH_CACHE": str(tmp_path / "here")}).items():
            monkeypatch.setenv(name, value)
        s3fs.S3FileSystem.clear_instance_cache()
        url = "s3://results/measured"
        s3fs.S3FileSystem().pipe(f"{url}/suite.json", b'{"name": "small"}')
        lines = call("measure", network, "--repeats", 3, "--runner", runner, "--out", url).stdout.splitlines()
        assert lines[-1] == f"kept in {url}/devices/local.json"
        monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path / "elsewhere"))
        (result,) = read_device_record(Store.open(url).root / "devices" / "local.json").results
        assert result.file == "model.bibpack"


def test_what_is_refused(network, runner, devices, tmp_path):
    assert "expected local, ssh://user@host" in refused("measure", network, "--target", "ssh://-oProxyCommand=id")
    assert "expected local, ssh://user@host" in refused("measure", network, "--target", "desk")
    assert refused("measure", network, "--devices", devices, "--target", "dsk") == (
        f"{devices} names no device 'dsk'; did you mean 'desk'? (it has desk, gone, table)"
    )
    for threads in ("0", "257", "1,1", "", "1,", "a", "-1", "1.5", "²", "9" * 5000):
        assert "expected numbers from 1 to 256" in refused("measure", network, f"--threads={threads}")
    assert "no results here" in refused("measure", network, "--out", tmp_path)
    assert "can't be read" in refused("measure", tmp_path / "none")
    assert "not a packed file" in refused("measure", devices)
    none = refused("measure", network, "--devices", devices, "--runner", runner, "--runner", tmp_path / "none")
    assert none == f"{tmp_path}/none: can't be read (No such file or directory); it was to measure on devices"
