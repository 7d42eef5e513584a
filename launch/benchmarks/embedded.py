"""The embedded world's prompt learning as the benchmarks run it: its own pictures and lookup in a folder of one's choice."""

import pathlib
from typing import Any

import ml_collections

from core_jax import world
from fdbpl_jax import build
from launch import config as config_lib

CONFIG = pathlib.Path(__file__).parents[2] / "configs" / "fdbpl_world.py"
ONLINE = {"method": "kdpl", "teacher_source": "online"}
"""What turns FDBPL's configuration into KDPL's with the teacher online."""


def places(folder: pathlib.Path, *, shots: int, regions: int) -> dict[str, Any]:
    """What of `CONFIG` has to change for a folder's pictures and lookup, by dotted key.

    Args:
      folder: holds pictures, lookup and the features of the judged pictures.
      shots: training pictures per class.
      regions: R per picture.
    """
    return {
        "data.root": str(folder),
        "data.shots": shots,
        "data.cache": str(folder / "cache"),
        "lookup.dir": str(folder / "lookup"),
        "lookup.regions": regions,
    }


def fdbpl(folder: pathlib.Path, *, shots: int, regions: int) -> ml_collections.ConfigDict:
    """Draw the pictures, and the configuration that reads them; arguments as in `places`. No lookup is built."""
    world.write_objects(
        folder, train_per_class=shots, val_per_class=1, test_per_class=1, progress=False
    )
    changes = places(folder, shots=shots, regions=regions)
    return config_lib.override(config_lib.load(CONFIG), changes)


def build_lookup(config: dict[str, Any]) -> None:
    """The lookup of a configuration, for a process that does nothing else."""
    build.build_from_config(config, progress=False)
