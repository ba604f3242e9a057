"""Pictures in a run's folder: small JPEG files, and what they show in words.

FOLDER/pictures/0-truth.jpg  a test sample with what is right
FOLDER/pictures/0-found.jpg  the same sample with what the network made of it
FOLDER/pictures/texts.json   titles and texts, written last

Whoever made a store may have put anything there. So only small regular files are opened, only by the JPEG decoder and
only if they say that they are small, and what a report embeds is encoded anew.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bibench.files import write_bytes, write_json
from bibench.records import StoredPair, StoredPicture, StoredPictures
from bibench.tasks.base import PICTURE_SIDE, PicturePair

__all__ = ["read_pictures", "write_pictures"]

_FOLDER = "pictures"
_LARGEST_FILE = 1 << 20
_QUALITY = 85


class _Texts(BaseModel):
    """The words of one pair."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    title: Annotated[str, Field(max_length=200)]
    truth: Annotated[str, Field(max_length=10_000)]
    found: Annotated[str, Field(max_length=10_000)]


_AllTexts = TypeAdapter(Annotated[list[_Texts], Field(max_length=16)])


def write_pictures(folder: Path, pairs: Sequence[PicturePair]) -> None:
    """Keep pictures in a run's folder, at most `PICTURE_SIDE` pixels long.

    Args:
        folder: of the run.
        pairs: what to keep; earlier pictures of an attempt that was interrupted are replaced.

    Raises:
        OSError: such as a full disk.
    """
    place = folder / _FOLDER
    for left in place.glob(".*.tmp"):  # of an attempt that was interrupted
        left.unlink()
    for number, pair in enumerate(pairs):
        for kind, picture in (("truth", pair.truth), ("found", pair.found)):
            write_bytes(place / f"{number}-{kind}.jpg", _encoded(picture.image))
    texts = [{"title": pair.title, "truth": pair.truth.text, "found": pair.found.text} for pair in pairs]
    write_json(place / "texts.json", texts)


def read_pictures(folder: Path) -> StoredPictures:
    """The pictures in a run's folder, as far as they are what `write_pictures` writes."""
    place = folder / _FOLDER
    if not place.exists() and not place.is_symlink():
        return StoredPictures()
    try:
        texts = _AllTexts.validate_json(_content(place / "texts.json"))
        pairs = tuple(
            StoredPair(
                title=own.title,
                truth=StoredPicture(jpeg=_picture(place / f"{number}-truth.jpg"), text=own.truth),
                found=StoredPicture(jpeg=_picture(place / f"{number}-found.jpg"), text=own.found),
            )
            for number, own in enumerate(texts)
        )
    except _Unfit as error:
        return StoredPictures(problem=str(error))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        return StoredPictures(problem=f"{place / 'texts.json'}: {where + ': ' if where else ''}{first['msg']}")
    return StoredPictures(pairs=pairs)


class _Unfit(ValueError):
    """A file that is no picture of a run; the message names it."""


def _content(path: Path) -> bytes:
    try:
        if path.is_symlink() or path.parent.is_symlink() or not path.is_file():
            raise _Unfit(f"{path}: missing, or no regular file: not shown")
        if path.stat().st_size > _LARGEST_FILE:
            raise _Unfit(f"{path}: {path.stat().st_size:,} bytes, expected at most {_LARGEST_FILE:,}: not shown")
        return path.read_bytes()
    except OSError as error:
        raise _Unfit(f"{path}: cannot be read: {error.strerror}") from error


def _picture(path: Path) -> bytes:
    """A picture, decoded and encoded anew: nothing of the file itself gets into a report."""
    content = _content(path)
    try:
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as opened:
            if max(opened.size) > PICTURE_SIDE:
                raise _Unfit(
                    f"{path}: {opened.width} x {opened.height} pixels, expected at most {PICTURE_SIDE}: not shown"
                )
            return _encoded(opened)
    except _Unfit:
        raise
    except Exception as error:  # whatever a decoder makes of a file that is none
        raise _Unfit(f"{path}: cannot be read as JPEG: not shown") from error


def _encoded(image: Image.Image) -> bytes:
    small = image.convert("RGB")
    small.thumbnail((PICTURE_SIDE, PICTURE_SIDE))
    pixels = Image.new("RGB", small.size)  # without the comments and the like that an image keeps of its file
    pixels.paste(small)
    buffer = io.BytesIO()
    pixels.save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
