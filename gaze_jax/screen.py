"""Where on a screen somebody looks: through the screen's pose, or through a few labelled looks of the same person.

A screen lies at z = 0 of its own frame, millimetres: x to the right and y down as its user sees them, the origin at the
middle of its first pixel. NumPy, float64.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from gaze_jax import geometry
from gaze_jax.geometry import Gaze

_PARALLEL = 1e-6
_FEWEST_LOOKS = 5


@dataclasses.dataclass(frozen=True)
class Screen:
    """A screen before a camera.

    Attributes:
      rotation: R_s, screen frame to camera frame.
      translation_mm: T_s, the screen's origin in camera space.
      px_per_mm: pixels a millimetre along x and y.
      size_px: width and height; None where only the plane matters.
    """

    rotation: Float[np.ndarray, "3 3"]
    translation_mm: Float[np.ndarray, " 3"]
    px_per_mm: Float[np.ndarray, " 2"]
    size_px: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        rotation = np.asarray(self.rotation, np.float64)
        shift = np.asarray(self.translation_mm, np.float64)
        density = np.broadcast_to(np.asarray(self.px_per_mm, np.float64), (2,))
        problems = []
        turns = rotation.shape == (3, 3) and np.allclose(
            rotation @ rotation.T, np.eye(3), atol=1e-4
        )
        if not turns or np.linalg.det(rotation) < 0:
            problems.append(
                f"rotation {rotation.tolist()}, expected a 3 x 3 rotation matrix (columns at right angles, no mirror)"
            )
        if shift.shape != (3,) or not np.isfinite(shift).all():
            problems.append(f"translation {shift.tolist()}, expected three millimetres")
        if not (np.isfinite(density).all() and (density > 0).all()):
            problems.append(f"{density.tolist()} pixels a millimetre, expected two numbers > 0")
        if problems:
            raise ValueError(f"screen: {'; '.join(problems)}")
        object.__setattr__(self, "rotation", rotation)
        object.__setattr__(self, "translation_mm", shift)
        object.__setattr__(self, "px_per_mm", density)


def beside_camera(
    size_px: tuple[int, int],
    size_mm: tuple[float, float],
    camera_mm: tuple[float, float],
    tilt_rad: float = 0.0,
) -> Screen:
    """The screen of a laptop or a monitor with a camera in its own plane, which looks at the user.

    Args:
      size_px: width and height in pixels.
      size_mm: width and height of what lights up.
      camera_mm: where the camera is, (x, y) in the screen frame: (width / 2, -10) for one centimetre above the middle.
      tilt_rad: how far the camera looks further up than the screen faces.
    """
    # Who faces the screen has its x to the right, where the camera that faces them has its x to the left.
    facing = np.diag([-1.0, 1.0, -1.0])
    c, s = np.cos(tilt_rad), np.sin(tilt_rad)
    rotation = np.array([[1, 0, 0], [0, c, s], [0, -s, c]]) @ facing
    density = np.asarray(size_px, np.float64) / np.asarray(size_mm, np.float64)
    shift = -rotation @ np.array([*camera_mm, 0.0])
    return Screen(rotation, shift, density, (int(size_px[0]), int(size_px[1])))


def read(path: str | os.PathLike) -> Screen:
    """A screen from a JSON file.

    Args:
      path: the file, with "size_px" and either "size_mm" and "camera_mm" (and "tilt_deg") for a camera in the screen's
        plane, or "rotation", "translation_mm" and "px_per_mm".

    Raises:
      ValueError: it holds neither, or values that cannot be used.
    """
    try:
        content = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from error
    flat, posed = {"size_px", "size_mm", "camera_mm"}, {"rotation", "translation_mm", "px_per_mm"}
    keys = set(content) if isinstance(content, dict) else set()
    try:
        if flat <= keys <= flat | {"tilt_deg"}:
            return beside_camera(
                tuple(content["size_px"]),
                tuple(content["size_mm"]),
                tuple(content["camera_mm"]),
                float(np.deg2rad(content.get("tilt_deg", 0.0))),
            )
        if posed <= keys <= posed | {"size_px"}:
            return Screen(
                np.asarray(content["rotation"]),
                np.asarray(content["translation_mm"]),
                np.asarray(content["px_per_mm"]),
                tuple(content["size_px"]) if "size_px" in keys else None,
            )
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    raise ValueError(
        f"{path}: keys {', '.join(sorted(keys)) or 'none'}; expected {', '.join(sorted(flat))} (and tilt_deg), or "
        f"{', '.join(sorted(posed))} (and size_px)"
    )


def _vectors(gaze: Any) -> Float[np.ndarray, "*lead 3"]:
    if isinstance(gaze, Gaze):
        return np.asarray(gaze.require("camera").vector, np.float64)
    gaze = np.asarray(gaze, np.float64)
    if gaze.shape[-1] == 2:
        return np.asarray(geometry.pitchyaw_to_vector(gaze), np.float64)
    return gaze / np.linalg.norm(gaze, axis=-1, keepdims=True)


def point(
    origin_mm: Float[np.ndarray, "*lead 3"], gaze: Any, screen: Screen
) -> tuple[Float[np.ndarray, "*lead 2"], Float[np.ndarray, "*lead 2"], Bool[np.ndarray, "*lead"]]:
    """Where rays of gaze meet a screen: s = n . (T_s - o) / n . g with n = R_s[:, 2], point R_s^T (o + s g - T_s).

    Nothing is clamped: a point beside the screen is given as it is.

    Args:
      origin_mm: o, where the gaze begins, camera space.
      gaze: in camera space: vectors (..., 3), (pitch, yaw) in radians (..., 2) or a `Gaze`.
      screen: the screen.

    Returns:
      The points in millimetres and in pixels of the screen, NaN where the ray is parallel to its plane or leads away from
      it, and whether they lie on the screen (on its plane where it has no size).

    Raises:
      ValueError: a `Gaze` in normalised space.
    """
    origin, vector = np.asarray(origin_mm, np.float64), _vectors(gaze)
    normal = screen.rotation[:, 2]
    towards = vector @ normal
    parallel = ~(np.abs(towards) >= _PARALLEL)
    distance = ((screen.translation_mm - origin) @ normal) / np.where(parallel, 1.0, towards)
    meets = ~parallel & (distance > 0)
    hit = origin + distance[..., None] * vector - screen.translation_mm
    mm = np.where(meets[..., None], (hit @ screen.rotation)[..., :2], np.nan)
    px = mm * screen.px_per_mm
    if screen.size_px is None:
        return mm, px, meets
    # Pixel centres are at integers: the first pixel reaches from -1/2 to 1/2.
    inside = (px >= -0.5) & (px < np.asarray(screen.size_px) - 0.5)
    return mm, px, meets & inside.all(-1)


@dataclasses.dataclass(frozen=True)
class Regression:
    """The screen of one person at one place, learned from labelled looks.

    Attributes:
      centre: means of t, p, t^2, p^2, t p over the looks.
      spread: their standard deviations.
      weight: pixels a standard deviation.
      offset_px: mean of the looks' pixels.
    """

    centre: Float[np.ndarray, " 5"]
    spread: Float[np.ndarray, " 5"]
    weight: Float[np.ndarray, "5 2"]
    offset_px: Float[np.ndarray, " 2"]

    def point(self, pitchyaw: Float[np.ndarray, "*lead 2"]) -> Float[np.ndarray, "*lead 2"]:
        """Pixels of (pitch, yaw) in radians, in the space that the looks were given in."""
        scaled = (_terms(np.asarray(pitchyaw, np.float64)) - self.centre) / self.spread
        return self.offset_px + scaled @ self.weight


def _terms(pitchyaw: Float[np.ndarray, "*lead 2"]) -> Float[np.ndarray, "*lead 5"]:
    t, p = pitchyaw[..., 0], pitchyaw[..., 1]
    return np.stack([t, p, t * t, p * p, t * p], axis=-1)


def fit_ridge(
    pitchyaw: Float[np.ndarray, "k 2"], px: Float[np.ndarray, "k 2"], strength: float = 1e-3
) -> Regression:
    """Ridge regression of pixels on (1, t, p, t^2, p^2, t p), for a screen whose pose is not known.

    It holds for one person who sits still: a screen's pose serves everywhere.

    Args:
      pitchyaw: (pitch, yaw) in radians of k looks, camera space.
      px: the pixels that were looked at.
      strength: ridge on the standardised terms, for each look; the constant has none.

    Raises:
      ValueError: fewer than five looks, or numbers that are not finite.
    """
    pitchyaw, px = np.asarray(pitchyaw, np.float64), np.asarray(px, np.float64)
    if pitchyaw.shape != px.shape or pitchyaw.shape[1:] != (2,) or len(px) < _FEWEST_LOOKS:
        raise ValueError(
            f"looks of shape {pitchyaw.shape} at pixels of shape {px.shape}: expected (k, 2) both, k >= {_FEWEST_LOOKS}"
        )
    if not (np.isfinite(pitchyaw).all() and np.isfinite(px).all()):
        raise ValueError("looks with angles or pixels that are not finite numbers: leave them out")
    terms = _terms(pitchyaw)
    centre, spread = terms.mean(0), terms.std(0)
    spread = np.where(spread > 1e-9, spread, 1.0)
    scaled, offset = (terms - centre) / spread, px.mean(0)
    normal = scaled.T @ scaled + strength * len(px) * np.eye(5)
    return Regression(centre, spread, np.linalg.solve(normal, scaled.T @ (px - offset)), offset)
