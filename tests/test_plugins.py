"""What somebody else's package provides is there by its name, without any change to this one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from plugin_package import ALGORITHM, plugin_package, task_package
from small_runs import bibench

PROBE = """
import json
import torch
import bibench
from bibench import registry

found = {kind: [name for name in registry.names(kind) if registry.origin(kind, name) == "bibench-example"]
         for kind in registry.KINDS}
architecture = registry.get("architectures", "tiny")
task = registry.get("tasks", "stripes")
data = task.load(None, False)
batch = next(data.train.batches(8, device=torch.device("cpu"), seed=0))
model = bibench.binarize(architecture.build(task.input_shape, data.outputs), "mine", example=task.example())
task.loss(model, batch).backward()
figures = task.evaluate(model.eval(), data.test.batches(16, device=torch.device("cpu"))).figures
plain = bibench.nn.resolve("mine", learned=False)
try:
    registry.get("algorithms", "mime")
except registry.UnknownName as error:
    message = str(error)
print(json.dumps({
    "found": found,
    "binarized": bibench.summary(model).binarized,
    "gradient": model[3].weight.grad.abs().sum().item() > 0,
    "scale": type(model[3].scale).__name__,
    "without": plain.scale(None) is None,
    "figures": list(figures),
    "track": registry.get("tracks", "balance").title,
    "message": message,
}))
"""


def run(program: str, *folders: Path) -> str:
    """Run a program in a Python that finds packages in these folders first."""
    path = os.pathsep.join([*map(str, folders), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_package_with_one_of_each(tmp_path):
    folder = plugin_package(tmp_path)
    result = json.loads(run(PROBE, folder))
    assert result == {
        "found": {"algorithms": ["mine"], "architectures": ["tiny"], "tasks": ["stripes"], "tracks": ["balance"]},
        "binarized": ["3"],
        "gradient": True,
        "scale": "LearnedScale",
        "without": True,
        "figures": ["accuracy"],
        "track": "Balance",
        "message": result["message"],
    }
    assert "unknown algorithm 'mime'; did you mean 'mine'?" in result["message"]


def test_the_algorithm_is_short():
    assert len(ALGORITHM.splitlines()) <= 30


BROKEN = """
import bibench
from bibench import registry
print(registry.names("algorithms")[-1])
print(bibench.nn.resolve("bnn").name)
"""


@pytest.mark.slow
def test_a_broken_package_breaks_nothing_else(tmp_path):
    """Names are listed and built-in ones work although another package's module can't be imported."""
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[bibench.algorithms]\nzz = nowhere:zz\nbnn = nowhere:bnn\n")
    assert run(BROKEN, tmp_path).split() == ["zz", "bnn"]
    refused = bibench(
        "train", "--task", "digits", "--arch", "digits_cnn", "--algorithm", "zz", PYTHONPATH=str(tmp_path)
    )
    assert refused.returncode == 2
    assert refused.stderr.startswith(
        "error: algorithm 'zz' of package 'broken' can't be loaded (nowhere:zz): ModuleNot"
    )


def test_a_suite_of_ones_own_objects_is_run_and_scored(tmp_path):
    installed = plugin_package(tmp_path / "package")
    suite = tmp_path / "own.yaml"
    suite.write_text(
        "name: own\ntasks: [{task: stripes, architectures: [tiny, digits_cnn]}]\nalgorithms: [bnn]\n"
        "tracks: [learning_task, balance]\n"
    )
    out = tmp_path / "out"
    path = {"PYTHONPATH": str(installed)}
    run = bibench("run", suite, "--out", out, "--algorithm", "mine", "--jobs", 1, **path)
    assert run.returncode == 0, run.stderr
    scores = json.loads(bibench("score", out, "--json", **path).stdout)
    own = {(row["metric"], row["algorithm"]): row["value"] for row in scores if row["track"] == "balance"}
    assert set(own) == {("positive", "bnn"), ("positive", "mine")}
    assert all(0 < value < 100 for value in own.values())
    assert {row["algorithm"]: row["status"] for row in scores if row["metric"] == "stripes"} == {
        "bnn": "ok",
        "mine": "ok",
    }
    assert "Balance" in (out / "report.html").read_text()


@pytest.mark.slow
def test_the_task_of_the_documentation_needs_nothing_else(tmp_path):
    path = {"PYTHONPATH": str(task_package(tmp_path / "package"))}
    out = tmp_path / "out"
    command = ("train", "--task", "stripes", "--arch", "digits_cnn", "--algorithm", "bnn", "--out", out)
    trained = bibench(*command, **path)
    assert trained.returncode == 0, trained.stderr
    runs = [json.loads(record.read_text())["run"] for record in out.rglob("record.json")]
    assert {(run["task"], run["algorithm"]) for run in runs} == {("stripes", "fp32"), ("stripes", "bnn")}
    suite = tmp_path / "own.yaml"
    suite.write_text("name: own\ntasks: [{task: stripes}]\nalgorithms: [bnn]\n")  # on the task's own architectures
    valid = bibench("validate", suite, **path)
    assert valid.returncode == 0, valid.stderr
