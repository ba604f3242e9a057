"""Clouds in memory, HDF5 arrays, metrics of point clouds against hand-computed cases, the cache of sampled points."""

import h5py
import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, jaccard_score

from bibench.tasks.base import DataError
from bibench.tasks.points import (
    Clouds,
    content_hash,
    evaluate_classes,
    evaluate_parts,
    loss,
    open_hdf5,
    read_rows,
    unit_sphere,
)

CPU = torch.device("cpu")


def clouds(count=10, channels=6, category=False):
    generator = torch.Generator().manual_seed(3)
    return Clouds(
        points=torch.randn(count, channels, 7, generator=generator),
        answers=torch.arange(count),
        category=torch.arange(count) % 4 if category else None,
        categories=4 if category else 0,
    )


def test_clouds_become_centred_and_of_radius_1():
    found = unit_sphere(np.random.default_rng(0).normal(5, 2, (4, 50, 3)).astype(np.float32))
    np.testing.assert_allclose(found.mean(axis=1), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=2).max(axis=1), 1, rtol=1e-6)
    assert unit_sphere(np.full((3, 3), 7, np.float32)).tolist() == [[0, 0, 0]] * 3  # a single place


def test_evaluation_is_everything_in_order_as_it_is():
    split = clouds()
    points, answers = (torch.cat(column) for column in zip(*split.batches(4, device=CPU), strict=True))
    assert torch.equal(points, split.points)
    assert torch.equal(answers, split.answers)


def test_training_is_a_scale_and_a_shift_of_each_cloud():
    split = clouds(40)
    before = split.points.clone()
    batches = list(split.batches(8, device=CPU, seed=5))
    assert [len(answers) for _, answers in batches] == [8] * 5
    points, answers = (torch.cat(column) for column in zip(*batches, strict=True))
    assert sorted(answers.tolist()) == list(range(40))
    original = split.points[answers]
    assert torch.equal(points[:, 3:], original[:, 3:])  # normals stay
    spread = points[:, :3].max(dim=2).values - points[:, :3].min(dim=2).values
    scale = spread / (original[:, :3].max(dim=2).values - original[:, :3].min(dim=2).values)
    torch.testing.assert_close(scale, scale[:, :1].expand(-1, 3))  # one number for the three axes
    assert 0.8 <= scale.min() < 0.85 < 1.2 < scale.max() <= 1.25
    shift = points[:, :3] - original[:, :3] * scale[:, :1, None]
    torch.testing.assert_close(shift, shift[:, :, :1].expand_as(shift), rtol=1e-4, atol=1e-5)
    assert 0.09 < shift.abs().max() < 0.10001
    assert torch.equal(split.points, before)  # the data stay as they are


def test_training_depends_on_the_seed_alone():
    split = clouds()
    state = torch.get_rng_state()
    one, same, other = (list(split.batches(4, device=CPU, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(a, b) for first, second in zip(one, same, strict=True) for a, b in zip(first, second, strict=True)
    )
    assert not torch.equal(one[0][0], other[0][0])
    assert [len(answers) for _, answers in split.batches(100, device=CPU, seed=0)] == [10]


def test_the_category_comes_as_signs_and_third():
    split = clouds(category=True)
    for seed in (None, 0):
        points, answers, category = next(iter(split.batches(5, device=CPU, seed=seed)))
        assert points.shape == (5, 10, 7)
        assert torch.equal(category, answers % 4)
        signs = points[:, 6:]
        assert set(signs.unique().tolist()) == {-1.0, 1.0}
        assert torch.equal(signs.argmax(dim=1), category[:, None].expand(-1, 7))
        assert (signs.sum(dim=1) == -2).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": torch.zeros(3, 3)}, r"points must be float32 of shape \(clouds, channels, points\)"),
        ({"points": torch.zeros(3, 3, 4, dtype=torch.float64)}, "got torch.float64"),
        ({"answers": torch.zeros(4, dtype=torch.int64)}, "answers must be int64 with 3 rows"),
        ({"answers": torch.zeros(3)}, "answers must be int64"),
        ({"category": torch.zeros(2, dtype=torch.int64)}, "category must be int64 with 3 rows"),
    ],
)
def test_other_shapes_are_refused(changes, message):
    good = {"points": torch.zeros(3, 3, 4), "answers": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        Clouds(**(good | changes))


def test_accuracy_by_class_is_scikit_learn_s():
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(100, 6, generator=generator)
    answers = torch.randint(5, (100,), generator=generator)  # the sixth class never comes
    batches = [(outputs[i : i + 30], answers[i : i + 30]) for i in range(0, 100, 30)]
    found = evaluate_classes(lambda x: x, batches)
    predicted = outputs.argmax(dim=1)
    assert found.figures["accuracy"] == pytest.approx(100 * (predicted == answers).double().mean().item())
    with pytest.warns(UserWarning, match="y_pred contains classes"):
        expected = balanced_accuracy_score(answers, predicted)
    assert found.figures["class_accuracy"] == pytest.approx(100 * expected)
    assert found.figures["loss"] == pytest.approx(torch.nn.functional.cross_entropy(outputs, answers).item())
    assert found.per_sample.tolist() == (predicted == answers).float().tolist()


def test_accuracy_by_class_of_a_hand_computed_case():
    """Three of class 0, two right; one of class 2, wrong: 2/4 overall, (2/3 + 0) / 2 by class."""
    outputs = torch.eye(3)[[0, 0, 1, 0]]
    figures = evaluate_classes(lambda x: x, [(outputs, torch.tensor([0, 0, 0, 2]))]).figures
    assert figures["accuracy"] == pytest.approx(50)
    assert figures["class_accuracy"] == pytest.approx(100 / 3)


PARTS = (("Mug", range(0, 2)), ("Lamp", range(2, 5)))


def parts_of(*objects):
    """Batches of one: predicted parts, true parts, category. The network's outputs are one-hot predictions."""
    return [
        (
            torch.nn.functional.one_hot(torch.tensor(predicted), 5).T[None].float(),
            torch.tensor([true]),
            torch.tensor([c]),
        )
        for predicted, true, c in objects
    ]


def test_iou_of_hand_computed_cases():
    found = evaluate_parts(
        lambda x: x,
        parts_of(
            ([0, 0, 1, 1], [0, 1, 1, 1], 0),  # part 0: 1/2, part 1: 2/3
            ([0, 0, 0, 0], [0, 0, 0, 0], 0),  # part 1 is neither there nor predicted: 1
            ([2, 2, 3, 3], [2, 2, 2, 2], 1),  # part 2: 2/4, part 3: 0/2, part 4: 1
        ),
        parts=PARTS,
    )
    ious = [7 / 12, 1, 0.5]
    assert found.per_sample.tolist() == pytest.approx(ious)
    assert found.figures["miou_objects"] == pytest.approx(100 * sum(ious) / 3)
    assert found.subsets == {"mug": pytest.approx(100 * 19 / 24), "lamp": pytest.approx(50)}
    assert found.figures["miou"] == pytest.approx(100 * (19 / 24 + 0.5) / 2)


def test_only_parts_of_the_own_category_are_predicted():
    """The network is surest of a lamp's part on a mug; its choice among the mug's counts."""
    outputs = torch.tensor([[[0.1, 0.3], [0.2, 0.1], [9.0, 9.0], [9.0, 9.0], [9.0, 9.0]]])
    found = evaluate_parts(lambda x: x, [(outputs, torch.tensor([[1, 0]]), torch.tensor([0]))], parts=PARTS)
    assert found.figures["miou"] == 100
    assert list(found.subsets) == ["mug"]


def test_iou_is_scikit_learn_s():
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(20, 5, 30, generator=generator)
    category = torch.arange(20) % 2
    answers = torch.where(
        category[:, None] == 0,
        torch.randint(2, (20, 30), generator=generator),
        2 + torch.randint(2, (20, 30), generator=generator),  # part 4 is never there
    )
    batches = [(outputs[:13], answers[:13], category[:13]), (outputs[13:], answers[13:], category[13:])]
    found = evaluate_parts(lambda x: x, batches, parts=PARTS)
    expected = []
    for output, answer, kind in zip(outputs, answers, category, strict=True):
        own = PARTS[kind][1]
        predicted = output[own.start : own.stop].argmax(dim=0) + own.start
        ious = jaccard_score(answer, predicted, labels=list(own), average=None, zero_division=1.0)
        expected.append(ious.mean())
    assert found.per_sample.tolist() == pytest.approx(expected, rel=1e-6)
    assert found.figures["miou_objects"] == pytest.approx(100 * np.mean(expected), rel=1e-6)


@pytest.mark.parametrize("evaluate", [evaluate_classes, lambda *a: evaluate_parts(*a, parts=PARTS)])
def test_no_batch_is_an_error(evaluate):
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate(lambda x: x, [])


def test_loss_over_points_is_the_mean_over_all():
    outputs, answers = torch.randn(2, 5, 7), torch.randint(5, (2, 7))
    expected = -outputs.log_softmax(dim=1).gather(1, answers[:, None]).mean()
    torch.testing.assert_close(loss(lambda x: x, (outputs, answers)), expected)


@pytest.fixture
def hdf5(tmp_path):
    path = tmp_path / "some.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.arange(60, dtype=np.float32).reshape(2, 10, 3)
        file["label"] = np.array([[1], [2]], dtype=np.uint8)
        file["bare"] = np.array([1, 2])
        file["half"] = np.array([1, 2.5])
        file["nan"] = np.array([[[0, np.nan, 0]], [[0, 0, 0]]])
        file["text"] = np.array([b"a", b"b"])
        file["none"] = np.zeros((0, 4, 3))
        file["single"] = 3.0
        file["empty"] = h5py.Empty("f4")
        file.create_group("group")
    return path


def test_rows_are_read_as_far_as_they_are_wanted(hdf5):
    with open_hdf5(hdf5) as file:
        assert read_rows(file, "data", (4, 3)).tolist() == np.arange(60.0).reshape(2, 10, 3)[:, :4].tolist()
        assert read_rows(file, "label", (), whole=True).tolist() == [1, 2]
        assert read_rows(file, "bare", (), whole=True).dtype == np.int64


@pytest.mark.parametrize(
    ("name", "shape", "whole", "message"),
    [
        ("other", (), False, r"some.h5, array 'other': missing; the file has bare, data"),
        ("group", (), False, "array 'group': missing"),
        ("data", (11, 3), False, r"array 'data': shape \(2, 10, 3\), expected \(rows, 11 or more, 3 or more\)"),
        ("data", (), True, r"array 'data': shape \(2, 10, 3\), expected \(rows\)"),
        ("single", (), False, r"array 'single': shape \(\), expected \(rows\)"),
        ("empty", (), False, r"array 'empty': shape None, expected \(rows\)"),
        ("none", (4, 3), False, r"array 'none': shape \(0, 4, 3\)"),
        ("half", (), True, r"array 'half', row 1: 2.5 is no whole number"),
        ("nan", (1, 3), False, r"array 'nan', row 0: nan is no finite number"),
        ("text", (), False, r"array 'text': type .*, expected numbers"),
    ],
)
def test_bad_arrays_are_named(hdf5, name, shape, whole, message):
    with open_hdf5(hdf5) as file, pytest.raises(DataError, match=message):
        read_rows(file, name, shape, whole=whole)


def test_truncated_files_are_named(hdf5, tmp_path):
    content = hdf5.read_bytes()
    for length in (0, 10, len(content) // 2, len(content) - 1):
        hdf5.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"some.h5: cannot be read as an HDF5 file"):
            open_hdf5(hdf5)
    with pytest.raises(DataError, match=r"gone.h5 is missing"):
        open_hdf5(tmp_path / "gone.h5")


def test_an_array_that_is_damaged_inside_is_named(tmp_path):
    path = tmp_path / "packed.h5"
    values = np.random.default_rng(0).random((4, 500, 3), dtype=np.float32)
    with h5py.File(path, "w") as file:
        file.create_dataset("data", data=values, compression="gzip", chunks=(4, 500, 3))
        start, size = file["data"].id.get_chunk_info(0).byte_offset, file["data"].id.get_chunk_info(0).size
    content = bytearray(path.read_bytes())
    content[start : start + size] = bytes(size)
    path.write_bytes(content)
    with open_hdf5(path) as file, pytest.raises(DataError, match=r"packed.h5, array 'data': cannot be read"):
        read_rows(file, "data", (500, 3))


def test_hash_is_of_the_content(tmp_path):
    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    a, b, c = content_hash(tmp_path, ["a", "b", "c"]).values()
    assert a == b != c
