"""The corruptions: each against its definition, and what all have in common: shapes, seeds, batches, severities."""

import colorsys
import csv
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from bibench.tasks import corruptions as module
from bibench.tasks.cifar10 import cifar10
from bibench.tasks.corruptions import CORRUPTIONS, SEVERITIES, check_corruption, corrupt

RANDOM = {
    *("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise", "glass_blur", "motion_blur"),
    *("snow", "fog", "frost", "spatter", "elastic_transform"),
}


def _photographs(count=4, height=16, width=19, seed=0):
    """Smooth colours with an edge, which no image shares with another."""
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.random((count, height, width, 3)), (0, 2, 2, 0))
    noise = (noise - noise.min()) / (noise.max() - noise.min()) * 200 + 20
    noise[:, height // 2 :, : width // 2] *= 0.5
    return noise.astype(np.uint8)


@pytest.fixture(scope="module")
def photographs():
    images = _photographs()
    images.flags.writeable = False
    return images


def _bytes(values):
    return (np.clip(values, 0, 1) * 255).astype(np.uint8)


def _close(found, expected, share=0.02):
    """Equal but for values that two ways of computing put on the two sides of a whole number."""
    difference = abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= share


def test_names_are_those_of_the_paper(shared):
    with (shared / "paper" / "corruption.csv").open() as file:
        printed = {row["corruption"] for row in csv.DictReader(file)}
    assert set(CORRUPTIONS) == printed - {"origin"}
    assert len(CORRUPTIONS) == 19


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_depends_on_seed_name_severity_and_number_alone(photographs, monkeypatch, name, severity):
    before = photographs.copy()
    found = corrupt(photographs, name, severity, seed=3, first=10)
    assert (found.dtype, found.shape) == (np.uint8, photographs.shape)
    assert np.array_equal(before, photographs)
    assert not np.shares_memory(found, photographs)
    assert (found != photographs).any(axis=(1, 2, 3)).all()
    np.random.seed(1)  # noqa: NPY002 - the global generator is what must not matter
    monkeypatch.setattr(module, "_PIXELS_AT_ONCE", 2 * 16 * 19)
    assert np.array_equal(found, corrupt(photographs, name, severity, seed=3, first=10))
    assert np.array_equal(found[2:], corrupt(photographs[2:], name, severity, seed=3, first=12))
    backwards = corrupt(photographs[:, :, ::-1][:1, :, ::-1], name, severity, seed=3, first=10)  # another memory order
    assert np.array_equal(found[:1], backwards)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_random_ones_differ_by_seed_number_and_severity(photographs, name):
    same = photographs[[0, 0]]
    found = corrupt(same, name, 3)
    assert np.array_equal(found[0], found[1]) == (name not in RANDOM)
    assert np.array_equal(found, corrupt(same, name, 3, seed=1)) == (name not in RANDOM)
    assert not np.array_equal(found, corrupt(same, name, 4))


def test_the_random_numbers_of_a_corruption_are_its_own():
    grey = np.full((1, 8, 8, 3), 128, dtype=np.uint8)
    first, second = (corrupt(grey, name, 5).astype(int) - 128 for name in ("gaussian_noise", "speckle_noise"))
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.3


@pytest.fixture(scope="module")
def cifar(real_data):
    test = cifar10.load(real_data / "cifar-10-lossless-subset", True).test
    return test.images[:100].movedim(1, -1).numpy()


DISTORTION_FALLS = {
    "glass_blur": 3,  # more blur at the same shuffling: 2 to 3, 4 to 5
    "frost": 4,  # a weaker image under the same texture
    "spatter": 4,  # from water to mud
    "saturate": 3,  # from too pale to too strong
    "elastic_transform": 2,  # the shift falls while the warping grows
}
"""Corruptions whose mean absolute difference falls somewhere, with the first severity where it may."""


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_increases_the_distortion(cifar, name):
    distortion = [abs(corrupt(cifar, name, severity).astype(int) - cifar).mean() for severity in SEVERITIES]
    assert min(distortion) > 0.8  # grey levels
    assert max(distortion) < 70
    until = DISTORTION_FALLS.get(name, 6) - 1
    assert distortion[:until] == sorted(distortion[:until])
    assert (distortion == sorted(distortion)) == (name not in DISTORTION_FALLS)


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(CORRUPTIONS),
    severity=st.sampled_from(SEVERITIES),
    count=st.integers(0, 3),
    height=st.integers(8, 70),
    width=st.integers(8, 70),
    content=st.sampled_from(["noise", "black", "white"]),
)
def test_any_size_and_content(name, severity, count, height, width, content):
    images = np.full((count, height, width, 3), 255 * (content == "white"), dtype=np.uint8)
    if content == "noise":
        images = np.random.default_rng(0).integers(256, size=images.shape, dtype=np.uint8)
    with np.errstate(all="raise", under="ignore"):
        found = corrupt(images, name, severity)
    assert (found.dtype, found.shape) == (np.uint8, images.shape)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_large_photographs(name):
    images = _photographs(1, 200, 301)
    assert abs(corrupt(images, name, 5).astype(int) - images).mean() > 0.4


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 8, 8, 3)), r"uint8 .* got float64 of shape \(1, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), r"got uint8 of shape \(8, 8, 3\)"),
        (np.zeros((1, 8, 8, 1), np.uint8), r"\(samples, height, width, 3\)"),
        (np.zeros((1, 3, 8, 8), np.uint8), r"\(samples, height, width, 3\)"),
        (np.zeros((1, 8, 7, 3), np.uint8), "at least 8"),
    ],
)
def test_refuses_other_images(images, message):
    with pytest.raises(ValueError, match=message):
        corrupt(images, "fog", 1)


def test_refuses_other_names_severities_and_seeds(photographs):
    with pytest.raises(ValueError, match=r"unknown corruption 'motionblur'; did you mean 'motion_blur'.*known: gauss"):
        corrupt(photographs, "motionblur", 1)
    with pytest.raises(ValueError, match=r"unknown corruption 'xyz' .known"):
        check_corruption("xyz", 1)
    for severity in (0, 6, 1.0, "1", None):
        with pytest.raises(ValueError, match=f"from 1 .weak. to 5 .strong., got {severity!r}"):
            corrupt(photographs, "fog", severity)
    for argument in ("seed", "first"):
        with pytest.raises(ValueError, match=f"{argument} must not be negative, got -1"):
            corrupt(photographs, "fog", 1, **{argument: -1})


def _grey(level=128, count=40):
    return np.full((count, 16, 16, 3), level, dtype=np.uint8)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_noise_has_the_standard_deviation_that_it_should(severity):
    level = 128 / 255
    expected = {
        "gaussian_noise": [0.04, 0.06, 0.08, 0.09, 0.10][severity - 1],
        "shot_noise": (level / [500, 250, 100, 75, 50][severity - 1]) ** 0.5,
        "speckle_noise": level * [0.06, 0.1, 0.12, 0.16, 0.2][severity - 1],
    }
    for name, scale in expected.items():
        found = corrupt(_grey(), name, severity) / 255
        assert found.std() == pytest.approx(scale, rel=0.02)
        assert found.mean() == pytest.approx(level - 0.5 / 255, abs=4 * scale / found.size**0.5)  # cut off, not rounded


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_strikes_its_share_half_white_half_black(severity):
    amount = [0.01, 0.02, 0.03, 0.05, 0.07][severity - 1]
    found = corrupt(_grey(), "impulse_noise", severity)
    assert set(np.unique(found)) == {0, 128, 255}
    for level in (0, 255):
        assert (found == level).mean() == pytest.approx(amount / 2, abs=4 * (amount / 2 / found.size) ** 0.5)
    struck = (found != 128).sum(axis=-1)
    assert (struck == 1).sum() > 10 * (struck == 3).sum()  # each channel on its own


@pytest.mark.parametrize("severity", SEVERITIES)
def test_gaussian_blur_equals_the_definition(photographs, severity):
    sigma = [0.4, 0.6, 0.7, 0.8, 1][severity - 1]
    reach = int(4 * sigma + 0.5)
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    weights = np.outer(weights, weights) / weights.sum() ** 2
    padded = np.pad(photographs / 255, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="edge")
    expected = np.zeros(photographs.shape)
    for (y, x), weight in np.ndenumerate(weights):
        expected += weight * padded[:, y : y + 16, x : x + 19]
    _close(corrupt(photographs, "gaussian_blur", severity), _bytes(expected))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_defocus_blur_equals_the_definition(photographs, severity):
    radius, softness = [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)][severity - 1]
    disk = [(y, x) for y in range(-2, 3) for x in range(-2, 3) if y * y + x * x <= radius**2]
    edge = {(y, x): np.exp(-(y * y + x * x) / (2 * softness**2)) for y in (-1, 0, 1) for x in (-1, 0, 1)}
    padded = np.pad(photographs / 255, ((0, 0), (3, 3), (3, 3), (0, 0)), mode="reflect")
    expected = np.zeros(photographs.shape)
    for a, b in disk:
        for (c, d), weight in edge.items():
            shifted = padded[:, 3 + a + c : 19 + a + c, 3 + b + d : 22 + b + d]
            expected += shifted * weight / len(disk) / sum(edge.values())
    _close(corrupt(photographs, "defocus_blur", severity), _bytes(expected))


@pytest.mark.parametrize("severity", [1, 2, 4])
def test_glass_blur_moves_pixels_from_above_and_left(severity):
    """Each pixel's value is its place. The first severity's blur is none."""
    place = np.stack(np.mgrid[:20, :22], axis=-1) * 10
    image = np.concatenate([place, np.zeros((20, 22, 1), int)], axis=-1).astype(np.uint8)[None]
    found = corrupt(image, "glass_blur", severity)[0].astype(int)
    moved = np.rint((image[0].astype(int) - found) / 10)[..., :2]
    most = 2 if severity == 4 else 1
    if severity == 1:
        assert np.array_equal(found[..., :2] % 10, np.zeros((20, 22, 2)))
        assert not moved[:2].any()  # what is at the upper and left edge stays
        assert not moved[:, :2].any()
        counts = np.unique(moved[2:, 2:].reshape(-1, 2), axis=0, return_counts=True)[1]
        assert len(counts) == 4
        assert counts.min() > 50  # of 360, 90 each are expected
    assert moved.min() >= 0
    assert moved.max() == most


@pytest.mark.parametrize("severity", SEVERITIES)
def test_motion_blur_is_one_sided_along_a_line_near_the_horizontal(severity):
    """A white dot becomes a trail to its left, whose weights are a half Gaussian's."""
    radius, sigma = [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)][severity - 1]
    dot = np.zeros((10, 41, 41, 3), dtype=np.uint8)
    dot[:, 20, 30] = 255
    found = corrupt(dot, "motion_blur", severity)
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for trail in found[..., 0]:
        y, x = np.nonzero(trail)
        assert trail[20, 30] == np.floor(255 * weights[0] + 0.5)  # rounded
        assert trail.sum() == pytest.approx(255, abs=4)
        assert x.max() == 30
        assert (abs(y - 20) <= 30 - x + 1).all()  # at most 45 degrees
    slopes = [np.average(np.nonzero(trail)[0] - 20, weights=trail[np.nonzero(trail)]) for trail in found[..., 0]]
    assert min(slopes) < 0 < max(slopes)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_zoom_blur_is_the_mean_over_zooms(photographs, severity):
    image = photographs[0] / 255
    factors = [1 + i / 100 for i in range([7, 12, 16, 21, 26][severity - 1])]  # 7 and 12: as arange rounds
    zooms = []
    for factor in factors:
        cut = [int(np.ceil(size / factor)) for size in image.shape[:2]]
        top, left = ((size - kept) // 2 for size, kept in zip(image.shape[:2], cut, strict=True))
        large = ndimage.zoom(image[top : top + cut[0], left : left + cut[1]], (factor, factor, 1), order=1)
        top, left = ((size - old) // 2 for size, old in zip(large.shape[:2], image.shape[:2], strict=True))
        zooms.append(large[top : top + 16, left : left + 19][:16, :19])
    expected = (image + sum(zooms)) / (len(zooms) + 1)
    _close(corrupt(photographs[:1], "zoom_blur", severity)[0], _bytes(expected))


@pytest.mark.parametrize("severity", SEVERITIES)
def test_snow_is_white_with_flakes_in_pairs(severity):
    weight = [0.95, 0.9, 0.9, 0.85, 0.8][severity - 1]
    dark = np.full((60, 16, 16, 3), 25, dtype=np.uint8)
    found = corrupt(dark, "snow", severity).astype(int)
    assert (found[..., :1] == found).all()
    grey = 25 / 255
    least = weight * grey + (1 - weight) * (1.5 * grey + 0.5)
    assert found.min() >= int(least * 255)
    assert (found <= least * 255 + 1).mean() > 0.2  # between the flakes
    assert np.array_equal(found, found[:, ::-1, ::-1])  # the layer and the layer turned by 180 degrees
    flakes = (found - found.min())[..., 0]
    vertical, horizontal = abs(np.diff(flakes, axis=1)).mean(), abs(np.diff(flakes, axis=2)).mean()
    assert vertical < 0.8 * horizontal  # they fall


@pytest.mark.parametrize("severity", SEVERITIES)
def test_fog_is_a_layer_from_0_to_its_strength(severity):
    strength = [0.2, 0.5, 0.75, 1, 1.5][severity - 1]
    found = corrupt(np.full((20, 32, 32, 3), 102, dtype=np.uint8), "fog", severity) / 255
    layer = found * (0.4 + strength) / 0.4 - 0.4
    step = (0.4 + strength) / 0.4 / 255
    assert layer.min() == pytest.approx(0, abs=1.01 * step)
    assert layer.max(axis=(1, 2, 3)) == pytest.approx(strength, abs=1.01 * step)
    assert (found[..., :1] == found).all()


def test_fog_gets_rougher():
    layers = [corrupt(_grey(), "fog", severity)[..., 0].astype(float) for severity in SEVERITIES]
    rough = [abs(np.diff(layer, axis=2)).mean() / layer.std() for layer in layers]
    assert max(rough[:2]) < rough[3] < rough[4]  # the first two have the same decay


@pytest.mark.parametrize("severity", SEVERITIES)
def test_frost_is_a_part_of_a_texture(severity):
    image_weight, weight = [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)][severity - 1]
    found = corrupt(np.full((6, 8, 8, 3), 40, dtype=np.uint8), "frost", severity)
    textures = [module._texture(name, 8, 8) for name in module._TEXTURES]
    seen = set()
    for image in found:
        for number, texture in enumerate(textures):
            windows = np.lib.stride_tricks.sliding_window_view(texture, (8, 8), axis=(0, 1)).transpose(0, 1, 3, 4, 2)
            mixed = (image_weight * 40 + weight * windows).clip(0, 255).astype(np.uint8)
            if (mixed == image).all(axis=(2, 3, 4)).any():
                seen.add(number)
                break
        else:
            pytest.fail("a frosted image that no texture explains")
    assert len(seen) > 1


def test_frost_textures_are_reduced_5_times_or_as_far_as_the_image_allows():
    shapes = {name: module._texture(name, 32, 32).shape for name in module._TEXTURES}
    assert shapes == {
        "frost1.png": (120, 180, 3),
        "frost2.png": (63, 112, 3),
        "frost3.png": (63, 112, 3),
        "frost4.jpg": (70, 105, 3),
        "frost5.jpg": (99, 132, 3),
    }
    for size in ((224, 224), (300, 70), (400, 1000)):
        for name in module._TEXTURES:
            height, width, _ = module._texture(name, *size).shape
            assert height > size[0]
            assert width > size[1]


@pytest.mark.parametrize("severity", [1, 2, 3])
def test_spatter_of_water_is_pale_turquoise(severity):
    found = corrupt(np.zeros((40, 32, 32, 3), dtype=np.uint8), "spatter", severity).astype(int)
    assert found[..., 1].max(axis=(1, 2)) == pytest.approx(0.5 * 238, abs=1)  # the strongest of each image
    np.testing.assert_allclose(found[..., 0], found[..., 1] * 175 / 238, atol=1)
    assert np.array_equal(found[..., 1], found[..., 2])
    share = (found[..., 1] > 0).mean()
    assert 0.005 < share < (0.25 if severity == 3 else 0.1)


@pytest.mark.parametrize("severity", [4, 5])
def test_spatter_of_mud_is_brown(severity):
    found = corrupt(np.zeros((40, 32, 32, 3), dtype=np.uint8), "spatter", severity)
    muddy = found[found.any(axis=-1)]
    assert muddy.max(axis=0) == pytest.approx([63, 42, 20], abs=1)
    assert muddy[:, 0].min() >= int(0.8 * 63)
    assert 0.01 < len(muddy) / (40 * 32 * 32) < 0.25


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("name", ["brightness", "saturate"])
def test_colours_change_as_in_hsv(photographs, name, severity):
    images = photographs[:, ::3, ::3].copy()
    images[0, 0, :3] = [[0, 0, 0], [90, 90, 90], [255, 255, 255]]
    images = np.pad(images, ((0, 0), (1, 1), (1, 0), (0, 0)), mode="edge")
    expected = np.empty(images.shape)
    for index in np.ndindex(images.shape[:3]):
        hue, saturation, value = colorsys.rgb_to_hsv(*(images[index] / 255).tolist())
        if name == "brightness":
            value = min(1, value + [0.05, 0.1, 0.15, 0.2, 0.3][severity - 1])
        else:
            factor, shift = [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)][severity - 1]
            saturation = min(1, saturation * factor + shift)
        expected[index] = colorsys.hsv_to_rgb(hue, saturation, value)
    _close(corrupt(images, name, severity), _bytes(expected), share=0.05)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_contrast_equals_the_definition(photographs, severity):
    factor = [0.75, 0.5, 0.4, 0.3, 0.15][severity - 1]
    values = photographs / 255
    expected = np.empty(values.shape)
    for i in range(len(values)):
        for channel in range(3):
            mean = values[i, :, :, channel].mean()
            expected[i, :, :, channel] = (values[i, :, :, channel] - mean) * factor + mean
    _close(corrupt(photographs, "contrast", severity), _bytes(expected), share=1e-3)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_elastic_transform_keeps_a_grey_image_and_shifts_by_what_it_may(severity):
    grey = np.full((3, 32, 32, 3), 128, dtype=np.uint8)
    _close(corrupt(grey, "elastic_transform", severity), grey, share=1)
    columns = np.zeros((20, 32, 32, 3), dtype=np.uint8)
    columns[...] = np.arange(32)[:, None] * 8
    found = corrupt(columns, "elastic_transform", severity)[:, 8:24, 8:24, 0] / 8
    moved = abs(found - np.arange(8, 24)).max()
    shift, warp = [(2.56, 0), (2.24, 0.3), (1.92, 1.2), (1.6, 2.4), (0.96, 3.2)][severity - 1]
    assert shift / 2 < moved < 3 * shift + 2 * warp  # the square's fourth corner moves by up to the three's sum


def test_the_first_elastic_transform_is_affine():
    """A ramp stays a ramp inside, other than with a displacement that varies."""
    ramp = np.zeros((10, 32, 32, 3), dtype=np.uint8)
    ramp[...] = (np.arange(32)[:, None] + np.arange(32)[:, None, None]) * 4
    bent = [
        abs(np.diff(corrupt(ramp, "elastic_transform", severity)[:, 10:22, 10:22].astype(int), n=2, axis=1)).max()
        for severity in (1, 5)
    ]
    assert bent[0] <= 2  # what cutting off makes of a straight line
    assert bent[1] > 4


@pytest.mark.parametrize("severity", SEVERITIES)
def test_pixelate_is_a_mean_over_boxes_and_back(photographs, severity):
    share = [0.95, 0.9, 0.85, 0.75, 0.65][severity - 1]
    expected = photographs.astype(float)
    for axis, size in ((2, 19), (1, 16)):
        expected = _boxes(expected, axis, int(size * share))
    expected = np.floor(expected + 0.5)
    for axis, size in ((2, 19), (1, 16)):
        expected = _boxes(expected, axis, size)
    assert abs(corrupt(photographs, "pixelate", severity) - expected).max() <= 1.6  # four roundings
    assert abs(corrupt(photographs, "pixelate", severity) - expected).mean() <= 0.5


def _boxes(values, axis, size):
    """Resize one axis: a new pixel is the mean of the old ones whose centres are in its box, or of the nearest."""
    old = values.shape[axis]
    scale = old / size
    rows = []
    for i in range(size):
        centre, half = (i + 0.5) * scale, 0.5 * max(scale, 1)
        low, high = int(centre - half + 0.5), min(old, int(centre + half + 0.5))
        weights = [abs(x + 0.5 - centre) / max(scale, 1) for x in range(low, high)]
        inside = [low + k for k, weight in enumerate(weights) if weight <= 0.5]
        if len(inside) > 1 and scale < 1:
            inside = inside[:1]
        rows.append(values.take(inside, axis).mean(axis))
    return np.stack(rows, axis)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_jpeg_compression_has_the_quality(photographs, severity):
    content = io.BytesIO()
    quality = [80, 65, 58, 50, 40][severity - 1]
    Image.fromarray(photographs[1]).save(content, "JPEG", quality=quality)
    expected = np.asarray(Image.open(content))
    assert np.array_equal(corrupt(photographs, "jpeg_compression", severity)[1], expected)
