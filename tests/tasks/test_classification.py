"""Loss, metric, and data sets in memory: batches, order, augmentation."""

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from bibench.tasks.classification import (
    ImagesInMemory,
    commonest,
    crop_and_flip,
    evaluate,
    fingerprint,
    loss,
    normalise,
)

CPU = torch.device("cpu")
few = settings(max_examples=30, deadline=None)


def _split(samples, *, pad=0, flip=False, channels=1, height=3, width=4):
    """Images whose pixels all carry the sample's number plus one (so that padding is distinct)."""
    numbers = torch.arange(1, samples + 1, dtype=torch.uint8)
    images = numbers.view(-1, 1, 1, 1).expand(-1, channels, height, width).contiguous()
    return ImagesInMemory(
        images=images,
        labels=torch.arange(samples),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        pad=pad,
        flip=flip,
    )


def _slow_crop(image, top, left, mirror, pad):
    """One image at a time, pixel by pixel, from the definition."""
    channels, height, width = image.shape
    result = torch.zeros_like(image)
    for channel in range(channels):
        for row in range(height):
            for column in range(width):
                y, x = row + top - pad, (width - 1 - column if mirror else column) + left - pad
                if 0 <= y < height and 0 <= x < width:
                    result[channel, row, column] = image[channel, y, x]
    return result


@few
@given(data=st.data(), seed=st.integers(0, 1000))
def test_crop_and_flip_equals_the_definition(data, seed):
    samples, channels, height, width = (data.draw(st.integers(1, most)) for most in (4, 3, 5, 5))
    pad = data.draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(256, (samples, channels, height, width), dtype=torch.uint8, generator=generator)
    top, left = torch.randint(2 * pad + 1, (2, samples), generator=generator)
    mirror = torch.rand(samples, generator=generator) < 0.5
    cut = crop_and_flip(images, top, left, mirror, pad)
    arguments = zip(images, top.tolist(), left.tolist(), mirror.tolist(), strict=True)
    torch.testing.assert_close(cut, torch.stack([_slow_crop(*each, pad) for each in arguments]), rtol=0, atol=0)


@few
@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_evaluation_covers_everything_once_in_order(samples, batch_size):
    batches = list(_split(samples, pad=2, flip=True).batches(batch_size, device=CPU))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(samples))
    assert torch.equal(torch.cat([images for images, _ in batches])[:, 0, 0, 0], torch.arange(1.0, samples + 1))


@few
@given(samples=st.integers(1, 40), batch_size=st.integers(1, 50), seed=st.integers(0, 2**63 - 1))
def test_training_leaves_out_the_last_partial_batch_only(samples, batch_size, seed):
    labels = [labels for _, labels in _split(samples).batches(batch_size, device=CPU, seed=seed)]
    assert len(labels) == max(1, samples // batch_size)
    assert {len(part) for part in labels} == {min(samples, batch_size)}
    assert len(set(torch.cat(labels).tolist())) == sum(map(len, labels))  # nothing twice


@few
@given(seed=st.integers(0, 2**31), other=st.integers(0, 2**31))
def test_batches_depend_on_the_seed_alone(seed, other):
    split = ImagesInMemory(
        images=torch.arange(20 * 16).remainder(251).to(torch.uint8).view(20, 1, 4, 4),
        labels=torch.arange(20),
        mean=(0.0,),
        std=(1.0,),
        pad=2,
        flip=True,
    )
    torch.manual_seed(0)
    first = torch.cat([images for images, _ in split.batches(5, device=CPU, seed=seed)])
    torch.manual_seed(1)
    state = torch.get_rng_state()
    again = torch.cat([images for images, _ in split.batches(5, device=CPU, seed=seed)])
    assert torch.equal(first, again)
    assert torch.equal(state, torch.get_rng_state())  # and the global generator is left alone
    if other != seed:
        assert not torch.equal(first, torch.cat([images for images, _ in split.batches(5, device=CPU, seed=other)]))


def test_an_image_keeps_its_label():
    for images, labels in _split(40, pad=1, flip=True).batches(8, device=CPU, seed=3):
        assert torch.equal(images.amax(dim=(1, 2, 3)), labels + 1.0)


@pytest.mark.parametrize(("pad", "flip"), [(0, False), (0, True), (2, False)])
def test_augmentation_is_what_was_asked_for(pad, flip):
    image = torch.arange(1, 26, dtype=torch.uint8).view(1, 1, 5, 5)
    split = ImagesInMemory(
        images=image.expand(500, 1, 5, 5).contiguous(),
        labels=torch.zeros(500, dtype=torch.int64),
        mean=(0.0,),
        std=(1.0,),
        pad=pad,
        flip=flip,
    )
    ((images, _),) = split.batches(500, device=CPU, seed=0)
    padded = F.pad(image[0, 0].float(), (pad,) * 4)
    windows = [padded[y : y + 5, x : x + 5] for y in range(2 * pad + 1) for x in range(2 * pad + 1)]
    possible = {tuple(view.flatten().tolist()) for window in windows for view in (window, window.flip(1))[: 1 + flip]}
    seen = [tuple(each.flatten().tolist()) for each in images]
    assert set(seen) == possible  # each of them, and nothing else
    most = max(seen.count(each) for each in possible)
    assert most < 2 * 500 / len(possible) + (len(possible) == 1)  # about equally often


def test_normalises_by_channel():
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    found = normalise(images, (0.0, 10.0, 20.0), (1.0, 2.0, 4.0))
    torch.testing.assert_close(found.flatten(), torch.tensor([10.0, 5.0, 2.5]))
    assert images.flatten().tolist() == [10, 20, 30]


def test_padding_is_black_before_normalisation():
    split = ImagesInMemory(
        images=torch.full((50, 1, 2, 2), 100, dtype=torch.uint8),
        labels=torch.zeros(50, dtype=torch.int64),
        mean=(50.0,),
        std=(10.0,),
        pad=1,
    )
    ((images, _),) = split.batches(50, device=CPU, seed=0)
    assert set(images.unique().tolist()) == {-5.0, 5.0}


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64), "images must be uint8 .* got torch.float32"),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2, dtype=torch.int64), r"got .* \(2, 4, 4\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64), r"shape \(2,\), .* \(3,\)"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2), "labels must be int64 .* got torch.float32"),
    ],
)
def test_refuses_other_tensors(images, labels, message):
    with pytest.raises(ValueError, match=message):
        ImagesInMemory(images=images, labels=labels, mean=(0.0,), std=(1.0,))


def test_evaluation_equals_the_definition_whatever_the_batches():
    outputs, labels = torch.randn(50, 5), torch.randint(5, (50,))
    inputs = outputs.view(50, 5, 1, 1)
    for size in (50, 7):
        found = evaluate(nn.Flatten(), zip(inputs.split(size), labels.split(size), strict=True))
        right = [float(row.argmax() == label) for row, label in zip(outputs, labels, strict=True)]
        assert found.figures["accuracy"] == pytest.approx(100 * sum(right) / 50)
        assert found.figures["loss"] == pytest.approx(F.cross_entropy(outputs, labels).item(), rel=1e-6)
        assert found.per_sample.dtype == np.float32
        assert found.per_sample.tolist() == right


@given(labels=st.lists(st.integers(0, 4), min_size=1, max_size=60))
def test_the_commonest_answer_is_the_best_constant_network(labels):
    def constant(answer):
        batch = (torch.zeros(len(labels), 1, 1, 1), torch.tensor(labels))
        return evaluate(lambda inputs: torch.eye(5)[answer].expand(len(inputs), -1), [batch])

    found = commonest(labels, "abcde")
    best = max(range(5), key=lambda answer: constant(answer).figures["accuracy"])  # the first of several
    assert found.answer == f"one answer for all test samples ('{'abcde'[best]}')"
    assert found.value == pytest.approx(constant(best).figures["accuracy"])
    error = constant(best).per_sample.std() / len(labels) ** 0.5
    assert found.margin == pytest.approx(200 * error, rel=1e-5, abs=1e-4)


def test_evaluation_without_samples_is_an_error():
    with pytest.raises(ValueError, match="at least one batch"):
        evaluate(nn.Flatten(), [])


def test_loss_has_the_gradient_of_cross_entropy():
    outputs = torch.randn(4, 3, 1, 1, dtype=torch.float32, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    loss(nn.Flatten(), (outputs, labels)).backward()
    expected = (outputs.detach().flatten(1).softmax(1) - F.one_hot(labels, 3)) / 4
    torch.testing.assert_close(outputs.grad.flatten(1), expected)


def test_fingerprint_is_of_shape_type_and_content():
    array = np.arange(6, dtype=np.int64)
    expected = hashlib.sha256(b"<i8(6,)" + array.astype("<i8").tobytes()).hexdigest()
    assert fingerprint(array) == fingerprint(array.astype(">i8")) == expected
    others = [fingerprint(array.reshape(2, 3)), fingerprint(array.astype(np.int32)), fingerprint(array + 1)]
    assert len({expected, *others}) == 4
    assert fingerprint(array[::-1]) == fingerprint(array[::-1].copy())


def test_other_images_keep_labels_normalisation_and_augmentation():
    split = ImagesInMemory(
        images=torch.zeros(6, 3, 4, 5, dtype=torch.uint8),
        labels=torch.arange(6),
        mean=(1.0, 2.0, 3.0),
        std=(4.0, 5.0, 6.0),
        pad=2,
        flip=True,
    )
    before = list(split.batches(6, device=CPU))
    images = torch.randint(256, (6, 4, 5, 3), dtype=torch.uint8).movedim(-1, 1)  # channels last in memory
    other = split.with_images(images)
    assert (other.mean, other.std, other.pad, other.flip) == (split.mean, split.std, 2, True)
    ((found, labels),) = other.batches(6, device=CPU)
    assert torch.equal(labels, split.labels)
    assert torch.equal(found, normalise(images.contiguous(), split.mean, split.std))
    assert found.is_contiguous()
    assert torch.equal(before[0][0], next(split.batches(6, device=CPU))[0])  # the first split has its own
    with pytest.raises(ValueError, match=r"must be of shape \(6, 3, 4, 5\), got \(5, 3, 4, 5\)"):
        split.with_images(images[:5])
