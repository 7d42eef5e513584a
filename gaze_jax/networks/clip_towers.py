"""The towers of a CLIP as CLIP-DFENet uses them: a map of the image, and a text encoder for the anchors.

Two kinds of image tower: a ResNet without its attention pool (RN50: 7 x 7 x 2048), and the patches that leave the last block
of a ViT (ViT-B/32: 7 x 7 x 768). Shapes: B faces, S side of the pictures the tower takes, an h x w map of E channels.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from core_jax import clip, world
from core_jax.clip import ClipConfig, ResNetVisionConfig, resnet_model, tokenizer_files
from core_jax.clip.model import VisionTower
from core_jax.data import files
from core_jax.nn import untouched
from gaze_jax.networks.anchors import TextEncoder
from gaze_jax.networks.face_input import prepare

Source = Literal["rn50_map", "vit_patches"]
Input = Literal["clip", "bgr"]

WORLD = "world"
"""The name of the small ViT pair that ships with the package."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vision:
    """An image tower.

    Attributes:
      init: key -> (params, running statistics); of a loaded tower the same for every key.
      maps: (params, statistics, pixels (B, S, S, 3), train) -> (map (B, h, w, E), new statistics).
      size: S.
      mean, std: pixel statistics, RGB on [0, 1].
      digest: of the weights; "" for random ones.
    """

    init: Callable[[Array], tuple[dict, dict]]
    maps: Callable[[dict, dict, Array, bool], tuple[Array, dict]]
    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    digest: str

    def pixels(self, images: UInt8[Array, "B H W 3"], form: Input, dtype: Any) -> Array:
        """What the tower is given, (B, S, S, 3).

        Args:
          images: RGB of any size.
          form: "clip", RGB with CLIP's mean and standard deviation, or "bgr" on [0, 1], as the public revision has it.
          dtype: what the tower computes in.
        """
        x: Float[Array, "B S S 3"] = prepare(images, "bgr", self.size, jnp.float32)
        if form == "clip":
            mean, std = (
                jnp.asarray(v, jnp.float32)[None, None, None] for v in (self.mean, self.std)
            )
            x = (x[..., ::-1] - mean) / std
        return x.astype(dtype)


class Patches(VisionTower):
    """The ViT up to its last block: (B, S, S, 3) to the patches (B, grid, grid, E), class token left out."""

    @nn.compact
    def __call__(self, pixels):
        """Returns the map; CLIP's final norm and projection are not applied."""
        c = self.config
        x, _ = self.through(self.enter(pixels), c.layers, untouched)
        return x[:, 1:].reshape(-1, c.grid, c.grid, c.width)


@functools.lru_cache(maxsize=2)
def open_clip(name: str | os.PathLike) -> clip.Clip:
    """A CLIP by name ("world", a folder, or a hub id); folds and seeds of one process share it.

    Raises:
      SourceError, ConfigError, WeightsError: as `core_jax.clip.load`.
    """
    return clip.load(world.pair("student") if name == WORLD else name)


def source_of(opened: clip.Clip) -> Source:
    """What the image tower of a loaded CLIP gives."""
    return "rn50_map" if isinstance(opened.config.vision, ResNetVisionConfig) else "vit_patches"


def vision(opened: clip.Clip) -> Vision:
    """The image tower of a loaded CLIP."""
    if source_of(opened) == "rn50_map":
        trunk, stats = (opened.params["vision"][part] for part in ("trunk", "stats"))
        return _resnet(opened.config, lambda key: (trunk, stats), _digest(trunk, stats))
    inside = {
        name: value
        for name, value in opened.params["vision"].items()
        if name not in ("post_norm", "projection")
    }
    return _vit(opened.config, lambda key: (inside, {}), _digest(inside))


def random_vision(source: Source) -> Vision:
    """An image tower of the published size with random weights: for looking at costs and shapes, not for results."""
    if source == "rn50_map":
        config = ClipConfig(vision=ResNetVisionConfig(), projection_dim=1024)

        # Inside jit, so that the other parts of the model are never made.
        @jax.jit
        def init(key):
            made = resnet_model.init(config, key=key)
            return made["trunk"], made["stats"]

        return _resnet(config, init, "")
    config = ClipConfig()
    pixels = jnp.zeros((1, config.vision.image_size, config.vision.image_size, 3), jnp.float32)
    tower = Patches(config.vit, config.projection_dim)
    return _vit(config, jax.jit(lambda key: (tower.init(key, pixels)["params"], {})), "")


def text(opened: clip.Clip, name: str) -> TextEncoder:
    """The text side of a loaded CLIP; `name` is for people."""
    folder = opened.tokenizer.folder
    parts = {
        file: files.sha256_file(folder / file)
        for file in tokenizer_files.FILES
        if (folder / file).is_file()
    }
    config = dataclasses.asdict(opened.config.text)
    weights = clip.weights_digest({"text": opened.params["text"]})
    return TextEncoder(
        encode=lambda lines: clip.zeroshot.text_features(opened, lines),
        name=name,
        weights=files.digest([weights, config]),
        tokenizer=files.digest(parts),
    )


def _resnet(config: ClipConfig, init: Callable, digest: str) -> Vision:
    def maps(params, stats, pixels, train):
        inside = {"vision": {"trunk": params, "stats": stats}}
        if train:
            return resnet_model.train_map(inside, config, pixels)
        return resnet_model.image_map(inside, config, pixels), stats

    return Vision(
        init=init,
        maps=maps,
        size=config.vision.image_size,
        mean=config.mean,
        std=config.std,
        digest=digest,
    )


def _vit(config: ClipConfig, init: Callable, digest: str) -> Vision:
    def maps(params, stats, pixels, train):
        del train  # It has no batch statistics.
        tower: Any = Patches(config.vit, config.projection_dim, pixels.dtype)
        return tower.apply({"params": params}, pixels), stats

    return Vision(
        init=init,
        maps=maps,
        size=config.vision.image_size,
        mean=config.mean,
        std=config.std,
        digest=digest,
    )


def _digest(params: dict, stats: dict | None = None) -> str:
    return clip.weights_digest({"params": params, "stats": stats or {}})
