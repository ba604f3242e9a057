"""TensorFlow Lite files, written without TensorFlow: tensors and operators become the format's tables.

Numbers of operators, options and fields are those of TensorFlow Lite's schema, version 3. Operators whose names begin
with ``Lce`` are Larq Compute Engine's; their options are a FlexBuffers map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from flatbuffers import flexbuffers

from bibench.deploy.flatbuffer import Field, numbers, offsets, table

__all__ = ["ACTIVATIONS", "SAME", "VALID", "TFLiteFile"]

Array = npt.NDArray[Any]

SAME, VALID = 0, 1
ACTIVATIONS: Mapping[tuple[float, float], tuple[int, str]] = {
    (0.0, float("inf")): (1, "RELU"),
    (-1.0, 1.0): (2, "RELU_N1_TO_1"),
    (0.0, 6.0): (3, "RELU6"),
}
"""Clamps that other operators can do on their way: number of the activation, and the operator that does it alone."""

_TYPES = {np.dtype(np.float32): 0, np.dtype(np.int32): 2, np.dtype(np.int64): 4}
_ALIGNMENT = 16  # of constants, which kernels read where they are
_CUSTOM = 32
_LAST_OLD_CODE = 127  # a field of one byte holds codes up to this; newer ones are in a field of their own


@dataclass(frozen=True)
class _Operator:
    """An operator of the schema: its number, that of its table of options, and type and slot of each option."""

    code: int
    options: int = 0
    fields: Mapping[str, tuple[str, int]] = field(default_factory=dict)


_FUSED = {"activation": ("Int8", 0)}
_WINDOW = {"padding": ("Int8", 0), "stride_width": ("Int32", 1), "stride_height": ("Int32", 2)}
_POOL = {**_WINDOW, "filter_width": ("Int32", 3), "filter_height": ("Int32", 4)}
_OPERATORS: Mapping[str, _Operator] = {
    "ABS": _Operator(101),
    "ADD": _Operator(0, 11, _FUSED),
    "AVERAGE_POOL_2D": _Operator(1, 5, _POOL),
    "BATCH_MATMUL": _Operator(126, 101, {"adj_y": ("Bool", 1)}),
    "CONCATENATION": _Operator(2, 10, {"axis": ("Int32", 0)}),
    "CONV_2D": _Operator(
        3,
        1,
        {**_WINDOW, "activation": ("Int8", 3), "dilation_width": ("Int32", 4), "dilation_height": ("Int32", 5)},
    ),
    "DEPTHWISE_CONV_2D": _Operator(
        4,
        2,
        {
            **_WINDOW,
            "multiplier": ("Int32", 3),
            "activation": ("Int8", 4),
            "dilation_width": ("Int32", 5),
            "dilation_height": ("Int32", 6),
        },
    ),
    "DIV": _Operator(42, 29, _FUSED),
    "EXP": _Operator(47),
    "GATHER": _Operator(36, 23),
    "GELU": _Operator(150, 116, {"approximate": ("Bool", 0)}),
    "HARD_SWISH": _Operator(117),
    "LEAKY_RELU": _Operator(98, 75, {"alpha": ("Float32", 0)}),
    "LOGISTIC": _Operator(14),
    "MAXIMUM": _Operator(55),
    "MAX_POOL_2D": _Operator(17, 5, _POOL),
    "MEAN": _Operator(40, 27, {"keep_dims": ("Bool", 0)}),
    "MINIMUM": _Operator(57),
    "MUL": _Operator(18, 21, _FUSED),
    "PADV2": _Operator(60),
    "PRELU": _Operator(54),
    "RELU": _Operator(19),
    "RELU6": _Operator(21),
    "RELU_N1_TO_1": _Operator(20),
    "RESHAPE": _Operator(22),
    "RSQRT": _Operator(76),
    "SLICE": _Operator(65),
    "SOFTMAX": _Operator(25, 9, {"beta": ("Float32", 0)}),
    "SQRT": _Operator(75),
    "SQUARED_DIFFERENCE": _Operator(99),
    "SUB": _Operator(41, 28, _FUSED),
    "TANH": _Operator(28),
    "TILE": _Operator(69),
    "TRANSPOSE": _Operator(39),
}


@dataclass(frozen=True)
class _Tensor:
    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    buffer: int


@dataclass(frozen=True)
class _Call:
    operator: str
    inputs: tuple[int, ...]
    output: int
    options: Mapping[str, float]


class TFLiteFile:
    """A file in the making. Tensors are known by their numbers.

    >>> file = TFLiteFile()
    >>> x = file.tensor((1, 4), name="input")
    >>> y = file.add("ADD", [x, file.constant(np.ones(4, np.float32))], (1, 4), activation=1)
    >>> file.content([x], [y])[4:8]
    b'TFL3'
    """

    def __init__(self) -> None:
        self._tensors: list[_Tensor] = []
        self._buffers: list[bytes] = [b""]  # the first is that of tensors without content
        self._calls: list[_Call] = []
        self._known: dict[Any, int] = {}

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape."""
        return self._tensors[tensor].shape

    def tensor(self, shape: Sequence[int], dtype: npt.DTypeLike = np.float32, *, name: str = "") -> int:
        """A tensor that an operator, or the caller of the model, fills."""
        number = len(self._tensors)
        self._tensors.append(_Tensor(name or f"t{number}", tuple(map(int, shape)), np.dtype(dtype), 0))
        return number

    def constant(self, array: Array) -> int:
        """A constant of float32, int32 or int64; the same one twice is stored once."""
        content = np.ascontiguousarray(array).tobytes()
        key = (array.dtype, array.shape, content)
        if key not in self._known:
            self._known[key] = len(self._tensors)
            self._tensors.append(_Tensor(f"c{len(self._tensors)}", array.shape, array.dtype, len(self._buffers)))
            self._buffers.append(content)
        return self._known[key]

    def numbers(self, *values: int) -> int:
        """A constant row of int32, as shapes and axes are given."""
        return self.constant(np.array(values, np.int32))

    def add(
        self,
        operator: str,
        inputs: Sequence[int],
        shape: Sequence[int],
        dtype: npt.DTypeLike = np.float32,
        **options: float,
    ) -> int:
        """An operator, and the tensor that it makes.

        Args:
            operator: its name in the schema, or its own where it is one of Larq Compute Engine's.
            inputs: tensors; -1 for none.
            shape, dtype: of the tensor.
            options: of the operator; those of the schema that aren't given are 0.
        """
        output = self.tensor(shape, dtype)
        self._calls.append(_Call(operator, tuple(inputs), output, options))
        return output

    def content(
        self, inputs: Sequence[int], outputs: Sequence[int], metadata: Mapping[str, bytes] | None = None
    ) -> bytes:
        """The file.

        Args:
            inputs, outputs: tensors.
            metadata: entries that a reader can ask for by name.
        """
        entries = dict(metadata or {})
        stored = [*self._buffers, *entries.values()]
        builder = flatbuffers.Builder(sum(map(len, stored)) + (1 << 16))
        buffers = self._tables(builder, [[("Offset", 0, _bytes(builder, content))] for content in stored])
        names = [builder.CreateString(name) for name in entries]
        described = self._tables(
            builder,
            [[("Offset", 0, name), ("Uint32", 1, len(self._buffers) + i)] for i, name in enumerate(names)],
        )
        codes = list(dict.fromkeys(call.operator for call in self._calls))
        graph = self._graph(builder, codes, inputs, outputs)
        graphs = offsets(builder, [graph])
        operators = self._tables(builder, [_code(builder, name) for name in codes])
        writer = builder.CreateString("bibench")
        model = table(
            builder,
            [
                ("Uint32", 0, 3),  # the schema's version
                ("Offset", 1, operators),
                ("Offset", 2, graphs),
                ("Offset", 3, writer),
                ("Offset", 4, buffers),
                ("Offset", 6, described),
            ],
        )
        builder.Finish(model, file_identifier=b"TFL3")
        return bytes(builder.Output())

    def _graph(self, builder: Any, codes: Sequence[str], inputs: Sequence[int], outputs: Sequence[int]) -> int:
        tensors = []
        for tensor in self._tensors:
            shape, name = numbers(builder, tensor.shape), builder.CreateString(tensor.name)
            tensors.append(
                [
                    ("Offset", 0, shape),
                    ("Int8", 1, _TYPES[tensor.dtype]),
                    ("Uint32", 2, tensor.buffer),
                    ("Offset", 3, name),
                    ("Bool", 8, True),  # the rank is known, even where it is 0
                ]
            )
        calls = []
        for call in self._calls:
            fields = [
                ("Uint32", 0, codes.index(call.operator)),
                ("Offset", 1, numbers(builder, call.inputs)),
                ("Offset", 2, numbers(builder, [call.output])),
            ]
            known = _known(call.operator)
            if known is None:
                fields.append(("Offset", 5, _bytes(builder, _flexible(call.options))))
            elif known.options:
                given = [(*known.fields[name], value) for name, value in call.options.items()]
                fields += [("Uint8", 3, known.options), ("Offset", 4, table(builder, given))]
            calls.append(fields)
        made = [self._tables(builder, tensors), numbers(builder, inputs), numbers(builder, outputs)]
        made += [self._tables(builder, calls), builder.CreateString("main")]
        return table(builder, [("Offset", slot, offset) for slot, offset in enumerate(made)])

    @staticmethod
    def _tables(builder: Any, rows: Sequence[Sequence[Field]]) -> int:
        return offsets(builder, [table(builder, row) for row in rows])


def _known(name: str) -> _Operator | None:
    """An operator of the schema; None for one of Larq Compute Engine's."""
    return None if name.startswith("Lce") else _OPERATORS[name]


def _code(builder: Any, name: str) -> list[Field]:
    known = _known(name)
    if known is not None:
        return [("Int8", 0, min(known.code, _LAST_OLD_CODE)), ("Int32", 3, known.code)]
    return [("Int8", 0, _CUSTOM), ("Offset", 1, builder.CreateString(name)), ("Int32", 3, _CUSTOM)]


def _bytes(builder: Any, content: bytes) -> int:
    """A vector of bytes, aligned; none, which is offset 0, for no bytes."""
    if not content:
        return 0
    builder.Prep(_ALIGNMENT, len(content))
    end: int = builder.CreateByteVector(content)
    return end


def _flexible(options: Mapping[str, float]) -> bytes:
    if not options:
        return b""
    builder: Any = flexbuffers.Builder()
    with builder.Map():
        for key in sorted(options):
            builder.Int(key, options[key])
    return bytes(builder.Finish())
