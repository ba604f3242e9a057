"""DoReFa at 1 bit: signs, and the mean magnitude of the weights as scale."""

from functools import partial
from typing import Literal

from bibench.algorithms.algorithm import Algorithm
from bibench.algorithms.gradients import hard_ste
from bibench.algorithms.rules import MeanScale, Sign, choose, unscaled


def dorefa(*, granularity: Literal["channel", "layer"] = "channel", scale_in_gradient: bool = True) -> Algorithm:
    """``o = (sgn(a) * sgn(w)) · m`` (BiBench, eq. 15; Zhou et al., 2016).

    Args:
        granularity: ``"channel"`` as eq. 15 and Table 4, or ``"layer"`` as Table 6.
        scale_in_gradient: False leaves the scale out of the weight's gradient.

    >>> dorefa(granularity="layer").name
    'dorefa'
    """
    choose("granularity", granularity, ("channel", "layer"))
    return Algorithm(
        name="dorefa",
        title="DoReFa",
        source="Zhou et al., 2016; BiBench eq. 15",
        weight=unscaled(lambda layer: Sign(hard_ste, "hard"), granularity=granularity, when=not scale_in_gradient),
        activation=lambda layer: Sign(hard_ste, "hard"),
        scale=partial(MeanScale, granularity=granularity),
    )
