"""Segmentation data sets as they lie on disk: pictures uint8, labels int32 with -1 ignored, segments where there are any."""

from gba_jax.datasets.check import Found, check, report
from gba_jax.datasets.common import IGNORE, Dataset, DatasetError, Item, Sample, Segments
from gba_jax.datasets.registry import LAYOUTS, NAMES, load, read

__all__ = [
    "IGNORE",
    "LAYOUTS",
    "NAMES",
    "Dataset",
    "DatasetError",
    "Found",
    "Item",
    "Sample",
    "Segments",
    "check",
    "load",
    "read",
    "report",
]
