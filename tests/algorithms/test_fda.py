import math

import numpy as np
import pytest
import reference
import torch
from checks import agree, build, cases, reaches_the_optimizer, two_valued, values

from bibench.algorithms.fda import FourierSlope, fda, noise_strength, terms
from bibench.nn import BinaryConv2d, BinaryLinear, set_progress

EPOCHS = [0, 5, 9]


@cases
@pytest.mark.parametrize("epoch", EPOCHS)
@pytest.mark.parametrize("options", [{}, {"clip": False}, {"noise": False}, {"scale_in_gradient": False}], ids=str)
def test_values_and_gradients_in_training(case, epoch, options):
    layer = build(fda(**options), case)
    set_progress(layer, epoch, 10)

    def parts(parameters):
        return reference.fda(
            case,
            parameters,
            n=reference.fda_terms(epoch, 10),
            alpha=reference.fda_noise(epoch, 10),
            clip=options.get("clip", True),
            scale_in_gradient=options.get("scale_in_gradient", True),
        )

    agree(layer, case, parts)


@cases
def test_values_and_gradients_at_evaluation(case):
    """No noise, and no gradient to what made it."""
    layer = build(fda(), case).eval()
    set_progress(layer, 0, 10)
    agree(layer, case, lambda _: reference.fda(case, {}, n=9, alpha=0.0))


@pytest.mark.parametrize("epoch", range(10))
@pytest.mark.parametrize("clip", [True, False])
def test_closed_form_is_the_sum(epoch, clip):
    """Also near the multiples of π / ω, where numerator and denominator vanish."""
    slope = FourierSlope(clip).double()
    slope.set_progress(epoch, 10)
    n = reference.fda_terms(epoch, 10)
    near = [k * math.pi / 0.1 + d for k in (-2, -1, 0, 1, 2, 3) for d in (0, 1e-12, -1e-7, 1e-3, 0.4)]
    x = np.concatenate([np.linspace(-100, 100, 801), near, [0.0, -0.0, 1.0, -1.0, np.nextafter(1, 2)]])
    np.testing.assert_allclose(slope(torch.from_numpy(x)).numpy(), reference.fourier(x, n, clip), atol=1e-10)


def test_closed_form_in_single_and_half_precision():
    x = torch.linspace(-3, 3, 301)
    expected = torch.from_numpy(reference.fourier(x.double().numpy(), 9, False))
    torch.testing.assert_close(FourierSlope(False)(x).double(), expected, atol=2e-6, rtol=0)
    half = FourierSlope(False).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    expected = torch.from_numpy(reference.fourier(x.bfloat16().double().numpy(), 9, False))
    torch.testing.assert_close(half.double(), expected, atol=0.01, rtol=0)


def test_schedules():
    assert [terms(e, 9) for e in range(9)] == list(range(9, 18))
    assert [terms(e, 200) for e in (0, 22, 23, 100, 199)] == [9, 9, 10, 13, 17]
    for total in (1, 2, 3, 7, 200):
        assert noise_strength(total - 1, total) == 0.0
        assert all(noise_strength(e, total) > 0 for e in range(total - 1))
        for e in range(total):
            assert noise_strength(e, total) == pytest.approx(reference.fda_noise(e, total), abs=1e-12)
            assert terms(e, total) == reference.fda_terms(e, total)
    assert noise_strength(4, 10) == pytest.approx(0.05)


def test_noise_strength_reaches_every_rule():
    layer = BinaryConv2d(3, 3, 3, algorithm=fda(scale_in_gradient=False))
    set_progress(layer, 9, 10)
    rules = [layer.weight_rule.rule, layer.activation_rule]
    assert [float(rule.strength) for rule in rules] == [0.0, 0.0]
    assert [float(rule.slope.n) for rule in rules] == [17.0, 17.0]


@cases
def test_noise_is_there_in_training_and_gone_in_the_last_epoch(case):
    layer = build(fda(), case)
    x = torch.from_numpy(values(case.input_shape, np.random.default_rng(0)))
    for epoch, binary in ((0, False), (8, False), (9, True)):
        set_progress(layer, epoch, 10)
        for operand in (layer.activation_rule(x), layer.weight_rule(layer.weight)):
            assert set(operand.unique().tolist()).issubset({-1.0, 1.0}) == binary


def test_noise_is_gone_at_evaluation_in_every_epoch():
    for case in reference.CASES:
        layer = build(fda(), case).eval()
        x = torch.from_numpy(values(case.input_shape, np.random.default_rng(0)))
        for epoch in EPOCHS:
            set_progress(layer, epoch, 10)
            assert set(layer.activation_rule(x).unique().tolist()) == {-1.0, 1.0}
            assert set(layer.weight_rule(layer.weight).unique().tolist()) == {-1.0, 1.0}


@cases
def test_evaluation_is_binary(case):
    two_valued(fda(), case)


@cases
def test_every_parameter_reaches_the_optimizer(case):
    names = [f"{rule}.{end}.weight" for rule in ("weight_rule", "activation_rule") for end in ("down", "up")]
    reaches_the_optimizer(fda(), case, dict.fromkeys(names, True))
    reaches_the_optimizer(fda(noise=False), case, {})


@pytest.mark.parametrize(("features", "hidden"), [(7, 1), (64, 1), (127, 1), (128, 2), (640, 10)])
def test_bottleneck(features, hidden):
    rule = BinaryLinear(features, 3, algorithm="fda").activation_rule
    assert rule.down.weight.shape == (hidden, features)
    assert rule.up.weight.shape == (features, hidden)
    assert rule.down.bias is None
    assert rule.up.bias is None


def test_the_networks_of_a_grouped_convolution():
    layer = BinaryConv2d(128, 256, 3, groups=2, algorithm="fda")
    assert layer.weight_rule.down.weight.shape == (64 * 9 // 64, 64 * 9)
    assert layer.activation_rule.down.weight.shape == (2, 128)
