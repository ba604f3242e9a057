"""The image architectures: shapes, sizes, and that every part can be replaced."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bibench import registry
from bibench.models.image import digits_cnn, mobilenet_v2, resnet18, resnet20, resnet34, vgg_small

ALL = [resnet18, resnet20, resnet34, vgg_small, mobilenet_v2, digits_cnn]


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ALL, ids=lambda architecture: architecture.name)
@pytest.mark.parametrize("input_shape", [(3, 32, 32), (1, 8, 8)])
def test_gives_one_output_a_class(architecture, input_shape):
    model = architecture.build(input_shape, 7).eval()
    with torch.no_grad():
        assert model(torch.randn(2, *input_shape)).shape == (2, 7)


@pytest.mark.parametrize("architecture", ALL, ids=lambda architecture: architecture.name)
def test_every_parameter_exists_after_construction_and_gets_a_gradient(architecture):
    model = architecture.build((3, 32, 32), 10)
    before = {name for name, _ in model.named_parameters()}
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert {name for name, _ in model.named_parameters()} == before
    assert not [name for name, parameter in model.named_parameters() if parameter.grad is None]


@pytest.mark.parametrize("architecture", ALL, ids=lambda architecture: architecture.name)
def test_a_seed_decides_the_parameters(architecture):
    def build(seed):
        torch.manual_seed(seed)
        return torch.cat([parameter.flatten() for parameter in architecture.build((3, 32, 32), 10).parameters()])

    torch.testing.assert_close(build(1), build(1), rtol=0, atol=0)
    assert not torch.equal(build(1), build(2))


@pytest.mark.parametrize("architecture", ALL, ids=lambda architecture: architecture.name)
def test_activations_are_modules(architecture):
    """Without its ReLU modules a network has no other one left."""
    model = architecture.build((3, 32, 32), 10).eval()
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.ReLU | nn.ReLU6):
                setattr(parent, name, nn.Identity())
    called = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            called.append(function.__name__)
            return function(*args, **(kwargs or {}))

    with Record():
        model(torch.randn(1, 3, 32, 32))
    assert any("convolution" in name for name in called)
    assert not [name for name in called if any(part in name for part in ("relu", "clamp", "hardtanh"))]


@pytest.mark.parametrize("architecture", ALL, ids=lambda architecture: architecture.name)
def test_is_registered_under_its_name(architecture):
    assert registry.get("architectures", architecture.name) is architecture
    assert (architecture.family, architecture.modality) == ("cnns", "image")


@pytest.mark.parametrize(
    ("architecture", "input_shape", "outputs", "parameters"),
    [
        (resnet18, (3, 224, 224), 1000, 11_689_512),  # torchvision's published figures
        (resnet34, (3, 224, 224), 1000, 21_797_672),
        (mobilenet_v2, (3, 224, 224), 1000, 3_504_872),
        (resnet20, (3, 32, 32), 10, 272_474),  # 0.27 M in He et al., table 6, and the two projections
        (vgg_small, (3, 32, 32), 10, 4_660_106),  # 4,574,592 in convolutions, 3,584 in BN, 81,930 in the classifier
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_number_of_parameters(architecture, input_shape, outputs, parameters):
    assert _count(architecture.build(input_shape, outputs)) == parameters


@pytest.mark.parametrize(
    ("architecture", "last", "side"),
    [(resnet18, "layer4", 4), (resnet34, "layer4", 4), (resnet20, "layer3", 8), (mobilenet_v2, "features", 4)],
    ids=lambda value: getattr(value, "name", None),
)
def test_small_images_keep_their_resolution_in_the_stem(architecture, last, side):
    model = architecture.build((3, 32, 32), 10).eval()
    shapes = []
    model.get_submodule(last).register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(torch.randn(1, 3, 32, 32))
    assert shapes[0][2:] == (side, side)


@pytest.mark.parametrize("architecture", [resnet18, mobilenet_v2], ids=lambda architecture: architecture.name)
@pytest.mark.parametrize(("size", "final"), [(64, 8), (65, 3)])
def test_the_stem_for_small_images_ends_at_64_pixels(architecture, size, final):
    model = architecture.build((3, size, size), 10).eval()
    shapes = []
    last = "layer4" if architecture is resnet18 else "features"
    model.get_submodule(last).register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    model(torch.randn(1, 3, size, size))
    assert shapes[0][2:] == (final, final)


def test_the_only_projections_are_named_downsample():
    names = [
        name
        for name, module in resnet20.build((3, 32, 32), 10).named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    ]
    assert names == ["layer2.0.downsample.0", "layer3.0.downsample.0"]


def test_vgg_small_has_the_published_widths_and_takes_other_sizes():
    model = vgg_small.build((3, 48, 32), 10)
    convolutions = [module for module in model if isinstance(module, nn.Conv2d)]
    assert [convolution.out_channels for convolution in convolutions] == [128, 128, 256, 256, 512, 512]
    assert model.fc.in_features == 512 * 6 * 4


def test_vgg_small_starts_from_he_initialisation():
    weight = vgg_small.build((3, 32, 32), 10).conv6.weight
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


@pytest.mark.parametrize("architecture", ALL, ids=lambda architecture: architecture.name)
@pytest.mark.parametrize("input_shape", [(128,), (3, 1, 1), (0, 32, 32)])
def test_refuses_other_inputs_by_name(architecture, input_shape):
    with pytest.raises(ValueError, match=rf"{architecture.name} takes images .* got input_shape="):
        architecture.build(input_shape, 10)
