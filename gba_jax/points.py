"""Reading maps at points: bilinear samples of logits and of segment ids, and PointRend's choice of points.

Mask losses are taken at points instead of at all pixels (PointRend arXiv 1912.08193, Mask2Former arXiv 2112.01527).
Points are (x, y) shares of the width and height, so logits and labels of different sizes are read at the same places:
(0, 0) is the picture's outer corner and pixel (i, j) has its centre at ((j + 0.5) / W, (i + 0.5) / H). Outside the
picture a map is zero. Shapes: B images, G segment slots, P points.
"""

import functools
import operator

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32


def corners(
    points: Float[Array, "*lead P 2"], height: int, width: int
) -> tuple[Int32[Array, "*lead P 4"], Float[Array, "*lead P 4"]]:
    """The four pixels around each point, as flat indices, and their bilinear weights (0 outside the picture)."""
    x, y = points[..., 0] * width - 0.5, points[..., 1] * height - 0.5
    left, top = jnp.floor(x), jnp.floor(y)
    down, right = y - top, x - left
    index, weight = [], []
    for row, row_share in ((top, 1.0 - down), (top + 1.0, down)):
        for column, column_share in ((left, 1.0 - right), (left + 1.0, right)):
            share = row_share * column_share
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight.append(jnp.where(inside, share, 0.0))
            i = jnp.clip(row, 0, height - 1).astype(jnp.int32)
            index.append(i * width + jnp.clip(column, 0, width - 1).astype(jnp.int32))
    return jnp.stack(index, axis=-1), jnp.stack(weight, axis=-1)


def sample(
    maps: Float[Array, "*lead H W"], points: Float[Array, "*lead P 2"]
) -> Float[Array, "*lead P"]:
    """Bilinear samples in float32: torch's `grid_sample(align_corners=False)` with zeros outside.

    Args:
      maps: the maps, differentiable.
      points: the points of each map; a leading axis of size 1 shares them, as (B, 1, P, 2) for (B, Q, H, W).

    Returns:
      One value a point.
    """
    height, width = maps.shape[-2:]
    flat = maps.reshape(*maps.shape[:-2], height * width)
    index, weight = corners(points, height, width)
    # Corner by corner: the four values of all points need not be in memory at once.
    values = (
        jnp.take_along_axis(flat, index[..., k], axis=-1, mode="clip").astype(jnp.float32)
        * weight[..., k]
        for k in range(4)
    )
    return functools.reduce(operator.add, values)


def sample_segments(
    segments: Int32[Array, "B H W"], points: Float[Array, "B K P 2"], slots: int
) -> Float[Array, "B G P"]:
    """What `sample` would give on the mask of every segment, without any (G, H, W) mask.

    A mask is 0 or 1, so its bilinear value at a point is the weight of those of the 4 neighbours that carry its id.

    Args:
      segments: slot of every pixel, -1 for none.
      points: K = 1 for points that all segments of an image share, K = G for points of their own.
      slots: G.

    Returns:
      Values in [0, 1] without gradient.
    """
    batch, height, width = segments.shape
    index, weight = corners(points, height, width)
    flat = segments.reshape(batch, 1, height * width)
    slot = jnp.arange(slots, dtype=jnp.int32)[None, :, None]
    values = (
        jnp.where(
            jnp.take_along_axis(flat, index[..., k], axis=-1, mode="clip") == slot,
            weight[..., k],
            0.0,
        )
        for k in range(4)
    )
    return jax.lax.stop_gradient(functools.reduce(operator.add, values))


def uncertain_points(
    maps: Float[Array, "*lead H W"],
    count: int,
    *,
    oversample: float = 3.0,
    importance: float = 0.75,
    key: Array,
) -> Float[Array, "*lead P 2"]:
    """PointRend's training points: mostly where a mask logit is near zero, the rest anywhere.

    Args:
      maps: mask logits; no gradient passes.
      count: P, points a map.
      oversample: uniform candidates for each point.
      importance: share of the points that are the candidates with the smallest |logit|; the others are fresh uniform
        ones.
      key: of the candidates and of the others.

    Returns:
      Points in [0, 1).

    Raises:
      ValueError: fewer candidates than important points, or a share outside [0, 1].
    """
    candidates, important = int(count * oversample), int(importance * count)
    if not 0 <= important <= min(count, candidates):
        raise ValueError(
            f"{important} of {count} points (importance={importance}) out of {candidates} candidates "
            f"(oversample={oversample}): expected importance in [0, 1] and oversample >= importance"
        )
    maps = jax.lax.stop_gradient(maps)
    first, second = jax.random.split(key)
    lead = maps.shape[:-2]
    drawn = jax.random.uniform(first, (*lead, candidates, 2))
    _, best = jax.lax.top_k(-jnp.abs(sample(maps, drawn)), important)
    chosen = jnp.take_along_axis(drawn, best[..., None], axis=-2)
    return jnp.concatenate(
        [chosen, jax.random.uniform(second, (*lead, count - important, 2))], axis=-2
    )
