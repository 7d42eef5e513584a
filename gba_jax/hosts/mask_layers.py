"""What both decoders of mask classification are made of (Mask2Former arXiv 2112.01527): post-norm layers and positions.

Shapes: B images, L tokens that ask, S tokens that answer, E = `width` channels, NHWC maps. Norms and softmax run in
float32, the rest in `dtype`. Attention and feed-forward kernels are xavier-uniform, biases zero; norms have eps 1e-5.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from core_jax.nn import norm

EPS = 1e-5
_TEMPERATURE = 10_000.0

xavier = nn.initializers.xavier_uniform()
# Convolutions start as in detectron2, bound sqrt(3 / fan-in); torch's linear layers start with a third of that variance,
# which keeps the first mask logits near zero, where the sigmoid has a slope.
conv_init = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
mlp_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class Attention(nn.Module):
    """Multi-head attention with four projections; the norm and the residual are `AttentionLayer`'s."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, query, key, value, visible=None):
        """(B, L, E) from query (B, L, E), key and value (B, S, E); `visible` (B, L, S) says who may see whom."""
        width = query.shape[-1]
        dense = lambda name: nn.Dense(width, dtype=self.dtype, kernel_init=xavier, name=name)
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, width // self.heads)
        mixed = jax.nn.dot_product_attention(
            split(dense("query")(query)),
            split(dense("key")(key)),
            split(dense("value")(value)),
            mask=None if visible is None else visible[:, None],
        )
        return dense("out")(mixed.reshape(query.shape))


class AttentionLayer(nn.Module):
    """LN(x + attention): positions are added to what asks and what is asked, never to what is answered."""

    heads: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B L E"],
        position: Float[Array, "#B L E"],
        memory: Float[Array, "B S E"] | None = None,
        memory_position: Float[Array, "#B S E"] | None = None,
        visible: Bool[Array, "B L S"] | None = None,
    ) -> Float[Array, "B L E"]:
        """Cross-attention to `memory`; self-attention where there is none."""
        if memory is None or memory_position is None:
            memory, memory_position = x, position
        mixed = Attention(self.heads, self.dtype, name="attention")(
            x + position, memory + memory_position, memory, visible
        )
        return norm("norm", EPS, self.dtype)(x + mixed)


class FeedForward(nn.Module):
    """LN(x + fc2(relu(fc1(x))))."""

    hidden: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... E"]:
        """The same shape."""
        y = nn.Dense(self.hidden, dtype=self.dtype, kernel_init=xavier, name="fc1")(x)
        y = nn.Dense(x.shape[-1], dtype=self.dtype, kernel_init=xavier, name="fc2")(jax.nn.relu(y))
        return norm("norm", EPS, self.dtype)(x + y)


class MLP(nn.Module):
    """Linear layers of these widths with ReLU between them."""

    widths: tuple[int, ...]
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "... E"]) -> Float[Array, "... D"]:
        """The last layer's output."""
        for i, width in enumerate(self.widths):
            x = jax.nn.relu(x) if i else x
            x = nn.Dense(width, dtype=self.dtype, kernel_init=mlp_init, name=f"fc_{i}")(x)
        return x


class NormedConv(nn.Module):
    """A convolution and a group norm.

    Attributes:
      width: channels of the output.
      groups: of the norm.
      size: 1 or 3, with "same" padding.
      use_bias: of the convolution.
    """

    width: int
    groups: int
    size: int = 1
    use_bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B h w E"]) -> Float[Array, "B h w width"]:
        """A map of the same size."""
        x = nn.Conv(
            self.width,
            (self.size, self.size),
            use_bias=self.use_bias,
            dtype=self.dtype,
            kernel_init=conv_init,
            name="conv",
        )(x)
        return nn.GroupNorm(
            self.groups, epsilon=EPS, dtype=self.dtype, use_fast_variance=False, name="norm"
        )(x)


def sine_positions(height: int, width: int, channels: int) -> Float[Array, "height width channels"]:
    """Sine positions of a grid (DETR arXiv 2005.12872), normalised to (0, 2 pi] along each axis.

    The first half of the channels tells the row, the second the column; in a half of n channels, channels 2i and 2i + 1
    are the sine and cosine of p / 10000^(2i / n), where the k-th of K rows has p = 2 pi (k + 1) / K.

    Args:
      height: rows.
      width: columns.
      channels: a multiple of 4.
    """
    half = channels // 2
    frequency = _TEMPERATURE ** (-2.0 * jnp.arange(half // 2, dtype=jnp.float32) / half)

    def axis(count: int) -> Array:
        place = 2.0 * math.pi * jnp.arange(1, count + 1, dtype=jnp.float32) / count
        angle = place[:, None] * frequency[None]
        return jnp.stack([jnp.sin(angle), jnp.cos(angle)], axis=-1).reshape(count, half)

    rows = jnp.broadcast_to(axis(height)[:, None], (height, width, half))
    columns = jnp.broadcast_to(axis(width)[None], (height, width, half))
    return jnp.concatenate([rows, columns], axis=-1)


def resize(x: Float[Array, "B h w E"], height: int, width: int) -> Float[Array, "B height width E"]:
    """Bilinear, half-pixel centres, no antialias."""
    shape = (x.shape[0], height, width, x.shape[3])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def positions(x: Float[Array, "B h w E"]) -> Float[Array, "1 h*w E"]:
    """The sine positions of a map's pixels in its dtype: one row of tokens for all images."""
    height, width = x.shape[1:3]
    return tokens(sine_positions(height, width, x.shape[-1])[None].astype(x.dtype))


def tokens(x: Float[Array, "B h w E"]) -> Float[Array, "B h*w E"]:
    """A map's pixels as a sequence, row by row."""
    return x.reshape(x.shape[0], -1, x.shape[-1])
