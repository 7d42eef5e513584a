"""Steadier angles in video: a One-Euro filter for each face (Casiez, Roussel, Vogel, CHI 2012).

A low-pass filter whose cutoff rises with speed: y = y + a (x - y), a = 1 / (1 + tau / T), tau = 1 / (2 pi fc),
fc = 1 Hz + .05 |speed|, where T is the time since the last frame and the speed, in degrees per second, is itself filtered at
1 Hz. Eyes at rest stand still, saccades are followed. Angles are (pitch, yaw) in degrees in camera space.
"""

import dataclasses
import math

import numpy as np
from jaxtyping import Float


class OneEuro:
    """The filter of one face.

    Args:
      cutoff_hz: cutoff of a value at rest.
      speed_weight: what a degree per second adds to the cutoff, in Hz.
      speed_cutoff_hz: cutoff of the speed.
    """

    def __init__(
        self, *, cutoff_hz: float = 1.0, speed_weight: float = 0.05, speed_cutoff_hz: float = 1.0
    ) -> None:
        self._cutoff_hz = cutoff_hz
        self._speed_weight = speed_weight
        self._speed_cutoff_hz = speed_cutoff_hz
        self._value_deg: np.ndarray | None = None
        self._speed = np.zeros(2)
        self._time_s = 0.0

    def __call__(
        self, value_deg: Float[np.ndarray, " 2"], time_s: float
    ) -> Float[np.ndarray, " 2"]:
        """The filtered value at the time of a new one.

        Args:
          value_deg: (pitch, yaw).
          time_s: of this frame; one that is not later than the last returns the last value.
        """
        value_deg = np.asarray(value_deg, np.float64)
        if self._value_deg is None:
            self._value_deg, self._time_s = value_deg, time_s
            return value_deg
        step_s = time_s - self._time_s
        if step_s <= 0:
            return self._value_deg
        # Somebody who turns past 180 degrees of yaw has moved little.
        change = (value_deg - self._value_deg + 180.0) % 360.0 - 180.0
        self._speed += _share(self._speed_cutoff_hz, step_s) * (change / step_s - self._speed)
        cutoff = self._cutoff_hz + self._speed_weight * np.abs(self._speed)
        moved = self._value_deg + _share(cutoff, step_s) * change
        self._value_deg = (moved + 180.0) % 360.0 - 180.0
        self._time_s = time_s
        return self._value_deg

    def hold(self, time_s: float) -> Float[np.ndarray, " 2"] | None:
        """The last value, for a frame whose own cannot be trusted; None before the first."""
        self._time_s = max(self._time_s, time_s)
        return self._value_deg


def _share(cutoff_hz: float | np.ndarray, step_s: float) -> float | np.ndarray:
    """How much of a change passes: a = 1 / (1 + tau / T)."""
    return 1.0 / (1.0 + 1.0 / (2.0 * math.pi * cutoff_hz * step_s))


@dataclasses.dataclass
class _Track:
    filter: OneEuro
    seen_s: float


class Smoother:
    """The filters of all faces: held while the eyes are closed, forgotten when a face was away.

    Args:
      forget_s: a face that was not seen for longer than this starts anew.
    """

    def __init__(self, *, forget_s: float = 0.5) -> None:
        self._forget_s = forget_s
        self._tracks: dict[int, _Track] = {}

    def __call__(
        self,
        face_id: int,
        pitchyaw_deg: Float[np.ndarray, " 2"],
        time_s: float,
        *,
        blink: bool = False,
    ) -> Float[np.ndarray, " 2"]:
        """The steadied angles of a face.

        Args:
          face_id: which face.
          pitchyaw_deg: measured, camera space.
          time_s: of the frame.
          blink: the eyes are closed: the last angles stay.
        """
        track = self._tracks.get(face_id)
        if track is None or time_s - track.seen_s > self._forget_s:
            track = self._tracks[face_id] = _Track(OneEuro(), time_s)
        track.seen_s = time_s
        if blink:
            held = track.filter.hold(time_s)
            # A face that is first seen blinking has nothing to hold, and what it shows must not start the filter.
            return np.asarray(pitchyaw_deg, np.float64) if held is None else held
        return track.filter(pitchyaw_deg, time_s)
