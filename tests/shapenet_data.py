"""Made-up objects in the original layout of both ShapeNet parts releases, for tests and to try the task by hand.

An object is a box whose parts are slices of its height, as wide as its category's number.

    python tests/shapenet_data.py DIR [--objects 4]    # all 16 categories, txt release; 4 a category and split
    bibench run benchmarks/shapenet.yaml --data DIR --allow-subset
"""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

import h5py
import numpy as np

from bibench.tasks.shapenet_parts import CATEGORIES

TXT, HDF5 = "shapenetcore_partanno_segmentation_benchmark_v0_normal", "hdf5_data"
OWN = dict(CATEGORIES)
SYNSETS = {
    "Airplane": "02691156",
    "Bag": "02773838",
    "Cap": "02954340",
    "Car": "02958343",
    "Chair": "03001627",
    "Earphone": "03261776",
    "Guitar": "03467517",
    "Knife": "03624134",
    "Lamp": "03636649",
    "Laptop": "03642806",
    "Motorbike": "03790512",
    "Mug": "03797390",
    "Pistol": "03948459",
    "Rocket": "04099429",
    "Skateboard": "04225987",
    "Table": "04379243",
}
FEW = {name: SYNSETS[name] for name in ("Bag", "Lamp", "Table")}


def made_object(category: str, points: int, generator: np.random.Generator) -> np.ndarray:
    """Rows ``x y z nx ny nz part``."""
    own = OWN[category]
    places = generator.uniform(-1, 1, (points, 3)) * (1, 0.3 + 0.1 * list(OWN).index(category), 1)
    normals = generator.normal(size=(points, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    part = own.start + np.minimum((places[:, 2] + 1) / 2 * len(own), len(own) - 1).astype(int)
    return np.column_stack((places, normals, part))


def write_txt(root: Path, count: int = 2, points: int = 2500, synsets: Mapping[str, str] = FEW) -> Path:
    """A folder in the layout of the txt release, with ``count`` objects a category and split."""
    folder, generator = root / TXT, np.random.default_rng(0)
    (folder / "train_test_split").mkdir(parents=True)
    (folder / "synsetoffset2category.txt").write_text("".join(f"{n}\t{s}\n" for n, s in synsets.items()))
    for split in ("train", "val", "test"):
        names = []
        for category, synset in synsets.items():
            (folder / synset).mkdir(exist_ok=True)
            for number in range(count):
                rows = made_object(category, points, generator)
                np.savetxt(folder / synset / f"{split}{number}.txt", rows, fmt="%.6f")
                names.append(f"shape_data/{synset}/{split}{number}")
        (folder / "train_test_split" / f"shuffled_{split}_file_list.json").write_text(json.dumps(names))
    return folder


def write_hdf5(root: Path, count: int = 2) -> Path:
    """A folder in the layout of the HDF5 release, with a few of the categories."""
    folder, generator = root / HDF5, np.random.default_rng(0)
    folder.mkdir(parents=True)
    (folder / "all_object_categories.txt").write_text("".join(f"{n}\t{s}\n" for n, s in FEW.items()))
    for split in ("train", "val", "test"):
        (folder / f"{split}_hdf5_file_list.txt").write_text(f"ply_data_{split}0.h5\n")
        rows = [made_object(category, 2048, generator) for category in FEW for _ in range(count)]
        with h5py.File(folder / f"ply_data_{split}0.h5", "w") as file:
            file["data"] = np.stack(rows)[:, :, :3].astype(np.float32)
            file["pid"] = np.stack(rows)[:, :, 6].astype(np.uint8)
            file["label"] = np.repeat(np.arange(len(FEW)), count)[:, None].astype(np.uint8)
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("dir", type=Path)
    parser.add_argument("--objects", type=int, default=4, help="of each category, in each split")
    options = parser.parse_args()
    print(write_txt(options.dir, options.objects, synsets=SYNSETS))
