"""What daBNN's converter, onnx2bnn, makes of an ONNX file, by its documentation and the rules of its sources.

First it looks for binary convolutions among the nodes, then it goes from node to node. What it stops at is a `Refused`
here. Operators that it has and this package doesn't write (Gemm, Softmax, Concat, ...) are left out.
"""

import numpy as np
from dabnn_interpreter import DabnnNet
from onnx import helper, numpy_helper


class Refused(Exception):
    """The converter stops."""


def need(condition, why):
    if not condition:
        raise Refused(why)


def attributes(node):
    return {one.name: helper.get_attribute_value(one) for one in node.attribute}


class Converted(DabnnNet):
    """The network that the converter writes, in the place of a loaded file.

    Args:
        model: the ONNX model.
    """

    def __init__(self, model):
        graph = model.graph
        constants = {one.name: numpy_helper.to_array(one) for one in graph.initializer}
        self.floats = {name: array for name, array in constants.items() if array.dtype == np.float32}
        ports = [port for port in graph.input if port.name not in constants]
        need(len(ports) == 1, "has one input")
        sizes = ports[0].type.tensor_type.shape.dim
        need(all(one.HasField("dim_value") for one in sizes), "The input of graph doesn't have dim_value")
        need(len(sizes) == 4, "the input is a map")
        batch, channels, height, width = (one.dim_value for one in sizes)
        self.input, self.shape = ports[0].name, (batch, height, width, channels)
        self._check_names(graph)
        self.constants, self.layers = {}, []
        nodes, self.counts = self._binary_convolutions(self._without_empty_pads(graph.node))
        self.known = {self.input}
        for node in nodes:
            write = getattr(self, f"add_{node.op_type}", None)
            need(write is not None and node.domain in ("", "dabnn"), f"Unsupported operator {node.op_type}")
            write(node, attributes(node))
            self.known.add(node.output[0])

    @staticmethod
    def _check_names(graph):
        """Its reader finds a node's inputs among the graph's, constants too, and what nodes before it write."""
        known = {port.name for port in graph.input}
        for node in graph.node:
            for name in node.input:
                need(name in known, f"{name} is undefined")
            known.update(node.output)

    @staticmethod
    def _without_empty_pads(nodes):
        """Paddings that add nothing are dropped, before anything looks for them."""
        instead, kept = {}, []
        for node in nodes:
            inputs = [instead.get(name, name) for name in node.input]
            if node.op_type == "Pad" and all(pad <= 0 for pad in attributes(node).get("pads", [1])):
                instead[node.output[0]] = inputs[0]
                continue
            other = type(node)()
            other.CopyFrom(node)
            other.input[:] = inputs
            kept.append(other)
        return kept

    @staticmethod
    def _binary_convolutions(nodes):
        """The strict pattern, which each of its levels looks for: Conv(Sign(Pad(x, -1)), Sign(weight))."""
        by_output = {node.output[0]: node for node in nodes}
        dropped, counts = set(), {}
        for node in nodes:
            if node.op_type != "Conv" or node.input[0] not in by_output or node.input[1] not in by_output:
                continue
            sign, weight = (by_output[name] for name in node.input[:2])
            pad = by_output.get(sign.input[0])
            if (sign.op_type, weight.op_type) != ("Sign", "Sign") or pad is None or pad.op_type != "Pad":
                continue
            settings, around = attributes(node), attributes(pad)
            pads = around.get("pads", [1] * 8)  # of later opsets, it doesn't see them
            if (
                any(settings.get("pads", []))
                or around.get("mode", b"constant") != b"constant"
                or around.get("value", 0.0) != -1
                or any(pads[i] for i in (0, 1, 4, 5))
            ):
                continue
            node.domain = "dabnn"
            node.input[0], node.input[1] = pad.input[0], weight.input[0]
            node.attribute.append(helper.make_attribute("pads", [*pads[2:4], *pads[6:8]]))
            dropped.update((sign.output[0], pad.output[0], weight.output[0]))
            counts[node.output[0]] = node.input[1]
        return [node for node in nodes if node.output[0] not in dropped], counts

    # ------------------------------------------------------------------------------------------------------- nodes

    def _constant(self, name, array):
        self.constants[name] = array
        return name

    def _layer(self, kind, node, **settings):
        for name in ("input", "input1", "input2"):
            need(settings.get(name, self.input) in self.known, f"{settings.get(name)} is no map")
        self.layers.append((kind, settings | {"output": node.output[0]}, node.name))

    def add_Conv(self, node, settings):
        need(settings.get("group", 1) == 1, "group != 1 is not supported")
        need(node.input[1] in self.floats, f"{node.input[1]} is no constant")
        binary, output = node.domain == "dabnn", node.output[0]
        need(not binary or len(node.input) == 2, "drops a binary convolution's bias")
        weight = self.floats[node.input[1]].transpose(0, 2, 3, 1)
        bias = {"bias": self._constant(f"{output}_conv_b", self.floats[node.input[2]])} if node.input[2:] else {}
        self._layer(
            "BinConv2D" if binary else "FpConv2D",
            node,
            input=node.input[0],
            weight=self._constant(f"{output}_conv_w", weight > 0 if binary else weight),
            pads=tuple(settings.get("pads", (0, 0, 0, 0))),
            strides=tuple(settings.get("strides", (1, 1))),
            dilations=tuple(settings.get("dilations", (1, 1))),
            **bias,
        )

    def add_BatchNormalization(self, node, settings):
        x, output = node.input[0], node.output[0]
        scale, shift, mean, variance = (self.floats[name] for name in node.input[1:])
        root = np.sqrt(variance + np.float32(1e-5))  # its attribute has another name than the one that is looked for
        a, b = scale / root, shift - scale * mean / root
        if x in self.counts:
            a, b = a * np.float32(-2), b + np.float32(self.floats[self.counts[x]][0].size) * a
        need(a.dtype == b.dtype == np.float32, "computes in float32")
        self._layer("Affine", node, input=x, a=self._constant(f"{output}_a", a), b=self._constant(f"{output}_b", b))

    def _pool(self, kind, node, settings):
        for name in ("count_include_pad", "storage_order", "auto_pad"):
            need(not settings.get(name), f"{name} is not supported")
        sizes = {name: tuple(settings[name]) for name in ("kernel_shape", "pads", "strides")}
        self._layer(kind, node, input=node.input[0], **sizes)

    def add_AveragePool(self, node, settings):
        self._pool("AvePool", node, settings)

    def add_MaxPool(self, node, settings):
        self._pool("MaxPool", node, settings)

    def add_Relu(self, node, settings):
        self._layer("Relu", node, input=node.input[0])

    def add_PRelu(self, node, settings):
        slope = self.floats[node.input[1]]
        need(slope.ndim == 3 and slope.shape[1:] == (1, 1), "PRelu has a slope for each channel")
        self._layer("PRelu", node, input=node.input[0], slope=self._constant(f"{node.output[0]}_slope", slope[:, 0, 0]))

    def add_Add(self, node, settings):
        self._layer("Add", node, input1=node.input[0], input2=node.input[1])


def resolved(net):
    """A network's layers with what they read in the place of names: constants, and numbers of layers."""
    written, found = {net.input: -1}, []
    for number, (kind, settings, _) in enumerate(net.layers):
        entry = {}
        for name, value in settings.items():
            known = isinstance(value, str) and name != "output"
            entry[name] = (net.constants[value] if value in net.constants else written[value]) if known else value
        written[entry.pop("output")] = number
        found.append((kind, entry))
    return net.shape, found


def assert_same(net, other):
    """Two networks with the same layers and numbers, by whatever names."""
    (shape, left), (other_shape, right) = resolved(net), resolved(other)
    assert shape == other_shape
    assert [kind for kind, _ in left] == [kind for kind, _ in right]
    for (kind, settings), (_, others) in zip(left, right, strict=True):
        assert settings.keys() == others.keys(), kind
        for name, value in settings.items():
            assert np.array_equal(value, others[name]), (kind, name)
