"""NCF: its size, its initialisation, its function, and what of it is binarized."""

import math

import pytest
import torch
from torch import nn

import bibench
from bibench import registry
from bibench.models.ncf import NeuMF, ncf
from bibench.tasks.movielens import movielens

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")


def _pairs(count, users, items):
    generator = torch.Generator().manual_seed(1)
    user = torch.randint(users, (count,), generator=generator)
    return torch.stack((user, torch.randint(items, (count,), generator=generator)), dim=1)


def test_one_logit_a_pair():
    model = ncf.build((2,), (7, 11)).eval()
    with torch.no_grad():
        assert model(_pairs(5, 7, 11)).shape == (5,)
        assert model(_pairs(1, 7, 11)).shape == (1,)


def test_sizes_are_those_of_the_reference():
    """Users and items times 64 + 128, 256-256-128-64 and 128-1 with biases, and two batch normalisations."""
    model = ncf.build((2,), (610, 9724))
    perceptron = 257 * 256 + 257 * 128 + 129 * 64 + 129
    assert sum(parameter.numel() for parameter in model.parameters()) == 10_334 * 192 + perceptron + 2 * (128 + 64)
    assert [type(module).__name__ for module in model.mlp] == [
        *("Linear", "ReLU"),
        *("Linear", "BatchNorm1d", "ReLU"),
        *("Linear", "BatchNorm1d", "ReLU"),
    ]
    assert [module.out_features for module in model.modules() if isinstance(module, nn.Linear)] == [256, 128, 64, 1]


def test_initialisation_is_that_of_the_reference():
    torch.manual_seed(0)
    model = ncf.build((2,), (500, 500))
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.02)
            assert module.weight.mean().item() == pytest.approx(0, abs=1e-4)
    limits = {layer: math.sqrt(6 / (layer.in_features + layer.out_features)) for layer in model.mlp if _linear(layer)}
    limits[model.final] = math.sqrt(3 / 128)
    assert len(limits) == 4
    for layer, limit in limits.items():
        assert layer.weight.abs().max().item() == pytest.approx(limit, rel=0.05)
        assert layer.weight.abs().max().item() <= limit
        assert layer.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.15)  # uniform


def _linear(module):
    return isinstance(module, nn.Linear)


def test_function_as_written_out():
    torch.manual_seed(0)
    model = NeuMF(4, 5, factors=3, layers=(4, 6, 2)).double()
    model(_pairs(20, 4, 5))  # moves the running statistics
    model.eval()
    user, item = 2, 4
    x = torch.cat((model.user_features.weight[user], model.item_features.weight[item]))
    first, second, norm = model.mlp.linear1, model.mlp.linear2, model.mlp.bn2
    x = (first.weight @ x + first.bias).clamp(min=0)
    x = second.weight @ x + second.bias
    x = (x - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias
    joined = torch.cat((model.user_factors.weight[user] * model.item_factors.weight[item], x.clamp(min=0)))
    expected = (model.final.weight @ joined + model.final.bias).item()
    assert model(torch.tensor([[user, item]])).item() == pytest.approx(expected, rel=1e-12)


def test_every_parameter_gets_a_gradient_and_a_seed_decides_them():
    def build(seed):
        torch.manual_seed(seed)
        return ncf.build((2,), (3, 4))

    model = build(1)
    model(_pairs(64, 3, 4)).square().sum().backward()
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]
    one, same, other = (nn.utils.parameters_to_vector(build(seed).parameters()) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_first_and_last_layer_stay_in_full_precision(name):
    """Of the linear layers, as the embeddings are none; each that is binarized is followed by a batch normalisation."""
    torch.manual_seed(0)
    binary = bibench.binarize(ncf.build((2,), (50, 60)), name, example=movielens.example())
    found = bibench.summary(binary)
    assert found.binarized == ("mlp.linear2", "mlp.linear3")
    assert found.full_precision == ("mlp.linear1", "final")
    reasons = {layer.name: layer.reason for layer in found}
    assert reasons["mlp.linear1"] == "first layer on the example"
    assert reasons["final"] == "last layer on the example"
    assert sum(reason == "no binarized counterpart" for reason in reasons.values()) == 4  # the embeddings
    for layer in found.binarized:
        following = list(binary.mlp._modules)[list(binary.mlp._modules).index(layer.removeprefix("mlp.")) + 1]
        assert isinstance(binary.mlp.get_submodule(following), nn.BatchNorm1d)
    activations = {type(module) for module in binary.mlp if isinstance(module, nn.ReLU | nn.Hardtanh)}
    assert activations == {nn.ReLU if name == "pact" else nn.Hardtanh}
    assert not found.never_negative


@pytest.mark.parametrize("name", ALGORITHMS)
def test_binarized_network_learns(name):
    """A few pairs by heart: the loss falls well below that of guessing (0.69 nats), and embeddings get gradients."""
    torch.manual_seed(0)
    pairs = _pairs(256, 12, 9).unique(dim=0)
    labels = (pairs.sum(dim=1) % 3 == 0).float()
    model = bibench.binarize(
        NeuMF(12, 9, factors=8, layers=(32, 32, 32, 16)), name, example=movielens.example(), inplace=True
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        loss = movielens.loss(model, (pairs, labels))
        loss.backward()
        optimizer.step()
    assert bool(model.user_features.weight.grad.any())
    assert loss.item() < 0.3


def test_is_registered_under_its_name():
    assert registry.get("architectures", "ncf") is ncf
    assert (ncf.name, ncf.family, ncf.modality) == ("ncf", "mlps", "ratings")
    assert movielens.architectures == ("ncf",)


@pytest.mark.parametrize(
    ("input_shape", "outputs", "message"),
    [
        ((3, 32, 32), (2, 3), r"ncf takes pairs of a user and an item, .* got input_shape=\(3, 32, 32\)"),
        ((2,), 10, r"outputs=\(users, items\), got outputs=10"),
        ((2,), (3,), r"outputs=\(users, items\), got outputs=\(3,\)"),
        ((2,), (0, 3), "users=0, items=3.*expected positive numbers"),
    ],
)
def test_refuses_other_data_by_name(input_shape, outputs, message):
    with pytest.raises(ValueError, match=message):
        ncf.build(input_shape, outputs)


@pytest.mark.parametrize("layers", [(8,), (7, 4), (8, 0)])
def test_refuses_layers_that_fit_no_network(layers):
    with pytest.raises(
        ValueError, match=r"expected positive numbers, and at least two layers of which the first is even"
    ):
        NeuMF(2, 2, layers=layers)
