"""Where the faces are: named points and boxes, from a detector or from a file.

The detector is whatever fits `Landmarker`. mediapipe's FaceLandmarker does, and so does a file that somebody else's detector
wrote (`gaze_jax.people.landmark_files`). Pixels (x, y), x right, y down, integers at pixel centres; right and left are the
subject's.
"""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from jaxtyping import Float, UInt8

from gaze_jax import face_model

# The lids, where a set of points has them: they tell a blink.
_LIDS = {
    "dlib": {
        "right_eye_upper": (37, 38),
        "right_eye_lower": (41, 40),
        "left_eye_upper": (43, 44),
        "left_eye_lower": (47, 46),
    },
    "mediapipe": {
        "right_eye_upper": (159,),
        "right_eye_lower": (145,),
        "left_eye_upper": (386,),
        "left_eye_lower": (374,),
    },
}
# Far in front of all others, it tells nodding from a short face.
_NOSE_TIP = {"dlib": 30, "mediapipe": 1}
LIDS = tuple(_LIDS["dlib"])
_FIVE = ("right_eye_centre", "left_eye_centre", "nose_tip", "mouth_right", "mouth_left")
BLINK_BELOW = 0.18
"""An eye whose lids are closer than this share of its width is closed."""


@dataclasses.dataclass(frozen=True)
class Face:
    """One face in one picture.

    Attributes:
      box_px: left, top, right, bottom; may reach beyond the picture.
      points_px: named points (x, y) of `face_model.POINTS` and `LIDS`; empty where only the box is known.
    """

    box_px: tuple[float, float, float, float]
    points_px: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)

    @property
    def width_px(self) -> float:
        """Of the box."""
        return self.box_px[2] - self.box_px[0]

    @property
    def area_px(self) -> float:
        """Of the box."""
        return self.width_px * (self.box_px[3] - self.box_px[1])

    @property
    def model_points_px(self) -> dict[str, tuple[float, float]]:
        """The points that the face model has, which is what a head pose is found from."""
        return {name: xy for name, xy in self.points_px.items() if name in face_model.POINTS}

    @property
    def blink(self) -> bool | None:
        """Whether both eyes are closed; None where the lids are not known."""
        shares = [
            share for side in ("right", "left") if (share := self._openness(side)) is not None
        ]
        return max(shares) < BLINK_BELOW if shares else None

    def _openness(self, side: str) -> float | None:
        names = [f"{side}_eye_{part}" for part in ("upper", "lower", "inner", "outer")]
        if any(name not in self.points_px for name in names):
            return None
        upper, lower, inner, outer = (np.asarray(self.points_px[name]) for name in names)
        width = float(np.linalg.norm(outer - inner))
        return float(np.linalg.norm(lower - upper)) / width if width else None


class Landmarker(Protocol):
    """Finds the faces of a picture."""

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], frame: str) -> list[Face]:
        """The faces, in any order.

        Args:
          image: the picture.
          frame: its name: the path of a file, the number of a video's frame.
        """
        ...


def from_points(
    points_px: Mapping[str, Any], box_px: tuple[float, float, float, float] | None = None
) -> Face:
    """A face from its named points; without a box, one is drawn around them."""
    points = {name: (float(x), float(y)) for name, (x, y) in points_px.items()}
    if box_px is None:
        corners = np.asarray(list(points.values()))
        low, high = corners.min(0), corners.max(0)
        # Eyes to mouth are about 90 of a face's 150 mm; half of what is missing goes to each side.
        margin = 0.33 * float(max(high - low))
        box_px = (*(low - margin), *(high + margin))
    left, top, right, bottom = (float(value) for value in box_px)
    return Face((left, top, right, bottom), points)


def name_points(array: Float[np.ndarray, "n 2"]) -> dict[str, tuple[float, float]]:
    """The named points in an array of a usual size.

    Args:
      array: 68 points of dlib, 468 or 478 of MediaPipe, or 5: right and left eye, nose tip, right and left mouth corner.

    Raises:
      ValueError: another count.
    """
    array = np.asarray(array, np.float64)
    if array.ndim != 2 or array.shape[1] != 2 or len(array) not in (5, 68, 468, 478):
        raise ValueError(
            f"points of shape {array.shape}; expected (n, 2) with n = 5, 68 (dlib), 468 or 478 (MediaPipe)"
        )
    if len(array) == 5:
        indices: dict[str, tuple[int, ...]] = {name: (i,) for i, name in enumerate(_FIVE)}
    else:
        layout = "dlib" if len(array) == 68 else "mediapipe"
        table = face_model.DLIB68 if layout == "dlib" else face_model.MEDIAPIPE
        indices = {name: (index,) for name, index in table.items()} | _LIDS[layout]
        indices["nose_tip"] = (_NOSE_TIP[layout],)
    means = {name: array[list(index)].mean(0) for name, index in indices.items()}
    return {name: (float(x), float(y)) for name, (x, y) in means.items()}


class FaceLandmarker:
    """mediapipe's FaceLandmarker as a `Landmarker`.

    Args:
      model: path of a face_landmarker.task file.
      max_faces: how many faces it looks for.

    Raises:
      ImportError: mediapipe is not installed.
      FileNotFoundError: there is no such file.
    """

    def __init__(self, model: str | os.PathLike, *, max_faces: int = 10) -> None:
        try:
            import mediapipe  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise ImportError(
                "finding faces needs mediapipe, which is not installed: pip install 'clip-methods-jax[gaze-face]', or "
                "give the faces of each picture with --landmarks or --boxes"
            ) from error
        if not pathlib.Path(model).is_file():
            raise FileNotFoundError(
                f"--landmarker={model}: there is no such file; expected mediapipe's model file face_landmarker.task, "
                "which its package does not contain"
            )
        tasks = mediapipe.tasks
        options = tasks.vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(model)),
            running_mode=tasks.vision.RunningMode.IMAGE,
            num_faces=max_faces,
        )
        self.path = pathlib.Path(model)
        self._mediapipe = mediapipe
        self._landmarker = tasks.vision.FaceLandmarker.create_from_options(options)

    def __call__(self, image: UInt8[np.ndarray, "H W 3"], frame: str) -> list[Face]:
        """See `Landmarker`."""
        del frame
        height, width = image.shape[:2]
        picture = self._mediapipe.Image(
            image_format=self._mediapipe.ImageFormat.SRGB, data=np.ascontiguousarray(image)
        )
        found = self._landmarker.detect(picture).face_landmarks
        # Its fractions count from the picture's edge, ours from the centre of the first pixel.
        arrays = [
            np.asarray([(p.x * width - 0.5, p.y * height - 0.5) for p in points])
            for points in found
        ]
        return [
            from_points(name_points(array), box_px=(*array.min(0), *array.max(0)))
            for array in arrays
        ]


class Tracker:
    """Numbers for faces that stay the same from frame to frame, by the overlap of their boxes.

    Args:
      least_overlap: intersection over union from which two boxes are of one face.
      forget_s: how long a face may be away and still be known.
    """

    def __init__(self, *, least_overlap: float = 0.3, forget_s: float = 0.5) -> None:
        self._least_overlap = least_overlap
        self._forget_s = forget_s
        self._next = 0
        self._known: dict[int, tuple[np.ndarray, float]] = {}

    def __call__(self, boxes_px: Float[np.ndarray, "n 4"], time_s: float) -> list[int]:
        """A number for each box; best overlaps first, so that no number is given twice."""
        boxes_px = np.asarray(boxes_px, np.float64).reshape(-1, 4)
        self._known = {
            number: (box, seen_s)
            for number, (box, seen_s) in self._known.items()
            if time_s - seen_s <= self._forget_s
        }
        pairs = sorted(
            (
                (-overlap(box, known), index, number)
                for index, box in enumerate(boxes_px)
                for number, (known, _) in self._known.items()
            )
        )
        numbers: dict[int, int] = {}
        for less, index, number in pairs:
            if (
                -less >= self._least_overlap
                and index not in numbers
                and number not in numbers.values()
            ):
                numbers[index] = number
        for index, box in enumerate(boxes_px):
            if index not in numbers:
                numbers[index] = self._next
                self._next += 1
            self._known[numbers[index]] = (box, time_s)
        return [numbers[index] for index in range(len(boxes_px))]


def overlap(a: Float[np.ndarray, " 4"], b: Float[np.ndarray, " 4"]) -> float:
    """Intersection over union of two boxes; 0 where both are empty."""
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    shared = float(np.prod(np.maximum(sides, 0.0)))
    union = float(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - shared
    return shared / union if union > 0 else 0.0
