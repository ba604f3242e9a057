"""A packed program's operations as ONNX nodes; docs/packed-format.md says what each computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bibench.deploy.format import Code, Operation, PackedError, Place, Program
from bibench.deploy.geometry import Geometry
from bibench.deploy.onnx_copies import copied, positions
from bibench.deploy.onnx_graph import MAP, Array, Graph, Key, Tensor, Tensors, physical, straight
from bibench.deploy.strides import Entry

__all__ = ["Dialect", "Translation"]

_ARITHMETIC = ("Add", "Sub", "Mul", "Div", "Max", "Min")
_SIMPLE: Mapping[int, str] = {3: "Sigmoid", 4: "Tanh", 6: "Exp", 7: "Sqrt", 8: "Abs", 10: "HardSwish"}
_READERS: Mapping[Code, Mapping[int, int]] = {Code.BCONV: {0: 20}, Code.BMATMUL: {0: 4, 1: 5}}
"""Which values of an operation are bits, and which parameter says what operand they are."""


@dataclass(frozen=True)
class Dialect:
    """How a kind of ONNX file writes what is binary.

    Args:
        domains: versions of the operator sets that it uses beside ONNX's own.
        operand: nodes that make an operand, 0 for {-1, +1}, 1 for {0, 1}, of numbers and thresholds (None: 0).
        weight: nodes that give a weight of -1 and +1.
        product: nodes behind a product of bits.
    """

    domains: Mapping[str, int]
    operand: Callable[[Graph, str, Array | None, int], str]
    weight: Callable[[Graph, Array], str]
    product: Callable[[Graph, str], str]


class Translation:
    """A packed program as ONNX nodes.

    Args:
        program: the program.
        dialect: how to write what is binary.

    Attributes:
        graph: the nodes.
        inputs, outputs: names of the model's.

    Raises:
        PackedError: an operation that can't be expressed; the message names the layer.
    """

    def __init__(self, program: Program, dialect: Dialect) -> None:
        self.program, self.dialect = program, dialect
        self.graph = Graph()
        self.tensors = Tensors(self.graph)
        about = program.metadata
        self.inputs, self.outputs = (
            [self.graph.name(port["name"]) for port in about[kind]] for kind in ("inputs", "outputs")
        )
        self.operands = _operands(program)
        self.copies = _copies(program)  # into a buffer, still to run
        self.copied: dict[int, list[Operation]] = {}
        for value, name, port in zip(self._places(Place.INPUT), self.inputs, about["inputs"], strict=True):
            shape = tuple(port["shape"])
            self.tensors.add((value, 0), Tensor(name, shape, straight(shape)))
        self.translate()
        for value, name, port in zip(self._places(Place.OUTPUT), self.outputs, about["outputs"], strict=True):
            self.graph.title = name
            found = self.tensors.shaped((value, 0), tuple(port["shape"]))
            self.graph.rename(self.graph.node("Identity", found), name)

    def translate(self) -> None:
        """Add the nodes of all operations."""
        for number in range(len(self.program.operations)):
            self.operation(number)

    def operation(self, number: int) -> None:
        """Add the nodes of an operation."""
        op = self.program.operations[number]
        self.graph.title = self.program.metadata["operations"][number]
        if op.code not in _HOW:
            self.refuse(f"an 8-bit integer layer ({op.code.name}) can't be written as ONNX", "leave int8_stem out")
        _HOW[op.code](self, op)

    def layers(self) -> list[dict[str, Any]]:
        """The layers whose products are of bits, with the tensors that hold their operands."""
        found = []
        for at in self.program.metadata["layers"]:
            kind = self._operand(self.program.operations[at["operation"]], at["value"])
            tensor = self.tensors.of((at["value"], kind))[0]
            where = {"tensor": tensor.name, "shape": tensor.shape, "order": tensor.order}
            found.append({key: at[key] for key in ("name", "call", "operand")} | where)
        return found

    @staticmethod
    def _operand(op: Operation, value: int) -> int:
        """Which operand an operation takes a value of bits for."""
        return next(op.params[p] for slot, p in _READERS[op.code].items() if op.values[slot] == value)

    def refuse(self, what: str, advice: str) -> None:
        """Say which layer can't be expressed."""
        raise PackedError(f"'{self.graph.title}': {what}; {advice}")

    def _places(self, place: Place) -> list[int]:
        found = [(value.offset, i) for i, value in enumerate(self.program.values) if value.place is place]
        return [index for _, index in sorted(found)]

    # ------------------------------------------------------------------------------------------------------ values

    def constant(self, op: Operation, slot: int) -> Array | None:
        """A constant's content."""
        index = op.constants[slot]
        return None if index < 0 else self.program.constants[index].array()

    def needed(self, op: Operation, slot: int) -> Array:
        """The content of a constant that is always there."""
        found = self.constant(op, slot)
        assert found is not None
        return found

    def shaped(self, op: Operation, slot: int, shape: Sequence[int], order: Sequence[int] | None = None) -> str:
        """An operand of floats in a shape."""
        return self.tensors.shaped((op.values[slot], 0), shape, order)

    def ending(self, op: Operation, count: int, size: int) -> Tensor:
        """So many numbers of the first operand, of floats, with an innermost dimension of a size."""
        return self.tensors.ending((op.values[0], 0), count, size)

    def keep(self, op: Operation, slot: int, tensor: Tensor) -> None:
        """What an operation writes."""
        self.tensors.add((op.values[slot], 0), tensor)

    def keep_bits(self, value: int, tensor: Tensor, threshold: Array | None) -> None:
        """Numbers become bits, as each operand that is read of them."""
        along = None if threshold is None or not threshold.any() else tensor.along(threshold)
        for kind in sorted(self.operands[value]):
            bits = self.dialect.operand(self.graph, tensor.name, along, kind)
            self.tensors.add((value, kind), tensor.renamed(bits))

    def node(self, op: str, *inputs: str | Array, **attributes: Any) -> str:
        """A node whose inputs are names or constants."""
        names = [entry if isinstance(entry, str) else self.graph.constant(entry) for entry in inputs]
        return self.graph.node(op, *names, **attributes)

    # -------------------------------------------------------------------------------------------------- operations

    def copy(self, op: Operation) -> None:
        target = op.values[1]
        self.copies[target].remove(op)
        self.copied.setdefault(target, []).append(op)
        if not self.copies[target]:
            copied(self.tensors, self.copied[target], self.program.values[target].count)

    def pack(self, op: Operation) -> None:
        height, width, channels = op.params[:3]
        self.keep_bits(op.values[1], self.ending(op, height * width * channels, channels), self.constant(op, 0))

    def convolution(self, op: Operation) -> None:
        p = op.params
        channels, groups, outputs = p[2:5]
        geometry = _geometry(p, 0, 5, 7, 9, 11, 13)
        weight = self.needed(op, 0).reshape(outputs, *geometry.kernel, channels // groups)
        rows = geometry.out[0]
        tokens = geometry == Geometry((rows, 1), out=(rows, 1))
        if groups == 1 and (tokens or geometry == Geometry(geometry.size, geometry.size)):
            features = weight.size // outputs
            x = self._columns(op, (*([rows] if rows > 1 else ()), features))
            y = self.node("MatMul", x, self._weight(op, weight.reshape(outputs, features).T))
            shape = (*([rows] if rows > 1 else ()), outputs)
            tensor = Tensor(y, shape, straight(shape))
        else:
            x, pads = self._map(op, geometry, channels)
            kernel = self._weight(op, weight.transpose(0, 3, 1, 2))
            y = self.node("Conv", x, kernel, group=groups, pads=pads, **_window(geometry))
            tensor = Tensor(y, (outputs, *geometry.out), MAP)
        if op.code is Code.BCONV:
            tensor = tensor.renamed(self.dialect.product(self.graph, tensor.name))
        tensor = tensor.renamed(self._epilogue(op, tensor))
        if op.values[3] >= 0:
            self.keep(op, 3, tensor)
        if op.values[4] >= 0:
            self.keep_bits(op.values[4], tensor, self.constant(op, 4))

    def _weight(self, op: Operation, weight: Array) -> str:
        if op.code is Code.FCONV:
            return self.graph.constant(weight, "weight")
        return self.dialect.weight(self.graph, np.where(weight, -1.0, 1.0))

    def _columns(self, op: Operation, shape: tuple[int, ...]) -> str:
        return self.tensors.shaped(self._key(op), shape)

    def _key(self, op: Operation) -> Key:
        return op.values[0], op.params[20] if op.code is Code.BCONV else 0

    def _map(self, op: Operation, geometry: Geometry, channels: int) -> tuple[str, list[int]]:
        """A convolution's input (C, H, W), and what the convolution has to pad it with: zeros."""
        key, around = self._key(op), _around(geometry)
        shape = (channels, *geometry.size)
        if op.code is Code.FCONV:
            (top, bottom), (left, right) = zip(around[:2], around[2:], strict=True)
            padding = [
                Entry(geometry.size[0], (), top, bottom),
                Entry(geometry.size[1], (), left, right),
                Entry(channels, ()),
            ]
            inner = self.tensors.inside(key, padding)
            if inner is not None:
                return self.tensors.arranged(inner, Tensor("", shape, MAP)).name, around
            return self.tensors.shaped(key, (channels, *op.params[17:19]), MAP), [0, 0, 0, 0]
        x, outside = self.tensors.shaped(key, shape, MAP), op.params[19]
        if op.params[20]:
            outside = max(outside, 0)
        if not outside or not any(around):
            return x, around
        return self.graph.pad(x, [0, *around[:2]], [0, *around[2:]], outside), [0, 0, 0, 0]

    def _epilogue(self, op: Operation, tensor: Tensor) -> str:
        name = self._positioned(op, tensor)
        for slot, kind in ((1, "Mul"), (2, "Add")):
            constant = self.constant(op, slot)
            if constant is not None:
                name = self.node(kind, name, tensor.along(constant))
        if op.values[1] >= 0:
            name = self.node("Add", name, self.shaped(op, 1, tensor.shape, tensor.order))
        if op.params[21] == 1:
            name = self._clamped(name, *op.floats[:2])
        elif op.params[21] == 2:
            name = self.node("PRelu", name, tensor.along(self.needed(op, 3)))
        return name

    def _positioned(self, op: Operation, tensor: Tensor) -> str:
        """Sums times the map of positions, if there is one."""
        maps, outputs, constant = op.params[26], op.params[4], self.constant(op, 5)
        if not maps:
            return tensor.name
        shape = tuple(1 if d == tensor.order[-1] else size for d, size in enumerate(tensor.shape))
        if constant is not None:
            return self.node("Mul", tensor.name, constant.reshape(shape))
        if maps in (1, outputs):
            return self.node("Mul", tensor.name, self.shaped(op, 2, shape if maps == 1 else tensor.shape, tensor.order))
        if maps == -1:
            return self.node("Mul", tensor.name, self.shaped(op, 2, (1,) * len(shape)))
        split = (maps, outputs // maps, *tensor.shape[1:])
        groups = self.graph.reshape(tensor.name, tensor.shape, split)
        factors = self.graph.reshape(self.shaped(op, 2, (maps, *shape[1:]), MAP), shape, (maps, 1, *shape[1:]))
        return self.graph.reshape(self.node("Mul", groups, factors), split, tensor.shape)

    def _clamped(self, name: str, low: float, high: float) -> str:
        bounds = [np.float64(bound).reshape(()) if math.isfinite(bound) else "" for bound in (low, high)]
        return self.node("Clip", name, *bounds) if any(math.isfinite(b) for b in (low, high)) else name

    def pool(self, op: Operation) -> None:
        p = op.params
        channels, geometry = p[3], _geometry(p, 1, 4, 6, 12, 8, 10)
        if p[0] and geometry == Geometry(geometry.size, geometry.size, geometry.stride):
            self.keep(op, 1, self._mean(self.ending(op, math.prod(geometry.size) * channels, channels)))
            return
        x = self.shaped(op, 0, (channels, *geometry.size), MAP)
        self.keep(op, 1, Tensor(self._pooled(x, geometry, p[0]), (channels, *geometry.out), MAP))

    def _mean(self, tensor: Tensor) -> Tensor:
        """The mean over all dimensions but the innermost."""
        channel = tensor.order[-1]
        axes = [d + 1 for d in range(len(tensor.shape)) if d != channel]
        name = self.node("ReduceMean", tensor.name, axes=axes, keepdims=0) if axes else tensor.name
        return Tensor(name, (tensor.shape[channel],), (0,))

    def _pooled(self, x: str, geometry: Geometry, kind: int) -> str:
        pads = _around(geometry)
        if any(pad >= kernel for pad, kernel in zip(pads, geometry.kernel * 2, strict=True)):
            self.refuse(
                f"a pool whose windows of {geometry.kernel} reach {max(pads)} over the edge can't be written as ONNX",
                "use ceil_mode=False",
            )
        attributes = {"pads": pads, **_window(geometry)}
        if kind == 0:
            return self.node("MaxPool", x, **attributes)
        del attributes["dilations"]
        return self.node("AveragePool", x, count_include_pad=kind - 1, **attributes)

    def bit_pool(self, op: Operation) -> None:
        p = op.params
        geometry = _geometry(p, 0, 3, 5, 19, 7, 9)
        for kind in sorted(self.operands[op.values[1]]):
            x = self.tensors.shaped((op.values[0], kind), (p[2], *geometry.size), MAP)
            self.tensors.add((op.values[1], kind), Tensor(self._pooled(x, geometry, 0), (p[2], *geometry.out), MAP))

    def magnitude(self, op: Operation) -> None:
        p = op.params
        channels, groups, outside = p[2], p[3], p[15]
        geometry = _geometry(p, 0, 5, 7, 9, 11, 13)
        if groups == 1 and geometry == Geometry((geometry.out[0], 1), out=(geometry.out[0], 1)):
            tensor = self.ending(op, geometry.out[0] * channels, channels)
            mean = self.node("ReduceMean", self.node("Abs", tensor.name), axes=[tensor.innermost], keepdims=1)
            shape = tuple(1 if d + 1 == tensor.innermost else n for d, n in enumerate(tensor.shape))
            self.keep(op, 1, Tensor(mean, shape, tensor.order))
            return
        x = self.node("Abs", self.shaped(op, 0, (channels, *geometry.size), MAP))
        if groups == 1 < channels:
            x = self.node("ReduceMean", x, axes=[1], keepdims=1)
        elif groups < channels:
            x = self.graph.reshape(x, (channels, *geometry.size), (groups, channels // groups, *geometry.size))
            x = self.node("ReduceMean", x, axes=[2], keepdims=0)
        pads = _around(geometry)
        if outside and any(pads):
            x, pads = self.graph.pad(x, [0, *pads[:2]], [0, *pads[2:]], outside), [0, 0, 0, 0]
        box = np.full((groups, 1, *geometry.kernel), 1 / math.prod(geometry.kernel))
        if box.size > groups:
            x = self.node("Conv", x, box, group=groups, pads=pads, **_window(geometry))
        self.keep(op, 1, Tensor(x, (groups, *geometry.out), MAP))

    def arithmetic(self, op: Operation) -> None:
        p, constant = op.params, self.constant(op, 0)
        rows = zip(p[1:6], p[6:11], p[11:16], strict=True)
        loop = [Entry(size, (a, b)) for size, a, b in rows if size > 1]
        keys = [(op.values[slot], 0) for slot in (0, 1) if op.values[slot] >= 0]
        for key, which in [(keys[0], 0), *([(keys[-1], 1)] if len(keys) == 2 else []), (keys[0], 0)]:
            found = self.tensors.region(key, loop, which, p[16 + which])
            loop = loop if found is None else found[1]
        regions = [self.tensors.region(key, loop, which, p[16 + which]) for which, key in enumerate(keys)]
        parts = [region for region in regions if region is not None and region[1] == loop]
        sizes = tuple(entry.size for entry in loop)
        if len(parts) == len(keys):
            layouts = [physical(tensor, touched, len(loop)) for tensor, _, touched in parts]
            moving = [sum(1 for e in loop if e.strides[which]) for which in range(len(parts))]
            wanted = layouts[moving.index(max(moving))]
            names = [self.tensors.taken(tensor, touched, wanted) for tensor, _, touched in parts]
        else:
            wanted = list(range(len(loop)))
            names = [
                self.tensors.picked([key], positions(loop, which, p[16 + which]), sizes).name
                for which, key in enumerate(keys)
            ]
        if constant is not None and len(keys) == 1:
            still = [Entry(entry.size if entry.strides[1] else 1, entry.strides) for entry in loop]
            names.append(self.graph.constant(constant[positions(still, 1, p[17])].transpose(wanted)))
        name = self.node(_ARITHMETIC[p[0]], *names)
        shape = tuple(sizes[entry] for entry in wanted)
        if any(entry.size > 1 and not any(entry.strides) for entry in loop):
            name = self.node("Expand", name, self.graph.integers(1, *shape))
        self.keep(op, 2, Tensor(name, shape, tuple(wanted.index(i) for i in range(len(loop)))))

    def unary(self, op: Operation) -> None:
        kind, count, channels = op.params[:3]
        tensor = self.ending(op, count, channels) if kind >= 12 else self.tensors.first((op.values[0], 0), count)[0]
        x = tensor.name
        if kind in _SIMPLE:
            y = self.node(_SIMPLE[kind], x)
        elif kind == 0:
            y = self._clamped(x, *op.floats[:2])
        elif kind == 1:
            error = self.node("Erf", self.node("Mul", x, np.float64(math.sqrt(0.5)).reshape(())))
            y = self.node("Mul", self.node("Mul", x, _HALF), self.node("Add", error, _ONE))
        elif kind == 2:
            cube = self.node("Mul", self.node("Mul", x, x), x)
            inner = self.node("Add", x, self.node("Mul", cube, np.float64(0.044715).reshape(())))
            curve = self.node("Tanh", self.node("Mul", inner, np.float64(math.sqrt(2 / math.pi)).reshape(())))
            y = self.node("Mul", self.node("Mul", x, _HALF), self.node("Add", curve, _ONE))
        elif kind == 5:
            y = self.node("Mul", x, self.node("Sigmoid", x))
        elif kind == 9:
            y = self.node("LeakyRelu", x, alpha=float(op.floats[0]))
        elif kind == 11:
            y = self.node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
        elif kind == 12:
            y = self.node("PRelu", x, tensor.along(self.needed(op, 0)))
        else:
            factor, shift = self.needed(op, 0), self.needed(op, 1)
            y = self.node("Mul", x, tensor.along(factor)) if (factor != 1).any() else x
            y = self.node("Add", y, tensor.along(shift)) if shift.any() else y
        self.keep(op, 1, tensor.renamed(y))

    def product(self, op: Operation) -> None:
        batch, rows, inner, columns, transposed = op.params[:5]
        a = self.shaped(op, 0, (batch, rows, inner))
        b = self.shaped(op, 1, (batch, inner, columns), (0, 2, 1) if transposed else None)
        shape = (batch, rows, columns)
        self.keep(op, 2, Tensor(self.node("MatMul", a, b), shape, straight(shape)))

    def binary_product(self, op: Operation) -> None:
        batch, rows, inner, columns, left, right = op.params[:6]
        a = self.tensors.shaped((op.values[0], left), (batch, rows, inner))
        b = self.tensors.shaped((op.values[1], right), (batch, inner, columns), (0, 2, 1))
        y = self.dialect.product(self.graph, self.node("MatMul", a, b))
        if op.floats[0] != 1:
            y = self.node("Mul", y, np.float64(op.floats[0]).reshape(()))
        shape = (batch, rows, columns)
        self.keep(op, 2, Tensor(y, shape, straight(shape)))

    def softmax(self, op: Operation) -> None:
        rows, size = op.params[:2]
        tensor = self.ending(op, rows * size, size)
        self.keep(op, 1, tensor.renamed(self.node("Softmax", tensor.name, axis=tensor.innermost)))

    def layer_norm(self, op: Operation) -> None:
        rows, size = op.params[:2]
        tensor = self.ending(op, rows * size, size)
        if tensor.innermost != len(tensor.shape):
            tensor = Tensor(self.shaped(op, 0, (rows, size)), (rows, size), (0, 1))
        weight, bias = self.constant(op, 0), self.constant(op, 1)
        given = [np.ones(size) if weight is None else weight, *([] if bias is None else [bias])]
        y = self.node("LayerNormalization", tensor.name, *given, axis=-1, epsilon=float(op.floats[0]))
        self.keep(op, 1, tensor.renamed(y))

    def mean(self, op: Operation) -> None:
        rows, size = op.params[:2]
        tensor = self.ending(op, rows * size, size)
        axis = tensor.order[-1]
        y = self.node("ReduceMean", tensor.name, axes=[axis + 1], keepdims=1)
        shape = tuple(1 if d == axis else n for d, n in enumerate(tensor.shape))
        self.keep(op, 1, Tensor(y, shape, tensor.order))

    def embed(self, op: Operation) -> None:
        number, rows, width, offset, stride = op.params[:5]
        loop = [Entry(number, (stride,))] if number > 1 else []
        read = self.tensors.read((op.values[0], 0), loop, offset)
        if read is None:
            read = self.tensors.picked([(op.values[0], 0)], positions(loop, 0, offset), (number,)), loop
        index = self.tensors.arranged(read[0], Tensor("", (number,), (0,))).name
        table = self.graph.constant(self.needed(op, 0).reshape(rows, width), "table")
        self.keep(op, 1, Tensor(self.node("Gather", table, index, axis=0), (number, width), (0, 1)))


_ONE, _HALF = np.ones(()), np.full((), 0.5)

_HOW: Mapping[Code, Callable[[Translation, Operation], None]] = {
    Code.COPY: Translation.copy,
    Code.PACK: Translation.pack,
    Code.BCONV: Translation.convolution,
    Code.FCONV: Translation.convolution,
    Code.POOL: Translation.pool,
    Code.BITPOOL: Translation.bit_pool,
    Code.KMAP: Translation.magnitude,
    Code.BINARY: Translation.arithmetic,
    Code.UNARY: Translation.unary,
    Code.MATMUL: Translation.product,
    Code.BMATMUL: Translation.binary_product,
    Code.SOFTMAX: Translation.softmax,
    Code.LAYERNORM: Translation.layer_norm,
    Code.MEAN: Translation.mean,
    Code.EMBED: Translation.embed,
}


def _operands(program: Program) -> dict[int, set[int]]:
    """As which operands each value of bits is read."""
    found: dict[int, set[int]] = {}
    for op in reversed(program.operations):  # a pool's bits are what its readers take them for
        for slot, which in _READERS.get(op.code, {}).items():
            found.setdefault(op.values[slot], set()).add(op.params[which])
        if op.code is Code.BITPOOL:
            found.setdefault(op.values[0], set()).update(found[op.values[1]])
    return found


def _copies(program: Program) -> dict[int, list[Operation]]:
    """The COPY operations that fill each value."""
    found: dict[int, list[Operation]] = {}
    for op in program.operations:
        if op.code is Code.COPY:
            found.setdefault(op.values[1], []).append(op)
    return found


def _geometry(params: Sequence[int], *at: int) -> Geometry:
    """The geometry whose pairs begin at these parameters."""
    return Geometry(*[(params[i], params[i + 1]) for i in at])


def _around(geometry: Geometry) -> list[int]:
    """Padding at the top, left, bottom and right."""
    rest = [whole - pad - size for whole, pad, size in zip(geometry.padded, geometry.pads, geometry.size, strict=True)]
    return [*geometry.pads, *rest]


def _window(geometry: Geometry) -> dict[str, list[int]]:
    """A window as attributes."""
    return {
        "kernel_shape": list(geometry.kernel),
        "strides": list(geometry.stride),
        "dilations": list(geometry.dilation),
    }
