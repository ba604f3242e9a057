"""Other libraries' benchmark programs: what they print, as their sources have it, and scripts that print it.

No real one was run: none is to be had for this machine without building the libraries.
"""

import json
import platform
import re
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bibench.deploy.devices import read_device_record
from bibench.deploy.programs import ProgramMeasurement, measure_with, parse_dabnn, parse_lce
from bibench.deploy.targets import TargetError, parse_target
from test_cli import call, refused

LOCAL = parse_target("local")
WARM_UP = "count=3 first=9000 curr=8000 min=8000 max=9000 avg=8500.5 std=400"
RUNS = "count=41 first=5100 curr=5000 min=4900 max=1.3e+04 avg=5.25e+03 std=150"
SUMMARY = "Inference timings in us: Init: 900, First inference: 9000, Warmup (avg): 8500.5, Inference (avg): 5250"


def lce(*lines, prefix=""):
    head = ("STARTING!", "Num threads: [2]", "Graph: [net.tflite]", "Loaded model net.tflite", "Running benchmark for")
    return "\n".join(f"{prefix}{line}" for line in (*head, *lines, "", SUMMARY, "Memory footprint delta (MB): init=1"))


@pytest.mark.parametrize("prefix", ["", "INFO: ", "I tflite  : "])
def test_what_benchmark_model_prints(prefix):
    found = parse_lce(lce(WARM_UP, RUNS, prefix=prefix), 2)
    assert (found.library, found.threads, found.runs, found.median) == ("larq", 2, 41, None)
    assert (found.mean, found.lowest, found.highest) == pytest.approx((5.25e-3, 4.9e-3, 1.3e-2))
    newer = parse_lce(lce(f"{WARM_UP} p5=1 median=2 p95=3", f"{RUNS} p5=4900 median=5005 p95=6000", prefix=prefix), 2)
    assert newer.median == pytest.approx(5.005e-3)
    assert newer.model_copy(update={"median": None}) == found


@pytest.mark.parametrize("end", ["", " (all same)", " p5=700 median=700 p95=700"])
def test_a_single_run_has_only_its_own_time(end):
    found = parse_lce(lce("count=1 curr=900", f"count=1 curr=700{end}"), 1)
    assert (found.runs, found.mean, found.lowest, found.highest) == (1, *[pytest.approx(7e-4)] * 3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "0 lines of counts"),
        (lce(WARM_UP), "1 lines of counts"),
        (lce(WARM_UP, RUNS.replace("avg=5.25e+03", "avg=0")), "mean 0 s: expected at least one run"),
        (lce(WARM_UP, RUNS.replace("count=41", "count=0")), "0 runs"),
        (lce(WARM_UP, RUNS.replace("avg=5.25e+03", "avg=1.2.3")), "could not convert"),
    ],
)
def test_what_benchmark_model_does_not_print(text, said):
    with pytest.raises(ValueError, match=said):
        parse_lce(text, 1)


def row(time, unit="ms", name="single_model", **more):
    return {"name": name, "iterations": 20, "real_time": time, "cpu_time": 1.0, "time_unit": unit} | more


def dabnn(*rows):
    return json.dumps({"context": {"num_cpus": 4, "library_build_type": "release"}, "benchmarks": rows}, indent=2)


@pytest.mark.parametrize("newer", [False, True])
def test_what_benchmark_single_model_prints(newer):
    """As daBNN's version of the library does, and as newer ones."""
    kind = {"run_type": "iteration"} if newer else {}
    means = {"run_type": "aggregate"} if newer else {}
    rows = [
        row(30.0, **kind),
        row(34000, "us", **kind),
        row(3.2e7, "ns", **kind),
        row(1, "ms", "single_model_mean", **means),
    ]
    found = parse_dabnn(dabnn(*rows), 1)
    assert (found.library, found.runs) == ("dabnn", 3)
    assert (found.mean, found.median, found.lowest, found.highest) == pytest.approx((0.032, 0.032, 0.03, 0.034))
    assert parse_dabnn("2026-01-01 Running\n" + dabnn(*rows), 1) == found


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("single_model 30 ms", "no JSON"),
        ("{}", "no list 'benchmarks'"),
        (dabnn(), "no benchmark 'single_model'"),
        (dabnn(row(1, name="other")), "no benchmark 'single_model'"),
        (dabnn(row("1")), "real_time '1' in 'ms': expected a number"),
        (dabnn(row(True)), "real_time True"),
        (dabnn(row(float("nan"))), "real_time nan"),
        (dabnn(row(1, "h")), "in 'h': expected a number in ns, us, ms, s"),
        (dabnn(row(-1)), "expected at least one run"),
        ('{"benchmarks": [1]}', "no list 'benchmarks'"),
    ],
)
def test_what_benchmark_single_model_does_not_print(text, said):
    with pytest.raises(ValueError, match=said):
        parse_dabnn(text, 1)


@settings(max_examples=50, deadline=None)
@given(st.text() | st.from_regex(r"(count=\d+ curr=[\d.e+]+\n){2}") | st.integers().map(json.dumps))
def test_garbage_is_no_other_error(text):
    for parse in (parse_lce, parse_dabnn):
        with suppress(ValueError):
            assert isinstance(parse(text, 1), ProgramMeasurement)


@pytest.fixture
def files(tmp_path):
    """A file as LCE's, and one as daBNN's."""
    (tmp_path / "net.tflite").write_bytes(b"\x1c\0\0\0TFL3" + bytes(40))
    (tmp_path / "net.dab").write_bytes(bytes(40))
    return tmp_path


def program(folder, text, to=""):
    path = folder / "program"
    (folder / "said").write_text(text)
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/asked\ncat {folder}/said {to}\n')
    return path


def measured(folder, name, threads=(1,), **more):
    return measure_with(
        folder / "program", LOCAL, folder / name, threads, machine=platform.machine(), repeats=7, warm_up=3, **more
    )


@pytest.mark.parametrize("to", ["", ">&2"])
def test_how_lce_benchmark_model_is_called(files, to):
    program(files, lce(WARM_UP, RUNS), to)
    found = measured(files, "net.tflite", threads=(1, 4))
    assert [(one.threads, one.runs) for one in found] == [(1, 41), (4, 41)]
    asked = (files / "asked").read_text().splitlines()
    for line, threads in zip(asked, (1, 4), strict=True):
        assert re.fullmatch(
            rf"--graph=/\S+/network\.bibpack --num_threads={threads} --num_runs=7 --warmup_runs=3", line
        )


def test_how_benchmark_single_model_is_called(files):
    program(files, dabnn(row(30.0)))
    (found,) = measured(files, "net.dab")
    assert found.mean == pytest.approx(0.03)
    (line,) = (files / "asked").read_text().splitlines()
    assert re.fullmatch(r"/\S+/network\.bibpack --benchmark_format=json --benchmark_repetitions=7", line)
    assert [one.threads for one in measured(files, "net.dab", threads=(2, 1, 4))] == [1]
    with pytest.raises(TargetError, match=r"local: threads 2, 4: daBNN runs on one; give --threads 1, or a device"):
        measured(files, "net.dab", threads=(2, 4))


def test_what_fails_is_said(files):
    program(files, "hello")
    with pytest.raises(TargetError, match=r"local: program printed no times that are understood: 0 lines"):
        measured(files, "net.tflite")
    with pytest.raises(TargetError, match=r"local: program printed no times that are understood: no JSON"):
        measured(files, "net.dab")
    (files / "program").write_text("#!/bin/sh\necho 'no such operator' >&2; exit 1\n")
    with pytest.raises(TargetError, match=r"local: program failed: no such operator"):
        measured(files, "net.tflite")
    with pytest.raises(TargetError, match=r"program: neither a TensorFlow Lite file nor one called \*\.dab"):
        measured(files, "program")


def test_the_command(files, tmp_path):
    program(files, lce(WARM_UP, f"{RUNS} p5=4900 median=5005 p95=6000"))
    given = ("measure", files / "net.tflite", "--program", files / "program")
    lines = call(*given, "--threads", "1,2").stdout.splitlines()
    assert (
        lines[0] == f"{given[1]} on local: {platform.machine()}; one sample, as the library's own program measures it"
    )
    assert [re.split(r"  +", line.strip()) for line in lines[1:]] == [
        ["library", "threads", "runs", "mean", "median", "lowest", "highest"],
        ["larq", "1", "41", "5.25 ms", "5.00 ms", "4.90 ms", "13.0 ms"],
        ["larq", "2", "41", "5.25 ms", "5.00 ms", "4.90 ms", "13.0 ms"],
    ]
    store = tmp_path / "results"
    store.mkdir()
    (store / "suite.json").write_text('{"name": "small"}')
    (shown,) = json.loads(call(*given, "--json", "--out", store).stdout)
    assert shown["measurements"] == [
        {"library": "larq", "threads": 1, "runs": 41, "mean": pytest.approx(5.25e-3), "median": pytest.approx(5.005e-3),
         "lowest": pytest.approx(4.9e-3), "highest": pytest.approx(1.3e-2)}
    ]  # fmt: skip
    (kept,) = read_device_record(store / "devices" / "local.json").results
    assert isinstance(kept.measurements[0], ProgramMeasurement)
    assert (kept.file, kept.run) == ("net.tflite", None)
    program(files, dabnn(row(30.0)))
    found = call("measure", files / "net.dab", "--program", files / "program").stdout.splitlines()[2]
    assert found.split() == ["dabnn", "1", "1", "30.0", "ms", "30.0", "ms", "30.0", "ms", "30.0", "ms"]
    listed = tmp_path / "devices.yaml"
    listed.write_text("devices:\n  - {name: pi4, target: local, threads: [1, 2, 4]}\n  - {name: desk, target: local}\n")
    lines = call("measure", files / "net.dab", "--program", files / "program", "--devices", listed).stdout.splitlines()
    assert [line for line in lines if "note" in line] == ["note: pi4: daBNN runs on one thread; 2, 4 left out"]
    none = refused("measure", files / "net.dab", "--program", tmp_path / "none")
    assert none == f"{tmp_path}/none: can't be read (No such file or directory); it was to measure on devices"
    assert "give one, --program for files of other libraries" in refused(*given, "--runner", files / "program")
    assert "not a packed file" in refused("measure", files / "net.tflite")
