"""CLIP's image tower as segmentation hosts see it: maps by name, with adapters plugged in, and CLIP's head on any of them.

Two kinds: a ViT whose last block does not mix tokens (`core_jax.clip.dense_maps`), and OpenCLIP's ConvNeXt. Shapes: B images,
(h, w) the grid of a map, E its channels, D the width of CLIP's shared embedding.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from core_jax import clip, world
from core_jax.clip import ClipConfig, openclip
from core_jax.clip.dense import Mode
from core_jax.clip.openclip import OpenClipConfig
from core_jax.nn import untouched
from core_jax.nn.convnext import TAPS
from gba_jax.adapters import Plug, TapSpec
from gba_jax.text_cache import Encoder, clip_encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backbone:
    """A frozen image tower; static and hashable, the arrays are arguments.

    Attributes:
      config: of the model; a `ClipConfig` is a ViT, an `OpenClipConfig` a ConvNeXt.
      mode: what leaves the last block of a ViT, see `core_jax.clip.encode_dense`.
      dtype: what the tower computes in.
    """

    config: ClipConfig | OpenClipConfig
    mode: Mode = "cls"
    dtype: str = "float32"

    @property
    def is_vit(self) -> bool:
        """Whether the tower is a ViT."""
        return isinstance(self.config, ClipConfig)

    @property
    def clip(self) -> ClipConfig:
        """The configuration of everything but a ConvNeXt's trunk."""
        return self.config if isinstance(self.config, ClipConfig) else self.config.clip

    @property
    def taps(self) -> tuple[TapSpec, ...]:
        """Where adapters can sit, from shallow to deep."""
        if isinstance(self.config, OpenClipConfig):
            widths = self.config.trunk.widths
            return tuple(TapSpec(n, widths[i], 4 * 2**i, "map") for i, n in enumerate(TAPS))
        c = self.config.vit
        blocks = (
            TapSpec(f"block_{i}", c.width, c.patch_size, "tokens", 1) for i in range(c.layers - 1)
        )
        return (*blocks, TapSpec(self.deep, c.width, c.patch_size, "map"))

    @property
    def deep(self) -> str:
        """The map that CLIP's head reads."""
        return "dense" if self.is_vit else TAPS[-1]

    @property
    def width(self) -> int:
        """D."""
        return self.config.projection_dim

    @property
    def stride(self) -> int:
        """Pixels of the picture per row of the deep map; pictures have sides that are multiples of it."""
        return self.taps[-1].stride

    @property
    def image_size(self) -> int | None:
        """The side of the square that a ViT takes; None for a ConvNeXt, which takes any size."""
        return self.clip.vision.image_size if self.is_vit else None

    def shallow_blocks(self) -> tuple[str, str]:
        """The ViT maps after one and two thirds of the blocks: blocks 3 and 7 of 12, 7 and 15 of 24."""
        layers = self.clip.vit.layers
        places = (max(0, layers // 3 - 1), max(0, 2 * layers // 3 - 1))
        return f"block_{places[0]}", f"block_{places[1]}"

    def pixels(
        self, images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"]
    ) -> Float[Array, "B H W 3"]:
        """What the tower computes on: uint8 pictures normalised, others as they are, in its dtype."""
        dtype = jnp.dtype(self.dtype)
        return (
            clip.normalise(images, self.clip, dtype)
            if images.dtype == jnp.uint8
            else images.astype(dtype)
        )

    def features(
        self,
        params: Mapping[str, Any],
        images: UInt8[Array, "B H W 3"] | Float[Array, "B H W 3"],
        plug: Plug | None = None,
    ) -> dict[str, Float[Array, "B h w E"]]:
        """The maps of the tower.

        Args:
          params: of the model; "vision" is read.
          images: uint8, which are normalised here, or pixels that are.
          plug: adapters, made for this call.

        Returns:
          "block_0", ... and "dense" of a ViT, its class token left out, or "res2" to "res5" of a ConvNeXt: as a decoder is to
          see them, and under "dense/raw", ... as they were before an adapter.

        Raises:
          ValueError: images of a size that the tower does not take.
        """
        pixels, tap = self.pixels(images), untouched if plug is None else plug
        if isinstance(self.config, OpenClipConfig):
            maps = openclip.backbone(dict(params), self.config, pixels, tap=tap)
        else:
            maps = clip.dense_maps(dict(params), self.config, pixels, mode=self.mode, tap=tap)
        maps = maps if plug is None else plug.merge(maps)
        return {name: self._on_grid(x) for name, x in maps.items()}

    def _on_grid(self, x: Array) -> Array:
        """Tokens behind the class token as a map; maps as they are."""
        if x.ndim == 4:
            return x
        side = self.clip.vit.grid
        return x[:, 1:].reshape(x.shape[0], side, side, x.shape[2])

    def project(
        self, params: Mapping[str, Any], features: Float[Array, "... E"]
    ) -> Float[Array, "... D"]:
        """CLIP's head on pixels of the deep map, or on means of them; unnormalised."""
        if isinstance(self.config, OpenClipConfig):
            return openclip.project(dict(params), self.config, features)
        return clip.project_dense(dict(params), self.config, features)

    def logit_scale(self, params: Mapping[str, Any]) -> Float[Array, ""]:
        """What CLIP multiplies cosines with."""
        return jnp.exp(params["logit_scale"].astype(jnp.float32))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A loaded CLIP: the backbone, what it is applied to, and the text side.

    Attributes:
      backbone: static.
      params: {"vision", "logit_scale"} in float32.
      encoder: the text tower with its tokenizer.
      digest: of the arrays of `params`.
    """

    backbone: Backbone
    params: dict[str, Any]
    encoder: Encoder
    digest: str


def open_backbone(
    source: str | os.PathLike,
    *,
    image_size: int | None = None,
    mode: Mode = "cls",
    dtype: str = "float32",
) -> Opened:
    """Opens a CLIP by name.

    Args:
      source: a folder or a hub id, as `core_jax.clip.load` takes it or with an OpenCLIP ConvNeXt, or the embedded pair's
        "world:student", "world:teacher".
      image_size: side of a ViT's pictures; its position embeddings are resized when this is not the checkpoint's size. None
        keeps that size. A ConvNeXt takes any size, and this is not looked at.
      mode: see `Backbone`.
      dtype: see `Backbone`.

    Raises:
      SourceError, ConfigError, WeightsError: as `core_jax.clip.load` and `core_jax.clip.openclip.load`; the image tower is a
        ResNet.
    """
    model = _load(source, image_size)
    whole = model.clip if isinstance(model, openclip.OpenClip) else model
    params = {name: model.params[name] for name in ("vision", "logit_scale")}
    return Opened(
        backbone=Backbone(config=model.config, mode=mode, dtype=dtype),
        params=params,
        encoder=clip_encoder(whole),
        digest=clip.weights_digest(params),
    )


def _load(source: str | os.PathLike, image_size: int | None) -> clip.Clip | openclip.OpenClip:
    name = os.fspath(source)
    if name.startswith("world:"):
        return clip.load(world.pair(name.removeprefix("world:")), image_size=image_size)
    folder = clip.resolve(source)
    if openclip.is_convnext(folder):
        return openclip.load(folder)
    model = clip.load(folder, image_size=image_size)
    if not isinstance(model.config.vision, clip.VisionConfig):
        raise clip.ConfigError(
            f"{source}: the image tower is a ResNet; segmentation takes a ViT, such as openai/clip-vit-base-patch16, or an "
            "OpenCLIP ConvNeXt"
        )
    return model
