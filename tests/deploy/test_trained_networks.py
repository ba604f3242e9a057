"""Networks that were trained for a few steps on real images, exported, and run on other real images."""

import pytest
import torch
from interpreted import ENGINE

import bibench
from bibench import registry
from bibench.deploy.compare import compare
from bibench.deploy.export import pack
from bibench.tasks.cifar10 import cifar10
from bibench.tasks.imagenet import imagenet

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not ENGINE, reason="the engine isn't built")]

ROUNDING = 1e-4
"""How far from its threshold a value before a sign may be if the sign differs; the values are of the order of 1."""


def trained(architecture, algorithm, images, labels, outputs, steps):
    """The binarized network after a few steps: weights, thresholds and running statistics that come from the images."""
    torch.manual_seed(0)
    model = registry.get("architectures", architecture).build(tuple(images.shape[1:]), outputs)
    model = bibench.binarize(model, algorithm, example=images[:1])
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    model.train()
    for batch, answers in zip(images.chunk(steps), labels.chunk(steps), strict=True):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(batch), answers).backward()
        optimizer.step()
    return model.eval()


def agrees(model, images):
    """Each sample's first differing bits are within rounding of the threshold, and every answer is the same."""
    program = pack(model, images[:1])
    for image in images.split(1):
        found = compare(model, program, image)
        first = next((layer for layer in found.layers if layer.differing), None)
        assert first is None or first.margin < ROUNDING, str(found)
        assert found.same_top1 == 1, str(found)
        assert sum(layer.bits for layer in found.layers) > 1000


@pytest.mark.parametrize(
    ("architecture", "algorithm"),
    [
        ("resnet18", "xnor"),
        ("resnet18", "reactnet"),
        ("resnet20", "recu"),
        ("resnet20", "xnorpp"),
        ("resnet20e", "pact"),
        ("resnet34", "bireal"),
        ("resnet34e", "fda"),
        ("vgg_small", "bnn"),
        ("vgg_small", "pact"),
        ("vgg16", "dorefa"),
        ("vgg16", "xnor"),
        ("mobilenet_v2", "reactnet"),
        ("mobilenet_v2", "xnorpp"),
    ],
)
def test_cifar_networks(real_data, architecture, algorithm):
    data = cifar10.load(real_data / "cifar-10-lossless-subset", True)
    images, labels = next(data.train.batches(64, device=torch.device("cpu"), seed=0))
    model = trained(architecture, algorithm, images, labels, 10, steps=2)
    tests, _ = next(data.test.batches(6, device=torch.device("cpu")))
    agrees(model, tests)


@pytest.mark.parametrize("algorithm", ["recu", "xnor"])
def test_resnet18_of_full_size(real_data, algorithm):
    data = imagenet.load(real_data / "tiny-imagenet-25", True)
    images, labels = next(data.train.batches(16, device=torch.device("cpu"), seed=0))
    assert images.shape[1:] == (3, 224, 224)
    model = trained("resnet18", algorithm, images, labels, 25, steps=2)
    tests, _ = next(data.test.batches(3, device=torch.device("cpu")))
    agrees(model, tests)
