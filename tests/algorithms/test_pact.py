import numpy as np
import pytest
import reference
import torch
from checks import agree, build, cases, reaches_the_optimizer, two_valued, values

from bibench.algorithms.pact import pact
from bibench.nn import BinaryConv2d, BinaryMatmul, penalty


def around(case, amplitude=3.0):
    """Inputs with 0, A/2 and A and their neighbours."""
    rng = np.random.default_rng(4)
    a = values(case.input_shape, rng, -8, 32)
    points = [0.0, amplitude / 2, amplitude]
    special = [np.nextafter(p, towards) for p in points for towards in (-np.inf, p, np.inf)] + [-2.0, 7.0]
    places = rng.permutation(a.size)[: len(special)]
    a.reshape(-1)[places] = special
    return a


@cases
@pytest.mark.parametrize("scale", ["none", "mean"])
def test_values_and_gradients(case, scale):
    def parts(parameters):
        return reference.pact(case, float(parameters["activation_rule.A"]), scale=scale)

    agree(build(pact(scale=scale), case), case, parts, a=around(case))


@cases
def test_default_has_no_scale(case):
    agree(build(pact(), case), case, lambda p: reference.pact(case, 3.0), a=around(case))


@cases
@pytest.mark.parametrize(("padding_value", "operand"), [(-1, 0.0), (0, 0.0), (1, 3.0)])
def test_padding_with_the_lower_or_upper_operand(case, padding_value, operand):
    """The border is constant: it has no part in dy/dA."""
    layer = build(pact(), case, padding_value=padding_value)
    agree(layer, case, lambda p: reference.pact(case, 3.0), a=around(case), pad_value=operand)


@pytest.mark.parametrize("amplitude", [0.5, 1.0, 4.0])
def test_other_amplitudes(amplitude):
    case = reference.CASES[2]
    rule = build(pact(), case).activation_rule
    rule.A.data.fill_(amplitude)
    x = torch.from_numpy(around(case, amplitude)).requires_grad_()
    bits = rule(x)
    assert torch.equal(bits, (x > amplitude / 2).double())
    (bits * rule.amplitude()).sum().backward()
    assert torch.equal(x.grad, ((x >= 0) & (x <= amplitude)).double())
    assert rule.A.grad.item() == pytest.approx((x >= amplitude).sum().item())


@cases
def test_evaluation_is_binary(case):
    two_valued(pact(), case, (0, 1))


@cases
def test_every_parameter_reaches_the_optimizer(case):
    reaches_the_optimizer(pact(), case, {"activation_rule.A": False})


def test_starts_at_3_and_adds_its_square_to_the_loss():
    net = torch.nn.Sequential(BinaryConv2d(2, 2, 3, algorithm="pact"), BinaryConv2d(2, 2, 3, algorithm="pact"))
    assert [float(layer.activation_rule.A.detach()) for layer in net] == [3.0, 3.0]
    net[1].activation_rule.A.data.fill_(2.0)
    loss = penalty(net)
    assert loss.item() == pytest.approx(2e-4 * (9 + 4))
    loss.backward()
    assert net[0].activation_rule.A.grad.item() == pytest.approx(2e-4 * 2 * 3)
    assert net[1].activation_rule.A.grad.item() == pytest.approx(2e-4 * 2 * 2)


def test_product_of_two_activations_carries_both_amplitudes():
    product = BinaryMatmul(4, 5, algorithm="pact").double()
    product.left_rule.A.data.fill_(2.0)
    product.right_rule.A.data.fill_(3.0)
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-8, 33, shape) / 8 for shape in ((3, 4), (4, 5)))
    x, y = (torch.from_numpy(v).requires_grad_() for v in (a, b))
    g = rng.normal(size=(3, 5))
    result = product(x, y)
    result.backward(torch.from_numpy(g))
    left, right = np.where(a > 1.0, 2.0, 0.0), np.where(b > 1.5, 3.0, 0.0)
    np.testing.assert_allclose(result.detach().numpy(), left @ right)
    np.testing.assert_allclose(x.grad.numpy(), g @ right.T * ((a >= 0) & (a <= 2)))
    np.testing.assert_allclose(y.grad.numpy(), left.T @ g * ((b >= 0) & (b <= 3)))
    np.testing.assert_allclose(product.left_rule.A.grad.item(), (g @ right.T * (a >= 2)).sum())
    np.testing.assert_allclose(product.right_rule.A.grad.item(), (left.T @ g * (b >= 3)).sum())


def test_keeps_relu():
    assert pact().relu == "keep"


def test_unknown_scale():
    with pytest.raises(ValueError, match=r"scale='layer': expected one of 'none', 'mean'"):
        pact(scale="layer")
