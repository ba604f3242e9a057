"""Small detection data sets in the layouts of VOC and COCO, with real JPEG files, for the tests of tasks and runs.

A picture is grey, with each object's box filled in a colour of its own.
"""

import json

from PIL import Image

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))

OBJECT_LINES, FIRST_OBJECT = 10, 7
"""Of `xml`: lines an object, and the line of the first one."""


def save_picture(path, width, height, boxes, **options):
    """An image file; boxes are left, top, right, bottom edges."""
    image = Image.new("RGB", (width, height), (128, 128, 128))
    for box, colour in zip(boxes, COLOURS, strict=False):
        image.paste(colour, tuple(map(int, box)))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, quality=95, **options)


def xml(width, height, objects):
    """A VOC annotation; objects are name, difficult, xmin, ymin, xmax, ymax."""
    lines = ["<annotation>", "<size>", f"<width>{width}</width>", f"<height>{height}</height>", "<depth>3</depth>"]
    lines.append("</size>")
    for name, difficult, left, top, right, bottom in objects:
        lines += ["<object>", f"<name>{name}</name>", f"<difficult>{difficult}</difficult>", "<bndbox>"]
        lines += [f"<xmax>{right}</xmax>", f"<xmin>{left}</xmin>", f"<ymin>{top}</ymin>", f"<ymax>{bottom}</ymax>"]
        lines += ["</bndbox>", "</object>"]
    return "\n".join([*lines, "</annotation>", ""])


def write_voc(root, *, train=3, test=2, names=("cat", "dog"), year="2007", first=0):
    """A year's folder; image ``i`` is ``60 + 10 i`` pixels wide and 50 high and has an object of each name."""
    folder = root / "VOCdevkit" / f"VOC{year}"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    stems = [f"{first + number:06d}" for number in range(train + test)]
    for number, stem in enumerate(stems):
        width = 60 + 10 * number
        objects = [(name, 0, 5 + 20 * k, 11, 20 + 20 * k, 40) for k, name in enumerate(names)]
        boxes = [(left - 1, top - 1, right, bottom) for _, _, left, top, right, bottom in objects]
        save_picture(folder / "JPEGImages" / f"{stem}.jpg", width, 50, boxes)
        (folder / "Annotations" / f"{stem}.xml").write_text(xml(width, 50, objects))
    lists = folder / "ImageSets" / "Main"
    (lists / "trainval.txt").write_text("".join(f"{stem}\n" for stem in stems[:train]))
    if test:
        (lists / "test.txt").write_text("".join(f"{stem}\n" for stem in stems[train:]))
    return folder


CATEGORIES = [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}, {"id": 17, "name": "cat"}]
"""In another order than by id."""


def instances(images, categories=CATEGORIES):
    """The content of an instances file for images ``(id, width, height)``: a person and a cat in each."""
    annotations = [
        {
            "id": 10 * number + k,
            "image_id": number,
            "category_id": category,
            "bbox": [4.5 + 20 * k, 10.25, 15, 30],
            "area": 225.5,
            "iscrowd": 0,
            "segmentation": [[4.5, 10.25, 19.5, 10.25, 19.5, 40.25]],
        }
        for number, _, _ in images
        for k, category in enumerate((1, 17))
    ]
    listed = [
        {"id": number, "file_name": f"{number:012d}.jpg", "width": width, "height": height}
        for number, width, height in images
    ]
    return {"info": {}, "licenses": [], "categories": categories, "images": listed, "annotations": annotations}


def write_instances(root, half, content):
    """An instances file."""
    path = root / "annotations" / f"instances_{half}2017.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_coco(root, *, train=3, test=2, first=9):
    """A folder with both halves; image ``i`` is ``60 + 10 i`` pixels wide and 50 high, listed by descending id."""
    images = [(first + number, 60 + 10 * number, 50) for number in range(train + test)]
    for half, part in (("train", images[:train]), ("val", images[train:])):
        if part:
            write_instances(root, half, instances(part[::-1]))
        for number, width, height in part:
            save_picture(
                root / f"{half}2017" / f"{number:012d}.jpg", width, height, [(4, 10, 20, 40), (24, 10, 40, 40)]
            )
    return root
