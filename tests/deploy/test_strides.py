import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from bibench.deploy.strides import Entry, cumulative, nested, spans, split

PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)


def places(entries, which, offset):
    """Every index that a loop visits, one by one."""
    found = [offset]
    for entry in entries:
        found = [at + step * entry.strides[which] for at in found for step in range(entry.size)]
    return found


@st.composite
def loops(draw):
    """A shape, and a loop over parts of its dimensions in any order, some of them repeated or joined."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    strides = cumulative(shape)
    entries, offset = [], 0
    for d in draw(st.permutations(range(len(shape)))):
        start = draw(st.integers(0, shape[d] - 1))
        size = draw(st.integers(1, shape[d] - start))
        offset += start * strides[d]
        entries.append(Entry(size, (strides[d], draw(st.integers(0, 50)))))
    if draw(st.booleans()):
        entries.insert(draw(st.integers(0, len(entries))), Entry(draw(st.integers(2, 3)), (0, 7)))
    return shape, entries, offset


@PROPERTY
@given(loops())
def test_spans_are_what_the_loop_visits(given_):
    shape, entries, offset = given_
    found = spans(entries, 0, offset, shape)
    assert found is not None
    touched = {
        sum(i * s for i, s in zip(index, cumulative(shape), strict=True))
        for index in np.ndindex(*(span.size for span in found))
    }
    start = sum(span.start * s for span, s in zip(found, cumulative(shape), strict=True))
    assert {start + at for at in touched} == set(places(entries, 0, offset))
    for span in found:
        assert span.entry is None or entries[span.entry].size == span.size


@PROPERTY
@given(st.lists(st.integers(2, 4), min_size=1, max_size=4), st.integers(0, 3), st.data())
def test_a_loop_taken_apart_visits_the_same(shape, stride, data):
    """A loop over some of the inner dimensions as one, and one over what is left outside of them."""
    inner = math.prod(shape[data.draw(st.integers(0, len(shape))) :])
    entries = [Entry(math.prod(shape) // inner, (inner, stride)), Entry(inner, (1, 50))]
    found = split(entries, 0, shape)
    assert [entry.size for entry in found if entry.size > 1] == shape
    for which in (0, 1):
        assert places(found, which, 5) == places(entries, which, 5)
    assert split(found, 0, shape) == found


@PROPERTY
@given(loops())
def test_a_shape_with_the_strides_of_a_loop(given_):
    shape, entries, _ = given_
    found = nested(entries, 0, math.prod(shape))
    assert math.prod(found) == math.prod(shape)
    assert {entry.strides[0] for entry in entries if entry.size > 1 and entry.strides[0]} <= set(cumulative(found))


def test_what_is_not_ranges_of_dimensions():
    assert nested([Entry(2, (4,)), Entry(2, (3,))], 0, 12) is None
    assert nested([Entry(2, (5,))], 0, 12) is None
    assert spans([Entry(2, (1,)), Entry(2, (1,))], 0, 0, (3, 4)) is None  # windows that overlap
    assert spans([Entry(4, (1,))], 0, 2, (3, 4)) is None  # over the end of a row
    assert spans([Entry(2, (2,))], 0, 0, (3, 4)) is None
    assert spans([], 0, 12, (3, 4)) is None


def test_padded_entries_stay_whole():
    padded = Entry(12, (1,), 1, 0)
    assert padded.padded == 13
    assert split([padded], 0, (3, 4)) == [padded]
