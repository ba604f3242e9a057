"""One operation or layer at a time, against PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreted import check, codes, randomised
from torch import nn

from bibench.algorithms.dorefa import dorefa
from bibench.algorithms.pact import pact
from bibench.algorithms.recu import recu
from bibench.algorithms.xnor import xnor
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.nn import BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryLinear, BinaryMatmul

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")
PROPERTY = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


class Function(nn.Module):
    def __init__(self, function, **parts):
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *x, **more):
        return self.function(self, *x, **more)


def of(function, **parts):
    return Function(lambda module, *x, **more: function(*x, **more), **parts)


def perturbed(module):
    """Scales, thresholds and amplitudes that differ from channel to channel."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("alpha", "positions.0", "positions.1")):
                parameter.copy_(torch.rand(parameter.shape) + 0.5)
            elif name.endswith("_rule.threshold"):
                parameter.copy_(torch.randn(parameter.shape) * 0.3)
            elif name.endswith("_rule.A"):
                parameter.fill_(0.7)
    return module


# ------------------------------------------------------------------------------------------------------ operations

IMAGE = (2, 6, 4, 8)
OPERATIONS = {
    "relu": F.relu,
    "relu in place": lambda x: torch.relu_(x * 2),
    "relu6": F.relu6,
    "hardtanh": lambda x: F.hardtanh(x, -0.5, 0.25),
    "clamp": lambda x: x.clamp(-0.3, 0.4),
    "clamp below": lambda x: x.clamp(min=0.1),
    "clamp above": lambda x: x.clamp_max(0.1),
    "leaky relu": lambda x: F.leaky_relu(x, 0.2),
    "prelu": lambda x: F.prelu(x, torch.linspace(-1, 1, 6)),
    "prelu of one slope": lambda x: F.prelu(x, torch.tensor([0.3])),
    "gelu": F.gelu,
    "gelu tanh": lambda x: F.gelu(x, approximate="tanh"),
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": F.hardsigmoid,
    "exp": torch.exp,
    "sqrt": lambda x: x.abs().sqrt(),
    "neg": lambda x: -x,
    "square": lambda x: x.square() + x**2 + x.abs() ** 0.5,
    "add": lambda x: x + x.flip(0) if False else x + torch.relu(x),
    "add with alpha": lambda x: torch.add(x, torch.relu(x), alpha=0.3),
    "add in place": lambda x: (x * 1).add_(torch.relu(x)),
    "sub": lambda x: x - torch.relu(x),
    "mul": lambda x: x * torch.sigmoid(x),
    "div": lambda x: x / (torch.sigmoid(x) + 1),
    "maximum": lambda x: torch.maximum(x, -x) - torch.minimum(x, x * 0.5),
    "numbers": lambda x: 1 - (x * 3 + 2 - 0.5) / 4 + 1 / (x.abs() + 1),
    "divided by 3": lambda x: x / 3,
    "a number a channel": lambda x: (
        x * torch.linspace(-1, 2, 6).view(-1, 1, 1) + torch.linspace(0, 1, 6).view(-1, 1, 1)
    ),
    "constants": lambda x: (x - torch.arange(192.0).view(6, 4, 8)) / torch.arange(1.0, 9) + torch.ones(4, 1),
    "constant on the left": lambda x: torch.arange(8.0) - x,
    "rsub": lambda x: torch.rsub(x, 2),
    "broadcast": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "broadcast rows": lambda x: x + x[:, :, :1] + x[:, :1, :, :1],
    "max pool": lambda x: F.max_pool2d(x, 2),
    "max pool padded": lambda x: F.max_pool2d(x, 3, 2, 1),
    "max pool dilated": lambda x: F.max_pool2d(x, 2, 1, 0, dilation=(1, 3)),
    "max pool ceil": lambda x: F.max_pool2d(x, (3, 3), 2, ceil_mode=True),
    "avg pool": lambda x: F.avg_pool2d(x, 2),
    "avg pool padded": lambda x: F.avg_pool2d(x, 3, 2, 1),
    "avg pool inside": lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
    "avg pool ceil": lambda x: F.avg_pool2d(x, 3, 2, ceil_mode=True),
    "adaptive average": lambda x: F.adaptive_avg_pool2d(x, (2, 4)),
    "adaptive average of nothing": lambda x: F.adaptive_avg_pool2d(x, (4, 8)) + F.max_pool2d(x, 1),
    "adaptive average to 1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "adaptive maximum": lambda x: F.adaptive_max_pool2d(x, (2, 2)),
    "pool 1d": lambda x: F.max_pool1d(x.flatten(2), 2) + F.avg_pool1d(x.flatten(2), 2),
    "mean of space": lambda x: x.mean((2, 3)),
    "mean of channels": lambda x: x.mean(1),
    "mean of rows": lambda x: x.mean(2, keepdim=True),
    "sum": lambda x: x.sum((1, 3)),
    "flatten": lambda x: x.flatten(1),
    "flatten a map": lambda x: F.max_pool2d(x, 2).flatten(1),
    "view": lambda x: x.view(-1, 3, 2, 32).flatten(2),
    "view that copies": lambda x: F.max_pool2d(x, 2).permute(0, 2, 3, 1).reshape(-1, 4, 12),
    "permute": lambda x: x.permute(0, 3, 1, 2),
    "transposes": lambda x: x.transpose(1, 3).transpose(2, 3),
    "slice": lambda x: x[:, 1:5, ::2, 3:],
    "select": lambda x: x[:, 2] + x[:, :, 1, 0].sum(1, keepdim=True).unsqueeze(-1),
    "select of a flattened map": lambda x: F.max_pool2d(x, 2).flatten(1)[:, 7],
    "slice of a flattened map": lambda x: F.max_pool2d(x, 2).flatten(1)[:, 3:30:2],
    "squeeze": lambda x: x[:, :1].squeeze(1).unsqueeze(2),
    "cat": lambda x: torch.cat([x, x * 2, F.relu(x)[:, :2]], 1),
    "cat of space": lambda x: torch.cat([x, x * 2], 3),
    "cat with a constant": lambda x: torch.cat(
        [x, torch.arange(64.0).view(1, 2, 4, 8).expand(x.shape[0], -1, -1, -1)], 1
    ),
    "stack": lambda x: torch.stack([x, x * 2], 2),
    "split": lambda x: sum(part * (i + 1) for i, part in enumerate(x.split((1, 2, 3), 1)[1].split(1, 1))),
    "chunk": lambda x: x.chunk(2, 1)[1] * x.chunk(2, 1)[0],
    "unbind": lambda x: x.unbind(2)[3],
    "expand": lambda x: x[:, :1].expand(-1, 5, -1, -1) * 2,
    "repeat": lambda x: x.repeat(1, 2, 1, 3) + 1,
    "pad": lambda x: F.pad(x, (1, 2, 0, 3)),
    "pad that crops": lambda x: F.pad(x, (-1, 2, 0, -1)),
    "upsample": lambda x: F.interpolate(x, scale_factor=2),
    "pixel shuffle": lambda x: F.pixel_shuffle(torch.cat([x, x[:, :2]], 1), 2),
    "channel shuffle": lambda x: F.channel_shuffle(x, 3),
    "six dimensions": lambda x: x.view(-1, 2, 3, 2, 2, 2, 4).permute(0, 6, 2, 4, 1, 5, 3).flatten(1),
    "softmax": lambda x: x.softmax(1) + x.softmax(-1),
    "layer norm": lambda x: F.layer_norm(x, (4, 8), torch.linspace(1, 2, 32).view(4, 8)),
    "layer norm of channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (6,), torch.arange(6.0), torch.ones(6)),
    "group norm": lambda x: F.group_norm(x, 3, torch.arange(6.0), torch.ones(6)),
    "matmul": lambda x: x @ x.transpose(-1, -2),
    "matmul of three": lambda x: x.flatten(2) @ x.flatten(2).transpose(1, 2),
    "matmul by a constant": lambda x: x @ torch.arange(24.0).view(8, 3),
    "matmul of a constant": lambda x: torch.arange(8.0).view(2, 4) @ x,
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 2, x + 1),
    "linear over rows": lambda x: F.linear(x, torch.arange(16.0).view(2, 8), torch.tensor([1.0, -1.0])),
    "linear of channels": lambda x: F.linear(x.permute(0, 2, 3, 1), torch.arange(12.0).view(2, 6)),
    "linear of a flattened map": lambda x: F.linear(F.max_pool2d(x, 2).flatten(1), torch.arange(96.0).view(2, 48) / 9),
    "no operation": lambda x: x,
    "dropout": lambda x: F.dropout(x, 0.5, training=False).contiguous().detach().clone() + 0,
    "two outputs": lambda x: (x * 2, x.flatten(1)),
    "the same output twice": lambda x: (x, x, x.permute(0, 2, 3, 1)),
    "a dictionary": lambda x: {"a": x + 1, "b": x.mean((2, 3))},
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation(name):
    check(of(OPERATIONS[name]), torch.randn(IMAGE), rtol=1e-4, atol=1e-5)


MODULES = {
    "batch norm": nn.BatchNorm2d(6),
    "batch norm without factors": nn.BatchNorm2d(6, affine=False),
    "batch norm 1d": nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(6)),
    "convolution": nn.Conv2d(6, 5, 3, padding=1),
    "convolution in front of much": nn.Sequential(
        nn.Conv2d(6, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5), nn.PReLU(5), nn.BatchNorm2d(5), nn.LeakyReLU(0.3)
    ),
    "same": nn.Conv2d(6, 5, (2, 4), padding="same"),
    "depthwise": nn.Conv2d(6, 6, 3, groups=6, padding=1),
    "depthwise with more outputs": nn.Conv2d(6, 18, 3, groups=6, padding=1),
    "grouped": nn.Conv2d(6, 8, (3, 1), groups=2, stride=(2, 3), padding=(2, 0), dilation=(1, 2)),
    "convolution 1d": nn.Sequential(nn.Flatten(2), nn.Conv1d(6, 4, 5, stride=2, padding=2, dilation=2), nn.ReLU()),
    "multi-head attention": nn.Sequential(nn.Flatten(2), nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)),
    "norm first": nn.Sequential(
        nn.Flatten(2), nn.TransformerEncoderLayer(32, 2, 16, batch_first=True, norm_first=True, activation="gelu")
    ),
    "activations": nn.Sequential(nn.Hardswish(), nn.SiLU(), nn.ReLU6(inplace=True), nn.Dropout(), nn.Hardsigmoid()),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module(name):
    check(randomised(MODULES[name]), torch.randn(IMAGE), rtol=1e-4, atol=1e-5)


def test_several_inputs():
    model = of(lambda a, b: a * 2 + b.flatten(1))
    check(model, (torch.randn(2, 6), torch.randn(2, 3, 2)))
    check(model, {"b": torch.randn(2, 3, 2), "a": torch.randn(2, 6)})
    assert [
        port["name"] for port in pack(model, {"b": torch.randn(2, 3, 2), "a": torch.randn(2, 6)}).metadata["inputs"]
    ] == [
        "b",
        "a",
    ]


def test_embeddings():
    table = nn.Embedding(7, 5)
    pairs = torch.tensor([[3, 6, 0, 1]])
    check(Function(lambda m, i: m.table(i[:, 2]), table=table), pairs)
    check(Function(lambda m, i: m.table(i), table=table), pairs)
    check(Function(lambda m, i: m.table(i[:, 1::2]).flatten(1), table=table), pairs)
    check(Function(lambda m, i: m.table(i.view(-1, 2, 2).transpose(1, 2)), table=table), pairs)


def test_an_input_that_nothing_reads_stays():
    check(of(lambda a, b: a + 1), (torch.randn(1, 3), torch.randn(1, 2)))


# ---------------------------------------------------------------------------------------------------- binary layers


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "layer",
    [
        lambda a: BinaryConv2d(6, 9, 3, padding=1, algorithm=a, output_size=(4, 8)),
        lambda a: BinaryConv2d(6, 9, (2, 4), padding="same", bias=False, algorithm=a, output_size=(4, 8)),
        lambda a: BinaryConv2d(6, 8, 3, groups=2, stride=2, algorithm=a, output_size=(1, 3)),
        lambda a: BinaryConv2d(6, 6, 3, groups=6, padding=1, algorithm=a, output_size=(4, 8)),
        lambda a: BinaryConv2d(6, 18, 3, groups=6, padding=1, algorithm=a, output_size=(4, 8)),
        lambda a: nn.Sequential(
            nn.Flatten(2), BinaryConv1d(6, 5, 3, padding=2, dilation=2, algorithm=a, output_size=(32,))
        ),
        lambda a: BinaryLinear(8, 5, algorithm=a),
        lambda a: nn.Sequential(nn.Flatten(), BinaryLinear(192, 5, algorithm=a)),
        lambda a: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), BinaryLinear(48, 5, algorithm=a)),
        lambda a: nn.Sequential(nn.Conv2d(6, 40, 1), nn.Flatten(), BinaryLinear(1280, 5, algorithm=a)),
    ],
    ids=["conv", "same", "grouped", "depthwise", "multiplied", "1d", "tokens", "flat", "pooled", "flat map"],
)
def test_a_layer_of_every_algorithm(layer, algorithm):
    model = perturbed(layer(algorithm))
    check(model, torch.randn(IMAGE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "algorithm",
    [
        xnor(activation_scale="sample"),
        dorefa(granularity="layer"),
        dorefa(scale_in_gradient=False),
        pact(scale="mean"),
        recu(quantile="empirical", scale="statistics"),
    ],
    ids=["one number a sample", "one a layer", "unscaled", "pact with a scale", "recu of statistics"],
)
def test_options_of_algorithms(algorithm):
    conv, linear = BinaryConv2d(6, 4, 3, groups=2, algorithm=algorithm), BinaryLinear(8, 5, algorithm=algorithm)
    check(perturbed(conv), torch.randn(IMAGE))
    check(perturbed(linear), torch.randn(2, 8))
    check(perturbed(linear), torch.randn(2, 3, 8))


@pytest.mark.parametrize("padding_value", [-1, 0, 1])
@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "pact"])
def test_padding_values(algorithm, padding_value):
    layer = BinaryConv2d(6, 9, 3, padding=2, algorithm=algorithm, padding_value=padding_value)
    check(perturbed(layer), torch.randn(IMAGE))


@PROPERTY
@given(st.data())
def test_convolutions_of_any_shape(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    each, outputs = data.draw(st.sampled_from([1, 2, 5, 31, 32, 33])), data.draw(st.sampled_from([1, 2, 8, 32]))
    kernel, stride = (draw(1, 4), draw(1, 3)), (draw(1, 3), draw(1, 2))
    dilation, padding = (draw(1, 2), draw(1, 2)), (draw(0, 3), draw(0, 2))
    size = tuple((k - 1) * d + 1 + draw(0, 5) for k, d in zip(kernel, dilation, strict=True))
    algorithm = data.draw(st.sampled_from([*ALGORITHMS, "fp32"]))
    torch.manual_seed(draw(0, 99))
    given_ = (each * groups, outputs * groups, kernel, stride, padding, dilation, groups, data.draw(st.booleans()))
    if algorithm == "recu" and each * kernel[0] * kernel[1] < 2:
        return
    if algorithm == "fp32":
        layer = nn.Conv2d(*given_)
    else:
        layer = BinaryConv2d(*given_, algorithm=algorithm, padding_value=draw(-1, 1), output_size=(20, 20))
    behind = data.draw(
        st.sampled_from(
            [
                [],
                [
                    nn.BatchNorm2d(outputs * groups),
                    nn.Hardtanh(),
                    BinaryConv2d(outputs * groups, 3, 1, algorithm="bnn"),
                ],
                [nn.PReLU(outputs * groups), BinaryConv2d(outputs * groups, 4, 1, padding=1, algorithm="reactnet")],
            ]
        )
    )
    model = randomised(nn.Sequential(perturbed(layer), *(perturbed(module) for module in behind)))
    check(model, torch.randn(1, each * groups, *size), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("algorithm", ["bnn", "reactnet", "pact"])
@pytest.mark.parametrize("transpose", [False, True])
def test_products_of_activations(algorithm, transpose):
    product = perturbed(BinaryMatmul(8, 8 if transpose else 5, transpose_right=transpose, algorithm=algorithm))
    model = Function(lambda m, a, b: m.product(a, b), product=product)
    b = (1, 3, 5, 8) if transpose else (1, 3, 8, 5)
    program = check(model, (torch.randn(1, 3, 4, 8), torch.randn(b)))
    assert "BMATMUL" in codes(program)
    check(model, (torch.randn(1, 3, 4, 8), torch.randn(1, 1, *b[2:])))
    check(model, (torch.randn(1, 4, 8), torch.randn(1, *b[2:])))


def test_a_shared_layer():
    layer, norm = BinaryConv2d(6, 6, 3, padding=1, algorithm="reactnet"), nn.BatchNorm2d(6)
    model = Function(lambda m, x: m.layer(m.norm(m.layer(x))), layer=perturbed(layer), norm=norm)
    program = check(randomised(model), torch.randn(IMAGE))
    assert [(entry["name"], entry["call"]) for entry in program.metadata["layers"]] == [("layer", 0), ("layer", 1)]


# --------------------------------------------------------------------------------------------------------- refusals

REFUSED = {
    "a 3d convolution": (nn.Conv3d(1, 2, 1), (1, 1, 2, 2, 2), r"convolutions over 3 dimensions"),
    "a binary 3d convolution": (BinaryConv3d(1, 2, 1, algorithm="bnn"), (1, 1, 2, 2, 2), "convolutions over 3 dim"),
    "transposed": (nn.ConvTranspose2d(6, 2, 1), IMAGE, "transposed convolutions"),
    "reflected": (BinaryConv2d(6, 2, 3, padding=1, padding_mode="reflect", algorithm="bnn"), IMAGE, "mode 'reflect'"),
    "reflected floats": (nn.Conv2d(6, 2, 3, padding=1, padding_mode="reflect"), IMAGE, "'reflection_pad2d'"),
    "sort": (of(lambda x: x.sort(1).values), IMAGE, "operation 'sort' can't be exported"),
    "argmax": (of(lambda x: x.argmax(1)), IMAGE, "operation 'argmax'"),
    "pool indices": (of(lambda x: F.max_pool2d(x, 2, return_indices=True)[1]), IMAGE, "second result"),
    "uneven pool": (nn.AdaptiveAvgPool2d(3), IMAGE, "windows of different sizes"),
    "upsampling": (of(lambda x: F.interpolate(x, size=(5, 9))), IMAGE, "factor that isn't whole"),
    "padding with 1": (of(lambda x: F.pad(x, (1, 1), value=1.0)), IMAGE, "pads with 1"),
    "batch statistics": (nn.BatchNorm2d(6, track_running_stats=False), IMAGE, "statistics of the batch"),
    "mean of the batch": (of(lambda x: x.mean(0, keepdim=True)), IMAGE, "over the batch"),
    "mean of everything": (of(lambda x: x.mean().view(1, 1)), IMAGE, "over the batch"),
    "doubles": (of(lambda x: x.double()), IMAGE, "converts torch.float32 to torch.float64"),
    "rounding division": (of(lambda x: torch.div(x, 2, rounding_mode="floor")), IMAGE, "rounding_mode='floor'"),
    "power": (of(lambda x: x**3), IMAGE, "power 3"),
    "a batch of maps": (
        Function(lambda m, x: m.conv(x.flatten(0, 1).unsqueeze(1)).unflatten(0, (1, 6)), conv=nn.Conv2d(1, 2, 1)),
        IMAGE,
        "gets 6 maps",
    ),
    "a computed weight": (of(lambda x: F.conv2d(x, x[:, :, :1, :1])), IMAGE, "weight is computed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals_name_the_operation(name):
    model, shape, message = REFUSED[name]
    with pytest.raises(PackedError, match=message):
        pack(nn.Sequential(nn.Identity(), model), torch.randn(shape))


def test_indices_are_not_computed_with():
    table = nn.Embedding(7, 5)
    with pytest.raises(PackedError, match="the model itself: it computes with int64 numbers"):
        pack(Function(lambda m, i: m.table(i + 1), table=table), torch.tensor([[3, 5]]))


def test_refusals_name_the_layer():
    model = nn.Sequential(nn.Sequential(nn.Identity(), BinaryConv3d(1, 2, 1, algorithm="bnn")))
    with pytest.raises(PackedError, match=r"layer '0\.1' \(BinaryConv3d\): .*; leave this layer out"):
        pack(model, torch.randn(1, 1, 2, 2, 2))
    model = nn.Sequential(nn.Sequential(nn.Identity(), nn.Softplus()))
    with pytest.raises(PackedError, match=r"module '0\.1': operation 'softplus' can't be exported; compute it"):
        pack(model, torch.randn(1, 3))
