"""COCO: files made here in the data set's layout (the whole set is untested), damaged ones, and 100 real images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO

from bibench import registry
from bibench.tasks import coco as module
from bibench.tasks.base import DataError
from bibench.tasks.coco import coco17, coco17_small
from detection_data import CATEGORIES, instances, save_picture, write_coco, write_instances

CPU = torch.device("cpu")
TRAIN, VAL = "instances_train2017.json", "instances_val2017.json"


@pytest.fixture
def folder(tmp_path):
    return write_coco(tmp_path)


def _all(split, **options):
    return list(replace(split, workers=0).batches(8, device=CPU, **options))


def change(folder, half, edit):
    """Rewrite an instances file."""
    path = folder / "annotations" / f"instances_{half}2017.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def test_images_and_boxes_are_read_by_ascending_id(folder):
    data = coco17.load(folder, True)
    assert (len(data.train), len(data.test), data.outputs) == (3, 2, 3)
    assert data.labels == ("person", "cat", "toothbrush")  # the ids are 1, 17 and 90
    (batch,) = _all(data.train)
    assert batch.originals.tolist() == [[50, 60], [50, 70], [50, 80]]
    assert batch.labels.tolist() == [[1, 2]] * 3
    assert batch.boxes.tolist() == [[[4.5, 10.25, 19.5, 40.25], [24.5, 10.25, 39.5, 40.25]]] * 3
    assert batch.areas.tolist() == [[225.5, 225.5]] * 3
    assert not batch.ignored.any()
    red = batch.images[0, :, 12:38, 6:18]
    assert (red[0].min() > 0.9) & (red[1:].max() < 0.1)
    (note,) = data.notes
    assert note == "3 of 80 categories, 3 of 118,287 training and 2 of 5,000 test images"


def test_annotations_go_to_their_images_whatever_their_order(folder):
    def edit(content):
        for entry in content["annotations"]:
            entry["area"] = entry["id"]  # tens are the image's id
        content["annotations"] = content["annotations"][::2] + content["annotations"][::-2]

    change(folder, "train", edit)
    objects = coco17.load(folder, True).train.objects
    assert [objects.areas[objects.of(number)].tolist() for number in range(3)] == [[90, 91], [100, 101], [110, 111]]


@pytest.mark.parametrize("name", ["coco", "coco17", "coco128"])
def test_a_folder_of_data_sets_can_be_named(folder, tmp_path, name):
    whole = coco17.load(folder, True).fingerprint
    (tmp_path / name).mkdir()
    for part in ("annotations", "train2017", "val2017"):
        (tmp_path / part).rename(tmp_path / name / part)
    assert coco17.load(tmp_path, True).fingerprint == whole


def test_the_whole_needs_no_note(folder, monkeypatch):
    with pytest.raises(DataError, match=r"has 3 of 80 categories, .*--allow-subset(.|\n)*instances_val2017.json"):
        coco17.load(folder, False)
    for name, value in (("_CATEGORIES", 3), ("_TRAIN", 3), ("_TEST", 2)):
        monkeypatch.setattr(module, name, value)
    assert coco17.load(folder, False).notes == ()


def test_every_fifth_image_is_the_test_where_there_is_none(tmp_path):
    folder = write_coco(tmp_path, train=11, test=0)
    with pytest.raises(DataError, match=r"instances_val2017.json: cannot be read as JSON"):
        coco17.load(folder, False)
    data = coco17.load(folder, True)
    assert [name[-6:] for name in data.test.objects.names.tolist()] == [b"13.jpg", b"18.jpg"]
    assert len(data.train) == 9
    assert "no instances_val2017.json: every fifth training image, by ascending id, is the test" in data.notes[0]


def test_crowds_are_ignored_and_keep_their_area(folder):
    def edit(content):
        content["annotations"][0] |= {"iscrowd": 1, "area": 77.5, "segmentation": {"counts": [1, 2], "size": [50, 100]}}
        del content["annotations"][1]["iscrowd"]

    change(folder, "val", edit)
    (batch,) = _all(coco17.load(folder, True).test)
    assert batch.ignored.tolist() == [[False, False], [True, False]]
    assert batch.areas[1].tolist() == [77.5, 225.5]


def test_the_trivial_score_is_that_of_the_evaluation(folder):
    data = coco17_small.load(folder, True)
    train = data.train.objects
    own = train.labels == 1
    mean = torch.from_numpy((train.boxes[own] / np.tile(train.sizes[train.image[own], ::-1], 2)).mean(axis=0)).float()

    def constant(images):
        return [
            {
                "boxes": mean[None] * torch.tensor([image.shape[2], image.shape[1]] * 2),
                "labels": torch.tensor([1]),
                "scores": torch.ones(1),
            }
            for image in images
        ]

    score = coco17_small.evaluate(constant, _all(data.test)).figures["map"]
    assert score > 0
    assert data.trivial.value == pytest.approx(score, abs=1e-9)
    assert data.trivial.answer == "the mean box of the commonest class (person) on every image"


def test_missing_images_are_refused_or_left_out_and_counted(folder):
    (folder / "train2017" / "000000000010.jpg").unlink()
    message = rf"listed images missing: 1, such as train2017/000000000010.jpg \({TRAIN}, image 10\)"
    with pytest.raises(DataError, match=f"{message}; .*--allow-subset"):
        coco17.load(folder, False)
    data = coco17.load(folder, True)
    assert (len(data.train), len(data.test)) == (2, 2)
    assert data.notes[0].startswith(
        "3 of 80 categories, 2 of 118,287 training and 2 of 5,000 test images; listed images"
    )
    (batch,) = _all(data.train)
    assert batch.originals.tolist() == [[50, 60], [50, 80]]
    assert batch.labels.tolist() == [[1, 2]] * 2


@pytest.mark.parametrize(
    ("box", "note"),
    [
        ([5, 5, 0, 9], "boxes empty, reversed or outside their image, left out: 1"),
        ([5, 5, 9, -3], "boxes empty, reversed or outside their image, left out: 1"),
        ([100, 5, 9, 9], "boxes empty, reversed or outside their image, left out: 1"),
        ([-20, 5, 20, 9], "boxes empty, reversed or outside their image, left out: 1"),
        ([70, 5, 20, 9], "boxes partly outside their image (cut in training): 1"),
        ([-3, -2.5, 20, 9], "boxes partly outside their image (cut in training): 1"),
    ],
)
def test_boxes_that_are_none_are_counted_with_the_id(folder, box, note):
    change(folder, "train", lambda content: content["annotations"][1].update(bbox=box))
    data = coco17.load(folder, True)
    assert data.notes[0].endswith(f"; {note}, such as {TRAIN}, annotation 111")
    own = data.train.objects.boxes[data.train.objects.of(2)]
    assert len(own) == 1 + ("partly" in note)
    assert (own >= 0).all()
    assert (own <= [80, 50, 80, 50]).all()


def test_annotations_are_named_right_beside_missing_images(folder):
    for half, number in (("train", 9), ("val", 13)):
        (folder / f"{half}2017" / f"{number:012d}.jpg").unlink()
    change(folder, "val", lambda content: content["annotations"][3].update(bbox=[5, 5, 0, 9]))
    assert coco17.load(folder, True).notes[0].endswith(f"left out: 1, such as {VAL}, annotation 121")


def test_test_boxes_stay_as_they_are_annotated(folder):
    change(folder, "val", lambda content: content["annotations"][1].update(bbox=[-3, -2.5, 20, 9]))
    data = coco17.load(folder, True)
    assert data.notes[0].endswith(f"(cut in training): 1, such as {VAL}, annotation 131")
    assert _all(data.test)[0].boxes[1, 1].tolist() == [-3, -2.5, 17, 6.5]


def test_images_without_objects(folder):
    def edit(content):
        content["annotations"] = content["annotations"][2:]

    for half in ("train", "val"):
        change(folder, half, edit)
    data = coco17.load(folder, True)
    assert (len(data.train), len(data.test)) == (2, 2)
    assert data.notes[0].endswith("training images without an object that counts, left out: 1")


def test_an_annotation_of_another_size_is_counted(folder):
    change(folder, "val", lambda content: content["images"][1].update(width=50, height=90))
    note = "images of another size than annotated (the file's counts): 1, such as val2017/000000000012.jpg"
    assert coco17.load(folder, True).notes[0].endswith(note)


def _first(key, **changes):
    return lambda content: content[key][0].update(changes)


def _without(key, field):
    return lambda content: content[key][0].pop(field)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_first("annotations", bbox=[1, 2, float("nan"), 4]), "annotation 110: 'bbox' is .*nan.*, expected left, top"),
        (_first("annotations", bbox=[1, 2, float("inf"), 4]), "annotation 110: 'bbox' is .*inf.*, expected left, top"),
        (_first("annotations", bbox=[1, 2, 10**400, 4]), "annotation 110: 'bbox' is .*, expected left, top"),
        (_first("annotations", bbox=[1, 2, 3]), r"annotation 110: 'bbox' is \[1, 2, 3\], expected left, top"),
        (_first("annotations", bbox=[1, 2, 3, "4"]), "annotation 110: 'bbox' is .*, expected left, top"),
        (_first("annotations", bbox=[1, 2, 3, True]), "annotation 110: 'bbox' is .*, expected left, top"),
        (_first("annotations", bbox={"x": 1}), "annotation 110: 'bbox' is .*, expected left, top"),
        (_without("annotations", "bbox"), "annotation 110: 'bbox' is None, expected left, top"),
        (_first("annotations", area="12"), "annotation 110: 'area' is '12', expected a number of pixels"),
        (_first("annotations", area=-1), "annotation 110: 'area' is -1, expected a number of pixels"),
        (_first("annotations", area=float("nan")), "annotation 110: 'area' is nan, expected a number of pixels"),
        (_first("annotations", iscrowd=2), "annotation 110: 'iscrowd' is 2, expected 0 or 1"),
        (_first("annotations", iscrowd="0"), "annotation 110: 'iscrowd' is '0', expected 0 or 1"),
        (_first("annotations", category_id=2), "annotation 110: category 2 is not in the file"),
        (_first("annotations", category_id=91), "annotation 110: category 91 is not in the file"),
        (_first("annotations", category_id=1.0), "annotation 110: 'category_id' is 1.0, expected a whole number"),
        (_first("annotations", image_id=13), "annotation 110: image 13 is not in the file"),
        (_first("annotations", image_id=None), "annotation 110: 'image_id' is None, expected a whole number"),
        (_first("annotations", id="x"), "annotation at position 1: 'id' is 'x', expected a whole number"),
        (_first("annotations", id=-4), "annotation at position 1: 'id' is -4, expected a whole number"),
        (_first("annotations", id=2**63), "annotation at position 1: 'id' is 9223372036854775808, expected a whole"),
        (_first("annotations", id=90), "annotation 90: the id is there twice, again at position 5"),
        (_first("images", id=9), "image 9: the id is there twice, again at position 3"),
        (_first("images", id=True), "image at position 1: 'id' is True, expected a whole number"),
        (_without("images", "id"), "image at position 1: 'id' is None, expected a whole number"),
        (_first("images", file_name=3), "image 11: 'file_name' is 3, expected a file's name"),
        (_first("images", file_name="../val2017/000000000012.jpg"), "image 11: '../val2017/.*without folders"),
        (_first("images", file_name="/etc/passwd"), "image 11: '/etc/passwd', expected a file's name without folders"),
        (_first("images", width="80"), "image 11: 'width' is '80', expected a whole number of pixels"),
        (_first("images", height=None), "image 11: 'height' is None, expected a whole number of pixels"),
        (_first("categories", id=1), "category 1: the id is there twice, again at position 2"),
        (_first("categories", name=None), "category 90: 'name' is None, expected a category's name"),
        (lambda content: content["annotations"].insert(1, [3]), r"annotation at position 2: \[3\], expected an object"),
        (lambda content: content["images"].insert(0, None), "image at position 1: None, expected an object"),
        (lambda content: content.pop("images"), "no list 'images'; expected an object with images"),
        (lambda content: content.update(annotations={}), "no list 'annotations'; expected"),
        (lambda content: content.update(categories="all"), "no list 'categories'; expected"),
    ],
)
def test_damaged_entries_are_named_with_the_id(folder, edit, message):
    change(folder, "train", edit)
    with pytest.raises(DataError, match=f"{TRAIN}(, |: ){message}"):
        coco17.load(folder, True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"images": [\n{"id": 1,}\n]}', ", line 2, column .*: no JSON: "),
        (b'{"images": [\n\n{"id": 1', ", line 3, column .*: no JSON: "),
        (b"", ", line 1, column 1: no JSON: "),
        (b"[1, 2]", ": no list 'images'; expected an object"),
        (b"\xff\xfe", ": cannot be read as JSON: .*utf-8"),
        (b"[" * 200_000, ": cannot be read as JSON: "),
    ],
)
def test_files_that_are_no_json_are_named_with_the_line(folder, content, message):
    (folder / "annotations" / VAL).write_bytes(content)
    with pytest.raises(DataError, match=f"{VAL}{message}"):
        coco17.load(folder, True)


def test_halves_have_the_same_categories_and_no_image_in_common(folder):
    write_instances(folder, "val", instances([(12, 90, 50)], [*CATEGORIES[:2], {"id": 17, "name": "dog"}]))
    with pytest.raises(DataError, match=rf"{VAL}: other categories than {TRAIN}, such as '(cat|dog)' with the id 17"):
        coco17.load(folder, True)
    write_instances(folder, "val", instances([(11, 90, 50), (12, 90, 50)]))
    with pytest.raises(DataError, match=rf"{VAL}, image 11: it is in {TRAIN} too"):
        coco17.load(folder, True)


def test_truncated_images_are_named(folder):
    path = folder / "val2017" / "000000000012.jpg"
    path.write_bytes(path.read_bytes()[:-200])
    data = coco17.load(folder, True)
    with pytest.raises(DataError, match=r"000000000012\.jpg: cannot be read as an image"):
        _all(data.test)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"000000000012\.jpg: cannot be read as an image"):
        coco17.load(folder, True)


def test_one_pixel(folder):
    save_picture(folder / "train2017" / "000000000009.jpg", 1, 1, [])

    def edit(content):
        content["images"][2].update(width=1, height=1)
        for entry in content["annotations"]:
            if entry["image_id"] == 9:
                entry["bbox"] = [0, 0, 1, 1]

    change(folder, "train", edit)
    objects = coco17.load(folder, True).train.objects
    assert objects.boxes[objects.of(0)].tolist() == [[0, 0, 1, 1]] * 2


def test_other_folders_are_explained(tmp_path, folder):
    with pytest.raises(DataError, match=r"--data DIR(.|\n)*instances_train2017.json"):
        coco17.load(None, False)
    with pytest.raises(DataError, match=r"no such folder(.|\n)*instances_train2017.json"):
        coco17.load(tmp_path / "none", False)
    with pytest.raises(DataError, match=r"no COCO 2017 in .*(.|\n)*instances_train2017.json"):
        coco17.load(tmp_path / "train2017", False)
    (folder / "val2017").rename(folder / "val")
    with pytest.raises(DataError, match=r"val2017: No such file or directory; expected in the folder"):
        coco17.load(folder, True)


@pytest.mark.parametrize(("task", "sides"), [(coco17, (800, 1_333)), (coco17_small, (160, 267))])
def test_tasks(task, sides):
    assert task.input_shape == (3, *sides)
    assert task.load.keywords == {"name": task.name, "short": sides[0], "long": sides[1]}
    assert registry.get("tasks", task.name) is task
    assert task.full_precision == task.binarized
    assert (task.full_precision.epochs, task.full_precision.optimizer.lr) == (12, 1e-4)
    assert task.example().shape == (2, 3, task.input_shape[2], task.input_shape[2])


def test_real_images(real_data):
    data = coco17.load(real_data / "coco128", True)
    assert (len(data.train), len(data.test), data.outputs) == (78, 20, 80)
    assert data.labels[0] == "person"
    assert data.labels[79] == "toothbrush"
    (note,) = data.notes
    assert note.startswith("80 of 80 categories, 80 of 118,287 training and 20 of 5,000 test images; no instances_val")
    assert note.endswith("without an object that counts, left out: 2")
    both = (data.train.objects, data.test.objects)
    assert sum(len(half.labels) for half in both) == 774
    assert sum(half.ignored.sum() for half in both) == 8
    assert data.fingerprint == coco17.load(real_data, True).fingerprint
    batch = next(replace(coco17_small.load(real_data, True).train, workers=0).batches(8, device=CPU, seed=0))
    assert batch.images.shape[2:] <= (267, 267)
    assert (batch.boxes <= batch.originals.flip(1).repeat(1, 2)[:, None]).all()


def test_real_boxes_are_pycocotools_own(real_data):
    """Image by image against the reference's reader."""
    coco = COCO(real_data / "coco128" / "annotations" / TRAIN)
    data = coco17.load(real_data, True)
    label = {number: place for place, number in enumerate(sorted(coco.getCatIds()), 1)}
    for split in (data.train, data.test):
        for number, truth in enumerate(split.objects.truths()):
            image = int(split.objects.path(number).stem)
            entries = coco.loadAnns(coco.getAnnIds(imgIds=[image]))
            expected = np.array([entry["bbox"] for entry in entries]).reshape(-1, 4)
            expected[:, 2:] += expected[:, :2]
            np.testing.assert_allclose(truth.boxes, expected, rtol=1e-6, atol=1e-4)
            assert truth.labels.tolist() == [label[entry["category_id"]] for entry in entries]
            assert truth.ignored.tolist() == [bool(entry["iscrowd"]) for entry in entries]
            np.testing.assert_allclose(truth.areas, [entry["area"] for entry in entries], rtol=1e-6)
