"""A finished run and its network, for the commands that take one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from torch import nn

from bibench.bench.plan import PlanError
from bibench.bench.storage import is_url
from bibench.bench.store import Store
from bibench.bench.worker import finished_model, load_data
from bibench.cli.app import address
from bibench.models.base import Architecture
from bibench.records import Record
from bibench.tasks.base import Data, DataError, Task
from bibench.training.checkpoint import CheckpointError

__all__ = ["RunArgument", "finished_run", "run_data", "run_place", "trained_network"]

RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="Folder of a finished run (DIR/runs/NAME), or of results with just one.")
]


def finished_run(folder: str, wanted: Callable[[Record], bool], what: str) -> tuple[Store, Record]:
    """The store and the record of a run's folder, or of the only run in a folder of results that is wanted.

    Args:
        folder: given by the user; the address of an object store will do too.
        wanted: of the main runs that are ok, which count where the folder is one of results.
        what: those are, for messages, such as ``"binarized run"``.

    Raises:
        PlanError: no such run, several, or one that failed.
    """
    place, name = run_place(folder)
    if name is not None:
        store = Store.open(place)
        record = store.record(name)
        if record is None:
            raise PlanError(f"{folder}: no finished run of this name is there")
        if record.status != "ok":
            raise PlanError(f"{folder}: the run failed ({record.reason}), so it has no network")
        return store, record
    if isinstance(place, Path) and not (place / "suite.json").is_file():
        raise PlanError(
            f"{folder}: not the folder of a finished run (DIR/runs/NAME with a record.json), nor of results "
            "(DIR with a suite.json)"
        )
    store = Store.open(place)
    found = [record for record in store.records() if record.run.main and record.status == "ok" and wanted(record)]
    if len(found) == 1:
        return store, found[0]
    if not found:
        raise PlanError(f"{folder}: no {what} is finished here; name the folder of a run, or run some first")
    listed = "".join(f"\n  {store.address}/runs/{record.id}" for record in found)
    raise PlanError(f"{folder} has {len(found)} finished {what}s; name the folder of one:{listed}")


def run_place(folder: str) -> tuple[Path | str, str | None]:
    """The place of results and the name of a run in it, if the folder is a run's: ``DIR/runs/NAME``.

    A place of results may itself lie in a folder called ``runs``, and a run's folder may not be there yet.

    Args:
        folder: given by the user; the address of an object store will do too.

    Raises:
        StoreUnreachable: the object store doesn't answer.

    >>> run_place("results/runs/quick/runs/digits-s0")[1], run_place("results/quick")[1]
    ('digits-s0', None)
    """
    place = address(folder)
    if isinstance(place, Path):
        where = place if place.parent.name == "runs" else place.resolve()
        if where.parent.name != "runs" or (place / "suite.json").is_file():
            return place, None
        return where.parent.parent, where.name
    root, _, name = place.rstrip("/").rpartition("/runs/")
    if not is_url(root) or "/" in name or Store(place).storage.read("suite.json") is not None:
        return place, None
    return root, name


def run_data(record: Record, task: Task, root: Path | None, allow_subset: bool, store: Store) -> Data:
    """A run's data where they are given or need no files; else what is known of them without.

    Raises:
        DataError: they can't be read, or nothing is known of them without.
        StoreError: not the data that the run saw.
    """
    if root is None:
        try:
            return load_data(task.name, None, allow_subset)
        except DataError:
            if task.outputs is None:
                raise
        return Data(train=cast(Any, ()), test=cast(Any, ()), outputs=task.outputs, fingerprint="")
    loaded = load_data(task.name, root, allow_subset)
    store.check_data(task.name, loaded.fingerprint)
    return loaded


def trained_network(record: Record, store: Store, task: Task, architecture: Architecture, data: Data) -> nn.Module:
    """The network of a finished run with its final weights, on the CPU, in evaluation mode.

    Raises:
        PlanError: the weights are for other outputs than the task's.
        StoreError: the weights are missing, or not what the run's record says.
    """
    try:
        return finished_model(record.run, store, task=task, data=data, architecture=architecture)
    except CheckpointError as error:
        if data.fingerprint:
            raise
        raise PlanError(
            f"{record.id}: its weights don't fit the {data.outputs} outputs of task '{task.name}' ({error}); if it was "
            "trained on a part of the data, give that with --data DIR (and --allow-subset)"
        ) from error
