"""daBNN's files, version 2: layers that name what they read and write, and constants, as the format's tables.

Numbers of layers and fields are those of daBNN's schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt

from bibench.deploy.flatbuffer import Field, numbers, offsets, table

__all__ = ["Constant", "DabnnFile", "Layer", "Setting"]

Array = npt.NDArray[Any]
Setting = str | tuple[int, ...]

_VERSION = 2
_NAME = 14  # the slot of a layer's name
_CONVOLUTION = ("input", "weight", "bias", "pads", "strides", "dilations", "output")
_POOL = ("input", "kernel_shape", "pads", "strides", "output")


@dataclass(frozen=True)
class _Kind:
    """A kind of layer: its number, the slot of its settings, and their names in the order of their slots."""

    number: int
    slot: int
    settings: tuple[str, ...]


_KINDS: Mapping[str, _Kind] = {
    "FpConv2D": _Kind(0, 1, _CONVOLUTION),
    "AvePool": _Kind(1, 3, _POOL),
    "MaxPool": _Kind(2, 4, _POOL),
    "Relu": _Kind(3, 5, ("input", "output")),
    "Add": _Kind(6, 8, ("input1", "input2", "output")),
    "BinConv2D": _Kind(8, 2, _CONVOLUTION),
    "Affine": _Kind(9, 10, ("input", "a", "b", "output")),
    "PRelu": _Kind(13, 15, ("input", "slope", "output")),
}


@dataclass(frozen=True)
class Constant:
    """Numbers, or filters as packed words; ``shape`` is that of the numbers or weights."""

    name: str
    shape: tuple[int, ...]
    content: Array
    aligned: bool = False


@dataclass(frozen=True)
class Layer:
    """A layer: its kind in the schema, its own name, and its settings, the output's name among them."""

    kind: str
    title: str
    settings: Mapping[str, Setting]


class DabnnFile:
    """A file in the making. What layers read and write is known by its name.

    >>> file = DabnnFile("image", (1, 4, 4, 3))
    >>> y = file.add("Relu", "relu1", input="image")
    >>> content = file.content({y: "output"})
    >>> b"relu1" in content, b"output" in content
    (True, True)

    Args:
        name, shape: of the input; batch 1, height, width, channels.

    Attributes:
        input: its name and shape.
        constants: by name.
        layers: in order.
    """

    def __init__(self, name: str, shape: Sequence[int]) -> None:
        self.input = (name, tuple(shape))
        self.constants: dict[str, Constant] = {}
        self.layers: list[Layer] = []

    def floats(self, array: Array) -> str:
        """A constant of float32, rounded once."""
        return self._constant(array.shape, array.astype(np.float32))

    def bits(self, positive: Array) -> str:
        """Filters of a binary convolution.

        Channels are packed innermost, least significant bit first. A filter begins at a multiple of 128 bits, unless
        it has 64 channels.

        Args:
            positive: where a weight is +1, truth values ``[O][KH][KW][C]``.
        """
        filters, aligned = positive.reshape(len(positive), -1), positive.shape[-1] != 64
        padding = np.zeros((len(filters), -filters.shape[1] % (128 if aligned else 64)), bool)
        packed = np.packbits(np.concatenate([filters, padding], 1), axis=1, bitorder="little").view("<u8")
        return self._constant(positive.shape, packed, aligned)

    def _constant(self, shape: Sequence[int], content: Array, aligned: bool = False) -> str:
        name = f"constant.{len(self.constants)}"
        self.constants[name] = Constant(name, tuple(shape), content, aligned)
        return name

    def add(self, kind: str, title: str, **settings: Setting) -> str:
        """A layer; the name of what it writes.

        Args:
            kind: its name in the schema.
            title: its own name, which daBNN's timings print.
            settings: as in the schema, without the output.
        """
        output = f"map.{len(self.layers)}"
        self.layers.append(Layer(kind, title, {**settings, "output": output}))
        return output

    def content(self, names: Mapping[str, str]) -> bytes:
        """The file.

        Args:
            names: other names for what layers write.
        """
        builder = flatbuffers.Builder(sum(constant.content.nbytes for constant in self.constants.values()) + (1 << 16))
        constants = [table(builder, _constant(builder, constant)) for constant in self.constants.values()]
        layers = [table(builder, _layer(builder, layer, names)) for layer in self.layers]
        name, shape = self.input
        fields: list[Field] = [
            ("Offset", 0, numbers(builder, shape, np.uint32)),
            ("Offset", 1, builder.CreateString(name)),
        ]
        made = [offsets(builder, layers), offsets(builder, constants), offsets(builder, [table(builder, fields)])]
        builder.Finish(table(builder, [*(("Offset", i, at) for i, at in enumerate(made)), ("Uint32", 3, _VERSION)]))
        return bytes(builder.Output())


def _constant(builder: Any, constant: Constant) -> list[Field]:
    packed = constant.content.dtype == np.uint64
    return [
        ("Int8", 0, int(packed)),
        ("Offset", 1 if packed else 2, numbers(builder, constant.content, constant.content.dtype)),
        ("Offset", 3, numbers(builder, constant.shape, np.uint32)),
        ("Offset", 4, builder.CreateString(constant.name)),
        ("Bool", 5, constant.aligned),
    ]


def _layer(builder: Any, layer: Layer, names: Mapping[str, str]) -> list[Field]:
    kind = _KINDS[layer.kind]
    fields: list[Field] = []
    for name, value in layer.settings.items():
        stored = builder.CreateString(names.get(value, value)) if isinstance(value, str) else numbers(builder, value)
        fields.append(("Offset", kind.settings.index(name), stored))
    settings = table(builder, fields)
    return [
        ("Int8", 0, kind.number),
        ("Offset", kind.slot, settings),
        ("Offset", _NAME, builder.CreateString(layer.title)),
    ]
