"""The paper's suite, task by task, on data in its original layout: point clouds, speech and text.

Each trains one step in full precision and one binarized, and measures what the suite measures. Real clips and clouds,
but few of the clouds, since the suite's batches have 256; made files where no data set is at hand, or where a whole one
would only be read.
"""

import json
from pathlib import Path

import h5py
import pytest
from typer.testing import CliRunner

from bibench.cli import app
from glue_data import TABLES, write_original, write_vocabulary
from shapenet_data import SYNSETS, write_txt

pytestmark = pytest.mark.slow

FIGURES = {
    "modelnet40": {"accuracy", "class_accuracy"},
    "shapenet": {"miou", "miou_objects"},
    "speech_commands": {"accuracy"},
    "glue_cola": {"matthews_corr"},
    "glue_stsb": {"pearson_spearman_corr", "pearson", "spearman"},
    "glue_mrpc": {"accuracy", "f1"},
}
"""What a task's results have; where it isn't said, the accuracy."""


def a_few_clouds(real: Path, folder: Path) -> Path:
    """The first training and test clouds of the real files, in files of the same layout."""
    source, target = real / "modelnet10_hdf5_1024", folder / "modelnet40_ply_hdf5_2048"
    target.mkdir()
    (target / "shape_names.txt").write_bytes((source / "shape_names.txt").read_bytes())
    for split in ("train", "test"):
        name = f"ply_data_{split}0.h5"
        (target / f"{split}_files.txt").write_text(f"data/{target.name}/{name}\n")
        with h5py.File(source / name) as old, h5py.File(target / name, "w") as new:
            for key in old:
                new[key] = old[key][:12]
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """GLUE's files with a few rows, a vocabulary, and a few ShapeNet objects."""
    folder = tmp_path_factory.mktemp("made")
    for name in TABLES:
        write_original(folder / "glue_data", name)
    write_vocabulary(folder)
    write_txt(folder, count=1, synsets={"Bag": SYNSETS["Bag"]})  # a step of many points takes seconds
    return folder


def data_of(task, tmp_path, real, made):
    if task == "modelnet40":
        return a_few_clouds(real, tmp_path)
    return real if task == "speech_commands" else made


@pytest.mark.parametrize(
    ("task", "architecture"),
    [
        ("modelnet40", "pointnet_vanilla"),
        ("modelnet40", "pointnet"),
        ("shapenet", "pointnet"),
        ("speech_commands", "fsmn"),
        ("speech_commands", "d_fsmn"),
        *((f"glue_{name}", "bert_tiny4") for name in ("cola", "stsb", "mrpc", "mnli_mm")),
    ],
)
def test_one_task_of_the_paper(tmp_path, real_data, made, task, architecture):
    out = tmp_path / "out"
    only = [f"task={task}", f"architecture={architecture}", "algorithm=reactnet", "seed=0"]
    arguments = ["run", "paper", *(word for choice in only for word in ("--only", choice)), "--steps", 1, "--jobs", 1]
    arguments += ["--data", data_of(task, tmp_path, real_data, made), "--allow-subset", "--out", out]
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    records = [json.loads(path.read_text()) for path in sorted(out.glob("runs/*/record.json"))]
    assert sorted(record["run"]["algorithm"] for record in records) == ["fp32", "reactnet"]
    for record in records:
        assert record["status"] == "ok"
        assert FIGURES.get(task, {"accuracy"}) <= {figure["name"] for figure in record["figures"]}
        if task == "shapenet":  # what its relative score is a mean over
            subsets = [one for one in record["figures"] if "subset" in one["conditions"]]
            assert [(one["name"], one["conditions"]) for one in subsets] == [("miou", {"subset": "bag"})]
    assert (out / "report.html").stat().st_size > 10_000
