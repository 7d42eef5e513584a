"""How FDBPL grows: a training step with the number of classes, a lookup with the number of pictures. A process for each size.

Classes: the step at published size (student ViT-B/32, random weights, B = 32, M = 4, labels and features from a lookup that lies
on the device) and the peak memory of its process; the text tower's two prompt sets for all classes are nearly all of it.

Pictures: a lookup of tiny pictures, 8 x 8 px, R = 2, k = 2, whose teacher costs nothing, so that what is left is the work per
picture. One process builds it, another opens it and reads 10,000 visits in random order. Peak memory is that of the process:
flat means that nothing is kept per picture. Most of it is Python and its libraries, as the first row of the section on memory
says.

--class_counts=10,100,1000 and --picture_counts=1000,10000,100000,1000000 choose the sizes; 0 leaves a part out.
"""

import os
import pathlib
import tempfile
import time
from typing import Any

import numpy as np
from absl import flags
from PIL import Image

from fdbpl_jax import lookup as lookups
from launch.benchmarks import free_teacher, published, steps, timing
from launch.benchmarks.apart import apart

_CLASSES = flags.DEFINE_list("class_counts", ["10", "100", "1000"], "scaling: numbers of classes")
_PICTURES = flags.DEFINE_list(
    "picture_counts", ["1000", "10000", "100000"], "scaling: numbers of pictures"
)

VISITS, REGIONS, SIDE_PX = 10_000, 2, 8
# File systems end at some tens of thousands of names for one file.
_NAMES_OF_A_FILE = 10_000


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    rows = timing.Rows("FDBPL by number of classes and of pictures")
    for count in map(int, _CLASSES.value):
        if count:
            class_rows(rows, count)
    for count in map(int, _PICTURES.value):
        if count:
            with tempfile.TemporaryDirectory() as folder:
                picture_rows(rows, count, pathlib.Path(folder))
    return rows.rows


def class_rows(rows: timing.Rows, count: int) -> None:
    """Time and memory of a step with so many classes."""
    seconds, peak_mb = apart(_step, count)
    rows.add(f"{count:,} classes: training step", seconds)
    rows.add(f"{count:,} classes: peak memory", peak_mb, unit="MB")


def picture_rows(rows: timing.Rows, count: int, folder: pathlib.Path) -> None:
    """Build, open and read a lookup of so many pictures."""
    work = f"{count:,} pictures"
    tiny_pictures(folder / "images", count)
    seconds, peak_mb = apart(_build, folder, count)
    rows.add(f"{work}: build, pictures", count / seconds, unit="per s")
    rows.add(f"{work}: build, peak memory", peak_mb, unit="MB")
    (open_s, visit_s), peak_mb = apart(_read, folder / "lookup")
    rows.add(f"{work}: opening", open_s)
    rows.add(f"{work}: visits in random order", VISITS / visit_s, unit="per s")
    rows.add(f"{work}: opening and visits, peak memory", peak_mb, unit="MB")


def tiny_pictures(root: pathlib.Path, count: int) -> None:
    """Files for so many pictures, of random colours; ten thousand names share a file, as only its bytes matter."""
    source = root
    for index in range(count):
        path = root / free_teacher.picture_path(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        if index % _NAMES_OF_A_FILE:
            os.link(source, path)
        else:
            colour = np.random.default_rng(index).integers(0, 256, (1, 1, 3), np.uint8)
            Image.fromarray(np.repeat(np.repeat(colour, SIDE_PX, 0), SIDE_PX, 1)).save(path)
            source = path


def _step(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        student = published.student()
        opened = published.opened("fdbpl", "auto", student, None, count, pathlib.Path(folder))
        return steps.seconds(opened)[0]


def _build(folder: pathlib.Path, count: int) -> float:
    start = time.perf_counter()
    free_teacher.build(
        folder / "lookup",
        folder / "images",
        count,
        regions=REGIONS,
        classes=100,
        top_k=2,
        image_size=SIDE_PX,
    )
    return time.perf_counter() - start


def _read(folder: pathlib.Path) -> tuple[float, float]:
    """Seconds of opening a lookup, its first record included, and of `VISITS` visits."""
    start = time.perf_counter()
    opened = lookups.open(folder)
    opened.record(0)
    middle = time.perf_counter()
    for row in np.random.default_rng(0).integers(0, opened.num_images, VISITS):
        opened.record(int(row))
    return middle - start, time.perf_counter() - middle
