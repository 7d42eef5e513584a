"""Building the lookup of a long list of tiny pictures: what is left is the work per picture, and what is held for each.

Pictures of 8 x 8 px lie in a hundred class folders; ten thousand names share a file, as only its bytes matter. The list is
read from the folders, as a configuration with data.dataset=folder does, pictures are looked at and labelled, R = 2, k = 2, and
the lookup is opened. The teacher costs nothing.
"""

import os
import pathlib
import time

import numpy as np
from PIL import Image

from fdbpl_jax import build as builds
from fdbpl_jax import datasets
from fdbpl_jax import lookup as lookups
from fdbpl_jax import plan as plans
from launch.benchmarks import free_teacher

CLASSES, REGIONS, TOP_K, SIDE_PX = 100, 2, 2, 8
# File systems end at some tens of thousands of names for one file.
_NAMES_OF_A_FILE = 10_000


def tiny_pictures(root: pathlib.Path, count: int) -> None:
    """Write so many pictures of one colour each, at least one a class, below `root`/train."""
    source = root
    for number in range(CLASSES):
        folder = root / "train" / f"class_{number:02d}"
        folder.mkdir(parents=True)
        for index in range(number, count, CLASSES):
            path = folder / f"{index:07d}.png"
            if (index // CLASSES) % _NAMES_OF_A_FILE:
                os.link(source, path)
            else:
                colour = np.random.default_rng(index).integers(0, 256, (1, 1, 3), np.uint8)
                Image.fromarray(np.tile(colour, (SIDE_PX, SIDE_PX, 1))).save(path)
                source = path


def build(folder: pathlib.Path, root: pathlib.Path) -> float:
    """Build and open the lookup of `tiny_pictures` in `folder`; returns seconds."""
    start = time.perf_counter()
    dataset = datasets.read_folder(root)
    teacher = free_teacher.teacher(len(dataset.classes), SIDE_PX)
    settings = plans.Settings(regions=REGIONS, top_k=TOP_K)
    builds.build(folder, dataset, teacher, settings)
    opened = lookups.open(folder)
    opened.record(opened.num_images - 1)
    return time.perf_counter() - start
