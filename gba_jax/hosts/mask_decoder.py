"""The masked-attention decoder and its head (Mask2Former arXiv 2112.01527, FC-CLIP arXiv 2308.02487).

Learned queries read the levels of the pixel decoder in turn, each query only where its own last mask is. The same head
predicts from the learned queries and after every layer. Shapes: B images, Q queries, E = `width` channels, (h, w) the
mask features, C classes and V rows (padded), D the text width.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from core_jax.clip import unit
from core_jax.nn import norm
from gba_jax.hosts.mask_layers import (
    EPS,
    MLP,
    AttentionLayer,
    FeedForward,
    positions,
    tokens,
    xavier,
)
from gba_jax.hosts.pixel_decoder import PixelMaps
from gba_jax.vocabulary import TextRows, class_logits

Output = tuple[Float[Array, "B Q C+1"], Float[Array, "B Q h w"]]

_LARGEST_SCALE = 100.0
_SMALLEST_AREA = 1e-8


class MaskDecoder(nn.Module):
    """Queries, layers and head.

    Attributes:
      queries: Q.
      layers: each a masked cross-attention, a self-attention and a feed-forward network, post-norm.
      heads, feed_forward: of the layers.
    """

    queries: int
    layers: int
    heads: int
    feed_forward: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, maps: PixelMaps, text: TextRows, void: Float[Array, "D"]
    ) -> tuple[Output, ...]:
        """(class logits, mask logits) of the learned queries and after every layer, the last being the result.

        Args:
          maps: as the pixel decoder gives them.
          text: the vocabulary.
          void: the unit row of "no object".
        """
        batch, width = maps.features.shape[0], maps.features.shape[-1]
        table = lambda name, count: self.param(
            name, nn.initializers.normal(1.0), (count, width)
        ).astype(self.dtype)
        level = table("level", len(maps.levels))
        memory = [tokens(x) + level[i][None, None] for i, x in enumerate(maps.levels)]
        where = [positions(x) for x in maps.levels]
        position = table("position", self.queries)[None]
        x = jnp.broadcast_to(table("query", self.queries)[None], (batch, self.queries, width))
        head = Head(text.rows.shape[1], self.dtype, name="head")
        outputs = [head(x, maps.features, text, void)]
        for i in range(self.layers):
            turn = i % len(maps.levels)
            mask = visible(outputs[-1][1], *maps.levels[turn].shape[1:3])
            x = AttentionLayer(self.heads, self.dtype, name=f"cross_{i}")(
                x, position, memory[turn], where[turn], mask
            )
            x = AttentionLayer(self.heads, self.dtype, name=f"self_{i}")(x, position)
            x = FeedForward(self.feed_forward, self.dtype, name=f"ffn_{i}")(x)
            outputs.append(head(x, maps.features, text, void))
        return tuple(outputs)


class Head(nn.Module):
    """Class and mask of every query: masks are products with the mask features, classes cosines with the text rows.

    A query's class vector is made of its own features and of the mask features' mean inside its mask.
    """

    embedding: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        query: Float[Array, "B Q E"],
        features: Float[Array, "B h w E"],
        text: TextRows,
        void: Float[Array, "D"],
    ) -> Output:
        """Float32 logits: classes with void last and masked classes at -inf, masks at the features' size."""
        width = query.shape[-1]
        o = norm("norm", EPS, self.dtype)(query)
        mask = MLP((width, width, width), self.dtype, name="mask")(o)
        mask_logits = jnp.einsum(
            "bqe,bhwe->bqhw", mask, features, preferred_element_type=jnp.float32
        )
        # Comparing stops the gradient, as is meant: what is pooled does not move the mask.
        inside = (mask_logits > 0).astype(self.dtype)
        area = jnp.sum(inside, axis=(2, 3), dtype=jnp.float32)
        pooled = jnp.einsum(
            "bqhw,bhwe->bqe", inside, features, preferred_element_type=jnp.float32
        ) / (area[..., None] + _SMALLEST_AREA)
        pooled = norm("pool_norm", EPS, self.dtype)(pooled)
        pooled = nn.Dense(width, dtype=self.dtype, kernel_init=xavier, name="pool")(pooled)
        word = MLP((width, width, self.embedding), self.dtype, name="class")(pooled + o)
        word = unit(word.astype(jnp.float32))
        s = self.param("scale", nn.initializers.constant(math.log(1 / 0.07)), ())
        scale = jnp.minimum(jnp.exp(s), _LARGEST_SCALE)
        known = class_logits(scale * (word @ text.rows.T), text)
        return jnp.concatenate([known, scale * (word @ void)[..., None]], axis=-1), mask_logits


def visible(
    mask_logits: Float[Array, "B Q h w"], height: int, width: int
) -> Bool[Array, "B Q height*width"]:
    """Which pixels of a level each query may read: those inside its mask, or all where the mask is empty.

    Args:
      mask_logits: of the last prediction; inside means a probability of at least 0.5 after resizing. No gradient passes.
      height: of the level.
      width: of the level.
    """
    batch, queries = mask_logits.shape[:2]
    small = jax.image.resize(
        mask_logits, (batch, queries, height, width), "bilinear", antialias=False
    )
    inside = (small >= 0).reshape(batch, queries, -1)
    return inside | ~jnp.any(inside, axis=-1, keepdims=True)
