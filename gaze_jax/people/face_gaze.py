"""What is known of one face: directions in both spaces, where it is, how sure; and its form in files.

Inside, angles are (pitch, yaw) in radians; files are for people and hold degrees. The camera space is that of the picture
(x right, y down, z forward); the normalised space is that of the virtual camera that looks at the face, g_n = R g.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

CSV_COLUMNS = (
    "source",
    "frame",
    "time_s",
    "face_id",
    *(f"box_{side}_px" for side in ("left", "top", "right", "bottom")),
    *(f"{space}_{angle}_deg" for space in ("camera", "normalised") for angle in ("pitch", "yaw")),
    *(f"{space}_{axis}" for space in ("camera", "normalised") for axis in "xyz"),
    *(f"origin_{axis}_mm" for axis in "xyz"),
    "scale",
    "head_pitch_deg",
    "head_yaw_deg",
    "head_pose",
    "distance_mm",
    "blink",
    "screen_x_mm",
    "screen_y_mm",
    "screen_x_px",
    "screen_y_px",
    "on_screen",
    "landmark_residual_px",
    "calibrated",
    "smoothed",
    "problem",
)
"""Of gaze.csv: the JSON lines without landmarks, crops and rotations, a column for each number."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FaceGaze:
    """The gaze of one face of one picture.

    Attributes:
      face_id: the same for the same face in following frames.
      box_px: left, top, right, bottom.
      points_px: the named points that were given.
      crops_px: corners of each patch that the network saw, in the picture.
      camera_rad: (pitch, yaw) in camera space; NaN where `problem` says why.
      normalised_rad: the same direction in normalised space.
      measured_rad: in camera space, before smoothing.
      camera_vector: unit vector from the eyes to the target.
      normalised_vector: likewise.
      origin_mm: reference point that the gaze starts at, camera space: the face's, or the mean of the eyes.
      eyes_mm: midpoint of the eyes, from which the arrow is drawn.
      norm: R of the normalisation.
      scale: d_n / d of the normalisation.
      head_rotation: head to camera frame; the identity where the head pose is not known.
      head_rad: (pitch, yaw) of the head in camera space; NaN where it is not known.
      head_pose: whether the head pose is known.
      residual_px: root mean square distance of the points from those of the posed face model; NaN without points.
      distance_mm: from the camera to the reference point.
      blink: whether the eyes are closed; None where the lids are not known.
      screen_mm: where the screen is looked at; NaN where it is not, None without a screen.
      screen_px: likewise.
      on_screen: whether that lies on the screen.
      calibrated: whether a personal calibration was applied.
      smoothed: whether `camera_rad` was steadied over time.
      problem: why there is no gaze; empty where there is one.
    """

    face_id: int
    box_px: tuple[float, float, float, float]
    points_px: Mapping[str, tuple[float, float]]
    camera_rad: Float[np.ndarray, " 2"]
    normalised_rad: Float[np.ndarray, " 2"]
    measured_rad: Float[np.ndarray, " 2"]
    camera_vector: Float[np.ndarray, " 3"]
    normalised_vector: Float[np.ndarray, " 3"]
    origin_mm: Float[np.ndarray, " 3"]
    eyes_mm: Float[np.ndarray, " 3"]
    norm: Float[np.ndarray, "3 3"]
    scale: float
    head_rotation: Float[np.ndarray, "3 3"]
    head_rad: Float[np.ndarray, " 2"]
    head_pose: bool
    residual_px: float
    distance_mm: float
    crops_px: Float[np.ndarray, "n 4 2"] = dataclasses.field(
        default_factory=lambda: np.zeros((0, 4, 2))
    )
    blink: bool | None = None
    screen_mm: Float[np.ndarray, " 2"] | None = None
    screen_px: Float[np.ndarray, " 2"] | None = None
    on_screen: bool | None = None
    calibrated: bool = False
    smoothed: bool = False
    problem: str = ""

    def row(self) -> dict[str, Any]:
        """The face as JSON has it: degrees, null for what is not known."""
        return {
            "face_id": self.face_id,
            "box_px": _json(self.box_px),
            "points_px": {name: list(xy) for name, xy in self.points_px.items()},
            "crops_px": _json(self.crops_px),
            **_angles("camera", self.camera_rad),
            "camera_vector": _json(self.camera_vector),
            **_angles("normalised", self.normalised_rad),
            "normalised_vector": _json(self.normalised_vector),
            **_angles("measured", self.measured_rad),
            "origin_mm": _json(self.origin_mm),
            "eyes_mm": _json(self.eyes_mm),
            "R": _json(self.norm),
            "scale": _json(self.scale),
            "head_rotation": _json(self.head_rotation) if self.head_pose else None,
            **_angles("head", self.head_rad),
            "head_pose": self.head_pose,
            "distance_mm": _json(self.distance_mm),
            "blink": self.blink,
            "screen_mm": _json(self.screen_mm),
            "screen_px": _json(self.screen_px),
            "on_screen": self.on_screen,
            "landmark_residual_px": _json(self.residual_px),
            "calibrated": self.calibrated,
            "smoothed": self.smoothed,
            "problem": self.problem,
        }


def from_row(row: Mapping[str, Any]) -> FaceGaze:
    """The face of a JSON row, as `FaceGaze.row` wrote it."""
    rotation = row["head_rotation"]
    return FaceGaze(
        face_id=row["face_id"],
        box_px=tuple(row["box_px"]),
        points_px={name: tuple(xy) for name, xy in row["points_px"].items()},
        crops_px=_array(row["crops_px"]).reshape(-1, 4, 2),
        camera_rad=_radians(row, "camera"),
        normalised_rad=_radians(row, "normalised"),
        measured_rad=_radians(row, "measured"),
        camera_vector=_array(row["camera_vector"]),
        normalised_vector=_array(row["normalised_vector"]),
        origin_mm=_array(row["origin_mm"]),
        eyes_mm=_array(row["eyes_mm"]),
        norm=_array(row["R"]),
        scale=_number(row["scale"]),
        head_rotation=np.eye(3) if rotation is None else _array(rotation),
        head_rad=_radians(row, "head"),
        head_pose=row["head_pose"],
        residual_px=_number(row["landmark_residual_px"]),
        distance_mm=_number(row["distance_mm"]),
        blink=row["blink"],
        screen_mm=None if row["screen_mm"] is None else _array(row["screen_mm"]),
        screen_px=None if row["screen_px"] is None else _array(row["screen_px"]),
        on_screen=row["on_screen"],
        calibrated=row["calibrated"],
        smoothed=row["smoothed"],
        problem=row["problem"],
    )


def csv_row(
    source: str, frame: int, time_s: float | None, row: Mapping[str, Any]
) -> dict[str, Any]:
    """A line of gaze.csv from a JSON row: empty for what is not known."""
    flat: dict[str, Any] = {**row, "source": source, "frame": frame, "time_s": time_s}
    for name, keys in (
        ("box_px", [f"box_{side}_px" for side in ("left", "top", "right", "bottom")]),
        ("camera_vector", [f"camera_{axis}" for axis in "xyz"]),
        ("normalised_vector", [f"normalised_{axis}" for axis in "xyz"]),
        ("origin_mm", [f"origin_{axis}_mm" for axis in "xyz"]),
        ("screen_mm", ["screen_x_mm", "screen_y_mm"]),
        ("screen_px", ["screen_x_px", "screen_y_px"]),
    ):
        flat |= dict(zip(keys, row[name] or [None] * len(keys)))
    return {name: "" if flat[name] is None else flat[name] for name in CSV_COLUMNS}


def _angles(name: str, pitchyaw_rad: Float[np.ndarray, " 2"]) -> dict[str, float | None]:
    pitch, yaw = (_json(float(value)) for value in np.rad2deg(pitchyaw_rad))
    return {f"{name}_pitch_deg": pitch, f"{name}_yaw_deg": yaw}


def _radians(row: Mapping[str, Any], name: str) -> Float[np.ndarray, " 2"]:
    return np.deg2rad([_number(row[f"{name}_pitch_deg"]), _number(row[f"{name}_yaw_deg"])])


def _json(value: Any) -> Any:
    """Plain numbers and lists; what is not finite becomes null, as JSON has no NaN."""
    if value is None:
        return None
    if isinstance(value, (tuple, list, np.ndarray)):
        return [_json(item) for item in value]
    return float(value) if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _array(value: Any) -> np.ndarray:
    if isinstance(value, list):
        return np.asarray([_array(item) for item in value])
    return np.asarray(_number(value))
