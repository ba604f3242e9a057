import json

import pytest
import torch
from interpreted import ENGINE, Interpreter, randomised
from torch import nn

import bibench
from bibench.deploy.compare import compare, compare_layer
from bibench.deploy.export import export, pack
from bibench.deploy.format import PackedError, Program
from bibench.nn import BinaryConv2d, BinaryLinear, BinaryMatmul
from bibench.registry import get

ENGINES = [{"engine": Interpreter}, *([{}] if ENGINE else [])]


def net(algorithm="recu"):
    model = get("architectures", "digits_cnn").build((1, 8, 8), 10)
    return randomised(bibench.binarize(model, algorithm, example=torch.randn(1, 1, 8, 8)))


def test_a_file(tmp_path):
    path = tmp_path / "new" / "net.bib"
    labels = [str(i) for i in range(10)]
    done = export(
        net(),
        path,
        example=torch.randn(4, 1, 8, 8),
        labels=labels,
        preprocessing={"mean": [0.5]},
        metadata={"by": "me"},
    )
    assert done.path == path
    assert done.bytes == path.stat().st_size
    assert done.binary_layers == ("conv2", "conv3")
    assert done.operations == {"COPY": 1, "FCONV": 2, "BCONV": 2}
    assert done.weight_bytes == (64 * 32 * 9 + 64 * 64 * 9) // 8
    assert "2 binary layers; 5 operations: 1 COPY, 2 FCONV, 2 BCONV" in str(done)
    program = Program.read(path)
    assert done.arena == program.arena
    metadata = program.metadata
    assert json.loads(json.dumps(metadata)) == metadata
    assert metadata["labels"] == labels
    assert metadata["preprocessing"] == {"mean": [0.5]}
    assert metadata["by"] == "me"
    assert metadata["algorithms"] == ["recu"]
    assert metadata["inputs"] == [{"name": "input", "shape": [1, 8, 8], "dtype": "float32"}]
    assert metadata["outputs"] == [{"name": "output", "shape": [10], "dtype": "float32"}]
    assert len(metadata["operations"]) == len(program.operations)


def test_the_same_model_gives_the_same_bytes():
    model, x = net(), torch.randn(4, 1, 8, 8)
    assert pack(model, x).to_bytes() == pack(model, x).to_bytes()


def test_refusals(tmp_path):
    model, x = net(), torch.randn(1, 1, 8, 8)
    with pytest.raises(PackedError, match=r"to='pack': .*did you mean 'packed'\? \(known: packed, "):
        export(model, tmp_path / "x", to="pack", example=x)
    with pytest.raises(PackedError, match="metadata has 'inputs', 'layers', which the export writes itself"):
        export(model, tmp_path / "x", example=x, metadata={"inputs": 1, "layers": 2})
    with pytest.raises(PackedError, match="JSON"):
        export(model, tmp_path / "x", example=x, metadata={"a": object()})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", ENGINES)
def test_a_difference_is_found_and_measured(how):
    model, x = net("reactnet"), torch.randn(3, 1, 8, 8)
    program = pack(model, x)
    same = compare(model, program, x, **how)
    assert [(layer.name, layer.bits, layer.differing) for layer in same.layers] == [
        ("conv2", 3 * 32 * 64, 0),
        ("conv3", 3 * 64 * 16, 0),
    ]
    assert same.difference < 1e-5
    assert "the same top-1 on 3 of 3" in str(same)
    with torch.no_grad():
        model.conv3.activation_rule.threshold += 0.25
    other = compare(model, program, x, **how)
    assert other.layers[0].differing == 0
    assert 0 < other.layers[1].differing < other.layers[1].bits
    assert 0 < other.layers[1].margin <= 0.2501
    assert other.differing == other.layers[1].differing
    assert other.difference > 1e-3


def test_files_and_mappings(tmp_path):
    model, x = net(), torch.randn(2, 1, 8, 8)
    export(model, tmp_path / "net", example=x)
    assert compare(model, tmp_path / "net", {"input": x}, engine=Interpreter).differing == 0
    assert compare(model, str(tmp_path / "net"), (x,), engine=Interpreter).samples == 2


def test_another_model_is_refused():
    x = torch.randn(2, 1, 8, 8)
    program = pack(net(), x)
    with pytest.raises(PackedError, match="exported from another model"):
        compare(get("architectures", "digits_cnn").build((1, 8, 8), 10), program, x, engine=Interpreter)
    model = net()
    model.fc = nn.Linear(1024, 3)
    with pytest.raises(PackedError, match=r"outputs have \[10\] numbers, the model's \[3\]"):
        compare(model, program, x, engine=Interpreter)
    with pytest.raises(PackedError, match="no samples"):
        compare(model, program, x[:0], engine=Interpreter)


@pytest.mark.parametrize("how", ENGINES)
def test_a_layer_alone(how):
    found = compare_layer(BinaryConv2d(9, 6, 3, groups=3, padding=1, algorithm="xnor"), torch.randn(2, 9, 5, 5), **how)
    assert (found.samples, found.differing, found.layers[0].bits) == (2, 0, 2 * 9 * 25)
    assert found.difference < 1e-4
    found = compare_layer(BinaryConv2d(4, 8, 3, groups=4, algorithm="pact"), torch.rand(2, 4, 5, 5) * 4, **how)
    assert (found.differing, found.layers[0].bits) == (0, 2 * 8 * 25)  # each channel for each of its outputs
    found = compare_layer(BinaryLinear(40, 3, algorithm="reactnet"), torch.randn(2, 7, 40), **how)
    assert (found.differing, found.layers[0].bits) == (0, 2 * 7 * 40)
    product = BinaryMatmul(6, 5, algorithm="bnn")
    found = compare_layer(product, torch.randn(2, 3, 4, 6), torch.randn(2, 1, 6, 5), **how)
    assert [layer.bits for layer in found.layers] == [2 * 3 * 24, 2 * 3 * 30]
    assert found.differing == 0
    assert found.difference == 0
