"""The command that measures a packed file on devices: this machine, and others behind ssh or adb."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from bibench import registry
from bibench.bench.device_grid import alone_on
from bibench.bench.plan import PlanError
from bibench.bench.store import Store
from bibench.cli.app import (
    SOME_FAILED,
    JsonOption,
    RunnerOption,
    SshConfigOption,
    address,
    app,
    clear_errors,
    err,
    out,
    say,
)
from bibench.cli.deploy import FileArgument
from bibench.deploy.devices import Device, DeviceError, FileResult, check_device, load_devices, unnamed, write_result
from bibench.deploy.format import Program
from bibench.deploy.measuring import MOST_REPEATS, Measurement, Surroundings, check_runners, machine_of, measure_on
from bibench.deploy.programs import ProgramMeasurement, measure_with
from bibench.deploy.targets import Target, TargetError, parse_target
from bibench.report import print_plainly
from bibench.report.words import counted, short_time, size

__all__ = ["measure"]


@app.command()
def measure(
    file: FileArgument,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="TARGET",
            help="local, ssh://user@host:port, adb://serial, or a name of --devices [default: all of them; local].",
        ),
    ] = None,
    devices: Annotated[
        Path | None, typer.Option("--devices", metavar="FILE", help="A YAML file that names devices.")
    ] = None,
    threads: Annotated[
        str, typer.Option("--threads", metavar="N,N,...", help="Numbers of threads, each measured in turn.")
    ] = "1",
    repeats: Annotated[
        int, typer.Option("--repeats", min=1, max=MOST_REPEATS, help="Times that the median is over.")
    ] = 41,
    warm_up: Annotated[
        int, typer.Option("--warm-up", min=0, max=1_000_000, help="Calls before, which don't count.")
    ] = 5,
    runner: RunnerOption = None,
    program: Annotated[
        Path | None,
        typer.Option(
            "--program",
            metavar="PROGRAM",
            help="For a file of another library: its lce_benchmark_model (Larq) or benchmark_single_model (daBNN).",
        ),
    ] = None,
    folder: Annotated[
        str | None,
        typer.Option("--out", metavar="DIR", help="Keep the result in this folder of results, or s3://BUCKET/FOLDER."),
    ] = None,
    ssh_config: SshConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a packed file's latency on this machine or on others, and leave nothing there."""
    with clear_errors():
        if program is not None and runner:
            raise PlanError("--runner and --program: give one, --program for files of other libraries")
        run = None if program is not None else Program.read(file).metadata.get("run")
        check_runners([program] if program is not None else runner or [])
        measured = partial(
            _measured, file, run, repeats=repeats, warm_up=warm_up, runners=runner or (), program=program
        )
        counts = _counts(threads)
        chosen = [(device, parse_target(device.target, ssh_config=ssh_config)) for device in _chosen(target, devices)]
        store = None if folder is None else Store.open(address(folder))
        rows, failed = [], False
        for device, there in chosen:
            asked = device.threads or counts
            try:
                machine = machine_of(there)
                on_it = partial(measured, there, machine, asked)
                result, kept = (on_it(), None) if store is None else _kept(store, device, machine, on_it)
            except (DeviceError, TargetError) as error:
                failed = True
                rows.append({"device": device.name, "target": device.target, "error": str(error)})
                err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
                continue
            rows.append(_content(device, machine, result))
            if not as_json:
                _show(device, machine, file, result.measurements)
                _note_left_out(device, asked, result.measurements)
                if kept is not None:
                    say(f"kept in {kept}")
    if as_json:
        print(json.dumps(rows, indent=1))
    if failed:
        raise typer.Exit(SOME_FAILED)


def _kept(store: Store, device: Device, machine: str, measured: Callable[[], FileResult]) -> tuple[FileResult, str]:
    """Measure alone on a device and keep the result; and where it is."""
    with alone_on(device, store):
        check_device(store.root, device, machine)
        result = measured()
        path = write_result(store.root, device, machine, result)
        store.publish(path)
    return result, f"{store.address}/{path.relative_to(store.root).as_posix()}"


def _measured(
    file: Path,
    run: object,
    target: Target,
    machine: str,
    threads: Sequence[int],
    *,
    repeats: int,
    warm_up: int,
    runners: Sequence[Path],
    program: Path | None,
) -> FileResult:
    content = file.read_bytes()
    found: tuple[Measurement | ProgramMeasurement, ...]
    if program is not None:
        found = measure_with(program, target, file, threads, machine=machine, repeats=repeats, warm_up=warm_up)
    else:
        found = measure_on(target, file, threads, machine=machine, repeats=repeats, warm_up=warm_up, runners=runners)
    return FileResult(
        file=file.name,
        sha256=hashlib.sha256(content).hexdigest(),
        bytes=len(content),
        run=run if isinstance(run, str) else None,
        measured_at=datetime.now(timezone.utc).replace(microsecond=0),
        measurements=found,
    )


def _chosen(target: str | None, devices: Path | None) -> tuple[Device, ...]:
    """The devices to measure on."""
    if devices is None:
        return (unnamed(target or "local"),)
    known = {device.name: device for device in load_devices(devices)}
    if target is None:
        return tuple(known.values())
    if target not in known:
        near = registry.did_you_mean(target, known)
        raise DeviceError(f"{devices} names no device '{target}'{near} (it has {', '.join(known)})")
    return (known[target],)


def _counts(text: str) -> tuple[int, ...]:
    """Numbers of threads, such as ``"1,2,4"``."""
    parts = text.split(",")
    counts = [int(part) for part in parts if part.strip().isascii() and part.strip().isdigit() and len(part) < 10]
    if len(counts) < len(parts) or not all(1 <= count <= 256 for count in counts) or len({*counts}) < len(counts):
        raise PlanError(f"--threads {text}: expected numbers from 1 to 256, each once, such as 1,2,4")
    return tuple(counts)


def _content(device: Device, machine: str, result: FileResult) -> dict[str, Any]:
    """What --json prints of a device: the record's content, and what follows from the times."""
    content = {"device": device.name, "target": device.target, "machine": machine} | result.model_dump(mode="json")
    for row, one in zip(content["measurements"], result.measurements, strict=True):
        if isinstance(one, ProgramMeasurement):
            continue
        latency = one.latency
        row["seconds"] = {
            "median": latency.median,
            "quartiles": latency.quartiles,
            "lowest": latency.lowest,
            "highest": max(latency.seconds),
        }
    return content


def _note_left_out(device: Device, asked: Sequence[int], found: Sequence[Measurement | ProgramMeasurement]) -> None:
    left = [str(count) for count in asked if count not in {one.threads for one in found}]
    if left:
        say(f"note: {device.name}: daBNN runs on one thread; {', '.join(left)} left out")


def _show(device: Device, machine: str, file: Path, found: Sequence[Measurement | ProgramMeasurement]) -> None:
    where = device.name if device.name == device.target else f"{device.name} ({device.target})"
    own = [one for one in found if isinstance(one, Measurement)]
    if own:
        _show_own(where, machine, file, own)
        return
    table = Table(box=None, pad_edge=False)
    for column in ("library", "threads", "runs", "mean", "median", "lowest", "highest"):
        table.add_column(column, justify="right")
    for one in found:
        if isinstance(one, ProgramMeasurement):
            times = (one.mean, one.median, one.lowest, one.highest)
            shown = ("unknown" if time is None else short_time(time) for time in times)
            table.add_row(one.library, str(one.threads), str(one.runs), *shown)
    say(f"{file} on {where}: {machine}; one sample, as the library's own program measures it")
    print_plainly(out, lambda console: console.print(table))


def _show_own(where: str, machine: str, file: Path, found: Sequence[Measurement]) -> None:
    first = found[0]
    what = f"{first.processor or 'a processor without a name'}, {machine}, {first.isa}"
    say(f"{file} on {where}: {what}; medians over {counted(len(first.nanoseconds), 'repeat')} of one sample")
    table = Table(box=None, pad_edge=False)
    for column in ("threads", "median", "middle half", "a second", "peak memory", "governor", "clock", "temperature"):
        table.add_column(column, justify="right")
    for one in found:
        low, high = one.latency.quartiles
        table.add_row(
            str(one.threads),
            short_time(one.latency.median),
            f"{short_time(low)} to {short_time(high)}",
            f"{1 / one.latency.median:,.0f}",
            "unknown" if one.peak_bytes is None else size(one.peak_bytes),
            *(_before_and_after(word(one.before), word(one.after)) for word in (_governor, _clock, _temperature)),
        )
    print_plainly(out, lambda console: console.print(table))
    for one in found:
        if one.threads > one.cores:
            say(f"note: {counted(one.threads, 'thread')} on {counted(one.cores, 'core')}")


def _governor(state: Surroundings) -> str:
    return state.governor or "unknown"


def _clock(state: Surroundings) -> str:
    return "unknown" if state.kilohertz is None else f"{state.kilohertz / 1e6:.2f} GHz"


def _temperature(state: Surroundings) -> str:
    return "unknown" if state.millidegrees is None else f"{state.millidegrees / 1e3:.0f} °C"


def _before_and_after(before: str, after: str) -> str:
    return before if before == after else f"{before}, then {after}"
