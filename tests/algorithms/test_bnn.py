import reference
from checks import agree, build, cases, reaches_the_optimizer, two_valued

from bibench.algorithms.bnn import bnn


@cases
def test_values_and_gradients(case):
    agree(build(bnn(), case), case, lambda _: reference.bnn())


@cases
def test_padding_with_a_binary_value(case):
    for value in (-1, 1):
        agree(build(bnn(), case, padding_value=value), case, lambda _: reference.bnn(), pad_value=value)


@cases
def test_evaluation_is_binary(case):
    two_valued(bnn(), case)


@cases
def test_every_parameter_reaches_the_optimizer(case):
    reaches_the_optimizer(bnn(), case, {})
