"""OpenCLIP models in OpenCLIP's own folder layout: open_clip_config.json, open_clip_model.safetensors, tokenizer files.

`load` opens a model with a ConvNeXt image tower, `load_vit` one with a ViT, which becomes a model of `core_jax.clip` like
any other (arXiv 2212.07143). Pickled checkpoints are refused: opening one runs the code in it.

    model = openclip.load("laion/CLIP-convnext_base_w_320-laion_aesthetic-s13B-b82K")
    maps = openclip.backbone(model.params, model.config, pixels)  # "res2" to "res5"
    words = clip.encode_text(model.params, model.config.clip, model.tokenizer(["a photo of a cat."]))
"""

import dataclasses
import os
import pathlib

from core_jax.clip import weights
from core_jax.clip.config import ClipConfig, ConfigError, read_json
from core_jax.clip.io import Clip
from core_jax.clip.openclip_config import PRESETS, OpenClipConfig
from core_jax.clip.openclip_config import from_openclip as _config_of
from core_jax.clip.openclip_model import backbone, encode_image, init, project
from core_jax.clip.openclip_weights import from_openclip, to_openclip
from core_jax.clip.source import PICKLED, SourceError, refusal, resolve
from core_jax.clip.tensors import WeightsError, open_tensors
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
    "load_vit",
    "project",
    "to_openclip",
]

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"


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
    found = _read_config(folder) if config is None else config
    if not isinstance(found, OpenClipConfig):
        raise ConfigError(f"{folder} holds a ViT, not a ConvNeXt: open it with load_vit")
    return OpenClip(found, _read_weights(folder, found), Tokenizer(folder, found.text))


def load_vit(source: str | os.PathLike, *, image_size: int | None = None) -> Clip:
    """Opens an OpenCLIP model with a ViT image tower, for all of `core_jax.clip`.

    Args:
      source: a folder, or a hub id "owner/name" (downloaded and cached by `huggingface_hub`).
      image_size: side of the pictures it will be given, in pixels; position embeddings are resized when this is not the
        size of the checkpoint.

    Returns:
      Configuration, float32 parameters and tokenizer.

    Raises:
      SourceError: no such folder or model, files are missing, or only pickled weights (the message holds the conversion).
      ConfigError: open_clip_config.json is not a ViT model's, or describes something that is not supported.
      WeightsError: weights are missing, unknown, mis-shaped or not finite; all are listed.
    """
    folder = resolve(source)
    config = _read_config(folder)
    if not isinstance(config, ClipConfig):
        raise ConfigError(f"{folder} holds a ConvNeXt, not a ViT: open it with load")
    params = _read_weights(folder, config)
    if image_size is not None:
        params, config = weights.resize_positions(params, config, image_size)
    return Clip(config, params, Tokenizer(folder, config.text))


def is_convnext(folder: str | os.PathLike) -> bool:
    """Whether a model folder's image tower is a ConvNeXt (`load`) and not a ViT (`load_vit`)."""
    return isinstance(_read_config(pathlib.Path(folder)), OpenClipConfig)


def _read_config(folder: pathlib.Path) -> OpenClipConfig | ClipConfig:
    if not (folder / CONFIG).is_file():
        raise SourceError(
            f"{folder} has no {CONFIG}: it is not an OpenCLIP model folder; give one, or for a ConvNeXt say which it is "
            f"(config=PRESETS[name], name one of {', '.join(PRESETS)})"
        )
    try:
        return _config_of(read_json(folder / CONFIG))
    except ConfigError as error:
        raise ConfigError(f"{folder}: {error}") from None


def _read_weights(folder: pathlib.Path, config: OpenClipConfig | ClipConfig) -> dict:
    path = folder / WEIGHTS
    if not path.is_file():
        pickled = sorted(p for p in folder.iterdir() if p.suffix in PICKLED)
        options = {"weights": WEIGHTS, "config": CONFIG, "names": "OpenCLIP's names (visual...)"}
        raise SourceError(
            refusal(pickled[0], **options) if pickled else f"{folder} has no {WEIGHTS}"
        )
    with open_tensors([path]) as tensors:
        try:
            return from_openclip(tensors, config)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None
