"""What an algorithm declares about its deployment is checked, and missing declarations are refused by name."""

import pytest
import torch
from interpreted import check
from torch import nn

from bibench.algorithms import Algorithm, Factors, MeanScale, Rule, Sign, Threshold, approx_ste, sgn
from bibench.deploy.deployed import declared_rule
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.nn import BinaryConv2d, BinaryLinear, BinaryMatmul


class Step(Rule):
    """``sgn(x - at)``, declared as wished."""

    def __init__(self, declared, at=0.25, values=(-1, 1)):
        super().__init__()
        self.declared, self.at, self.values = declared, at, values

    def forward(self, x):
        return torch.where(x >= self.at, self.values[1], self.values[0]).to(x.dtype)

    def deployed_threshold(self):
        return self.declared


class Doubled(nn.Module):
    """``product · 2``, declared as wished."""

    def __init__(self, declared):
        super().__init__()
        self.declared = declared

    def forward(self, product, x, w):
        return product * 2

    def factors(self, weight, output_size):
        return self.declared


def algorithm(activation=None, weight=None, scale=lambda layer: None):
    sign = lambda layer: Sign(approx_ste)  # noqa: E731
    return Algorithm(name="mine", weight=weight or sign, activation=activation or sign, scale=scale)


def layer(**parts):
    return nn.Sequential(BinaryLinear(6, 4, algorithm=algorithm(**parts)))


def refused(match, **parts):
    with pytest.raises(PackedError, match=match):
        pack(layer(**parts), torch.randn(1, 6))


def at(value, **how):
    return lambda layer: Step(Threshold(torch.as_tensor(value), **how))


def test_declared_thresholds_work():
    check(layer(activation=at(0.25)), torch.randn(1, 6))
    check(layer(activation=at([0.25] * 6)), torch.randn(1, 6))
    below = torch.nextafter(torch.tensor(0.25), torch.tensor(0.0))
    check(layer(activation=at(below, inclusive=False)), torch.randn(1, 6))


def test_declared_thresholds_are_checked():
    refused(
        r"layer '0': .*Step declares that its operand changes at 0\.5 .*returns 1\.0 at 0\.49999", activation=at(0.5)
    )
    refused(r"changes at 0\.0 .*returns -1\.0 at 0\.0, expected 1\.0", activation=at(0.0))
    refused("changes at", activation=at(0.25, inclusive=False))
    refused(r"\(feature 3\)", activation=at([0.25, 0.25, 0.25, 0.5, 0.25, 0.25]))
    refused("declares 3 thresholds", activation=at([0.25] * 3))
    refused("NaN among them: True", activation=at(float("nan")))
    refused(r"layer '0': .*deployed_threshold\(\) that returns", activation=lambda layer: Step(None))
    refused(r"values \(0, 2\)", activation=lambda layer: Step(Threshold(torch.tensor(0.25)), values=(0, 2)))


def test_both_sides_of_a_product_are_checked():
    product = BinaryMatmul(6, 6, transpose_right=True, algorithm=algorithm(activation=at(0.5)))
    with pytest.raises(PackedError, match=r"changes at 0\.5"):
        pack(product, (torch.randn(1, 2, 6), torch.randn(1, 2, 6)))


def test_infinite_thresholds():
    infinite = Step(Threshold(torch.tensor(float("inf"))), at=float("inf"))
    assert declared_rule("x", infinite, 2, (1, 2)).threshold.tolist() == [float("inf")] * 2


def test_weights_are_checked():
    class Ternary(Sign):
        def forward(self, w):
            return torch.sign(w).clone().index_fill_(0, torch.tensor([0]), 0)

    refused(r"weight rule Ternary returns 0\.0 .*expected -1 and \+1", weight=lambda layer: Ternary(approx_ste))


def test_scales_are_checked():
    check(layer(scale=lambda layer: Doubled(Factors(channel=torch.tensor([2.0])))), torch.randn(1, 6))
    refused(r"layer '0': its scale Doubled isn't what it declares", scale=lambda layer: Doubled(Factors()))
    refused("differs by up to", scale=lambda layer: Doubled(Factors(torch.tensor([2.0, 2, 2, 2.01]))))
    refused("differs by", scale=lambda layer: Doubled(Factors(torch.tensor([2.0]), activation="map")))

    class Silent(nn.Module):
        def forward(self, product, x, w):
            return product

    refused(r"its scale Silent doesn't say .*factors\(weight, output_size\)", scale=lambda layer: Silent())


def test_half_precision_is_refused():
    model = nn.Sequential(BinaryConv2d(2, 3, 1, algorithm="bnn")).to(torch.bfloat16)
    with pytest.raises(PackedError, match="BFloat16"):
        pack(model, torch.randn(1, 2, 4, 4))


def test_a_plugin_needs_no_more_than_the_two_methods():
    class Shifted(Rule):
        def __init__(self, layer):
            super().__init__()
            self.threshold = nn.Parameter(torch.randn(layer.in_features))  # the name that a method would have taken
            self.shape = layer.per_channel

        def forward(self, x):
            return sgn(x - self.threshold.view(self.shape))

        def deployed_threshold(self):
            return Threshold(self.threshold.detach())

    mine = algorithm(activation=Shifted, scale=MeanScale)
    check(nn.Sequential(BinaryConv2d(6, 4, 3, algorithm=mine)), torch.randn(1, 6, 5, 5))
