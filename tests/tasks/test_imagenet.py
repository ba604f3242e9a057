"""ImageNet: trees of image files, crops that depend on the seed alone, damaged files."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from bibench import registry
from bibench.tasks import imagenet as module
from bibench.tasks.base import DataError
from bibench.tasks.corruptions import corrupt
from bibench.tasks.imagenet import ImageFiles, imagenet

CPU = torch.device("cpu")


@pytest.fixture
def tree(tmp_path):
    """Two classes with three training images and one test image each."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 1)):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(256, size=(40 + number, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def _all(split, **options):
    images, labels = zip(*split.batches(2, device=CPU, **options), strict=True)
    return torch.cat(images), torch.cat(labels)


def test_loads_a_part_and_says_so(tree):
    data = imagenet.load(tree, True)
    assert (len(data.train), len(data.test), data.outputs) == (6, 2, 2)
    assert data.notes == ("2 of 1,000 classes, 6 of 1,281,167 training and 2 of 50,000 test images",)
    with pytest.raises(DataError, match=r"has 2 of 1,000 classes, .*--allow-subset(.|\n)*train/<class>"):
        imagenet.load(tree, False)


def test_the_whole_needs_no_note(tree, monkeypatch):
    for name, value in (("_CLASSES", 2), ("_TRAIN", 6), ("_TEST", 2)):
        monkeypatch.setattr(module, name, value)
    assert imagenet.load(tree, False).notes == ()


def test_a_folder_imagenet_below_is_found(tree, tmp_path):
    above = tmp_path / "above"
    above.mkdir()
    (above / "imagenet").symlink_to(tree)
    assert imagenet.load(above, True).fingerprint == imagenet.load(tree, True).fingerprint


def test_fingerprint_is_of_names_and_sizes(tree):
    before = imagenet.load(tree, True).fingerprint
    path = tree / "train" / "cat" / "0.png"
    path.rename(path.with_name("9.png"))
    renamed = imagenet.load(tree, True).fingerprint
    with path.with_name("9.png").open("ab") as file:
        file.write(b"\0")
    assert len({before, renamed, imagenet.load(tree, True).fingerprint}) == 3


@pytest.mark.parametrize("seed", [None, 0, 7])
def test_the_number_of_workers_changes_nothing(tree, seed):
    samples = imagenet.load(tree, True).train.samples
    state = torch.get_rng_state()
    images, labels = _all(ImageFiles(samples=samples, workers=0), seed=seed)
    assert torch.equal(state, torch.get_rng_state())  # the global generator is left alone
    torch.manual_seed(1)
    others, other_labels = _all(ImageFiles(samples=samples, workers=2), seed=seed)
    assert torch.equal(images, others)
    assert torch.equal(labels, other_labels)
    assert images.shape == (6, 3, 224, 224)
    assert images.dtype == torch.float32


def test_other_seeds_give_other_crops_in_another_order(tree):
    split = ImageFiles(samples=imagenet.load(tree, True).train.samples, workers=0)
    assert not torch.equal(_all(split, seed=1)[0], _all(split, seed=2)[0])
    one = ImageFiles(samples=split.samples[:1], workers=0)
    crops = [_all(one, seed=seed)[0] for seed in range(3)]
    assert not torch.equal(crops[0], crops[1])
    two = ImageFiles(samples=[split.samples[0]] * 2, workers=0)  # the same image twice, cropped differently
    first, second = _all(two, seed=0)[0]
    assert not torch.equal(first, second)


def test_evaluation_is_everything_in_order_and_training_whole_batches(tree):
    split = ImageFiles(samples=imagenet.load(tree, True).train.samples, workers=0)
    assert _all(split)[1].tolist() == [0, 0, 0, 1, 1, 1]
    sizes = [[len(labels) for _, labels in split.batches(size, device=CPU, seed=0)] for size in (4, 6, 100)]
    assert sizes == [[4], [6], [6]]


def test_evaluation_cuts_the_centre_and_normalises(tree):
    """A grey image with a white frame that Resize(256) and CenterCrop(224) cut away."""
    pixels = np.full((256, 256, 3), 128, dtype=np.uint8)
    pixels[:16] = pixels[-16:] = pixels[:, :16] = pixels[:, -16:] = 255
    path = tree / "frame.png"
    Image.fromarray(pixels).save(path)
    images, _ = _all(ImageFiles(samples=[(str(path), 0)], workers=0))
    expected = (128 / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(images[0], expected.view(3, 1, 1).expand(3, 224, 224), rtol=1e-5, atol=1e-5)


def test_corruption_is_of_the_centre_before_normalisation(tree):
    data = imagenet.load(tree, True)
    clean, labels = _all(data.test)
    for name in ("contrast", "gaussian_noise"):
        corrupted = data.corrupted(name, 3)
        assert corrupted.origin == "generated"
        found, found_labels = _all(corrupted.split)
        assert torch.equal(labels, found_labels)
        scale = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
        bytes_ = ((clean * scale[1] + scale[0]) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        expected = torch.from_numpy(corrupt(bytes_, name, 3)).permute(0, 3, 1, 2) / 255
        torch.testing.assert_close(found, (expected - scale[0]) / scale[1], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="did you mean 'fog'"):
        data.corrupted("frog", 1)


def test_corruption_depends_on_the_image_s_number_alone(tree):
    split = imagenet.load(tree, True).corrupted("gaussian_noise", 5).split
    found = torch.cat([images for images, _ in replace(split, workers=0).batches(1, device=CPU)])
    assert torch.equal(found, _all(replace(split, workers=2))[0])
    twice = replace(split, samples=[split.samples[0]] * 2, workers=0)
    first, second = _all(twice)[0]
    assert torch.equal(first, found[0])
    assert not torch.equal(first, second)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("length", [0, 20, 3000])
def test_a_damaged_file_is_named(tree, length, workers):
    path = tree / "val" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:length])
    split = ImageFiles(samples=imagenet.load(tree, True).test.samples, workers=workers)
    with pytest.raises(DataError, match=r"dog/0.png: cannot be read as an image"):
        list(split.batches(2, device=CPU))


def test_a_text_file_is_no_image(tree):
    (tree / "val" / "dog" / "0.png").write_text("hello")
    with pytest.raises(DataError, match=r"dog/0.png: cannot be read as an image"):
        _all(ImageFiles(samples=imagenet.load(tree, True).test.samples, workers=0))


def test_other_trees_are_explained(tree):
    with pytest.raises(DataError, match=r"--data DIR(.|\n)*train/<class>"):
        imagenet.load(None, False)
    with pytest.raises(DataError, match=r"train(.|\n)*train/<class>"):
        imagenet.load(tree / "train", True)
    (tree / "val" / "dog").rename(tree / "val" / "fox")
    with pytest.raises(DataError, match="train has 2 classes and val 2; 2 are in one of them only, such as dog"):
        imagenet.load(tree, True)
    (tree / "val" / "fox" / "0.png").unlink()
    with pytest.raises(DataError, match=r"val: Found no valid file for the classes fox"):
        imagenet.load(tree, True)


def test_recipes():
    assert imagenet.full_precision.epochs == imagenet.binarized.epochs == 100
    assert imagenet.full_precision.batch_size == imagenet.binarized.batch_size == 256
    assert registry.get("tasks", "imagenet") is imagenet
    assert imagenet.example().shape == (2, 3, 224, 224)


def test_real_subset(real_data):
    data = imagenet.load(real_data / "tiny-imagenet-25", True)
    assert (data.outputs, len(data.train), len(data.test)) == (25, 8750, 1250)
    assert data.notes == ("25 of 1,000 classes, 8,750 of 1,281,167 training and 1,250 of 50,000 test images",)
    for seed in (None, 0):
        images, labels = next(ImageFiles(samples=data.train.samples, workers=0).batches(16, device=CPU, seed=seed))
        assert images.shape == (16, 3, 224, 224)
        assert labels.shape == (16,)
        assert images.abs().max() < 3
    assert labels.unique().numel() > 3  # shuffled


def test_real_full_size_images(real_data):
    files = sorted((real_data / "imagenet-sample" / "val").glob("*/*.JPEG"))[:8]
    images, _ = next(ImageFiles(samples=[(str(file), 0) for file in files], workers=0).batches(8, device=CPU))
    assert images.shape == (8, 3, 224, 224)
