"""From an image as people have it to a network's input: the one definition, for evaluating and for shipped files."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from bibench.tasks.base import DataError
from bibench.tasks.classification import normalise

__all__ = ["Preprocessing", "open_image", "read_image"]

_Side = Annotated[int, Field(ge=1, le=16_384)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Preprocessing(BaseModel):
    """How a task turns an original image into the input of its networks when it evaluates them.

    An image of 8-bit greyscale or RGB pixels is brought to ``size``, its pixels are scaled from 0..255 to 0..``high``,
    rounded where that isn't 255 (the digits have whole pixels of 0 to 16), and each channel becomes
    ``(pixel - mean) / std``. Transparency is dropped, and orientation tags are ignored, as torchvision's loader does.

    Args:
        kind: what the input is.
        channels: 1 for greyscale, 3 for RGB.
        size: height and width of the input.
        resize: the shorter side is resized to this before the centre of ``size`` is cut; None: images of another size
            are resized to ``size`` itself.
        high: the value that a pixel of 255 stands for: 255 for photographs.
        mean, std: by channel, in the unit of ``high``.

    Raises:
        pydantic.ValidationError: a value out of range, not one mean and std a channel, or a crop that is larger than
            what it is cut from.

    >>> grey = Preprocessing(channels=1, size=(2, 2), high=16, mean=(8.0,), std=(4.0,))
    >>> grey.apply(np.full((2, 2), 255, np.uint8)).ravel()
    array([2., 2., 2., 2.], dtype=float32)
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Literal["image"] = "image"
    channels: Literal[1, 3]
    size: tuple[_Side, _Side]
    resize: _Side | None = None
    high: _Positive = 255.0
    mean: tuple[_Finite, ...]
    std: tuple[_Positive, ...]

    @model_validator(mode="after")
    def _fits(self) -> Preprocessing:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != self.channels:
                raise ValueError(f"{name} has {len(values)} values for {self.channels} channels: expected one each")
        if self.resize is not None and self.resize < max(self.size):
            raise ValueError(
                f"resize is {self.resize}, and the centre of {self.size[0]}x{self.size[1]} can't be cut from that: "
                f"expected at least {max(self.size)}"
            )
        return self

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest number that an input can have.

        >>> Preprocessing(channels=1, size=(2, 2), high=16, mean=(8.0,), std=(4.0,)).range
        (-2.0, 2.0)
        """
        pairs = tuple(zip(self.mean, self.std, strict=True))
        return min(-mean / std for mean, std in pairs), max((self.high - mean) / std for mean, std in pairs)

    def apply(self, image: str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """The network's input for one image: float32 of shape ``(channels, height, width)``.

        Args:
            image: path of an image file, a PIL image, or uint8 pixels ``(height, width)`` or ``(height, width, 3)``.

        Raises:
            DataError: the file is missing or no image; an array of another type or shape.
        """
        pixels = self.pixels(_opened(image))
        if self.high != 255:
            pixels = (pixels.double() * (self.high / 255)).round()
        found: npt.NDArray[np.float32] = normalise(pixels[None], self.mean, self.std)[0].numpy()
        return found

    def pixels(self, image: Image.Image) -> Tensor:
        """The part of an image that the network sees: uint8 ``(channels, height, width)``, 0 to 255."""
        mode = "RGB" if self.channels == 3 else "L"
        converted = image if image.mode == mode else image.convert(mode)
        found: Tensor = _steps(self.size, self.resize)(converted)
        return found


@functools.cache
def _steps(size: tuple[int, int], resize: int | None) -> Any:
    from torchvision.transforms import v2  # here, since importing it takes a third of a second

    if resize is None:
        return v2.Compose([v2.Resize(list(size), antialias=True), v2.PILToTensor()])
    return v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(list(size)), v2.PILToTensor()])


def _opened(image: str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8]) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.shape[2:] not in ((), (3,)) or image.ndim not in (2, 3) or not image.size:
            raise DataError(
                f"an array of {image.dtype} and shape {image.shape}: expected uint8 pixels of shape (height, width) or "
                "(height, width, 3)"
            )
        return Image.fromarray(np.ascontiguousarray(image))
    return read_image(Path(image))


@contextmanager
def open_image(path: Path) -> Iterator[Image.Image]:
    """An image file whose head is read: its size is known, and its pixels are decoded when they are asked for.

    Raises:
        DataError: it is missing, or its head, or what is decoded inside, can't be read.
    """
    try:
        with Image.open(path) as opened:
            yield opened
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: cannot be read as an image: {error}; copy it again from the original") from error


def read_image(path: Path) -> Image.Image:
    """An image file, decoded, in its own mode.

    Raises:
        DataError: it is missing, or can't be decoded.
    """
    with open_image(path) as image:
        image.load()
    return image
