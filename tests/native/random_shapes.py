"""Convolutions of any kind, shape, stride, dilation, padding and epilogue, for hypothesis."""

from hypothesis import assume
from hypothesis import strategies as st
from native_programs import Convolution


def pair(low, high):
    return st.tuples(st.integers(low, high), st.integers(low, high))


@st.composite
def convolutions(draw):
    """A convolution that has an output."""
    kind = draw(st.sampled_from(["BCONV", "BCONV", "BCONV", "FCONV", "ICONV"]))
    size = st.one_of(st.integers(1, 40), st.sampled_from([32, 64, 96, 128, 33, 65]))
    groups, depthwise = 1, False
    channels, outputs = draw(size), draw(st.one_of(st.integers(1, 70), st.sampled_from([32, 64, 96])))
    if kind != "ICONV":
        shape = draw(st.sampled_from(["plain", "plain", "groups", "groups of words", "depthwise"]))
        depthwise = shape == "depthwise"
        if depthwise:
            groups = outputs = channels = draw(st.integers(2, 100))
        elif shape != "plain":
            groups = draw(st.integers(2, 4))
            each = 32 * draw(st.integers(1, 2)) if shape == "groups of words" else draw(st.integers(2, 40))
            channels = groups * each
            outputs = groups * draw(st.one_of(st.integers(1, 40), st.sampled_from([32, 64])))
    may_be_bits = groups == 1 or depthwise or (outputs // groups) % 32 == 0
    bits_out = draw(st.one_of(st.none(), st.tuples(*[st.integers(0, 2)] * 4))) if may_be_bits else None
    c = Convolution(
        kind=kind,
        height=draw(st.integers(1, 9)),
        width=draw(st.integers(1, 20)),
        channels=channels,
        groups=groups,
        outputs=outputs,
        kernel=draw(st.one_of(st.just((1, 1)), st.just((3, 3)), pair(1, 5))),
        stride=draw(st.one_of(st.just((1, 1)), pair(1, 3))),
        dilation=draw(st.one_of(st.just((1, 1)), pair(1, 3))),
        padding=draw(pair(0, 4)),
        spare=draw(st.one_of(st.just((0, 0, 0, 0)), st.tuples(*[st.integers(0, 2)] * 4))),
        pad_value=draw(st.integers(-1, 1)),
        operand=draw(st.integers(0, 1)),
        scale=draw(st.booleans()),
        bias=draw(st.booleans()),
        residual=draw(st.booleans()),
        act=draw(st.integers(0, 2)),
        maps=draw(st.sampled_from(["none", "one", "shared", "group"])),
        constant_map=draw(st.booleans()),
        threshold=draw(st.booleans()),
        float_out=bits_out is None or draw(st.booleans()),
        bits_out=bits_out,
        seed=draw(st.integers(0, 1000)),
    )
    assume(min(c.size) >= 1)
    return c
