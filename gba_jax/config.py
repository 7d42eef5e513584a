"""The settings of a segmentation run, and how a ConfigDict becomes them: one line turns GBA on or off.

`read` checks everything it can without opening a file and reports every unknown key, wrong type and impossible value in
one message. Everything below it takes these frozen dataclasses.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import ml_collections

from core_jax.train import settings
from core_jax.train.settings import ConfigError
from gba_jax.adapters import GBAConfig
from gba_jax.adapters.config import PRESETS
from gba_jax.datasets import NAMES
from gba_jax.hosts.cost_config import CostConfig
from gba_jax.hosts.masks import MaskConfig
from gba_jax.losses import MaskLossConfig

__all__ = ["AdapterConfig", "Config", "ConfigError", "DataConfig", "TestConfig", "read"]

HOSTS = ("maskclip", "cost", "masks")
USES = ("none", "sda", "cca", "both")
AUTO = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdapterConfig(GBAConfig):
    """Which adapters sit where, and their switches (`gba_jax.adapters.GBAConfig`).

    Attributes:
      use: "none", "sda", "cca" or "both".
      shallow: tap of SDA; "auto" is "res2" of a ConvNeXt and the block a third of the way into a ViT.
      deep: tap of CCA; "auto" is the map that CLIP's head reads.
      preset: "intent" (the paper's description, made trainable) or "released" (the reference implementation's equations).
      refresh_epochs: epochs between two choices of the style bank, in place of `refresh_steps`.
      fill_bank: fill the style bank from 2,048 training pictures before the first step, instead of during training.
    """

    use: str = "none"
    shallow: str = AUTO
    deep: str = AUTO
    preset: str = "intent"
    refresh_epochs: float = 3.0
    fill_bank: bool = False

    def switches(self, *, refresh_steps: int, host_void: bool) -> GBAConfig:
        """What the adapters themselves read."""
        names = {field.name for field in dataclasses.fields(GBAConfig)}
        values = {name: getattr(self, name) for name in names}
        return GBAConfig(**values | {"refresh_steps": refresh_steps, "host_void": host_void})


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, and how they reach the device.

    Attributes:
      dataset: a name of `gba_jax.datasets.NAMES`.
      root: folder that holds the data set's files.
      split: what is trained on.
      classes: a classes.txt that replaces the data set's names; "" for none.
      unseen: classes left out of training, a line each in a text file; their pixels are ignored. "world" stands for
        the unseen classes of the embedded world's scenes, "" for none.
      augment: "resize", "crop" or "lsj" (large-scale jitter), see `gba_jax.data`.
      amplitude: amplitude augmentation of the pictures inside jit: "none", "mixup", "apr" or "fda".
      slots: G, ground-truth segments a picture can have.
      workers: processes that decode pictures; 0 decodes in threads of this one.
      judge: splits that are judged; "name:split" for one of another data set below the same root.
      judge_limit: only the first so many pictures of each; 0 for all.
      shifts: judge the first of `judge` under the style-shift suite too.
    """

    dataset: str = "world_scenes"
    root: str = "data/world"
    split: str = "train"
    classes: str = ""
    unseen: str = ""
    augment: Literal["resize", "crop", "lsj"] = "crop"
    amplitude: Literal["none", "mixup", "apr", "fda"] = "none"
    slots: int = 64
    workers: int = 0
    judge: tuple[str, ...] = ("val",)
    judge_limit: int = 0
    shifts: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class TestConfig:
    """How pictures of any size become a host's inputs when it is judged or asked (`gba_jax.windows`).

    Attributes:
      plan: "whole", "sliding", "padded", or "auto": "whole" for a ViT and "padded" for a ConvNeXt.
      resize, stride: of "sliding", in pixels; its windows have the side `image_size`.
      short, long: of "padded", in pixels.
      batch_size: pictures that are judged together.
    """

    plan: Literal["auto", "whole", "sliding", "padded"] = "auto"
    resize: int = 640
    stride: int = 256
    short: int = 800
    long: int = 1333
    batch_size: int = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run.

    Attributes:
      host: "maskclip" (training-free), "cost" (cost aggregation) or "masks" (mask classification).
      clip: folder in HuggingFace's or OpenCLIP's layout, hub id, or "world:student" / "world:teacher".
      image_size: side of the training pictures in pixels, and of a ViT's input.
      dense_mode: what leaves the last block of a ViT (`core_jax.clip.encode_dense`).
      test: how pictures become inputs outside training.
      templates: name of the sentences (`gba_jax.templates`).
      text_cache: folder that keeps text embeddings; "" keeps none.
      ignore: cost aggregation: ignored pixels are left out ("drop") or negatives of all classes ("negative").
      clip_finetune: what is trained of the image tower: "none", "qv" (query, value, positions of a ViT) or "full".
      alpha, beta: exponents of the out-of-vocabulary branch for words seen and unseen in training (masks).
      denoise, key_smoothing: refinements of "maskclip", see there.
      batch_size: pictures per step over all devices.
      steps: updates.
      lr: highest learning rate of the adapters; host_lr and clip_lr multiply it for the host's decoder and the tower.
      schedule: "cosine", or "steps": times 0.1 at 8/9 and at 26/27 of the steps.
      warmup: steps of linear warm-up.
      weight_decay: of AdamW, on matrices and kernels only.
      clip_norm: largest norm of the gradient.
      init_from: work directory of a run with the same host, whose decoder this one starts from; "" for none.
      seed: of data order, initialisation and every step's randomness.
      dtype: what the tower computes in: "auto" (bfloat16 on accelerators), "float32", "bfloat16" or "parity" (`settings.compute_dtype`).
      accumulate, remat: see `core_jax.train.memory.Memory`, of tower and host; not all adapters can see a batch in pieces.
    """

    host: str = "cost"
    clip: str = "world:student"
    image_size: int = 128
    dense_mode: Literal["cls", "residual", "value_only"] = "cls"
    templates: str = "vild14"
    text_cache: str = ""
    adapters: AdapterConfig = dataclasses.field(default_factory=AdapterConfig)
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    cost: CostConfig = dataclasses.field(default_factory=CostConfig)
    masks: MaskConfig = dataclasses.field(default_factory=MaskConfig)
    test: TestConfig = dataclasses.field(default_factory=TestConfig)
    mask_loss: MaskLossConfig = dataclasses.field(default_factory=MaskLossConfig)
    ignore: Literal["drop", "negative"] = "drop"
    clip_finetune: Literal["none", "qv", "full"] = "none"
    alpha: float = 0.4
    beta: float = 0.8
    denoise: float | None = None
    key_smoothing: float | None = None
    batch_size: int = 16
    steps: int = 300
    lr: float = 1e-3
    host_lr: float = 1.0
    clip_lr: float = 0.01
    schedule: Literal["cosine", "steps"] = "cosine"
    warmup: int = 0
    weight_decay: float = 1e-4
    clip_norm: float = 0.01
    init_from: str = ""
    seed: int = 1
    dtype: str = "auto"
    accumulate: int = 1
    remat: bool = False

    @property
    def trained(self) -> bool:
        """Whether there is anything to train."""
        return self.host != "maskclip"


_CHOICES = {
    "host": HOSTS,
    "dtype": settings.DTYPES,
    "adapters.use": USES,
    "adapters.preset": PRESETS,
    "data.dataset": NAMES,
}
_AT_LEAST = {
    "image_size": 1,
    "batch_size": 1,
    "accumulate": 1,
    "steps": 1,
    "lr": 0,
    "host_lr": 0,
    "clip_lr": 0,
    "warmup": 0,
    "weight_decay": 0,
    "clip_norm": 0,
    "alpha": 0,
    "beta": 0,
    "mask_loss.points": 1,
    "mask_loss.match.points": 1,
    "data.slots": 1,
    "data.workers": 0,
    "data.judge_limit": 0,
    "adapters.refresh_epochs": 0,
    "test.batch_size": 1,
}


def read(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Settings from a ConfigDict or any nested mapping; keys that are absent keep their defaults.

    Raises:
      ConfigError: unknown keys (with the nearest known one), wrong types and impossible values, all in one message.
    """
    return settings.read(
        Config, config, choices=_CHOICES, at_least=_AT_LEAST, impossible=_impossible
    )


def _impossible(config: Config) -> Iterator[str]:
    """What is of the right type and still makes no sense."""
    if config.host == "maskclip" and config.adapters.use != "none":
        yield (
            f"config.adapters.use={config.adapters.use} with config.host=maskclip: a training-free host has no taps; "
            "set config.host=cost or masks"
        )
    adapters = config.adapters
    if config.accumulate > 1:
        yield from _whole_batches(config.accumulate, adapters)
    with_bank = adapters.preset == "intent" and adapters.style in ("bank", "shade_bank")
    if adapters.fill_bank and (adapters.use not in ("sda", "both") or not with_bank):
        yield (
            f"config.adapters.fill_bank=True with use={adapters.use}, preset={adapters.preset}, style={adapters.style}: there "
            "is no style bank to fill; it needs use=sda or both, preset=intent and style=bank or shade_bank"
        )
    if adapters.host_void or adapters.refresh_steps != GBAConfig.refresh_steps:
        yield "config.adapters: host_void follows from the host, and refresh_steps from refresh_epochs; set that instead"
    deaf = adapters.preset == "released" or adapters.sda_flow != "through"
    if (
        config.host == "cost"
        and config.cost.form == "pyramid"
        and adapters.use in ("sda", "both")
        and deaf
    ):
        yield (
            f"config.adapters.sda_flow={adapters.sda_flow}, preset={adapters.preset} with config.cost.form=pyramid: no gradient "
            "would reach SDA, since this decoder passes none to its guides; set sda_flow=through and preset=intent"
        )
    if config.host != "cost" and config.clip_finetune != "none":
        yield f"config.clip_finetune={config.clip_finetune}: only config.host=cost trains parts of the tower"
    if not config.data.judge:
        yield "config.data.judge is empty: name at least one split"
    for name in ("alpha", "beta"):
        if getattr(config, name) > 1:
            yield f"config.{name}={getattr(config, name)}: expected 0 to 1"
    for entry in config.data.judge:
        dataset = entry.partition(":")[0]
        if ":" in entry and dataset not in NAMES:
            yield f"config.data.judge has {entry!r}: no data set {dataset!r}; there are {', '.join(NAMES)}"


def _whole_batches(pieces: int, adapters: AdapterConfig) -> Iterator[str]:
    """Adapters to whom a batch in pieces is another batch."""
    reasons = []
    if adapters.use in ("sda", "both"):
        reasons.append(
            "SDA draws styles from the other pictures of the batch and keeps them (leave it out: adapters.use=cca)"
        )
    if (
        adapters.use in ("cca", "both")
        and adapters.sample_vocabulary > 0
        and adapters.preset == "intent"
    ):
        reasons.append(
            "CCA draws one vocabulary for the batch (adapters.sample_vocabulary=0.0 draws none)"
        )
    if adapters.use in ("cca", "both") and adapters.norm == "pcnorm_bn":
        reasons.append("pcnorm_bn normalises by the batch (adapters.norm=pcnorm_in does not)")
    if reasons:
        yield (
            f"config.accumulate={pieces}: pieces would be another training than the batch: {'; '.join(reasons)}; "
            "config.remat=True saves memory with all of them"
        )
