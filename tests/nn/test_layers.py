"""Every kind of binarized layer under every algorithm: shapes, borders, modes, copies, precision, compilation."""

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from bibench import registry
from bibench.algorithms.dorefa import dorefa
from bibench.nn import (
    BinaryConv1d,
    BinaryConv2d,
    BinaryConv3d,
    BinaryLayer,
    BinaryLinear,
    BinaryMatmul,
    resolve,
    set_progress,
)

ALGORITHMS = [name for name in registry.names("algorithms") if registry.origin("algorithms", name) == "bibench"]
CONVS = {1: BinaryConv1d, 2: BinaryConv2d, 3: BinaryConv3d}
FLOATS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
KINDS = ["conv1d", "conv2d", "conv3d", "linear", "matmul"]
DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])

algorithms = pytest.mark.parametrize("algorithm", ALGORITHMS)
kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind: str, algorithm: str, **settings) -> nn.Module:
    if kind == "linear":
        return BinaryLinear(6, 4, algorithm=algorithm)
    if kind == "matmul":
        return BinaryMatmul(6, 6, transpose_right=True, algorithm=algorithm)
    dims = int(kind[4])
    settings = {"stride": 1, "padding": 1, "groups": 2, **settings}
    return CONVS[dims](4, 6, 3, algorithm=algorithm, output_size=(8,) * dims, **settings)


def inputs(kind: str, **how) -> tuple[torch.Tensor, ...]:
    shapes = {"linear": [(5, 6)], "matmul": [(2, 3, 6), (2, 4, 6)]}
    shape = shapes[kind] if kind in shapes else [(2, 4, *(5,) * int(kind[4]))]
    scale = 2.0  # so that some values are beyond PACT's threshold
    return tuple((scale * torch.randn(s)).to(**how) for s in shape)


def output_and_gradients(layer: nn.Module, xs: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    layer.zero_grad()
    xs = tuple(x.detach().clone().requires_grad_() for x in xs)
    y = layer(*xs)
    y.square().sum().backward()
    found = [y.detach(), *(x.grad for x in xs)]
    return found + [p.grad for p in layer.parameters() if p.grad is not None]


# Geometry


@st.composite
def geometries(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 2, 4]))
    one = st.integers(1, 3)
    each = st.one_of(one, st.tuples(*[one] * dims))
    padding = draw(
        st.one_of(st.integers(0, 2), st.tuples(*[st.integers(0, 2)] * dims), st.sampled_from(["same", "valid"]))
    )
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    return {
        "dims": dims,
        "in_channels": groups * draw(st.integers(1, 2)),
        "out_channels": groups * draw(st.integers(1, 2)),
        "kernel_size": draw(st.one_of(st.integers(2, 3), st.tuples(*[st.integers(2, 3)] * dims))),
        "stride": 1 if padding == "same" else draw(each),
        "padding": padding,
        "dilation": draw(each) if dims < 3 else 1,
        "groups": groups,
        "bias": draw(st.booleans()),
        "padding_mode": mode,
        "space": tuple(draw(st.integers(7, 9)) for _ in range(dims)),
        "batch": draw(st.sampled_from([(), (1,), (2,)])),
        "padding_value": draw(st.sampled_from([-1, 0, 1])),
    }


@given(geometry=geometries(), algorithm=st.sampled_from(ALGORITHMS))
@settings(max_examples=150, deadline=None)
def test_convolutions_have_torchs_shapes(geometry, algorithm):
    geometry = dict(geometry)
    dims, space, batch = (geometry.pop(key) for key in ("dims", "space", "batch"))
    padding_value = geometry.pop("padding_value")
    x = torch.randn(*batch, geometry["in_channels"], *space)
    plain = FLOATS[dims](**geometry)
    expected = plain(x).shape
    layer = CONVS[dims](
        **geometry, algorithm=algorithm, padding_value=padding_value, output_size=tuple(expected[-dims:])
    )
    y = layer(x)
    assert y.shape == expected
    assert y.isfinite().all()
    y.sum().backward()
    assert layer.weight.grad.shape == plain.weight.shape


@given(
    tokens=st.lists(st.integers(1, 4), max_size=3),
    features=st.tuples(st.integers(2, 70), st.integers(1, 5)),
    bias=st.booleans(),
    algorithm=st.sampled_from(ALGORITHMS),
)
@settings(max_examples=80, deadline=None)
def test_linear_layers_have_torchs_shapes(tokens, features, bias, algorithm):
    x = torch.randn(*tokens, features[0])
    layer = BinaryLinear(*features, bias=bias, algorithm=algorithm)
    assert layer(x).shape == nn.Linear(*features)(x).shape
    assert (layer.bias is not None) == bias


@given(
    batch=st.lists(st.integers(1, 3), max_size=2),
    sizes=st.tuples(st.integers(1, 4), st.integers(2, 5), st.integers(2, 4)),
    transpose=st.booleans(),
    algorithm=st.sampled_from(ALGORITHMS),
)
@settings(max_examples=50, deadline=None)
def test_products_have_torchs_shapes(batch, sizes, transpose, algorithm):
    rows, inner, columns = sizes
    a = torch.randn(*batch, rows, inner)
    b = torch.randn(*batch, columns, inner) if transpose else torch.randn(*batch, inner, columns)
    layer = BinaryMatmul(inner, b.shape[-1], transpose_right=transpose, algorithm=algorithm)
    assert layer(a, b).shape == (*batch, rows, columns)


@algorithms
def test_linear_takes_tokens_of_any_shape(algorithm):
    layer = BinaryLinear(6, 4, algorithm=algorithm).eval()
    x = 2 * torch.randn(2, 3, 5, 6)
    rows = layer(x.flatten(0, 2))
    torch.testing.assert_close(layer(x), rows.view(2, 3, 5, 4))
    torch.testing.assert_close(layer(x[0]), rows.view(2, 3, 5, 4)[0])
    torch.testing.assert_close(layer(x[0, 0, 0]), rows[0])


@algorithms
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["zeros", "circular", "reflect"])
def test_one_sample_without_batch(algorithm, dims, mode):
    layer = make(f"conv{dims}d", algorithm, padding_mode=mode)
    x = 2 * torch.randn(4, *(5,) * dims)
    for training in (True, False):
        torch.testing.assert_close(layer.train(training)(x), layer(x[None])[0])


@pytest.mark.parametrize("algorithm", ["xnor", "recu"])
def test_options_without_batch(algorithm):
    option = {"xnor": {"activation_scale": "sample"}, "recu": {"scale": "statistics"}}[algorithm]
    layer = BinaryConv2d(4, 2, 3, algorithm=resolve(algorithm, **option))
    x = torch.randn(4, 5, 5)
    torch.testing.assert_close(layer(x), layer(x[None])[0])


@algorithms
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_groups_compute_apart(algorithm, dims):
    """Changing the inputs of one group changes the outputs of that group alone."""
    layer = make(f"conv{dims}d", algorithm, padding_mode="zeros").eval()
    x = 2 * torch.randn(1, 4, *(5,) * dims)
    other = x.clone()
    other[:, :2] = -other[:, :2]
    assert torch.equal(layer(x)[:, 3:], layer(other)[:, 3:])
    assert not torch.equal(layer(x)[:, :3], layer(other)[:, :3])


# Borders


def by_hand(layer: BinaryLayer, dims: int, border: torch.Tensor) -> torch.Tensor:
    """The layer's output at evaluation from an explicitly padded operand; without scale and bias."""
    function = (F.conv1d, F.conv2d, F.conv3d)[dims - 1]
    weight = torch.where(layer.weight >= 0, 1.0, -1.0)
    if layer.algorithm == "recu":
        centred = layer.weight - layer.weight.mean(tuple(range(1, dims + 2)), keepdim=True)
        weight = torch.where(centred >= 0, 1.0, -1.0)
    return function(border, weight, None, layer.stride, 0, layer.dilation, layer.groups)


def operand(algorithm: str, x: torch.Tensor) -> torch.Tensor:
    return (x > 1.5).float() if algorithm == "pact" else torch.where(x >= 0, 1.0, -1.0)


@algorithms
@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("padding", ["int", "same", "valid"])
@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("value", [-1, 0, 1])
def test_borders(algorithm, dims, padding, mode, value):
    left, right = {"int": (2, 2), "same": (1, 2), "valid": (0, 0)}[padding]
    layer = CONVS[dims](
        2,
        3,
        4,
        padding=2 if padding == "int" else padding,
        padding_mode=mode,
        bias=False,
        algorithm=algorithm,
        padding_value=value,
        output_size=(6,) * dims,
    ).eval()
    layer.scale = None  # its own border is tested with the algorithm
    x = 2 * torch.randn(2, 2, *(5,) * dims)
    bits = operand(algorithm, x)
    if mode == "zeros":
        low, high = (0, 1) if algorithm == "pact" else (-1, 1)
        padded = F.pad(bits, (left, right) * dims, value={-1: low, 0: 0, 1: high}[value])
    else:
        padded = F.pad(bits, (left, right) * dims, mode=mode) if left else bits
    expected = by_hand(layer, dims, padded) * (3 if algorithm == "pact" else 1)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("value", [-2, 2, 0.5, "same"])
def test_other_padding_values_are_refused(value):
    with pytest.raises(ValueError, match=r"padding_value=.*expected -1, 0 or 1"):
        BinaryConv2d(2, 2, 3, algorithm="bnn", padding_value=value)


@algorithms
@kinds
def test_bias(algorithm, kind):
    if kind == "matmul":
        return
    layer = make(kind, algorithm).eval()
    (x,) = inputs(kind)
    with_bias = layer(x)
    bias, layer.bias = layer.bias, None
    dims = 0 if kind == "linear" else int(kind[4])
    torch.testing.assert_close(with_bias, layer(x) + bias.view(-1, *(1,) * dims))


# Copies, files, dtypes, devices


@algorithms
@kinds
def test_copies_compute_the_same(algorithm, kind):
    layer, xs = make(kind, algorithm), inputs(kind)
    set_progress(layer, 3, 10)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        for a, b in zip(output_and_gradients(layer, xs), output_and_gradients(copied, xs), strict=True):
            assert torch.equal(a, b)
        mine = {id(p) for p in layer.parameters()}
        assert not any(id(p) in mine for p in copied.parameters())


@algorithms
@kinds
def test_state_dict_round_trip(algorithm, kind):
    layer, xs = make(kind, algorithm), inputs(kind)
    set_progress(layer, 5, 10)
    for p in layer.parameters():
        p.data.add_(torch.randn_like(p) * 0.1)
    file = io.BytesIO()
    torch.save(layer.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = make(kind, algorithm)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(layer.eval()(*xs), other.eval()(*xs))
    set_progress(other, 5, 10)
    results = (output_and_gradients(module.train(), xs) for module in (layer, other))
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@algorithms
@kinds
def test_state_dict_has_what_torchs_has(algorithm, kind):
    """A full-precision checkpoint's weights load into the binarized layer under their own names."""
    layer = make(kind, algorithm)
    names = set(layer.state_dict())
    assert names == {name for name, _ in layer.named_parameters()}
    if kind != "matmul":
        assert {"weight", "bias"} <= names


@algorithms
@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(algorithm, kind, dtype):
    layer, xs = make(kind, algorithm).to(dtype), inputs(kind, dtype=dtype)
    for training in (True, False):
        found = output_and_gradients(layer.train(training), xs)
        assert all(tensor.dtype == dtype for tensor in found)
        assert all(tensor.isfinite().all() for tensor in found)


@algorithms
@kinds
def test_double_agrees_with_single(algorithm, kind):
    layer, xs = make(kind, algorithm), inputs(kind)
    single = output_and_gradients(layer, xs)
    double = output_and_gradients(layer.double(), tuple(x.double() for x in xs))
    for a, b in zip(single, double, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=2e-4, atol=2e-4)


@algorithms
@kinds
def test_construction_in_another_dtype(algorithm, kind):
    if kind == "matmul":
        layer = BinaryMatmul(6, 6, algorithm=algorithm, dtype=torch.float64)
    elif kind == "linear":
        layer = BinaryLinear(6, 4, algorithm=algorithm, dtype=torch.float64)
    else:
        dims = int(kind[4])
        layer = CONVS[dims](2, 2, 3, algorithm=algorithm, dtype=torch.float64, output_size=(3,) * dims)
    assert all(p.dtype == torch.float64 for p in layer.parameters())


@algorithms
@kinds
@pytest.mark.parametrize("device", DEVICES)
def test_bf16_autocast(algorithm, kind, device):
    layer, xs = make(kind, algorithm).to(device), inputs(kind, device=device)
    for training in (True, False):
        layer.train(training).zero_grad()
        leaves = tuple(x.clone().requires_grad_() for x in xs)
        with torch.autocast(device, dtype=torch.bfloat16):
            y = layer(*leaves)
        assert y.dtype == torch.bfloat16
        y.float().square().mean().backward()
        gradients = [x.grad for x in leaves] + [p.grad for p in layer.parameters() if p.grad is not None]
        assert all(gradient.dtype == torch.float32 for gradient in gradients)
        assert all(tensor.isfinite().all() for tensor in [y, *gradients])
        exact = layer.eval()(*xs)
        with torch.autocast(device, dtype=torch.bfloat16):
            torch.testing.assert_close(layer(*xs).float(), exact, rtol=0.05, atol=0.2)


@algorithms
@kinds
@pytest.mark.parametrize("device", DEVICES)
def test_devices_agree(algorithm, kind, device):
    layer, xs = make(kind, algorithm), inputs(kind)
    set_progress(layer, 4, 10)
    there = copy.deepcopy(layer).to(device)
    expected = output_and_gradients(layer, xs)
    found = output_and_gradients(there, tuple(x.to(device) for x in xs))
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b.cpu(), rtol=1e-3, atol=1e-3)
    assert all(tensor.device.type == device for tensor in [*there.parameters(), *there.buffers()])


@algorithms
@kinds
def test_evaluation_does_not_depend_on_progress(algorithm, kind):
    layer, xs = make(kind, algorithm).eval(), inputs(kind)
    results = []
    for epoch in (0, 5, 9):
        set_progress(layer, epoch, 10)
        results.append(layer(*xs))
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@algorithms
@kinds
def test_repr_names_the_algorithm(algorithm, kind):
    assert f"algorithm={algorithm}" in repr(make(kind, algorithm))


def test_repr_names_an_unusual_border():
    assert "padding_value=-1" in repr(BinaryConv2d(2, 2, 3, algorithm="bnn", padding_value=-1))
    assert "padding_value" not in repr(BinaryConv2d(2, 2, 3, algorithm="bnn"))


def test_resolve():
    algorithm = dorefa(granularity="layer")
    assert resolve(algorithm) is algorithm
    assert resolve(dorefa).name == "dorefa"
    assert resolve("dorefa", granularity="layer").name == "dorefa"
    with pytest.raises(ValueError, match="'fp32' is full precision"):
        resolve("fp32")
    with pytest.raises(ValueError, match=r"unknown algorithm 'recuu'; did you mean 'recu'\?"):
        resolve("recuu")
    with pytest.raises(ValueError, match=r"algorithm 'bnn' with options .*unexpected keyword argument 'tau'"):
        resolve("bnn", tau=1)
    with pytest.raises(ValueError, match=r"options .* given with an Algorithm that is already built"):
        resolve(algorithm, granularity="layer")
    with pytest.raises(ValueError, match=r"returned int, expected bibench.algorithms.Algorithm"):
        resolve(lambda: 3)


# Compilation


def compare_compiled(kind: str, algorithm: str, backend: str, **tolerance: float) -> None:
    torch._dynamo.reset()
    layer, xs = make(kind, algorithm), inputs(kind)
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    for epoch in (0, 6, 9):
        set_progress(layer, epoch, 10)
        # The first call compiles; a later epoch must find that result.
        with torch._dynamo.config.patch(error_on_recompile=epoch > 0):
            found = output_and_gradients(compiled, xs)
        for a, b in zip(output_and_gradients(layer, xs), found, strict=True):
            torch.testing.assert_close(a, b, **tolerance)
    layer.eval()
    with torch.no_grad():
        torch.testing.assert_close(layer(*xs), compiled(*xs), **tolerance)


@pytest.mark.slow
@algorithms
@kinds
def test_compiles_to_the_same(kind, algorithm):
    compare_compiled(kind, algorithm, "aot_eager", rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [("conv1d", "recu"), ("conv2d", "fda"), ("conv3d", "xnor"), ("linear", "reactnet"), ("matmul", "pact")],
)
def test_inductor_compiles_to_the_same(kind, algorithm):
    compare_compiled(kind, algorithm, "inductor", rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{"padding_value": 1}, {"padding": "same", "padding_mode": "circular"}], ids=str)
def test_compiles_with_other_borders(settings):
    torch._dynamo.reset()
    layer = make("conv2d", "xnor", **settings)
    xs = inputs("conv2d")
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for a, b in zip(output_and_gradients(layer, xs), output_and_gradients(compiled, xs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
