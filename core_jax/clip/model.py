"""CLIP's two towers in Flax linen, and the pure functions that apply them (arXiv 2103.00020).

The image tower is a ViT, written here, or a ResNet (`resnet_model`). Parameters are nested dicts
`{"vision": ..., "text": ..., "logit_scale": ()}`. Shapes: B images, C sentences, L tokens, N patches, M learned tokens, D
embedding width, d text token width, P prefix tokens, S prompt sets. Features come back unnormalised. Activations follow the
dtype of `pixels` and of the token embeddings; norms and softmax run in float32.
"""

from typing import Any, Literal, overload

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from core_jax.clip import resnet_model
from core_jax.clip.config import (
    ClipConfig,
    ConfigError,
    ResNetVisionConfig,
    TextConfig,
    VisionConfig,
)
from core_jax.clip.layers import make_block, projection
from core_jax.nn import Tap, norm, untouched

_SMALLEST_SQUARE = 1e-24

# The keys and values that a prefix left in every block of the text tower.
Past = tuple[tuple[Float[Array, "S P H h"], Float[Array, "S P H h"]], ...]


class VisionTower(nn.Module):
    """ViT with a class token: (B, H, W, 3) normalised pixels to (B, D)."""

    config: VisionConfig
    projection_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, pixels, keep=None, tap=untouched, prompts=None):
        """Returns (features, the tokens that leave every block, after `tap`); `keep`, `prompts`: see `enter`."""
        c = self.config
        x, taps = self.through(self.enter(pixels, keep, prompts), c.layers, tap)
        pooled = norm("post_norm", c.layer_norm_eps, self.dtype)(x[:, 0])
        return projection(self.projection_dim, self.dtype)(pooled), taps

    @nn.nowrap
    def enter(self, pixels, keep=None, prompts=None):
        """The tokens that enter the first block: class token, patches, prompts.

        `keep` (B, K) drops all other patches; `prompts` (M, width) have no positions.
        """
        c = self.config
        patch = (c.patch_size, c.patch_size)
        x = nn.Conv(c.width, patch, patch, "VALID", use_bias=False, dtype=self.dtype, name="patch")(
            pixels
        )
        x = x.reshape(x.shape[0], -1, c.width)
        first = self.param("class_embedding", nn.initializers.normal(c.width**-0.5), (c.width,))
        position = self.param(
            "position_embedding", nn.initializers.normal(0.02), (c.tokens, c.width)
        )
        position = position.astype(self.dtype)
        x = x + position[None, 1:]
        if keep is not None:
            x = jnp.take_along_axis(x, keep[..., None], axis=1)
        first = jnp.broadcast_to(
            (first.astype(self.dtype) + position[0])[None, None], (x.shape[0], 1, c.width)
        )
        tokens = [first, x]
        if prompts is not None:
            learned = prompts.astype(self.dtype)[None]
            tokens.append(jnp.broadcast_to(learned, (x.shape[0], *prompts.shape)))
        x = jnp.concatenate(tokens, axis=1)
        return norm("pre_norm", c.layer_norm_eps, self.dtype)(x)

    @nn.nowrap
    def through(self, x, count, tap):
        """The first `count` blocks: (the last tokens, those that leave every block), all after `tap`."""
        taps = []
        for i in range(count):
            x, _ = make_block(self.config, i, causal=False, dtype=self.dtype)(x)
            x = tap(f"block_{i}", x)
            taps.append(x)
        return x, taps


class TextTower(nn.Module):
    """Causal transformer over token embeddings: (C, L, d) to (C, D), read at each sentence's end token."""

    config: TextConfig
    projection_dim: int
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, embedded, end, past=(), tap=untouched):
        """Returns (features, the (key, value) of every block); `past` is that of a prefix, for `embedded` behind it.

        Without a past, embedded (C, L, d) gives (C, D); behind a past of S prefixes it gives (S, C, D). `tap` is called
        on what leaves every block.
        """
        c = self.config
        self.param("token_embedding", nn.initializers.normal(0.02), (c.vocab_size, c.width))
        position = self.param(
            "position_embedding", nn.initializers.normal(0.01), (c.context_length, c.width)
        ).astype(self.dtype)
        before = past[0][0].shape[1] if past else 0
        x = embedded + position[None, before : before + embedded.shape[1]]
        if past:
            x = jnp.broadcast_to(x[None], (past[0][0].shape[0], *x.shape))
        caches = []
        for i in range(c.layers):
            block = make_block(c, i, causal=True, dtype=self.dtype)
            x, cache = block(x, past[i] if past else None)
            x = tap(f"block_{i}", x)
            caches.append(cache)
        rows = jnp.arange(x.shape[-3])
        x = norm("final_norm", c.layer_norm_eps, self.dtype)(x[..., rows, end, :])
        return projection(self.projection_dim, self.dtype)(x), tuple(caches)


def init(config: ClipConfig, *, key: Array) -> dict:
    """Random parameters for `config`: the project's only random towers; loading never falls back to it."""
    vision_key, text_key = jax.random.split(key)
    if isinstance(config.vision, ResNetVisionConfig):
        vision = resnet_model.init(config, key=vision_key)
    else:
        size = config.vision.image_size
        pixels = jnp.zeros((1, size, size, 3), jnp.float32)
        vision = _vision(config, jnp.float32).init(vision_key, pixels)["params"]
    embedded = jnp.zeros((1, 2, config.text.width), jnp.float32)
    return {
        "vision": vision,
        "text": _text(config, jnp.float32).init(text_key, embedded, jnp.zeros(1, int))["params"],
        "logit_scale": jnp.asarray(2.6592, jnp.float32),
    }


@overload
def encode_image(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    taps: Literal[False] = False,
    keep: Int[Array, "B K"] | None = None,
    tap: Tap = untouched,
    prompts: Float[Array, "M width"] | None = None,
) -> Float[Array, "B D"]: ...


@overload
def encode_image(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    taps: Literal[True],
    keep: Int[Array, "B K"] | None = None,
    tap: Tap = untouched,
    prompts: Float[Array, "M width"] | None = None,
) -> tuple[Float[Array, "B D"], list[Float[Array, "B L width"]]]: ...


def encode_image(
    params: dict,
    config: ClipConfig,
    pixels: Float[Array, "B H W 3"],
    *,
    taps: bool = False,
    keep: Int[Array, "B K"] | None = None,
    tap: Tap = untouched,
    prompts: Float[Array, "M width"] | None = None,
) -> Float[Array, "B D"] | tuple[Float[Array, "B D"], list[Float[Array, "B L width"]]]:
    """Image features, unnormalised. A ResNet takes pixels alone, and its statistics are the stored ones.

    Args:
      params: as `init` or `load` give them.
      config: the model; `pixels` must have its image size.
      pixels: normalised (`normalise`), float32 or bfloat16.
      taps: also return the tokens that leave every block: class token, patches, prompts.
      keep: the patches (row-major numbers) that the tower is to see; the others are dropped before the first block,
        which makes training cheaper (FLIP, arXiv 2212.00794). All by default.
      tap: called with "block_0", ... and the tokens that leave the block; the tower continues with what it returns.
      prompts: learned tokens that every picture gets behind its patches, without positions, before the first norm
        (visual prompt tuning, arXiv 2203.12119). `tap` may replace the last M tokens for the next block.

    Raises:
      ValueError: pixels of another size than `config.vision.image_size`, or prompts of another width than the tower's.
      ConfigError: anything but pixels for a ResNet.
    """
    check_pixels(config, pixels.shape)
    if isinstance(config.vision, ResNetVisionConfig):
        given = {"taps": taps, "keep": keep is not None, "prompts": prompts is not None}
        given["tap"] = tap is not untouched
        if any(given.values()):
            asked = ", ".join(name for name, there in given.items() if there)
            raise ConfigError(
                f"{asked}: this CLIP's image tower is a ResNet, which has no tokens and no blocks; take a model with a ViT"
            )
        x = resnet_model.image_map(params, config, pixels)
        return resnet_model.encode_map(params, config, x)
    if prompts is not None and (prompts.ndim != 2 or prompts.shape[1] != config.vision.width):
        raise ValueError(
            f"prompts have shape {prompts.shape}, but this image tower takes (M, {config.vision.width})"
        )
    tower = _vision(config, pixels.dtype)
    features, tokens = _apply(tower, params["vision"], pixels, keep, tap, prompts)
    return (features, tokens) if taps else features


def encode_text(
    params: dict, config: ClipConfig, ids: Int[Array, "C L"], *, dtype=jnp.float32
) -> Float[Array, "C D"]:
    """Text features, unnormalised, of token ids with start and end tokens; any L up to the context length."""
    embedded = embed_tokens(params, config, ids).astype(dtype)
    return encode_embedded(params, config, embedded, end_positions(config, ids))


def end_positions(config: ClipConfig, ids: Int[Array, "C L"]) -> Int[Array, "C"]:
    """Where each sentence is read: its first end token, or the largest id when `eos_token_id` is 2."""
    if config.text.eos_token_id == 2:
        return jnp.argmax(ids, axis=-1)
    return jnp.argmax(ids == config.text.eos_token_id, axis=-1)


def embed_tokens(params: dict, config: ClipConfig, ids: Int[Array, "..."]) -> Float[Array, "... d"]:
    """Token embeddings without positions."""
    del config
    return jnp.asarray(params["text"]["token_embedding"])[ids]


def encode_embedded(
    params: dict,
    config: ClipConfig,
    embedded: Float[Array, "C L d"],
    end: Int[Array, "C"],
    *,
    tap: Tap = untouched,
) -> Float[Array, "C D"]:
    """Text features of token embeddings that stand at positions 0 to L - 1, read at `end`.

    Causality makes everything behind `end` irrelevant: cutting L down to the longest sentence is exact. `tap` is called
    with "block_0", ... and the tokens (C, L, d) that leave the block; the tower continues with what it returns.

    Raises:
      ValueError: L exceeds the context length.
    """
    _check_length(config, embedded.shape[1])
    tower = _text(config, embedded.dtype)
    return _apply(tower, params["text"], embedded, end, (), tap)[0]


def encode_prefix(
    params: dict, config: ClipConfig, prefix: Float[Array, "S P d"], *, tap: Tap = untouched
) -> Past:
    """What sentences that begin with the same tokens need to know of them: keys and values, (S, P, heads, d / heads).

    Args:
      params: as `init` or `load` give them.
      config: the model.
      prefix: embeddings at positions 0 to P - 1, start token included, one row per prompt set.
      tap: as for `encode_embedded`, on the tokens (S, P, d) of the prefix. What it puts in their place is all that the
        sentences behind the prefix see of them, so `encode_with_prefix` takes none.

    Returns:
      The (key, value) of every block.

    Raises:
      ValueError: P exceeds the context length.
    """
    _check_length(config, prefix.shape[1])
    tower = _text(config, prefix.dtype)
    end = jnp.zeros(prefix.shape[0], jnp.int32)
    return _apply(tower, params["text"], prefix, end, (), tap)[1]


def encode_with_prefix(
    params: dict,
    config: ClipConfig,
    past: Past,
    suffix: Float[Array, "C L d"],
    end: Int[Array, "C"],
) -> Float[Array, "S C D"]:
    """Features of every sentence "prefix_s suffix_c", each prefix having run once instead of once per class.

    Under causal attention the hidden states of the prefix are the same for every class, so only the suffixes run per
    class; they attend to the prefix's keys and values. Equal to `encode_embedded` of the concatenation, in value and
    gradient.

    Args:
      params: as `init` or `load` give them.
      config: the model.
      past: of the prefixes, from `encode_prefix`.
      suffix: embeddings at positions P to P + L - 1, one row per class, padded at the end.
      end: position of the end token within the suffix.

    Raises:
      ValueError: P + L exceeds the context length.
    """
    _check_length(config, past[0][0].shape[1] + suffix.shape[1])
    tower = _text(config, suffix.dtype)
    return _apply(tower, params["text"], suffix, end, past)[0]


def normalise(
    pixels: UInt8[Array, "B H W 3"], config: ClipConfig, dtype=jnp.float32
) -> Float[Array, "B H W 3"]:
    """(x / 255 - mean) / std with the model's statistics: belongs inside jit, after uint8 reached the device."""
    mean = jnp.asarray(config.mean, jnp.float32) * 255.0
    std = jnp.asarray(config.std, jnp.float32) * 255.0
    return ((pixels.astype(jnp.float32) - mean[None, None, None]) / std[None, None, None]).astype(
        dtype
    )


def unit(x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """The vectors of the last axis, each divided by its length ||x||; a zero vector stays zero, with a finite gradient."""
    # The square is floored, not the length: the slope of the root is infinite at 0.
    square = jnp.sum(x * x, axis=-1, keepdims=True)
    return x / jnp.sqrt(jnp.maximum(square, _SMALLEST_SQUARE))


def check_pixels(config: ClipConfig, shape: tuple[int, ...]) -> None:
    """Refuse pixels (B, H, W, 3) of another size than the position embedding was made for."""
    size = config.vision.image_size
    if shape[1:] != (size, size, 3):
        other = f", or load the model with image_size={shape[1]}"
        raise ValueError(
            f"pixels have shape {shape}, but this model takes (B, {size}, {size}, 3): resize them"
            + (other if isinstance(config.vision, VisionConfig) else "")
        )


def _apply(tower: nn.Module, params: dict, *args: Any) -> Any:
    # Flax types the result of `apply` as if variables might come back beside it.
    return tower.apply({"params": params}, *args)


def _vision(config: ClipConfig, dtype) -> VisionTower:
    return VisionTower(config.vit, config.projection_dim, dtype)


def _text(config: ClipConfig, dtype) -> TextTower:
    return TextTower(config.text, config.projection_dim, dtype)


def _check_length(config: ClipConfig, length: int) -> None:
    if length > config.text.context_length:
        raise ValueError(
            f"{length} tokens exceed this model's context length of {config.text.context_length}"
        )
