"""The hardware-inference track: how much faster and smaller a network is where it is deployed (equation 9)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bibench.deploy.format import PackedError
from bibench.deploy.latency import Latency, eager, measure, onnx_runtime
from bibench.deploy.packed import PackedModel, PackedModule, engine_lacks, load_packed
from bibench.models.base import Architecture
from bibench.records import Absence, Figure, Record, Results, RunConfig, Score
from bibench.tasks.base import Task
from bibench.tracks.base import FinishedRun, Track
from bibench.tracks.lookup import (
    Lack,
    Lookup,
    PerSeed,
    Row,
    ScoreError,
    by_seed,
    make_score,
    not_measured,
    overall,
    ratio,
)
from bibench.training.machine import processor

__all__ = [
    "export_full_precision",
    "export_run",
    "full_precision_bytes",
    "hardware_inference",
    "latency_figures",
    "size_figures",
]

_NAME = "hardware_inference"
_PLACE = ("device", "threads", "library")
_ROUNDS = 41
_BATCH = 256
_CORES = os.cpu_count() or 1
_OWN, _TWIN, _EAGER, _ONNX = "packed", "full precision", "PyTorch", "ONNX Runtime"
_OTHERS = {_EAGER: "pytorch_latency", _ONNX: "onnx_runtime_latency"}


def _measure(run: FinishedRun) -> list[Figure | Absence]:
    """What of a finished run is shipped: latency beside full precision, size, and the file's own score.

    The network is exported as ``bibench export`` does. Its latency, one sample on each number of threads, is timed in
    turns with that of the same architecture in full precision: in the same engine, in PyTorch, and in ONNX Runtime
    where that is installed. The file is then evaluated on the whole test split.
    """
    if run.config.operator is None:
        return []
    if run.device != "cpu":
        return _absent(
            "not_measured",
            f"it ran on '{run.device}'; the packed engine runs on CPUs, and is measured in runs with --device cpu",
        )
    lack = engine_lacks()
    if lack is not None:
        return _absent("not_measured", lack)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = Path(folder) / "model.bibpack"
        try:
            export_run(run.config, run.model, path, task=run.task, labels=run.data.labels)
            packed = load_packed(path)
        except PackedError as error:
            return _absent("not_deployable", str(error).removeprefix(f"{path}: "))
        latencies: list[Figure] = []
        for threads in run.measuring.threads:
            try:
                twin = _full_precision(run.architecture, run.task, run.data.outputs, threads)
            except PackedError as error:
                return _absent("not_deployable", f"full precision of the same architecture: {error}")
            latencies += _latencies(load_packed(path, threads), twin)
        found = run.task.evaluate(
            PackedModule(packed), run.data.test.batches(_BATCH, device=torch.device("cpu"), seed=None)
        )
    metric = run.task.metric
    return [
        *latencies,
        *size_figures(packed.size, full_precision_bytes(twin.model)),
        Figure(name="packed_memory", value=packed.memory, unit="bytes", higher_is_better=False),
        Figure(
            name=f"packed_{metric.name}",
            value=found.figures[metric.name],
            unit=metric.unit,
            samples=len(found.per_sample),
            higher_is_better=metric.higher_is_better,
        ),
    ]


def export_run(
    config: RunConfig,
    model: nn.Module,
    path: Path,
    *,
    task: Task,
    to: str = "packed",
    labels: tuple[str, ...] = (),
    int8_stem: bool = False,
) -> None:
    """Write the network of a finished run as a file that is shipped.

    Args:
        config: the run.
        model: trained, on the CPU, in evaluation mode.
        path: the file.
        task: that the run names.
        to: the kind of file, see `bibench.deploy.export.export`.
        labels: names of the outputs, where the data have them; the task's own come first.
        int8_stem: see `bibench.deploy.export.export`.

    Raises:
        PackedError: something in the network can't be packed; names it.
    """
    from bibench.deploy.export import export  # here, so that scoring doesn't wait for it

    if task.modality == "detection":
        raise PackedError(
            f"{path}: {config.architecture} is a detector: which regions it looks at and which boxes it drops depends "
            "on what it sees, and no format here has that; its backbone can be exported as a model of its own"
        )
    export(
        model,
        path,
        to=to,
        example=task.example()[:1],
        preprocessing=None if task.preprocessing is None else task.preprocessing.model_dump(mode="json"),
        labels=task.labels or labels,
        metadata={
            "algorithm": config.algorithm,
            "task": task.name,
            "architecture": config.architecture,
            "run": config.id,
        },
        int8_stem=int8_stem,
    )


def export_full_precision(
    architecture: Architecture, path: Path, *, task: Task, outputs: int | tuple[int, ...]
) -> nn.Module:
    """Write an architecture in full precision, with random weights, as a packed file; PyTorch's generator moves on.

    Args:
        architecture, task, outputs: the network, as a run has it.
        path: the file.

    Returns:
        The network, in evaluation mode.

    Raises:
        PackedError: something in it can't be packed; names it.
    """
    from bibench.deploy.export import export

    torch.manual_seed(0)
    model = architecture.build(task.input_shape, outputs).eval()
    export(model, path, to="packed", example=task.example()[:1])
    return model


def full_precision_bytes(model: nn.Module) -> int:
    """What the parameters of a full-precision network take as float32: S of equation 9, four bytes each.

    Neither a file's own tables nor running statistics count, so that the compression isn't flattered.

    >>> full_precision_bytes(nn.Linear(10, 2))
    88
    """
    return 4 * sum(value.numel() for value in model.parameters())


@dataclass(frozen=True)
class _FullPrecision:
    """The same architecture in full precision, with random weights: latency doesn't depend on them.

    Args:
        model, packed: the network in PyTorch and in the packed engine.
        others: a call in each other runtime.
        example: the input.
    """

    model: nn.Module
    packed: PackedModel
    others: Mapping[str, Callable[[], object]]
    example: Tensor


_Place = tuple[str, Architecture, int | tuple[int, ...], int]
_TWINS: dict[_Place, _FullPrecision] = {}
"""The last few: a process measures many runs of few networks."""

_KEPT = 2


def _full_precision(
    architecture: Architecture, task: Task, outputs: int | tuple[int, ...], threads: int
) -> _FullPrecision:
    """Build, pack and keep a run's architecture in full precision, for so many threads."""
    place = (task.name, architecture, outputs, threads)
    if place not in _TWINS:
        if len(_TWINS) >= _KEPT:
            _TWINS.clear()
        example = task.example()[:1]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.bibpack"
            model = export_full_precision(architecture, path, task=task, outputs=outputs)
            packed = load_packed(path, threads)
        others: dict[str, Callable[[], object]] = {}
        if threads <= _CORES:  # beyond, others can take seconds a call, and the fewest threads are the fastest
            others[_EAGER] = eager(model, example)
            if (call := onnx_runtime(model, example, threads=threads)) is not None:
                others[_ONNX] = call
        _TWINS[place] = _FullPrecision(model, packed, others, example)
    return _TWINS[place]


def _latencies(packed: PackedModel, twin: _FullPrecision) -> list[Figure]:
    candidates: dict[str, Callable[[], object]] = {
        _OWN: packed.prepared(twin.example),
        _TWIN: twin.packed.prepared(twin.example),
        **twin.others,
    }
    times = measure(candidates, rounds=_ROUNDS, threads=packed.threads)
    full = {name: time for name, time in times.items() if name != _OWN}
    fastest = min(full, key=lambda name: full[name].median)
    place = {"device": processor(), "threads": str(packed.threads), "library": f"bibench ({packed.isa})"}

    def figure(name: str, seconds: float, mode: str | None = None) -> Figure:
        return Figure(name=name, value=1000 * seconds, unit="ms", samples=_ROUNDS, mode=mode, conditions=place)

    return [
        *latency_figures(place, _CORES, times[_OWN], times[_TWIN]),
        *(figure(_OTHERS[name], times[name].median) for name in twin.others),
        figure(
            "fastest_full_precision_latency", full[fastest].median, place["library"] if fastest == _TWIN else fastest
        ),
    ]


def latency_figures(place: Mapping[str, str], cores: int, own: Latency, full: Latency) -> list[Figure]:
    """What a record holds of one place: the latencies of a file and of full precision in turns, with their spread.

    Args:
        place: device, threads and library.
        cores: that the device has.
        own, full: of the binarized network, and of the same architecture in full precision.
    """
    figures = [Figure(name="cores", value=cores, unit="count", conditions=dict(place))]
    for name, time, better in (("latency", own, False), ("full_precision_latency", full, None)):
        low, high = time.quartiles
        figures += [
            Figure(
                name=name + end,
                value=1000 * seconds,
                unit="ms",
                samples=len(time.seconds),
                higher_is_better=None if end else better,
                conditions=dict(place),
            )
            for end, seconds in (
                ("", time.median),
                ("_lowest", time.lowest),
                ("_lower_quartile", low),
                ("_upper_quartile", high),
            )
        ]
    return figures


def size_figures(own: int, full: int) -> list[Figure]:
    """What a record holds of sizes.

    Args:
        own: bytes of the file.
        full: bytes of full precision, of `full_precision_bytes`.

    >>> [(figure.name, figure.value) for figure in size_figures(10, 160)][0]
    ('storage_compression', 16.0)
    """
    return [
        Figure(name=name, value=value, unit=unit, higher_is_better=better)
        for name, value, unit, better in (
            ("storage_compression", full / own, "ratio", True),
            ("packed_bytes", own, "bytes", False),
            ("full_precision_bytes", full, "bytes", None),
        )
    ]


def _absent(status: Any, reason: str) -> list[Figure | Absence]:
    return [Absence(name=name, status=status, reason=reason) for name in ("latency", "storage_compression")]


def _score(results: Results) -> list[Score]:
    """Equation 9, as ratios of full precision over binarized; higher is better.

    ``OM_infer = sqrt(1/2 · (E^2(T / T_bi) + E^2(S / S_bi)))``. A record has ``latency`` and, from the same runtime on
    the same device and threads, ``full_precision_latency``, each under the conditions device, threads and library;
    ``speedup`` is the mean of their ratios over all of these places and rows. ``storage_compression`` is the ratio of
    file sizes, and ``compression`` its mean over rows. Where the fastest runtime for full precision is another one,
    ``fastest_full_precision_latency`` gives ``speedup_over_fastest``, which is no part of equation 9. Where a place has
    no such figure, its ``full_precision_latency`` is the fastest. Neither are ``packed_score``, what the shipped files
    score on the test split, and ``packed_difference``, how much more that is than what the networks in PyTorch score;
    both are means over rows, and left out where tasks are scored in different units.

    A network that nothing can deploy is ``not_deployable``, one that was measured where the engine isn't
    ``not_measured``; neither is ever counted as 0.

    Source: BiBench, equation 9.
    """
    lookup = results.once(Lookup)
    units = _score_units(lookup)
    scores = []
    for algorithm in lookup.algorithms:
        runs = _Runs.of(lookup, algorithm)
        for metric, per_seed in _found(lookup, runs, units).items():
            unit = units[0] if metric.startswith("packed_") else "ratio"
            note = _crowded(runs) if metric == "speedup" and isinstance(per_seed, Mapping) else ""
            scores.append(
                make_score(track=_NAME, metric=metric, algorithm=algorithm, per_seed=per_seed, unit=unit, note=note)
            )
    order = ("speedup", "compression", "speedup_over_fastest", "packed_score", "packed_difference", "om_infer")
    return sorted(scores, key=lambda score: order.index(score.metric))


@dataclass(frozen=True)
class _Runs:
    """The records of an algorithm's runs by row and seed, or what is missing."""

    seeds: Sequence[int]
    records: Mapping[Row, Mapping[int, Record | Lack]]

    @classmethod
    def of(cls, lookup: Lookup, algorithm: str) -> _Runs:
        seeds = lookup.seeds(algorithm)
        return cls(seeds, {row: {seed: lookup.record(row, algorithm, seed) for seed in seeds} for row in lookup.rows})

    def there(self, rows: Iterable[Row]) -> Iterator[Record]:
        """The records that there are, by row and then seed."""
        return (item for row in rows for item in self.records[row].values() if not isinstance(item, Lack))


def _crowded(runs: _Runs) -> str:
    """Where there were more threads than cores, for which the engine isn't made, as the note of a score."""
    found: dict[str, set[int]] = {}
    for record in runs.there(runs.records):
        for (device, threads, _), cores in record.numbers_under("cores", *_PLACE).items():
            if threads.isdecimal() and int(threads) > cores:
                found.setdefault(f"{device} with {cores:.0f}", set()).add(int(threads))
    listed = "; ".join(f"{', '.join(map(str, sorted(counts)))} on {where}" for where, counts in found.items())
    return f"more threads than cores: {listed}" if listed else ""


def _score_units(lookup: Lookup) -> list[str]:
    """In which units shipped files were scored."""
    units: dict[str, None] = {}
    for run in lookup.results.main:
        record = lookup.results.record(run.id)
        if record is not None:
            kinds = record.figures.kinds
            place = kinds.plain.get(f"packed_{record.run.metric}")
            if place is not None:
                units[kinds.figures[place].unit] = None
    return list(units)


def _found(lookup: Lookup, runs: _Runs, units: list[str]) -> dict[str, PerSeed]:
    rows = _measured_rows(runs, "latency")
    stored = _measured_rows(runs, "storage_compression")
    found = {
        "speedup": _mean(lookup, runs, rows, "latency"),
        "compression": _mean(lookup, runs, stored, "storage_compression"),
    }
    found["om_infer"] = overall(list(found.values()))
    if any(record.figures.kinds.under("fastest_full_precision_latency", _PLACE) for record in runs.there(rows)):
        found["speedup_over_fastest"] = _mean(lookup, runs, rows, "fastest")
    if len(units) == 1:
        found |= {name: by_seed(runs.seeds, stored, _shipped(runs, name)) for name in _SHIPPED}
    return found


_SHIPPED = ("packed_score", "packed_difference")


def _shipped(runs: _Runs, name: str) -> Callable[[Row, int], float | list[Lack]]:
    """What the shipped file of a row and seed scores, or how much more than the network in PyTorch."""

    def value(row: Row, seed: int) -> float | list[Lack]:
        record = runs.records[row][seed]
        if isinstance(record, Lack):
            return [record]
        metric = record.run.metric
        own, trained = record.number(f"packed_{metric}"), record.number(metric)
        if own is None or trained is None:
            return [_lack(record, "latency" if own is None else metric)]
        return own if name == "packed_score" else own - trained

    return value


def _mean(lookup: Lookup, runs: _Runs, rows: list[Row], name: str) -> PerSeed:
    """For each seed the mean over all measured places of all rows, or what is missing."""
    return by_seed(
        runs.seeds, [name], lambda _, seed: _mean_of(lookup, [runs.records[row][seed] for row in rows], name)
    )


def _measured_rows(runs: _Runs, name: str) -> list[Row]:
    """The rows that have a figure, or lack a run; all where none has it, so that every one says why."""
    deployed = {row: any(_has(record, name) for record in own.values()) for row, own in runs.records.items()}
    if not any(deployed.values()):
        return list(deployed)
    return [
        row for row, own in deployed.items() if own or any(_awaited(item, name) for item in runs.records[row].values())
    ]


def _awaited(record: Record | Lack, name: str) -> bool:
    """Whether a run, or measuring on it, may still give the figure."""
    if isinstance(record, Lack):
        return True
    return _NAME not in record.measured and not any(absence.name == name for absence in record.absences)


def _has(record: Record | Lack, name: str) -> bool:
    return not isinstance(record, Lack) and name in record.figures.kinds.names


def _mean_of(lookup: Lookup, records: list[Record | Lack], name: str) -> float | list[Lack]:
    """The mean over all measured places of all rows, each counting alike, or what is missing."""
    ratios: list[float] = []
    lacks: list[Lack] = []
    for record in records:
        found = [record] if isinstance(record, Lack) else _ratios(lookup, record, name)
        lacks += [item for item in found if isinstance(item, Lack)]
        ratios += [item for item in found if not isinstance(item, Lack)]
    return lacks or sum(ratios) / len(ratios)


def _ratios(lookup: Lookup, record: Record, name: str) -> list[float | Lack]:
    if name == "storage_compression":
        value = lookup.value(record, name, _NAME)
        if isinstance(value, Lack):
            return [_lack(record, name)]
        if value <= 0:
            return [Lack(f"{record.id}: storage_compression is {value:g}, expected above 0", "failed")]
        return [value]
    kinds, values = record.figures.kinds, record.figures.values
    own, full = kinds.under("latency", _PLACE), kinds.under("full_precision_latency", _PLACE)
    if name == "fastest":
        full = full | kinds.under("fastest_full_precision_latency", _PLACE)
    if not own:
        return [_lack(record, "latency")]
    if own.keys() != full.keys():
        where = ", ".join(min(own.keys() ^ full.keys()))
        return [Lack(f"{record.id}: no pair of latencies, binarized and full precision, on {where}", "failed")]
    found: list[float | Lack] = []
    for at, place in own.items():
        latency, partner = values[place], values[full[at]]
        kind, other = kinds.figures[place], kinds.figures[full[at]]
        if kind.unit != other.unit:
            raise ScoreError(
                f"'{record.id}' on {', '.join(at)}: latency is in '{kind.unit}', {other.name} in "
                f"'{other.unit}'; measure both again"
            )
        speedup = ratio(partner, latency) if partner > 0 else None
        if speedup is None:
            both = f"latency {latency:g} and {other.name} {partner:g}"
            return [Lack(f"{record.id}: {both} on {', '.join(at)}, expected above 0", "failed")]
        found.append(speedup)
    return found


def _lack(record: Record, name: str) -> Lack:
    lack = not_measured(record, name, _NAME)
    if lack.status == "failed":  # what others measured, such as publications, may be on some networks only
        return Lack(f"{record.id}: no runtime has measured it", "not_measured")
    return lack


hardware_inference = Track(
    name=_NAME,
    title="Hardware inference",
    description=(
        "How many times faster and smaller than full precision each network is where it is deployed, in the same "
        "runtime on the same device and threads, and the quadratic mean of the two, om_infer (BiBench, equation 9). "
        "Own runs on a CPU are exported to packed files: latency is that of one sample in the packed "
        "engine, timed in turns with the same architecture in full precision while other runs may be going on; the "
        "size is the whole file's; and the file itself is scored on the test split."
    ),
    score=_score,
    measure=_measure,
)
