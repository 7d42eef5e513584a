"""Gaze sets written in the layouts of the field: what our readers read, and what other people's tools read."""

from gaze_jax.writers.gaze360 import write_gaze360
from gaze_jax.writers.gazehub import write_gazehub
from gaze_jax.writers.hdf5 import write_eth_xgaze, write_faze, write_mpiifacegaze
from gaze_jax.writers.mpiigaze import write_mpiigaze
from gaze_jax.writers.plain import write_plain
from gaze_jax.writers.raw import write_mpiifacegaze_raw, write_mpiigaze_raw
from gaze_jax.writers.registry import FORMATS, RAW, write

__all__ = [
    "FORMATS",
    "RAW",
    "write",
    "write_eth_xgaze",
    "write_faze",
    "write_gaze360",
    "write_gazehub",
    "write_mpiifacegaze",
    "write_mpiifacegaze_raw",
    "write_mpiigaze",
    "write_mpiigaze_raw",
    "write_plain",
]
