"""Resizing, cropping and large-scale jitter of a picture together with its labels and segments.

Each kind of geometry is a rule that turns a picture's size and four random numbers into a `Placement`: the picture is
resized, perhaps mirrored, and seen through a window of S x S pixels; beyond its right and lower edge lies padding (128 in
images, -1 elsewhere). Only what the window shows is computed, so the cost does not depend on the resized size.
Shapes: H, W picture; S window.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int32, UInt8
from PIL import Image

PADDING = 128
VOID = -1
# What a rule looks at: scale, top, left, mirrored.
DRAWS = 4

Shape = tuple[int, int]
Draws = Float64[np.ndarray, "4"]


class Picture(NamedTuple):
    """A picture and what belongs to its pixels: a label, and a number of a segment; -1 where there is none."""

    image: UInt8[np.ndarray, "H W 3"]
    labels: Int32[np.ndarray, "H W"]
    segments: Int32[np.ndarray, "H W"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """How a window sees a picture.

    Attributes:
      height, width: of the resized picture.
      top, left: the window's corner in the resized, mirrored picture; the window lies below and right of it.
      mirrored: whether left and right are exchanged.
    """

    height: int
    width: int
    top: int = 0
    left: int = 0
    mirrored: bool = False


def resize(shape: Shape, size: int, draws: Draws) -> Placement:
    """The whole picture squeezed into the window; nothing is random.

    Args:
      shape: (H, W) of the picture.
      size: S, side of the window.
      draws: uniform in [0, 1).
    """
    del shape, draws
    return Placement(height=size, width=size)


def crop(shape: Shape, size: int, draws: Draws) -> Placement:
    """The shorter side becomes 0.5 to 2 times the window's, then a mirror image or not, then a random window.

    Args:
      shape: (H, W) of the picture.
      size: S, side of the window.
      draws: uniform in [0, 1).
    """
    return _window(shape, size * (0.5 + 1.5 * draws[0]) / min(shape), size, draws)


def lsj(shape: Shape, size: int, draws: Draws) -> Placement:
    """Large-scale jitter (arXiv 2012.07177): as `crop`, but the longer side becomes 0.1 to 2 times the window's.

    Args:
      shape: (H, W) of the picture.
      size: S, side of the window.
      draws: uniform in [0, 1).
    """
    return _window(shape, size * (0.1 + 1.9 * draws[0]) / max(shape), size, draws)


RULES = {"resize": resize, "crop": crop, "lsj": lsj}


def _window(shape: Shape, scale: float, size: int, draws: Draws) -> Placement:
    height, width = (max(1, round(side * scale)) for side in shape)
    return Placement(
        height=height,
        width=width,
        top=int(draws[1] * (max(0, height - size) + 1)),
        left=int(draws[2] * (max(0, width - size) + 1)),
        mirrored=bool(draws[3] < 0.5),
    )


def place(picture: Picture, placement: Placement, size: int) -> Picture:
    """What the window shows: the image bilinear (antialiased where it shrinks), labels and segments of nearest pixels.

    Args:
      picture: of any size.
      placement: see `RULES`.
      size: S, side of the window.

    Returns:
      Image (S, S, 3), labels and segments (S, S).
    """
    height, width = picture.labels.shape
    rows = min(size, placement.height - placement.top)
    columns = min(size, placement.width - placement.left)
    left = placement.left
    if placement.mirrored:
        left = placement.width - left - columns
    down, right = height / placement.height, width / placement.width
    # Filters may look beyond the box: the window's edge is no edge of the picture.
    box = (left * right, placement.top * down)
    box += (min((left + columns) * right, width), min((placement.top + rows) * down, height))
    pixels = Image.fromarray(picture.image).resize(
        (columns, rows), Image.Resampling.BILINEAR, box=box
    )
    # The pixel of the picture under the centre of each pixel of the window.
    y = ((placement.top + np.arange(rows) + 0.5) * down).astype(np.int64)
    x = ((left + np.arange(columns) + 0.5) * right).astype(np.int64)
    shown = (np.asarray(pixels), picture.labels[y][:, x], picture.segments[y][:, x])
    return Picture(
        *(
            _pad(part[:, ::-1] if placement.mirrored else part, size, fill)
            for part, fill in zip(shown, (PADDING, VOID, VOID))
        )
    )


def _pad(part: np.ndarray, size: int, fill: int) -> np.ndarray:
    out = np.full((size, size, *part.shape[2:]), fill, part.dtype)
    out[: part.shape[0], : part.shape[1]] = part
    return out
