"""The face model: where named points of a head lie, what landmark sets call them, and what a virtual camera looks at.

Head frame, millimetres: origin between the eye corners, x towards the subject's left, y down, z away from the camera that
the head faces. Left and right are the subject's. The values are our own approximate anthropometric ones, +-5 mm. A
network that was trained with one model sees shifted head and gaze pitches under another: `digest` tells them apart.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import numpy as np
from jaxtyping import Float

POINTS: Mapping[str, tuple[float, float, float]] = MappingProxyType(
    {
        "right_eye_outer": (-45.0, -1.0, 4.0),
        "right_eye_inner": (-17.0, 1.0, -4.0),
        "left_eye_inner": (17.0, 1.0, -4.0),
        "left_eye_outer": (45.0, -1.0, 4.0),
        "nose_right": (-17.0, 42.0, -16.0),
        "nose_left": (17.0, 42.0, -16.0),
        "mouth_right": (-26.0, 72.0, -8.0),
        "mouth_left": (26.0, 72.0, -8.0),
        "right_eye_centre": (-31.0, 0.0, 0.0),
        "left_eye_centre": (31.0, 0.0, 0.0),
        "nose_tip": (0.0, 40.0, -32.0),
    }
)
"""The model that is used where no other is given."""

DLIB68: Mapping[str, int] = MappingProxyType(
    {
        "right_eye_outer": 36,
        "right_eye_inner": 39,
        "left_eye_inner": 42,
        "left_eye_outer": 45,
        "nose_right": 31,
        "nose_left": 35,
        "mouth_right": 48,
        "mouth_left": 54,
    }
)
"""Where these points stand among dlib's 68 landmarks (0-based)."""

MEDIAPIPE: Mapping[str, int] = MappingProxyType(
    {
        "right_eye_outer": 33,
        "right_eye_inner": 133,
        "left_eye_inner": 362,
        "left_eye_outer": 263,
        "nose_right": 98,
        "nose_left": 327,
        "mouth_right": 61,
        "mouth_left": 291,
    }
)
"""Where these points stand among MediaPipe's 468 or 478 face landmarks."""

_EYES = tuple(f"{side}_eye_{end}" for side in ("right", "left") for end in ("outer", "inner"))
# Means of groups, then the mean of those: six points count alike in "mpii", eyes and nose count alike in "eth".
_REFERENCES: Mapping[str, tuple[tuple[str, ...], ...]] = {
    "mpii": ((*_EYES, "mouth_right", "mouth_left"),),
    "eth": (_EYES, ("nose_right", "nose_left")),
    # What strips of both eyes are centred on.
    "eyes": (_EYES,),
    "right_eye": (_EYES[:2],),
    "left_eye": (_EYES[2:],),
}

Vector = TypeVar("Vector")


def digest(points: Mapping[str, Sequence[float]] = POINTS) -> str:
    """SHA-256 of a face model: names and coordinates to a thousandth of a millimetre, in any order."""
    rows = {name: [round(float(c), 3) + 0.0 for c in point] for name, point in points.items()}
    return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()


def in_camera(
    points: Mapping[str, Sequence[float]],
    rotation: Float[np.ndarray, "3 3"],
    translation_mm: Float[np.ndarray, " 3"],
) -> dict[str, Float[np.ndarray, " 3"]]:
    """The points R p + t of a face model in camera space, millimetres."""
    rotation, shift = np.asarray(rotation, np.float64), np.asarray(translation_mm, np.float64)
    return {name: rotation @ np.asarray(p, np.float64) + shift for name, p in points.items()}


def reference_point(points_camera: Mapping[str, Vector], kind: str) -> Vector:
    """The point that a virtual camera looks at.

    Args:
      points_camera: named points, arrays (..., 3) of NumPy or JAX, millimetres in camera space.
      kind: "mpii" (mean of four eye and two mouth corners), "eth" (mean of the mean of the eye corners and the mean of
        the nose's), "eyes" (mean of the eye corners), "left_eye" or "right_eye" (mean of its two corners).

    Raises:
      ValueError: an unknown kind, or points that it needs are missing.
    """
    if kind not in _REFERENCES:
        raise ValueError(f"reference point {kind!r}: expected one of {', '.join(_REFERENCES)}")
    groups = _REFERENCES[kind]
    missing = [name for group in groups for name in group if name not in points_camera]
    if missing:
        raise ValueError(
            f"reference point {kind!r} needs {', '.join(missing)}, which the points do not have"
        )
    means = [sum(points_camera[name] for name in group) / len(group) for group in groups]  # pyright: ignore
    return sum(means) / len(means)  # pyright: ignore
