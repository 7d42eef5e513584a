"""Classification scenes: one object on a busy background, a pure function of (seed, split, index).

Pixels are exact at every size: everything is defined in fractions of the side and evaluated at the pixel centres (only
the fine noise is per pixel). A scene has the same bytes alone, in a batch, and on every machine, because its numbers
come from an integer hash (`words`) and its pixels from exactly rounded operations (`shapes`).
"""

import dataclasses
from collections.abc import Collection

import numpy as np
from jaxtyping import Bool, Int, UInt8

from core_jax.world import attributes as attrs
from core_jax.world import shapes, styles, words

_F = np.float32
# Scenes rendered together: enough to hide numpy's overhead, few enough to stay in the cache at 64 px.
_CHUNK_PIXELS = 16 * 64 * 64
_OBJECT_SLOTS = 12
_DISTRACTORS = 3
_BACKGROUND_SLOTS = 14 + 6 * _DISTRACTORS
_HEAD_SLOTS = 4
PRETRAIN_STYLES: styles.StyleMix = (("clean", 0.9), ("sketch", 0.05), ("grain", 0.05))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """One classification scene.

    Attributes:
      image: the picture, uint8 [H W 3].
      shape: index into SHAPES.
      colour: index into COLOURS.
      texture: index into TEXTURES.
      style: index into STYLE_NAMES.
      box: (top, left, height, width) in pixels of the visible object.
      mask: where the object covers at least half of the pixel, bool [H W].
    """

    image: UInt8[np.ndarray, "H W 3"]
    shape: int
    colour: int
    texture: int
    style: int
    box: tuple[int, int, int, int]
    mask: Bool[np.ndarray, "H W"]

    @property
    def name(self) -> str:
        """Class name, for example "red striped ring"."""
        return attrs.class_name(self.shape, self.colour, self.texture)


def render_batch(
    seed: int,
    split: str,
    start: int,
    count: int,
    *,
    size: int = 64,
    styles: styles.StyleMix = PRETRAIN_STYLES,
    held_out: Collection[str] = frozenset(),
) -> dict[str, np.ndarray]:
    """Scenes start..start+count-1 of a split, with attributes drawn uniformly.

    Args:
      seed: seed of the world.
      split: name of the random stream, for example "pretrain".
      start: index of the first scene.
      count: number of scenes, B.
      size: side in pixels, S.
      styles: a style name, or (name, share) pairs.
      held_out: class names that never appear.

    Returns:
      image uint8 [B S S 3]; shape, colour, texture, style int32 [B]; mask bool [B S S].
    """
    return render_indices(
        seed,
        split,
        np.arange(start, start + count),
        size=size,
        style=styles,
        held_out=held_out,
    )


def render(
    seed: int,
    split: str,
    index: int,
    *,
    style: styles.StyleMix = PRETRAIN_STYLES,
    size: int = 64,
    attributes: tuple[int, int, int] | None = None,
) -> Scene:
    """Scene `index` of a split.

    Args:
      seed: seed of the world.
      split: name of the random stream.
      index: number of the scene.
      style: a style name, or (name, share) pairs.
      size: side in pixels.
      attributes: (shape, colour, texture) indices; None draws them.

    Returns:
      The scene; equal to row `index` of `render_batch` when attributes is None and the styles agree.
    """
    given = None if attributes is None else np.asarray([attributes], np.int32)
    batch = render_indices(
        seed, split, np.asarray([index]), size=size, style=style, attributes=given
    )
    mask = batch["mask"][0]
    return Scene(
        image=batch["image"][0],
        shape=int(batch["shape"][0]),
        colour=int(batch["colour"][0]),
        texture=int(batch["texture"][0]),
        style=int(batch["style"][0]),
        box=mask_box(mask),
        mask=mask,
    )


def render_indices(
    seed: int,
    split: str,
    index: Int[np.ndarray, "B"],
    *,
    size: int = 64,
    style: styles.StyleMix = PRETRAIN_STYLES,
    attributes: Int[np.ndarray, "B 3"] | None = None,
    held_out: Collection[str] = frozenset(),
) -> dict[str, np.ndarray]:
    """Scenes of any indices, in their order; see `render_batch` for the result.

    Args:
      seed: seed of the world.
      split: name of the random stream.
      index: numbers of the scenes.
      size: side in pixels.
      style: a style name, or (name, share) pairs.
      attributes: (shape, colour, texture) of every scene; None draws them.
      held_out: class names that are never drawn.

    Raises:
      ValueError: the size is below 8, an index is negative, an attribute is out of range or every class is held out.
    """
    index = np.asarray(index, np.int64)
    check_size_and_index(size, index)
    key = words.stream(seed, split)
    bits = words.words(key, index, _HEAD_SLOTS + _OBJECT_SLOTS + _BACKGROUND_SLOTS)
    u = words.uniform(bits)
    triples = (
        draw_attributes(u[:, 0], held_out) if attributes is None else check_attributes(attributes)
    )
    codes = styles.choose(style, u[:, 1])
    out = {
        "image": np.empty((len(index), size, size, 3), np.uint8),
        "shape": triples[:, 0],
        "colour": triples[:, 1],
        "texture": triples[:, 2],
        "style": codes,
        "mask": np.empty((len(index), size, size), bool),
    }
    chunk = max(1, _CHUNK_PIXELS // (size * size))
    order = np.lexsort((triples[:, 2], triples[:, 0]))
    for first in range(0, len(order), chunk):
        rows = order[first : first + chunk]
        noise = words.pixel_noise(bits[rows, 2], size)
        image = background(u[rows, _HEAD_SLOTS + _OBJECT_SLOTS :], noise, size)
        placed = u[rows, _HEAD_SLOTS : _HEAD_SLOTS + _OBJECT_SLOTS]
        distance = paint(image, placed, triples[rows], (0.20, 0.40), (0.24, 0.76))
        out["mask"][rows] = distance <= 0
        image = apply_styles(image, distance, noise, codes[rows], u[rows, 3])
        out["image"][rows] = quantise(image)
    return out


def draw_attributes(u: np.ndarray, held_out: Collection[str]) -> Int[np.ndarray, "B 3"]:
    """Uniform (shape, colour, texture) among the classes that are not held out."""
    for name in held_out:
        attrs.class_index(name)
    allowed = [
        triple
        for triple, name in zip(attrs.CLASS_ATTRIBUTES, attrs.CLASSES, strict=True)
        if name not in held_out
    ]
    if not allowed:
        raise ValueError(f"all {len(attrs.CLASSES)} classes are held out: nothing is left to draw")
    return np.asarray(allowed, np.int32)[(u * len(allowed)).astype(np.int64)]


def background(u: np.ndarray, noise: np.ndarray, size: int) -> np.ndarray:
    """Colour gradient between four dull corner colours, small grey distractors, fine noise: float32 [B 3 S S]."""
    x = ((np.arange(size) + 0.5) / size).astype(np.float32)
    across, down = x[None, None, None, :], x[None, None, :, None]
    # A common grey level, and a tint of its own for every corner.
    level = (0.1 + 0.4 * u[:, 0]).astype(np.float32)[:, None, None]
    corners = (level + 0.3 * (u[:, 1:13].astype(np.float32).reshape(-1, 3, 4) - _F(0.5)))[..., None]
    corners = corners[..., None]
    top = corners[:, :, 0] + (corners[:, :, 1] - corners[:, :, 0]) * across
    bottom = corners[:, :, 2] + (corners[:, :, 3] - corners[:, :, 2]) * across
    image = top + (bottom - top) * down
    for k in range(_DISTRACTORS):
        _distractor(image, u[:, 14 + 6 * k : 20 + 6 * k], x)
    image += noise * (0.02 + 0.06 * u[:, 13]).astype(np.float32)[:, None, None, None]
    return image


def _distractor(image: np.ndarray, u: np.ndarray, x: np.ndarray) -> None:
    size = len(x)
    v = u.astype(np.float32)[:, :, None, None]
    dx, dy = np.abs(x[None, None, :] - v[:, 0]), np.abs(x[None, :, None] - v[:, 1])
    width, height = _F(0.02) + _F(0.05) * v[:, 2], _F(0.02) + _F(0.05) * v[:, 3]
    box = np.maximum(dx - width, dy - height)
    disc = np.sqrt(dx * dx + dy * dy) - width
    cover = np.clip(_F(0.5) - np.where(v[:, 4] < 0.5, box, disc) * _F(size), _F(0), _F(1))
    grey = _F(0.15) + _F(0.6) * v[:, 5]
    for channel in range(3):
        plane = image[:, channel]
        plane += (grey - plane) * cover


def paint(
    image: np.ndarray,
    u: np.ndarray,
    triples: Int[np.ndarray, "B 3"],
    radii: tuple[float, float],
    centres: tuple[float, float],
) -> np.ndarray:
    """Draws one object into every image, in place.

    Args:
      image: float32 [B 3 S S].
      u: uniform numbers [B 12]: radius, centre, tilt, three jitters, texture angle, period, two phases.
      triples: (shape, colour, texture) of every object.
      radii: least and largest radius as fractions of the side.
      centres: least and largest coordinate of the centre as fractions of the side.

    Returns:
      Signed distance to the outline in pixels, float32 [B S S].
    """
    size = image.shape[-1]
    grid = ((np.arange(size) + 0.5) / size).astype(np.float32)
    distance = np.empty((len(u), size, size), np.float32)
    radius = radii[0] + (radii[1] - radii[0]) * u[:, 0]
    cx, cy = (centres[0] + (centres[1] - centres[0]) * u[:, k] for k in (1, 2))
    cos, sin = _turn(0.3 * u[:, 3] - 0.15)
    tex_cos, tex_sin = _turn(2 * u[:, 7] - 1)
    rate = 1.65 + 0.55 * u[:, 8]
    colour = np.asarray(attrs.PALETTE)[triples[:, 1]]
    colour = (colour + attrs.COLOUR_JITTER * (2 * u[:, 4:7] - 1)).astype(np.float32)
    column = dict(cos=cos / radius, sin=sin / radius, cx=cx, cy=cy, pixels=radius * size)
    column |= dict(tc=tex_cos * rate, ts=tex_sin * rate, p=u[:, 9], q=u[:, 10])
    column |= dict(period=radius * size / rate)
    column = {name: v.astype(np.float32)[:, None, None] for name, v in column.items()}
    for shape, texture in np.unique(triples[:, [0, 2]], axis=0):
        rows = np.flatnonzero((triples[:, 0] == shape) & (triples[:, 2] == texture))
        c = {name: v[rows] for name, v in column.items()}
        dx, dy = grid[None, None, :] - c["cx"], c["cy"] - grid[None, :, None]
        x, y = c["cos"] * dx + c["sin"] * dy, c["cos"] * dy - c["sin"] * dx
        away = shapes.distance(int(shape), x, y) * c["pixels"]
        a, b = c["tc"] * x + c["ts"] * y + c["p"], c["tc"] * y - c["ts"] * x + c["q"]
        tone = shapes.tone(int(texture), a, b, c["period"])
        cover = np.clip(_F(0.5) - away, _F(0), _F(1))
        for channel in range(3):
            plane = image[rows, channel]
            plane += (tone * colour[rows, channel][:, None, None] - plane) * cover
            image[rows, channel] = plane
        distance[rows] = away
    return distance


def _turn(half_tangent: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and sine of an angle given by the tangent of its half: rational, hence exact everywhere."""
    square = half_tangent * half_tangent
    return (1 - square) / (1 + square), 2 * half_tangent / (1 + square)


def apply_styles(image, distance, noise, codes, strength) -> np.ndarray:
    """Gives every image its style (`codes`, indices into STYLE_NAMES)."""
    for code in np.unique(codes):
        rows = np.flatnonzero(codes == code)
        style = styles.STYLES[styles.STYLE_NAMES[code]]
        # Noise of its own: the pixel noise read the other way round is not correlated with the background's.
        image[rows] = style(image[rows], distance[rows], noise[rows, :, ::-1, ::-1], strength[rows])
    return image


def quantise(image: np.ndarray) -> UInt8[np.ndarray, "B S S 3"]:
    """Float [B 3 S S] in [0, 1] to uint8 [B S S 3], clipped and rounded."""
    levels = np.clip(image, _F(0), _F(1)) * _F(255) + _F(0.5)
    return levels.astype(np.uint8).transpose(0, 2, 3, 1)


def mask_box(mask: Bool[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the true pixels; zeros when there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return (
        int(rows[0]),
        int(columns[0]),
        int(rows[-1] - rows[0] + 1),
        int(columns[-1] - columns[0] + 1),
    )


def check_size_and_index(size: int, index: np.ndarray) -> None:
    """Raises ValueError for a side below 8 pixels or a negative scene number."""
    if size < 8:
        raise ValueError(f"size is {size} pixels; expected at least 8")
    if len(index) and index.min() < 0:
        raise ValueError(f"scene index {index.min()} is negative; expected 0 or more")


def check_attributes(triples: np.ndarray) -> Int[np.ndarray, "B 3"]:
    """The attributes as int32 [B 3]; ValueError names every row out of range."""
    triples = np.asarray(triples, np.int32)
    limits = np.array([len(attrs.SHAPES), len(attrs.COLOURS), len(attrs.TEXTURES)], np.int32)
    bad = ((triples < 0) | (triples >= limits[None, :])).any(axis=1)
    if bad.any():
        raise ValueError(
            f"(shape, colour, texture) {triples[bad].tolist()} out of range; "
            f"expected indices below {limits.tolist()}"
        )
    return triples
