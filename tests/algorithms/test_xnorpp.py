import pytest
import reference
import torch
from checks import agree, build, cases, reaches_the_optimizer, two_valued

from bibench.algorithms.xnorpp import xnorpp
from bibench.nn import BinaryConv2d


def positions(parameters):
    return [value for name, value in parameters.items() if name.startswith("scale.positions.")]


@cases
def test_values_and_gradients(case):
    """The vectors are one longer than the output, so that their beginnings are what counts."""
    agree(build(xnorpp(), case), case, lambda p: reference.xnorpp(case, p["scale.alpha"], positions(p)))


@cases
def test_all_scales_start_at_1(case):
    layer = build(xnorpp(), case)
    scales = [parameter for name, parameter in layer.named_parameters() if name.startswith("scale.")]
    sizes = [case.channels[1], *(n + 1 for n in case.output_size)]
    assert [scale.shape for scale in scales] == [(n,) for n in sizes]
    assert all(scale.eq(1).all() for scale in scales)


@cases
def test_evaluation_is_binary(case):
    two_valued(xnorpp(), case)


@cases
def test_every_parameter_reaches_the_optimizer(case):
    names = ["scale.alpha", *(f"scale.positions.{i}" for i in range(len(case.kernel)))]
    reaches_the_optimizer(xnorpp(), case, dict.fromkeys(names, False))


def test_a_larger_output_is_refused():
    layer = BinaryConv2d(2, 2, 3, algorithm="xnorpp", output_size=(4, 5))
    assert layer(torch.randn(1, 2, 6, 7)).shape == (1, 2, 4, 5)
    assert layer(torch.randn(1, 2, 4, 4)).shape == (1, 2, 2, 2)
    with pytest.raises(ValueError, match=r"the output is \(5, 5\), larger than the \(4, 5\)"):
        layer(torch.randn(1, 2, 7, 7))
    with pytest.raises(ValueError, match=r"the output is \(4, 6\), larger than the \(4, 5\)"):
        layer(torch.randn(2, 6, 8))


@pytest.mark.parametrize("size", [None, (4,), (4, 4, 4)])
def test_a_convolution_without_its_output_size_is_refused(size):
    with pytest.raises(ValueError, match=r"must know the output's size.*example"):
        BinaryConv2d(2, 2, 3, algorithm="xnorpp", output_size=size)
