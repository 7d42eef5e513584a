"""OpenCLIP models with a ConvNeXt image tower, from OpenCLIP's own folder layout (arXiv 2212.07143).

`clip.load` opens OpenCLIP's ViTs and ResNets, which become models of `core_jax.clip` like any other. Pickled checkpoints are
refused: opening one runs the code in it.

    model = openclip.load("laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K")
    maps = openclip.backbone(model.params, model.config, pixels)  # "res2" to "res5"
    words = clip.encode_text(model.params, model.config.clip, model.tokenizer(["a photo of a cat."]))
"""

import dataclasses
import os
import pathlib

from core_jax.clip import folders
from core_jax.clip.config import ConfigError
from core_jax.clip.io import Clip
from core_jax.clip.openclip_config import PRESETS, OpenClipConfig
from core_jax.clip.openclip_model import backbone, encode_image, init, project
from core_jax.clip.openclip_weights import from_openclip, to_openclip
from core_jax.clip.source import resolve
from core_jax.clip.tokenizer import Tokenizer

__all__ = [
    "PRESETS",
    "OpenClip",
    "OpenClipConfig",
    "backbone",
    "encode_image",
    "from_openclip",
    "init",
    "is_convnext",
    "load",
    "project",
    "to_openclip",
]


@dataclasses.dataclass(frozen=True)
class OpenClip:
    """A loaded model; `tokenizer` opens its files when it is first used."""

    config: OpenClipConfig
    params: dict
    tokenizer: Tokenizer

    @property
    def clip(self) -> Clip:
        """The same model for what needs its text tower only (`zeroshot.text_features`); see `OpenClipConfig.clip`."""
        return Clip(self.config.clip, self.params, self.tokenizer)


def load(source: str | os.PathLike, *, config: OpenClipConfig | None = None) -> OpenClip:
    """Opens an OpenCLIP model with a ConvNeXt image tower.

    Args:
      source: a folder, or a hub id "owner/name" (downloaded and cached by `huggingface_hub`).
      config: the model, for a folder without open_clip_config.json: one of `PRESETS`. Read from the folder when not given.

    Returns:
      Configuration, float32 parameters and tokenizer.

    Raises:
      SourceError: no such folder or model, files are missing, or only pickled weights (the message holds the conversion).
      ConfigError: open_clip_config.json is not a ConvNeXt model's, or describes something that is not supported.
      WeightsError: weights are missing, unknown, mis-shaped or not finite; all are listed.
    """
    folder = resolve(source)
    found = folders.openclip_description(folder) if config is None else config
    if not isinstance(found, OpenClipConfig):
        raise ConfigError(
            f"{folder} holds no ConvNeXt: `clip.load` opens OpenCLIP's ViTs and ResNets"
        )
    return OpenClip(
        found, folders.openclip_parameters(folder, found), Tokenizer(folder, found.text)
    )


def is_convnext(folder: str | os.PathLike) -> bool:
    """Whether `load` is what opens a model folder, and not `clip.load`.

    Raises:
      ConfigError: its open_clip_config.json describes something that is not supported.
    """
    path = pathlib.Path(folder)
    return folders.layout(path) == "openclip" and isinstance(
        folders.openclip_description(path), OpenClipConfig
    )
