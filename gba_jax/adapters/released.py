"""Checkpoints of GBA's reference implementation (arXiv 2409.08468): the adapters' tensors by their names there.

The preset `released` computes what the reference implementation does, so its weights fit. SDA is kept below
"backbone.mona_st.", CCA below "backbone.mona_sem."; the style bank and the stored statistics of the norms are state, not
parameters. Tensors of CLIP and of the host are left alone.

    params, stats = released.load("gba.safetensors", module, text_width=768)
"""

import os
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import safetensors.numpy

from core_jax.clip import WeightsError, table
from core_jax.clip.table import CONV, Row, affine, dense
from core_jax.clip.tensors import open_tensors
from core_jax.data import files
from gba_jax.adapters.plug import GBA, init

PREFIX = "backbone.mona_"
# The host's void row, which is CCA's own where the host has none (`host_void` is off).
VOID = Row("void_embedding.weight", "params/cca/null")
# How many batches a norm of torch has seen: nothing depends on it, and torch fills it in where it is missing.
_COUNTER = ".num_batches_tracked"
# A linear layer of ours, stored as a 1 x 1 convolution: the table sees it as one.
_POINTWISE = "refine/project/kernel"


def _conv(foreign: str, ours: str, size: int) -> tuple[Row, ...]:
    return (
        Row(f"{foreign}.weight", f"{ours}/kernel{size}", CONV),
        Row(f"{foreign}.bias", f"{ours}/bias{size}"),
    )


def _shared(foreign: str, ours: str, norm: str, state: str) -> tuple[Row, ...]:
    """What both adapters have: three convolutions, a batch norm with stored statistics, the refinement."""
    return (
        *_conv(f"{foreign}.conv1", f"{ours}/convs", 3),
        *_conv(f"{foreign}.conv2", f"{ours}/convs", 5),
        *_conv(f"{foreign}.conv3", f"{ours}/convs", 7),
        *affine(f"{foreign}.{norm}", ours),
        Row(f"{foreign}.{norm}.running_mean", f"stats/{state}/mean"),
        Row(f"{foreign}.{norm}.running_var", f"stats/{state}/var"),
        *dense(f"{foreign}.projector", f"{ours}/refine/project", CONV),
        Row(f"{foreign}.prompt", f"{ours}/refine/prompt"),
        # Multiplied from the right, so it is kept as it is.
        Row(f"{foreign}.top_down_transform", f"{ours}/refine/out"),
    )


_SDA, _CCA = f"{PREFIX}st", f"{PREFIX}sem"
ROWS = (
    *_shared(_SDA, "params/sda", "st.bn", "sda_norm"),
    Row(f"{_SDA}.st.proto_mean", "stats/style_bank/mean"),
    Row(f"{_SDA}.st.proto_std", "stats/style_bank/deviation"),
    *_shared(_CCA, "params/cca", "ci.bn", "cca_norm"),
    *affine(f"{_CCA}.ci.layer_norm_q_1", "params/cca/query_norm"),
    *affine(f"{_CCA}.ci.layer_norm_k_1", "params/cca/key_norm"),
    *dense(f"{_CCA}.ci.attn.q_proj", "params/cca/attention/query"),
    *dense(f"{_CCA}.ci.attn.k_proj", "params/cca/attention/key"),
    *dense(f"{_CCA}.ci.attn.v_proj", "params/cca/attention/value"),
    *dense(f"{_CCA}.ci.attn.out_proj", "params/cca/attention/out"),
    VOID,
)


def from_released(
    tensors: Mapping[str, np.ndarray], module: GBA, text_width: int
) -> tuple[dict, dict]:
    """The adapters' (params, stats), as `init` gives them, from named tensors.

    Args:
      tensors: a whole checkpoint, or its adapters alone; float32, float16 or bfloat16. Read one at a time.
      module: adapters of the preset "released".
      text_width: D of the text rows.

    Raises:
      WeightsError: tensors of the adapters are missing, unknown, of another shape or type, or not finite; all are listed.
      ValueError: another preset.
    """
    shapes = _shapes(module, text_width)
    own = {name: tensors[name] for name in tensors if _belongs(name, shapes)}
    flat = _flatten(table.read(own, ROWS, shapes))
    narrow = {path: v[0, 0] if path.endswith(_POINTWISE) else v for path, v in flat.items()}
    tree = flax.traverse_util.unflatten_dict(narrow, sep="/")
    return tree["params"], tree["stats"]


def to_released(
    params: Mapping, stats: Mapping, module: GBA, text_width: int
) -> dict[str, np.ndarray]:
    """Named tensors (numpy, contiguous, float32) from the adapters' (params, stats); the inverse of `from_released`.

    Raises:
      WeightsError: leaves are missing, unknown, of another shape, or not finite; all are listed.
      ValueError: another preset.
    """
    flat = _flatten({"params": params, "stats": stats})
    wide = {p: np.asarray(v)[None, None] if p.endswith(_POINTWISE) else v for p, v in flat.items()}
    tree = flax.traverse_util.unflatten_dict(wide, sep="/")
    return table.write(tree, ROWS, _shapes(module, text_width))


def load(path: str | os.PathLike, module: GBA, text_width: int) -> tuple[dict, dict]:
    """As `from_released`, from a safetensors file, of which only the adapters are read.

    Raises:
      WeightsError: see `from_released`, or the file is unreadable.
    """
    with open_tensors([pathlib.Path(path)]) as tensors:
        try:
            return from_released(tensors, module, text_width)
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None


def save(
    path: str | os.PathLike, params: Mapping, stats: Mapping, module: GBA, text_width: int
) -> None:
    """Write the adapters to a safetensors file; it appears complete or not at all."""
    tensors = to_released(params, stats, module, text_width)
    with files.atomic_path(path) as temporary:
        safetensors.numpy.save_file(tensors, temporary)


def _belongs(name: str, shapes: table.Shapes) -> bool:
    """Whether a tensor of a checkpoint is the adapters' business, known to the table or not."""
    if name.startswith(PREFIX):
        return not name.endswith(_COUNTER)
    return name == VOID.foreign and VOID.ours in shapes


def _shapes(module: GBA, text_width: int) -> dict[str, tuple[int, ...]]:
    """Path ("params/sda/scale", "stats/style_bank/mean") to shape of every leaf, as the table is to see it."""
    if module.preset != "released":
        raise ValueError(
            f"the adapters have preset={module.preset!r}, but these checkpoints hold the parameters of 'released'"
        )
    made = jax.eval_shape(lambda: init(module, text_width, key=jax.random.key(0)))
    flat = _flatten(dict(zip(("params", "stats"), made)))
    return {
        path: (1, 1, *leaf.shape) if path.endswith(_POINTWISE) else tuple(leaf.shape)
        for path, leaf in flat.items()
    }


def _flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    return flax.traverse_util.flatten_dict(tree, sep="/")
