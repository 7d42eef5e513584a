"""CLIP in Flax: towers, weights, tokenizer, preprocessing, zero-shot classification (arXiv 2103.00020)."""

from core_jax.clip import openclip, resnet_model, resnet_weights, zeroshot
from core_jax.clip.config import (
    ClipConfig,
    ConfigError,
    ResNetVisionConfig,
    TextConfig,
    VisionConfig,
)
from core_jax.clip.dense import dense_maps, encode_dense, project_dense
from core_jax.clip.io import Clip, load, save
from core_jax.clip.model import (
    embed_tokens,
    encode_embedded,
    encode_image,
    encode_prefix,
    encode_text,
    encode_with_prefix,
    end_positions,
    init,
    normalise,
    unit,
)
from core_jax.clip.preprocess import preprocess, resize
from core_jax.clip.source import SourceError, resolve
from core_jax.clip.tensors import WeightsError
from core_jax.clip.tokenizer import Tokenizer, word_level
from core_jax.clip.tokenizer_files import TokenizerError
from core_jax.clip.weights import weights_digest

__all__ = [
    "Clip",
    "ClipConfig",
    "ConfigError",
    "ResNetVisionConfig",
    "SourceError",
    "TextConfig",
    "Tokenizer",
    "TokenizerError",
    "VisionConfig",
    "WeightsError",
    "dense_maps",
    "embed_tokens",
    "encode_dense",
    "encode_embedded",
    "encode_image",
    "encode_prefix",
    "encode_text",
    "encode_with_prefix",
    "end_positions",
    "init",
    "load",
    "normalise",
    "openclip",
    "preprocess",
    "project_dense",
    "resize",
    "resnet_model",
    "resnet_weights",
    "resolve",
    "save",
    "unit",
    "weights_digest",
    "word_level",
    "zeroshot",
]
