"""Gaze estimation: DRNet (arXiv 2208.04298), CLIP-DFENet (arXiv 2502.20128), their baselines, and all that surrounds them.

    error = gaze_jax.angular_error_deg(predicted, truth)             # (..., 2) angles in radians or (..., 3) vectors
    patch, how = gaze_jax.normalize(image, matrix, head_rotation, reference_mm, gaze_jax.CAMERAS["eth_face"])
    estimator = gaze_jax.GazeEstimator.from_run("runs/gaze")         # a trained network on a user's pictures

The names below are imported when they are first used: `gaze_jax.geometry` alone loads JAX and nothing else.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gaze_jax.gaze_set import GazeSet
    from gaze_jax.geometry import Gaze, angular_error_deg, pitchyaw_to_vector, vector_to_pitchyaw
    from gaze_jax.model import Model
    from gaze_jax.normalization import CAMERAS, VirtualCamera, denormalize, normalize
    from gaze_jax.predict import GazeEstimator
    from gaze_jax.readers import read
    from gaze_jax.task import build
    from gaze_jax.trained import load

_HOME = {
    **dict.fromkeys(
        ("Gaze", "angular_error_deg", "pitchyaw_to_vector", "vector_to_pitchyaw"), "geometry"
    ),
    **dict.fromkeys(("CAMERAS", "VirtualCamera", "denormalize", "normalize"), "normalization"),
    "GazeEstimator": "predict",
    "GazeSet": "gaze_set",
    "Model": "model",
    "build": "task",
    "load": "trained",
    "read": "readers",
}

__all__ = [
    "CAMERAS",
    "Gaze",
    "GazeEstimator",
    "GazeSet",
    "Model",
    "VirtualCamera",
    "angular_error_deg",
    "build",
    "denormalize",
    "load",
    "normalize",
    "pitchyaw_to_vector",
    "read",
    "vector_to_pitchyaw",
]


def __getattr__(name: str) -> Any:
    """Imports a public name from the module that holds it."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
