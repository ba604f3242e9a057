"""Packed programs as files of Larq Compute Engine: TensorFlow Lite with operators on bits, for one sample.

A program's binary convolutions become LceBconv2d, its bits LceQuantize or what LceBconv2d packs itself; the rest
becomes TensorFlow Lite's own operators. An input that is a map has its channels last; everything else keeps the model's
shapes.

The sums are PyTorch's, exactly. Where bits follow from sums alone, they are cut at the program's integer thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bibench.deploy.format import Program
from bibench.deploy.lce_graph import LceGraph
from bibench.deploy.lce_operations import OPERATIONS
from bibench.files import write_bytes

__all__ = ["to_tflite", "write_lce"]


def write_lce(program: Program, path: Path) -> int:
    """Write a program as a file of Larq Compute Engine, atomically; the number of its bytes.

    Raises:
        PackedError: what the format can't express; the message names the layer.
        OSError: the file can't be written.
    """
    return write_bytes(path, to_tflite(program))


def to_tflite(program: Program, watched: Sequence[int] = ()) -> bytes:
    """The file's content.

    The program's metadata is stored beside it, as JSON under the name ``bibench``.

    Args:
        program: what to write.
        watched: numbers of values that the file puts out behind the program's outputs, as they are in it: floats, or
            bits as LceQuantize packs them.

    Raises:
        PackedError: what the format can't express; the message names the layer.

    >>> import torch, bibench
    >>> from bibench.deploy.export import pack
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), bibench.nn.BinaryLinear(8, 8, algorithm="bnn"))
    >>> content = to_tflite(pack(net, torch.randn(1, 4)))
    >>> content[4:8], b"LceBconv2d" in content
    (b'TFL3', True)
    """
    graph = LceGraph(program)
    for number, operation in enumerate(program.operations):
        graph.number = number
        OPERATIONS[operation.code](graph, operation)
    return graph.content(watched)
