"""What every command shares: the application, its consoles, and how errors end."""

from __future__ import annotations

import errno
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from bibench import __version__, registry
from bibench.bench.benchmark import score_store
from bibench.bench.plan import PlanError
from bibench.bench.pool import LimitsError
from bibench.bench.ray_executor import ClusterError
from bibench.bench.storage import is_url
from bibench.bench.store import Store, StoreError
from bibench.bench.suite import SuiteError
from bibench.deploy.devices import DeviceError
from bibench.deploy.format import PackedError
from bibench.deploy.targets import TargetError
from bibench.native import NativeError
from bibench.nn import AlgorithmError, BinarizeError
from bibench.records import RecordError
from bibench.report import Meta, print_tables, write_report
from bibench.tasks.base import DataError
from bibench.tracks import ScoreError
from bibench.tracks.comparisons import comparisons
from bibench.training import CheckpointError
from bibench.training.loggers import LoggerError

__all__ = [
    "SOME_FAILED",
    "JsonOption",
    "RunnerOption",
    "SshConfigOption",
    "StoreArgument",
    "address",
    "app",
    "clear_errors",
    "collected_before",
    "err",
    "out",
    "say",
    "write_page",
]

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
out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

_BAD_INPUT = (
    AlgorithmError,
    BinarizeError,
    CheckpointError,
    ClusterError,
    DataError,
    DeviceError,
    LimitsError,
    LoggerError,
    NativeError,
    PackedError,
    PlanError,
    RecordError,
    ScoreError,
    StoreError,
    SuiteError,
    TargetError,
    registry.UnknownName,
)

StoreArgument = Annotated[str, typer.Argument(metavar="DIR", help="Folder of the results, or s3://BUCKET/FOLDER.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RunnerOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--runner",
        metavar="PROGRAM",
        help="The program that measures there; several are chosen from by processor [default: the package's].",
    ),
]
SshConfigOption = Annotated[
    Path | None, typer.Option("--ssh-config", metavar="FILE", help="Settings of ssh [default: ~/.ssh/config].")
]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Turn what went wrong into one message and an exit status."""
    try:
        yield
    except _BAD_INPUT as error:
        err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(WRONG_INPUT) from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        advice = "; free some space and run the same command again: nothing finished is lost"
        full = advice if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        err.print(f"error: {error.strerror or error}{where}{full}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(SOME_FAILED) from error
    except KeyboardInterrupt as error:
        if isinstance(error.__cause__, TargetError):  # what it left on a device
            err.print(f"error: {error.__cause__}", style="red", markup=False, soft_wrap=True)
        err.print("stopped; what is finished is kept: run the same command again to continue", style="yellow")
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


def address(text: str) -> Path | str:
    """A place of results as the user gave it: a folder, or an address of an object store, which no path can hold.

    >>> address("s3://bucket/quick")
    's3://bucket/quick'
    """
    return text if is_url(text) else Path(text)


def say(text: str) -> None:
    out.print(text, markup=False, soft_wrap=True)


@contextmanager
def collected_before() -> Iterator[None]:
    """Python's collector of reference cycles leaves out what there is now, such as a big store's records."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def write_page(store: Store, *, show: bool = True) -> Path:
    """Score a store, print the tables and write its report."""
    suite = store.suite()
    results, scores, tracks = score_store(store)
    with collected_before():
        found = comparisons(results)
        if show:
            print_tables(results, scores, found, out)
        path = store.root / "report.html"
        meta = Meta(suite=str(suite.get("name")), tracks=tracks, description=str(suite.get("description") or ""))
        write_report(path, results, scores, found, store.epochs, meta, store.pictures)
    store.publish(path)
    return path
