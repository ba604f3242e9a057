import pytest
import reference
import torch
from checks import agree, build, cases, reaches_the_optimizer, two_valued

from bibench.algorithms.xnor import xnor
from bibench.nn import BinaryLinear


@cases
@pytest.mark.parametrize("activation_scale", ["map", "sample"])
@pytest.mark.parametrize("scale_in_gradient", [True, False])
def test_values_and_gradients(case, activation_scale, scale_in_gradient):
    options = {"activation_scale": activation_scale, "scale_in_gradient": scale_in_gradient}
    agree(build(xnor(**options), case), case, lambda _: reference.xnor(case, **options))


@cases
def test_default_is_the_map(case):
    agree(build(xnor(), case), case, lambda _: reference.xnor(case))


@cases
@pytest.mark.parametrize("padding_value", [-1, 1])
def test_the_map_counts_a_border_of_ones_as_magnitude_1(case, padding_value):
    layer = build(xnor(), case, padding_value=padding_value)
    agree(layer, case, lambda _: reference.xnor(case, border=1.0), pad_value=padding_value)


def test_each_token_has_its_own_scale():
    layer = BinaryLinear(4, 3, bias=False, algorithm="xnor").double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    signs = torch.where(x >= 0, 1.0, -1.0).double() @ torch.where(layer.weight >= 0, 1.0, -1.0).double().T
    expected = signs * layer.weight.abs().mean(1) * x.abs().mean(-1, keepdim=True)
    torch.testing.assert_close(layer(x), expected)


def test_sample_scale_of_tokens_is_one_scalar_a_sample():
    layer = BinaryLinear(4, 3, bias=False, algorithm=xnor(activation_scale="sample")).double()
    x = torch.randn(2, 5, 4, dtype=torch.float64)
    signs = torch.where(x >= 0, 1.0, -1.0).double() @ torch.where(layer.weight >= 0, 1.0, -1.0).double().T
    expected = signs * layer.weight.abs().mean(1) * x.abs().mean((1, 2), keepdim=True)
    torch.testing.assert_close(layer(x), expected)


@cases
def test_evaluation_is_binary(case):
    two_valued(xnor(), case)


@cases
def test_every_parameter_reaches_the_optimizer(case):
    reaches_the_optimizer(xnor(), case, {})


def test_unknown_scale():
    with pytest.raises(ValueError, match=r"activation_scale='pixel': expected one of 'map', 'sample'"):
        xnor(activation_scale="pixel")
