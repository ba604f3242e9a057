"""BNN: signs with the hard straight-through estimator, no scale."""

from bibench.algorithms.algorithm import Algorithm
from bibench.algorithms.gradients import hard_ste
from bibench.algorithms.rules import Sign


def bnn() -> Algorithm:
    """``o = sgn(a) * sgn(w)`` (BiBench, eq. 13; Courbariaux et al., 2016).

    >>> import torch, bibench
    >>> layer = bibench.nn.BinaryLinear(4, 2, bias=False, algorithm="bnn")
    >>> layer(torch.ones(1, 4)).shape
    torch.Size([1, 2])
    """
    return Algorithm(
        name="bnn",
        title="BNN",
        source="Courbariaux et al., 2016; BiBench eq. 13",
        weight=lambda layer: Sign(hard_ste, "hard"),
        activation=lambda layer: Sign(hard_ste, "hard"),
    )
