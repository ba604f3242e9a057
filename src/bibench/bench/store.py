"""The store: plain files, one folder a run, each file written atomically.

OUT/suite.json                     what this store is for
OUT/plan.json                      the runs that were asked for so far
OUT/data.json                      fingerprint of the data that runs saw, by task
OUT/calibration.json               seconds of an iteration, where budgets were given in seconds
OUT/runs/ID/record.json            the result; its existence means that the run is finished
OUT/runs/ID/epochs.csv             figures of every epoch
OUT/runs/ID/layers.csv             statistics of every layer and epoch, on request
OUT/runs/ID/model.safetensors      final weights
OUT/runs/ID/optimizer.safetensors  the optimizer's final state, where another run starts from it
OUT/runs/ID/predictions.safetensors  score of every test sample
OUT/runs/ID/pictures/              what the network does with a few test samples, of tasks that can be seen
OUT/runs/ID/checkpoint*            while the run isn't finished
OUT/runs/ID/error.log              traceback of an unexpected error, until the run is finished
OUT/.bibench.lock                  empty; locked while a process runs into the store
"""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from bibench.bench.pictures import read_pictures, write_pictures
from bibench.files import write_bytes, write_json, write_text
from bibench.records import Record, Results, RunConfig, StoredPictures, read_record
from bibench.tasks.base import PicturePair

__all__ = ["Store", "StoreError"]

_LOCK = ".bibench.lock"
_DESCRIPTIVE = {"description", "tracks", "awaiting"}
_PLAN = TypeAdapter(list[RunConfig])


class StoreError(ValueError):
    """A folder that can't be used as a store; the message names it and says what to do."""


class Store:
    """A folder of results.

    Args:
        root: the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @classmethod
    def open(cls, root: Path) -> Store:
        """A store that exists.

        Raises:
            StoreError: the folder holds no results.
        """
        if not (root / "suite.json").is_file():
            raise StoreError(
                f"{root}: no results here (suite.json is missing); 'bibench run SUITE --out {root}' makes some"
            )
        return cls(root)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from running into the store; the folder is made if it isn't there.

        The system lets go of the lock when the process ends, however it ends. Where a system or a network file system
        has no locks, there is no protection. The file stays: a lock on a file that was removed holds nobody back.

        Raises:
            StoreError: not a folder, a folder with other files, or another process has it.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise StoreError(f"{self.root} is not a folder; choose another --out") from error
        self._refuse_foreign()
        path = self.root / _LOCK
        if path.is_dir():
            raise StoreError(f"{path} is a folder, not the store's lock file; delete it, or choose another --out")
        with path.open("a") as file:
            if sys.platform != "win32":
                import fcntl

                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise StoreError(
                        f"{self.root} is in use: another bibench process runs into it; wait for it or stop it, or "
                        "choose another --out"
                    ) from error
                except OSError:
                    pass
            yield

    def _refuse_foreign(self) -> None:
        """Refuse a folder that is neither a store nor empty."""
        if (self.root / "suite.json").is_file() or not self.root.exists():
            return
        if any(entry.name != _LOCK for entry in self.root.iterdir()):
            raise StoreError(
                f"{self.root} is not an empty folder and holds no results of bibench; choose another --out"
            )

    def claim(
        self,
        suite: Mapping[str, Any],
        runs: Sequence[RunConfig],
        data: Mapping[str, str],
        calibration: Mapping[str, float] | None = None,
    ) -> None:
        """Make the folder this suite's, and remember which runs were asked for and on which data.

        Args:
            suite: name and settings, which must be the same whenever the store is used, save description and tracks.
            runs: what is asked for this time; added to what was.
            data: fingerprint of the data by task.
            calibration: seconds of an iteration, where the runs' budgets were given in seconds.

        Raises:
            StoreError: it holds another suite's results, results on other data, or other files; nothing is written.
        """
        self._refuse_foreign()
        path = self.root / "suite.json"
        if path.is_file():
            found = self.suite()
            keys = {*found, *suite} - _DESCRIPTIVE
            differing = sorted(key for key in keys if found.get(key) != suite.get(key))
            if differing:
                what = ", ".join(
                    f"{key} was {_short(found.get(key))}, is {_short(suite.get(key))}" for key in differing
                )
                raise StoreError(
                    f"{self.root} holds results of suite '{found.get('name')}' with other settings ({what}); "
                    "choose another --out, or the settings of the first run"
                )
            for task, fingerprint in data.items():
                self.check_data(task, fingerprint)
        known = {run.id: run for run in self.plan()}
        for run in runs:
            before = known.get(run.id, run)
            # Asked for before as a part of a grid, or now: it stays what it was.
            kept = {
                "main": run.main or before.main,
                "setting": run.setting or before.setting,
                "point": run.point or before.point,
            }
            known[run.id] = run.model_copy(update=kept)
        _refuse_namesakes(self.root, known.values())
        write_json(path, dict(suite))
        write_json(self.root / "data.json", self._data() | dict(data))
        if calibration:
            write_json(self.root / "calibration.json", self.calibration() | dict(calibration))
        write_json(self.root / "plan.json", _PLAN.dump_python(list(known.values()), mode="json"))

    def suite(self) -> dict[str, Any]:
        """What the store is for: name, version and settings of the suite."""
        content = self._json(self.root / "suite.json")
        if not isinstance(content, dict):
            raise StoreError(f"{self.root / 'suite.json'}: expected a JSON object")
        return content

    def plan(self) -> list[RunConfig]:
        """The runs that were asked for so far."""
        path = self.root / "plan.json"
        if not path.is_file():
            return []
        try:
            plan = _PLAN.validate_python(self._json(path))
        except ValidationError as error:
            first = error.errors()[0]
            raise StoreError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        try:
            for run in plan:
                self.folder(run.id)
        except ValueError as error:
            raise StoreError(f"{path}: {error}") from error
        return plan

    def calibration(self) -> dict[str, float]:
        """Seconds of a training iteration that budgets in seconds were turned into steps with, by network.

        Raises:
            StoreError: the file isn't a table of positive numbers.
        """
        path = self.root / "calibration.json"
        content = self._json(path) if path.is_file() else {}
        if not isinstance(content, dict) or not all(
            isinstance(value, float) and 0 < value < math.inf for value in content.values()
        ):
            raise StoreError(f"{path}: expected a JSON object of seconds by network; delete it to measure anew")
        return content

    def folder(self, run_id: str) -> Path:
        """The folder of a run."""
        if Path(run_id).name != run_id or run_id in ("", ".", "..") or "\0" in run_id:
            raise StoreError(f"{run_id!r} is not the name of a run")
        return self.root / "runs" / run_id

    def record(self, run_id: str) -> Record | None:
        """The record of a run, or None while it isn't finished."""
        path = self.folder(run_id) / "record.json"
        if not path.is_file():
            return None
        record = read_record(path)
        if record.id != run_id:
            raise StoreError(f"{path} is the record of run {record.id}; delete it and run the suite again")
        if record.run.id != run_id:
            raise StoreError(f"{path}: its configuration doesn't match its name; delete it and run the suite again")
        return record

    def records(self) -> list[Record]:
        """The records of the planned runs, or all where there is no plan, by name of the run."""
        names = {run.id for run in self.plan()} or {
            path.parent.name for path in (self.root / "runs").glob("*/record.json")
        }
        return [record for name in sorted(names) if (record := self.record(name)) is not None]

    def results(self) -> Results:
        """Plan, records and predictions, as scores take them."""
        return Results(plan=self.plan(), records=self.records(), predictions=self.predictions)

    def unfinished(self, run: RunConfig, tracks: Collection[str]) -> bool:
        """Whether there is something left to do for a run.

        Args:
            run: the run.
            tracks: those that measure on finished runs.
        """
        record = self.record(run.id)
        return record is None or bool(self.unmeasured(run, record, tracks))

    def unmeasured(self, run: RunConfig, record: Record, tracks: Collection[str]) -> list[str]:
        """The tracks that have not measured on a finished run, as far as that is still possible.

        Only main runs are measured, and only those that are ok and whose weights are there.
        """
        if not run.main or record.status != "ok" or record.weights is None or not self.weights(run.id).is_file():
            return []
        return [name for name in tracks if name not in record.measured]

    def commit(self, record: Record) -> None:
        """Finish a run: from here on it is never repeated."""
        write_json(self.folder(record.id) / "record.json", record.model_dump(mode="json"))

    def weights(self, run_id: str) -> Path:
        """Where the final weights of a run are."""
        return self.folder(run_id) / "model.safetensors"

    def optimizer(self, run_id: str) -> Path:
        """Where the optimizer's final state of a run is, if it is kept."""
        return self.folder(run_id) / "optimizer.safetensors"

    def write_predictions(self, run_id: str, per_sample: npt.NDArray[np.float32]) -> None:
        """Keep the score of every test sample."""
        content = {"score": np.ascontiguousarray(per_sample, dtype=np.float32)}
        write_bytes(self.folder(run_id) / "predictions.safetensors", save(content))

    def predictions(self, run_id: str) -> npt.NDArray[np.float32] | None:
        """The score of every test sample, float32 of shape (samples,), or None if it wasn't kept."""
        path = self.folder(run_id) / "predictions.safetensors"
        if not path.is_file():
            return None
        try:
            score: npt.NDArray[np.float32] = load_file(path)["score"]
        except (SafetensorError, KeyError) as error:
            raise StoreError(f"{path}: not a complete file of predictions ({error}); delete it") from error
        if score.dtype != np.float32 or score.ndim != 1 or not score.size or not np.isfinite(score).all():
            raise StoreError(f"{path}: expected one finite float32 number for each test sample; delete it")
        return score

    def write_pictures(self, run_id: str, pairs: Sequence[PicturePair]) -> None:
        """Keep what a network does with a few test samples."""
        write_pictures(self.folder(run_id), pairs)

    def pictures(self, run_id: str) -> StoredPictures:
        """What a network does with a few test samples; none if they weren't kept."""
        return read_pictures(self.folder(run_id))

    def write_rows(self, run_id: str, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write rows as CSV, such as ``epochs.csv``."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.folder(run_id) / name, text.getvalue())

    def epochs(self, run_id: str) -> list[dict[str, float]]:
        """The figures of every epoch, as written in ``epochs.csv``."""
        path = self.folder(run_id) / "epochs.csv"
        if not path.is_file():
            return []
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        except (ValueError, TypeError, csv.Error) as error:
            raise StoreError(f"{path}: not a complete table of numbers ({error}); delete it") from error
        if not all(math.isfinite(value) for row in rows for value in row.values()):
            raise StoreError(f"{path}: a number in it is not finite; delete it")
        return rows

    def check_data(self, task: str, fingerprint: str) -> None:
        """Refuse to mix results on different data.

        Raises:
            StoreError: earlier runs of the task saw other data.
        """
        known = self._data().get(task, fingerprint)
        if known != fingerprint:
            raise StoreError(
                f"task '{task}': the data have fingerprint {fingerprint[:12]}, but earlier runs in {self.root} saw "
                f"{known[:12]}; give the same --data, or another --out"
            )

    def _data(self) -> dict[str, str]:
        path = self.root / "data.json"
        content = self._json(path) if path.is_file() else {}
        if not isinstance(content, dict) or not all(isinstance(value, str) for value in content.values()):
            raise StoreError(f"{path}: expected a JSON object of fingerprints by task")
        return content

    def _json(self, path: Path) -> Any:
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise StoreError(f"{path}: can't be read ({error})") from error


def _refuse_namesakes(root: Path, runs: Iterable[RunConfig]) -> None:
    """Refuse two configurations that a score could not tell apart."""
    seen: dict[tuple[str, str, str, int, str | None], RunConfig] = {}
    for run in runs:
        # What others only start from has none of these: no score looks at it.
        places = [None] if run.main else [place for place in (run.setting, run.point) if place is not None]
        for place in places:
            other = seen.setdefault((run.task, run.architecture, run.algorithm, run.seed, place), run)
            if other.id != run.id:
                raise StoreError(
                    f"{root} already has '{run.algorithm}' with other settings ({other.id}, now {run.id}); "
                    "give the new one a label of its own, or choose another --out"
                )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
