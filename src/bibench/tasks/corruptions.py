"""The 19 image corruptions of CIFAR-10-C, at 5 severities, for images of any size.

Names, parameters and order of operations are those of the published generator (see Source), which were tuned for
32x32 pixels; on other sizes they are the same numbers of pixels, except elastic_transform's, which are shares of the
shorter side. The code is written anew. **How close the result is to the original CIFAR-10-C arrays is unmeasured**:
the original's random numbers can't be drawn again. Scores on the original files and on generated images are
therefore not to be mixed.

What the generator does and its paper doesn't say, and what is kept, since it changes the images:

- values are cut off to whole ones, not rounded, except by motion blur, pixelate and JPEG;
- glass blur copies a neighbour into each pixel and was meant to swap the two; the neighbours are those above and left;
- frost draws from five of its six textures;
- saturate gives grey pixels a hue, red, from severity 4 on;
- where spatter's drops are brighter than 255 they start again from 0.

What differs: where no drop of spatter falls (on small images) the image stays as it is; frost reduces its textures
less for images that are larger than those are.

Source: Hendrycks & Dietterich, Benchmarking Neural Network Robustness to Common Corruptions and Perturbations, ICLR
2019; https://github.com/hendrycks/robustness, ImageNet-C/create_c/make_cifar_c.py (Apache-2.0), whose frost textures
lie in ``frost/`` beside this file, with their licence.
"""

from __future__ import annotations

import difflib
import io
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy import ndimage

from bibench.tasks import image_filters as filters

__all__ = ["CORRUPTIONS", "SEVERITIES", "check_corruption", "corrupt"]

Bytes = npt.NDArray[np.uint8]
Values = Any
"""An array of numbers. Checkers lose the type of arithmetic between arrays, so none is claimed."""

SEVERITIES = (1, 2, 3, 4, 5)
"""From weak to strong."""

_SMALLEST = 8
_PIXELS_AT_ONCE = 2**16  # what is worked on stays in the processor's cache


@dataclass
class _Draws:
    """Random numbers for some images, each from a generator of its own."""

    entropy: tuple[int, ...]
    numbers: range

    @cached_property
    def _generators(self) -> list[np.random.Generator]:
        return [np.random.default_rng(np.random.SeedSequence((*self.entropy, number))) for number in self.numbers]

    def __call__(self, draw: Callable[[np.random.Generator], Any]) -> Values:
        """What ``draw`` returns for each image, stacked along a new first axis."""
        return np.stack([draw(generator) for generator in self._generators])


def _gaussian_noise(images: Bytes, scale: float, draws: _Draws) -> Values:
    return images / 255 + draws(lambda generator: generator.normal(scale=scale, size=images.shape[1:]))


def _shot_noise(images: Bytes, photons: float, draws: _Draws) -> Values:
    expected = iter(images / 255 * photons)
    return draws(lambda generator: generator.poisson(next(expected))) / photons


def _impulse_noise(images: Bytes, amount: float, draws: _Draws) -> Values:
    def layer(generator: np.random.Generator) -> Values:
        struck, salt = generator.random((2, *images.shape[1:]))
        return np.where(struck <= amount, np.where(salt <= 0.5, 255, 0), -1)

    layers = draws(layer)
    return np.where(layers < 0, images, layers).astype(np.uint8)


def _speckle_noise(images: Bytes, scale: float, draws: _Draws) -> Values:
    values = images / 255
    return values + values * draws(lambda generator: generator.normal(scale=scale, size=images.shape[1:]))


def _gaussian_blur(images: Bytes, sigma: float, draws: _Draws) -> Values:
    return filters.gaussian(images / 255, sigma)


def _defocus_blur(images: Bytes, disk: tuple[float, float], draws: _Draws) -> Values:
    kernel = filters.disk(*disk)
    return ndimage.correlate(images / 255, kernel[None, :, :, None], mode="mirror")


def _glass_blur(images: Bytes, parameters: tuple[float, int], draws: _Draws) -> Values:
    sigma, iterations = parameters
    count, height, width, _ = images.shape
    blurred = (filters.gaussian(images / 255, sigma) * 255).astype(np.uint8)
    # Going backwards through the pixels, each takes the value of one above or left of it, which hasn't changed yet: a
    # gather. The first two rows and columns are left alone.
    steps = draws(lambda generator: generator.integers(-1, 1, size=(iterations, 2, height - 2, width - 2)))
    sample = np.arange(count)[:, None, None]
    rows, columns = np.arange(2, height)[:, None], np.arange(2, width)
    for i in range(iterations):
        blurred[:, 2:, 2:] = blurred[sample, rows + steps[:, i, 0], columns + steps[:, i, 1]]
    return filters.gaussian(blurred / 255, sigma)


def _motion_blur(images: Bytes, parameters: tuple[int, float], draws: _Draws) -> Values:
    angles = draws(lambda generator: generator.uniform(-45, 45))
    return filters.motion_blur(images, *parameters, angles.tolist())


def _zoom_blur(images: Bytes, furthest: float, draws: _Draws) -> Values:
    count, height, width, _ = images.shape
    # With the samples last, each pixel that is moved is one long run of memory.
    values = (images.transpose(1, 2, 0, 3).reshape(1, height, width, -1) / 255).astype(np.float32)
    total = np.zeros_like(values)
    factors = np.arange(1, furthest, 0.01)
    for factor in factors:
        total += filters.zoomed(values, factor).astype(np.float32)
    blurred = (values + total) / np.float32(len(factors) + 1)
    return blurred.reshape(height, width, count, 3).transpose(2, 0, 1, 3)


def _snow(images: Bytes, parameters: tuple[float, float, float, float, int, int, float], draws: _Draws) -> Values:
    mean, scale, zoom, threshold, radius, sigma, weight = parameters
    size = images.shape[1:3]
    flakes = filters.zoomed(draws(lambda generator: generator.normal(mean, scale, size)), zoom)
    flakes = (np.where(flakes < threshold, 0, flakes).clip(0, 1) * 255).astype(np.uint8)
    angles = draws(lambda generator: generator.uniform(-135, -45))
    layer = (filters.motion_blur(flakes, radius, sigma, angles.tolist()) / 255)[..., None]
    values = (images / 255).astype(np.float32)
    grey = 0.299 * values[..., :1] + 0.587 * values[..., 1:2] + 0.114 * values[..., 2:]
    whitened = weight * values + (1 - weight) * np.maximum(values, grey * 1.5 + 0.5)
    return whitened + layer + layer[:, ::-1, ::-1]


def _fog(images: Bytes, parameters: tuple[float, float], draws: _Draws) -> Values:
    strength, decay = parameters
    _, height, width, _ = images.shape
    size = 1 << (max(height, width) - 1).bit_length()
    layer = filters.plasma(draws(lambda generator: generator.uniform(-1, 1, size * size - 1)), decay)
    values = images / 255
    brightest = values.max(axis=(1, 2, 3), keepdims=True)
    return (values + strength * layer[:, :height, :width, None]) * brightest / (brightest + strength)


_TEXTURES = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")
"""The generator has a frost6.jpg too, and never draws it."""


@cache
def _texture(name: str, height: int, width: int) -> Bytes:
    """A frost texture, reduced 5 times by leaving out pixels; less, so that it is larger than the image."""
    with (resources.files("bibench.tasks") / "frost" / name).open("rb") as file:
        texture = np.asarray(Image.open(file).convert("RGB"))
    shrink = max(1, min(5, (texture.shape[0] - 1) // (height + 1), (texture.shape[1] - 1) // (width + 1)))
    texture = texture[shrink // 2 :: shrink, shrink // 2 :: shrink]
    missing = [(0, max(0, least + 1 - size)) for least, size in zip((height, width), texture.shape, strict=False)]
    return np.pad(texture, [*missing, (0, 0)], mode="symmetric")


def _frost(images: Bytes, weights: tuple[float, float], draws: _Draws) -> Values:
    _, height, width, _ = images.shape

    def layer(generator: np.random.Generator) -> Bytes:
        texture = _texture(_TEXTURES[generator.integers(len(_TEXTURES))], height, width)
        top, left = generator.integers((0, 0), (texture.shape[0] - height, texture.shape[1] - width))
        return texture[top : top + height, left : left + width]

    return (weights[0] * images + weights[1] * draws(layer)).clip(0, 255).astype(np.uint8)


def _spatter(images: Bytes, parameters: tuple[float, float, float, float, float, bool], draws: _Draws) -> Values:
    mean, scale, sigma, threshold, strength, mud = parameters
    liquid = filters.gaussian(draws(lambda generator: generator.normal(mean, scale, images.shape[1:3])), sigma)
    values = (images / 255).astype(np.float32)
    if mud:
        share = filters.gaussian((liquid >= threshold).astype(np.float32), strength)
        share = np.where(share < 0.8, 0, share)[..., None]
        return values * (1 - share) + np.array([63, 42, 20], dtype=np.float32) / 255 * share

    drops = np.where(liquid < threshold, 0, liquid * 255).astype(np.int64).astype(np.uint8)  # modulo 256
    light = filters.equalise(filters.blur_3x3(filters.distance(filters.canny(drops, 50, 150), 20)).astype(np.uint8))
    relief = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    light = ndimage.correlate(light.astype(np.int64), relief[None], mode="mirror").clip(0, 255)
    layer = drops * np.rint(filters.blur_3x3(light)).astype(np.float32)
    layer *= np.float32(strength) / np.maximum(layer.max(axis=(1, 2), keepdims=True), 1)
    return values + layer[..., None] * (np.array([175, 238, 238], dtype=np.float32) / 255)


def _brightness(images: Bytes, shift: float, draws: _Draws) -> Values:
    # In HSV the value is the largest channel; hue and saturation stay if all channels keep their ratios to it. Black,
    # which has neither, becomes grey.
    values = images / 255
    largest = values.max(axis=-1, keepdims=True)
    below = (largest - values) / np.where(largest == 0, 1, largest)
    return (largest + shift).clip(0, 1) * (1 - below)


def _saturate(images: Bytes, parameters: tuple[float, float], draws: _Draws) -> Values:
    factor, shift = parameters
    values = images / 255
    largest = values.max(axis=-1, keepdims=True)
    spread = largest - values.min(axis=-1, keepdims=True)
    saturation = (spread / np.where(largest == 0, 1, largest) * factor + shift).clip(0, 1)
    # How far each channel lies below the largest, in parts of the spread. A grey pixel's hue is 0, which is red.
    red = np.array([0.0, 1.0, 1.0])
    below = np.where(spread == 0, red, (largest - values) / np.where(spread == 0, 1, spread))
    return largest * (1 - saturation * below)


def _contrast(images: Bytes, factor: float, draws: _Draws) -> Values:
    _, height, width, _ = images.shape
    # A sum of whole numbers is exact, so it is the same in any order.
    mean = images.sum(axis=(1, 2), keepdims=True, dtype=np.int64) / (height * width) / 255
    return (images / 255 - mean) * factor + mean


def _elastic_transform(images: Bytes, parameters: tuple[float, float, float], draws: _Draws) -> Values:
    count, height, width, _ = images.shape
    side = min(height, width)
    strength, sigma, shift = (side * parameter for parameter in parameters)
    # An affine map takes three corners of a square at the centre to where they are shifted at random; each pixel of the
    # result comes from where the inverse map takes it.
    centre, reach = np.array([width // 2, height // 2]), side // 3
    corners = centre + reach * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = corners + draws(lambda generator: generator.uniform(-shift, shift, (3, 2)))
    inverse = np.linalg.solve(np.concatenate([moved, np.ones((count, 3, 1))], axis=2), corners.astype(np.float64))
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    source = [
        inverse[:, 0, axis, None, None] * columns
        + inverse[:, 1, axis, None, None] * rows
        + inverse[:, 2, axis, None, None]
        for axis in (1, 0)
    ]
    values = filters.bilinear(images / 255, *source, edge_twice=False)
    if not strength:
        return values
    noise = draws(lambda generator: generator.uniform(-1, 1, (2, height, width))).reshape(-1, height, width)
    smooth = filters.gaussian(noise, sigma, truncate=3, mode="reflect").reshape(count, 2, height, width) * strength
    return filters.bilinear(values, rows + smooth[:, 1], columns + smooth[:, 0], edge_twice=True)


def _each(images: Bytes, change: Callable[[Image.Image], Image.Image]) -> Bytes:
    return np.stack([np.asarray(change(Image.fromarray(image))) for image in images])


def _pixelate(images: Bytes, share: float, draws: _Draws) -> Values:
    _, height, width, _ = images.shape
    small = int(width * share), int(height * share)
    box = Image.Resampling.BOX
    return _each(images, lambda image: image.resize(small, box).resize((width, height), box))


def _jpeg_compression(images: Bytes, quality: int, draws: _Draws) -> Values:
    def compress(image: Image.Image) -> Image.Image:
        content = io.BytesIO()
        image.save(content, "JPEG", quality=quality)
        return Image.open(content)

    return _each(images, compress)


_TABLE: dict[str, tuple[Callable[[Bytes, Any, _Draws], Values], tuple[Any, ...]]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),  # standard deviation
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),  # photons of a white pixel
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),  # share of values
    "speckle_noise": (_speckle_noise, (0.06, 0.1, 0.12, 0.16, 0.2)),  # standard deviation
    "defocus_blur": (_defocus_blur, ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))),  # radius, softness
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1)),  # standard deviation
    "glass_blur": (_glass_blur, ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))),  # sigma, iterations
    "motion_blur": (_motion_blur, ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))),  # radius, sigma
    "zoom_blur": (_zoom_blur, (1.06, 1.11, 1.16, 1.21, 1.26)),  # the zoom factors end before it (the first two at it)
    "snow": (
        _snow,
        (  # mean and scale of the noise, zoom, threshold, the motion's radius and sigma, weight of the image
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
    ),
    "fog": (_fog, ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))),  # strength, decay
    "frost": (_frost, ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))),  # weights of image and texture
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),  # added to the value
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),  # factor
    "spatter": (
        _spatter,
        (  # mean and scale of the noise, sigma, threshold, strength (of mud: its second sigma), mud or water
            (0.62, 0.1, 0.7, 0.7, 0.5, False),
            (0.65, 0.1, 0.8, 0.7, 0.5, False),
            (0.65, 0.3, 1, 0.69, 0.5, False),
            (0.65, 0.1, 0.7, 0.69, 0.6, True),
            (0.65, 0.1, 0.5, 0.68, 0.6, True),
        ),
    ),
    "saturate": (_saturate, ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))),  # factor, shift
    "elastic_transform": (
        _elastic_transform,  # in shares of the side: displacement, its smoothness, shift of the corners
        ((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    ),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),  # share of the size
    "jpeg_compression": (_jpeg_compression, (80, 65, 58, 50, 40)),  # quality
}

CORRUPTIONS = tuple(_TABLE)
"""The names, as those of CIFAR-10-C's files."""


def check_corruption(name: str, severity: int) -> None:
    """Check a corruption's name and severity.

    Raises:
        ValueError: the name isn't known, and the message has the nearest one that is; or the severity isn't 1 to 5.

    >>> check_corruption("snow", 6)
    Traceback (most recent call last):
    ValueError: severity must be a whole number from 1 (weak) to 5 (strong), got 6
    """
    if name not in _TABLE:
        near = difflib.get_close_matches(name.lower(), CORRUPTIONS, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise ValueError(f"unknown corruption '{name}'{hint} (known: {', '.join(CORRUPTIONS)})")
    if not isinstance(severity, int) or severity not in SEVERITIES:
        raise ValueError(f"severity must be a whole number from 1 (weak) to 5 (strong), got {severity!r}")


def corrupt(images: Bytes, name: str, severity: int, *, seed: int = 0, first: int = 0) -> Bytes:
    """Corrupt photographs as CIFAR-10-C does; see this module's text for what is known of the likeness.

    An image's result depends on ``(seed, name, severity, first + its index)`` and on nothing else: not on the images
    beside it, on what ran before, or on any global generator. Another version of numpy, scipy or Pillow may draw or
    round differently.

    Args:
        images: uint8 ``(samples, height, width, 3)``, RGB from 0 to 255, height and width at least 8. Grey images are
            given as three equal channels.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the random numbers, not negative.
        first: the number of the first image in its data set, not negative.

    Returns:
        New uint8 array of the same shape. Not every image changes: 8x8 pixels are too few for zoom_blur's severity 1.

    Raises:
        ValueError: an unknown name, another severity, type or shape.

    >>> images = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
    >>> corrupt(images, "brightness", 3)[0, 0, 0]
    array([138, 138, 138], dtype=uint8)
    >>> one_by_one = [corrupt(images[i : i + 1], "fog", 1, first=i) for i in range(2)]
    >>> np.array_equal(corrupt(images, "fog", 1), np.concatenate(one_by_one))
    True
    """
    check_corruption(name, severity)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or min(images.shape[1:3]) < _SMALLEST:
        raise ValueError(
            f"images must be uint8 of shape (samples, height, width, 3) with height and width of at least {_SMALLEST}, "
            f"got {images.dtype} of shape {images.shape}"
        )
    for what, value in (("seed", seed), ("first", first)):
        if value < 0:
            raise ValueError(f"{what} must not be negative, got {value}")
    change, parameters = _TABLE[name]
    result = np.empty(images.shape, dtype=np.uint8)
    at_once = max(1, _PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))
    for start in range(0, len(images), at_once):
        part = np.ascontiguousarray(images[start : start + at_once])
        # The name's checksum, so that a corruption's random numbers don't depend on its place in the table.
        draws = _Draws((seed, zlib.crc32(name.encode()), severity), range(first + start, first + start + len(part)))
        changed = change(part, parameters[severity - 1], draws)
        if changed.dtype != np.uint8:
            changed = (changed.clip(0, 1) * 255).astype(np.uint8)
        result[start : start + len(part)] = changed
    return result
