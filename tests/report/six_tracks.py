"""Results with something for each of the six tracks, with numbers as a real suite gives them."""

from collections.abc import Sequence

import numpy as np

from bibench.recipes import SGD, Recipe
from bibench.records import Environment, Figure, Record, Results, RunConfig
from bibench.tracks.corruption_robustness import corruption_robustness
from bibench.tracks.hardware_inference import hardware_inference
from bibench.tracks.learning_task import learning_task
from bibench.tracks.neural_architecture import neural_architecture
from bibench.tracks.theoretical_complexity import theoretical_complexity
from bibench.tracks.training_consumption import training_consumption

TRACKS = [
    learning_task,
    neural_architecture,
    corruption_robustness,
    training_consumption,
    theoretical_complexity,
    hardware_inference,
]
ENVIRONMENT = Environment(
    bibench="0.1.0", commit="c0ffee0000000000", python="3.12", torch="2.9", platform="Linux", processor="Some CPU",
    accelerator=None, threads=2,
)  # fmt: skip
SETTINGS = tuple(f"{o}-{r}-{s}" for o in ("sgd", "adam") for r in ("1x", "0.1x") for s in ("cosine", "step"))
CLEAN = {"fp32": 94.0, "bnn": 71.0, "xnor": 84.0, "recu": 90.5, "fda": 89.9}
SPREAD = {"fp32": 1.0, "bnn": 9.0, "xnor": 1.5, "recu": 0.8, "fda": 6.0}
TYPES = ("gaussian_noise", "defocus_blur", "glass_blur", "frost", "fog", "jpeg_compression")
NETWORK = ("cifar10", "resnet18", "cnns")
EVERYTHING = ("corruption_robustness", "training_consumption", "theoretical_complexity", "hardware_inference")


def six(
    seeds: Sequence[int] = (0, 1),
    grid_seeds: Sequence[int] = (0, 1, 2),
    networks: Sequence[tuple[str, str, str]] = (NETWORK,),
    settings: Sequence[str] = SETTINGS,
    algorithms: Sequence[str] = tuple(CLEAN),
    corruptions: Sequence[str] = TYPES,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    origin: str = "generated",
    measured: Sequence[str] = EVERYTHING,
    failed: Sequence[tuple[str, str | None]] = (),
    lacking: Sequence[tuple[str, str | None]] = (),
    peak: bool = True,
    deployed: bool = False,
) -> Results:
    """Main runs with the figures of ``measured``, and a sensitivity grid on the first network.

    ``deployed`` adds what the hardware track measures. ``failed`` and ``lacking`` name (algorithm, setting), None for
    the main run: these failed, or aren't there, on the last seed.
    """
    plan: list[RunConfig] = []
    records: list[Record] = []
    predictions: dict[str, np.ndarray] = {}
    for task, architecture, family in networks:
        for algorithm in algorithms:
            for seed in seeds:
                run = config(task, architecture, family, algorithm, seed)
                plan.append(run)
                right = np.random.default_rng([seed, len(algorithm)]).random(500) < CLEAN.get(algorithm, 80) / 100
                predictions[run.id] = right.astype(np.float32)
                if ((algorithm, None) in lacking) and seed == seeds[-1]:
                    continue
                bad = (algorithm, None) in failed and seed == seeds[-1]
                figures = main_figures(run, seed, corruptions, severities, origin, measured, peak)
                figures += deployment_figures(run, seed) if deployed and run.operator is not None else []
                records.append(record(run, () if bad else figures, bad, measured))
    task, architecture, family = networks[0]
    for place, setting in enumerate(settings):
        for algorithm in algorithms:
            for seed in grid_seeds:
                run = config(task, architecture, family, algorithm, seed, setting)
                plan.append(run)
                if (algorithm, setting) in lacking and seed == grid_seeds[-1]:
                    continue
                bad = (algorithm, setting) in failed and seed == grid_seeds[-1]
                spread = SPREAD.get(algorithm, 3.0)
                value = CLEAN.get(algorithm, 80) - spread * ((place * 3) % 8) / 4 + spread * 0.2 * seed
                score = Figure(name="accuracy", value=value, unit="percent", higher_is_better=True)
                records.append(record(run, () if bad else (score,), bad, ()))
    return Results(plan=plan, records=records, predictions=predictions.get)


def config(
    task: str, architecture: str, family: str, algorithm: str, seed: int, setting: str | None = None
) -> RunConfig:
    rate = 0.1 if setting is None else 0.001 * (1 + SETTINGS.index(setting) if setting in SETTINGS else 77)
    return RunConfig(
        task=task,
        architecture=architecture,
        algorithm=algorithm,
        operator=None if algorithm == "fp32" else algorithm,
        method="full_precision" if algorithm == "fp32" else "fine_tune",
        seed=seed,
        recipe=Recipe(optimizer=SGD(lr=rate), epochs=3, batch_size=8),
        family=family,
        metric="accuracy",
        main=setting is None,
        setting=setting,
    )


def record(run: RunConfig, figures: Sequence[Figure], failed: bool, measured: Sequence[str]) -> Record:
    return Record(
        id=run.id,
        run=run,
        status="failed" if failed else "ok",
        reason="loss is NaN in epoch 2" if failed else None,
        figures=tuple(figures),
        measured=() if failed else tuple(measured),
        phases={"train": 60.0, "measure": 2.0},
        environment=ENVIRONMENT,
        finished="2025-01-01T00:00:00Z",
    )


def main_figures(
    run: RunConfig,
    seed: int,
    corruptions: Sequence[str],
    severities: Sequence[int],
    origin: str,
    measured: Sequence[str],
    peak: bool,
) -> list[Figure]:
    clean = CLEAN.get(run.algorithm, 80.0) + 0.2 * seed
    found = [Figure(name="accuracy", value=clean, unit="percent", higher_is_better=True)]
    if "corruption_robustness" in measured:
        found += [
            Figure(
                name="accuracy",
                value=clean - (2 + place) * severity * (1.2 if run.algorithm == "bnn" else 0.8),
                unit="percent",
                mode=origin,
                conditions={"corruption": corruption, "severity": str(severity)},
            )
            for place, corruption in enumerate(corruptions)
            for severity in severities
        ]
    if run.operator is None:
        return found
    if "training_consumption" in measured:
        cost = 60.0 + seed
        found += [
            Figure(name="time_cost", value=cost, unit="percent"),
            Figure(name="time_cost_lowest", value=cost - 5, unit="percent"),
            Figure(name="time_cost_highest", value=cost + 5, unit="percent"),
            Figure(name="step_time", value=0.0123, unit="s"),
            Figure(name="full_precision_step_time", value=0.0075, unit="s"),
        ]
        if peak:
            found += [
                Figure(name="step_peak_memory", value=48.5e6, unit="bytes"),
                Figure(name="full_precision_step_peak_memory", value=31.2e6, unit="bytes"),
            ]
    if "theoretical_complexity" in measured:
        for name, value, unit in (
            ("speedup", 12.6, "ratio"), ("compression", 9.3, "ratio"), ("parameters", 11_173_962, "count"),
            ("kept_parameters", 181_642, "count"), ("operations", 555_422_720, "count"),
            ("kept_operations", 36_700_160, "count"), ("bit_operations", 38_100_000_000, "count"),
            ("memory_traffic", 5_400_000, "bytes"),
        ):  # fmt: skip
            found += [
                Figure(name=name, value=value, unit=unit),
                Figure(name=name, value=2 * value, unit=unit, conditions={"counting": "paper"}),
            ]
    return found


def deployment_figures(run: RunConfig, seed: int) -> list[Figure]:
    place = {"device": "Some CPU", "threads": "1", "library": "bibench (avx2)"}
    clean = CLEAN.get(run.algorithm, 80.0) + 0.2 * seed
    milliseconds = {
        "latency": 2.0 + seed, "latency_lower_quartile": 0.9, "latency_upper_quartile": 4.0,
        "full_precision_latency": 20.0, "full_precision_latency_lower_quartile": 19.0,
        "full_precision_latency_upper_quartile": 30.0,
    }  # fmt: skip
    return [
        *(Figure(name=name, value=value, unit="ms", conditions=place) for name, value in milliseconds.items()),
        Figure(name="fastest_full_precision_latency", value=12.0, unit="ms", mode="ONNX Runtime", conditions=place),
        Figure(name="storage_compression", value=25.5, unit="ratio"),
        Figure(name="packed_bytes", value=1_750_000, unit="bytes"),
        Figure(name="packed_accuracy", value=clean - 0.02, unit="percent"),
    ]
