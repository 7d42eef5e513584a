"""What an OpenCLIP model is made of, and how `open_clip_config.json` says it (arXiv 2212.07143).

Three kinds are read: a ConvNeXt image tower (`OpenClipConfig`), and a plain ViT or ResNet, which are `core_jax.clip`'s own
and need no more than a `ClipConfig`. A key of the file that this package neither uses nor knows to be harmless is an error:
what changes the arithmetic must not be passed over in silence.
"""

import dataclasses
from typing import Any, Literal

from core_jax.clip.config import (
    OPENAI_MEAN,
    OPENAI_STD,
    ClipConfig,
    ConfigError,
    ResNetVisionConfig,
    TextConfig,
    VisionConfig,
)
from core_jax.nn import ConvNeXtConfig

HEADS = ("linear", "mlp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenClipConfig:
    """A ConvNeXt image tower, its head, and a text tower.

    `head` is what follows the pooled, normalised features: "linear" (E -> D, no bias) or "mlp" (E -> 2D with bias, exact
    GELU, -> D without). `image_size` is what the model was trained on, in pixels; the tower takes any other.
    """

    trunk: ConvNeXtConfig
    head: Literal["linear", "mlp"]
    text: TextConfig
    projection_dim: int
    image_size: int = 320
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    def __post_init__(self):
        if self.head not in HEADS:
            raise ConfigError(f"OpenCLIP configuration: head {self.head!r} is not one of {HEADS}")

    @property
    def clip(self) -> ClipConfig:
        """Text tower, embedding width and pixel statistics, for the functions of `core_jax.clip` that need just these.

        `encode_text`, `embed_tokens`, `encode_with_prefix`, `normalise`, ... take it; its image tower is not this model's.
        """
        return ClipConfig(
            text=self.text, projection_dim=self.projection_dim, mean=self.mean, std=self.std
        )


def text_config(width: int, heads: int, layers: int, **others: Any) -> TextConfig:
    """A text tower with OpenCLIP's habits: exact GELU, read where ids are largest (`eos_token_id` 2), padded with 0."""
    mlp_width = others.pop("mlp_width", 4 * width)
    defaults = {"activation": "gelu", "eos_token_id": 2, "pad_token_id": 0}
    return TextConfig(
        width=width, heads=heads, layers=layers, mlp_width=mlp_width, **(defaults | others)
    )


# By the name that timm gives them, which is what the file holds.
TRUNKS = {
    "convnext_base": ConvNeXtConfig(),
    "convnext_large": ConvNeXtConfig(widths=(192, 384, 768, 1536)),
}

PRESETS = {
    "convnext_base_w_320": OpenClipConfig(
        trunk=TRUNKS["convnext_base"],
        head="linear",
        text=text_config(640, 10, 12),
        projection_dim=640,
    ),
    "convnext_large_d_320": OpenClipConfig(
        trunk=TRUNKS["convnext_large"],
        head="mlp",
        text=text_config(768, 12, 16),
        projection_dim=768,
    ),
}

# Keys that only matter in training, or to tokenizers that are read from their own files.
_HARMLESS = {
    "model_cfg": {"custom_text", "init_logit_scale", "output_dict", "cast_dtype"},
    "vision_cfg": {
        "timm_model_pretrained",
        "timm_drop",
        "timm_drop_path",
        "patch_dropout",
        "output_tokens",
    },
    "text_cfg": {"hf_tokenizer_name", "tokenizer_mode", "pad_id", "eos_id", "output_tokens"},
}
_USED = {
    "model_cfg": {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"},
    "vision_cfg": {"image_size"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}
_USED_BY_VIT = {"layers", "width", "head_width", "mlp_ratio", "patch_size"}
_USED_BY_RESNET = {"layers", "width", "patch_size"}
_USED_BY_CONVNEXT = {"timm_model_name", "timm_proj", "timm_pool"}
# Every other key must have one of these values, which is what it means when it is absent.
_OFF = (None, False)
_DEFAULTS = {
    "pool_type": ("tok", "argmax"),
    "proj_type": ("linear",),
    "pos_embed_type": ("learnable",),
    # Of the attention pool of a ResNet.
    "head_width": (64,),
    "mlp_ratio": (4.0,),
}


def from_openclip(content: dict[str, Any]) -> OpenClipConfig | ClipConfig:
    """Translates the contents of `open_clip_config.json`.

    Args:
      content: an object with `model_cfg`, and `preprocess_cfg` for mean and std (OpenAI's when absent).

    Returns:
      An `OpenClipConfig` for a ConvNeXt, a `ClipConfig` for a ViT or a ResNet.

    Raises:
      ConfigError: it describes something else, or something that is not supported; all problems are listed.
    """
    model = content.get("model_cfg")
    if not isinstance(model, dict) or not {"embed_dim", "vision_cfg", "text_cfg"} <= model.keys():
        raise ConfigError(
            "open_clip_config.json has no model_cfg with embed_dim, vision_cfg and text_cfg: it is not an OpenCLIP "
            f"model's (its keys: {sorted(content)})"
        )
    vision, text = model["vision_cfg"], model["text_cfg"]
    trunk, layers = vision.get("timm_model_name"), vision.get("layers", 12)
    used = _USED_BY_VIT if isinstance(layers, int) else _USED_BY_RESNET
    problems = [
        *_unsupported("model_cfg", model, set()),
        *_unsupported("vision_cfg", vision, _USED_BY_CONVNEXT if trunk else used),
        *_unsupported("text_cfg", text, set()),
    ]
    if trunk:
        problems += _trunk_problems(vision)
    elif not isinstance(layers, int) and len(layers) != 4:
        problems.append(f"vision_cfg.layers is {layers}, expected one number or four (a ResNet)")
    size = vision.get("image_size", 224)
    if not isinstance(size, int):
        problems.append(f"vision_cfg.image_size is {size}, expected one number (square pictures)")
    if problems:
        raise ConfigError("open_clip_config.json: " + "; ".join(problems))
    preprocess = content.get("preprocess_cfg") or {}
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    width = text.get("width", 512)
    shared = {
        "text": text_config(
            width,
            text.get("heads", 8),
            text.get("layers", 12),
            mlp_width=int(width * text.get("mlp_ratio", 4.0)),
            activation=activation,
            context_length=text.get("context_length", 77),
            vocab_size=text.get("vocab_size", 49408),
        ),
        "projection_dim": model["embed_dim"],
        "mean": tuple(preprocess.get("mean", OPENAI_MEAN)),
        "std": tuple(preprocess.get("std", OPENAI_STD)),
    }
    if trunk:
        head = vision.get("timm_proj", "linear")
        return OpenClipConfig(trunk=TRUNKS[trunk], head=head, image_size=size, **shared)
    if not isinstance(layers, int):
        depths = layers[0], layers[1], layers[2], layers[3]
        tower = ResNetVisionConfig(image_size=size, depths=depths, width=vision.get("width", 64))
        return ClipConfig(vision=tower, **shared)
    width = vision.get("width", 768)
    tower = VisionConfig(
        image_size=size,
        patch_size=vision.get("patch_size", 16),
        width=width,
        layers=layers,
        heads=width // vision.get("head_width", 64),
        mlp_width=int(width * vision.get("mlp_ratio", 4.0)),
        activation=activation,
    )
    return ClipConfig(vision=tower, **shared)


def _unsupported(section: str, content: dict[str, Any], used: set[str]) -> list[str]:
    known = _USED[section] | _HARMLESS[section] | used
    return [
        f"{section}.{key} is {content[key]!r}, which is not supported"
        for key in sorted(content.keys() - known)
        if content[key] not in _DEFAULTS.get(key, _OFF)
    ]


def _trunk_problems(vision: dict[str, Any]) -> list[str]:
    problems = []
    if vision["timm_model_name"] not in TRUNKS:
        problems.append(
            f"vision_cfg.timm_model_name {vision['timm_model_name']!r} is not one of {', '.join(TRUNKS)}: other towers of "
            "timm are not built; use an OpenCLIP model with a plain ViT or ResNet, or one in HuggingFace's CLIPModel layout"
        )
    if vision.get("timm_proj", "linear") not in HEADS:
        problems.append(f"vision_cfg.timm_proj {vision['timm_proj']!r} is not one of {HEADS}")
    # An empty name leaves timm's own pooling, which is the average as well.
    if vision.get("timm_pool", "avg") not in ("", "avg"):
        problems.append(f"vision_cfg.timm_pool {vision['timm_pool']!r} is not 'avg' or ''")
    return problems
