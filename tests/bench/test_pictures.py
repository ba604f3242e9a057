"""Pictures in a run's folder: what is kept, by whom, and what of somebody else's is refused."""

import dataclasses
import io
import json
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from bibench import registry
from bibench.bench import worker
from bibench.bench.pictures import read_pictures, write_pictures
from bibench.bench.store import Store
from bibench.bench.worker import Settings, execute
from bibench.recipes import SGD
from bibench.records import StoredPictures
from bibench.tasks.base import Picture, PicturePair
from bibench.tasks.digits import digits
from small_runs import ADAM_RECIPE, SGD_RECIPE, config

SHORT = dataclasses.replace(ADAM_RECIPE, epochs=1)


def _pair(number=0, size=(60, 40), mode="RGB"):
    truth = Picture(image=Image.new(mode, size), text=f"truth {number}")
    found = Picture(image=Image.new(mode, size), text=f"found {number}")
    return PicturePair(title=f"test image {number}", truth=truth, found=found)


def _image(content):
    with Image.open(io.BytesIO(content)) as opened:
        opened.load()
        return opened


def test_what_is_written_is_read(tmp_path):
    gradient = Image.fromarray(np.tile(np.arange(0, 256, 2, dtype=np.uint8)[:, None, None], (1, 90, 3)))
    pair = dataclasses.replace(_pair(1), found=Picture(image=gradient, text="a gradient"))
    write_pictures(tmp_path, [_pair(), pair])
    stored = read_pictures(tmp_path)
    assert stored.problem == ""
    assert [own.title for own in stored.pairs] == ["test image 0", "test image 1"]
    assert [own.truth.text for own in stored.pairs] == ["truth 0", "truth 1"]
    assert [own.found.text for own in stored.pairs] == ["found 0", "a gradient"]
    shown = _image(stored.pairs[1].found.jpeg)
    assert (shown.format, shown.size) == ("JPEG", (90, 128))
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(gradient)).max() < 8
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == [
        "0-found.jpg",
        "0-truth.jpg",
        "1-found.jpg",
        "1-truth.jpg",
        "texts.json",
    ]


def test_none_were_kept(tmp_path):
    assert read_pictures(tmp_path) == StoredPictures()
    write_pictures(tmp_path, [])
    assert read_pictures(tmp_path) == StoredPictures()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "I;16", "CMYK"])
def test_pictures_of_any_kind_become_small(tmp_path, mode):
    write_pictures(tmp_path, [_pair(size=(1000, 400), mode=mode)])
    (pair,) = read_pictures(tmp_path).pairs
    assert _image(pair.truth.jpeg).size == (320, 128)
    assert sum(path.stat().st_size for path in (tmp_path / "pictures").iterdir()) < 50_000


def test_an_attempt_that_was_interrupted_leaves_nothing(tmp_path):
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / ".0-found.jpg.123.tmp").write_bytes(b"half")
    (tmp_path / "pictures" / "0-found.jpg").write_bytes(b"older")
    write_pictures(tmp_path, [_pair()])
    assert len(read_pictures(tmp_path).pairs) == 1
    assert not list((tmp_path / "pictures").glob(".*"))


# ---- somebody else's


def _jpeg(size=(8, 8), kind="JPEG", **settings):
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, kind, **settings)
    return buffer.getvalue()


def _claiming(width, height):
    """A small file whose head says that it is large."""
    content = bytearray(_jpeg())
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = height.to_bytes(2, "big") + width.to_bytes(2, "big")
    return bytes(content)


def _link(path):
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


def _replaced(content):
    return lambda path: path.write_bytes(content)


def _of_length(length):
    return lambda path: os.truncate(path, length)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("0-found.jpg", lambda path: path.unlink(), "missing, or no regular file"),
        ("0-found.jpg", _link, "missing, or no regular file"),
        ("0-found.jpg", lambda path: (path.unlink(), os.mkfifo(path)), "missing, or no regular file"),
        ("0-truth.jpg", _of_length(200), "cannot be read as JPEG"),
        ("0-truth.jpg", _of_length(0), "cannot be read as JPEG"),
        ("0-truth.jpg", _of_length((1 << 20) + 1), "1,048,577 bytes, expected at most 1,048,576"),
        ("0-truth.jpg", _replaced(_jpeg(kind="PNG")), "cannot be read as JPEG"),
        ("0-truth.jpg", _replaced(_jpeg((321, 8))), "321 x 8 pixels, expected at most 320"),
        ("0-truth.jpg", _replaced(_claiming(9_000, 9_000)), "9000 x 9000 pixels, expected at most 320"),
        ("0-truth.jpg", _replaced(_claiming(65_500, 65_500)), "cannot be read as JPEG"),
        ("texts.json", lambda path: path.unlink(), "missing, or no regular file"),
        ("texts.json", _link, "missing, or no regular file"),
        ("texts.json", _of_length((1 << 20) + 1), "1,048,577 bytes, expected at most"),
        ("texts.json", _replaced(b"["), "Invalid JSON"),
        ("texts.json", _replaced(b"\xff"), "Invalid JSON"),
        ("texts.json", _replaced(b"[" * 100_000), "Invalid JSON"),
        ("texts.json", _replaced(b'[{"title": 1, "truth": "", "found": ""}]'), "0.title: Input should be a valid str"),
        ("texts.json", _replaced(b'[{"title": "", "truth": "", "found": "", "x": 1}]'), "0.x: Extra inputs"),
        ("texts.json", _replaced(b"[{}]"), "0.title: Field required"),
        (
            "texts.json",
            _replaced(json.dumps([{"title": "t" * 201, "truth": "", "found": ""}]).encode()),
            "0.title: String should have at most 200",
        ),
        (
            "texts.json",
            _replaced(json.dumps([{"title": "", "truth": "", "found": ""}] * 17).encode()),
            "List should have at most 16",
        ),
    ],
)
def test_what_is_no_picture_of_a_run_is_refused_with_its_file(tmp_path, name, damage, message):
    write_pictures(tmp_path, [_pair()])
    path = tmp_path / "pictures" / name
    damage(path)
    stored = read_pictures(tmp_path)
    assert stored.pairs == ()
    assert stored.problem.startswith(f"{path}: ")
    assert message in stored.problem


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    write_pictures(tmp_path / "elsewhere", [_pair()])
    (tmp_path / "pictures").symlink_to(tmp_path / "elsewhere" / "pictures")
    assert "missing, or no regular file" in read_pictures(tmp_path).problem
    (tmp_path / "pictures").unlink()
    (tmp_path / "pictures").symlink_to(tmp_path / "nowhere")
    assert "missing, or no regular file" in read_pictures(tmp_path).problem
    (tmp_path / "pictures").unlink()
    (tmp_path / "pictures").write_text("a file")
    assert "missing, or no regular file" in read_pictures(tmp_path).problem


def test_nothing_of_a_file_but_its_pixels_is_passed_on(tmp_path):
    write_pictures(tmp_path, [_pair()])
    path = tmp_path / "pictures" / "0-found.jpg"
    path.write_bytes(_jpeg(comment=b"<script>alert(1)</script>") + b"<script>")
    assert b"<script>" in path.read_bytes()
    (pair,) = read_pictures(tmp_path).pairs
    assert b"<script>" not in pair.found.jpeg


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_pictures_are_shown_or_refused(tmp_path, data):
    content = bytearray(_jpeg((40, 30), comment=b"c", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"))
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    write_pictures(tmp_path, [_pair()])
    (tmp_path / "pictures" / "0-truth.jpg").write_bytes(content)
    stored = read_pictures(tmp_path)
    assert bool(stored.pairs) != bool(stored.problem)


# ---- runs


@pytest.fixture
def place(tmp_path):
    worker.load_data.cache_clear()
    yield Settings(out=tmp_path / "store")
    worker.load_data.cache_clear()


def _seen(monkeypatch, pictures):
    """Let the digits have pictures."""
    task, get = dataclasses.replace(digits, pictures=pictures), registry.get
    monkeypatch.setattr(registry, "get", lambda kind, name: task if name == "digits" else get(kind, name))


def test_a_finished_main_run_keeps_pictures_of_its_network(place, monkeypatch):
    calls = []

    def pictures(model, data):
        calls.append((model.training, torch.is_grad_enabled(), len(data.test)))
        inputs, _ = next(data.test.batches(1, device=torch.device("cpu")))
        text = str(int(model(inputs).argmax()))
        return [dataclasses.replace(_pair(), found=Picture(image=Image.new("L", (9, 9)), text=text))]

    _seen(monkeypatch, pictures)
    run = config("bnn", SHORT)
    assert execute(run, place).status == "ok"
    store = Store(place.out)
    (pair,) = store.pictures(run.id).pairs
    assert calls == [(False, False, 360)]
    assert store.predictions(run.id)[0] == (pair.found.text == str(int(digits.load(None, False).test.labels[0])))
    execute(run, place)
    assert len(calls) == 1  # a finished run isn't touched
    assert store.records()[0].status == "ok"


@pytest.mark.parametrize(
    "run",
    [
        config("bnn", SHORT, main=False, setting="adam-1x-cosine"),
        config("fp32", dataclasses.replace(SGD_RECIPE, optimizer=SGD(lr=1e9))),
    ],
)
def test_parts_of_grids_and_failed_runs_keep_none(place, monkeypatch, run):
    _seen(monkeypatch, lambda model, data: [_pair()])
    execute(run, place)
    store = Store(place.out)
    assert store.record(run.id) is not None
    assert store.pictures(run.id) == StoredPictures()


def test_a_task_without_pictures_has_no_folder_for_them(place):
    run = config("bnn", SHORT)
    assert execute(run, place).status == "ok"
    assert not (Store(place.out).folder(run.id) / "pictures").exists()


def test_pictures_are_there_before_the_record(place, monkeypatch):
    """So a run that is finished has them, and one that was interrupted makes them again."""
    _seen(monkeypatch, lambda model, data: [_pair()])
    seen = []
    monkeypatch.setattr(Store, "commit", lambda store, record, claim: seen.append(store.pictures(record.id)))
    execute(config("bnn", SHORT), place)
    assert [len(own.pairs) for own in seen] == [1]
