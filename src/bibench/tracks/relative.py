"""Relative accuracy: a binarized network's score over its full-precision partner's, and means of it.

Equations 2 and 3 of BiBench differ only in which rows, pairs of (task, architecture), are averaged into one component
before the quadratic mean. Both tracks say which and come here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bibench.records import Record, Results, Score
from bibench.tracks.base import Mode
from bibench.tracks.lookup import (
    FULL_PRECISION,
    Lack,
    Lookup,
    PerSeed,
    Row,
    by_seed,
    check_comparable,
    entered_as_0,
    make_score,
    overall,
    ratio,
)
from bibench.tracks.trivial import trivial_level

__all__ = ["relative_scores"]


def relative_scores(
    results: Results,
    *,
    track: str,
    components: Mapping[str, Sequence[Row]],
    overall_metric: str,
    mode: Mode = "literal",
) -> list[Score]:
    """Score every algorithm of the plan by its accuracy relative to full precision.

    For each component and seed ``E = mean over rows of 100 · A_bi(row, seed) / A_fp(row, seed)`` in percent, and
    ``overall = quadratic mean over components of max(E, 0)``. Where a run has its score by subset of the test data, as
    ShapeNet has by category, its row is the mean of the subsets' ratios; in mode ``"paper"`` the score over all of the
    test data counts as one more subset. Values are means over the seeds that the plan has for the algorithm, with
    sample standard deviation and 95 % t interval over them.

    A score is ``failed`` if a run that it needs failed, has no usable figure, or has a full-precision partner whose
    score is zero, negative or next to zero, since nothing can be said relative to that; else ``incomplete`` if a run
    has no record yet, was never planned, or the component has no rows. Negative scores (a correlation) enter their
    component as they are, and a component that stays negative enters the overall metric as 0, which its note says:
    squared, it would count as merit. Notes also name the networks whose full-precision score is at the level of a
    trivial answer (`bibench.tracks.trivial`): nothing can be kept where nothing was learned.

    Args:
        results: planned runs and records; each binarized run needs the ``fp32`` run of its task, architecture, seed.
        track: name of the track.
        components: the metrics, each with the rows that it averages.
        overall_metric: name of the overall metric.
        mode: which reading of the equation the components follow.

    Returns:
        The scores by component, then algorithm, and those of the overall metric at the end.

    Raises:
        ScoreError: two different runs planned for one place, or partners whose figures differ in name, unit or data.

    Source: BiBench (Qin et al., 2023), equations 2 and 3.
    """
    lookup = results.once(Lookup)
    known = results.once(_Known)
    unlearned = {metric: _unlearned(lookup, rows) for metric, rows in components.items()}
    unlearned[overall_metric] = list(dict.fromkeys(name for names in unlearned.values() for name in names))
    scores = []
    for algorithm in lookup.algorithms:
        seeds = lookup.seeds(algorithm)

        def relative(row: Row, seed: int, algorithm: str = algorithm) -> float | list[Lack]:
            place = (row, algorithm, seed, mode)
            if place not in known.ratios:
                known.ratios[place] = _ratio(lookup, *place)
            return known.ratios[place]

        found: dict[str, PerSeed] = {
            metric: by_seed(seeds, rows, relative) if rows else [Lack(f"no {metric} in this suite")]
            for metric, rows in components.items()
        }
        negative = {overall_metric: entered_as_0(found)}
        found[overall_metric] = overall(list(found.values()))
        scores += [
            make_score(
                track=track,
                metric=metric,
                algorithm=algorithm,
                mode=mode,
                per_seed=per_seed,
                note="; ".join(filter(None, (negative.get(metric, ""), _meaningless(unlearned[metric])))),
            )
            for metric, per_seed in found.items()
        ]
    order = [*components, overall_metric]
    return sorted(scores, key=lambda score: order.index(score.metric))


def _unlearned(lookup: Lookup, rows: Sequence[Row]) -> list[str]:
    """The rows whose full precision, mean over seeds, scores no more than a trivial answer."""
    found = []
    for row in rows:
        every = [lookup.record(row, FULL_PRECISION, seed) for seed in lookup.seeds(FULL_PRECISION)]
        records = [record for record in every if isinstance(record, Record)]
        level = trivial_level(records)
        scores = [score for record in records if (score := record.number(record.run.metric)) is not None]
        if level is not None and level.covers(sum(scores) / len(scores)):
            found.append(f"{row[1]} on {row[0]}")
    return found


def _meaningless(networks: Sequence[str]) -> str:
    """What to know of shares of these full-precision networks; nothing where there are none."""
    if not networks:
        return ""
    return f"full precision of {', '.join(networks)} is at the level of a trivial answer: shares of it say nothing"


class _Known:
    """What has been computed of some results: components of both tracks are means of the same ratios."""

    def __init__(self, results: Results) -> None:
        self.ratios: dict[tuple[Row, str, int, Mode], float | list[Lack]] = {}


def _ratio(lookup: Lookup, row: Row, algorithm: str, seed: int, mode: Mode) -> float | list[Lack]:
    """``100 · A_bi / A_fp`` in percent, its mean over subsets where there are some, or what it lacks."""
    found = lookup.pair(row, algorithm, seed)
    if isinstance(found, list):
        return found
    both = [_places(record, mode) for record in found]
    lacks = [item for item in both if isinstance(item, Lack)]
    binarized, partner = both
    if isinstance(binarized, Lack) or isinstance(partner, Lack):
        return lacks
    if binarized.keys() != partner.keys():
        differing = ", ".join(sorted("".join(key) or "all" for key in binarized.keys() ^ partner.keys()))
        text = f"its full-precision partner {found[1].id} has other subsets ({differing})"
        return [Lack(f"{found[0].id}: {text}", "failed")]
    own, full = (record.figures for record in found)
    ratios = []
    for key, place in binarized.items():
        other = partner[key]
        check_comparable(found[0], own.kinds.figures[place], found[1], full.kinds.figures[other])
        relative = ratio(own.values[place], full.values[other])
        if relative is None:
            name, value = own.kinds.figures[place].name, full.values[other]
            text = f"the full-precision {name} is {value:g}, which nothing can be relative to"
            return [Lack(f"{found[1].id}: {text}", "failed")]
        ratios.append(100 * relative)
    return sum(ratios) / len(ratios)


def _places(record: Record, mode: Mode) -> Mapping[tuple[str, ...], int] | Lack:
    """Which of a run's figures are its score, by subset of the test data where it has subsets."""
    metric, kinds = record.run.metric, record.figures.kinds
    subsets = kinds.under(metric, ("subset",))
    whole = kinds.plain.get(metric)
    if not subsets or (mode == "paper" and whole is not None):
        if whole is None:
            return Lack(f"{record.id}: its record has no figure '{metric}'", "failed")
        subsets = subsets | {(): whole}
    if any(kinds.figures[place].higher_is_better is False for place in subsets.values()):
        return Lack(f"{record.id}: '{metric}' is better when lower, and has no relative accuracy", "failed")
    return subsets
