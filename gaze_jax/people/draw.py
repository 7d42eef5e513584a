"""Gaze on the picture: arrow, box, landmarks, head axes, what the network saw, and the angles in degrees.

The arrow is the projection of a segment of 50 mm along the gaze from the midpoint of the eyes, so it grows with the face
and points into the picture's own space: yaw > 0 towards image left, pitch > 0 up.
"""

import math
from collections.abc import Collection, Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from gaze_jax import cameras
from gaze_jax.cameras import Intrinsics
from gaze_jax.people.face_gaze import FaceGaze

PARTS = ("arrow", "box", "landmarks", "head", "crops", "angles")
"""What can be drawn."""
DEFAULT = ("arrow", "box", "landmarks", "angles")
ARROW_MM = 50.0
_AXIS_MM = 40.0
# Told apart by people who see few colours too (Okabe and Ito's palette, in the order that shows best on skin).
_COLOURS = ((86, 180, 233), (240, 228, 66), (0, 158, 115), (230, 159, 0), (204, 121, 167))
_ARROW = (213, 30, 20)
_AXES = ((255, 70, 70), (70, 220, 70), (80, 120, 255))
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)


def overlay(
    image: UInt8[np.ndarray, "H W 3"],
    found: Sequence[FaceGaze],
    intrinsics: Intrinsics,
    *,
    parts: Collection[str] = DEFAULT,
) -> Image.Image:
    """The picture with what was found drawn on it; unchanged where nothing was.

    Args:
      image: RGB.
      found: the faces.
      intrinsics: of the camera that took it.
      parts: of `PARTS`.

    Raises:
      ValueError: an unknown part.
    """
    unknown = sorted(set(parts) - set(PARTS))
    if unknown:
        raise ValueError(
            f"nothing to draw is called {', '.join(unknown)}; known are {', '.join(PARTS)}"
        )
    picture = Image.fromarray(np.ascontiguousarray(image)).convert("RGB")
    draw = ImageDraw.Draw(picture)
    # Lines for the picture's size, not the face's: a face of 20 pixels needs an arrow that can be seen, too.
    line = max(1, round(max(picture.size) / 400))
    for face in found:
        colour = _COLOURS[face.face_id % len(_COLOURS)]
        if "box" in parts:
            draw.rectangle(face.box_px, outline=colour, width=line)
        if "crops" in parts:
            for corners in face.crops_px[np.isfinite(face.crops_px).all((1, 2))]:
                draw.polygon(list(map(tuple, corners.tolist())), outline=_WHITE, width=line)
        if "landmarks" in parts:
            for x, y in face.points_px.values():
                _dot(draw, x, y, 0.8 * line, colour)
        if "head" in parts and face.head_pose:
            _axes(draw, face, intrinsics, line)
        if "arrow" in parts and not face.problem:
            start, end = arrow(face, intrinsics)
            _arrow(draw, start, end, 2 * line)
        if "angles" in parts:
            _text(draw, picture.size, face, colour)
    return picture


def arrow(
    face: FaceGaze, intrinsics: Intrinsics
) -> tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]:
    """Pixels where the arrow of a face begins and ends."""
    start_mm, gaze = face.eyes_mm, face.camera_vector
    # Of a face close to the camera that looks at it, the segment would end behind the lens.
    length_mm = min(ARROW_MM, 0.5 * float(start_mm[2]))
    ends = cameras.project(np.stack([start_mm, start_mm + length_mm * gaze]), intrinsics)
    return ends[0], ends[1]


def _arrow(draw: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray, width: int) -> None:
    """A line with a head, edged in white so that it shows on any ground; a dot for a gaze into the camera."""
    along = end - start
    length = float(np.hypot(*along))
    if length < 2 * width:
        _dot(draw, float(start[0]), float(start[1]), 1.5 * width, _ARROW, edge=_WHITE)
        return
    along /= length
    across = np.asarray([-along[1], along[0]])
    head = min(4.0 * width, 0.5 * length)
    neck = end - head * along
    for extra, colour in ((max(2, width // 2), _WHITE), (0, _ARROW)):
        draw.line([*start, *neck], fill=colour, width=width + extra)
        wing, tip = 0.55 * head + extra / 2, end + 0.8 * extra * along
        corners = (
            tip,
            neck + wing * across - extra / 2 * along,
            neck - wing * across - extra / 2 * along,
        )
        draw.polygon([tuple(map(float, corner)) for corner in corners], fill=colour)


def _axes(draw: ImageDraw.ImageDraw, face: FaceGaze, intrinsics: Intrinsics, line: int) -> None:
    """The head's axes: right of the picture red, down green, out of the face blue."""
    directions = np.concatenate([face.head_rotation[:, :2].T, -face.head_rotation[:, 2:].T])
    points = cameras.project(
        np.concatenate([face.eyes_mm[None], face.eyes_mm + _AXIS_MM * directions]), intrinsics
    )
    for end, colour in zip(points[1:], _AXES):
        draw.line([*points[0], *end], fill=colour, width=line)


def _text(draw: ImageDraw.ImageDraw, size: tuple[int, int], face: FaceGaze, colour: tuple) -> None:
    """Number and angles above the box, or below it where there is no room, and always inside the picture."""
    text = f"{face.face_id}: {face.problem or label(face)}"
    left, top, _, bottom = face.box_px
    font = ImageFont.load_default(max(11, round(max(size) / 45)))
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    width, height = math.ceil(x1 - x0) + 4, math.ceil(y1 - y0) + 4
    x = min(max(0.0, left), max(0.0, size[0] - width))
    y = top - height if top >= height else min(bottom, size[1] - height)
    draw.rectangle((x, y, x + width, y + height), fill=_BLACK)
    draw.text((x + 2 - x0, y + 2 - y0), text, font=font, fill=colour)


def label(face: FaceGaze) -> str:
    """The angles of a face in degrees."""
    pitch, yaw = np.rad2deg(face.camera_rad)
    return f"pitch {pitch:+.1f}° yaw {yaw:+.1f}°" + (" blink" if face.blink else "")


def _dot(
    draw: ImageDraw.ImageDraw,
    x: float,
    y: float,
    radius: float,
    colour: tuple,
    edge: tuple | None = None,
) -> None:
    box = (x - radius, y - radius, x + radius, y + radius)
    draw.ellipse(box, fill=colour, outline=edge)
