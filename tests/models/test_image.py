"""The image architectures: shapes, sizes, and that every part can be replaced."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from bibench import binarize, registry, summary
from bibench.models.image import (
    digits_cnn,
    digits_mlp,
    digits_transformer,
    mobilenet_v2,
    resnet18,
    resnet20,
    resnet20e,
    resnet34,
    resnet34e,
    vgg16,
    vgg_small,
)
from bibench.nn import penalty
from bibench.tasks.digits import digits

ALL = [
    resnet18,
    resnet20,
    resnet20e,
    resnet34,
    resnet34e,
    vgg16,
    vgg_small,
    mobilenet_v2,
    digits_cnn,
    digits_mlp,
    digits_transformer,
]
FAMILIES = {digits_mlp.name: "mlps", digits_transformer.name: "transformers"}
STAGES = {resnet20.name: 3, resnet20e.name: 3, resnet34e.name: 4}


def _count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("architecture", ALL, ids=lambda architecture: architecture.name)
@pytest.mark.parametrize("input_shape", [(3, 32, 32), (1, 8, 8)])
def test_gives_one_output_a_class(architecture, input_shape):
    if architecture is vgg16:
        input_shape = (input_shape[0], 32, 40)  # the least it takes
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
    product = "convolution" if architecture.family == "cnns" else "mm"
    assert any(product in name for name in called)
    assert not [name for name in called if any(part in name for part in ("relu", "clamp", "hardtanh"))]


@pytest.mark.parametrize("architecture", ALL, ids=lambda architecture: architecture.name)
def test_is_registered_under_its_name(architecture):
    assert registry.get("architectures", architecture.name) is architecture
    assert (architecture.family, architecture.modality) == (FAMILIES.get(architecture.name, "cnns"), "image")


@pytest.mark.parametrize(
    ("architecture", "input_shape", "outputs", "parameters"),
    [
        (resnet18, (3, 224, 224), 1000, 11_689_512),  # torchvision's published figures
        (resnet34, (3, 224, 224), 1000, 21_797_672),
        (mobilenet_v2, (3, 224, 224), 1000, 3_504_872),
        (resnet20, (3, 32, 32), 10, 272_474),  # 0.27 M in He et al., table 6, and the two projections
        (resnet20e, (3, 32, 32), 10, 272_474),  # 270,256 in convolutions (2,560 in projections), 1,568 in BN, 650 in fc
        (resnet34e, (3, 224, 224), 1000, 21_797_672),  # 21,267,648, 17,024 and 513,000: a skip has no parameters
        (resnet34e, (1, 32, 32), 10, 21_280_970),  # 21,258,816 with 9·64 instead of 147·64 in the stem, 17,024, 5,130
        (vgg16, (3, 224, 224), 1000, 138_365_992),  # torchvision's published figure
        (vgg16, (3, 32, 32), 10, 14_728_266),  # 14,710,464 + 4,224 in convolutions, 8,448 in BN, 5,130 in fc
        (vgg_small, (3, 32, 32), 10, 4_660_106),  # 4,574,592 in convolutions, 3,584 in BN, 81,930 in the classifier
        (digits_mlp, (1, 8, 8), 10, 151_562),  # 64·256 + 2·256² in linear layers, 3·512 in BN, 2,570 in the classifier
        (digits_transformer, (1, 8, 8), 10, 35_338),  # 33,472 in the block, 576 + 512 before them, 128 + 650 after them
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_number_of_parameters(architecture, input_shape, outputs, parameters):
    with torch.device("meta"):
        model = architecture.build(input_shape, outputs)
    assert _count(model) == parameters


@pytest.mark.parametrize(
    ("architecture", "last", "side"),
    [
        (resnet18, "layer4", 4),
        (resnet34, "layer4", 4),
        (resnet34e, "layer4", 4),
        (resnet20, "layer3", 8),
        (resnet20e, "layer3", 8),
        (mobilenet_v2, "features", 4),
    ],
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


@pytest.mark.parametrize("architecture", [resnet20, resnet20e, resnet34e], ids=lambda architecture: architecture.name)
def test_the_only_projections_are_named_downsample(architecture):
    found = {
        name: module.stride
        for name, module in architecture.build((3, 32, 32), 10).named_modules()
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1)
    }
    stages = STAGES[architecture.name]
    assert found == {f"layer{stage}.0.downsample.0": (2, 2) for stage in range(2, stages + 1)}


# A skip past every convolution

INNER = {
    resnet20e.name: [f"layer{s}.{b}.conv{c}" for s in (1, 2, 3) for b in range(3) for c in (1, 2)],
    resnet34e.name: [
        f"layer{s}.{b}.conv{c}" for s, blocks in enumerate((3, 4, 6, 3), 1) for b in range(blocks) for c in (1, 2)
    ],
    vgg16.name: [f"features.{i}" for i in (3, 7, 10, 14, 17, 20, 24, 27, 30, 34, 37, 40)],
}
"""The convolutions that are binarized by default, in the model's order."""
SKIPS = pytest.mark.parametrize("architecture", [resnet20e, resnet34e], ids=lambda architecture: architecture.name)


def test_there_are_as_many_inner_convolutions_as_published():
    assert {name: len(inner) for name, inner in INNER.items()} == {"resnet20e": 18, "resnet34e": 32, "vgg16": 12}


def randomised(model):
    """The model in evaluation mode, its batch norms different from the identity and from each other."""
    for module in model.eval().modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            for tensor in (module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model


def unit(model, block, number, x):
    """``relu(bn(conv(x)) + skip(x))`` by the layers' parameters alone."""

    def normalised(convolution, norm, x, stride):
        out = functional.conv2d(x, convolution.weight, stride=stride, padding=convolution.weight.shape[-1] // 2)
        mean, variance, scale, shift = (
            tensor[:, None, None] for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (out - mean) / (variance + 1e-5).sqrt() * scale + shift

    convolution, norm = (model.get_submodule(f"{block}.{part}{number}") for part in ("conv", "bn"))
    changes = convolution.weight.shape[0] != x.shape[1]
    skip = normalised(*model.get_submodule(f"{block}.downsample"), x, 2) if changes else x
    return (normalised(convolution, norm, x, 2 if changes else 1) + skip).clamp(min=0)


@SKIPS
@torch.no_grad()
def test_the_network_is_a_chain_of_units_with_a_skip_each(architecture):
    model = randomised(architecture.build((3, 16, 16), 10)).double()
    images = torch.randn(2, 3, 16, 16).double()
    x = model.bn1(model.conv1(images)).clamp(min=0)
    for name in INNER[architecture.name]:
        block, _, number = name.rpartition(".conv")
        x = unit(model, block, number, x)
        if number == "2":
            model.get_submodule(block).register_forward_hook(
                lambda module, inputs, output, x=x: torch.testing.assert_close(output, x)
            )
    logits = functional.linear(x.mean(dim=(2, 3)), model.fc.weight, model.fc.bias)
    torch.testing.assert_close(model(images), logits)


@SKIPS
@torch.no_grad()
def test_the_input_reaches_every_layer_past_the_convolutions(architecture):
    """With the batch norm behind every 3x3 convolution but the stem's multiplying by 0, only skips carry the image."""
    model = architecture.build((3, 16, 16), 10).eval()
    differs = {}
    for name in INNER[architecture.name]:
        nn.init.zeros_(model.get_submodule(name.replace("conv", "bn")).weight)
        model.get_submodule(name).register_forward_hook(
            lambda module, inputs, output, name=name: differs.update({name: not torch.equal(*inputs[0])})
        )
    one, other = model(torch.randn(2, 3, 16, 16))
    assert differs == dict.fromkeys(INNER[architecture.name], True)
    assert not torch.allclose(one, other, atol=1e-3)


@SKIPS
def test_weights_of_the_network_without_these_skips_fit(architecture):
    plain = registry.get("architectures", architecture.name.removesuffix("e")).build((3, 32, 32), 10)
    with torch.device("meta"):
        model = architecture.build((3, 32, 32), 10)
    model.load_state_dict(plain.state_dict(), assign=True)  # strict: names and shapes are the same


def test_vgg16_has_the_published_widths_and_pools():
    with torch.device("meta"):
        features = vgg16.build((3, 32, 32), 10).features
    column = {nn.Conv2d: lambda layer: layer.out_channels, nn.MaxPool2d: lambda layer: "M"}
    found = [column[type(layer)](layer) for layer in features if type(layer) in column]
    assert found == [64, 64, "M", 128, 128, "M", *3 * [256], "M", *3 * [512], "M", *3 * [512], "M"]
    after = [tuple(map(type, features[i + 1 : i + 3])) for i, layer in enumerate(features) if type(layer) is nn.Conv2d]
    assert after == 13 * [(nn.BatchNorm2d, nn.ReLU)]


@pytest.mark.parametrize(
    ("input_shape", "classifier"),
    [
        ((3, 32, 32), [512]),
        ((1, 64, 40), [512 * 2 * 1]),
        ((3, 64, 65), [512 * 7 * 7, 4096, 4096]),
        ((1, 224, 224), [512 * 7 * 7, 4096, 4096]),
    ],
    ids=str,
)
def test_vgg16_has_one_linear_layer_up_to_64_pixels(input_shape, classifier):
    with torch.device("meta"):  # 138 million parameters
        model = vgg16.build(input_shape, 7).eval()
        assert model(torch.empty(2, *input_shape)).shape == (2, 7)
    assert [layer.in_features for layer in model.modules() if isinstance(layer, nn.Linear)] == classifier


def test_vgg16_starts_from_he_initialisation_without_biases():
    for layer in vgg16.build((1, 32, 32), 10).features:
        if isinstance(layer, nn.Conv2d):
            expected = (2 / (layer.out_channels * 9)) ** 0.5
            assert layer.weight.std().item() == pytest.approx(expected, rel=0.1)
            assert not layer.bias.any()


@pytest.mark.parametrize(
    ("architecture", "least"),
    [(resnet20e, 4), (resnet34e, 8), (vgg16, 32)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_refuses_images_of_a_pixel_less(architecture, least):
    with torch.device("meta"):
        architecture.build((3, least, least), 10)
        for shape in [(3, least - 1, least), (3, least, least - 1)]:
            with pytest.raises(ValueError, match=rf"{architecture.name} .* at least {least}x{least} pixels"):
                architecture.build(shape, 10)


@pytest.mark.parametrize("architecture", [resnet20e, resnet34e, vgg16], ids=lambda architecture: architecture.name)
@pytest.mark.parametrize("algorithm", ["bnn", "pact", "xnorpp"])
def test_exactly_the_inner_convolutions_are_binarized(architecture, algorithm):
    torch.manual_seed(0)  # on few values an input can be constant by chance
    images = torch.randn(4, 3, 32, 32)
    model = binarize(architecture.build((3, 32, 32), 10), algorithm, example=images, inplace=True)
    found = summary(model)
    assert sorted(found.binarized) == sorted(INNER[architecture.name])
    stem = "features.0" if architecture is vgg16 else "conv1"
    projections = [f"layer{stage}.0.downsample.0" for stage in range(2, STAGES.get(architecture.name, 0) + 1)]
    assert {layer.name: layer.reason for layer in found if layer.name in found.full_precision} == {
        stem: "first layer on the example",
        "fc": "last layer on the example",
        **dict.fromkeys(projections, "1x1 projection shortcut"),
    }
    assert any(isinstance(module, nn.ReLU) for module in model.modules()) == (algorithm == "pact")
    assert found.never_negative == found.constant == ()
    loss = model(images).square().sum()
    (loss + (penalty(model) or 0)).backward()  # PACT's amplitude hardly gets one from the few values above it
    without = [name for name, tensor in model.named_parameters() if tensor.grad is None or not tensor.grad.any()]
    assert without == []


@SKIPS
def test_projections_are_known_by_name_without_an_example(architecture):
    found = summary(binarize(architecture.build((3, 32, 32), 10), "bnn", inplace=True))
    assert sorted(found.binarized) == sorted(INNER[architecture.name])


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


# The two small networks that aren't convolutional


def trained(architecture, algorithm=None):
    """Accuracy in percent after the task's own recipe, short: what `bibench train` does without its files."""
    data = digits.load(None, False)
    torch.manual_seed(0)
    model = architecture.build(digits.input_shape, data.outputs)
    recipe = digits.full_precision
    if algorithm is not None:
        model = binarize(model, algorithm, example=digits.example(), inplace=True)
        recipe = digits.binarized
    epochs, steps = recipe.epochs, len(data.train) // recipe.batch_size
    optimizer = torch.optim.SGD if algorithm is None else torch.optim.Adam
    settings = {"lr": recipe.optimizer.lr} | ({"momentum": recipe.optimizer.momentum} if algorithm is None else {})
    stepper = optimizer(model.parameters(), **settings)
    for epoch in range(epochs):
        model.train()
        for step, batch in enumerate(data.train.batches(recipe.batch_size, device=torch.device("cpu"), seed=epoch)):
            for group in stepper.param_groups:
                group["lr"] = recipe.learning_rate((epoch * steps + step) / (epochs * steps))
            stepper.zero_grad()
            digits.loss(model, batch).backward()
            stepper.step()
    with torch.no_grad():
        model.eval()
        return digits.evaluate(model, data.test.batches(64, device=torch.device("cpu"))).figures["accuracy"]


@pytest.mark.parametrize(
    ("architecture", "algorithm", "least"),
    [
        (digits_mlp, None, 95),
        (digits_mlp, "bnn", 70),
        (digits_transformer, None, 85),
        (digits_transformer, "dorefa", 40),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
@pytest.mark.slow
def test_small_networks_learn_the_digits_by_the_usual_recipe(architecture, algorithm, least):
    assert trained(architecture, algorithm) >= least


@pytest.mark.parametrize(
    ("architecture", "binarized", "replaced"),
    [
        (digits_mlp, ["linear2", "linear3"], ["relu1", "relu2", "relu3"]),
        (
            digits_transformer,
            [
                f"block.{layer}"
                for layer in (
                    *(f"attention.{name}" for name in ("query", "key", "value", "out")),
                    "feedforward.0",
                    "feedforward.2",
                )
            ],
            ["block.feedforward.1"],
        ),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("algorithm", registry.names("algorithms")[:9])
def test_all_hidden_linear_layers_are_binarized_by_every_algorithm(architecture, binarized, replaced, algorithm):
    model = binarize(architecture.build((1, 8, 8), 10), algorithm, example=torch.randn(2, 1, 8, 8))
    found = summary(model)
    assert list(found.binarized) == binarized
    assert [layer.name for layer in found if layer.decision == "replaced"] == ([] if algorithm == "pact" else replaced)
    model(torch.randn(3, 1, 8, 8)).sum().backward()
    assert all(layer.weight.grad is not None for name, layer in model.named_modules() if name in binarized)


def test_attention_is_torchs():
    attention = digits_transformer.build((1, 8, 8), 10).block.attention
    torchs = nn.MultiheadAttention(64, 4, batch_first=True)
    parts = (attention.query, attention.key, attention.value)
    torchs.in_proj_weight.data = torch.cat([part.weight for part in parts]).detach()
    torchs.in_proj_bias.data = torch.cat([part.bias for part in parts]).detach()
    torchs.out_proj.load_state_dict(attention.out.state_dict())
    x = torch.randn(2, 8, 64)
    torch.testing.assert_close(attention(x), torchs(x, x, x, need_weights=False)[0])


def test_tokens_are_the_rows_of_all_channels_and_know_their_position():
    model = digits_transformer.build((3, 6, 4), 10)
    assert (model.embedding.in_features, tuple(model.positions.shape)) == (12, (6, 64))
    seen = []
    model.embedding.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.randn(2, 3, 6, 4)
    model(images)
    torch.testing.assert_close(seen[0][1, 5], images[1, :, 5].flatten())
    model.eval()
    with torch.no_grad():
        assert not torch.allclose(model(images), model(images.flip(2)), atol=1e-3)
        model.positions.zero_()
        torch.testing.assert_close(model(images), model(images.flip(2)), atol=1e-5, rtol=1e-4)
