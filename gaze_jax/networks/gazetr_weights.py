"""Weight files of GazeTR-Hybrid (arXiv 2105.14424) in safetensors, in both directions, and ImageNet's for the trunk alone.

GazeTR's tensors hang below "base_model" (the ResNet, with the 1x1 convolution as `conv.0` and its norm as `conv.1`) and
"encoder"; the rows of its head `feed` are (yaw, pitch), ours are (pitch, yaw): the head is swapped here and nowhere else.
A file says in its metadata what its network is given ("input", one of `face_input.INPUTS`): weights under another input
would load and be wrong without a word, so a file that says nothing or something else is an error.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import safetensors
import safetensors.numpy

from core_jax.clip import resnet_weights, table
from core_jax.clip.source import PICKLED
from core_jax.clip.table import CONV, LINEAR, Row, affine, dense
from core_jax.clip.tensors import WeightsError, open_tensors
from core_jax.data import files
from core_jax.train import Params
from gaze_jax.networks.cfe import CFE, CFEConfig
from gaze_jax.networks.face_input import INPUTS

_LAYER, _OURS = "encoder.layers.{}", "params/layer_{}"
_FUSED = tuple(f"{_OURS}/{part}" for part in ("query", "key", "value"))

TABLE = (
    *resnet_weights.trunk_rows("base_model.", "params/trunk", "stats/trunk"),
    *dense("base_model.conv.0", "params/reduce", CONV),
    *resnet_weights.norm_rows("base_model.conv.1", "params/reduce_bn", "stats/reduce_bn"),
    Row(f"{_LAYER}.self_attn.in_proj_weight", tuple(f"{p}/kernel" for p in _FUSED), LINEAR),
    Row(f"{_LAYER}.self_attn.in_proj_bias", tuple(f"{p}/bias" for p in _FUSED)),
    *dense(f"{_LAYER}.self_attn.out_proj", f"{_OURS}/out"),
    *dense(f"{_LAYER}.linear{{}}", f"{_OURS}/fc{{}}"),
    *affine(f"{_LAYER}.norm{{}}", f"{_OURS}/norm{{}}"),
    *affine("encoder.norm", "params/norm"),
    Row("cls_token", "params/first"),
    Row("pos_embedding.weight", "params/position"),
    *dense("feed", "params/head"),
)

_COUNTERS = re.compile(resnet_weights.COUNTERS)


def read(path: str | os.PathLike, config: CFEConfig) -> Params:
    """A GazeTR-Hybrid from a safetensors file.

    Args:
      path: the file.
      config: the network it must be, its input included.

    Returns:
      `trainable` and `stats` as `CFE.init` gives them.

    Raises:
      WeightsError: no such file, a pickled one, another input, or tensors that are missing, unknown, mis-shaped or not
        finite; all are listed.
    """
    path = pathlib.Path(path)
    _check_input(_found(path), config.input)
    with open_tensors([path]) as tensors:
        named = {name: tensors[name] for name in tensors}
    if "cls_token" in named and named["cls_token"].shape == (1, 1, config.width):
        named["cls_token"] = named["cls_token"][0, 0]
    try:
        tree = table.read(named, TABLE, shapes(config), ignored=_COUNTERS)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    tree["params"]["head"] = _swapped(tree["params"]["head"])
    return Params(trainable=tree["params"], stats=tree["stats"])


def write(path: str | os.PathLike, params: Params, config: CFEConfig) -> None:
    """The same file from parameters: torch's GazeTR-Hybrid loads it, and so does `read`.

    Raises:
      WeightsError: leaves are missing, unknown, of another shape, or not finite; all are listed.
    """
    tree = {**params.trainable, "head": _swapped(params.trainable["head"])}
    tensors = table.write({"params": tree, "stats": params.stats}, TABLE, shapes(config))
    tensors["cls_token"] = tensors["cls_token"][None, None]
    metadata = {"format": "pt", "input": config.input}
    files.atomic_write(pathlib.Path(path), safetensors.numpy.save(tensors, metadata))


def start(params: Params, config: CFEConfig) -> Params:
    """`params` of a fresh network with the file that `config` names in their place: everything, or the trunk.

    Raises:
      WeightsError: see `read`.
    """
    if config.trunk_init == "gazetr":
        return read(config.weights, config)
    if config.input != "imagenet":
        raise WeightsError(
            f"{config.weights}: an ImageNet trunk is given RGB with ImageNet's mean and sd, but the input is "
            f"{config.input!r}: set it to 'imagenet'"
        )
    trunk = resnet_weights.read_torchvision(config.weights, config.trunk)
    return Params(
        trainable={**params.trainable, "trunk": trunk["params"]},
        stats={**params.stats, "trunk": trunk["stats"]},
    )


def shapes(config: CFEConfig) -> dict[str, tuple[int, ...]]:
    """Path ("params/layer_0/fc1/kernel", "stats/trunk/bn1/mean") to shape of every leaf of the network."""
    # A fresh one: the sizes do not depend on the file, which may be what is being read.
    fresh = dataclasses.replace(config, trunk_init="scratch", weights="")
    params = jax.eval_shape(lambda key: CFE(fresh).init(key=key), jax.random.key(0))
    tree = {"params": params.trainable, "stats": params.stats}
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def _swapped(head: Mapping) -> dict:
    """The head with its two outputs exchanged."""
    return {"kernel": head["kernel"][:, ::-1], "bias": head["bias"][::-1]}


def _found(path: pathlib.Path) -> pathlib.Path:
    if path.suffix in PICKLED:
        raise WeightsError(
            f"{path} is a pickled checkpoint, and opening one can run code hidden in it. If you trust it, convert it where "
            "torch and safetensors are installed, saying what its network is given ('bgr': OpenCV's pictures on [0, 1]):\n"
            '  python -c "import torch; from safetensors.torch import save_file; '
            f"d = torch.load({str(path)!r}, map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
            "save_file({k.removeprefix('module.'): v.contiguous() for k, v in d.items()}, "
            f"{str(path.with_suffix('.safetensors'))!r}, metadata={{'input': 'bgr'}})\""
        )
    if not path.is_file():
        raise WeightsError(f"there is no weight file {str(path)!r} (seen from {os.getcwd()})")
    return path


def _check_input(path: pathlib.Path, expected: str) -> None:
    try:
        with safetensors.safe_open(path, "numpy") as file:
            found = (file.metadata() or {}).get("input")
    except safetensors.SafetensorError as error:
        raise WeightsError(f"{path} is unreadable (copy it again): {error}") from None
    if found not in INPUTS:
        raise WeightsError(
            f"{path}: its metadata gives input {found!r}, expected one of {', '.join(INPUTS)}; save it again with "
            "metadata={'input': ...} saying what the network was trained on ('bgr': OpenCV's pictures on [0, 1])"
        )
    if found != expected:
        raise WeightsError(
            f"{path}: these weights are given {found!r} pictures, the configuration says {expected!r}: set input to "
            f"{found!r}"
        )
