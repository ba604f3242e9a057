from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreted import check, codes, randomised
from parts import PARTS, drawn_part, of_part
from torch import nn

from bibench.deploy.arena import arrange
from bibench.deploy.export import pack
from bibench.deploy.format import Code, Place, Type
from bibench.deploy.steps import Step
from bibench.deploy.views import Buffer, View, contiguous
from bibench.nn import BinaryConv2d, BinaryLinear


def steps_of(program, code):
    return [operation for operation in program.operations if operation.code is code]


class Branches(nn.Module):
    """One map that convolutions of several paddings and thresholds read."""

    def __init__(self, *layers, residual=False):
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 32, 3, padding=1), randomised(nn.BatchNorm2d(32))
        self.layers = nn.ModuleList(layers)
        self.residual = residual

    def forward(self, x):
        y = nn.functional.hardtanh(self.norm(self.stem(x)))
        out = [layer(y) for layer in self.layers]
        return (*out, y) if self.residual else tuple(out)


def binary(kernel, padding, algorithm="bnn", inputs=32, **how):
    layer = BinaryConv2d(inputs, 8, kernel, padding=padding, algorithm=algorithm, **how)
    if algorithm == "reactnet":
        with torch.no_grad():
            layer.activation_rule.threshold.normal_(0, 0.3)
    return layer


IMAGE = torch.randn(1, 3, 6, 6)


def test_bits_with_the_padding_of_the_neediest_reader():
    program = check(Branches(binary(1, 0), binary(3, 1), binary(5, (2, 3)), binary(4, "same")), IMAGE)
    assert "PACK" not in codes(program)
    (stem,) = steps_of(program, Code.FCONV)
    assert stem.params[22:26] == (2, 3, 10, 12)
    assert {operation.params[15:19] for operation in steps_of(program, Code.BCONV)} == {(2, 3, 10, 12)}
    assert stem.values[3] == -1  # nobody reads the floats


def test_another_threshold_is_packed_apart():
    program = check(Branches(binary(3, 1), binary(3, 1, "reactnet"), binary(1, 0, "reactnet")), IMAGE)
    assert codes(program).count("PACK") == 2
    program = check(Branches(binary(3, 1), binary(3, 1)), IMAGE)
    assert codes(program).count("PACK") == 0


def test_floats_stay_where_they_are_read():
    program = check(Branches(binary(3, 1), residual=True), IMAGE)
    (stem,) = steps_of(program, Code.FCONV)
    assert stem.values[3] >= 0
    assert stem.values[4] >= 0
    program = check(Branches(binary(3, 1, "xnor")), IMAGE)
    assert steps_of(program, Code.FCONV)[0].values[3] >= 0


def test_groups_whose_layout_an_epilogue_cannot_write():
    program = check(Branches(binary(3, 1, groups=2), binary(3, 1, groups=1)), IMAGE)
    assert codes(program).count("PACK") == 1


@pytest.mark.parametrize("how", ["plus", "reverse", "in place", "projection first"])
def test_residuals_are_joined(how):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.a, self.b = nn.Conv2d(3, 32, 1), binary(3, 1), nn.Conv2d(32, 8, 1)
            self.norm, self.other, self.act = randomised(nn.BatchNorm2d(8)), randomised(nn.BatchNorm2d(8)), nn.PReLU(8)

        def forward(self, x):
            x = self.stem(x)
            if how == "projection first":
                y, skip = self.other(self.b(x)), self.norm(self.a(x))
            else:
                y = self.norm(self.a(x))
                skip = self.other(self.b(x))
            if how == "in place":
                y += skip
            else:
                y = skip + y if how == "reverse" else y + skip
            return self.act(y)

    program = check(Block(), IMAGE)
    assert sorted(codes(program)) == ["BCONV", "COPY", "COPY", "FCONV", "FCONV"]


def test_what_cannot_be_joined_stays_right():
    """Affine behind an activation, an addition to itself, an activation behind another, a residual of other layout."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), randomised(nn.BatchNorm2d(8))
            self.rows = nn.Linear(6, 6)

        def forward(self, x):
            y = self.norm(torch.relu(self.conv(x)))
            y = nn.functional.leaky_relu(y + y, 0.2).clamp(-1, 2)
            z = self.rows(self.conv(x)) + y
            return nn.functional.hardtanh(z * 2 + 1) - self.conv(x).transpose(2, 3)

    check(Odd(), IMAGE)


def test_the_first_copy_pads_and_turns_at_once():
    program = check(nn.Conv2d(3, 4, 3, padding=1), IMAGE)
    assert codes(program) == ["COPY", "FCONV", "COPY"]
    assert codes(check(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(144, 2)), IMAGE)) == [
        "COPY",
        "FCONV",
        "FCONV",
    ]


def test_folding_rounds_once():
    model = nn.Sequential(nn.Linear(3, 5), *(randomised(nn.BatchNorm1d(5), seed) for seed in range(4)))
    program = check(model, torch.randn(1, 3))
    assert codes(program) == ["FCONV"]
    factor = np.ones(5)
    for norm in model[1:]:
        factor = factor * norm.weight.detach().double().numpy() / np.sqrt(norm.running_var.double().numpy() + norm.eps)
    stored = program.constants[program.operations[0].constants[1]].array()
    np.testing.assert_array_equal(stored, factor.astype(np.float32))


def test_the_same_constant_is_stored_once():
    layer = nn.Linear(4, 4)
    program = pack(nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), layer), torch.randn(1, 4))
    assert len(program.constants) == 2


def test_tokens_of_a_map():
    """A vision transformer's patches: the map's bits are the tokens' bits, without a copy."""

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.mix = nn.Conv2d(3, 32, 2, stride=2), BinaryLinear(32, 5, algorithm="bnn")

        def forward(self, x):
            return self.mix(self.stem(x).flatten(2).transpose(1, 2))

    assert codes(check(Patches(), IMAGE)) == ["COPY", "FCONV", "BCONV"]


@pytest.mark.parametrize("name", PARTS)
def test_what_reads_only_a_part_is_not_joined(name):
    check(*of_part(name))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.data())
def test_parts_of_any_layer(data):
    check(*drawn_part(data))


# ------------------------------------------------------------------------------------------------------------- arena


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(1, 300), st.lists(st.integers(0, 30), max_size=3)), min_size=1, max_size=25))
def test_no_two_live_values_overlap(program):
    buffers, steps = [], []
    for size, reads in program:
        out = Buffer(Type.INT64 if size % 3 == 0 else Type.FLOAT32, size)
        values = [buffers[i % len(buffers)] for i in reads] if buffers else []
        steps.append(Step.make(Code.UNARY, [values[0] if values else None, out, *values[1:]], []))
        buffers.append(out)
    offsets, arena = arrange(steps)
    spans = {}
    for number, step in enumerate(steps):
        for buffer in [*step.inputs, *step.outputs]:
            first, _ = spans.get(buffer, (number, number))
            spans[buffer] = (first, number)
    assert spans.keys() == offsets.keys()
    wide = {buffer: buffer.count * (8 if buffer.type is Type.INT64 else 4) for buffer in spans}
    for buffer, (first, last) in spans.items():
        assert offsets[buffer] % 64 == 0
        assert offsets[buffer] + wide[buffer] <= arena
        for other, (start, end) in spans.items():
            if other is not buffer and first <= end and start <= last:
                apart = (
                    offsets[buffer] + wide[buffer] <= offsets[other] or offsets[other] + wide[other] <= offsets[buffer]
                )
                assert apart


def test_a_residual_gives_its_place_to_the_sum():
    def convolution(residual, out):
        return Step.make(Code.FCONV, [Buffer(Type.FLOAT32, 16), residual, None, out], [])

    chain = [Buffer(Type.FLOAT32, 1000) for _ in range(5)]
    steps = [convolution(a, b) for a, b in pairwise(chain)]
    offsets, _ = arrange(steps)
    assert len({offsets[buffer] for buffer in chain}) == 1
    # not where the residual is read once more, later or by the same step, or has another size
    offsets, _ = arrange([*steps, Step.make(Code.UNARY, [chain[1], Buffer(Type.FLOAT32, 1000)], [])])
    assert offsets[chain[1]] != offsets[chain[2]]
    twice = Step.make(Code.FCONV, [chain[0], chain[0], None, chain[1]], [])
    offsets, _ = arrange([twice])
    assert offsets[chain[0]] != offsets[chain[1]]
    smaller = Buffer(Type.FLOAT32, 10)
    offsets, _ = arrange([convolution(chain[0], smaller)])
    assert offsets[chain[0]] != offsets[smaller]


def test_the_arena_is_used_again():
    chain = [Buffer(Type.FLOAT32, 1000) for _ in range(10)]
    steps = [Step.make(Code.UNARY, [a, b], []) for a, b in pairwise(chain)]
    _, arena = arrange(steps)
    assert arena == 2 * 4032
    outside = Buffer(Type.FLOAT32, 10, Place.OUTPUT)
    assert outside not in arrange([Step.make(Code.UNARY, [chain[0], outside], [])])[0]


# ------------------------------------------------------------------------------------------------------------- views


def elements(view, memory):
    """The view's elements, read through all of its atoms."""
    atoms = [atom for dim in view.dims for atom in dim]
    array = np.lib.stride_tricks.as_strided(
        memory[view.offset :], [n for n, _ in atoms], [s * memory.itemsize for _, s in atoms], writeable=False
    )
    return array.reshape(view.shape)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_views_are_what_numpy_makes(data):
    shape = tuple(data.draw(st.lists(st.sampled_from([1, 2, 3, 4, 6]), min_size=1, max_size=4)))
    order = data.draw(st.permutations(range(len(shape))))
    memory = np.arange(int(np.prod(shape)))
    view = contiguous(Buffer(Type.FLOAT32, memory.size), shape, order)
    array = memory.reshape([shape[d] for d in order]).transpose(np.argsort(order))
    for _ in range(data.draw(st.integers(0, 5))):
        kind = data.draw(st.sampled_from(["permute", "reshape", "select", "slice", "expand", "insert"]))
        dims = len(view.dims)
        dim = data.draw(st.integers(0, max(dims - 1, 0)))
        new: View | None = view
        if kind == "permute":
            turned = data.draw(st.permutations(range(dims)))
            new, array = view.permute(turned), array.transpose(turned)
        elif kind == "reshape":
            wanted = data.draw(
                st.sampled_from([(view.numel,), (1, view.numel), (view.numel // 2, 2), (2, -1), (3, -1), (-1, 4)])
            )
            try:
                wanted_array = array.reshape(wanted)
            except ValueError:
                continue
            new = view.reshape(wanted_array.shape)
            array = wanted_array if new is not None else array
        elif kind == "select" and dims > 1:
            index = data.draw(st.integers(0, view.shape[dim] - 1))
            new, array = view.select(dim, index), array.take(index, dim)
        elif kind == "slice" and dims:
            start = data.draw(st.integers(0, view.shape[dim] - 1))
            step = data.draw(st.integers(1, 2))
            part = array[(slice(None),) * dim + (slice(start, None, step),)]
            new = view.slice(dim, start, part.shape[dim], step)
            array = part if new is not None else array
        elif kind == "insert":
            new, array = view.insert(dim), np.expand_dims(array, dim)
        elif kind == "expand":
            target = tuple(3 if size == 1 else size for size in view.shape)
            new, array = view.expand((2, *target)), np.broadcast_to(array, (2, *target))
        view = view if new is None else new
        assert view.shape == array.shape
        np.testing.assert_array_equal(elements(view, memory), array)
        dense = sorted(elements(view, memory).reshape(-1)) == list(range(view.numel))
        assert view.is_dense() == dense
        assert view.is_stored() == (elements(view, memory).reshape(-1).tolist() == list(range(view.numel)))
