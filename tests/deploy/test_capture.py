import numpy as np
import pytest
import torch
from interpreted import check
from torch import nn

from bibench.deploy.capture import Ref, capture
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.nn import BinaryConv2d, BinaryLinear


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.register_buffer("table", torch.arange(6.0))

    def forward(self, x):
        return self.function(self, x)


def ops(model, x):
    return [node.op for node in capture(model, x).nodes]


def refused(function, match, x=None):
    with pytest.raises(PackedError, match=match):
        capture(Function(function), torch.randn(2, 6) if x is None else x)


def test_the_first_sample_alone():
    graph = capture(nn.Linear(6, 2), torch.randn(5, 3, 6))
    assert [(port.name, port.shape) for port in graph.inputs] == [("input", (1, 3, 6))]
    assert [(port.name, port.shape) for port in graph.outputs] == [("output", (1, 3, 2))]


def test_examples_of_every_kind():
    class Two(nn.Module):
        def forward(self, left, right, flag=False):
            return {"sum": left["x"] + right, "none": None}

    given = ({"x": torch.randn(2, 3)}, torch.randn(2, 3))
    for example in (given, list(given), {"right": given[1], "left": given[0], "flag": True}):
        graph = capture(Two(), example)
        assert sorted(port.name for port in graph.inputs) == ["left", "right"]
        assert [port.name for port in graph.outputs] == ["sum"]
    for example, message in (("text", "str"), ((), "no tensor"), (torch.randn(2, 3), "doesn't run"), (7, "no tensor")):
        with pytest.raises(PackedError, match=message):
            capture(Two(), example)
    for tensor, message in (
        (torch.randn(2, 3).double(), "float64"),
        (torch.tensor(1.0), "shape"),
        (torch.zeros(0, 3), "sh"),
    ):
        with pytest.raises(PackedError, match=f"input 'input' has .*{message}"):
            capture(nn.Identity(), tensor)


def test_what_needs_no_input_is_a_constant():
    model = Function(lambda m, x: x * (m.table * 2 + torch.ones(6)).exp().view(1, 6))
    graph = capture(model, torch.randn(2, 6))
    assert [node.op for node in graph.nodes] == ["mul"]
    torch.testing.assert_close(graph.nodes[0].arguments["other"], (model.table * 2 + 1).exp().view(1, 6))


def test_the_model_and_the_example_stay_as_they_were():
    model = nn.Sequential(nn.ReLU(inplace=True), BinaryLinear(6, 6, algorithm="fda"), nn.BatchNorm1d(6), nn.Dropout())
    model[3].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x = torch.randn(2, 6)
    kept, state = x.clone(), torch.get_rng_state()
    capture(model, x)
    pack(model, x)
    assert [module.training for module in model] == [True, True, True, False]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(x, kept)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_binary_layers_are_one_node():
    model = nn.Sequential(BinaryConv2d(3, 4, 3, algorithm="xnor"), nn.Flatten(), BinaryLinear(16, 2, algorithm="recu"))
    graph = capture(model, torch.randn(1, 3, 4, 4))
    assert [(node.op, node.title) for node in graph.nodes] == [("binary", "0"), ("view", "1"), ("binary", "2")]
    assert graph.nodes[0].function is model[0]


def test_a_layer_with_a_forward_of_its_own_is_not_taken_for_one():
    class Mine(BinaryLinear):
        def forward(self, x):
            return super().forward(x) * 2

    with pytest.raises(PackedError, match="module 'layer"):
        pack(_holding(Mine(6, 2, algorithm="bnn")), torch.randn(1, 6))


def _holding(layer):
    model = Function(lambda m, x: m.layer(x))
    model.layer = layer
    return model


def test_hooks_of_others_are_recorded():
    layer = BinaryLinear(6, 2, algorithm="bnn")
    layer.register_forward_pre_hook(lambda module, args: (args[0] - 1,))
    layer.register_forward_hook(lambda module, args, output: output * 3)
    assert ops(layer, torch.randn(1, 6)) == ["sub", "binary", "mul"]
    check(layer, torch.randn(1, 6))


def test_changes_in_place_make_new_values():
    check(Function(lambda m, x: (y := x * 2, y.relu_(), y.add_(x))[2]), torch.randn(1, 6))
    check(
        Function(lambda m, x: (y := x * 2, z := y.view(2, 3).transpose(0, 1), z.mul_(-1), z.reshape(1, 6))[3]),
        torch.randn(1, 6),
    )
    check(nn.Sequential(nn.Linear(6, 6), nn.Hardtanh(inplace=True), nn.ReLU(inplace=True)), torch.randn(1, 6))


@pytest.mark.parametrize(
    "function",
    [
        lambda m, x: (y := x * 2, y[:, :3].relu_(), y)[2],
        lambda m, x: (y := x * 2, z := y.view(6), y.relu_(), z.unsqueeze(0))[3],
        lambda m, x: (y := torch.zeros(1, 6), y[:, 0].copy_(x[:, 1]), y + x)[2],
        lambda m, x: (y := m.table.clone(), z := y.view(1, 6), y.add_(x[0]), z + x)[3],
    ],
)
def test_memory_changed_under_a_view_is_refused(function):
    refused(function, "changed in place.*returns a new tensor")


def test_what_is_no_straight_line_is_refused():
    refused(lambda m, x: x * x.sum().item(), r"_local_scalar_dense.*compute with tensors alone")
    refused(lambda m, x: x if x.sum() > 0 else -x, "reads a number out of a tensor")
    refused(lambda m, x: x + torch.rand(6), r"draws random numbers \(rand\)")
    refused(lambda m, x: torch.from_numpy((x * 2).numpy()) + x, r"out of torch by numpy\(\)")
    refused(lambda m, x: x + torch.tensor((x * 2).tolist()), r"out of torch by tolist\(\)")
    refused(lambda m, x: x + torch.tensor(np.asarray(x * 2)), r"out of torch by __array__\(\)|by numpy")


def test_a_tensor_behind_data_is_the_same_value():
    model = Function(lambda m, x: (y := x * 2, y.data + 1)[1])
    graph = capture(model, torch.randn(1, 6))
    assert graph.nodes[-1].op == "add"
    assert isinstance(graph.nodes[-1].arguments["self"], Ref)


def test_outputs():
    refused(lambda m, x: x.mean(), r"shape \(\) for one sample")
    refused(lambda m, x: x.t(), r"shape \(6, 1\) for one sample")
    refused(lambda m, x: m.table[None], "doesn't depend on its inputs")
    refused(lambda m, x: (x + 1, 3), r"'output.1' \(int\) doesn't depend")
    refused(lambda m, x: None, "returns no tensor")


def test_not_a_module():
    with pytest.raises(PackedError, match="the model is of type builtin"):
        capture(torch.relu, torch.randn(1))


def test_the_module_inside_a_compiled_one():
    model = nn.Sequential(BinaryLinear(6, 4, algorithm="bnn"), nn.ReLU())
    assert ops(torch.compile(model), torch.randn(1, 6)) == ["binary", "relu"]


def test_errors_of_the_model_are_told():
    refused(lambda m, x: x @ x, "doesn't run on the example")
