"""Write the published figures that bibench ships, in the schema of its own records.

    python tools/published.py FOLDER [--out FOLDER]

FOLDER has the tables of BiBench as CSV files (`accuracy.csv`, `corruption.csv`, `sensitivity.csv`, `hardware.csv`,
`deployability.csv`, `overall.csv`), and the figures of partial pre-training in one (`partial_pretraining.csv`). From
them come `raw.jsonl`, one record a line, `printed.json`, the cells of BiBench's Tables 2 and 3, and
`partial_pretraining.json`, what the other paper prints. The same tables always give the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from bibench.models.image import resnet18
from bibench.nn import binarize
from bibench.records import Absence, Figure, Record, RunConfig
from bibench.tracks.published import TRACKS
from bibench.tracks.theoretical_complexity import complexity_figures

OUT = Path(__file__).parents[1] / "src" / "bibench" / "records" / "published"

ALGORITHMS = ("fp32", "bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda")
TASKS = ("cifar10", "imagenet", "voc07", "coco17", "modelnet40", "shapenet", "glue", "speech_commands")
FAMILIES = {
    **dict.fromkeys(("bert_tiny4", "bert_tiny6", "bert_base"), "transformers"),
    **dict.fromkeys(("pointnet_vanilla", "pointnet", "fsmn", "d_fsmn"), "mlps"),
}
PUBLISHED = "2023-01-26T00:00:00Z"
"""The day of arXiv:2301.11233; when the runs ended isn't known."""

NOT_DEPLOYABLE = {
    "xnor": "BiBench, Table 4: neither Larq nor daBNN can re-scale activations",
    "xnorpp": "BiBench, Table 4: Larq and daBNN have channel-wise scaling factors only, these are spatial",
}
INPUT = (
    "Tables 14 to 17 don't say the input, so the latencies are kept with the task of Table 7 that has all three "
    "networks; their ratios fit ResNets at 224x224 pixels and VGG-Small at 32x32"
)

NETWORKS = {
    ("cifar10", "resnet20"): ("cifar10", "resnet20e"),
    ("cifar10", "vgg16"): ("cifar10", "vgg16"),
    ("imagenet", "resnet34"): ("imagenet", "resnet34e"),
    ("movielens20m", "ncf"): ("movielens", "ncf"),
    ("all", "mean_of_4"): ("all", "all"),
}
"""The networks of partial pre-training under their names here; the ResNets are those with additional shortcuts."""

TRAINING_SPEED = {
    "percent_top1": ("accuracy", "percent", "Table 1"),
    "hr_at_10": ("hr10", "ratio", "Table 1"),
    "low_precision": ("iteration_speed", "1/s", "Table 2"),
    "full_precision": ("full_precision_iteration_speed", "1/s", "Table 2"),
    "low_precision_slowdown": ("slowdown", "ratio", "Table 2"),
    "wall_clock_speedup": ("wall_clock_speedup", "ratio", "section 5.2"),
    "iteration_speedup": ("iteration_speedup", "ratio", "section 5.1"),
}
"""Metric, unit and place by the key of a row; by the unit, where the key says whose accuracy it is."""

Row = Mapping[str, str]


def read(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of one table."""
    with (folder / f"{name}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def source(row: Row, remark: str = "") -> str:
    """Where a row's figure is printed."""
    return f"BiBench, Table {row['table']}" + (f" ({remark})" if remark else "")


def run(task: str, architecture: str, algorithm: str, **more: Any) -> RunConfig:
    """A published run; what the paper doesn't say of it stays at the defaults."""
    return RunConfig(
        **{
            "task": task,
            "architecture": architecture,
            "algorithm": algorithm,
            "method": "published",
            "seed": 0,
            "recipe": None,
            "family": FAMILIES.get(architecture, "cnns"),
        }
        | more
    )


def record(config: RunConfig, **more: Any) -> Record:
    """A published record."""
    fixed = {"id": config.id, "run": config, "status": "ok", "data": "published"}
    return Record(**(fixed | {"environment": None, "finished": PUBLISHED} | more))


def main_records(folder: Path) -> Iterator[Record]:
    """One record for each network of Tables 7 to 9 and each algorithm, with all that the paper measured on it."""
    rows = defaultdict(list)
    for row in read(folder, "accuracy"):
        group = row["dataset"] if row["dataset"] == "glue" else ""
        task = f"glue_{row['subset']}" if group else row["dataset"]
        rows[TASKS.index(row["dataset"]), task, group, row["arch"], ALGORITHMS.index(row["algorithm"])].append(row)
    others = defaultdict(list)
    for part in (corrupted(folder), latencies(folder), printed_alone(folder), counted()):
        for place, figure in part:
            others[place].append(figure)
    for (_, task, group, architecture, algorithm), own in sorted(rows.items(), key=lambda item: item[0][0]):
        place = task, architecture, ALGORITHMS[algorithm]
        figures = [accuracy(row) for row in own]
        config = run(*place, metric=figures[0].name, group=group)
        found = others.pop(place, [])
        yield record(
            config,
            figures=(*figures, *(item for item in found if isinstance(item, Figure))),
            absences=tuple(item for item in found if isinstance(item, Absence)),
            measured=tuple(track.name for track in TRACKS),
            notes=(INPUT,) if any(figure.name == "latency" for figure in found) else (),
        )
    assert not others, f"figures of networks that have no accuracy: {sorted(others)}"


def accuracy(row: Row) -> Figure:
    """Tables 7 to 9."""
    subset = row["subset"] if row["dataset"] == "shapenet" and row["subset"] != "overall" else None
    return Figure(
        name=row["metric_name"],
        value=float(row["value"]),
        unit="percent",
        higher_is_better=True,
        conditions={} if subset is None else {"subset": subset},
        source=source(row),
    )


Place = tuple[str, str, str]


def corrupted(folder: Path) -> Iterator[tuple[Place, Figure]]:
    """Tables 10 and 11. The clean row is Table 7's."""
    remarks = {
        "reassembled": lambda row: "put back together, see README.md",
        "inferred": lambda row: f"printed as {row['accuracy_printed']}, see README.md",
        "anomalous": lambda row: "far above its neighbours",
        "": lambda row: "",
    }
    for row in read(folder, "corruption"):
        if row["corruption"] != "origin":
            yield (
                ("cifar10", "resnet18", row["algorithm"]),
                Figure(
                    name="accuracy",
                    value=float(row["accuracy"]),
                    unit="percent",
                    higher_is_better=True,
                    conditions={"corruption": row["corruption"], "severity": row["severity"]},
                    source=source(row, remarks[row["note"]](row)),
                ),
            )


def latencies(folder: Path) -> Iterator[tuple[Place, Figure | Absence]]:
    """Tables 14 to 17: each latency with that of full precision, where both are there."""
    measured: dict[tuple[str, str, str, str], dict[str, Row]] = defaultdict(dict)
    for row in read(folder, "hardware"):
        measured[row["arch"], row["device"], row["threads"], row["library"]][row["algorithm"]] = row
    own = {row["algorithm"] for rows in measured.values() for row in rows.values()}
    refused = {
        row["entity"]
        for row in read(folder, "deployability")
        if (row["entity_type"], row["property"], row["value"]) == ("algorithm", "deployable", "no")
    }
    for (architecture, device, threads, library), rows in measured.items():
        for algorithm in ALGORITHMS[1:]:
            whose = algorithm if algorithm in own else "bnn"
            if algorithm in refused or not {whose, "fp32"} <= rows.keys():
                continue
            remark = "" if whose == algorithm else "BNN's, which Table 3 carries over"
            for name, row, better in (
                ("latency", rows[whose], False),
                ("full_precision_latency", rows["fp32"], None),
            ):
                yield (
                    ("cifar10", architecture, algorithm),
                    Figure(
                        name=name,
                        value=float(row["latency_ms"]),
                        unit="ms",
                        higher_is_better=better,
                        conditions={"device": device, "threads": threads, "library": library},
                        source=source(row, remark if name == "latency" else ""),
                    ),
                )
    for architecture in dict.fromkeys(place[0] for place in measured):
        for algorithm in sorted(refused, key=ALGORITHMS.index):
            for name in ("latency", "storage_compression"):
                yield (
                    ("cifar10", architecture, algorithm),
                    Absence(name=name, status="not_deployable", reason=NOT_DEPLOYABLE[algorithm]),
                )


def printed_alone(folder: Path) -> Iterator[tuple[Place, Figure]]:
    """The cells of Table 3 that no other table explains; they stand for themselves."""
    for row in read(folder, "overall"):
        remark = source(row, "the printed cell; no raw table")
        if not row["value"]:
            continue
        if (row["track"], row["metric"]) == ("training_consumption", "time_cost"):
            name, unit, networks = "time_cost", "percent", ["resnet18"]
        elif (row["track"], row["metric"]) == ("hardware_inference", "compression"):
            name, unit, networks = "storage_compression", "ratio", ["resnet18", "resnet34", "vgg_small"]
        else:
            continue
        for architecture in networks:
            yield (
                ("cifar10", architecture, row["algorithm"]),
                Figure(name=name, value=float(row["value"]), unit=unit, higher_is_better=True, source=remark),
            )


def counted() -> Iterator[tuple[Place, Figure]]:
    """What bibench counts on ResNet-18 and an image of ImageNet, since the paper has no raw table of it."""
    for algorithm in ALGORITHMS[1:]:
        example = torch.zeros(1, 3, 224, 224)
        # Counted on the meta device, where nothing is computed.
        model = binarize(resnet18.build((3, 224, 224), 1000), algorithm, example=example, inplace=True).to("meta")
        for figure in complexity_figures(model, example.to("meta")):
            how = "counted by bibench on ResNet-18, 224x224 pixels"
            yield ("imagenet", "resnet18", algorithm), dataclasses.replace(figure, source=how)


def trials(folder: Path) -> Iterator[Record]:
    """Tables 12 and 13: the grid of hyperparameter settings, five trials of each."""
    highest: dict[str, float] = {}
    rows = read(folder, "sensitivity")
    for row in rows:
        highest[row["optimizer"]] = max(highest.get(row["optimizer"], 0.0), float(row["lr"]))
    for row in rows:
        factor = float(row["lr"]) / highest[row["optimizer"]]
        # The batch size isn't said, so there is no recipe. What is said makes the runs different ones.
        said = {"optimizer": row["optimizer"], "lr": float(row["lr"]), "schedule": row["scheduler"]}
        config = run(
            "cifar10",
            "resnet18",
            row["algorithm"],
            seed=int(row["trial"]),
            options=said | {"epochs": int(row["epochs"])},
            metric="accuracy",
            main=False,
            setting=f"{row['optimizer']}-{factor:.3g}x-{row['scheduler']}",
        )
        figure = Figure(
            name="accuracy", value=float(row["accuracy"]), unit="percent", higher_is_better=True, source=source(row)
        )
        yield record(config, figures=(figure,))


def line(one: Record) -> str:
    """A record without what is at its default."""
    content = one.model_dump(mode="json", exclude_defaults=True)
    return json.dumps({"schema_version": one.schema_version} | content, separators=(",", ":"), ensure_ascii=False)


def printed(folder: Path) -> Iterator[dict[str, Any]]:
    """The cells of Tables 2 and 3."""
    for row in read(folder, "overall"):
        yield {
            "track": row["track"],
            "metric": row["metric"],
            "algorithm": row["algorithm"],
            "unit": row["unit"],
            "value": float(row["value"]) if row["value"] else None,
            "printed": row["printed"],
            "source": source(row),
        }


def training_speed(folder: Path) -> Iterator[dict[str, Any]]:
    """What partial pre-training prints: Tables 1 and 2, and the speedups of its text."""
    for row in read(folder, "partial_pretraining"):
        final = row["section"] == "final_accuracy"
        if not final and row["section"] not in ("training_speed", "speedup"):
            continue
        task, architecture = NETWORKS[row["dataset"], row["network"]]
        metric, unit, place = TRAINING_SPEED[row["unit"] if final else row["key"]]
        yield {
            "task": task,
            "architecture": architecture,
            "metric": metric,
            "algorithm": "fp32" if final and row["key"] == "fp32" else "pact",
            "value": float(row["value"]),
            "unit": unit,
            "plus_minus": float(row["plus_minus"]) if row["plus_minus"] else None,
            "source": f"Partial pre-training, {place}",
        }


def lines(cells: Iterator[dict[str, Any]]) -> str:
    """A JSON list, one item a line."""
    return "[\n" + ",\n".join(json.dumps(cell) for cell in cells) + "\n]\n"


def make(folder: Path) -> dict[str, str]:
    """The text of each file, from the folder with the tables."""
    records = [*main_records(folder), *trials(folder)]
    assert len({one.id for one in records}) == len(records), "two records have one identity"
    return {
        "raw.jsonl": "".join(f"{line(one)}\n" for one in records),
        "printed.json": lines(printed(folder)),
        "partial_pretraining.json": lines(training_speed(folder)),
    }


def main(folder: Path, out: Path = OUT) -> None:
    """Write the files."""
    for name, text in make(folder).items():
        (out / name).write_bytes(text.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path, help="folder with the tables as CSV files")
    parser.add_argument("--out", type=Path, default=OUT, help="folder to write to [default: %(default)s]")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.out)
