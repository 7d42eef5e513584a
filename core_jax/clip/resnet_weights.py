"""Weights of ResNets in safetensors, in both directions: CLIP's with OpenAI's tensor names, and torchvision's trunks.

    model = resnet_weights.load("clip-rn50")  # a folder with model.safetensors and tokenizer files
    image = resnet_model.encode_image(model.params, model.config, clip.normalise(pictures, model.config.clip))
    text = zeroshot.text_features(model.clip, ["a photo of a face."])

Running means and variances of batch normalisation are read with the parameters; torch's counters of steps are not.
"""

import dataclasses
import functools
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

from core_jax.clip import resnet_model, table
from core_jax.clip.config import ConfigError, TextConfig
from core_jax.clip.io import Clip
from core_jax.clip.openclip_weights import TEXT
from core_jax.clip.resnet_model import ResNetClipConfig
from core_jax.clip.source import PICKLED, SourceError, refusal, resolve
from core_jax.clip.table import CONV, Row, affine, dense
from core_jax.clip.tensors import WeightsError, open_tensors
from core_jax.clip.tokenizer import Tokenizer
from core_jax.nn import STATS, ResNet, ResNetConfig

FILES = ("model.safetensors", "open_clip_model.safetensors")
COUNTERS = r".*num_batches_tracked"
# Beside its weights, OpenAI's archive holds three numbers and, in some exports, the text tower's causal mask.
_IGNORED = re.compile(rf"{COUNTERS}|input_resolution|context_length|vocab_size|attn_mask")
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


OPENAI = (
    *trunk_rows("visual.", "vision/trunk", "stats"),
    Row("visual.attnpool.positional_embedding", "vision/pool/position_embedding"),
    *dense("visual.attnpool.q_proj", "vision/pool/query"),
    *dense("visual.attnpool.k_proj", "vision/pool/key"),
    *dense("visual.attnpool.v_proj", "vision/pool/value"),
    *dense("visual.attnpool.c_proj", "vision/pool/out"),
    *TEXT,
)
TORCHVISION = trunk_rows("", "params", "stats")


@dataclasses.dataclass(frozen=True)
class ResNetClip:
    """A loaded model; `tokenizer` opens its files when it is first used."""

    config: ResNetClipConfig
    params: dict
    tokenizer: Tokenizer

    @property
    def clip(self) -> Clip:
        """The same model for what needs its text tower only (`zeroshot.text_features`)."""
        return Clip(self.config.clip, self.params, self.tokenizer)


def load(source: str | os.PathLike) -> ResNetClip:
    """Opens a CLIP with a ResNet image tower; what it is made of is read from the shapes of its tensors.

    Args:
      source: a folder, or a hub id "owner/name", with one of `FILES` and tokenizer files.

    Raises:
      SourceError: no such folder or model, no such file, or only pickled weights (the message holds the conversion).
      ConfigError: the tensors are not those of a CLIP with a ResNet.
      WeightsError: weights are missing, unknown, mis-shaped or not finite; all are listed.
    """
    folder = resolve(source)
    found = [folder / name for name in FILES if (folder / name).is_file()]
    if not found:
        pickled = sorted(p for p in folder.iterdir() if p.suffix in PICKLED)
        options = {"config": "tokenizer files", "names": "OpenAI's names (visual.conv1...)"}
        raise SourceError(
            refusal(pickled[0], **options)
            if pickled
            else f"{folder} has none of {', '.join(FILES)}"
        )
    with open_tensors(found[:1]) as tensors:
        try:
            config = config_of(tensors)
            params = from_openai(tensors, config)
        except (ConfigError, WeightsError) as error:
            raise type(error)(f"{found[0]}: {error}") from None
    return ResNetClip(config, params, Tokenizer(folder, config.text))


def config_of(tensors: Mapping[str, np.ndarray]) -> ResNetClipConfig:
    """What the model with these tensors (OpenAI's names) is made of: heads have 64 channels in both towers.

    Raises:
      ConfigError: the tensors that tell are not there; they are listed.
    """
    needed = (
        "visual.conv3.weight",
        "visual.attnpool.positional_embedding",
        "token_embedding.weight",
        "positional_embedding",
        "text_projection",
    )
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise ConfigError(
            f"not a CLIP with a ResNet image tower under OpenAI's names: there is no {', '.join(missing)}"
        )
    shape = {name: tensors[name].shape for name in needed}
    blocks = _numbers(tensors, r"visual\.layer(\d+)\.(\d+)\.conv1\.weight")
    layers = _numbers(tensors, r"transformer\.resblocks\.(\d+)\.ln_1\.weight")
    text_width, projection_dim = shape["text_projection"]
    depths = [sum(stage == s for stage, _ in blocks) for s in (1, 2, 3, 4)]
    return ResNetClipConfig(
        depths=(depths[0], depths[1], depths[2], depths[3]),
        width=shape["visual.conv3.weight"][0],
        image_size=32 * math.isqrt(shape["visual.attnpool.positional_embedding"][0] - 1),
        text=TextConfig(
            vocab_size=shape["token_embedding.weight"][0],
            context_length=shape["positional_embedding"][0],
            width=text_width,
            layers=len(layers),
            heads=max(1, text_width // 64),
            mlp_width=4 * text_width,
            eos_token_id=2,
            pad_token_id=0,
        ),
        projection_dim=projection_dim,
    )


def from_openai(tensors: Mapping[str, np.ndarray], config: ResNetClipConfig) -> dict:
    """Our nested float32 parameters, "stats" among them, from OpenAI's named tensors.

    Raises:
      WeightsError: tensors are missing, unknown, of another shape or type, or not finite; all are listed.
    """
    return table.read(tensors, OPENAI, shapes(config), ignored=_IGNORED)


def to_openai(
    params: dict, config: ResNetClipConfig, dtype: str = "float32"
) -> dict[str, np.ndarray]:
    """OpenAI's named tensors (numpy, contiguous, of type `dtype`) from our parameters.

    Raises:
      WeightsError: leaves are missing, unknown, of another shape, or not finite in `dtype`; all are listed.
    """
    return table.write(params, OPENAI, shapes(config), dtype)


def shapes(config: ResNetClipConfig) -> dict[str, tuple[int, ...]]:
    """Path ("vision/trunk/layer1_0/conv1/kernel", "stats/bn1/mean") to shape of every leaf of the model."""
    make = functools.partial(resnet_model.init, config)
    return _shapes(jax.eval_shape(make, key=jax.random.key(0)))


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
    tree = jax.eval_shape(ResNet(config).init, jax.random.key(0), pixels)
    return _shapes({"params": tree["params"], "stats": tree[STATS]})


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    flat: dict[str, Any] = flax.traverse_util.flatten_dict(tree, sep="/")
    return {path: tuple(leaf.shape) for path, leaf in flat.items()}


def _numbers(tensors: Mapping[str, Any], pattern: str) -> list[tuple[int, ...]]:
    """The numbers in those names that match."""
    matches = (re.fullmatch(pattern, name) for name in tensors)
    return [tuple(int(n) for n in match.groups()) for match in matches if match]
