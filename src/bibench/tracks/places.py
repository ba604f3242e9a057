"""Each place where networks were timed: a device, a number of threads and a library; own ones and the published ones.

BiBench, Figure 3, sets the speedup on a chip against its computing power. That is taken here as what full precision
gets out of the same place: multiply-accumulates of the network over its full-precision latency.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean

from bibench.records import Record, Results
from bibench.records.published import published_results
from bibench.tracks.lookup import Row, ratio

__all__ = ["Place", "places", "published_places"]

_PLACE = ("device", "threads", "library")
_At = tuple[str, ...]
_MEASURED = ("bnn", "reactnet")
"""The algorithms that Tables 14 to 17 measure; Table 3 gives others the latencies of BNN."""

_OPERATIONS = {"resnet18": 1_814_073_344, "resnet34": 3_663_761_408, "vgg_small": 607_600_640}
"""Multiply-accumulates of the networks of Tables 14 to 17, the ResNets at 224 pixels and VGG-Small at 32. The paper
gives no sizes. With these, ResNet-18 and VGG-Small come to much the same operations a second in each row (median of the
ratios 1.01); were both at 32 pixels, ResNet-18 would come to a third of VGG-Small's."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """A network at one place: means over ``seeds`` seeds.

    Args:
        task, architecture, algorithm: as in records.
        device, threads, library: where.
        cores: that the device has; None where a record doesn't say.
        latency, full_precision: of one sample, binarized and in full precision, in milliseconds.
        speedup: full precision over binarized.
        seeds: how many.
        rate: multiply-accumulates a second in full precision; None where they weren't counted.
    """

    task: str
    architecture: str
    algorithm: str
    device: str
    threads: str
    library: str
    cores: int | None
    latency: float
    full_precision: float
    speedup: float
    seeds: int
    rate: float | None


def places(results: Results) -> list[Place]:
    """Where the main runs of some results were timed, by network, algorithm and place.

    >>> places(Results(plan=[], records=[]))
    []
    """
    found: dict[tuple[Row, str, _At], list[tuple[Record, float, float]]] = {}
    for run in results.main:
        record = results.record(run.id)
        if record is not None and record.status == "ok":
            for at, own, full in _pairs(record):
                found.setdefault(((run.task, run.architecture), run.algorithm, at), []).append((record, own, full))
    return [_place(row, algorithm, at, pairs) for (row, algorithm, at), pairs in found.items()]


def published_places() -> list[Place]:
    """The rows of Tables 14 to 17, of the algorithms that were measured.

    >>> len({place.device for place in published_places()})
    14
    """
    return [
        replace(place, rate=1e3 * _OPERATIONS[place.architecture] / place.full_precision)
        for place in places(published_results())
        if place.algorithm in _MEASURED
    ]


def _pairs(record: Record) -> Iterator[tuple[_At, float, float]]:
    """Places of a record and their latencies in milliseconds, binarized and of full precision."""
    kinds, values = record.figures.kinds, record.figures.values
    full = kinds.under("full_precision_latency", _PLACE)
    for at, place in kinds.under("latency", _PLACE).items():
        if at not in full or values[full[at]] <= 0:
            continue
        if not kinds.figures[place].unit == kinds.figures[full[at]].unit == "ms":
            continue
        if ratio(values[full[at]], values[place]) is not None:
            yield at, values[place], values[full[at]]


def _place(row: Row, algorithm: str, at: _At, pairs: Sequence[tuple[Record, float, float]]) -> Place:
    first, *_ = (record for record, _, _ in pairs)
    cores = first.numbers_under("cores", *_PLACE).get(at)
    operations = first.number("operations")
    full = fmean(full for _, _, full in pairs)
    device, threads, library = at
    return Place(
        task=row[0],
        architecture=row[1],
        algorithm=algorithm,
        device=device,
        threads=threads,
        library=library,
        cores=None if cores is None else int(cores),
        latency=fmean(own for _, own, _ in pairs),
        full_precision=full,
        speedup=fmean(full / own for _, own, full in pairs),
        seeds=len(pairs),
        rate=None if operations is None else ratio(1e3 * operations, full),
    )
