"""Images of noise: as many and as large as a network is deployed for, always the same, and said to be noise."""

import pytest
import torch

from bibench.tasks.noise import noise32, noise224


@pytest.mark.parametrize(("task", "side", "classes"), [(noise32, 32, 10), (noise224, 224, 1000)])
def test_it_is_always_the_same_noise(task, side, classes):
    data, again = task.load(None, False), task.load(None, False)
    assert (len(data.train), len(data.test), data.outputs) == (16, 8, classes)
    assert data.fingerprint == again.fingerprint
    assert data.notes == (f"images of {side} pixels are noise: scores on them say nothing",)
    for split, other in ((data.train, again.train), (data.test, again.test)):
        assert torch.equal(split.images, other.images)
        assert split.images.shape[1:] == task.input_shape == (3, side, side)
        inputs, labels = next(split.batches(8, device=torch.device("cpu")))
        assert inputs.mean().item() == pytest.approx(0, abs=0.05)
        assert inputs.std().item() == pytest.approx(1, abs=0.05)
        assert 0 <= labels.min() <= labels.max() < classes
    assert not torch.equal(data.train.images[:8], data.test.images)
