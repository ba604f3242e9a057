"""ONNX for daBNN's converter: by its rules it becomes the file that is written directly, and ONNX Runtime runs it."""

import numpy as np
import onnx
import pytest
import torch
from dabnn_converter import Converted, Refused, assert_same
from dabnn_interpreter import DabnnNet
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from interpreted import randomised, sample_of
from onnx import helper, numpy_helper
from onnx_models import session
from test_dabnn import EXPRESSIBLE, Block, behind, binary, drawn_sums
from test_export_models import built
from torch import nn

import bibench
from bibench.deploy.dabnn import to_dabnn
from bibench.deploy.dabnn_onnx import dabnn_onnx_model, write_dabnn_onnx
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.deploy.onnx_file import ONNX, onnx_model
from bibench.deploy.onnx_run import compare_onnx

PROPERTY = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def converted(program):
    """The ONNX of a program; the converter makes of it what is written directly."""
    made = dabnn_onnx_model(program)
    onnx.checker.check_model(made, full_check=True)
    assert_same(Converted(made), DabnnNet(to_dabnn(program)))
    return made


def outputs_of(model, x):
    """What PyTorch and ONNX Runtime make of the first sample."""
    with torch.no_grad():
        expected = model(*map(torch.from_numpy, sample_of(x))).reshape(-1).numpy()
    runner = session(converted(pack(model.eval(), x)))
    (port,) = runner.get_inputs()
    (sample,) = sample_of(x)
    return expected, runner.run(None, {port.name: sample})[0].reshape(-1)[: len(expected)]


def same_bits(model, x, path):
    program = pack(model, x)
    converted(program)
    write_dabnn_onnx(program, path)
    found = compare_onnx(model, path, x)
    assert found.differing == 0, str(found)
    assert found.same_top1 == found.samples
    assert found.difference < 1e-4 * max(found.largest, 1)
    return found


@PROPERTY
@given(data=st.data())
def test_sums_of_any_padded_convolution_are_the_same_numbers(data):
    layer, model, x = drawn_sums(data, -1)
    if 0 in layer.padding:
        reject()
    expected, found = outputs_of(model, x)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("act", [nn.Identity(), nn.ReLU()], ids=["sums", "relu"])
def test_zeros_become_plus_one(tmp_path, act):
    """ONNX's sign of 0 is 0, and daBNN's -1."""
    x = torch.randint(0, 2, (1, 128, 4, 4)) * 4.0 - 2  # the sums are even, and some are 2
    same_bits(Block(nn.Identity(), act).eval(), x, tmp_path / "net.onnx")


@pytest.mark.parametrize(
    "model",
    [
        nn.Conv2d(4, 8, 3, stride=2, padding=1),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.MaxPool2d(3, 2, 1), nn.ReLU6()),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.AvgPool2d(3, 1, 1, count_include_pad=False), nn.PReLU(8)),
        nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(4, 8, 2), nn.LeakyReLU(0.3), nn.BatchNorm2d(8)),
    ],
    ids=["stride", "maximum", "average", "leaky"],
)
def test_layers_in_full_precision(model):
    x = torch.randn(1, 4, 8, 8)
    model = randomised(nn.Sequential(nn.Conv2d(4, 4, 1), model, nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    expected, found = outputs_of(model, x)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("algorithm", EXPRESSIBLE)
def test_small_networks_with_every_algorithm(tmp_path, algorithm):
    model, x = built("digits_cnn", algorithm, padding_value=-1)
    assert len(same_bits(model, x, tmp_path / "net.onnx").layers) == 2


@pytest.mark.parametrize("algorithm", ["bnn", "reactnet", "pact"])
@pytest.mark.parametrize("architecture", ["resnet20", "resnet20e"])
def test_residual_networks(tmp_path, architecture, algorithm):
    same_bits(*built(architecture, algorithm, 16, padding_value=-1), tmp_path / "net.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["bireal", "pact"])
@pytest.mark.parametrize("architecture", ["resnet18", "vgg_small"])
def test_larger_networks(tmp_path, architecture, algorithm):
    same_bits(*built(architecture, algorithm, padding_value=-1), tmp_path / "net.onnx")


# ----------------------------------------------------------------------------------------------------- refusals, file


def test_the_converter_does_not_take_other_onnx_files_of_the_same_network():
    model, x = built("digits_cnn", "bnn", padding_value=-1)
    made = onnx_model(pack(model, x), ONNX)
    with pytest.raises(Refused, match="doesn't have dim_value"):
        Converted(made)
    made.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    with pytest.raises(Refused, match="is undefined"):
        Converted(made)
    made.graph.input.extend(helper.make_tensor_value_info(one.name, 1, one.dims) for one in made.graph.initializer)
    with pytest.raises(Refused, match="Unsupported operator"):
        Converted(made)


def dynamic_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def constants_that_are_no_inputs(model):
    del model.graph.input[1:]


def padding_of_zeros(model):
    pad = next(node for node in model.graph.node if node.op_type == "Pad")
    next(one for one in pad.attribute if one.name == "value").f = 0


def no_padding(model):
    pad = next(node for node in model.graph.node if node.op_type == "Pad")
    next(one for one in pad.attribute if one.name == "pads").ints[:] = [0] * 8


def weights_without_signs(model):
    binary = next(node for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 2)
    binary.input[1] = next(node.input[0] for node in model.graph.node if node.output[0] == binary.input[1])


def added_constant(model):
    shift = numpy_helper.from_array(np.ones((1, 1, 1, 1), np.float32), "one")
    model.graph.initializer.append(shift)
    model.graph.input.append(helper.make_tensor_value_info("one", 1, [1, 1, 1, 1]))
    model.graph.node.append(helper.make_node("Add", [model.graph.node[-1].output[0], "one"], ["more"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dynamic_batch, "doesn't have dim_value"),
        (constants_that_are_no_inputs, "is undefined"),
        (padding_of_zeros, "Unsupported operator Pad"),
        (no_padding, "Unsupported operator Sign"),
        (weights_without_signs, "Unsupported operator Pad"),
        (added_constant, "one is no map"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_part_of_the_pattern_is_needed(change, message):
    model = dabnn_onnx_model(pack(*built("digits_cnn", "bnn", padding_value=-1)))
    Converted(model)
    change(model)
    with pytest.raises(Refused, match=message):
        Converted(model)


X = torch.randn(1, 64, 8, 8)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            binary(64, 3, padding=1),
            r"^layer '1': daBNN's converter has binary convolutions that are padded with -1 alone, and adds no "
            r"constants .*; binarize with padding_value=-1, or export to 'dabnn'$",
        ),
        (
            binary(64, 3, padding_value=-1),
            r"^layer '1': daBNN's converter finds binary convolutions by the -1 .*, and this one pads nothing; leave",
        ),
        (binary(64, 3, padding=1, padding_value=-1, groups=2), r"^layer '1': daBNN has no groups"),
        (behind(nn.Conv2d(64, 8, 1), nn.GELU()), r"^operation \d, .*: daBNN has ReLU, PReLU"),
    ],
)
def test_refusals(model, message):
    with pytest.raises(PackedError, match=message):
        dabnn_onnx_model(pack(model, X))


def test_the_file(tmp_path):
    model, x = built("digits_cnn", "reactnet", padding_value=-1)
    path = tmp_path / "new" / "net.dabnn.onnx"
    done = bibench.export(model, path, to="dabnn-onnx", example=x, labels=list("0123456789"))
    assert done.bytes == path.stat().st_size
    made = onnx.load(path)
    assert (made.ir_version, [(one.domain, one.version) for one in made.opset_import]) == (3, [("", 9)])
    assert [port.name for port in session(made).get_inputs()] == ["input"]
    (output,) = made.graph.output
    assert (output.name, [one.dim_value for one in output.type.tensor_type.shape.dim]) == ("output", [1, 12, 1, 1])
    assert made.graph.node[0].output[0] == "conv1 + bn1 + relu1/Conv"
    about = {one.key: one.value for one in made.metadata_props}["bibench"]
    assert '"labels": ["0", "1"' in about
