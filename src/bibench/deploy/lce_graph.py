"""A program on its way into a file of Larq Compute Engine: its values as tensors, in the shapes that are asked for."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from bibench.deploy.format import Code, Operation, Place, Program, Type
from bibench.deploy.packed import Port, _ports
from bibench.deploy.refusals import ELSEWHERE, refuse
from bibench.deploy.tflite import ACTIVATIONS, TFLiteFile

__all__ = ["WORD", "Array", "LceGraph", "Shape"]

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

WORD = 32
"""Channels of a packed number."""

_DTYPES: Mapping[Type, np.dtype[Any]] = {
    Type.FLOAT32: np.dtype(np.float32),
    Type.INT64: np.dtype(np.int64),
    Type.BITS: np.dtype(np.int32),
}


class LceGraph:
    """A program on its way into a TensorFlow Lite file.

    Attributes:
        file: what has been written.
        tensors: where each of the program's values is; in any shape, its numbers in the program's order, except those
            of `maps`.
        maps: inputs that have their channels last in the file and first in the program, with their shape there.
        copies: of each value, the operations that write parts of it.
        number: of the operation that is being written.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.file = TFLiteFile()
        self.tensors: dict[int, int] = {}
        self.maps: dict[int, Shape] = {}
        self.number = 0
        self._shaped: dict[tuple[int, Shape], int] = {}
        self.copies: dict[int, list[Operation]] = {}
        for operation in program.operations:
            if operation.code is Code.COPY:
                self.copies.setdefault(operation.values[1], []).append(operation)
        inputs, ports = self._placed(Place.INPUT)
        named = program.metadata.get("inputs", [{}] * len(inputs))
        for index, port, entry in zip(inputs, ports, named, strict=True):
            shape = port.shape
            if len(shape) == 3 and port.dtype == np.float32:
                if shape[0] > 1 and shape[1] * shape[2] > 1:
                    self.maps[index] = shape
                shape = (*shape[1:], shape[0])
            self.tensors[index] = self.file.tensor((1, *shape), port.dtype, name=str(entry.get("name", "input")))
        self._inputs = [self.tensors[index] for index in inputs]

    def _placed(self, place: Place) -> tuple[list[int], tuple[Port, ...]]:
        """The values of the inputs or the outputs, and their shapes."""
        values, metadata = self.program.values, self.program.metadata
        found = [index for index, value in enumerate(values) if value.place is place]
        found.sort(key=lambda index: values[index].offset)
        kinds = tuple((self.dtype(index), values[index].count) for index in found)
        return found, _ports(metadata, f"{place.name.lower()}s", kinds)

    def content(self, watched: Sequence[int]) -> bytes:
        """The file; ``watched`` as `to_tflite` takes it."""
        outputs, ports = self._placed(Place.OUTPUT)
        made = [self.shaped(index, (1, *port.shape)) for index, port in zip(outputs, ports, strict=True)]
        made += [self.tensors[index] for index in watched]
        return self.file.content(self._inputs, made, {"bibench": self.program.metadata_json()})

    def refuse(self, why: str, advice: str = ELSEWHERE) -> NoReturn:
        """Say which layer the format can't express."""
        refuse(self.program, self.number, "Larq Compute Engine", why, advice)

    # ---------------------------------------------------------------------------------------------------- tensors

    def constant(self, index: int) -> Array | None:
        """A constant's numbers, None for none."""
        return None if index < 0 else self.program.constants[index].array()

    def floats(self, array: Array) -> int:
        """A constant of float32, rounded once."""
        return self.file.constant(np.asarray(array).astype(np.float32))

    def flat(self, index: int) -> int:
        """A value whose numbers are in the program's order."""
        shape = self.maps.get(index)
        key = (index, (-1,))
        if shape is not None and key not in self._shaped:
            order = self.file.numbers(2, 0, 1)
            last = self.reshaped(self.tensors[index], (*shape[1:], shape[0]))
            self._shaped[key] = self.file.add("TRANSPOSE", [last, order], shape, self.dtype(index))
        return self.tensors[index] if shape is None else self._shaped[key]

    def shaped(self, index: int, shape: Shape) -> int:
        """A value, or the beginning of one, in a shape."""
        key = (index, shape)
        if key not in self._shaped:
            tensor, dtype = self.flat(index), self.dtype(index)
            numbers, own = math.prod(shape), math.prod(self.file.shape(tensor))
            if numbers < own:
                tensor = self.cut(self.reshaped(tensor, (own,), dtype), (0,), (numbers,), dtype)
            self._shaped[key] = self.reshaped(tensor, shape, dtype)
        return self._shaped[key]

    def dtype(self, index: int) -> np.dtype[Any]:
        """What a value is made of in the file."""
        return _DTYPES[self.program.values[index].type]

    def reshaped(self, tensor: int, shape: Shape, dtype: npt.DTypeLike = np.float32) -> int:
        """A tensor in another shape."""
        if self.file.shape(tensor) == shape:
            return tensor
        return self.file.add("RESHAPE", [tensor, self.file.numbers(*shape)], shape, dtype)

    def rows(self, index: int, count: int, last: int) -> int:
        """So many numbers of a value, with a last dimension of a size."""
        tensor = self.flat(index)
        shape = self.file.shape(tensor)
        if math.prod(shape) == count and last in (1, shape[-1]):
            return tensor
        return self.shaped(index, (count // last, last))

    def padded(self, tensor: int, pads: Sequence[tuple[int, int]], value: float, dtype: npt.DTypeLike) -> int:
        """A tensor with numbers around it: of each dimension, how many in front and behind."""
        if not any(map(any, pads)):
            return tensor
        shape = tuple(size + sum(pad) for size, pad in zip(self.file.shape(tensor), pads, strict=True))
        around = self.file.constant(np.array(pads, np.int32))
        return self.file.add("PADV2", [tensor, around, self.file.constant(np.array([value], dtype))], shape, dtype)

    def cut(self, tensor: int, begin: Shape, sizes: Shape, dtype: npt.DTypeLike = np.float32) -> int:
        """A part of a tensor."""
        if self.file.shape(tensor) == sizes:
            return tensor
        return self.file.add("SLICE", [tensor, self.file.numbers(*begin), self.file.numbers(*sizes)], sizes, dtype)

    def repeated(self, tensor: int, shape: Shape, dtype: npt.DTypeLike = np.float32) -> int:
        """A tensor whose dimensions of size 1 are repeated to a shape."""
        own = self.file.shape(tensor)
        if own == shape:
            return tensor
        times = [wanted // size for wanted, size in zip(shape, own, strict=True)]
        return self.file.add("TILE", [tensor, self.file.numbers(*times)], shape, dtype)

    # ------------------------------------------------------------------------------------------------ elementwise

    def scaled(self, tensor: int, factor: Array | None, shift: Array | None) -> int:
        """``tensor·factor + shift``, constants that broadcast to it."""
        shape = self.file.shape(tensor)
        if factor is not None and (factor != 1).any():
            tensor = self.file.add("MUL", [tensor, self.floats(factor)], shape)
        if shift is not None and shift.any():
            tensor = self.file.add("ADD", [tensor, self.floats(shift)], shape)
        return tensor

    def clamped(self, tensor: int, low: float, high: float) -> int:
        """A tensor within bounds."""
        shape = self.file.shape(tensor)
        if (low, high) in ACTIVATIONS:
            return self.file.add(ACTIVATIONS[low, high][1], [tensor], shape)
        if low > -np.inf:
            tensor = self.file.add("MAXIMUM", [tensor, self.floats(np.array([low]))], shape)
        if high < np.inf:
            tensor = self.file.add("MINIMUM", [tensor, self.floats(np.array([high]))], shape)
        return tensor

    def prelu(self, tensor: int, slope: Array | None) -> int:
        """A tensor times the slope of its channel where it is negative."""
        assert slope is not None
        shape = self.file.shape(tensor)
        slopes = self.floats(slope.reshape((1,) * (len(shape) - 2) + (-1,)))
        return self.file.add("PRELU", [tensor, slopes], shape)

    def quantized(self, tensor: int, threshold: Array | None) -> int:
        """The bits of a map: set where it is below the threshold of its channel."""
        *sides, channels = self.file.shape(tensor)
        if threshold is not None:
            tensor = self.scaled(tensor, None, -threshold)
        return self.file.add("LceQuantize", [tensor], (*sides, -(-channels // WORD)), np.int32)
