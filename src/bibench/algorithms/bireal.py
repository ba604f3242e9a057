"""Bi-Real: signs, mean-magnitude scale, and a piecewise polynomial for the activation's gradient."""

from bibench.algorithms.algorithm import Algorithm
from bibench.algorithms.gradients import approx_ste, hard_ste
from bibench.algorithms.rules import MeanScale, Sign, unscaled


def bireal(*, scale_in_gradient: bool = True) -> Algorithm:
    """``o = (sgn(a) * sgn(w)) · m_o`` with ``d sgn(a)/da := max(0, 2 - 2|a|)`` (BiBench, eq. 15, 16).

    The shortcut of Bi-Real Net belongs to the architecture and is not part of the operator.

    Args:
        scale_in_gradient: False leaves the scale out of the weight's gradient.

    >>> bireal().title
    'Bi-Real'
    """
    return Algorithm(
        name="bireal",
        title="Bi-Real",
        source="Liu et al., 2018; BiBench eq. 15, 16",
        weight=unscaled(lambda layer: Sign(hard_ste, "hard"), when=not scale_in_gradient),
        activation=lambda layer: Sign(approx_ste, "approx"),
        scale=MeanScale,
    )
