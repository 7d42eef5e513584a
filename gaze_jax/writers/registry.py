"""Writers by the names that readers have."""

import functools
import os
from collections.abc import Callable

from gaze_jax.gaze_set import GazeSet
from gaze_jax.readers import gazehub_columns
from gaze_jax.render.domains import Rendered
from gaze_jax.writers.common import WriterError
from gaze_jax.writers.gaze360 import write_gaze360
from gaze_jax.writers.gazehub import write_gazehub
from gaze_jax.writers.hdf5 import write_eth_xgaze, write_faze, write_mpiifacegaze
from gaze_jax.writers.mpiigaze import write_mpiigaze
from gaze_jax.writers.plain import write_plain
from gaze_jax.writers.raw import write_mpiifacegaze_raw, write_mpiigaze_raw

FORMATS: dict[str, Callable[[GazeSet, str | os.PathLike], None]] = {
    "mpiigaze": write_mpiigaze,
    "mpiifacegaze": write_mpiifacegaze,
    **{
        f"gazehub_{name}": functools.partial(write_gazehub, variant=name)
        for name in gazehub_columns.VARIANTS
    },
    "gaze360": write_gaze360,
    "eth_xgaze": write_eth_xgaze,
    "faze": write_faze,
    "plain": write_plain,
}
RAW: dict[str, Callable[[Rendered, str | os.PathLike], None]] = {
    "mpiigaze_raw": write_mpiigaze_raw,
    "mpiifacegaze_raw": write_mpiifacegaze_raw,
}
"""Layouts of camera frames, which no gaze set holds any more."""


def write(gaze_set: GazeSet, root: str | os.PathLike, name: str) -> None:
    """Writes a set in one of `FORMATS`.

    Raises:
      WriterError: no such format, or one that cannot hold the set.
    """
    if name not in FORMATS:
        raise WriterError(f"format={name!r}: expected one of {', '.join(FORMATS)}")
    FORMATS[name](gaze_set, root)
