"""The command line: the only place where strings become objects."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bibench import __version__, registry
from bibench.algorithms import composition
from bibench.bench.benchmark import choose_device, default_jobs, run_suite, score_store
from bibench.bench.plan import PlanError, make_plan, parse_only
from bibench.bench.store import Store, StoreError
from bibench.bench.suite import AlgorithmEntry, Suite, SuiteError, TaskEntry, load_suite, seeds_up_to, shipped_suites
from bibench.bench.worker import Outcome, Settings
from bibench.display import Display
from bibench.nn import AlgorithmError, resolve
from bibench.records import Record, RecordError
from bibench.report import Meta, print_plainly, print_tables, write_report
from bibench.report.summary import duration
from bibench.tasks.base import DataError
from bibench.tracks import ScoreError
from bibench.tracks.comparisons import comparisons
from bibench.training import CheckpointError

__all__ = ["app", "main"]

WRONG_INPUT = 2
SOME_FAILED = 1
INTERRUPTED = 130

app = typer.Typer(
    help="Benchmark, train and ship neural networks whose weights and activations are single bits.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
_out = Console(highlight=False)
_err = Console(stderr=True, highlight=False)

_BAD_INPUT = (
    AlgorithmError,
    CheckpointError,
    DataError,
    PlanError,
    RecordError,
    ScoreError,
    StoreError,
    SuiteError,
    registry.UnknownName,
)

OutOption = Annotated[Path, typer.Option("--out", help="Folder of the results.")]
DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the data sets' original files.")]
SubsetOption = Annotated[
    bool, typer.Option("--allow-subset", help="Accept a part of a data set; the results will say so.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, max=os.cpu_count() or 1, help="Threads of each run on a CPU.")
]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs in place of every recipe's own.")]
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Full-precision weights (safetensors) to start from, instead of training any."),
]
LayersOption = Annotated[
    bool, typer.Option("--layer-statistics", help="Record flip rate, sign balance and dead weights by layer and epoch.")
]
CheckpointSecondsOption = Annotated[
    float, typer.Option("--checkpoint-seconds", min=0, help="A run is saved after an epoch if this long has passed.")
]
DevicesOption = Annotated[
    int, typer.Option("--devices", min=1, help="GPUs of each run, or processes on a CPU; they share each batch.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Turn what went wrong into one message and an exit status."""
    try:
        yield
    except _BAD_INPUT as error:
        _err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(WRONG_INPUT) from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        advice = "; free some space and run the same command again: nothing finished is lost"
        full = advice if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        _err.print(f"error: {error.strerror or error}{where}{full}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(SOME_FAILED) from error
    except KeyboardInterrupt as error:
        _err.print("stopped; what is finished is kept: run the same command again to continue", style="yellow")
        raise typer.Exit(INTERRUPTED) from error


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None: ...


def _seeds(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        seeds = tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise PlanError(f"--seeds {text}: expected how many, such as 3, or which, such as 0,2,5") from error
    if "," not in text:
        try:
            seeds = seeds_up_to(seeds[0])
        except ValueError as error:
            raise PlanError(f"--seeds {text}: {error}") from error
    if not seeds or min(seeds) < 0 or len(set(seeds)) != len(seeds):
        raise PlanError(f"--seeds {text}: expected at least one, none negative, each once")
    return seeds


@app.command()
def run(
    suite: Annotated[str, typer.Argument(help="Name of a shipped suite, or path of a YAML file.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the results [default: results/SUITE].")] = None,
    data: DataOption = None,
    device: DeviceOption = "auto",
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Runs at a time [default: one a core; 1 on a GPU].")
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="How many (3), or which (0,2,5).")] = None,
    epochs: EpochsOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", help="KEY=VALUE: task, architecture, algorithm or seed; can be given several times."),
    ] = None,
    algorithm: Annotated[
        list[str] | None,
        typer.Option("--algorithm", help="One more algorithm, beside the suite's; can be given several times."),
    ] = None,
    checkpoint: CheckpointOption = None,
    allow_subset: SubsetOption = False,
    threads: ThreadsOption = 1,
    devices: DevicesOption = 1,
    layer_statistics: LayersOption = False,
    checkpoint_seconds: CheckpointSecondsOption = 10.0,
) -> None:
    """Run a suite, or go on with it; then print its scores and write report.html."""
    with _clear_errors():
        loaded = load_suite(suite)
        chosen = _seeds(seeds)
        if chosen is not None:
            loaded = loaded.model_copy(update={"seeds": chosen})
        loaded = _with_algorithms(loaded, algorithm or [])
        settings = Settings(
            out=out or Path("results") / loaded.name,
            data=data,
            allow_subset=allow_subset,
            device=choose_device(device),
            threads=threads,
            checkpoint=checkpoint,
            layers=layer_statistics,
            checkpoint_seconds=checkpoint_seconds,
        )
        _run(loaded, settings, jobs=jobs, epochs=epochs, only=only or [], devices=devices)


def _with_algorithms(suite: Suite, names: Sequence[str]) -> Suite:
    """The suite with more algorithms, by their registry names."""
    present = {entry.title for entry in suite.algorithms}
    added = tuple(AlgorithmEntry(name=name) for name in dict.fromkeys(names) if name not in present)
    for entry in added:
        resolve(entry.name)
    others = tuple(entry for entry in suite.on_request if entry.title not in names)
    return suite.model_copy(update={"algorithms": suite.algorithms + added, "on_request": others})


@app.command()
def train(
    task: Annotated[str, typer.Option("--task", help="See: bibench list tasks.")],
    arch: Annotated[str, typer.Option("--arch", help="See: bibench list architectures.")],
    algorithm: Annotated[
        str, typer.Option("--algorithm", help="See: bibench list algorithms; fp32 for full precision.")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder of the results [default: results/TASK-ARCH-ALGORITHM].")
    ] = None,
    data: DataOption = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    epochs: EpochsOption = None,
    method: Annotated[str, typer.Option("--method", help="fine_tune or from_scratch.")] = "fine_tune",
    checkpoint: CheckpointOption = None,
    allow_subset: SubsetOption = False,
    threads: ThreadsOption = 1,
    devices: DevicesOption = 1,
    layer_statistics: LayersOption = False,
    checkpoint_seconds: CheckpointSecondsOption = 10.0,
) -> None:
    """Train one network; a binarized one after the full-precision one that it starts from."""
    with _clear_errors():
        if method not in ("fine_tune", "from_scratch"):
            raise PlanError(f"--method {method}: expected fine_tune or from_scratch")
        found, network = registry.get("tasks", task), registry.get("architectures", arch)
        if network.modality != found.modality:
            raise PlanError(
                f"--arch {arch} takes {network.modality} inputs, task '{task}' has {found.modality} inputs "
                f"(its architectures: {', '.join(found.architectures)})"
            )
        if algorithm != "fp32":
            resolve(algorithm)
        name = f"{task}-{arch}-{algorithm}"
        suite = Suite(
            name=name,
            tasks=(TaskEntry(task=task, architectures=(arch,)),),
            algorithms=() if algorithm == "fp32" else (AlgorithmEntry(name=algorithm),),
            seeds=(seed,),
            method=method,
        )
        settings = Settings(
            out=out or Path("results") / name,
            data=data,
            allow_subset=allow_subset,
            device=choose_device(device),
            threads=threads,
            checkpoint=checkpoint,
            layers=layer_statistics,
            checkpoint_seconds=checkpoint_seconds,
        )
        _run(suite, settings, jobs=1, epochs=epochs, only=[], devices=devices)


def _run(
    suite: Suite, settings: Settings, *, jobs: int | None, epochs: int | None, only: Sequence[str], devices: int
) -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    start = time.monotonic()
    display: Display | None = None

    def listener(todo: list[Any]) -> Display:
        nonlocal display
        display = Display(todo, _out)
        if todo:
            _say(f"{suite.name}: {_runs(len(todo))} to do on {settings.device}, results in {settings.out}")
        return display.__enter__()

    try:
        runs, outcomes = run_suite(
            suite,
            settings,
            jobs=jobs or default_jobs(settings.device),
            listener=listener,
            epochs=epochs,
            only=parse_only(only),
            devices=devices,
        )
    finally:
        if display is not None:
            display.__exit__()
    store = Store.open(settings.out)
    path = _report(store)
    records = {run.id: store.record(run.id) for run in runs}
    _say(f"{_summary(records, outcomes, time.monotonic() - start)}; report: {path}")
    if any(record is None or record.status != "ok" for record in records.values()):
        raise typer.Exit(SOME_FAILED)


def _summary(records: Mapping[str, Record | None], outcomes: Sequence[Outcome], seconds: float) -> str:
    """What became of the runs that were asked for, in one sentence."""
    attempted = {outcome.run.id for outcome in outcomes}
    before = [record for run_id, record in records.items() if run_id not in attempted and record is not None]
    failed = sum(record.status == "failed" for record in before)
    earlier = f"{len(before)} finished before" + (f" ({failed} of them failed)" if failed else "")
    if len(before) == len(records):
        return f"nothing to do: {_runs(len(records))} asked for, {earlier}"
    bad = sum(outcome.status != "ok" for outcome in outcomes)
    left = len(records) - len(before) - len(outcomes)
    return (
        f"{_runs(len(outcomes))} in {duration(seconds)}"
        + (f", {bad} not ok" if bad else "")
        + (f", {left} not started" if left else "")
        + (f", {earlier}" if before else "")
    )


def _runs(count: int) -> str:
    return f"{count} run" if count == 1 else f"{count} runs"


def _say(text: str) -> None:
    _out.print(text, markup=False, soft_wrap=True)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


def _report(store: Store, *, show: bool = True) -> Path:
    """Score a store, print the tables and write its report."""
    suite = store.suite()
    results, scores, tracks = score_store(store)
    found = comparisons(results)
    if show:
        print_tables(results, scores, found, _out)
    path = store.root / "report.html"
    meta = Meta(suite=str(suite.get("name")), tracks=tracks, description=str(suite.get("description") or ""))
    write_report(path, results, scores, found, store.epochs, meta)
    return path


@app.command(name="list")
def list_(
    kind: Annotated[str, typer.Argument(help="algorithms, architectures, tasks, tracks or suites.")],
    as_json: JsonOption = False,
) -> None:
    """List what can be named in suites and on the command line."""
    with _clear_errors():
        kinds = [*registry.KINDS, "suites"]
        if kind not in kinds:
            near = registry.did_you_mean(kind, kinds)
            raise PlanError(f"unknown kind '{kind}'{near} (known: {', '.join(kinds)})")
        rows = _listing(kind)
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    table = Table(box=None, pad_edge=False)
    for key in rows[0]:
        table.add_column(key, overflow="fold")
    for row in rows:
        cells = (row.get(key, "") for key in rows[0])
        # As texts: a formula's brackets are no markup.
        table.add_row(*(Text(cell if isinstance(cell, str) else _joined(cell)) for cell in cells))
    print_plainly(_out, lambda console: console.print(table))


def _joined(value: Any) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) else str(value)


def _listing(kind: str) -> list[dict[str, Any]]:
    if kind == "suites":
        suites = [load_suite(name) for name in shipped_suites()]
        return [
            {"name": suite.name, "runs": len(make_plan(suite)), "description": suite.description} for suite in suites
        ]
    rows = [_row(kind, name) for name in registry.names(kind)]
    if kind == "algorithms":
        none = dict.fromkeys(rows[0], "") | {"name": "fp32", "title": "full precision", "from": "bibench"}
        return [none, *rows]
    return rows


_FIELDS = {
    "architectures": ("title", "family", "modality"),
    "tasks": ("title", "modality", "architectures"),
    "tracks": ("title", "description"),
}


def _row(kind: str, name: str) -> dict[str, Any]:
    """One row of a list; what another package provides may be broken, which its row says."""
    origin = {"from": registry.origin(kind, name)}
    try:
        if kind == "algorithms":
            algorithm = resolve(name)
            return {"name": name, "title": algorithm.title} | composition(algorithm)._asdict() | origin
        item = registry.get(kind, name)
        return {"name": name} | {field: getattr(item, field) for field in _FIELDS[kind]} | origin
    except Exception as error:
        if origin["from"] == "bibench":
            raise
        return {"name": name, "title": f"broken: {error}"} | origin


@app.command()
def validate(suite: Annotated[str, typer.Argument(help="Name of a shipped suite, or path of a YAML file.")]) -> None:
    """Check a suite without running it, and say what it would run."""
    with _clear_errors():
        loaded = load_suite(suite)
        runs = make_plan(loaded)
    full = sum(run.algorithm == "fp32" for run in runs)
    epochs = sum(run.recipe.epochs for run in runs)
    networks = sorted({f"{run.task}/{run.architecture}" for run in runs})
    _out.print(f"{loaded.name}: valid, {len(runs)} runs ({full} in full precision), {epochs:,} epochs together")
    _out.print(f"  networks:   {', '.join(networks)}", soft_wrap=True)
    _out.print(f"  algorithms: {', '.join(algorithm.title for algorithm in loaded.algorithms)}", soft_wrap=True)
    _out.print(f"  seeds:      {', '.join(map(str, loaded.seeds))}")
    requested = [*(a.title for a in loaded.on_request), *(n for entry in loaded.tasks for n in entry.on_request)]
    if requested:
        _out.print(f"  on request: {', '.join(requested)}", soft_wrap=True)


@app.command()
def score(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the results.")],
    as_json: JsonOption = False,
) -> None:
    """Score the results in a folder."""
    with _clear_errors():
        results, scores, _ = score_store(Store.open(folder))
        if as_json:
            print(json.dumps([dataclasses.asdict(row) for row in scores], indent=1, allow_nan=False))
        else:
            print_tables(results, scores, comparisons(results), _out)
    if any(row.status == "failed" for row in scores):
        raise typer.Exit(SOME_FAILED)


@app.command()
def report(folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the results.")]) -> None:
    """Write report.html into a folder of results."""
    with _clear_errors():
        path = _report(Store.open(folder), show=False)
    _say(str(path))


def main() -> None:
    """The command ``bibench``."""
    app()
