"""Larq Compute Engine beside the packed engine: its files written without TensorFlow, and run by its interpreter.

Needs the packages `larq-compute-engine` and `ai-edge-litert` (both without their dependencies, but with `flatbuffers`
and NumPy below 2), on x86-64 with Python 3.10 to 3.12. `lacks` says what is missing.

`layer` is one binary convolution or a chain of them, `network` a whole ResNet of basic blocks. Both pad with +1, which
every mode of LceBconv2d takes. A convolution with stride is padded before it is quantized and has no padding of its
own, since TensorFlow's "SAME" shifts its windows; so a file computes what PyTorch's model with ``padding_value=1``
does.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bibench.nn.layers import BinaryConv2d

__all__ = ["MODES", "Prepared", "lacks", "layer", "network"]

MODES: Mapping[str, tuple[bool, bool, bool]] = {
    "default": (False, False, False),
    "indirect": (False, True, False),
    "indirect + XNNPACK": (False, True, True),
}
"""The interpreter's switches: reference kernels, indirect matrix product, XNNPACK."""

_PACKAGE = "larq-compute-engine"
_MODULE = "larq_compute_engine/tflite/python/interpreter_wrapper_lite"
Array = np.ndarray[Any, Any]


def lacks() -> str | None:
    """Why it can't be measured here; None where it can."""
    try:
        _interpreter()
        _schema()
    except (ImportError, PackageNotFoundError) as error:
        return f"{type(error).__name__}: {error}"
    return None


@functools.cache
def _interpreter() -> Any:
    """The compiled module, loaded on its own: the package around it imports TensorFlow."""
    files = distribution(_PACKAGE).files or []
    found = [file for file in files if str(file).startswith(_MODULE) and file.suffix in (".so", ".pyd")]
    if not found:
        raise ImportError(f"{_PACKAGE} has no {_MODULE}")
    if int(np.__version__.partition(".")[0]) >= 2:  # it would crash on its first array
        raise ImportError(f"{_PACKAGE} needs NumPy below 2, found {np.__version__}")
    spec = importlib.util.spec_from_file_location("interpreter_wrapper_lite", found[0].locate())
    if spec is None or spec.loader is None:
        raise ImportError(f"{found[0]} can't be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _schema() -> Any:
    importlib.import_module("flatbuffers.flexbuffers")
    return importlib.import_module("ai_edge_litert.schema_py_generated")


class Prepared:
    """A file in LCE's interpreter.

    Args:
        content: the file.
        mode: one of `MODES`.
        threads: of the interpreter.
    """

    def __init__(self, content: bytes, mode: str, threads: int = 1) -> None:
        self._interpreter = _interpreter().LiteInterpreter(content, threads, *MODES[mode])

    def on(self, x: Array) -> Callable[[], Array]:
        """A call on an input. Input and output are copied in it."""
        interpreter, inputs = self._interpreter, [np.ascontiguousarray(x, np.float32)]

        def call() -> Array:
            output: Array = interpreter.predict(inputs)[0]
            return output

        return call

    def on_image(self, x: Tensor) -> Tensor:
        """The output for an input with its channels first."""
        return torch.from_numpy(self.on(x.movedim(1, -1).numpy())())


class _File:
    """A TFLite file in the making; tensors are numbers of its table."""

    def __init__(self) -> None:
        self.schema = _schema()
        self.buffers: list[Any] = [self.schema.BufferT()]
        self.tensors: list[Any] = []
        self.shapes: list[tuple[int, ...]] = []
        self.operators: list[Any] = []
        self.codes: list[Any] = []
        self.known: dict[Any, int] = {}

    def tensor(self, shape: Sequence[int], *, bits: bool = False, data: Array | None = None) -> int:
        """A float32 tensor, or int32 for bits; a constant with data."""
        schema = self.schema
        integers = bits or (data is not None and data.dtype == np.int32)
        found = schema.TensorT(shape=[int(side) for side in shape], name=f"t{len(self.tensors)}", hasRank=True)
        found.type = schema.TensorType.INT32 if integers else schema.TensorType.FLOAT32
        if data is not None:
            raw = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            found.buffer = len(self.buffers)
            self.buffers.append(schema.BufferT(data=raw))
        self.tensors.append(found)
        self.shapes.append(tuple(shape))
        return len(self.tensors) - 1

    def constant(self, data: Array) -> int:
        """A constant of float32 or int32."""
        return self.tensor(data.shape, data=data)

    def add(
        self, name: str, inputs: Sequence[int], output: int, options: Any = None, custom: bytes | None = None
    ) -> int:
        """An operator: one of TFLite's by its name in capitals, or one of LCE's."""
        schema = self.schema
        if name not in self.known:
            builtin = schema.BuiltinOperator.CUSTOM if name.startswith("Lce") else getattr(schema.BuiltinOperator, name)
            code = schema.OperatorCodeT(deprecatedBuiltinCode=min(builtin, 127), builtinCode=builtin, version=1)
            code.customCode = name.encode() if name.startswith("Lce") else None
            self.known[name] = len(self.codes)
            self.codes.append(code)
        operator = schema.OperatorT(opcodeIndex=self.known[name], inputs=list(inputs), outputs=[output])
        if options is not None:
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        if custom is not None:
            operator.customOptions = list(custom)
        self.operators.append(operator)
        return output

    def content(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        """The file."""
        flatbuffers = importlib.import_module("flatbuffers")
        graph = self.schema.SubGraphT(
            tensors=self.tensors, inputs=list(inputs), outputs=list(outputs), operators=self.operators, name="main"
        )
        model = self.schema.ModelT(version=3, operatorCodes=self.codes, subgraphs=[graph], buffers=self.buffers)
        model.description = "bibench"
        builder = flatbuffers.Builder(1 << 20)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())

    # -------------------------------------------------------------------------------------------------- operators

    def quantize(self, x: int) -> int:
        """Signs, packed."""
        *sides, channels = self.shapes[x]
        return self.add("LceQuantize", [x], self.tensor([*sides, -(-channels // 32)], bits=True), custom=b"")

    def binary(
        self,
        bits: int,
        negative: Array,
        factor: Array,
        offset: Array,
        *,
        stride: int = 1,
        same: bool = True,
        to_bits: bool = False,
    ) -> int:
        """LceBconv2d, to floats ``sum·factor + offset`` or to their signs.

        Args:
            bits: packed input.
            negative: [O, KH, KW, C], true where the weight is -1.
            factor, offset: one an output channel.
            stride: both ways.
            same: padded with +1 so that the size stays; without padding otherwise.
            to_bits: packed output.
        """
        outputs, height, width, channels = negative.shape
        _, rows, columns, _ = self.shapes[bits]
        if not same:
            rows, columns = rows - height + 1, columns - width + 1
        sides = [1, -(-rows // stride), -(-columns // stride)]
        lce_options = {
            "channels_in": channels,
            "dilation_height_factor": 1,
            "dilation_width_factor": 1,
            "fused_activation_function": 0,
            "pad_values": 1,
            "padding": 0 if same else 1,
            "stride_height": stride,
            "stride_width": stride,
        }
        if not to_bits:
            inputs = [bits, self.constant(_packed(negative)), self.constant(factor), self.constant(offset), -1]
            return self.add("LceBconv2d", inputs, self.tensor([*sides, outputs]), custom=_flexible(lce_options))
        # The sign of (K - 2·acc)·factor + offset, where acc counts the products that are -1.
        flip = factor < 0
        taps = height * width * channels
        threshold = np.floor((taps + offset.astype(np.float64) / np.abs(factor)) / 2)
        inputs = [
            bits,
            self.constant(_packed(negative ^ flip[:, None, None, None])),
            -1,
            -1,
            self.constant(threshold.astype(np.int32)),
        ]
        output = self.tensor([*sides, -(-outputs // 32)], bits=True)
        return self.add("LceBconv2d", inputs, output, custom=_flexible(lce_options))

    def padded(self, x: int, by: int, value: float) -> int:
        """A frame around a map."""
        batch, height, width, channels = self.shapes[x]
        pads = self.constant(np.array([[0, 0], [by, by], [by, by], [0, 0]], np.int32))
        output = self.tensor([batch, height + 2 * by, width + 2 * by, channels])
        if value == 0:
            return self.add("PAD", [x, pads], output, self.schema.PadOptionsT())
        return self.add(
            "PADV2", [x, pads, self.constant(np.array([value], np.float32))], output, self.schema.PadV2OptionsT()
        )

    def convolution(self, x: int, weight: Tensor, factor: Array, offset: Array, stride: int, activation: int) -> int:
        """CONV_2D without padding, its factor folded into the weight."""
        kernel = (weight.detach().double().numpy() * factor[:, None, None, None]).astype(np.float32)
        kernel = kernel.transpose(0, 2, 3, 1)
        _, height, width, _ = self.shapes[x]
        sides = [(side - size) // stride + 1 for side, size in zip((height, width), kernel.shape[1:3], strict=True)]
        options = self.schema.Conv2DOptionsT(
            padding=self.schema.Padding.VALID,
            strideH=stride,
            strideW=stride,
            fusedActivationFunction=activation,
            dilationHFactor=1,
            dilationWFactor=1,
        )
        inputs = [x, self.constant(kernel), self.constant(offset)]
        return self.add("CONV_2D", inputs, self.tensor([1, *sides, len(kernel)]), options)

    def sum(self, a: int, b: int, activation: int) -> int:
        """Elementwise."""
        options = self.schema.AddOptionsT(fusedActivationFunction=activation)
        return self.add("ADD", [a, b], self.tensor(self.shapes[a]), options)

    def corner(self, x: int) -> int:
        """One pixel: a file's output is copied by the interpreter, and a whole map's copy would count."""
        begin, size = (np.array(value, np.int32) for value in ([0, 0, 0, 0], [1, 1, 1, self.shapes[x][3]]))
        output = self.tensor([1, 1, 1, self.shapes[x][3]])
        return self.add("SLICE", [x, self.constant(begin), self.constant(size)], output, self.schema.SliceOptionsT())


def _packed(negative: Array) -> Array:
    """Channels, innermost, into 32-bit words, least significant bit first."""
    channels = negative.shape[-1]
    padded = np.concatenate([negative, np.zeros((*negative.shape[:-1], -channels % 32), bool)], -1)
    found: Array = np.packbits(padded, axis=-1, bitorder="little").view("<i4")
    return found


def _flexible(options: Mapping[str, int]) -> bytes:
    flexbuffers: Any = importlib.import_module("flatbuffers.flexbuffers")
    builder = flexbuffers.Builder()
    with builder.Map():
        for key in sorted(options):
            builder.Int(key, options[key])
    return bytes(builder.Finish())


def layer(negative: Array, factor: Array, offset: Array, size: int, repeats: int = 1, *, whole: bool = False) -> bytes:
    """Binary convolutions on a square map of floats, their size kept.

    Args:
        negative: [O, KH, KW, C], true where the weight is -1.
        factor, offset: one an output channel.
        size: side of the map.
        repeats: with more than 1, a chain of layers with a residual addition and a clamp behind each.
        whole: put out the map, for comparing; else only one pixel of it, for timing.
    """
    file = _File()
    clamp = file.schema.ActivationFunctionType.RELU_N1_TO_1
    x = given = file.tensor([1, size, size, negative.shape[-1]])
    for _ in range(repeats):
        y = file.binary(file.quantize(x), negative, factor, offset)
        x = file.sum(y, x, clamp) if repeats > 1 else y
    return file.content([given], [x if whole else file.corner(x)])


def network(model: nn.Module, size: int) -> bytes:
    """A torchvision ResNet of basic blocks, binarized by an algorithm with thresholds at 0 and ``padding_value=1``.

    Batch normalisations are folded. The first of a block's convolutions gives bits alone where its block has a skip
    past both, as LCE's own converter arranges it.
    """
    file = _File()
    kinds = file.schema.ActivationFunctionType
    parts: Any = model
    given = file.tensor([1, size, size, 3])
    factor, offset = _folded(parts.bn1)
    x = file.padded(given, 3, 0.0)
    x = file.convolution(x, parts.conv1.weight, factor, offset, 2, kinds.RELU_N1_TO_1)
    side = file.shapes[x][1]
    pooled = file.schema.Pool2DOptionsT(
        padding=file.schema.Padding.VALID, strideW=2, strideH=2, filterWidth=3, filterHeight=3
    )
    x = file.padded(x, 1, -1.0)  # not above anything that is clamped to -1
    x = file.add("MAX_POOL_2D", [x], file.tensor([1, (side - 1) // 2 + 1, (side - 1) // 2 + 1, 64]), pooled)
    for stage in (parts.layer1, parts.layer2, parts.layer3, parts.layer4):
        for block in stage:
            x = _block(file, block, x)
    channels = file.shapes[x][3]
    axes = file.constant(np.array([1, 2], np.int32))
    x = file.add("MEAN", [x, axes], file.tensor([1, channels]), file.schema.ReducerOptionsT(keepDims=False))
    weight, bias = (value.detach().numpy() for value in (parts.fc.weight, parts.fc.bias))
    options = file.schema.FullyConnectedOptionsT(fusedActivationFunction=kinds.NONE)
    output = file.tensor([1, len(weight)])
    file.add("FULLY_CONNECTED", [x, file.constant(weight), file.constant(bias)], output, options)
    return file.content([given], [output])


def _block(file: _File, block: Any, x: int) -> int:
    """Two binary convolutions, with one skip past both or one past each."""
    kinds = file.schema.ActivationFunctionType
    each = type(block).__name__ != "BasicBlock"
    skip = x
    if block.downsample is not None:
        convolution, norm = block.downsample
        skip = file.convolution(x, convolution.weight, *_folded(norm), convolution.stride[0], kinds.NONE)
    stride = block.conv1.stride[0]
    bits = file.quantize(x if stride == 1 else file.padded(x, 1, 1.0))
    y = file.binary(bits, *_binary(block.conv1, block.bn1), stride=stride, same=stride == 1, to_bits=not each)
    if each:
        skip = file.sum(y, skip, kinds.RELU_N1_TO_1)
        y = file.quantize(skip)
    return file.sum(file.binary(y, *_binary(block.conv2, block.bn2)), skip, kinds.RELU_N1_TO_1)


def _folded(norm: nn.BatchNorm2d) -> tuple[Array, Array]:
    """Factor and offset, float32."""
    kept: Any = norm
    mean, variance, weight, bias = (
        value.detach().double().numpy() for value in (kept.running_mean, kept.running_var, kept.weight, kept.bias)
    )
    factor = weight / np.sqrt(variance + norm.eps)
    return factor.astype(np.float32), (bias - mean * factor).astype(np.float32)


def _binary(layer: BinaryConv2d, norm: nn.BatchNorm2d) -> tuple[Array, Array, Array]:
    """Weight, factor and offset of a binary convolution with what follows it."""
    if layer.spec.padding_value != 1:
        raise ValueError(f"the layer pads with {layer.spec.padding_value}, expected 1")
    factor, offset = _folded(norm)
    with torch.no_grad():
        negative = (layer.binary_weight() < 0).permute(0, 2, 3, 1).numpy()
        scale: Any = layer.scale
        declared = None if scale is None else scale.factors(layer.weight, (1, 1))
    if declared is not None:
        if declared.activation is not None or declared.positions is not None or declared.channel is None:
            raise ValueError("the layer's scale isn't one number an output channel")
        factor = (factor * declared.channel.detach().numpy().reshape(-1)).astype(np.float32)
    return negative, factor, offset
