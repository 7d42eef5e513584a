"""CLIP's ResNet image tower in Flax linen (arXiv 2103.00020, section 2.4), such as OpenAI's RN50.

Against a ResNet of `core_jax.nn`: a stem of three 3x3 convolutions, an average instead of a maximum, every stride an average
pool before a 1x1 convolution, and attention instead of average pooling at the end. `clip.load` opens such a model and
`clip.encode_image` applies it like any other, with fixed statistics; what only this tower has is here.

Parameters are the part "vision" of a model's: `{"trunk", "pool", "stats"}`; "stats" are the running statistics of the trunk,
which no gradient reaches. Shapes: B images, D embedding width, E channels of the last map, h and w its sides. Features come
back unnormalised; activations follow the dtype of the pixels.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.clip.config import ClipConfig, ResNetVisionConfig
from core_jax.nn import STATS, BatchNorm
from core_jax.nn.resnet import conv


class Bottleneck(nn.Module):
    """(B, h, w, E) to (B, h // stride, w // stride, 4 width); the stride is an average pool behind the 3x3 convolution."""

    width: int
    stride: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x, train):
        """Returns ReLU(F(x) + shortcut(x))."""
        y = x
        for i, (size, width) in enumerate(
            ((1, self.width), (3, self.width), (1, 4 * self.width)), 1
        ):
            y = _pool(y, self.stride) if i == 3 else y
            y = conv(f"conv{i}", width, size, 1, self.dtype)(y)
            y = BatchNorm(dtype=self.dtype, name=f"bn{i}")(y, train)
            y = jax.nn.relu(y) if i < 3 else y
        if self.stride > 1 or x.shape[-1] != 4 * self.width:
            x = conv("down", 4 * self.width, 1, 1, self.dtype)(_pool(x, self.stride))
            x = BatchNorm(dtype=self.dtype, name="down_bn")(x, train)
        return jax.nn.relu(x + y)


class Trunk(nn.Module):
    """(B, H, W, 3) normalised pixels to the last map (B, H / 32, W / 32, E)."""

    config: ResNetVisionConfig
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, pixels, train):
        """Returns the map before any pooling."""
        c, x = self.config, pixels
        for i, (width, stride) in enumerate(
            ((c.width // 2, 2), (c.width // 2, 1), (c.width, 1)), 1
        ):
            x = conv(f"conv{i}", width, 3, stride, self.dtype)(x)
            x = jax.nn.relu(BatchNorm(dtype=self.dtype, name=f"bn{i}")(x, train))
        x = _pool(x, 2)
        for stage, depth in enumerate(c.depths):
            for i in range(depth):
                stride = 2 if stage and not i else 1
                name = f"layer{stage + 1}_{i}"
                x = Bottleneck(c.width * 2**stage, stride, self.dtype, name=name)(x, train)
        return x


class AttentionPool(nn.Module):
    """The mean of the map asks, the mean and all places answer: (B, h, w, E) to (B, D)."""

    config: ResNetVisionConfig
    projection_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """Returns the image features."""
        c = self.config
        tokens = x.reshape(x.shape[0], -1, c.channels)
        tokens = jnp.concatenate([jnp.mean(tokens, axis=1, keepdims=True), tokens], axis=1)
        position = self.param(
            "position_embedding",
            nn.initializers.normal(c.channels**-0.5),
            (1 + c.grid**2, c.channels),
        )
        tokens = tokens + position.astype(self.dtype)[None]
        dense = lambda name: nn.Dense(c.channels, dtype=self.dtype, name=name)
        split = lambda y: y.reshape(*y.shape[:-1], c.heads, -1)
        query = split(dense("query")(tokens[:, 0])) * (c.channels // c.heads) ** -0.5
        key, value = split(dense("key")(tokens)), split(dense("value")(tokens))
        scores = jnp.einsum("bhd,bkhd->bhk", query, key).astype(jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhk,bkhd->bhd", weights, value).reshape(x.shape[0], c.channels)
        return nn.Dense(self.projection_dim, dtype=self.dtype, name="out")(mixed)


def init(config: ClipConfig, *, key: Array) -> dict:
    """Random parameters and fresh statistics of the image tower: `{"trunk", "pool", "stats"}`."""
    c = config.resnet
    trunk_key, pool_key = jax.random.split(key)
    pixels = jnp.zeros((1, c.image_size, c.image_size, 3), jnp.float32)
    place = jnp.zeros((1, c.grid, c.grid, c.channels), jnp.float32)
    trunk = jax.jit(Trunk(c, jnp.float32).init, static_argnums=2)(trunk_key, pixels, False)
    pool = AttentionPool(c, config.projection_dim, jnp.float32).init(pool_key, place)
    return {"trunk": trunk["params"], "pool": pool["params"], "stats": trunk[STATS]}


def image_map(
    params: dict, config: ClipConfig, pixels: Float[Array, "B H W 3"]
) -> Float[Array, "B h w E"]:
    """The last map of the image tower, before the attention pool: (B, 7, 7, 2048) of RN50 at 224 pixels.

    Args:
      params: as `clip.init` and `clip.load` give them; "trunk" and "stats" of "vision" are read.
      config: the model.
      pixels: normalised (`clip.normalise`), float32 or bfloat16, sides multiples of 32.

    Raises:
      ConfigError: the image tower is a ViT.
      ValueError: pixels of other sides.
    """
    return _trunk(params, config, pixels, train=False)


def train_map(
    params: dict, config: ClipConfig, pixels: Float[Array, "B H W 3"]
) -> tuple[Float[Array, "B h w E"], dict]:
    """`image_map` under the statistics of the batch, and what "stats" becomes: for a tower that is trained."""
    x, new = _trunk(params, config, pixels, train=True)
    return x, new[STATS]


def encode_map(params: dict, config: ClipConfig, x: Float[Array, "B h w E"]) -> Float[Array, "B D"]:
    """The image features of a map that `image_map` gave for pictures of the model's size: the attention pool."""
    pool: Any = AttentionPool(config.resnet, config.projection_dim, x.dtype)
    return pool.apply({"params": params["vision"]["pool"]}, x)


def _trunk(params: dict, config: ClipConfig, pixels: Array, *, train: bool) -> Any:
    if pixels.shape[1] % 32 or pixels.shape[2] % 32 or pixels.shape[3] != 3:
        raise ValueError(
            f"pixels have shape {pixels.shape}, but this tower takes RGB with sides that are multiples of 32: resize them"
        )
    vision = params["vision"]
    variables = {"params": vision["trunk"], STATS: vision["stats"]}
    mutable = [STATS] if train else False
    return Trunk(config.resnet, pixels.dtype).apply(variables, pixels, train, mutable=mutable)


def _pool(x: Array, size: int) -> Array:
    """The mean of every size x size square, which do not overlap."""
    if size == 1:
        return x
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height // size, size, width // size, size, channels)
    return jnp.mean(parts, axis=(2, 4))
