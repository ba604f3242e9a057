"""Files of daBNN, read back by the schema and run by an interpreter of the format, against PyTorch."""

import re

import numpy as np
import pytest
import torch
from dabnn_interpreter import DabnnEngine, DabnnNet
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from interpreted import randomised, sample_of
from parts import PARTS, of_part
from test_export_models import built
from test_lower import Function, of, perturbed
from test_trained_networks import ROUNDING, trained
from torch import nn

import bibench
from bibench.deploy.compare import compare
from bibench.deploy.dabnn import to_dabnn, write_dabnn
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.nn import BinaryConv2d, BinaryMatmul
from bibench.tasks.cifar10 import cifar10

EXPRESSIBLE = ("bnn", "dorefa", "bireal", "reactnet", "recu", "fda", "pact")
PADDINGS = pytest.mark.parametrize("padding_value", [-1, 0, 1])
PROPERTY = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
KERNELS = r"multiple of 4|even number|of 64 channels"
"""What daBNN's memory and kernels don't hold."""


def outputs_of(model, x):
    """What PyTorch and the file make of the first sample."""
    model.eval()
    program = pack(model, x)
    with torch.no_grad():
        expected = model(*(torch.from_numpy(array).clone() for array in sample_of(x)))
    (found,) = DabnnEngine(program.to_bytes()).observe(sample_of(x), lambda number: None)
    return expected.reshape(-1).numpy(), found


def check(model, x, *, rtol=1e-4, atol=1e-5):
    expected, found = outputs_of(model, x)
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=atol)


def same_bits(model, x):
    found = compare(model, pack(model, x), x, engine=DabnnEngine)
    assert found.differing == 0, str(found)
    assert found.same_top1 == found.samples
    assert found.difference < 1e-4 * max(found.largest, 1)
    return found


def kinds(model, x):
    return [kind for kind, _, _ in DabnnNet(to_dabnn(pack(model, x))).layers]


# ------------------------------------------------------------------------------------------------------------- layers


def drawn_convolution(data, algorithm, padding_value):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    channels = data.draw(st.sampled_from([4, 12, 32, 64, 96, 128, 192]))
    kernel, stride, padding = draw(1, 4), draw(1, 3), draw(0, 2)
    size = max(kernel - 2 * padding, 1) + draw(0, 6)
    torch.manual_seed(draw(0, 99))
    layer = BinaryConv2d(
        channels,
        data.draw(st.sampled_from([4, 8, 12])),
        kernel,
        stride,
        padding,
        algorithm=algorithm,
        padding_value=padding_value,
        bias=False,
    )
    return layer, torch.randn(1, channels, size, size)


def reject_what_kernels_lack(model, x):
    """Draw something else where daBNN's memory or kernels refuse this."""
    try:
        to_dabnn(pack(model.eval(), x))
    except PackedError as error:
        if not re.search(KERNELS, str(error)):
            raise
        reject()


def unchanged(layer, x):
    """A network that puts out a layer's sums, as rows: a product with the identity keeps them as they are."""
    count = layer(x).numel()
    same = nn.Linear(count, count, bias=False)
    with torch.no_grad():
        same.weight.copy_(torch.eye(count))
    return nn.Sequential(layer, nn.Flatten(), same)


def drawn_sums(data, padding_value):
    """A binary convolution whose outputs are its sums, and an input, as a model that daBNN has kernels for."""
    layer, x = drawn_convolution(data, data.draw(st.sampled_from(["bnn", "pact"])), padding_value)
    if hasattr(layer.activation_rule, "A"):
        with torch.no_grad():
            layer.activation_rule.A.fill_(1)  # sums without a factor
    model = unchanged(layer.eval(), x)
    reject_what_kernels_lack(model, x)
    return layer, model, x


@PADDINGS
@PROPERTY
@given(data=st.data())
def test_sums_of_any_convolution_are_the_same_numbers(data, padding_value):
    _, model, x = drawn_sums(data, padding_value)
    expected, found = outputs_of(model, x)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("algorithm", ["bnn", "bireal", "reactnet", "pact"])
@PROPERTY
@given(data=st.data())
def test_bits_behind_any_convolution(algorithm, data):
    layer, x = drawn_convolution(data, algorithm, data.draw(st.sampled_from([-1, 0, 1])))
    channels = layer.out_channels
    behind = data.draw(
        st.sampled_from(
            [
                [nn.BatchNorm2d(channels), nn.Hardtanh(), BinaryConv2d(channels, 4, 1, algorithm="bnn")],
                [nn.PReLU(channels), BinaryConv2d(channels, 4, 1, padding=1, algorithm="reactnet")],
                [nn.BatchNorm2d(channels), nn.ReLU(), BinaryConv2d(channels, 4, 1, algorithm="pact")],
                [nn.BatchNorm2d(channels), nn.MaxPool2d(2, 2, 1), BinaryConv2d(channels, 4, 1, algorithm="bnn")],
                [BinaryConv2d(channels, 4, 1, algorithm="bnn")],
            ]
        )
    )
    model = nn.Sequential(perturbed(layer), *map(perturbed, behind), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    reject_what_kernels_lack(model, x)
    same_bits(randomised(model), x)


def copying():
    """A float convolution whose results are its inputs, without rounding."""
    stem = nn.Conv2d(128, 128, 1, bias=False)
    with torch.no_grad():
        stem.weight.copy_(torch.eye(128)[:, :, None, None])
    return stem


class Block(nn.Module):
    """A convolution whose float result, with its input added, is both added later and made to signs."""

    def __init__(self, norm, act):
        super().__init__()
        self.stem = copying()
        self.first = BinaryConv2d(128, 128, 3, padding=1, padding_value=-1, algorithm="bnn", bias=False)
        self.norm, self.act = norm, act
        self.second = BinaryConv2d(128, 128, 3, padding=1, padding_value=-1, algorithm="bnn", bias=False)

    def forward(self, x):
        x = self.stem(x)
        y = self.act(self.norm(self.first(x)) + x)
        return (self.second(y) + y).mean((2, 3))


def dead():
    norm = nn.BatchNorm2d(128)
    with torch.no_grad():
        norm.weight[::2] = 0
    return norm


@pytest.mark.parametrize(
    "model",
    [
        Block(nn.Identity(), nn.Identity()),
        randomised(Block(nn.BatchNorm2d(128), nn.ReLU())),
        nn.Sequential(copying(), dead(), BinaryConv2d(128, 8, 4, algorithm="bnn"), nn.Flatten()),
    ],
    ids=["sums", "relu", "dead channels"],
)
def test_zeros_become_plus_one(model):
    """daBNN's sign is -1 at 0: what is 0 more often than rounding makes it must not come to it."""
    same_bits(model.eval(), torch.randint(0, 2, (1, 128, 4, 4)) * 4.0 - 2)  # the sums are even, and some are 2


def test_nothing_is_overwritten_that_is_read_later():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(4, 8, 3, padding=1)
            self.prelu, self.norm = nn.PReLU(8), nn.BatchNorm2d(8)

        def forward(self, x):
            y = self.convolution(x)
            z = y + self.prelu(y)
            return (self.norm(z) + torch.nn.functional.leaky_relu(y, 0.3) + z.clamp(-0.5, 0.25)).mean((2, 3))

    model, x = randomised(Twice()), torch.randn(1, 4, 6, 6)
    check(model, x)
    assert kinds(model, x).count("AvePool") > 2  # the copies, and the mean


@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.MaxPool2d(3, 2, 1), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.AvgPool2d(3, 1, 1, count_include_pad=False)),
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 2), nn.AvgPool2d(2)),
    ],
    ids=["stride", "maximum", "average inside", "average"],
)
def test_layers_in_full_precision(model):
    x = torch.randn(1, 4, 8, 8)
    check(nn.Sequential(model, nn.Flatten(), nn.Linear(model(x).numel(), 8)), x)
    check(nn.Sequential(nn.Conv2d(4, 4, 1), model, nn.AdaptiveAvgPool2d(1), nn.Flatten()), x)


def test_scores_that_the_memory_does_not_hold_are_followed_by_the_lowest_number():
    model, x = (
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
        torch.ones(1, 4, 5, 4),
    )
    with pytest.raises(PackedError, match="square"):
        to_dabnn(pack(model, x))
    x = torch.randn(1, 4, 5, 5)
    maps, _ = DabnnNet(to_dabnn(pack(model, x))).run(x[0].permute(1, 2, 0).numpy())
    assert maps["output"].shape == (1, 1, 8)
    np.testing.assert_allclose(maps["output"][0, 0, :5], model(x)[0].detach().numpy(), atol=1e-6)
    assert (maps["output"][0, 0, 5:] == np.finfo(np.float32).min).all()


# ----------------------------------------------------------------------------------------------------------- networks


@PADDINGS
@pytest.mark.parametrize("algorithm", EXPRESSIBLE)
def test_small_networks_with_every_algorithm(algorithm, padding_value):
    model, x = built("digits_cnn", algorithm, padding_value=padding_value)
    assert len(same_bits(model, x).layers) == 2
    assert ("Add" in kinds(model, x)) == (padding_value > (0 if algorithm == "pact" else -1))


@pytest.mark.parametrize("algorithm", [*EXPRESSIBLE, "xnorpp", "fp32"])
def test_linear_layers(algorithm):
    same_bits(*built("digits_mlp", algorithm))


@pytest.mark.parametrize("padding_value", [-1, 0])
@pytest.mark.parametrize("algorithm", ["bnn", "reactnet", "pact"])
@pytest.mark.parametrize("architecture", ["resnet20", "resnet20e"])
def test_residual_networks(architecture, algorithm, padding_value):
    same_bits(*built(architecture, algorithm, 16, padding_value=padding_value))


@pytest.mark.slow
@pytest.mark.parametrize("padding_value", [-1, 0])
@pytest.mark.parametrize("algorithm", EXPRESSIBLE)
@pytest.mark.parametrize("architecture", ["vgg_small", "vgg16", "resnet18"])
def test_larger_networks(architecture, algorithm, padding_value):
    same_bits(*built(architecture, algorithm, padding_value=padding_value))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "algorithm"), [("resnet18", "reactnet"), ("resnet20e", "fda"), ("vgg_small", "pact")]
)
def test_networks_trained_on_images(real_data, architecture, algorithm):
    data = cifar10.load(real_data / "cifar-10-lossless-subset", True)
    images, labels = next(data.train.batches(64, device=torch.device("cpu"), seed=0))
    model = trained(architecture, algorithm, images, labels, 10, steps=2)
    program = pack(model, images[:1])
    tests, _ = next(data.test.batches(4, device=torch.device("cpu")))
    for image in tests.split(1):
        found = compare(model, program, image, engine=DabnnEngine)
        first = next((layer for layer in found.layers if layer.differing), None)
        assert found.same_top1 == 1 if first is None else first.margin < ROUNDING, str(found)


@pytest.mark.slow
def test_resnet18_of_full_size():
    model, x = built("resnet18", "bireal", 224, 1000, padding_value=-1)
    same_bits(model, x[:1])
    assert len(to_dabnn(pack(model, x))) < 4.3e6


# ----------------------------------------------------------------------------------------------------- refusals, file


def behind(layer, *rest):
    return nn.Sequential(nn.Identity(), layer, *rest, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def binary(channels, *args, algorithm="bnn", **options):
    return behind(BinaryConv2d(channels, 8, *args, algorithm=algorithm, **options))


X = torch.randn(1, 64, 8, 8)


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (binary(64, 3, groups=2), X, r"^layer '1': daBNN has no groups \(this layer has 2\); replace it"),
        (binary(64, 3, dilation=2), X, r"^layer '1': daBNN has no dilation \(this layer has 2 x 2\)"),
        (binary(64, 1), X, r"^layer '1': daBNN computes no 1 x 1 binary convolution of 64 channels; leave it in full"),
        (binary(64, 3), torch.randn(1, 64, 7, 7), r"^layer '1': daBNN computes 3 x 3 .* even number .*5 x 5 and 8"),
        (binary(64, 2), torch.randn(1, 64, 7, 7), r"^layer '1': daBNN packs 64 channels for an even .* has 7"),
        (binary(4096, 4), torch.randn(1, 4096, 4, 4), r"^layer '1': daBNN .* fewer than 60,000 products.* 65,536"),
        (binary(64, (3, 1)), X, r"^layer '1': daBNN computes square windows"),
        (binary(64, 3), X[..., :6], r"^layer '1': daBNN computes square windows"),
        (binary(64, 3, algorithm="xnor"), X, r"^operation \d, .*: daBNN scales channels, not positions"),
        (
            binary(64, 3, algorithm="xnorpp", output_size=(6, 6)),
            X,
            r"^layer '1': daBNN scales channels, not positions; leave it in full precision",
        ),
        (
            Function(lambda m, x: m.inner(x, x), inner=BinaryMatmul(8, 8, transpose_right=True, algorithm="bnn")),
            torch.randn(1, 4, 8),
            r"^layer 'inner': daBNN has no layer for this \(bmatmul\)",
        ),
        (behind(nn.Conv2d(64, 6, 5)), X[..., :7, :7], r"^operation \d, .*multiple of 4.* 3 x 3 with 6 channels"),
        (behind(nn.MaxPool2d(4)), X, r"^operation \d, .*: daBNN has maxima of 2 x 2 and 3 x 3 .* 4 x 4 and 64"),
        (behind(nn.MaxPool2d(2, dilation=2)), X, r"^operation \d, .*no dilated windows .*2 x 2"),
        (
            behind(nn.MaxPool2d(2, ceil_mode=True)),
            X[..., :7, :7],
            r"pads both sides alike, and this pads 0 in front and 1",
        ),
        (behind(nn.AvgPool2d(3, 1, 1)), X, r"^operation \d, .*: daBNN averages over no padding"),
        (behind(nn.Conv2d(64, 8, 1), nn.GELU()), X, r"^operation \d, .*: daBNN has ReLU, PReLU and factors"),
        (of(lambda x: (x * x).mean((2, 3))), X, r"^operation \d, .*: daBNN adds whole tensors"),
        (
            of(lambda x: x.relu().mean((2, 3))),
            X,
            r"^operation 0, relu: daBNN has channels last, .* input with its channels first",
        ),
        (
            Function(lambda m, x: nn.functional.pad(m.a(x), (1, 1, 1, 1)).mean((2, 3)), a=nn.Conv2d(64, 8, 1)),
            X,
            r"^operation \d, mean: daBNN pads in front of convolutions and pools alone",
        ),
        (
            Function(
                lambda m, x: m.b(nn.functional.pad(m.a(x), (2, 0, 2, 0))).mean((2, 3)),
                a=nn.Conv2d(64, 8, 1),
                b=nn.Conv2d(8, 8, 3),
            ),
            X,
            r"^operation \d, b: daBNN pads in front of convolutions and pools alone",
        ),
        (
            Function(
                lambda m, x: torch.cat([m.a(x), m.b(x)], 1).mean((2, 3)), a=nn.Conv2d(64, 8, 1), b=nn.Conv2d(64, 8, 1)
            ),
            X,
            r"daBNN has no layer that puts parts",
        ),
        (nn.Conv2d(64, 8, 1), X, r"daBNN has no layer that cuts, repeats or reorders a tensor"),
        (of(lambda x: x.softmax(1).mean((2, 3))), X, r"^operation \d, .*: daBNN has no layer for this \(softmax\)"),
        (of(lambda x, y: x + y), (torch.randn(1, 4), torch.randn(1, 4)), r"^daBNN takes one input of float32.* has 2"),
        (nn.Embedding(4, 4), torch.tensor([[1, 2]]), r"^daBNN takes one input of float32.* int64"),
        (nn.Linear(3, 4), torch.randn(1, 3), r"multiple of 4.* 1 x 1 with 3 channels"),
    ],
)
def test_refusals_name_the_layer(model, x, message, tmp_path):
    with pytest.raises(PackedError, match=message):
        write_dabnn(pack(model.eval(), x), tmp_path / "net.dab")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_result_is_refused(name):
    with pytest.raises(PackedError, match=r"daBNN (has no layer (for this|that cuts)|adds whole tensors)"):
        to_dabnn(pack(*of_part(name)))


def test_an_int8_stem_is_refused():
    model, x = built("digits_cnn", "bnn")
    with pytest.raises(PackedError, match=r"^operation 0, conv1.*: .*--int8-stem makes it; export without it"):
        to_dabnn(pack(model, x, int8_stem=True))


@pytest.mark.parametrize(
    ("architecture", "algorithm", "message"),
    [
        ("digits_cnn", "xnor", "conv2.*scales channels"),
        ("digits_cnn", "xnorpp", "layer 'conv2'.*scales channels"),
        ("digits_transformer", "bnn", "operation 0, embedding"),
    ],
)
def test_networks_that_are_refused(architecture, algorithm, message):
    model, x = built(architecture, algorithm)
    with pytest.raises(PackedError, match=message):
        to_dabnn(pack(model, x))


def test_an_output_of_the_inputs_name():
    model = Function(lambda m, x: {"x": m.linear(x)}, linear=nn.Linear(4, 4))
    model.forward = lambda x: {"x": model.linear(x)}
    with pytest.raises(PackedError, match="'x' is an input and an output: rename one"):
        to_dabnn(pack(model, {"x": torch.randn(1, 4)}))


def test_the_file(tmp_path):
    model, x = built("digits_cnn", "reactnet", padding_value=-1)
    path = tmp_path / "new" / "net.dab"
    assert bibench.export(model, path, to="dabnn", example=x) == path or path.exists()
    content = path.read_bytes()
    assert content == to_dabnn(pack(model, x))
    net = DabnnNet(content)
    assert (net.input, net.shape) == ("input", (1, 8, 8, 1))
    clamp = ["Affine", "Relu", "Affine", "Relu", "Affine"]
    scaled = ["BinConv2D", "Affine", "Affine"]
    assert [kind for kind, _, _ in net.layers] == [
        "FpConv2D",
        "Affine",
        "BinConv2D",
        "Affine",
        *scaled,
        *clamp,
        "FpConv2D",
    ]
    titles = [title for _, _, title in net.layers]
    assert (titles[0], titles[2], titles[-1]) == ("conv1 + bn1 + relu1", "conv2 + bn2 + relu2", "fc")
    _, settings, _ = net.layers[2]
    assert settings["pads"] == (1, 1, 1, 1)
    assert settings["strides"] == (2, 2)
    weights = model.conv2.weight_rule(model.conv2.weight).detach()
    assert np.array_equal(net.constants[settings["weight"]], weights.permute(0, 2, 3, 1).numpy() > 0)
    assert net.layers[-1][1]["output"] == "output"
