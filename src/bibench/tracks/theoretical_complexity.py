"""The theoretical-complexity track: how much smaller and cheaper a network is by counting (equations 7, 8)."""

from __future__ import annotations

from bibench.nn import complexity
from bibench.records import Figure, Results, Score
from bibench.tracks.base import FinishedRun, Mode, Track
from bibench.tracks.lookup import Lack, Lookup, PerSeed, Row, by_seed, entered_as_0, make_score, overall

__all__ = ["complexity_figures", "theoretical_complexity"]

_NAME = "theoretical_complexity"
_RATIOS = ("speedup", "compression")


def _measure(run: FinishedRun) -> list[Figure]:
    """Parameters, and operations, bit-operations and memory traffic of one sample, by both ways of counting."""
    if run.config.operator is None:
        return []
    return complexity_figures(run.model, run.task.example()[:1].to(run.device))


def complexity_figures(model: object, example: object) -> list[Figure]:
    """What `bibench.nn.complexity` counts, as figures; those of the ``"paper"`` counting have that condition."""
    figures = []
    for counting in ("model", "paper"):
        counted = complexity(model, example, counting=counting)  # type: ignore[arg-type]
        conditions = {"counting": "paper"} if counting == "paper" else {}
        figures += [
            Figure(name=name, value=value, unit=unit, higher_is_better=better, conditions=conditions)
            for name, value, unit, better in (
                ("speedup", counted.speedup, "ratio", True),
                ("compression", counted.compression, "ratio", True),
                ("parameters", counted.parameters, "count", None),
                ("kept_parameters", counted.kept_parameters, "count", False),
                ("operations", counted.operations, "count", None),
                ("kept_operations", counted.kept_operations, "count", False),
                ("bit_operations", counted.bit_operations, "count", False),
                ("memory_traffic", counted.memory_traffic, "bytes", False),
            )
        ]
    return figures


def _score(results: Results, mode: Mode = "literal") -> list[Score]:
    """Equations 7 and 8, as ratios of full precision over binarized; higher is better.

    ``speedup`` is the mean of ``r_s`` over the plan's rows, ``compression`` that of ``r_c``, and
    ``om_comp = sqrt(1/2 · (E^2(r_c) + E^2(r_s)))``. They count what the trained network has, so they are the same for
    every seed.

    Source: BiBench, equations 7 and 8.
    """
    lookup = results.once(Lookup)
    conditions = {"counting": "paper"} if mode == "paper" else {}
    scores = []
    for algorithm in lookup.algorithms:
        seeds = lookup.seeds(algorithm)
        found: dict[str, PerSeed] = {}
        for name in _RATIOS:

            def value(row: Row, seed: int, name: str = name, algorithm: str = algorithm) -> float | list[Lack]:
                record = lookup.record(row, algorithm, seed)
                found = record if isinstance(record, Lack) else lookup.value(record, name, _NAME, **conditions)
                return [found] if isinstance(found, Lack) else found

            rows = lookup.rows_measured(algorithm, name, _NAME)
            found[name] = by_seed(seeds, rows, value) if rows else [Lack("no network was counted")]
        notes = {"om_comp": entered_as_0(found)}
        found["om_comp"] = overall(list(found.values()))
        scores += [
            make_score(
                track=_NAME,
                metric=metric,
                algorithm=algorithm,
                per_seed=per_seed,
                unit="ratio",
                mode=mode,
                note=notes.get(metric, ""),
            )
            for metric, per_seed in found.items()
        ]
    return sorted(scores, key=lambda score: (*_RATIOS, "om_comp").index(score.metric))


def _paper(results: Results) -> list[Score]:
    """What gives part of Table 3: 1x1 shortcuts binarized, thresholds and activation re-scaling not counted."""
    return _score(results, "paper")


theoretical_complexity = Track(
    name=_NAME,
    title="Theoretical complexity",
    description=(
        "How many times smaller and cheaper than full precision each network is by counting: a bit for 32 bits of a "
        "parameter, 1/64 for an operation on bits, everything that stays in full precision counted as such, and the "
        "quadratic mean of the two, om_comp (BiBench, equations 7 and 8)."
    ),
    score=_score,
    paper=_paper,
    measure=_measure,
)
