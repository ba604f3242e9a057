"""Meshes in OFF files, and points drawn on their surface.

A reader of our own, since the original ModelNet files often have the first count glued to the word OFF
(``OFF490 518 0``), which trimesh refuses, and since an error must name the line.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bibench.tasks.base import DataError

__all__ = ["Mesh", "read_off", "sample_surface"]

_REPAIR = "unpack it again from the archive"


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """A surface of triangles.

    Args:
        vertices: float64 ``(vertices, 3)``.
        triangles: int64 ``(triangles, 3)``, numbers of vertices.
    """

    vertices: npt.NDArray[np.float64]
    triangles: npt.NDArray[np.int64]

    def normals(self) -> npt.NDArray[np.float64]:
        """Of each triangle a normal whose length is twice its area."""
        corners = self.vertices[self.triangles]
        return np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _numbers(text: bytes) -> npt.NDArray[np.float64]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy would stop at what is no number, with a warning
        return np.fromstring(text.decode("ascii"), sep=" ")


def _all_triangles(content: bytes) -> Mesh | None:
    """A well-formed file of triangles without colours or comments, parsed at once; None: read it line by line."""
    if b"#" in content or not content.startswith(b"OFF"):
        return None
    try:
        numbers = _numbers(content[3:])
        vertices, faces = (int(number) for number in numbers[:2])
        body = numbers[3:]
        if len(body) != 3 * vertices + 4 * faces or not np.isfinite(body).all():
            return None
        rows = body[3 * vertices :].reshape(faces, 4)
        triangles = rows[:, 1:].astype(np.int64)
    except (ValueError, DeprecationWarning, RuntimeWarning, OverflowError):
        return None
    if (rows[:, 0] != 3).any() or (triangles != rows[:, 1:]).any():
        return None
    if faces and not (triangles.min() >= 0 and triangles.max() < vertices):
        return None
    return Mesh(vertices=body[: 3 * vertices].reshape(vertices, 3), triangles=triangles)


def read_off(path: Path, content: bytes | None = None) -> Mesh:
    """Read an OFF file: ``OFF``, the counts of vertices, faces and edges, then a line for each vertex and each face.

    The counts may stand on the first line, glued to the word or not. Faces with more corners are cut into triangles
    around their first; those with fewer, and colours behind the corners, are left out. ``#`` begins a comment.

    Args:
        path: the file's.
        content: its bytes, if they are read already.

    Raises:
        DataError: it isn't one, or was cut off; file and line are named.
    """
    content = path.read_bytes() if content is None else content
    mesh = _all_triangles(content)
    return _by_lines(path, content) if mesh is None else mesh


def _by_lines(path: Path, content: bytes) -> Mesh:
    lines = [
        (number, stripped)
        for number, line in enumerate(content.decode("latin1").split("\n"), 1)
        if (stripped := line.partition("#")[0].strip())
    ]
    if not lines or not lines[0][1].startswith("OFF"):
        first = lines[0][1][:40] if lines else ""
        raise DataError(f"{path}, line 1: {first!a} isn't the beginning of an OFF file, expected 'OFF'; {_REPAIR}")
    glued = lines[0][1][3:].strip()
    lines = ([(lines[0][0], glued)] if glued else []) + lines[1:]
    if not lines:
        raise DataError(f"{path}: cut off after its first line; {_REPAIR}")
    (number, counts), body = lines[0], lines[1:]
    try:
        vertices, faces = (int(field) for field in counts.split()[:2])
        if vertices < 0 or faces < 0:
            raise ValueError
    except ValueError:
        raise DataError(
            f"{path}, line {number}: {counts[:40]!a}, expected the numbers of vertices, faces and edges; {_REPAIR}"
        ) from None
    if len(body) < vertices + faces:
        raise DataError(
            f"{path}: cut off after line {lines[-1][0]}: {len(body):,} of {vertices:,} vertices and {faces:,} faces; "
            f"{_REPAIR}"
        )
    points = [_vertex(path, *line) for line in body[:vertices]]
    triangles = [
        corners for line in body[vertices : vertices + faces] for corners in _face(path, *line, vertices=vertices)
    ]
    return Mesh(
        vertices=np.array(points, dtype=np.float64).reshape(-1, 3),
        triangles=np.array(triangles, dtype=np.int64).reshape(-1, 3),
    )


def _vertex(path: Path, number: int, line: str) -> list[float]:
    try:
        values = [float(field) for field in line.split()[:3]]
    except ValueError:
        values = []
    if len(values) != 3 or not np.isfinite(values).all():
        raise DataError(f"{path}, line {number}: {line[:60]!a}, expected a vertex, three finite numbers; {_REPAIR}")
    return values


def _face(path: Path, number: int, line: str, *, vertices: int) -> list[tuple[int, int, int]]:
    fields = line.split()
    try:
        corners = [int(field) for field in fields[1 : 1 + int(fields[0])]]
        if len(corners) != int(fields[0]):
            raise ValueError
    except ValueError:
        raise DataError(
            f"{path}, line {number}: {line[:60]!a}, expected a face, the number of its corners and their vertices; "
            f"{_REPAIR}"
        ) from None
    wrong = [corner for corner in corners if not 0 <= corner < vertices]
    if wrong:
        raise DataError(
            f"{path}, line {number}: {line[:60]!a} has the vertex {wrong[0]}, expected 0 to {vertices - 1}; {_REPAIR}"
        )
    return [(corners[0], corners[i], corners[i + 1]) for i in range(1, len(corners) - 1)]


def sample_surface(mesh: Mesh, count: int, seed: bytes) -> npt.NDArray[np.float64] | None:
    """Draw points uniformly from the surface: a triangle by its area, then a place in it.

    Args:
        mesh: of any size and place.
        count: how many points.
        seed: any bytes; the same give the same points.

    Returns:
        float64 ``(count, 6)``, a point and the unit normal of its triangle; None where the surface has no area.

    Source: Osada et al., Shape Distributions, 2002, section 4.1.

    >>> mesh = Mesh(vertices=np.eye(3), triangles=np.array([[0, 1, 2]]))
    >>> points = sample_surface(mesh, 5, b"seed")
    >>> bool(np.allclose(points[:, :3].sum(axis=1), 1)), points.shape
    (True, (5, 6))
    """
    normals = mesh.normals()
    length = np.sqrt((normals**2).sum(axis=1))
    total = length.sum()
    if not len(length) or not np.isfinite(total) or total <= 0:
        return None
    generator = np.random.default_rng(int.from_bytes(seed, "little"))
    # Not below 1 with the sum's rounding, and never a triangle without area.
    below = np.cumsum(length) / total
    chosen = np.minimum(np.searchsorted(below, generator.random(count), side="right"), np.flatnonzero(length)[-1])
    one, two = generator.random((2, count, 1))
    root = np.sqrt(one)
    a, b, c = np.moveaxis(mesh.vertices[mesh.triangles[chosen]], 1, 0)
    places = (1 - root) * a + root * (1 - two) * b + root * two * c
    return np.concatenate((places, normals[chosen] / length[chosen, None]), axis=1)
