"""What a model under OpenAI's tensor names is made of, read from the shapes of its tensors (arXiv 2103.00020).

No file describes such a model. Shapes give the sizes; as in OpenAI's own code, attention heads have 64 channels, the
activation is quick GELU, a sentence is read where its ids are largest, and the pixel statistics are OpenAI's.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from core_jax.clip.config import (
    ClipConfig,
    ConfigError,
    ResNetVisionConfig,
    TextConfig,
    VisionConfig,
)

_TEXT = ("token_embedding.weight", "positional_embedding", "text_projection")
_VIT = ("visual.conv1.weight", "visual.positional_embedding")
_RESNET = ("visual.conv3.weight", "visual.attnpool.positional_embedding")
_WIDEST = 1024


def config_of(tensors: Mapping[str, np.ndarray]) -> ClipConfig:
    """The configuration of the model with these tensors.

    Raises:
      ConfigError: the tensors that tell are not there (they are listed), or it is a ViT that OpenAI has not published,
        whose head width and activation nothing tells.
    """
    resnet = "visual.layer1.0.conv1.weight" in tensors
    needed = (*_TEXT, *(_RESNET if resnet else _VIT))
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ConfigError(
            f"not a CLIP under OpenAI's names: there is no {', '.join(missing)}. Weights with HuggingFace's or OpenCLIP's "
            "names need the config.json or open_clip_config.json of their model beside them"
        )
    shape = {name: tensors[name].shape for name in needed}
    text_width, projection_dim = shape["text_projection"]
    vision = (_resnet if resnet else _vit)(tensors, *(shape[n] for n in needed[len(_TEXT) :]))
    return ClipConfig(
        vision=vision,
        text=TextConfig(
            vocab_size=shape["token_embedding.weight"][0],
            context_length=shape["positional_embedding"][0],
            width=text_width,
            layers=len(_numbers(tensors, r"transformer\.resblocks\.(\d+)\.ln_1\.weight")),
            heads=max(1, text_width // 64),
            mlp_width=4 * text_width,
            eos_token_id=2,
            pad_token_id=0,
        ),
        projection_dim=projection_dim,
    )


def _vit(
    tensors: Mapping[str, Any], patch: tuple[int, ...], positions: tuple[int, ...]
) -> VisionConfig:
    width = patch[0]
    if width > _WIDEST:
        raise ConfigError(
            f"a ViT of width {width} is none of OpenAI's, whose widest has {_WIDEST}: head width and activation are not in "
            "its weights. Name the file open_clip_model.safetensors and put the model's open_clip_config.json beside it"
        )
    return VisionConfig(
        image_size=patch[-1] * math.isqrt(positions[0] - 1),
        patch_size=patch[-1],
        width=width,
        layers=len(_numbers(tensors, r"visual\.transformer\.resblocks\.(\d+)\.ln_1\.weight")),
        heads=max(1, width // 64),
        mlp_width=4 * width,
    )


def _resnet(
    tensors: Mapping[str, Any], stem: tuple[int, ...], positions: tuple[int, ...]
) -> ResNetVisionConfig:
    blocks = _numbers(tensors, r"visual\.layer(\d+)\.(\d+)\.conv1\.weight")
    depths = [sum(stage == s for stage, _ in blocks) for s in (1, 2, 3, 4)]
    return ResNetVisionConfig(
        image_size=32 * math.isqrt(positions[0] - 1),
        depths=(depths[0], depths[1], depths[2], depths[3]),
        width=stem[0],
    )


def _numbers(tensors: Mapping[str, Any], pattern: str) -> list[tuple[int, ...]]:
    """The numbers in those names that match."""
    matches = (re.fullmatch(pattern, name) for name in tensors)
    return [tuple(int(n) for n in match.groups()) for match in matches if match]
