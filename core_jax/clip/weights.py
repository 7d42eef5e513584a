"""The weight table of CLIP: HuggingFace's tensor names and ours, read in both directions.

Every row pairs a regular expression on HuggingFace's key with our path and the permutation of axes between them (torch
keeps linear kernels as (out, in) and convolutions as (out, in, h, w); Flax as (in, out) and (h, w, in, out)). Accounting
is total: each foreign tensor is used exactly once or stands on the ignore list, each leaf of ours is written exactly
once, and everything that is wrong is reported together. Nothing is ever filled in.
"""

import dataclasses
import functools
import hashlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from core_jax.clip import model
from core_jax.clip.config import ClipConfig

FLOATS = ("float32", "float16", "bfloat16")


class WeightsError(ValueError):
    """Weights that do not fit the model; the message lists every problem."""


@dataclasses.dataclass(frozen=True)
class Row:
    r"""One line of the table.

    `foreign` consists of literals and groups only; `ours` names the groups as \1, \2, which is what makes a row readable
    backwards. `axes` is the `transpose` argument that turns their tensor into ours.
    """

    foreign: str
    ours: str
    axes: tuple[int, ...] | None = None


_LINEAR = (1, 0)
_CONV = (2, 3, 1, 0)
_LAYER = r"(vision|text)_model\.encoder\.layers\.(\d+)\."
_BLOCK = r"\1/block_\2/"

TABLE = (
    Row(r"logit_scale", "logit_scale"),
    Row(r"vision_model\.embeddings\.class_embedding", "vision/class_embedding"),
    Row(r"vision_model\.embeddings\.patch_embedding\.weight", "vision/patch/kernel", _CONV),
    Row(r"vision_model\.embeddings\.position_embedding\.weight", "vision/position_embedding"),
    # So spelt in HuggingFace's files.
    Row(r"vision_model\.pre_layrnorm\.weight", "vision/pre_norm/scale"),
    Row(r"vision_model\.pre_layrnorm\.bias", "vision/pre_norm/bias"),
    Row(r"vision_model\.post_layernorm\.weight", "vision/post_norm/scale"),
    Row(r"vision_model\.post_layernorm\.bias", "vision/post_norm/bias"),
    Row(r"visual_projection\.weight", "vision/projection/kernel", _LINEAR),
    Row(r"text_model\.embeddings\.token_embedding\.weight", "text/token_embedding"),
    Row(r"text_model\.embeddings\.position_embedding\.weight", "text/position_embedding"),
    Row(r"text_model\.final_layer_norm\.weight", "text/final_norm/scale"),
    Row(r"text_model\.final_layer_norm\.bias", "text/final_norm/bias"),
    Row(r"text_projection\.weight", "text/projection/kernel", _LINEAR),
    Row(_LAYER + r"layer_norm(1|2)\.weight", _BLOCK + r"norm\3/scale"),
    Row(_LAYER + r"layer_norm(1|2)\.bias", _BLOCK + r"norm\3/bias"),
    Row(_LAYER + r"self_attn\.q_proj\.weight", _BLOCK + "attention/query/kernel", _LINEAR),
    Row(_LAYER + r"self_attn\.q_proj\.bias", _BLOCK + "attention/query/bias"),
    Row(_LAYER + r"self_attn\.k_proj\.weight", _BLOCK + "attention/key/kernel", _LINEAR),
    Row(_LAYER + r"self_attn\.k_proj\.bias", _BLOCK + "attention/key/bias"),
    Row(_LAYER + r"self_attn\.v_proj\.weight", _BLOCK + "attention/value/kernel", _LINEAR),
    Row(_LAYER + r"self_attn\.v_proj\.bias", _BLOCK + "attention/value/bias"),
    Row(_LAYER + r"self_attn\.out_proj\.weight", _BLOCK + "attention/out/kernel", _LINEAR),
    Row(_LAYER + r"self_attn\.out_proj\.bias", _BLOCK + "attention/out/bias"),
    Row(_LAYER + r"mlp\.fc(1|2)\.weight", _BLOCK + r"fc\3/kernel", _LINEAR),
    Row(_LAYER + r"mlp\.fc(1|2)\.bias", _BLOCK + r"fc\3/bias"),
)

# Buffers that older exports carry: 0, 1, 2, ... and nothing else.
IGNORED = (r"(vision|text)_model\.embeddings\.position_ids",)


def from_huggingface(tensors: Mapping[str, np.ndarray], config: ClipConfig) -> dict:
    """Our nested float32 parameters from HuggingFace's named tensors.

    Args:
      tensors: every tensor of the checkpoint by name; float32, float16 or bfloat16. Read one at a time.
      config: the model the tensors must fit.

    Raises:
      WeightsError: tensors are missing, unknown, doubled, of another shape or type, or not finite; all are listed.
    """
    expected = shapes(config)
    flat: dict[str, np.ndarray] = {}
    problems = []
    for name in sorted(tensors):
        if any(re.fullmatch(pattern, name) for pattern in IGNORED):
            continue
        path, row = _our_path(name)
        if path not in expected or row is None:
            problems.append(f"extra: {name} is not a weight of this model")
            continue
        value, shape = tensors[name], _foreign_shape(expected[path], row)
        if path in flat:
            problems.append(f"extra: {name} is a second source of {path}")
        elif value.dtype.name not in FLOATS:
            problems.append(
                f"type: {name} is {value.dtype.name}, expected one of {', '.join(FLOATS)}"
            )
        elif value.shape != shape:
            problems.append(f"shape: {name} is {value.shape}, expected {shape}")
        else:
            problems += not_finite(name, value)
            value = value.astype(np.float32)
            flat[path] = value if row.axes is None else value.transpose(row.axes)
    given = {_our_path(name)[0] for name in tensors}
    for path in sorted(expected.keys() - given):
        name, row = _their_name(path)
        shape = _foreign_shape(expected[path], row)
        problems.append(f"missing: {name} of shape {shape}")
    raise_all(problems, "the checkpoint does not fit its config.json")
    return flax.traverse_util.unflatten_dict({p: jnp.asarray(v) for p, v in flat.items()}, sep="/")


def to_huggingface(params: dict, config: ClipConfig, dtype: str = "float32") -> dict:
    """HuggingFace's named tensors (numpy, contiguous, of type `dtype`) from our parameters.

    Raises:
      WeightsError: leaves are missing, unknown, of another shape, or not finite in `dtype`; all are listed.
    """
    if dtype not in FLOATS:
        raise WeightsError(f"dtype {dtype!r} is not one of {', '.join(FLOATS)}")
    expected = shapes(config)
    flat = _flatten(params)
    problems = [
        f"missing: {path} of shape {expected[path]}"
        for path in sorted(expected.keys() - flat.keys())
    ]
    tensors = {}
    for path in sorted(flat):
        if path not in expected:
            problems.append(f"extra: {path} is not a weight of this model")
            continue
        name, row = _their_name(path)
        value = np.asarray(flat[path])
        if value.shape != expected[path]:
            problems.append(f"shape: {path} is {value.shape}, expected {expected[path]}")
            continue
        with np.errstate(over="ignore"):
            value = value.astype(jnp.dtype(dtype))
        problems += not_finite(f"{path} as {dtype}", value)
        if row.axes is not None:
            value = value.transpose(np.argsort(row.axes))
        tensors[name] = np.ascontiguousarray(value).reshape(value.shape)
    raise_all(problems, "the parameters do not fit their configuration")
    return tensors


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
      ConfigError: `image_size` is not a multiple of the patch size.
    """
    resized = config.at(image_size)
    if resized.vision.grid == config.vision.grid:
        return params, resized
    position = params["vision"]["position_embedding"]
    old, new, width = config.vision.grid, resized.vision.grid, config.vision.width
    grid = jax.image.resize(
        position[1:].reshape(old, old, width), (new, new, width), "cubic-pytorch", antialias=False
    )
    position = jnp.concatenate([position[:1], grid.reshape(new * new, width)])
    return params | {"vision": params["vision"] | {"position_embedding": position}}, resized


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")


def _our_path(name: str) -> tuple[str | None, Row | None]:
    for row in TABLE:
        match = re.fullmatch(row.foreign, name)
        if match:
            return match.expand(row.ours), row
    return None, None


def _their_name(path: str) -> tuple[str, Row]:
    for row, pattern, template in _backwards():
        match = re.fullmatch(pattern, path)
        if match:
            return template.format(*match.groups()), row
    raise WeightsError(f"no row of the weight table leads to {path}")


@functools.cache
def _backwards() -> tuple[tuple[Row, str, str], ...]:
    """For each row: (row, regular expression on our path, format string of their key)."""
    rows = []
    for row in TABLE:
        groups = re.findall(r"\([^)]*\)", row.foreign)
        pattern = re.sub(r"\\(\d)", lambda m, g=groups: g[int(m[1]) - 1], row.ours)
        template = re.sub(r"\([^)]*\)", "{}", row.foreign).replace("\\.", ".")
        rows.append((row, pattern, template))
    return tuple(rows)


def _foreign_shape(shape: tuple[int, ...], row: Row) -> tuple[int, ...]:
    return shape if row.axes is None else tuple(shape[i] for i in np.argsort(row.axes))


def not_finite(name: str, value: np.ndarray) -> list[str]:
    """The problem of a tensor with nan or infinite values, if it has any."""
    bad = int(np.size(value) - np.count_nonzero(np.isfinite(value)))
    return [f"not finite: {bad} of {np.size(value)} values of {name}"] if bad else []


def raise_all(problems: list[str], summary: str) -> None:
    """Raise one WeightsError that lists all problems, if there are any."""
    if problems:
        listed = "\n  ".join(problems)
        raise WeightsError(f"{summary} ({len(problems)} problems):\n  {listed}")
