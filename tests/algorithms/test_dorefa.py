import pytest
import reference
from checks import agree, build, cases, reaches_the_optimizer, two_valued

from bibench.algorithms.dorefa import dorefa


@cases
@pytest.mark.parametrize("granularity", ["channel", "layer"])
@pytest.mark.parametrize("scale_in_gradient", [True, False])
def test_values_and_gradients(case, granularity, scale_in_gradient):
    options = {"granularity": granularity, "scale_in_gradient": scale_in_gradient}
    agree(build(dorefa(**options), case), case, lambda _: reference.dorefa(case, **options))


def test_defaults_are_per_channel_with_the_chain_rule():
    case = reference.CASES[1]
    agree(build(dorefa(), case), case, lambda _: reference.dorefa(case))


@cases
def test_evaluation_is_binary(case):
    two_valued(dorefa(), case)
    two_valued(dorefa(scale_in_gradient=False), case)


@cases
def test_every_parameter_reaches_the_optimizer(case):
    reaches_the_optimizer(dorefa(), case, {})


def test_unknown_granularity():
    with pytest.raises(ValueError, match=r"granularity='filter': expected one of 'channel', 'layer'"):
        dorefa(granularity="filter")
