"""FDA: the sign's gradient from its Fourier series, and a small network that adapts to what the series leaves out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bibench.algorithms.algorithm import Algorithm, Cost, LayerSpec, Rule, Threshold
from bibench.algorithms.gradients import surrogate
from bibench.algorithms.rules import MeanScale, sgn, unscaled

__all__ = ["AdaptedSign", "FourierSlope", "fda", "noise_strength", "terms"]

_OMEGA = 0.1


def terms(epoch: int, total: int) -> int:
    """The series' last index ``n = 9 + min(8, floor(9·epoch/total))``.

    >>> terms(0, 10), terms(9, 10)
    (9, 17)
    """
    return 9 + min(8, 9 * epoch // total)


def noise_strength(epoch: int, total: int) -> float:
    """``α = 0.05·(1 + cos(π·(epoch + 1)/total))``: exactly 0 in the last epoch.

    >>> noise_strength(9, 10)
    0.0
    """
    return 0.05 * (1 + math.cos(math.pi * ((epoch + 1) / total)))


class FourierSlope(nn.Module):
    """``(4ω/π)·Σ_{i=0..n} cos((2i+1)·ω·x)`` with ω = 0.1 (BiBench, eq. 22; Xu et al., 2021).

    Computed by the closed form ``sin(2(n+1)t) / (2 sin t)`` with ``t = ω·x``, whose limit at 0 is ``n + 1``.

    Args:
        clip: cut the gradient to ``|x| <= 1``, as in the authors' code; False is eq. 22 as printed.
        device: of the buffer.
    """

    n: Tensor

    def __init__(self, clip: bool = True, device: torch.device | None = None) -> None:
        super().__init__()
        self.clip = clip
        self.register_buffer("n", torch.tensor(float(terms(0, 1)), device=device), persistent=False)

    def set_progress(self, epoch: int, total: int) -> None:
        self.n.fill_(terms(epoch, total))

    def forward(self, x: Tensor) -> Tensor:
        t = _OMEGA * x.to(torch.promote_types(x.dtype, torch.float32))
        # The sum repeats with period pi up to its sign. Near a multiple of pi the quotient would lose its digits.
        turns = torch.round(t / math.pi)
        t = t - math.pi * turns
        count = self.n.to(t.dtype) + 1
        series = torch.where(t == 0, count, torch.sin(2 * count * t) / (2 * torch.sin(t)))
        slope = (4 * _OMEGA / math.pi) * torch.where(turns.remainder(2) == 0, series, -series)
        if self.clip:
            slope = slope * (x.abs() <= 1)
        return slope.to(x.dtype)


class AdaptedSign(Rule):
    """``sgn(x)``, in training plus ``α·η(x)`` with ``η(x) = W2·relu(W1·x) + 0.1·sin(x)`` (BiBench, eq. 22 and 23).

    ``x`` is a vector of ``features``: the flattened filter of a weight, or the channels at each position of an
    activation. The bottleneck has ``max(1, features // 64)`` units, no biases. At evaluation nothing is added.

    Args:
        layer: the layer.
        features: length of the vectors.
        dims: spatial dimensions behind the vector's dimension.
        flatten: whether all dimensions but the first make up the vector.
        clip, noise: see `fda`.
    """

    formula = "sgn({x}), in training + α·η({x})"
    gradient = "Fourier"
    strength: Tensor

    def __init__(
        self, layer: LayerSpec, features: int, *, dims: int, flatten: bool, clip: bool = True, noise: bool = True
    ) -> None:
        super().__init__()
        self.slope = FourierSlope(clip, layer.device)
        self.dims = dims
        self.flatten = flatten
        self.noise = noise
        if noise:
            hidden = max(1, features // 64)
            self.down = nn.Linear(features, hidden, bias=False, device=layer.device, dtype=layer.dtype)
            self.up = nn.Linear(hidden, features, bias=False, device=layer.device, dtype=layer.dtype)
        # Until the first call of set_progress: the start of a long training.
        self.register_buffer("strength", torch.tensor(0.1, device=layer.device), persistent=False)

    def set_progress(self, epoch: int, total: int) -> None:
        self.slope.set_progress(epoch, total)
        self.strength.fill_(noise_strength(epoch, total))

    def forward(self, x: Tensor) -> Tensor:
        binary = surrogate(sgn(x), x, self.slope)
        if not (self.training and self.noise):
            return binary
        return binary + self.strength.to(x.dtype) * (self._network(x) + 0.1 * torch.sin(x))

    def deployed_threshold(self) -> Threshold:
        return Threshold(torch.zeros(()))

    def cost(self, layer: LayerSpec, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> Cost:
        """Nothing: the noise adaptation acts in training only and isn't deployed."""
        return Cost()

    def _network(self, x: Tensor) -> Tensor:
        if self.flatten:
            return self._linear(x.flatten(1)).view_as(x)
        if self.dims == 0:
            return self._linear(x)
        convolution = (F.conv1d, F.conv2d, F.conv3d)[self.dims - 1]
        point = (1,) * self.dims
        hidden = F.relu(convolution(x, self.down.weight.view(*self.down.weight.shape, *point)))
        return convolution(hidden, self.up.weight.view(*self.up.weight.shape, *point)).to(x.dtype)

    def _linear(self, vectors: Tensor) -> Tensor:
        result: Tensor = self.up(F.relu(self.down(vectors)))
        return result.to(vectors.dtype)


def fda(*, clip: bool = True, noise: bool = True, scale_in_gradient: bool = True) -> Algorithm:
    """``o = (sgn(a) * sgn(w)) · m_o``, gradients from the sign's Fourier series (BiBench, eq. 22, 23; Xu et al., 2021).

    Args:
        clip: cut the gradient to ``|x| <= 1``.
        noise: whether the noise adaptation module is there; it acts in training only.
        scale_in_gradient: False leaves the scale out of the weight's gradient.

    >>> fda(clip=False).title
    'FDA'
    """

    def weight(layer: LayerSpec) -> AdaptedSign:
        features = math.prod(layer.weight_shape[1:])
        return AdaptedSign(layer, features, dims=0, flatten=True, clip=clip, noise=noise)

    def activation(layer: LayerSpec) -> AdaptedSign:
        return AdaptedSign(layer, layer.in_features, dims=layer.dims, flatten=False, clip=clip, noise=noise)

    return Algorithm(
        name="fda",
        title="FDA",
        source="Xu et al., 2021a; BiBench eq. 22, 23",
        weight=unscaled(weight, when=not scale_in_gradient),
        activation=activation,
        scale=MeanScale,
    )
