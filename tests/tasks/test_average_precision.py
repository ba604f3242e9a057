"""Average precision against cases by hand, the challenge's rules written as loops, and other libraries."""

import json

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score

from bibench.tasks.average_precision import Detections, Truth, average_precisions, coco_figures, per_image

A, B, C = (0, 0, 10, 10), (20, 0, 30, 10), (0, 20, 10, 30)
"""Boxes that don't meet."""


def _truth(*objects):
    """From rows of (label, box) or (label, box, ignored)."""
    rows = [(*row, False)[:3] for row in objects]
    boxes = np.array([box for _, box, _ in rows], float).reshape(-1, 4)
    return Truth(
        boxes=boxes,
        labels=np.array([label for label, _, _ in rows], np.int64),
        ignored=np.array([ignored for _, _, ignored in rows], bool),
        areas=(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]),
    )


def _found(*rows):
    """From rows of (label, box, score)."""
    return Detections(
        boxes=np.array([box for _, box, _ in rows], float).reshape(-1, 4),
        labels=np.array([label for label, _, _ in rows], np.int64),
        scores=np.array([score for _, _, score in rows], float),
    )


def _ap(truths, found, classes=1, **options):
    return average_precisions(truths, found, classes, **options).tolist()


# ---- VOC by hand


def test_duplicates_are_wrong_and_the_surest_on_an_object_is_right():
    truth, found = _truth((1, A), (1, B)), _found((1, A, 0.7), (1, A, 0.9), (1, B, 0.6))
    # right, wrong, right: precision 1, 1/2, 2/3 at recall 1/2, 1/2, 1
    assert _ap([truth], [found]) == pytest.approx([(6 * 1 + 5 * 2 / 3) / 11])
    assert _ap([truth], [found], points=None) == pytest.approx([(1 + 2 / 3) / 2])


def test_difficult_objects_are_neither_right_nor_wrong_to_find():
    truth = _truth((1, A), (1, B, True))
    for found in (_found((1, A, 0.5)), _found((1, B, 0.9), (1, B, 0.8), (1, A, 0.5))):
        assert _ap([truth], [found]) == [1.0]
    assert _ap([truth], [_found((1, C, 0.9), (1, A, 0.5))]) == pytest.approx([0.5])


def test_a_detection_belongs_to_the_object_that_it_overlaps_most_even_if_that_is_taken():
    near = (0, 2, 10, 12)
    truth = _truth((1, A), (1, near))
    found = _found((1, A, 0.9), (1, (0, 0.4, 10, 10.4), 0.8))  # 0.92 on A, 0.72 on the other
    assert _ap([truth], [found], points=None) == [0.5]
    # equally on both: the first one
    assert _ap([_truth((1, A), (1, A))], [_found((1, A, 0.9), (1, A, 0.8))], points=None) == [0.5]
    assert _ap([_truth((1, A), (1, A, True))], [_found((1, A, 0.9))]) == [1.0]
    assert _ap([_truth((1, A, True), (1, A))], [_found((1, A, 0.9))]) == [0.0]


def test_the_threshold_itself_is_enough():
    half = (0, 0, 10, 5)
    assert _ap([_truth((1, A))], [_found((1, half, 0.5))]) == [1.0]
    assert _ap([_truth((1, A))], [_found((1, (0, 0, 10, 4.99), 0.5))]) == [0.0]
    assert _ap([_truth((1, A))], [_found((1, half, 0.5))], threshold=0.51) == [0.0]


def test_equal_scores_stay_in_the_order_of_images_and_rows():
    right, wrong = _found((1, A, 0.5)), _found((1, C, 0.5))
    truths = [_truth((1, A)), _truth((1, A))]
    assert _ap(truths, [right, wrong], points=None) == [0.5]
    assert _ap(truths, [wrong, right], points=None) == [0.25]
    assert _ap(truths[:1], [_found((1, A, 0.5), (1, C, 0.5))], points=None) == [1.0]
    assert _ap(truths[:1], [_found((1, C, 0.5), (1, A, 0.5))], points=None) == [0.5]


def test_classes_and_images_are_apart():
    truths = [_truth((1, A), (2, B)), _truth((2, A))]
    found = [_found((2, A, 0.9), (1, B, 0.8)), _found((2, A, 0.7), (1, A, 0.6))]
    # class 1: two wrong ones. class 2: a wrong one, a right one, of 2 objects: precision 1/2 up to recall 1/2
    assert _ap(truths, found, 2) == pytest.approx([0, 6 * 0.5 / 11])


def test_a_class_without_objects_has_no_average_precision_and_one_without_detections_has_0():
    truths, found = [_truth((2, A, True), (3, A))], [_found((1, A, 0.9), (2, A, 0.9))]
    assert average_precisions(truths, found, 3) == pytest.approx([np.nan, np.nan, 0.0], nan_ok=True)
    assert np.isnan(average_precisions([], [], 2)).all()
    assert np.isnan(average_precisions([_truth()], [_found()], 2)).all()


def test_a_recall_of_three_tenths_reaches_the_fourth_point():
    """3 / 10 is less than 3 * 0.1 in floating point, and is a recall of 0.3 all the same."""
    rows = [(1, (20 * place, 0, 20 * place + 10, 10)) for place in range(10)]
    for count in range(11):
        found = _found(*((label, box, 0.5) for label, box in rows[:count]))
        assert _ap([_truth(*rows)], [found]) == pytest.approx([(count + 1) / 11 if count else 0])


# ---- VOC against loops


def _overlap(one, other):
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((one[2] - one[0]) * (one[3] - one[1]) + (other[2] - other[0]) * (other[3] - other[1]) - shared)


def _challenge(truths, found, label, points, threshold=0.5):
    """The rules of the challenge, one detection at a time, the curve as lists, in fractions of whole numbers."""
    rows = [
        (score, image, tuple(box))
        for image, one in enumerate(found)
        for box, own, score in zip(one.boxes, one.labels, one.scores, strict=True)
        if own == label
    ]
    rows.sort(key=lambda row: -row[0])  # Python's sort keeps the order of equals
    positives = sum(
        int(not hard) for t in truths for own, hard in zip(t.labels, t.ignored, strict=True) if own == label
    )
    if not positives:
        return float("nan")
    taken, hits, misses, curve = set(), 0, 0, []
    for _, image, box in rows:
        best, match = -1.0, None
        for place, own in enumerate(truths[image].labels):
            if own == label and _overlap(box, truths[image].boxes[place]) > best:
                best, match = _overlap(box, truths[image].boxes[place]), place
        if best >= threshold and truths[image].ignored[match]:
            continue
        if best >= threshold and (image, match) not in taken:
            taken.add((image, match))
            hits += 1
        else:
            misses += 1
        curve.append((hits, hits / (hits + misses)))
    if points is None:
        area, recall = 0.0, 0
        for place, (reached, _) in enumerate(curve):
            if reached > recall:
                area += max(precision for _, precision in curve[place:]) / positives
                recall = reached
        return area
    steps = range(points)
    return sum(
        max((precision for reached, precision in curve if reached * (points - 1) >= step * positives), default=0.0)
        for step in steps
    ) / len(steps)


_SIDES = st.integers(0, 6)


@st.composite
def _box(draw):
    left, top = draw(_SIDES), draw(_SIDES)
    return left, top, left + 1 + draw(_SIDES), top + 1 + draw(_SIDES)


@st.composite
def _images(draw, classes=3):
    """Few places, classes and scores, so that duplicates, ties and empty images are common."""
    label = st.integers(1, classes)
    score = st.sampled_from([0.1, 0.4, 0.5, 0.9])
    truths = draw(st.lists(st.lists(st.tuples(label, _box(), st.booleans()), max_size=4), min_size=1, max_size=4))
    found = [draw(st.lists(st.tuples(label, _box(), score), max_size=6)) for _ in truths]
    return [_truth(*rows) for rows in truths], [_found(*rows) for rows in found]


@settings(deadline=None, max_examples=300)
@given(_images(), st.sampled_from([None, 2, 11, 101]), st.sampled_from([0.3, 0.5, 0.75]))
def test_equals_the_challenges_rules_one_by_one(images, points, threshold):
    truths, found = images
    expected = [_challenge(truths, found, label, points, threshold) for label in (1, 2, 3)]
    result = average_precisions(truths, found, 3, threshold=threshold, points=points)
    assert result == pytest.approx(expected, abs=1e-12, nan_ok=True)


@settings(deadline=None)
@given(_images())
def test_an_image_scores_as_a_data_set_of_one(images):
    truths, found = images
    for truth, own, score in zip(truths, found, per_image(truths, found, 3), strict=True):
        if truth.ignored.all():
            counted = [
                1
                for box, label, sure in zip(own.boxes, own.labels, own.scores, strict=True)
                if sure >= 0.5
                and max(
                    (_overlap(box, truth.boxes[k]) for k in range(len(truth.boxes)) if truth.labels[k] == label),
                    default=0,
                )
                < 0.5
            ]
            assert score == (not counted)
        else:
            values = [_challenge([truth], [own], label, None) for label in (1, 2, 3)]
            assert score == pytest.approx(np.nanmean(values))


@pytest.mark.parametrize(
    ("truth", "found", "expected"),
    [
        (_truth(), _found(), 1.0),
        (_truth(), _found((1, A, 0.49)), 1.0),
        (_truth(), _found((1, A, 0.5)), 0.0),
        (_truth((1, A, True)), _found((1, A, 0.9)), 1.0),
        (_truth((1, A, True)), _found((2, A, 0.9)), 0.0),
        (_truth((1, A)), _found((1, A, 0.1), (2, B, 0.9)), 1.0),  # a class that the image lacks doesn't matter
        (_truth((1, A), (2, B)), _found((1, A, 0.1)), 0.5),
    ],
)
def test_scores_of_images(truth, found, expected):
    scores = per_image([truth], [found], 2)
    assert scores.dtype == np.float32
    assert scores.tolist() == [expected]


def test_the_area_is_that_of_ranked_retrieval_where_precision_never_rises():
    """scikit-learn's average precision has no envelope; where every object is found, right ones first, they agree."""
    rows = [(1, (20 * place, 0, 20 * place + 10, 10), 1 - place / 10) for place in range(5)]
    wrong = [(1, (20 * place, 50, 20 * place + 10, 60), 0.4 - place / 10) for place in range(3)]
    truth, found = _truth(*(row[:2] for row in rows)), _found(*rows, *wrong)
    expected = average_precision_score([1] * 5 + [0] * 3, found.scores)
    assert _ap([truth], [found], points=None) == pytest.approx([expected])


# ---- COCO

_FIGURES = ("map", "map_50", "map_75", "map_small", "map_medium", "map_large")


def _official(truths, found, classes):
    """COCO's own library; absent figures are -1."""
    objects = [
        {"bbox": [*box[:2], *(box[2:] - box[:2])], "category_id": int(label), "iscrowd": int(crowd), "image_id": image}
        | {"area": float(area)}
        for image, one in enumerate(truths)
        for box, label, crowd, area in zip(one.boxes, one.labels, one.ignored, one.areas, strict=True)
    ]
    rows = [
        {"bbox": [*box[:2], *(box[2:] - box[:2])], "category_id": int(label), "score": float(score), "image_id": image}
        for image, one in enumerate(found)
        for box, label, score in zip(one.boxes, one.labels, one.scores, strict=True)
    ]
    known = COCO()
    known.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(truths))],
        "categories": [{"id": label} for label in range(1, classes + 1)],
        "annotations": [row | {"id": number} for number, row in enumerate(objects, start=1)],
    }
    known.createIndex()
    evaluation = COCOeval(known, known.loadRes(rows), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return dict(zip(_FIGURES, evaluation.stats[:6].tolist(), strict=True))


def _same(own, other):
    expected = {name: value for name, value in other.items() if value >= 0}
    assert own.keys() == expected.keys()
    assert own == pytest.approx(expected, abs=1e-6)


def _perturbed(truth, generator, classes):
    """Detections around an image's objects: some moved, some doubled, some of other classes, some of nothing."""
    count = len(truth.labels)
    chosen = generator.integers(0, max(1, count), 2 * count)
    boxes, labels = truth.boxes[chosen], truth.labels[chosen]
    sides = np.concatenate([boxes[:, 2:] - boxes[:, :2]] * 2, axis=1)
    boxes = boxes + generator.normal(0, 0.08, boxes.shape) * sides
    other = generator.random(2 * count) < 0.15
    return Detections(
        boxes=np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1),
        labels=np.where(other, generator.integers(1, classes + 1, 2 * count), labels),
        scores=generator.random(2 * count).round(2),
    )


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 4))
def test_coco_figures_equal_the_challenges_own(seed, images, classes):
    generator = np.random.default_rng(seed)
    truths = []
    for _ in range(images):
        count = int(generator.integers(0, 8))
        corner = generator.uniform(0, 200, (count, 2))
        boxes = np.concatenate([corner, corner + np.exp(generator.uniform(2, 5.3, (count, 2)))], axis=1)
        truths.append(
            Truth(
                boxes=boxes,
                labels=generator.integers(1, classes + 1, count),
                ignored=generator.random(count) < 0.2,
                areas=np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) * generator.uniform(0.4, 1.0, count),
            )
        )
    found = [_perturbed(truth, generator, classes) for truth in truths]
    assume(any(len(one.labels) for one in found))  # pycocotools can't take none
    own = coco_figures(truths, found, classes)
    _same(own, _official(truths, found, classes))


def test_coco_figures_equal_the_challenges_own_on_real_annotations(real_data):
    path = real_data / "coco128" / "annotations" / "instances_train2017.json"
    content = json.loads(path.read_text())
    labels = {category["id"]: place for place, category in enumerate(content["categories"], start=1)}
    truths = []
    for image in content["images"]:
        own = [one for one in content["annotations"] if one["image_id"] == image["id"]]
        corners = np.array([one["bbox"] for one in own], float).reshape(-1, 4)
        truths.append(
            Truth(
                boxes=np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], axis=1),
                labels=np.array([labels[one["category_id"]] for one in own], np.int64),
                ignored=np.array([one["iscrowd"] for one in own], bool),
                areas=np.array([one["area"] for one in own], float),
            )
        )
    assert any(truth.ignored.any() for truth in truths)
    generator = np.random.default_rng(0)
    found = [_perturbed(truth, generator, len(labels)) for truth in truths]
    own = coco_figures(truths, found, len(labels))
    assert set(own) == set(_FIGURES)
    _same(own, _official(truths, found, len(labels)))


def test_any_number_of_detections_may_lie_in_a_crowd():
    truth = _truth((1, (0, 0, 100, 100), True), (1, (200, 0, 240, 40)))
    inside = [(1, (10 * place, 0, 10 * place + 10, 10), 0.9) for place in range(5)]
    assert coco_figures([truth], [_found(*inside, (1, (200, 0, 240, 40), 0.5))], 1)["map"] == pytest.approx(1.0)


def test_coco_figures_of_nothing():
    assert coco_figures([], [], 2) == {}
    assert coco_figures([_truth()], [_found((1, A, 0.9))], 2) == {}
    assert coco_figures([_truth((1, A))], [_found()], 2) == {"map": 0, "map_50": 0, "map_75": 0, "map_small": 0}


def test_coco_figures_print_nothing(capfd):
    coco_figures([_truth((1, A))], [_found((1, A, 0.5))], 1)
    assert capfd.readouterr() == ("", "")


# ---- bad input


@pytest.mark.parametrize("figure", [average_precisions, per_image, coco_figures])
@pytest.mark.parametrize(
    ("truths", "found", "message"),
    [
        ([_truth()], [], "1 images with objects and 0 with detections"),
        ([_truth(), _truth((3, A))], [_found(), _found()], "image 1: an object has the label 3; expected 1 to 2"),
        ([_truth()], [_found((0, A, 0.5))], "image 0: a detection has the label 0; expected 1 to 2"),
    ],
)
def test_what_doesnt_belong_together_is_refused(figure, truths, found, message):
    with pytest.raises(ValueError, match=message):
        figure(truths, found, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boxes": np.zeros((1, 5))}, r"boxes \(1, 5\), labels \(1,\), scores \(1,\); expected"),
        ({"labels": np.array([1, 2])}, r"labels \(2,\)"),
        ({"scores": np.array([np.nan])}, "detections: scores holds nan; expected finite numbers"),
        ({"boxes": np.array([[0, 0, np.inf, 1]])}, "detections: boxes holds inf"),
        ({"boxes": np.array([[5.0, 0, 2, 1]])}, r"detections: the box \[5.0, 0.0, 2.0, 1.0\] is reversed"),
    ],
)
def test_detections_that_are_none_are_refused(change, message):
    fields = {"boxes": np.array([[0.0, 0, 1, 1]]), "labels": np.array([1]), "scores": np.array([0.5])}
    with pytest.raises(ValueError, match=message):
        Detections(**fields | change)


def test_less_than_two_points_are_refused():
    with pytest.raises(ValueError, match="points is 1; expected None, or at least 2"):
        average_precisions([], [], 1, points=1)
