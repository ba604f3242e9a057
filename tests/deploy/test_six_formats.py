"""A ResNet-18 that the commands of docs/formats.md train, measure over ssh, score, and export: each file run."""

import functools
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from dabnn_interpreter import DabnnEngine, DabnnNet
from lce_runner import Client, LceEngine
from ssh_server import ssh_server
from test_trained_networks import ROUNDING

from bibench import registry
from bibench.bench.store import Store
from bibench.bench.worker import finished_model, load_data
from bibench.deploy.compare import compare
from bibench.deploy.export import pack
from bibench.deploy.formats import FORMATS
from bibench.deploy.onnx_run import _session, compare_onnx
from bibench.deploy.packed import load_packed
from bibench.tasks.imagenet import imagenet
from bibench.tracks.places import places
from needed_tools import need_runner

ROOT = Path(__file__).parents[2]
CLASSES, TRAIN, TEST = 4, 8, 3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(real_data, tmp_path_factory):
    """A few real photographs, as an ImageNet tree."""
    folder = tmp_path_factory.mktemp("data")
    for part, count in (("train", TRAIN), ("val", TEST)):
        for name in sorted(path.name for path in (real_data / "tiny-imagenet-25" / part).iterdir() if path.is_dir())[
            :CLASSES
        ]:
            (folder / "imagenet" / part / name).mkdir(parents=True)
            images = sorted((real_data / "tiny-imagenet-25" / part / name).rglob("*.JPEG"))[:count]
            assert len(images) == count
            for image in images:
                (folder / "imagenet" / part / name / image.name).symlink_to(image)
    return folder


@pytest.fixture(scope="module")
def made(data, tmp_path_factory):
    """The folder where the documented commands ran, and what the last one printed."""
    need_runner()
    text = (ROOT / "docs" / "formats.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"<!-- six formats -->\n```bash\n(.*?)```", text, re.DOTALL)
    folder = tmp_path_factory.mktemp("made")
    with ssh_server(tmp_path_factory.mktemp("ssh") / "server") as server:
        (folder / "devices.yaml").write_text(
            f"devices:\n  - {{name: board, target: '{server.target}', threads: [1, 2]}}\n"
        )
        script = script.replace("benchmarks/", f"{ROOT}/benchmarks/").replace("DIR", str(data))
        script = script.replace("devices.yaml", f"devices.yaml --ssh-config {server.config}")
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=folder,
            env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert list(server.temporary.iterdir()) == []
    return folder, done.stdout


def test_the_device_behind_ssh_is_in_the_score(made):
    folder, text = made
    results = Store.open(folder / "results" / "six-formats").results()
    found = [place for place in places(results) if place.device.startswith("board (")]
    assert [place.threads for place in found] == ["1", "2"]
    assert all(place.speedup > 0 and place.rate is not None for place in found)
    assert re.search(r"\nboard \(.*\), threads: 1, bibench \(\w+\) ", text)
    scores = json.loads(
        subprocess.run(
            [Path(sys.executable).parent / "bibench", "score", folder / "results" / "six-formats", "--json"],
            capture_output=True,
            check=True,
        ).stdout
    )
    (speedup,) = [one["value"] for one in scores if (one["track"], one["metric"]) == ("hardware_inference", "speedup")]
    assert speedup == pytest.approx(np.mean([place.speedup for place in places(results)]))


@pytest.fixture(scope="module")
def network(made, data):
    """The trained network and a few photographs."""
    store = Store.open(made[0] / "results" / "six-formats")
    (record,) = [one for one in store.records() if one.run.operator is not None]
    loaded = load_data("imagenet", data, True)
    architecture = registry.get("architectures", "resnet18")
    model = finished_model(record.run, store, task=imagenet, data=loaded, architecture=architecture)
    images, _ = next(loaded.test.batches(6, device=torch.device("cpu")))
    return model, images


def onnx_outputs(path, images, environment):
    session = _session(onnx.load(path))
    return session.run(None, {session.get_inputs()[0].name: images})[0]


def lce_outputs(path, images, client):
    return np.concatenate([client.on(path.read_bytes(), [image[None]])[0] for image in images])


def dabnn_outputs(path, images, client):
    net = DabnnNet(path.read_bytes())
    last = net.layers[-1][1]["output"]
    return np.stack([net.run(image.transpose(1, 2, 0))[0][last].reshape(-1)[:CLASSES] for image in images])


RUNS = {
    "packed": lambda path, images, client: load_packed(path)(images),
    "onnx": onnx_outputs,
    "onnx-packed": onnx_outputs,
    "qonnx": onnx_outputs,
    "tflite-lce": lce_outputs,
    "dabnn": dabnn_outputs,
}


@pytest.fixture(scope="module")
def client(lce_environment, tmp_path_factory):
    found = Client(lce_environment, tmp_path_factory.mktemp("lce"))
    yield found
    found.close()


def compared(name, path, model, images, client):
    """Bit by bit; those inside nodes of packed ONNX are the packed engine's."""
    if name in ("onnx", "qonnx"):
        return compare_onnx(model, path, images)
    program = pack(model, images)
    engines = {"tflite-lce": functools.partial(LceEngine, client), "dabnn": DabnnEngine}
    return compare(model, program, images, **({"engine": engines[name]} if name in engines else {}))


@pytest.mark.parametrize("name", RUNS)
def test_each_file_runs_and_is_the_network(made, network, client, name):
    """As docs/packed-engine.md says: a sign differs only where the value before it is within rounding of its threshold.

    After so few steps one such sign changes all that follows, so outputs are compared where none differs.
    """
    assert {*RUNS, "dabnn-onnx"} == set(FORMATS)  # whose convolutions are padded with -1, not with 0 as here
    model, images = network
    path = made[0] / f"resnet18.{name}"
    equal = 0
    for image in images.split(1):
        with torch.no_grad():
            expected = model(image).numpy()
        bits = compared(name, path, model, image, client)
        assert sum(layer.bits for layer in bits.layers) > 1_000_000
        first = next((layer for layer in bits.layers if layer.differing), None)
        if first is not None:
            assert first.margin < ROUNDING, str(bits)
            continue
        found = RUNS[name](path, image.numpy(), client)
        np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
        equal += 1
    assert equal
