"""Binary layers as nodes of our own, run by the packed engine inside of ONNX Runtime."""

from itertools import pairwise

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from interpreted import ENGINE, randomised
from onnx_models import called
from parts import PARTS, of_part
from test_export_models import ALGORITHMS, built
from test_lower import IMAGE, Function, perturbed
from test_onnx_operations import LAYERS
from torch import nn

from bibench.deploy.export import export, pack
from bibench.deploy.format import Code, Program
from bibench.deploy.onnx_file import PACKED, onnx_model
from bibench.deploy.onnx_packed import PackedTranslation, edges, islands, part, separated, written
from bibench.deploy.onnx_run import compare_outputs
from bibench.native import library_path
from bibench.nn import BinaryConv2d, BinaryMatmul
from packed_reference import run, trace

ENGINES = pytest.mark.skipif(not ENGINE, reason="the engine isn't built")


def made(model, x):
    return onnx_model(pack(model.eval(), x), PACKED, PackedTranslation)


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.register_custom_ops_library(str(library_path()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def nodes(model):
    return [node.op_type for node in model.graph.node]


def check(model, x):
    """The outputs in ONNX Runtime for the whole batch are PyTorch's; the ONNX model."""
    found = made(model, x)
    onnx.checker.check_model(found)
    given = x if isinstance(x, tuple) else (x,)
    names = [port.name for port in found.graph.input]
    answers = session(found).run(None, {name: tensor.numpy() for name, tensor in zip(names, given, strict=True)})
    for answer, wanted in zip(answers, called(model, x), strict=True):
        np.testing.assert_allclose(answer, wanted.numpy(), rtol=1e-4, atol=1e-4)
    return found


@ENGINES
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("architecture", ["digits_cnn", "digits_mlp", "digits_transformer", "ncf", "resnet20"])
def test_networks(tmp_path, architecture, algorithm):
    model, x = built(architecture, algorithm, 16)
    done = export(model, tmp_path / "net.onnx", to="onnx-packed", example=x)
    found = compare_outputs(model, done.path, x)
    assert (found.samples, found.same_top1, found.layers) == (2, 2, ())
    assert found.difference < 1e-5
    plain = export(model, tmp_path / "plain.onnx", to="onnx", example=x)
    assert done.bytes < plain.bytes - 28 * done.weight_bytes  # one bit a weight in the place of a float


@ENGINES
@pytest.mark.parametrize("name", PARTS)
def test_a_part_of_a_result(name):
    check(*of_part(name))


@ENGINES
@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "xnorpp", "pact"])
@pytest.mark.parametrize("layer", LAYERS)
def test_layers(layer, algorithm):
    assert nodes(check(perturbed(LAYERS[layer](algorithm)), torch.randn(IMAGE))).count("Packed") == 1


@ENGINES
def test_products_of_activations():
    product = perturbed(BinaryMatmul(8, 5, algorithm="reactnet"))
    model = Function(lambda m, a, b: m.product(a, b), product=product)
    assert "Packed" in nodes(check(model, (torch.randn(2, 3, 4, 8), torch.randn(2, 3, 8, 5))))


@ENGINES
def test_bits_pass_from_node_to_node():
    """A layer of floats between two binary ones: the second reads the bits that the first one's node made."""
    model, x = built("resnet20", "bnn", 16)
    found = check(model, torch.cat([x, -x]))
    packed = [node for node in found.graph.node if node.op_type == "Packed"]
    assert len(packed) == 3
    assert any(set(one.output) & set(other.input) for one, other in pairwise(packed))


def test_a_node_is_as_long_as_it_can_be():
    model, x = built("digits_cnn", "bnn")
    program = separated(pack(model, x))
    groups = islands(program)
    assert [[program.operations[n].code for n in group] for group in groups] == [
        [Code.COPY],
        [Code.FCONV],
        [Code.PACK, Code.BCONV, Code.BCONV],
        [Code.FCONV],
    ]
    assert nodes(made(model, x)).count("Packed") == 1


@pytest.mark.parametrize("architecture", ["digits_transformer", "resnet20", "ncf", "vgg_small"])
@pytest.mark.parametrize("algorithm", ["xnor", "pact"])
def test_parts_together_are_the_program(architecture, algorithm):
    """Each part, run alone on what the whole program gives it, makes the very numbers that it makes in the whole."""
    model, x = built(architecture, algorithm, 16)
    program = separated(pack(model, x))
    inputs = [x[:1].numpy()]
    values = {}
    for changed in trace(program.to_bytes(), inputs):
        values.update(changed)  # each value is written once, or filled by copies
    groups = islands(program)
    assert sorted(n for group in groups for n in group) == list(range(len(program.operations)))
    done = 0
    for group in groups:
        if program.operations[group[0]].code not in (Code.PACK, Code.BCONV, Code.KMAP, Code.BITPOOL, Code.BMATMUL):
            continue
        taken, given = edges(program, group)
        content = part(program, group).to_bytes()
        assert Program.from_bytes(content).metadata["operations"]
        answers = run(content, [values[value] for value in taken])
        for value, answer in zip(given, answers, strict=True):
            np.testing.assert_array_equal(answer.view(np.uint32), values[value].view(np.uint32))
            done += 1
    assert done
    assert not {value for op in program.operations if op.code is Code.FCONV for value in written(op)[1:]}


@ENGINES
def test_a_wrong_shape_and_a_damaged_program_are_refused():
    model = made(randomised(nn.Sequential(BinaryConv2d(3, 4, 3, algorithm="bnn"))), torch.randn(1, 3, 5, 5))
    (node,) = [node for node in model.graph.node if node.op_type == "Packed"]
    (attribute,) = node.attribute
    whole = attribute.s
    attribute.s = whole[:-4] + b"abcd"
    with pytest.raises(Exception, match=r"bibench: .*checksum"):
        session(model)
    attribute.s = whole
    session(model)
    before = next(n for n in model.graph.node if node.input[0] in n.output)
    node.input[0] = before.input[0]
    with pytest.raises(Exception, match=r"bibench: input 0 has another shape than \(batch, 75\)"):
        session(model).run(None, {"input": np.zeros((1, 3, 5, 5), np.float32)})
