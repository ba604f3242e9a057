"""ShapeNet parts: both releases made here in the original format (the real ones are untested), and damaged files."""

import runpy
import sys
from itertools import pairwise

import h5py
import numpy as np
import pytest
import torch

import bibench
import shapenet_data
from bibench import registry
from bibench.tasks import shapenet_parts as module
from bibench.tasks.base import DataError
from bibench.tasks.cache import CACHE_VARIABLE
from bibench.tasks.shapenet_parts import CATEGORIES, shapenet, shapenet_normals
from shapenet_data import SYNSETS, TXT, write_hdf5, write_txt

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def txt(tmp_path):
    return write_txt(tmp_path)


@pytest.fixture
def hdf5(tmp_path):
    return write_hdf5(tmp_path)


def test_the_categories_are_the_published_ones():
    assert len(CATEGORIES) == 16
    assert [part for _, own in CATEGORIES for part in own] == list(range(50))
    assert [len(own) for _, own in CATEGORIES] == [4, 2, 2, 4, 4, 3, 3, 2, 4, 2, 6, 2, 3, 3, 3, 3]
    assert [name for name, _ in CATEGORIES] == sorted(name for name, _ in CATEGORIES)


@pytest.mark.parametrize("write", [write_txt, write_hdf5])
def test_both_releases_are_read(write, tmp_path):
    folder = write(tmp_path)
    for root in (folder, tmp_path):
        data = shapenet.load(root, True)
        assert (len(data.train), len(data.test), data.outputs) == (12, 6, (16, 50))
        points, parts, category = next(data.test.batches(6, device=CPU))
        assert (points.shape, parts.shape) == ((6, 19, 2048), (6, 2048))
        assert category.tolist() == [1, 1, 8, 8, 15, 15]
        assert torch.equal(points[:, 3:, 0].argmax(dim=1), category)
        for own, number in zip(parts, category.tolist(), strict=True):
            assert set(own.tolist()) == set(CATEGORIES[number][1])
        torch.testing.assert_close(points[:, :3].norm(dim=1).max(dim=1).values <= 1.0001, torch.ones(6).bool())
    kind = "txt" if write is write_txt else "HDF5"
    (note,) = data.notes
    part = "3 of 16 categories, 12 of 14,007 training and 6 of 2,874 test objects"
    assert note == f"{folder.name} ({kind} release); {part}"


def test_the_command_makes_objects_of_every_category(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shapenet_data.py", str(tmp_path), "--objects", "1"])
    runpy.run_path(shapenet_data.__file__, run_name="__main__")
    assert capsys.readouterr().out.strip() == str(tmp_path / TXT)
    data = shapenet.load(tmp_path, True)
    assert (len(data.train), len(data.test)) == (32, 16)
    _, parts, category = next(data.test.batches(16, device=CPU))
    assert sorted(category.tolist()) == list(range(16))
    assert set(parts.flatten().tolist()) == set(range(50))


def test_points_keep_their_parts_and_normals(txt):
    """Heights say the part in these objects, also after choosing points and scaling."""
    data = shapenet_normals.load(txt, True)
    assert data.test.points.shape == (6, 6, 2048)
    torch.testing.assert_close(data.test.points[:, 3:].norm(dim=1), torch.ones(6, 2048), atol=1e-4, rtol=0)
    for points, parts in zip(data.test.points, data.test.answers, strict=True):
        bounds = [
            (points[2, parts == part].min().item(), points[2, parts == part].max().item()) for part in parts.unique()
        ]
        assert all(low[1] < high[0] for low, high in pairwise(bounds))
        assert points[:3].T.unique(dim=0).shape[0] > 2000  # 2,500 are there, so different ones


def test_objects_of_few_points_have_some_again(tmp_path):
    data = shapenet.load(write_txt(tmp_path, count=1, points=100), True)
    distinct = data.test.points[0].T.unique(dim=0)
    assert len(distinct) == 100


def test_points_are_kept(txt, monkeypatch):
    before = shapenet.load(txt, True)

    def chosen(*args):
        raise AssertionError("they are in the cache")

    monkeypatch.setattr(module, "_chosen", chosen)
    after = shapenet.load(txt, True)
    assert before.fingerprint == after.fingerprint
    (txt / SYNSETS["Bag"] / "test0.txt").write_text("0 0 0 0 0 1 4\n")
    with pytest.raises(AssertionError, match="in the cache"):
        shapenet.load(txt, True)


def test_the_whole_needs_no_note(txt, monkeypatch):
    with pytest.raises(DataError, match=r"3 of 16 categories.*--allow-subset(.|\n)*synsetoffset2category"):
        shapenet.load(txt, False)
    for name, value in (("_TRAIN", 12), ("_TEST", 6), ("CATEGORIES", CATEGORIES[:2] + CATEGORIES[8:9])):
        monkeypatch.setattr(module, name, value)
    monkeypatch.setattr(module, "_NUMBERS", {"Bag": 1, "Lamp": 2, "Table": 0})
    monkeypatch.setattr(module, "CATEGORIES", (("Table", range(47, 50)), ("Bag", range(4, 6)), ("Lamp", range(24, 28))))
    (note,) = shapenet.load(txt, False).notes
    assert note == f"{TXT} (txt release)"


def test_the_trivial_score_is_that_of_the_evaluation(txt):
    """The evaluation of a network that predicts each category's most frequent training part."""
    data = shapenet.load(txt, True)
    best = torch.zeros(16, 50)
    for parts, category in zip(data.train.answers, data.train.category, strict=True):
        best[category] += parts.bincount(minlength=50)
    answer = torch.nn.functional.one_hot(best.argmax(dim=1), 50).float()

    def constant(points):
        return answer[points[:, 3:, 0].argmax(dim=1), :, None].expand(-1, -1, points.shape[2])

    found = shapenet.evaluate(constant, data.test.batches(4, device=CPU))
    assert data.trivial.value == pytest.approx(found.figures["miou"], abs=1e-4)
    pairs = found.per_sample.reshape(3, 2)  # two objects of each category
    assert data.trivial.margin == pytest.approx(200 * (pairs.var(axis=1) / 2).sum() ** 0.5 / 3, rel=1e-3, abs=1e-4)


def test_missing_objects_are_refused_or_left_out_and_counted(txt):
    for name in ("train0", "test1"):
        (txt / SYNSETS["Lamp"] / f"{name}.txt").unlink()
    with pytest.raises(DataError, match=r"03636649/train0.txt is missing, though its split list names it"):
        shapenet.load(txt, False)
    data = shapenet.load(txt, True)
    assert (len(data.train), len(data.test)) == (11, 5)
    assert "listed objects missing: 2, such as 03636649/train0.txt" in data.notes[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:5], "0 0 0 0 0 1", *lines[6:]], "line 6: '0 0 0 0 0 1' has 6 columns, expected 7"),
        (lambda lines: [line + " 1" for line in lines], "line 1: .* has 8 columns, expected 7"),
        (lambda lines: [*lines[:9], "0 0 zero 0 0 1 24", *lines[10:]], "line 10: '0 0 zero 0 0 1 24', expected finite"),
        (lambda lines: [*lines[:9], "0 0 nan 0 0 1 24", *lines[10:]], "line 10: .*, expected finite numbers"),
        (lambda lines: [*lines[:9], "0 0 0 0 0 1 24.5", *lines[10:]], "line 10: .*, the last a whole one"),
        (
            lambda lines: [*lines[:9], "0 0 0 0 0 1 47", *lines[10:]],
            "line 10: part 47, expected 24 to 27, those of Lamp",
        ),
        (lambda lines: ["", *lines[:9], "0 0 0 0 0 1 99"], "line 11: part 99, expected 24 to 27"),
        (lambda lines: ["\x00\xff"], "line 1: .* has 1 columns"),
        (lambda lines: [], "has no points"),
    ],
)
def test_damaged_objects_are_named_with_the_line(txt, change, message):
    path = txt / SYNSETS["Lamp"] / "val1.txt"
    path.write_text("\n".join(change(path.read_text().split("\n")[:-1])), encoding="latin1")
    with pytest.raises(DataError, match=f"03636649/val1.txt,? ?{message}"):
        shapenet.load(txt, True)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "synsetoffset2category.txt",
            "Bag\t02773838\nSofa\t1\n",
            r"line 2: 'Sofa\\t1', expected a category .*Airplane",
        ),
        ("synsetoffset2category.txt", "Bag\n", "line 1: 'Bag', expected a category"),
        ("synsetoffset2category.txt", "\n", "names no categories"),
        ("train_test_split/shuffled_val_file_list.json", "[\n'x'", "shuffled_val_file_list.json, line 2: "),
        ("train_test_split/shuffled_val_file_list.json", "{}", "expected a list of objects"),
        ("train_test_split/shuffled_val_file_list.json", '["shape_data/1/2"]', "entry 1: 'shape_data/1/2', expected"),
        ("train_test_split/shuffled_val_file_list.json", "[3]", "entry 1: '3', expected"),
    ],
)
def test_damaged_lists_are_named(txt, name, content, message):
    (txt / name).write_text(content)
    with pytest.raises(DataError, match=message):
        shapenet.load(txt, True)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("label", lambda values: values + 1, r"array 'label', row 4: 3, expected 0 to 2"),
        ("pid", lambda values: values + 1, r"array 'pid', row 0: part 6, expected 4 to 5, those of Bag"),
        ("pid", lambda values: values[:3], "6 rows in 'data', 6 in 'label' and 3 in 'pid'"),
        ("pid", lambda values: values[:, :9], r"array 'pid': shape \(6, 9\)"),
        ("data", lambda values: values * np.inf, "array 'data', row 0: -?(inf|nan) is no finite number"),
    ],
)
def test_damaged_arrays_are_named(hdf5, name, change, message):
    with h5py.File(hdf5 / "ply_data_val0.h5", "r+") as file:
        values = change(file[name][:])
        del file[name]
        file[name] = values
    with pytest.raises(DataError, match=f"ply_data_val0.h5.*{message}"):
        shapenet.load(hdf5, True)


def test_truncated_hdf5_is_named(hdf5):
    path = hdf5 / "ply_data_test0.h5"
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(DataError, match=r"ply_data_test0.h5: cannot be read as an HDF5 file"):
        shapenet.load(hdf5, True)


def test_the_hdf5_release_has_no_normals(hdf5):
    with pytest.raises(DataError, match="the HDF5 release has no normals; use the task shapenet"):
        shapenet_normals.load(hdf5, True)


def test_the_txt_release_comes_first_and_the_other_is_noted(txt, hdf5, tmp_path):
    (note,) = shapenet.load(tmp_path, True).notes
    assert note.startswith(f"{TXT} (txt release)")
    assert note.endswith("hdf5_data also there and not used (name a folder itself to choose it)")


def test_other_folders_are_explained(tmp_path):
    with pytest.raises(DataError, match=r"--data DIR(.|\n)*hdf5_data"):
        shapenet.load(None, False)
    with pytest.raises(DataError, match="no such folder"):
        shapenet.load(tmp_path / "gone", False)
    with pytest.raises(DataError, match=r"no ShapeNet parts in (.|\n)*synsetoffset2category.txt"):
        shapenet.load(tmp_path, True)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", [None, "reactnet"])
def test_a_few_steps_learn_the_made_objects(tmp_path, algorithm):
    """Twelve steps on slices by height, with 128 points an object: the loss falls."""
    data = shapenet.load(write_txt(tmp_path, count=1, points=100), True)
    for split in (data.train, data.test):
        split.points, split.answers = split.points[:, :, :128].contiguous(), split.answers[:, :128].contiguous()
    torch.manual_seed(0)
    model = registry.get("architectures", "pointnet").build((19, 128), data.outputs)
    if algorithm:
        model = bibench.binarize(model, algorithm, example=next(data.test.batches(2, device=CPU))[0])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    losses = []
    for epoch in range(12):
        for batch in data.train.batches(6, device=CPU, seed=epoch):
            optimizer.zero_grad()
            found = shapenet.loss(model, batch)
            found.backward()
            optimizer.step()
            losses.append(found.item())
    assert losses[-1] < 0.85 * losses[0]
    with torch.no_grad():
        evaluation = shapenet.evaluate(model.eval(), data.test.batches(3, device=CPU))
    assert {"miou", "miou_objects", "loss"} == set(evaluation.figures)
    assert list(evaluation.subsets) == ["bag", "lamp", "table"]
    assert evaluation.per_sample.shape == (3,)


def test_recipes():
    assert (shapenet.metric.name, shapenet.metric.unit) == ("miou", "percent")
    assert shapenet.full_precision == shapenet.binarized
    assert (shapenet.full_precision.epochs, shapenet.full_precision.batch_size) == (200, 256)
    for task, channels in ((shapenet, 3), (shapenet_normals, 6)):
        assert registry.get("tasks", task.name) is task
        assert task.example().shape == (2, *task.input_shape) == (2, channels + 16, 2048)
        assert set(task.example()[:, channels:].unique().tolist()) == {-1.0, 1.0}
        registry.get("architectures", "pointnet").build(task.input_shape, task.outputs)
