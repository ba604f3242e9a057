"""A packed program as ONNX whose binary layers are nodes ``bibench.Packed``, run by the packed engine.

Operations on bits that follow each other become one node, which holds their part of the program, as a packed file;
full-precision layers between them are ONNX's own nodes. A node's inputs and outputs are flat, ``(batch, numbers)``, as
they lie in the program's memory; bits that one node makes for another pass as they are, 32 in the place of a float32.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from bibench.deploy.format import OUTPUTS, Code, Operation, Place, Program, Type, Value
from bibench.deploy.onnx_graph import Tensor
from bibench.deploy.onnx_operations import Dialect, Translation

__all__ = ["DOMAIN", "PackedTranslation", "islands", "part"]

DOMAIN = "bibench"
_BITS = frozenset({Code.PACK, Code.BCONV, Code.BITPOOL, Code.KMAP, Code.BMATMUL})
_BETWEEN = frozenset({Code.COPY, Code.BINARY, Code.UNARY, Code.MEAN, Code.POOL})
"""Operations that join an island where it is on both sides of them."""


class PackedTranslation(Translation):
    """A packed program as ONNX nodes, those on bits as ``bibench.Packed``."""

    def __init__(self, program: Program, dialect: Dialect) -> None:
        super().__init__(separated(program), dialect)

    def translate(self) -> None:
        """Add the nodes of all operations."""
        for numbers in islands(self.program):
            if self.program.operations[numbers[0]].code in _BITS:
                self._packed(numbers)
            else:
                self.operation(numbers[0])

    def layers(self) -> list[dict[str, object]]:
        """The layers whose products are of bits; their operands are inside of the nodes."""
        return [{key: at[key] for key in ("name", "call", "operand")} for at in self.program.metadata["layers"]]

    def _packed(self, numbers: Sequence[int]) -> None:
        titles = [self.program.metadata["operations"][number] for number in numbers]
        self.graph.title = titles[0] if len(titles) == 1 else f"{titles[0]} to {titles[-1]}"
        inputs, outputs = edges(self.program, numbers)
        given = [self.tensors.shaped((value, 0), (self.program.values[value].count,)) for value in inputs]
        content = part(self.program, numbers).to_bytes()
        names = self.graph.node_of("Packed", given, len(outputs), DOMAIN, {"program": content})
        for value, name in zip(outputs, names, strict=True):
            self.tensors.add((value, 0), Tensor(name, (self.program.values[value].count,), (0,)))


def separated(program: Program) -> Program:
    """The same program with the bits that convolutions of floats make packed by operations of their own."""
    values, operations, titles = list(program.values), [], []
    arena = program.arena
    for op, title in zip(program.operations, program.metadata["operations"], strict=True):
        bits = op.values[4]
        if op.code is not Code.FCONV or bits < 0:
            operations.append(op)
            titles.append(title)
            continue
        height, width, outputs = op.params[13], op.params[14], op.params[4]
        floats = op.values[3]
        if floats < 0:
            floats = len(values)
            values.append(Value(Place.ARENA, Type.FLOAT32, arena, height * width * outputs))
            arena += -(-values[-1].bytes // 64) * 64
        convolution = replace(
            op,
            values=(*op.values[:3], floats, -1, -1),
            constants=(*op.constants[:4], -1, *op.constants[5:]),
            params=(*op.params[:22], 0, 0, 0, 0, *op.params[26:]),
        )
        params = (height, width, outputs, 1, *op.params[22:26], *[0] * 24)
        pack = Operation(Code.PACK, (floats, bits, -1, -1, -1, -1), (op.constants[4], *[-1] * 7), params, (0.0,) * 4)
        operations += [convolution, pack]
        titles += [title, f"{title} (pack)"]
    about = {**program.metadata, "operations": titles}
    return Program(tuple(values), program.constants, tuple(operations), arena, about)


def islands(program: Program) -> list[list[int]]:
    """Numbers of operations that are done together, in their order: those on bits as long as possible, others alone."""
    writers = Counter(value for op in program.operations for value in written(op))
    found: list[list[int]] = []
    for number, op in enumerate(program.operations):
        if op.code in _BITS:
            start = len(found)
            while start and _joins(program, found[start - 1], writers):
                start -= 1
            if start and program.operations[found[start - 1][0]].code in _BITS:
                start -= 1
                found[start:] = [[n for group in found[start:] for n in group] + [number]]
                continue
        found.append([number])
    return found


def _joins(program: Program, group: Sequence[int], writers: Counter[int]) -> bool:
    """Whether a single operation may be in the midst of an island."""
    op = program.operations[group[0]]
    values = [program.values[value] for value in op.values if value >= 0]
    whole = all(writers[value] == 1 for value in written(op))
    return op.code in _BETWEEN and whole and all(value.type is Type.FLOAT32 for value in values)


def written(op: Operation) -> list[int]:
    """The values that an operation writes."""
    return [op.values[slot] for slot in OUTPUTS[op.code] if op.values[slot] >= 0]


def read(op: Operation) -> list[int]:
    """The values that an operation reads."""
    return [value for slot, value in enumerate(op.values) if value >= 0 and slot not in OUTPUTS[op.code]]


def edges(program: Program, numbers: Sequence[int]) -> tuple[list[int], list[int]]:
    """The values that operations take from others or from outside, and those that they make for them."""
    inside = [program.operations[number] for number in numbers]
    others = [op for number, op in enumerate(program.operations) if number not in numbers]
    made = dict.fromkeys(value for op in inside for value in written(op))
    taken = dict.fromkeys(value for op in inside for value in read(op))
    wanted = {value for op in others for value in read(op)}
    outputs = [value for value in made if value in wanted or program.values[value].place is Place.OUTPUT]
    return [value for value in taken if value not in made], outputs


def part(program: Program, numbers: Sequence[int]) -> Program:
    """Some operations of a program as a program of its own."""
    inputs, outputs = edges(program, numbers)
    operations = [program.operations[number] for number in numbers]
    used = list(dict.fromkeys(value for op in operations for value in op.values if value >= 0))
    needed = list(dict.fromkeys(constant for op in operations for constant in op.constants if constant >= 0))
    ports = {value: (Place.INPUT, number) for number, value in enumerate(inputs)}
    ports |= {value: (Place.OUTPUT, number) for number, value in enumerate(outputs)}
    values = []
    for value in used:
        place, offset = ports.get(value, (Place.ARENA, program.values[value].offset))
        values.append(replace(program.values[value], place=place, offset=offset))
    new = [
        replace(
            op,
            values=tuple(used.index(value) if value >= 0 else -1 for value in op.values),
            constants=tuple(needed.index(constant) if constant >= 0 else -1 for constant in op.constants),
        )
        for op in operations
    ]
    arena = max((value.offset + value.bytes for value in values if value.place is Place.ARENA), default=0)
    titles = [program.metadata["operations"][number] for number in numbers]
    constants = tuple(program.constants[constant] for constant in needed)
    return Program(tuple(values), constants, tuple(new), arena, {"operations": titles})
