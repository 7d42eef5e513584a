"""Samples of a gaze set with their labels drawn in, for a person to look at: `check.png`.

An arrow shows where the label says that the eye looks, as the picture shows it: yaw > 0 to the left, pitch > 0 up.
"""

import io
import os

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

from core_jax.data import files
from gaze_jax import self_test
from gaze_jax.gaze_set import GazeSet
from gaze_jax.readers.common import side_name

_COLUMNS = 6
_WIDTH = 200
_TEXT = 30
_GAP = 8
_ARROW, _PAPER, _INK = (230, 60, 20), (255, 255, 255), (40, 44, 52)


def write(
    path: str | os.PathLike,
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    pictures: UInt8[np.ndarray, "n H W c"],
) -> None:
    """Writes a sheet of samples, six a line.

    Args:
      path: of the PNG file.
      gaze_set: labels, persons and sides.
      rows: which samples.
      pictures: theirs.
    """
    height = round(_WIDTH * gaze_set.size[0] / gaze_set.size[1])
    lines = -(-len(rows) // _COLUMNS)
    step = (_WIDTH + _GAP, height + _TEXT + _GAP)
    sheet = Image.new("RGB", (_COLUMNS * step[0] + _GAP, lines * step[1] + _GAP), _PAPER)
    eyes = self_test.Eyes(gaze_set)
    for number, (row, picture) in enumerate(zip(rows.tolist(), pictures, strict=True)):
        place = (_GAP + number % _COLUMNS * step[0], _GAP + number // _COLUMNS * step[1])
        sheet.paste(_sample(gaze_set, eyes, row, picture, (_WIDTH, height)), place)
        text = (
            f"{gaze_set.persons[gaze_set.person[row]]} {side_name(int(gaze_set.side[row]))} #{row}"
        )
        pitch, yaw = np.rad2deg(gaze_set.gaze[row])
        words = f"{text}\npitch {pitch:+.1f} yaw {yaw:+.1f}"
        draw = ImageDraw.Draw(sheet)
        draw.text((place[0], place[1] + height + 2), words, _INK, ImageFont.load_default(11))
    data = io.BytesIO()
    sheet.save(data, "PNG")
    files.atomic_write(path, data.getvalue())


def _sample(
    gaze_set: GazeSet,
    eyes: self_test.Eyes,
    row: int,
    picture: np.ndarray,
    size: tuple[int, int],
) -> Image.Image:
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    image = image.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    start = np.array(size) / 2
    if gaze_set.kind == "face" and eyes.known:
        start = eyes.centres(row).mean(0) * size[0] / gaze_set.size[1]
    pitch, yaw = gaze_set.gaze[row].astype(np.float64)
    if np.isfinite([pitch, yaw]).all():
        along = np.array([-np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])
        _arrow(ImageDraw.Draw(image), start, start + along * _WIDTH * 0.6)
    return image


def _arrow(draw: ImageDraw.ImageDraw, start: np.ndarray, end: np.ndarray) -> None:
    draw.ellipse([*(start - 3), *(start + 3)], fill=_ARROW)
    draw.line([*start, *end], fill=_ARROW, width=3)
    length = np.hypot(*(end - start))
    if length > 6:
        along = (end - start) / length
        across = np.array([-along[1], along[0]])
        tip = end + along * 4
        corners = [tip, end - along * 6 + across * 5, end - along * 6 - across * 5]
        draw.polygon([tuple(corner) for corner in corners], fill=_ARROW)
