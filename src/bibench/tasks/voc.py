"""Pascal VOC 2007 and 2012: images, lists and XML annotations in the challenge's own layout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from xml.parsers import expat

import numpy as np

from bibench.recipes import Adam, Cosine, Recipe
from bibench.tasks.base import Data, DataError, Task
from bibench.tasks.detection import MEAN_AP, evaluate_voc, example, loss, made_up, voc_figures
from bibench.tasks.detection_files import LARGEST, Annotations, check_name, detection_data, files_in, left_out
from bibench.tasks.detection_pictures import pictures

__all__ = ["CLASSES", "voc07", "voc07_small", "voc0712"]

CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The 20 classes in the challenge's order."""

_TRAIN, _TEST = {"2007": 5_011, "2012": 11_540}, 4_952
_LAYOUT = """expected in the folder, or in a folder voc/ or BCCD/ below it (or the folder VOCdevkit or VOC2007 itself):
  VOCdevkit/VOC2007/
    Annotations/<image>.xml, JPEGImages/<image>.jpg
    ImageSets/Main/{trainval,test}.txt   5,011 and 4,952 images; both archives unpack to the same folder
  VOCdevkit/VOC2012/                     for voc0712: likewise, with trainval.txt of 11,540 images"""
_SUBSET = "complete it, or accept a part of the data set with --allow-subset"
_REPAIR = "unpack it again from the archive"


@dataclass
class _Element:
    """An XML element: the line that it begins in, its text and the elements in it."""

    tag: str
    line: int
    text: str = ""
    children: list[_Element] = field(default_factory=list)


def _parse(path: Path) -> _Element:
    """The outermost element of a file."""
    parser = expat.ParserCreate()
    parser.buffer_text = True
    around = _Element("", 0)
    opened = [around]

    def start(tag: str, attributes: dict[str, str]) -> None:
        element = _Element(tag, parser.CurrentLineNumber)
        opened[-1].children.append(element)
        opened.append(element)

    def end(tag: str) -> None:
        opened.pop()

    def text(data: str) -> None:
        opened[-1].text += data

    def doctype(*declared: object) -> None:
        # It could name other files, or entities that grow without bound.
        raise DataError(f"{path}, line {parser.CurrentLineNumber}: a DOCTYPE, which annotations don't have; {_REPAIR}")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler, parser.StartDoctypeDeclHandler = text, doctype
    try:
        parser.Parse(path.read_bytes(), True)
    except expat.ExpatError as error:
        raise DataError(f"{path}, line {error.lineno}: {expat.ErrorString(error.code)}; {_REPAIR}") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}; {_REPAIR}") from error
    return around.children[0]


def _only(path: Path, element: _Element, tag: str) -> _Element:
    """The element of this name in another one."""
    found = [child for child in element.children if child.tag == tag]
    if len(found) != 1:
        raise DataError(
            f"{path}, line {element.line}: <{element.tag}> has {len(found)} times <{tag}>, expected it once; {_REPAIR}"
        )
    return found[0]


def _number(path: Path, element: _Element, tag: str) -> float:
    """The number in the element of this name in another one."""
    child = _only(path, element, tag)
    try:
        value = float(child.text)
    except ValueError:
        value = math.nan
    if not abs(value) < LARGEST:
        raise DataError(
            f"{path}, line {child.line}: <{tag}> is {child.text.strip()[:40]!a}, expected a number of pixels; {_REPAIR}"
        )
    return value


def _difficult(path: Path, element: _Element) -> bool:
    """Whether an object is marked as difficult; not every tool writes it."""
    if not any(child.tag == "difficult" for child in element.children):
        return False
    child = _only(path, element, "difficult")
    if child.text.strip() not in ("0", "1"):
        raise DataError(
            f"{path}, line {child.line}: <difficult> is {child.text.strip()[:40]!a}, expected 0 or 1; {_REPAIR}"
        )
    return child.text.strip() == "1"


@dataclass(frozen=True)
class _Listed:
    """An image that a list names: its two files and its place in the list, below the folder of the years."""

    image: str
    annotation: str
    place: str
    test: bool


@dataclass(frozen=True)
class _Object:
    """An object: its image's number, the file and lines that annotate it, and what they say."""

    image: int
    file: str
    line: int
    name: str
    name_line: int
    difficult: bool
    box: tuple[float, float, float, float]


def _find(root: Path) -> Path:
    """The folder that holds VOC2007."""
    for folder in (root / "voc" / "VOCdevkit", root / "BCCD" / "VOCdevkit", root / "VOCdevkit", root):
        if (folder / "VOC2007").is_dir():
            return folder
    if root.absolute().name == "VOC2007":
        return root.absolute().parent
    raise DataError(f"no VOC2007 in {root}; {_LAYOUT}")


def _read_list(devkit: Path, year: str, half: str) -> list[_Listed]:
    """The images of one list of a year."""
    name = f"VOC{year}/ImageSets/Main/{half}.txt"
    try:
        lines = (devkit / name).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{devkit / name}: cannot be read as text: {error}; {_LAYOUT}") from error
    found = []
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields:
            continue
        place = f"{name}, line {number}"
        if len(fields) > 1:
            raise DataError(f"{devkit / place}: {line[:80]!a}, expected one image; {_REPAIR}")
        stem = fields[0]
        check_name(stem, str(devkit / place))
        found.append(
            _Listed(
                image=f"VOC{year}/JPEGImages/{stem}.jpg",
                annotation=f"VOC{year}/Annotations/{stem}.xml",
                place=place,
                test=half == "test",
            )
        )
    return found


def _check_unique(devkit: Path, listed: Sequence[_Listed]) -> None:
    first: dict[str, str] = {}
    for one in listed:
        if one.image in first:
            raise DataError(
                f"{devkit / one.place}: {one.image} is listed again, first in {first[one.image]}; {_REPAIR}"
            )
        first[one.image] = one.place


def _there(devkit: Path, listed: Sequence[_Listed], subset: bool) -> tuple[list[_Listed], list[str]]:
    """The images whose two files are there, and a note on the others."""
    folders = {name.rpartition("/")[0] for one in listed for name in (one.image, one.annotation)}
    files = {f"{folder}/{name}" for folder in folders for name in files_in(devkit / folder, _LAYOUT)}
    missing = [f"{name} ({one.place})" for one in listed for name in (one.image, one.annotation) if name not in files]
    there = [one for one in listed if one.image in files and one.annotation in files]
    return there, left_out(devkit, "listed files", missing, subset)


def _read_annotation(devkit: Path, file: str, image: int) -> tuple[tuple[float, float], list[_Object]]:
    """Height and width as annotated, and the objects."""
    path = devkit / file
    outermost = _parse(path)
    if outermost.tag != "annotation":
        raise DataError(f"{path}, line {outermost.line}: <{outermost.tag}>, expected <annotation>; {_REPAIR}")
    size = _only(path, outermost, "size")
    objects = []
    for element in outermost.children:
        if element.tag != "object":
            continue
        name, box = _only(path, element, "name"), _only(path, element, "bndbox")
        left, top, right, bottom = (_number(path, box, tag) for tag in ("xmin", "ymin", "xmax", "ymax"))
        objects.append(
            _Object(
                image=image,
                file=file,
                line=element.line,
                name=name.text.strip(),
                name_line=name.line,
                difficult=_difficult(path, element),
                box=(left, top, right, bottom),
            )
        )
    return (_number(path, size, "height"), _number(path, size, "width")), objects


def _classes(devkit: Path, objects: Sequence[_Object], subset: bool) -> tuple[str, ...]:
    """The challenge's classes; with ``subset`` the files' own where none is one of the challenge's."""
    names = {one.name for one in objects}
    if subset and names and names.isdisjoint((*CLASSES, "")):
        return tuple(sorted(names))
    for one in objects:
        if one.name not in CLASSES:
            raise DataError(
                f"{devkit / one.file}, line {one.name_line}: class {one.name[:40]!a}, expected one of "
                f"{', '.join(CLASSES)} (--allow-subset also accepts files that have none of these)"
            )
    return CLASSES


def _load(root: Path | None, subset: bool, *, name: str, years: tuple[str, ...], short: int, long: int) -> Data:
    """Read lists and annotations below ``root``; see `bibench.tasks.base.Task`."""
    if root is None:
        raise DataError(f"the task {name} needs its files: name their folder with --data DIR; {_LAYOUT}")
    if not root.is_dir():
        raise DataError(f"--data {root}: no such folder; {_LAYOUT}")
    devkit = _find(root)
    listed = [one for year in years for one in _read_list(devkit, year, "trainval")]
    listed += _read_list(devkit, "2007", "test")
    _check_unique(devkit, listed)
    images, notes = _there(devkit, listed, subset)
    test = np.array([image.test for image in images], dtype=np.bool_)
    counts, expected = (int((~test).sum()), int(test.sum())), (sum(_TRAIN[year] for year in years), _TEST)
    if counts != expected:
        part = f"{counts[0]:,} of {expected[0]:,} training and {counts[1]:,} of {expected[1]:,} test images"
        if not subset:
            raise DataError(f"{devkit} has {part}; {_SUBSET}; {_LAYOUT}")
        notes.insert(0, part)
    read = [_read_annotation(devkit, image.annotation, number) for number, image in enumerate(images)]
    objects = [one for _, own in read for one in own]
    classes = _classes(devkit, objects, subset)
    if classes is not CLASSES:
        notes.insert(0, f"not Pascal VOC's classes but the files' own: {', '.join(classes)}")
    label = {one: number for number, one in enumerate(classes, 1)}
    found = Annotations(
        root=devkit,
        names=[one.image for one in images],
        test=test,
        sizes=np.array([size for size, _ in read]).reshape(-1, 2).astype(np.int64),
        image=np.array([one.image for one in objects], dtype=np.int64),
        boxes=np.array([one.box for one in objects], dtype=np.float64).reshape(-1, 4),
        labels=np.array([label[one.name] for one in objects], dtype=np.int64),
        ignored=np.array([one.difficult for one in objects], dtype=np.bool_),
        areas=None,
        origin=1,
        places=lambda number: f"{objects[number].file}, line {objects[number].line}",
    )
    return detection_data(found, classes, notes, voc_figures, short=short, long=long)


_RECIPE = Recipe(optimizer=Adam(lr=1e-4), schedule=Cosine(), epochs=5, batch_size=8, warmup=0.05, gradient_clip=10.0)


def _task(name: str, title: str, years: tuple[str, ...], short: int, long: int) -> Task:
    return Task(
        name=name,
        title=title,
        modality="detection",
        architectures=("faster_rcnn", "ssd300"),
        load=partial(_load, name=name, years=years, short=short, long=long),
        input_shape=(3, short, long),
        make_example=partial(example, long),
        make_batch=partial(made_up, short=short, long=long),
        loss=loss,
        evaluate=evaluate_voc,
        metric=MEAN_AP,
        training_samples=sum(_TRAIN[year] for year in years),
        outputs=len(CLASSES),
        full_precision=_RECIPE,
        binarized=_RECIPE,
        source="Everingham et al., The Pascal Visual Object Classes (VOC) Challenge, IJCV 2010",
        labels=CLASSES,
        pictures=pictures,
    )


voc07 = _task("voc07", "VOC07", ("2007",), 600, 1_000)
"""5,011 training and 4,952 test photographs with objects of 20 classes; mAP with 11 points.

>>> voc07.load(None, False)
Traceback (most recent call last):
bibench.tasks.base.DataError: the task voc07 needs its files: name their folder with --data DIR; ...
"""

voc0712 = _task("voc0712", "VOC07+12", ("2007", "2012"), 600, 1_000)
"""The same test with the 11,540 training photographs of 2012 besides."""

voc07_small = _task("voc07_small", "VOC07 at 160 pixels", ("2007",), 160, 267)
"""VOC07 with images of at most 160 by 267 pixels, for a processor."""
