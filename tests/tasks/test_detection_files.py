"""Detection splits: scaling, mirroring, padding, the rules for boxes, and files that are damaged."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from bibench.tasks.base import DataError
from bibench.tasks.detection_files import (
    Annotations,
    DetectionFiles,
    Objects,
    check_name,
    detection_data,
    files_in,
    fitted,
    left_out,
)
from detection_data import save_picture

CPU = torch.device("cpu")


def objects_of(root, files):
    """The images of a folder, given as name and edges of the boxes, all of class 1."""
    counts = [len(boxes) for _, boxes in files]
    boxes = np.array([box for _, own in files for box in own], dtype=np.float32).reshape(-1, 4)
    sizes = []
    for name, _ in files:
        with Image.open(root / name) as image:
            sizes.append(image.size[::-1])
    return Objects(
        root=root,
        names=np.array([name.encode() for name, _ in files], dtype=np.bytes_),
        sizes=np.array(sizes, dtype=np.int32),
        starts=np.concatenate(([0], np.cumsum(counts))),
        boxes=boxes,
        labels=np.ones(len(boxes), dtype=np.int32),
        ignored=np.zeros(len(boxes), dtype=np.bool_),
        areas=np.arange(len(boxes), dtype=np.float32),
    )


def split_of(root, files, *, short=160, long=267, workers=0):
    return DetectionFiles(objects=objects_of(root, files), short=short, long=long, workers=workers)


@pytest.fixture
def pictures(tmp_path):
    """Six pictures of different sizes; number ``i`` has ``i % 3`` objects."""
    files = []
    for number in range(6):
        boxes = [(5 + 20 * k, 10, 20 + 20 * k, 40) for k in range(number % 3)]
        save_picture(tmp_path / f"{number}.png", 60 + 10 * number, 80 - 5 * number, boxes)
        files.append((f"{number}.png", boxes))
    return tmp_path, files


@settings(deadline=None)
@given(height=st.integers(1, 5000), width=st.integers(1, 5000), short=st.integers(1, 900), more=st.integers(0, 900))
def test_sides_fit_and_keep_the_aspect(height, width, short, more):
    long = short + more
    rows, columns = fitted(height, width, short, long)
    if min(height, width) <= short and max(height, width) <= long:
        assert (rows, columns) == (height, width)
        return
    assert 1 <= min(rows, columns) <= short
    assert max(rows, columns) <= long
    scale = min(short / min(height, width), long / max(height, width))
    assert max(abs(rows - scale * height), abs(columns - scale * width)) <= 1
    assert max(rows, columns) == long or min(rows, columns) == short  # no smaller than needed


def test_a_batch_is_padded_to_its_largest_image(pictures):
    root, files = pictures
    (batch,) = split_of(root, files).batches(6, device=CPU)
    assert batch.images.shape == (6, 3, 80, 110)
    assert batch.images.dtype == torch.float32
    assert batch.boxes.shape == (6, 2, 4)
    assert [part.dtype for part in batch[1:]] == [
        torch.int64,
        torch.int64,
        torch.float32,
        torch.int64,
        torch.bool,
        torch.float32,
        torch.int64,
    ]
    assert batch.numbers.tolist() == list(range(6))
    assert batch.labels.tolist() == [[0, 0], [1, 0], [1, 1]] * 2
    assert batch.areas.tolist() == [[0, 0], [0, 0], [1, 2], [0, 0], [3, 0], [4, 5]]
    for number, (name, boxes) in enumerate(files):
        pixels = torch.from_numpy(np.array(Image.open(root / name))).movedim(-1, 0) / 255
        _, height, width = pixels.shape
        assert batch.sizes[number].tolist() == batch.originals[number].tolist() == [height, width]
        assert torch.equal(batch.images[number, :, :height, :width], pixels)
        assert not batch.images[number, :, height:].any()
        assert not batch.images[number, :, :, width:].any()
        assert batch.boxes[number, : len(boxes)].tolist() == [list(box) for box in boxes]
        assert not batch.boxes[number, len(boxes) :].any()


def test_images_without_objects_make_a_batch_too(pictures):
    root, files = pictures
    (batch,) = split_of(root, files[:1]).batches(4, device=CPU)
    assert (batch.boxes.shape, batch.labels.shape) == ((1, 0, 4), (1, 0))


def test_a_large_image_is_scaled_down_and_its_boxes_stay_in_the_file_s_pixels(tmp_path):
    box = (100, 50, 400, 200)
    save_picture(tmp_path / "a.png", 500, 375, [box])
    (batch,) = split_of(tmp_path, [("a.png", [box])]).batches(1, device=CPU)
    assert batch.sizes.tolist() == [[160, 213]]
    assert batch.originals.tolist() == [[375, 500]]
    assert batch.boxes[0].tolist() == [list(box)]
    red = (batch.images[0, 0] > 0.9) & (batch.images[0, 1] < 0.1)
    rows, columns = red.nonzero().aminmax(dim=0)
    found = torch.tensor([rows[1], rows[0], columns[1] + 1, columns[0] + 1]) * torch.tensor([500 / 213, 375 / 160] * 2)
    assert (found - torch.tensor(box)).abs().max() < 3  # one pixel of the small image is 2.3


def test_mirroring_moves_the_boxes_along(pictures):
    root, files = pictures
    split = split_of(root, files)
    plain = next(split.batches(6, device=CPU))
    mirrored = 0
    for seed in range(4):
        batch = next(split.batches(6, device=CPU, seed=seed))
        assert sorted(batch.numbers.tolist()) == list(range(6))
        for place, number in enumerate(batch.numbers.tolist()):
            height, width = plain.sizes[number].tolist()
            image, before = batch.images[place, :, :height, :width], plain.images[number, :, :height, :width]
            flipped = torch.equal(image, before.flip(2))
            assert flipped or torch.equal(image, before)
            if len(files[number][1]) == 1:
                mirrored += flipped
                left, top, right, bottom = map(int, batch.boxes[place, 0].tolist())
                assert right - left == 15
                inside = image[:, top:bottom, left:right]
                assert torch.equal(inside, torch.tensor([1.0, 0, 0])[:, None, None].expand_as(inside))
    assert 0 < mirrored < 8


def test_half_are_mirrored_whatever_else_is_in_the_batch(tmp_path):
    box = (0, 0, 1, 1)
    save_picture(tmp_path / "a.png", 4, 4, [box])
    split = split_of(tmp_path, [("a.png", [box])] * 400)
    (batch,) = split.batches(400, device=CPU, seed=5)
    left = dict(zip(batch.numbers.tolist(), batch.boxes[:, 0, 0].tolist(), strict=True))
    assert set(left.values()) == {0.0, 3.0}
    assert 150 < sum(value == 3 for value in left.values()) < 250
    parts = list(split.batches(7, device=CPU, seed=5))
    assert all(
        left[number] == value
        for part in parts
        for number, value in zip(part.numbers.tolist(), part.boxes[:, 0, 0].tolist(), strict=True)
    )


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_the_number_of_workers_changes_nothing(pictures, seed):
    root, files = pictures
    state = torch.get_rng_state()
    first = list(split_of(root, files).batches(2, device=CPU, seed=seed))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    second = list(split_of(root, files, workers=2).batches(2, device=CPU, seed=seed))
    for one, other in zip(first, second, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_other_seeds_give_another_order(pictures):
    split = split_of(*pictures)
    orders = [next(split.batches(6, device=CPU, seed=seed)).numbers.tolist() for seed in (0, 1)]
    assert orders[0] != orders[1]


@pytest.mark.parametrize("size", [(1, 1), (1, 2000), (2000, 1), (3, 1500)])
@pytest.mark.parametrize("seed", [None, 0])
def test_any_size_and_aspect(tmp_path, size, seed):
    width, height = size
    box = (0, 0, width, height)
    save_picture(tmp_path / "a.png", width, height, [box])
    save_picture(tmp_path / "b.png", 10, 10, [])
    (batch,) = split_of(tmp_path, [("a.png", [box]), ("b.png", [])]).batches(2, device=CPU, seed=seed)
    place = batch.numbers.tolist().index(0)
    assert batch.originals[place].tolist() == [height, width]
    assert batch.boxes[place, 0].tolist() == list(box)
    rows, columns = batch.sizes[place].tolist()
    assert max(rows, columns) == min(267, max(size))
    assert torch.equal(
        batch.images[place, :, :rows, :columns],
        torch.tensor([1.0, 0, 0])[:, None, None].expand(-1, rows, columns),
    )


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "CMYK"])
def test_every_kind_of_file_becomes_rgb(tmp_path, mode):
    name = "a.jpg" if mode == "CMYK" else "a.png"
    Image.new("RGB", (30, 20), (255, 255, 255)).convert(mode).save(tmp_path / name)
    (batch,) = split_of(tmp_path, [(name, [])]).batches(1, device=CPU)
    assert batch.images.shape == (1, 3, 20, 30)
    assert batch.images.min() > 0.98


def test_orientation_tags_are_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    save_picture(tmp_path / "a.jpg", 40, 20, [(0, 0, 10, 20)], exif=exif.tobytes())
    (batch,) = split_of(tmp_path, [("a.jpg", [(0, 0, 10, 20)])]).batches(1, device=CPU)
    assert batch.images.shape == (1, 3, 20, 40)
    assert batch.images[0, 0, :, 2].min() > 0.9 > batch.images[0, 0, :, 30].max()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_truncated_image_is_named_when_it_is_met(pictures, workers):
    root, files = pictures
    path = root / "4.png"
    path.write_bytes(path.read_bytes()[:-40])
    batches = split_of(root, files, workers=workers).batches(2, device=CPU)
    next(batches), next(batches)
    with pytest.raises(DataError, match=r"4\.png: cannot be read as an image"):
        next(batches)


def test_a_part_keeps_each_image_s_objects(pictures):
    objects = objects_of(*pictures)
    part = objects.part(np.array([False, True, False, True, False, True]))
    assert part.names.tolist() == [b"1.png", b"3.png", b"5.png"]
    assert part.image.tolist() == [0, 2, 2]
    whole = objects.truths()
    for number, truth in zip((1, 3, 5), part.truths(), strict=True):
        assert np.array_equal(truth.boxes, whole[number].boxes)
        assert np.array_equal(truth.areas, whole[number].areas)


def annotations(root, names, test, image, boxes, *, origin=0, ignored=None, labels=None, sizes=None):
    real = []
    for name in names:
        with Image.open(root / name) as opened:
            real.append(opened.size[::-1])
    return Annotations(
        root=root,
        names=names,
        test=np.array(test),
        sizes=np.array(real if sizes is None else sizes, dtype=np.int64),
        image=np.array(image, dtype=np.int64),
        boxes=np.array(boxes, dtype=np.float64).reshape(-1, 4),
        labels=np.ones(len(image), dtype=np.int64) if labels is None else np.array(labels),
        ignored=np.zeros(len(image), dtype=np.bool_) if ignored is None else np.array(ignored),
        areas=None,
        origin=origin,
        places=lambda number: f"object {number}",
    )


def data_of(found, labels=("cat", "dog")):
    """The data, with the commonest class and its guesses as they are given to the metric."""
    given = []

    def figures(truths, detections, classes):
        given.append((truths, detections, classes))
        return {"map": 0.25}

    return detection_data(found, labels, ["first"], figures, short=160, long=267), given[0]


def expected_box(box, width, height, origin, test):
    """By the documented rules, one box at a time: None where it is left out, and whether it is partly outside."""
    left, top, right, bottom = box
    if right <= left or bottom <= top:
        return None, False
    edges = [left - origin, top - origin, right, bottom]
    inside = [min(max(value, 0), limit) for value, limit in zip(edges, (width, height) * 2, strict=True)]
    if inside[2] <= inside[0] or inside[3] <= inside[1]:
        return None, False
    return (edges if test else inside), edges != inside


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    boxes=arrays.arrays(np.int64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.integers(-20, 50)),
    origin=st.sampled_from([0, 1]),
    data=st.data(),
)
def test_boxes_are_kept_cut_or_left_out_by_the_rules(tmp_path, boxes, origin, data):
    names = ["train.png", "test.png"]
    for name, size in zip(names, ((40, 30), (25, 45)), strict=True):
        if not (tmp_path / name).exists():
            save_picture(tmp_path / name, *size, [])
    image = data.draw(st.lists(st.integers(0, 1), min_size=len(boxes), max_size=len(boxes)))
    boxes[:, 2:] += boxes[:, :2] + 15  # most are no longer reversed
    # One good box for each, so that there is something to learn and to find.
    boxes, image = np.concatenate((boxes, [[3, 3, 9, 9]] * 2)), [*image, 0, 1]
    loaded, _ = data_of(annotations(tmp_path, names, [False, True], image, boxes, origin=origin))
    rules = [
        expected_box(box, *((40, 30), (25, 45))[own], origin, own == 1)
        for box, own in zip(boxes.tolist(), image, strict=True)
    ]
    for half, split in enumerate((loaded.train, loaded.test)):
        kept = [box for (box, _), own in zip(rules, image, strict=True) if own == half and box is not None]
        assert split.objects.boxes.tolist() == kept
        assert split.objects.areas.tolist() == [(box[2] - box[0]) * (box[3] - box[1]) for box in kept]
    (note,) = loaded.notes
    bad = [number for number, (box, _) in enumerate(rules) if box is None]
    beyond = [number for number, (_, outside) in enumerate(rules) if outside]
    for what, numbers in (("left out", bad), ("(cut in training)", beyond)):
        assert (f"{what}: {len(numbers)}, such as object {numbers[0]}" in note) if numbers else (what not in note)


def test_a_sliver_is_no_box(tmp_path):
    """Once mirrored in float32 it would have no width."""
    save_picture(tmp_path / "a.png", 4000, 10, [])
    boxes = [(0, 0, 0.001, 5), (3999.995, 0, 4000, 5), (1, 1, 1.02, 5), (5, 5, 9, 9)]
    found = annotations(tmp_path, ["a.png", "a.png"], [False, True], [0, 0, 0, 1], boxes)
    train = replace(data_of(found)[0].train, workers=0)
    assert train.objects.boxes[:, 0].tolist() == [1]
    for seed in range(8):
        (batch,) = train.batches(1, device=CPU, seed=seed)
        assert (batch.boxes[0, 0, 2] > batch.boxes[0, 0, 0]).all()


def test_training_images_without_an_object_that_counts_are_left_out(tmp_path):
    save_picture(tmp_path / "a.png", 20, 20, [])
    image, ignored = [0, 1, 1, 2, 4], [False, True, False, True, False]
    found = annotations(tmp_path, ["a.png"] * 6, [False] * 4 + [True] * 2, image, [[1, 1, 5, 5]] * 5, ignored=ignored)
    data, _ = data_of(found)
    assert (len(data.train), len(data.test)) == (2, 2)
    assert data.train.objects.ignored.tolist() == [False, True, False]
    assert data.train.objects.image.tolist() == [0, 1, 1]
    assert data.notes == ("first; training images without an object that counts, left out: 2",)
    assert data.trivial.value == 25
    assert data.trivial.answer == "the mean box of the commonest class (cat) on every image"


def test_the_constant_answer_is_the_mean_box_relative_to_the_image(tmp_path):
    for name, size in (("a.png", (20, 20)), ("b.png", (40, 10)), ("c.png", (100, 200))):
        save_picture(tmp_path / name, *size, [])
    found = annotations(
        tmp_path,
        ["a.png", "b.png", "c.png"],
        [False, False, True],
        [0, 1, 0, 1, 1, 2],
        [[0, 0, 10, 10], [20, 5, 40, 10], [1, 1, 2, 2], [3, 3, 4, 4], [5, 5, 9, 9], [1, 1, 9, 9]],
        labels=[2, 2, 1, 2, 2, 1],
        ignored=[False, False, False, True, True, False],
    )
    data, (truths, detections, classes) = data_of(found)
    assert classes == data.outputs == 2
    assert len(truths) == len(detections) == 1
    # (0, 0, 1/2, 1/2) and (1/2, 1/2, 1, 1)
    assert detections[0].boxes.tolist() == [[25, 50, 75, 150]]
    assert detections[0].labels.tolist() == [2]
    assert "commonest class (dog)" in data.trivial.answer


def test_the_file_s_size_counts(tmp_path):
    save_picture(tmp_path / "a.png", 20, 10, [])
    found = annotations(
        tmp_path,
        ["a.png"] * 3,
        [False, False, True],
        [0, 1, 2],
        [[0, 0, 15, 10]] * 3,
        sizes=[[10, 20], [20, 10], [9, 9]],
    )
    data, _ = data_of(found)
    assert data.train.objects.boxes.tolist() == [[0, 0, 15, 10]] * 2
    assert "images of another size than annotated (the file's counts): 2, such as a.png" in data.notes[0]


@pytest.mark.parametrize(("lacking", "half"), [(0, "training"), (1, "test")])
def test_nothing_to_learn_or_to_find_is_refused(tmp_path, lacking, half):
    save_picture(tmp_path / "a.png", 20, 20, [])
    found = annotations(tmp_path, ["a.png"] * 2, [False, True], [1 - lacking, lacking], [[1, 1, 5, 5], [5, 5, 1, 1]])
    with pytest.raises(DataError, match=f"no {half} image has an object that counts"):
        data_of(found)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff"])
def test_a_file_that_is_no_image_is_named_at_once(tmp_path, content):
    save_picture(tmp_path / "a.png", 20, 20, [])
    found = annotations(tmp_path, ["a.png"] * 2, [False, True], [0, 1], [[1, 1, 5, 5]] * 2)
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.png: cannot be read as an image"):
        data_of(found)


def test_fingerprint_is_of_names_lengths_and_objects(tmp_path):
    for name in ("a.png", "b.png"):
        save_picture(tmp_path / name, 20, 20, [])

    def fingerprint(names=("a.png", "a.png"), box=(1, 1, 5, 5), **changes):
        found = annotations(tmp_path, list(names), [False, True], [0, 1], [box, [1, 1, 5, 5]], **changes)
        return data_of(found)[0].fingerprint

    found = [
        fingerprint(),
        fingerprint(names=("a.png", "b.png")),
        fingerprint(box=(1, 1, 5, 6)),
        fingerprint(labels=[1, 2]),
        fingerprint(ignored=[False, False], sizes=[[1, 1], [1, 1]]),
    ]
    assert len(set(found)) == 4
    assert found[0] == found[4] == fingerprint()
    with (tmp_path / "a.png").open("ab") as file:
        file.write(b"\0")
    assert fingerprint() not in found


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../a.jpg", "a/b.jpg", "/etc/passwd", "a\\b", "a\0b", "a\nb", "\ud800"]
)
def test_names_that_leave_the_folder_are_refused(name):
    with pytest.raises(DataError, match=r"list, line 3: .*, expected a file's name without folders"):
        check_name(name, "list, line 3")


def test_missing_files_are_refused_or_noted():
    assert left_out(Path("root"), "listed files", [], False) == []
    with pytest.raises(DataError, match=r"root: listed files missing: 2, such as a.jpg \(3\); .*--allow-subset"):
        left_out(Path("root"), "listed files", ["a.jpg (3)", "b.jpg"], False)
    assert left_out(Path("root"), "listed files", ["a.jpg", "b.jpg"], True) == [
        "listed files missing: 2, such as a.jpg"
    ]


def test_a_missing_folder_is_explained(tmp_path):
    with pytest.raises(DataError, match="none: No such file or directory; the layout"):
        files_in(tmp_path / "none", "the layout")
