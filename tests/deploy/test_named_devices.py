"""Lists of devices, and the record of what was measured on one."""

import json
from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibench.deploy.devices import (
    Device,
    DeviceError,
    FileResult,
    load_devices,
    parse_devices,
    read_device_record,
    unnamed,
    write_result,
)
from bibench.deploy.measuring import Measurement, Surroundings
from bibench.deploy.targets import TargetError, parse_target

STATE = Surroundings(governor="performance", kilohertz=1_500_000, millidegrees=40_000)
MEASUREMENT = Measurement(
    schema_version=1,
    threads=1,
    warm_up=0,
    calls=1,
    nanoseconds=(5,),
    peak_bytes=None,
    model_bytes=9,
    isa="neon",
    processor="Cortex",
    cores=4,
    before=STATE,
    after=STATE,
    checksum="0" * 16,
)
PI = Device(name="pi", target="ssh://pi@camera", description="with a heat sink")


def result(digit, **changes):
    content = {
        "file": "a.bibpack",
        "sha256": digit * 64,
        "bytes": 10,
        "run": None,
        "measured_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc),
        "measurements": (MEASUREMENT,),
    }
    return FileResult(**content | changes)


def test_a_list_of_devices(tmp_path):
    path = tmp_path / "devices.yaml"
    path.write_text(
        "devices:\n  - {name: desk, target: local}\n"
        "  - name: pi\n    target: ssh://pi@camera\n    threads: [1, 4]\n    description: with a heat sink\n"
    )
    assert load_devices(path) == (
        Device(name="desk", target="local"),
        Device(name="pi", target="ssh://pi@camera", threads=(1, 4), description="with a heat sink"),
    )
    with pytest.raises(DeviceError, match=r"none\.yaml: can't be read as a list of devices"):
        load_devices(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("devices: []", "line 1: 'devices' is []: "),
        ("device: []", "line 1: 'devices' is missing"),
        ("devices:\n- {name: a}", "line 2: 'devices.0.target' is missing"),
        (
            "devices:\n- name: a\n  target: local\n  thread: [1]",
            "line 4: unknown key 'devices.0.thread'; did you mean 'threads'?",
        ),
        ("devices:\n- name: a\n  target: ssh://-oX", "line 3: 'devices.0.target' is 'ssh://-oX': Value error, target"),
        ("devices:\n- name: a\n  target: local\n  threads: [1, 257]", "line 4: 'devices.0.threads.1' is 257: "),
        ("devices:\n- name: a\n  target: local\n  threads: ['1']", "line 4: 'devices.0.threads.0' is '1': "),
        ("devices:\n- {name: ../a, target: local}", "line 2: 'devices.0.name' is '../a': "),
        ("devices:\n- {name: a, target: local}\n- {name: A, target: local}", "line 1: two devices are called 'a'"),
        ("devices: !!python/name:os.system ''", "line 1: not valid YAML"),
        ("- a", ": expected a mapping with the keys devices"),
    ],
)
def test_other_lists_are_refused(text, said):
    with pytest.raises(DeviceError, match=r"^x\.yaml") as caught:
        parse_devices(text, "x.yaml")
    assert said in str(caught.value)


@settings(max_examples=50, deadline=None)
@given(
    st.from_regex(r"ssh://([a-z_][_.-]{0,3}@)?([a-z0-9][a-z._-]{0,80}|\[[0-9:]{2,9}\])(:[0-9]{1,4})?", fullmatch=True)
)
def test_every_target_gives_a_name_that_a_file_can_have(text):
    try:
        parse_target(text)
    except TargetError:
        return
    name = unnamed(text).name  # validated there
    assert (name[0].isalnum(), "/" in name) == (True, False)


def test_results_are_kept_by_device_and_file(tmp_path):
    first, second = result("a"), result("b", file="b.bibpack", run="digits-bnn")
    path = write_result(tmp_path, PI, "aarch64", first)
    assert path == tmp_path / "devices" / "pi.json"
    write_result(tmp_path, PI, "aarch64", second)
    assert read_device_record(path).results == (first, second)
    again = result("a", bytes=11)
    described = PI.model_copy(update={"description": "without one"})
    write_result(tmp_path, described, "aarch64", again)
    record = read_device_record(path)
    assert (record.device, record.machine, record.results) == (described, "aarch64", (second, again))


def test_a_name_stands_for_one_device(tmp_path):
    path = write_result(tmp_path, PI, "aarch64", result("a"))
    before = path.read_bytes()
    other = PI.model_copy(update={"target": "local"})
    with pytest.raises(DeviceError, match=r"pi\.json is of ssh://pi@camera \(aarch64\), not local \(aarch64\); give"):
        write_result(tmp_path, other, "aarch64", result("b"))
    with pytest.raises(DeviceError, match=r"not ssh://pi@camera \(x86_64\)"):
        write_result(tmp_path, PI, "x86_64", result("b"))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content | {"schema_version": 2}, "schema_version: Input should be 1"),
        (lambda content: content | {"more": 1}, "more: Extra inputs"),
        (lambda content: content | {"device": {"name": "x", "target": "ssh://-oX"}}, "device.target: Value error"),
        (lambda content: content["results"][0].update(sha256="0") or content, "results.0.sha256: "),
        (lambda content: content["results"][0].update(measured_at="2026-01-02T03:04:05") or content, "measured_at"),
        (
            lambda content: content["results"][0]["measurements"][0].update(calls=0) or content,
            "measurements.0.Measurement.calls",
        ),
        (lambda content: [content], "Input should be an object"),
    ],
)
def test_other_records_are_refused(tmp_path, change, said):
    path = write_result(tmp_path, PI, "aarch64", result("a"))
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(DeviceError, match=r"pi\.json: not the record of a device") as caught:
        read_device_record(path)
    assert said in str(caught.value)
    with pytest.raises(DeviceError, match="not the record of a device"):
        write_result(tmp_path, PI, "aarch64", result("a"))
    path.write_text("{")
    with pytest.raises(DeviceError, match=r"\(Invalid JSON.*delete it and measure again"):
        read_device_record(path)
