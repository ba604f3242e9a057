"""Commands that ship a network: export it, run the file on images, evaluate it, and see where its time goes."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.table import Table
from rich.text import Text
from torch import Tensor, nn

from bibench import registry
from bibench.bench.plan import PlanError
from bibench.bench.worker import load_data
from bibench.cli.app import SOME_FAILED, JsonOption, app, clear_errors, err, out, say
from bibench.cli.finished import RunArgument, finished_run, run_data, trained_network
from bibench.cli.run import DataOption, SubsetOption
from bibench.deploy.compare import Comparison
from bibench.deploy.compare import compare as compare_
from bibench.deploy.cost import Cost, Peaks, costs, limit
from bibench.deploy.format import PackedError, Program
from bibench.deploy.formats import FORMATS
from bibench.deploy.onnx_run import compare_onnx, compare_outputs, runtime_lacks
from bibench.deploy.packed import PackedModel, PackedModule, engine_lacks, load_packed
from bibench.models.base import Architecture
from bibench.native import peak
from bibench.records import Record
from bibench.report import print_plainly
from bibench.report.words import amount, counted, short_time, size
from bibench.tasks.base import Data, DataError, Task
from bibench.tracks.hardware_inference import export_run, full_precision_bytes
from bibench.training.machine import processor

__all__ = ["evaluate", "export", "infer", "profile"]

_SAMPLES = 16
_BATCH = 256
_COMPARED: Mapping[str, tuple[Callable[[], str | None], Callable[[nn.Module, Path, Any], Comparison]]] = {
    "packed": (engine_lacks, compare_),
    **dict.fromkeys(("onnx", "qonnx", "dabnn-onnx"), (runtime_lacks, compare_onnx)),
    "onnx-packed": (lambda: runtime_lacks() or engine_lacks(), compare_outputs),
}
"""By kind of file: what is missing to run it, and how it is compared with its model."""

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="A packed file, from: bibench export.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads of the packed engine.")]


@app.command()
def export(
    run: RunArgument,
    to: Annotated[str, typer.Option("--to", help=f"Kind of the file: {', '.join(FORMATS)}.")] = "packed",
    file: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="The file [default: NAME.SUFFIX in this folder].")
    ] = None,
    int8_stem: Annotated[
        bool,
        typer.Option(
            "--int8-stem", help="The first layer in 8-bit integers: faster, not quite the same; evaluate both files."
        ),
    ] = False,
    data: DataOption = None,
    allow_subset: SubsetOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write the network of a finished run as one file that runs without PyTorch."""
    with clear_errors():
        if to not in FORMATS:
            raise PlanError(f"--to {to}{registry.did_you_mean(to, FORMATS)}: expected one of {', '.join(FORMATS)}")
        store, record = finished_run(run, _exportable, "binarized run")
        task: Task = registry.get("tasks", record.run.task)
        architecture: Architecture = registry.get("architectures", record.run.architecture)
        loaded = run_data(record, task, data, allow_subset, store)
        model = trained_network(record, store, task, architecture, loaded)
        path = file or Path(f"{record.id}{FORMATS[to].suffix}")
        export_run(record.run, model, path, task=task, to=to, labels=loaded.labels, int8_stem=int8_stem)
        twin = architecture.build(task.input_shape, loaded.outputs)
        inputs, what = _samples(task, loaded)
        found = _Exported(
            file=str(path),
            run=record.id,
            bytes=path.stat().st_size,
            full_precision_bytes=full_precision_bytes(twin),
            **_comparison(to, model, path, inputs, what),
        )
    if as_json:
        print(json.dumps(vars(found) | {"compression": found.compression}, indent=1))
        return
    say(
        f"{found.file}: {found.bytes:,} bytes, {found.compression:.1f} times smaller than the "
        f"{found.full_precision_bytes:,} bytes of full precision's parameters"
    )
    say(found.words)


@dataclass(frozen=True, kw_only=True)
class _Exported:
    """What `export` says.

    Args:
        samples, of: how many inputs the file was compared with the model on, and what they are; 0 where nothing runs
            it here, and why.
        agreeing: on how many the largest output is the same one.
        largest_difference: of the outputs.
        bits, differing_bits: in front of all binary layers.
    """

    file: str
    run: str
    bytes: int
    full_precision_bytes: int
    samples: int
    of: str
    agreeing: int = 0
    largest_difference: float | None = None
    bits: int = 0
    differing_bits: int = 0

    @property
    def compression(self) -> float:
        """Four bytes a parameter of full precision, over the file."""
        return self.full_precision_bytes / self.bytes

    @property
    def words(self) -> str:
        """How it compares with the model."""
        if not self.samples:
            return f"not compared with the model: {self.of}"
        differing = f", and {self.differing_bits:,} of {self.bits:,} bits in front of binary layers differ"
        return (
            f"compared with the model in PyTorch on {self.samples} {self.of}: the largest output is the same on "
            f"{self.agreeing}, outputs differ by at most {self.largest_difference:.2g}{differing if self.bits else ''}"
        )


def _exportable(record: Record) -> bool:
    return record.run.operator is not None


def _samples(task: Task, data: Data) -> tuple[Tensor, str]:
    """Some inputs to compare with: of the test split where it is there, and is a classifier's."""
    if task.preprocessing is not None and data.fingerprint:
        inputs, _ = next(iter(data.test.batches(_SAMPLES, device=torch.device("cpu"), seed=None)))
        return inputs, "test samples"
    return task.example(), "random inputs"


def _comparison(to: str, model: nn.Module, path: Path, inputs: Tensor, what: str) -> dict[str, Any]:
    """The part of `_Exported` about the model."""
    if to not in _COMPARED:
        return {"samples": 0, "of": f"{FORMATS[to].runs_in} runs it"}
    lacks, run = _COMPARED[to]
    lack = lacks()
    if lack is not None:
        return {"samples": 0, "of": lack}
    found = run(model, path, inputs)
    return {
        "samples": found.samples,
        "of": what,
        "agreeing": found.same_top1,
        "largest_difference": found.difference,
        "bits": sum(layer.bits for layer in found.layers),
        "differing_bits": found.differing,
    }


@app.command()
def infer(
    file: FileArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    threads: ThreadsOption = 1,
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes of each image.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Classify images with a packed file, by its own preprocessing and labels."""
    rows: list[dict[str, Any]] = []
    with clear_errors():
        model = load_packed(file, threads)
        _check_classifier(model, file)
        for path in images:
            try:
                found = _classes(model, path, top)
            except DataError as error:
                err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
                rows.append({"image": str(path), "error": str(error)})
                continue
            rows.append({"image": str(path), "classes": found})
            if not as_json:
                if len(images) > 1:
                    say(str(path))
                for one in found:
                    say(f"{100 * one['probability']:6.2f} %  {one['label']}")
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    if any("error" in row for row in rows):
        raise typer.Exit(SOME_FAILED)


def _check_classifier(model: PackedModel, file: Path) -> None:
    if model.preprocessing is None:
        raise PackedError(
            f"{file} doesn't say how images become its inputs; export it with preprocessing, as `bibench export` does "
            "for tasks of images"
        )
    taken = (model.preprocessing.channels, *model.preprocessing.size)
    if len(model.inputs) != 1 or model.inputs[0].shape != taken:
        raise PackedError(f"{file}: its preprocessing gives {taken}, and it takes {model.inputs[0].text}")
    if len(model.outputs) != 1 or len(model.outputs[0].shape) != 1:
        raise PackedError(
            f"{file} is no image classifier: it gives {'; '.join(port.text for port in model.outputs)}, expected "
            "one number a class"
        )


def _classes(model: PackedModel, path: Path, top: int) -> list[dict[str, Any]]:
    """The most probable classes of an image, by a softmax over the outputs."""
    assert model.preprocessing is not None
    outputs = model(model.preprocessing.apply(path)[None])[0].astype(np.float64)
    powers = np.exp(outputs - outputs.max())
    shares = powers / powers.sum()
    order = np.argsort(-shares, kind="stable")[:top]
    return [
        {
            "class": int(number),
            "label": model.labels[number] if number < len(model.labels) else f"class {number}",
            "probability": float(shares[number]),
        }
        for number in order
    ]


class _Timed(PackedModule):
    """Adds up the seconds and the samples of its calls."""

    seconds, samples = 0.0, 0

    def forward(self, *inputs: Tensor) -> Any:
        start = time.perf_counter()
        found = super().forward(*inputs)
        self.seconds += time.perf_counter() - start
        self.samples += len(inputs[0])
        return found


@app.command()
def evaluate(
    file: FileArgument,
    task: Annotated[
        str | None, typer.Option("--task", help="See: bibench list tasks [default: the one that the file names].")
    ] = None,
    data: DataOption = None,
    allow_subset: SubsetOption = False,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Score a packed file on a task's test split: the file itself, in the packed engine."""
    with clear_errors():
        model = load_packed(file, threads)
        name = task or model.task
        if name is None:
            raise PlanError(f"{file} doesn't say which task it is for; give --task NAME")
        chosen: Task = registry.get("tasks", name)
        shape = tuple(chosen.example().shape[1:])
        if len(model.inputs) != 1 or model.inputs[0].shape != shape:
            taken = "; ".join(port.text for port in model.inputs)
            raise PackedError(
                f"{file} takes {taken}, and inputs of task '{name}' have the shape {shape}; choose another --task"
            )
        loaded = load_data(name, data, allow_subset)
        if isinstance(loaded.outputs, int) and model.outputs[0].shape != (loaded.outputs,):
            raise PackedError(
                f"{file} gives {model.outputs[0].text}, and task '{name}' has {loaded.outputs} outputs here; give the "
                "data that it was trained on with --data, or choose another --task"
            )
        timed = _Timed(model)
        with torch.no_grad():
            found = chosen.evaluate(timed, loaded.test.batches(_BATCH, device=torch.device("cpu"), seed=None))
    metric, samples = chosen.metric, len(found.per_sample)
    seconds = timed.seconds / max(1, timed.samples)
    if as_json:
        content = {"file": str(file), "task": name, "metric": metric.name, "value": found.figures[metric.name]}
        content |= {"unit": metric.unit, "figures": found.figures, "samples": samples, "seconds_an_input": seconds}
        content |= {"processor": processor(), "isa": model.isa, "threads": threads, "notes": loaded.notes}
        print(json.dumps(content, indent=1))
        return
    value = f"{found.figures[metric.name]:.2f} {metric.unit}"
    say(f"{name}: {metric.name} {value} on {counted(samples, 'test sample')}")
    for note in loaded.notes:
        say(f"note: {note}")
    say(f"{short_time(seconds)} an input on {processor()}, {model.isa}, {counted(threads, 'thread')}")


@app.command()
def profile(
    file: FileArgument,
    threads: ThreadsOption = 1,
    isa: Annotated[
        str | None, typer.Option("--isa", help="Instruction set [default: the best that the processor has].")
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Runs that the times are medians over.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Say where a packed file's time goes, operation by operation, beside what the processor allows."""
    with clear_errors():
        program = Program.read(file)
        model = load_packed(file, threads, isa)
        seconds = np.median(model.profile(*model.example(), repeats=repeats), axis=0)
        peaks = Peaks(
            binary=peak(model.isa, "binary"),
            floats=peak(model.isa, "float"),
            int8=peak(model.isa, "int8"),
            copy=peak(model.isa, "copy"),
        )
        rows = _profile_rows(program, seconds.tolist(), peaks, min(threads, _cores()))
    if as_json:
        place = {"processor": processor(), "isa": model.isa, "threads": threads, "repeats": repeats}
        content = {"file": str(file), **place, "peaks": vars(peaks), "memory": model.memory}
        print(json.dumps(content | {"operations": [vars(row) for row in rows[:-1]], "total": vars(rows[-1])}, indent=1))
        return
    say(
        f"{file} on {processor()}, {model.isa}, {counted(threads, 'thread')}; medians over {repeats} runs of one sample"
    )
    print_plainly(out, lambda console: console.print(_profile_table(rows)))
    rates = ", ".join(
        f"{amount(rate)} {unit}"
        for unit, rate in (("binary", peaks.binary), ("float", peaks.floats), ("int8", peaks.int8))
    )
    cores = f", times {counted(min(threads, _cores()), 'core')}" if threads > 1 else ""
    say(
        f"limit: operations a second at {rates}, or bytes at {size(peaks.copy)} a second, whichever takes longer; "
        f"measured just now on one core, on registers alone and on a copy of 64 MiB{cores}. What stays in a cache can "
        "be faster than its bytes' limit."
    )


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Row:
    """An operation's line in the profile, or the total."""

    name: str
    seconds: float
    share: float
    binary: int
    floats: int
    int8: int
    bytes: int
    limit: float

    @property
    def over_limit(self) -> float | None:
        """Time over limit."""
        return self.seconds / self.limit if self.limit > 0 else None


def _profile_rows(program: Program, seconds: Sequence[float], peaks: Peaks, threads: int) -> list[_Row]:
    """A row an operation, and the total."""
    counts = costs(program)
    named = program.metadata.get("operations")
    names = named if isinstance(named, list) and len(named) == len(counts) else [None] * len(counts)
    whole = sum(seconds) or 1.0
    rows = [
        _row(
            f"{operation.code.name} {name}" if name else operation.code.name,
            time,
            whole,
            cost,
            limit(cost, peaks, threads),
        )
        for operation, name, time, cost in zip(program.operations, names, seconds, counts, strict=True)
    ]
    total = sum(counts, Cost())
    return [*rows, _row("total", sum(seconds), whole, total, sum(row.limit for row in rows))]


def _row(name: str, seconds: float, whole: float, cost: Cost, least: float) -> _Row:
    return _Row(name, seconds, seconds / whole, cost.binary, cost.floats, cost.int8, cost.bytes, least)


def _profile_table(rows: Sequence[_Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("operation", overflow="fold")
    columns = ["time", "share", "binary", "float", *(["int8"] if rows[-1].int8 else []), "bytes", "limit", "time/limit"]
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        cells = [
            short_time(row.seconds),
            f"{100 * row.share:.1f} %",
            amount(row.binary),
            amount(row.floats),
            *([amount(row.int8)] if rows[-1].int8 else []),
            size(row.bytes),
            short_time(row.limit),
            "" if row.over_limit is None else f"{row.over_limit:.1f}",
        ]
        style = "bold" if row is rows[-1] else ""
        table.add_row(Text(row.name, style=style), *(Text(cell, style=style) for cell in cells))
    return table
