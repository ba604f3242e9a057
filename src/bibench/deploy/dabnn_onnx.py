"""Packed programs as the ONNX files that daBNN's own converter, onnx2bnn, takes (docs/formats.md).

Each layer of the file that `bibench.deploy.dabnn` writes is a node here, or a pattern of nodes, of which the converter
makes that layer again. It finds a binary convolution by what it documents as its strict pattern: signs of a map that a
node of its own pads with -1, and weights that are signs. The BatchNormalization behind makes the sum of the count.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bibench.deploy.dabnn import write_layers
from bibench.deploy.dabnn_file import DabnnFile, Layer, Setting
from bibench.deploy.dabnn_graph import Array, Blob, DabnnGraph, Shape
from bibench.deploy.format import Program
from bibench.deploy.onnx_file import assembled, write_model
from bibench.deploy.onnx_graph import MAP, Graph
from bibench.deploy.refusals import IN_FULL_PRECISION, refuse

__all__ = ["dabnn_onnx_model", "write_dabnn_onnx"]

Settings = Mapping[str, Setting]

_OPSET, _IR = 9, 3  # the oldest that has Sign; from 11 on Pad's numbers are inputs, where the converter doesn't look
_CONVERTER = "daBNN's converter"
_EPSILON = np.float32(1e-5)
"""Of each BatchNormalization: ONNX's default, and the only one of the converter, which looks for it by another name."""


def write_dabnn_onnx(program: Program, path: Path) -> int:
    """Write a program as ONNX for daBNN's converter, atomically; the number of bytes.

    Raises:
        PackedError: what the converter doesn't take; the message names the layer.
        OSError: the file can't be written.
    """
    return write_model(dabnn_onnx_model(program), path)


def dabnn_onnx_model(program: Program) -> Any:
    """A program as an ``onnx.ModelProto`` for daBNN's converter.

    Raises:
        PackedError: what the converter doesn't take; the message names the layer.

    >>> import torch, bibench
    >>> from bibench.deploy.export import pack
    >>> layer = bibench.nn.BinaryConv2d(8, 4, 3, padding=1, padding_value=-1, bias=False, algorithm="bnn")
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(4, 8, 1), layer, torch.nn.AvgPool2d(4), torch.nn.Flatten())
    >>> [node.op_type for node in dabnn_onnx_model(pack(net, torch.randn(1, 4, 4, 4))).graph.node]
    ['Conv', 'Pad', 'Sign', 'Sign', 'Conv', 'BatchNormalization', 'AveragePool']
    """
    graph = _ConverterGraph(program)
    write_layers(graph)
    return graph.model()


class _ConverterFile(DabnnFile):
    """The layers of a file of daBNN, with constants as they are."""

    def bits(self, positive: Array) -> str:
        return self.floats(np.where(positive, 1.0, -1.0))


class _ConverterGraph(DabnnGraph):
    """A program on its way into layers that the converter can make.

    Attributes:
        shapes: of what each layer writes.
        readers: what the binary convolution of an operation writes.
    """

    def __init__(self, program: Program) -> None:
        super().__init__(program)
        self.shapes: dict[str, Shape] = {}
        self.readers: dict[int, str] = {}

    def begun(self, name: str, shape: Sequence[int]) -> DabnnFile:
        return _ConverterFile(name, shape)

    def add(self, kind: str, shape: Shape, **settings: Setting) -> Blob:
        if kind == "BinConv2D" and settings["pads"] == (0, 0, 0, 0):
            why = "finds binary convolutions by the -1 that is put around their signs, and this one pads nothing"
            refuse(self.program, self.number, _CONVERTER, why, IN_FULL_PRECISION)
        blob = super().add(kind, shape, **settings)
        self.shapes[blob.name] = shape
        if kind == "BinConv2D":
            self.readers[self.number] = blob.name
        return blob

    def sum(self, blob: Blob, other: str) -> Blob:
        if other in self.file.constants:
            why = "has binary convolutions that are padded with -1 alone, and adds no constants that correct another"
            refuse(self.program, self.number, _CONVERTER, why, "binarize with padding_value=-1, or export to 'dabnn'")
        return super().sum(blob, other)

    def model(self) -> Any:
        """All layers, as an ``onnx.ModelProto``."""
        from onnx import TensorProto, helper

        def port(name: str, shape: Shape) -> Any:
            height, width, channels = shape
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, channels, height, width))

        names = self.outputs()
        given, (_, height, width, channels) = self.file.input
        nodes = _Nodes(self.file, names)
        for layer in self.file.layers:
            nodes.add(layer)
        constants = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, array.shape)
            for name, array in nodes.graph.constants.items()
        ]  # which are inputs too for the converter's reader
        return assembled(
            nodes.graph,
            self.program,
            [port(given, (height, width, channels)), *constants],
            [port(name, self.shapes[blob]) for blob, name in names.items()],
            ir=_IR,
            opsets={"": _OPSET},
            layers=self._layers(nodes.read),
        )

    def _layers(self, read: Mapping[str, str]) -> list[dict[str, Any]]:
        """The binary layers, with the tensors whose signs are their operands."""
        found = []
        for at in self.program.metadata["layers"]:
            where = {"tensor": read[self.readers[at["operation"]]], "order": MAP}
            found.append({key: at[key] for key in ("name", "call", "operand")} | where)
        return found


def _chosen(settings: Settings, *names: str) -> dict[str, Any]:
    """Some settings as attributes; ONNX has the left pads in the place of daBNN's right ones, which are the same."""
    return {name: settings[name] for name in names}


class _Nodes:
    """Layers of daBNN on their way into ONNX.

    Args:
        file: what holds the constants.
        names: other names for what layers write.

    Attributes:
        graph: the nodes.
        read: the tensors whose signs each binary convolution takes, by the name of what it writes.
    """

    def __init__(self, file: DabnnFile, names: Mapping[str, str]) -> None:
        self.graph = Graph()
        self.read: dict[str, str] = {}
        self._file, self._names = file, names
        self._tensors = {name: self.graph.name(name) for name in (file.input[0], *names.values())}
        self._taps: dict[str, int] = {}  # products in each count that a binary convolution writes

    def add(self, layer: Layer) -> None:
        """The nodes of a layer."""
        self.graph.title = layer.title
        made, output = _NODES[layer.kind](self, layer.settings), str(layer.settings["output"])
        if output in self._names:
            self.graph.rename(made, self._names[output])
        self._tensors[output] = self._names.get(output, made)

    def _given(self, settings: Settings, which: str = "input") -> str:
        return self._tensors[str(settings[which])]

    def _array(self, settings: Settings, which: str) -> Array:
        constant = self._file.constants[str(settings[which])]
        return constant.content.reshape(constant.shape)

    def convolution(self, settings: Settings) -> str:
        weight = self.graph.constant(self._array(settings, "weight").transpose(0, 3, 1, 2), "weight")
        bias = [self.graph.constant(self._array(settings, "bias"), "bias")] if "bias" in settings else []
        return self.graph.node(
            "Conv",
            self._given(settings),
            weight,
            *bias,
            **_chosen(settings, "pads", "strides", "dilations"),
        )

    def binary_convolution(self, settings: Settings) -> str:
        weight, output = self._array(settings, "weight").transpose(0, 3, 1, 2), str(settings["output"])
        self._taps[output] = weight[0].size
        self.read[output] = self._given(settings)
        chosen = _chosen(settings, "pads", "strides", "dilations")
        top, right, bottom, left = chosen.pop("pads")
        padded = self.graph.node("Pad", self.read[output], pads=(0, 0, top, left, 0, 0, bottom, right), value=-1.0)
        operands = (self.graph.node("Sign", x) for x in (padded, self.graph.constant(weight, "weight")))
        return self.graph.node("Conv", *operands, **chosen)

    def affine(self, settings: Settings) -> str:
        factor, shift = (self._array(settings, name).astype(np.float64) for name in "ab")
        taps = self._taps.get(str(settings["input"]))
        if taps is not None:  # the sum s here is a count (taps - s) / 2 there
            factor, shift = -factor / 2, shift + factor * taps / 2
        zeros = np.zeros(len(factor))
        numbers = ((factor, "scale"), (shift, "shift"), (zeros, "mean"), (zeros + (1 - _EPSILON), "variance"))
        return self.graph.node(
            "BatchNormalization",
            self._given(settings),
            *(self.graph.constant(array, name) for array, name in numbers),
            epsilon=float(_EPSILON),
        )

    def pool(self, settings: Settings, op: str) -> str:
        return self.graph.node(op, self._given(settings), **_chosen(settings, "kernel_shape", "pads", "strides"))

    def sum(self, settings: Settings) -> str:
        return self.graph.node("Add", self._given(settings, "input1"), self._given(settings, "input2"))

    def relu(self, settings: Settings) -> str:
        return self.graph.node("Relu", self._given(settings))

    def prelu(self, settings: Settings) -> str:
        slope = self._array(settings, "slope").reshape(-1, 1, 1)
        return self.graph.node("PRelu", self._given(settings), self.graph.constant(slope, "slope"))


_NODES: Mapping[str, Callable[[_Nodes, Settings], str]] = {
    "Add": _Nodes.sum,
    "Affine": _Nodes.affine,
    "AvePool": partial(_Nodes.pool, op="AveragePool"),
    "BinConv2D": _Nodes.binary_convolution,
    "FpConv2D": _Nodes.convolution,
    "MaxPool": partial(_Nodes.pool, op="MaxPool"),
    "PRelu": _Nodes.prelu,
    "Relu": _Nodes.relu,
}
"""What writes each kind of layer."""
