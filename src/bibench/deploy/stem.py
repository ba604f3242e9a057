"""The first layer in 8-bit integers, as an option: in a binarized network it is where most of the time goes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bibench.deploy.format import Code, PackedError, Place, Type
from bibench.deploy.steps import Step, readers
from bibench.deploy.views import Buffer

__all__ = ["quantize_stem"]


def quantize_stem(steps: list[Step], low: float, high: float) -> None:
    """Let the layers that read the model's input compute in int8: ``y = A·s_x·s_o·sum (q_x - z)·q_w + B``.

    Inputs become ``q_x = round(x / s_x) + z`` in 0 to 255 with ``s_x = (high - low) / 255``, one scale for all; weights
    ``q_w = round(w / s_o)`` in -127 to 127 with ``s_o = max |w_o| / 127`` for each output channel. Sums are exact.
    Zero, which is what images are padded with, stays exactly zero.

    Args:
        steps: as fused; they are changed.
        low, high: range of the input; what lies outside is cut. It is extended to hold 0.

    Raises:
        PackedError: no layer in full precision reads the input, one has groups, or the range is empty.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if not low < high or not np.isfinite([low, high]).all():
        raise PackedError(f"int8_stem: the input's range is {low:g} to {high:g}, expected finite numbers that differ")
    found = [(step, *read) for step in steps if (read := _reads_input(steps, step)) is not None]
    if not found:
        raise PackedError(
            "int8_stem: no convolution or linear layer in full precision reads the model's input; leave the option out"
        )
    scale = (high - low) / 255
    zero = round(-low / scale)
    for step, source, copy in found:
        height, width, channels, groups = step.params[:4]
        if groups != 1:
            raise PackedError(f"int8_stem: layer '{step.title}' has {groups} groups, expected 1; leave the option out")
        top, left, rows, columns = step.params[15:19]
        quantized = Buffer(Type.UINT8, rows * columns * 4 * -(-channels // 4))
        planes = int(copy is not None)
        params = [height, width, channels, top, left, rows, columns, zero, planes]
        nodes = step.nodes[:1]
        before = Step.make(Code.QUANTIZE, [source, quantized], params, floats=[1 / scale], nodes=nodes)
        weight, factor = step.constants[:2]
        assert weight is not None
        outputs = step.params[4]
        filters = weight.reshape(outputs, step.params[5] * step.params[6], channels)
        largest = np.abs(filters).max(axis=(1, 2))
        scales = np.where(largest > 0, largest, 127) / 127
        padded = np.zeros((*filters.shape[:2], 4 * -(-channels // 4)), np.int8)
        padded[..., :channels] = np.rint(filters / scales[:, None, None])
        step.code = Code.ICONV
        step.constants[:2] = [padded, (1.0 if factor is None else factor) * scales * scale]
        step.values[0] = quantized
        step.params[19] = zero
        steps.insert(steps.index(step), before)
        if copy is not None and not any(buffer in readers(steps) for buffer in copy.outputs):
            steps.remove(copy)


def _reads_input(steps: Sequence[Step], step: Step) -> tuple[Buffer, Step | None] | None:
    """The model's input that a convolution in full precision reads, and the step that copies it, if one does.

    A copy counts that only pads and brings planes into pixels: the quantization does the same.
    """
    buffer = step.values[0]
    if step.code is not Code.FCONV or buffer is None:
        return None
    if buffer.place is Place.INPUT:
        return buffer, None
    copy = next((other for other in steps if buffer in other.outputs), None)
    if copy is None or copy.code is not Code.COPY:
        return None
    source = copy.values[0]
    height, width, channels = step.params[:3]
    top, left, rows, columns = step.params[15:19]
    dims = [tuple(copy.params[i : 25 + i : 5]) for i in range(5)]
    planes = [
        (rows, width, top, height, columns * channels),
        (columns, 1, left, width, channels),
        (channels, height * width, 0, channels, 1),
    ]
    plain = (
        source is not None
        and source.place is Place.INPUT
        and source.count == height * width * channels
        and _merged(dims) == _merged(planes)
        and copy.params[25:28] == [0, 0, 4]
    )
    return (source, copy) if plain and source is not None else None


def _merged(dims: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """A copy's dimensions (size, stride, low padding, size read, stride written), those in one piece as one."""
    found: list[tuple[int, ...]] = []
    for dim in dims:
        size, stride, _, read, written = dim
        if size == 1:
            continue
        outer = found[-1] if found else None
        if outer and outer[0] == outer[3] and size == read and outer[1] == size * stride and outer[4] == size * written:
            found[-1] = (outer[0] * size, stride, 0, outer[0] * size, written)
        else:
            found.append(dim)
    return found
