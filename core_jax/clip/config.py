"""What a CLIP model is made of: sizes, activations and preprocessing constants (arXiv 2103.00020).

The dataclasses mirror HuggingFace's `config.json` of a `CLIPModel`; `from_huggingface` and `to_huggingface` translate.
"""

import dataclasses
import json
import pathlib
from typing import Any

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_pytorch_tanh", "relu")


class ConfigError(ValueError):
    """A CLIP configuration that this package cannot run; the message lists every problem."""


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
      ConfigError: the file is not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} holds a {type(content).__name__}, expected an object")
    return content


@dataclasses.dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of a ViT image tower; `image_size` and `patch_size` in pixels."""

    image_size: int = 224
    patch_size: int = 32
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    activation: str = "quick_gelu"
    layer_norm_eps: float = 1e-5

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.image_size // self.patch_size

    @property
    def tokens(self) -> int:
        """Length of the token sequence: one class token and `grid`^2 patches."""
        return 1 + self.grid**2


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResNetVisionConfig:
    """Sizes of a ResNet image tower (arXiv 2103.00020, section 2.4); those of OpenAI's RN50 unless told otherwise.

    Attributes:
      image_size: side of the pictures in pixels, a multiple of 32.
      depths: bottlenecks of the four stages.
      width: channels of the stem; the last map has 32 times as many.
    """

    image_size: int = 224
    depths: tuple[int, int, int, int] = (3, 4, 6, 3)
    width: int = 64

    @property
    def channels(self) -> int:
        """E, channels of the last map."""
        return 32 * self.width

    @property
    def heads(self) -> int:
        """Of the attention pool: 64 channels each."""
        return self.channels // 64

    @property
    def grid(self) -> int:
        """Places along one side of the last map."""
        return self.image_size // 32


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Sizes of a causal text tower and the ids that end and pad its sentences.

    `eos_token_id` 2 selects the rule of OpenAI's first exports: a sentence is read where its ids are largest.
    """

    vocab_size: int = 49408
    context_length: int = 77
    width: int = 512
    layers: int = 12
    heads: int = 8
    mlp_width: int = 2048
    activation: str = "quick_gelu"
    layer_norm_eps: float = 1e-5
    bos_token_id: int = 49406
    eos_token_id: int = 49407
    pad_token_id: int = 49407


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Both towers, the width of the shared embedding, and the pixel statistics the image tower expects.

    The image tower is a ViT or a ResNet. What needs one of them reads `vit` or `resnet`, what needs either reads `vision`.
    """

    vision: VisionConfig | ResNetVisionConfig = VisionConfig()
    text: TextConfig = TextConfig()
    projection_dim: int = 512
    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD

    def __post_init__(self):
        problems = _transformer_problems("text", self.text)
        size = self.vision.image_size
        if isinstance(self.vision, VisionConfig):
            problems = _transformer_problems("vision", self.vision) + problems
            if size % self.vision.patch_size:
                problems.append(
                    f"vision: image_size {size} is not a multiple of patch_size {self.vision.patch_size}"
                )
        elif size % 32:
            problems.append(f"vision: image_size {size} of a ResNet is not a multiple of 32")
        if problems:
            raise ConfigError("CLIP configuration: " + "; ".join(problems))

    @property
    def vit(self) -> VisionConfig:
        """The image tower where it has to be a ViT.

        Raises:
          ConfigError: it is a ResNet.
        """
        if not isinstance(self.vision, VisionConfig):
            raise ConfigError(
                "this CLIP's image tower is a ResNet, which has no tokens and no blocks: what is asked for (visual prompts, "
                "dense features, dropped patches, HuggingFace's layout) needs a ViT, such as ViT-B/32"
            )
        return self.vision

    @property
    def resnet(self) -> ResNetVisionConfig:
        """The image tower where it has to be a ResNet.

        Raises:
          ConfigError: it is a ViT.
        """
        if not isinstance(self.vision, ResNetVisionConfig):
            raise ConfigError(
                "this CLIP's image tower is a ViT; what is asked for needs a ResNet, such as OpenAI's RN50"
            )
        return self.vision

    def at(self, image_size: int) -> "ClipConfig":
        """The same model for pictures of `image_size` pixels.

        Raises:
          ConfigError: the tower cannot take that size; a ResNet takes that of its attention pool alone.
        """
        if image_size != self.vision.image_size and isinstance(self.vision, ResNetVisionConfig):
            raise ConfigError(
                f"image_size {image_size}: the attention pool of this ResNet was made for pictures of "
                f"{self.vision.image_size} pixels; give them in that size"
            )
        return dataclasses.replace(
            self, vision=dataclasses.replace(self.vision, image_size=image_size)
        )


def _transformer_problems(name: str, tower: VisionConfig | TextConfig) -> list[str]:
    problems = []
    if tower.width % tower.heads:
        problems.append(f"{name}: width {tower.width} is not a multiple of heads {tower.heads}")
    if tower.activation not in ACTIVATIONS:
        problems.append(f"{name}: activation {tower.activation!r} is not one of {ACTIVATIONS}")
    return problems


# Our field name -> HuggingFace's, the same for both towers.
_SHARED = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "activation": "hidden_act",
    "layer_norm_eps": "layer_norm_eps",
}
_VISION = _SHARED | {"image_size": "image_size", "patch_size": "patch_size"}
_TEXT = _SHARED | {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "pad_token_id": "pad_token_id",
}
# HuggingFace leaves out what equals its class defaults, which differ from OpenAI's end and padding ids.
_VISION_DEFAULTS = VisionConfig()
_TEXT_DEFAULTS = TextConfig(pad_token_id=1)


def from_huggingface(
    config: dict[str, Any], preprocessor: dict[str, Any] | None = None
) -> ClipConfig:
    """Translates the contents of `config.json` (and of `preprocessor_config.json`, when there is one).

    Args:
      config: a `CLIPModel` configuration; towers under `vision_config` and `text_config`.
      preprocessor: gives mean and std; OpenAI's when absent.

    Raises:
      ConfigError: the configuration is not a CLIP model's, or asks for something unsupported.
    """
    if "vision_config" not in config or "text_config" not in config:
        raise ConfigError(
            f"config.json of model type {config.get('model_type')!r} has no vision_config and text_config: "
            "a CLIPModel folder is needed"
        )
    channels = config["vision_config"].get("num_channels", 3)
    if channels != 3:
        raise ConfigError(f"vision_config.num_channels is {channels}; only RGB (3) is supported")
    preprocessor = preprocessor or {}
    return ClipConfig(
        vision=VisionConfig(**_translate(config["vision_config"], _VISION, _VISION_DEFAULTS)),
        text=TextConfig(**_translate(config["text_config"], _TEXT, _TEXT_DEFAULTS)),
        projection_dim=config.get("projection_dim", 512),
        mean=tuple(preprocessor.get("image_mean", OPENAI_MEAN)),
        std=tuple(preprocessor.get("image_std", OPENAI_STD)),
    )


def to_huggingface(config: ClipConfig) -> dict[str, Any]:
    """The contents of a `config.json` that `transformers.CLIPModel.from_pretrained` reads.

    Raises:
      ConfigError: the image tower is a ResNet, which HuggingFace's layout cannot describe.
    """
    vision = {theirs: getattr(config.vit, ours) for ours, theirs in _VISION.items()}
    text = {theirs: getattr(config.text, ours) for ours, theirs in _TEXT.items()}
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": 2.6592,
        "vision_config": vision
        | {"model_type": "clip_vision_model", "projection_dim": config.projection_dim},
        "text_config": text
        | {"model_type": "clip_text_model", "projection_dim": config.projection_dim},
    }


def _translate(tower: dict[str, Any], names: dict[str, str], defaults: Any) -> dict[str, Any]:
    return {ours: tower.get(theirs, getattr(defaults, ours)) for ours, theirs in names.items()}
