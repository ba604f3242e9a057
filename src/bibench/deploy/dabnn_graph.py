"""A program on its way into a file of daBNN: its values as maps of floats, height by width by channels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from bibench.deploy import refusals
from bibench.deploy.dabnn_file import DabnnFile
from bibench.deploy.format import Code, Operation, PackedError, Place, Program, Type
from bibench.deploy.lce_windows import Axis
from bibench.deploy.packed import _ports

__all__ = ["Array", "Blob", "DabnnGraph", "Shape", "above"]

Array = npt.NDArray[Any]
Shape = tuple[int, int, int]

_CUTS = "has no layer that cuts, repeats or reorders a tensor"
_LEAST = float(np.finfo(np.float32).tiny)
"""Added to a 0, it makes daBNN's sign +1; it changes nothing that is further from 0 than rounding."""


@dataclass(frozen=True)
class Blob:
    """A map of floats in the file: its name, and height, width and channels. Bits are maps too: +1 where above 0."""

    name: str
    shape: Shape


def above(threshold: Array) -> Array:
    """What is added to a float so that it is above 0 exactly where it isn't below the threshold.

    >>> above(np.array([0.0, 1.0], np.float32))
    array([ 1.1754944e-38, -9.9999994e-01], dtype=float32)
    """
    below = np.nextafter(threshold.astype(np.float32), np.float32(-np.inf))
    shift: Array = np.where(abs(threshold) < _LEAST, np.float32(_LEAST), np.clip(-below, -3e38, 3e38))
    return shift


class DabnnGraph:
    """A program on its way into daBNN's file.

    daBNN's affine layers, additions and activations write over what they read. So they are only given what is read by
    nothing else later: what a convolution has just made, or a copy.

    Attributes:
        file: what has been written.
        blobs: where each of the program's values is.
        around: of values that are maps with zeros around them, which numbers are the map's.
        number: of the operation that is being written.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.number = 0
        self.around: dict[int, Array] = {}
        self.blobs: dict[int, Blob] = {}
        self._last = {
            index: number
            for number, operation in enumerate(program.operations)
            for index in operation.values
            if index >= 0
        }
        self._places = {place: self._placed(place) for place in (Place.INPUT, Place.OUTPUT)}
        for indices in self._places.values():
            self._last.update(dict.fromkeys(indices, len(program.operations)))
        self._copies: dict[int, int] = {}
        for operation in program.operations:
            if operation.code is Code.COPY:
                self._copies[operation.values[1]] = self._copies.get(operation.values[1], 0) + 1
        (given, *more) = self._places[Place.INPUT]
        if more or program.values[given].type is not Type.FLOAT32:
            raise PackedError(
                f"daBNN takes one input of float32, this model has {1 + len(more)}, the first of "
                f"{program.values[given].type.name.lower()}; export to another format"
            )
        (port,) = _ports(program.metadata, "inputs", ((np.dtype(np.float32), program.values[given].count),))
        image = len(port.shape) == 3
        channels, height, width = port.shape if image else (port.shape[-1], math.prod(port.shape[:-1]), 1)
        self._first = given if image and channels > 1 and height * width > 1 else None  # its channels are first
        names = program.metadata.get("inputs", [{}])
        blob = Blob(str(names[0].get("name", "input")), (height, width, channels))
        self._check(blob.shape)
        self.file = self.begun(blob.name, (1, *blob.shape))
        self.blobs[given] = blob

    def _placed(self, place: Place) -> list[int]:
        found = [index for index, value in enumerate(self.program.values) if value.place is place]
        return sorted(found, key=lambda index: self.program.values[index].offset)

    def begun(self, name: str, shape: Sequence[int]) -> DabnnFile:
        """The file to write into, for an input of a name and a shape."""
        return DabnnFile(name, shape)

    def outputs(self) -> dict[str, str]:
        """What the model calls its outputs, by the layers' names of them; called when all is written."""
        entries = self.program.metadata.get("outputs", [])
        given = self.blobs[self._places[Place.INPUT][0]].name
        names: dict[str, str] = {}
        for number, index in enumerate(self._places[Place.OUTPUT]):
            blob = self.blob(index)
            if blob.name in names or blob.name == given:
                blob = self.copied(blob)
            entry = entries[number] if number < len(entries) else {}
            names[blob.name] = str(entry.get("name", f"output{number or ''}"))
        if given in names.values():
            raise PackedError(f"daBNN knows maps by their names, and '{given}' is an input and an output: rename one")
        return names

    def refuse(self, why: str, advice: str = refusals.ELSEWHERE) -> NoReturn:
        """Say which layer the format can't express."""
        refusals.refuse(self.program, self.number, "daBNN", why, advice)

    def constant(self, index: int) -> Array | None:
        """A constant's numbers, None for none."""
        return None if index < 0 else self.program.constants[index].array()

    # ------------------------------------------------------------------------------------------------------ values

    def blob(self, index: int) -> Blob:
        """Where a value is; refused where its numbers have another order there."""
        if index == self._first:
            self.refuse("has channels last, and this reads the input with its channels first")
        if index in self.around:
            self.refuse("pads in front of convolutions and pools alone")
        return self.blobs[index]

    def whole(self, blob: Blob, count: int) -> None:
        """Refuse to read another number of a map's numbers than all."""
        if math.prod(blob.shape) != count:
            self.refuse(_CUTS)

    def inside(self, index: int, axes: tuple[Axis, Axis], within: tuple[int, int, int, int], channels: int) -> Blob:
        """A convolution's input, which may be padded with zeros beforehand.

        Args:
            index: the value.
            axes: the convolution's windows.
            within: rows above and columns left of the map, and rows and columns of it all.
            channels: of the map.
        """
        if index not in self.around:
            return self.blob(index)
        top, left, high, wide = within
        expected = np.zeros((high, wide, channels), bool)
        expected[top : top + axes[0].size, left : left + axes[1].size] = True
        if not np.array_equal(self.around[index], expected.reshape(-1)):
            self.refuse("pads in front of convolutions and pools alone")
        return self.blobs[index]

    def copy(self, op: Operation) -> None:
        """COPY, of a whole map in its order, with or without zeros around it."""
        p, (source, target) = op.params, op.values[:2]
        if self._copies[target] > 1 or p[27] != 4:
            self.refuse("has no layer that puts parts of a tensor together")
        given = self.blobs[source]
        if source in self.around:
            self.refuse("pads in front of convolutions and pools alone")
        at, to, covered = np.array(p[25]), np.array(p[26]), np.array(True)
        for k in range(5):
            steps = np.arange(p[k]).reshape([-1 if axis == k else 1 for axis in range(5)])
            at = at + (steps - p[10 + k]) * p[5 + k]
            to = to + steps * p[20 + k]
            covered = covered & (steps >= p[10 + k]) & (steps < p[10 + k] + p[15 + k])
        reads = np.full(self.program.values[target].count, -1)
        reads[to.reshape(-1)] = np.where(covered, at, -1).reshape(-1)
        order = np.arange(math.prod(given.shape))
        if source == self._first:
            height, width, channels = given.shape
            order = order.reshape(channels, height, width).transpose(1, 2, 0).reshape(-1)
        if not np.array_equal(reads[reads >= 0], order):
            self.refuse(_CUTS)
        self.blobs[target] = given
        if (reads < 0).any():
            self.around[target] = reads >= 0

    def fresh(self, index: int) -> Blob:
        """A value, or a copy of it, that may be written over."""
        blob = self.blob(index)
        later = [self._last[value] for value, other in self.blobs.items() if other.name == blob.name]
        return self.copied(blob) if max(later) > self.number else blob

    def raise_zeros(self, index: int) -> None:
        """Put a value's zeros above 0, in place, for all that read it: these don't notice."""
        blob = self.blob(index)
        given = blob == self.blobs[self._places[Place.INPUT][0]]
        raised = self.affine(self.copied(blob) if given else blob, 1, _LEAST)
        same = [value for value, other in self.blobs.items() if other.name == blob.name]
        self.blobs.update(dict.fromkeys([index] if given else same, raised))

    # ------------------------------------------------------------------------------------------------------ layers

    def add(self, kind: str, shape: Shape, **settings: str | tuple[int, ...]) -> Blob:
        """A layer, and the map that it makes."""
        self._check(shape)
        titles = self.program.metadata.get("operations", [])
        title = titles[self.number] if self.number < len(titles) else ""
        return Blob(self.file.add(kind, title, **settings), shape)

    def _check(self, shape: Shape) -> None:
        """Refuse what daBNN's memory doesn't hold: a column of a map takes a multiple of 16 bytes."""
        height, width, channels = shape
        if height * channels % 4 and height * channels > 1:
            self.refuse(
                "holds maps whose height times channels is a multiple of 4, and this one has "
                f"{height} x {width} with {channels} channels"
            )

    def copied(self, blob: Blob) -> Blob:
        """The same map again: an average over single pixels."""
        return self.add("AvePool", blob.shape, input=blob.name, kernel_shape=(1, 1), pads=(0, 0, 0, 0), strides=(1, 1))

    def affine(self, blob: Blob, factor: npt.ArrayLike, shift: npt.ArrayLike) -> Blob:
        """``blob·factor + shift``, of each channel, in place."""
        a, b = (self.file.floats(np.broadcast_to(value, blob.shape[2])) for value in (factor, shift))
        return self.add("Affine", blob.shape, input=blob.name, a=a, b=b)

    def sum(self, blob: Blob, other: str) -> Blob:
        """The sum with another map, in place."""
        return self.add("Add", blob.shape, input1=blob.name, input2=other)

    def relu(self, blob: Blob) -> Blob:
        """``max(blob, 0)``, in place."""
        return self.add("Relu", blob.shape, input=blob.name)

    def prelu(self, blob: Blob, slope: Array) -> Blob:
        """The map times its channel's slope where it is negative, in place."""
        return self.add("PRelu", blob.shape, input=blob.name, slope=self.file.floats(slope))

    def clamped(self, blob: Blob, low: float, high: float) -> Blob:
        """The map within bounds, in place, by ``max(x, low) = relu(x - low) + low`` and what follows from it."""
        base = 0.0
        if low > -np.inf:
            base = low
            blob = self.relu(self.affine(blob, 1, -low) if low else blob)
        if high < np.inf:
            return self.affine(self.relu(self.affine(blob, -1, high - base)), -1, high)
        return self.affine(blob, 1, base) if base else blob
