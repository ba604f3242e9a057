"""OFF files: every spelling that the originals have, damaged ones by file and line, and points drawn by area."""

import numpy as np
import pytest
import trimesh

from bibench.tasks.base import DataError
from bibench.tasks.meshes import Mesh, read_off, sample_surface

TETRAHEDRON = """OFF
4 4 6
0 0 0
1 0 0
0 1 0
0 0 1
3 0 2 1
3 0 1 3
3 0 3 2
3 1 2 3
"""


def read(text):
    return read_off("some.off", text.encode("latin1"))


def test_is_read_as_trimesh_does(tmp_path):
    path = tmp_path / "some.off"
    path.write_text(TETRAHEDRON)
    mesh, other = read_off(path), trimesh.load(path, process=False)
    np.testing.assert_array_equal(mesh.vertices, other.vertices)
    np.testing.assert_array_equal(mesh.triangles, other.faces)
    area = np.linalg.norm(mesh.normals(), axis=1) / 2
    np.testing.assert_allclose(area, other.area_faces)


@pytest.mark.parametrize(
    "text",
    [
        TETRAHEDRON.replace("OFF\n4", "OFF4"),  # as in the original ModelNet40
        TETRAHEDRON.replace("OFF\n4", "OFF 4"),
        TETRAHEDRON.replace("\n", "\r\n"),
        TETRAHEDRON.rstrip(),
        TETRAHEDRON.replace("OFF\n", "# a comment\nOFF\n\n"),
        TETRAHEDRON.replace("3 0 2 1", "3 0 2 1 255 0 0 # red"),
        TETRAHEDRON.replace("3 0 2 1", "  3\t0  2 1"),
        TETRAHEDRON.replace("4 4 6", "4 4"),
        TETRAHEDRON + "\n",
    ],
)
def test_spellings(text):
    mesh, plain = read(text), read(TETRAHEDRON)
    np.testing.assert_array_equal(mesh.vertices, plain.vertices)
    np.testing.assert_array_equal(mesh.triangles, plain.triangles)


def test_polygons_are_cut_into_triangles_and_lines_are_left_out():
    square = "OFF\n4 3 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n4 0 1 2 3\n2 0 1\n1 0\n"
    assert read(square).triangles.tolist() == [[0, 1, 2], [0, 2, 3]]


def test_no_faces_is_a_mesh_without_triangles():
    assert read("OFF\n2 0 0\n0 0 0\n1 0 0\n").triangles.shape == (0, 3)
    assert read("OFF\n0 0 0\n").vertices.shape == (0, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"some.off, line 1: '' isn't the beginning of an OFF file"),
        ("PLY\n", r"some.off, line 1: 'PLY' isn't the beginning"),
        ("\x89PNG\r\n\x1a\n", r"some.off, line 1: .*isn't the beginning"),
        ("OFF\n", "cut off after its first line"),
        ("OFF\n4 four 6\n", "line 2: '4 four 6', expected the numbers of vertices"),
        ("OFF\n4\n", "line 2: '4', expected the numbers"),
        ("OFF\n-4 4 6\n", "line 2: '-4 4 6', expected the numbers"),
        (TETRAHEDRON[:40], r"cut off after line \d+: \d of 4 vertices and 4 faces"),
        (TETRAHEDRON.removesuffix("3 1 2 3\n"), "cut off after line 9: 7 of 4 vertices and 4 faces"),
        (TETRAHEDRON.replace("1 0 0", "1 zero 0"), "line 4: '1 zero 0', expected a vertex"),
        (TETRAHEDRON.replace("1 0 0", "1 0"), "line 4: '1 0', expected a vertex"),
        (TETRAHEDRON.replace("1 0 0", "1 nan 0"), "line 4: '1 nan 0', expected a vertex"),
        (TETRAHEDRON.replace("1 0 0", "1 1e999 0"), "line 4: '1 1e999 0', expected a vertex"),
        (TETRAHEDRON.replace("3 0 3 2", "3 0 3 4"), "line 9: '3 0 3 4' has the vertex 4, expected 0 to 3"),
        (TETRAHEDRON.replace("3 0 3 2", "3 0 -1 2"), "line 9: '3 0 -1 2' has the vertex -1"),
        (TETRAHEDRON.replace("3 0 3 2", "3 0 3"), "line 9: '3 0 3', expected a face"),
        (TETRAHEDRON.replace("3 0 3 2", "3 0 3 x"), "line 9: '3 0 3 x', expected a face"),
        (TETRAHEDRON.replace("3 0 3 2", "3 0 1.5 2"), "line 9: '3 0 1.5 2', expected a face"),
    ],
)
def test_damaged_files_are_named_with_the_line(text, message):
    with pytest.raises(DataError, match=message):
        read(text)


def test_points_lie_on_the_surface_with_its_normals():
    mesh = read(TETRAHEDRON)
    points = sample_surface(mesh, 2_000, b"seed")
    places, normals = points[:, :3], points[:, 3:]
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1)
    on_axes = np.isclose(places, 0, atol=1e-12).any(axis=1)
    slanted = np.isclose(places.sum(axis=1), 1)
    assert (on_axes | slanted).all()
    np.testing.assert_allclose(np.abs(normals[~on_axes]), 1 / np.sqrt(3))
    assert (places >= 0).all()


def test_triangles_are_drawn_by_area_and_places_in_them_uniformly():
    """A square of area 3 beside one of area 1; within 4 standard deviations of 20,000 draws."""
    vertices = np.array([[0, 0, 0], [3, 0, 0], [3, 1, 0], [0, 1, 0], [4, 0, 0], [4, 1, 0]], dtype=np.float64)
    triangles = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 5], [1, 5, 2], [0, 0, 0]])
    points = sample_surface(Mesh(vertices=vertices, triangles=triangles), 20_000, b"1")
    histogram, _, _ = np.histogram2d(points[:, 0], points[:, 1], bins=(8, 2), range=((0, 4), (0, 1)))
    assert histogram.sum() == 20_000
    np.testing.assert_allclose(histogram, 20_000 / 16, atol=4 * np.sqrt(20_000 / 16))


def test_points_depend_on_the_seed_alone():
    mesh = read(TETRAHEDRON)
    one, same, other = (sample_surface(mesh, 9, seed) for seed in (b"abcdef", b"abcdef", b"abcdeg"))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("triangles", [[], [[0, 0, 1]]])
def test_no_surface_has_no_points(triangles):
    mesh = Mesh(vertices=np.eye(3), triangles=np.array(triangles, dtype=np.int64).reshape(-1, 3))
    assert sample_surface(mesh, 5, b"") is None
