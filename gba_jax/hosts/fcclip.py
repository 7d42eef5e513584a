"""Checkpoints of FC-CLIP (arXiv 2308.02487): the tensor names of its trained part and ours, read in both directions.

FC-CLIP trains what is below "sem_seg_head." and the void row; its frozen CLIP, below "backbone.", is that of OpenCLIP and
is left alone. Its checkpoints fit `CONFIG`; convert them to safetensors first.

    params = fcclip.load("fcclip.safetensors", fcclip.CONFIG, channels=(192, 384, 768, 1536), text_width=768)
    outputs = MaskClassification(fcclip.CONFIG).apply({"params": params}, maps, text)
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from core_jax.clip import WeightsError, table
from core_jax.clip.table import CONV, LINEAR, Row, affine, dense
from core_jax.clip.tensors import open_tensors
from core_jax.data import files
from gba_jax.hosts.masks import MaskClassification, MaskConfig
from gba_jax.vocabulary import TextRows

CONFIG = MaskConfig(pixel_decoder="deform")
PREFIXES = ("sem_seg_head.", "void_embedding.")

Channels = tuple[int, int, int, int]


def _normed_conv(foreign: str, ours: str) -> tuple[Row, ...]:
    return (
        Row(f"{foreign}.weight", f"{ours}/conv/kernel", CONV),
        *affine(f"{foreign}.norm", f"{ours}/norm"),
    )


def _projection(place: int, name: str) -> tuple[Row, ...]:
    """One of the convolutions before the encoder, which are counted from the coarsest map."""
    foreign, ours = f"{_PIXELS}.input_proj.{place}", f"pixel_decoder/project_{name}"
    return (*dense(f"{foreign}.0", f"{ours}/conv", CONV), *affine(f"{foreign}.1", f"{ours}/norm"))


def _attention(foreign: str, kind: str, ours: str) -> tuple[Row, ...]:
    """An attention layer with its norm; torch keeps query, key and value in one tensor, in this order."""
    parts = [f"{ours}/attention/{part}" for part in ("query", "key", "value")]
    return (
        Row(f"{foreign}.{kind}.in_proj_weight", tuple(f"{p}/kernel" for p in parts), LINEAR),
        Row(f"{foreign}.{kind}.in_proj_bias", tuple(f"{p}/bias" for p in parts)),
        *dense(f"{foreign}.{kind}.out_proj", f"{ours}/attention/out"),
        *affine(f"{foreign}.norm", f"{ours}/norm"),
    )


def _feed_forward(foreign: str, ours: str, norm: str) -> tuple[Row, ...]:
    return (
        *dense(f"{foreign}.linear1", f"{ours}/fc1"),
        *dense(f"{foreign}.linear2", f"{ours}/fc2"),
        *affine(f"{foreign}.{norm}", f"{ours}/norm"),
    )


_PIXELS, _QUERIES = "sem_seg_head.pixel_decoder", "sem_seg_head.predictor"
_LAYER, _OURS = f"{_PIXELS}.transformer.encoder.layers.{{}}", "pixel_decoder/layer_{}"

ROWS = (
    *_projection(0, "res5"),
    *_projection(1, "res4"),
    *_projection(2, "res3"),
    Row(f"{_PIXELS}.transformer.level_embed", "pixel_decoder/level"),
    *dense(f"{_LAYER}.self_attn.sampling_offsets", f"{_OURS}/attention/offsets"),
    *dense(f"{_LAYER}.self_attn.attention_weights", f"{_OURS}/attention/weights"),
    *dense(f"{_LAYER}.self_attn.value_proj", f"{_OURS}/attention/value"),
    *dense(f"{_LAYER}.self_attn.output_proj", f"{_OURS}/attention/out"),
    *affine(f"{_LAYER}.norm1", f"{_OURS}/norm"),
    *_feed_forward(_LAYER, f"{_OURS}/ffn", "norm2"),
    *_normed_conv(f"{_PIXELS}.adapter_1", "pixel_decoder/lateral_res2"),
    *_normed_conv(f"{_PIXELS}.layer_1", "pixel_decoder/output_res2"),
    *dense(f"{_PIXELS}.mask_features", "pixel_decoder/features", CONV),
    Row(f"{_QUERIES}.query_feat.weight", "decoder/query"),
    Row(f"{_QUERIES}.query_embed.weight", "decoder/position"),
    Row(f"{_QUERIES}.level_embed.weight", "decoder/level"),
    *_attention(
        f"{_QUERIES}.transformer_cross_attention_layers.{{}}", "multihead_attn", "decoder/cross_{}"
    ),
    *_attention(
        f"{_QUERIES}.transformer_self_attention_layers.{{}}", "self_attn", "decoder/self_{}"
    ),
    *_feed_forward(f"{_QUERIES}.transformer_ffn_layers.{{}}", "decoder/ffn_{}", "norm"),
    *affine(f"{_QUERIES}.decoder_norm", "decoder/head/norm"),
    *dense(f"{_QUERIES}.mask_embed.layers.{{}}", "decoder/head/mask/fc_{}"),
    *affine(f"{_QUERIES}._mask_pooling_proj.0", "decoder/head/pool_norm"),
    *dense(f"{_QUERIES}._mask_pooling_proj.1", "decoder/head/pool"),
    *dense(f"{_QUERIES}.class_embed.layers.{{}}", "decoder/head/class/fc_{}"),
    Row(f"{_QUERIES}.logit_scale", "decoder/head/scale"),
    # An embedding of one row; ours is the row.
    Row("void_embedding.weight", "void"),
)


def from_fcclip(
    tensors: Mapping[str, np.ndarray], config: MaskConfig, channels: Channels, text_width: int
) -> dict:
    """The parameters of `MaskClassification` from named tensors.

    Args:
      tensors: a whole checkpoint, or its trained part alone; float32, float16 or bfloat16. Read one at a time.
      config: with the pixel decoder "deform".
      channels: E of "res2" to "res5" of the backbone.
      text_width: D of the text rows.

    Raises:
      WeightsError: tensors of the trained part are missing, unknown, of another shape or type, or not finite; all are
        listed.
      ValueError: another pixel decoder.
    """
    own = {name: tensors[name] for name in tensors if name.startswith(PREFIXES)}
    params = table.read(own, ROWS, _shapes(config, channels, text_width))
    return {**params, "void": params["void"][0]}


def to_fcclip(
    params: Mapping[str, Any], config: MaskConfig, channels: Channels, text_width: int
) -> dict[str, np.ndarray]:
    """Named tensors (numpy, contiguous, float32) from our parameters; the inverse of `from_fcclip`.

    Raises:
      WeightsError: leaves are missing, unknown, of another shape, or not finite; all are listed.
      ValueError: another pixel decoder.
    """
    row = {"void": np.asarray(params["void"])[None]} if "void" in params else {}
    return table.write({**params, **row}, ROWS, _shapes(config, channels, text_width))


def load(path: str | os.PathLike, config: MaskConfig, channels: Channels, text_width: int) -> dict:
    """As `from_fcclip`, from a safetensors file, of which only the trained part is read.

    Raises:
      WeightsError: see `from_fcclip`, or the file is unreadable.
      ValueError: another pixel decoder.
    """
    with open_tensors([pathlib.Path(path)]) as tensors:
        try:
            return from_fcclip(tensors, config, channels, text_width)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None


def save(
    path: str | os.PathLike,
    params: Mapping[str, Any],
    config: MaskConfig,
    channels: Channels,
    text_width: int,
) -> None:
    """Write the parameters to a safetensors file; it appears complete or not at all."""
    tensors = to_fcclip(params, config, channels, text_width)
    with files.atomic_path(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary)


def _shapes(config: MaskConfig, channels: Channels, text_width: int) -> table.Shapes:
    """Path ("decoder/level") to shape of every leaf, as the table is to see it."""
    if config.pixel_decoder != "deform":
        raise ValueError(
            f"the configuration has pixel_decoder={config.pixel_decoder!r}, but FC-CLIP's checkpoints hold the "
            "parameters of 'deform'"
        )
    names = ("res2", "res3", "res4", "res5")
    maps = {name: jnp.zeros((1, 1, 1, width)) for name, width in zip(names, channels, strict=True)}
    text = TextRows(
        jnp.zeros((1, text_width)), jnp.ones(1, bool), jnp.zeros(1, jnp.int32), jnp.ones(1, bool)
    )
    made = jax.eval_shape(MaskClassification(config).init, jax.random.key(0), maps, text)
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(made["params"], sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()} | {"void": (1, text_width)}
