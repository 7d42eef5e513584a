"""From queries to results: semantic, panoptic and instance maps (MaskFormer arXiv 2107.06278, Mask2Former 2112.01527).

A query is a probability for every class, void last, and the logits of one mask. Masks come at the host's own resolution
and are resized to the picture one query at a time, so that memory does not grow with Q H W. Pictures within 64 pixels and
masks within 16 cells share a compiled program.

Shapes: B images, Q queries, C classes (padded), (h, w) mask logits, (H, W) the picture.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

_MOST_INSTANCES = 100
# Programs are compiled for multiples of so many pixels of the picture and cells of the logits.
_SIDE, _CELLS = 64, 16

Size = tuple[int, int]


class Panoptic(NamedTuple):
    """A panoptic map: what `gba_jax.panoptic` counts.

    Attributes:
      segments: row of every pixel in the table, -1 where it belongs to nothing.
      classes: class of each row, -1 for rows without pixels.
      scores: probability of that class; the best query's where stuff was merged, 0 for rows without pixels.
    """

    segments: Int32[Array, "H W"]
    classes: Int32[Array, "Q"]
    scores: Float[Array, "Q"]


class Instances(NamedTuple):
    """Countable objects, which may overlap, the most probable first.

    Attributes:
      masks: where each is.
      classes: -1 for rows that are none.
      scores: probability of the class times the mean of the mask's sigmoid inside it, 0 for rows that are none.
    """

    masks: Bool[Array, "n H W"]
    classes: Int32[Array, "n"]
    scores: Float[Array, "n"]


def semantic(
    probabilities: Float[Array, "B Q C+1"], mask_logits: Float[Array, "B Q h w"]
) -> Float[Array, "B C h w"]:
    """How much of every class is seen at each place: s_c = sum_q p_qc sigmoid(mask_q).

    Args:
      probabilities: void last.
      mask_logits: at any resolution.

    Returns:
      float32 at the logits' resolution; several queries of one class may sum to more than 1 (clip where a score is shown).
    """
    return _weighted(probabilities[..., :-1], mask_logits)


def void_share(
    probabilities: Float[Array, "B Q C+1"], mask_logits: Float[Array, "B Q h w"]
) -> Float[Array, "B h w"]:
    """The same sum for void, sum_q p_q,void sigmoid(mask_q): what a background policy can compare the classes with."""
    return _weighted(probabilities[..., -1:], mask_logits)[:, 0]


def _weighted(weights: Array, mask_logits: Array) -> Array:
    inside = jax.nn.sigmoid(mask_logits.astype(jnp.float32))
    return jnp.einsum("bqc,bqhw->bchw", weights.astype(jnp.float32), inside, precision="highest")


def panoptic(
    probabilities: Float[Array, "Q C+1"],
    mask_logits: Float[Array, "Q h w"],
    is_thing: Bool[Array, "C"],
    size: Size,
    *,
    score: float = 0.0,
    overlap: float = 0.8,
) -> Panoptic:
    """One segment for each pixel at most: the queries compete, and those that lose most of their mask are dropped.

    1. Queries whose best class is void, or not more probable than `score`, are dropped.
    2. A pixel goes to the query with the largest probability times sigmoid, the first one of equals.
    3. A query whose pixels are less than `overlap` of the area its own sigmoid calls at least 0.5 is dropped; its pixels
       then belong to nothing.
    4. A segment is what is left of a query's pixels where its sigmoid is at least 0.5. Segments of one class that is not
       countable are merged.

    Args:
      probabilities: void last.
      mask_logits: at any resolution.
      is_thing: True for countable classes.
      size: (H, W) of the picture.
      score: see 1.
      overlap: see 3.
    """
    frame, logits = _framed(mask_logits, size)
    found = _panoptic(probabilities, logits, is_thing, frame, _ceiling(size), score, overlap)
    return found._replace(segments=found.segments[: size[0], : size[1]])


@functools.partial(jax.jit, static_argnames="ceiling")
def _panoptic(
    probabilities: Array,
    mask_logits: Array,
    is_thing: Array,
    frame: Array,
    ceiling: Size,
    score: float,
    overlap: float,
) -> Panoptic:
    queries, void = probabilities.shape[0], probabilities.shape[1] - 1
    best, label = jnp.max(probabilities, axis=-1), jnp.argmax(probabilities, axis=-1)
    kept = (label != void) & (best > score)
    resize, inside = _resizer(mask_logits.shape[1:], frame, ceiling)

    def compete(so_far: tuple, query: tuple) -> tuple[tuple, Array]:
        number, logits, weight, kept = query
        logits = resize(logits)
        covered = inside & (logits >= 0)
        value = jnp.where(kept, weight * jax.nn.sigmoid(logits), -1.0)
        value_so_far, owner, sure = so_far
        wins = value > value_so_far
        # The sigmoid is at least one half where the logit is at least 0.
        after = (
            jnp.maximum(value, value_so_far),
            jnp.where(wins, number, owner),
            jnp.where(wins, covered, sure),
        )
        return after, jnp.sum(covered, dtype=jnp.int32)

    rows = jnp.arange(queries, dtype=jnp.int32)
    nobody = jnp.full(ceiling, -1.0), jnp.full(ceiling, -1, jnp.int32), jnp.zeros(ceiling, bool)
    weights = best.astype(jnp.float32)
    (_, owner, sure), area = jax.lax.scan(compete, nobody, (rows, mask_logits, weights, kept))

    # Pixels without an owner, and those beside the picture, are counted in a row behind the last.
    owner = jnp.where((owner >= 0) & inside, owner, queries)
    count = lambda where: jnp.zeros(queries + 1, jnp.int32).at[owner].add(where.astype(jnp.int32))
    won, left = count(inside)[:-1], count(sure)[:-1]
    share = won.astype(jnp.float32) / jnp.maximum(area, 1).astype(jnp.float32)
    kept = kept & (left > 0) & (share >= overlap)

    thing = jnp.append(is_thing, False)[label]
    stuff = jnp.where(kept & ~thing, rows, queries)
    first = jnp.full(void + 1, queries, jnp.int32).at[label].min(stuff)
    row = jnp.where(kept, jnp.where(thing, rows, first[label]), queries)
    scores = jnp.zeros(queries + 1, jnp.float32).at[row].max(weights)[:-1]
    used = row == rows
    row = jnp.append(jnp.where(kept, row, -1), jnp.int32(-1))
    return Panoptic(
        segments=jnp.where(sure, row[owner], -1),
        classes=jnp.where(used, label.astype(jnp.int32), -1),
        scores=jnp.where(used, scores, 0.0),
    )


def instances(
    probabilities: Float[Array, "Q C+1"],
    mask_logits: Float[Array, "Q h w"],
    is_thing: Bool[Array, "C"],
    size: Size,
    *,
    most: int = _MOST_INSTANCES,
) -> Instances:
    """The most probable (query, class) pairs whose class is countable; one query may stand for several classes.

    The best `most` pairs of all classes are taken first, then those that are no things are dropped, as the public code does.

    Args:
      probabilities: void last.
      mask_logits: at any resolution.
      is_thing: True for countable classes.
      size: (H, W) of the picture.
      most: number of pairs n (fewer where there are fewer).
    """
    frame, logits = _framed(mask_logits, size)
    found = _instances(probabilities, logits, is_thing, frame, _ceiling(size), most)
    return found._replace(masks=found.masks[:, : size[0], : size[1]])


@functools.partial(jax.jit, static_argnames=("ceiling", "most"))
def _instances(
    probabilities: Array,
    mask_logits: Array,
    is_thing: Array,
    frame: Array,
    ceiling: Size,
    most: int,
) -> Instances:
    classes = probabilities.shape[1] - 1
    resize, inside = _resizer(mask_logits.shape[1:], frame, ceiling)
    pairs = probabilities[:, :-1].astype(jnp.float32).reshape(-1)
    best, place = jax.lax.top_k(pairs, min(most, pairs.shape[0]))
    query, label = place // classes, place % classes
    kept = is_thing[label] & (best > 0)

    def measure(query: Array) -> tuple[Array, Array]:
        logits = resize(mask_logits[query])
        mask = inside & (logits > 0)
        total = jnp.sum(jnp.where(mask, jax.nn.sigmoid(logits), 0.0))
        return mask, total / (jnp.sum(mask, dtype=jnp.float32) + 1e-6)

    masks, quality = jax.lax.map(measure, query)
    return Instances(
        masks=masks & kept[:, None, None],
        classes=jnp.where(kept, label.astype(jnp.int32), -1),
        scores=jnp.where(kept, best * quality, 0.0),
    )


def _ceiling(size: Size) -> Size:
    return -(-size[0] // _SIDE) * _SIDE, -(-size[1] // _SIDE) * _SIDE


def _framed(mask_logits: Array, size: Size) -> tuple[Float[Array, "4"], Float[Array, "Q k l"]]:
    """(rows and columns of the picture and of the logits, logits filled up to a multiple of cells)."""
    frame = jnp.asarray([*size, *mask_logits.shape[1:]], jnp.float32)
    fill = [(0, -cells % _CELLS) for cells in mask_logits.shape[1:]]
    return frame, jnp.pad(mask_logits.astype(jnp.float32), [(0, 0), *fill])


def _resizer(
    cells: tuple[int, ...], frame: Array, ceiling: Size
) -> tuple[Callable[[Float[Array, "k l"]], Float[Array, "H W"]], Bool[Array, "H W"]]:
    """The bilinear resize of framed logits to the frame's picture (no antialias), and where the picture is."""

    def weights(axis: int) -> Array:
        # Each pixel lies between two cells: a hat function of its distance from every cell.
        pixel, cell = (jnp.arange(n, dtype=jnp.float32) for n in (ceiling[axis], cells[axis]))
        own = frame[2 + axis]
        centre = jnp.clip((pixel + 0.5) * (own / frame[axis]) - 0.5, 0.0, own - 1.0)
        return jnp.maximum(1.0 - jnp.abs(centre[:, None] - cell[None]), 0.0)

    rows, columns = weights(0), weights(1)
    inside = [jnp.arange(ceiling[i], dtype=jnp.float32) < frame[i] for i in (0, 1)]
    return (
        lambda x: jnp.linalg.multi_dot([rows, x, columns.T], precision="highest"),
        inside[0][:, None] & inside[1][None],
    )
