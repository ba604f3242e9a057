"""EMA-max: its shift against scipy and a simulated maximum, its function, its gradient."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from bibench.nn.ema_max import EMAMax, ema_max_shift


@pytest.mark.parametrize("points", [1, 2, 3, 64, 1024, 2048, 100_000])
def test_shift_is_that_of_scipy(points):
    assert ema_max_shift(points) == pytest.approx(-norm.ppf(2 ** (-1 / points)), rel=1e-9, abs=1e-12)


def test_shift_of_1024_points_is_the_published_one():
    assert ema_max_shift(1024) == pytest.approx(-3.204, abs=5e-4)


@pytest.mark.parametrize("points", [8, 1024])
def test_a_simulated_maximum_is_balanced(points):
    """Of 20,000 maxima half are positive: the share's standard deviation is 0.0035."""
    values = np.random.default_rng(0).standard_normal((20_000, points), dtype=np.float32)
    found = EMAMax()(torch.from_numpy(values)[None])[0]
    assert (found > 0).float().mean().item() == pytest.approx(0.5, abs=0.014)
    assert found.median().item() == pytest.approx(0, abs=0.02)


def test_is_the_maximum_of_shifted_points():
    x = torch.randn(3, 5, 7, dtype=torch.float64)
    expected = (x + ema_max_shift(7)).max(dim=2).values
    torch.testing.assert_close(EMAMax()(x), expected)
    torch.testing.assert_close(EMAMax(centre=1.5)(x), expected + 1.5)


def test_the_shift_is_that_of_the_points_at_hand():
    layer = EMAMax()
    for points in (4, 16):
        assert layer(torch.zeros(1, 1, points)).item() == pytest.approx(ema_max_shift(points))


def test_the_gradient_goes_to_the_largest_point():
    x = torch.tensor([[[1.0, 3.0, 2.0]]], requires_grad=True)
    EMAMax()(x).sum().backward()
    assert x.grad.tolist() == [[[0.0, 1.0, 0.0]]]


def test_no_points_have_no_maximum():
    with pytest.raises(ValueError, match="points=0"):
        ema_max_shift(0)
