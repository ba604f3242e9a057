"""Bits in front of a binary layer are the model's own, also where its float arithmetic is at the very boundary."""

import numpy as np
import pytest
import torch
from interpreted import ENGINE, Interpreter, check, codes, randomised
from torch import nn

from bibench.deploy import export
from bibench.deploy.compare import compare
from bibench.deploy.export import pack
from bibench.deploy.format import Code
from bibench.deploy.thresholds import sums
from bibench.nn import BinaryConv1d, BinaryConv2d, BinaryLinear

ENGINES = [Interpreter, *([None] if ENGINE else [])]


def differing(model, x, program=None):
    program = program or pack(model, x)
    found = {compare(model, program, x, **({"engine": engine} if engine else {})).differing for engine in ENGINES}
    assert len(found) == 1
    return found.pop()


def at_the_boundary(norm, inputs):
    """Normalisation whose result is 0, or the rounding error of 0, at a sum that occurs."""
    with torch.no_grad():
        norm.running_mean.copy_(torch.randint(-inputs, inputs + 1, norm.running_mean.shape) * 1.0)
        norm.running_var.uniform_(0.1, 30)
        norm.weight.normal_()
        norm.bias.zero_()
    return norm.eval()


def thresholds(program):
    """A, B and the thresholds of the first binary convolution."""
    step = next(operation for operation in program.operations if operation.code is Code.BCONV)
    return [
        None if index < 0 else program.constants[index].array() for index in (*step.constants[1:3], step.constants[4])
    ]


@pytest.mark.parametrize("algorithm", ["bnn", "dorefa", "reactnet", "recu", "pact", "xnorpp"])
def test_sums_at_the_boundary(algorithm, monkeypatch):
    layers = [BinaryLinear(24, 900, algorithm=algorithm), nn.BatchNorm1d(900), nn.Hardtanh()]
    model = nn.Sequential(*layers, BinaryLinear(900, 4, algorithm="bnn")).eval()
    with torch.no_grad():
        layers[0].bias.zero_()
        if algorithm == "pact":
            model[0].activation_rule.A.fill_(1)
    at_the_boundary(model[1], 12)
    with torch.no_grad():  # a boundary that is a sum times the scale
        scale = model[0](torch.ones(1, 24)) / model[0]._product(torch.ones(1, 24), model[0].binary_weight())
        model[1].running_mean.mul_(torch.nan_to_num(scale[0], nan=1.0))
    x = torch.randn(12, 24)
    assert differing(model, x) == 0
    factor, shift, limits = thresholds(pack(model, x))
    assert shift is None
    assert factor is None or set(np.abs(factor)) == {1}
    assert all(np.isinf(limit) or limit == round(limit) for limit in limits)

    monkeypatch.setattr(export, "exact_thresholds", lambda steps, graph: None)
    assert (
        compare(model, pack(model, x), x, engine=Interpreter).differing > 0
    )  # folded arithmetic alone isn't enough here


@pytest.mark.parametrize("padding_value", [0, 1, -1])
@pytest.mark.parametrize("values", ["bnn", "pact"])
def test_convolutions_with_padding(values, padding_value):
    layer = BinaryConv2d(4, 160, 3, padding=1, algorithm=values, padding_value=padding_value, bias=False)
    model = nn.Sequential(layer, nn.BatchNorm2d(160), nn.Hardtanh(), BinaryConv2d(160, 2, 1, algorithm="bnn")).eval()
    if values == "pact":
        with torch.no_grad():
            layer.activation_rule.A.fill_(1)
    at_the_boundary(model[1], 9)
    assert differing(model, torch.randn(4, 4, 5, 5)) == 0


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1, dilation=2)])
@pytest.mark.parametrize("first", [True, False])
def test_pools(pool, first):
    norm = at_the_boundary(nn.BatchNorm2d(96), 9)
    with torch.no_grad():
        norm.weight.abs_()
    between = [pool, norm, nn.Hardtanh()] if first else [norm, nn.Hardtanh(), pool]
    model = nn.Sequential(
        BinaryConv2d(5, 96, 2, bias=False, algorithm="bnn"),
        *between,
        BinaryConv2d(96, 3, 2, padding=1, algorithm="bnn"),
    )
    x = torch.randn(3, 5, 7, 7)
    program = check(model, x)
    assert codes(program) == ["COPY", "PACK", "BCONV", "BITPOOL", "BCONV", "COPY"]
    assert thresholds(program)[1] is None
    assert differing(model, x) == 0


def test_a_pool_in_front_of_a_falling_function_stays():
    model = nn.Sequential(
        BinaryConv2d(5, 9, 2, algorithm="bnn"),
        nn.MaxPool2d(2),
        randomised(nn.BatchNorm2d(9)),
        nn.Hardtanh(),
        BinaryConv2d(9, 3, 2, algorithm="bnn"),
    )
    x = torch.randn(3, 5, 7, 7)
    assert "POOL" in codes(check(model, x))
    assert differing(model, x) == 0


def test_channels_that_are_constant_or_fall():
    norm = nn.BatchNorm1d(4)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.0, 0.0, -1.0, 1.0]))
        norm.bias.copy_(torch.tensor([0.0, -1.0, 0.3, 1000.0]))
    model = nn.Sequential(BinaryLinear(5, 4, algorithm="bnn", bias=False), norm, BinaryLinear(4, 1, algorithm="bnn"))
    factor, _, limits = thresholds(pack(model.eval(), torch.randn(1, 5)))
    assert factor.tolist() == [1, 1, -1, 1]
    assert limits.tolist() == [-np.inf, np.inf, 1, -np.inf]  # sums are odd: the third is up from -1 downwards
    assert differing(model, torch.randn(9, 5)) == 0


def test_a_function_that_turns_falls_back_on_floats():
    prelu = nn.PReLU(6)
    with torch.no_grad():
        prelu.weight.copy_(torch.linspace(-2, 1, 6))
    shift = nn.BatchNorm1d(6)
    with torch.no_grad():
        shift.bias.fill_(0.01)
    last = BinaryLinear(6, 2, algorithm="reactnet")
    with torch.no_grad():
        last.activation_rule.threshold.fill_(0.5)
    model = nn.Sequential(BinaryLinear(8, 6, algorithm="bnn"), shift, prelu, last).eval()
    x = torch.randn(5, 8)
    program = check(model, x)
    assert thresholds(program)[1] is not None
    assert differing(model, x) == 0


class Both(nn.Module):
    """A value that two layers with thresholds of their own read, and that is read as floats."""

    def __init__(self, activation):
        super().__init__()
        self.first = BinaryConv2d(6, 40, 3, padding=1, algorithm="bnn", bias=False)
        self.norm = at_the_boundary(nn.BatchNorm2d(40), 20)
        self.activation = activation
        self.one, self.other = (BinaryConv2d(40, 3, 3, padding=p, algorithm="reactnet") for p in (1, 2))
        with torch.no_grad():
            self.other.activation_rule.threshold.normal_()

    def forward(self, x):
        y = self.activation(self.norm(self.first(x)))
        return self.one(y), self.other(y), y * 2


@pytest.mark.parametrize("activation", [nn.Hardtanh(), nn.PReLU(40), nn.Identity()])
def test_bits_and_floats_of_the_same_value(activation):
    model, x = Both(activation).eval(), torch.randn(2, 6, 5, 5)
    program = check(model, x, atol=1e-4)
    assert differing(model, x) == 0
    assert thresholds(program)[1] is None


def test_views_between_the_parts_are_seen():
    """The same normalisation over another dimension of the same size isn't taken for one over the channels."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = BinaryLinear(7, 6, algorithm="bnn"), BinaryLinear(6, 2, algorithm="bnn")
            self.norm = randomised(nn.BatchNorm1d(6))

        def forward(self, x):
            return self.last(self.norm(self.first(x).transpose(1, 2)))

    model, x = Turned().eval(), torch.randn(4, 6, 7)
    check(model, x)
    assert differing(model, x) == 0


def test_constants_that_differ_by_position_are_no_threshold():
    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = BinaryConv1d(4, 6, 1, algorithm="bnn"), BinaryConv1d(6, 2, 1, algorithm="bnn")
            self.at = nn.Parameter(torch.randn(6, 9))

        def forward(self, x):
            return self.last(self.first(x) + self.at)

    model, x = Positions().eval(), torch.randn(3, 4, 9)
    check(model, x)
    assert differing(model, x) == 0


def test_constants_as_large_as_the_value():
    """They are the same at every position, and are joined; but they can't be added to all sums at once."""

    class Positions(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = BinaryConv1d(4, 6, 1, algorithm="bnn"), BinaryConv1d(6, 2, 1, algorithm="bnn")

        def forward(self, x):
            return self.last(self.first(x) + torch.full((6, 7), 0.25))

    model, x = Positions().eval(), torch.randn(3, 4, 7)
    assert codes(check(model, x)) == ["COPY", "PACK", "BCONV", "BCONV", "COPY"]
    assert differing(model, x) == 0


def test_views_of_more_dimensions_between_the_parts():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = BinaryConv1d(4, 6, 1, algorithm="bnn"), BinaryConv1d(6, 2, 1, algorithm="bnn")
            self.norm, self.act, self.pool = randomised(nn.BatchNorm2d(6)), nn.PReLU(6), nn.MaxPool1d(2)

        def forward(self, x):
            return self.last(self.pool(self.act(self.norm(self.first(x).unsqueeze(3))).squeeze(3)))

    model, x = Deep().eval(), torch.randn(3, 4, 9)
    assert codes(check(model, x)) == ["COPY", "PACK", "BCONV", "BITPOOL", "BCONV", "COPY"]
    assert differing(model, x) == 0


def test_residuals_keep_their_floats():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 32, 1)
            self.a, self.b = (BinaryConv2d(32, 32, 3, padding=1, algorithm="bnn") for _ in range(2))
            self.norm = randomised(nn.BatchNorm2d(32))

        def forward(self, x):
            x = self.stem(x)
            return self.b(torch.nn.functional.hardtanh(self.norm(self.a(x)) + x))

    model, x = Residual().eval(), torch.randn(2, 3, 6, 6)
    program = check(model, x)
    assert codes(program) == ["COPY", "FCONV", "BCONV", "BCONV", "COPY"]
    assert thresholds(program)[1] is not None
    assert differing(model, x) == 0


def test_which_sums_there_are():
    whole = BinaryConv2d(2, 3, 2, algorithm="bnn")
    assert sums(whole).tolist() == list(range(-8, 9, 2))
    assert sums(BinaryConv2d(2, 3, 2, padding=1, algorithm="bnn")).tolist() == list(range(-8, 9))
    assert sums(BinaryConv2d(2, 3, 2, padding=1, padding_value=1, algorithm="bnn")).tolist() == list(range(-8, 9, 2))
    assert sums(BinaryLinear(3, 1, algorithm="pact")).tolist() == list(range(-3, 4))
    assert sums(BinaryConv2d(4, 6, 1, groups=2, algorithm="bnn")).tolist() == [-2, 0, 2]
