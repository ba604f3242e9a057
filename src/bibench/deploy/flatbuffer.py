"""Tables and vectors of FlatBuffers files, written without code that is generated from a schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Field", "numbers", "offsets", "table"]

Field = tuple[str, int, Any]
"""A field of a table: type, slot and value."""


def table(builder: Any, fields: Sequence[Field]) -> int:
    """A table; what is 0 isn't stored."""
    builder.StartObject(1 + max((slot for _, slot, _ in fields), default=-1))
    for kind, slot, value in fields:
        if kind == "Offset":
            builder.PrependUOffsetTRelativeSlot(slot, value, 0)
        else:
            getattr(builder, f"Prepend{kind}Slot")(slot, value, 0)
    end: int = builder.EndObject()
    return end


def offsets(builder: Any, places: Sequence[int]) -> int:
    """A vector of tables or strings."""
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    end: int = builder.EndVector()
    return end


def numbers(builder: Any, values: npt.ArrayLike, dtype: npt.DTypeLike = np.int32) -> int:
    """A vector of numbers."""
    end: int = builder.CreateNumpyVector(np.ascontiguousarray(values, dtype).reshape(-1))
    return end
