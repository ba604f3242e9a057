"""`bibench detect`: what it finds, prints and draws, and what it refuses. The network is untrained, and sees dogs."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_tensor

from bibench.bench.store import Store
from bibench.models.detection import faster_rcnn
from bibench.recipes import Adam, Recipe
from bibench.records import Record, RunConfig
from bibench.tasks.coco import coco17_small
from bibench.tasks.voc import CLASSES, voc07_small
from bibench.training.checkpoint import save_weights
from detection_data import write_voc
from small_runs import config
from test_cli import call, refused

DOG = CLASSES.index("dog") + 1
RECIPE = Recipe(optimizer=Adam(lr=1e-4), epochs=1, batch_size=1)


def _run(task, seed=0):
    return RunConfig(
        task=task,
        architecture="faster_rcnn",
        algorithm="fp32",
        method="full_precision",
        seed=seed,
        recipe=RECIPE,
        family="cnns",
        metric="map",
    )


def _network(task, outputs, seen):
    """An untrained detector that takes everything for one class."""
    torch.manual_seed(0)
    model = faster_rcnn.build(task.input_shape, outputs).eval()
    model.roi_heads.box_predictor.cls_score.bias.data[seen] = 8.0
    return model


def _store(folder, *runs):
    """A store of finished runs, from (run, network)."""
    store = Store(folder)
    store.begin({"name": "made"}, [run for run, _ in runs], {})
    for run, model in runs:
        store.folder(run.id).mkdir(parents=True)
        if model is not None:
            save_weights(store.weights(run.id), model)
        record = Record(id=run.id, run=run, status="ok", environment=None, finished="2025-01-01T00:00:00Z")
        store.commit(record, store.claims.take(run.id))
    return folder


@pytest.fixture(scope="module")
def network():
    return _network(voc07_small, 20, DOG)


@pytest.fixture(scope="module")
def results(network, tmp_path_factory):
    return _store(tmp_path_factory.mktemp("detect") / "results", (_run("voc07_small"), network))


def _picture(path, size, kind="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(kind).save(path)
    return path


def _directly(network, path, size):
    """What the network finds in an image of this size, in the pixels of the file."""
    with Image.open(path) as opened:
        original, image = opened.size, opened.convert("RGB")
    if size != original:
        image = image.resize(size, Image.Resampling.BILINEAR)
    with torch.no_grad():
        (found,) = network([to_tensor(image)])
    return found["boxes"].double().numpy() * np.tile(np.array(original) / size, 2), found["scores"].double().numpy()


@pytest.mark.parametrize(
    ("size", "seen"), [((150, 100), (150, 100)), ((400, 320), (200, 160)), ((100, 534), (50, 267)), ((1, 40), (1, 40))]
)
def test_objects_are_those_that_the_task_would_score(results, network, tmp_path, size, seen):
    path = _picture(tmp_path / "image.png", size)
    (row,) = json.loads(call("detect", results, path, "--out", tmp_path / "out", "--json").stdout)
    boxes, scores = _directly(network, path, seen)
    assert len(row["objects"]) == sum(scores >= 0.5) > 0
    assert [one["box"] for one in row["objects"]] == boxes[: len(row["objects"])].tolist()
    assert [one["score"] for one in row["objects"]] == sorted(scores[scores >= 0.5], reverse=True)
    assert {(one["class"], one["label"]) for one in row["objects"]} == {(DOG, "dog")}
    with Image.open(row["drawn"]) as drawn:
        assert (drawn.format, drawn.size) == ("JPEG", size)


def test_the_table_and_the_threshold(results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = _picture(tmp_path / "image.png", (150, 100))
    (row,) = json.loads(call("detect", results, path, "--json").stdout)
    middle = sorted(one["score"] for one in row["objects"])[-3]
    lines = call("detect", results, path, "--threshold", middle).stdout.splitlines()
    assert lines[0] == f"{path}, drawn in detections/image.jpg"
    assert lines[1].split() == ["label", "score", "left", "top", "right", "bottom"]
    assert len(lines) == 2 + 3
    assert re.fullmatch(r"dog\s+[01]\.\d\d(\s+\d+){4}", lines[2])
    assert (tmp_path / "detections" / "image.jpg").is_file()
    nothing = call("detect", results, path, "--threshold", 1).stdout
    assert nothing == f"{path}, drawn in detections/image.jpg, nothing with a score of at least 1\n"


def test_what_was_found_is_drawn_in(results, tmp_path):
    path = tmp_path / "grey.png"
    Image.new("L", (150, 100), 128).save(path)
    call("detect", results, path, "--out", tmp_path / "all")
    call("detect", results, path, "--out", tmp_path / "none", "--threshold", 1)
    some, none = (np.asarray(Image.open(tmp_path / part / "grey.jpg")).astype(int) for part in ("all", "none"))
    assert np.abs(none - 128).max() <= 1
    assert np.abs(some - 128).max() > 100


def test_images_are_never_overwritten(results, tmp_path):
    (tmp_path / "other").mkdir()
    images = [_picture(tmp_path / name, (40, 30)) for name in ("a.jpg", "a.png", "other/a.jpg", "b.png")]
    before = [path.read_bytes() for path in images]
    rows = json.loads(call("detect", results, *images, images[0], "--out", tmp_path, "--json").stdout)
    assert [row["drawn"] for row in rows] == [
        str(tmp_path / name) for name in ("a-2.jpg", "a-3.jpg", "a-4.jpg", "b.jpg", "a-5.jpg")
    ]
    assert [path.read_bytes() for path in images] == before


def test_bad_images_are_named_and_the_others_done(results, tmp_path):
    good = _picture(tmp_path / "good.png", (40, 30))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    result = call("detect", results, tmp_path / "bad.jpg", tmp_path / "none.png", good, "--out", tmp_path, status=1)
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {tmp_path / 'bad.jpg'}: cannot be read as an image")
    assert second == f"error: {tmp_path / 'none.png'}: no such file"
    assert result.stdout.startswith(f"{good}, drawn in {tmp_path / 'good.jpg'}")
    rows = json.loads(
        call("detect", results, tmp_path / "none.png", good, "--out", tmp_path, "--json", status=1).stdout
    )
    assert rows[0] == {"image": str(tmp_path / "none.png"), "error": second.removeprefix("error: ")}
    assert rows[1]["objects"]


def test_classes_of_a_part_of_the_data_are_named_by_the_data(tmp_path):
    write_voc(tmp_path / "data", names=("apple", "pear"))
    store = _store(tmp_path / "results", (_run("voc07_small"), _network(voc07_small, 2, 2)))
    path = _picture(tmp_path / "image.png", (60, 50))
    message = refused("detect", store, path, "--out", tmp_path)
    assert "its weights don't fit the 20 outputs of task 'voc07_small'" in message
    assert "give that with --data DIR (and --allow-subset)" in message
    given = ("--data", tmp_path / "data", "--allow-subset", "--json")
    (row,) = json.loads(call("detect", store, path, "--out", tmp_path, *given).stdout)
    assert {one["label"] for one in row["objects"]} == {"pear"}


def test_classes_without_names_are_numbered(tmp_path):
    store = _store(tmp_path / "results", (_run("coco17_small"), _network(coco17_small, 80, 3)))
    result = call("detect", store, _picture(tmp_path / "image.png", (60, 50)), "--out", tmp_path)
    assert result.stderr == "note: the classes have no names without the data; give them with --data DIR\n"
    assert result.stdout.splitlines()[2].startswith("class 3 ")


def test_what_cannot_detect(tmp_path):
    image = _picture(tmp_path / "image.png", (40, 30))
    digits, first, second = config("fp32"), _run("voc07_small"), _run("voc07_small", seed=1)
    both = _store(tmp_path / "both", (digits, None), (first, None), (second, None))
    message = call("detect", both, image, status=2).stderr
    assert message.startswith(f"error: {both} has 2 finished detection runs; name the folder of one:\n")
    assert digits.id not in message
    assert refused("detect", both / "runs" / digits.id, image).startswith(
        f"{digits.id}: task 'digits' has no objects to detect; give a run of a detection task"
    )
    assert "model.safetensors is missing" in refused("detect", both / "runs" / first.id, image)
    one = _store(tmp_path / "one", (digits, None))
    assert refused("detect", one, image).startswith(f"{one}: no detection run is finished here")
    assert "not the folder of a finished run" in refused("detect", tmp_path, image)
