"""The layers that both towers of CLIP are made of (arXiv 2103.00020).

Shapes: L tokens, P prefix tokens, S prompt sets, C sentences. Norms and softmax run in float32, the rest in `dtype`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.clip.config import TextConfig, VisionConfig
from core_jax.nn import norm

ACTIVATIONS = {
    "quick_gelu": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class Attention(nn.Module):
    """Multi-head self-attention over (..., L, width), optionally causal, optionally behind a shared past."""

    heads: int
    causal: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, past=None):
        """Returns (output, (key, value)); `past` is the (key, value) of tokens that every row of x may see.

        x is (..., L, width) and past (S, P, heads, width / heads), where S is the leading axis of x: (S, C, L, width).
        """
        width = x.shape[-1]
        dense = functools.partial(nn.Dense, width, dtype=self.dtype)
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, width // self.heads)
        query = split(dense(name="query")(x)) * (width // self.heads) ** -0.5
        key, value = split(dense(name="key")(x)), split(dense(name="value")(x))
        scores = jnp.einsum("...qhd,...khd->...hqk", query, key).astype(jnp.float32)
        if self.causal:
            length = x.shape[-2]
            visible = jnp.tril(jnp.ones((length, length), bool))
            scores = jnp.where(visible, scores, jnp.finfo(jnp.float32).min)
        if past is None:
            weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
            mixed = jnp.einsum("...hqk,...khd->...qhd", weights, value)
        else:
            # One matrix product for all classes: the past is never copied per class.
            before = jnp.einsum("sclhd,sphd->schlp", query, past[0]).astype(jnp.float32)
            weights = jax.nn.softmax(jnp.concatenate([before, scores], -1), axis=-1)
            weights = weights.astype(self.dtype)
            count = before.shape[-1]
            mixed = jnp.einsum("schlp,sphd->sclhd", weights[..., :count], past[1])
            mixed += jnp.einsum("schlk,sckhd->sclhd", weights[..., count:], value)
        return dense(name="out")(mixed.reshape(x.shape)), (key, value)


class Block(nn.Module):
    """One pre-norm transformer block; returns (tokens, (key, value) of its attention)."""

    heads: int
    mlp_width: int
    activation: str
    eps: float
    causal: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, past=None):
        """As `Attention`: x is (..., L, width), `past` the keys and values that a shared prefix left here."""
        attention = Attention(self.heads, self.causal, self.dtype, name="attention")
        mixed, cache = attention(norm("norm1", self.eps, self.dtype)(x), past)
        return feed_forward(self, x + mixed), cache


def feed_forward(block: Block, x: Float[Array, "... L width"]) -> Float[Array, "... L width"]:
    """The second half of a block, x + FFN(LN2(x)): to be called inside the compact method of `block`."""
    hidden = nn.Dense(block.mlp_width, dtype=block.dtype, name="fc1")(
        norm("norm2", block.eps, block.dtype)(x)
    )
    hidden = ACTIVATIONS[block.activation](hidden)
    return x + nn.Dense(x.shape[-1], dtype=block.dtype, name="fc2")(hidden)


def make_block(
    c: VisionConfig | TextConfig, i: int, *, causal: bool, dtype, kind: type[Block] = Block
) -> Block:
    """Block number `i` of a tower."""
    return kind(
        c.heads, c.mlp_width, c.activation, c.layer_norm_eps, causal, dtype, name=f"block_{i}"
    )


def projection(width: int, dtype) -> nn.Dense:
    """The last linear map of a tower, into the shared embedding."""
    return nn.Dense(width, use_bias=False, dtype=dtype, name="projection")
