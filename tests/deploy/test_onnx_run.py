"""Whole networks as ONNX: bits in front of every binary layer, outputs and answers, against PyTorch."""

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import randomised
from test_export_models import ALGORITHMS, built
from test_trained_networks import ROUNDING, trained

from bibench.deploy.compare import unpacked
from bibench.deploy.export import export, pack
from bibench.deploy.format import PackedError, words
from bibench.deploy.onnx_run import compare_onnx, compare_outputs, packed, runtime_lacks
from bibench.nn import BinaryConv2d, BinaryLinear
from bibench.tasks.cifar10 import cifar10
from bibench.tasks.imagenet import imagenet
from packed_reference import pack_map

FORMATS = pytest.mark.parametrize("to", ["onnx", "qonnx"])


def compared(model, x, path, to):
    export(model, path, to=to, example=x)
    return compare_onnx(model, path, x)


@FORMATS
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "fp32"])
@pytest.mark.parametrize("architecture", ["digits_cnn", "digits_mlp", "digits_transformer", "ncf"])
def test_small_networks_with_every_algorithm(tmp_path, architecture, algorithm, to):
    model, x = built(architecture, algorithm)
    found = compared(model, x, tmp_path / "net.onnx", to)
    assert found.differing == 0
    assert found.same_top1 == found.samples == len(x)
    assert found.difference < 1e-5
    assert len(found.layers) == len(pack(model, x).metadata["layers"])
    assert (len(found.layers) > 0) == (algorithm != "fp32")


@FORMATS
@pytest.mark.parametrize("algorithm", ["xnor", "xnorpp", "reactnet", "pact"])
@pytest.mark.parametrize("architecture", ["resnet20", "resnet20e"])
def test_residual_networks(tmp_path, architecture, algorithm, to):
    model, x = built(architecture, algorithm, 16)
    found = compared(model, x, tmp_path / "net.onnx", to)
    assert (found.differing, found.same_top1) == (0, 2)


@pytest.mark.slow
@FORMATS
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("architecture", ["mobilenet_v2", "vgg_small", "resnet18"])
def test_larger_networks(tmp_path, architecture, algorithm, to):
    model, x = built(architecture, algorithm)
    found = compared(model, x, tmp_path / "net.onnx", to)
    assert found.differing <= 3
    assert found.same_top1 == 2


def agrees(model, images, path):
    """Each sample's first differing bits are within rounding of the threshold, and every answer is the same."""
    export(model, path, to="onnx", example=images)
    for image in images.split(1):
        found = compare_onnx(model, path, image)
        first = next((layer for layer in found.layers if layer.differing), None)
        assert first is None or first.margin < ROUNDING, str(found)
        assert found.same_top1 == 1, str(found)
        assert sum(layer.bits for layer in found.layers) > 1000


@pytest.mark.slow
@pytest.mark.parametrize(
    ("architecture", "algorithm"),
    [("resnet18", "reactnet"), ("resnet20", "xnorpp"), ("vgg_small", "bnn"), ("mobilenet_v2", "xnor")],
)
def test_cifar_networks(real_data, tmp_path, architecture, algorithm):
    data = cifar10.load(real_data / "cifar-10-lossless-subset", True)
    images, labels = next(data.train.batches(64, device=torch.device("cpu"), seed=0))
    model = trained(architecture, algorithm, images, labels, 10, steps=2)
    tests, _ = next(data.test.batches(6, device=torch.device("cpu")))
    agrees(model, tests, tmp_path / "net.onnx")


@pytest.mark.slow
def test_resnet18_of_full_size(real_data, tmp_path):
    data = imagenet.load(real_data / "tiny-imagenet-25", True)
    images, labels = next(data.train.batches(16, device=torch.device("cpu"), seed=0))
    model = trained("resnet18", "recu", images, labels, 25, steps=2)
    tests, _ = next(data.test.batches(3, device=torch.device("cpu")))
    agrees(model, tests, tmp_path / "net.onnx")


def test_a_difference_is_found(tmp_path):
    model, x = built("digits_cnn", "reactnet")
    assert compared(model, x, tmp_path / "net.onnx", "onnx").differing == 0
    with torch.no_grad():
        model.conv3.activation_rule.threshold += 0.25
    found = compare_onnx(model, tmp_path / "net.onnx", x)
    assert [layer.differing > 0 for layer in found.layers] == [False, True]
    assert found.layers[1].margin <= 0.2501


def test_another_models_file_is_refused(tmp_path):
    model, x = built("digits_cnn", "bnn")
    export(model, tmp_path / "net.onnx", to="onnx", example=x)
    other = randomised(torch.nn.Sequential(BinaryConv2d(1, 4, 3, algorithm="bnn"), torch.nn.Flatten()))
    with pytest.raises(PackedError, match=r"net\.onnx: not written from this model; export it again"):
        compare_onnx(other, tmp_path / "net.onnx", x)


@pytest.mark.parametrize("compared_by", [compare_onnx, compare_outputs])
@pytest.mark.parametrize("spoilt", ["an operator", "a size"])
def test_a_file_that_cannot_be_run_is_named(tmp_path, spoilt, compared_by):
    model, x = built("digits_mlp", "bnn")
    path = tmp_path / "net.onnx"
    export(model, path, to="onnx", example=x)
    made = onnx.load(path)
    if spoilt == "an operator":
        made.graph.node[0].op_type = "Sideways"
    else:
        (reshape,) = [node for node in made.graph.node if node.op_type == "Reshape"]
        (wanted,) = [constant for constant in made.graph.initializer if constant.name == reshape.input[1]]
        wanted.CopyFrom(onnx.numpy_helper.from_array(np.array([7, -1]), wanted.name))  # of 64 numbers
    onnx.save(made, path)
    with pytest.raises(PackedError, match=r"net\.onnx: ONNX Runtime can't run it: .*; don't use the file; export to"):
        compared_by(model, path, x)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (BinaryConv2d(9, 6, 3, groups=3, padding=1, algorithm="xnor"), (2, 9, 5, 5)),
        (BinaryConv2d(4, 8, 3, groups=4, algorithm="pact"), (2, 4, 5, 5)),
        (BinaryLinear(40, 3, algorithm="reactnet"), (2, 7, 40)),
    ],
)
def test_a_layer_alone(tmp_path, layer, shape):
    found = compared(layer.eval(), torch.randn(shape), tmp_path / "net.onnx", "onnx")
    assert (found.samples, found.differing, len(found.layers)) == (2, 0, 1)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_packed_bits_are_the_formats(data):
    draw = lambda low, high: data.draw(st.integers(low, high))  # noqa: E731
    groups = draw(1, 3)
    channels = groups * data.draw(st.sampled_from([1, 5, 31, 32, 40]))
    height, width, top, left = draw(1, 3), draw(1, 3), draw(0, 1), draw(0, 1)
    layout = (height, width, channels, groups, top, left, top + height + draw(0, 1), left + width + draw(0, 1))
    bits = np.random.default_rng(draw(0, 99)).random((height * width, channels)) < 0.5
    content = packed(bits, *layout)
    assert content.size == layout[6] * layout[7] * words(channels, groups)
    np.testing.assert_array_equal(unpacked(content, *layout), bits)
    np.testing.assert_array_equal(content, pack_map(bits.reshape(height, width, channels), groups, *layout[4:]).ravel())


def test_without_the_package(monkeypatch):
    assert runtime_lacks() is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'bibench[onnx]'" in runtime_lacks()
