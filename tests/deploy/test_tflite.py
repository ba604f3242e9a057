"""The tables of a TensorFlow Lite file, read by the encoding's rules and the schema's numbers."""

import numpy as np
import pytest
from flatbuffer_reader import custom_operators, root
from flatbuffers import flexbuffers

from bibench.deploy.tflite import SAME, TFLiteFile


def small():
    file = TFLiteFile()
    x = file.tensor((1, 4, 4, 2), name="image")
    kernel = np.arange(3 * 2 * 2 * 2, dtype=np.float32).reshape(3, 2, 2, 2)
    zeros = file.constant(np.zeros(3, np.float32))
    options = {"padding": SAME, "stride_width": 3, "stride_height": 2, "dilation_width": 1, "dilation_height": 4}
    y = file.add("CONV_2D", [x, file.constant(kernel), zeros], (1, 2, 2, 3), activation=2, **options)
    bits = file.add("LceQuantize", [y], (1, 2, 2, 1), np.int32)
    z = file.add("LceBMaxPool2d", [bits], (1, 1, 1, 1), np.int32, filter_height=2, padding=1)
    w = file.add("GELU", [y], (1, 2, 2, 3))
    return file.content([x], [z, w], {"about": b"{}"}), kernel


def test_the_model():
    content, _ = small()
    assert content[4:8] == b"TFL3"
    model = root(content)
    assert model.integer(0) == 3
    assert [(code.integer(0, 1), code.integer(3)) for code in model.tables(1)] == [
        (3, 3),
        (32, 32),
        (32, 32),
        (127, 150),  # behind what the old field of one byte holds
    ]
    assert custom_operators(content) == ["", "LceQuantize", "LceBMaxPool2d", ""]
    (entry,) = model.tables(6)
    assert entry.bytes(0)[0] == b"about"
    assert model.tables(4)[entry.integer(1)].bytes(0)[0] == b"{}"


def test_the_tensors():
    content, kernel = small()
    model = root(content)
    (graph,) = model.tables(2)
    tensors, buffers = graph.tables(0), model.tables(4)
    assert [tensors[i].bytes(3)[0] for i in graph.integers(1)] == [b"image"]
    assert [tensors[i].integers(0) for i in graph.integers(2)] == [[1, 1, 1, 1], [1, 2, 2, 3]]
    assert [tensors[i].integer(1, 1) for i in graph.integers(2)] == [2, 0]
    convolution = graph.tables(3)[0]
    image, weight, bias = convolution.integers(1)
    assert tensors[image].integer(2) == 0
    assert buffers[0].bytes(0) == (b"", None)
    assert tensors[weight].integers(0) == [3, 2, 2, 2]
    stored, at = buffers[tensors[weight].integer(2)].bytes(0)
    assert stored == kernel.tobytes()
    assert at % 16 == 0
    assert buffers[tensors[bias].integer(2)].bytes(0)[0] == bytes(12)


def test_the_options():
    content, _ = small()
    (graph,) = root(content).tables(2)
    convolution, quantize, pool, _ = graph.tables(3)
    assert convolution.integer(3, 1) == 1
    found = convolution.table(4)
    assert [found.integer(0, 1), found.integer(1), found.integer(2), found.integer(3, 1)] == [0, 3, 2, 2]
    assert [found.integer(4, default=1), found.integer(5, default=1)] == [1, 4]
    assert quantize.bytes(5) == (b"", None)
    assert flexbuffers.Loads(pool.bytes(5)[0]) == {"filter_height": 2, "padding": 1}


@pytest.mark.parametrize("size", range(1, 6))
def test_constants_are_aligned_whatever_lies_between_them(size):
    file = TFLiteFile()
    x = file.tensor((1,))
    for n in (size, 7, size + 1, 3):
        file.add("ADD", [x, file.constant(np.full(n, n, np.float32))], (n,))
    for buffer in root(file.content([x], [x])).tables(4)[1:]:
        assert buffer.bytes(0)[1] % 16 == 0


def test_the_same_constant_is_stored_once():
    file = TFLiteFile()
    first = file.constant(np.zeros(4, np.float32))
    assert file.constant(np.zeros(4, np.float32)) == first
    others = [np.zeros((2, 2), np.float32), np.zeros(4, np.int32), np.ones(4, np.float32)]
    assert len({first, *map(file.constant, others)}) == 4


def test_an_option_that_the_operator_lacks():
    file = TFLiteFile()
    x = file.tensor((1,))
    file.add("CONV_2D", [x], (1,), multiplier=2)
    with pytest.raises(KeyError, match="multiplier"):
        file.content([x], [x])
