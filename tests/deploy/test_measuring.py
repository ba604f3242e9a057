"""A packed file measured on a machine: with the real runner here, behind ssh and emulated, and with false ones."""

import json
import platform
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from adb_server import SERIAL, adb_server
from hypothesis import given, settings
from hypothesis import strategies as st
from ssh_server import ssh_server
from test_targets import during

from bibench.deploy import measuring
from bibench.deploy.measuring import (
    Measurement,
    check_runners,
    joined,
    machine_of,
    measure_in_turns,
    measure_on,
    parse_measurement,
)
from bibench.deploy.packed import load_packed
from bibench.deploy.targets import TargetError, parse_target
from needed_tools import need_runner, need_tool
from packed_programs import linear, written

ROOT = Path(__file__).parents[2]
LOCAL = parse_target("local")
STATE = {"governor": None, "kilohertz": 1_800_000, "millidegrees": -1000}
SAID = {
    "schema_version": 1,
    "threads": 1,
    "warm_up": 2,
    "calls": 10,
    "nanoseconds": [4000, 2000, 3000],
    "peak_bytes": None,
    "model_bytes": 1000,
    "isa": "neon",
    "processor": None,
    "cores": 4,
    "before": STATE,
    "after": STATE | {"governor": "schedutil"},
    "checksum": "0123456789abcdef",
}


@pytest.fixture
def network(tmp_path):
    return written(tmp_path, linear(np.ones((4, 16), np.float32), (16,)))


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    """The folder where this machine's folders are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def script(folder, text):
    """A runner that is none: a shell script."""
    path = folder / "runner.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    return path


def measured(network, *runners, target=LOCAL, threads=(1,), machine=None):
    return measure_on(
        target, network, threads, machine=machine or platform.machine(), repeats=3, warm_up=2, runners=runners
    )


def test_what_a_runner_says():
    found = parse_measurement(json.dumps(SAID))
    assert found.latency.seconds == pytest.approx((4e-7, 2e-7, 3e-7))
    assert (found.latency.median, found.latency.calls) == (pytest.approx(3e-7), 10)
    assert found.after.governor == "schedutil"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"nanoseconds": [1, 0]}, "nanoseconds.1: Input should be greater than 0"),
        ({"nanoseconds": [1, 10**15]}, "nanoseconds.1: Input should be less than"),
        ({"nanoseconds": [1.5]}, "nanoseconds.0: Input should be a valid integer"),
        ({"nanoseconds": ["1"]}, "nanoseconds.0: Input should be a valid integer"),
        ({"nanoseconds": []}, "nanoseconds: "),
        ({"nanoseconds": [1] * 10_001}, "nanoseconds: "),
        ({"calls": 0}, "calls: "),
        ({"threads": 257}, "threads: "),
        ({"threads": True}, "threads: "),
        ({"peak_bytes": -1}, "peak_bytes: "),
        ({"isa": "neon\n"}, "isa: "),
        ({"processor": "a\x1b[2Jb"}, "processor: "),
        ({"processor": "x" * 201}, "processor: "),
        ({"checksum": "0123"}, "checksum: "),
        ({"before": STATE | {"kilohertz": 0}}, "before.kilohertz: "),
        ({"before": STATE | {"fan": 1}}, "before.fan: Extra inputs"),
        ({"more": 1}, "more: Extra inputs"),
        ({"\x1b[2J" * 30: 1}, r"\x1b[2J"),
    ],
)
def test_what_no_runner_says(changes, said):
    with pytest.raises(ValueError, match=rf"^{re.escape(said)}"):
        parse_measurement(json.dumps(SAID | changes))


@pytest.mark.parametrize("key", SAID)
def test_nothing_may_be_missing(key):
    with pytest.raises(ValueError, match=f"^{key}: Field required"):
        parse_measurement(json.dumps({name: value for name, value in SAID.items() if name != key}))


@settings(max_examples=50, deadline=None)
@given(
    st.text()
    | st.recursive(st.none() | st.integers() | st.floats(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        json.dumps
    )
)
def test_garbage_is_refused(text):
    with pytest.raises(ValueError, match=r"\S"):
        parse_measurement(text)


def test_a_machine_of_another_kind(monkeypatch, tmp_path):
    assert machine_of(LOCAL) == platform.machine()
    (tmp_path / "uname").write_text("#!/bin/sh\nprintf 'riscv64\\033[2J'\n")
    (tmp_path / "uname").chmod(0o700)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(
        TargetError, match=r"local: its processor is 'riscv64\\x1b\[2J'; the packed engine runs on x86_64"
    ):
        machine_of(LOCAL)


def test_what_the_runner_is_asked_for(network, tmp_path, temporary):
    answer = json.dumps(SAID).replace('"threads": 1', '"threads": \'"$2"\'')
    runner = script(tmp_path, f"""echo "$@" >> {tmp_path}/asked; cmp -s "$1" {network} && echo '{answer}'""")
    found = measured(network, runner, threads=(1, 4, 2))
    assert [one.threads for one in found] == [1, 4, 2]
    asked = (tmp_path / "asked").read_text().split("\n")[:-1]
    assert [line.split()[1:] for line in asked] == [[count, "2", "3"] for count in ("1", "4", "2")]
    assert asked[0].startswith(f"{temporary}/bibench.")
    assert list(temporary.iterdir()) == []


def test_two_files_take_turns(network, tmp_path, temporary):
    other = written(tmp_path, linear(np.ones((8, 16), np.float32), (16,)), "other.bibpack")
    said = (
        json.dumps(SAID | {"threads": "T", "nanoseconds": "N"})
        .replace('"T"', "'$2'")
        .replace('"N"', """['"$times"']""")
    )
    runner = script(
        tmp_path,
        f"""cmp -s "$1" {network} && which=own || which=other
echo "$which $2 $3 $4" >> {tmp_path}/asked
time=$(($(wc -l < {tmp_path}/asked) * 1000))
[ "$4" = 2 ] && times="$time, $time" || times="$time, $time, $time"
echo '{said}'""",
    )
    own, full = measure_in_turns(
        LOCAL, (network, other), (1, 4), machine=platform.machine(), repeats=5, warm_up=2, runners=(runner,)
    )
    order = ("own 2", "other 2", "other 3", "own 3")
    asked = [line.split() for line in (tmp_path / "asked").read_text().splitlines()]
    assert [(f"{which} {count}", threads) for which, threads, _, count in asked] == [
        (turn, threads) for threads in ("1", "4") for turn in order
    ]
    assert [(one.threads, len(one.nanoseconds)) for one in own] == [(1, 2), (1, 3), (4, 2), (4, 3)]
    assert [(one.threads, len(one.nanoseconds)) for one in full] == [(1, 2), (1, 3), (4, 2), (4, 3)]
    # each call in the order of the turns takes 1,000 ns more, and a repeat is 10 calls
    assert joined(own, 1).seconds == pytest.approx((1e-7, 1e-7, 4e-7, 4e-7, 4e-7))
    assert joined(full, 4).seconds == pytest.approx((6e-7, 6e-7, 7e-7, 7e-7, 7e-7))
    with pytest.raises(ValueError, match="empty"):
        joined(own, 2)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo hello", r"what the runner printed is no measurement \(Invalid JSON: .*is it bibench's own, and of this"),
        ("true", "what the runner printed is no measurement"),
        ("yes", "runner: stopped after 1,048,576 bytes of output"),
        (
            f"echo '{json.dumps(SAID | {'threads': 2})}'",
            "3 repeats on threads: 2, after 2 calls; asked for were 3, 1 and 2",
        ),
        (f"echo '{json.dumps(SAID | {'nanoseconds': [1]})}'", "the runner measured 1 repeats"),
        (f"echo '{json.dumps(SAID)}'; exit 4", "the runner failed: status 4"),
        ("echo 'bad file' >&2; exit 1", "the runner failed: bad file$"),
        ("kill -9 $$", "the runner was ended by signal 9; is there enough memory"),
    ],
)
def test_a_runner_that_does_something_else(network, tmp_path, temporary, text, said):
    with pytest.raises(TargetError, match=f"^local: .*{said}"):
        measured(network, script(tmp_path, text))
    assert list(temporary.iterdir()) == []


def test_a_runner_that_takes_too_long(network, tmp_path, temporary, monkeypatch):
    monkeypatch.setattr(measuring, "_SECONDS", 0.2)
    with pytest.raises(TargetError, match=r"runner: no answer within 0\.2 s"):
        measured(network, script(tmp_path, "exec sleep 60"))
    assert list(temporary.iterdir()) == []


def test_a_runner_for_another_processor(network, tmp_path, temporary):
    program = tmp_path / "program"
    for number, name in ((183, "aarch64"), (62, "x86_64"), (243, r"another architecture \(number 243\)")):
        program.write_bytes(b"\x7fELF" + bytes(14) + number.to_bytes(2, "little") + bytes(100))
        machine = "aarch64" if number == 62 else "x86_64"
        with pytest.raises(TargetError, match=rf"of type {machine}; \S*/program is for {name}; name one that fits"):
            measured(network, program, machine=machine)
    script_too = script(tmp_path, f"echo '{json.dumps(SAID)}'")
    assert len(measured(network, program, script_too, machine="x86_64")) == 1
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(TargetError, match=rf"^{path}: can't be read \((No such file|Is a directory)"):
            measured(network, path)
        with pytest.raises(TargetError, match=rf"^{path}: can't be read"):
            check_runners([script_too, path])
    with pytest.raises(
        TargetError, match=r"local: no runner for pdp11 came with .* pdp11-linux-gnu-g\+\+ is, or build one"
    ):
        measured(network, machine="pdp11")
    program.write_bytes(b"\x7fELF" + bytes(14) + (62).to_bytes(2, "little") + bytes(100))
    with pytest.raises(TargetError, match=r"runner can't be started: Exec format error"):
        measured(network, program, machine="x86_64")
    assert list(temporary.iterdir()) == []


def test_this_machine_is_measured(network, temporary):
    need_runner()
    one, two = measured(network, threads=(1, 2))
    isa = load_packed(network).isa
    assert ([one.threads, two.threads], one.isa, one.processor is not None) == ([1, 2], isa, True)
    assert one.model_bytes == load_packed(network).memory < one.peak_bytes < 100_000_000
    assert one.checksum == two.checksum
    assert one.calls > 1  # it takes far less than half a millisecond
    assert list(temporary.iterdir()) == []


def test_a_device_behind_adb_is_measured(network, tmp_path, monkeypatch):
    need_runner()
    (here,) = measured(network)
    with adb_server(tmp_path / "tmp") as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        where = parse_target(f"adb://{SERIAL}")
        (there,) = measured(network, target=where, machine=machine_of(where))
        assert (there.checksum, there.isa) == (here.checksum, here.isa)
        assert list(server.temporary.iterdir()) == []


def test_a_device_that_vanishes_while_it_measures(network, tmp_path, monkeypatch):
    started = tmp_path / "started"
    with adb_server(tmp_path / "tmp") as server:
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(server.port))
        thread = during(started, lambda: server.unplug(for_good=False))
        with pytest.raises(TargetError, match=rf"^adb://{SERIAL}: the connection failed: it ended in the middle$"):
            measured(
                network, script(tmp_path, f"touch {started}; exec sleep 2"), target=parse_target(f"adb://{SERIAL}")
            )
        thread.join()
        assert list(server.temporary.iterdir()) == []


@pytest.mark.slow
def test_a_machine_behind_ssh_is_measured(network, tmp_path):
    need_runner()
    (here,) = measured(network)
    with ssh_server(tmp_path / "server") as server:
        where = parse_target(server.target, ssh_config=server.config)
        (there,) = measured(network, target=where, machine=machine_of(where))
        assert (there.checksum, there.isa, there.processor) == (here.checksum, here.isa, here.processor)
        refused = tmp_path / "refused.bibpack"
        refused.write_text("no network")
        with pytest.raises(TargetError, match=r"^ssh://.*: the runner failed: \S*/network.bibpack: not a packed file"):
            measured(refused, target=where)
        program = tmp_path / "program"
        program.write_bytes(b"\x00\x01\x02\x03" * 100)
        with pytest.raises(TargetError, match=r"^ssh://.*: the runner (can't be executed there|failed)"):
            measured(network, program, target=where)
        assert list(server.temporary.iterdir()) == []


@pytest.fixture(scope="module")
def arm_runner(tmp_path_factory):
    """The runner for 64-bit ARM, built by the command of docs/devices.md."""
    need_tool("aarch64-linux-gnu-g++", "g++-aarch64-linux-gnu")
    need_tool("cmake", "cmake")
    text = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"<!-- runner command -->\n```bash\n(.*?)\n```", text, re.DOTALL)
    folder = tmp_path_factory.mktemp("arm")
    done = subprocess.run(["sh", "-c", command.replace("OUT", str(folder))], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bibench_runner_aarch64"


@pytest.mark.slow
@pytest.mark.parametrize("origin", ["the command", "the package"])
def test_arm_emulated_gives_the_same_outputs(origin, network, tmp_path, temporary, request):
    need_runner()
    arm_runner = need_runner("aarch64") if origin == "the package" else request.getfixturevalue("arm_runner")
    qemu = need_tool("qemu-aarch64", "qemu-user")
    (found,) = measured(network, script(tmp_path, f'exec {qemu} {arm_runner} "$@"'))
    (here,) = measured(network)
    assert (found.isa, here.checksum) == ("neon", found.checksum)
    assert found.model_bytes > 0
    if platform.machine() == "x86_64":
        with pytest.raises(TargetError, match=r"of type x86_64; \S*bibench_runner_aarch64 is for aarch64"):
            measured(network, arm_runner)
    static = subprocess.run([shutil.which("readelf") or "readelf", "-l", arm_runner], capture_output=True, text=True)
    assert "INTERP" not in static.stdout
    assert isinstance(found, Measurement)
