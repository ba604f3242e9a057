"""Pascal VOC: files made here in the challenge's layout (the real ones are untested), damaged ones, and BCCD's."""

import re
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from bibench import registry
from bibench.tasks import voc as module
from bibench.tasks.base import DataError
from bibench.tasks.voc import CLASSES, voc07, voc07_small, voc0712
from detection_data import FIRST_OBJECT, OBJECT_LINES, write_voc, xml

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    return write_voc(tmp_path)


def _all(split, **options):
    return list(replace(split, workers=0).batches(2, device=CPU, **options))


def test_the_classes_are_the_challenge_s():
    assert len(CLASSES) == 20
    assert list(CLASSES) == sorted(CLASSES)
    assert (CLASSES[0], CLASSES[14], CLASSES[19]) == ("aeroplane", "person", "tvmonitor")


def test_lists_images_and_boxes_are_read(folder, tmp_path):
    data = voc07.load(tmp_path, True)
    assert (len(data.train), len(data.test), data.outputs, data.labels) == (3, 2, 20, CLASSES)
    (batch,) = _all(data.test)
    assert batch.originals.tolist() == [[50, 90], [50, 100]]
    cat, dog = CLASSES.index("cat") + 1, CLASSES.index("dog") + 1
    assert batch.labels.tolist() == [[cat, dog]] * 2
    # 1-based and inclusive: columns 5 to 20 are the edges 4 and 20.
    assert batch.boxes.tolist() == [[[4, 10, 20, 40], [24, 10, 40, 40]]] * 2
    assert batch.areas.tolist() == [[480, 480]] * 2
    assert not batch.ignored.any()
    red = batch.images[0, :, 12:38, 6:18]
    assert (red[0].min() > 0.9) & (red[1:].max() < 0.1)
    (note,) = data.notes
    assert note == "3 of 5,011 training and 2 of 4,952 test images"


def test_intersection_over_union_is_the_challenge_s(folder, tmp_path):
    """Its kit counts pixels: a box from 5 to 20 is 16 wide."""
    corners = np.random.default_rng(0).integers(1, 50, (60, 2, 2))
    corners.sort(axis=1)
    corners[:, 1] += 1  # so that none is empty
    boxes = corners.reshape(-1, 4)
    (folder / "Annotations" / "000003.xml").write_text(xml(90, 50, [("cat", 0, *box) for box in boxes.tolist()]))
    objects = voc07.load(tmp_path, True).test.objects
    edges = torch.from_numpy(objects.boxes[objects.of(0)])
    pixels = np.zeros((len(boxes), 60, 60), dtype=bool)
    for drawn, (left, top, right, bottom) in zip(pixels, boxes, strict=True):
        drawn[top : bottom + 1, left : right + 1] = True
    flat = pixels.reshape(len(boxes), -1).astype(np.float64)
    common = flat @ flat.T
    sums = flat.sum(axis=1)[:, None] + flat.sum(axis=1)
    np.testing.assert_allclose(box_iou(edges, edges).numpy(), common / (sums - common), rtol=1e-6)


@pytest.mark.parametrize("place", ["", "VOCdevkit", "VOCdevkit/VOC2007"])
def test_every_folder_on_the_way_can_be_named(folder, tmp_path, place, monkeypatch):
    whole = voc07.load(tmp_path, True).fingerprint
    assert voc07.load(tmp_path / place, True).fingerprint == whole
    monkeypatch.chdir(tmp_path / place)
    assert voc07.load(type(tmp_path)("."), True).fingerprint == whole


@pytest.mark.parametrize("name", ["voc", "BCCD"])
def test_a_folder_of_data_sets_can_be_named(folder, tmp_path, name):
    whole = voc07.load(tmp_path, True).fingerprint
    (tmp_path / name).mkdir()
    (tmp_path / "VOCdevkit").rename(tmp_path / name / "VOCdevkit")
    assert voc07.load(tmp_path, True).fingerprint == whole


def test_both_years(folder, tmp_path):
    with pytest.raises(DataError, match=r"VOC2012/ImageSets/Main/trainval.txt: cannot be read(.|\n)*VOC2012/"):
        voc0712.load(tmp_path, True)
    write_voc(tmp_path, train=4, test=0, year="2012", names=("dog",), first=1)  # names that 2007 has too
    data = voc0712.load(tmp_path, True)
    assert (len(data.train), len(data.test)) == (7, 2)
    assert data.notes == ("7 of 16,551 training and 2 of 4,952 test images",)
    assert "commonest class (dog)" in data.trivial.answer
    assert len(voc07.load(tmp_path, True).train) == 3
    labels = [batch.labels for batch in _all(data.train)]
    assert sum(int((label > 0).sum()) for label in labels) == 3 * 2 + 4


def test_the_whole_needs_no_note(folder, tmp_path, monkeypatch):
    with pytest.raises(DataError, match=r"has 3 of 5,011 training .*--allow-subset(.|\n)*VOCdevkit/VOC2007"):
        voc07.load(tmp_path, False)
    monkeypatch.setattr(module, "_TRAIN", {"2007": 3})
    monkeypatch.setattr(module, "_TEST", 2)
    assert voc07.load(tmp_path, False).notes == ()


def test_the_trivial_score_is_that_of_the_evaluation(folder, tmp_path):
    """The evaluation of a model that finds the mean box everywhere, in images that are scaled down."""
    load = partial(voc07.load.func, **voc07.load.keywords | {"short": 20, "long": 60})
    data = load(tmp_path, True)
    train = data.train.objects
    own = train.labels == CLASSES.index("cat") + 1
    mean = torch.from_numpy((train.boxes[own] / np.tile(train.sizes[train.image[own], ::-1], 2)).mean(axis=0)).float()

    def constant(images):
        return [
            {
                "boxes": mean[None] * torch.tensor([image.shape[2], image.shape[1]] * 2),
                "labels": torch.tensor([CLASSES.index("cat") + 1]),
                "scores": torch.ones(1),
            }
            for image in images
        ]

    score = voc07.evaluate(constant, _all(data.test)).figures["map"]
    assert score > 0
    assert data.trivial.value == pytest.approx(score, abs=1e-9)
    assert data.trivial.answer == "the mean box of the commonest class (cat) on every image"


def test_difficult_objects_are_ignored(folder, tmp_path):
    path = folder / "Annotations" / "000003.xml"
    path.write_text(xml(90, 50, [("cat", 1, 5, 11, 20, 40), ("dog", 0, 25, 11, 40, 40)]))
    (folder / "Annotations" / "000000.xml").write_text(xml(60, 50, [("cat", 1, 5, 11, 20, 40)]))
    data = voc07.load(tmp_path, True)
    (batch,) = _all(data.test)
    assert batch.ignored.tolist() == [[True, False], [False, False]]
    assert len(data.train) == 2
    assert data.notes[0].endswith("training images without an object that counts, left out: 1")


def test_difficult_may_be_absent_and_parts_are_no_objects(folder, tmp_path):
    path = folder / "Annotations" / "000003.xml"
    part = "<part><name>head</name><bndbox><xmin>1</xmin></bndbox></part>"
    text = path.read_text().replace("<difficult>0</difficult>\n", "").replace("</bndbox>", f"</bndbox>{part}")
    path.write_text(text)
    (batch,) = _all(voc07.load(tmp_path, True).test)
    assert batch.boxes.tolist() == [[[4, 10, 20, 40], [24, 10, 40, 40]]] * 2
    assert not batch.ignored.any()


def test_own_classes_where_none_is_the_challenge_s(tmp_path):
    folder = write_voc(tmp_path, names=("newt", "axolotl"))
    data = voc07.load(tmp_path, True)
    assert (data.outputs, data.labels) == (2, ("axolotl", "newt"))
    assert data.notes[0].startswith("not Pascal VOC's classes but the files' own: axolotl, newt; 3 of 5,011 training")
    assert _all(data.test)[0].labels.tolist() == [[2, 1]] * 2
    path = folder / "Annotations" / "000004.xml"
    path.write_text(path.read_text().replace("axolotl", "cat"))
    line = FIRST_OBJECT + 1
    with pytest.raises(DataError, match=rf"000000\.xml, line {line}: class 'newt', expected one of aeroplane, .*"):
        voc07.load(tmp_path, True)


def test_other_classes_are_refused_without_allow_subset(tmp_path, monkeypatch):
    write_voc(tmp_path, names=("newt",))
    monkeypatch.setattr(module, "_TRAIN", {"2007": 3})
    monkeypatch.setattr(module, "_TEST", 2)
    with pytest.raises(DataError, match=r"000000\.xml, line 8: class 'newt', expected one of .*--allow-subset also"):
        voc07.load(tmp_path, False)


@pytest.mark.parametrize("name", ["JPEGImages/000001.jpg", "Annotations/000001.xml"])
def test_missing_files_are_refused_or_left_out_and_counted(folder, tmp_path, name, monkeypatch):
    (folder / name).unlink()
    message = rf"listed files missing: 1, such as VOC2007/{name} \(VOC2007/ImageSets/Main/trainval.txt, line 2\)"
    with pytest.raises(DataError, match=rf"VOCdevkit: {message}; .*--allow-subset"):
        voc07.load(tmp_path, False)
    data = voc07.load(tmp_path, True)
    assert (len(data.train), len(data.test)) == (2, 2)
    assert data.notes[0].startswith("2 of 5,011 training and 2 of 4,952 test images; listed files missing: 1, such as")


@pytest.mark.parametrize(
    ("objects", "note"),
    [
        ([("cat", 0, 9, 9, 9, 20)], "boxes empty, reversed or outside their image, left out: 1"),
        ([("cat", 0, 20, 9, 9, 20)], "boxes empty, reversed or outside their image, left out: 1"),
        ([("cat", 0, 71, 9, 80, 20)], "boxes empty, reversed or outside their image, left out: 1"),
        ([("cat", 0, -9, -9, 0, 20)], "boxes empty, reversed or outside their image, left out: 1"),
        ([("cat", 0, 60, 9, 80, 20)], r"boxes partly outside their image \(cut in training\): 1"),
        ([("cat", 0, 0, 1, 20, 20)], r"boxes partly outside their image \(cut in training\): 1"),
    ],
)
def test_boxes_that_are_none_are_counted_with_file_and_line(folder, tmp_path, objects, note):
    good = ("dog", 0, 1, 1, 70, 50)
    (folder / "Annotations" / "000001.xml").write_text(xml(70, 50, [good, *objects]))
    line = FIRST_OBJECT + OBJECT_LINES
    data = voc07.load(tmp_path, True)
    assert re.search(rf"; {note}, such as VOC2007/Annotations/000001\.xml, line {line}$", *data.notes)
    cut = "partly" in note
    own = data.train.objects.boxes[data.train.objects.of(1)]
    assert own[0].tolist() == [0, 0, 70, 50]
    assert len(own) == 1 + cut
    assert (own >= 0).all()
    assert (own <= [70, 50, 70, 50]).all()


def test_an_annotation_of_another_size_is_counted(folder, tmp_path):
    (folder / "Annotations" / "000001.xml").write_text(xml(50, 70, [("cat", 0, 55, 1, 70, 50)]))
    data = voc07.load(tmp_path, True)
    assert "another size than annotated (the file's counts): 1, such as VOC2007/JPEGImages/000001.jpg" in data.notes[0]
    assert data.train.objects.boxes[data.train.objects.of(1)].tolist() == [[54, 0, 70, 50]]


LINE = FIRST_OBJECT + OBJECT_LINES  # of the second object


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("</size>", "</siz>", "line 6: mismatched tag"),
        ("<name>dog</name>", "<name>dog & cat</name>", f"line {LINE + 1}: not well-formed"),
        ("<name>dog</name>", "<name>&lol;</name>", f"line {LINE + 1}: undefined entity"),
        ("</annotation>\n", "", "line 27: no element found"),
        ("<xmin>25</xmin>", "<xmin>nan</xmin>", f"line {LINE + 5}: <xmin> is 'nan', expected a number of pixels"),
        ("<xmin>25</xmin>", "<xmin>inf</xmin>", f"line {LINE + 5}: <xmin> is 'inf', expected a number of pixels"),
        ("<xmin>25</xmin>", "<xmin>1e30</xmin>", f"line {LINE + 5}: <xmin> is '1e30', expected a number of pixels"),
        ("<xmin>25</xmin>", "<xmin>left</xmin>", f"line {LINE + 5}: <xmin> is 'left', expected a number of pixels"),
        ("<xmin>25</xmin>", "<xmin/>", f"line {LINE + 5}: <xmin> is '', expected a number of pixels"),
        ("<xmin>25</xmin>", "", f"line {LINE + 3}: <bndbox> has 0 times <xmin>, expected it once"),
        ("<xmin>25</xmin>", "<xmin>25</xmin><xmin>25</xmin>", "<bndbox> has 2 times <xmin>, expected it once"),
        ("<name>dog</name>", "", f"line {LINE}: <object> has 0 times <name>"),
        ("<name>dog</name>", "<name> </name>", f"line {LINE + 1}: class '', expected one of aeroplane"),
        ("<name>dog</name>", "<name>hot dog</name>", f"line {LINE + 1}: class 'hot dog', expected one of aeroplane"),
        ("<width>60</width>", "<width>wide</width>", "line 3: <width> is 'wide', expected a number of pixels"),
        ("<width>60</width>", "", "line 2: <size> has 0 times <width>"),
        ("annotation>", "annotations>", "line 1: <annotations>, expected <annotation>"),
        ("<difficult>0", "<difficult>2", f"line {FIRST_OBJECT + 2}: <difficult> is '2', expected 0 or 1"),
        ("<annotation>", "<!DOCTYPE annotation><annotation>", "line 1: a DOCTYPE"),
    ],
)
def test_damaged_annotations_are_named_with_the_line(folder, tmp_path, old, new, message):
    path = folder / "Annotations" / "000000.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError, match=rf"000000\.xml, {message}|000000\.xml, line \d+: {message}"):
        voc07.load(tmp_path, True)


@pytest.mark.parametrize(
    "declared",
    [
        '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd">',
    ],
)
def test_document_types_are_refused_before_they_do_anything(folder, tmp_path, declared):
    path = folder / "Annotations" / "000000.xml"
    path.write_text(f'<?xml version="1.0"?>\n{declared}\n' + path.read_text().replace("dog", "&b;"))
    with pytest.raises(DataError, match=r"000000\.xml, line 2: a DOCTYPE, which annotations don't have"):
        voc07.load(tmp_path, True)


def test_an_empty_and_a_deep_file_are_no_annotations(folder, tmp_path):
    path = folder / "Annotations" / "000000.xml"
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"000000\.xml, line 1: no element found"):
        voc07.load(tmp_path, True)
    path.write_text("<annotation>" + "<a>" * 100_000 + "</a>" * 100_000 + "</annotation>")
    with pytest.raises(DataError, match=r"000000\.xml, line 1: <annotation> has 0 times <size>"):
        voc07.load(tmp_path, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("test.txt", "000003\n\n000004 1\n", "test.txt, line 3: '000004 1', expected one image"),
        ("test.txt", "000003\n000003\n", r"test.txt, line 2: VOC2007/JPEGImages/000003.jpg is listed again, .* line 1"),
        ("test.txt", "000003\n000001\n", r"test.txt, line 2: .*/000001.jpg is listed again, .*trainval.txt, line 2"),
        ("test.txt", "../000003\n", r"test.txt, line 1: '../000003', expected a file's name without folders"),
        ("trainval.txt", "/etc/passwd\n", "trainval.txt, line 1: '/etc/passwd', expected a file's name"),
        ("trainval.txt", "\n", "no training image has an object that counts"),
    ],
)
def test_damaged_lists_are_named_with_the_line(folder, tmp_path, name, content, message):
    (folder / "ImageSets" / "Main" / name).write_text(content)
    with pytest.raises(DataError, match=message):
        voc07.load(tmp_path, True)


def test_lists_that_are_no_text_or_missing(folder, tmp_path):
    path = folder / "ImageSets" / "Main" / "test.txt"
    path.write_bytes(b"\xff\xfe\n")
    with pytest.raises(DataError, match=r"test.txt: cannot be read as text(.|\n)*VOCdevkit"):
        voc07.load(tmp_path, True)
    path.unlink()
    with pytest.raises(DataError, match=r"test.txt: cannot be read as text(.|\n)*VOCdevkit"):
        voc07.load(tmp_path, True)


@pytest.mark.parametrize("length", [0, 100])
def test_truncated_images_are_named(folder, tmp_path, length):
    """One whose head is lost when the data are loaded, another when it is met."""
    path = folder / "JPEGImages" / "000003.jpg"
    path.write_bytes(path.read_bytes()[: length or -200])
    if length:
        with pytest.raises(DataError, match=r"000003\.jpg: cannot be read as an image"):
            voc07.load(tmp_path, True)
        return
    data = voc07.load(tmp_path, True)
    with pytest.raises(DataError, match=r"000003\.jpg: cannot be read as an image"):
        _all(data.test)


def test_other_folders_are_explained(tmp_path):
    with pytest.raises(DataError, match=r"--data DIR(.|\n)*VOCdevkit/VOC2007"):
        voc07.load(None, False)
    with pytest.raises(DataError, match=r"no such folder(.|\n)*VOCdevkit/VOC2007"):
        voc07.load(tmp_path / "none", False)
    with pytest.raises(DataError, match=r"no VOC2007 in .*(.|\n)*VOCdevkit/VOC2007"):
        voc07.load(tmp_path, False)


@pytest.mark.parametrize(("task", "sides"), [(voc07, (600, 1_000)), (voc0712, (600, 1_000)), (voc07_small, (160, 267))])
def test_tasks(task, sides):
    assert task.input_shape == (3, *sides)
    assert (task.load.keywords["name"], task.load.keywords["short"], task.load.keywords["long"]) == (task.name, *sides)
    assert registry.get("tasks", task.name) is task
    assert task.full_precision == task.binarized
    assert (task.full_precision.epochs, task.full_precision.optimizer.lr) == (5, 1e-4)
    assert task.training_samples == (16_551 if task is voc0712 else 5_011)
    assert task.example().shape == (2, 3, task.input_shape[2], task.input_shape[2])


def test_real_cells(real_data):
    data = voc07.load(real_data / "BCCD", True)
    assert (len(data.train), len(data.test), data.labels) == (264, 40, ("Platelets", "RBC", "WBC"))
    (note,) = data.notes
    assert "264 of 5,011 training and 40 of 4,952 test images" in note
    assert note.endswith("left out: 1, such as VOC2007/Annotations/BloodImage_00343.xml, line 50")
    assert len(data.train.objects.labels) + len(data.test.objects.labels) == 3447 + 313 + 304 - 1
    assert data.fingerprint == voc07.load(real_data, True).fingerprint
    batch = next(replace(data.train, workers=0).batches(4, device=CPU, seed=0))
    assert batch.images.shape == (4, 3, 480, 640)
    small = next(replace(voc07_small.load(real_data, True).train, workers=0).batches(4, device=CPU, seed=0))
    assert small.images.shape == (4, 3, 160, 213)
    assert torch.equal(small.boxes, batch.boxes)
    assert torch.equal(small.numbers, batch.numbers)
