"""The report: one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bibench.files import write_text
from bibench.records import Record, Results, Score, StoredPictures
from bibench.report.corruption_tables import Corruptions, corruption_tables
from bibench.report.device_plots import computing_power_plot
from bibench.report.figure_tables import FigureTable, complexity_tables, cost_tables, deployment_tables
from bibench.report.pictures import PicturesOf, shown_samples
from bibench.report.places import place_tables
from bibench.report.plots import Epochs, accuracy_plot, learning_curves, sensitivity_plot, severity_plot
from bibench.report.summary import (
    Card,
    Grid,
    TaskTable,
    interval_text,
    missing,
    not_deployable,
    scorecards,
    sensitivity_grids,
    status_text,
    task_tables,
)
from bibench.report.training import SpeedTable, Training, speed_table, trainings
from bibench.report.training_plots import curves_plot, splits_plot
from bibench.report.words import counted, duration
from bibench.tracks.base import Track
from bibench.tracks.comparisons import ALL_PAIRS, Comparison, ties
from bibench.tracks.lookup import FULL_PRECISION, Lookup, Row
from bibench.tracks.places import places, published_places
from bibench.tracks.training_consumption import settings_in

__all__ = ["Meta", "write_report"]


@dataclass(frozen=True, kw_only=True)
class Meta:
    """What the page says about the whole, beside what its records say.

    Args:
        suite: its name.
        tracks: those that were scored, for their titles and descriptions.
        description: of the suite, in prose.
        command: that made the results, to be repeated by a reader.
    """

    suite: str
    tracks: Sequence[Track]
    description: str = ""
    command: str | None = None


def _no_pictures(run_id: str) -> StoredPictures:
    return StoredPictures()


def write_report(
    path: Path,
    results: Results,
    scores: Sequence[Score],
    found: Sequence[Comparison],
    epochs: Epochs,
    meta: Meta,
    pictures: PicturesOf = _no_pictures,
) -> None:
    """Write a self-contained HTML page: what ran, every score, plots, comparisons and failures.

    The page is in place entirely or not at all: it is written beside ``path`` and then moved there.

    Args:
        path: the file, such as ``out/report.html``.
        results: planned runs and records.
        scores: of the same results, from :func:`bibench.tracks.score`.
        found: of the same results, from :func:`bibench.tracks.comparisons.comparisons`.
        epochs: from the identity of a run to the rows of its epochs, an empty list where there are none.
        meta: what records don't say.
        pictures: from the identity of a run to what it made of a few test samples.

    Raises:
        OSError: the file cannot be written; an older report stays as it was.

    >>> write_report(Path("report.html"), results, scores, found, store.epochs,
    ...              Meta(suite="quick", tracks=tracks), store.pictures)  # doctest: +SKIP
    """
    page = _page(results, scores, found, epochs, meta, pictures)
    write_text(path, page)


def _page(
    results: Results,
    scores: Sequence[Score],
    found: Sequence[Comparison],
    epochs: Epochs,
    meta: Meta,
    pictures: PicturesOf,
) -> str:
    environment = Environment(
        loader=PackageLoader("bibench.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    records = _planned_records(results)
    tables = task_tables(results, found)
    settings = {run.id: run.setting for run in results.plan}
    pictured = _Pictured.of(results)
    failures = [(record, settings[record.id]) for record in records if record.status == "failed"]
    cards = {card.track: card for card in scorecards(scores)}
    return environment.get_template("template.html").render(
        meta=meta,
        facts=[*_facts(results, records), *pictured.facts(results)],
        notes=sorted({note for record in records for note in record.notes}),
        single_seed=max((table.seeds for table in tables), default=0) == 1,
        tasks=[
            (table, _plots(results, own, epochs), shown_samples(results, own, pictures))
            for table in tables
            for own in (pictured.of_table(table),)
        ],
        sections=[
            _Section(track, cards.get(track.name), **_details(track.name, results, pictured)) for track in meta.tracks
        ],
        best=ties(found),
        pairs=[pair for pair in found if not pair.distinguishable],
        compared=len(found),
        failures=failures,
        listed=_LISTED,
        all_pairs=ALL_PAIRS,
        capped=len(results.once(Lookup).algorithms) > ALL_PAIRS,
        missing=missing(scores, results),
        not_deployable=not_deployable(results),
        full_precision=FULL_PRECISION,
        status_text=status_text,
        interval_text=interval_text,
    )


_LISTED = 500
"""Longer lists of runs or pairs end with how many more there are."""

_ALL_PICTURED = 400
_FEW_NETWORKS, _FEW_ALGORITHMS = 2, 12


@dataclass(frozen=True)
class _Pictured:
    """Which networks and how many algorithms have plots and pictures: all, unless a page would be too big to open.

    Every number is in the tables, whatever is pictured.

    Args:
        networks: task and architecture.
        algorithms: so many of them, the first of the plan, beside full precision; None: all.
    """

    networks: Sequence[Row]
    algorithms: int | None = None

    @classmethod
    def of(cls, results: Results) -> _Pictured:
        networks = list(results.once(Lookup).rows)
        if len(networks) * len(results.once(Lookup).algorithms) <= _ALL_PICTURED:
            return cls(networks)
        return cls(networks[:_FEW_NETWORKS], _FEW_ALGORITHMS)

    def names(self, algorithms: tuple[str, ...]) -> tuple[str, ...]:
        """Those of some algorithms, of which full precision is the first or not there."""
        first = 1 if algorithms[:1] == (FULL_PRECISION,) else 0
        return algorithms if self.algorithms is None else algorithms[: first + self.algorithms]

    def of_table(self, table: TaskTable) -> TaskTable:
        """What of a table is pictured."""
        architectures = tuple(name for name in table.architectures if (table.task, name) in self.networks)
        return replace(table, architectures=architectures, algorithms=self.names(table.algorithms))

    def facts(self, results: Results) -> Iterator[tuple[str, str]]:
        """What is left out, if anything."""
        if self.algorithms is not None:
            networks, algorithms = len(results.once(Lookup).rows), len(results.once(Lookup).algorithms)
            shown = f"{len(self.networks)} of {counted(networks, 'network')}"
            yield (
                "Not drawn here",
                f"a page with every plot would be too big: plots and pictures are of {shown}, of the first "
                f"{min(self.algorithms, algorithms)} of {counted(algorithms, 'algorithm')}; the tables have all",
            )


@dataclass(frozen=True)
class _Section:
    """A track with its card, which is None where the suite has no algorithm, and what the page shows beneath it."""

    track: Track
    card: Card | None
    grids: Sequence[tuple[Grid, Markup | None]] = ()
    costs: Sequence[FigureTable] = ()
    corruptions: Sequence[tuple[Corruptions, Markup | None]] = ()
    complexities: Sequence[FigureTable] = ()
    deployments: Sequence[FigureTable] = ()
    places: Sequence[FigureTable] = ()
    computing_power: Markup | None = None
    speeds: SpeedTable | None = None
    trainings: Sequence[tuple[Training, Markup | None, Markup | None]] = ()


def _details(track: str, results: Results, pictured: _Pictured) -> dict[str, Any]:
    if track == "training_consumption":
        grids = [
            (grid, _markup(sensitivity_plot(replace(grid, algorithms=pictured.names(grid.algorithms)))))
            for grid in sensitivity_grids(results)
        ]
        return {"grids": grids, "costs": cost_tables(results)}
    if track == "corruption_robustness":
        tables = corruption_tables(results)
        return {"corruptions": [(table, _markup(_severities(table, pictured))) for table in tables]}
    if track == "theoretical_complexity":
        return {"complexities": complexity_tables(results)}
    if track == "hardware_inference":
        own = results.once(places)
        plot = computing_power_plot(own, published_places()) if own else None
        return {
            "deployments": deployment_tables(results),
            "places": place_tables(results, own),
            "computing_power": _markup(plot),
        }
    if track == "training_speed":
        shown = [
            (own, _markup(curves_plot(own.network)), _markup(splits_plot(own)))
            for own in trainings(results)
            if pictured.algorithms is None or own.network.row in pictured.networks
        ]
        return {"speeds": speed_table(results), "trainings": shown}
    return {}


def _severities(table: Corruptions, pictured: _Pictured) -> str | None:
    if (table.task, table.architecture) not in pictured.networks:
        return None
    return severity_plot(replace(table, algorithms=pictured.names(table.algorithms)))


def _plots(results: Results, table: TaskTable, epochs: Epochs) -> list[dict[str, Any]]:
    return [
        {
            "architecture": architecture,
            "accuracy": _markup(accuracy_plot(table, architecture)),
            "curves": _markup(learning_curves(results, table, architecture, epochs)),
        }
        for architecture in table.architectures
    ]


def _markup(svg: str | None) -> Markup | None:
    return None if svg is None else Markup(svg)  # noqa: S704 - our own SVG; matplotlib escapes its texts


def _planned_records(results: Results) -> list[Record]:
    """One record a planned run, in the plan's order."""
    found = (results.record(run_id) for run_id in dict.fromkeys(run.id for run in results.plan))
    return [record for record in found if record is not None]


def _facts(results: Results, records: Sequence[Record]) -> list[tuple[str, str]]:
    """What ran, where and when, as (label, text)."""
    planned = len({run.id for run in results.plan})
    failed = sum(record.status == "failed" for record in records)
    environments = list(dict.fromkeys(_where(record) for record in records))
    phases: dict[str, float] = {}
    for record in records:
        for phase, seconds in record.phases.items():
            phases[phase] = phases.get(phase, 0.0) + seconds
    parts = ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in phases.items())
    seeds = sorted({run.seed for run in results.main})
    facts = [
        ("Runs", f"{len(records)} of {planned} finished" + (f", {failed} of them failed" if failed else "")),
        ("Seeds", f"{len(seeds)} ({', '.join(map(str, seeds))})"),
        *_grid_facts(results),
        ("Time", f"{duration(sum(phases.values()))}, summed over runs" + (f" ({parts})" if parts else "")),
        *(("Machine and versions", where) for where in environments),
    ]
    if records:
        facts.append(("Finished", max(record.finished for record in records)))
    return facts


def _grid_facts(results: Results) -> Iterator[tuple[str, str]]:
    """What of the runs is the sensitivity grid."""
    for (task, architecture), settings in settings_in(results.plan).items():
        network = (task, architecture)
        own = [run for run in results.plan if run.setting is not None and (run.task, run.architecture) == network]
        ids = {run.id for run in own}
        seeds = sorted({run.seed for run in own})
        done = sum(results.record(run_id) is not None for run_id in ids)
        main = len({run.id for run in own if run.main})
        yield (
            "Sensitivity grid",
            f"{counted(len(settings), 'setting')} of {architecture} on {task}, "
            f"{counted(len(seeds), 'seed')} ({', '.join(map(str, seeds))}): {done} of these {len(ids)} runs finished"
            + (f", {main} of them count for the other tracks too" if main else ""),
        )


def _where(record: Record) -> str:
    at = record.environment
    if at is None:
        return "a published result: not run here"
    accelerator = f"{at.accelerator}, " if at.accelerator else ""
    machine = f"{accelerator}{at.processor}, {counted(at.threads, 'thread')}, {at.platform}"
    versions = f"bibench {at.bibench} ({at.commit[:12] if at.commit else 'no commit'})"
    return f"{machine}; {versions}, PyTorch {at.torch}, Python {at.python}"
