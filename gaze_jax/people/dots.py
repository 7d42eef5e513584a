"""Dots on a full screen to look at while pictures are taken: where they stand, in what order, and how they look.

Nothing here knows of windows or cameras. Screen pixels are (x, y), integers at pixel centres.
"""

from collections.abc import Collection

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from gaze_jax import calibrate

COUNTS = (1, 5, 9)
"""One in the middle; with the corners; with the middles of the edges."""
# As near to the edges as eyes can be told apart from those that look beside the screen.
_MARGIN = 0.1
_GROUND, _RING, _CENTRE, _WORDS = (90, 90, 90), (240, 240, 240), (20, 20, 20), (170, 170, 170)
# Between the rows of dots, so that nobody reads instead of looking.
_WORDS_AT = 0.7


def places(count: int, size_px: tuple[int, int]) -> Float[np.ndarray, "count 2"]:
    """Where the dots of a screen stand, in the order in which they are shown.

    Raises:
      ValueError: a number that is not of `COUNTS`.
    """
    if count not in COUNTS:
        raise ValueError(f"{count} dots: expected one of {', '.join(map(str, COUNTS))}")
    share = _MARGIN + (1 - 2 * _MARGIN) * np.asarray(calibrate.PLACES[:count], np.float64) / 2
    return np.round(share * (np.asarray(size_px) - 1))


def following(taken: Collection[int], count: int) -> int | None:
    """The dot that is looked at next: the first that was not; None after all of them."""
    return next((number for number in range(count) if number not in taken), None)


def picture(
    size_px: tuple[int, int], place_px: Float[np.ndarray, " 2"] | None, words: str
) -> UInt8[np.ndarray, "H W 3"]:
    """What the screen shows: a dot with a centre to hold on to, and words for before and after.

    Args:
      size_px: width and height of the screen.
      place_px: of the dot; None for words alone.
      words: a line, below the middle.
    """
    width, height = size_px
    image = Image.new("RGB", size_px, _GROUND)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(max(10, height // 45))
    draw.text((width / 2, _WORDS_AT * height), words, _WORDS, font, anchor="mm")
    if place_px is not None:
        x, y = (float(value) for value in place_px)
        for radius, colour in ((max(6, height // 60), _RING), (max(2, height // 240), _CENTRE)):
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)
    return np.asarray(image)
