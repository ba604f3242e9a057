"""The digits task: its split, and that its network learns it with its recipe."""

import numpy as np
import pytest
import torch

from bibench import registry
from bibench.models.image import digits_cnn
from bibench.tasks.corruptions import CORRUPTIONS, corrupt
from bibench.tasks.digits import digits

CPU = torch.device("cpu")


def test_split_is_stratified_and_always_the_same():
    data, again = digits.load(None, False), digits.load(None, True)
    assert (len(data.train), len(data.test), data.outputs) == (1437, 360, 10)
    assert data.fingerprint == again.fingerprint
    for split in (data.train, data.test):
        share = split.labels.bincount() / len(split)
        assert share == pytest.approx(0.1, abs=0.005)
    assert not data.test.pad
    assert (data.train.pad, data.train.flip) == (1, False)  # a mirrored 2 is no 2


def test_no_test_image_is_a_training_image_by_position():
    """Every one of the 1,797 images is in exactly one of the splits."""
    from sklearn.datasets import load_digits

    data = digits.load(None, False)
    both = torch.cat([data.train.images, data.test.images]).flatten(1)
    everything = torch.from_numpy(load_digits().data).to(torch.uint8)
    assert sorted(map(tuple, both.tolist())) == sorted(map(tuple, everything.tolist()))


def test_corrupted_digits_are_grey_digits(monkeypatch, tmp_path):
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path))
    data = digits.load(None, False)
    clean = data.test.images[:, 0].numpy()
    for name, severity in [("contrast", 1), ("jpeg_compression", 3), ("impulse_noise", 5), ("snow", 2)]:
        corrupted = data.corrupted(name, severity)
        assert corrupted.origin == "generated"
        split = corrupted.split
        assert torch.equal(split.labels, data.test.labels)
        assert (split.mean, split.std, split.pad, split.flip) == (data.test.mean, data.test.std, 0, False)
        photographs = np.floor(clean / 16 * 255 + 0.5).astype(np.uint8)
        expected = corrupt(np.stack([photographs] * 3, axis=-1), name, severity).astype(float).mean(axis=-1) / 255 * 16
        assert split.images.max() <= 16
        assert abs(split.images[:, 0].numpy() - expected).max() <= 0.5 + 1e-9
        assert (split.images[:, 0].numpy() != clean).mean() > 0.05
    with pytest.raises(ValueError, match="did you mean 'fog'"):
        data.corrupted("frog", 1)


def test_every_corruption_of_the_digits_is_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("BIBENCH_CACHE", str(tmp_path))
    data = digits.load(None, False)
    for name in CORRUPTIONS:
        first, second = (data.corrupted(name, 5).split for _ in range(2))
        assert torch.equal(first.images, second.images)
        assert not torch.equal(first.images, data.test.images)
        inputs, _ = next(first.batches(360, device=CPU))
        assert inputs.shape == (360, 1, 8, 8)
    assert len(list(tmp_path.rglob("*-5.npy"))) == 19


def test_recipes_have_equal_budgets():
    assert digits.full_precision.epochs == digits.binarized.epochs
    assert digits.binarized.optimizer.weight_decay == 0
    assert registry.get("tasks", "digits") is digits


@pytest.mark.slow
def test_full_precision_reaches_97_percent():
    data, recipe = digits.load(None, False), digits.full_precision
    model = digits_cnn.build(digits.input_shape, data.outputs)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.optimizer.lr, momentum=0.9, weight_decay=recipe.optimizer.weight_decay
    )
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate(epoch / recipe.epochs)
        for batch in data.train.batches(recipe.batch_size, device=CPU, seed=epoch):
            optimizer.zero_grad()
            digits.loss(model, batch).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        found = digits.evaluate(model, data.test.batches(100, device=CPU))
    assert found.figures["accuracy"] >= 97
    assert found.per_sample.shape == (360,)
