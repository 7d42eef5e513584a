"""The embedded world's prompt learning as the benchmarks run it: its own pictures and lookup in a folder of one's choice."""

import pathlib

import ml_collections

from core_jax import world
from launch import config as config_lib

ONLINE = {"method": "kdpl", "teacher_source": "online"}
"""What turns FDBPL's configuration into KDPL's with the teacher online."""

_CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "fdbpl_world.py"


def fdbpl(folder: pathlib.Path, *, shots: int, regions: int) -> ml_collections.ConfigDict:
    """Draw the pictures and point configs/fdbpl_world.py at them.

    Args:
      folder: receives pictures, and later the lookup and the features of the judged pictures.
      shots: training pictures per class.
      regions: R per picture.
    """
    world.write_objects(
        folder, train_per_class=shots, val_per_class=1, test_per_class=1, progress=False
    )
    changes = {
        "data.root": str(folder),
        "data.shots": shots,
        "data.cache": str(folder / "cache"),
        "lookup.dir": str(folder / "lookup"),
        "lookup.regions": regions,
    }
    return config_lib.override(config_lib.load(_CONFIG), changes)
