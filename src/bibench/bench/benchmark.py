"""The main job: from a suite to a scored store. What the command line does, callable from Python."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch

from bibench import registry
from bibench.bench.calibration import calibrate
from bibench.bench.executor import Listener, Stop, run_plan
from bibench.bench.plan import Budget, PlanError, Selection, make_plan, with_parents
from bibench.bench.pool import Limits, visible_gpus
from bibench.bench.ray_executor import Cluster
from bibench.bench.store import OtherTimes, Store, StoreError
from bibench.bench.suite import Suite
from bibench.bench.worker import Outcome, Settings, load_data
from bibench.files import file_sha256
from bibench.models.base import Architecture
from bibench.records import Results, RunConfig, Score, collector_paused
from bibench.tasks.base import Task
from bibench.tracks import Mode
from bibench.tracks import score as score_tracks
from bibench.tracks.base import Track
from bibench.training.checkpoint import (
    CheckpointError,
    holds_pretrained,
    load_pretrained,
    load_weights,
)

__all__ = ["Prepared", "choose_device", "default_jobs", "prepare", "run_suite", "score_store"]


def choose_device(name: str) -> str:
    """``"auto"`` becomes ``"cuda"`` where there is a GPU and ``"cpu"`` elsewhere.

    Raises:
        PlanError: a device that isn't there.
    """
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise PlanError(f"--device {name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise PlanError("--device cuda: this machine has no GPU that PyTorch can use; --device cpu runs without")
    return name


def default_jobs(device: str, devices: int = 1) -> int:
    """As many runs as there are GPUs for, or cores for their processes, each on one thread; at least one."""
    if device == "cuda":
        places = len(visible_gpus())
    else:
        places = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, places // devices)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prepared:
    """A suite's runs, and what a store is told of them.

    Args:
        runs: the plan.
        description: name and settings that must be the same whenever the store is used.
        data: fingerprint of the data by task.
        calibration: seconds of an iteration, where the budget is given in seconds.
    """

    runs: list[RunConfig]
    description: dict[str, Any]
    data: dict[str, str]
    calibration: dict[str, float] = dataclasses.field(default_factory=dict)


def prepare(
    suite: Suite,
    settings: Settings,
    *,
    budget: Budget | None = None,
    only: Selection | None = None,
    missing: str | None = None,
    devices: int = 1,
    partners: bool = True,
) -> Prepared:
    """Plan a suite's runs and check everything that can be checked beforehand.

    Nothing is written but the mirror of an object store, which is brought up to date.

    Args:
        suite, settings: what to run, and how.
        budget, only, devices, partners: see `make_plan`. For a budget in seconds, iterations are timed here, unless the
            store has their times already.
        missing: a metric; only the runs that would complete its scores.

    Raises:
        StoreError: the store can't be used, or a file of it can't be read.
        PlanError, CheckpointError, DataError: wrong input.
    """
    checkpoint = None
    if settings.checkpoint is not None:
        if not settings.checkpoint.is_file():
            what = "is a folder, not a file" if settings.checkpoint.is_dir() else "no such file"
            raise CheckpointError(f"--checkpoint {settings.checkpoint}: {what}; expected weights as safetensors")
        checkpoint = file_sha256(settings.checkpoint)
    store = Store(settings.out)
    store.check()
    store.sync()
    calibration: dict[str, float] = {}
    plan = functools.partial(make_plan, checkpoint=checkpoint, devices=devices, partners=partners)
    part = suite
    if budget is not None and budget.seconds is not None:
        # Which networks there are doesn't depend on the budget, but the names of points do.
        trial = Budget(steps=_MANY_STEPS)
        wanted = {key: values for key, values in (only or {}).items() if key != "point"}
        planned = plan(suite, budget=trial, only=wanted)
        calibration = calibrate(planned, settings, store.calibration())
        budget = dataclasses.replace(budget, calibration=calibration)
        part = _part(suite, planned)  # what wasn't asked for wasn't timed
    runs = plan(part, budget=budget, only=only)
    networks = sorted({(run.task, run.architecture) for run in runs})
    pretrained = False
    if settings.checkpoint is not None and len({name for _, name in networks}) == 1:
        first: Task = registry.get("tasks", networks[0][0])
        network: Architecture = registry.get("architectures", networks[0][1])
        if first.outputs is not None:
            pretrained = holds_pretrained(settings.checkpoint, network.build(first.input_shape, first.outputs))
    if pretrained:  # one encoder serves several tasks
        runs = plan(part, budget=budget, only=only, pretrained=True)
    elif checkpoint and len(networks) > 1:
        listed = ", ".join(f"{task} {architecture}" for task, architecture in networks)
        raise PlanError(
            f"--checkpoint holds one network, and the plan has {len(networks)} ({listed}); narrow it with --only"
        )
    if missing is not None:
        runs = missing_runs(suite, runs, store, missing)
    unfinished = [run for run in runs if store.unfinished(run, settings.tracks)]
    tasks = dict.fromkeys(run.task for run in unfinished)
    data = {}
    for name in tasks:
        loaded = load_data(name, settings.data, settings.allow_subset)
        data[name] = loaded.fingerprint
        if settings.checkpoint is not None:
            if loaded.check_checkpoint is not None:
                loaded.check_checkpoint(settings.checkpoint)
            architecture: Architecture = registry.get("architectures", unfinished[0].architecture)
            task: Task = registry.get("tasks", name)
            model = architecture.build(task.input_shape, loaded.outputs)
            (load_pretrained if pretrained else load_weights)(settings.checkpoint, model)
    description = _description(suite, budget, checkpoint, devices)
    return Prepared(runs=runs, description=description, data=data, calibration=calibration)


def _part(suite: Suite, runs: Sequence[RunConfig]) -> Suite:
    """The networks and algorithms of a suite that some of its runs have."""
    networks = {(run.task, run.architecture) for run in runs}
    tasks = []
    for entry in suite.tasks:
        task: Task = registry.get("tasks", entry.task)
        every = (*(entry.architectures or task.architectures), *entry.on_request)
        names = tuple(name for name in every if (entry.task, name) in networks)
        if names:
            tasks.append(entry.model_copy(update={"architectures": names, "on_request": (), "optional": False}))
    titles = {run.algorithm for run in runs}
    algorithms = tuple(entry for entry in suite.algorithms if entry.title in titles)
    return suite.model_copy(update={"tasks": tuple(tasks), "algorithms": algorithms})


def missing_runs(suite: Suite, runs: Sequence[RunConfig], store: Store, metric: str) -> list[RunConfig]:
    """The runs of a plan that would complete a metric, with the full-precision runs that they need.

    Only scores that are ``incomplete`` count. One failed run makes its algorithm's score ``failed``, which other runs
    wouldn't complete: what that algorithm lacks beside is left out, and runs only with the whole suite.

    Raises:
        PlanError: no track of the suite has the metric, or nothing of the plan would complete it.
    """
    records = [record for run in runs if (record := store.record(run.id)) is not None]
    tracks: list[Track] = [registry.get("tracks", name) for name in suite.tracks]
    scores = score_tracks(Results(plan=runs, records=records), tracks)
    known = list(dict.fromkeys(score.metric for score in scores))
    if metric not in known:
        near = registry.did_you_mean(metric, known)
        raise PlanError(f"--missing {metric}: not a metric of suite '{suite.name}'{near} (known: {', '.join(known)})")
    wanted = [score for score in scores if score.metric == metric and score.status == "incomplete"]
    texts = list(dict.fromkeys(text for score in wanted for text in score.missing))
    chosen = [run for run in runs if run.id in texts]
    if wanted and not chosen:
        raise PlanError(f"--missing {metric}: no run of suite '{suite.name}' would complete it: {'; '.join(texts)}")
    return with_parents(chosen, runs)


_MANY_STEPS = 10**9

_MAY_CHANGE = {"algorithms", "on_request", "seeds", "layer_statistics", "curves", "splits"}

_ADDED = {"share": 0.5, "optimizer_state": "reset", "steps": None, "seconds": None, "heads": False}
"""What came later is told to a store where it differs from this, so that earlier stores still fit."""


def _description(suite: Suite, budget: Budget | None, checkpoint: str | None, devices: int) -> dict[str, Any]:
    """What must stay the same in one store. More algorithms, seeds or other parts of the suite may follow later."""
    content: dict[str, Any] = json.loads(suite.model_dump_json(exclude=_MAY_CHANGE))
    for unit in ("epochs", "steps", "seconds"):
        content[unit] = getattr(budget, unit, None)
    content |= {"checkpoint": checkpoint, "devices": devices}
    content["tasks"] = [
        {key: value for key, value in entry.items() if key != "optional"}
        for entry in content["tasks"]
        if not entry["optional"]  # which may follow later
    ]
    if suite.measure.iterations is None:
        del content["measure"]["iterations"]  # which came later too
    if suite.measure.threads == (1,):
        del content["measure"]["threads"]  # and this
    return {key: value for key, value in content.items() if key not in _ADDED or value != _ADDED[key]}


def run_suite(
    suite: Suite,
    settings: Settings,
    *,
    jobs: int,
    listener: Callable[[list[RunConfig]], Listener],
    budget: Budget | None = None,
    only: Selection | None = None,
    missing: str | None = None,
    devices: int = 1,
    partners: bool = True,
    limits: Limits | None = None,
    stop: Stop | None = None,
    cluster: Cluster | None = None,
) -> tuple[list[RunConfig], list[Outcome]]:
    """Run what of a suite isn't finished yet; see `prepare` and `run_plan`.

    Args:
        listener: is called with the runs to do and returns who is told of them.

    Returns:
        The runs that were asked for, and the outcomes of those that were attempted.

    Raises:
        PlanError: more devices than this machine has GPUs.
    """
    if cluster is None and settings.device == "cuda" and devices > (found := len(visible_gpus())):
        raise PlanError(f"--devices {devices}: more than the GPUs that PyTorch can use here ({found}); ask for less")
    settings = dataclasses.replace(
        settings,
        tracks=tuple(name for name in suite.tracks if registry.get("tracks", name).measure is not None),
        measuring=suite.measure,
        layers=suite.layer_statistics or settings.layers,
    )
    store = Store(settings.out)
    prepared = _begun(
        store,
        functools.partial(
            prepare, suite, settings, budget=budget, only=only, missing=missing, devices=devices, partners=partners
        ),
    )
    todo = [run for run in prepared.runs if store.unfinished(run, settings.tracks)]
    return prepared.runs, run_plan(
        prepared.runs, settings, jobs=jobs, listener=listener(todo), limits=limits, stop=stop, cluster=cluster
    )


def _begun(store: Store, prepared: Callable[[], Prepared]) -> Prepared:
    """Prepare and begin, and again if another process has timed the same networks and written its times first.

    Each time that this happens the store has times that it didn't have, so it ends.
    """
    while True:
        found = prepared()
        with suppress(OtherTimes):
            store.begin(found.description, found.runs, found.data, found.calibration)
            return found


def score_store(store: Store, mode: Mode = "literal") -> tuple[Results, list[Score], list[Track]]:
    """Score what a store holds, with the tracks of its suite; see `bibench.tracks.score`.

    Raises:
        StoreError: nothing was ever asked of the store.
    """
    with collector_paused():
        results = store.results()
        if not results.plan:
            raise StoreError(f"{store.root}: plan.json names no runs")
        names = store.suite().get("tracks") or registry.names("tracks")
        chosen: list[Track] = [registry.get("tracks", str(name)) for name in names]
        return results, score_tracks(results, chosen, mode), chosen
