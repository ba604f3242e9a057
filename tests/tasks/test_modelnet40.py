"""ModelNet40: the HDF5 release and the original meshes, parts of them, and files that are damaged."""

import h5py
import numpy as np
import pytest
import torch

from bibench import registry
from bibench.tasks import modelnet40 as module
from bibench.tasks.base import DataError
from bibench.tasks.cache import CACHE_VARIABLE
from bibench.tasks.modelnet40 import modelnet40, modelnet40_normals

CPU = torch.device("cpu")
BOX = """OFF
8 6 0
0 0 0
{0} 0 0
{0} 1 0
0 1 0
0 0 1
{0} 0 1
{0} 1 1
0 1 1
4 0 3 2 1
4 4 5 6 7
4 0 1 5 4
4 2 3 7 6
4 1 2 6 5
4 0 4 7 3
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def release(tmp_path):
    """Two training files and a test file in the layout of the HDF5 release, of three classes."""
    folder = tmp_path / "modelnet40_ply_hdf5_2048"
    folder.mkdir()
    generator = np.random.default_rng(0)
    (folder / "shape_names.txt").write_text("airplane\nbathtub\nbed\n")
    for split, files in (("train", 2), ("test", 1)):
        names = [f"ply_data_{split}{number}.h5" for number in range(files)]
        (folder / f"{split}_files.txt").write_text("".join(f"data/{folder.name}/{name}\n" for name in names))
        for name in names:
            with h5py.File(folder / name, "w") as file:
                file["data"] = generator.normal(size=(4, 1100, 3)).astype(np.float32)
                file["normal"] = generator.normal(size=(4, 1100, 3)).astype(np.float32)
                file["label"] = np.array([[0], [1], [2], [0]], dtype=np.uint8)
    return folder


@pytest.fixture
def meshes(tmp_path):
    """Boxes of two classes, short and long, in the layout of the original archive."""
    folder = tmp_path / "ModelNet40"
    for name, length in (("cube", 1), ("plank", 5)):
        for split, count in (("train", 3), ("test", 2)):
            (folder / name / split).mkdir(parents=True)
            for number in range(count):
                text = BOX.format(length + 0.1 * number)
                (folder / name / split / f"{name}_{number:04}.off").write_text(text)
    return folder


def _change(path, name, change):
    with h5py.File(path, "r+") as file:
        values = change(file[name][:])
        del file[name]
        if values is not None:
            file[name] = values


def test_the_release_is_read(release):
    for root in (release, release.parent):
        data = modelnet40.load(root, True)
        assert (len(data.train), len(data.test), data.outputs) == (8, 4, 3)
        assert data.labels == ("airplane", "bathtub", "bed")
        assert data.train.answers.tolist() == [0, 1, 2, 0] * 2
    (note,) = data.notes
    assert note == (
        "modelnet40_ply_hdf5_2048 (HDF5 release); 3 of 40 classes, 8 of 9,840 training and 4 of 2,468 test clouds"
    )
    assert data.trivial.answer == "one answer for all test samples ('airplane')"
    assert (data.trivial.value, data.trivial.margin) == (50, 50)
    with h5py.File(release / "ply_data_test0.h5") as file:
        first = file["data"][0, :1024]
    found = data.test.points[0].T.numpy()
    expected = first - first.mean(axis=0)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected, axis=1).max(), atol=1e-6)


def test_a_part_is_refused_unless_it_is_asked_for_and_the_whole_needs_no_note(release, monkeypatch):
    with pytest.raises(DataError, match=r"3 of 40 classes.*--allow-subset(.|\n)*shape_names.txt"):
        modelnet40.load(release, False)
    for name, value in (("_CLASSES", 3), ("_TRAIN", {"HDF5 release": 8}), ("_TEST", 4)):
        monkeypatch.setattr(module, name, value)
    (note,) = modelnet40.load(release, False).notes
    assert note == "modelnet40_ply_hdf5_2048 (HDF5 release)"


def test_normals_are_further_channels(release, meshes):
    plain, with_normals = (task.load(release, True) for task in (modelnet40, modelnet40_normals))
    assert with_normals.train.points.shape == (8, 6, 1024)
    assert torch.equal(with_normals.train.points[:, :3], plain.train.points)
    with h5py.File(release / "ply_data_test0.h5") as file:
        np.testing.assert_array_equal(
            with_normals.test.points[:, 3:].numpy(), file["normal"][:, :1024].transpose(0, 2, 1)
        )
    data = modelnet40_normals.load(meshes, True)
    torch.testing.assert_close(data.train.points[:, 3:].norm(dim=1), torch.ones(6, 1024))
    assert modelnet40_normals.input_shape == modelnet40_normals.example().shape[1:] == (6, 1024)
    _change(release / "ply_data_train0.h5", "normal", lambda values: None)
    with pytest.raises(DataError, match=r"ply_data_train0.h5 has no array 'normal'; use the task modelnet40"):
        modelnet40_normals.load(release, True)


def test_meshes_are_read_and_their_points_kept(meshes, tmp_path, monkeypatch):
    data = modelnet40.load(tmp_path, True)
    assert (len(data.train), len(data.test), data.outputs) == (6, 4, 2)
    assert data.labels == ("cube", "plank")
    assert data.test.answers.tolist() == [0, 0, 1, 1]
    (note,) = data.notes
    assert note.startswith("ModelNet40 (OFF meshes); 2 of 40 classes, 6 of 9,843 training and 4 of 2,468 test clouds")
    points = data.train.points
    assert points.shape == (6, 3, 1024)
    torch.testing.assert_close(points.mean(dim=2), torch.zeros(6, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(points.norm(dim=1).max(dim=1).values, torch.ones(6))
    assert not torch.equal(points[0], points[1])

    def sampled(*args):
        raise AssertionError("they are in the cache")

    monkeypatch.setattr(module, "_sampled", sampled)
    again = modelnet40.load(tmp_path, True)
    assert torch.equal(again.train.points, points)
    assert again.fingerprint == data.fingerprint


def test_points_follow_the_content_of_a_mesh(meshes):
    before = modelnet40.load(meshes, True)
    path = meshes / "cube" / "train" / "cube_0000.off"
    path.write_text(BOX.format(2))
    after = modelnet40.load(meshes, True)
    assert not torch.equal(before.train.points[0], after.train.points[0])
    assert torch.equal(before.train.points[1:], after.train.points[1:])
    assert before.fingerprint != after.fingerprint


def test_meshes_without_faces_are_refused_or_left_out_and_counted(meshes):
    for path in ("cube/train/cube_0001.off", "plank/test/plank_0000.off"):
        (meshes / path).write_text("OFF\n3 0 0\n0 0 0\n1 0 0\n0 1 0\n")
    with pytest.raises(DataError, match=r"cube_0001.off: a mesh with no faces, .*\(2 such files\).*--allow-subset"):
        modelnet40.load(meshes, False)
    for _ in range(2):  # the second time from the cache
        data = modelnet40.load(meshes, True)
        assert (len(data.train), len(data.test)) == (5, 3)
        assert data.test.answers.tolist() == [0, 0, 1]
        assert data.train.points.isfinite().all()
        assert "meshes with no faces left out: 2, such as cube/train/cube_0001.off" in data.notes[0]


def test_damaged_meshes_are_refused_with_the_line(meshes):
    path = meshes / "plank" / "train" / "plank_0002.off"
    path.write_text(BOX.format(1).replace("4 1 2 6 5", "4 1 2 6 9"))
    with pytest.raises(DataError, match=r"plank/train/plank_0002.off, line 15: '4 1 2 6 9' has the vertex 9"):
        modelnet40.load(meshes, True)
    path.write_text(BOX.format(1)[:50])
    with pytest.raises(DataError, match=r"plank_0002.off: cut off"):
        modelnet40.load(meshes, True)


def test_the_release_comes_before_meshes_and_the_rest_is_noted(release, meshes, tmp_path):
    (note,) = modelnet40.load(tmp_path, True).notes
    assert note.startswith("modelnet40_ply_hdf5_2048 (HDF5 release)")
    assert note.endswith("ModelNet40 also there and not used (name a folder itself to choose it)")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("label", lambda values: values + 1, r"array 'label', row 2: 3, expected 0 to 2, a line of shape_names.txt"),
        ("label", lambda values: values[:3], "4 clouds in 'data' and 3 labels in 'label'"),
        ("label", lambda values: None, "array 'label': missing"),
        ("data", lambda values: values[:, :1000], r"array 'data': shape \(4, 1000, 3\), expected \(rows, 1024 or more"),
        ("data", lambda values: values * np.nan, r"array 'data', row 0: nan is no finite number"),
    ],
)
def test_damaged_arrays_are_named(release, name, change, message):
    _change(release / "ply_data_train1.h5", name, change)
    with pytest.raises(DataError, match=f"ply_data_train1.h5.*{message}"):
        modelnet40.load(release, True)


def test_truncated_and_missing_files_are_named(release):
    path = release / "ply_data_train1.h5"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(DataError, match=r"ply_data_train1.h5: cannot be read as an HDF5 file"):
        modelnet40.load(release, True)
    path.unlink()
    with pytest.raises(DataError, match=r"ply_data_train1.h5 is missing"):
        modelnet40.load(release, True)
    (release / "train_files.txt").write_text("\n")
    with pytest.raises(DataError, match=r"train_files.txt names no files"):
        modelnet40.load(release, True)
    (release / "shape_names.txt").unlink()
    with pytest.raises(DataError, match=r"shape_names.txt: cannot be read as a list"):
        modelnet40.load(release, True)


def test_other_folders_are_explained(tmp_path):
    with pytest.raises(DataError, match=r"--data DIR(.|\n)*modelnet40_ply_hdf5_2048"):
        modelnet40.load(None, False)
    with pytest.raises(DataError, match="no such folder"):
        modelnet40.load(tmp_path / "gone", False)
    (tmp_path / "cat" / "train").mkdir(parents=True)  # a tree of images looks like this
    with pytest.raises(DataError, match=r"no ModelNet in (.|\n)*<class>/train/\*.off"):
        modelnet40.load(tmp_path, True)


def test_recipes():
    assert modelnet40.full_precision == modelnet40.binarized
    assert (modelnet40.full_precision.epochs, modelnet40.full_precision.batch_size) == (200, 256)
    assert modelnet40.example().shape == (2, 3, 1024)
    for task in (modelnet40, modelnet40_normals):
        assert registry.get("tasks", task.name) is task
        for name in task.architectures:
            assert registry.get("architectures", name).build(task.input_shape, task.outputs) is not None


def test_real_clouds(real_data):
    data = modelnet40.load(real_data / "modelnet10_hdf5_1024", True)
    assert (data.outputs, len(data.train), len(data.test)) == (10, 3928, 609)
    assert data.labels[0] == "bathtub"
    assert "10 of 40 classes, 3,928 of 9,840 training and 609 of 2,468 test clouds" in data.notes[0]
    assert data.train.points.abs().max() <= 1
    points, classes = next(data.train.batches(32, device=CPU, seed=0))
    assert points.shape == (32, 3, 1024)
    assert classes.unique().numel() > 3


@pytest.mark.slow
def test_real_meshes_look_like_the_real_clouds(real_data):
    """Same objects, other points: each axis's spread agrees (the clouds were made from these meshes)."""
    data = modelnet40.load(real_data / "ModelNet10", True)
    assert (data.outputs, len(data.train), len(data.test)) == (10, 664, 207)
    ids = [
        line.split()[-1]
        for line in (real_data / "modelnet10_hdf5_1024/ply_data_test0_ids.txt").read_text().split("\n")
        if line
    ]
    clouds = modelnet40.load(real_data / "modelnet10_hdf5_1024", True)
    files = sorted((real_data / "ModelNet10").glob("*/test/*.off"), key=lambda path: (path.parents[1].name, path.name))
    stems = [path.stem for path in files]
    by_stem = {identity.rpartition("/")[2].removesuffix(".off"): row for row, identity in enumerate(ids)}
    pairs = [(mesh, by_stem[stem]) for mesh, stem in enumerate(stems) if stem in by_stem]
    assert len(pairs) > 100
    ours, theirs = (torch.tensor(column) for column in zip(*pairs, strict=True))
    one, other = data.test.points[ours].std(dim=2), clouds.test.points[theirs].std(dim=2)
    assert ((one - other).abs() < 0.06).all()
