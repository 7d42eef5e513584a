"""CLIP's weights under HuggingFace's tensor names, in both directions; digests; position embeddings of another size."""

import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from core_jax.clip import model, table
from core_jax.clip.config import ClipConfig
from core_jax.clip.table import CONV, LINEAR, Row, affine, dense


def _blocks(tower: str) -> tuple[Row, ...]:
    foreign, ours = f"{tower}_model.encoder.layers.{{}}", f"{tower}/block_{{}}"
    return (
        *affine(f"{foreign}.layer_norm{{}}", f"{ours}/norm{{}}"),
        *dense(f"{foreign}.self_attn.q_proj", f"{ours}/attention/query"),
        *dense(f"{foreign}.self_attn.k_proj", f"{ours}/attention/key"),
        *dense(f"{foreign}.self_attn.v_proj", f"{ours}/attention/value"),
        *dense(f"{foreign}.self_attn.out_proj", f"{ours}/attention/out"),
        *dense(f"{foreign}.mlp.fc{{}}", f"{ours}/fc{{}}"),
    )


TABLE = (
    Row("logit_scale", "logit_scale"),
    Row("vision_model.embeddings.class_embedding", "vision/class_embedding"),
    Row("vision_model.embeddings.patch_embedding.weight", "vision/patch/kernel", CONV),
    Row("vision_model.embeddings.position_embedding.weight", "vision/position_embedding"),
    # So spelt in HuggingFace's files.
    *affine("vision_model.pre_layrnorm", "vision/pre_norm"),
    *_blocks("vision"),
    *affine("vision_model.post_layernorm", "vision/post_norm"),
    Row("visual_projection.weight", "vision/projection/kernel", LINEAR),
    Row("text_model.embeddings.token_embedding.weight", "text/token_embedding"),
    Row("text_model.embeddings.position_embedding.weight", "text/position_embedding"),
    *_blocks("text"),
    *affine("text_model.final_layer_norm", "text/final_norm"),
    Row("text_projection.weight", "text/projection/kernel", LINEAR),
)

# Buffers that older exports carry: 0, 1, 2, ... and nothing else.
IGNORED = re.compile(r"(vision|text)_model\.embeddings\.position_ids")


def from_huggingface(tensors: Mapping[str, np.ndarray], config: ClipConfig) -> dict:
    """Our nested float32 parameters from HuggingFace's named tensors.

    Args:
      tensors: every tensor of the checkpoint by name; float32, float16 or bfloat16. Read one at a time.
      config: the model the tensors must fit.

    Raises:
      WeightsError: tensors are missing, unknown, of another shape or type, or not finite; all are listed.
    """
    return table.read(tensors, TABLE, shapes(config), ignored=IGNORED)


def to_huggingface(params: dict, config: ClipConfig, dtype: str = "float32") -> dict:
    """HuggingFace's named tensors (numpy, contiguous, of type `dtype`) from our parameters.

    Raises:
      WeightsError: leaves are missing, unknown, of another shape, or not finite in `dtype`; all are listed.
    """
    return table.write(params, TABLE, shapes(config), dtype)


def shapes(config: ClipConfig) -> dict[str, tuple[int, ...]]:
    """Path ("vision/block_0/fc1/kernel") to shape of every leaf of the model."""
    tree = jax.eval_shape(functools.partial(model.init, config), key=jax.random.key(0))
    return {path: tuple(leaf.shape) for path, leaf in _flatten(tree).items()}


def weights_digest(params: dict) -> str:
    """SHA-256 over path, shape and float32 bytes of every leaf in the order of paths: names a set of weights."""
    digest = hashlib.sha256()
    flat = _flatten(params)
    for path in sorted(flat):
        value = np.asarray(flat[path])
        digest.update(f"{path} {value.shape}\n".encode())
        digest.update(np.ascontiguousarray(value, "<f4").tobytes())
    return digest.hexdigest()


def resize_positions(params: dict, config: ClipConfig, image_size: int) -> tuple[dict, ClipConfig]:
    """The same model for pictures of `image_size` pixels: patch positions resized, bicubic, the class token's kept.

    Torch's kernel without antialiasing, as in HuggingFace's `interpolate_pos_encoding`.

    Raises:
      ConfigError: `image_size` is not a multiple of the patch size, or not the size of a ResNet.
    """
    resized = config.at(image_size)
    if resized.vision.grid == config.vision.grid:
        return params, resized
    position = params["vision"]["position_embedding"]
    old, new, width = config.vit.grid, resized.vit.grid, config.vit.width
    grid = jax.image.resize(
        position[1:].reshape(old, old, width), (new, new, width), "cubic-pytorch", antialias=False
    )
    position = jnp.concatenate([position[:1], grid.reshape(new * new, width)])
    return params | {"vision": params["vision"] | {"position_embedding": position}}, resized


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")
