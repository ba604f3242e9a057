"""Whole networks: every algorithm, every small architecture, against PyTorch."""

import pytest
import torch
from interpreted import ENGINE, Interpreter, check, codes, randomised

import bibench
from bibench import registry
from bibench.deploy.compare import compare
from bibench.deploy.export import pack

ALGORITHMS = ("bnn", "xnor", "dorefa", "bireal", "xnorpp", "reactnet", "recu", "fda", "pact")


def built(architecture, algorithm, size=32, classes=10, padding_value=0):
    torch.manual_seed(1)
    build = registry.get("architectures", architecture).build
    if architecture == "ncf":
        model, x = build((2,), (7, 9)), torch.tensor([[3, 8], [1, 2]])
    else:
        shape = (1, 8, 8) if architecture.startswith("digits") else (3, size, size)
        model, x = build(shape, classes), torch.randn(2, *shape)
    if algorithm != "fp32":
        model = bibench.binarize(model, algorithm, example=x, padding_value=padding_value)
        with torch.no_grad():  # what starts at the same number everywhere would hide a mixed-up order
            for name, parameter in model.named_parameters():
                if name.endswith(("alpha", ".positions.0", ".positions.1")):
                    parameter.copy_(torch.rand(parameter.shape) + 0.5)
                elif name.endswith("activation_rule.threshold"):
                    parameter.copy_(torch.randn(parameter.shape) * 0.3)
                elif name.endswith("activation_rule.A"):
                    parameter.fill_(0.7)
    return randomised(model), x


@pytest.mark.parametrize("algorithm", [*ALGORITHMS, "fp32"])
@pytest.mark.parametrize("architecture", ["digits_cnn", "digits_mlp", "digits_transformer", "ncf"])
def test_small_networks_with_every_algorithm(architecture, algorithm):
    model, x = built(architecture, algorithm)
    program = check(model, x)
    engines = [Interpreter, None] if ENGINE else [Interpreter]
    for engine in engines:
        found = compare(model, program, x, **({"engine": engine} if engine else {}))
        assert found.differing == 0
        assert found.same_top1 == found.samples == len(x)
        assert len(found.layers) == (0 if algorithm == "fp32" else len(program.metadata["layers"]))


@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "xnorpp", "reactnet", "pact", "fp32"])
@pytest.mark.parametrize("architecture", ["resnet20", "resnet20e"])
def test_residual_networks(architecture, algorithm):
    model, x = built(architecture, algorithm, 16)
    check(model, x, rtol=1e-4, atol=1e-4)
    if ENGINE:
        assert compare(model, pack(model, x), x).differing == 0


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("architecture", ["mobilenet_v2", "vgg_small", "resnet18"])
def test_larger_networks(architecture, algorithm):
    model, x = built(architecture, algorithm)
    program = check(model, x, rtol=1e-3, atol=1e-4)
    if ENGINE:
        found = compare(model, program, x)
        assert found.differing <= 3
        assert found.same_top1 == 2


@pytest.mark.slow
@pytest.mark.skipif(not ENGINE, reason="the engine isn't built")
@pytest.mark.parametrize("algorithm", ["bnn", "xnor", "reactnet", "recu", "fp32"])
def test_resnet18_of_full_size(algorithm):
    model, x = built("resnet18", algorithm, 224, 1000)
    program = pack(model, x)
    found = compare(model, program, x)
    assert found.differing <= 3
    assert found.same_top1 == 2
    assert found.difference < 1e-3 * max(found.largest, 1)


def test_what_a_network_becomes():
    model, x = built("digits_cnn", "reactnet")
    program = pack(model, x)
    assert codes(program) == ["COPY", "FCONV", "BCONV", "BCONV", "FCONV"]
    assert program.metadata["operations"] == [
        "conv1 (copy)",
        "conv1 + bn1 + relu1",
        "conv2 + bn2 + relu2",
        "conv3 + bn3 + relu3",
        "fc",
    ]
    model, x = built("digits_mlp", "bnn")
    assert codes(pack(model, x)) == ["FCONV", "BCONV", "BCONV", "FCONV"]
    model, x = built("resnet18", "bnn")
    assert codes(pack(model, x)).count("PACK") == 0
    assert codes(pack(model, x)) == [
        "COPY",
        *["FCONV"],
        *["BCONV"] * 4,
        *(["BCONV", "FCONV", "BCONV"] + ["BCONV"] * 2) * 3,
        "POOL",
        "FCONV",
    ]


def test_pools_of_bits():
    model, x = built("vgg_small", "bnn", 16)
    program = pack(model, x)
    assert codes(program).count("BITPOOL") == 2
    assert codes(program).count("POOL") == 1  # the last, in front of the classifier in full precision
