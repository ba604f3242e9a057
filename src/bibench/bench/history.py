"""What happened to one run, as far as its files tell."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from bibench.bench.claims import Standing
from bibench.bench.store import Store, StoreError
from bibench.records import Record

__all__ = ["History", "history"]

_ROWS = TypeAdapter(list[dict[str, float]])


@dataclass(frozen=True, kw_only=True)
class History:
    """What happened to a run.

    Args:
        run: its identity.
        record: its result, if it has one.
        claim: the newest of those on it, whose number is how often it was taken; None where nobody has it.
        epochs: a row of figures an epoch: all of a finished run, and of another one those until its last checkpoint.
        error: what error.log says of the last attempt, a message or a traceback; empty where there is none.
    """

    run: str
    record: Record | None
    claim: Standing | None
    epochs: Sequence[Mapping[str, float]]
    error: str


def history(store: Store, run_id: str) -> History:
    """What happened to a run.

    Raises:
        StoreError: it isn't planned in the store, or a file of it can't be read; the message names it.
    """
    folder = store.folder(run_id)
    store.refresh(run_id)
    record = store.record(run_id)
    if record is None and run_id not in {run.id for run in store.plan()}:
        raise StoreError(
            f"{store.address}: no run of this name is planned: {run_id}; 'bibench status' has those that run"
        )
    claim = store.claims.standing(run_id)
    if record is not None:
        epochs = store.epochs(run_id)
    else:
        files = claim.state.files if claim is not None and claim.state is not None else ""
        epochs = _saved(store, (folder / files / "checkpoint.json").relative_to(store.root).as_posix())
    log = folder / "error.log"
    error = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return History(run=run_id, record=record, claim=claim, epochs=epochs, error=error)


def _saved(store: Store, name: str) -> list[dict[str, float]]:
    """The epochs that a checkpoint has; none where there is no checkpoint yet.

    Of an object store it is read there: a mirror has the checkpoints of its own machine only.
    """
    content = store.storage.read(name)
    if content is None:
        return []
    try:
        return _ROWS.validate_python(json.loads(content)["history"])
    except (ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise StoreError(
            f"{store.address}/{name}: not a complete checkpoint ({error}); delete it, and the run starts again"
        ) from error
