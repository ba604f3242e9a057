"""Models in which a layer reads only a part of what another has computed, often its beginning, as BERT's pooler."""

import torch
from hypothesis import strategies as st
from interpreted import randomised
from torch import nn

from bibench.nn import BinaryConv2d, BinaryLinear

TOKENS = (2, 5, 8)
MAP = (2, 8, 4, 4)


class Part(nn.Module):
    """Layers, a cut, and layers behind it; with the whole as a second output if asked for."""

    def __init__(self, first, cut, *behind, whole=False):
        super().__init__()
        self.first, self.cut, self.behind, self.whole = first, cut, nn.Sequential(*behind), whole

    def forward(self, x):
        y = self.first(x)
        found = self.behind(self.cut(y))
        return (found, y) if self.whole else found


def binary(outputs=4, algorithm="bnn"):
    return BinaryLinear(8, outputs, algorithm=algorithm)


def token(y):
    return y[:, 0]


def pixel(y):
    return y[:, :, 0, 0]


PARTS = {
    "activation": (lambda: Part(nn.Linear(8, 8), token, nn.ReLU(), nn.Linear(8, 4)), TOKENS),
    "normalisation": (lambda: Part(nn.Linear(8, 8), token, nn.BatchNorm1d(8), nn.Linear(8, 4)), TOKENS),
    "bits": (lambda: Part(nn.Linear(8, 8), token, binary()), TOKENS),
    "bits of sums": (lambda: Part(binary(8), token, binary()), TOKENS),
    "bits of a map": (lambda: Part(nn.Conv2d(8, 8, 1), pixel, binary()), MAP),
    "bits of a maximum": (lambda: Part(nn.MaxPool2d(2), pixel, binary()), MAP),
    "bits of the maximum of sums": (
        lambda: Part(nn.Sequential(BinaryConv2d(8, 8, 1, algorithm="bnn"), nn.MaxPool2d(2)), pixel, binary()),
        MAP,
    ),
    "activation of a maximum": (
        lambda: Part(nn.Sequential(nn.Conv2d(8, 8, 1), nn.MaxPool2d(2)), pixel, nn.Hardtanh(), nn.Linear(8, 4)),
        MAP,
    ),
    "maximum of a part": (
        lambda: Part(nn.Conv2d(8, 8, 1), lambda y: y[:, :, :2], nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(8, 4, 1)),
        MAP,
    ),
    "two tokens": (lambda: Part(nn.Linear(8, 8), lambda y: y[:, :2].flatten(1), nn.Linear(16, 4)), TOKENS),
    "last token": (lambda: Part(nn.Linear(8, 8), lambda y: y[:, -1], nn.Tanh(), binary()), TOKENS),
    "softmax": (lambda: Part(nn.Linear(8, 8), lambda y: y[:, :3], nn.Softmax(-1)), TOKENS),
    "layer norm": (lambda: Part(nn.Linear(8, 8), lambda y: y[:, :3], nn.LayerNorm(8)), TOKENS),
    "mean": (lambda: Part(nn.Linear(8, 8), lambda y: y[:, :3].mean(-1), nn.ReLU()), TOKENS),
    "mean over tokens": (lambda: Part(nn.Linear(8, 8), lambda y: y[:, :3].mean(1), nn.ReLU()), TOKENS),
    "magnitudes": (lambda: Part(nn.Linear(8, 8), token, binary(4, "xnor")), TOKENS),
    "residual": (lambda: Part(nn.Linear(8, 8), lambda y: y[:, :3] + y[:, 2:], nn.Linear(8, 8)), TOKENS),
    "half of a token": (lambda: Part(nn.Linear(8, 8), lambda y: y[:, 0, :4], nn.GELU()), TOKENS),
    "whole too": (lambda: Part(nn.Linear(8, 8), token, nn.ReLU(), binary(), whole=True), TOKENS),
}


def of_part(name):
    """A model of `PARTS` and its input."""
    build, shape = PARTS[name]
    return randomised(build()), torch.randn(shape)


def drawn_part(data):
    """Any range of tokens or pixels of any layer's result, activated or not, read by any layer; and an input."""
    one_of = lambda *choices: data.draw(st.sampled_from(choices))  # noqa: E731
    torch.manual_seed(data.draw(st.integers(0, 99)))
    algorithm = one_of("bnn", "xnor", "reactnet")
    low = data.draw(st.integers(0, 2))
    cut = slice(low, low + data.draw(st.integers(1, 3)) if one_of(True, False) else None)
    whole = one_of(False, False, True)
    if one_of(True, False):
        first = one_of(nn.Linear(8, 8), binary(8, algorithm), nn.Sequential(nn.Linear(8, 8), nn.ReLU()))
        between = one_of(
            nn.Identity(), nn.ReLU(), nn.PReLU(), nn.Tanh(), nn.LayerNorm(8), nn.Softmax(-1), nn.Hardtanh()
        )
        last = one_of(nn.Linear(8, 4), binary(4, algorithm))
        return randomised(Part(first, lambda y: y[:, cut], between, last, whole=whole)), torch.randn(TOKENS)
    layer = one_of(nn.Conv2d(8, 8, 3, padding=1), BinaryConv2d(8, 8, 3, padding=1, algorithm=algorithm))
    first = nn.Sequential(layer, one_of(nn.Identity(), nn.MaxPool2d(3, 1, 1), nn.BatchNorm2d(8)))
    between = one_of(
        nn.Identity(), nn.ReLU(), nn.PReLU(8), nn.BatchNorm2d(8), nn.MaxPool2d(1, 2), nn.MaxPool2d(3, 1, 1)
    )
    last = one_of(nn.Conv2d(8, 4, 1), BinaryConv2d(8, 4, 3, padding=1, algorithm="bnn"))
    taken = one_of(lambda y: y[:, :, cut], lambda y: y[..., cut], lambda y: y[:, :, cut, cut])
    return randomised(Part(first, taken, between, last, whole=whole)), torch.randn(MAP)
