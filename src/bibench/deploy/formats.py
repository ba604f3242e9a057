"""The kinds of file that a network can be exported to. All are written from one packed program (`format.Program`)."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bibench.deploy.dabnn import write_dabnn
from bibench.deploy.dabnn_onnx import write_dabnn_onnx
from bibench.deploy.format import PackedError, Program
from bibench.deploy.lce import write_lce
from bibench.deploy.onnx_file import onnx_lacks, write_onnx, write_onnx_packed, write_qonnx

__all__ = ["FORMATS", "Format", "format_named"]


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        name: as ``to=`` and ``--to`` take it.
        suffix: of its files.
        runs_in: what runs them, for people.
        write: writes a program atomically and returns the file's size in bytes; raises `PackedError` where the format
            can't express it, naming the layer and the reason.
        lacks: what is missing here to write it, and how to get it; None where nothing is.
    """

    name: str
    suffix: str
    runs_in: str
    write: Callable[[Program, Path], int]
    lacks: Callable[[], str | None] = lambda: None


FORMATS: dict[str, Format] = {
    kind.name: kind
    for kind in (
        Format("packed", ".bibpack", "the packed engine", lambda program, path: program.write(path)),
        Format("onnx", ".onnx", "ONNX Runtime", write_onnx, onnx_lacks),
        Format("onnx-packed", ".packed.onnx", "ONNX Runtime with the packed engine", write_onnx_packed, onnx_lacks),
        Format("qonnx", ".qonnx.onnx", "QONNX and the tools that read it", write_qonnx, onnx_lacks),
        Format("tflite-lce", ".tflite", "Larq Compute Engine", write_lce),
        Format("dabnn", ".dab", "daBNN", write_dabnn),
        Format("dabnn-onnx", ".dabnn.onnx", "ONNX Runtime, and daBNN's converter", write_dabnn_onnx, onnx_lacks),
    )
}
"""The kinds of file, by name."""


def format_named(name: str) -> Format:
    """The format of a name.

    Raises:
        PackedError: no such format, or it can't be written here.

    >>> format_named("packed").suffix
    '.bibpack'
    """
    kind = FORMATS.get(name)
    if kind is None:
        near = difflib.get_close_matches(str(name).lower(), FORMATS, n=1, cutoff=0.5)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise PackedError(f"to={name!r}: unknown kind of file{hint} (known: {', '.join(FORMATS)})")
    lack = kind.lacks()
    if lack is not None:
        raise PackedError(f"to={name!r}: {lack}")
    return kind
