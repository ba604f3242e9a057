"""Packed programs as ONNX files: plain ones that every runtime takes, and QONNX's (docs/formats.md)."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bibench.deploy.format import PackedError, Program
from bibench.deploy.onnx_graph import Array, Graph
from bibench.deploy.onnx_operations import Dialect, Translation
from bibench.deploy.onnx_packed import DOMAIN, PackedTranslation
from bibench.files import write_bytes

__all__ = [
    "METADATA",
    "ONNX",
    "PACKED",
    "QONNX",
    "assembled",
    "onnx_lacks",
    "onnx_model",
    "write_model",
    "write_onnx",
    "write_onnx_packed",
    "write_qonnx",
]

METADATA = "bibench"
"""Key of what the file says of itself, as JSON, among the model's properties."""
_OPSET, _IR = 17, 8  # the oldest that has LayerNormalization; runtimes since 2022 take them
_MOST_BYTES = 2**31 - 1  # of a protobuf message
_BIPOLAR = "qonnx.custom_op.general"


def onnx_lacks() -> str | None:
    """What is missing to write ONNX files; None where nothing is."""
    if importlib.util.find_spec("onnx") is None:
        return "the package onnx is missing; install it by: python -m pip install 'bibench[onnx]'"
    return None


def _compared(graph: Graph, x: str, threshold: Array | None, kind: int) -> str:
    """+1 where ``x >= threshold``, else -1; or 1 and 0. ONNX's own Sign has sign(0) = 0."""
    limit = graph.constant(np.zeros(()) if threshold is None else threshold, "threshold")
    upper = graph.node("GreaterOrEqual", x, limit)
    if kind == 1:
        return graph.node("Cast", upper, to=1)
    return graph.node("Where", upper, graph.constant(np.ones(())), graph.constant(-np.ones(())))


def _bipolar(graph: Graph, x: str, threshold: Array | None, kind: int) -> str:
    """The same by BipolarQuant; a difference of floats is never rounded to 0, nor over it."""
    if threshold is not None:
        x = graph.node("Sub", x, graph.constant(threshold, "threshold"))
    if kind == 0:
        return _bipolar_quant(graph, x, 1.0)
    return graph.node("Add", _bipolar_quant(graph, x, 0.5), graph.constant(np.full((), 0.5)))


def _bipolar_quant(graph: Graph, x: str, scale: float) -> str:
    return graph.node("BipolarQuant", x, graph.constant(np.full((), scale), "scale"), domain=_BIPOLAR)


ONNX = Dialect(
    domains={},
    operand=_compared,
    weight=lambda graph, weight: graph.constant(weight, "weight"),
    # Nothing to an integer; it keeps a runtime's optimiser from folding the scale behind into the weights, and makes
    # sums whole again where a runtime computes them by way of a transform.
    product=lambda graph, x: graph.node("Round", x),
)
QONNX = Dialect(
    domains={_BIPOLAR: 1},
    operand=_bipolar,
    weight=lambda graph, weight: _bipolar_quant(graph, graph.constant(weight, "weight"), 1.0),
    product=lambda graph, x: x,
)
PACKED = Dialect({DOMAIN: 1}, ONNX.operand, ONNX.weight, ONNX.product)


def write_onnx(program: Program, path: Path) -> int:
    """Write a program as plain ONNX; the number of bytes.

    Raises:
        PackedError: a layer that can't be expressed, or a model of more than 2 GiB.
    """
    return write_model(onnx_model(program, ONNX), path)


def write_qonnx(program: Program, path: Path) -> int:
    """Write a program as ONNX whose binary weights and activations are QONNX's BipolarQuant; the number of bytes.

    Raises:
        PackedError: as `write_onnx`.
    """
    return write_model(onnx_model(program, QONNX), path)


def write_onnx_packed(program: Program, path: Path) -> int:
    """Write a program as ONNX whose binary layers are nodes of our own, with packed weights; the number of bytes.

    Raises:
        PackedError: as `write_onnx`.
    """
    return write_model(onnx_model(program, PACKED, PackedTranslation), path)


def write_model(model: Any, path: Path) -> int:
    """Write an ``onnx.ModelProto`` atomically; the number of bytes.

    Raises:
        PackedError: a model of more than 2 GiB.
    """
    size: int = model.ByteSize()
    if size > _MOST_BYTES:
        raise PackedError(
            f"the model takes {size:,} bytes as ONNX, whose files hold {_MOST_BYTES:,} at most: export it as 'packed'"
        )
    return write_bytes(path, model.SerializeToString(deterministic=True))


def onnx_model(program: Program, dialect: Dialect, how: type[Translation] = Translation) -> Any:
    """A program as an ``onnx.ModelProto``.

    Args:
        program: what to write.
        dialect: how to write what is binary.
        how: what turns operations into nodes.

    Raises:
        PackedError: a layer that can't be expressed.
    """
    from onnx import TensorProto, helper

    made = how(program, dialect)
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    inputs, outputs = (
        [
            helper.make_tensor_value_info(name, types[port["dtype"]], ["batch", *port["shape"]])
            for name, port in zip(names, program.metadata[kind], strict=True)
        ]
        for names, kind in ((made.inputs, "inputs"), (made.outputs, "outputs"))
    )
    model = assembled(
        made.graph, program, inputs, outputs, ir=_IR, opsets={"": _OPSET, **dialect.domains}, layers=made.layers()
    )
    if _BIPOLAR in dialect.domains:
        model.functions.append(_bipolar_function())
    return model


def assembled(
    graph: Graph,
    program: Program,
    inputs: Sequence[Any],
    outputs: Sequence[Any],
    *,
    ir: int,
    opsets: Mapping[str, int],
    layers: Sequence[Mapping[str, Any]],
) -> Any:
    """A graph as an ``onnx.ModelProto``.

    Args:
        graph: nodes and constants.
        program: what they were made of.
        inputs, outputs: of the model, as ``onnx.ValueInfoProto``.
        ir: version of the format.
        opsets: versions of the operator sets.
        layers: the tensors that hold each binary layer's operand.
    """
    from onnx import helper, numpy_helper

    nodes = [
        helper.make_node(node.op, node.inputs, node.outputs, node.outputs[0], domain=node.domain, **node.attributes)
        for node in graph.nodes
    ]
    constants = [
        numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        for name, array in graph.constants.items()
    ]
    model = helper.make_model(
        helper.make_graph(nodes, program.metadata["model"], inputs, outputs, constants),
        ir_version=ir,
        opset_imports=[helper.make_opsetid(*opset) for opset in opsets.items()],
        producer_name="bibench",
        producer_version=version("bibench"),
    )
    # what a packed file says of itself, with these layers in the place of its own
    about = {key: value for key, value in program.metadata.items() if key not in ("operations", "layers")}
    helper.set_model_props(model, {METADATA: json.dumps(about | {"layers": layers}, ensure_ascii=False)})
    return model


def _bipolar_function() -> Any:
    """What BipolarQuant computes, for runtimes that don't know it."""
    from onnx import helper, numpy_helper

    def constant(name: str, value: float) -> Any:
        return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.float32(value).reshape(())))

    nodes = [
        constant("zero", 0.0),
        constant("upper", 1.0),
        constant("lower", -1.0),
        helper.make_node("GreaterOrEqual", ["x", "zero"], ["positive"]),
        helper.make_node("Where", ["positive", "upper", "lower"], ["sign"]),
        helper.make_node("Mul", ["sign", "scale"], ["y"]),
    ]
    opset = [helper.make_opsetid("", _OPSET)]
    return helper.make_function(_BIPOLAR, "BipolarQuant", ["x", "scale"], ["y"], nodes, opset)
