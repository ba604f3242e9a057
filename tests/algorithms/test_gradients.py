import pytest
import torch

from bibench.algorithms import Sign, approx_ste, closed_hard_ste, hard_ste, identity_ste, sgn, surrogate

POINTS = [-3.0, -1.0, -0.5, -0.0, 0.0, 0.25, 1.0, 2.0]


@pytest.mark.parametrize(
    ("slope", "expected"),
    [
        (hard_ste, [0, 0, 1, 1, 1, 1, 0, 0]),
        (closed_hard_ste, [0, 1, 1, 1, 1, 1, 1, 0]),
        (approx_ste, [0, 0, 1, 2, 2, 1.5, 0, 0]),
        (identity_ste, [1] * 8),
    ],
)
def test_slopes(slope, expected):
    x = torch.tensor(POINTS, requires_grad=True)
    y = surrogate(sgn(x), x, slope)
    assert y.tolist() == [-1, -1, -1, 1, 1, 1, 1, 1]
    incoming = torch.full((8,), 2.0)
    y.backward(incoming)
    assert x.grad.tolist() == [2 * value for value in expected]
    assert incoming.eq(2).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_sign_is_never_zero_and_keeps_the_dtype(dtype):
    x = torch.tensor(POINTS, dtype=dtype, requires_grad=True)
    y = Sign(approx_ste)(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    assert set(y.tolist()) == {-1.0, 1.0}


def test_no_graph_without_gradients():
    x = torch.randn(3, requires_grad=True)
    with torch.no_grad():
        assert not surrogate(sgn(x), x, hard_ste).requires_grad
    assert not surrogate(sgn(x), x.detach(), hard_ste).requires_grad


def test_extreme_inputs():
    x = torch.tensor([float("inf"), -float("inf"), 1e-45, -1e-45], requires_grad=True)
    y = surrogate(sgn(x), x, hard_ste)
    y.sum().backward()
    assert y.tolist() == [1, -1, 1, -1]
    assert x.grad.tolist() == [0, 0, 1, 1]
