"""The weight tables of OpenCLIP and OpenAI, whose tensors have the same names, read in both directions.

A model of OpenCLIP's class `CLIP` keeps its text tower at the top ("transformer.resblocks.0..."), as OpenAI's does, one of
its class `CustomTextCLIP` below "text."; both are read. What is written has the first form, which OpenCLIP loads into either.
"""

import functools
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from core_jax.clip import openclip_model, table, weights
from core_jax.clip.config import ClipConfig, VisionConfig
from core_jax.clip.openclip_config import OpenClipConfig
from core_jax.clip.resnet_weights import CLIP_VISION, COUNTERS
from core_jax.clip.table import CONV, LINEAR, Row, affine, dense
from core_jax.clip.tensors import WeightsError


def _transformer(foreign: str, ours: str) -> tuple[Row, ...]:
    """The blocks of one tower; OpenCLIP keeps query, key and value in one tensor, in this order."""
    fused = [f"{ours}/block_{{}}/attention/{part}" for part in ("query", "key", "value")]
    theirs, block = f"{foreign}.resblocks.{{}}", f"{ours}/block_{{}}"
    return (
        *affine(f"{theirs}.ln_1", f"{block}/norm1"),
        Row(f"{theirs}.attn.in_proj_weight", tuple(f"{p}/kernel" for p in fused), LINEAR),
        Row(f"{theirs}.attn.in_proj_bias", tuple(f"{p}/bias" for p in fused)),
        *dense(f"{theirs}.attn.out_proj", f"{block}/attention/out"),
        *affine(f"{theirs}.ln_2", f"{block}/norm2"),
        *dense(f"{theirs}.mlp.c_fc", f"{block}/fc1"),
        *dense(f"{theirs}.mlp.c_proj", f"{block}/fc2"),
    )


TEXT = (
    Row("logit_scale", "logit_scale"),
    Row("token_embedding.weight", "text/token_embedding"),
    Row("positional_embedding", "text/position_embedding"),
    *_transformer("transformer", "text"),
    *affine("ln_final", "text/final_norm"),
    # Kept as (width, D), unlike the weight of a linear layer.
    Row("text_projection", "text/projection/kernel"),
)

_STAGE, _OURS = "visual.trunk.stages.{}", "vision/trunk/stage_{}"
_BLOCK, _OUR_BLOCK = f"{_STAGE}.blocks.{{}}", f"{_OURS}/block_{{}}"
_TRUNK = (
    *dense("visual.trunk.stem.0", "vision/trunk/stem", CONV),
    *affine("visual.trunk.stem.1", "vision/trunk/stem_norm"),
    *affine(f"{_STAGE}.downsample.0", f"{_OURS}/down_norm"),
    *dense(f"{_STAGE}.downsample.1", f"{_OURS}/down", CONV),
    *dense(f"{_BLOCK}.conv_dw", f"{_OUR_BLOCK}/depthwise", CONV),
    *affine(f"{_BLOCK}.norm", f"{_OUR_BLOCK}/norm"),
    *dense(f"{_BLOCK}.mlp.fc1", f"{_OUR_BLOCK}/fc1"),
    *dense(f"{_BLOCK}.mlp.fc2", f"{_OUR_BLOCK}/fc2"),
    Row(f"{_BLOCK}.gamma", f"{_OUR_BLOCK}/gamma"),
    *affine("visual.trunk.head.norm", "vision/head/norm"),
)
_HEAD = (
    Row("visual.head.proj.weight", "vision/head/projection/kernel", LINEAR),
    *dense("visual.head.mlp.fc1", "vision/head/fc1"),
    Row("visual.head.mlp.fc2.weight", "vision/head/fc2/kernel", LINEAR),
)
CONVNEXT = (*_TRUNK, *_HEAD, *TEXT)

VIT = (
    Row("visual.class_embedding", "vision/class_embedding"),
    Row("visual.conv1.weight", "vision/patch/kernel", CONV),
    Row("visual.positional_embedding", "vision/position_embedding"),
    *affine("visual.ln_pre", "vision/pre_norm"),
    *_transformer("visual.transformer", "vision"),
    *affine("visual.ln_post", "vision/post_norm"),
    Row("visual.proj", "vision/projection/kernel"),
    *TEXT,
)

RESNET = (*CLIP_VISION, *TEXT)

# Beside its weights, OpenAI's archive holds three numbers and, in some exports, the text tower's causal mask.
_IGNORED = re.compile(rf"{COUNTERS}|input_resolution|context_length|vocab_size|attn_mask")


def from_openclip(tensors: Mapping[str, np.ndarray], config: OpenClipConfig | ClipConfig) -> dict:
    """Our nested float32 parameters from tensors with OpenCLIP's or OpenAI's names.

    Args:
      tensors: every tensor of the checkpoint by name; float32, float16 or bfloat16. Read one at a time.
      config: the model the tensors must fit; an `OpenClipConfig` has a ConvNeXt, a `ClipConfig` a ViT or a ResNet.

    Raises:
      WeightsError: tensors are missing, unknown, of another shape or type, or not finite; all are listed, behind the
        sizes of a ConvNeXt that differ as a whole (depths, widths, kind of head).
    """
    try:
        return table.read(
            tensors, _below_text(tensors, _rows(config)), shapes(config), ignored=_IGNORED
        )
    except WeightsError as error:
        sizes = _sizes(tensors, config) if isinstance(config, OpenClipConfig) else []
        raise WeightsError("\n".join([*sizes, str(error)])) from None


def to_openclip(
    params: dict, config: OpenClipConfig | ClipConfig, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """OpenCLIP's named tensors (numpy, contiguous, of type `dtype`) from our parameters; OpenAI's have the same names.

    Raises:
      WeightsError: leaves are missing, unknown, of another shape, or not finite in `dtype`; all are listed.
    """
    return table.write(params, _rows(config), shapes(config), dtype)


def _rows(config: OpenClipConfig | ClipConfig) -> tuple[Row, ...]:
    if isinstance(config, OpenClipConfig):
        return CONVNEXT
    return VIT if isinstance(config.vision, VisionConfig) else RESNET


def shapes(config: OpenClipConfig | ClipConfig) -> dict[str, tuple[int, ...]]:
    """Path ("vision/trunk/stage_0/block_0/gamma") to shape of every leaf of the model."""
    if not isinstance(config, OpenClipConfig):
        return weights.shapes(config)
    make = functools.partial(openclip_model.init, config)
    tree = jax.eval_shape(make, key=jax.random.key(0))
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def _below_text(tensors: Mapping[str, np.ndarray], rows: tuple[Row, ...]) -> tuple[Row, ...]:
    """The rows as the checkpoint spells them."""
    if not any(name.startswith("text.") for name in tensors):
        return rows
    return tuple(
        Row(f"text.{row.foreign}", row.ours, row.axes)
        if row in TEXT and row.foreign != "logit_scale"
        else row
        for row in rows
    )


def _sizes(tensors: Mapping[str, np.ndarray], config: OpenClipConfig) -> list[str]:
    """Where the trunk and the head of the checkpoint are of another size than configured, one line each."""
    found = {}
    for name in tensors:
        match = re.fullmatch(r"visual\.trunk\.stages\.(\d+)\.blocks\.(\d+)\.conv_dw\.weight", name)
        if match:
            found[int(match[1]), int(match[2])] = name
    stages = range(1 + max((stage for stage, _ in found), default=-1))
    depths = tuple(sum(stage == s for stage, _ in found) for s in stages)
    widths = tuple(tensors[found[s, 0]].shape[0] if (s, 0) in found else 0 for s in stages)
    heads = {"linear": "visual.head.proj.weight", "mlp": "visual.head.mlp.fc1.weight"}
    head = tuple(kind for kind, name in heads.items() if name in tensors)
    compared = (
        ("depths", depths, config.trunk.depths),
        ("widths", widths, config.trunk.widths),
        ("head", head, (config.head,)),
    )
    return [
        f"{what}: the checkpoint has {', '.join(map(str, theirs)) or 'none'}; the configuration says "
        f"{', '.join(map(str, ours))}"
        for what, theirs, ours in compared
        if theirs != tuple(ours)
    ]
