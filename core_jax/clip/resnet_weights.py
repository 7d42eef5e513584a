"""Weights of ResNets in safetensors: the rows of CLIP's image tower, and torchvision's trunks in both directions.

The names inside a trunk are the same in both. Running means and variances of batch normalisation are read with the
parameters; torch's counters of steps are not.
"""

import os
import pathlib
import re
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from core_jax.clip import table
from core_jax.clip.source import PICKLED
from core_jax.clip.table import CONV, Row, affine, dense
from core_jax.clip.tensors import WeightsError, open_tensors
from core_jax.nn import STATS, ResNet, ResNetConfig

COUNTERS = r".*num_batches_tracked"
_CLASSIFIER = re.compile(rf"{COUNTERS}|fc\.(weight|bias)")


def norm_rows(foreign: str, params: str, stats: str) -> tuple[Row, ...]:
    """The rows of one batch normalisation: scale and bias below `params`, running statistics below `stats`."""
    return (
        *affine(foreign, params),
        Row(f"{foreign}.running_mean", f"{stats}/mean"),
        Row(f"{foreign}.running_var", f"{stats}/var"),
    )


def trunk_rows(foreign: str, params: str, stats: str) -> tuple[Row, ...]:
    """The rows of a ResNet, OpenAI's or torchvision's.

    Args:
      foreign: what the foreign names begin with, such as "visual.".
      params: path of the trunk's parameters.
      stats: path of its running statistics.
    """
    block = "layer{}_{}"
    theirs = f"{foreign}layer{{}}.{{}}"
    return (
        Row(f"{foreign}conv{{}}.weight", f"{params}/conv{{}}/kernel", CONV),
        *norm_rows(f"{foreign}bn{{}}", f"{params}/bn{{}}", f"{stats}/bn{{}}"),
        Row(f"{theirs}.conv{{}}.weight", f"{params}/{block}/conv{{}}/kernel", CONV),
        *norm_rows(f"{theirs}.bn{{}}", f"{params}/{block}/bn{{}}", f"{stats}/{block}/bn{{}}"),
        Row(f"{theirs}.downsample.0.weight", f"{params}/{block}/down/kernel", CONV),
        *norm_rows(
            f"{theirs}.downsample.1", f"{params}/{block}/down_bn", f"{stats}/{block}/down_bn"
        ),
    )


CLIP_VISION = (
    *trunk_rows("visual.", "vision/trunk", "vision/stats"),
    Row("visual.attnpool.positional_embedding", "vision/pool/position_embedding"),
    *dense("visual.attnpool.q_proj", "vision/pool/query"),
    *dense("visual.attnpool.k_proj", "vision/pool/key"),
    *dense("visual.attnpool.v_proj", "vision/pool/value"),
    *dense("visual.attnpool.c_proj", "vision/pool/out"),
)
TORCHVISION = trunk_rows("", "params", "stats")


def read_torchvision(path: str | os.PathLike, config: ResNetConfig) -> dict:
    """The trunk in a safetensors file of torchvision's names; the classifier ("fc") is left out.

    Args:
      path: the file.
      config: the trunk it must be.

    Returns:
      {"params", "stats"} of `core_jax.nn.ResNet`.

    Raises:
      WeightsError: no such file, a pickled or unreadable one, or tensors are missing, unknown, mis-shaped or not finite; all are listed.
    """
    path = pathlib.Path(path)
    if path.suffix in PICKLED:
        raise WeightsError(
            f"{path} is a pickled checkpoint, and opening one can run code hidden in it. If you trust it, convert it where "
            'torch and safetensors are installed:\n  python -c "import torch; from safetensors.torch import save_file; '
            f"save_file(torch.load({str(path)!r}, map_location='cpu', weights_only=True), "
            f'{str(path.with_suffix(".safetensors"))!r})"'
        )
    if not path.is_file():
        raise WeightsError(f"there is no weight file {str(path)!r} (seen from {os.getcwd()})")
    with open_tensors([path]) as tensors:
        try:
            return table.read(
                tensors, TORCHVISION, _torchvision_shapes(config), ignored=_CLASSIFIER
            )
        except WeightsError as error:
            raise WeightsError(f"{path}: {error}") from None


def to_torchvision(params: dict, stats: dict, config: ResNetConfig) -> dict[str, np.ndarray]:
    """The same tensors from a trunk: everything but the classifier.

    Raises:
      WeightsError: leaves are missing, unknown, of another shape, or not finite; all are listed.
    """
    tree = {"params": params, "stats": stats}
    return table.write(tree, TORCHVISION, _torchvision_shapes(config))


def _torchvision_shapes(config: ResNetConfig) -> dict[str, tuple[int, ...]]:
    pixels = jnp.zeros((1, 64, 64, 3), jnp.float32)
    found = jax.eval_shape(ResNet(config).init, jax.random.key(0), pixels)
    tree = {"params": found["params"], "stats": found[STATS]}
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}
