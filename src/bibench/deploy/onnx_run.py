"""ONNX files of ours in ONNX Runtime, compared with the model that they were exported from."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from bibench.deploy.compare import Comparison, compare, in_torch
from bibench.deploy.export import pack
from bibench.deploy.format import PackedError, Program, words
from bibench.deploy.onnx_file import METADATA
from bibench.deploy.onnx_graph import Array
from bibench.deploy.onnx_packed import DOMAIN
from bibench.native import instruction_sets, library_path

__all__ = ["OnnxRunner", "compare_onnx", "compare_outputs", "runtime_lacks"]


def runtime_lacks() -> str | None:
    """What is missing to run ONNX files; None where nothing is."""
    if importlib.util.find_spec("onnxruntime") is None:
        return "the package onnxruntime is missing; install it by: python -m pip install 'bibench[onnx]'"
    return None


def compare_onnx(model: nn.Module, path: Path, x: Any) -> Comparison:
    """Run a model and its ONNX file on the same samples, and compare as `bibench.deploy.compare.compare` does.

    Args:
        model: the model that was exported.
        path: its file.
        x: a batch, as the example of `export`.

    Raises:
        PackedError: the file isn't this model's, or ONNX Runtime can't run it.
    """
    program = pack(model, x)
    return compare(model, program, x, engine=lambda content: OnnxRunner(path, program))


def compare_outputs(model: nn.Module, path: Path, x: Any) -> Comparison:
    """Run a model and its file with ``bibench.Packed`` nodes on the same samples; the bits in these aren't seen.

    Args:
        model, path, x: as `compare_onnx` takes them.

    Raises:
        NativeError: the packed engine, which runs the nodes, isn't there.
        PackedError: ONNX Runtime can't run the file.
    """
    import onnx

    with _naming(path):
        session = _session(onnx.load(str(path)))
    given = [leaf for leaf in tree_leaves(x) if isinstance(leaf, Tensor)]
    difference, largest, same = 0.0, 0.0, 0
    for i in range(len(given[0])):
        sample = tree_map(lambda leaf, i=i: leaf[i : i + 1].detach() if isinstance(leaf, Tensor) else leaf, x)
        arrays = [leaf.cpu().contiguous().numpy() for leaf in tree_leaves(sample) if isinstance(leaf, Tensor)]
        expected, _ = in_torch(model, sample)
        inputs = {port.name: array for port, array in zip(session.get_inputs(), arrays, strict=True)}
        with _naming(path):
            found = [output.reshape(-1) for output in session.run(None, inputs)]
        for want, got in zip(expected, found, strict=True):
            difference = max(difference, float(np.abs(want - got).max()))
            largest = max(largest, float(np.abs(want).max()))
        same += int(expected[0].argmax() == found[0].argmax())
    return Comparison(len(given[0]), (), difference, largest, same)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say of which file it is that ONNX Runtime can't run it."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except (
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.NotImplemented,
        state.RuntimeException,
    ) as error:
        advice = "don't use the file; export to another format, and report the network as an error of bibench"
        raise PackedError(f"{path}: ONNX Runtime can't run it: {str(error).strip()}; {advice}") from error


def _session(model: Any) -> Any:
    """A model in ONNX Runtime, on one thread; with the packed engine where it has nodes for it."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if any(entry.domain == DOMAIN for entry in model.opset_import):
        instruction_sets()  # where there is no engine, this says why
        options.register_custom_ops_library(str(library_path()))
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


class OnnxRunner:
    """An ONNX file in the place of the packed engine, one sample at a time.

    Args:
        path: the file.
        program: what it was written from.

    Raises:
        PackedError: it was written from another program, or ONNX Runtime can't run it.
    """

    def __init__(self, path: Path, program: Program) -> None:
        import onnx

        model = onnx.load(str(path))
        about = json.loads({entry.key: entry.value for entry in model.metadata_props}.get(METADATA, "{}"))
        self.layers: list[dict[str, Any]] = program.metadata["layers"]
        self.tensors: list[dict[str, Any]] = about.get("layers", [])
        keys = [[tuple(at[k] for k in ("name", "call", "operand")) for at in e] for e in (self.layers, self.tensors)]
        if keys[0] != keys[1]:
            raise PackedError(f"{path}: not written from this model; export it again")
        self.outputs = [output.name for output in model.graph.output]
        self.counts = [value.count for value in program.outputs]
        self.observed = list(dict.fromkeys(at["tensor"] for at in self.tensors))
        for name in self.observed:
            if name not in self.outputs:
                model.graph.output.append(onnx.ValueInfoProto(name=name))
        self.path = path
        with _naming(path):
            self.session = _session(model)
        self.bits: dict[int, Array] = {}

    def observe(self, inputs: Sequence[Array], after: Callable[[int], None]) -> list[Array]:
        """Run one sample, and call ``after`` with each operation that reads bits; the outputs."""
        given = {port.name: x for port, x in zip(self.session.get_inputs(), inputs, strict=True)}
        names = [*self.outputs, *(name for name in self.observed if name not in self.outputs)]
        with _naming(self.path):
            found = dict(zip(names, self.session.run(names, given), strict=True))
        for at, tensor in zip(self.layers, self.tensors, strict=True):
            stored = found[tensor["tensor"]][0].transpose(tensor["order"])
            self.bits[at["value"]] = packed(stored <= 0, *at["map"])
        for operation in dict.fromkeys(at["operation"] for at in self.layers):
            after(operation)
        # behind the scores of a file for daBNN's converter are as many more as its memory wants
        return [found[name].reshape(-1)[:count] for name, count in zip(self.outputs, self.counts, strict=True)]

    def value(self, index: int, count: int, kind: int) -> Array:
        """The bits that an operation read, as the packed engine has them."""
        return self.bits[index]


def packed(
    lower: Array, height: int, width: int, channels: int, groups: int, top: int, left: int, high: int, wide: int
) -> Array:
    """A map of bits in 32-bit words, see "Bits in memory" in docs/packed-format.md; true is a set bit.

    >>> packed(np.array([True, False, True]), 1, 1, 3, 1, 0, 1, 1, 2)
    array([0, 5], dtype=uint32)
    """
    number, each = words(channels, groups), channels // groups
    parts = 1 if each % 32 == 0 or each == 1 else groups  # each of which begins on a word of its own
    pixels = np.zeros((height, width, parts, number * 32 // parts), bool)
    pixels[..., : channels // parts] = lower.reshape(height, width, parts, channels // parts)
    found = np.zeros((high, wide, number * 32), bool)
    found[top : top + height, left : left + width] = pixels.reshape(height, width, number * 32)
    content: Array = np.packbits(found.reshape(-1), bitorder="little").view("<u4")
    return content
