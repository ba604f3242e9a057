"""What the tests of all algorithms share: layers of every kind in float64, and the comparison with the reference."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import reference
import torch
from reference import CASES, Array, Case, Parts

from bibench.algorithms import Algorithm
from bibench.nn import BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryLayer, BinaryLinear, parameter_groups

cases = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def build(algorithm: Algorithm, case: Case, *, padding_value: int = 0) -> BinaryLayer:
    """The case's layer in float64 with random parameters; XNOR++ is built for one more row and column than needed."""
    if not case.kernel:
        layer = BinaryLinear(*case.channels, algorithm=algorithm)
    else:
        layer = (BinaryConv1d, BinaryConv2d, BinaryConv3d)[len(case.kernel) - 1](
            *case.channels,
            case.kernel,
            case.stride,
            case.padding,
            case.dilation,
            case.groups,
            algorithm=algorithm,
            padding_value=padding_value,
            output_size=tuple(n + 1 for n in case.output_size),
        )
    return layer.double()


def values(shape: tuple[int, ...], rng: np.random.Generator, low: int = -16, high: int = 16) -> Array:
    """Multiples of 1/8, whose sums are exact, with the points at which a gradient rule changes and their neighbours."""
    x = rng.integers(low, high, shape, endpoint=True) / 8
    special = [0.0, -0.0, 1.0, -1.0, -1.75, 1.75, 1e-300, -1e-300]
    special += [np.nextafter(1, 2), np.nextafter(1, 0), np.nextafter(-1, -2), np.nextafter(-1, 0)]
    flat = x.reshape(-1)
    places = rng.permutation(flat.size)[: len(special)]
    flat[places] = np.array(special)[: len(places)]
    return x


def randomise(layer: BinaryLayer, rng: np.random.Generator) -> dict[str, Array]:
    """Give all parameters but weight and bias new values; returns them by name."""
    found = {}
    for name, parameter in layer.named_parameters():
        if name not in ("weight", "bias"):
            value = rng.normal(size=tuple(parameter.shape))
            if name == "activation_rule.threshold":
                value = np.round(8 * value) / 8
            if name == "activation_rule.A":
                value = np.array(3.0)
            parameter.data.copy_(torch.from_numpy(np.asarray(value)))
            found[name] = parameter.detach().numpy().copy()
    return found


def agree(
    layer: BinaryLayer,
    case: Case,
    parts: Callable[[dict[str, Array]], Parts],
    *,
    a: Array | None = None,
    w: Array | None = None,
    pad_value: float = 0.0,
) -> None:
    """Assert that output and every gradient of the layer are those of the reference."""
    rng = np.random.default_rng(1)
    parameters = randomise(layer, rng)
    a = values(case.input_shape, rng) if a is None else a
    w = values(case.weight_shape, rng) if w is None else w
    bias = rng.normal(size=case.channels[1])
    layer.weight.data.copy_(torch.from_numpy(w))
    layer.bias.data.copy_(torch.from_numpy(bias))
    x = torch.from_numpy(a).requires_grad_()
    y = layer(x)
    g = rng.normal(size=tuple(y.shape))
    incoming = torch.from_numpy(g.copy())
    y.backward(incoming)
    assert torch.equal(incoming, torch.from_numpy(g)), "the incoming gradient was modified in place"

    expected, gradients = reference.layer(parts(parameters), a, w, bias, g, case, pad_value)
    np.testing.assert_allclose(y.detach().numpy(), expected, rtol=1e-11, atol=1e-11, err_msg="output")
    found = {"input": x.grad, **{name: p.grad for name, p in layer.named_parameters() if p.grad is not None}}
    assert found.keys() == gradients.keys()
    for name, value in gradients.items():
        np.testing.assert_allclose(found[name].numpy(), value, rtol=1e-9, atol=1e-11, err_msg=f"gradient of {name}")

    for rule, leaf in ((layer.activation_rule, x.detach().requires_grad_()), (layer.weight_rule, layer.weight)):
        incoming = torch.full_like(leaf, 2.0)
        rule(leaf).backward(incoming)
        assert incoming.eq(2).all(), "a rule modified the incoming gradient in place"


def two_valued(algorithm: Algorithm, case: Case, expected: tuple[int, int] = (-1, 1)) -> None:
    """Assert that at evaluation both operands hold exactly two values and no graph of anything else is built."""
    layer = build(algorithm, case).eval()
    rng = np.random.default_rng(2)
    randomise(layer, rng)
    x = torch.from_numpy(values(case.input_shape, rng, -32, 32))
    assert set(layer.activation_rule(x).unique().tolist()) == set(expected)
    assert layer.activation_rule.values == expected
    weight = layer.weight_rule(layer.weight)
    assert set(weight.unique().tolist()) == {-1, 1}
    assert layer.weight_rule.values == (-1, 1)
    assert torch.equal(weight, layer.binary_weight())
    assert layer.train().binary_weight().unique().tolist() == [-1, 1]
    assert all(module.training for module in layer.modules())


def reaches_the_optimizer(algorithm: Algorithm, case: Case, extra: dict[str, bool]) -> None:
    """Assert that the layer has these parameters at once, and that each is in exactly one optimizer group.

    Args:
        algorithm, case: the layer.
        extra: parameters beside weight and bias; the value tells whether it carries weight decay by default.
    """
    layer = build(algorithm, case)
    parameters = dict(layer.named_parameters())
    assert parameters.keys() == {"weight", "bias"} | extra.keys()
    decays = {"weight": True, "bias": True, **extra}
    for decay_scales in (False, True):
        groups = parameter_groups(layer, 0.25, decay_scales=decay_scales)
        torch.optim.SGD(groups, lr=0.1)  # refuses a parameter that is in two groups
        placed = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
        assert len(placed) == len(parameters)
        for name, parameter in parameters.items():
            assert placed[id(parameter)] == (0.25 if decays[name] or decay_scales else 0.0), name
    layer(torch.ones(case.input_shape, dtype=torch.float64)).sum().backward()
    assert dict(layer.named_parameters()).keys() == parameters.keys(), "a parameter appeared in forward"
