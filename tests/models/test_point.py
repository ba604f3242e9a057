"""PointNet: its sizes, its function, what of it is binarized, and that it packs."""

import copy

import pytest
import torch
from torch import nn

import bibench
from bibench import registry
from bibench.deploy.compare import compare
from bibench.deploy.export import pack
from bibench.models.point import (
    MaxOverPoints,
    PointNet,
    PointNetSegmentation,
    TNet,
    TransformedConv1d,
    pointnet,
    pointnet_vanilla,
)
from bibench.nn.ema_max import EMAMax, ema_max_shift
from needed_tools import ENGINE

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")
NETWORKS = {
    "vanilla": (pointnet_vanilla, (3, 32), 5),
    "vanilla with normals": (pointnet_vanilla, (6, 32), 5),
    "pointnet": (pointnet, (3, 32), 5),
    "pointnet with normals": (pointnet, (6, 32), 5),
    "segmentation": (pointnet, (3 + 4, 32), (4, 9)),
}


def built(name, clouds=2):
    """A network with its input, categories as +1 and -1."""
    architecture, shape, outputs = NETWORKS[name]
    torch.manual_seed(1)
    model, x = architecture.build(shape, outputs), torch.randn(clouds, *shape)
    if isinstance(outputs, tuple):
        category = torch.eye(4)[torch.arange(clouds) % 4]
        x[:, 3:] = (2 * category - 1)[:, :, None]
    return model, x


def randomised(model):
    """Batch normalisations as after a training, so that no statistic is 0 or 1."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.running_mean.normal_(std=0.5)
            module.running_var.uniform_(0.5, 2)
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(std=0.3)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "shape"),
    [("vanilla", (2, 5)), ("vanilla with normals", (2, 5)), ("pointnet", (2, 5)), ("segmentation", (2, 9, 32))],
)
def test_outputs(name, shape):
    model, x = built(name)
    assert model(x).shape == shape
    assert model.eval()(x[:1]).shape == (1, *shape[1:])


def _weights(model):
    """Inputs and outputs of each layer, in the order in which they are registered."""
    return [tuple(layer.weight.shape[1::-1]) for layer in model.modules() if isinstance(layer, nn.Conv1d | nn.Linear)]


def _tnet(channels, size):
    return [(channels, 64), (64, 128), (128, 1024), (1024, 512), (512, 256), (256, size * size)]


def test_sizes_are_those_of_the_paper():
    trunk, classifier = [(64, 128), (128, 1024)], [(1024, 512), (512, 256), (256, 40)]
    assert _weights(PointNet(3, 40, tnets=False)) == [(3, 64), *trunk, *classifier]
    assert _weights(PointNet(6, 40)) == [*_tnet(6, 3), (6, 64), *_tnet(64, 64), *trunk, *classifier]
    assert _weights(PointNetSegmentation(3, 16, 50)) == [
        *_tnet(3, 3),
        *[(3, 64), (64, 128), (128, 128)],
        *_tnet(128, 128),
        *[(128, 512), (512, 2048)],
        *[(4944, 256), (256, 256), (256, 128), (128, 50)],
    ]


def test_every_parameter_gets_a_gradient():
    for name in NETWORKS:
        model, x = built(name)
        model(x).square().mean().backward()
        assert not [key for key, parameter in model.named_parameters() if parameter.grad is None]


def test_classification_knows_no_order_of_points_and_segmentation_follows_it():
    shuffled = torch.randperm(32)
    for name in ("vanilla", "pointnet"):
        model, x = built(name)
        randomised(model)
        torch.testing.assert_close(model(x[:, :, shuffled]), model(x), rtol=1e-4, atol=1e-5)
    model, x = built("segmentation")
    randomised(model)
    torch.testing.assert_close(model(x[:, :, shuffled]), model(x)[:, :, shuffled], rtol=1e-4, atol=1e-5)


def test_the_category_matters():
    model, x = built("segmentation")
    other = x.clone()
    other[:, 3:] = x[:, 3:].flip(1)
    for network in (model, bibench.binarize(model, "bnn", example=x)):
        randomised(network)
        assert (network(other) - network(x)).abs().max() > 1e-3


def test_the_pool_is_the_relu_of_the_maximum_and_the_maximum_of_the_relu():
    x = torch.randn(4, 6, 9) - 1
    torch.testing.assert_close(MaxOverPoints()(x), x.relu().amax(dim=2))
    assert (x.amax(dim=2) < 0).any()


def test_a_tnet_starts_near_the_identity_and_multiplies_coordinates_only():
    tnet = TNet(6, 3).eval()
    with torch.no_grad():
        for parameter in tnet.matrix.fc.parameters():
            parameter.zero_()
    assert torch.equal(tnet(torch.randn(2, 6, 8)), torch.eye(3).expand(2, 3, 3))
    layer, x, matrix = TransformedConv1d(6, 4, 1), torch.randn(2, 6, 8), torch.randn(2, 3, 3)
    moved = torch.cat((torch.einsum("bij,bjp->bip", matrix, x[:, :3]), x[:, 3:]), dim=1)
    expected = torch.einsum("oi,bip->bop", layer.weight[:, :, 0], moved) + layer.bias[:, None]
    torch.testing.assert_close(layer(x, matrix), expected)


def test_the_identity_is_no_weight():
    assert not [name for name in PointNet(3, 4).state_dict() if "identity" in name]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("name", ["vanilla", "pointnet", "segmentation"])
def test_binarized_networks_train_a_step(name, algorithm):
    model, x = built(name, 4)
    binary = bibench.binarize(model, algorithm, example=x)
    before = {key: parameter.detach().clone() for key, parameter in binary.named_parameters()}
    optimizer = torch.optim.Adam(binary.parameters(), lr=1e-2)
    binary(x).square().mean().backward()
    optimizer.step()
    moved = [key for key, parameter in binary.named_parameters() if not torch.equal(parameter, before[key])]
    latent = [f"{layer}.weight" for layer in bibench.summary(binary).binarized]
    # PACT's gradient is 0 beyond [0, A], where some layers' inputs are at first.
    assert set(latent) <= set(moved) or algorithm == "pact"
    assert all(parameter.isfinite().all() for parameter in binary.parameters())


@pytest.mark.parametrize("algorithm", ["bnn", "pact"])
@pytest.mark.parametrize("name", ["vanilla", "pointnet", "segmentation"])
def test_layers_that_see_coordinates_and_the_last_stay_in_full_precision(name, algorithm):
    model, x = built(name)
    binary = bibench.binarize(model, algorithm, example=x)
    last = "fc" if name == "segmentation" else "classifier.fc"
    first = {"first.conv1"} if name == "vanilla" else {"first.conv1", "first.tnet.features.conv1"}
    assert set(bibench.summary(binary).full_precision) == {*first, last}
    kinds = [type(module) for module in binary.modules()]
    assert kinds.count(EMAMax) == (1 if name == "vanilla" else 3)
    assert MaxOverPoints not in kinds
    assert (nn.ReLU in kinds) == (algorithm == "pact")
    assert (nn.Hardtanh in kinds) == (algorithm != "pact")
    assert {module.centre for module in binary.modules() if isinstance(module, EMAMax)} == {
        1.5 if algorithm == "pact" else 0.0
    }


def test_nothing_stands_between_batch_normalisation_and_ema_max():
    binary = bibench.binarize(built("vanilla")[0], "bnn", example=built("vanilla")[1])
    assert [type(module).__name__ for module in binary.features] == [
        *("BinaryConv1d", "BatchNorm1d", "Hardtanh"),
        *("BinaryConv1d", "BatchNorm1d"),
    ]
    assert isinstance(binary.pool, EMAMax)


def test_pooled_signs_differ_on_a_fresh_network():
    """Behind a batch normalisation with the batch's statistics; without the shift nearly all would be +1."""
    model, x = PointNet(3, 5, tnets=False), torch.randn(16, 3, 1024)
    binary = bibench.binarize(model, "bireal", example=x[:2])
    seen = []
    binary.classifier.linear1.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    binary(x)
    assert 0.05 < (seen[0] > 0).float().mean().item() < 0.95
    unshifted = seen[0] - ema_max_shift(1024)
    assert (unshifted > 0).float().mean().item() > 0.999


@pytest.mark.skipif(not ENGINE, reason="the engine isn't built")
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, None])
@pytest.mark.parametrize("name", ["vanilla", "pointnet with normals", "segmentation"])
def test_packs_and_agrees_with_pytorch(name, algorithm):
    """Every bit in front of every binary layer, and the outputs, under the engine's own comparison."""
    model, x = built(name)
    if algorithm is not None:
        model = bibench.binarize(model, algorithm, example=x)
    randomised(model)
    found = compare(model, pack(model, x), x)
    assert sum(layer.differing for layer in found.layers) == 0
    assert found.difference <= 1e-4 * max(found.largest, 1)
    assert found.same_top1 == found.samples


def test_a_copy_computes_the_same():
    model, x = built("pointnet")
    randomised(model)
    assert torch.equal(copy.deepcopy(model)(x), model(x))


def test_are_registered_under_the_published_names():
    assert registry.get("architectures", "pointnet") is pointnet
    assert registry.get("architectures", "pointnet_vanilla") is pointnet_vanilla
    assert {(network.family, network.modality) for network in (pointnet, pointnet_vanilla)} == {("mlps", "points")}


@pytest.mark.parametrize(
    ("architecture", "shape", "outputs", "message"),
    [
        (
            pointnet,
            (3, 32, 32),
            5,
            r"pointnet takes clouds of shape \(channels, points\).*got input_shape=\(3, 32, 32\)",
        ),
        (pointnet, (4, 32), 5, r"3 coordinates, or 6 channels with normals, got input_shape=\(4, 32\)"),
        (pointnet, (3, 32), (16, 50), r"and 16 channels of the category, got input_shape=\(3, 32\)"),
        (pointnet_vanilla, (2,), 5, "pointnet_vanilla takes clouds"),
        (pointnet_vanilla, (19, 32), (16, 50), r"pointnet_vanilla classifies whole clouds, got outputs=\(16, 50\)"),
    ],
)
def test_refuses_other_data_by_name(architecture, shape, outputs, message):
    with pytest.raises(ValueError, match=message):
        architecture.build(shape, outputs)
