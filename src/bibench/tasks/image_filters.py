"""Image processing that the corruptions are made of, for many images at once and with no dependency beyond scipy.

CIFAR-10-C was made with OpenCV, scikit-image and ImageMagick. These functions compute what theirs do: border rules,
roundings and the approximate distance are theirs on purpose. Everywhere images are ``(samples, height, width)`` or
``(samples, height, width, channels)``, samples don't touch each other, and no result depends on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

__all__ = [
    "bilinear",
    "blur_3x3",
    "canny",
    "disk",
    "distance",
    "equalise",
    "gaussian",
    "motion_blur",
    "plasma",
    "zoomed",
]

Bytes = npt.NDArray[np.uint8]
Values = Any
"""An array of numbers. Checkers lose the type of arithmetic between arrays, so none is claimed."""

_TAN_22 = int(np.tan(np.pi / 8) * 2**15 + 0.5)
"""tan 22.5° in OpenCV's fixed point; tan 67.5° is 2 more."""
_STEPS = ((0, 1, 1.0), (1, 1, 1.4), (1, 2, 2.1969))
"""Rows, columns and length of the steps of Borgefors' 5x5 chamfer distance, up to symmetry."""


def gaussian(images: Values, sigma: float, *, truncate: float = 4.0, mode: str = "nearest") -> Values:
    """Gaussian blur along height and width; the kernel ends at ``truncate`` standard deviations.

    Args:
        images: floating point, ``(samples, height, width, ...)``.
        sigma: standard deviation in pixels.
        mode: the border rule, a mode of `scipy.ndimage`.

    >>> gaussian(np.eye(3)[None], sigma=0.5).round(2)[0]
    array([[0.81, 0.18, 0.01],
           [0.18, 0.64, 0.18],
           [0.01, 0.18, 0.81]])
    """
    if sigma <= 0:
        return images
    rows = ndimage.gaussian_filter1d(images, sigma, axis=1, truncate=truncate, mode=mode)
    return ndimage.gaussian_filter1d(rows, sigma, axis=2, truncate=truncate, mode=mode)


def disk(radius: float, blur: float) -> Values:
    """Kernel of a lens out of focus: a disk of ``radius`` pixels, its edge softened by a 3x3 Gaussian; sum 1.

    Args:
        radius: at most 7 pixels.
        blur: standard deviation of the Gaussian, in pixels.

    >>> print(disk(0.5, 0.5).round(2))
    [[0.01 0.08 0.01]
     [0.08 0.62 0.08]
     [0.01 0.08 0.01]]
    """
    reach = int(radius) + 1
    offsets = np.arange(-reach, reach + 1)
    inside = (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.float32)
    edge = np.exp(-(np.arange(-1, 2) ** 2) / (2 * blur**2))
    edge /= edge.sum()
    return ndimage.convolve(inside / inside.sum(), edge[:, None] * edge, mode="constant")


def motion_blur(images: Bytes, radius: int, sigma: float, angles: Sequence[float]) -> Bytes:
    """One-sided Gaussian blur along a line, as ImageMagick's ``MotionBlurImage``.

    Pixel p becomes ``sum_i k_i image[p + offset_i]`` for i from 0 to ``2 radius``, with ``k_i`` proportional to
    ``exp(-i²/(2 sigma²))`` and ``offset_i = i (cos angle, sin angle)`` rounded, halves downwards. Outside, the nearest
    pixel counts. The result is rounded.

    Args:
        images: uint8 ``(samples, height, width, ...)``.
        radius, sigma: in pixels.
        angles: degrees, one an image; 0 is to the right, 90 downwards.

    >>> motion_blur(np.array([[[0, 0, 0, 90]]], np.uint8), 1, 1.0, [0.0])
    array([[[ 0,  7, 38, 90]]], dtype=uint8)
    """
    samples, height, width = images.shape[:3]
    taps = np.arange(2 * radius + 1)
    kernel = np.exp(-(taps**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    direction = np.deg2rad(angles)[:, None]
    down = np.ceil(taps * np.sin(direction) - 0.5).astype(int)
    right = np.ceil(taps * np.cos(direction) - 0.5).astype(int)
    reach = 2 * radius
    padded = np.pad(images, [(0, 0), (reach, reach), (reach, reach)] + [(0, 0)] * (images.ndim - 3), mode="edge")
    _, rows, columns = padded.shape[:3]
    # One index a pixel and tap, into all images' pixels in a row.
    inner = (np.arange(height)[:, None] + reach) * columns + np.arange(width) + reach
    start = np.arange(samples)[:, None] * (rows * columns) + down * columns + right
    pixels = padded.reshape(samples * rows * columns, *images.shape[3:])
    total = np.zeros(images.shape)
    for i, weight in enumerate(kernel):
        total += weight * pixels.take(inner + start[:, i, None, None], axis=0)
    return np.floor(total + 0.5).astype(np.uint8)


def zoomed(images: Values, factor: float) -> Values:
    """Cut the centre, of ``1/factor`` of the size, and enlarge it to the size before, interpolating linearly.

    The corner pixels of the cut stay corner pixels, and a size that isn't whole is rounded: below a factor of
    ``1 + 1/(2 size)`` nothing changes.

    Args:
        images: ``(samples, height, width, ...)``.
        factor: from 1, and small enough that at least two pixels are cut.

    >>> zoomed(np.arange(4.0)[None, None].repeat(4, axis=1), 2.0)[0, 0]
    array([1.        , 1.33333333, 1.66666667, 2.        ])
    """
    for axis in (1, 2):
        size = images.shape[axis]
        kept = int(np.ceil(size / factor))
        enlarged = round(kept * factor)
        if enlarged == kept:
            continue
        position = (np.arange(size) + (enlarged - size) // 2) * ((kept - 1) / (enlarged - 1))
        below = np.minimum(position.astype(int), kept - 2)
        share = (position - below).reshape(-1, *[1] * (images.ndim - axis - 1))
        below += (size - kept) // 2
        images = images.take(below, axis) * (1 - share) + images.take(below + 1, axis) * share
    return images


def bilinear(images: Values, rows: Values, columns: Values, *, edge_twice: bool) -> Values:
    """Values at fractional positions, interpolated linearly; outside, the image is mirrored.

    Args:
        images: ``(samples, height, width, channels)``.
        rows, columns: ``(samples, height, width)``, where each pixel of the result comes from.
        edge_twice: mirror behind the edge pixel (``b a | a b``), or at it (``c b | a b``).

    >>> image = np.array([[0.0, 1.0, 2.0]]).reshape(1, 1, 3, 1)
    >>> at = np.array([[[-0.5, 0.25, 2.5]]])
    >>> [bilinear(image, 0 * at, at, edge_twice=twice).ravel() for twice in (False, True)]
    [array([0.5 , 0.25, 1.5 ]), array([0.  , 0.25, 2.  ])]
    """

    def inside(index: Values, size: int) -> Values:
        period = 2 * size if edge_twice else max(1, 2 * size - 2)
        index = index % period
        return np.where(index < size, index, period - index - edge_twice)

    samples, height, width, channels = images.shape
    pixels = images.reshape(-1, channels)
    start = np.arange(samples)[:, None, None] * (height * width)
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    first, second = start + inside(top, height) * width, start + inside(top + 1, height) * width
    before, after = inside(left, width), inside(left + 1, width)
    upper = pixels.take(first + before, axis=0) * (1 - right) + pixels.take(first + after, axis=0) * right
    lower = pixels.take(second + before, axis=0) * (1 - right) + pixels.take(second + after, axis=0) * right
    return upper * (1 - down) + lower * down


def plasma(uniform: Values, decay: float) -> Values:
    """A fractal height map (diamond-square algorithm) from 0 to 1, which continues at the opposite edges.

    Each pass halves the grid. A new point is the mean of its four neighbours plus a random number whose range is
    divided by ``decay`` after each pass.

    Args:
        uniform: ``(samples, size² - 1)``, uniform in [-1, 1); ``size`` is a power of two.
        decay: larger is smoother.

    Returns:
        ``(samples, size, size)``.

    >>> plasma(np.array([[0.5, -0.5, 1.0]]), 2.0)[0].round(2)
    array([[0.17, 0.  ],
           [1.  , 0.5 ]])
    """
    samples, size = len(uniform), round((uniform.shape[1] + 1) ** 0.5)
    heights = np.zeros((samples, size, size))
    # The generator's "wibble" is both the factor and the range, so it counts squared.
    step, strength, used = size, 100.0, 0

    def mean_and_noise(four: Values) -> Values:
        nonlocal used
        noise = uniform[:, used : used + four[0].size].reshape(four.shape)
        used += four[0].size
        return four / 4 + strength**2 * noise

    while step >= 2:
        half = step // 2
        corners = heights[:, ::step, ::step]
        pairs = corners + np.roll(corners, -1, axis=1)
        heights[:, half::step, half::step] = mean_and_noise(pairs + np.roll(pairs, -1, axis=2))
        centres = heights[:, half::step, half::step]
        above, left = centres + np.roll(centres, 1, axis=1), centres + np.roll(centres, 1, axis=2)
        between = corners + np.roll(corners, -1, axis=2), corners + np.roll(corners, -1, axis=1)
        heights[:, ::step, half::step] = mean_and_noise(above + between[0])
        heights[:, half::step, ::step] = mean_and_noise(left + between[1])
        step, strength = half, strength / decay
    heights -= heights.min(axis=(1, 2), keepdims=True)
    return heights / heights.max(axis=(1, 2), keepdims=True)


def canny(images: Bytes, low: int, high: int) -> Values:
    """Edges (bool) by Canny's method, as OpenCV's ``Canny`` with a 3x3 Sobel operator and the L1 norm of the gradient.

    A pixel is an edge if its gradient is the largest along its direction (one of four) and above ``high``, or above
    ``low`` and connected to such a pixel.

    >>> np.flatnonzero(canny(np.repeat([0, 0, 200, 200], 4).astype(np.uint8).reshape(1, 4, 4), 50, 150)[0, :, 0])
    array([1])
    """
    values = images.astype(np.int64)

    def sobel(across: int, along: int) -> Values:
        smooth = ndimage.correlate1d(values, [1, 2, 1], axis=along, mode="nearest")
        return ndimage.correlate1d(smooth, [-1, 0, 1], axis=across, mode="nearest")

    dx, dy = sobel(2, 1), sobel(1, 2)
    gradient = abs(dx) + abs(dy)
    padded = np.pad(gradient, ((0, 0), (1, 1), (1, 1)))

    def neighbour(down: int, right: int) -> Values:
        return padded[:, 1 + down : padded.shape[1] - 1 + down, 1 + right : padded.shape[2] - 1 + right]

    fixed = abs(dx) * _TAN_22
    level, steep = abs(dy) << 15 < fixed, abs(dy) << 15 > fixed + (abs(dx) << 16)
    falling = (dx ^ dy) < 0
    before = np.where(falling, neighbour(-1, 1), neighbour(-1, -1))
    after = np.where(falling, neighbour(1, -1), neighbour(1, 1))
    largest = (gradient > before) & (gradient > after)
    # Of two equal neighbours the one above or to the left counts.
    largest[steep] = ((gradient > neighbour(-1, 0)) & (gradient >= neighbour(1, 0)))[steep]
    largest[level] = ((gradient > neighbour(0, -1)) & (gradient >= neighbour(0, 1)))[level]

    candidate = largest & (gradient > low)
    within_an_image = np.zeros((3, 3, 3), dtype=bool)
    within_an_image[1] = True
    labels, count = ndimage.label(candidate, structure=within_an_image)
    keep = np.zeros(count + 1, dtype=bool)
    keep[labels[candidate & (gradient > high)]] = True
    return keep[labels]


def distance(targets: Values, most: float) -> Values:
    """Distance to the nearest target in pixels, at most ``most``: Borgefors' 5x5 chamfer, OpenCV's ``DIST_L2``.

    Args:
        targets: bool ``(samples, height, width)``.
        most: in pixels.

    Returns:
        float32, of the same shape.

    >>> distance(np.array([[[True, False, False, False]]]), 2.5)
    array([[[0. , 1. , 2. , 2.5]]], dtype=float32)
    """
    _, height, width = targets.shape
    result = np.pad(np.where(targets, 0.0, most).astype(np.float32), ((0, 0), (2, 2), (2, 2)), constant_values=most)
    centre = result[:, 2:-2, 2:-2]
    steps = {
        (2 + up * a, 2 + left * b, np.float32(length))
        for rows, columns, length in _STEPS
        for a, b in ((rows, columns), (columns, rows))
        for up in (-1, 1)
        for left in (-1, 1)
    }
    while True:
        before = centre.copy()
        for top, left, length in sorted(steps):
            np.minimum(centre, result[:, top : top + height, left : left + width] + length, out=centre)
        if np.array_equal(before, centre):
            return before


def blur_3x3(images: Values) -> Values:
    """Mean over 3x3 pixels, mirrored at the edge pixel; float64.

    >>> blur_3x3(np.array([[[0, 0, 0], [0, 9, 0], [0, 0, 0]]]))[0]
    array([[4., 2., 4.],
           [2., 1., 2.],
           [4., 2., 4.]])
    """
    sums = np.asarray(images, dtype=np.float64)
    for axis in (1, 2):
        sums = ndimage.correlate1d(sums, [1, 1, 1], axis=axis, mode="mirror")
    return sums / 9


def equalise(images: Bytes) -> Bytes:
    """Equalise the histogram of each image: a value becomes the share of pixels up to it, the smallest left out.

    >>> equalise(np.array([[[5, 5], [6, 9]]], np.uint8))
    array([[[  0,   0],
            [128, 255]]], dtype=uint8)
    """
    samples = len(images)
    offsets = np.arange(samples)[:, None]
    flat = images.reshape(samples, -1)
    histogram = np.bincount((flat + 256 * offsets).ravel(), minlength=256 * samples).reshape(samples, 256)
    smallest = flat.min(axis=1, keepdims=True)
    up_to = histogram.cumsum(axis=1)
    rest = flat.shape[1] - up_to[offsets, smallest]
    shares = (up_to - up_to[offsets, smallest]).clip(0) * (np.float32(255) / np.maximum(rest, 1).astype(np.float32))
    table = np.where(rest > 0, np.rint(shares), smallest).astype(np.uint8)  # an image of one value stays as it is
    return np.take_along_axis(table, flat, axis=1).reshape(images.shape)
