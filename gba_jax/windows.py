"""How pictures of any size become a host's inputs, and its score maps become labels at the picture's size.

A plan is one of three:

    whole     squeezed to one square: the host sees the picture once
    sliding   squeezed to a larger square, cut into windows; the windows and the whole picture are one batch, window maps
              are averaged by how many overlap, then with the map of the whole picture (CAT-Seg, arXiv 2303.11797)
    padded    aspect kept: short side to a length unless the long side gets too long, then padded at the right and the
              bottom to multiples of a number, so that there are few shapes (FC-CLIP, arXiv 2308.02487)

Resizing pictures is pillow's bilinear filter on the host, as in training; a host's program therefore sees one shape a
plan (`padded`: a few), whatever the pictures. Maps are resized bilinearly at pixel centres, without antialiasing.

Shapes: B pictures of equal size (H, W), n inputs a picture, C classes, (h, w) score maps.
"""

import abc
import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8
from PIL import Image

_FILL = 128
# Label maps are computed at multiples of this side and cropped, so that pictures of many sizes share programs.
_SIDE = 64
# Values of one block of rows in `labels`: 64 MB.
_BLOCK = 2**24

Size = tuple[int, int]


class Plan(abc.ABC):
    """Pictures to inputs and back; made by `whole`, `sliding` and `padded`."""

    def inputs(self, images: UInt8[np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B n S T 3"]:
        """What a host is given for pictures.

        Raises:
          ValueError: no uint8 pictures, or empty ones.
        """
        if images.dtype != np.uint8 or images.shape[3:] != (3,) or 0 in images.shape:
            raise ValueError(
                f"expected RGB pictures as uint8 of shape (B, H, W, 3), got {images.dtype} of shape {images.shape}"
            )
        return self._inputs(images)

    @abc.abstractmethod
    def merge(self, maps: Float[Array, "B n C h w"], size: Size) -> Float[Array, "B C k l"]:
        """Maps of the inputs to one map that covers the picture, and nothing but the picture.

        Args:
          maps: what a host computed for the inputs, in any resolution.
          size: (H, W) of the pictures.
        """

    @abc.abstractmethod
    def _inputs(self, images: np.ndarray) -> np.ndarray: ...


def whole(size: int) -> Plan:
    """Pictures squeezed to a square of this side.

    Raises:
      ValueError: the side is not positive.
    """
    _require_positive(size=size)
    return Whole(size)


def sliding(resize: int, window: int, stride: int) -> Plan:
    """Pictures squeezed to a square of side `resize`, square windows every `stride` pixels, and the whole picture.

    Raises:
      ValueError: a number is not positive, the window is larger than the square, or the stride leaves gaps.
    """
    _require_positive(resize=resize, window=window, stride=stride)
    if not stride <= window <= resize:
        raise ValueError(
            f"windows of {window} pixels every {stride} on a square of {resize}: expected stride <= window <= square"
        )
    return Sliding(resize, window, stride)


def padded(short: int, long: int, multiple: int) -> Plan:
    """Pictures with a short side of `short`, or a long side of `long` where it would be longer, padded to multiples.

    Raises:
      ValueError: a number is not positive, or `long` is below `short`.
    """
    _require_positive(short=short, long=long, multiple=multiple)
    if long < short:
        raise ValueError(f"long={long} with short={short}: expected at least as much")
    return Padded(short, long, multiple)


@dataclasses.dataclass(frozen=True)
class Whole(Plan):
    """See `whole`."""

    size: int

    def merge(self, maps: Float[Array, "B n C h w"], size: Size) -> Float[Array, "B C k l"]:
        """See `Plan.merge`."""
        return maps[:, 0]

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        return _resize(images, (self.size, self.size))[:, None]


@dataclasses.dataclass(frozen=True)
class Sliding(Plan):
    """See `sliding`; the whole picture is the last input."""

    resize: int
    window: int
    stride: int

    @property
    def corners(self) -> tuple[Size, ...]:
        """(top, left) of the windows, row by row; the last of a row touches the border."""
        last = self.resize - self.window
        starts = [*range(0, last, self.stride), last]
        return tuple((top, left) for top in starts for left in starts)

    def merge(self, maps: Float[Array, "B n C h w"], size: Size) -> Float[Array, "B C k l"]:
        """See `Plan.merge`."""
        return _overlap(maps, self)

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        side = self.window
        canvas = _resize(images, (self.resize, self.resize))
        cut = [canvas[:, top : top + side, left : left + side] for top, left in self.corners]
        return np.stack([*cut, _resize(images, (side, side))], axis=1)


@dataclasses.dataclass(frozen=True)
class Padded(Plan):
    """See `padded`."""

    short: int
    long: int
    multiple: int

    def resized(self, size: Size) -> Size:
        """(height, width) of a picture before padding."""
        scale = min(self.short / min(size), self.long / max(size))
        height, width = (max(1, math.floor(side * scale + 0.5)) for side in size)
        return height, width

    def merge(self, maps: Float[Array, "B n C h w"], size: Size) -> Float[Array, "B C k l"]:
        """See `Plan.merge`."""
        extent = [
            cells * side / (side + -side % self.multiple)
            for cells, side in zip(maps.shape[3:], self.resized(size), strict=True)
        ]
        # A cell that the border cuts counts as one.
        count = (math.ceil(extent[0]), math.ceil(extent[1]))
        return _crop(maps[:, 0], np.asarray(extent, np.float32), count)

    def _inputs(self, images: np.ndarray) -> np.ndarray:
        size = self.resized((images.shape[1], images.shape[2]))
        edges = [(0, -side % self.multiple) for side in size]
        pads = [(0, 0), *edges, (0, 0)]
        return np.pad(_resize(images, size), pads, constant_values=_FILL)[:, None]


def scores(
    score: Callable[[UInt8[np.ndarray, "b S T 3"]], Float[Array, "b C h w"]],
    images: UInt8[np.ndarray, "B H W 3"],
    plan: Plan,
) -> Float[Array, "B C k l"]:
    """Scores over whole pictures: one call of the host for all inputs, padding cropped.

    Args:
      score: a host, best jitted; it sees one shape a plan, number of pictures and (padded) picture size.
      images: of equal size.
      plan: how they become inputs.

    Raises:
      ValueError: see `Plan.inputs`.
    """
    inputs = plan.inputs(images)
    found = score(inputs.reshape(-1, *inputs.shape[2:]))
    maps = found.reshape(*inputs.shape[:2], *found.shape[1:])
    return plan.merge(maps, (images.shape[1], images.shape[2]))


def labels(
    scores: Float[Array, "B C h w"], size: Size
) -> tuple[Int32[np.ndarray, "B H W"], Float[np.ndarray, "B H W"]]:
    """The best class of each pixel and its score.

    Scores are resized in blocks of rows, so that C x H x W is never in memory at once. Sizes within 64 pixels share a
    program.

    Args:
      scores: finite, of whole pictures.
      size: (H, W).
    """
    ceiling = (_up(size[0]), _up(size[1]))
    found = _arg_max(jnp.asarray(scores), np.asarray(size, np.float32), ceiling)
    # Cropped on the host: on the device every size would be a program.
    best, value = (np.asarray(x)[:, : size[0], : size[1]] for x in found)
    return best, value


@functools.partial(jax.jit, static_argnums=2)
def _arg_max(maps: Array, size: Array, ceiling: Size) -> tuple[Array, Array]:
    classes, source = maps.shape[1], maps.shape[2:]
    extent = jnp.asarray(source, jnp.float32) / size
    rows, columns = (_taps(n, extent[i], source[i]) for i, n in enumerate(ceiling))
    height = next(
        r for r in (64, 32, 16, 8, 4, 2, 1) if r == 1 or r * ceiling[1] * classes <= _BLOCK
    )
    blocks = jax.tree.map(lambda x: x.reshape(-1, height), rows)

    def block(picture, taps):
        found = _lerp(_lerp(picture, taps, 1), columns, 2)
        return jnp.argmax(found, axis=0).astype(jnp.int32), jnp.max(found, axis=0)

    of_picture = lambda picture: jax.lax.map(functools.partial(block, picture), blocks)
    return jax.tree.map(lambda x: x.reshape(-1, *ceiling), jax.lax.map(of_picture, maps))


@functools.partial(jax.jit, static_argnums=2)
def _crop(maps: Array, extent: Array, count: Size) -> Array:
    """The upper left `extent` cells of maps (B C h w) as `count` cells."""
    for i, cells in enumerate(count):
        maps = _lerp(maps, _taps(cells, extent[i] / cells, cells), i + 2)
    return maps


@functools.partial(jax.jit, static_argnums=1)
def _overlap(maps: Array, plan: Sliding) -> Array:
    """Window maps averaged by overlap, then with the map of the whole picture, which comes last."""
    # The map of a window must have a cell border wherever a window begins: at multiples of `unit` pixels.
    unit = math.gcd(plan.window, plan.resize, plan.stride)
    finer = plan.window // unit
    cells = [-(-side // finer) * finer for side in maps.shape[3:]]
    resized = lambda x, shape: jax.image.resize(
        x, (*x.shape[:-2], *shape), "bilinear", antialias=False
    )
    parts = resized(maps[:, :-1], cells)
    canvas = [side * plan.resize // plan.window for side in cells]
    total = jnp.zeros((maps.shape[0], maps.shape[2], *canvas), maps.dtype)
    count = np.zeros(canvas, np.float32)
    for i, corner in enumerate(plan.corners):
        first = [side * start // plan.window for side, start in zip(cells, corner, strict=True)]
        place = tuple(slice(f, f + side) for f, side in zip(first, cells, strict=True))
        total = total.at[:, :, *place].add(parts[:, i])
        count[place] += 1
    mean = total / jnp.asarray(count, maps.dtype)[None, None]
    return (mean + resized(maps[:, -1], canvas)) / 2


def _taps(count: int, step: Array, source: int) -> tuple[Array, Array, Array]:
    """Where `count` points `step` cells apart fall among `source` cells: lower cell, upper cell, weight of the upper."""
    centre = (jnp.arange(count, dtype=jnp.float32) + 0.5) * step - 0.5
    centre = jnp.clip(centre, 0.0, source - 1.0)
    low = jnp.floor(centre).astype(jnp.int32)
    return low, jnp.minimum(low + 1, source - 1), centre - low.astype(jnp.float32)


def _lerp(x: Array, taps: tuple[Array, Array, Array], axis: int) -> Array:
    """Linear interpolation along one axis."""
    low, high, weight = taps
    weight = jnp.expand_dims(weight, [i for i in range(x.ndim) if i != axis])
    lower = jnp.take(x, low, axis=axis)
    return lower + weight.astype(x.dtype) * (jnp.take(x, high, axis=axis) - lower)


def _resize(images: np.ndarray, size: Size) -> np.ndarray:
    """uint8 (B H W 3) to (B, *size, 3)."""
    if images.shape[1:3] == size:
        return images
    turned = (size[1], size[0]), Image.Resampling.BILINEAR
    return np.stack([np.asarray(Image.fromarray(image).resize(*turned)) for image in images])


def _up(side: int) -> int:
    return -(-side // _SIDE) * _SIDE


def _require_positive(**values: int) -> None:
    bad = [f"{name}={value}" for name, value in values.items() if value < 1]
    if bad:
        raise ValueError(f"{', '.join(bad)}: expected positive numbers of pixels")
