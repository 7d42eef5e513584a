"""How a format writes a gaze direction down, as data: one description serves its reader and its writer.

Canonical are (pitch, yaw) in radians with pitch > 0 up and yaw > 0 towards image left, and the unit vector

  g = (-cos pitch sin yaw, -sin pitch, -cos pitch cos yaw)

from eye to target in a camera frame with x right, y down and z forward.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32

STORED = ("pitch_yaw", "yaw_pitch", "vector")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convention:
    """What the labels and pixels of a format mean.

    Attributes:
      stored: the two angles and their order, or a vector of three.
      negated: whether both angles have the opposite sign of ours.
      axes: what a stored vector is multiplied with, axis by axis, to be in our camera frame.
      frame: "normalised" (seen by a virtual camera) or "camera" (a plain crop).
      colour: "rgb", "bgr" or "grey", as the pixels are stored.
      mirrored: what stands for right eyes: "none" (stored as they are: readers of eyes mirror them), "right" (samples of the
        right eye are stored mirrored, labels too).
      scaled: whether the label is unit(S R g_camera), S = diag(1, 1, d_n / d), and not R g_camera.
    """

    stored: Literal["pitch_yaw", "yaw_pitch", "vector"]
    negated: bool = False
    axes: tuple[int, int, int] = (1, 1, 1)
    frame: Literal["normalised", "camera"] = "normalised"
    colour: Literal["rgb", "bgr", "grey"] = "rgb"
    mirrored: Literal["none", "right"] = "none"
    scaled: bool = False

    def canonical(
        self, values: Float[np.ndarray, "N d"], scale: Float[np.ndarray, " N"] | None = None
    ) -> Float32[np.ndarray, "N 2"]:
        """Stored labels as canonical (pitch, yaw), radians.

        Args:
          values: N labels of two or three numbers.
          scale: d_n / d of every sample; needed where labels are scaled.
        """
        values = np.asarray(values, np.float64).reshape(-1, 3 if self.stored == "vector" else 2)
        if self.stored == "vector":
            vector = values * np.array(self.axes)
        else:
            pitchyaw = values[:, ::-1] if self.stored == "yaw_pitch" else values
            pitchyaw = -pitchyaw if self.negated else pitchyaw
            if not self.scaled:
                return pitchyaw.astype(np.float32)
            unscaled = _pitchyaw(_vector(pitchyaw) / _depth(scale, len(pitchyaw)))
            # What is no angle in radians stays as it is, so that `check` sees it.
            absurd = np.any(~(np.abs(pitchyaw) <= np.pi + 1e-4), axis=1)
            return np.where(absurd[:, None], pitchyaw, unscaled).astype(np.float32)
        if self.scaled:
            vector = vector / _depth(scale, len(vector))
        return _pitchyaw(vector).astype(np.float32)

    def store(
        self, pitchyaw: Float[np.ndarray, "N 2"], scale: Float[np.ndarray, " N"] | None = None
    ) -> Float[np.ndarray, "N d"]:
        """The inverse of `canonical`: labels as the format stores them, float64."""
        pitchyaw = np.asarray(pitchyaw, np.float64).reshape(-1, 2)
        if self.scaled:
            pitchyaw = _pitchyaw(_vector(pitchyaw) * _depth(scale, len(pitchyaw)))
        if self.stored == "vector":
            return _vector(pitchyaw) * np.array(self.axes)
        pitchyaw = -pitchyaw if self.negated else pitchyaw
        return pitchyaw[:, ::-1] if self.stored == "yaw_pitch" else pitchyaw


def _depth(scale: np.ndarray | None, count: int) -> np.ndarray:
    """The diagonals of S, (N, 3)."""
    if scale is None:
        raise ValueError("labels of this format are scaled: the scale of every sample is needed")
    diagonal = np.ones((count, 3))
    diagonal[:, 2] = scale
    return diagonal


def _vector(pitchyaw: np.ndarray) -> np.ndarray:
    # float64 and NumPy alone: reading must not lose digits, and workers must not start JAX.
    pitch, yaw = pitchyaw[:, 0], pitchyaw[:, 1]
    return np.stack(
        [-np.cos(pitch) * np.sin(yaw), -np.sin(pitch), -np.cos(pitch) * np.cos(yaw)], axis=1
    )


def _pitchyaw(vector: np.ndarray) -> np.ndarray:
    # The arctangent keeps its digits where the arcsine of the pitch loses half of them.
    x, y, z = vector.T
    return np.stack([np.arctan2(-y, np.hypot(x, z)), np.arctan2(-x, -z)], axis=1)


def order_of(text: str) -> Literal["pitch_yaw", "yaw_pitch"]:
    """The order that an option names.

    Raises:
      ValueError: it is neither.
    """
    if text == "pitch_yaw":
        return "pitch_yaw"
    if text == "yaw_pitch":
        return "yaw_pitch"
    raise ValueError(f"order={text!r}: expected pitch_yaw or yaw_pitch")


def negated_of(text: str) -> bool:
    """Whether an option says that both angles have the opposite sign.

    Raises:
      ValueError: it says neither.
    """
    if text not in ("ours", "negated"):
        raise ValueError(f"sign={text!r}: expected ours or negated")
    return text == "negated"
