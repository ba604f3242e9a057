"""What docs/formats.md says can be exported, by doing it: a "yes" is run and equal, a "no" refused with that reason."""

import functools
from dataclasses import replace

import pytest
import torch
from dabnn_interpreter import DabnnEngine
from formats_tool import TOOL
from interpreted import ENGINE, randomised
from lce_runner import Client, LceEngine
from test_lower import perturbed
from test_trained_networks import ROUNDING
from torch import nn

import bibench
from bibench import registry
from bibench.deploy.compare import compare
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError
from bibench.deploy.formats import FORMATS
from bibench.deploy.onnx_run import OnnxRunner, compare_outputs

ALGORITHMS = ("fp32", "bnn", "xnor", "xnorpp", "reactnet", "pact")
SIDES = {"vgg16": 32}
"""Pixels of the smallest image that an architecture takes; 16 for the others."""
SHORT = {"points": 64, "text": 16}
"""By modality, points or tokens that are enough."""
WORDS = 50
SLOW = {
    "resnet18": ("xnorpp", "reactnet"),
    "resnet34": ("bnn", "xnor"),
    "resnet34e": ("xnor", "pact"),
    "vgg16": ("fp32", "reactnet"),
    "bert_tiny6": ("bnn", "xnor"),
}
"""Algorithms of architectures that take seconds each."""


TEXT = TOOL.DOCUMENT.read_text()
CASES = [
    pytest.param(
        architecture,
        algorithm,
        format,
        id=f"{architecture}-{algorithm}-{format}",
        marks=[pytest.mark.slow] if architecture in SLOW else [],
    )
    for architecture in TOOL.architectures()
    for algorithm in SLOW.get(architecture, ALGORITHMS)
    for format in TOOL.FORMATS
]


@functools.lru_cache(maxsize=1)
def network(architecture, algorithm, task_name=None):
    """A network for small inputs of a task, whose normalisation and scales do something; an example; its program."""
    torch.manual_seed(1)
    found = registry.get("architectures", architecture)
    task = registry.get("tasks", task_name or TOOL.task_name(architecture))
    x = TOOL.example(task)[:1]
    if task.name == "cifar10":
        x = x[..., : SIDES.get(architecture, 16), : SIDES.get(architecture, 16)]
    elif found.modality in SHORT:
        x = x[..., : SHORT[found.modality]]
    model = found.build(tuple(x.shape[1:]), TOOL.OUTPUTS.get(found.modality, task.outputs))
    if found.modality == "text":
        embeddings = model.bert.embeddings
        embeddings.word_embeddings = nn.Embedding(WORDS, embeddings.word_embeddings.embedding_dim)
        x[:, 0] %= WORDS
    if algorithm != "fp32":
        model = bibench.binarize(model, algorithm, example=x)
    return randomised(perturbed(model)), x, pack(model, x)


def compared(request, format, model, x, program, path):
    """How a file that was written compares with its model, in what runs it."""
    if format == "onnx-packed":  # the bits in its nodes aren't seen; those of the plain file stand for them
        plain = path.with_name("plain")
        FORMATS["onnx"].write(program, plain)
        return replace(
            compare_outputs(model, path, x), layers=compared(request, "onnx", model, x, program, plain).layers
        )
    engines = {
        "packed": {},
        "tflite-lce": {"engine": lambda content: LceEngine(request.getfixturevalue("client"), content)},
        "dabnn": {"engine": DabnnEngine},
    }
    return compare(model, program, x, **engines.get(format, {"engine": lambda content: OnnxRunner(path, program)}))


@pytest.fixture(scope="module")
def client(lce_environment, tmp_path_factory):
    made = Client(lce_environment, tmp_path_factory.mktemp("lce"))
    yield made
    made.close()


def runs(request, format, network, folder):
    """Write a network and run it: bits differ within rounding of a threshold at most, and what is behind them."""
    model, x, program = network
    path = folder / "net"
    FORMATS[format].write(program, path)
    if format in ("packed", "onnx-packed") and not ENGINE:
        pytest.skip("the engine isn't built")
    found = compared(request, format, model, x, program, path)
    first = next((layer for layer in found.layers if layer.differing), None)
    if first is None:
        assert found.difference < 1e-4 * max(found.largest, 1), str(found)
    else:
        assert first.margin < ROUNDING, str(found)


@pytest.mark.parametrize(("architecture", "algorithm", "format"), CASES)
def test_the_document_says_what_is_so(request, tmp_path, architecture, algorithm, format):
    model = network(architecture, algorithm)
    taken = TOOL.documented(TEXT, architecture, format)
    if algorithm == "fp32":
        taken = ("fp32",) if taken or format == "tflite-lce" else ()  # what Larq Compute Engine refuses is binary
    if algorithm in taken:
        runs(request, format, model, tmp_path)
        return
    with pytest.raises(PackedError) as refused:
        FORMATS[format].write(model[2], tmp_path / "net")
    reason = TOOL.reason(str(refused.value))
    lines = [line for line in TEXT.splitlines() if line.startswith(f"| `{format}` | {reason} |")]
    assert lines, f"{reason}: not in the document; run tools/formats.py"
    assert architecture in lines[0].split(" | ")[3].removesuffix(" |").split(", ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", TOOL.FORMATS)
@pytest.mark.parametrize("algorithm", ["fp32", "bnn", "xnor"])
def test_segmentation(request, tmp_path, algorithm, format):
    model = network("pointnet", algorithm, "shapenet")
    if TOOL.documented(TEXT, "pointnet", format):
        runs(request, format, model, tmp_path)
        return
    with pytest.raises(PackedError, match="daBNN"):
        FORMATS[format].write(model[2], tmp_path / "net")
