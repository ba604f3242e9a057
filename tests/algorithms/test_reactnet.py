import numpy as np
import pytest
import reference
from checks import agree, build, cases, reaches_the_optimizer, two_valued

from bibench.algorithms.reactnet import reactnet


@cases
@pytest.mark.parametrize("scale_in_gradient", [True, False])
def test_values_and_gradients(case, scale_in_gradient):
    algorithm = reactnet() if scale_in_gradient else reactnet(scale_in_gradient=False)

    def parts(parameters):
        threshold = parameters["activation_rule.threshold"]
        return reference.reactnet(case, threshold, scale_in_gradient=scale_in_gradient)

    agree(build(algorithm, case), case, parts)


def test_the_inputs_tested_meet_the_threshold_and_the_ends_of_its_slope():
    """Thresholds and inputs are multiples of 1/8, so that a - t is exactly 0 and ±1 somewhere."""
    rng = np.random.default_rng(0)
    differences = rng.integers(-16, 16, 500, endpoint=True) / 8 - np.round(8 * rng.normal(size=500)) / 8
    assert {-1.0, 0.0, 1.0} <= set(differences.tolist())


@cases
def test_thresholds_start_at_0(case):
    threshold = build(reactnet(), case).activation_rule.threshold
    assert threshold.shape == (case.channels[0],)
    assert threshold.eq(0).all()


@cases
def test_evaluation_is_binary(case):
    two_valued(reactnet(), case)


@cases
def test_every_parameter_reaches_the_optimizer(case):
    reaches_the_optimizer(reactnet(), case, {"activation_rule.threshold": False})
