"""The command that finds objects in images with the network of a finished run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from rich.table import Table
from rich.text import Text
from torch import nn

from bibench import registry
from bibench.bench.plan import PlanError
from bibench.cli.app import SOME_FAILED, JsonOption, app, clear_errors, err, out, say
from bibench.cli.finished import RunArgument, finished_run, run_data, trained_network
from bibench.cli.run import DataOption, SubsetOption
from bibench.files import atomic_write
from bibench.models.base import Architecture
from bibench.records import Record
from bibench.report import print_plainly
from bibench.tasks.average_precision import Detections
from bibench.tasks.base import DataError, Task
from bibench.tasks.detection_files import fitted
from bibench.tasks.detection_pictures import LEAST_SCORE, draw, label_name
from bibench.tasks.preprocessing import read_image

__all__ = ["detect"]

_MODALITY = "detection"


@app.command()
def detect(
    run: RunArgument,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files.")],
    folder: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Folder for the images with what was found drawn in.")
    ] = Path("detections"),
    threshold: Annotated[
        float, typer.Option("--threshold", min=0.0, max=1.0, help="Least score of what is shown.")
    ] = LEAST_SCORE,
    data: DataOption = None,
    allow_subset: SubsetOption = False,
    as_json: JsonOption = False,
) -> None:
    """Find objects in images with the network of a finished detection run, and draw them.

    The data set is needed only where its classes are not the task's own, as in a part of it.
    """
    rows: list[dict[str, Any]] = []
    with clear_errors():
        store, record = finished_run(run, _detects, "detection run")
        task: Task = registry.get("tasks", record.run.task)
        if task.modality != _MODALITY:
            raise PlanError(f"{record.id}: task '{task.name}' has no objects to detect; give a run of a detection task")
        architecture: Architecture = registry.get("architectures", record.run.architecture)
        loaded = run_data(record, task, data, allow_subset, store)
        model = trained_network(record, store, task, architecture, loaded)
        labels = loaded.labels or task.labels
        if not labels:
            err.print("note: the classes have no names without the data; give them with --data DIR", soft_wrap=True)
        targets = _targets(images, folder)
        for path, target in zip(images, targets, strict=True):
            try:
                image = read_image(path).convert("RGB")
            except DataError as error:
                err.print(f"error: {error}", style="red", markup=False, soft_wrap=True)
                rows.append({"image": str(path), "error": str(error)})
                continue
            found = _find(model, image, task, threshold)
            names = [label_name(labels, label) for label in found.labels.tolist()]
            _write(target, image, found, names)
            rows.append({"image": str(path), "drawn": str(target), "objects": _objects(found, names)})
            if not as_json:
                _say(path, target, found, names, threshold)
    if as_json:
        print(json.dumps(rows, indent=1, ensure_ascii=False))
    if any("error" in row for row in rows):
        raise typer.Exit(SOME_FAILED)


def _detects(record: Record) -> bool:
    task: Task = registry.get("tasks", record.run.task)
    return task.modality == _MODALITY


def _targets(images: Sequence[Path], folder: Path) -> list[Path]:
    """A file in the folder for each image, named after it; never one of the images, and none twice."""
    taken = {path.resolve() for path in images}
    targets = []
    for path in images:
        target, number = folder / f"{path.stem}.jpg", 1
        while target.resolve() in taken:
            number += 1
            target = folder / f"{path.stem}-{number}.jpg"
        taken.add(target.resolve())
        targets.append(target)
    return targets


def _find(model: nn.Module, image: Image.Image, task: Task, threshold: float) -> Detections:
    """What a detector finds in an image, in its pixels, the surest first."""
    _, short, long = task.input_shape
    rows, columns = fitted(image.height, image.width, short, long)
    # As the task's own samples are scaled, so that what is found here is what was scored.
    scaled = image.resize((columns, rows), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(scaled)).movedim(-1, 0).float() / 255
    with torch.no_grad():
        found = {name: values.double().numpy() for name, values in model([pixels])[0].items()}
    order = np.argsort(-found["scores"], kind="stable")
    order = order[found["scores"][order] >= threshold]
    return Detections(
        boxes=found["boxes"][order] * (np.array(image.size * 2) / (columns, rows, columns, rows)),
        labels=found["labels"][order].astype(np.int64),
        scores=found["scores"][order],
    )


def _write(target: Path, image: Image.Image, found: Detections, names: Sequence[str]) -> None:
    texts = [f"{name} {score:.2f}" for name, score in zip(names, found.scores.tolist(), strict=True)]
    drawn = draw(image, found.boxes[::-1], found.labels[::-1], texts[::-1])  # the surest on top

    def write(temporary: Path) -> None:
        drawn.save(temporary, "JPEG", quality=95)

    atomic_write(target, write)


def _objects(found: Detections, names: Sequence[str]) -> list[dict[str, Any]]:
    return [
        {"class": label, "label": name, "score": score, "box": box}
        for label, name, score, box in zip(
            found.labels.tolist(), names, found.scores.tolist(), found.boxes.tolist(), strict=True
        )
    ]


def _say(path: Path, target: Path, found: Detections, names: Sequence[str], threshold: float) -> None:
    what = "" if names else f", nothing with a score of at least {threshold:g}"
    say(f"{path}, drawn in {target}{what}")
    if not names:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("label", overflow="fold")
    for column in ("score", "left", "top", "right", "bottom"):
        table.add_column(column, justify="right")
    for name, score, box in zip(names, found.scores.tolist(), found.boxes.tolist(), strict=True):
        table.add_row(Text(name), f"{score:.2f}", *(f"{edge:.0f}" for edge in box))
    print_plainly(out, lambda console: console.print(table))
