"""An ONNX graph while it is made, and the buffers of a packed program as its tensors.

A program's buffers are flat memory of one sample, maps stored channels last. The graph's tensors have the batch first,
and maps are (N, C, H, W), as ONNX convolutions take them. Which dimension of a tensor is which in memory is kept with
it, so that nothing is transposed until somebody needs it in another order.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from bibench.deploy.strides import Entry, Span, nested, spans, split

__all__ = ["MAP", "Array", "Graph", "Key", "Node", "Tensor", "Tensors", "straight"]

Array = npt.NDArray[Any]
MAP = (1, 2, 0)
"""Order of a map (C, H, W) that is stored ``[H][W][C]``."""
Key = tuple[int, int]
"""A buffer of the program; and of bits which operand they are (0 {-1, +1}, 1 {0, 1})."""


def straight(shape: Sequence[int]) -> tuple[int, ...]:
    """The order of a tensor that is stored as it is."""
    return tuple(range(len(shape)))


@dataclass(frozen=True)
class Node:
    """A node."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    domain: str
    attributes: dict[str, Any]


@dataclass(frozen=True)
class Tensor:
    """A buffer's content as a tensor.

    Args:
        name: of the tensor, whose first dimension is the batch.
        shape: of one sample.
        order: the sample's dimensions as they are stored in the buffer, outermost first.

    >>> Tensor("x", (3, 8, 8), MAP).memory
    (8, 8, 3)
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...]

    @property
    def memory(self) -> tuple[int, ...]:
        """The sample's dimensions as they are stored."""
        return tuple(self.shape[d] for d in self.order)

    @property
    def innermost(self) -> int:
        """Axis of the dimension that is stored without gaps, the batch counted."""
        return self.order[-1] + 1

    def along(self, constant: Array) -> Array:
        """Numbers of the innermost dimension, shaped to broadcast; one number where all are the same."""
        if bool((constant == constant[0]).all()):
            return np.asarray(constant[0])
        return constant.reshape(-1, *(1,) * (len(self.shape) - self.innermost))

    def renamed(self, name: str) -> Tensor:
        """The same arrangement of another content."""
        return Tensor(name, self.shape, self.order)


@dataclass
class Graph:
    """Nodes and constants.

    Attributes:
        title: of what is being made; names begin with it.
    """

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    title: str = ""
    _names: set[str] = field(default_factory=set)
    _known: dict[Any, str] = field(default_factory=dict)

    def name(self, wanted: str) -> str:
        """A name that nothing has yet."""
        name, number = wanted, 1
        while name in self._names:
            name, number = f"{wanted}.{number}", number + 1
        self._names.add(name)
        return name

    def rename(self, old: str, new: str) -> None:
        """Give the last node's output another name."""
        assert self.nodes[-1].outputs == (old,)
        self.nodes[-1] = replace(self.nodes[-1], outputs=(new,))

    def node(self, op: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output; its name."""
        return self.node_of(op, inputs, 1, domain, attributes)[0]

    def node_of(
        self, op: str, inputs: Sequence[str], outputs: int, domain: str, attributes: dict[str, Any]
    ) -> tuple[str, ...]:
        """Add a node; the names of its outputs."""
        names = tuple(self.name(f"{self.title}/{op}") for _ in range(outputs))
        self.nodes.append(Node(op, tuple(inputs), names, domain, attributes))
        return names

    def constant(self, array: Array, name: str = "constant") -> str:
        """Add a constant; the same content is stored once. Numbers become float32, rounded once."""
        if array.dtype.kind == "f":
            with np.errstate(over="ignore"):  # what is too large is infinite, as in the model's own float32
                array = array.astype(np.float32)
        content = np.ascontiguousarray(array)
        key = (content.dtype.str, array.shape, hashlib.sha256(content.tobytes()).digest())
        if key not in self._known:
            self._known[key] = self.name(f"{self.title}/{name}")
            self.constants[self._known[key]] = array
        return self._known[key]

    def integers(self, *numbers: int) -> str:
        """A constant list of int64."""
        return self.constant(np.array(numbers, np.int64))

    def reshape(self, name: str, shape: Sequence[int], wanted: Sequence[int]) -> str:
        """Another shape of each sample."""
        return name if tuple(shape) == tuple(wanted) else self.node("Reshape", name, self.integers(0, *wanted))

    def transpose(self, name: str, shape: Sequence[int], order: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """A sample's dimensions in another order, and its shape then; as it is where only sizes of 1 would move."""
        kept = [d for d in order if shape[d] != 1]
        if kept == sorted(kept):
            return name, tuple(shape)
        moved = self.node("Transpose", name, perm=[0, *(d + 1 for d in order)])
        return moved, tuple(shape[d] for d in order)

    def pad(self, name: str, low: Sequence[int], high: Sequence[int], value: float = 0.0) -> str:
        """Padded dimensions of each sample; integers take only 0."""
        pads = self.integers(0, *low, 0, *high)
        return self.node("Pad", name, pads, *([self.constant(np.float64(value).reshape(()))] if value else []))


@dataclass(frozen=True)
class _Padded:
    """Content that is padded when somebody needs it so; convolutions pad by themselves."""

    inner: Tensor
    entries: tuple[Entry, ...]


@dataclass
class Tensors:
    """What the graph knows of each buffer.

    Args:
        graph: nodes are added to it.
    """

    graph: Graph
    _known: dict[Key, list[Tensor]] = field(default_factory=dict)
    _padded: dict[Key, _Padded] = field(default_factory=dict)
    _beginnings: dict[tuple[Key, int], list[Tensor]] = field(default_factory=dict)

    def add(self, key: Key, tensor: Tensor) -> None:
        """A buffer's content."""
        self._known.setdefault(key, []).append(tensor)

    def of(self, key: Key) -> list[Tensor]:
        """All tensors that hold a buffer's content; at least one."""
        if key not in self._known:
            padded = self._padded[key]
            low = [0] * len(padded.entries)
            high = list(low)
            for entry, d in zip(padded.entries, padded.inner.order, strict=True):
                low[d], high[d] = entry.low, entry.high
            shape = tuple(a + n + b for a, n, b in zip(low, padded.inner.shape, high, strict=True))
            self.add(key, Tensor(self.graph.pad(padded.inner.name, low, high), shape, padded.inner.order))
        return self._known[key]

    def first(self, key: Key, count: int) -> list[Tensor]:
        """All tensors that hold a buffer's first ``count`` numbers, which may be all it has; at least one."""
        whole = self.of(key)
        if math.prod(whole[0].shape) == count:
            return whole
        if (key, count) not in self._beginnings:
            read = self.read(key, [Entry(count, (1,))], 0)
            assert read is not None  # in a flat tensor the beginning is a range
            self._beginnings[key, count] = [read[0]]
        return self._beginnings[key, count]

    def shaped(self, key: Key, shape: Sequence[int], order: Sequence[int] | None = None) -> str:
        """A buffer's content, or the beginning of it, in a shape whose dimensions are stored in this order.

        ``order`` is None for the dimensions' own.
        """
        wanted = Tensor("", tuple(shape), straight(shape) if order is None else tuple(order))
        known = self.first(key, math.prod(shape))
        for tensor in known:
            if tensor.renamed("") == wanted:
                return tensor.name
        made = self.arranged(known[0], wanted)
        known.append(made)
        return made.name

    def arranged(self, tensor: Tensor, wanted: Tensor) -> Tensor:
        """A tensor's content in the arrangement of another."""
        if tensor.renamed(wanted.name) == wanted:
            return tensor
        name, shape = self.graph.transpose(tensor.name, tensor.shape, tensor.order)
        back = sorted(range(len(wanted.order)), key=lambda i: wanted.order[i])
        kept = [d for d in back if wanted.memory[d] != 1]
        if kept != sorted(kept):
            name = self.graph.reshape(name, shape, wanted.memory)
            name, shape = self.graph.transpose(name, wanted.memory, back)
        return wanted.renamed(self.graph.reshape(name, shape, wanted.shape))

    def ending(self, key: Key, count: int, size: int) -> Tensor:
        """A buffer's first ``count`` numbers with an innermost dimension of a size."""
        for tensor in self.first(key, count):
            if tensor.memory and tensor.memory[-1] == size:
                return tensor
        shape = (count // size, size)
        return Tensor(self.shaped(key, shape), shape, (0, 1))

    def inside(self, key: Key, entries: Sequence[Entry]) -> Tensor | None:
        """What is padded to make a buffer, in these dimensions, where it is exactly so padded."""
        padded = self._padded.get(key)
        if padded is None or _joined(padded.entries) != _joined(entries):
            return None
        return padded.inner

    # ------------------------------------------------------------------------------------------- reads and writes

    def region(
        self, key: Key, entries: Sequence[Entry], which: int, offset: int
    ) -> tuple[Tensor, list[Entry], list[Span]] | None:
        """A tensor that holds a buffer, a loop over it in terms of its dimensions, and what of each is touched.

        None where the loop isn't over ranges of dimensions.
        """
        known = self.of(key)
        shape = nested(entries, which, math.prod(known[0].shape))
        for tensor in [*known, *([] if shape is None else [Tensor("", shape, straight(shape))])]:
            loop = split(entries, which, tensor.memory)
            touched = spans(loop, which, offset, tensor.memory)
            if touched is not None:
                if not tensor.name:
                    tensor = tensor.renamed(self.shaped(key, tensor.shape))
                return tensor, loop, touched
        return None

    def taken(self, tensor: Tensor, touched: Sequence[Span], wanted: Sequence[int | None]) -> str:
        """The part of a tensor with the entries as its dimensions in an order; of size 1 where it has none of them."""
        name, shape = tensor.name, list(tensor.shape)
        cut = [
            (d + 1, span.start, span.start + span.size)
            for d, span in zip(tensor.order, touched, strict=True)
            if span.size != tensor.shape[d]
        ]
        if cut:
            axes, starts, ends = zip(*sorted(cut), strict=True)
            name = self.graph.node(
                "Slice", name, self.graph.integers(*starts), self.graph.integers(*ends), self.graph.integers(*axes)
            )
            for axis, start, end in cut:
                shape[axis - 1] = end - start
        at = {span.entry: d for d, span in zip(tensor.order, touched, strict=True) if span.entry is not None}
        used = [at[entry] for entry in wanted if entry is not None and entry in at]
        order = [*(d for d in range(len(shape)) if d not in used), *used]
        sizes = [shape[at[entry]] if entry is not None and entry in at else 1 for entry in wanted]
        name, now = self.graph.transpose(name, shape, order)
        return self.graph.reshape(name, now, sizes)

    def read(self, key: Key, entries: Sequence[Entry], offset: int) -> tuple[Tensor, list[Entry]] | None:
        """What a loop reads, as a tensor whose memory is in the order of the loop; and the loop in its dimensions."""
        found = self.region(key, entries, 0, offset)
        if found is None:
            return None
        tensor, loop, touched = found
        wanted = physical(tensor, touched, len(loop))
        sizes = tuple(loop[entry].size for entry in wanted)
        name = self.taken(tensor, touched, wanted)
        if any(entry.size > 1 and not entry.strides[0] for entry in loop):
            name = self.graph.node("Expand", name, self.graph.integers(1, *sizes))
        return Tensor(name, sizes, tuple(wanted.index(i) for i in range(len(loop)))), loop

    def picked(self, keys: Sequence[Key], index: Array, shape: Sequence[int]) -> Tensor:
        """Single numbers of buffers that follow each other; the index behind the last is a zero."""
        flat = [self.shaped(key, (math.prod(self.of(key)[0].shape),)) for key in keys]
        joined = flat[0] if len(flat) == 1 else self.graph.node("Concat", *flat, axis=1)
        padded = self.graph.pad(joined, [0], [1])
        return Tensor(
            self.graph.node("Gather", padded, self.graph.constant(index.reshape(shape)), axis=1),
            tuple(shape),
            straight(shape),
        )

    def keep_padded(self, key: Key, inner: Tensor, entries: Sequence[Entry]) -> None:
        """A buffer that is another content with zeros around it."""
        self._padded[key] = _Padded(inner, tuple(entries))


def physical(tensor: Tensor, touched: Sequence[Span], number: int) -> list[int]:
    """Entries in the order of the tensor's own dimensions, those that repeat it first."""
    by_axis = {d: span.entry for d, span in zip(tensor.order, touched, strict=True)}
    own = [entry for d in range(len(tensor.shape)) if (entry := by_axis[d]) is not None]
    return [*(i for i in range(number) if i not in own), *own]


def _joined(entries: Sequence[Entry]) -> list[tuple[int, int, int]]:
    """Sizes with their padding, unpadded neighbours as one."""
    found: list[tuple[int, int, int]] = []
    for entry in entries:
        if entry.padded == 1:
            continue
        if found and not any((*found[-1][1:], entry.low, entry.high)):
            found[-1] = (found[-1][0] * entry.size, 0, 0)
        else:
            found.append((entry.size, entry.low, entry.high))
    return found
