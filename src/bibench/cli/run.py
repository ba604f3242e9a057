"""Commands that run something: a suite, or a single network."""

from __future__ import annotations

import functools
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast, get_args

import typer

from bibench import registry
from bibench.bench.benchmark import choose_device, default_jobs, run_suite
from bibench.bench.claims import LEASE
from bibench.bench.device_grid import DeviceGrid, check_suite, measure_on_devices
from bibench.bench.executor import Stop
from bibench.bench.plan import Budget, PlanError, parse_only
from bibench.bench.pool import Limits
from bibench.bench.ray_executor import Cluster, load_ray
from bibench.bench.store import Store
from bibench.bench.suite import AlgorithmEntry, BinarizedMethod, Suite, TaskEntry, load_suite, seeds_up_to
from bibench.bench.worker import Outcome, Settings
from bibench.cli.app import (
    SOME_FAILED,
    RunnerOption,
    SshConfigOption,
    address,
    app,
    clear_errors,
    err,
    say,
    write_page,
)
from bibench.cli.app import out as console
from bibench.deploy.devices import load_devices
from bibench.deploy.measuring import check_runners
from bibench.display import Display
from bibench.nn import resolve
from bibench.records import Record
from bibench.report.words import counted, duration
from bibench.training.loggers import check_loggers

__all__ = ["run", "train"]

DataOption = Annotated[Path | None, typer.Option("--data", help="Folder of the data sets' original files.")]
SubsetOption = Annotated[
    bool, typer.Option("--allow-subset", help="Accept a part of a data set; the results will say so.")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=1, max=os.cpu_count() or 1, help="Threads of each run on a CPU.")
]
EpochsOption = Annotated[int | None, typer.Option("--epochs", min=1, help="Epochs in place of every recipe's own.")]
StepsOption = Annotated[
    int | None, typer.Option("--steps", min=1, help="Steps of the optimizer in place of every recipe's own budget.")
]
SecondsOption = Annotated[
    float | None,
    typer.Option("--seconds", min=0, help="Seconds of training in place of every recipe's own budget: timed first."),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option("--checkpoint", help="Full-precision weights (safetensors) to start from, instead of training any."),
]
LayersOption = Annotated[
    bool, typer.Option("--layer-statistics", help="Record flip rate, sign balance and dead weights by layer and epoch.")
]
LoggerOption = Annotated[
    list[str] | None,
    typer.Option("--logger", help="Log each epoch to csv, tensorboard, wandb or mlflow; can be given several times."),
]
CheckpointSecondsOption = Annotated[
    float, typer.Option("--checkpoint-seconds", min=0, help="A run is saved after an epoch if this long has passed.")
]
MemoryOption = Annotated[
    str | None,
    typer.Option("--run-memory", metavar="SIZE", help="Memory that a run may take, such as 4G; it is killed above it."),
]
HangOption = Annotated[
    float | None,
    typer.Option("--hang-seconds", min=1, help="A run is killed when no training step has ended for this long."),
]
ExecutorOption = Annotated[str, typer.Option("--executor", help="local: this machine; ray: a Ray cluster.")]
AddressOption = Annotated[
    str | None,
    typer.Option("--address", help="Of the Ray cluster; auto: this machine's [default: one is started here]."),
]
LeaseOption = Annotated[
    float,
    typer.Option(
        "--lease-seconds", min=1, max=86400, help="A run is taken over when its process is silent for so long."
    ),
]
GpusOption = Annotated[
    float | None,
    typer.Option("--gpus-per-run", min=0, help="On Ray, such as 0.25, a share [default: one a device]."),
]
GraceOption = Annotated[
    float,
    typer.Option("--grace-seconds", min=0, help="After SIGTERM, time for runs to end their epoch; they are saved."),
]
DevicesOption = Annotated[
    int, typer.Option("--devices", min=1, help="GPUs of each run, or processes on a CPU; they share each batch.")
]


def _loggers(names: list[str] | None) -> tuple[str, ...]:
    check_loggers(names or [])
    return tuple(names or [])


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
    out: Annotated[
        str | None,
        typer.Option("--out", help="Folder of the results, or s3://BUCKET/FOLDER [default: results/SUITE]."),
    ] = None,
    data: DataOption = None,
    device: DeviceOption = "auto",
    jobs: Annotated[
        int | None, typer.Option("--jobs", min=1, help="Runs at a time [default: as many as cores or GPUs allow].")
    ] = None,
    seeds: Annotated[str | None, typer.Option("--seeds", help="How many (3), or which (0,2,5).")] = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    seconds: SecondsOption = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            help="KEY=VALUE: task, architecture, algorithm, seed, method, setting, point; can be given several times.",
        ),
    ] = None,
    algorithm: Annotated[
        list[str] | None,
        typer.Option("--algorithm", help="One more algorithm, beside the suite's; can be given several times."),
    ] = None,
    missing: Annotated[
        str | None, typer.Option("--missing", help="Only the runs that would complete this metric, such as om_task.")
    ] = None,
    checkpoint: CheckpointOption = None,
    allow_subset: SubsetOption = False,
    threads: ThreadsOption = 1,
    devices: DevicesOption = 1,
    layer_statistics: LayersOption = False,
    checkpoint_seconds: CheckpointSecondsOption = 10.0,
    logger: LoggerOption = None,
    run_memory: MemoryOption = None,
    hang_seconds: HangOption = None,
    grace_seconds: GraceOption = 0.0,
    executor: ExecutorOption = "local",
    ray_address: AddressOption = None,
    lease_seconds: LeaseOption = LEASE,
    gpus_per_run: GpusOption = None,
    measure_on: Annotated[
        Path | None,
        typer.Option("--measure-on", metavar="FILE", help="Then measure on the devices that this YAML file names."),
    ] = None,
    runner: RunnerOption = None,
    ssh_config: SshConfigOption = None,
) -> None:
    """Run a suite, or go on with it; then print its scores and write report.html."""
    with clear_errors():
        loaded = load_suite(suite)
        chosen = _seeds(seeds)
        if chosen is not None:
            loaded = loaded.model_copy(update={"seeds": chosen})
        loaded = _with_algorithms(loaded, algorithm or [])
        on_ray = executor == "ray"
        settings = Settings(
            out=address(out) if out else Path("results") / loaded.name,
            data=data,
            allow_subset=allow_subset,
            device=device if on_ray and device == "cuda" else choose_device(device),  # the GPUs may be elsewhere
            threads=threads,
            checkpoint=checkpoint,
            layers=layer_statistics,
            checkpoint_seconds=checkpoint_seconds,
            loggers=_loggers(logger),
            lease=lease_seconds,
        )
        cluster = _cluster(executor, ray_address, gpus_per_run, settings, devices)
        if cluster is not None and (jobs is not None or grace_seconds):
            reason = "--grace-seconds: only with --executor local; on Ray the nodes are others'"
            if jobs is not None:
                reason = "--jobs: only with --executor local; on Ray the cluster says how much it holds"
            raise PlanError(reason)
        budget = _budget(epochs, steps, seconds, devices)
        grid = _grid(loaded, measure_on, runner or (), ssh_config)
        _run(
            loaded,
            settings,
            jobs=jobs,
            budget=budget,
            only=only or [],
            missing=missing,
            devices=devices,
            grid=grid,
            limits=_limits(run_memory, hang_seconds, devices),
            stop=Stop(grace_seconds),
            cluster=cluster,
        )


def _cluster(
    executor: str, address: str | None, gpus: float | None, settings: Settings, devices: int
) -> Cluster | None:
    if executor not in ("local", "ray"):
        raise PlanError(f"--executor {executor}: expected local or ray")
    if executor == "local":
        for option, given in (("--address", address), ("--gpus-per-run", gpus)):
            if given is not None:
                raise PlanError(f"{option} {given}: only with --executor ray")
        return None
    load_ray()  # before anything is planned into the store
    if gpus is None:
        gpus = float(devices if settings.device == "cuda" else 0)
    if (settings.device == "cpu") != (gpus == 0) or (gpus % 1 and gpus > 1):
        raise PlanError(
            f"--gpus-per-run {gpus:g}: with --device {settings.device} a run needs {_NEEDS[settings.device]}"
        )
    return Cluster(address=address, cpus=settings.threads * devices, gpus=gpus)


_NEEDS = {"cpu": "none", "cuda": "a share of a GPU such as 0.25, or whole ones"}
_UNITS = {"M": 2**20, "G": 2**30, "T": 2**40}


def _limits(memory: str | None, hang_seconds: float | None, devices: int) -> Limits:
    """The limits of a run.

    >>> _limits("1.5G", None, 1).memory == 1.5 * 2**30
    True
    """
    if hang_seconds is not None and devices > 1:
        raise PlanError(f"--hang-seconds {hang_seconds:g}: with --devices {devices} a run tells of no steps")
    if memory is None:
        return Limits(hang_seconds=hang_seconds)
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MGT])", memory)
    if found is None or not float(found[1]):
        raise PlanError(f"--run-memory {memory}: expected a number with M, G or T, such as 4G")
    return Limits(memory=int(float(found[1]) * _UNITS[found[2]]), hang_seconds=hang_seconds)


def _grid(suite: Suite, path: Path | None, runners: Sequence[Path], ssh_config: Path | None) -> DeviceGrid | None:
    if path is None:
        for option, given in (("--runner", runners), ("--ssh-config", ssh_config)):
            if given:
                raise PlanError(f"{option}: only with --measure-on, which says on which devices to measure")
        return None
    check_suite(suite)
    check_runners(runners)
    return DeviceGrid(
        devices=load_devices(path), threads=suite.measure.threads, runners=tuple(runners), ssh_config=ssh_config
    )


def _budget(epochs: int | None, steps: int | None, seconds: float | None, devices: int) -> Budget | None:
    if seconds is not None and devices > 1:
        raise PlanError(f"--seconds {seconds:g}: iterations are timed on one device, not on {devices}; give --steps")
    given = {"epochs": epochs, "steps": steps, "seconds": seconds}
    return Budget(**given) if any(value is not None for value in given.values()) else None  # type: ignore[arg-type]


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
        str | None,
        typer.Option(
            "--out", help="Folder of the results, or s3://BUCKET/FOLDER [default: results/TASK-ARCH-ALGORITHM]."
        ),
    ] = None,
    data: DataOption = None,
    device: DeviceOption = "auto",
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    seconds: SecondsOption = None,
    method: Annotated[
        str, typer.Option("--method", help="fine_tune, from_scratch or partial_pretraining.")
    ] = "fine_tune",
    share: Annotated[
        float | None,
        typer.Option("--share", help="Full precision's share of the budget in partial pre-training [default: 0.5]."),
    ] = None,
    optimizer_state: Annotated[
        str | None,
        typer.Option("--optimizer-state", help="reset or keep, when partial pre-training binarizes [default: reset]."),
    ] = None,
    checkpoint: CheckpointOption = None,
    allow_subset: SubsetOption = False,
    threads: ThreadsOption = 1,
    devices: DevicesOption = 1,
    layer_statistics: LayersOption = False,
    checkpoint_seconds: CheckpointSecondsOption = 10.0,
    logger: LoggerOption = None,
) -> None:
    """Train one network; a binarized one after the full-precision one that it starts from."""
    with clear_errors():
        for option, value, known in (
            ("--method", method, get_args(BinarizedMethod)),
            ("--optimizer-state", optimizer_state, (None, "reset", "keep")),
        ):
            if value not in known:
                raise PlanError(f"{option} {value}: expected {' or '.join(name for name in known if name)}")
        if share is not None and not 0 <= share < 1:
            raise PlanError(f"--share {share:g}: expected a number from 0 to below 1, such as 0.5")
        for option, given in (("--share", share), ("--optimizer-state", optimizer_state)):
            if given is not None and method != "partial_pretraining":
                raise PlanError(f"{option} {given}: only for --method partial_pretraining, and this is {method}")
        found, network = registry.get("tasks", task), registry.get("architectures", arch)
        if network.modality != found.modality:
            raise PlanError(
                f"--arch {arch} takes {network.modality} inputs, task '{task}' has {found.modality} inputs "
                f"(its architectures: {', '.join(found.architectures)})"
            )
        if algorithm != "fp32":
            resolve(algorithm)
        name = f"{task}-{arch}-{algorithm}"
        chosen = [f"algorithm={algorithm}"]  # without the full-precision run that a suite compares it with
        suite = Suite(
            name=name,
            tasks=(TaskEntry(task=task, architectures=(arch,)),),
            algorithms=() if algorithm == "fp32" else (AlgorithmEntry(name=algorithm),),
            seeds=(seed,),
            method=cast(BinarizedMethod, method),
            share=0.5 if share is None else share,
            optimizer_state=cast(Any, optimizer_state or "reset"),
            # Without the full-precision run that the other tracks compare with, they have nothing to say.
            **({} if algorithm == "fp32" or method == "fine_tune" else {"tracks": ("theoretical_complexity",)}),
        )
        settings = Settings(
            out=address(out) if out else Path("results") / name,
            data=data,
            allow_subset=allow_subset,
            device=choose_device(device),
            threads=threads,
            checkpoint=checkpoint,
            layers=layer_statistics,
            checkpoint_seconds=checkpoint_seconds,
            loggers=_loggers(logger),
        )
        _run(
            suite,
            settings,
            jobs=1,
            budget=_budget(epochs, steps, seconds, devices),
            only=chosen,
            devices=devices,
            partners=False,
        )


def _run(
    suite: Suite,
    settings: Settings,
    *,
    jobs: int | None,
    budget: Budget | None,
    only: Sequence[str],
    devices: int,
    missing: str | None = None,
    partners: bool = True,
    grid: DeviceGrid | None = None,
    limits: Limits | None = None,
    stop: Stop | None = None,
    cluster: Cluster | None = None,
) -> None:
    signal.signal(signal.SIGTERM, functools.partial(_terminated, stop or Stop(0.0)))
    start = time.monotonic()
    display: Display | None = None

    def listener(todo: list[Any]) -> Display:
        nonlocal display
        display = Display(todo, console)
        if todo:
            say(f"{suite.name}: {counted(len(todo), 'run')} to do on {settings.device}, results in {settings.out}")
        return display.__enter__()

    try:
        runs, outcomes = run_suite(
            suite,
            settings,
            jobs=jobs or default_jobs(settings.device, devices),
            listener=listener,
            budget=budget,
            only=parse_only(only),
            missing=missing,
            devices=devices,
            partners=partners,
            limits=limits,
            stop=stop,
            cluster=cluster,
        )
    finally:
        if display is not None:
            display.__exit__()
    failures: list[str] = []
    if grid is not None:

        def failed(text: str) -> None:
            failures.append(text)
            err.print(f"error: {text}", style="red", markup=False, soft_wrap=True)

        measure_on_devices(runs, settings, grid, told=say, failed=failed)
    store = Store.open(settings.out)
    path = write_page(store)
    records = {run.id: store.record(run.id) for run in runs}
    say(f"{_summary(records, outcomes, time.monotonic() - start)}; report: {path}")
    if failures or any(record is None or record.status != "ok" for record in records.values()):
        raise typer.Exit(SOME_FAILED)


def _summary(records: Mapping[str, Record | None], outcomes: Sequence[Outcome], seconds: float) -> str:
    """What became of the runs that were asked for, in one sentence."""
    attempted = {outcome.run.id for outcome in outcomes}
    before = [record for run_id, record in records.items() if run_id not in attempted and record is not None]
    failed = sum(record.status == "failed" for record in before)
    earlier = f"{len(before)} finished before" + (f" ({failed} of them failed)" if failed else "")
    if len(before) == len(records):
        return f"nothing to do: {counted(len(records), 'run')} asked for, {earlier}"
    bad = sum(outcome.status != "ok" for outcome in outcomes)
    left = len(records) - len(before) - len(outcomes)
    return (
        f"{counted(len(outcomes), 'run')} in {duration(seconds)}"
        + (f", {bad} not ok" if bad else "")
        + (f", {left} not started" if left else "")
        + (f", {earlier}" if before else "")
    )


def _terminated(stop: Stop, number: int, frame: Any) -> None:
    if not stop.grace or not stop.heeded or stop.requested:
        raise KeyboardInterrupt
    stop.request()
