"""FSMN and Deep-FSMN: their size, their function, what of them is binarized, and what they become when packed."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import bibench
from bibench import registry
from bibench.deploy.compare import compare
from bibench.deploy.export import pack
from bibench.models.speech import FSMN, MemoryLayer, d_fsmn, fsmn
from bibench.native import Engine
from bibench.nn.layers import BinaryConv1d
from bibench.records.published import published_results
from bibench.tasks.speech_commands import speech_commands
from needed_tools import ENGINE

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")
SHAPE = (1, 32, 32)
BOTH = [fsmn, d_fsmn]


def named(architecture):
    return architecture.name


def randomised(model):
    """The model in evaluation mode, with normalisation that does something: also factors that are 0 or negative."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                for tensor, low, high in (
                    (module.running_mean, -1, 1),
                    (module.running_var, 0.3, 2),
                    (module.weight, -1, 2),
                    (module.bias, -0.5, 0.5),
                ):
                    tensor.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
                module.weight[::5] = 0
    return model.eval()


@pytest.mark.parametrize("architecture", BOTH, ids=named)
def test_sizes_by_hand(architecture):
    front = 16 * 25 + 2 * 16 + 16 * 32 * 25 + 2 * 32
    linear = 32 * 8 * 128 + 128
    memory = 128 * 5 + 2 * 128
    transform = 128 * 256 + 2 * 256 + 256 * 128 + 2 * 128
    classifier = 128 * 8 * 12 + 12
    model = architecture.build(SHAPE, 12)
    expected = front + linear + 8 * (memory + transform) + classifier
    assert sum(parameter.numel() for parameter in model.parameters()) == expected == 596_092
    assert sum(parameter.numel() for parameter in architecture.build(SHAPE, 35).parameters()) == expected + 23 * 1_025


@pytest.mark.parametrize("architecture", BOTH, ids=named)
def test_topology(architecture):
    model = architecture.build(SHAPE, 12)
    kinds = [type(one).__name__ for one in model.modules() if not list(one.children())]
    layer = ["Conv1d", "BatchNorm1d", "ReLU"] * 3
    assert kinds == [
        *(["Conv2d", "BatchNorm2d", "ReLU"] * 2),
        *("Flatten", "Linear", "ReLU"),
        *(layer * 8),
        *("Flatten", "Linear"),
    ]
    first, second = (one for one in model.modules() if isinstance(one, nn.Conv2d))
    assert [(one.in_channels, one.out_channels, one.kernel_size, one.stride) for one in (first, second)] == [
        (1, 16, (5, 5), (2, 2)),
        (16, 32, (5, 5), (2, 2)),
    ]
    memory, widen, narrow = (one for one in model.layers[3].modules() if isinstance(one, nn.Conv1d))
    assert (memory.groups, memory.kernel_size, memory.padding) == (128, (5,), (2,))
    assert [(one.in_channels, one.out_channels, one.kernel_size) for one in (widen, narrow)] == [
        (128, 256, (1,)),
        (256, 128, (1,)),
    ]


@pytest.mark.parametrize("skip", [False, True])
def test_function_of_a_layer_as_written_out(skip):
    torch.manual_seed(0)
    layer = MemoryLayer(6, 9, skip=skip).double()
    x = torch.randn(4, 6, 11, dtype=torch.float64)
    layer(x)  # moves the running statistics
    layer.eval()

    def norm(module, y):
        scale = (module.running_var + module.eps).rsqrt() * module.weight
        return ((y - module.running_mean[:, None]) * scale[:, None] + module.bias[:, None]).clamp(min=0)

    padded = F.pad(x, (2, 2))
    taps = layer.memory.conv.weight[:, 0]
    remembered = sum(taps[:, tap, None] * padded[:, :, tap : tap + 11] for tap in range(5))
    remembered = norm(layer.memory.bn, remembered) + (x if skip else 0)
    widened = norm(layer.transform.bn1, torch.einsum("oi,bit->bot", layer.transform.conv1.weight[:, :, 0], remembered))
    narrowed = norm(layer.transform.bn2, torch.einsum("oi,bit->bot", layer.transform.conv2.weight[:, :, 0], widened))
    torch.testing.assert_close(layer(x), narrowed + (remembered if skip else 0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("architecture", BOTH, ids=named)
def test_bands_and_times_stay_apart_in_front_of_the_layers(architecture):
    """A change in one quarter of a second reaches, through the 5x5 convolutions, the times around it alone."""
    model = randomised(architecture.build(SHAPE, 12))
    seen = []
    model.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(1, *SHAPE)
    changed = x.clone()
    changed[:, :, :, 16:20] += 1
    model(x), model(changed)
    assert seen[0].shape == (1, 128, 8)
    differs = (seen[0] != seen[1]).any(dim=1)[0].tolist()
    assert differs == [3 <= time <= 6 for time in range(8)]


def test_skips_carry_what_the_layers_drop():
    """With nothing coming out of the convolutions FSMN forgets its input, and Deep-FSMN hands it on."""
    x = torch.rand(2, 128, 8)
    for skip in (False, True):
        layer = MemoryLayer(128, 256, skip=skip).eval()
        with torch.no_grad():
            for module in layer.modules():
                if isinstance(module, nn.Conv1d):
                    module.weight.zero_()
        assert torch.equal(layer(x), x if skip else torch.zeros_like(x))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("architecture", BOTH, ids=named)
def test_binarized_by_every_algorithm(architecture, algorithm):
    """All but the first and last layer; memories stay depthwise; a step reaches every weight."""
    torch.manual_seed(0)
    model = bibench.binarize(architecture.build(SHAPE, 12), algorithm, example=speech_commands.example())
    found = bibench.summary(model)
    assert found.full_precision == ("front.conv1", "fc")
    assert len(found.binarized) == 2 + 8 * 3
    assert not found.never_negative
    for layer in model.layers:
        memory = layer.memory.conv
        assert isinstance(memory, BinaryConv1d)
        assert (memory.groups, tuple(memory.weight.shape)) == (128, (128, 1, 5))
    activations = {type(module) for module in model.modules() if isinstance(module, nn.ReLU | nn.Hardtanh)}
    assert activations == {nn.ReLU if algorithm == "pact" else nn.Hardtanh}

    x, labels = torch.randn(16, *SHAPE), torch.arange(16) % 12
    bibench.set_progress(model, 0, 2)
    optimizer = torch.optim.Adam(bibench.nn.parameter_groups(model, weight_decay=0.0), lr=1e-3)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    speech_commands.loss(model, (x, labels)).backward()
    optimizer.step()
    weights = [name for name in before if name.endswith("weight")]
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(parameter, before[name])}
    assert set(weights) <= moved
    assert all(bool(parameter.isfinite().all()) for parameter in model.parameters())


@pytest.mark.parametrize("algorithm", ["fp32", *ALGORITHMS])
@pytest.mark.parametrize("architecture", BOTH, ids=named)
def test_packed_it_computes_the_same(architecture, algorithm):
    torch.manual_seed(1)
    model, x = architecture.build(SHAPE, 12), torch.randn(3, *SHAPE)
    if algorithm != "fp32":
        model = bibench.binarize(model, algorithm, example=x)
        with torch.no_grad():  # what starts at the same number everywhere would hide a mixed-up order
            for name, parameter in model.named_parameters():
                if name.endswith(("alpha", ".positions.0", ".positions.1")):
                    parameter.copy_(torch.rand(parameter.shape) + 0.5)
                elif name.endswith("activation_rule.threshold"):
                    parameter.copy_(torch.randn(parameter.shape) * 0.3)
                elif name.endswith("activation_rule.A"):
                    parameter.fill_(0.7)
    model = randomised(model)
    program = pack(model, x)
    layers = {layer["name"] for layer in program.metadata["layers"]}
    assert len(layers) == (0 if algorithm == "fp32" else 26)
    if not ENGINE:
        pytest.skip("the engine isn't built")
    engine = Engine(program.to_bytes())
    found = compare(model, program, x)
    assert found.differing == 0
    assert found.same_top1 == 3
    with torch.no_grad():
        expected = model(x).numpy()
    for sample in range(3):
        (answer,) = engine.run([np.ascontiguousarray(x[sample : sample + 1].numpy())], 1)
        np.testing.assert_allclose(answer, expected[sample], rtol=1e-3, atol=1e-3)


def test_registered_under_the_names_of_the_published_results():
    published = {
        record.run.architecture for record in published_results().records if record.run.task == "speech_commands"
    }
    assert published == {"fsmn", "d_fsmn"} == set(speech_commands.architectures)
    for architecture in BOTH:
        assert registry.get("architectures", architecture.name) is architecture
        assert (architecture.family, architecture.modality) == ("mlps", "speech")


@pytest.mark.parametrize("architecture", BOTH, ids=named)
@pytest.mark.parametrize("shape", [(3, 32, 32), (32, 32), (1, 0, 32)])
def test_refuses_other_data_by_name(architecture, shape):
    with pytest.raises(ValueError, match=rf"{architecture.name} takes bands over time, .* got input_shape=\("):
        architecture.build(shape, 12)


def test_refuses_a_lopsided_memory():
    with pytest.raises(ValueError, match="left=2, right=1: expected the same reach"):
        MemoryLayer(4, 8, left=2, right=1)


@pytest.mark.parametrize(("bands", "times"), [(32, 32), (40, 101), (5, 3)])
def test_other_sizes_of_the_input(bands, times):
    assert FSMN(bands, times, 7, layers=2)(torch.zeros(2, 1, bands, times)).shape == (2, 7)
