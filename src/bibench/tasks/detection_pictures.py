"""Detections drawn on images: for reports, and for `bibench detect`."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor, nn

from bibench.tasks.average_precision import Floats, Integers
from bibench.tasks.base import PICTURE_SIDE, Data, Picture, PicturePair

__all__ = ["LEAST_SCORE", "draw", "label_name", "pictures"]

LEAST_SCORE = 0.5
"""Detections below this score are not shown unless they are asked for."""

_SAMPLES = 2
_NOTHING = f"nothing found with a score of at least {LEAST_SCORE}"


def label_name(labels: Sequence[str], label: int) -> str:
    """The name of a class, which has a number from 1.

    >>> label_name(("cat", "dog"), 2), label_name((), 2)
    ('dog', 'class 2')
    """
    return labels[label - 1] if label <= len(labels) else f"class {label}"


def draw(image: Image.Image, boxes: Floats, labels: Integers, texts: Sequence[str]) -> Image.Image:
    """A copy of an image in RGB with boxes, and a text at each.

    Lines and letters grow with the image. A class has the same colour in every image.

    Args:
        image: of any mode.
        boxes: ``(boxes, 4)``: left, top, right, bottom in its pixels; later ones lie over earlier ones.
        labels: ``(boxes,)``, from 1; they choose the colours.
        texts: one a box.

    >>> drawn = draw(Image.new("L", (64, 48)), np.array([[8.0, 20, 40, 44]]), np.array([1]), ["cat"])
    >>> drawn.mode, drawn.size, drawn.getpixel((8, 30)) == drawn.getpixel((30, 43)) != (0, 0, 0)
    ('RGB', (64, 48), True)
    """
    drawn = image.convert("RGB")
    canvas = ImageDraw.Draw(drawn)
    longest = max(drawn.size)
    width = max(1, round(longest / 200))
    font = ImageFont.load_default(max(12, round(longest / 40)))
    for box, label, text in zip(boxes, labels.tolist(), texts, strict=True):
        # Pixels inside the box: its right edge is where the next pixel starts.
        left, top, right, bottom = _inside(box, drawn.size)
        colour = _colour(label)
        canvas.rectangle((left, top, right, bottom), outline=colour, width=width)
        _, _, wide, high = canvas.textbbox((0, 0), text, font=font)
        wide, high = int(wide) + 2 * width, int(high) + width
        x = max(0, min(left, drawn.width - wide))
        y = top - high if top >= high else top
        canvas.rectangle((x, y, x + wide, y + high), fill=colour)
        canvas.text((x + width, y), text, fill=_readable_on(colour), font=font)
    return drawn


def _inside(box: Floats, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The first and last pixels of a box, kept inside an image of this width and height."""
    last = np.array(size * 2) - 1
    left, top, right, bottom = np.clip(np.round(box - np.array([0, 0, 1, 1])), 0, last).astype(int).tolist()
    return left, top, max(left, right), max(top, bottom)


def _colour(label: int) -> tuple[int, int, int]:
    """Neighbouring classes lie far apart on the circle of hues."""
    red, green, blue = colorsys.hsv_to_rgb(label * 0.618034 % 1.0, 0.85, 0.95)
    return round(255 * red), round(255 * green), round(255 * blue)


def _readable_on(colour: tuple[int, int, int]) -> str:
    red, green, blue = colour
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def pictures(model: nn.Module, data: Data) -> list[PicturePair]:
    """The first two test images that hold objects: those objects, and what a detector finds with a score of 0.5.

    Ignored objects (difficult, crowds) are in brackets.

    Args:
        model: a detector of torchvision's kind in evaluation mode, see `bibench.models.detection`.
        data: of a detection task.
    """
    device = next(model.parameters()).device
    found = []
    for batch in data.test.batches(1, device=device):
        there = batch.labels[0] > 0
        if not there.any():
            continue
        height, width = batch.sizes[0].tolist()
        image = batch.images[0][:, :height, :width]
        shown = _shown(image)
        scale = np.array(shown.size * 2) / np.tile(_numbers(batch.originals[0])[::-1], 2)
        labels = _numbers(batch.labels[0][there]).astype(np.int64)
        ignored = _numbers(batch.ignored[0][there])
        names = [
            f"({label_name(data.labels, label)})" if hidden else label_name(data.labels, label)
            for label, hidden in zip(labels.tolist(), ignored.tolist(), strict=True)
        ]
        boxes = _numbers(batch.boxes[0][there]) * scale
        truth = Picture(image=draw(shown, boxes, labels, names), text=_counts(names))
        pair = PicturePair(
            title=f"test image {int(batch.numbers[0]) + 1}",
            truth=truth,
            found=_detected(shown, model([image])[0], np.array(shown.size * 2) / (width, height, width, height), data),
        )
        found.append(pair)
        if len(found) == _SAMPLES:
            break
    return found


def _detected(shown: Image.Image, found: dict[str, Tensor], scale: Floats, data: Data) -> Picture:
    """What was found, the surest on top."""
    scores = _numbers(found["scores"])
    order = np.argsort(scores, kind="stable")
    order = order[scores[order] >= LEAST_SCORE]
    labels = _numbers(found["labels"]).astype(np.int64)[order]
    names = [label_name(data.labels, label) for label in labels.tolist()]
    texts = [f"{name} {score:.2f}" for name, score in zip(names, scores[order].tolist(), strict=True)]
    boxes = _numbers(found["boxes"])[order] * scale
    return Picture(image=draw(shown, boxes, labels, texts), text=_counts(names[::-1]) or _NOTHING)


def _counts(names: Sequence[str]) -> str:
    """Such as ``"2 dog, 1 person"``, the commonest first."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())


def _shown(image: Tensor) -> Image.Image:
    """From float ``(3, height, width)`` of 0 to 1: as large as a kept picture may be, so that texts are legible."""
    pixels = (image.detach().cpu() * 255).round().clamp(0, 255).to(torch.uint8)
    whole = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    scale = PICTURE_SIDE / max(whole.size)
    return whole.resize((max(1, round(scale * whole.width)), max(1, round(scale * whole.height))))


def _numbers(values: Tensor) -> Floats:
    numbers: Floats = values.detach().cpu().double().numpy()
    return numbers
