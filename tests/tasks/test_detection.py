"""The detection tasks' loss and evaluation, and that a detector learns through all of it."""

import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from bibench import registry
from bibench.models.detection import faster_rcnn
from bibench.recipes import Adam, Recipe
from bibench.records import RunConfig
from bibench.tasks.coco import coco17_small
from bibench.tasks.detection import DetectionBatch, evaluate_coco, evaluate_voc, loss, made_up
from bibench.tasks.detection_files import DetectionFiles
from bibench.training import build_model, train
from bibench.training.loop import _part
from detection_data import write_voc


def batch_of(*images):
    """A batch of images of one size in a larger canvas, each from a file of twice the size.

    An image is height, width and its objects: label, ignored, and the box in pixels of the file.
    """
    most = max(len(objects) for _, _, objects in images)
    canvas = [max(image[side] for image in images) + 5 for side in (0, 1)]
    sizes = torch.tensor([image[:2] for image in images])
    batch = DetectionBatch(
        images=torch.zeros(len(images), 3, *canvas),
        sizes=sizes,
        originals=2 * sizes,
        boxes=torch.zeros(len(images), most, 4),
        labels=torch.zeros(len(images), most, dtype=torch.int64),
        ignored=torch.zeros(len(images), most, dtype=torch.bool),
        areas=torch.zeros(len(images), most),
        numbers=torch.arange(len(images)),
    )
    for place, (height, width, objects) in enumerate(images):
        batch.images[place, :, :height, :width] = torch.rand(3, height, width)
        for row, (label, ignored, box) in enumerate(objects):
            batch.labels[place, row], batch.ignored[place, row] = label, ignored
            batch.boxes[place, row] = torch.tensor(box)
            batch.areas[place, row] = (box[2] - box[0]) * (box[3] - box[1])
    return batch


class Answers(nn.Module):
    """Finds what it is told to, in pixels of the images that it is given."""

    def __init__(self, answers):
        super().__init__()
        self.answers, self.seen = iter(answers), []

    def forward(self, images):
        self.seen += [tuple(image.shape) for image in images]
        found = []
        for _ in images:
            rows = next(self.answers)
            found.append(
                {
                    "boxes": torch.tensor([box for _, _, box in rows]).reshape(-1, 4),
                    "labels": torch.tensor([label for label, _, _ in rows], dtype=torch.int64),
                    "scores": torch.tensor([score for _, score, _ in rows]),
                }
            )
        return found


def test_the_loss_is_the_detectors_own_on_boxes_in_pixels_of_the_given_images():
    model = faster_rcnn.build((3, 96, 160), 4)
    batch = batch_of(
        (96, 120, [(1, False, [20.0, 30, 150, 160]), (3, True, [2.0, 2, 180, 90])]),
        (100, 96, [(2, False, [8.0, 6, 90, 190])]),
    )
    torch.manual_seed(3)
    found = loss(model, batch)
    torch.manual_seed(3)  # regions are sampled
    expected = model(
        [batch.images[0, :, :96, :120], batch.images[1, :, :100, :96]],
        [
            {"boxes": torch.tensor([[10.0, 15, 75, 80]]), "labels": torch.tensor([1])},
            {"boxes": torch.tensor([[4.0, 3, 45, 95]]), "labels": torch.tensor([2])},
        ],
    )
    torch.testing.assert_close(found, sum(expected.values()))


@pytest.mark.parametrize(("evaluate", "names"), [(evaluate_voc, {"map", "map_all_points"}), (evaluate_coco, {"map"})])
def test_objects_are_found_in_pixels_of_the_file(evaluate, names):
    batch = batch_of(
        (40, 60, [(1, False, [20.0, 30, 90, 78]), (2, False, [0.0, 0, 40, 60])]),
        (50, 30, [(2, False, [8.0, 6, 50, 90])]),
    )
    right = [[(1, 0.9, [10.0, 15, 45, 39]), (2, 0.8, [0.0, 0, 20, 30])], [(2, 0.7, [4.0, 3, 25, 45])]]
    model = Answers(right)
    found = evaluate(model, [batch])
    assert model.seen == [(3, 40, 60), (3, 50, 30)]
    assert {name: value for name, value in found.figures.items() if name in names} == pytest.approx(
        dict.fromkeys(names, 100.0)
    )
    assert found.per_sample.tolist() == [1.0, 1.0]
    wrong = evaluate(Answers([right[0], [(1, 0.7, [4.0, 3, 25, 45])]]), [batch])
    assert wrong.per_sample.tolist() == [1.0, 0.0]
    # Class 1 is found before the false alarm; of class 2 one of two objects, the better half of the curve.
    expected = (
        {"map": (1 + 6 / 11) / 2, "map_all_points": 0.75} if evaluate is evaluate_voc else {"map": (1 + 51 / 101) / 2}
    )
    assert {name: wrong.figures[name] for name in expected} == pytest.approx({n: 100 * v for n, v in expected.items()})


def test_a_test_split_in_which_nothing_is_found():
    batch = batch_of((40, 60, [(2, False, [20.0, 30, 90, 78])]))
    assert evaluate_voc(Answers([[]]), [batch]).figures == {"map": 0.0, "map_all_points": 0.0}
    with pytest.raises(ValueError, match="needs at least one batch"):
        evaluate_voc(Answers([]), [])


def test_a_batch_is_shared_image_by_image_between_devices():
    batch = made_up(4, 60, 100)
    second = _part(SimpleNamespace(world_size=2, global_rank=1), batch)
    assert isinstance(second, DetectionBatch)
    assert second.numbers.tolist() == [1, 3]
    assert all(len(part) == 2 for part in second)


def run_of(algorithm, seed=0):
    return RunConfig(
        task="voc07_small",
        architecture="faster_rcnn",
        algorithm=algorithm,
        operator=None if algorithm == "fp32" else algorithm,
        method="full_precision" if algorithm == "fp32" else "from_scratch",
        seed=seed,
        recipe=Recipe(optimizer=Adam(lr=1e-3), epochs=2, batch_size=2, gradient_clip=10.0),
        family="cnns",
        metric="map",
    )


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["fp32", "reactnet"])
def test_interrupted_and_continued_a_detector_ends_bit_for_bit_the_same(algorithm, tmp_path):
    write_voc(tmp_path / "data", train=4, test=1)
    task, run = registry.get("tasks", "voc07_small"), run_of(algorithm)
    data = task.load(tmp_path / "data", True)

    class Stop(Exception):
        pass

    def stop(share):
        if share > 0.7:
            raise Stop

    def trained(folder, **options):
        model = build_model(run, task=task, architecture=faster_rcnn, data=data)
        return train(run, model, task=task, data=data, folder=tmp_path / folder, checkpoint_seconds=0, **options)

    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    whole = trained("whole")
    with pytest.raises(Stop):
        trained("parts", on_progress=stop)
    parts = trained("parts")
    assert len(list((tmp_path / "parts").iterdir())) > 0
    assert parts.state.history == whole.state.history
    for name, value in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], value), name


@pytest.mark.slow
def test_ten_real_images_are_learned_by_heart(real_data):
    split = coco17_small.load(real_data, True).train
    objects = split.objects
    relative = objects.areas / objects.sizes[objects.image].prod(axis=1)
    least = np.array(
        [relative[objects.of(i)].min() * (not objects.ignored[objects.of(i)].any()) for i in range(len(objects))]
    )
    ten = objects.part(least >= np.sort(least)[-10])  # those whose smallest object is largest
    images = DetectionFiles(objects=ten, short=128, long=213, workers=0)
    assert len(images) == 10

    torch.manual_seed(0)
    model = faster_rcnn.build((3, 128, 213), 80)
    steps, rate = 80, 1e-3
    optimizer = torch.optim.Adam(model.parameters(), rate)
    batches = partial(images.batches, 5, device=torch.device("cpu"))
    for step, batch in enumerate(batch for epoch in range(steps // 2) for batch in batches(seed=epoch)):
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 10) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.zero_grad()
        loss(model, batch).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
    with torch.no_grad():
        found = evaluate_coco(model.eval(), batches())
    assert found.figures["map_50"] > 90, found.figures
