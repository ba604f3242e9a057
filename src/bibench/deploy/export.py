"""``export()``: any binarized or full-precision model as one file, and what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from bibench.deploy.arena import arrange
from bibench.deploy.capture import Graph, Port, capture, inside
from bibench.deploy.format import (
    Code,
    Constant,
    Operation,
    PackedError,
    Place,
    Program,
    Type,
    Value,
)
from bibench.deploy.formats import format_named
from bibench.deploy.fuse import fuse
from bibench.deploy.lower import lower
from bibench.deploy.stem import quantize_stem
from bibench.deploy.steps import Array, Step
from bibench.deploy.thresholds import exact_thresholds
from bibench.deploy.views import Buffer
from bibench.nn.layers import BinaryLayer, BinaryMatmul
from bibench.nn.trace import _quiet_evaluation
from bibench.tasks.preprocessing import Preprocessing

__all__ = ["Exported", "export", "pack"]

_METADATA_VERSION = 1
_WEIGHTS = {Code.BCONV: Constant.bits, Code.ICONV: Constant.int8}


@dataclass(frozen=True)
class Exported:
    """What `export` wrote; readable when printed.

    Args:
        path: the file.
        to: the kind of file.
        bytes: its size.
        weight_bytes: what the binary weights take at one bit each.
        arena: bytes that one running sample needs in the packed engine.
        operations: how many there are of each kind, as the packed engine has them.
        binary_layers: names of the layers whose products are of bits.
    """

    path: Path
    to: str
    bytes: int
    weight_bytes: int
    arena: int
    operations: Mapping[str, int]
    binary_layers: tuple[str, ...]

    def __str__(self) -> str:
        kinds = ", ".join(f"{number} {name}" for name, number in self.operations.items())
        lines = [f"{self.path}: {self.bytes:,} bytes", f"{len(self.binary_layers)} binary layers"]
        if self.to == "packed":
            lines[0] += f", of which {self.weight_bytes:,} are binary weights"
            lines[1] += f"; {sum(self.operations.values())} operations: {kinds}"
            lines.append(f"memory for one sample: {self.arena:,} bytes")
        return "\n".join(lines)


def export(
    model: nn.Module,
    path: str | Path,
    *,
    to: str = "packed",
    example: Any,
    preprocessing: Mapping[str, Any] | None = None,
    labels: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    int8_stem: bool = False,
    input_range: tuple[float, float] | None = None,
) -> Exported:
    """Write a model as a file that runs without PyTorch.

    Args:
        model: evaluated as it is: weights, thresholds and batch normalisation in evaluation mode. It isn't changed.
        path: the file to write, atomically.
        to: the kind of file, one of `bibench.deploy.formats.FORMATS`: ``"packed"`` is the packed engine's own,
            ``"onnx"`` and ``"qonnx"`` need the package onnx (see docs/formats.md).
        example: an input of the size that the file is for: a tensor, a sequence of positional arguments or a mapping of
            keyword arguments, batch first. Only its first sample is used.
        preprocessing: how an image or a row becomes the input, as JSON takes it; stored as it is.
        labels: names of the classes.
        metadata: more to store, as JSON takes it.
        int8_stem: compute the layers that read the input in 8-bit integers, see `bibench.deploy.stem`: faster, and not
            quite what the model computes. Measure the file's accuracy beside that of one without. Packed files only.
        input_range: the lowest and highest number of an input, for ``int8_stem``; by default what the preprocessing can
            give, or without one what the example has.

    Raises:
        PackedError: a model that can't be exported (the message names the layer), or an unusable argument.
        OSError: the file can't be written.

    >>> import tempfile, torch, bibench
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Hardtanh(), bibench.nn.BinaryLinear(8, 8, algorithm="bnn"))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     done = export(net, Path(folder) / "net.bib", example=torch.randn(1, 4))
    >>> done.binary_layers, dict(done.operations)
    (('2',), {'FCONV': 1, 'BCONV': 1})
    """
    kind = format_named(to)
    more = dict(metadata or {})
    if preprocessing is not None:
        more["preprocessing"] = dict(preprocessing)
    if labels:
        more["labels"] = [str(label) for label in labels]
    if int8_stem and input_range is None and preprocessing is not None:
        input_range = Preprocessing.model_validate(dict(preprocessing)).range
    program = pack(model, example, metadata=more, int8_stem=int8_stem, input_range=input_range)
    target = Path(path)
    size = kind.write(program, target)
    kinds = [operation.code.name for operation in program.operations]
    return Exported(
        path=target,
        to=to,
        bytes=size,
        weight_bytes=sum(constant.bytes for constant in program.constants if constant.type is Type.BITS),
        arena=program.arena,
        operations={code: kinds.count(code) for code in dict.fromkeys(kinds)},
        binary_layers=tuple(dict.fromkeys(entry["name"] for entry in program.metadata["layers"])),
    )


def pack(
    model: nn.Module,
    example: Any,
    *,
    metadata: Mapping[str, Any] | None = None,
    int8_stem: bool = False,
    input_range: tuple[float, float] | None = None,
) -> Program:
    """A model as a packed program for one sample.

    Args:
        model, example, int8_stem, input_range: as `export` takes them.
        metadata: more to store, beside what is read off the model.

    Raises:
        PackedError: a model that can't be exported; the message names the layer and says what to do.

    >>> import torch, bibench
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.Hardtanh(), bibench.nn.BinaryLinear(8, 8, algorithm="bnn"))
    >>> [operation.code.name for operation in pack(net, torch.randn(1, 4)).operations]
    ['FCONV', 'BCONV']
    """
    graph = capture(model, example)
    model = inside(model)
    with _quiet_evaluation(model):
        build = lower(graph)
        steps = fuse(build.steps, exact=lambda steps: exact_thresholds(steps, graph))
    if int8_stem:
        quantize_stem(steps, *(input_range or _range(example)))
    own = _describe(model, graph, steps, build.inputs, build.outputs)
    clash = sorted(own.keys() & (metadata or {}).keys())
    if clash:
        raise PackedError(f"metadata has {', '.join(map(repr, clash))}, which the export writes itself: rename them")
    return _program(steps, build.inputs, build.outputs, own, dict(metadata or {}))


def _range(example: Any) -> tuple[float, float]:
    """The lowest and highest number of an example's tensors."""
    tensors = [leaf for leaf in tree_leaves(example) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    lowest = min((float(tensor.min()) for tensor in tensors), default=0.0)
    return lowest, max((float(tensor.max()) for tensor in tensors), default=0.0)


def _describe(
    model: nn.Module, graph: Graph, steps: Sequence[Step], inputs: Sequence[Buffer], outputs: Sequence[Buffer]
) -> dict[str, Any]:
    binary = [module for module in model.modules() if isinstance(module, (BinaryLayer, BinaryMatmul))]
    return {
        "version": _METADATA_VERSION,
        "model": type(model).__name__,
        "algorithms": sorted({module.algorithm for module in binary}),
        "inputs": [_port(port) for port in graph.inputs],
        "outputs": [_port(port) for port in graph.outputs],
        "operations": [step.title for step in steps],
        "layers": [],
    }


def _port(port: Port) -> dict[str, Any]:
    return {"name": port.name, "shape": list(port.shape[1:]), "dtype": str(port.dtype).removeprefix("torch.")}


def _program(
    steps: Sequence[Step],
    inputs: Sequence[Buffer],
    outputs: Sequence[Buffer],
    own: dict[str, Any],
    metadata: dict[str, Any],
) -> Program:
    offsets, arena = arrange(steps)
    buffers = dict.fromkeys([*inputs, *outputs, *(b for step in steps for b in [*step.inputs, *step.outputs])])
    index = {buffer: number for number, buffer in enumerate(buffers)}
    values = tuple(Value(b.place, b.type, offsets[b] if b.place is Place.ARENA else b.number, b.count) for b in buffers)
    constants: dict[Constant, int] = {}

    def constant(step: Step, slot: int, array: Array | None) -> int:
        if array is None:
            return -1
        make = _WEIGHTS.get(step.code, Constant.floats) if slot == 0 else Constant.floats
        made = make(np.asarray(array))
        return constants.setdefault(made, len(constants))

    operations = []
    for number, step in enumerate(steps):
        for value in [*step.params]:
            if not -(2**31) <= value < 2**31:
                raise PackedError(f"operation {number} ({step.title}): {value} is too large for the packed format")
        operations.append(
            Operation(
                step.code,
                tuple(-1 if value is None else index[value] for value in step.values),
                tuple(constant(step, slot, array) for slot, array in enumerate(step.constants)),
                tuple(int(value) for value in step.params),
                tuple(float(value) for value in step.floats),
            )
        )
    own["layers"] = [_layer(number, step, slot, index) for number, step in enumerate(steps) for slot in step.readers]
    return Program(values, tuple(constants), tuple(operations), arena, {**own, **metadata})


def _layer(number: int, step: Step, slot: int, index: Mapping[Buffer, int]) -> dict[str, Any]:
    """Where a layer's packed operand is and how it is laid out, for `compare`."""
    reader, buffer = step.readers[slot], step.values[slot]
    assert buffer is not None
    if step.code is Code.BCONV:
        height, width, channels, groups = step.params[:4]
        top, left, full_height, full_width = step.params[15:19]
    else:
        channels, groups, top, left, width, full_width = step.params[2], 1, 0, 0, 1, 1
        height = full_height = step.params[0] * step.params[1 if slot == 0 else 3]
    return {
        "name": reader.name,
        "call": reader.call,
        "operand": reader.operand,
        "operation": number,
        "value": index[buffer],
        "map": [height, width, channels, groups, top, left, full_height, full_width],
        "shape": list(reader.shape),
        "axes": list(reader.axes),
        "repeat": reader.repeat,
    }
