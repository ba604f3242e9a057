"""daBNN's files read by their schema and run layer by layer, and in the place of the packed engine.

Affine, Add, Relu and PRelu change what they read, as in daBNN's fast build. Maps are NHWC. What daBNN refuses to load
is an error here too.
"""

import numpy as np
from flatbuffer_reader import root

from bibench.deploy.dabnn import to_dabnn
from bibench.deploy.format import Code, Program

CONVOLUTION = ("input", "weight", "bias", "pads", "strides", "dilations", "output")
POOL = ("input", "kernel_shape", "pads", "strides", "output")
KINDS = {
    0: ("FpConv2D", 1, CONVOLUTION),
    1: ("AvePool", 3, POOL),
    2: ("MaxPool", 4, POOL),
    3: ("Relu", 5, ("input", "output")),
    6: ("Add", 8, ("input1", "input2", "output")),
    8: ("BinConv2D", 2, CONVOLUTION),
    9: ("Affine", 10, ("input", "a", "b", "output")),
    13: ("PRelu", 15, ("input", "slope", "output")),
}
LISTS = ("pads", "strides", "dilations", "kernel_shape")


def numbers(table, slot, dtype):
    """A vector of numbers; it begins where numbers of its type may."""
    at = table.follow(slot)
    count, start, size = table.number(at), at + 4, np.dtype(dtype).itemsize
    assert start % size == 0
    return np.frombuffer(table.content[start : start + count * size], dtype)


def text(table, slot):
    return table.bytes(slot)[0].decode()


class DabnnNet:
    """A loaded file.

    Attributes:
        layers: kind, settings and title of each.
        constants: floats, or the truth values ``[O][KH][KW][C]`` of where a weight is +1.
    """

    def __init__(self, content):
        model = root(content)
        assert model.integer(3) == 2
        (given,) = model.tables(2)
        self.input, self.shape = text(given, 1), tuple(numbers(given, 0, "<u4"))
        assert self.shape[0] == 1
        self.constants = dict(map(self.constant, model.tables(1)))
        self.layers = list(map(self.layer, model.tables(0)))

    @staticmethod
    def constant(table):
        shape, name = tuple(numbers(table, 3, "<u4").astype(int)), text(table, 4)
        if not table.integer(0, 1):
            return name, numbers(table, 2, "<f4").reshape(shape)
        aligned = bool(table.integer(5, 1))
        assert aligned == (shape[3] != 64)
        taps = np.prod(shape[1:])
        each = -(-taps // 128) * 2 if aligned else taps // 64
        words = numbers(table, 1, "<u8").reshape(shape[0], each)
        bits = np.unpackbits(words.view("u1"), axis=1, bitorder="little").astype(bool)
        assert not bits[:, taps:].any()  # they are compared with what is 0 behind a window
        return name, bits[:, :taps].reshape(shape)

    @staticmethod
    def layer(table):
        kind, slot, names = KINDS[table.integer(0, 1)]
        settings = table.table(slot)
        found = {
            name: (tuple(settings.integers(i)) if name in LISTS else text(settings, i))
            for i, name in enumerate(names)
            if settings.slot(i) is not None
        }
        return kind, found, text(table, 14)

    def run(self, x):
        """All maps by name, and the signs that each binary convolution reads, for an input [H][W][C]."""
        assert x.shape == self.shape[1:]
        maps, signs = {self.input: x.astype(np.float32), **self.constants}, []
        for kind, settings, _ in self.layers:
            given = maps[settings.get("input", settings.get("input1"))]
            if kind == "BinConv2D":
                signs.append(given > 0)
            made = getattr(self, kind)(given, settings, maps)
            height, _, channels = made.shape
            assert height * channels == 1 or height * channels % 4 == 0
            assert settings["output"] not in maps
            maps[settings["output"]] = made
        return maps, signs

    @staticmethod
    def windows(x, kernel, settings, outside):
        top, right, bottom, left = settings["pads"]
        assert (top, right) == (bottom, left)
        padded = np.pad(x, ((top, bottom), (left, right), (0, 0)), constant_values=outside)
        found = np.lib.stride_tricks.sliding_window_view(padded, kernel, (0, 1))
        down, across = settings["strides"]
        return found[::down, ::across].transpose(0, 1, 3, 4, 2)  # [OH][OW][KH][KW][C]

    def BinConv2D(self, x, settings, maps):
        weight = maps[settings["weight"]]
        assert settings["dilations"] == (1, 1)
        taken = self.windows(x > 0, weight.shape[1:3], settings, False)
        assert taken.shape[4] == weight.shape[3]
        left = taken.reshape(*taken.shape[:2], -1).astype(np.float32)
        right = weight.reshape(len(weight), -1).astype(np.float32)
        return left @ (1 - right).T + (1 - left) @ right.T  # whole numbers, exact

    def FpConv2D(self, x, settings, maps):
        weight = maps[settings["weight"]]
        assert settings["dilations"] == (1, 1)
        taken = self.windows(x, weight.shape[1:3], settings, 0)
        assert taken.shape[4] == weight.shape[3]
        y = taken.reshape(*taken.shape[:2], -1) @ weight.reshape(len(weight), -1).T
        return y + maps[settings["bias"]] if "bias" in settings else y

    def AvePool(self, x, settings, maps):
        kernel = settings["kernel_shape"]
        total = self.windows(x, kernel, settings, 0).sum((2, 3), dtype=np.float32)
        return total / self.windows(np.ones_like(x), kernel, settings, 0).sum((2, 3))

    def MaxPool(self, x, settings, maps):
        assert settings["kernel_shape"] in ((2, 2), (3, 3))
        assert x.shape[2] % 4 == 0
        return self.windows(x, settings["kernel_shape"], settings, np.finfo(np.float32).min).max((2, 3))

    def Relu(self, x, settings, maps):
        return np.maximum(x, np.float32(0), out=x)

    def Add(self, x, settings, maps):
        other = maps[settings["input2"]]
        x += other.reshape(x.shape)
        return x

    def Affine(self, x, settings, maps):
        x *= maps[settings["a"]]
        x += maps[settings["b"]]
        return x

    def PRelu(self, x, settings, maps):
        slope = maps[settings["slope"]]
        assert slope.shape in ((1,), x.shape[2:])
        x *= np.where(x < 0, slope, np.float32(1))
        return x


class DabnnEngine:
    """A program in daBNN's format, in the place of `Engine` in `compare`."""

    def __init__(self, content):
        self.program = Program.from_bytes(content)
        self.net = DabnnNet(to_dabnn(self.program))
        binary = [i for i, operation in enumerate(self.program.operations) if operation.code is Code.BCONV]
        layers = self.program.metadata["layers"]
        self.reads = {layer["value"]: (binary.index(layer["operation"]), layer["map"]) for layer in layers}
        self.signs = []

    def observe(self, inputs, after):
        """Run, and put out what the model puts out; what follows it is never the largest."""
        (x,) = inputs
        x = x[0].transpose(1, 2, 0) if x.ndim == 4 else x[0].reshape(-1, 1, x.shape[-1])
        maps, self.signs = self.net.run(x)
        found = []
        for value, entry in zip(self.program.outputs, self.program.metadata["outputs"], strict=True):
            y = maps[entry["name"]].reshape(-1)
            assert len(y) - value.count < 4
            assert (y[value.count :] == np.finfo(np.float32).min).all()
            found.append(y[: value.count])
        for number in range(len(self.program.operations)):
            after(number)
        return found

    def value(self, index, count, type):
        which, (height, width, channels, _, top, left, high, wide) = self.reads[index]
        negative = ~self.signs[which].reshape(height, width, channels)
        padded = np.zeros((high, wide, -(-channels // 32) * 32), bool)
        padded[top : top + height, left : left + width, :channels] = negative
        words = np.packbits(padded, axis=-1, bitorder="little").view("<u4").reshape(-1)
        assert words.size == count
        return words
