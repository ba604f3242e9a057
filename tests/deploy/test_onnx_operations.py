"""One operation or layer at a time as ONNX, run by ONNX Runtime, against PyTorch."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from interpreted import randomised
from onnx_models import check_onnx, session
from parts import PARTS, drawn_part, of_part
from test_lower import ALGORITHMS, IMAGE, MODULES, OPERATIONS, Function, of, perturbed
from torch import nn

from bibench.algorithms.xnor import xnor
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.deploy.onnx_file import ONNX, QONNX, onnx_model
from bibench.nn import BinaryConv1d, BinaryConv2d, BinaryLinear, BinaryMatmul

DIALECTS = pytest.mark.parametrize("dialect", [ONNX, QONNX], ids=["onnx", "qonnx"])
PROPERTY = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])


def ops(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation(name):
    check_onnx(of(OPERATIONS[name]), torch.randn(IMAGE), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODULES)
def test_a_module(name):
    check_onnx(randomised(MODULES[name]), torch.randn(IMAGE), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_result(name):
    check_onnx(*of_part(name))


@PROPERTY
@given(st.data())
def test_parts_of_any_layer(data):
    check_onnx(*drawn_part(data))


def test_several_inputs_and_their_names():
    x = {"b": torch.randn(2, 3, 2), "a": torch.randn(2, 6)}
    made = check_onnx(of(lambda a, b: a * 2 + b.flatten(1)), x)
    assert [port.name for port in made.graph.input] == ["b", "a"]
    made = check_onnx(of(lambda a, b: {"a": a * 2, "c": b}), (torch.randn(2, 6), torch.randn(2, 3)))
    assert [port.name for port in [*made.graph.input, *made.graph.output]] == ["input0", "input1", "a", "c"]
    made = check_onnx(Function(lambda m, x: {"x": x * 2}), {"x": torch.randn(2, 6)})
    assert [port.name for port in [*made.graph.input, *made.graph.output]] == ["x", "x.1"]


@pytest.mark.parametrize("how", ["column", "all", "every second", "reordered"])
def test_embeddings(how):
    function = {
        "column": lambda m, i: m.table(i[:, 2]),
        "all": lambda m, i: m.table(i),
        "every second": lambda m, i: m.table(i[:, 1::2]).flatten(1),
        "reordered": lambda m, i: m.table(i.view(-1, 2, 2).transpose(1, 2)),
    }[how]
    check_onnx(Function(function, table=nn.Embedding(7, 5)), torch.tensor([[3, 6, 0, 1], [2, 4, 4, 5]]))


def test_indices_out_of_any_order_are_picked():
    table = nn.Embedding(7, 5)
    check_onnx(Function(lambda m, i: m.table(i[:, 1:4:2]), table=table), torch.tensor([[3, 6, 0, 1, 5]]))


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_maps_and_convolutions_are_not_transposed(kernel):
    pads = (kernel[0] // 2, kernel[1] // 2)
    net = nn.Sequential(nn.Conv2d(6, 8, kernel, padding=pads), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
    made = check_onnx(randomised(net), torch.randn(IMAGE))
    assert ops(made) == ["Conv", "Mul", "Add", "Clip", "Conv", "Add", "Identity"]


# ---------------------------------------------------------------------------------------------------- binary layers

LAYERS = {
    "conv": lambda a: BinaryConv2d(6, 9, 3, padding=1, algorithm=a, output_size=(4, 8)),
    "same": lambda a: BinaryConv2d(6, 9, (2, 4), padding="same", bias=False, algorithm=a, output_size=(4, 8)),
    "grouped": lambda a: BinaryConv2d(6, 8, 3, groups=2, stride=2, algorithm=a, output_size=(1, 3)),
    "depthwise": lambda a: BinaryConv2d(6, 6, 3, groups=6, padding=1, algorithm=a, output_size=(4, 8)),
    "multiplied": lambda a: BinaryConv2d(6, 18, 3, groups=6, padding=1, algorithm=a, output_size=(4, 8)),
    "1d": lambda a: nn.Sequential(
        nn.Flatten(2), BinaryConv1d(6, 5, 3, padding=2, dilation=2, algorithm=a, output_size=(32,))
    ),
    "tokens": lambda a: BinaryLinear(8, 5, algorithm=a),
    "flat": lambda a: nn.Sequential(nn.Flatten(), BinaryLinear(192, 5, algorithm=a)),
    "pooled": lambda a: nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), BinaryLinear(48, 5, algorithm=a)),
    "flat map": lambda a: nn.Sequential(nn.Conv2d(6, 40, 1), nn.Flatten(), BinaryLinear(1280, 5, algorithm=a)),
}


@DIALECTS
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_of_every_algorithm(layer, algorithm, dialect):
    check_onnx(perturbed(LAYERS[layer](algorithm)), torch.randn(IMAGE), dialect, rtol=1e-4, atol=1e-4)


@DIALECTS
def test_a_scale_of_one_number_a_sample(dialect):
    algorithm = xnor(activation_scale="sample")
    check_onnx(perturbed(BinaryConv2d(6, 4, 3, groups=2, algorithm=algorithm)), torch.randn(IMAGE), dialect)
    check_onnx(perturbed(BinaryLinear(8, 5, algorithm=algorithm)), torch.randn(2, 3, 8), dialect)


@DIALECTS
@pytest.mark.parametrize("padding_value", [-1, 0, 1])
@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "pact"])
def test_padding_values(algorithm, padding_value, dialect):
    layer = BinaryConv2d(6, 9, 3, padding=2, algorithm=algorithm, padding_value=padding_value)
    check_onnx(perturbed(layer), torch.randn(IMAGE), dialect)


@DIALECTS
@pytest.mark.parametrize("algorithm", ["bnn", "reactnet", "pact"])
@pytest.mark.parametrize("transpose", [False, True])
def test_products_of_activations(algorithm, transpose, dialect):
    product = perturbed(BinaryMatmul(8, 8 if transpose else 5, transpose_right=transpose, algorithm=algorithm))
    model = Function(lambda m, a, b: m.product(a, b), product=product)
    b = (2, 3, 5, 8) if transpose else (2, 3, 8, 5)
    check_onnx(model, (torch.randn(2, 3, 4, 8), torch.randn(b)), dialect)
    check_onnx(model, (torch.randn(2, 3, 4, 8), torch.randn(2, 1, *b[2:])), dialect)


def test_zeros_become_plus_one_and_numbers_just_below_minus_one():
    """ONNX's Sign has sign(0) = 0, which would leave an element out of the sum."""
    layer = BinaryLinear(3, 4, bias=False, algorithm="bnn")
    x = torch.tensor([[0.0, -0.0, -1e-45], [-1e-45, 1e-45, 0.0]])
    for dialect in (ONNX, QONNX):
        check_onnx(layer, x, dialect, rtol=0, atol=0)


@PROPERTY
@given(st.data())
def test_sums_of_convolutions_of_any_shape_are_exact(data):
    """The very integers of PyTorch, for the same layer input, whatever is behind them."""
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups = data.draw(st.sampled_from([1, 1, 2, 3]))
    each, outputs = data.draw(st.sampled_from([1, 2, 5, 33])), data.draw(st.sampled_from([1, 2, 8]))
    kernel, stride = (draw(1, 4), draw(1, 3)), (draw(1, 3), draw(1, 2))
    dilation, padding = (draw(1, 2), draw(1, 2)), (draw(0, 3), draw(0, 2))
    size = tuple((k - 1) * d + 1 + draw(0, 5) for k, d in zip(kernel, dilation, strict=True))
    algorithm = data.draw(st.sampled_from([a for a in ALGORITHMS if a != "recu"]))
    torch.manual_seed(draw(0, 99))
    layer = perturbed(
        BinaryConv2d(
            each * groups,
            outputs * groups,
            kernel,
            stride,
            padding,
            dilation,
            groups,
            algorithm=algorithm,
            padding_value=draw(-1, 1),
            output_size=(20, 20),
        )
    ).eval()
    x = torch.randn(2, each * groups, *size)
    made = onnx_model(pack(layer, x), ONNX)
    (tap,) = [node.output[0] for node in made.graph.node if node.op_type == "Round"]
    answer, sums = session(made, [tap]).run(None, {"input": x.numpy()})
    with torch.no_grad():
        product = layer._product(layer.activation_rule(x), layer.binary_weight())
        np.testing.assert_array_equal(sums.reshape(product.shape), product.numpy())
        np.testing.assert_allclose(answer, layer(x).numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layer", ["tokens", "flat", "pooled", "1d", "multiplied"])
def test_sums_of_other_layers_are_exact(layer):
    model, x = perturbed(LAYERS[layer]("xnor")).eval(), torch.randn(IMAGE)
    last = model[-1] if isinstance(model, nn.Sequential) else model
    given_ = model[:-1](x) if isinstance(model, nn.Sequential) else x
    made = onnx_model(pack(model, x), ONNX)
    (tap,) = [node.output[0] for node in made.graph.node if node.op_type == "Round"]
    _, sums = session(made, [tap]).run(None, {made.graph.input[0].name: x.numpy()})
    product = last._product(last.activation_rule(given_), last.binary_weight()).detach().numpy()
    np.testing.assert_array_equal(sums.reshape(product.shape), product)


def test_an_optimiser_leaves_the_scale_out_of_the_weights():
    """A scale folded into weights of -1 and +1 would round every step of the sum."""
    layer = BinaryConv2d(512, 8, 3, algorithm="dorefa")
    x = torch.randn(1, 512, 4, 4)
    made = onnx_model(pack(layer.eval(), x), ONNX)
    answer = session(made).run(None, {"input": x.numpy()})[0]
    with torch.no_grad():
        product = layer._product(layer.activation_rule(x), layer.binary_weight())
        expected = product.double() * layer.weight.abs().double().mean((1, 2, 3)).view(-1, 1, 1)
        expected += layer.bias.view(-1, 1, 1)
    np.testing.assert_allclose(answer, expected.numpy(), rtol=3e-7, atol=1e-7)


def test_weights_are_minus_and_plus_one():
    net = nn.Sequential(
        BinaryConv2d(6, 9, 3, algorithm="reactnet"), nn.Flatten(), BinaryLinear(108, 5, algorithm="bnn")
    )
    program = pack(net, torch.randn(IMAGE))
    for dialect in (ONNX, QONNX):
        weights = [c for c in onnx_model(program, dialect).graph.initializer if c.name.endswith("/weight")]
        found = [np.frombuffer(weight.raw_data, np.float32) for weight in weights]
        assert [values.size for values in found] == [9 * 6 * 9, 108 * 5]
        assert all(set(values) == {-1.0, 1.0} for values in found)


# --------------------------------------------------------------------------------------------------------- refusals


def test_the_int8_stem_is_refused():
    program = pack(nn.Sequential(nn.Identity(), nn.Conv2d(6, 4, 3)), torch.randn(IMAGE), int8_stem=True)
    with pytest.raises(PackedError, match=r"'1': an 8-bit integer layer \(QUANTIZE\) can't be written as ONNX; leave"):
        onnx_model(program, ONNX)


def test_a_pool_that_reaches_too_far_is_refused():
    pool = nn.MaxPool2d(2, stride=3, dilation=(1, 3), ceil_mode=True)
    with pytest.raises(PackedError, match=r"'0': a pool whose windows of \(2, 2\) reach 2 over the edge"):
        onnx_model(pack(nn.Sequential(pool), torch.randn(1, 6, 4, 5)), ONNX)
