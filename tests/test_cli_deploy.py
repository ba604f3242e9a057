"""The commands that ship a network: what they print, their JSON, and what they refuse."""

import json
import re
import shutil

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from bibench.bench.store import Store
from bibench.deploy.packed import load_packed
from bibench.native import instruction_sets
from bibench.tasks.digits import digits
from bibench.training.machine import processor
from packed_programs import linear, lookup_and_sum, written
from small_runs import bibench, suite_file
from test_cli import call, refused


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A finished store with bnn, recu and their full-precision run."""
    folder = tmp_path_factory.mktemp("deploy")
    suite = suite_file(folder, recipe="{epochs: 2, batch_size: 64}", tracks="[learning_task]")
    out = folder / "done"
    assert "3 runs in" in call("run", suite, "--out", out, "--jobs", 1).stdout
    return out


def run_of(results, algorithm):
    (record,) = [record for record in Store(results).records() if record.run.algorithm == algorithm]
    return record


@pytest.fixture(scope="module")
def packed(results, tmp_path_factory):
    """The exported bnn."""
    path = tmp_path_factory.mktemp("packed") / "bnn.bibpack"
    call("export", results / "runs" / run_of(results, "bnn").id, "--out", path)
    return path


def test_export_writes_a_file_and_says_how_it_compares(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    record = run_of(results, "recu")
    text = call("export", results / "runs" / record.id, "--to", "packed").stdout
    path = tmp_path / f"{record.id}.bibpack"
    first, second = text.splitlines()
    size = path.stat().st_size
    found = re.fullmatch(
        rf"{record.id}\.bibpack: {size:,} bytes, ([\d.]+) times smaller than the ([\d,]+) bytes of full precision's "
        "parameters",
        first,
    )
    assert found
    assert int(found[2].replace(",", "")) % 4 == 0
    assert float(found[1]) == pytest.approx(int(found[2].replace(",", "")) / size, abs=0.06)
    assert re.fullmatch(
        r"compared with the model in PyTorch on 16 test samples: the largest output is the same on 16, outputs differ "
        r"by at most [\d.e-]+, and 0 of [\d,]+ bits in front of binary layers differ",
        second,
    )
    model = load_packed(path)
    assert (model.algorithm, model.task, model.labels) == ("recu", "digits", tuple("0123456789"))
    assert model.preprocessing == digits.preprocessing
    assert model.metadata["run"] == record.id


def test_export_as_json_from_a_folder_with_one_run(results, tmp_path):
    only = tmp_path / "only"
    shutil.copytree(results, only)
    shutil.rmtree(only / "runs" / run_of(results, "recu").id)
    path = tmp_path / "file.bibpack"
    content = json.loads(call("export", only, "--out", path, "--json").stdout)
    assert content["run"] == run_of(results, "bnn").id
    assert content["bytes"] == path.stat().st_size
    assert content["compression"] == pytest.approx(content["full_precision_bytes"] / content["bytes"])
    assert (content["samples"], content["of"]) == (16, "test samples")
    assert content["largest_difference"] < 0.1
    again = tmp_path / "again.bibpack"
    call("export", only / "runs" / content["run"], "--out", again)
    assert again.read_bytes() == path.read_bytes()


def test_full_precision_can_be_exported_too(results, tmp_path):
    path = tmp_path / "full.bibpack"
    text = call("export", results / "runs" / run_of(results, "fp32").id, "--out", path).stdout
    assert "1.0 times smaller" in text
    assert load_packed(path).algorithm == "fp32"


@pytest.mark.parametrize(
    ("to", "algorithm", "bits"),
    [
        ("onnx", "recu", ", and 0 of [\\d,]+ bits in front of binary layers differ"),
        ("onnx-packed", "recu", ""),
        ("dabnn-onnx", "fp32", ""),
    ],
)
def test_export_to_onnx(results, tmp_path, to, algorithm, bits):
    path, run = tmp_path / "net", run_of(results, algorithm).id
    text = call("export", results / "runs" / run, "--to", to, "--out", path).stdout
    assert re.search(r"on 16, outputs differ by at most [\d.e-]+" + bits + r"\n$", text)
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}["bibench"]
    assert json.loads(about)["run"] == run


def test_what_cannot_be_exported(results, tmp_path):
    text = call("export", results, status=2).stderr
    assert text.startswith(f"error: {results} has 2 finished binarized runs; name the folder of one:\n")
    assert text.count("\n  ") == 2
    assert str(results / "runs" / run_of(results, "bnn").id) in text
    assert "not the folder of a finished run" in refused("export", tmp_path)
    message = refused("export", results, "--to", "pakced")
    assert message.startswith("--to pakced; did you mean 'packed'?: expected one of packed, onnx")
    none = tmp_path / "none"
    shutil.copytree(results, none)
    for algorithm in ("bnn", "recu"):
        shutil.rmtree(none / "runs" / run_of(results, algorithm).id)
    assert refused("export", none).startswith(f"{none}: no binarized run is finished here")
    lost = tmp_path / "lost"
    shutil.copytree(results, lost)
    folder = lost / "runs" / run_of(results, "bnn").id
    (folder / "model.safetensors").unlink()
    assert "model.safetensors is missing" in refused("export", folder)


def digit(folder, number):
    """A digit of the test split as a PNG."""
    test = digits.load(None, False).test
    path = folder / f"{number}.png"
    Image.fromarray(np.rint(test.images[number, 0].numpy() * (255 / 16)).astype(np.uint8)).save(path)
    return path, int(test.labels[number]), test


def test_infer(packed, tmp_path):
    path, _, test = digit(tmp_path, 3)
    inputs, _ = next(test.batches(4, device=torch.device("cpu")))
    shares = torch.from_numpy(load_packed(packed)(inputs.numpy())[3]).double().softmax(dim=0)
    order = shares.argsort(descending=True)
    lines = call("infer", packed, path, "--top", 3).stdout.splitlines()
    assert lines == [f"{100 * shares[number]:6.2f} %  {number}" for number in order[:3].tolist()]
    (row,) = json.loads(call("infer", packed, path, "--json", "--threads", 2).stdout)
    assert row["image"] == str(path)
    assert [one["class"] for one in row["classes"]] == order[:5].tolist()
    assert [one["label"] for one in row["classes"]] == [str(number) for number in order[:5].tolist()]
    assert row["classes"][0]["probability"] == pytest.approx(shares.max().item())
    assert len(json.loads(call("infer", packed, path, "--top", 99, "--json").stdout)[0]["classes"]) == 10


def test_a_bad_image_does_not_keep_others_from_being_classified(packed, tmp_path):
    path, _, _ = digit(tmp_path, 0)
    text = tmp_path / "text.png"
    text.write_text("no image")
    result = call("infer", packed, tmp_path / "none.png", path, text, status=1)
    assert result.stderr.splitlines() == [
        f"error: {tmp_path}/none.png: no such file",
        f"error: {text}: cannot be read as an image: cannot identify image file '{text}'; copy it again from the "
        "original",
    ]
    lines = result.stdout.splitlines()
    assert lines[0] == str(path)
    assert len(lines) == 6
    rows = json.loads(call("infer", packed, tmp_path / "none.png", path, "--json", status=1).stdout)
    assert [sorted(row) for row in rows] == [["error", "image"], ["classes", "image"]]


def test_infer_says_what_a_file_lacks(tmp_path):

    weight = np.ones((10, 64), np.float32)
    image, _, _ = digit(tmp_path, 0)
    bare = written(tmp_path, linear(weight, (1, 8, 8)))
    assert "doesn't say how images become its inputs" in refused("infer", bare, image)
    described = digits.preprocessing.model_dump(mode="json")
    unlike = written(tmp_path, linear(weight, (1, 4, 16), preprocessing=described))
    assert refused("infer", unlike, image) == (
        f"{unlike}: its preprocessing gives (1, 8, 8), and it takes (batch, 1, 4, 16) of float32"
    )
    plain = written(tmp_path, linear(weight, (1, 8, 8), preprocessing=described))
    assert "class 0" in call("infer", plain, image).stdout
    several = written(tmp_path, lookup_and_sum(weight))
    several_described = lookup_and_sum(weight)
    several_described.metadata["preprocessing"] = described
    assert "its preprocessing gives" in refused("infer", written(tmp_path, several_described), image)
    assert several.is_file()
    text = tmp_path / "text"
    text.write_text("hello")
    assert refused("infer", text, image).startswith(f"{text}: not a packed file")
    assert "no such file" in refused("infer", tmp_path / "none", image)


def test_evaluate(results, packed):
    record = run_of(results, "bnn")
    content = json.loads(call("evaluate", packed, "--task", "digits", "--json").stdout)
    assert (content["metric"], content["unit"], content["samples"]) == ("accuracy", "percent", 360)
    assert content["value"] == pytest.approx(record.figure("accuracy").value, abs=0.6)
    assert 0 < content["seconds_an_input"] < 0.01
    assert (content["isa"], content["threads"]) == (instruction_sets()[0], 1)
    text = call("evaluate", packed, "--threads", 2).stdout.splitlines()
    assert text[0] == f"digits: accuracy {content['value']:.2f} percent on 360 test samples"
    assert re.fullmatch(rf"[\d.]+ [µm]s an input on {re.escape(processor())}, {content['isa']}, 2 threads", text[1])


def test_evaluate_refuses_what_does_not_fit(packed, tmp_path):

    assert refused("evaluate", packed, "--task", "cifar10") == (
        f"{packed} takes (batch, 1, 8, 8) of float32, and inputs of task 'cifar10' have the shape (3, 32, 32); choose "
        "another --task"
    )
    assert "did you mean 'digits'" in refused("evaluate", packed, "--task", "digit")
    few = written(tmp_path, linear(np.ones((7, 64), np.float32), (1, 8, 8)))
    assert "doesn't say which task it is for" in refused("evaluate", few)
    assert refused("evaluate", few, "--task", "digits").startswith(
        f"{few} gives (batch, 7) of float32, and task 'digits' has 10 outputs here"
    )


def test_profile(packed):
    content = json.loads(call("profile", packed, "--repeats", 5, "--json").stdout)
    rows, total = content["operations"], content["total"]
    assert (content["isa"], content["threads"], content["repeats"]) == (instruction_sets()[0], 1, 5)
    assert sum(row["share"] for row in rows) == pytest.approx(1)
    for key in ("seconds", "binary", "floats", "int8", "bytes"):
        assert sum(row[key] for row in rows) == pytest.approx(total[key])
    assert total["binary"] > total["floats"] > 0
    assert all(row["limit"] > 0 for row in rows)
    assert all(value > 1e6 for value in content["peaks"].values())
    table = call("profile", packed, "--repeats", 2, "--isa", "scalar").stdout.splitlines()
    assert table[0] == f"{packed} on {processor()}, scalar, 1 thread; medians over 2 runs of one sample"
    assert table[1].split() == ["operation", "time", "share", "binary", "float", "bytes", "limit", "time/limit"]
    assert len(table) == len(rows) + 4
    assert table[-2].startswith("total")
    assert "measured just now on one core" in table[-1]
    assert "expected one of" in refused("profile", packed, "--isa", "sse9")
    assert refused("profile", packed.with_name("none")).startswith(f"{packed.with_name('none')} can't be read")


def test_from_another_process(packed, tmp_path):
    path, _, _ = digit(tmp_path, 1)
    result = bibench("infer", packed, path)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("%") == 5
    assert bibench("infer", packed, tmp_path / "none.png").returncode == 1
    assert bibench("infer", path, path).returncode == 2
