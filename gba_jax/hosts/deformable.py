"""Multi-scale deformable attention (Deformable DETR arXiv 2010.04159) in plain XLA: a bilinear gather per corner.

Every token looks at a few points around its own centre on every level, at places and with weights that it predicts.
Shapes: B images, N = sum of h w tokens of all levels (the coarsest first, each row by row), M heads of d channels, P
points a head and level. Places are (x, y) shares of width and height, as in `gba_jax.points`.
"""

import functools
import math
import operator
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from core_jax.nn import norm
from gba_jax import points as pts
from gba_jax.hosts.mask_layers import EPS, FeedForward, xavier

Sizes = Sequence[tuple[int, int]]


def centres(sizes: Sizes) -> Float[Array, "N 2"]:
    """Where the token of every pixel of every level lies in the picture."""
    found = []
    for height, width in sizes:
        y, x = np.mgrid[:height, :width]
        found.append(np.stack([(x + 0.5) / width, (y + 0.5) / height], axis=-1).reshape(-1, 2))
    return jnp.asarray(np.concatenate(found), jnp.float32)


def attend(
    values: Float[Array, "B N M d"],
    sizes: Sizes,
    places: Float[Array, "B N M levels P 2"],
    weights: Float[Array, "B N M levels P"],
) -> Float[Array, "B N M d"]:
    """The weighted sum of bilinear samples, zero outside a level, in float32.

    Args:
      values: what is sampled, all levels in a row.
      sizes: (h, w) of every level.
      places: where each token and head samples each level.
      weights: of the samples.
    """
    starts = np.cumsum([0, *(height * width for height, width in sizes)])
    found = (
        _attend_level(
            values[:, starts[i] : starts[i + 1]], size, places[:, :, :, i], weights[:, :, :, i]
        )
        for i, size in enumerate(sizes)
    )
    return functools.reduce(operator.add, found)


# The samples are as large as the values times 4 P: gathered again in the backward pass instead of kept.
@functools.partial(jax.checkpoint, static_argnums=1)
def _attend_level(
    values: Float[Array, "B n M d"],
    size: tuple[int, int],
    places: Float[Array, "B N M P 2"],
    weights: Float[Array, "B N M P"],
) -> Float[Array, "B N M d"]:
    batch, length, heads, count = weights.shape
    own = jnp.swapaxes(values, 1, 2)
    index, share = pts.corners(jnp.swapaxes(places, 1, 2), *size)
    share = share * jnp.swapaxes(weights, 1, 2)[..., None]
    total = jnp.zeros((batch, heads, length, values.shape[-1]), jnp.float32)
    for corner in range(4):
        rows = index[..., corner].reshape(batch, heads, length * count, 1)
        taken = jnp.take_along_axis(own, rows, axis=2, mode="clip").astype(jnp.float32)
        taken = taken.reshape(batch, heads, length, count, -1)
        total += jnp.sum(taken * share[..., corner, None], axis=3)
    return jnp.swapaxes(total, 1, 2)


class DeformableAttention(nn.Module):
    """The projections around `attend`; places and weights are predicted in float32.

    At the start every token looks at the same 8 (`heads`) directions around itself, 1 to P pixels away, evenly.
    """

    heads: int
    points: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, query: Float[Array, "B N E"], memory: Float[Array, "B N E"], sizes: Sizes
    ) -> Float[Array, "B N E"]:
        """What each token finds.

        Args:
          query: tokens with positions, from which places and weights are predicted.
          memory: tokens without positions, which are sampled.
          sizes: (h, w) of every level.
        """
        batch, length, width = memory.shape
        samples = (self.heads, len(sizes), self.points)
        dense = lambda name: nn.Dense(width, dtype=self.dtype, kernel_init=xavier, name=name)
        zero = nn.initializers.zeros
        offsets = nn.Dense(
            2 * math.prod(samples), kernel_init=zero, bias_init=_rays(samples), name="offsets"
        )(query.astype(jnp.float32))
        weights = nn.Dense(math.prod(samples), kernel_init=zero, name="weights")(
            query.astype(jnp.float32)
        )
        weights = jax.nn.softmax(weights.reshape(batch, length, self.heads, -1), axis=-1)
        # Offsets count pixels of the level they are taken from.
        pixels = jnp.asarray([(w, h) for h, w in sizes], jnp.float32)
        offsets = offsets.reshape(batch, length, *samples, 2) / pixels[None, None, None, :, None]
        places = centres(sizes)[None, :, None, None, None] + offsets
        values = dense("value")(memory).reshape(batch, length, self.heads, -1)
        found = attend(values, sizes, places, weights.reshape(batch, length, *samples))
        return dense("out")(found.reshape(memory.shape).astype(self.dtype))


class DeformableLayer(nn.Module):
    """A post-norm encoder layer: deformable attention, then the feed-forward network."""

    heads: int
    points: int
    feed_forward: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N E"], position: Float[Array, "#B N E"], sizes: Sizes
    ) -> Float[Array, "B N E"]:
        """The tokens of all levels, refined."""
        attention = DeformableAttention(self.heads, self.points, self.dtype, name="attention")
        x = norm("norm", EPS, self.dtype)(x + attention(x + position, x, sizes))
        return FeedForward(self.feed_forward, self.dtype, name="ffn")(x)


def _rays(samples: tuple[int, int, int]):
    """Offset biases: head i at angle 2 pi i / heads, of max-norm 1, times the number of the point."""
    heads, levels, count = samples

    def init(key, shape, dtype=jnp.float32):
        del key
        angle = 2.0 * np.pi * np.arange(heads) / heads
        ray = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        ray /= np.abs(ray).max(axis=-1, keepdims=True)
        step = np.arange(1, count + 1)
        bias = ray[:, None, None] * step[None, None, :, None]
        return jnp.asarray(np.broadcast_to(bias, (heads, levels, count, 2)).reshape(shape), dtype)

    return init
