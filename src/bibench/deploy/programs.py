"""Other libraries' own benchmark programs on a machine: Larq Compute Engine's and daBNN's, where a user has them.

``lce_benchmark_model`` is TensorFlow Lite's ``benchmark_model`` with Larq's operators; daBNN's
``benchmark_single_model`` is a program of Google's benchmark library. Their input is of their own making.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bibench.deploy.measuring import placed, why
from bibench.deploy.targets import Target, TargetError

__all__ = ["ProgramMeasurement", "measure_with", "parse_dabnn", "parse_lce"]

_SECONDS = 600.0
_Seconds = Annotated[float, Field(gt=0, lt=1e6, allow_inf_nan=False)]
_NUMBER = r"[0-9.]+(?:e[+-]?[0-9]+)?"
_COUNT = re.compile(
    rf"count=(?P<count>\d+)(?: first={_NUMBER})? curr=(?P<curr>{_NUMBER})"
    rf"(?: min=(?P<min>{_NUMBER}) max=(?P<max>{_NUMBER}) avg=(?P<avg>{_NUMBER}) std={_NUMBER})?"
    rf"(?: \(all same\))?(?: p5={_NUMBER} median=(?P<median>{_NUMBER}) p95={_NUMBER})?",
    re.ASCII,
)
_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0}


class ProgramMeasurement(BaseModel):
    """What another library's program says, in seconds.

    Args:
        library: ``"larq"`` or ``"dabnn"``.
        threads: that it was asked for.
        runs: how many the figures are over.
        mean, lowest, highest: time of a run; of daBNN, of a repetition's mean run.
        median: None where the program doesn't tell.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    library: Literal["larq", "dabnn"]
    threads: Annotated[int, Field(ge=1, le=256)]
    runs: Annotated[int, Field(ge=1, lt=10**9)]
    mean: _Seconds
    median: _Seconds | None
    lowest: _Seconds
    highest: _Seconds


def parse_lce(text: str, threads: int) -> ProgramMeasurement:
    """What TensorFlow Lite's ``benchmark_model`` prints: the last line of counts, behind that of the warm-up.

    Raises:
        ValueError: there are no two such lines, or their numbers aren't times.

    >>> parse_lce('''INFO: count=2 first=900 curr=800 min=800 max=900 avg=850 std=50
    ... INFO: count=50 first=810 curr=790 min=780 max=830 avg=800.5 std=9 p5=785 median=799 p95=820''', 1).median
    0.000799
    """
    found = [match for line in text.splitlines() if (match := _COUNT.search(line))]
    if len(found) < 2:
        raise ValueError(f"{len(found)} lines of counts such as 'count=50 first=...', expected two: warm-up and runs")
    last = found[-1]
    mean = float(last["avg"] or last["curr"])
    return _measurement(
        "larq",
        threads,
        int(last["count"]),
        mean=1e-6 * mean,
        median=None if last["median"] is None else 1e-6 * float(last["median"]),
        lowest=1e-6 * float(last["min"] or mean),
        highest=1e-6 * float(last["max"] or mean),
    )


def parse_dabnn(text: str, threads: int) -> ProgramMeasurement:
    """What a program of Google's benchmark library prints as JSON: the repetitions, without means over them.

    Raises:
        ValueError: not such JSON, or no repetition in it.

    >>> parse_dabnn('''{"benchmarks": [{"name": "single_model", "iterations": 10, "real_time": 30, "time_unit": "ms"},
    ...     {"name": "single_model_mean", "iterations": 1, "real_time": 30, "time_unit": "ms"}]}''', 1).mean
    0.03
    """
    try:
        content = json.loads("{" + text.partition("{")[2])
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error})") from error
    rows = content.get("benchmarks")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError("no list 'benchmarks'")
    runs = [row for row in rows if row.get("name") == "single_model"]  # means over them have names of their own
    if not runs:
        raise ValueError("no benchmark 'single_model'")
    times = [_seconds(row) for row in runs]
    return _measurement(
        "dabnn",
        threads,
        len(times),
        mean=fmean(times),
        median=median(times),
        lowest=min(times),
        highest=max(times),
    )


def _seconds(row: dict[str, Any]) -> float:
    time, unit = row.get("real_time"), row.get("time_unit")
    if isinstance(time, bool) or not isinstance(time, (int, float)) or not math.isfinite(time) or unit not in _UNITS:
        raise ValueError(f"real_time {time!r} in {unit!r}: expected a number in {', '.join(_UNITS)}")
    return float(time) * _UNITS[unit]


def _measurement(
    library: Literal["larq", "dabnn"], threads: int, runs: int, **times: float | None
) -> ProgramMeasurement:
    bad = [f"{name} {value:g} s" for name, value in times.items() if value is not None and not 0 < value < 1e6]
    if bad or not 1 <= runs < 10**9:
        raise ValueError(f"{runs} runs, {', '.join(bad) or 'times'}: expected at least one run, of more than 0 s")
    return ProgramMeasurement.model_validate({"library": library, "threads": threads, "runs": runs} | times)


@dataclass(frozen=True)
class _Library:
    """How a library's program is called, and what it says."""

    arguments: Callable[[str, int, int, int], list[str]]
    parse: Callable[[str, int], ProgramMeasurement]
    most_threads: int


_LARQ = _Library(
    lambda network, threads, repeats, warm_up: [
        f"--graph={network}",
        f"--num_threads={threads}",
        f"--num_runs={repeats}",
        f"--warmup_runs={warm_up}",
    ],
    parse_lce,
    256,
)
_DABNN = _Library(
    lambda network, threads, repeats, warm_up: [
        network,
        "--benchmark_format=json",
        f"--benchmark_repetitions={repeats}",
    ],
    parse_dabnn,
    1,
)


def _library_of(file: Path) -> _Library:
    """The library whose file it is: TensorFlow Lite's have a mark, daBNN's only their name."""
    with file.open("rb") as content:
        head = content.read(8)
    if head[4:] == b"TFL3":
        return _LARQ
    if file.suffix == ".dab":
        return _DABNN
    raise TargetError(
        f"{file}: neither a TensorFlow Lite file nor one called *.dab; --program is for files that bibench export "
        "wrote with --to tflite-lce or --to dabnn"
    )


def measure_with(
    program: Path,
    target: Target,
    file: Path,
    threads: Sequence[int],
    *,
    machine: str,
    repeats: int = 41,
    warm_up: int = 5,
) -> tuple[ProgramMeasurement, ...]:
    """Measure a file of another library with that library's own program, with each number of threads that it has.

    Args:
        program: Larq Compute Engine's ``lce_benchmark_model`` or daBNN's ``benchmark_single_model``, for the machine.
        target, threads, machine: as in `bibench.deploy.measuring.measure_on`; daBNN has one thread, more
            are left out.
        file: a TensorFlow Lite file, or one of daBNN.
        repeats: at least; of daBNN, repetitions.
        warm_up: at least; daBNN's program sees to its own.

    Raises:
        TargetError: as `measure_on`, a file of neither, only threads that the library hasn't, or the program prints
            something else.
        OSError: the file can't be read.
    """
    library = _library_of(file)
    counts = [count for count in threads if count <= library.most_threads]
    if not counts:
        raise TargetError(
            f"{target.text}: threads {', '.join(map(str, threads))}: daBNN runs on one; give --threads 1, or a device "
            "whose threads in the list have 1 among them"
        )
    with placed(target, (file,), machine, (program,)) as (command,):
        path, network = command
        found = []
        for count in counts:
            done = target.run([path, *library.arguments(network, count, repeats, warm_up)], seconds=_SECONDS)
            if done.status:
                raise TargetError(f"{target.text}: {why(done, program.name)}")
            try:
                found.append(library.parse(f"{done.out}\n{done.err}" if library is _LARQ else done.out, count))
            except ValueError as error:
                raise TargetError(
                    f"{target.text}: {program.name} printed no times that are understood: {error}"
                ) from error
    return tuple(found)
