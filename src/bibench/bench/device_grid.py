"""Finished runs measured on devices: the packed file of each binarized network, in turns with full precision's.

What is measured becomes figures of the run's record, under the conditions ``device``, ``threads`` and ``library``, like
those of this machine; the store's ``devices/NAME.json`` keeps every repeat and what the device was like.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import torch

from bibench import registry
from bibench.bench.claims import Claim, Claims
from bibench.bench.plan import PlanError
from bibench.bench.store import Store
from bibench.bench.suite import Suite
from bibench.bench.worker import Settings, finished_model, load_data
from bibench.deploy.devices import Device, DeviceError, FileResult, check_device, write_result
from bibench.deploy.format import PackedError
from bibench.deploy.measuring import Measurement, joined, machine_of, measure_in_turns, runner_for
from bibench.deploy.targets import Target, TargetError, parse_target
from bibench.models.base import Architecture
from bibench.records import Absence, Figure, Record, RunConfig
from bibench.tasks.base import Task
from bibench.tracks.hardware_inference import (
    export_full_precision,
    export_run,
    full_precision_bytes,
    latency_figures,
    size_figures,
)

__all__ = ["DeviceGrid", "alone_on", "check_suite", "measure_on_devices"]

_TRACK = "hardware_inference"
_LACKS = ("latency", "storage_compression")
"""What a record without any measurement says is lacking."""


@dataclass(frozen=True, kw_only=True)
class DeviceGrid:
    """The devices that finished runs are measured on.

    Args:
        devices: in their order.
        threads: numbers of threads for devices that name none.
        runners, ssh_config: see `bibench.deploy.measuring.measure_on` and `bibench.deploy.targets.parse_target`.
    """

    devices: tuple[Device, ...]
    threads: tuple[int, ...] = (1,)
    runners: tuple[Path, ...] = ()
    ssh_config: Path | None = None

    def target(self, device: Device) -> Target:
        """The machine of a device."""
        return parse_target(device.target, ssh_config=self.ssh_config)

    def lacking(self, device: Device, run: RunConfig, record: Record | None) -> tuple[int, ...]:
        """The numbers of threads for which a run has not been measured on a device, but can be."""
        if record is None or record.status != "ok" or run.operator is None or not run.main:
            return ()
        if any(one.name == "latency" and one.status == "not_deployable" for one in record.absences):
            return ()
        places = record.figures_under("latency", "device", "threads", "library")
        done = {threads for name, threads, _ in places if name.startswith(f"{device.name} (")}
        return tuple(count for count in device.threads or self.threads if str(count) not in done)


def check_suite(suite: Suite) -> None:
    """Check that a suite has something to say of devices.

    Raises:
        PlanError: it doesn't score the hardware track.
    """
    if _TRACK not in suite.tracks:
        raise PlanError(f"suite '{suite.name}' doesn't score {_TRACK}; add that to its tracks to measure on devices")


@contextmanager
def alone_on(device: Device, store: Store) -> Iterator[None]:
    """Wait until no other process that keeps results in the same store measures on a device, and keep others waiting.

    What they kept meanwhile is in the store's mirror then.
    """
    with Claims(store.storage, below="devices").held(device.name, wait=1.0):
        store.sync()
        yield


def measure_on_devices(
    runs: Sequence[RunConfig],
    settings: Settings,
    grid: DeviceGrid,
    *,
    told: Callable[[str], None],
    failed: Callable[[str], None],
) -> None:
    """Measure finished main runs wherever they have not been measured yet.

    What can't be packed becomes ``not_deployable``. Of what fails on a device nothing is recorded, so that the next
    call measures it; the device goes on with the next network if it still answers.

    Args:
        runs: those that were asked for.
        settings: of the runs: where they are, and their data.
        grid: where to measure.
        told: is given a line for each network and device.
        failed: is given a message for each that could not be measured, and for each device that is left out.

    Raises:
        StoreError, CheckpointError, DataError: a run's weights or data are not what they were.
        OSError: something can't be read or written here.
    """
    store = Store(settings.out)
    store.sync()  # others, such as the nodes of a cluster, may have done the runs
    devices = _Devices(grid, store, told, failed)
    for device in grid.devices:
        if any(grid.lacking(device, run, store.record(run.id)) for run in runs):
            devices.reach(device)
    with tempfile.TemporaryDirectory() as name:
        for run in runs:
            record = store.record(run.id)
            lacking = {device: grid.lacking(device, run, record) for device in devices.machines}
            if not any(lacking.values()):
                continue
            shipped = _ship(run, settings, store, Path(name))
            if shipped is not None:
                for device, threads in lacking.items():
                    if threads:
                        devices.measure(device, run, shipped)


@dataclass(frozen=True, kw_only=True)
class _Shipped:
    """A run's network and the same architecture in full precision, as packed files.

    Args:
        run: its identity.
        own, full: the files.
        full_bytes: of full precision's parameters.
    """

    run: str
    own: Path
    full: Path
    full_bytes: int


def _ship(run: RunConfig, settings: Settings, store: Store, folder: Path) -> _Shipped | None:
    """Export a run; None where it can't be packed, which is recorded."""
    task: Task = registry.get("tasks", run.task)
    architecture: Architecture = registry.get("architectures", run.architecture)
    data = load_data(run.task, settings.data, settings.allow_subset)
    store.check_data(run.task, data.fingerprint)
    own, full = folder / "own.bibpack", folder / f"{run.task}-{run.architecture}.bibpack"
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        try:
            model = finished_model(run, store, task=task, data=data, architecture=architecture)
            export_run(run, model, own, task=task, labels=data.labels)
            twin = export_full_precision(architecture, full, task=task, outputs=data.outputs)
        except PackedError as error:
            reason = str(error).removeprefix(f"{own}: ")
            _commit(
                run.id, store, absences=[Absence(name=name, status="not_deployable", reason=reason) for name in _LACKS]
            )
            return None
    return _Shipped(run=run.id, own=own, full=full, full_bytes=full_precision_bytes(twin))


class _Devices:
    """The devices that answer, while runs are measured on them.

    Args:
        grid, told, failed: see `measure_on_devices`.
        store: where the runs are.

    Attributes:
        machines: the architecture of each.
    """

    def __init__(
        self, grid: DeviceGrid, store: Store, told: Callable[[str], None], failed: Callable[[str], None]
    ) -> None:
        self.grid, self.store, self.told, self.failed = grid, store, told, failed
        self.machines: dict[Device, str] = {}

    def reach(self, device: Device) -> None:
        """Find out what a device is; one that doesn't answer, or that nothing measures on, is left out from now on."""
        try:
            target = self.grid.target(device)
            machine = machine_of(target)
            check_device(self.store.root, device, machine)
            runner_for(target, machine, self.grid.runners)
            self.machines[device] = machine
        except (DeviceError, TargetError) as error:
            self.failed(f"{device.name} is left out: {error}")
            self.machines.pop(device, None)

    def measure(self, device: Device, run: RunConfig, shipped: _Shipped) -> None:
        """Measure a network where it still lacks that, and record it, or say why not."""
        with alone_on(device, self.store):
            threads = self.grid.lacking(device, run, self.store.record(run.id))
            if threads:
                self._measure(device, threads, shipped)

    def _measure(self, device: Device, threads: Sequence[int], shipped: _Shipped) -> None:
        try:
            target, files = self.grid.target(device), (shipped.own, shipped.full)
            found = measure_in_turns(target, files, threads, machine=self.machines[device], runners=self.grid.runners)
        except TargetError as error:
            self.failed(f"{device.name}: {shipped.run}: {error}")
            self.reach(device)
            return
        for file, measurements, run in zip(files, found, (shipped.run, None), strict=True):
            content = file.read_bytes()
            result = FileResult(
                file=file.name,
                sha256=hashlib.sha256(content).hexdigest(),
                bytes=len(content),
                run=run,
                measured_at=datetime.now(timezone.utc).replace(microsecond=0),
                measurements=measurements,
            )
            self.store.publish(write_result(self.store.root, device, self.machines[device], result))
        self._record(device, threads, shipped, *found)

    def _record(
        self,
        device: Device,
        threads: Sequence[int],
        shipped: _Shipped,
        own: tuple[Measurement, ...],
        full: tuple[Measurement, ...],
    ) -> None:
        first = own[0]
        label = f"{device.name} ({first.processor or self.machines[device]})"
        figures = size_figures(shipped.own.stat().st_size, shipped.full_bytes)
        words = []
        for count in threads:
            times = joined(own, count), joined(full, count)
            place = {"device": label, "threads": str(count), "library": f"bibench ({first.isa})"}
            figures += latency_figures(place, first.cores, *times)
            speedup = times[1].median / times[0].median
            crowded = f" of {first.cores}" if count > first.cores else ""
            words.append(f"{1000 * times[0].median:.3g} ms, {speedup:.1f}x on threads: {count}{crowded}")
        _commit(shipped.run, self.store, figures=figures)
        self.told(f"{label}: {shipped.run}: {'; '.join(words)}")


def _commit(run_id: str, store: Store, *, figures: Sequence[Figure] = (), absences: Sequence[Absence] = ()) -> None:
    """Add to a run's record what it doesn't have yet; an absence gives way to what was measured or is known now."""

    def add(claim: Claim) -> None:
        store.refresh(run_id)
        record = store.record(run_id)
        assert record is not None
        there = {(figure.name, frozenset(figure.conditions.items())) for figure in record.figures}
        new = [figure for figure in figures if (figure.name, frozenset(figure.conditions.items())) not in there]
        kept = [one for one in record.absences if one.name not in _LACKS]
        update = {"figures": (*record.figures, *new), "absences": (*kept, *absences)}
        store.amend(record.model_copy(update=update), claim)

    store.claims.alone(run_id, add)
