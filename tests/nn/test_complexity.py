"""Theoretical complexity: counts against hand computations, forward hooks and the published figures."""

import copy
import csv
import json
import math
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

import bibench
from bibench import binarize, complexity, registry
from bibench.algorithms import Algorithm, Cost, LayerSpec, MeanScale, Rule, Sign, approx_ste, sgn
from bibench.algorithms.dorefa import dorefa
from bibench.algorithms.fda import fda
from bibench.algorithms.pact import pact
from bibench.algorithms.xnor import xnor
from bibench.models import image
from bibench.nn import BinarizeError, BinaryConv1d, BinaryConv2d, BinaryConv3d, BinaryLinear, BinaryMatmul
from bibench.nn.operations import _recurrent, count_operations

PAPER = ["bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda"]
PUBLISHED = {  # BiBench, table 3: speedup, compression
    "bnn": (12.60, 13.27),
    "xnor": (12.26, 13.20),
    "dorefa": (12.37, 13.20),
    "bireal": (12.37, 13.20),
    "xnorpp": (12.26, 13.16),
    "reactnet": (12.26, 13.20),
    "recu": (12.37, 13.20),
    "fda": (12.37, 13.20),
}
FLOATS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BINARY = {1: BinaryConv1d, 2: BinaryConv2d, 3: BinaryConv3d}


def only(found):
    """The single row of a model of one layer."""
    (row,) = found.layers
    return row


def rows(found):
    return {row.name: row for row in found.layers}


# Products by hand


@pytest.mark.parametrize(
    ("layer", "shape", "operations"),
    [
        (nn.Conv1d(4, 6, 3), (1, 4, 10), 6 * 4 * 3 * 8),
        (nn.Conv1d(4, 6, 5, stride=2, padding=2), (2, 4, 10), 2 * 6 * 4 * 5 * 5),
        (nn.Conv2d(4, 6, 3, padding=1), (1, 4, 5, 7), 6 * 4 * 9 * 35),
        (nn.Conv2d(4, 6, (3, 1), stride=(2, 3)), (1, 4, 7, 7), 6 * 4 * 3 * (3 * 3)),
        (nn.Conv2d(4, 6, 3, dilation=2), (1, 4, 7, 8), 6 * 4 * 9 * (3 * 4)),
        (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 5, 5), 6 * 2 * 9 * 9),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 5, 5), 4 * 1 * 9 * 9),
        (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (1, 4, 5, 5), 6 * 4 * 9 * 25),
        (nn.Conv3d(2, 3, 2), (1, 2, 4, 5, 6), 3 * 2 * 8 * (3 * 4 * 5)),
        (nn.Linear(8, 3), (5, 8), 5 * 8 * 3),
        (nn.Linear(8, 3, bias=False), (2, 7, 8), 14 * 8 * 3),
        (nn.Linear(8, 3), (8,), 8 * 3),
        (nn.Linear(8, 3, bias=False), (8,), 8 * 3),
        (nn.ConvTranspose2d(4, 6, 3, groups=2), (1, 4, 5, 5), 25 * 4 * 3 * 9),
        (nn.LSTM(4, 5, num_layers=2, bidirectional=True), (7, 3, 4), 21 * 2 * 20 * (4 + 5 + 10 + 5)),
        (nn.GRU(4, 5, batch_first=True), (3, 7, 4), 21 * 15 * (4 + 5)),
    ],
    ids=str,
)
def test_operations_of_full_precision_layers(layer, shape, operations):
    found = complexity(layer, torch.randn(shape))
    assert found.operations == found.kept_operations == operations
    assert found.bit_operations == 1024 * operations
    parameters = sum(parameter.numel() for parameter in layer.parameters())
    assert found.parameters == found.kept_parameters == parameters
    assert (found.compression, found.speedup) == (1, 1)
    assert (found.binary_weights, found.binary_operations) == (0, 0)


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    per_dim = [st.integers(1, 3)] * dims
    return {
        "dims": dims,
        "space": draw(st.tuples(*[st.integers(5, 8)] * dims)),
        "batch": draw(st.integers(1, 2)),
        "in_channels": groups * draw(st.integers(1, 3)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "kernel_size": draw(st.tuples(*per_dim)),
        "stride": draw(st.tuples(*per_dim)),
        "padding": draw(st.tuples(*[st.integers(0, 2)] * dims)),
        "dilation": draw(st.tuples(*[st.integers(1, 2)] * dims)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }


@given(case=convolutions(), binary=st.booleans(), padding_value=st.sampled_from([-1, 0, 1]))
@settings(max_examples=60, deadline=None)
def test_operations_of_a_convolution_are_the_closed_formula(case, binary, padding_value):
    case = dict(case)
    dims, space, batch = (case.pop(key) for key in ("dims", "space", "batch"))
    how = {"algorithm": "bnn", "padding_value": padding_value} if binary else {}
    layer = (BINARY if binary else FLOATS)[dims](**case, **how)
    row = only(complexity(layer, torch.randn(batch, case["in_channels"], *space)))
    output = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(
            space, case["kernel_size"], case["stride"], case["padding"], case["dilation"], strict=True
        )
    ]
    weights = case["out_channels"] * (case["in_channels"] // case["groups"]) * math.prod(case["kernel_size"])
    operations = batch * weights * math.prod(output)
    biases = case["out_channels"] if case["bias"] else 0
    inputs, outputs = batch * case["in_channels"] * math.prod(space), batch * case["out_channels"] * math.prod(output)
    assert row.operations == operations
    assert row.parameters == weights + biases
    assert row.binary is binary
    if binary:
        assert (row.binary_weights, row.kept_parameters) == (weights, biases)
        assert (row.binary_operations, row.kept_operations, row.bit_operations) == (operations, 0, operations)
        assert row.memory_traffic == -(-weights // 8) + -(-inputs // 8) + 4 * biases + 4 * outputs
    else:
        assert (row.binary_weights, row.kept_parameters) == (0, weights + biases)
        assert (row.binary_operations, row.kept_operations) == (0, operations)
        assert row.memory_traffic == 4 * (weights + biases + inputs + outputs)


@given(
    widths=st.lists(st.integers(8, 64), min_size=3, max_size=5),
    tokens=st.integers(1, 3),
    algorithm=st.sampled_from(["bnn", "dorefa", "recu"]),
    counting=st.sampled_from(["model", "paper"]),
)
@settings(max_examples=40, deadline=None)
def test_ratios_are_equation_7_and_in_their_range(widths, tokens, algorithm, counting):
    net = nn.Sequential(*(nn.Linear(a, b) for a, b in zip(widths, [*widths[1:], 10], strict=True)))
    found = complexity(binarize(net, algorithm), torch.randn(tokens, widths[0]), counting=counting)
    for ratio, total, kept, unit in (
        (found.compression, found.parameters, found.kept_parameters, 32),
        (found.speedup, found.operations, found.kept_operations, 64),
    ):
        assert ratio == pytest.approx(total / ((1 / unit) * (total - kept) + kept), rel=1e-12)
        assert 1 <= ratio <= unit
    # What is not kept is one bit, but for the scales that the original doesn't have.
    assert found.binary_weights == sum(a * b for a, b in pairwise(widths[1:]))


def test_a_network_of_bits_alone_reaches_the_limits():
    found = complexity(BinaryLinear(64, 64, bias=False, algorithm="bnn"), torch.randn(1, 64))
    assert (found.compression, found.speedup) == (32, 64)


def test_a_model_without_parameters_and_products_has_ratios_1():
    found = complexity(nn.Sequential(nn.ReLU(), nn.Flatten()), torch.randn(2, 3))
    assert (found.layers, found.compression, found.speedup) == ((), 1, 1)


# What each algorithm keeps

CONV_OUT, LINEAR_OUT = 2 * 6 * 3 * 3, 2 * 3 * 5
CONV_IN, LINEAR_IN = 2 * 4 * 5 * 5, 2 * 3 * 8
KEPT = {  # of a convolution 4 -> 6, 3x3, 2 groups, 2 x 5x5 -> 3x3, and of a linear layer 8 -> 5 on 2 x 3 tokens
    "bnn": ((0, 0), (0, 0)),
    "dorefa": ((6, CONV_OUT), (5, LINEAR_OUT)),
    "bireal": ((6, CONV_OUT), (5, LINEAR_OUT)),
    "fda": ((6, CONV_OUT), (5, LINEAR_OUT)),
    "recu": ((6, CONV_OUT), (5, LINEAR_OUT)),
    "xnor": ((6, CONV_IN + 2 * 2 * 9 * 9 + 2 * CONV_OUT), (5, LINEAR_IN + 2 * LINEAR_OUT)),
    "xnorpp": ((6 + 3 + 3, CONV_OUT), (5, LINEAR_OUT)),
    "reactnet": ((6 + 4, CONV_IN + CONV_OUT), (5 + 8, LINEAR_IN + LINEAR_OUT)),
    "pact": ((1, CONV_IN + CONV_OUT), (1, LINEAR_IN + LINEAR_OUT)),
}


def conv_and_linear(algorithm):
    conv = BinaryConv2d(4, 6, 3, groups=2, algorithm=algorithm, output_size=(3, 3))
    linear = BinaryLinear(8, 5, algorithm=algorithm)
    return (conv, torch.randn(2, 4, 5, 5)), (linear, torch.randn(2, 3, 8))


@pytest.mark.parametrize("algorithm", KEPT)
def test_every_algorithms_own_parameters_and_operations_are_kept(algorithm):
    for (layer, x), (parameters, operations) in zip(conv_and_linear(algorithm), KEPT[algorithm], strict=True):
        row = only(complexity(layer, x))
        biases = layer.bias.numel()
        products = {6: 2 * 6 * 2 * 9 * 9, 5: 2 * 3 * 8 * 5}[biases]
        assert row.kept_parameters == biases + parameters
        assert row.kept_operations == operations
        assert row.operations == row.binary_operations == row.bit_operations == products
        assert row.parameters == row.binary_weights + biases == layer.weight.numel() + biases
        read = -(-layer.weight.numel() // 8) + -(-x.numel() // 8) + 4 * (biases + parameters)
        assert row.memory_traffic == read + 4 * layer(x).numel()


def test_every_built_in_algorithm_has_a_case():
    names = registry.names("algorithms")
    assert set(KEPT) == {name for name in names if registry.origin("algorithms", name) == "bibench"}


@pytest.mark.parametrize("algorithm", KEPT)
def test_paper_counts_one_factor_a_channel_and_one_operation_an_output(algorithm):
    for layer, x in conv_and_linear(algorithm):
        row = only(complexity(layer, x, counting="paper"))
        scaled = algorithm not in ("bnn", "pact")
        assert row.kept_parameters == layer.bias.numel() * (2 if scaled else 1)
        assert row.kept_operations == (layer(x).numel() if scaled else 0)


@pytest.mark.parametrize(
    ("algorithm", "parameters", "operations"),
    [
        (dorefa(granularity="layer"), 1, CONV_OUT),
        (xnor(activation_scale="sample"), 6, CONV_IN + 2 * CONV_OUT),
        (pact(scale="mean"), 7, CONV_IN + 2 * CONV_OUT),
        (fda(noise=False), 6, CONV_OUT),
    ],
    ids=["dorefa by layer", "xnor by sample", "pact with mean", "fda without noise"],
)
def test_options_count(algorithm, parameters, operations):
    layer, x = conv_and_linear(algorithm)[0]
    row = only(complexity(layer, x))
    assert (row.kept_parameters - 6, row.kept_operations) == (parameters, operations)


@pytest.mark.parametrize(("dims", "padding"), [(1, 0), (3, 1)])
def test_xnors_box_in_other_dimensions(dims, padding):
    layer = BINARY[dims](4, 6, 3, stride=2, padding=padding, bias=False, algorithm="xnor")
    x = torch.randn(1, 4, *(7,) * dims)
    side = (7 + 2 * padding - 3) // 2 + 1
    expected = 4 * 7**dims + side**dims * 3**dims + 2 * 6 * side**dims
    row = only(complexity(layer, x))
    assert (row.kept_operations, row.kept_parameters) == (expected, 6)
    assert row.operations == 6 * 4 * 3**dims * side**dims  # the box's convolution is none of the product's


def test_an_unbatched_input_counts_like_a_batch_of_one():
    layer = BinaryConv2d(4, 6, 3, algorithm="xnor")
    x = torch.randn(1, 4, 5, 5)
    assert complexity(layer, x) == complexity(layer, x[0])


@pytest.mark.parametrize(
    ("algorithm", "kept", "extra"),
    [("bnn", 0, 0), ("dorefa", 0, 0), ("reactnet", 16 + 16, 2 * (3 + 4) * 16), ("pact", 2, 2 * (3 + 4) * 16 + 2 * 24)],
)
def test_products_of_two_activations_have_operations_only(algorithm, kept, extra):
    layer = BinaryMatmul(16, 16, transpose_right=True, algorithm=algorithm)
    row = only(complexity(layer, {"a": torch.randn(2, 3, 16), "b": torch.randn(2, 4, 16)}))
    assert (row.operations, row.binary_operations) == (2 * 3 * 4 * 16, 2 * 3 * 4 * 16)
    assert (row.parameters, row.binary_weights, row.kept_parameters, row.kept_operations) == (0, 0, kept, extra)
    assert row.memory_traffic == 2 * 3 * 16 // 8 + 2 * 4 * 16 // 8 + 4 * 2 * 3 * 4 + 4 * kept
    paper = only(complexity(layer, [torch.randn(2, 3, 16), torch.randn(2, 4, 16)], counting="paper"))
    assert (paper.kept_parameters, paper.kept_operations) == (0, 0)


@pytest.mark.parametrize(
    ("counting", "parameters", "operations"),
    [("model", 5 + 8 + 8 + 8, 8 * 5 + 64 + 2 * 64), ("paper", 8, 64)],  # thresholds and factors; factors alone
)
def test_products_of_activations_beside_linear_layers(counting, parameters, operations):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = BinaryLinear(5, 8, bias=False, algorithm="reactnet")
            self.scores = BinaryMatmul(8, 8, transpose_right=True, algorithm="reactnet")

        def forward(self, x):
            query = self.query(x)
            return self.scores(query, query)

    found = complexity(Attention(), torch.randn(1, 8, 5), counting=counting)
    assert (found.kept_parameters, found.kept_operations) == (parameters, operations)
    assert found.operations == found.binary_operations == 8 * 40 + 8 * 64


def test_each_operand_of_a_product_has_its_own_shape():
    row = only(complexity(BinaryMatmul(16, 4, algorithm="reactnet"), (torch.randn(3, 16), torch.randn(16, 4))))
    assert (row.kept_parameters, row.kept_operations) == (16 + 4, 3 * 16 + 16 * 4)


# Algorithms of others


class Shift(Rule):
    """A rule without a cost of its own, that runs a product at inference."""

    def __init__(self, features):
        super().__init__()
        self.shift = nn.Linear(features, features, bias=False)

    def forward(self, x):
        return sgn(x - self.shift(x))


class Gate(nn.Module):
    """A scale without a cost of its own."""

    def __init__(self, layer):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(layer.out_features))
        self.squeeze = nn.Linear(layer.in_features, 1, bias=False)

    def forward(self, product, x, w):
        return product * self.gain * self.squeeze(x)


class Priced(MeanScale):
    def cost(self, layer, input_shape, output_shape):
        return Cost(7, 100 + input_shape[0])


def algorithm_of(activation=None, scale=None, weight=None):
    return Algorithm(
        name="mine",
        weight=weight or (lambda layer: Sign(approx_ste)),
        activation=activation or (lambda layer: Sign(approx_ste)),
        scale=scale or (lambda layer: None),
    )


@pytest.mark.parametrize(
    ("algorithm", "parameters", "operations"),
    [
        (algorithm_of(), 0, 0),
        (algorithm_of(activation=lambda layer: Shift(8)), 64, 3 * 8 + 3 * 64),  # a threshold each, and its product
        (algorithm_of(scale=Gate), 5 + 8, 3 * 5 + 3 * 8),  # a factor each, and its product
        (algorithm_of(scale=Priced), 7, 103),
        (algorithm_of(weight=lambda layer: Shift(8)), 0, 0),  # what is deployed are the bits
    ],
    ids=["none", "rule", "scale", "priced", "weight"],
)
def test_rules_and_scales_without_a_cost_count_what_they_have(algorithm, parameters, operations):
    row = only(complexity(BinaryLinear(8, 5, bias=False, algorithm=algorithm), torch.randn(3, 8)))
    assert (row.kept_parameters, row.kept_operations) == (parameters, operations)
    assert (row.parameters, row.binary_weights, row.operations) == (40, 40, 120)


def test_a_part_that_layers_share_is_stored_once():
    shift = Shift(8)
    rule = algorithm_of(activation=lambda layer: shift)
    net = nn.Sequential(*(BinaryLinear(8, 8, bias=False, algorithm=rule) for _ in range(2)))
    found = complexity(net, torch.randn(1, 8))
    assert (found.parameters, found.kept_parameters, found.kept_operations) == (128, 64, 2 * 8 + 2 * 2 * 64)


def test_costs_add_up():
    layer = LayerSpec(dims=0, in_features=8, out_features=5)
    assert Sign(approx_ste).cost(layer, (1, 8), (1, 5)) + Cost(2, 3) == Cost(2, 3)


# Whole models


def by_hooks(model, example):
    """Multiply-accumulates of convolutions and linear layers, from the shapes that forward hooks see."""
    total = 0

    def count(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.Linear):
            total += output.numel() * module.in_features
        elif isinstance(module, nn.Conv2d):
            total += output.numel() * module.in_channels // module.groups * math.prod(module.kernel_size)

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    model.eval()(example)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize(
    ("name", "shape", "attention"),
    [
        ("resnet18", (3, 64, 64), 0),
        ("resnet18", (1, 96, 80), 0),
        ("vgg_small", (3, 32, 32), 0),
        ("mobilenet_v2", (3, 64, 64), 0),
        ("digits_mlp", (1, 8, 8), 0),
        ("digits_transformer", (3, 12, 10), 2 * 2 * 12 * 12 * 64),  # samples, products, tokens, width
    ],
)
@pytest.mark.parametrize("binary", [False, True], ids=["full", "binary"])
def test_totals_equal_an_independent_count(name, shape, attention, binary):
    model, x = getattr(image, name).build(shape, 10), torch.randn(2, *shape)
    operations = by_hooks(model, x) + attention
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if binary:
        model = binarize(model, "xnor", example=x)
    found = complexity(model, x)
    assert found.operations == operations
    assert found.parameters == parameters
    assert (
        found.parameters
        - found.binary_weights
        + sum(
            layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            for layer in model.modules()
            if isinstance(layer, bibench.nn.BinaryLayer)
        )
        == found.kept_parameters
    )
    assert found.binary_operations == sum(row.operations for row in found.layers if row.binary)
    names = [row.name for row in found.layers if row.binary]
    assert names == (list(bibench.summary(model).binarized) if binary else [])
    assert found.operations * 1024 == found.bit_operations + 1023 * found.binary_operations


@pytest.fixture(scope="module")
def networks():
    """ResNet-18 for 224 x 224 pixels and 1000 classes, binarized as by default, by algorithm."""
    example = torch.randn(1, 3, 224, 224)
    return {name: binarize(resnet18(), name, example=example) for name in PAPER}, example


@pytest.fixture(scope="module")
def published(request):
    """The track's cells of table 3: those in the file where there is one, and those written down here."""
    found = dict(PUBLISHED)
    try:
        shared = request.getfixturevalue("shared")
    except pytest.skip.Exception:
        return [found]
    cells = {}
    with open(shared / "paper" / "overall.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["track"] == "theoretical_complexity" and row["value"]:
                cells[row["metric"], row["algorithm"]] = float(row["value"])
    return [found, {name: (cells["speedup", name], cells["compression", name]) for name in PAPER}]


@pytest.mark.parametrize("algorithm", PAPER)
def test_paper_counting_gives_the_published_figures(networks, published, algorithm):
    models, example = networks
    found = complexity(models[algorithm], example, counting="paper")
    scaled = algorithm != "bnn"
    assert found.parameters == 11_689_512
    assert found.operations == 1_814_073_344
    assert found.kept_parameters == 532_008 + 4_736 * scaled
    assert found.kept_operations == 118_525_952 + 1_680_896 * scaled
    assert found.binary_operations == 1_814_073_344 - 118_525_952
    for cells in published:
        speedup, compression = cells[algorithm]
        assert found.compression == pytest.approx(compression, abs=0.05)
        assert found.speedup == pytest.approx(speedup, abs=0.15)


def test_paper_counting_doesnt_depend_on_who_binarized_the_shortcuts(networks):
    models, example = networks
    left = complexity(models["dorefa"], example, counting="paper")
    taken = binarize(resnet18(), "dorefa", example=example, shortcuts=True)
    assert left.as_dict() | {"layers": 0} == complexity(taken, example, counting="paper").as_dict() | {"layers": 0}
    shortcut = rows(left)["layer2.0.downsample.0"]
    assert (shortcut.kind, shortcut.binary, shortcut.binary_weights) == ("Conv2d", True, 128 * 64)
    assert (shortcut.kept_parameters, shortcut.kept_operations) == (128, 128 * 28 * 28)
    assert shortcut.memory_traffic == 128 * 64 // 8 + 64 * 56 * 56 // 8 + 4 * 128 + 4 * 128 * 28 * 28
    unscaled = rows(complexity(models["bnn"], example, counting="paper"))["layer2.0.downsample.0"]
    assert (unscaled.kept_parameters, unscaled.kept_operations) == (0, 0)


def test_model_counting_keeps_the_shortcuts_that_are_in_full_precision(networks):
    models, example = networks
    shortcuts = {"parameters": 64 * 128 + 128 * 256 + 256 * 512, "operations": 3 * 64 * 128 * 28 * 28}
    found = complexity(models["bnn"], example)
    assert found.kept_parameters == 532_008 + shortcuts["parameters"]
    assert found.kept_operations == 118_525_952 + shortcuts["operations"]
    taken = binarize(resnet18(), "bnn", example=example, shortcuts=True)
    assert complexity(taken, example).kept_parameters == 532_008


def test_a_shortcut_left_out_by_a_filter_is_kept_in_both_countings():
    x = torch.randn(1, 3, 32, 32)
    model = binarize(
        image.resnet20.build((3, 32, 32), 10),
        "bnn",
        example=x,
        filter=lambda name, layer: "downsample" not in name and name not in ("conv1", "fc"),
    )
    assert complexity(model, x).kept_operations == complexity(model, x, counting="paper").kept_operations


def test_shortcuts_are_found_in_a_part_of_a_model():
    x = torch.randn(1, 3, 32, 32)
    inner = binarize(image.resnet20.build((3, 32, 32), 10), "bnn", example=x)
    alone = complexity(inner, x, counting="paper")
    inside = complexity(nn.Sequential(nn.Identity(), inner), x, counting="paper")
    assert (alone.compression, alone.speedup) == (inside.compression, inside.speedup)
    assert alone.compression > complexity(inner, x).compression


@pytest.mark.parametrize("counting", ["model", "paper"])
def test_a_full_precision_model_has_ratios_1(counting):
    found = complexity(image.resnet20.build((3, 32, 32), 10), torch.randn(1, 3, 32, 32), counting=counting)
    assert (found.compression, found.speedup) == (1, 1)
    assert not any(row.binary for row in found.layers)


# Parts that are no convolution and no linear layer, sharing, reuse


def test_embeddings_norms_and_torchs_attention():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(50, 16)
            self.positions = nn.Parameter(torch.zeros(7, 16))
            self.layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
            self.encoder = nn.TransformerEncoder(self.layer, 2)
            self.head = nn.Linear(16, 3)

        def forward(self, tokens):
            return self.head(self.encoder(self.tokens(tokens) + self.positions).mean(1))

    model, tokens = Encoder(), torch.randint(0, 50, (2, 7))
    attention = 14 * 4 * 16 * 16 + 2 * 2 * 7 * 7 * 16  # four projections, two products
    forward = 14 * 2 * 16 * 32
    expected = 2 * (attention + forward) + 2 * 16 * 3
    assert complexity(model, tokens).operations == expected
    binary = binarize(model, "dorefa", filter=lambda name, layer: "linear" in name, example=tokens)
    found = complexity(binary, tokens)
    assert found.operations == expected
    assert found.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert found.binary_operations == 2 * forward
    assert found.binary_weights == 2 * 2 * 16 * 32
    assert found.kept_parameters == found.parameters - found.binary_weights + 2 * (16 + 32)
    named = rows(found)
    assert named["tokens"].kept_parameters == 50 * 16
    assert named[""].kept_parameters == 7 * 16
    assert named["encoder.layers.0.self_attn"].kept_operations == attention
    assert "layer.self_attn" in named  # not run on the example: parameters, no operations
    assert named["layer.self_attn"].operations == 0


@pytest.mark.parametrize("mask", [False, True], ids=["plain", "masked"])
def test_attention_counts_under_the_module_that_does_it(mask):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.query = nn.Linear(8, 8, bias=False)

        def forward(self, x):
            query = self.query(x)[:, None]
            allowed = torch.ones(5, 5, dtype=torch.bool).tril() if mask else None
            return F.scaled_dot_product_attention(query, query, query, attn_mask=allowed)

    found = complexity(nn.Sequential(Attention()), torch.randn(3, 5, 8))
    assert {row.name: row.kept_operations for row in found.layers} == {"0": 3 * 2 * 25 * 8, "0.query": 3 * 5 * 64}
    # Each of the two products reads two operands and writes a result: on every device, whatever kernel it has.
    assert rows(found)["0"].memory_traffic == 4 * 3 * (4 * 5 * 8 + 2 * 25)


def test_biases_of_a_fused_recurrent_layer_are_no_product():
    """As cuDNN takes them: all matrices and biases in one list, and a packed sequence without its batch dimension."""
    weights = [(20, 4), (20, 5), (20,), (20,)]
    assert _recurrent((7, 3, 4), weights) == _recurrent((21, 4), weights) == 2 * 21 * 20 * (4 + 5)


def _counted_by_torch(model):
    """Whether this version's own counter, which ours builds on, can watch flex attention at all: not all can."""
    try:
        with torch.compiler.set_stance("force_eager"), FlopCounterMode(display=False), torch.no_grad():
            model(torch.randn(2, 1, 32, 16))
    except (TypeError, NotImplementedError):
        return False
    return True


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_counts():
    class Attention(nn.Module):
        def forward(self, x):
            return flex_attention(x, x, x)

    if not _counted_by_torch(Attention()):
        with pytest.raises(BinarizeError, match="flex_attention"):
            complexity(Attention(), torch.randn(2, 1, 32, 16))
        return
    row = only(complexity(Attention(), torch.randn(2, 1, 32, 16)))
    assert row.kept_operations == 2 * 2 * 32 * 32 * 16


def test_traffic_of_a_product_is_its_operands_and_its_result():
    class Scores(nn.Module):
        def forward(self, a, b):
            return torch.relu(a @ b)

    row = only(complexity(Scores(), (torch.randn(3, 4), torch.randn(4, 5))))
    assert (row.kept_operations, row.memory_traffic) == (60, 4 * (12 + 20 + 15))


@pytest.mark.parametrize(
    ("product", "operations"),
    [
        (lambda a, b: a @ b[0], 3 * 4),
        (lambda a, b: a[0] @ b[0], 4),
        (lambda a, b: torch.addmv(torch.zeros(3), a, b[0]), 3 * 4),
        (lambda a, b: torch.einsum("ik,jk->ij", a, b), 3 * 5 * 4),
        (lambda a, b: torch.baddbmm(torch.zeros(1, 3, 5), a[None], b.T[None]), 3 * 5 * 4),
        (lambda a, b: torch.addbmm(torch.zeros(3, 5), a.expand(2, 3, 4), b.T.expand(2, 4, 5)), 2 * 3 * 5 * 4),
    ],
    ids=["mv", "dot", "addmv", "einsum", "baddbmm", "addbmm"],
)
def test_every_kind_of_matrix_product_counts(product, operations):
    class Product(nn.Module):
        def forward(self, a, b):
            return product(a, b)

    assert complexity(Product(), (torch.randn(3, 4), torch.randn(5, 4))).operations == operations


def test_a_reused_layer_is_stored_once_and_runs_every_time():
    class Twice(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer
            self.again = layer

        def forward(self, x):
            return self.again(self.layer(x)) + self.layer(x[:2]).sum()

    x = torch.randn(3, 8)
    row = only(complexity(Twice(BinaryLinear(8, 8, algorithm="reactnet")), x))
    assert (row.name, row.parameters, row.binary_weights) == ("layer", 72, 64)
    assert row.kept_parameters == 8 + 8 + 8
    assert (row.operations, row.kept_operations) == (8 * 64, 8 * 16)
    assert row.memory_traffic == 3 * (64 // 8 + 4 * 24) + 8 * (1 + 4 * 8)
    assert only(complexity(Twice(nn.Linear(8, 8)), x)).operations == 8 * 64


@pytest.mark.parametrize("first", ["embedding", "layer"])
def test_a_tied_weight_that_is_also_used_in_full_precision_is_kept(first):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            for name in ("embedding", "layer") if first == "embedding" else ("layer", "embedding"):
                setattr(self, name, nn.Embedding(9, 8) if name == "embedding" else BinaryLinear(8, 9, algorithm="bnn"))
            self.layer.weight = self.embedding.weight

        def forward(self, tokens):
            return self.layer(self.embedding(tokens))

    found = complexity(Tied(), torch.tensor([[1, 2]]))
    assert (found.parameters, found.kept_parameters, found.binary_weights) == (72 + 9, 72 + 9, 0)
    assert found.binary_operations == 2 * 72


def test_a_weight_that_two_binarized_layers_share_is_stored_once():
    one, other = (BinaryLinear(8, 8, bias=False, algorithm="bnn") for _ in range(2))
    other.weight = one.weight
    found = complexity(nn.Sequential(one, other), torch.randn(1, 8))
    assert (found.parameters, found.binary_weights, found.kept_parameters) == (64, 64, 0)
    assert found.binary_operations == 128


@pytest.mark.parametrize("algorithm", KEPT)
def test_what_doesnt_run_on_the_example_is_stored_all_the_same(algorithm):
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = BinaryConv2d(4, 6, 3, groups=2, algorithm=algorithm, output_size=(3, 3))
            self.matmul = BinaryMatmul(8, 8, algorithm=algorithm)
            self.linear = nn.Linear(3, 2)

        def forward(self, x):
            return self.linear(x)

    found = complexity(Idle(), torch.randn(1, 3))
    assert found.operations == found.kept_operations == 6
    assert rows(found)["conv"].kept_parameters == 6 + KEPT[algorithm][0][0]
    assert found.memory_traffic == 4 * (3 + 6 + 2 + 2)
    matmul = {"reactnet": 16, "pact": 2}.get(algorithm)
    assert rows(found).get("matmul") is None if matmul is None else rows(found)["matmul"].kept_parameters == matmul


# The model is left alone


@pytest.mark.parametrize("algorithm", ["fda", "recu", None])
@pytest.mark.parametrize("fails", [False, True], ids=["runs", "fails"])
def test_the_model_and_the_random_state_are_left_as_they_were(algorithm, fails):
    x = torch.randn(2, 3, 32, 32)
    model = image.resnet20.build((3, 32, 32), 10)
    if algorithm:
        model = binarize(model, algorithm, example=x)
    model.layer1.eval()
    model.fc = nn.Sequential(nn.Dropout(), model.fc)
    other = torch.randn(2, 4, 32, 32)
    state, modes = copy.deepcopy(model.state_dict()), [module.training for module in model.modules()]
    random = torch.get_rng_state()
    torch.backends.mha.set_fastpath_enabled(True)
    if fails:
        with pytest.raises(BinarizeError):
            complexity(model, other)
    else:
        complexity(model, x)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled()
    assert [module.training for module in model.modules()] == modes
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_doesnt_matter(training):
    x = torch.randn(1, 1, 8, 8)
    model = binarize(image.digits_cnn.build((1, 8, 8), 10), "fda", example=x).train(training)
    assert complexity(model, x) == complexity(copy.deepcopy(model).train(not training), x)


@pytest.mark.parametrize("algorithm", KEPT)
def test_on_the_meta_device_nothing_is_computed(algorithm):
    layer, x = conv_and_linear(algorithm)[0]
    expected = complexity(layer, x)
    assert complexity(layer.to("meta"), x.to("meta")) == expected


def test_a_large_network_on_the_meta_device():
    with torch.device("meta"):
        model, x = resnet18(), torch.randn(64, 3, 224, 224)
        found = complexity(binarize(model, "bnn"), x)
    assert found.operations == 64 * 1_814_073_344


@pytest.mark.parametrize("how", ["wrapped", "in place"])
def test_a_compiled_model_counts_like_its_own_code(how):
    x = torch.randn(1, 1, 8, 8)
    model = binarize(image.digits_cnn.build((1, 8, 8), 10), "dorefa", example=x)
    expected = complexity(model, x, counting="paper")
    if how == "wrapped":
        model = torch.compile(model, backend="eager")
    else:
        model.compile(backend="eager")
    model.eval()(x)
    assert complexity(model, x, counting="paper") == expected


# Words


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (
            nn.Linear(3, 2),
            torch.randn(2, 4),
            r"doesn't run on the example: .*shapes.*; give example= what the model takes",
        ),
        (nn.Linear(3, 2), "x", r"the example is a str"),
        (
            nn.LazyLinear(2),
            torch.randn(2, 4),
            r"parameter 'weight' is not initialised \(lazy\): run the model once first",
        ),
        ("resnet18", torch.randn(2, 4), r"the model is of type str, expected torch.nn.Module"),
    ],
    ids=["shape", "text", "lazy", "name"],
)
def test_what_cant_be_counted_is_refused(model, example, message):
    with pytest.raises(BinarizeError, match=message):
        complexity(model, example)


def test_another_counting_is_refused():
    with pytest.raises(ValueError, match=r"counting='papers': expected one of 'model', 'paper'"):
        complexity(nn.Linear(2, 2), torch.randn(1, 2), counting="papers")


def test_printed():
    net = nn.Sequential(nn.Linear(64, 64), nn.Hardtanh(), nn.Linear(64, 64), nn.Linear(64, 10))
    lines = str(complexity(binarize(net, "dorefa"), torch.randn(1, 64))).splitlines()
    assert [" ".join(line.split()) for line in lines[:1] + lines[2:5] + lines[6:7]] == [
        "layer kind bits parameters kept operations kept bit-operations bytes moved",
        "0 Linear 32 4,160 4,160 4,096 4,096 4,194,304 17,152",
        "2 BinaryLinear 1 4,160 128 4,096 64 4,096 1,288",
        "3 Linear 32 650 650 640 640 655,360 2,896",
        "total 8,970 4,938 8,832 4,800 4,853,760 21,336",
    ]
    assert all(set(line) <= {"-", " "} for line in (lines[1], lines[5]))
    assert len({len(line) for line in lines[:7]}) == 1
    assert lines[-1] == "compression 1.77x, theoretical speedup 1.82x (as the model is)"
    assert "(model)" in str(complexity(nn.Linear(2, 2), torch.randn(1, 2)))
    paper = str(complexity(nn.Linear(2, 2), torch.randn(1, 2), counting="paper"))
    assert paper.splitlines()[-1].endswith("1.00x (counted as in the paper)")


def test_as_dict_is_json_with_totals_and_layers():
    found = complexity(BinaryLinear(8, 5, algorithm="dorefa"), torch.randn(1, 8), counting="paper")
    loaded = json.loads(json.dumps(found.as_dict()))
    assert loaded == {
        "counting": "paper",
        "compression": found.compression,
        "speedup": found.speedup,
        "parameters": 45,
        "binary_weights": 40,
        "kept_parameters": 10,
        "operations": 40,
        "binary_operations": 40,
        "kept_operations": 5,
        "bit_operations": 40,
        "memory_traffic": 5 + 1 + 40 + 20,
        "layers": [
            {
                "name": "",
                "kind": "BinaryLinear",
                "binary": True,
                "parameters": 45,
                "binary_weights": 40,
                "kept_parameters": 10,
                "operations": 40,
                "binary_operations": 40,
                "kept_operations": 5,
                "bit_operations": 40,
                "memory_traffic": 66,
            }
        ],
    }


def test_frozen():
    found = complexity(nn.Linear(2, 2), torch.randn(1, 2))
    with pytest.raises(AttributeError):
        found.layers = ()
    with pytest.raises(AttributeError):
        found.layers[0].operations = 0


def test_a_module_that_fails_inside_leaves_the_count_of_the_others_right():
    """A forward that catches an error of one of its parts goes on after it."""

    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError

    class Careful(nn.Module):
        def __init__(self):
            super().__init__()
            self.fails, self.linear = Fails(), nn.Linear(4, 4, bias=False)

        def forward(self, x):
            try:
                return self.fails(x)
            except RuntimeError:
                return self.linear(x) @ torch.ones(4, 2)

    model = Careful()
    usage = count_operations(model, torch.randn(3, 4))
    assert {name: usage[module].operations for name, module in model.named_modules()} == {
        "": 3 * 4 * 2,
        "fails": 0,
        "linear": 3 * 16,
    }
    assert usage[model].traffic == 4 * (12 + 8 + 6)
