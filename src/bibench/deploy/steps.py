"""The program while it is made: operations on buffers, before these have places and constants have numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from bibench.deploy.capture import Node
from bibench.deploy.format import OUTPUTS, SLOTS, Code
from bibench.deploy.views import Buffer

__all__ = ["Array", "Reader", "Step", "readers", "uniform"]

Array = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Reader:
    """Which operand some packed bits are: how they follow from the tensor that the layer gets.

    Args:
        name: the layer.
        call: which of its calls.
        operand: ``"input"``, or ``"left"`` or ``"right"`` of a product.
        shape, axes: the tensor reshaped and transposed is the packed map, pixels before channels.
        repeat: how often each channel follows itself.
        threshold: of each channel.
    """

    name: str
    call: int
    operand: str
    shape: tuple[int, ...]
    axes: tuple[int, ...]
    repeat: int
    threshold: Array


@dataclass(eq=False)
class Step:
    """An operation whose operands are buffers and arrays; compared by identity.

    Args:
        code: what it does.
        values, constants, params, floats: as in the format; None for none. Floating-point constants stay in float64
            until the file is written, so that what is folded is rounded once.
        nodes: what it computes, in order.
        readers: of a step that reads packed bits: which operand they are, by the value's slot.
    """

    code: Code
    values: list[Buffer | None]
    constants: list[Array | None]
    params: list[int]
    floats: list[float]
    nodes: list[Node] = field(default_factory=list)
    readers: dict[int, Reader] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        code: Code,
        values: Sequence[Buffer | None],
        params: Sequence[int],
        *,
        constants: Sequence[Array | None] = (),
        floats: Sequence[float] = (),
        nodes: Sequence[Node] = (),
    ) -> Step:
        """A step whose missing operands are none and missing numbers 0."""

        def filled(given: Sequence[Any], what: str, empty: Any) -> list[Any]:
            return [*given, *[empty] * (SLOTS[what] - len(given))]

        return cls(
            code,
            filled(values, "values", None),
            filled(constants, "constants", None),
            filled(params, "params", 0),
            filled(floats, "floats", 0.0),
            list(nodes),
        )

    @property
    def inputs(self) -> list[Buffer]:
        """What it reads."""
        written = OUTPUTS[self.code]
        return [value for slot, value in enumerate(self.values) if value is not None and slot not in written]

    @property
    def outputs(self) -> list[Buffer]:
        """What it writes."""
        return [value for slot in OUTPUTS[self.code] if (value := self.values[slot]) is not None]

    @property
    def title(self) -> str:
        """The modules that it computes, such as ``"layer1.0.conv1 + bn1 + relu"``."""
        titles = list(dict.fromkeys(node.title for node in self.nodes))
        parts = titles[:1]
        for title in titles[1:]:
            parent, _, name = title.rpartition(".")
            parts.append(name if parent == titles[0].rpartition(".")[0] else title)
        text = " + ".join(parts)
        return f"{text} ({self.code.name.lower()})" if self.code in (Code.COPY, Code.PACK, Code.KMAP) else text


def readers(steps: Sequence[Step]) -> dict[Buffer, list[Step]]:
    """Who reads each buffer."""
    found: dict[Buffer, list[Step]] = {}
    for step in steps:
        for buffer in dict.fromkeys(step.inputs):
            found.setdefault(buffer, []).append(step)
    return found


def uniform(array: Array | None) -> bool:
    """Whether all numbers are the same one."""
    return array is None or array.size <= 1 or bool(np.all(array == array.flat[0]))
