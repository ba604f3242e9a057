"""A store in the middle of a sweep, made by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bibench.bench.store import Store, write_rows
from bibench.files import write_json
from bibench.records import Environment, Figure, Record, RunConfig
from small_runs import config

HOUR = 3600.0
CPU = Environment(
    bibench="0", commit=None, python="3", torch="2", platform="p", processor="Some CPU", accelerator=None, threads=1
)
GPU = CPU.model_copy(update={"accelerator": "Some GPU"})
FULL, BNN, BNN_1, RECU = config("fp32"), config("bnn"), config("bnn", seed=1), config("recu")
ELSEWHERE = config("bnn", architecture="digits_mlp")
PLAN = (FULL, BNN, BNN_1, RECU, ELSEWHERE)


def store_at(folder: Path, *plan: RunConfig) -> Store:
    """A store that some runs were asked of, and nothing was done."""
    store = Store(folder)
    store.begin({"name": "sweep"}, plan or PLAN, {"digits": "a" * 64})
    return store


def finish(store: Store, run: RunConfig, hours: float = 1.0, **content: Any) -> Record:
    """Commit a result that took so many hours, with two epochs, on a GPU."""
    claim = store.claims.take(run.id)
    assert claim is not None
    epochs = [{"epoch": epoch, "lr": 0.1, "train_loss": 1 / epoch, "accuracy": 40.0 + epoch} for epoch in (1, 2)]
    write_rows(store.folder(run.id) / content.get("files", "") / "epochs.csv", epochs)
    fields = {
        "id": run.id,
        "run": run,
        "status": "ok",
        "figures": (Figure(name="accuracy", value=42.0, unit="percent"),),
        "phases": {"train": 0.75 * hours * HOUR, "measure": 0.25 * hours * HOUR},
        "environment": GPU,
        "finished": "2026-01-01T00:00:00+00:00",
    }
    record = Record(**(fields | content))
    assert store.commit(record, claim)
    return record


def saved(store: Store, run: RunConfig, epochs: int, files: str = "") -> Path:
    """A checkpoint's description with so many epochs, as far as it tells of them."""
    history = [{"epoch": epoch, "lr": 0.1, "train_loss": 1 / epoch} for epoch in range(1, epochs + 1)]
    path = store.folder(run.id) / files / "checkpoint.json"
    write_json(path, {"run": run.id, "epoch": epochs, "history": history})
    return path
