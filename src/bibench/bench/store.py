"""The store: plain files, one folder a run, each file written atomically; in a folder or an object store.

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
OUT/runs/ID/claim-000001.json      while a process works on it, see `bibench.bench.claims`
OUT/runs/ID/error.log              what went wrong in the last attempt, until the run is finished
OUT/runs/ID/attempt-2/             all of these but record and claims, if a process took the run over from a slow one
OUT/claim-000001.json              while a process writes the plan
OUT/devices/NAME.json              every repeat that was measured on a device
OUT/devices/NAME/claim-000001.json while a process measures there
OUT/discarded/ID-000001.json       who finished a run that another process had finished before

Of an object store there is a mirror in a local folder: what is read is read there, once `Store.sync` or `Store.refresh`
has brought it up to date, and what is written goes to both.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from bibench.bench.claims import Claim, Claims
from bibench.bench.pictures import read_pictures
from bibench.bench.storage import Folder, ObjectStore, Storage, StoreError, StoreUnreachable, is_url, mirror_of
from bibench.files import atomic_write, json_text, write_bytes, write_json, write_text
from bibench.records import Record, Results, RunConfig, StoredPictures, collector_paused
from bibench.records.record import parse_record

__all__ = ["OtherTimes", "Store", "StoreError", "StoreUnreachable", "write_rows"]

_DESCRIPTION = ("suite.json", "plan.json", "data.json", "calibration.json")
_CHECKPOINT = re.compile(r"checkpoint\.json|checkpoint-\d+\.safetensors")
_NAME = re.compile(r"(?!\.\.?$)[^/\\\0]+")
"""Of a run: that of one folder, nothing above or below it."""
_CLAIM = re.compile(r"(.*/)?claim-\d+\.json")
_OWN = re.compile(r"claim-\d+\.json|\.+claim-.*\.tmp|\.suite\.json\.[0-9a-f]+\.tmp|\.probe-[0-9a-f]+")
_PASSING = ("record.json", "error.log")
_SMALL = re.compile(
    r"(suite|plan|data|calibration)\.json|devices/[\w.@-]+\.json|report\.html|"
    r"runs/\w[\w.+-]*/(attempt-\d+/)?(record\.json|(epochs|layers)\.csv|predictions\.safetensors|error\.log|"
    r"pictures/(texts\.json|\d+-(truth|found)\.jpg))"
)
"""What `Store.sync` brings; weights are fetched by those who need them."""
_DESCRIPTIVE = {"description", "tracks", "awaiting"}
_PLAN = TypeAdapter(list[RunConfig])
_AT_A_TIME = 1000
"""So many runs of a plan become text at once; that of 100,000 is 93 MB."""


class OtherTimes(StoreError):
    """A store has other seconds of an iteration than runs were planned with: another process wrote its own first."""


class Store:
    """A place of results.

    Args:
        address: a folder, or ``s3://bucket/folder`` or ``gs://bucket/folder``.

    Raises:
        StoreError: another kind of address, or the package that it needs isn't installed.
    """

    def __init__(self, address: Path | str) -> None:
        self.address = str(address)
        self.remote: ObjectStore | None = None
        if is_url(address):
            self.remote = ObjectStore(self.address)
            self.root = mirror_of(self.address)
        else:
            self.root = Path(address)
        self.storage: Storage = self.remote or Folder(self.root)
        self.claims = Claims(self.storage)
        self._files: dict[str, str] = {}

    @classmethod
    def open(cls, address: Path | str) -> Store:
        """A store that exists, brought up to date.

        Raises:
            StoreError: the place holds no results.
        """
        store = cls(address)
        store.sync()
        if not (store.root / "suite.json").is_file():
            raise StoreError(
                f"{address}: no results here (suite.json is missing); 'bibench run SUITE --out {address}' makes some"
            )
        return store

    def check(self) -> None:
        """See that an object store can be used, without trying again if it doesn't answer; nothing for a folder.

        Raises:
            StoreError: it can't be reached, or lets two processes create one file.
        """
        if self.remote is not None:
            self.remote.check()

    def sync(self) -> None:
        """Bring the mirror's records and small files up to date; nothing for a folder.

        Raises:
            StoreUnreachable: the object store doesn't answer.
        """
        if self.remote is None:
            return
        index = self.root / "mirror.json"
        before: dict[str, str] = _versions(index)
        now = {name: version for name, version in self.remote.listing().items() if _SMALL.fullmatch(name)}
        for name in before.keys() - now.keys():
            (self.root / name).unlink(missing_ok=True)
        changed = [name for name, version in now.items() if before.get(name) != version]
        for some in (changed[start : start + 500] for start in range(0, len(changed), 500)):
            for name, content in self.remote.read_many(some).items():
                write_bytes(self.root / name, content)
        write_json(index, now)

    def refresh(self, run_id: str) -> None:
        """Bring the mirror's record of a run up to date, and what is known of the data; nothing for a folder."""
        if self.remote is not None:
            for name in ("data.json", f"{self._folder(run_id)}/record.json"):
                if not self.remote.fetch(name, self.root / name):
                    (self.root / name).unlink(missing_ok=True)

    def publish(self, path: Path) -> None:
        """Copy a file of the mirror to the object store; nothing for a folder."""
        if self.remote is not None:
            self.remote.write(path.relative_to(self.root).as_posix(), path.read_bytes())

    def fetch(self, path: Path) -> Path:
        """A file of a finished run that `sync` leaves, copied into the mirror if it isn't there."""
        if self.remote is not None and not path.is_file():
            self.remote.fetch(path.relative_to(self.root).as_posix(), path)
        return path

    def _refuse_foreign(self) -> None:
        """Refuse a place that is neither a store nor empty."""
        if (self.root / "suite.json").is_file():
            return
        if self.remote is not None:
            names = set(self.remote.listing())
        else:
            names = {entry.name for entry in self.root.iterdir()} if self.root.exists() else set()
        if "suite.json" in names or all(_OWN.fullmatch(name) for name in names):
            return
        # Another process may just be making it a store; it writes suite.json first, which the listing may have missed.
        if not (self.root / "suite.json").is_file():
            raise StoreError(
                f"{self.address} is not an empty folder and holds no results of bibench; choose another --out"
            )

    def begin(
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
            OtherTimes: it holds other times; nothing is written.
        """
        self.check()
        if self.remote is None:
            try:
                self.root.mkdir(parents=True, exist_ok=True)
            except (FileExistsError, NotADirectoryError) as error:
                raise StoreError(f"{self.root} is not a folder; choose another --out") from error
        self.sync()
        self._refuse_foreign()

        def merge(claim: Claim) -> None:
            self._pull_description()
            self._merge(claim, suite, runs, data, calibration or {})

        Claims(self.storage, below="").alone("", merge)

    def _merge(
        self,
        claim: Claim,
        suite: Mapping[str, Any],
        runs: Sequence[RunConfig],
        data: Mapping[str, str],
        calibration: Mapping[str, float],
    ) -> None:
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
                    f"{self.address} holds results of suite '{found.get('name')}' with other settings ({what}); "
                    "choose another --out, or the settings of the first run"
                )
            for task, fingerprint in data.items():
                self.check_data(task, fingerprint)
        times = self.calibration() if calibration else {}
        for network, seconds in calibration.items():
            if times.get(network, seconds) != seconds:
                raise OtherTimes(
                    f"{self.address} has {times[network]:g} s for an iteration of {network}, and the runs were planned "
                    f"with {seconds:g} s; plan them again"
                )
        known = {run.id: run for run in self.plan()}
        for run in runs:
            before = known.get(run.id, run)
            # Asked for before as a part of a grid, or now: it stays what it was.
            kept = {
                "main": run.main or before.main,
                "setting": run.setting or before.setting,
                "point": run.point or before.point,
            }
            changed = any(getattr(run, key) != value for key, value in kept.items())
            known[run.id] = run.model_copy(update=kept) if changed else run
        _refuse_namesakes(self.address, known.values())
        claim.confirm()
        self._write("suite.json", dict(suite))
        self._write("data.json", self._data() | dict(data))
        if calibration:
            self._write("calibration.json", times | dict(calibration))
        self._write_plan(list(known.values()))

    def _pull_description(self) -> None:
        if self.remote is not None:
            for name in _DESCRIPTION:
                self.remote.fetch(name, self.root / name)

    def _write(self, name: str, content: Any) -> None:
        path = self.root / name
        write_json(path, content)
        self.publish(path)

    def _write_plan(self, runs: Sequence[RunConfig]) -> None:
        path = self.root / "plan.json"

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                for start in range(0, len(runs), _AT_A_TIME):
                    some = _PLAN.dump_json(list(runs[start : start + _AT_A_TIME]), indent=1)
                    file.write((b"," if start else b"[") + some[1:-2])
                file.write(b"\n]\n" if runs else b"[]\n")

        atomic_write(path, write)
        self.publish(path)

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
            plan = _PLAN.validate_json(path.read_bytes())
        except OSError as error:
            raise StoreError(f"{path}: can't be read ({error})") from error
        except ValidationError as error:
            self._json(path)  # says so where it isn't JSON at all
            first = error.errors()[0]
            raise StoreError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
        try:
            for run in plan:
                self._folder(run.id)
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

    def _folder(self, run_id: str) -> str:
        if not _NAME.fullmatch(run_id):
            raise StoreError(f"{run_id!r} is not the name of a run")
        return f"runs/{run_id}"

    def folder(self, run_id: str) -> Path:
        """The folder of a run."""
        return self.root / self._folder(run_id)

    def files(self, run_id: str) -> Path:
        """The folder with the files of a finished run: its own, or one below it."""
        return self.root / self._file(run_id, "")

    def _file(self, run_id: str, name: str) -> str:
        """The name in the store of a file of a finished run."""
        if run_id not in self._files:
            self.record(run_id)
        return _below(self._folder(run_id), self._files.get(run_id, ""), name)

    def _content(self, name: str) -> bytes | None:
        """A file by its name in the store, None where it isn't there; made for reading 100,000 small ones."""
        try:
            with open(f"{self.root}/{name}", "rb", buffering=0) as file:
                return file.read()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def record(self, run_id: str, planned: RunConfig | None = None) -> Record | None:
        """The record of a run, or None while it isn't finished.

        Args:
            run_id: its identity.
            planned: a configuration that is known to have it: a record of the same one needs no hash.
        """
        name = f"{self._folder(run_id)}/record.json"
        content = self._content(name)
        if content is None:
            return None
        record = parse_record(content, f"{self.root}/{name}")
        if record.id != run_id:
            raise StoreError(f"{self.root}/{name} is the record of run {record.id}; delete it and run the suite again")
        if record.run != planned and record.run.id != run_id:
            raise StoreError(
                f"{self.root}/{name}: its configuration doesn't match its name; delete it and run the suite again"
            )
        self._files[run_id] = record.files
        return record

    def records(self) -> list[Record]:
        """The records of the planned runs, or all where there is no plan, by name of the run."""
        return self._records(self.plan())

    def _records(self, plan: Iterable[RunConfig]) -> list[Record]:
        planned = {run.id: run for run in plan}
        names = planned or {path.parent.name for path in (self.root / "runs").glob("*/record.json")}
        found = (self.record(name, planned.get(name)) for name in sorted(names))
        return [record for record in found if record is not None]

    def results(self) -> Results:
        """Plan, records and predictions, as scores take them."""
        with collector_paused():
            plan = self.plan()
            return Results(plan=plan, records=self._records(plan), predictions=self.predictions)

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
        there = self.remote is not None or self.weights(run.id).is_file()
        if not run.main or record.status != "ok" or record.weights is None or not there:
            return []
        return [name for name in tracks if name not in record.measured]

    def commit(self, record: Record, claim: Claim) -> bool:
        """Finish a run: from here on it is never repeated, and nothing but its result stays of it.

        Args:
            record: the result.
            claim: this process's, on the run.

        Returns:
            False if another process was first; then this result is discarded, which a small file in the store tells.
        """
        base = self._folder(record.id)
        name = f"{base}/record.json"
        kept = {own for own in Folder(self.root).listing(base) if _is_result(own, base, record.files)}
        if self.remote is not None:
            for own in kept:
                self.publish(self.root / own)
        if not self.storage.create(name, json_text(record.model_dump(mode="json")).encode()):
            self._discard(record, claim)
            return False
        self.refresh(record.id)
        for own in self.storage.listing(base):
            if own not in kept and own != name and not _CLAIM.fullmatch(own):
                self.storage.remove(own)
        for left in self.folder(record.id).glob("attempt-*"):
            with suppress(OSError):  # not empty: the result's
                left.rmdir()
        claim.finish()
        return True

    def amend(self, record: Record, claim: Claim) -> None:
        """Replace a finished run's record by one to which was added what was measured since.

        Args:
            record: the new one.
            claim: this process's, on the run, since before the old one was read.

        Raises:
            ClaimLost: another process has taken the run over, and may have added to the record since.
        """
        claim.confirm()
        self._write(f"{self._folder(record.id)}/record.json", record.model_dump(mode="json"))
        claim.finish()

    def _discard(self, record: Record, claim: Claim) -> None:
        """Count a result that came too late, and remove its files."""
        content = {"run": record.id, "claim": json.loads(claim.state.model_dump_json()), "finished": record.finished}
        self.storage.write(f"discarded/{record.id}-{claim.token:06d}.json", json_text(content).encode())
        self.leave(record.id, claim)
        claim.finish()

    def leave(self, run_id: str, claim: Claim) -> None:
        """Remove the files of an attempt that lost its claim, if another one has finished the run since.

        Until then they stay: the other one goes on from their checkpoint, and removes them when it has finished.
        """
        self.refresh(run_id)
        base = self._folder(run_id)
        result = self.record(run_id)
        if result is None:
            return
        for name in self.storage.listing(_below(base, claim.files)):
            # An attempt in the run's own folder has those of the others below it.
            own = claim.files or not name.startswith(f"{base}/attempt-")
            others = name == f"{base}/record.json" or _CLAIM.fullmatch(name)
            if own and not others and not _is_result(name, base, result.files):
                self.storage.remove(name)

    def discarded(self) -> int:
        """How many results came too late and were discarded."""
        return len(self.storage.names("discarded"))

    def publish_checkpoint(self, run_id: str, files: str) -> None:
        """Copy the checkpoint of an attempt to the object store, its description last; nothing for a folder."""
        if self.remote is None:
            return
        folder = self.folder(run_id) / files
        found = sorted((path for path in folder.glob("checkpoint*")), key=lambda path: path.suffix == ".json")
        for path in found:
            self.publish(path)
        for name in self.remote.names(_below(self._folder(run_id), files)):
            if _CHECKPOINT.fullmatch(name) and not (folder / name).exists():
                self.remote.remove(_below(self._folder(run_id), files, name))

    def adopt_checkpoint(self, run_id: str, files: str) -> None:
        """Bring the newest checkpoint of all attempts at a run to where the next one works, as far as one is whole.

        Args:
            run_id: the run.
            files: the folder below the run's own that the next attempt works in.
        """
        base = self._folder(run_id)
        if self.remote is not None:  # an earlier attempt on this machine may not be the newest
            for path in (self.root / base / files).glob("checkpoint*"):
                path.unlink()
        epochs: list[tuple[int, str]] = []
        for name in self.storage.listing(base):
            if name.endswith("/checkpoint.json"):
                epoch = _description_of(self.storage.read(name)).get("epoch")
                if isinstance(epoch, int):
                    epochs.append((epoch, name.removesuffix("/checkpoint.json")))
        for _, place in sorted(epochs, reverse=True):
            if self.remote is None and place == _below(base, files):
                return
            if self._copy_checkpoint(place, self.root / base / files):
                return

    def _copy_checkpoint(self, place: str, folder: Path) -> bool:
        """Copy a checkpoint whose owner may still be writing: whole, or not at all."""
        content = self.storage.read(f"{place}/checkpoint.json")
        description = _description_of(content)
        name = str(description.get("tensors"))
        tensors = self.storage.read(f"{place}/{name}") if _CHECKPOINT.fullmatch(name) else None
        if content is None or tensors is None or hashlib.sha256(tensors).hexdigest() != description.get("sha256"):
            return False
        write_bytes(folder / name, tensors)
        write_bytes(folder / "checkpoint.json", content)
        return True

    def weights(self, run_id: str) -> Path:
        """Where the final weights of a run are."""
        return self.files(run_id) / "model.safetensors"

    def optimizer(self, run_id: str) -> Path:
        """Where the optimizer's final state of a run is, if it is kept."""
        return self.files(run_id) / "optimizer.safetensors"

    def write_predictions(self, folder: Path, per_sample: npt.NDArray[np.float32]) -> None:
        """Keep the score of every test sample in the folder that a run works in."""
        content = {"score": np.ascontiguousarray(per_sample, dtype=np.float32)}
        write_bytes(folder / "predictions.safetensors", save(content))

    def predictions(self, run_id: str) -> npt.NDArray[np.float32] | None:
        """The score of every test sample, float32 of shape (samples,), or None if it wasn't kept."""
        name = self._file(run_id, "predictions.safetensors")
        content = self._content(name)
        if content is None:
            return None
        path = f"{self.root}/{name}"
        try:
            score: npt.NDArray[np.float32] = load(content)["score"]
        except (SafetensorError, KeyError) as error:
            raise StoreError(f"{path}: not a complete file of predictions ({error}); delete it") from error
        if score.dtype != np.float32 or score.ndim != 1 or not score.size or not np.isfinite(score).all():
            raise StoreError(f"{path}: expected one finite float32 number for each test sample; delete it")
        return score

    def pictures(self, run_id: str) -> StoredPictures:
        """What a network does with a few test samples; none if they weren't kept."""
        return read_pictures(self.files(run_id))

    def epochs(self, run_id: str) -> list[dict[str, float]]:
        """The figures of every epoch, as written in ``epochs.csv``."""
        path = self.files(run_id) / "epochs.csv"
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
                f"task '{task}': the data have fingerprint {fingerprint[:12]}, but earlier runs in {self.address} saw "
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


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, such as ``epochs.csv``."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _below(*parts: str) -> str:
    return "/".join(part for part in parts if part)


def _is_result(name: str, base: str, files: str) -> bool:
    """Whether a file of a run, by its name in the store, is of the result that is in the folder ``files``."""
    own = name.removeprefix(f"{_below(base, files)}/")
    if own == name or (not files and own.startswith("attempt-")):
        return False
    last = own.rpartition("/")[2]
    return not (_CHECKPOINT.fullmatch(own) or last.endswith(".tmp") or own in _PASSING or _CLAIM.fullmatch(name))


def _description_of(content: bytes | None) -> dict[str, Any]:
    """What the JSON of a checkpoint says; nothing if it can't be read."""
    try:
        found = json.loads(content or b"")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _versions(path: Path) -> dict[str, str]:
    """What of an object store the mirror has; nothing if that can't be read: then all is read again."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _refuse_namesakes(root: str, runs: Iterable[RunConfig]) -> None:
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
