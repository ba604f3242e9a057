"""Reading in worker processes: the order of batches, and errors as they were raised."""

import pytest
import torch

from bibench.tasks.base import DataError
from bibench.tasks.workers import read_batches

CPU = torch.device("cpu")


def _batches(dataset, batch_size, *, seed=None, workers=0, collate=list):
    return list(
        read_batches(dataset, len(dataset), batch_size, seed=seed, collate=collate, workers=workers, device=CPU)
    )


def test_evaluation_is_everything_in_order_and_training_whole_batches():
    numbers = list(range(7))
    assert _batches(numbers, 3) == [[0, 1, 2], [3, 4, 5], [6]]
    assert [len(batch) for batch in _batches(numbers, 3, seed=0)] == [3, 3]
    assert [len(batch) for batch in _batches(numbers, 100, seed=0)] == [7]


@pytest.mark.parametrize("workers", [0, 2])
def test_the_seed_alone_decides_the_order(workers):
    state = torch.get_rng_state()
    first = _batches(list(range(20)), 5, seed=3, workers=workers)
    assert torch.equal(state, torch.get_rng_state())  # the global generator is left alone
    torch.manual_seed(1)
    assert first == _batches(list(range(20)), 5, seed=3)
    order = [number for batch in first for number in batch]
    assert sorted(order) == list(range(20)) != order
    assert first != _batches(list(range(20)), 5, seed=4)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_among_the_samples_is_raised_as_it_is(workers):
    samples = [1, 2, DataError("a.jpg: broken"), DataError("b.jpg: broken")]
    with pytest.raises(DataError) as caught:
        _batches(samples, 2, workers=workers)
    assert str(caught.value) == "a.jpg: broken"
