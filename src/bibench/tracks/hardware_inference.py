"""The hardware-inference track: how much faster and smaller a network is where it is deployed (equation 9)."""

from __future__ import annotations

from bibench.records import Record, Results, Score
from bibench.tracks.base import Track
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

__all__ = ["hardware_inference"]

_NAME = "hardware_inference"
_PLACE = ("device", "threads", "library")


def _score(results: Results) -> list[Score]:
    """Equation 9, as ratios of full precision over binarized; higher is better.

    ``OM_infer = sqrt(1/2 · (E^2(T / T_bi) + E^2(S / S_bi)))``. A record has ``latency`` and, from the same runtime on
    the same device and threads, ``full_precision_latency``, each under the conditions device, threads and library;
    ``speedup`` is the mean of their ratios over all of these places and rows. ``storage_compression`` is the ratio of
    file sizes, and ``compression`` its mean over rows. Where the fastest runtime for full precision is another one,
    ``fastest_full_precision_latency`` gives ``speedup_over_fastest``, which is no part of equation 9. Where a place has
    no such figure, its ``full_precision_latency`` is the fastest.

    A network that nothing can deploy is ``not_deployable``, one that nothing has measured ``not_measured``; neither
    is ever counted as 0. Before the first record says either, or has a figure, no run would complete anything: all is
    ``not_measured``, runs that are still to come and failed ones included.

    Source: BiBench, equation 9.
    """
    lookup = Lookup(results)
    tried = any(_tried(results.record(run.id)) for run in results.main)
    scores = []
    for algorithm in lookup.algorithms:
        found = _found(lookup, algorithm) if tried else _nothing(results, algorithm)
        scores += [
            make_score(track=_NAME, metric=metric, algorithm=algorithm, per_seed=per_seed, unit="ratio")
            for metric, per_seed in found.items()
        ]
    order = ("speedup", "compression", "speedup_over_fastest", "om_infer")
    return sorted(scores, key=lambda score: order.index(score.metric))


def _found(lookup: Lookup, algorithm: str) -> dict[str, PerSeed]:
    rows = _measured_rows(lookup, algorithm, "latency")
    stored = _measured_rows(lookup, algorithm, "storage_compression")
    found = {
        "speedup": _mean(lookup, algorithm, rows, "latency"),
        "compression": _mean(lookup, algorithm, stored, "storage_compression"),
    }
    found["om_infer"] = overall(list(found.values()))
    seeds = lookup.seeds(algorithm)
    if any(_has_fastest(lookup.record(row, algorithm, seed)) for row in rows for seed in seeds):
        found["speedup_over_fastest"] = _mean(lookup, algorithm, rows, "fastest")
    return found


def _nothing(results: Results, algorithm: str) -> dict[str, PerSeed]:
    lacks = [_unmeasured(run.id) for run in results.main if run.algorithm == algorithm]
    return dict.fromkeys(("speedup", "compression", "om_infer"), lacks)


def _tried(record: Record | None) -> bool:
    """Whether deployment has left anything in a record: a figure, or why there is none."""
    if record is None:
        return False
    names = {figure.name for figure in record.figures} | {absence.name for absence in record.absences}
    return not names.isdisjoint(("latency", "storage_compression"))


def _mean(lookup: Lookup, algorithm: str, rows: list[Row], name: str) -> PerSeed:
    """For each seed the mean over all measured places of all rows, or what is missing."""
    return by_seed(
        lookup.seeds(algorithm),
        [name],
        lambda _, seed: _mean_of(lookup, [lookup.record(row, algorithm, seed) for row in rows], name),
    )


def _measured_rows(lookup: Lookup, algorithm: str, name: str) -> list[Row]:
    """The rows that have a figure, or lack a run; all where none has it, so that every one says why."""
    found = {row: [lookup.record(row, algorithm, seed) for seed in lookup.seeds(algorithm)] for row in lookup.rows}
    deployed = {row: any(_has(record, name) for record in records) for row, records in found.items()}
    if not any(deployed.values()):
        return list(found)
    return [row for row, own in deployed.items() if own or any(isinstance(record, Lack) for record in found[row])]


def _has(record: Record | Lack, name: str) -> bool:
    return not isinstance(record, Lack) and any(figure.name == name for figure in record.figures)


def _has_fastest(record: Record | Lack) -> bool:
    return not isinstance(record, Lack) and bool(record.figures_under("fastest_full_precision_latency", *_PLACE))


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
    own = record.figures_under("latency", *_PLACE)
    full = record.figures_under("full_precision_latency", *_PLACE)
    if name == "fastest":
        full |= record.figures_under("fastest_full_precision_latency", *_PLACE)
    if not own:
        return [_lack(record, "latency")]
    if own.keys() != full.keys():
        where = ", ".join(min(own.keys() ^ full.keys()))
        return [Lack(f"{record.id}: no pair of latencies, binarized and full precision, on {where}", "failed")]
    found: list[float | Lack] = []
    for place, figure in own.items():
        partner = full[place]
        if figure.unit != partner.unit:
            raise ScoreError(
                f"'{record.id}' on {', '.join(place)}: latency is in '{figure.unit}', {partner.name} in "
                f"'{partner.unit}'; measure both again"
            )
        speedup = ratio(partner.value, figure.value) if partner.value > 0 else None
        if speedup is None:
            both = f"latency {figure.value:g} and {partner.name} {partner.value:g}"
            return [Lack(f"{record.id}: {both} on {', '.join(place)}, expected above 0", "failed")]
        found.append(speedup)
    return found


def _lack(record: Record, name: str) -> Lack:
    lack = not_measured(record, name, _NAME)
    if lack.status in ("failed", "incomplete"):  # the deployment backends are a part of their own, not built yet
        return _unmeasured(record.id)
    return lack


def _unmeasured(run_id: str) -> Lack:
    return Lack(f"{run_id}: no runtime has measured it", "not_measured")


hardware_inference = Track(
    name=_NAME,
    title="Hardware inference",
    description=(
        "How many times faster and smaller than full precision each network is where it is deployed, in the same "
        "runtime on the same device and threads, and the quadratic mean of the two, om_infer (BiBench, equation 9). "
        "No runtime is built in yet, so own runs say that it is not measured."
    ),
    score=_score,
)
