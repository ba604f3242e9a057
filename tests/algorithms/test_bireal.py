import pytest
import reference
from checks import agree, build, cases, reaches_the_optimizer, two_valued

from bibench.algorithms.bireal import bireal


@cases
@pytest.mark.parametrize("scale_in_gradient", [True, False])
def test_values_and_gradients(case, scale_in_gradient):
    algorithm = bireal() if scale_in_gradient else bireal(scale_in_gradient=False)
    agree(build(algorithm, case), case, lambda _: reference.bireal(case, scale_in_gradient=scale_in_gradient))


@cases
def test_evaluation_is_binary(case):
    two_valued(bireal(), case)


@cases
def test_every_parameter_reaches_the_optimizer(case):
    reaches_the_optimizer(bireal(), case, {})
