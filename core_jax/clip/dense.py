"""Dense features of CLIP's ViT without training: MaskCLIP (arXiv 2112.01071).

The last block does not mix tokens: each patch keeps the value it would give to others, v = W_o (W_v LN1(x) + b_v) + b_o.
What then leaves the block is, by `mode`,

    residual    u + FFN(LN2(u)) with u = x + v        (the public ViT variant)
    cls         the same with u = x_class + v         (CAT-Seg, arXiv 2303.11797)
    value_only  v                                     (the paper)

where x is what enters the block. The final norm and the projection, which CLIP applies to its class token alone, are
applied to every patch. The parameters are those of the image tower, under the same names.

Shapes: B images, N patches on a grid (h, w), D embedding width.
"""

from typing import Any, Literal, overload

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from core_jax.clip import model
from core_jax.clip.config import ClipConfig
from core_jax.clip.layers import Block, feed_forward, make_block, projection
from core_jax.nn import Tap, norm, untouched

MODES = ("residual", "value_only", "cls")
Mode = Literal["residual", "value_only", "cls"]


class Values(nn.Module):
    """`Attention` in which every token sees itself alone: (B, L, width) to (its output, its keys)."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """Returns (W_o (W_v x + b_v) + b_o, W_k x + b_k)."""
        dense = lambda name: nn.Dense(x.shape[-1], dtype=self.dtype, name=name)
        return dense("out")(dense("value")(x)), dense("key")(x)


class UnmixedBlock(Block):
    """The last block as the module's docstring has it, on the parameters of `Block`."""

    @nn.compact
    def __call__(self, x, mode):
        """Tokens (B, 1 + N, width), class token first, to (patches (B, N, width), their keys (B, N, width))."""
        patches = x[:, 1:]
        values, keys = Values(self.dtype, name="attention")(
            norm("norm1", self.eps, self.dtype)(patches)
        )
        if mode == "value_only":
            return values, keys
        return feed_forward(self, values + (x[:, :1] if mode == "cls" else patches)), keys


class DenseTower(model.VisionTower):
    """The image tower with an unmixed last block: (B, H, W, 3) to (what leaves the blocks by name, the last keys)."""

    mode: Mode = "residual"

    @nn.compact
    def __call__(self, pixels, tap=untouched):
        """Calls `tap` on the tokens of every block but the last, and on the map of the last as "dense"."""
        c, last, maps = self.config, self.config.layers - 1, {}

        def noted(name, x):
            maps[f"{name}/raw"], maps[name] = x, tap(name, x)
            return maps[name]

        x, _ = self.through(self.enter(pixels), last, noted)
        block = make_block(c, last, causal=False, dtype=self.dtype, kind=UnmixedBlock)
        on_grid = lambda tokens: tokens.reshape(-1, c.grid, c.grid, c.width)
        x, keys = map(on_grid, block(x, self.mode))
        noted("dense", x)
        return maps, keys


class Head(nn.Module):
    """CLIP's final norm and projection, which it applies to its class token alone, on any features (..., width)."""

    eps: float
    projection_dim: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x):
        """Returns (..., D)."""
        x = norm("post_norm", self.eps, self.dtype)(x)
        return projection(self.projection_dim, self.dtype)(x)


def dense_maps(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    mode: Mode = "residual",
    tap: Tap = untouched,
) -> dict[str, Float[Array, "B ... width"]]:
    """What leaves the blocks of the image tower, for decoders: "dense" alone is a map (B, h, w, width).

    Args:
      params: as `init` or `load` give them.
      config: the model; `pixels` must have its image size.
      pixels: as for `encode_dense`.
      mode: as for `encode_dense`.
      tap: as for `encode_dense`.

    Returns:
      "block_0" to the last but one as tokens (B, 1 + N, width), class token first, and "dense", before the head
      (`project_dense`); each after `tap`, and as "block_0/raw", ... before it.

    Raises:
      ValueError: an unknown mode, or pixels of another size than `config.vision.image_size`.
    """
    return _tower(params, config, pixels, mode, tap)[0]


def project_dense(
    params: dict, config: ClipConfig, features: Float[Array, "... width"]
) -> Float[Array, "... D"]:
    """CLIP's head on each pixel of "dense", or on means of such pixels; unnormalised."""
    head: Any = Head(config.vit.layer_norm_eps, config.projection_dim, features.dtype)
    inside = {name: params["vision"][name] for name in ("post_norm", "projection")}
    return head.apply({"params": inside}, features)


@overload
def encode_dense(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    mode: Mode = "residual",
    tap: Tap = untouched,
    keys: Literal[False] = False,
) -> Float[Array, "B h w D"]: ...


@overload
def encode_dense(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    mode: Mode = "residual",
    tap: Tap = untouched,
    keys: Literal[True],
) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w width"]]: ...


def encode_dense(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    mode: Mode = "residual",
    tap: Tap = untouched,
    keys: bool = False,
) -> Float[Array, "B h w D"] | tuple[Float[Array, "B h w D"], Float[Array, "B h w width"]]:
    """One feature a patch in CLIP's shared embedding, unnormalised.

    Args:
      params: as `init` or `load` give them.
      config: the model; `pixels` must have its image size.
      pixels: normalised (`normalise`), float32 or bfloat16, which is also what the tower computes in.
      mode: what leaves the last block: "residual", "value_only" or "cls"; see the module's docstring.
      tap: called with "block_0", ... and the tokens (B, 1 + N, width) that leave each block but the last, and with
        "dense" and the map (B, h, w, width) of the last; the tower continues with what it returns.
      keys: also return the last block's keys of the patches, all heads side by side.

    Raises:
      ValueError: an unknown mode, or pixels of another size than `config.vision.image_size`.
    """
    maps, last_keys = _tower(params, config, pixels, mode, tap)
    features = project_dense(params, config, maps["dense"])
    return (features, last_keys) if keys else features


def _tower(params: dict, config: ClipConfig, pixels: Array, mode: Mode, tap: Tap) -> Any:
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    model.check_pixels(config, pixels.shape)
    tower: Any = DenseTower(config.vit, config.projection_dim, pixels.dtype, mode)
    return tower.apply({"params": params["vision"]}, pixels, tap)
