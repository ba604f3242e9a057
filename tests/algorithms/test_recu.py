import math

import numpy as np
import pytest
import reference
import torch
from checks import agree, build, cases, reaches_the_optimizer, two_valued, values

from bibench.algorithms.recu import recu, tau
from bibench.nn import BinaryConv2d, BinaryLinear, BinaryMatmul, set_progress


def continuous(case):
    """Weights without ties: on a grid, the sign of a weight that equals its filter's mean would be rounding."""
    return np.random.default_rng(3).standard_t(2, size=case.weight_shape)


@cases
@pytest.mark.parametrize("quantile", ["laplace", "empirical"])
@pytest.mark.parametrize("scale", ["learned", "statistics"])
@pytest.mark.parametrize("epoch", [0, 5, 9])
def test_values_and_gradients_in_training(case, quantile, scale, epoch):
    layer = build(recu(quantile=quantile, scale=scale), case)
    set_progress(layer, epoch, 10)

    def parts(parameters):
        return reference.recu(case, parameters.get("scale.alpha"), tau=reference.recu_tau(epoch, 10), quantile=quantile)

    agree(layer, case, parts, w=continuous(case))


@cases
def test_evaluation_leaves_the_activation_as_it_is(case):
    layer = build(recu(), case).eval()
    set_progress(layer, 0, 10)

    def parts(parameters):
        return reference.recu(case, parameters["scale.alpha"], tau=0.85, training=False)

    agree(layer, case, parts, w=continuous(case))


@pytest.mark.parametrize("epoch", [0, 9])
def test_the_clamp_clips_some_weights_and_not_all(epoch):
    """Otherwise the tests above would say nothing about the quantile."""
    layer = build(recu(), reference.CASES[2])
    layer.weight.data.copy_(torch.from_numpy(continuous(reference.CASES[2])))
    set_progress(layer, epoch, 10)
    weight = layer.weight.detach().requires_grad_()
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    standard = 2 * math.sqrt(2) * centred / (centred.var((1, 2, 3), keepdim=True) + 1e-5).sqrt()
    bound = -standard.abs().mean() * math.log(2 - 2 * reference.recu_tau(epoch, 10))
    clipped = standard.abs() > bound
    assert 0 < clipped.sum() < clipped.numel() / 2


def test_schedule():
    assert tau(0, 200) == 0.85
    assert tau(100, 200) == pytest.approx(0.85 + 0.14 * (math.exp(0.5) - 1) / (math.e - 1))
    assert tau(199, 200) == pytest.approx(0.99, abs=2e-3)
    assert tau(199, 200) < 0.99
    layer = BinaryLinear(4, 4, algorithm="recu")
    assert float(layer.weight_rule.tau) == pytest.approx(0.85)
    for epoch in (0, 100, 199):
        set_progress(layer, epoch, 200)
        assert float(layer.weight_rule.tau) == pytest.approx(reference.recu_tau(epoch, 200))


def test_progress_moves_only_the_gradient():
    layer = BinaryLinear(64, 4, algorithm="recu")
    x = torch.randn(3, 64)
    results = []
    for epoch in (0, 9):
        set_progress(layer, epoch, 10)
        layer.zero_grad()
        y = layer(x)
        y.square().sum().backward()
        results.append((y.detach(), layer.weight.grad.clone()))
    assert torch.equal(results[0][0], results[1][0])
    assert not torch.equal(results[0][1], results[1][1])


def test_learned_scale_starts_between_0_and_1():
    alpha = BinaryConv2d(2, 4096, 2, algorithm="recu").scale.alpha
    assert 0 <= alpha.min() < 0.01
    assert 0.99 < alpha.max() < 1
    assert alpha.mean().item() == pytest.approx(0.5, abs=0.03)


@pytest.mark.slow
def test_empirical_quantile_of_many_weights():
    """torch.quantile refuses more than 16 million elements; whole layers are larger."""
    layer = BinaryLinear(4097, 4096, algorithm=recu(quantile="empirical"))
    assert layer(torch.randn(1, 4097)).isfinite().all()


@cases
def test_evaluation_is_binary(case):
    two_valued(recu(), case)
    two_valued(recu(quantile="empirical"), case)


@cases
def test_every_parameter_reaches_the_optimizer(case):
    reaches_the_optimizer(recu(), case, {"scale.alpha": False})
    reaches_the_optimizer(recu(scale="statistics"), case, {})


def test_inputs_keep_their_signs_in_training():
    layer = build(recu(), reference.CASES[0])
    x = torch.from_numpy(values((5, 7), np.random.default_rng(0)))
    assert torch.equal(layer.activation_rule(x), torch.where(x >= 0, 1.0, -1.0).double())


def test_refuses_filters_of_one_weight():
    with pytest.raises(ValueError, match=r"needs 2 or more weights.*\(8, 1, 1, 1\)"):
        BinaryConv2d(8, 8, 1, groups=8, algorithm="recu")


@pytest.mark.parametrize("option", ["quantile", "scale"])
def test_unknown_option(option):
    with pytest.raises(ValueError, match=rf"option {option}='other': expected one of"):
        recu(**{option: "other"})


def test_a_sample_of_one_value_has_no_spread_and_stays_finite():
    layer = BinaryMatmul(1, 1, transpose_right=True, algorithm="recu").train()
    left = torch.randn(2, 3, 1, requires_grad=True)
    layer(left, torch.randn(2, 4, 1)).sum().backward()
    assert torch.isfinite(left.grad).all()
