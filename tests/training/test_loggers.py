"""Loggers: each tool's own reader finds every epoch, and the run is the same as without."""

from __future__ import annotations

import csv
import importlib.util
import math
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bibench.training import Diverged, Trained
from bibench.training.loggers import LoggerError, Loggers, check_loggers
from needed_tools import lacks
from small_runs import config, trained

RUN = config("recu")
SECRET = "f00d" * 10


def need(*packages: str) -> None:
    for package in packages:
        if importlib.util.find_spec(package) is None:
            lacks(f"{package} needed: pip install 'bibench[loggers]'")


def logged(folder: Path, *names: str) -> Trained:
    return trained(RUN, folder / "run", loggers=Loggers(names, folder / "logs", RUN.id))


def csv_rows(folder: Path) -> list[dict[str, float]]:
    with (folder / "logs" / "csv" / RUN.id / "metrics.csv").open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if key != "step"} for row in csv.DictReader(file)]


def events(folder: Path) -> Mapping[str, list[tuple[int, float]]]:
    read = EventAccumulator(str(folder / "logs" / "tensorboard" / RUN.id))
    read.Reload()
    return {name: [(one.step, one.value) for one in read.Scalars(name)] for name in read.Tags()["scalars"]}


def close(values: list[tuple[int, float]], history: list[dict[str, float]], name: str) -> bool:
    """Whether these are an epoch's figures, in single precision."""
    expected = [(int(row["epoch"]), row[name]) for row in history]
    return len(values) == len(expected) and all(
        step == epoch and math.isclose(value, figure, rel_tol=1e-6)
        for (step, value), (epoch, figure) in zip(values, expected, strict=True)
    )


def test_the_run_is_the_same_as_without_and_every_epoch_is_there(tmp_path: Path) -> None:
    plain = trained(RUN, tmp_path / "plain")
    own = logged(tmp_path, "csv", "tensorboard", "csv")
    assert own.state.history == plain.state.history
    for name, tensor in plain.model.state_dict().items():
        assert torch.equal(tensor, own.model.state_dict()[name])
    assert csv_rows(tmp_path) == own.state.history
    found = events(tmp_path)
    assert found.keys() == own.state.history[0].keys()
    assert all(close(values, own.state.history, name) for name, values in found.items())
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == sorted(
        path.name for path in (tmp_path / "plain").iterdir()
    )


class Stop(Exception):
    pass


def broken_off(folder: Path, *names: str) -> None:
    """Train a run until the middle of its second epoch; the first one is saved."""

    def stop(share: float) -> None:
        if share > 0.5:
            raise Stop

    loggers = Loggers(names, folder / "logs", RUN.id)
    with pytest.raises(Stop):
        trained(RUN, folder / "run", loggers=loggers, on_progress=stop, checkpoint_seconds=0)


def test_a_run_that_is_continued_is_logged_whole_and_once(tmp_path: Path) -> None:
    broken_off(tmp_path, "csv", "tensorboard")
    assert len(csv_rows(tmp_path)) == 1
    own = logged(tmp_path, "csv", "tensorboard")
    assert csv_rows(tmp_path) == own.state.history
    assert close(events(tmp_path)["train_loss"], own.state.history, "train_loss")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "logs").rglob("*")}
    logged(tmp_path, "csv", "tensorboard")  # nothing is left to train
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "logs").rglob("*")} == before


def test_several_processes_log_once(tmp_path: Path) -> None:
    run = config("bnn", devices=2)
    own = trained(run, tmp_path / "run", loggers=Loggers(("csv",), tmp_path / "logs", RUN.id))
    assert csv_rows(tmp_path) == own.state.history


def test_of_several_processes_only_the_first_makes_anything(tmp_path: Path) -> None:
    for first in (False, True):
        fabric = SimpleNamespace(is_global_zero=first)
        with Loggers(("csv",), tmp_path / "logs", RUN.id).opened(fabric, []) as log:
            log({"epoch": 1, "train_loss": 0.5})
        assert (tmp_path / "logs").exists() == first


def test_without_loggers_nothing_is_written(tmp_path: Path) -> None:
    trained(RUN, tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def wandb_records(path: Path) -> Iterator[bytes]:
    """The messages in a file of an offline run, which has LevelDB's log format after a header of 7 bytes."""
    data, at, parts = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def test_weights_and_biases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    need("wandb", "pytorch_lightning")
    from wandb.proto import wandb_internal_pb2 as messages

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    monkeypatch.setenv("WANDB_SILENT", "true")
    plain = trained(RUN, tmp_path / "plain")
    for _ in range(2):  # a process does many runs
        own = logged(tmp_path, "wandb")
        assert own.state.history == plain.state.history
        (tmp_path / "run").rename(tmp_path / f"run-{len(list(tmp_path.iterdir()))}")
    files = sorted((tmp_path / "logs" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2

    def losses(file: Path) -> list[float]:
        found = []
        for content in wandb_records(file):
            message = messages.Record()
            message.ParseFromString(content)
            if message.WhichOneof("record_type") == "history":
                items = {".".join(item.nested_key) or item.key: item.value_json for item in message.history.item}
                found.append(float(items["train_loss"]))
        return found

    expected = [row["train_loss"] for row in own.state.history]
    for file in files:
        assert RUN.id in file.name
        end = time.monotonic() + 60  # a process of its own writes it, which a busy machine can leave behind
        while len(losses(file)) < len(expected) and time.monotonic() < end:
            time.sleep(0.2)
        assert losses(file) == pytest.approx(expected)
    assert not any(SECRET.encode() in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


@pytest.fixture
def mlflow(monkeypatch: pytest.MonkeyPatch) -> None:
    need("mlflow", "sqlalchemy", "alembic", "pytorch_lightning")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def mlflow_runs(folder: Path) -> list[tuple[str, str, list[tuple[int, float]]]]:
    """Name, status and training losses of every run, the newest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'logs' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("bibench")
    assert experiment is not None
    found = [run.info for run in client.search_runs([experiment.experiment_id])]
    return [
        (
            run.run_name,
            run.status,
            [(one.step, one.value) for one in client.get_metric_history(run.run_id, "train_loss")],
        )
        for run in found
    ]


def losses(own: Trained) -> list[tuple[float, float]]:
    return [(row["epoch"], row["train_loss"]) for row in own.state.history]


@pytest.mark.usefixtures("mlflow")
def test_mlflow(tmp_path: Path) -> None:
    first = logged(tmp_path, "mlflow")
    assert mlflow_runs(tmp_path) == [(RUN.id, "FINISHED", losses(first))]
    (tmp_path / "run").rename(tmp_path / "first")
    again = logged(tmp_path, "mlflow")  # what is finished is another run, though its name is the same
    assert mlflow_runs(tmp_path) == [(RUN.id, "FINISHED", losses(own)) for own in (again, first)]


@pytest.mark.usefixtures("mlflow")
def test_a_run_that_is_continued_is_one_of_mlflows(tmp_path: Path) -> None:
    broken_off(tmp_path, "mlflow")
    [(name, status, found)] = mlflow_runs(tmp_path)
    assert (name, status, len(found)) == (RUN.id, "FAILED", 1)
    own = logged(tmp_path, "mlflow")
    assert mlflow_runs(tmp_path) == [(RUN.id, "FINISHED", losses(own))]


def test_what_goes_wrong_ends_the_log_as_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    monkeypatch.setattr(
        "lightning_fabric.loggers.csv_logs.CSVLogger.finalize", lambda self, status: ended.append(status)
    )
    logged(tmp_path, "csv")
    monkeypatch.setattr("bibench.training.loop.DIVERGED", 0.0)
    with pytest.raises(Diverged):
        trained(RUN, tmp_path / "other", loggers=Loggers(("csv",), tmp_path / "more", RUN.id))
    assert ended == ["success", "failed"]


def test_unknown_and_missing_loggers_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    check_loggers(["csv", "tensorboard"])
    with pytest.raises(LoggerError, match="--logger comet: expected csv, tensorboard, wandb, mlflow"):
        check_loggers(["csv", "comet"])
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(LoggerError, match=r"--logger tensorboard needs a package .*pip install 'bibench\[loggers\]'"):
        check_loggers(["tensorboard"])
