"""Preprocessing gives, of an original image, exactly what the task's evaluation gives its networks."""

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from bibench.tasks.base import DataError
from bibench.tasks.cifar10 import cifar10
from bibench.tasks.digits import digits
from bibench.tasks.imagenet import ImageFiles, imagenet
from bibench.tasks.movielens import movielens
from bibench.tasks.preprocessing import Preprocessing

CPU = torch.device("cpu")
PHOTO = {"channels": 3, "size": (8, 6), "mean": (1.0, 2.0, 3.0), "std": (4.0, 5.0, 6.0)}


def of(**changes):
    return Preprocessing(**(PHOTO | changes))


def test_a_digit_saved_as_an_image_is_the_digit_again(tmp_path):
    test = digits.load(None, False).test
    inputs, _ = next(test.batches(len(test), device=CPU))
    for number in range(40):
        photograph = np.rint(test.images[number, 0].numpy() * (255 / 16)).astype(np.uint8)
        path = tmp_path / "digit.png"
        Image.fromarray(photograph).save(path)
        for given in (path, str(path), Image.fromarray(photograph), photograph, photograph[..., None].repeat(3, 2)):
            found = digits.preprocessing.apply(given)
            assert found.dtype == np.float32
            assert np.array_equal(found, inputs[number].numpy())


def test_original_cifar10_images(real_data):
    test = cifar10.load(real_data / "cifar-10-lossless-subset", True).test
    inputs, _ = next(test.batches(64, device=CPU))
    for number in range(64):
        found = cifar10.preprocessing.apply(test.images[number].permute(1, 2, 0).numpy())
        assert np.array_equal(found, inputs[number].numpy())


def test_original_imagenet_images(real_data):
    files = sorted((real_data / "imagenet-sample" / "val").glob("*/*.JPEG"))[:8]
    inputs, _ = next(ImageFiles(samples=[(str(file), 0) for file in files], workers=0).batches(8, device=CPU))
    for file, expected in zip(files, inputs, strict=True):
        assert np.array_equal(imagenet.preprocessing.apply(file), expected.numpy())


def test_imagenet_evaluation_is_the_same_for_every_kind_of_file(tmp_path):
    generator = np.random.default_rng(0)
    pixels = generator.integers(256, size=(300, 280, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    kinds = {"a.png": image, "b.jpg": image, "c.png": image.convert("L"), "d.png": image.convert("P")}
    kinds |= {"e.png": image.convert("RGBA"), "f.png": image.convert("1"), "g.jpg": image.convert("CMYK")}
    for name, content in kinds.items():
        content.save(tmp_path / name)
    samples = [(str(tmp_path / name), 0) for name in kinds]
    inputs, _ = next(ImageFiles(samples=samples, workers=0).batches(len(samples), device=CPU))
    for (path, _), expected in zip(samples, inputs, strict=True):
        assert np.array_equal(imagenet.preprocessing.apply(path), expected.numpy()), path


def test_every_channel_has_its_own_mean_and_std():
    found = of().apply(np.full((8, 6, 3), 100, np.uint8))
    assert found.shape == (3, 8, 6)
    assert found[:, 0, 0].tolist() == pytest.approx([99 / 4, 98 / 5, 97 / 6])


def test_other_sizes_are_resized_to_the_size_or_cropped():
    wide = np.zeros((20, 60, 3), np.uint8)
    wide[:, 30:] = 255
    whole = of(mean=(0,) * 3, std=(255,) * 3).apply(wide)
    assert whole.shape == (3, 8, 6)
    assert (whole[:, :, 0] == 0).all()
    assert (whole[:, :, -1] == 1).all()
    left = wide.copy()
    left[:, :30] = 7  # the shorter side is 10 then, so 8x6 of 10x30 remain: columns 12 to 17, around the edge
    centre = of(resize=10, mean=(0,) * 3, std=(1,) * 3).apply(left)
    assert set(centre[0, :, 0]) == {7}
    assert set(centre[0, :, -1]) == {255}


def test_an_array_is_checked():
    for wrong in (np.zeros((8, 6, 3), np.float32), np.zeros((8, 6, 4), np.uint8), np.zeros((0, 6), np.uint8)):
        with pytest.raises(DataError, match="expected uint8 pixels of shape"):
            of().apply(wrong)


def test_a_bad_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.png: no such file"):
        of().apply(tmp_path / "none.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png: cannot be read as an image"):
        of().apply(tmp_path / "text.png")
    with pytest.raises(DataError, match="cannot be read as an image"):
        of().apply(tmp_path)
    Image.fromarray(np.zeros((50, 50), np.uint8)).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:60])
    with pytest.raises(DataError, match=r"cut\.png: cannot be read as an image"):
        of().apply(tmp_path / "cut.png")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 2}, "1 or 3"),
        ({"mean": (1.0,)}, "mean has 1 values for 3 channels"),
        ({"std": (1.0, 1.0)}, "std has 2 values for 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "greater than 0"),
        ({"high": 0}, "greater than 0"),
        ({"high": float("inf")}, "finite"),
        ({"mean": (1.0, float("nan"), 1.0)}, "finite"),
        ({"size": (0, 4)}, "greater than or equal to 1"),
        ({"resize": 7}, "resize is 7, and the centre of 8x6"),
        ({"kind": "sound"}, "image"),
        ({"crop": 3}, "Extra inputs"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, message):
    with pytest.raises(ValidationError, match=message):
        of(**changes)


@pytest.mark.parametrize("task", [digits, cifar10, imagenet])
def test_it_survives_json(task):
    text = task.preprocessing.model_dump_json()
    assert Preprocessing.model_validate_json(text) == task.preprocessing
    assert (task.preprocessing.channels, *task.preprocessing.size) == task.input_shape


def test_labels(tmp_path):
    assert digits.labels == tuple("0123456789")
    assert (len(cifar10.labels), cifar10.labels[0], cifar10.labels[3], cifar10.labels[9]) == (
        10,
        "airplane",
        "cat",
        "truck",
    )
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(tmp_path / split / name / "0.png")
    assert imagenet.labels == ()
    assert imagenet.load(tmp_path, True).labels == ("cat", "dog")
    assert (movielens.preprocessing, movielens.labels) == (None, ())


def test_labels_are_those_of_the_original(real_data):
    import pickle

    path = real_data / "cifar-10-lossless-subset" / "cifar-10-batches-py" / "batches.meta"
    if not path.is_file():
        pytest.skip("no batches.meta")
    assert cifar10.labels == tuple(pickle.loads(path.read_bytes())["label_names"])
