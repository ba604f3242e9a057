"""Plans and records made by hand, for the tests of tracks."""

from collections.abc import Iterable, Mapping
from typing import Any

from bibench.recipes import SGD, Recipe
from bibench.records import Environment, Figure, Record, Results, RunConfig

RECIPE = Recipe(optimizer=SGD(lr=0.1), epochs=1, batch_size=8)
ENVIRONMENT = Environment(
    bibench="0", commit=None, python="3", torch="2", platform="p", processor="c", accelerator=None, threads=1
)
FAMILIES = {"bert": "transformers", "fsmn": "mlps", "pointnet": "mlps"}


def run_config(task: str, architecture: str, algorithm: str, seed: int = 0, **changes: Any) -> RunConfig:
    fields = {
        "task": task,
        "architecture": architecture,
        "algorithm": algorithm,
        "method": "full_precision" if algorithm == "fp32" else "fine_tune",
        "seed": seed,
        "recipe": RECIPE,
        "family": FAMILIES.get(architecture, "cnns"),
        "metric": "accuracy",
    }
    return RunConfig(**(fields | changes))


def ok_record(run: RunConfig, value: float, unit: str = "percent", **changes: Any) -> Record:
    figure = Figure(name=run.metric, value=value, unit=unit, higher_is_better=True)
    fields = {
        "id": run.id,
        "run": run,
        "status": "ok",
        "figures": (figure,),
        "environment": ENVIRONMENT,
        "finished": "2025-01-01T00:00:00Z",
    }
    return Record(**(fields | changes))


def failed_record(run: RunConfig, reason: str) -> Record:
    return ok_record(run, 0.0, status="failed", figures=(), reason=reason)


Values = Mapping[tuple[str, str, str, int], float | str | None]
"""By (task, architecture, algorithm, seed): a score, the reason of a failure, or None for a run without record."""


def results(values: Values, extra: Iterable[Record] = ()) -> Results:
    plan, records = [], []
    for place, value in values.items():
        run = run_config(*place)
        plan.append(run)
        if isinstance(value, str):
            records.append(failed_record(run, value))
        elif value is not None:
            records.append(ok_record(run, value))
    return Results(plan=plan, records=[*records, *extra])
