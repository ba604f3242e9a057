"""The report: one HTML page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from bibench.files import write_text
from bibench.records import Record, Results, Score
from bibench.report.plots import Epochs, accuracy_plot, learning_curves
from bibench.report.summary import TaskTable, duration, interval_text, missing, scorecards, status_text, task_tables
from bibench.tracks.base import Track
from bibench.tracks.comparisons import Comparison, ties
from bibench.tracks.relative import FULL_PRECISION

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


def write_report(
    path: Path, results: Results, scores: Sequence[Score], found: Sequence[Comparison], epochs: Epochs, meta: Meta
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

    Raises:
        OSError: the file cannot be written; an older report stays as it was.

    >>> write_report(Path("report.html"), results, scores, found, store.epochs,
    ...              Meta(suite="quick", tracks=tracks))  # doctest: +SKIP
    """
    page = _page(results, scores, found, epochs, meta)
    write_text(path, page)


def _page(results: Results, scores: Sequence[Score], found: Sequence[Comparison], epochs: Epochs, meta: Meta) -> str:
    environment = Environment(
        loader=PackageLoader("bibench.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    records = _planned_records(results)
    tables = task_tables(results, found)
    tracks = {track.name: track for track in meta.tracks}
    return environment.get_template("template.html").render(
        meta=meta,
        facts=_facts(results, records),
        notes=sorted({note for record in records for note in record.notes}),
        single_seed=max((table.seeds for table in tables), default=0) == 1,
        tasks=[(table, _plots(results, table, epochs)) for table in tables],
        cards=[(tracks[card.track], card) for card in scorecards(scores) if card.track in tracks],
        best=ties(found),
        pairs=[pair for pair in found if not pair.distinguishable],
        compared=len(found),
        failures=[record for record in records if record.status == "failed"],
        missing=missing(scores),
        full_precision=FULL_PRECISION,
        status_text=status_text,
        interval_text=interval_text,
    )


def _plots(results: Results, table: TaskTable, epochs: Epochs) -> list[dict[str, Any]]:
    plots = []
    for architecture in table.architectures:
        accuracy = accuracy_plot(table, architecture)
        curves = learning_curves(results, table, architecture, epochs)
        plots.append(
            {
                "architecture": architecture,
                "accuracy": accuracy and Markup(accuracy),  # noqa: S704 - our own SVG; matplotlib escapes its texts
                "curves": curves and Markup(curves),  # noqa: S704
            }
        )
    return plots


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
    seeds = sorted({run.seed for run in results.plan})
    facts = [
        ("Runs", f"{len(records)} of {planned} finished" + (f", {failed} of them failed" if failed else "")),
        ("Seeds", f"{len(seeds)} ({', '.join(map(str, seeds))})"),
        ("Time", f"{duration(sum(phases.values()))}, summed over runs ({parts})"),
        *(("Machine and versions", where) for where in environments),
    ]
    if records:
        facts.append(("Finished", max(record.finished for record in records)))
    return facts


def _where(record: Record) -> str:
    at = record.environment
    machine = f"{at.accelerator + ', ' if at.accelerator else ''}{at.processor}, {at.threads} threads, {at.platform}"
    versions = f"bibench {at.bibench} ({at.commit[:12] if at.commit else 'no commit'})"
    return f"{machine}; {versions}, PyTorch {at.torch}, Python {at.python}"
