"""OpenCLIP's ConvNeXt image tower in Flax linen, and the pure functions that apply it (arXiv 2212.07143).

Parameters are nested dicts `{"vision": {"trunk", "head"}, "text": ..., "logit_scale": ()}`; the text tower is that of
`core_jax.clip` with the same parameters (`encode_text(params, config.clip, ids)`). Shapes: B images, D embedding width, E
channels of the last stage. Features come back unnormalised; activations follow the dtype of the pixels.
"""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.clip import model
from core_jax.clip.openclip_config import OpenClipConfig
from core_jax.nn import ConvNeXt, Tap, norm, untouched


class Head(nn.Module):
    """LayerNorm and projection over the last axis: (..., E) to (..., D), for pooled features and single pixels alike."""

    kind: Literal["linear", "mlp"]
    projection_dim: int
    eps: float
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Returns the embedding, unnormalised."""
        x = norm("norm", self.eps, self.dtype)(x)
        if self.kind == "linear":
            return nn.Dense(
                self.projection_dim, use_bias=False, dtype=self.dtype, name="projection"
            )(x)
        x = nn.Dense(2 * self.projection_dim, dtype=self.dtype, name="fc1")(x)
        x = jax.nn.gelu(x, approximate=False)
        return nn.Dense(self.projection_dim, use_bias=False, dtype=self.dtype, name="fc2")(x)


def init(config: OpenClipConfig, *, key: Array) -> dict:
    """Random parameters for `config`; loading never falls back to it."""
    trunk_key, head_key, text_key = jax.random.split(key, 3)
    pixels = jnp.zeros((1, 32, 32, 3), jnp.float32)
    pooled = jnp.zeros((1, config.trunk.widths[-1]), jnp.float32)
    embedded = jnp.zeros((1, 2, config.text.width), jnp.float32)
    text = model.TextTower(config.text, config.projection_dim)
    return {
        "vision": {
            "trunk": ConvNeXt(config.trunk).init(trunk_key, pixels)["params"],
            "head": _head(config, jnp.float32).init(head_key, pooled)["params"],
        },
        "text": text.init(text_key, embedded, jnp.zeros(1, int))["params"],
        "logit_scale": jnp.asarray(2.6592, jnp.float32),
    }


def backbone(
    params: dict,
    config: OpenClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    tap: Tap = untouched,
) -> dict[str, Float[Array, "B h w E"]]:
    """The maps of the image tower's stages, NHWC, at strides 4, 8, 16 and 32.

    Args:
      params: as `init` or `load` give them.
      config: the model.
      pixels: normalised (`normalise` with `config.clip`), float32 or bfloat16, of any size from 32 x 32 on.
      tap: called on the output of each stage ("res2" to "res5"); the tower continues with what it returns.

    Returns:
      "res2" to "res5" after `tap`, and "res2/raw" to "res5/raw" before it.

    Raises:
      ValueError: pixels are too few, or `tap` changed the shape or type of a map.
    """
    trunk = ConvNeXt(config.trunk, pixels.dtype)
    return _apply(trunk, params["vision"]["trunk"], pixels, tap)


def project(
    params: dict, config: OpenClipConfig, features: Float[Array, "... E"]
) -> Float[Array, "... D"]:
    """CLIP's head on pooled features of the last stage, or on each pixel of its map (dense features); unnormalised."""
    return _apply(_head(config, features.dtype), params["vision"]["head"], features)


def encode_image(
    params: dict,
    config: OpenClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    tap: Tap = untouched,
) -> Float[Array, "B D"]:
    """Image features, unnormalised: the head on the mean of "res5". Arguments and errors as `backbone`'s."""
    maps = backbone(params, config, pixels, tap=tap)
    return project(params, config, jnp.mean(maps["res5"], axis=(1, 2)))


def _apply(module: nn.Module, params: dict, *args: Any) -> Any:
    # Flax types the result of `apply` as if variables might come back beside it.
    return module.apply({"params": params}, *args)


def _head(config: OpenClipConfig, dtype) -> Head:
    return Head(config.head, config.projection_dim, config.trunk.layer_norm_eps, dtype)
