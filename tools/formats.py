"""Write which algorithm and architecture can be exported to which kind of file into docs/formats.md.

    python tools/formats.py

Every architecture is built for a task's input, binarized by every algorithm and written in every format; what a format
refuses is taken from its own messages.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from bibench import binarize, registry
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.deploy.formats import FORMATS as ALL_FORMATS
from bibench.tasks.base import Task

FORMATS = {name: kind for name, kind in ALL_FORMATS.items() if name != "dabnn-onnx"}
"""The formats of the table; daBNN's converter takes few binary convolutions that are padded with 0, as all here are."""
DOCUMENT = Path(__file__).parents[1] / "docs" / "formats.md"
ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")
TASKS = {
    "image": "cifar10",
    "ratings": "movielens",
    "speech": "speech_commands",
    "text": "glue_sst2",
    "points": "modelnet40",
}
"""By modality the task for whose input an architecture is built; detectors choose boxes by value, and are left out."""
OUTPUTS = {"ratings": (50, 60)}
"""By modality, where the task's own outputs would take gigabytes."""
LEFT_OUT = {"bert_base"}
"""Larger networks of an architecture that is in the table."""
PAPER = ("resnet18", "resnet34", "vgg_small")
"""The networks that the paper measures on devices."""
TABLE_4 = {"Larq": ("xnor", "xnorpp"), "daBNN": ("xnor", "xnorpp", "reactnet")}
"""By library what the paper's Table 4 calls not deployable, or what needs something that it says the library lacks."""
_WHERE = re.compile(r"^((layer |module )?'[^']*'( \([^)]*\))?|operation \d+, [^:]*):? ?| \(this layer has \d+\)")
MARKS = ("<!-- written by tools/formats.py -->\n", "<!-- end of what tools/formats.py writes -->")


@dataclass(frozen=True)
class Row:
    """What becomes of an architecture.

    Args:
        architecture: its name.
        refusals: what each format says of the algorithms that it refuses.
    """

    architecture: str
    refusals: dict[str, dict[str, str]]

    def taken(self, name: str) -> str:
        """The algorithms that a format takes."""
        found = [algorithm for algorithm in ALGORITHMS if algorithm not in self.refusals[name]]
        if len(found) in (0, len(ALGORITHMS)):
            return "all" if found else "none"
        if len(found) > len(ALGORITHMS) // 2:
            return "all but " + ", ".join(algorithm for algorithm in ALGORITHMS if algorithm not in found)
        return ", ".join(found)


def architectures() -> list[str]:
    """The architectures of the table."""
    return [
        name
        for name in registry.names("architectures")
        if name not in LEFT_OUT and registry.get("architectures", name).modality in TASKS
    ]


def task_name(architecture: str) -> str:
    """The task for whose input an architecture is built."""
    return (
        "digits" if architecture.startswith("digits") else TASKS[registry.get("architectures", architecture).modality]
    )


def example(task: Task) -> Tensor:
    """An input of a task; of films that `OUTPUTS` has."""
    return torch.tensor([[3, 8]]) if task.modality == "ratings" else task.example()


def row(architecture: str) -> Row:
    """Try an architecture with every algorithm in every format."""
    found = registry.get("architectures", architecture)
    task = registry.get("tasks", task_name(architecture))
    x, outputs = example(task), OUTPUTS.get(found.modality, task.outputs)
    refusals: dict[str, dict[str, str]] = {name: {} for name in FORMATS}
    for algorithm in ALGORITHMS:
        torch.manual_seed(0)
        program = pack(binarize(found.build(task.input_shape, outputs), algorithm, example=x).eval(), x)
        for name, kind in FORMATS.items():
            with tempfile.TemporaryDirectory() as folder:
                try:
                    kind.write(program, Path(folder) / "net")
                except PackedError as error:
                    refusals[name][algorithm] = str(error)
    return Row(architecture, refusals)


def documented(text: str, architecture: str, name: str) -> tuple[str, ...]:
    """The algorithms that a format takes by the document's first table."""
    rows = [line.strip("| ").split(" | ") for line in text.partition(MARKS[0])[2].splitlines()]
    head = next(cells for cells in rows if cells[0] == "architecture")
    cell = next(cells for cells in rows if cells[0] == architecture)[head.index(f"`{name}`")]
    if cell in ("all", "none"):
        return ALGORITHMS if cell == "all" else ()
    listed = cell.removeprefix("all but ").split(", ")
    return tuple(algorithm for algorithm in ALGORITHMS if (algorithm in listed) != cell.startswith("all but "))


def reason(message: str) -> str:
    """Why something is refused, without the layer's name and what to do."""
    return re.sub(_WHERE, "", message).partition(";")[0].replace("|", r"\|")


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def architectures_table(rows: Sequence[Row]) -> str:
    """Which algorithms each format takes, by architecture."""
    head = ["architecture", *(f"`{name}`" for name in FORMATS)]
    return table(head, ([row.architecture, *(row.taken(name) for name in FORMATS)] for row in rows))


def algorithms_table(rows: Sequence[Row]) -> str:
    """The paper's Table 4, and of its networks those that each format takes, by algorithm."""

    def cell(algorithm: str, name: str) -> str:
        taken = [row.architecture for row in rows if row.architecture in PAPER and algorithm not in row.refusals[name]]
        return "yes" if len(taken) == len(PAPER) else ", ".join(taken) or "no"

    lines = []
    for algorithm in ALGORITHMS:
        lacking = ("no" if algorithm in left else "yes" for left in TABLE_4.values())
        paper = ["not in it" if algorithm == "pact" else said for said in lacking]
        lines.append([algorithm, *paper, *(cell(algorithm, name) for name in FORMATS)])
    head = [*(f"Table 4, {library}" for library in TABLE_4), *(f"`{name}`" for name in FORMATS)]
    return table(["algorithm", *head], lines)


def reasons_table(rows: Sequence[Row]) -> str:
    """Why, without the layers' names."""
    found: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for row in rows:
        for name, refused in row.refusals.items():
            for algorithm, message in refused.items():
                algorithms, networks = found.setdefault((name, reason(message)), ({}, {}))
                algorithms[algorithm] = networks[row.architecture] = None
    lines = []
    for (name, why), (algorithms, networks) in found.items():
        which = "all" if len(algorithms) == len(ALGORITHMS) else ", ".join(algorithms)
        lines.append([f"`{name}`", why, which, ", ".join(networks)])
    return table(["format", "reason", "algorithms", "architectures"], lines)


def document(text: str, rows: Sequence[Row]) -> str:
    """The document with new tables."""
    before, _, rest = text.partition(MARKS[0])
    _, mark, after = rest.partition(MARKS[1])
    parts = [architectures_table(rows), algorithms_table(rows), reasons_table(rows)]
    return before + MARKS[0] + "\n" + "\n".join(parts) + "\n" + mark + after


def main() -> None:
    rows = []
    for architecture in architectures():
        rows.append(row(architecture))
        print(architecture, [rows[-1].taken(name) for name in FORMATS], flush=True)
    DOCUMENT.write_text(document(DOCUMENT.read_text(), rows))


if __name__ == "__main__":
    main()
