"""The filters against their definitions, written pixel by pixel, and against values that OpenCV 5.0.0 computed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from bibench.tasks import image_filters as filters

few = settings(max_examples=20, deadline=None)


@pytest.fixture
def pattern():
    """12x14 pixels with flat parts, corners and ties."""
    y, x = np.mgrid[:12, :14]
    image = ((x * x * 3 + y * y * 5 + x * y * (x - y)) % 97 * 2.5).astype(np.uint8)
    image[2:9, 3:6], image[5:7, 8:13] = 250, 0
    return image[None]


def test_gaussian_is_scipys_for_each_image():
    images = np.random.default_rng(0).random((3, 9, 10, 3))
    found = filters.gaussian(images, 0.7, truncate=3, mode="reflect")
    for image, blurred in zip(images, found, strict=True):
        expected = ndimage.gaussian_filter(image, (0.7, 0.7, 0), truncate=3, mode="reflect")
        np.testing.assert_allclose(blurred, expected, rtol=1e-12)
    assert filters.gaussian(images, 0) is images


@pytest.mark.parametrize("radius", [0.3, 1, 1.5, 2.5])
def test_disk_without_softness_is_the_disk(radius):
    kernel = filters.disk(radius, 1e-3)
    offsets = np.arange(len(kernel)) - len(kernel) // 2
    inside = offsets[:, None] ** 2 + offsets**2 <= radius**2
    np.testing.assert_allclose(kernel, inside / inside.sum(), atol=1e-7)
    soft = filters.disk(radius, 0.5)
    assert soft.sum() == pytest.approx(1)
    assert (soft > 0).sum() > (kernel > 1e-9).sum()


@few
@given(angle=st.floats(-180, 180), radius=st.integers(1, 9), sigma=st.floats(0.5, 12), seed=st.integers(0, 9))
def test_motion_blur_equals_the_definition(angle, radius, sigma, seed):
    images = np.random.default_rng(seed).integers(256, size=(2, 8, 11), dtype=np.uint8)
    found = filters.motion_blur(images, radius, sigma, [20.0, angle])
    weights = [np.exp(-(i**2) / (2 * sigma**2)) for i in range(2 * radius + 1)]
    for row, column in [(0, 0), (3, 5), (7, 10), (2, 9)]:
        total = 0.0
        for i, weight in enumerate(weights):
            down = row + int(np.ceil(i * np.sin(np.deg2rad(angle)) - 0.5))
            right = column + int(np.ceil(i * np.cos(np.deg2rad(angle)) - 0.5))
            total += weight * images[1, min(max(down, 0), 7), min(max(right, 0), 10)]
        assert found[1, row, column] == pytest.approx(total / sum(weights), abs=0.5 + 1e-9)


@few
@given(height=st.integers(8, 40), width=st.integers(8, 40), factor=st.floats(1, 2.25))
def test_zoomed_is_scipys_zoom_of_the_centre(height, width, factor):
    image = np.random.default_rng(0).random((height, width))
    cut = [int(np.ceil(size / factor)) for size in image.shape]
    top, left = ((size - kept) // 2 for size, kept in zip(image.shape, cut, strict=True))
    large = ndimage.zoom(image[top : top + cut[0], left : left + cut[1]], factor, order=1)
    top, left = ((size - old) // 2 for size, old in zip(large.shape, image.shape, strict=True))
    expected = large[top : top + height, left : left + width]
    np.testing.assert_allclose(filters.zoomed(image[None], factor)[0], expected, atol=1e-12)


@few
@given(height=st.integers(2, 9), width=st.integers(2, 9), seed=st.integers(0, 99), edge_twice=st.booleans())
def test_bilinear_is_scipys_interpolation(height, width, seed, edge_twice):
    generator = np.random.default_rng(seed)
    images = generator.random((2, height, width, 3))
    rows, columns = (generator.uniform(-2 * size, 3 * size, (2, height, width)) for size in (height, width))
    found = filters.bilinear(images, rows, columns, edge_twice=edge_twice)
    for i in range(2):
        for channel in range(3):
            expected = ndimage.map_coordinates(
                images[i, :, :, channel], [rows[i], columns[i]], order=1, mode="reflect" if edge_twice else "mirror"
            )
            np.testing.assert_allclose(found[i, :, :, channel], expected, atol=1e-9)


def _slow_plasma(uniform, size, decay):
    """The diamond-square algorithm, point by point."""
    numbers, points = iter(uniform), {(0, 0): 0.0}
    step, strength = size, 100.0
    while step >= 2:
        half = step // 2
        grid = range(0, size, step)
        around = {
            (half, half): [(-half, -half), (-half, half), (half, -half), (half, half)],
            (0, half): [(-half, 0), (half, 0), (0, -half), (0, half)],
            (half, 0): [(-half, 0), (half, 0), (0, -half), (0, half)],
        }
        for (down, right), neighbours in around.items():
            for y in grid:
                for x in grid:
                    near = [points[(y + down + a) % size, (x + right + b) % size] for a, b in neighbours]
                    points[y + down, x + right] = sum(near) / 4 + strength**2 * next(numbers)
        step, strength = half, strength / decay
    heights = np.array([[points[y, x] for x in range(size)] for y in range(size)])
    return (heights - heights.min()) / (heights.max() - heights.min())


@pytest.mark.parametrize("decay", [1.75, 3])
def test_plasma_equals_the_definition(decay):
    uniform = np.random.default_rng(0).uniform(-1, 1, (2, 255))
    found = filters.plasma(uniform, decay)
    for numbers, heights in zip(uniform, found, strict=True):
        np.testing.assert_allclose(heights, _slow_plasma(numbers, 16, decay), atol=1e-12)


def test_canny_is_opencvs(pattern):
    edges = filters.canny(pattern.repeat(2, axis=0), 200, 600)
    expected = [1235, 1312, 3849, 14601, 2237, 2242, 10457, 10386, 12096, 13831, 2048, 3840]  # a row's pixels as bits
    for image in edges:
        assert [int("".join(str(int(pixel)) for pixel in row), 2) for row in image] == expected


def test_weak_edges_do_not_reach_into_the_next_image():
    """A weak edge alone is none, even where the image before has a strong one at its place."""
    strong, weak = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    strong[:, 4:], weak[:, 4:] = 200, 30
    edges = filters.canny(np.stack([strong, weak]), 50, 150)
    assert edges[0].any()
    assert not edges[1].any()


def test_distance_is_opencvs():
    targets = np.zeros((2, 9, 24), dtype=bool)
    targets[0, 2, 1] = True
    found = filters.distance(targets, 20)
    expected = [
        [2.1969, 2.8, 5.3938, 8.3938, 19.3938, 20.0],
        [1.0, 2.0, 5.0, 8.0, 19.0, 20.0],
        [3.1969, 3.5969, 5.7938, 8.5907, 19.5907, 20.0],
        [6.1969, 6.3938, 7.7969, 9.9938, 20.0, 20.0],
    ]
    np.testing.assert_allclose(found[0][np.ix_([0, 2, 5, 8], [0, 3, 6, 9, 20, 23])], expected, atol=1e-4)
    assert (found[1] == 20).all()  # no target


def test_blur_is_opencvs(pattern):
    found = np.rint(filters.blur_3x3(pattern))[0]
    assert found[0].tolist() == [13, 22, 48, 92, 100, 100, 65, 101, 102, 95, 106, 135, 183, 172]
    assert found[5].tolist() == [129, 128, 158, 204, 250, 224, 182, 102, 50, 19, 36, 37, 93, 79]
    assert found[11].tolist() == [49, 74, 95, 102, 95, 128, 146, 150, 140, 116, 105, 52, 66, 44]


def test_equalise_is_opencvs(pattern):
    flat = np.full_like(pattern, 7)
    found = filters.equalise(np.concatenate([flat, pattern]))
    assert (found[0] == 7).all()
    assert found[1, 0].tolist() == [0, 7, 33, 76, 125, 176, 28, 130, 219, 128, 23, 171, 114, 61]
    assert found[1, 5].tolist() == [77, 28, 25, 255, 255, 255, 163, 135, 0, 0, 0, 0, 0, 199]
    assert found[1, 11].tolist() == [66, 38, 84, 184, 138, 145, 211, 141, 125, 156, 51, 219, 13, 102]
