"""EMA-max: a maximum over points that leaves the next layer's signs balanced."""

from __future__ import annotations

from functools import cache
from statistics import NormalDist

from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["EMAMax", "ema_max_shift"]


@cache
def ema_max_shift(points: int) -> float:
    """The shift ``-Φ⁻¹(2^(-1/N))``, with which the maximum of ``N`` independent standard normal values has median 0.

    ``P(max < m) = Φ(m)^N`` is 1/2 at ``m = Φ⁻¹(2^(-1/N))``.

    Args:
        points: ``N``, at least 1.

    Source: Qin et al., BiPointNet, ICLR 2021, section 3.2: of all shifts this one keeps the most information.

    >>> round(ema_max_shift(1024), 3)
    -3.204
    """
    if points < 1:
        raise ValueError(f"points={points}: a maximum needs at least one point")
    return -NormalDist().inv_cdf(2 ** (-1 / points))


class EMAMax(nn.Module):
    """``max over points of (x + δ_N) + centre``, where ``δ_N`` is `ema_max_shift` of the number of points at hand.

    It follows a batch normalisation, with no Hardtanh between: that would cut the maximum to 1 before the shift.
    Entropy-maximising aggregation of BiPointNet: half of the next layer's signs are +1.

    Args:
        centre: the median that the maximum gets, where the next layer changes its sign at another value than 0.

    Input: ``(batch, channels, points)``. Output: ``(batch, channels)``.

    >>> import torch
    >>> EMAMax()(torch.tensor([[[0.5, 2.0]]]))
    tensor([[1.4550]])
    """

    def __init__(self, centre: float = 0.0) -> None:
        super().__init__()
        self.centre = centre

    def forward(self, x: Tensor) -> Tensor:
        """The shifted maximum; the shift is the same for all points, so it is added once, to the maximum."""
        return F.adaptive_max_pool1d(x, 1).flatten(1) + (ema_max_shift(x.shape[-1]) + self.centre)

    def extra_repr(self) -> str:
        """What differs from the usual one."""
        return f"centre={self.centre:g}" if self.centre else ""
