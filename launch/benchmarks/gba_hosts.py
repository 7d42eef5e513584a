"""What GBA's adapters cost a segmentation host: the same host with and without them, in turns, in one process."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core_jax import world
from core_jax.clip import openclip
from core_jax.train import Params
from gba_jax import backbones, inputs, vocabulary
from gba_jax import config as configs
from gba_jax.hosts.cost import CostConfig
from gba_jax.model import Segmenter
from gba_jax.vocabulary import TextRows
from launch import config as config_lib
from launch.benchmarks import timing

# Adapters by name; in training with what becomes of the gradient behind SDA's tap.
INFERENCE = {"SDA": {"use": "sda"}, "CCA": {"use": "cca"}, "both": {"use": "both"}}
TRAINING = {
    "SDA (stop)": {"use": "sda", "sda_flow": "stop"},
    "CCA": {"use": "cca"},
    "both (stop)": {"use": "both", "sda_flow": "stop"},
    "both (through)": {"use": "both", "sda_flow": "through"},
}
Call = Callable[[], Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Host:
    """A host to be measured.

    Attributes:
      name: for the rows.
      config: everything but the adapters.
      backbone: the frozen tower.
      clip_params: its parameters.
      words: size of the vocabulary, whose embeddings are random.
    """

    name: str
    config: configs.Config
    backbone: backbones.Backbone
    clip_params: dict
    words: int


def embedded() -> Host:
    """The configuration of the embedded world."""
    config = configs.read(config_lib.load("configs/gba_world.py"))
    opened = inputs.open_clip(config)
    return Host(
        name="embedded",
        config=config,
        backbone=opened.backbone,
        clip_params=opened.params,
        words=1 + len(world.SCENE_CLASSES),
    )


def convnext_b() -> Host:
    """Cost aggregation on OpenCLIP's ConvNeXt-B at 512 px, random weights."""
    config = configs.Config(image_size=512, batch_size=1, cost=CostConfig(form="pyramid"))
    tower = openclip.PRESETS["convnext_base_w_320"]
    params = jax.jit(lambda key: openclip.init(tower, key=key))(jax.random.key(0))
    return Host(
        name="ConvNeXt-B",
        config=config,
        backbone=backbones.Backbone(config=tower),
        clip_params={name: params[name] for name in ("vision", "logit_scale")},
        words=60,
    )


HOSTS = {"embedded": embedded, "convnext_b": convnext_b}


def host_rows(rows: timing.Rows, host: Host, *, repeats: int = 5) -> None:
    """A row for each set of adapters, at inference and for value and gradient of a training step.

    Args:
      rows: ours is the plain host, other the one with adapters.
      host: what is measured.
      repeats: timed rounds.
    """
    text, batch = _text(host), _batch(host)
    for work, make, choices in (
        ("infer", _inference, INFERENCE),
        ("train", _training, TRAINING),
    ):
        calls = []
        for use in ({"use": "none"}, *choices.values()):
            own = dataclasses.replace(host.config.adapters, **use)
            config = dataclasses.replace(host.config, adapters=own)
            model = inputs.segmenter(config, host.backbone, 1000)
            params = model.init(host.clip_params, text, key=jax.random.key(0))
            calls.append(make(model, params, text, batch))
        plain, *others = timing.in_turns(calls, repeats=repeats)
        size = f"{host.config.image_size} px, batch {host.config.batch_size}"
        rows.add(f"{work} {host.name}, {size}: host", plain)
        for name, seconds in zip(choices, others, strict=True):
            rows.add(f"{work} {host.name}, {size}: host, + {name}", plain, seconds)


def _inference(model: Segmenter, params: Params, text: TextRows, batch: dict) -> Call:
    run = jax.jit(model.scores)
    seen = jnp.zeros(text.class_mask.shape, bool)
    return lambda: run(params, batch["image"], text, seen)


def _training(model: Segmenter, params: Params, text: TextRows, batch: dict) -> Call:
    del text  # it is among the frozen parameters

    @jax.jit
    def step(trainable, frozen, stats, batch):
        def loss(trainable):
            value, new, metrics = model.loss(trainable, frozen, stats, batch, jax.random.key(1))
            return value, (new, metrics)

        return jax.value_and_grad(loss, has_aux=True)(trainable)

    return lambda: step(params.trainable, params.frozen, params.stats, batch)


def _text(host: Host) -> TextRows:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(host.words, host.backbone.width)).astype(np.float32)
    words = vocabulary.build([f"word {i}" for i in range(host.words)])
    return vocabulary.pad(words, rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _batch(host: Host) -> dict[str, jax.Array]:
    """Random pictures, and labels of ten classes in patches of 16 pixels."""
    size, count = host.config.image_size, host.config.batch_size
    rng = np.random.default_rng(0)
    labels = rng.integers(0, min(10, host.words), (count, size // 16, size // 16))
    return {
        "image": jnp.asarray(rng.integers(0, 256, (count, size, size, 3)), jnp.uint8),
        "label": jnp.asarray(labels.repeat(16, 1).repeat(16, 2), jnp.int32),
    }
