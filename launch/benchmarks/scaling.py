"""How FDBPL grows: a training step with the number of classes, a lookup with the number of pictures. A process for each size.

Classes: the step at published size (student ViT-B/32, random weights, B = 32, M = 4, labels and features from a lookup that lies
on the device) and the peak memory of its process. Nearly all of the time is the text tower's, for two prompt sets of all classes.

Pictures: a lookup of pictures of 8 x 8 px, R = 2, k = 2, whose teacher costs nothing, so that what is left is the work per
picture. One process reads the list from the folders, builds and opens; another opens what was built and reads 10,000 visits in
random order. Peak memory is that of the process: flat means that nothing is kept per picture. Most of it is Python and its
libraries, as the first row of the section on memory says.

--class_counts=10,100,1000 and --picture_counts=1000,10000,100000,1000000 choose the sizes; 0 leaves a part out.
"""

import pathlib
import tempfile
import time
from typing import Any

import numpy as np
from absl import flags

from fdbpl_jax import lookup as lookups
from launch.benchmarks import lookup_memory, published, steps, timing
from launch.benchmarks.apart import apart

_CLASSES = flags.DEFINE_list("class_counts", ["10", "100", "1000"], "scaling: numbers of classes")
_PICTURES = flags.DEFINE_list(
    "picture_counts", ["1000", "10000", "100000"], "scaling: numbers of pictures"
)

VISITS = 10_000


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
    lookup_memory.tiny_pictures(folder / "images", count)
    seconds, peak_mb = apart(lookup_memory.build, folder / "lookup", folder / "images")
    rows.add(f"{work}: list, build and opening, pictures", count / seconds, unit="per s")
    rows.add(f"{work}: list, build and opening, peak memory", peak_mb, unit="MB")
    (open_s, visit_s), peak_mb = apart(_read, folder / "lookup")
    rows.add(f"{work}: opening", open_s)
    rows.add(f"{work}: visits in random order", VISITS / visit_s, unit="per s")
    rows.add(f"{work}: opening and visits, peak memory", peak_mb, unit="MB")


def _step(count: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        student = published.student()
        opened = published.opened("fdbpl", "auto", student, None, count, pathlib.Path(folder))
        return steps.seconds(opened)[0]


def _read(folder: pathlib.Path) -> tuple[float, float]:
    """Seconds of opening a lookup, its first record included, and of `VISITS` visits."""
    start = time.perf_counter()
    opened = lookups.open(folder)
    opened.record(0)
    middle = time.perf_counter()
    for row in np.random.default_rng(0).integers(0, opened.num_images, VISITS):
        opened.record(int(row))
    return middle - start, time.perf_counter() - middle
