"""Segmentation scenes: two to five objects that may overlap, with semantic and instance maps and boxes.

A pure function of (seed, split, index), like the classification scenes. Label 0 is the background, label k + 1 the k-th
class of the given list; instance 0 is the background and the visible objects count from 1, from back to front.
"""

import dataclasses
from collections.abc import Collection

import numpy as np
from jaxtyping import Int, Int32, UInt8

from core_jax.world import attributes as attrs
from core_jax.world import compose, scenes, words
from core_jax.world import styles as looks
from core_jax.world.styles import StyleMix

BACKGROUND = "background"
MIN_OBJECTS, MAX_OBJECTS = 2, 5
_RADII, _CENTRES = (0.10, 0.22), (0.12, 0.88)
# An object with fewer visible pixels than this share of the picture is left out of maps and boxes.
_MIN_VISIBLE = 1 / 1024
# Words 0..3: number of objects, style, key of the pixel noise, strength; then the background; then class + placement.
_HEAD_SLOTS = 4
_PER_OBJECT = 1 + compose.OBJECT_SLOTS
_CHUNK_PIXELS = 16 * 64 * 64


@dataclasses.dataclass(frozen=True, kw_only=True)
class SceneObject:
    """One visible object of a scene.

    Attributes:
      name: class name.
      label: its number in the semantic map, from 1.
      instance: its number in the instance map, from 1.
      box: (top, left, height, width) of its visible pixels.
      area: number of its visible pixels.
    """

    name: str
    label: int
    instance: int
    box: tuple[int, int, int, int]
    area: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class SegmentationScene:
    """One scene with its maps.

    Attributes:
      image: the picture.
      semantic: label of every pixel, 0 for the background.
      instance: instance of every pixel, 0 for the background.
      objects: the visible objects, by instance.
      style: index into STYLE_NAMES.
    """

    image: UInt8[np.ndarray, "H W 3"]
    semantic: Int32[np.ndarray, "H W"]
    instance: Int32[np.ndarray, "H W"]
    objects: tuple[SceneObject, ...]
    style: int


def render_segmentation(
    seed: int,
    split: str,
    index: int,
    *,
    style: StyleMix = scenes.PRETRAIN_STYLES,
    size: int = 64,
    classes: tuple[str, ...] = attrs.CLASSES,
    among: Collection[str] | None = None,
) -> SegmentationScene:
    """Scene `index` of a split; see `render_segmentation_batch`."""
    return render_segmentation_batch(
        seed, split, np.asarray([index]), style=style, size=size, classes=classes, among=among
    )[0]


def render_segmentation_batch(
    seed: int,
    split: str,
    index: Int[np.ndarray, "B"],
    *,
    style: StyleMix = scenes.PRETRAIN_STYLES,
    size: int = 64,
    classes: tuple[str, ...] = attrs.CLASSES,
    among: Collection[str] | None = None,
) -> list[SegmentationScene]:
    """Scenes of the given indices, in their order.

    Args:
      seed: seed of the world.
      split: name of the random stream.
      index: numbers of the scenes.
      style: a style name, or (name, share) pairs.
      size: side in pixels.
      classes: names behind the labels; label k + 1 is classes[k].
      among: the classes that objects are drawn from, a part of `classes`; None draws from all of them.

    Raises:
      ValueError: `classes` is empty, repeats a name or holds one that is not of the world, or `among` is empty or not
        a part of it; see also `render_indices`.
    """
    index = np.asarray(index, np.int64)
    scenes.check_size_and_index(size, index)
    attrs.check_classes(classes)
    allowed = np.asarray(drawable(classes, among))
    slots = _HEAD_SLOTS + compose.BACKGROUND_SLOTS + MAX_OBJECTS * _PER_OBJECT
    bits = words.words(words.stream(seed, split, "segmentation"), index, slots)
    u = words.uniform(bits)
    codes = looks.choose(style, u[:, 1])
    chunk = max(1, _CHUNK_PIXELS // (size * size))
    out: list[SegmentationScene] = []
    for first in range(0, len(index), chunk):
        rows = slice(first, first + chunk)
        out.extend(_render_chunk(u[rows], bits[rows, 2], codes[rows], size, classes, allowed))
    return out


def drawable(classes: tuple[str, ...], among: Collection[str] | None) -> list[int]:
    """Positions in `classes` that objects may be drawn from, in their order.

    Raises:
      ValueError: `among` is empty or names a class that is not in `classes`.
    """
    if among is None:
        return list(range(len(classes)))
    missing = sorted(set(among) - set(classes))
    if missing or not among:
        raise ValueError(
            f"objects cannot be drawn from {missing or 'an empty list'}: expected some of the "
            f"{len(classes)} classes of the scenes"
        )
    return [k for k, name in enumerate(classes) if name in set(among)]


def _render_chunk(
    u: np.ndarray,
    noise_key: np.ndarray,
    codes: np.ndarray,
    size: int,
    classes: tuple[str, ...],
    allowed: np.ndarray,
) -> list[SegmentationScene]:
    noise = words.pixel_noise(noise_key, size)
    first_object = _HEAD_SLOTS + compose.BACKGROUND_SLOTS
    image = compose.background(u[:, _HEAD_SLOTS:first_object], noise, size)
    triples = np.asarray([attrs.CLASS_ATTRIBUTES[attrs.class_index(n)] for n in classes], np.int32)
    counts = MIN_OBJECTS + (u[:, 0] * (MAX_OBJECTS - MIN_OBJECTS + 1)).astype(np.int64)
    labels = np.zeros((len(u), MAX_OBJECTS), np.int64)
    drawn = np.zeros(image[:, 0].shape, np.int32)
    outline = np.full(drawn.shape, size, np.float32)
    for k in range(MAX_OBJECTS):
        rows = np.flatnonzero(counts > k)
        if not len(rows):
            break
        own = u[rows, first_object + k * _PER_OBJECT : first_object + (k + 1) * _PER_OBJECT]
        labels[rows, k] = allowed[(own[:, 0] * len(allowed)).astype(np.int64)]
        part = image[rows]
        distance = compose.paint(part, own[:, 1:], triples[labels[rows, k]], _RADII, _CENTRES)
        image[rows] = part
        drawn[rows] = np.where(distance <= 0, np.int32(k + 1), drawn[rows])
        # Inside, the new object hides the outlines behind it; outside, the nearest outline counts.
        nearer = (distance <= 0) | (np.abs(distance) < np.abs(outline[rows]))
        outline[rows] = np.where(nearer, distance, outline[rows])
    compose.apply_styles(image, outline, noise, codes, u[:, 3])
    pixels = compose.quantise(image)
    return [
        _scene(pixels[b], drawn[b], labels[b, : counts[b]], int(codes[b]), classes)
        for b in range(len(u))
    ]


def _scene(
    image: np.ndarray, drawn: np.ndarray, labels: np.ndarray, code: int, classes: tuple[str, ...]
) -> SegmentationScene:
    """Numbers the visible objects and makes the maps."""
    semantic, instance = np.zeros_like(drawn), np.zeros_like(drawn)
    objects: list[SceneObject] = []
    for k, label in enumerate(labels.tolist()):
        mask = drawn == k + 1
        area = int(mask.sum())
        if area < max(1.0, _MIN_VISIBLE * mask.size):
            continue
        number = len(objects) + 1
        semantic[mask], instance[mask] = label + 1, number
        objects.append(
            SceneObject(
                name=classes[label],
                label=label + 1,
                instance=number,
                box=compose.mask_box(mask),
                area=area,
            )
        )
    return SegmentationScene(
        image=image, semantic=semantic, instance=instance, objects=tuple(objects), style=code
    )
