"""Files of Larq Compute Engine, run by its own interpreter, against PyTorch."""

import functools
import json

import numpy as np
import pytest
import torch
from flatbuffer_reader import custom_operators, root
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreted import randomised, sample_of
from lce_runner import Client, LceEngine
from parts import PARTS, drawn_part, of_part
from test_export_models import ALGORITHMS, built
from test_lower import IMAGE, MODULES, OPERATIONS, Function, of, perturbed
from test_trained_networks import ROUNDING, trained
from torch import nn

from bibench.deploy.compare import compare
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.deploy.lce import to_tflite, write_lce
from bibench.nn import BinaryConv1d, BinaryConv2d, BinaryLinear, BinaryMatmul
from bibench.tasks.cifar10 import cifar10

MODES = ("default", "indirect + XNNPACK")
PROPERTY = settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def client(lce_environment, tmp_path_factory):
    made = Client(lce_environment, tmp_path_factory.mktemp("lce"))
    yield made
    made.close()


def check(client, model, x, *, rtol=1e-4, atol=1e-5):
    """Write a model and compare what each mode makes of the first sample; tolerances of 0 ask for the same numbers."""
    model.eval()
    program = pack(model, x)
    content = to_tflite(program)
    with torch.no_grad():
        out = model(*(torch.from_numpy(array).clone() for array in sample_of(x)))
    expected = [out] if isinstance(out, torch.Tensor) else list(out.values() if isinstance(out, dict) else out)
    for mode in MODES:
        found = client.on(content, sample_of(x), mode=mode)
        assert [tuple(y.shape) for y in found] == [tuple(y.shape) for y in expected]
        for y, wanted in zip(found, expected, strict=True):
            np.testing.assert_allclose(y, wanted.numpy(), rtol=rtol, atol=atol)
    return content


def same_bits(client, model, x):
    program = pack(model, x)
    for mode in MODES:
        found = compare(model, program, x, engine=functools.partial(LceEngine, client, mode=mode))
        assert found.differing == 0, str(found)
        assert found.same_top1 == found.samples
        assert found.difference < 1e-4 * max(found.largest, 1)
    return found


# ------------------------------------------------------------------------------------------------------------- layers


def drawn_convolution(data, algorithm, padding_value):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    channels = data.draw(st.sampled_from([1, 3, 16, 32, 40, 64]))
    kernel, stride, dilation = ((draw(1, 4), draw(1, 3)), (draw(1, 3), draw(1, 2)), (draw(1, 2), draw(1, 2)))
    padding = data.draw(st.sampled_from([(1, 1), (draw(0, 3), draw(0, 3))]))
    size = tuple(
        max((k - 1) * d + 1 - 2 * p, 1) + draw(0, 6) for k, d, p in zip(kernel, dilation, padding, strict=True)
    )
    torch.manual_seed(draw(0, 99))
    layer = BinaryConv2d(
        channels,
        data.draw(st.sampled_from([1, 5, 32, 33])),
        kernel,
        stride,
        padding,
        dilation,
        algorithm=algorithm,
        padding_value=padding_value,
        bias=False,
        output_size=(20, 20),
    )
    return layer, torch.randn(1, channels, *size)


@pytest.mark.parametrize("padding_value", [-1, 0, 1])
@PROPERTY
@given(data=st.data())
def test_sums_of_any_convolution_are_the_same_numbers(client, data, padding_value):
    layer, x = drawn_convolution(data, "bnn", padding_value)
    content = check(client, layer, x, rtol=0, atol=0)
    assert b"LceBconv2d" in content


@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "xnorpp", "reactnet", "pact"])
@PROPERTY
@given(data=st.data())
def test_bits_behind_any_convolution(client, data, algorithm):
    layer, x = drawn_convolution(data, algorithm, data.draw(st.sampled_from([-1, 0, 1])))
    channels = layer.out_channels
    behind = data.draw(
        st.sampled_from(
            [
                [nn.BatchNorm2d(channels), nn.Hardtanh(), BinaryConv2d(channels, 4, 1, algorithm="bnn")],
                [nn.PReLU(channels), BinaryConv2d(channels, 4, 1, padding=1, algorithm="reactnet")],
                [nn.BatchNorm2d(channels), nn.ReLU(), BinaryConv2d(channels, 4, 1, algorithm="pact")],
                [nn.BatchNorm2d(channels), nn.MaxPool2d(1, 2), BinaryConv2d(channels, 4, 1, algorithm="bnn")],
            ]
        )
    )
    same_bits(client, randomised(nn.Sequential(perturbed(layer), *(perturbed(module) for module in behind))), x)


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "padding"),
    [(8, 3, 2, 1), (7, 3, 2, 1), (2, 3, 1, 1), (1, 3, 1, 1), (9, 5, 3, 2), (6, 3, 1, 2), (5, 2, 2, 1)],
    ids=["even", "odd", "smaller than the window", "one pixel", "5x5", "more than SAME", "even window"],
)
@pytest.mark.parametrize("algorithm", ["bnn", "pact"])
def test_zero_padding_with_stride_is_that_of_pytorch(client, algorithm, size, kernel, stride, padding):
    layer = BinaryConv2d(40, 33, kernel, stride, padding, algorithm=algorithm, bias=False)
    check(client, layer, torch.randn(1, 40, size, size), rtol=0, atol=0)


def test_a_chain_without_zero_padding_stays_packed(client):
    layers = [
        module
        for _ in range(3)
        for module in (BinaryConv2d(32, 32, 3, padding=1, padding_value=1, algorithm="bnn"), nn.BatchNorm2d(32))
    ]
    model, x = randomised(nn.Sequential(*layers)), torch.randn(1, 32, 6, 6)
    same_bits(client, model, x)
    content = to_tflite(pack(model, x))
    assert content.count(b"LceQuantize") == 1  # one operator code
    assert custom_operators(content).count("LceQuantize") == 1
    assert custom_operators(content).count("LceBconv2d") == 3


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "layer",
    [
        lambda a: nn.Sequential(
            nn.Flatten(2), BinaryConv1d(6, 5, 3, padding=2, dilation=2, algorithm=a, output_size=(32,))
        ),
        lambda a: BinaryLinear(8, 5, algorithm=a),
        lambda a: nn.Sequential(nn.Flatten(), BinaryLinear(192, 5, algorithm=a)),
        lambda a: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), BinaryLinear(48, 5, algorithm=a)),
        lambda a: nn.Sequential(nn.Conv2d(6, 40, 1), nn.Flatten(), BinaryLinear(1280, 5, algorithm=a)),
    ],
    ids=["1d", "tokens", "flat", "pooled", "flat map"],
)
def test_other_layers(client, layer, algorithm):
    check(client, perturbed(layer(algorithm)), torch.randn(IMAGE), rtol=1e-4, atol=1e-4)


# --------------------------------------------------------------------------------------------------- everything else

REFUSED_OPERATIONS = {"max pool dilated": "pools no dilated windows", "six dimensions": "writes parts of a tensor"}


@pytest.mark.parametrize("algorithm", ["bnn", "reactnet", "pact"])
@pytest.mark.parametrize("transpose", [False, True])
def test_products_of_activations(client, algorithm, transpose):
    product = perturbed(BinaryMatmul(40, 40 if transpose else 5, transpose_right=transpose, algorithm=algorithm))
    model = Function(lambda m, a, b: m.product(a, b), product=product)
    right = (1, 3, 5, 40) if transpose else (1, 3, 40, 5)
    check(client, model, (torch.randn(1, 3, 4, 40), torch.randn(right)))
    check(client, model, (torch.randn(1, 3, 4, 40), torch.randn(1, 1, *right[2:])))
    if algorithm == "bnn":
        check(client, model, (torch.randn(1, 3, 4, 40), torch.randn(right)), rtol=0, atol=0)


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation(client, name):
    model, x = of(OPERATIONS[name]), torch.randn(IMAGE)
    if name in REFUSED_OPERATIONS:
        with pytest.raises(PackedError, match=f"Larq Compute Engine .*{REFUSED_OPERATIONS[name]}"):
            to_tflite(pack(model, x))
    else:
        check(client, model, x)


@pytest.mark.parametrize("name", MODULES)
def test_a_module(client, name):
    check(client, randomised(MODULES[name]), torch.randn(IMAGE))


def test_embeddings(client):
    table = nn.Embedding(7, 5)
    pairs = torch.tensor([[3, 6, 0, 1]])
    check(client, Function(lambda m, i: m.table(i[:, 1::2]).flatten(1), table=table), pairs)
    check(client, Function(lambda m, i: m.table(i.view(-1, 2, 2).transpose(1, 2))[:, 0], table=table), pairs)
    first = Function(lambda m, i: m.linear(m.table(i)[:, 0]), table=table, linear=nn.Linear(5, 3))
    check(client, first, pairs)  # which reads the beginning of what the table gave


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_result(client, name):
    check(client, *of_part(name))


@PROPERTY
@given(data=st.data())
def test_parts_of_any_layer(client, data):
    check(client, *drawn_part(data))


def test_several_inputs_keep_their_shapes(client):
    model = of(lambda a, image, c: (a * 2 + c.flatten(1), image + 1, image.flatten(1)))
    check(client, model, (torch.randn(2, 6), torch.randn(2, 3, 4, 5), torch.randn(2, 3, 2)))


# ----------------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "fp32"])
@pytest.mark.parametrize("architecture", ["digits_cnn", "digits_mlp", "digits_transformer", "ncf"])
def test_small_networks_with_every_algorithm(client, architecture, algorithm):
    model, x = built(architecture, algorithm)
    found = same_bits(client, model, x)
    assert bool(found.layers) == (algorithm != "fp32")


@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "xnorpp", "reactnet", "pact"])
@pytest.mark.parametrize("architecture", ["resnet20", "resnet20e"])
def test_residual_networks(client, architecture, algorithm):
    same_bits(client, *built(architecture, algorithm, 16))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("architecture", ["vgg_small", "vgg16", "resnet18"])
def test_larger_networks(client, architecture, algorithm):
    same_bits(client, *built(architecture, algorithm))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "algorithm"),
    [("resnet18", "reactnet"), ("resnet20", "xnorpp"), ("resnet20e", "fda"), ("vgg_small", "pact"), ("vgg16", "xnor")],
)
def test_networks_trained_on_images(client, real_data, architecture, algorithm):
    data = cifar10.load(real_data / "cifar-10-lossless-subset", True)
    images, labels = next(data.train.batches(64, device=torch.device("cpu"), seed=0))
    model = trained(architecture, algorithm, images, labels, 10, steps=2)
    program = pack(model, images[:1])
    tests, _ = next(data.test.batches(4, device=torch.device("cpu")))
    for image in tests.split(1):
        found = compare(model, program, image, engine=functools.partial(LceEngine, client))
        first = next((layer for layer in found.layers if layer.differing), None)
        assert found.same_top1 == 1 if first is None else first.margin < ROUNDING, str(found)


@pytest.mark.slow
def test_resnet18_of_full_size(client):
    model, x = built("resnet18", "bireal", 224, 1000)
    same_bits(client, model, x[:1])
    assert len(to_tflite(pack(model, x))) < 4.3e6


# ----------------------------------------------------------------------------------------------------- refusals, file

GROUPS = nn.Sequential(nn.Identity(), BinaryConv2d(64, 64, 3, groups=2, padding=1, algorithm="xnor"))


@pytest.mark.parametrize(
    ("model", "x", "message"),
    [
        (GROUPS, torch.randn(1, 64, 4, 4), r"^layer '1': Larq .* no groups .*has 2\); leave it in full precision"),
        (nn.MaxPool2d(2, dilation=2), torch.randn(1, 2, 6, 6), r"^operation \d, .*no dilated windows .*2 x 2"),
    ],
    ids=["groups", "dilated pool"],
)
def test_refusals_name_the_layer(model, x, message, tmp_path):
    with pytest.raises(PackedError, match=message):
        write_lce(pack(model, x), tmp_path / "net.tflite")
    assert list(tmp_path.iterdir()) == []


def test_an_int8_stem_is_refused():
    model, x = built("digits_cnn", "bnn")
    with pytest.raises(PackedError, match=r"^operation 0, conv1.*: .*--int8-stem makes it; export without it"):
        to_tflite(pack(model, x, int8_stem=True))


def test_the_file(client, tmp_path):
    model, x = built("digits_cnn", "recu")
    program = pack(model, x, metadata={"labels": ["null", "eins"]})
    path = tmp_path / "new" / "net.tflite"
    assert write_lce(program, path) == path.stat().st_size
    content = path.read_bytes()
    assert content == to_tflite(pack(model, x, metadata={"labels": ["null", "eins"]}))
    model_table = root(content)
    (entry,) = model_table.tables(6)
    assert entry.bytes(0)[0] == b"bibench"
    assert json.loads(model_table.tables(4)[entry.integer(1)].bytes(0)[0]) == program.metadata
    found = client.on(content, [x[:1].numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(found[0], model(x[:1]).numpy(), atol=1e-5)
