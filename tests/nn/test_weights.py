import pytest
import torch
from torch import nn

import bibench
from bibench.nn import BinaryConv2d, BinaryLinear, layer_statistics, weight_signs


def net() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(4, 4), BinaryLinear(4, 2, bias=False, algorithm="bnn"))
    model[1].weight.data.copy_(torch.tensor([[0.5, -0.5, 0.0, 2.0], [-0.1, -0.2, -3.0, 0.3]]))
    return model


def test_signs():
    signs = weight_signs(net())
    assert list(signs) == ["1"]
    assert signs["1"].tolist() == [[True, False, True, True], [False, False, False, True]]


def test_signs_are_a_copy():
    model = net()
    signs = weight_signs(model)
    model[1].weight.data.neg_()
    assert signs["1"].tolist() == [[True, False, True, True], [False, False, False, True]]


def test_statistics():
    model = net()
    before = weight_signs(model)
    model(torch.zeros(3, 4)).sum().backward()
    model[1].weight.data.copy_(torch.tensor([[0.5, 0.5, -0.1, 2.0], [-0.1, -0.2, -3.0, -0.3]]))
    (statistics,) = layer_statistics(model, before)
    assert statistics.layer == "1"
    assert statistics.flip_rate == pytest.approx(3 / 8)
    assert statistics.positive == pytest.approx(3 / 8)
    assert statistics.dead == pytest.approx(2 / 8)  # the latent weights 2 and -3, beyond the hard estimator's reach


def test_statistics_without_a_step():
    model = net()
    (statistics,) = layer_statistics(model, weight_signs(model))
    assert statistics.flip_rate == 0
    assert statistics.positive == pytest.approx(0.5)
    assert statistics.dead is None


@pytest.mark.parametrize("algorithm", ["recu", "fda", "pact"])
def test_deployed_signs_and_mode(algorithm):
    """What counts is the deployed weight, without FDA's noise and after ReCU's standardisation; the mode stays."""
    layer = BinaryConv2d(2, 3, 3, algorithm=algorithm)
    layer.weight.data.add_(1.0)
    centred = layer.weight - layer.weight.mean((1, 2, 3), keepdim=True) if algorithm == "recu" else layer.weight
    for training in (True, False):
        layer.train(training)
        (signs,) = weight_signs(layer).values()
        assert torch.equal(signs, centred >= 0)
        assert all(module.training == training for module in layer.modules())


def test_every_binarized_layer_by_its_name():
    model = bibench.binarize(nn.Sequential(*(nn.Linear(4, 4) for _ in range(4))), "dorefa")
    assert [statistics.layer for statistics in layer_statistics(model, weight_signs(model))] == ["1", "2"]
    assert layer_statistics(nn.Linear(2, 2), {}) == []
