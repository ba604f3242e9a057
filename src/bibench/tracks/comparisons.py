"""Which algorithms can be told apart on the test samples that they were measured on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bibench.records import Results
from bibench.records.published import published_results
from bibench.tracks.agreement import Agreement, rank_agreement
from bibench.tracks.lookup import FULL_PRECISION, Lookup, Row, ScoreError
from bibench.tracks.statistics import paired_bootstraps

__all__ = ["ALL_PAIRS", "Comparison", "Ranking", "comparisons", "published_rankings", "rankings", "ties"]


ALL_PAIRS = 20
"""With more algorithms on a network only pairs with its best are compared: all would be their square."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Mean per-sample score of ``first`` minus that of ``second`` in percent points, with its 95 % interval.

    The interval is over test samples; whether it leaves out 0 is ``distinguishable``.
    """

    task: str
    architecture: str
    first: str
    second: str
    difference: float
    low: float
    high: float
    distinguishable: bool


def comparisons(results: Results, *, resamples: int = 10_000, seed: int = 0) -> list[Comparison]:
    """Compare all pairs of algorithms on each task and architecture by a paired bootstrap over test samples.

    Scores are averaged over seeds first. Algorithms are compared with those that have predictions for the same
    seeds; full precision is left out, and so are runs that failed or kept no predictions. With more than `ALL_PAIRS`
    algorithms only the pairs with the best of them are compared.

    Args:
        results: planned runs, records and predictions.
        resamples, seed: of the bootstrap.

    Raises:
        ScoreError: runs of one task and architecture with different numbers of samples; names both.

    >>> comparisons(Results(plan=[], records=[]))
    []
    """
    algorithms = results.once(Lookup).algorithms
    groups = ((row, group) for row in results.once(Lookup).rows for group in _same_seeds(results, row, algorithms))
    found = paired_bootstraps(groups, resamples=resamples, seed=seed, all_pairs=ALL_PAIRS)
    return [
        Comparison(
            task=task,
            architecture=architecture,
            first=one.first,
            second=one.second,
            difference=100 * one.difference,
            low=100 * one.low,
            high=100 * one.high,
            distinguishable=one.distinguishable,
        )
        for (task, architecture), differences in found
        for one in differences
    ]


def ties(found: Iterable[Comparison]) -> dict[Row, tuple[str, ...]]:
    """The algorithms that cannot be told apart from the best, and the best itself first, by task and architecture.

    The best is the one that no other is ahead of. Where algorithms ran on different seeds, not all are compared with
    each other, and then those of the largest group that is are meant.

    >>> pair = Comparison(task="t", architecture="a", first="bnn", second="recu", difference=-0.1, low=-0.5, high=0.3,
    ...                   distinguishable=False)
    >>> ties([pair])
    {('t', 'a'): ('recu', 'bnn')}
    """
    # mean difference to the others by algorithm: it orders a group of paired algorithms as their means do
    by_row: dict[Row, dict[str, dict[str, Comparison]]] = {}
    for pair in found:
        row = by_row.setdefault((pair.task, pair.architecture), {})
        row.setdefault(pair.first, {})[pair.second] = pair
        row.setdefault(pair.second, {})[pair.first] = pair
    return {row: _best_and_ties(pairs) for row, pairs in by_row.items()}


def _best_and_ties(pairs: Mapping[str, Mapping[str, Comparison]]) -> tuple[str, ...]:
    def lead(name: str) -> tuple[int, float]:
        own = pairs[name].values()
        return len(own), sum(pair.difference if pair.first == name else -pair.difference for pair in own)

    best = max(pairs, key=lead)
    return best, *(other for other, pair in pairs[best].items() if not pair.distinguishable)


def _same_seeds(results: Results, row: Row, algorithms: Iterable[str]) -> list[dict[str, npt.NDArray[np.floating]]]:
    """Predictions (seeds, samples) by algorithm, in groups that have the same seeds."""
    groups: dict[tuple[int, ...], dict[str, npt.NDArray[np.floating]]] = {}
    shape: dict[int, str] = {}
    for algorithm in algorithms:
        by_seed: dict[int, npt.NDArray[np.floating]] = {}
        for run in results.main_of(*row, algorithm):
            record = results.record(run.id)
            predictions = results.predictions(run.id) if record is not None and record.status == "ok" else None
            if predictions is not None:
                shape.setdefault(len(predictions), run.id)
                if len(shape) > 1:
                    sizes = " and ".join(f"'{name}' ({size} samples)" for size, name in shape.items())
                    raise ScoreError(f"cannot pair test samples of {sizes}; they were measured on different data")
                by_seed[run.seed] = predictions
        if by_seed:
            seeds = tuple(sorted(by_seed))
            groups.setdefault(seeds, {})[algorithm] = np.stack([by_seed[seed] for seed in seeds])
    return list(groups.values())


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """How well two rankings of algorithms agree on one network.

    Args:
        task, architecture: the network.
        agreement: of the two, or None where nothing can be said.
        lack: why not.
    """

    task: str
    architecture: str
    agreement: Agreement | None
    lack: str = ""


def rankings(first: Results, second: Results) -> list[Ranking]:
    """Kendall's tau between the rankings of two sets of results, on every network that both have.

    Only algorithms with predictions for the same seeds within a set are ranked; the two sets may differ in their seeds
    and in everything else, such as the budget.

    Args:
        first, second: planned runs, records and predictions.

    Raises:
        ScoreError: runs of one network with different numbers of samples.

    >>> rankings(Results(plan=[], records=[]), Results(plan=[], records=[]))
    []
    """
    return [
        _ranking(row, first, _largest(second, row))
        for row in first.once(Lookup).rows
        if row in second.once(Lookup).rows
    ]


def published_rankings(results: Results) -> list[Ranking]:
    """Kendall's tau between own rankings and those of the published scores (BiBench, Tables 7 to 9)."""
    published = published_results()
    found = []
    for row in results.once(Lookup).rows:
        scores: dict[str, float] = {}
        for run in published.main:
            record = published.record(run.id)
            figure = record.figure(run.metric) if record is not None else None
            if (run.task, run.architecture) == row and run.algorithm != FULL_PRECISION and figure is not None:
                scores[run.algorithm] = figure.value
        if scores:
            found.append(_ranking(row, results, scores))
    return found


def _largest(results: Results, row: Row) -> dict[str, npt.NDArray[np.floating]]:
    """The predictions of the largest group of algorithms that ran on the same seeds."""
    return max(_same_seeds(results, row, results.once(Lookup).algorithms), key=len, default={})


def _ranking(
    row: Row, results: Results, other: Mapping[str, npt.NDArray[np.floating]] | Mapping[str, float]
) -> Ranking:
    own = _largest(results, row)
    try:
        return Ranking(task=row[0], architecture=row[1], agreement=rank_agreement(own, other))
    except ValueError as error:
        return Ranking(task=row[0], architecture=row[1], agreement=None, lack=str(error))
