"""A small package of somebody else's: an algorithm, a task, an architecture and a track, as entry points."""

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

TASK = re.search(
    r"<!-- own task -->\n```python\n(.*?)```",
    (Path(__file__).parents[1] / "docs" / "tasks.md").read_text(encoding="utf-8"),
    re.DOTALL,
)[1]
"""The one that the documentation shows."""

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
    """Write the package's source below ``folder`` and install it; returns the folder to put on ``PYTHONPATH``.

    It is built by pip with setuptools where that is installed. Elsewhere, since tests don't download, the wheel's
    content is written by hand: modules and a ``.dist-info`` folder with the entry points are what an installed
    package is.
    """
    source, target = folder / "source", folder / "installed"
    package = source / "bibench_example"
    package.mkdir(parents=True)
    (source / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    modules = {"__init__": "", "algorithm": ALGORITHM, "task": TASK, "architecture": ARCHITECTURE, "track": TRACK}
    for name, text in modules.items():
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    if _can_build():
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
        subprocess.run([*command, "--target", str(target), str(source)], check=True)
        return target
    (target / package.name).mkdir(parents=True)
    for name, text in modules.items():
        (target / package.name / f"{name}.py").write_text(text, encoding="utf-8")
    info = target / "bibench_example-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bibench-example\nVersion: 1.2\n", encoding="utf-8")
    lines = [line.replace('[project.entry-points."', "[").replace('"]', "]") for line in PYPROJECT.splitlines()]
    points = "\n".join(lines[lines.index("[bibench.algorithms]") :]).replace('"', "")
    (info / "entry_points.txt").write_text(points, encoding="utf-8")
    return target


def _can_build() -> bool:
    probe = "import pip, setuptools, sys; sys.exit(int(setuptools.__version__.split('.')[0]) < 71)"
    return subprocess.run([sys.executable, "-c", probe], capture_output=True, check=False).returncode == 0
