"""One run from its configuration to its record: a function that any executor can call in any process."""

from __future__ import annotations

import copy
import errno
import functools
import os
import platform
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import bibench
from bibench import registry
from bibench.bench.claims import LEASE, Claim, ClaimLost
from bibench.bench.pictures import write_pictures
from bibench.bench.store import Store, StoreError, StoreUnreachable, write_rows
from bibench.files import file_sha256
from bibench.models.base import Architecture
from bibench.nn import BinarizeError, set_progress
from bibench.records import Absence, Environment, Figure, Record, RecordError, RunConfig
from bibench.tasks.base import Data, DataError, Evaluation, Task
from bibench.tracks.base import FinishedRun, Measuring, Track
from bibench.training import (
    Diverged,
    build_model,
    convert,
    full_precision_model,
    load_weights,
    save_weights,
    train,
)
from bibench.training.checkpoint import CheckpointError, State, save_optimizer
from bibench.training.loggers import Loggers
from bibench.training.loop import steps_an_epoch
from bibench.training.machine import keep_freed_memory, processor

__all__ = ["Outcome", "Settings", "execute", "finished_model", "load_data"]

_EXPLAINED = (BinarizeError, CheckpointError, DataError, RecordError, StoreError, registry.UnknownName)
"""Errors whose message is written for users; of any other, the traceback is kept."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a run needs to know that doesn't change its result.

    Args:
        out: the store: a folder, or the address of an object store.
        data: folder of the data sets, or None.
        allow_subset: accept a part of a data set.
        device: ``"cpu"`` or ``"cuda"``.
        threads: threads of the run; results are reproduced bit for bit with the same number.
        checkpoint: full-precision weights of the user.
        tracks: names of the tracks that measure on the finished run.
        measuring: how much they measure.
        layers: record layer statistics.
        checkpoint_seconds: time between checkpoints.
        loggers: that are told what each epoch gave, see `bibench.training.loggers`; they write below ``logs/``.
        lease: seconds without a sign of life after which another process takes a run over.
    """

    out: Path | str
    data: Path | None = None
    allow_subset: bool = False
    device: str = "cpu"
    threads: int = 1
    checkpoint: Path | None = None
    tracks: tuple[str, ...] = ()
    measuring: Measuring = field(default_factory=Measuring)
    layers: bool = False
    checkpoint_seconds: float = 10.0
    loggers: tuple[str, ...] = ()
    lease: float = LEASE


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Args:
        run: its configuration.
        status: ``ok``; ``failed``: it diverged, which is recorded as its result; ``error``: something went wrong that
            may not happen again, nothing is recorded, and the run is tried again next time; ``busy``: another process
            works on it.
        message: the score, the reason, or the error.
        traceback: of an error whose message isn't written for users; else empty.
        seconds: wall time in this attempt.
        fatal: an error that every other run would meet too, such as a full disk.
    """

    run: RunConfig
    status: Literal["ok", "failed", "error", "busy"]
    message: str
    seconds: float
    traceback: str = ""
    fatal: bool = False


@functools.lru_cache(maxsize=1)
def load_data(task_name: str, root: Path | None, allow_subset: bool) -> Data:
    """Load a task's data; the last one is kept, so that a process which runs many runs of a task reads it once."""
    task: Task = registry.get("tasks", task_name)
    return task.load(root, allow_subset)


def execute(
    config: RunConfig,
    settings: Settings,
    on_progress: Callable[[float], None] = lambda share: None,
    *,
    takeover: int | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Claim, train, evaluate, measure and record one run.

    Args:
        config: the run.
        settings: for every run.
        on_progress: called with the share of the training that is done.
        takeover: the number of a claim on the run whose holder was seen to be gone, see `bibench.bench.claims.Watch`.
        stop: asked at the end of each epoch whether to be interrupted there, see `bibench.training.train`.

    Returns:
        How it ended; errors too. An interrupt is raised, after the claim was given up.
    """
    start = time.perf_counter()

    def ended(status: Literal["ok", "failed", "error", "busy"], message: str, **more: Any) -> Outcome:
        return Outcome(run=config, status=status, message=message, seconds=time.perf_counter() - start, **more)

    torch.set_num_threads(settings.threads)
    keep_freed_memory()
    try:
        store = Store(settings.out)
        record = _claimed(config, settings, store, on_progress, takeover, stop)
    except OSError as error:
        fatal = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
        advice = "; free some space and run the same command again: nothing finished is lost" if fatal else ""
        return ended("error", f"{error.strerror or error}: {error.filename or settings.out}{advice}", fatal=fatal)
    except ClaimLost as error:
        return ended("busy", str(error))
    except _EXPLAINED as error:
        return ended("error", str(error), fatal=isinstance(error, StoreUnreachable))
    except Exception as error:
        first = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
        return ended("error", first, traceback="".join(traceback.format_exception(error)))
    if record is None:
        return ended("busy", "another process works on it")
    figure = record.figure(config.metric)
    return ended(record.status, record.reason or (f"{figure.value:.2f} {figure.unit}" if figure else ""))


def _claimed(
    config: RunConfig,
    settings: Settings,
    store: Store,
    on_progress: Callable[[float], None],
    takeover: int | None,
    stop: Callable[[], bool],
) -> Record | None:
    """The run's record, which this process makes unless it is there; None if another process works on it."""
    store.refresh(config.id)
    done = store.record(config.id)
    if done is not None and not store.unmeasured(config, done, settings.tracks):
        return done
    claim = store.claims.take(config.id, takeover=takeover, lease=settings.lease)
    if claim is None:
        return None

    def progressed(share: float) -> None:
        claim.progressed(share)
        on_progress(share)

    with claim.beating():
        store.refresh(config.id)  # another process may have finished it just before
        try:
            return _run(config, settings, store, progressed, claim, stop)
        except ClaimLost:
            store.leave(config.id, claim)
            raise


def _run(
    config: RunConfig,
    settings: Settings,
    store: Store,
    on_progress: Callable[[float], None],
    claim: Claim,
    stop: Callable[[], bool],
) -> Record | None:
    folder = store.folder(config.id) / claim.files
    folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    task: Task = registry.get("tasks", config.task)
    data = load_data(config.task, settings.data, settings.allow_subset)
    store.check_data(config.task, data.fingerprint)
    architecture: Architecture = registry.get("architectures", config.architecture)
    done = store.record(config.id)
    if done is not None:
        return _measure_again(done, config, settings, store, claim, task=task, data=data, architecture=architecture)
    store.adopt_checkpoint(config.id, claim.files)
    start = settings.checkpoint if config.checkpoint is not None else None
    optimizer_start = None
    if config.parent is not None:
        start = _weights_of(store, config.parent)
        if config.optimizer_state == "keep":
            optimizer_start = _optimizer_of(store, config.parent)
    model = full_precision_model(config, task=task, architecture=architecture, data=data, start=start)
    before = {"load": time.perf_counter() - began}
    notes = (*data.notes, *_origin(config, model, store), *_distilled(config))
    teacher = None if config.known_recipe.distillation is None else copy.deepcopy(model)
    if config.operator is not None:
        began = time.perf_counter()
        model = convert(config, model, task)
        before["convert"] = time.perf_counter() - began

    def finish(status: Literal["ok", "failed"], state: State, **content: Any) -> Record | None:
        if state.history:
            write_rows(folder / "epochs.csv", state.history)
        if state.layers:
            write_rows(folder / "layers.csv", state.layers)
        record = Record(
            id=config.id,
            run=config,
            status=status,
            phases=before | state.phases,
            data=data.fingerprint,
            files=claim.files,
            notes=notes,
            environment=environment(settings),
            finished=_now(),
            **content,
        )
        return record if store.commit(record, claim) else store.record(config.id)

    try:
        trained = train(
            config,
            model,
            task=task,
            data=data,
            folder=folder,
            device=settings.device,
            threads=settings.threads,
            checkpoint_seconds=settings.checkpoint_seconds,
            layers=settings.layers,
            optimizer_start=optimizer_start,
            teacher=teacher,
            on_progress=on_progress,
            on_saved=functools.partial(store.publish_checkpoint, config.id, claim.files),
            stop=stop,
            loggers=Loggers(settings.loggers, store.root / "logs", config.id),
        )
    except Diverged as error:
        return finish("failed", error.state, reason=str(error))
    began = time.perf_counter()
    run = FinishedRun(
        config=config,
        model=trained.model,
        architecture=architecture,
        task=task,
        data=data,
        device=settings.device,
        measuring=settings.measuring,
    )
    tracks = settings.tracks if config.main else ()
    taken = _measure(run, tracks)
    trained.state.phases["measure"] = time.perf_counter() - began
    if config.main and task.pictures is not None:
        with torch.no_grad():
            write_pictures(folder, task.pictures(trained.model.eval(), data))
    store.write_predictions(folder, trained.evaluation.per_sample)
    weights = folder / "model.safetensors"
    save_weights(weights, trained.model)
    kept = None
    if config.optimizer_state == "keep" and config.operator is None:
        kept = folder / "optimizer.safetensors"
        save_optimizer(kept, trained.model, trained.optimizer)
    return finish(
        "ok",
        trained.state,
        figures=(
            *_figures(task, trained.evaluation),
            *_trivial(task, data),
            *(item for item in taken if isinstance(item, Figure)),
        ),
        absences=tuple(item for item in taken if isinstance(item, Absence)),
        measured=tracks,
        weights=file_sha256(weights),
        optimizer=None if kept is None else file_sha256(kept),
    )


def _measure(run: FinishedRun, tracks: Sequence[str]) -> list[Figure | Absence]:
    """What tracks take on a finished run."""
    taken: list[Figure | Absence] = []
    for name in tracks:
        track: Track = registry.get("tracks", name)
        if track.measure is not None:
            taken += track.measure(run)
    return taken


def _measure_again(
    record: Record,
    config: RunConfig,
    settings: Settings,
    store: Store,
    claim: Claim,
    *,
    task: Task,
    data: Data,
    architecture: Architecture,
) -> Record:
    """Let the tracks that have not seen a finished run measure on its stored weights; nothing is trained again."""
    tracks = store.unmeasured(config, record, settings.tracks)
    if not tracks:
        return record
    began = time.perf_counter()
    model = finished_model(config, store, task=task, data=data, architecture=architecture)
    epochs = config.known_recipe.total_epochs(steps_an_epoch(data, config.known_recipe))
    set_progress(model, epochs - 1, epochs)
    run = FinishedRun(
        config=config,
        model=model.to(settings.device),
        architecture=architecture,
        task=task,
        data=data,
        device=settings.device,
        measuring=settings.measuring,
    )
    taken = _measure(run, tracks)
    seconds = record.phases.get("measure", 0.0) + time.perf_counter() - began
    new = record.model_copy(
        update={
            "run": config,  # it may have become a main run, or part of a grid
            "figures": (*record.figures, *(item for item in taken if isinstance(item, Figure))),
            "absences": (*record.absences, *(item for item in taken if isinstance(item, Absence))),
            "measured": (*record.measured, *tracks),
            "phases": record.phases | {"measure": seconds},
        }
    )
    store.amend(new, claim)
    return new


def finished_model(config: RunConfig, store: Store, *, task: Task, data: Data, architecture: Architecture) -> nn.Module:
    """The network of a finished run with its final weights, on the CPU, in evaluation mode.

    Raises:
        StoreError: the weights are missing, or not what the run's record says.
        CheckpointError: they don't fit the network: it was trained for other outputs than the data's.
    """
    model = build_model(config, task=task, architecture=architecture, data=data)
    load_weights(_weights_of(store, config.id), model)
    return model.eval()


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def _origin(config: RunConfig, model: nn.Module, store: Store) -> tuple[str, ...]:
    """What a user's file was to full precision; without one, of networks that can be pretrained, that they weren't."""
    parent = None if config.parent is None else store.record(config.parent)
    first = config if parent is None else parent.run
    network = f"{config.architecture} on {config.task}"
    if first.checkpoint is None:
        return (f"{network} started from scratch",) if hasattr(model, "load_pretrained") else ()
    given = f"(SHA-256 {first.checkpoint[:10]}...)"
    if first.method == "checkpoint":
        return (f"full precision of {network} is the given checkpoint {given}",)
    return (f"{network} started from pretrained weights {given}",)


def _distilled(config: RunConfig) -> tuple[str, ...]:
    """Of a network that learns from full precision beside the labels: that it does, and with which weights."""
    weights = config.known_recipe.distillation
    if weights is None:
        return ()
    listed = ", ".join(f"{term.name} {getattr(weights, term.name):g}" for term in fields(weights))
    network = f"binarized {config.architecture} on {config.task}"
    return (f"{network} learned from full precision too (distillation: {listed})",)


def _weights_of(store: Store, run_id: str) -> Path:
    """The final weights of a finished run, checked to be the ones that it ended with.

    Raises:
        StoreError: they are missing, or not what the run's record says.
    """
    record = _record_of(store, run_id)
    expected = None if record is None else record.weights  # None in records of earlier versions too
    return _checked(store, run_id, store.weights(run_id), expected)


def _optimizer_of(store: Store, run_id: str) -> Path:
    """The optimizer's state at the end of a run that keeps it; see `_weights_of`."""
    record = _record_of(store, run_id)
    return _checked(store, run_id, store.optimizer(run_id), None if record is None else record.optimizer)


def _record_of(store: Store, run_id: str) -> Record | None:
    if store.record(run_id) is None:
        store.refresh(run_id)
    return store.record(run_id)


def _checked(store: Store, run_id: str, path: Path, expected: str | None) -> Path:
    if not store.fetch(path).is_file():
        what = "is missing"
    elif expected is not None and file_sha256(path) != expected:
        what = "has another SHA-256 than its run's record says: truncated or altered"
    else:
        return path
    raise StoreError(
        f"{path} {what}; delete the folder {store.folder(run_id)} and run the same command again: it is trained anew"
    )


def _figures(task: Task, evaluation: Evaluation) -> list[Figure]:
    """A task's figures as records hold them; the score has the task's unit and direction."""
    samples = len(evaluation.per_sample)
    metric = task.metric
    figures = [
        Figure(
            name=name,
            value=value,
            unit=task.loss_unit if name == "loss" else metric.unit,
            samples=samples,
            higher_is_better=metric.higher_is_better if name == metric.name else (False if name == "loss" else None),
        )
        for name, value in evaluation.figures.items()
    ]
    return figures + [
        Figure(
            name=metric.name,
            value=value,
            unit=metric.unit,
            higher_is_better=metric.higher_is_better,
            conditions={"subset": name},
        )
        for name, value in evaluation.subsets.items()
    ]


def _trivial(task: Task, data: Data) -> list[Figure]:
    """What the score is to be seen against: that of an answer without looking, and how much of it chance may add."""
    if data.trivial is None:
        return []
    name, unit, samples = f"trivial_{task.metric.name}", task.metric.unit, len(data.test)
    return [
        Figure(name=name, value=data.trivial.value, unit=unit, samples=samples, mode=data.trivial.answer),
        Figure(name=f"{name}_margin", value=data.trivial.margin, unit=unit, samples=samples),
    ]


@functools.lru_cache(maxsize=1)
def _commit() -> str | None:
    """The commit of bibench's own source, where it runs from a git checkout."""
    package = Path(bibench.__file__).resolve().parent
    if not any((parent / ".git").exists() for parent in package.parents[:3]):
        return None
    try:
        found = subprocess.run(  # noqa: S603
            ["git", "-C", str(package), "rev-parse", "HEAD"],  # noqa: S607
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None  # a checkout without git: the version is recorded all the same
    return found.stdout.strip()


def environment(settings: Settings) -> Environment:
    """Where and with what this process runs."""
    return Environment(
        bibench=bibench.__version__,
        commit=_commit(),
        python=platform.python_version(),
        torch=torch.__version__,
        platform=platform.platform(),
        processor=f"{processor()} ({os.cpu_count()} cores)",
        accelerator=torch.cuda.get_device_name() if settings.device == "cuda" else None,
        threads=settings.threads,
    )
