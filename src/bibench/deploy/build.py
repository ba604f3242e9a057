"""What lowering any operation needs: buffers, copies, elementwise steps; nothing here knows a layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from bibench.deploy.capture import Graph, Node, Ref, Shape
from bibench.deploy.format import Code, PackedError, Place, Type
from bibench.deploy.steps import Array, Step
from bibench.deploy.views import Atom, Buffer, View, contiguous

__all__ = ["ARITHMETIC", "ELSEWHERE", "Builder", "floats", "numbers", "only"]

ARITHMETIC = {"add": 0, "sub": 1, "mul": 2, "div": 3, "maximum": 4, "minimum": 5}
ELSEWHERE = "compute it outside of the exported model, or use an operation that docs/packed-format.md has"
_DIMS = 5  # of COPY and BINARY
_MOST_COPIES = 256
Pads = tuple[tuple[int, int], ...]


def numbers(constant: Any) -> Array:
    """A constant of the model in float64, which holds every float32 exactly."""
    if isinstance(constant, Tensor):
        exact: Array = constant.detach().to("cpu", torch.float64).numpy()
        return exact
    return np.asarray(constant, np.float64)


def floats(constant: Tensor) -> Array:
    """A constant that isn't computed with further, such as a weight, in float32."""
    array: Array = constant.detach().to("cpu", torch.float32).numpy()
    return array


def only(node: Node) -> int:
    """The operation's first result."""
    assert node.outputs[0] is not None
    return node.outputs[0]


class Builder:
    """Steps in the making.

    Attributes:
        steps: so far.
        values: where each value of the graph lies.
        inputs, outputs: the buffers of the model's inputs and outputs.
        node: what is being lowered.
    """

    def __init__(self, graph: Graph, node: Node | None = None) -> None:
        self.graph = graph
        self.steps: list[Step] = []
        self.values: dict[int, View] = {}
        self.outputs: list[Buffer] = []
        self.inputs: list[Buffer] = []
        self.node = node
        self._copies: dict[Any, View] = {}
        self._zeros: Buffer | None = None
        for number, port in enumerate(graph.inputs):
            kind = Type.INT64 if port.dtype == torch.int64 else Type.FLOAT32
            self.inputs.append(Buffer(kind, math.prod(port.shape), Place.INPUT, number))
            self.values[port.value] = contiguous(self.inputs[-1], port.shape)

    def refuse(self, what: str, advice: str) -> NoReturn:
        """Say which module can't be exported."""
        node = self.node
        assert node is not None
        where = f"module '{node.module}'" if node.module else "the model itself"
        if isinstance(node.function, torch.nn.Module):
            where = f"layer '{node.module}' ({type(node.function).__name__})"
        raise PackedError(f"{where}: {what}; {advice}")

    def shape(self, node: Node) -> Shape:
        """The shape of the operation's first result."""
        return self.graph.shapes[only(node)]

    def emit(
        self,
        code: Code,
        values: Sequence[Buffer | None],
        params: Sequence[int],
        *,
        constants: Sequence[Array | None] = (),
        floats: Sequence[float] = (),
    ) -> Step:
        """Add a step that computes the current node."""
        nodes = [self.node] if self.node is not None else []
        if code not in (Code.COPY, Code.EMBED) and any(v is not None and v.type is Type.INT64 for v in values):
            self.refuse("it computes with int64 numbers", "an input of int64 can only be the indices of an embedding")
        step = Step.make(code, values, params, constants=constants, floats=floats, nodes=nodes)
        self.steps.append(step)
        return step

    def view(self, argument: Any) -> View:
        """Where an argument lies; a constant is put into memory first."""
        if isinstance(argument, Ref):
            return self.values[argument.value]
        if not isinstance(argument, Tensor):
            argument = torch.tensor(float(argument))
        return self.stored(argument)

    def stored(self, constant: Tensor) -> View:
        """A constant as a value: added to a zero, since no operation loads one."""
        if constant.dtype not in (torch.float32, torch.float64):
            self.refuse(f"it uses a constant of dtype {constant.dtype}", "use float32, such as by model.float()")
        if self._zeros is None:
            # One number of the input and a zero behind it: what lies outside of what a COPY reads is 0.
            source = next((buffer for buffer in self.inputs if buffer.type is Type.FLOAT32), self.inputs[0])
            wide = 2 if source.type is Type.INT64 else 1
            zeros = Buffer(source.type, 2)
            self.emit(Code.COPY, [source, zeros], _copy_params([(2, 1, 0, 1)], 0, 0, 4 * wide))
            self._zeros = zeros
        if self._zeros.type is not Type.FLOAT32:
            self.refuse(
                "it needs a constant as a tensor and the model has no input of floats",
                "give the constant as a parameter of a layer",
            )
        out = Buffer(Type.FLOAT32, constant.numel())
        params = [0, *_five([out.count], 1), *_five([0], 0), *_five([1], 0), 1, 0]
        self.emit(Code.BINARY, [self._zeros, None, out], params, constants=[numbers(constant).reshape(-1)])
        return contiguous(out, tuple(constant.shape))

    # ------------------------------------------------------------------------------------------------------ copies

    def arranged(self, view: View, order: Sequence[int] | None = None, pads: Pads = ()) -> View:
        """The view stored with its dimensions in an order, and padded with zeros; a copy where it isn't yet.

        Args:
            view: what to arrange.
            order: all dimensions, outermost first; None for their own order.
            pads: of each dimension, low and high; empty for none.
        """
        order = tuple(range(len(view.dims)) if order is None else order)
        padded = [d for d, pad in enumerate(pads) if any(pad)]
        if not padded and view.is_stored(order):
            return view
        key = (view.buffer, view.offset, view.dims, order, pads if padded else ())
        if key in self._copies:
            return self._copies[key]
        if any(len(view.dims[d]) > 1 for d in padded):
            return self.arranged(self.arranged(view, order), order, pads)
        pads = pads if padded else ((0, 0),) * len(view.dims)
        entries: list[tuple[int, int, int, int]] = []  # size, stride, low padding, size that is read
        for d in order:
            low, high = pads[d]
            if low or high:
                size, stride = view.dims[d][0] if view.dims[d] else (1, 0)
                entries.append((low + size + high, stride, low, size))
                continue
            for size, stride in view.dims[d]:
                if (
                    entries
                    and not entries[-1][2]
                    and entries[-1][0] == entries[-1][3]
                    and (entries[-1][1] == size * stride)
                ):
                    entries[-1] = (entries[-1][0] * size, stride, 0, entries[-1][3] * size)
                else:
                    entries.append((size, stride, 0, size))
        shape = tuple(size + sum(pad) for size, pad in zip(view.shape, pads, strict=True))
        out = Buffer(view.buffer.type, math.prod(shape))
        self._gather(view.buffer, view.offset, out, entries)
        found = contiguous(out, shape, order)
        self._copies[key] = found
        return found

    def _gather(self, source: Buffer, read: int, target: Buffer, entries: list[tuple[int, int, int, int]]) -> None:
        """COPY, as often as it takes for more than five dimensions."""
        wide = 8 if source.type is Type.INT64 else 4
        strides = [math.prod(entry[0] for entry in entries[i + 1 :]) for i in range(len(entries))]
        todo = [(read, 0, list(zip(entries, strides, strict=True)))]
        while todo:
            start, to, rest = todo.pop()
            if len(rest) <= _DIMS:
                params = _copy_params([entry for entry, _ in rest], start, to, wide, [stride for _, stride in rest])
                self.emit(Code.COPY, [source, target], params)
                continue
            unpadded = [i for i, (entry, _) in enumerate(rest) if entry[0] == entry[3]]
            at = min(unpadded, key=lambda i: rest[i][0][0], default=-1)
            if at < 0 or len(todo) * rest[at][0][0] > _MOST_COPIES:
                self.refuse("its tensors have too many dimensions to be rearranged", "permute fewer dimensions at once")
            (size, step, _, _), out = rest[at]
            todo += [(start + i * step, to + i * out, rest[:at] + rest[at + 1 :]) for i in range(size)]

    def place(self, view: View, target: Buffer, at: int, strides: Sequence[int]) -> None:
        """Copy a view into a part of a buffer; one stride a dimension."""
        entries: list[tuple[int, int, int, int]] = []
        out: list[int] = []
        for d, dim in enumerate(view.dims):
            stride = strides[d] * view.shape[d]
            for size, step in dim:
                stride //= size
                if entries and entries[-1][1] == size * step and out[-1] == size * stride:
                    entries[-1] = (entries[-1][0] * size, step, 0, entries[-1][3] * size)
                    out[-1] = stride
                else:
                    entries.append((size, step, 0, size))
                    out.append(stride)
        if len(entries) > _DIMS:
            self.place(self.arranged(view), target, at, strides)
            return
        wide = 8 if view.buffer.type is Type.INT64 else 4
        self.emit(Code.COPY, [view.buffer, target], _copy_params(entries, view.offset, at, wide, out))

    def dense(self, view: View) -> View:
        """The view without gaps or repetition, in whatever order."""
        return view if view.is_dense() else self.arranged(view)

    def innermost(self, view: View, dims: Sequence[int], *, ordered: bool = True) -> View:
        """The view stored densely with these dimensions innermost, in their order unless that doesn't matter."""
        last = [atom for d in dims for atom in view.dims[d]]
        if view.is_dense():
            stored = view.stored_atoms()
            inner = stored[len(stored) - len(last) :]
            if {d for d, _, _ in inner} <= set(dims) and (not ordered or [atom for _, _, atom in inner] == last):
                return view
        others = [d for d in range(len(view.dims)) if d not in dims]
        return self.arranged(view, [*others, *dims])

    # ------------------------------------------------------------------------------------------------ elementwise

    def unary(self, kind: int, view: View, *, constants: Sequence[Array] = (), floats: Sequence[float] = ()) -> View:
        """One UNARY; constants are over the innermost dimension in memory."""
        view = self.dense(view)
        out = Buffer(Type.FLOAT32, view.numel)
        channels = constants[0].size if constants else 0
        self.emit(Code.UNARY, [view.buffer, out], [kind, view.numel, channels], constants=constants, floats=floats)
        return view.on(out)

    def per_channel(self, constant: Array, view: View) -> Array | None:
        """A constant that broadcasts to a dense view, as one over the innermost atom in memory, if it is one."""
        stored = view.stored_atoms()
        size = stored[-1][2][0] if stored else 1
        if constant.size == 1:
            return np.full(size, constant.reshape(-1)[0])
        whole = np.broadcast_to(constant, view.shape)
        sizes = [atom[0] for dim in view.dims for atom in dim]
        places = [(d, i) for d, dim in enumerate(view.dims) for i in range(len(dim))]
        rows = np.moveaxis(whole.reshape(sizes), places.index(stored[-1][:2]), -1).reshape(-1, size)
        return rows[0].copy() if bool((rows == rows[0]).all()) else None

    def affine(self, view: View, factor: Array, shift: Array) -> View:
        """``view·factor + shift``, constants that broadcast to it."""
        view = self.dense(view)
        a, b = self.per_channel(factor, view), self.per_channel(shift, view)
        if a is not None and b is not None:
            return self.unary(13, view, constants=[a, b])
        if not (factor == 1).all():
            view = self.arithmetic("mul", view, factor)
        return self.arithmetic("add", view, shift) if shift.any() else view

    def channelwise(self, view: View, channel: int) -> View:
        """The view with a dimension innermost, as one atom."""
        return self.innermost(view, [channel])

    def arithmetic(self, kind: str, a: View, b: View | Array) -> View:
        """One BINARY, with broadcasting."""
        other = b if isinstance(b, View) else contiguous(a.buffer, b.shape)
        shape = np.broadcast_shapes(a.shape, other.shape)
        left, right = a.expand(shape), other.expand(shape)
        pairs = [_refined(x, y) for x, y in zip(left.dims, right.dims, strict=True)]
        if any(pair is None for pair in pairs):
            return self.arithmetic(kind, self.arranged(a), self.arranged(b) if isinstance(b, View) else b)
        flat = [(d, *atom) for d, pair in enumerate(pairs) for atom in pair or ()]
        for column in (2, 3):  # stored as the first operand that isn't repeated
            if all(entry[column] for entry in flat):
                flat.sort(key=lambda entry: -entry[column])
                break
        out = Buffer(Type.FLOAT32, math.prod(shape))
        dims: list[list[Atom]] = [[] for _ in shape]
        stride = 1
        for d, size, _, _ in reversed(flat):
            dims[d].insert(0, (size, stride))
            stride *= size
        sizes: list[list[int]] = []
        for _, size, x, y in flat:
            if sizes and sizes[-1][1] == size * x and sizes[-1][2] == size * y:
                sizes[-1] = [sizes[-1][0] * size, x, y]
            else:
                sizes.append([size, x, y])
        if len(sizes) > _DIMS:
            if a.is_stored() and (not isinstance(b, View) or b.is_stored()):
                self.refuse("its operands broadcast over too many dimensions", "broadcast fewer dimensions")
            return self.arithmetic(kind, self.arranged(a), self.arranged(b) if isinstance(b, View) else b)
        columns = [_five([entry[i] for entry in sizes], 1 if i == 0 else 0) for i in range(3)]
        params = [ARITHMETIC[kind], *columns[0], *columns[1], *columns[2], a.offset, other.offset]
        values = [a.buffer, b.buffer if isinstance(b, View) else None, out]
        self.emit(Code.BINARY, values, params, constants=[] if isinstance(b, View) else [b.reshape(-1)])
        return View(out, tuple(tuple(dim) for dim in dims))

    # ------------------------------------------------------------------------------------------------------- maps

    def map(self, view: View, pads: Pads = ()) -> View:
        """A tensor (1, C, H, W) stored as a map [H][W][C], padded at its last two dimensions."""
        return self.arranged(view, (0, 2, 3, 1), ((0, 0), (0, 0), *pads) if pads else ())

    def finish(self) -> None:
        """Put each output into its own memory, in the order of its shape."""
        self.node = self.graph.nodes[-1] if self.graph.nodes else None
        for number, port in enumerate(self.graph.outputs):
            view = self.values[port.value]
            if view.buffer.type is not Type.FLOAT32:
                raise PackedError(f"the model's output '{port.name}' is {view.buffer.type.name}, expected float32")
            stored = self.arranged(view)
            buffer = stored.buffer
            if buffer.place is not Place.ARENA or buffer.count != view.numel:  # an input, or two outputs that are one
                buffer = Buffer(Type.FLOAT32, view.numel)
                shape: Shape = (view.numel,)
                self.place(contiguous(stored.buffer, shape), buffer, 0, (1,))
            buffer.place, buffer.number = Place.OUTPUT, number
            self.outputs.append(buffer)


def _refined(one: Sequence[Atom], other: Sequence[Atom]) -> list[tuple[int, int, int]] | None:
    """The two dimensions' atoms in common sizes: size, and the stride in each."""
    left, right = list(one), list(other)
    found: list[tuple[int, int, int]] = []
    while left and right:
        (n, s), (m, t) = left.pop(), right.pop()
        size = min(n, m)
        if n % size or m % size:
            return None
        if n > size:
            left.append((n // size, s * size))
        if m > size:
            right.append((m // size, t * size))
        found.insert(0, (size, s, t))
    return found if not left and not right else None


def _five(given: Sequence[int], empty: int) -> list[int]:
    return [empty] * (_DIMS - len(given)) + list(given)


def _copy_params(
    entries: Sequence[tuple[int, int, int, int]],
    read: int,
    written: int,
    wide: int,
    strides: Sequence[int] | None = None,
) -> list[int]:
    if strides is None:
        strides = [math.prod(entry[0] for entry in entries[i + 1 :]) for i in range(len(entries))]
    sizes, reads, low, inside = ([entry[i] for entry in entries] for i in range(4))
    return [
        *_five(sizes, 1),
        *_five(reads, 0),
        *_five(low, 0),
        *_five(inside, 1),
        *_five(strides, 0),
        read,
        written,
        wide,
    ]
