"""Small packages of somebody else's: one with an algorithm, a task, an architecture and a track as entry points, and
one with the task of docs/tasks.md alone."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PYPROJECT = """\
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "bibench-example"
version = "1.2"
dependencies = ["bibench"]

[project.entry-points."bibench.algorithms"]
mine = "bibench_example.algorithm:mine"

[project.entry-points."bibench.tasks"]
stripes = "bibench_example.task:stripes"

[project.entry-points."bibench.architectures"]
tiny = "bibench_example.architecture:tiny"

[project.entry-points."bibench.tracks"]
balance = "bibench_example.track:balance"
"""

ALGORITHM = '''\
"""Signs with a triangle as gradient, scaled by a learned factor per output channel."""

from bibench.algorithms import Algorithm, LearnedScale, Sign


def triangle(x):
    return (1 - x.abs()).clamp(min=0)


def mine(*, learned=True):
    return Algorithm(
        name="mine",
        title="Mine",
        weight=lambda layer: Sign(triangle),
        activation=lambda layer: Sign(triangle),
        scale=LearnedScale if learned else lambda layer: None,
    )
'''

TASK, TASK_PYPROJECT = re.search(
    r"<!-- own task -->\n```python\n(.*?)```.*<!-- own task's package -->\n```toml\n(.*?)```",
    (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8"),
    re.DOTALL,
).groups()
"""The one that the documentation shows, and its package there."""

ARCHITECTURE = '''\
"""Three convolutions."""

from torch import nn

from bibench.models.base import Architecture


def build(input_shape, outputs):
    channels = input_shape[0]
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, outputs),
    )


tiny = Architecture(name="tiny", title="Tiny", family="cnns", modality="image", build=build, source="bibench-example")
'''

TRACK = '''\
"""How balanced the binarized weights are: the share that is +1, in percent."""

from bibench.nn import weight_signs
from bibench.records import Figure, Score
from bibench.tracks.base import Track


def measure(run):
    signs = [signs.float().mean() for signs in weight_signs(run.model).values()]
    if not signs:
        return []
    return [Figure(name="positive", value=100 * float(sum(signs)) / len(signs), unit="percent")]


def score(results):
    values = {}
    for record in results.records:
        if (figure := record.figure("positive")) is not None:
            values.setdefault(record.run.algorithm, []).append(figure.value)
    return [
        Score(track="balance", metric="positive", algorithm=name, value=sum(own) / len(own), seeds=len(own))
        for name, own in values.items()
    ]


balance = Track(name="balance", title="Balance", description="Share of +1.", score=score, measure=measure)
'''


def plugin_package(folder: Path) -> Path:
    """Install the package with one of each below ``folder``; returns the folder to put on ``PYTHONPATH``."""
    modules = {"__init__": "", "algorithm": ALGORITHM, "task": TASK, "architecture": ARCHITECTURE, "track": TRACK}
    files = {f"bibench_example/{name}.py": text for name, text in modules.items()}
    return _installed(folder, "bibench_example", "1.2", files, PYPROJECT)


def task_package(folder: Path) -> Path:
    """The same for the package of docs/tasks.md: its two files, and nothing else."""
    return _installed(folder, "stripes", "0.1", {"stripes.py": TASK}, TASK_PYPROJECT)


def _installed(folder: Path, name: str, version: str, files: dict[str, str], pyproject: str) -> Path:
    """Write a package's source and install it.

    It is built by pip with setuptools where that is installed. Elsewhere, since tests don't download, the wheel's
    content is written by hand: modules and a ``.dist-info`` folder with the entry points are what an installed
    package is.
    """
    source, target = folder / "source", folder / "installed"
    _write(source, {"pyproject.toml": pyproject, **files})
    if _can_build():
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
        subprocess.run([*command, "--target", str(target), str(source)], check=True)
        return target
    lines = [line.replace('[project.entry-points."', "[").replace('"]', "]") for line in pyproject.splitlines()]
    first = next(number for number, line in enumerate(lines) if line.startswith("[bibench."))
    info = f"{name}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
    points = "\n".join(lines[first:]).replace('"', "")
    _write(target, {f"{info}/METADATA": metadata, f"{info}/entry_points.txt": points, **files})
    return target


def _write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def _can_build() -> bool:
    probe = "import pip, setuptools, sys; sys.exit(int(setuptools.__version__.split('.')[0]) < 71)"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0
