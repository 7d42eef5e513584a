"""Gaze data sets as they lie on disk, each read into the one canonical form of `gaze_jax.gaze_set`."""

from gaze_jax.readers.common import ReaderError
from gaze_jax.readers.convention import Convention
from gaze_jax.readers.registry import FORMATS, NAMES, RENDERED, load, options, read

__all__ = ["FORMATS", "NAMES", "RENDERED", "Convention", "ReaderError", "load", "options", "read"]
