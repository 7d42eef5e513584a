"""The vision-driven fusion module of CLIP-DFENet (arXiv 2502.20128): CLIP's image map strengthens the extractor's.

    c = ReLU(BN(conv1(CLIP map)))    X the extractor's map before it becomes tokens, both F channels x L places

    affinity         Y = X + (softmax(s X X^T) + softmax(s sig(c) sig(c)^T)) X,  s = (F L)^-.5: which channels go together,
                     by the map itself and by CLIP; F x F, softmax over rows
    film             Y = (1 + gamma(c)) X + beta(c), one factor and one term a channel from the mean of c
    cross_attention  Y = X + softmax(q(X) k(c)^T F^-.5) v(c), one head, over places
    none             Y = X, and no CLIP

The first is that of a public later revision of the method; the paper's own formula is not public to us. Shapes: B faces, a
map of g x g places, F channels (32), E channels of CLIP's map.
"""

from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.nn import BatchNorm
from core_jax.nn.resnet import kaiming

Kind = Literal["affinity", "film", "cross_attention", "none"]
KINDS: tuple[str, ...] = ("affinity", "film", "cross_attention", "none")


def to_grid(clip_map: Float[Array, "B h w E"], side: int) -> Float[Array, "B g g E"]:
    """CLIP's map on the grid of the extractor's: mean of equal blocks where they fit, else bilinear.

    Args:
      clip_map: as the image tower gives it; 7 x 7 for RN50 and ViT-B/32, 14 x 14 for ViT-B/16.
      side: g.
    """
    batch, height, width, channels = clip_map.shape
    if height % side == 0 and width % side == 0:
        blocks = clip_map.reshape(batch, side, height // side, side, width // side, channels)
        return jnp.mean(blocks, axis=(2, 4))
    return jax.image.resize(clip_map, (batch, side, side, channels), "bilinear")


def affinity(x: Float[Array, "B g g F"], c: Float[Array, "B g g F"]) -> Float[Array, "B g g F"]:
    """`affinity` above; no parameters. The softmax is float32."""
    batch, height, width, channels = x.shape
    flat = x.reshape(batch, -1, channels)
    scale = (channels * height * width) ** -0.5

    def related(y: Array) -> Array:
        y = y.astype(jnp.float32)
        return jax.nn.softmax(scale * jnp.einsum("blf,blg->bfg", y, y), axis=-1)

    both = related(flat) + related(jax.nn.sigmoid(c.reshape(batch, -1, channels)))
    mixed = jnp.einsum("bfg,blg->blf", both.astype(x.dtype), flat)
    return x + mixed.reshape(x.shape)


class Fusion(nn.Module):
    """CLIP's map to c, and c into X; variables "params" and, for the norm, "batch_stats".

    Attributes:
      kind: how, except "none".
      width: F.
    """

    kind: str
    width: int
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        """The layers of `kind`."""
        width, dtype = self.width, self.dtype
        self.reduce_conv = nn.Conv(width, (1, 1), dtype=dtype, kernel_init=kaiming)
        self.reduce_bn = BatchNorm(dtype=dtype)
        if self.kind == "film":
            # Starts as the fusion that changes nothing.
            self.film = nn.Dense(2 * width, dtype=dtype, kernel_init=nn.initializers.zeros)
        if self.kind == "cross_attention":
            self.query = nn.Dense(width, dtype=dtype)
            self.key = nn.Dense(width, dtype=dtype)
            self.value = nn.Dense(width, dtype=dtype)

    def __call__(self, x: Array, clip_map: Array) -> Array:
        """X and CLIP's map to Y, with running statistics."""
        return self.join(x, self.reduce(to_grid(clip_map, x.shape[1]), False))

    def reduce(self, clip_map: Float[Array, "B g g E"], train: bool) -> Float[Array, "B g g F"]:
        """c; in training the running statistics move, which must then be mutable."""
        return jax.nn.relu(self.reduce_bn(self.reduce_conv(clip_map.astype(self.dtype)), train))

    def join(self, x: Float[Array, "B g g F"], c: Float[Array, "B g g F"]) -> Array:
        """Y, of the shape of X."""
        if self.kind == "affinity":
            return affinity(x, c)
        if self.kind == "film":
            gamma, beta = jnp.split(self.film(jnp.mean(c, axis=(1, 2)))[:, None, None], 2, axis=-1)
            return (1 + gamma) * x + beta
        flat = lambda y: y.reshape(y.shape[0], -1, self.width)
        query, key, value = self.query(flat(x)), self.key(flat(c)), self.value(flat(c))
        logits = jnp.einsum("blf,bmf->blm", query, key).astype(jnp.float32) * self.width**-0.5
        weights = jax.nn.softmax(logits, axis=-1).astype(value.dtype)
        return x + jnp.einsum("blm,bmf->blf", weights, value).reshape(x.shape)
