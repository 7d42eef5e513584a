"""CLIP with a ResNet image tower in Flax linen (arXiv 2103.00020, section 2.4), such as OpenAI's RN50.

Against a ResNet of `core_jax.nn`: a stem of three 3x3 convolutions, an average instead of a maximum, every stride an average
pool before a 1x1 convolution, and attention instead of average pooling at the end. Parameters are nested dicts
`{"vision": {"trunk", "pool"}, "stats": ..., "text": ..., "logit_scale": ()}`; "stats" are the running statistics of the trunk.
The text tower is that of `core_jax.clip` with the same parameters (`encode_text(params, config.clip, ids)`). Shapes: B images,
D embedding width, E channels of the last map, h and w its sides. Features come back unnormalised; activations follow the
dtype of the pixels.
"""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.clip import model
from core_jax.clip.config import OPENAI_MEAN, OPENAI_STD, ClipConfig, TextConfig
from core_jax.nn import STATS, BatchNorm
from core_jax.nn.resnet import conv

_TEXT = TextConfig(eos_token_id=2, pad_token_id=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetClipConfig:
    """Both towers; OpenAI's RN50 unless told otherwise.

    Attributes:
      depths: bottlenecks of the four stages.
      width: channels of the stem; the last map has 32 times as many.
      image_size: side of the pictures in pixels.
      text: the text tower, read where ids are largest.
      projection_dim: D.
      mean, std: pixel statistics.
    """

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64
    image_size: int = 224
    text: TextConfig = _TEXT
    projection_dim: int = 1024
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    @property
    def channels(self) -> int:
        """E, channels of the last map."""
        return 32 * self.width

    @property
    def heads(self) -> int:
        """Of the attention pool: 64 channels each."""
        return self.channels // 64

    @property
    def clip(self) -> ClipConfig:
        """Text tower, embedding width and pixel statistics, for the functions of `core_jax.clip` that need just these.

        `encode_text`, `embed_tokens`, `normalise`, ... take it; its image tower is not this model's.
        """
        return ClipConfig(
            text=self.text, projection_dim=self.projection_dim, mean=self.mean, std=self.std
        )


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

    config: ResNetClipConfig
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

    config: ResNetClipConfig
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
            (1 + (c.image_size // 32) ** 2, c.channels),
        )
        tokens = tokens + position.astype(self.dtype)[None]
        dense = lambda name: nn.Dense(c.channels, dtype=self.dtype, name=name)
        split = lambda y: y.reshape(*y.shape[:-1], c.heads, -1)
        query = split(dense("query")(tokens[:, 0])) * (c.channels // c.heads) ** -0.5
        key, value = split(dense("key")(tokens)), split(dense("value")(tokens))
        scores = jnp.einsum("bhd,bkhd->bhk", query, key).astype(jnp.float32)
        weights = jax.nn.softmax(scores, axis=-1).astype(self.dtype)
        mixed = jnp.einsum("bhk,bkhd->bhd", weights, value).reshape(x.shape[0], c.channels)
        return nn.Dense(c.projection_dim, dtype=self.dtype, name="out")(mixed)


def init(config: ResNetClipConfig, *, key: Array) -> dict:
    """Random parameters for `config`; loading never falls back to it."""
    trunk_key, pool_key, text_key = jax.random.split(key, 3)
    size = config.image_size
    pixels = jnp.zeros((1, size, size, 3), jnp.float32)
    place = jnp.zeros((1, size // 32, size // 32, config.channels), jnp.float32)
    embedded = jnp.zeros((1, 2, config.text.width), jnp.float32)
    trunk = jax.jit(Trunk(config, jnp.float32).init, static_argnums=2)(trunk_key, pixels, False)
    text = model.TextTower(config.text, config.projection_dim)
    return {
        "vision": {
            "trunk": trunk["params"],
            "pool": AttentionPool(config, jnp.float32).init(pool_key, place)["params"],
        },
        "stats": trunk[STATS],
        "text": text.init(text_key, embedded, jnp.zeros(1, int))["params"],
        "logit_scale": jnp.asarray(2.6592, jnp.float32),
    }


def image_map(
    params: dict, config: ResNetClipConfig, pixels: Float[Array, "B H W 3"]
) -> Float[Array, "B h w E"]:
    """The last map of the image tower, before the attention pool: (B, 7, 7, 2048) of RN50 at 224 pixels.

    Args:
      params: as `init` or `resnet_weights.load` give them; "vision" and "stats" are read.
      config: the model.
      pixels: normalised (`normalise` with `config`'s mean and std), float32 or bfloat16, sides multiples of 32.

    Raises:
      ValueError: pixels of other sides.
    """
    return _trunk(params, config, pixels, train=False)


def train_map(
    params: dict, config: ResNetClipConfig, pixels: Float[Array, "B H W 3"]
) -> tuple[Float[Array, "B h w E"], dict]:
    """`image_map` under the statistics of the batch, and what "stats" becomes: for a tower that is trained."""
    x, new = _trunk(params, config, pixels, train=True)
    return x, new[STATS]


def encode_image(
    params: dict, config: ResNetClipConfig, pixels: Float[Array, "B H W 3"]
) -> Float[Array, "B D"]:
    """Image features, unnormalised: the attention pool on `image_map`.

    Raises:
      ValueError: pixels of another size than `config.image_size`, which the positions of the pool were made for.
    """
    size = config.image_size
    if pixels.shape[1:] != (size, size, 3):
        raise ValueError(
            f"pixels have shape {pixels.shape}, but this model takes (B, {size}, {size}, 3): resize them"
        )
    return pool(params, config, image_map(params, config, pixels))


def pool(params: dict, config: ResNetClipConfig, x: Float[Array, "B h w E"]) -> Float[Array, "B D"]:
    """The image features of a map that `image_map` gave."""
    features: Any = AttentionPool(config, x.dtype).apply({"params": params["vision"]["pool"]}, x)
    return features


def _trunk(params: dict, config: ResNetClipConfig, pixels: Array, *, train: bool) -> Any:
    if pixels.shape[1] % 32 or pixels.shape[2] % 32 or pixels.shape[3] != 3:
        raise ValueError(
            f"pixels have shape {pixels.shape}, but this tower takes RGB with sides that are multiples of 32: resize them"
        )
    variables = {"params": params["vision"]["trunk"], STATS: params["stats"]}
    mutable = [STATS] if train else False
    return Trunk(config, pixels.dtype).apply(variables, pixels, train, mutable=mutable)


def _pool(x: Array, size: int) -> Array:
    """The mean of every size x size square, which do not overlap."""
    if size == 1:
        return x
    batch, height, width, channels = x.shape
    parts = x.reshape(batch, height // size, size, width // size, size, channels)
    return jnp.mean(parts, axis=(2, 4))
