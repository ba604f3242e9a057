"""Loggers of what each epoch gives, for tools that draw it while a run goes on. What they write is no result."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["LOGGERS", "LoggerError", "Loggers", "check_loggers"]

_PROJECT = "bibench"


Log = Callable[[Mapping[str, float]], None]
"""Logs a row of an epoch's figures, its number ``epoch`` among them."""


class LoggerError(ValueError):
    """A logger that isn't known, or whose packages aren't installed."""


def _csv(folder: Path, run_id: str) -> Any:
    from lightning_fabric.loggers.csv_logs import CSVLogger

    return CSVLogger(folder, name="csv", version=run_id, flush_logs_every_n_steps=1)


def _tensorboard(folder: Path, run_id: str) -> Any:
    from lightning_fabric.loggers.tensorboard import TensorBoardLogger

    return TensorBoardLogger(folder, name="tensorboard", version=run_id)


def _wandb(folder: Path, run_id: str) -> Any:
    from pytorch_lightning.loggers import WandbLogger

    # Weights & Biases calls home unless WANDB_MODE says otherwise, and reads its key from where it always does.
    return WandbLogger(name=run_id, id=run_id, save_dir=folder, project=os.environ.get("WANDB_PROJECT", _PROJECT))


def _mlflow(folder: Path, run_id: str) -> Any:
    from mlflow.tracking import MlflowClient
    from pytorch_lightning.loggers import MLFlowLogger

    # Without a server MLflow writes into a database; its folder of files is no longer developed.
    address = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.resolve() / 'mlflow.db'}"
    client = MlflowClient(address)
    experiment = client.get_experiment_by_name(_PROJECT)
    # MLflow gives every run an identity of its own, so the one that was broken off is found by its name.
    begun = f"attributes.run_name = '{run_id}' and attributes.status != 'FINISHED'"
    found = client.search_runs([experiment.experiment_id], begun, max_results=1) if experiment is not None else []
    for run in found:
        client.update_run(run.info.run_id, status="RUNNING")
    own = found[0].info.run_id if found else None
    return MLFlowLogger(experiment_name=_PROJECT, run_name=run_id, run_id=own, tracking_uri=address)


LOGGERS: Mapping[str, Callable[[Path, str], Any]] = {
    "csv": _csv,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
    "mlflow": _mlflow,
}
"""By the names that `--logger` takes."""

_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "csv": (),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb", "pytorch_lightning"),
    "mlflow": ("mlflow", "sqlalchemy", "alembic", "pytorch_lightning"),
}


def check_loggers(names: Sequence[str]) -> None:
    """Check that loggers are known and can be made.

    Raises:
        LoggerError: another name, or a package is missing.

    >>> check_loggers(["csv"])
    """
    for name in names:
        if name not in LOGGERS:
            raise LoggerError(f"--logger {name}: expected {', '.join(LOGGERS)}")
        try:
            all(map(importlib.import_module, _PACKAGES[name]))
        except ImportError as error:
            raise LoggerError(
                f"--logger {name} needs a package that can't be loaded ({error}): pip install 'bibench[loggers]'"
            ) from error


class Loggers:
    """The loggers of one run, which are made when its training starts, and let go at its end.

    It can be sent to another process, as the loggers themselves can't all.

    Args:
        names: of `LOGGERS`.
        folder: for what they write.
        run_id: the run's identity, by which each names it.
    """

    def __init__(self, names: Sequence[str] = (), folder: Path = Path(), run_id: str = "") -> None:
        self.names = tuple(dict.fromkeys(names))
        self.folder = folder
        self.run_id = run_id

    @contextmanager
    def opened(self, fabric: Any, history: Sequence[Mapping[str, float]]) -> Iterator[Log]:
        """What logs the figures of an epoch; of a run's processes only the first does.

        Args:
            fabric: of the run.
            history: epochs that another process did before: a file that is written anew gets them again.
        """
        if not self.names or not fabric.is_global_zero:
            yield lambda row: None
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        made = {name: LOGGERS[name](self.folder, self.run_id) for name in self.names}
        for row in history if "csv" in made else ():
            made["csv"].log_metrics(dict(row), step=int(row["epoch"]))

        def log(row: Mapping[str, float]) -> None:
            for logger in made.values():
                logger.log_metrics(dict(row), step=int(row["epoch"]))

        status = "failed"
        try:
            yield log
            status = "success"
        finally:
            for logger in made.values():
                logger.finalize(status)
            if "wandb" in made:
                made["wandb"].experiment.finish(exit_code=int(status == "failed"))
