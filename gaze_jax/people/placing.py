"""Where a face is in space: its head pose from named points, or a guess from its box.

With four or more named points the head pose comes from the face model; with a box alone the face is taken to lie on the ray
through its centre, upright and 150 mm wide, which is enough for a network that looks at a face and needs no head pose.
Millimetres in camera space, pixels (x, y).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from gaze_jax import cameras, face_model, pose
from gaze_jax.cameras import Intrinsics
from gaze_jax.people.faces import Face

FACE_WIDTH_MM = 150.0
# A smile, glasses or another person's bones move points; beyond this share of their extent it is no face at all.
_WORST_RESIDUAL = 0.15
# What points are off by in people who are not the model, the mouth's when it moves, and how far heads usually nod.
_BONE_MM, _MOUTH_MM, _NOD_DEG = 3.0, 10.0, 20.0
# Points of eyes and nose from which a head pose can be told without the mouth.
_LEAST_RIGID = 6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placed:
    """A face in space.

    Attributes:
      face: the face.
      rotation: head to camera frame; the identity where the pose is not known.
      points_mm: the face model's points in camera space; empty where the pose is not known.
      eyes_mm: midpoint of the eyes, or of the box.
      residual_px: see `pose.Pose`; NaN where the pose is not known.
      head_pose: whether the pose is known.
      problem: why the face cannot be looked at; empty where it can.
    """

    face: Face
    rotation: Float[np.ndarray, "3 3"]
    points_mm: Mapping[str, Float[np.ndarray, " 3"]]
    eyes_mm: Float[np.ndarray, " 3"]
    residual_px: float
    head_pose: bool
    problem: str = ""

    def reference_mm(self, kind: str) -> Float[np.ndarray, " 3"]:
        """The point that a virtual camera looks at: `face_model.reference_point`, or the box's where that is all."""
        if not self.head_pose:
            return self.eyes_mm
        return np.asarray(face_model.reference_point(self.points_mm, kind), np.float64)


def place(
    face: Face,
    intrinsics: Intrinsics,
    model_points_mm: Mapping[str, Sequence[float]],
    *,
    box_suffices: bool,
) -> Placed:
    """The face in space.

    Args:
      face: box and points.
      intrinsics: of the camera that took the picture.
      model_points_mm: the face model, head frame.
      box_suffices: whether a face without head pose can be looked at.
    """
    points = {name: xy for name, xy in face.model_points_px.items() if name in model_points_mm}
    problem = f"{len(points)} named points, and a head pose needs 4"
    if len(points) >= 4:
        solved = _head_pose(points, model_points_mm, intrinsics)
        if _usable(solved, points):
            rotation, shift = solved.rotation, solved.translation_mm
            found = face_model.in_camera(model_points_mm, rotation, shift)
            eyes = [
                np.asarray(face_model.reference_point(found, f"{s}_eye")) for s in ("left", "right")
            ]
            return Placed(
                face=face,
                rotation=np.asarray(rotation, np.float64),
                points_mm=found,
                eyes_mm=np.mean(eyes, axis=0),
                residual_px=float(solved.residual_px),
                head_pose=True,
            )
        problem = f"the points fit no head: {float(solved.residual_px):.1f} px off"
    return Placed(
        face=face,
        rotation=np.eye(3),
        points_mm={},
        eyes_mm=_on_ray(face, intrinsics),
        residual_px=math.nan,
        head_pose=False,
        problem="" if box_suffices else problem,
    )


def _head_pose(
    points: Mapping[str, tuple[float, float]],
    model_points_mm: Mapping[str, Sequence[float]],
    intrinsics: Intrinsics,
) -> pose.Pose:
    """The pose from all points or from those of eyes and nose alone, whichever is more likely.

    A smile lifts the corners of the mouth by a centimetre, and a rigid model can follow them only by nodding: by more than
    50 degrees for a face that looks into the camera. Eyes and nose alone say less about faces that do not smile.
    """
    rigid = {name: xy for name, xy in points.items() if not name.startswith("mouth")}
    sets = [points] + ([rigid] if _LEAST_RIGID <= len(rigid) < len(points) else [])
    solve = lambda chosen: pose.solve(
        chosen, model_points_mm, intrinsics.matrix, distortion=intrinsics.distortion
    )
    found = [solve(chosen) for chosen in sets]
    misfit = lambda solved: _misfit(solved, points, model_points_mm, intrinsics)
    # Of equal ones, that of all points.
    return min(found, key=misfit)


def _misfit(
    solved: pose.Pose,
    points: Mapping[str, tuple[float, float]],
    model_points_mm: Mapping[str, Sequence[float]],
    intrinsics: Intrinsics,
) -> float:
    """Minus twice the log-likelihood: how far points lie off and how far the head nods, each by what is usual."""
    if not np.isfinite(solved.translation_mm).all():
        return math.inf
    names = list(points)
    posed = face_model.in_camera(model_points_mm, solved.rotation, solved.translation_mm)
    there = cameras.project(np.stack([posed[name] for name in names]), intrinsics)
    px_per_mm = intrinsics.matrix[0, 0] / solved.translation_mm[2]
    off_mm = (
        np.linalg.norm(there - np.asarray([points[name] for name in names]), axis=1) / px_per_mm
    )
    usual_mm = np.asarray([_MOUTH_MM if name.startswith("mouth") else _BONE_MM for name in names])
    nod_deg = np.rad2deg(np.arctan2(solved.rotation[1, 2], np.hypot(*solved.rotation[[0, 2], 2])))
    return float(np.sum((off_mm / usual_mm) ** 2) + (nod_deg / _NOD_DEG) ** 2)


def _usable(solved: pose.Pose, points: Mapping[str, tuple[float, float]]) -> bool:
    """Whether the pose is that of a head: in front of the camera, and near the points."""
    if not (np.isfinite(solved.rotation).all() and np.isfinite(solved.translation_mm).all()):
        return False
    if solved.ok:
        return True
    extent = np.ptp(np.asarray(list(points.values())), axis=0)
    flat = min(np.linalg.svd(_centred(points), compute_uv=False)) < 0.02 * max(extent)
    residual = float(solved.residual_px)
    return bool(
        solved.translation_mm[2] > 0 and not flat and residual < _WORST_RESIDUAL * max(extent)
    )


def _centred(points: Mapping[str, tuple[float, float]]) -> Float[np.ndarray, "n 2"]:
    array = np.asarray(list(points.values()), np.float64)
    return array - array.mean(0)


def _on_ray(face: Face, intrinsics: Intrinsics) -> Float[np.ndarray, " 3"]:
    left, top, right, bottom = face.box_px
    centre = np.asarray([[(left + right) / 2, (top + bottom) / 2]])
    straight = cameras.undistort_points(centre, intrinsics)[0]
    ray = np.linalg.solve(intrinsics.matrix, np.asarray([*straight, 1.0]))
    # Points that all lie in one place have a box without width.
    return ray * (float(intrinsics.matrix[0, 0]) * FACE_WIDTH_MM / max(face.width_px, 1.0))
