"""Plans and records made by hand, for the tests of tracks."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from bibench.recipes import SGD, Recipe
from bibench.records import Environment, Figure, Record, Results, RunConfig, Score

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


def by_metric(scores: Iterable[Score], algorithm: str = "bnn") -> dict[str, Score]:
    """The scores of one algorithm by metric, in their order."""
    return {score.metric: score for score in scores if score.algorithm == algorithm}


def figure(name: str, value: float, unit: str, conditions: Mapping[str, object] | None = None, **more: Any) -> Figure:
    texts = {key: str(content) for key, content in (conditions or {}).items()}
    return Figure(name=name, value=value, unit=unit, conditions=texts, **more)


def measured_record(run: RunConfig, value: float, track: str, *figures: Figure, **changes: Any) -> Record:
    """An ok record whose figures, beside its accuracy, a track has taken."""
    own = Figure(name=run.metric, value=value, unit="percent", higher_is_better=True)
    return ok_record(run, value, **({"figures": (own, *figures), "measured": (track,)} | changes))


def with_records(made: Results, changed: Mapping[str, Record | None]) -> Results:
    """The same results with other records in the place of some, by identity; None takes a record away."""
    found = {record.id: record for record in made.records} | dict(changed)
    return Results(plan=made.plan, records=[record for record in found.values() if record is not None])


def everything(seeds: Sequence[int], value: Callable[[], float]) -> Results:
    """Results from which all six tracks score ``bnn`` and ``fda``; ``value()`` gives numbers between 1 and 90."""
    plan: list[RunConfig] = []
    records: list[Record] = []
    places = [("cifar10", "resnet"), ("cifar10", "vgg"), ("glue", "bert"), ("kws", "fsmn")]
    tracks = ("corruption_robustness", "training_consumption", "theoretical_complexity", "hardware_inference")
    for seed in seeds:
        for (task, architecture), algorithm in itertools.product(places, ("fp32", "bnn", "fda")):
            run = run_config(task, architecture, algorithm, seed)
            figures = []
            if task == "cifar10":
                figures += [
                    figure("accuracy", 90 - value(), "percent", {"corruption": name, "severity": level})
                    for name in ("fog", "snow")
                    for level in (1, 5)
                ]
            if algorithm != "fp32":
                figures += [
                    figure("time_cost", value(), "percent"),
                    figure("speedup", value(), "ratio"),
                    figure("compression", value(), "ratio"),
                    figure("speedup", value(), "ratio", {"counting": "paper"}),
                    figure("compression", value(), "ratio", {"counting": "paper"}),
                    figure("storage_compression", value(), "ratio"),
                ]
                figures += [
                    figure(name, value(), "ms", {"device": "pi", "threads": threads, "library": "larq"})
                    for name in ("latency", "full_precision_latency")
                    for threads in (1, 4)
                ]
            plan.append(run)
            clean = Figure(name="accuracy", value=90 + value() / 10, unit="percent", higher_is_better=True)
            records.append(ok_record(run, 0.0, figures=(clean, *figures), measured=tracks))
        for setting, algorithm in itertools.product(("sgd", "adam"), ("fp32", "bnn", "fda")):
            run = run_config("kws", "fsmn", algorithm, seed, setting=setting, main=False, options={"s": setting})
            plan.append(run)
            records.append(ok_record(run, value()))
    return Results(plan=plan, records=records)
