"""Where a tensor's elements lie in a buffer: what reshapes, permutations and slices change, at no cost.

A dimension is a list of atoms, pairs of a size and a stride, outermost first: a map of C channels that is stored
channels last and then flattened is one dimension of the atoms (C, 1), (H, W·C), (W, C). So flattening and splitting
copy nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from bibench.deploy.format import Place, Type

__all__ = ["Atom", "Buffer", "View", "contiguous", "merged"]

Atom = tuple[int, int]
Dim = tuple[Atom, ...]


@dataclass(eq=False)
class Buffer:
    """Memory that operations read and write; compared by identity.

    Args:
        type, count: what it holds, and how many numbers or words.
        place, number: as `format.Value` has them.
    """

    type: Type
    count: int
    place: Place = Place.ARENA
    number: int = 0


def merged(atoms: Iterable[Atom]) -> Dim:
    """The same elements in fewer atoms; none for a size of 1.

    >>> merged([(2, 12), (3, 4), (1, 7), (4, 1)])
    ((24, 1),)
    """
    found: list[Atom] = []
    for size, stride in atoms:
        if size == 1:
            continue
        if found and found[-1][1] == size * stride:
            found[-1] = (found[-1][0] * size, stride)
        else:
            found.append((size, stride))
    return tuple(found)


def contiguous(buffer: Buffer, shape: Sequence[int], order: Sequence[int] | None = None) -> View:
    """A buffer seen in a shape; ``order`` lists the dimensions as they are stored, outermost first."""
    dims: list[Dim] = [()] * len(shape)
    stride = 1
    for dim in reversed(range(len(shape)) if order is None else order):
        dims[dim] = ((shape[dim], stride),) if shape[dim] > 1 else ()
        stride *= shape[dim]
    return View(buffer, tuple(dims))


@dataclass(frozen=True)
class View:
    """A tensor in a buffer.

    Args:
        buffer: the memory.
        dims: the atoms of each dimension.
        offset: of the first element.

    >>> view = contiguous(Buffer(Type.FLOAT32, 24), (1, 2, 3, 4), order=(0, 2, 3, 1))
    >>> view.reshape((1, 24)).dims
    ((), ((2, 1), (12, 2)))
    """

    buffer: Buffer
    dims: tuple[Dim, ...]
    offset: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape."""
        return tuple(math.prod(size for size, _ in dim) for dim in self.dims)

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def atoms(self, order: Sequence[int] | None = None) -> Dim:
        """All atoms, of the dimensions in an order, merged."""
        return merged(atom for dim in (range(len(self.dims)) if order is None else order) for atom in self.dims[dim])

    def is_stored(self, order: Sequence[int] | None = None) -> bool:
        """Whether the elements, with the dimensions in an order, follow each other from the buffer's beginning."""
        return self.offset == 0 and self.atoms(order) in ((), ((self.numel, 1),))

    def stored_atoms(self) -> list[tuple[int, int, Atom]]:
        """Every atom with its dimension and place in it, outermost in memory first."""
        found = [(d, i, atom) for d, dim in enumerate(self.dims) for i, atom in enumerate(dim)]
        return sorted(found, key=lambda entry: -entry[2][1])

    def is_dense(self) -> bool:
        """Whether the elements fill the buffer's beginning without gaps or repetition, in whatever order."""
        return self.offset == 0 and merged(atom for _, _, atom in self.stored_atoms()) in ((), ((self.numel, 1),))

    def on(self, buffer: Buffer) -> View:
        """The same arrangement in another buffer."""
        return replace(self, buffer=buffer)

    def reshape(self, shape: Sequence[int]) -> View | None:
        """The view in another shape, or None where that takes a copy."""
        left = list(reversed(merged(atom for dim in self.dims for atom in dim)))
        dims: list[Dim] = []
        for wanted in shape:
            group: list[Atom] = []
            while wanted > 1:
                if not left:
                    return None
                size, stride = left.pop()
                if wanted % size == 0:
                    group.append((size, stride))
                    wanted //= size
                elif size % wanted == 0:
                    group.append((wanted, stride * (size // wanted)))
                    left.append((size // wanted, stride))
                    wanted = 1
                else:
                    return None
            dims.append(merged(group))
        return replace(self, dims=tuple(dims))

    def permute(self, order: Sequence[int]) -> View:
        """Dimensions in another order."""
        return replace(self, dims=tuple(self.dims[dim] for dim in order))

    def insert(self, dim: int) -> View:
        """One more dimension, of size 1."""
        return replace(self, dims=(*self.dims[:dim], (), *self.dims[dim:]))

    def remove(self, *removed: int) -> View:
        """Without these dimensions, which have size 1."""
        return replace(self, dims=tuple(dim for d, dim in enumerate(self.dims) if d not in removed))

    def select(self, dim: int, index: int) -> View:
        """One index of a dimension, which disappears."""
        offset = self.offset
        for size, stride in reversed(self.dims[dim]):
            offset += index % size * stride
            index //= size
        return replace(self, dims=(*self.dims[:dim], *self.dims[dim + 1 :]), offset=offset)

    def slice(self, dim: int, start: int, length: int, step: int = 1) -> View | None:
        """A part of a dimension, or None where that takes a copy."""
        atoms = self.dims[dim]
        if length == self.shape[dim] and step == 1:
            return self
        if len(atoms) != 1:
            if length == 1:
                return self.select(dim, start).insert(dim)
            return None
        stride = atoms[0][1]
        part = ((length, stride * step),) if length > 1 else ()
        dims = (*self.dims[:dim], part, *self.dims[dim + 1 :])
        return replace(self, dims=dims, offset=self.offset + start * stride)

    def expand(self, shape: Sequence[int]) -> View:
        """Dimensions of size 1, and new ones in front, repeated."""
        dims = ((),) * (len(shape) - len(self.dims)) + self.dims
        return replace(
            self,
            dims=tuple(dim if dim or wanted == 1 else ((wanted, 0),) for dim, wanted in zip(dims, shape, strict=True)),
        )

    def without(self, dims: Iterable[int]) -> tuple[Dim, ...]:
        """The other dimensions' atoms once these dimensions are gone and the gaps closed; these are empty."""
        gone = set(dims)
        new: list[list[Atom]] = [list(dim) if d not in gone else [] for d, dim in enumerate(self.dims)]
        stride = 1
        for d, i, (size, _) in reversed(self.stored_atoms()):
            if d not in gone:
                new[d][i] = (size, stride)
                stride *= size
        return tuple(merged(dim) for dim in new)
