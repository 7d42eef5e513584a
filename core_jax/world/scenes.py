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
from core_jax.world import compose, words
from core_jax.world import styles as looks
from core_jax.world.styles import StyleMix

# Scenes rendered together: enough to hide numpy's overhead, few enough to stay in the cache at 64 px.
_CHUNK_PIXELS = 16 * 64 * 64
# Words 0..3 of a scene: attributes, style, key of the pixel noise, strength of the style.
_HEAD_SLOTS = 4
PRETRAIN_STYLES: StyleMix = (("clean", 0.9), ("sketch", 0.05), ("grain", 0.05))


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
    styles: StyleMix = PRETRAIN_STYLES,
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
    style: StyleMix = PRETRAIN_STYLES,
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
        box=compose.mask_box(mask),
        mask=mask,
    )


def render_indices(
    seed: int,
    split: str,
    index: Int[np.ndarray, "B"],
    *,
    size: int = 64,
    style: StyleMix = PRETRAIN_STYLES,
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
    bits = words.words(key, index, _HEAD_SLOTS + compose.OBJECT_SLOTS + compose.BACKGROUND_SLOTS)
    u = words.uniform(bits)
    triples = (
        draw_attributes(u[:, 0], held_out) if attributes is None else check_attributes(attributes)
    )
    codes = looks.choose(style, u[:, 1])
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
        image = compose.background(u[rows, _HEAD_SLOTS + compose.OBJECT_SLOTS :], noise, size)
        placed = u[rows, _HEAD_SLOTS : _HEAD_SLOTS + compose.OBJECT_SLOTS]
        distance = compose.paint(image, placed, triples[rows], (0.20, 0.40), (0.24, 0.76))
        out["mask"][rows] = distance <= 0
        compose.apply_styles(image, distance, noise, codes[rows], u[rows, 3])
        out["image"][rows] = compose.quantise(image)
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


def check_size_and_index(size: int, index: np.ndarray) -> None:
    """Raises ValueError for a side below 8 pixels or a negative scene number."""
    if size < 8:
        raise ValueError(f"size is {size} pixels; expected at least 8")
    if len(index) and index.min() < 0:
        raise ValueError(f"scene index {index.min()} is negative; expected 0 or more")


def check_arguments(size: int, styles: StyleMix) -> None:
    """Raises ValueError for a side or a mix of styles that cannot be rendered."""
    check_size_and_index(size, np.zeros(0, np.int64))
    looks.choose(styles, np.zeros(0))


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
