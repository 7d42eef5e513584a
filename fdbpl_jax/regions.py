"""Regions of an image: random boxes and flips drawn with counter-based random numbers, and their pixels.

A region is a box (top, left, height, width) in pixels of the decoded image, and a horizontal flip. Boxes follow the
random-resized-crop rule: up to ten attempts of area uniform in `scale` and log-aspect uniform in `ratio`; the first
that fits is taken. Region r of a stream uses raw words 41 r to 41 r + 40, so the first 50 regions of a stream of 100
are those of a stream of 50.
"""

import dataclasses
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8, UInt16

from core_jax.data import images, rng

ATTEMPTS = 10
# Ten attempts of area, aspect, top and left, then the flip.
WORDS = 4 * ATTEMPTS + 1
MAX_SIDE = 65_535


@dataclasses.dataclass(frozen=True)
class CropRule:
    """The law boxes are drawn from: bounds of the area (as a share of the image's) and of width / height."""

    scale: tuple[float, float] = (0.08, 0.936)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self):
        problems = []
        for name, (low, high) in (("scale", self.scale), ("ratio", self.ratio)):
            if not 0 < low <= high:
                problems.append(f"{name}={(low, high)} must satisfy 0 < low <= high")
        if self.scale[1] > 1:
            problems.append(f"scale={self.scale} must not exceed 1, the whole image")
        if problems:
            raise ValueError("the crop rule cannot be used: " + "; ".join(problems))


STORED_RULE = CropRule()
# CoOp's and KDPL's own bounds: larger crops than a lookup stores, up to the whole picture.
FRESH_RULE = CropRule(scale=(0.08, 1.0))


class Regions(NamedTuple):
    """Boxes (top, left, height, width) and flips of R regions of one image."""

    box: UInt16[np.ndarray, "R 4"]
    flip: Bool[np.ndarray, " R"]


def stored_stream(seed: int, image_sha256: str) -> str:
    """The stream that a lookup of this seed draws the regions of an image from."""
    return f"boxes:{seed}:{image_sha256}"


def fresh_stream(seed: int, visit: int) -> str:
    """The stream that visit number `visit` of a run draws fresh regions from."""
    return f"fresh:{seed}:{visit}"


def draw(
    stream: str,
    height: int,
    width: int,
    count: int,
    rule: CropRule = STORED_RULE,
    *,
    start: int = 0,
) -> Regions:
    """Regions start .. start + count - 1 of a stream, for an image of the given size.

    Args:
      stream: the name of the stream, from `stored_stream` or `fresh_stream`.
      height: of the image, in pixels.
      width: of the image, in pixels.
      count: how many regions.
      rule: bounds of area and aspect.
      start: the first region's number.

    Raises:
      ValueError: a side is below one pixel or above 65,535.
    """
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise ValueError(
            f"an image of height {height} and width {width} has no regions: sides are 1 to {MAX_SIDE} pixels"
        )
    words = rng.philox_words(stream, count * WORDS, start * WORDS).reshape(count, WORDS)
    u = rng.uniform(words)
    attempts = u[:, :-1].reshape(count, ATTEMPTS, 4)
    (low, high), (narrow, wide) = rule.scale, (math.log(x) for x in rule.ratio)
    area = height * width * (low + (high - low) * attempts[..., 0])
    aspect = np.exp(narrow + (wide - narrow) * attempts[..., 1])
    w = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    h = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (h >= 1) & (h <= height) & (w >= 1) & (w <= width)
    top = np.floor(attempts[..., 2] * (height - h + 1)).astype(np.int64)
    left = np.floor(attempts[..., 3] * (width - w + 1)).astype(np.int64)
    boxes = np.stack([top, left, h, w], axis=-1)
    first = np.argmax(fits, axis=1)
    chosen = boxes[np.arange(count), first]
    chosen[~fits.any(axis=1)] = central_box(height, width, rule)
    return Regions(box=chosen.astype(np.uint16), flip=u[:, -1] < 0.5)


def central_box(height: int, width: int, rule: CropRule) -> tuple[int, int, int, int]:
    """The largest box of admissible aspect, in the middle: what is taken when no attempt fits."""
    narrow, wide = rule.ratio
    if width / height < narrow:
        h, w = max(1, min(height, round(width / narrow))), width
    elif width / height > wide:
        h, w = height, max(1, min(width, round(height * wide)))
    else:
        h, w = height, width
    return (height - h) // 2, (width - w) // 2, h, w


def crop(
    image: UInt8[np.ndarray, "H W 3"], box: UInt16[np.ndarray, "K 4"], size: int
) -> UInt8[np.ndarray, "K size size 3"]:
    """The pixels of K boxes, each resized to a square of `size`; flips are left to the device."""
    return np.stack([images.crop_resize(image, tuple(one), size) for one in box])
