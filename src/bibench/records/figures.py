"""Measured figures: one, and all those of a record, small enough that millions fit into memory."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from typing import Annotated, Any, overload

from pydantic import ConfigDict, Field, GetCoreSchemaHandler, GetPydanticSchema, TypeAdapter
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

__all__ = ["LARGEST", "Figure", "Figures", "Kinds", "parse_figures"]

LARGEST = 1e100
"""Figures are smaller than this, in either direction, so that no score overflows."""

_Bounded = Annotated[
    float,
    Field(gt=-LARGEST, lt=LARGEST, allow_inf_nan=False),
    GetPydanticSchema(
        lambda source, handler: core_schema.custom_error_schema(
            handler(source), "bounded", custom_error_message=f"expected a number between {-LARGEST:g} and {LARGEST:g}"
        )
    ),
]
"""Checked without a call of Python's for each of millions of figures; pydantic's own message has all digits."""


@dataclass(frozen=True, slots=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Figure:
    """One measured figure.

    Args:
        name: such as ``"accuracy"``.
        value: finite and smaller than `LARGEST`; a figure that could not be measured is left out, never 0.
        unit: ``"percent"``, ``"ratio"``, ``"s"``, ``"nats"``, ``"count"``, ...
        samples: how many samples it was counted over.
        higher_is_better: None where neither direction is better.
        mode: which of several definitions, where there are several.
        conditions: under which it was measured, where a record has several figures of one name: ``subset`` of the test
            data; ``corruption`` and ``severity``; ``device``, ``threads`` and ``library``.
        source: where a published figure is printed.
    """

    name: str
    value: _Bounded
    unit: str
    samples: int | None = None
    higher_is_better: bool | None = None
    mode: str | None = None
    conditions: dict[str, str] = Field(default_factory=dict)
    source: str | None = None


_FIELDS = tuple(Figure.__dataclass_fields__)


class Kinds:
    """What the figures of a record are, all but their values; runs that were measured alike share one.

    Args:
        figures: of whatever values.
    """

    def __init__(self, figures: tuple[Figure, ...]) -> None:
        self.figures = figures
        self._under: dict[tuple[str, ...], dict[tuple[str, ...], int]] = {}

    @cached_property
    def names(self) -> frozenset[str]:
        """The names of the figures."""
        return frozenset(figure.name for figure in self.figures)

    @cached_property
    def plain(self) -> dict[str, int]:
        """The first place of each name under no special conditions."""
        found: dict[str, int] = {}
        for place, figure in enumerate(self.figures):
            if not figure.conditions:
                found.setdefault(figure.name, place)
        return found

    def under(self, name: str, conditions: tuple[str, ...]) -> dict[tuple[str, ...], int]:
        """The places of the figures of a name under just these conditions, by their values."""
        key = (name, *conditions)
        if key not in self._under:
            self._under[key] = {
                tuple([figure.conditions[condition] for condition in conditions]): place
                for place, figure in enumerate(self.figures)
                if figure.name == name and figure.conditions.keys() == set(conditions)
            }
        return self._under[key]


class Figures(Sequence[Figure]):
    """The figures of a record, in their order: numbers, and what they are.

    A big store has millions of figures, so there is an object for one only while somebody looks at it.

    >>> figures = Figures.of([Figure(name="accuracy", value=91.5, unit="percent")])
    >>> figures[0].value, figures.kinds.plain
    (91.5, {'accuracy': 0})
    """

    __slots__ = ("kinds", "values")

    def __init__(self, kinds: Kinds, values: Iterable[float]) -> None:
        self.kinds = kinds
        self.values = array("d", values)

    @classmethod
    def of(cls, figures: Iterable[Figure]) -> Figures:
        """Some figures; the same object where they are one of these already."""
        if isinstance(figures, Figures):
            return figures
        own = tuple(figures)
        return cls(Kinds(own), [figure.value for figure in own])

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, place: int) -> Figure: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Figure, ...]: ...
    def __getitem__(self, place: int | slice) -> Figure | tuple[Figure, ...]:
        if isinstance(place, slice):
            return tuple(map(self.__getitem__, range(*place.indices(len(self)))))
        value, kind = self.values[place], self.kinds.figures[place]
        made = object.__new__(Figure)  # all of it was checked
        for name in _FIELDS:
            object.__setattr__(made, name, value if name == "value" else getattr(kind, name))
        return made

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    def __repr__(self) -> str:
        return repr(tuple(self))

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        own = handler.generate_schema(tuple[Figure, ...])
        return core_schema.no_info_wrap_validator_function(
            lambda value, checked: value if isinstance(value, Figures) else cls.of(checked(value)),
            own,
            serialization=core_schema.plain_serializer_function_ser_schema(tuple, return_schema=own),
        )


_FIGURES = TypeAdapter(tuple[Figure, ...])
_NUMBERS = TypeAdapter(list[_Bounded])
_VALUE = b'"value": '


def parse_figures(text: bytes) -> Figures | None:
    """The figures in the lines of a record's JSON array, or None where these aren't laid out as records are written.

    Values are taken out of the text, and what is left of it is checked once for all records that have the same.

    Raises:
        ValidationError: some of it isn't valid.
    """
    first, *rest = text.split(_VALUE)
    parts = [part.partition(b",") for part in rest]
    kinds = _kinds((_VALUE + b"0,").join([first, *[after for _, _, after in parts]]))
    values = _NUMBERS.validate_json(b"[" + b",".join([value for value, _, _ in parts]) + b"]")
    # Where a value was none of a figure's, these differ, or the text without it wasn't valid.
    return Figures(kinds, values) if len(parts) == len(values) == len(kinds.figures) else None


@lru_cache(maxsize=256)
def _kinds(text: bytes) -> Kinds:
    return Kinds(_FIGURES.validate_json(b"[" + text + b"]"))
