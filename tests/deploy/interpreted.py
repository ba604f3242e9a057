"""Running a packed program without the engine, and networks whose normalisation isn't the identity."""

import numpy as np
import torch
from torch import nn

from bibench.deploy.export import pack
from bibench.native import Engine
from needed_tools import ENGINE
from packed_reference import parse, run, trace


class Interpreter:
    """The independent interpreter in the place of `Engine`."""

    def __init__(self, content):
        self.content = content
        self.now = {}

    def observe(self, inputs, after):
        self.now = {}
        for number, written in enumerate(trace(self.content, inputs)):
            self.now.update(written)
            after(number)
        return run(self.content, inputs)

    def value(self, index, count, type):
        assert self.now[index].size == count
        return self.now[index]


def randomised(model, seed=0):
    """The model in evaluation mode with normalisation that does something: negative factors and zeros among them."""
    generator = torch.Generator().manual_seed(seed)

    def draw(like, low, high):
        like.copy_(torch.rand(like.shape, generator=generator) * (high - low) + low)

    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
                draw(module.running_mean, -1, 1)
                draw(module.running_var, 0.3, 2)
                if module.affine:
                    draw(module.weight, -1, 2)
                    draw(module.bias, -0.5, 0.5)
                    module.weight[::5] = 0
            elif isinstance(module, (nn.LayerNorm, nn.GroupNorm)):
                draw(module.weight, -1, 2)
                draw(module.bias, -0.5, 0.5)
    return model.eval()


def sample_of(x):
    given = x.values() if isinstance(x, dict) else x if isinstance(x, (tuple, list)) else [x]
    return [tensor[:1].numpy() for tensor in given]


def codes(program):
    return [operation.code.name for operation in program.operations]


def check(model, x, *, rtol=1e-5, atol=1e-5, engine=True):
    """Pack a model and compare what the interpreter, and the engine if it is there, make of the first sample."""
    model.eval()
    program = pack(model, x)
    content = program.to_bytes()
    with torch.no_grad():
        given = [torch.from_numpy(a).clone() for a in sample_of(x)]
        out = model(**dict(zip(x, given, strict=True))) if isinstance(x, dict) else model(*given)
    expected = [out] if isinstance(out, torch.Tensor) else list(out.values() if isinstance(out, dict) else out)
    answers = [run(content, sample_of(x))]
    if ENGINE and engine:
        answers.append(Engine(content).run([np.ascontiguousarray(a) for a in sample_of(x)], 1))
    for answer in answers:
        assert len(answer) == len(expected)
        for got, want in zip(answer, expected, strict=True):
            np.testing.assert_allclose(got, want.reshape(-1).numpy(), rtol=rtol, atol=atol)
    _check_arena(parse(content))
    return program


def _check_arena(program):
    """No operation's output overlaps one of its inputs, unless a convolution's takes its residual's place."""
    sizes = {0: 4, 1: 4, 2: 8, 3: 1}
    for operation in program.operations:
        outs = {"BCONV": (3, 4), "FCONV": (3, 4), "BINARY": (2,), "MATMUL": (2,), "BMATMUL": (2,)}.get(
            operation.name, (1,)
        )
        spans = [
            (slot, slot in outs, v.offset, v.offset + v.count * sizes[v.type])
            for slot, index in enumerate(operation.values)
            if index >= 0 and (v := program.values[index]).place == 0
        ]
        for i, (slot, written, start, end) in enumerate(spans):
            for other_slot, other, other_start, other_end in spans[i + 1 :]:
                in_place = len(outs) == 2 and (slot, other_slot) == (1, 3) and (start, end) == (other_start, other_end)
                assert not (written or other) or end <= other_start or other_end <= start or in_place
