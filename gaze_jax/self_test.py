"""Do labels and pixels of a gaze set speak one convention? The pupil tells: it is dark and lies where the eye looks.

In the central two thirds of each eye's patch the centroid of the darkest 5 % of the pixels moves against the yaw in x
(yaw > 0 looks towards image left) and against the pitch in y (pitch > 0 looks up). Both correlations, taken per person and
averaged, are negative in a good set; stronger crossed ones mean that the order is swapped, positive ones that a sign is
flipped. Nothing is corrected: the verdict is for people to read. Shapes: N samples, H x W pixels.
"""

import dataclasses

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from gaze_jax import face_model
from gaze_jax.gaze_set import GazeSet
from gaze_jax.normalization import CAMERAS

_DARKEST = 0.05
_CENTRAL = 2 / 3
# Weaker correlations than this say nothing about conventions: crossed ones reach .1 in good sets.
_TELLING = 0.2
_FEWEST = 20
# What the virtual cameras of faces look at; strips of eyes are centred between the eyes.
_REFERENCES = {
    "mpiifacegaze": ("mpii",),
    "eth_face": ("eth",),
    "eth_face448": ("eth",),
    "faze_strip": ("left_eye", "right_eye"),
}
# Half the size of the window that stands for an eye's central two thirds in a picture of a face.
_HALF_EYE_MM = (12.5, 7.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SelfTest:
    """What the test found.

    Attributes:
      persons: how many had enough pictures.
      yaw_x, pitch_y: correlation of the dark centroid with the label it should follow, both negative in a good set.
      pitch_x, yaw_y: the crossed ones.
      problems: in words; empty for a good set.
      note: why nothing can be said, "" where something can.
    """

    persons: int = 0
    yaw_x: float = 0.0
    pitch_y: float = 0.0
    pitch_x: float = 0.0
    yaw_y: float = 0.0
    problems: tuple[str, ...] = ()
    note: str = ""


def centroid(patch: UInt8[np.ndarray, "h w"]) -> tuple[float, float]:
    """(x, y) of the mean place of the darkest 5 % of a patch, as fractions of its size, 0 in the middle."""
    height, width = patch.shape
    count = max(1, round(_DARKEST * patch.size))
    # Ties at the threshold all count: a choice among equals would lean to one side.
    threshold = np.partition(patch.reshape(-1), count - 1)[count - 1]
    y, x = np.nonzero(patch <= threshold)
    return (x.mean() - (width - 1) / 2) / width, (y.mean() - (height - 1) / 2) / height


class Eyes:
    """Where the eyes are in the pictures of a set.

    Args:
      gaze_set: eyes, or faces seen by a virtual camera, whose eyes lie where the face model and the head pose say.
    """

    def __init__(self, gaze_set: GazeSet):
        self._set = gaze_set
        self.known = gaze_set.kind == "eye" or (
            gaze_set.camera in _REFERENCES and bool(gaze_set.has_head.all())
        )

    def boxes(self, row: int) -> list[tuple[int, int, int, int]]:
        """(top, bottom, left, right) of every eye in the picture of a row, cut to the picture."""
        height, width = self._set.size[:2]
        if self._set.kind == "eye":
            dy, dx = (round(n * (1 - _CENTRAL) / 2) for n in (height, width))
            return [(dy, height - dy, dx, width - dx)]
        camera = CAMERAS[self._set.camera]
        pixels = camera.focal_px * width / camera.width
        half = [n * pixels / camera.distance_mm for n in _HALF_EYE_MM]
        found = []
        for x, y in self.centres(row):
            # A picture's pixel centres lie at integers.
            left, right = np.clip([round(x - half[0]), round(x + half[0])], 0, width)
            top, bottom = np.clip([round(y - half[1]), round(y + half[1])], 0, height)
            if right - left >= half[0] and bottom - top >= half[1]:
                found.append((int(top), int(bottom), int(left), int(right)))
        return found

    def centres(self, row: int) -> Float[np.ndarray, "2 2"]:
        """(x, y) of both eyes in the picture of a face, pixels."""
        height, width = self._set.size[:2]
        camera = CAMERAS[self._set.camera]
        pitch, yaw = self._set.head[row].astype(float)
        turn = Rotation.from_euler("YX", [yaw, -pitch]).as_matrix()
        model = {name: np.array(point) for name, point in face_model.POINTS.items()}
        reference = np.mean(
            [face_model.reference_point(model, kind) for kind in _REFERENCES[camera.name]], axis=0
        )
        eyes = np.stack([model["right_eye_centre"], model["left_eye_centre"]])
        seen = (eyes - reference) @ turn.T
        seen[:, 2] += camera.distance_mm
        pixels = camera.focal_px * width / camera.width
        return seen[:, :2] / seen[:, 2:] * pixels + np.array([width / 2, height / 2])

    def dark(self, row: int, picture: UInt8[np.ndarray, "H W c"]) -> tuple[float, float]:
        """The dark centroid, the mean of both eyes' in a face; NaN where no eye is in the picture."""
        eyes = [picture[top:bottom, left:right] for top, bottom, left, right in self.boxes(row)]
        found = [centroid(eye.mean(-1).astype(np.uint8)) for eye in eyes]
        if not found:
            return float("nan"), float("nan")
        x, y = np.mean(found, axis=0)
        return float(x), float(y)


def judge(gaze_set: GazeSet, dark: Float[np.ndarray, "N 2"]) -> SelfTest:
    """The verdict on a set.

    Args:
      gaze_set: the set.
      dark: `Eyes.dark` of every sample, NaN where it is unknown.
    """
    if not np.isfinite(dark).any():
        return SelfTest(
            note="eyes cannot be found in plain crops or without head poses: order and sign were not tested"
        )
    found = []
    for person in np.unique(gaze_set.person):
        rows = (gaze_set.person == person) & np.isfinite(dark).all(1)
        rows &= np.isfinite(gaze_set.gaze).all(1)
        if rows.sum() >= _FEWEST:
            columns = np.concatenate([dark[rows], gaze_set.gaze[rows]], axis=1).T
            if columns.std(axis=1).min() > 0:
                found.append(np.corrcoef(columns)[:2, 2:])
    if not found:
        return SelfTest(
            note=f"no person has {_FEWEST} readable pictures with different labels: order and sign were not tested"
        )
    (pitch_x, yaw_x), (pitch_y, yaw_y) = np.mean(found, axis=0).tolist()
    values = {"yaw_x": yaw_x, "pitch_y": pitch_y, "pitch_x": pitch_x, "yaw_y": yaw_y}
    problems, note = _verdict(**values)
    return SelfTest(persons=len(found), problems=tuple(problems), note=note, **values)


def _verdict(yaw_x: float, pitch_y: float, pitch_x: float, yaw_y: float) -> tuple[list[str], str]:
    direct, crossed = abs(yaw_x) + abs(pitch_y), abs(pitch_x) + abs(yaw_y)
    if max(abs(yaw_x), abs(pitch_y), abs(pitch_x), abs(yaw_y)) < _TELLING:
        return [], "the pupils do not follow the labels enough to say anything about order and sign"
    if crossed > direct:
        signs = [name for name, value in (("yaw", pitch_x), ("pitch", yaw_y)) if value > _TELLING]
        also = f", and the sign of the {' and the '.join(signs)} is flipped" if signs else ""
        return [
            f"pitch and yaw are swapped: the pupils follow them crosswise ({_numbers(pitch_x, yaw_y)} crossed, "
            f"{_numbers(yaw_x, pitch_y)} as they should){also}. Read with the other order"
        ], ""
    flipped = [name for name, value in (("yaw", yaw_x), ("pitch", pitch_y)) if value > _TELLING]
    if flipped:
        return [
            f"the sign of the {' and the '.join(flipped)} is flipped: pupils move with the label, not against it "
            f"({_numbers(yaw_x, pitch_y)}). Read with the other sign"
        ], ""
    return [], ""


def _numbers(x: float, y: float) -> str:
    return f"{x:+.2f} in x, {y:+.2f} in y"
