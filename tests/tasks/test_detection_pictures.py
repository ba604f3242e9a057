"""Boxes drawn on images, and the pictures of a detection run."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from bibench.tasks.base import Data
from bibench.tasks.detection import DetectionBatch
from bibench.tasks.detection_pictures import draw, label_name, pictures

BLACK = (0, 0, 0)


def _drawn(size, *boxes, text=""):
    """Where the pixels of a black image change, bool ``(height, width)``."""
    drawn = draw(Image.new("RGB", size), np.array(boxes, float), np.ones(len(boxes), int), [text] * len(boxes))
    return np.asarray(drawn).any(axis=2)


def test_a_box_is_drawn_on_its_outermost_pixels():
    changed = _drawn((200, 160), (30, 40, 150, 120))
    rows, columns = np.flatnonzero(changed[:, 60]), np.flatnonzero(changed[80])
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (40, 119, 30, 149)
    assert not changed[42:118, 32:148].any()
    assert not changed[122:].any()


def test_a_box_that_leaves_the_image_is_drawn_at_its_edge():
    changed = _drawn((200, 160), (-500, 40, 1e12, 120))
    assert changed[40:120, [0, 199]].all()
    assert _drawn((200, 160), (300, 300, 400, 400))[159, 199]


def test_the_text_is_above_the_box_or_inside_where_there_is_no_room():
    above, inside = (
        _drawn((200, 160), (30, 40, 150, 120), text="dog"),
        _drawn((200, 160), (30, 2, 150, 120), text="dog"),
    )
    assert above[30:38, 34:40].any()
    assert inside[6:10, 34:40].all()
    assert not inside[0].any()


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.lists(st.lists(st.floats(-50, 350), min_size=4, max_size=4), max_size=3),
    st.sampled_from(["L", "RGB", "RGBA", "P", "1", "I;16"]),
    st.text(max_size=8),
)
def test_any_box_can_be_drawn_on_any_image(size, corners, mode, text):
    boxes = np.array([[*np.minimum(row[:2], row[2:]), *np.maximum(row[:2], row[2:])] for row in corners])
    image = Image.new(mode, size)
    before = image.tobytes()
    drawn = draw(image, boxes.reshape(-1, 4), np.arange(1, len(boxes) + 1), [text] * len(boxes))
    assert (drawn.mode, drawn.size) == ("RGB", size)
    assert image.tobytes() == before


def test_classes_have_different_colours_that_stay():
    colours = []
    for label in range(1, 21):
        drawn = draw(Image.new("RGB", (60, 60)), np.array([[5.0, 30, 50, 55]]), np.array([label]), [""])
        colours.append(drawn.getpixel((20, 54)))
    assert len(set(colours)) == 20
    assert BLACK not in colours


@pytest.mark.parametrize("label", range(1, 81))
def test_letters_stand_out_from_their_background(label):
    drawn = draw(Image.new("RGB", (300, 300)), np.array([[20.0, 100, 280, 280]]), np.array([label]), ["MMMM"])
    letters = np.asarray(drawn.convert("L")).astype(int)[88:100, 22:50]
    assert letters.max() - letters.min() > 90


def test_names_of_classes():
    assert [label_name(("cat", "dog"), label) for label in (1, 2, 3)] == ["cat", "dog", "class 3"]


class _Split:
    """Images as a detection task gives them, one a batch."""

    def __init__(self, *batches):
        self.batches_ = batches

    def __len__(self):
        return len(self.batches_)

    def batches(self, batch_size, *, device, seed=None):
        assert (batch_size, seed) == (1, None)
        yield from self.batches_


def _batch(index, boxes, labels, ignored=()):
    """A file of 400x200 pixels, given at half of that with zeros around it; objects are followed by an empty place."""
    images = torch.zeros(1, 3, 110, 220)
    images[:, :, :100, :200] = 0.5
    count = len(labels)
    return DetectionBatch(
        images=images,
        sizes=torch.tensor([[100, 200]]),
        originals=torch.tensor([[200, 400]]),
        boxes=torch.tensor([[*boxes, (0.0, 0, 0, 0)]]),
        labels=torch.tensor([[*labels, 0]]),
        ignored=torch.tensor([[*(ignored or [False] * count), False]]),
        areas=torch.zeros(1, count + 1),
        numbers=torch.tensor([index]),
    )


class _Detector(nn.Module):
    """Finds the same everywhere, and keeps what it was given."""

    def __init__(self, *rows):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.rows, self.seen = rows, []

    def forward(self, images):
        self.seen += images
        boxes = torch.tensor([box for _, box, _ in self.rows]).reshape(-1, 4)
        labels = torch.tensor([label for label, _, _ in self.rows], dtype=torch.int64)
        scores = torch.tensor([score for _, _, score in self.rows])
        return [{"boxes": boxes, "labels": labels, "scores": scores} for _ in images]


def _data(*batches, labels=("cat", "dog")):
    return Data(train=SimpleNamespace(), test=_Split(*batches), outputs=2, fingerprint="", labels=labels)


def _columns(image, row):
    """The first and last column of a row that isn't grey."""
    pixels = np.asarray(image)[row].astype(int)
    coloured = np.flatnonzero(np.ptp(pixels, axis=1) > 60)
    return coloured.min(), coloured.max()


def test_the_first_two_images_with_objects_are_shown_with_boxes_in_their_places():
    box = (100.0, 100, 300, 180)  # of the file
    model = _Detector((2, (50.0, 50, 150, 90), 0.9), (2, (0.0, 0, 10, 10), 0.49), (1, (60.0, 60, 150, 90), 0.5))
    batches = _batch(0, [], []), _batch(1, [box], [1]), _batch(2, [box, box, box], [2, 1, 2], [False, True, False])
    first, second = pictures(model, _data(*batches, _batch(3, [box], [1])))
    assert [tuple(image.shape) for image in model.seen] == [(3, 100, 200)] * 2
    assert (first.title, first.truth.text, first.found.text) == ("test image 2", "1 cat", "1 dog, 1 cat")
    assert (second.title, second.truth.text) == ("test image 3", "2 dog, 1 (cat)")
    for picture in (first.truth, first.found, second.truth):
        assert picture.image.size == (320, 160)
        assert _columns(picture.image, 110) == (80, 239)  # 100 to 300 of 400 pixels, or 50 to 150 of 200


def test_finding_nothing_is_said():
    (pair,) = pictures(_Detector((1, (0.0, 0, 9, 9), 0.4)), _data(_batch(7, [(0.0, 0, 9, 9)], [3])))
    assert (pair.truth.text, pair.found.text) == ("1 class 3", "nothing found with a score of at least 0.5")
    assert np.ptp(np.asarray(pair.found.image).astype(int)) == 0


def test_images_without_any_object_give_no_pictures():
    assert pictures(_Detector(), _data(_batch(0, [], []))) == []
