"""The settings of an FDBPL run, and how a ConfigDict becomes them.

`read` checks everything it can without opening a file and reports every unknown key, wrong type and impossible value in
one message. Everything below it takes these frozen dataclasses.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from core_jax.train import settings
from core_jax.train.settings import ConfigError
from fdbpl_jax.losses import LossConfig
from fdbpl_jax.prompts import POSITIONS, PromptConfig
from fdbpl_jax.text import MODES

__all__ = ["Config", "ConfigError", "DataConfig", "LookupConfig", "read"]

METHODS = ("zeroshot", "coop", "kgcoop", "kdpl", "fdbpl")
DISTILLED = ("kdpl", "fdbpl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, and how they reach the device.

    Attributes:
      dataset: a name of `datasets.NAMES`.
      root: folder that holds the data set's folder.
      template: sentence with one {} that a class name is put into; empty takes the data set's own.
      shots: training pictures per class; 0 takes all.
      seed: seed of the few-shot lists.
      split: classes to train on: "base" (then both halves are judged), "new", or "all".
      source: "features" of the lookup, "images", "auto": features where they are stored and legal; or "grow": what the
        lookup does not have yet is labelled while training, and kept in it.
      fresh: draw new regions for every visit instead of the lookup's; "auto" where nothing else needs the lookup.
      resident: the lookup lies on every device: "auto" (up to 2 GiB), "True" or "False".
      workers: processes that decode images; 0 decodes in threads of this one.
      judge: pictures that evaluation uses: "test", or "val" to choose settings by.
      cache: folder that keeps the student's features of those pictures; empty keeps none.
    """

    dataset: str = "world_objects"
    root: str = "data/world"
    template: str = ""
    shots: int = 16
    seed: int = 1
    split: str = "base"
    source: str = "auto"
    fresh: str = "auto"
    resident: str = "auto"
    workers: int = 0
    judge: str = "test"
    cache: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LookupConfig:
    """The region lookup, docs/formats.md.

    Attributes:
      dir: its folder.
      regions: R per image.
      top_k: classes stored per region.
      dense: store every class; None decides by their number (up to 64).
      seed: of the boxes.
      seeds: seeds of the few-shot lists whose union is labelled; empty takes those that are trained.
      scale: smallest and largest area of a box, as a share of the picture.
      shard_size: pictures per file.
      batch_size: regions in one forward pass of the teacher.
    """

    dir: str = ""
    regions: int = 100
    top_k: int = 10
    dense: bool | None = None
    seed: int = 0
    seeds: tuple[int, ...] = ()
    scale: tuple[float, float] = (0.08, 0.936)
    shard_size: int = 256
    batch_size: int = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run.

    Attributes:
      method: one of METHODS. "kdpl" is "fdbpl" with loss.dual=False and loss.weight=none.
      teacher, student: folder in HuggingFace's layout, hub id, or "world:teacher" / "world:student".
      teacher_source: "lookup", or "online": the teacher runs on every batch.
      batch_size: regions per step, B.
      epochs: E; an epoch is as many regions as there are pictures.
      regions_per_visit: K regions of a picture whenever it is opened.
      lr: highest learning rate; warmup_lr: that of the first epoch.
      momentum, weight_decay: of SGD.
      seed: of data order and initialisation.
      seeds: several runs in one program, each with its own `seed` and `data.seed`; empty: one run.
      lrs: several runs in one program, each with its own `lr`; with seeds, each pair of both.
      dtype: what the towers compute in: "auto" (bfloat16 on accelerators), "float32", "bfloat16" or "parity" (`settings.compute_dtype`).
      accumulate, remat: see `core_jax.train.memory.Memory`; pieces are those of the pictures, which the image towers see.
    """

    method: str = "fdbpl"
    teacher: str = "world:teacher"
    student: str = "world:student"
    teacher_source: str = "lookup"
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    lookup: LookupConfig = dataclasses.field(default_factory=LookupConfig)
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    batch_size: int = 32
    epochs: int = 50
    regions_per_visit: int = 2
    lr: float = 2e-3
    warmup_lr: float = 1e-5
    momentum: float = 0.9
    weight_decay: float = 5e-4
    seed: int = 1
    seeds: tuple[int, ...] = ()
    lrs: tuple[float, ...] = ()
    dtype: str = "auto"
    accumulate: int = 1
    remat: bool = False

    @property
    def distilled(self) -> bool:
        """Whether a teacher's labels are learned from."""
        return self.method in DISTILLED

    @property
    def effective_loss(self) -> LossConfig:
        """The loss switches as the method uses them."""
        if self.method == "fdbpl":
            return self.loss
        return dataclasses.replace(self.loss, dual=False, weight="none")

    @property
    def fresh(self) -> bool:
        """Whether every visit draws regions of its own."""
        if self.data.fresh == "auto":
            return not self.stored_labels and self.data.source != "features"
        return self.data.fresh == "True"

    @property
    def stored_labels(self) -> bool:
        """Whether the teacher's labels come from the lookup."""
        return self.distilled and self.teacher_source == "lookup"

    @property
    def grows(self) -> bool:
        """Whether the lookup is labelled as it is read."""
        return self.method != "zeroshot" and self.data.source == "grow"

    @property
    def needs_lookup(self) -> bool:
        """Whether training reads the lookup: its labels, its features, or only its boxes."""
        return self.method != "zeroshot" and not self.fresh


_CHOICES = {
    "method": METHODS,
    "teacher_source": ("lookup", "online"),
    "dtype": settings.DTYPES,
    "data.split": ("base", "new", "all"),
    "data.source": ("auto", "features", "images", "grow"),
    "data.fresh": ("auto", "True", "False"),
    "data.resident": ("auto", "True", "False"),
    "data.judge": ("test", "val"),
    "prompt.class_token_position": POSITIONS,
    "prompt.text_mode": ("auto", *MODES),
    "loss.weight": ("entropy", "maxprob", "none"),
    "loss.pcd": ("hinge", "off"),
    "loss.recover": ("spread", "renormalise"),
}
_AT_LEAST = {
    "data.shots": 0,
    "data.workers": 0,
    "lookup.regions": 1,
    "lookup.top_k": 1,
    "lookup.shard_size": 1,
    "lookup.batch_size": 1,
    "prompt.context": 1,
    "batch_size": 1,
    "accumulate": 1,
    "epochs": 1,
    "regions_per_visit": 1,
    "lr": 0,
    "warmup_lr": 0,
    "momentum": 0,
    "weight_decay": 0,
    "loss.lam_neg": 0,
    "loss.lam_dis": 0,
    "loss.lam_pcd": 0,
    "loss.kgcoop_weight": 0,
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
    loss, data, lookup = config.loss, config.data, config.lookup
    low, high = loss.weight_range
    if not 0 <= low < high <= 1:
        yield f"config.loss.weight_range={loss.weight_range}: expected 0 <= low < high <= 1"
    if min(loss.kl) < 0 or sum(loss.kl) <= 0:
        yield f"config.loss.kl={loss.kl}: expected two weights >= 0 that are not both 0"
    if loss.recover == "renormalise" and loss.kl[1] != 0:
        yield (
            f"config.loss.kl={loss.kl} with recover=renormalise: the reverse KL takes the log of 0 there; "
            "set config.loss.kl=(1.0, 0.0) or recover=spread"
        )
    if not 0 < lookup.scale[0] <= lookup.scale[1] <= 1:
        yield f"config.lookup.scale={lookup.scale}: expected 0 < low <= high <= 1"
    if config.batch_size % config.regions_per_visit:
        yield (
            f"config.batch_size={config.batch_size}: not a multiple of regions_per_visit={config.regions_per_visit}"
        )
    if lookup.regions % config.regions_per_visit:
        yield (
            f"config.lookup.regions={lookup.regions}: not a multiple of regions_per_visit={config.regions_per_visit}"
        )
    if config.prompt.class_specific and data.split != "all":
        yield (
            f"config.prompt.class_specific=True with config.data.split={data.split}: a context per class says nothing "
            "about unseen classes; set config.data.split=all"
        )
    if data.template and data.template.count("{}") != 1:
        yield f"config.data.template={data.template!r}: expected a sentence with one {{}}"
    yield from _sources(config)


def _sources(config: Config) -> Iterator[str]:
    """Combinations of method, teacher and data source that exclude each other."""
    data, online = config.data, config.distilled and config.teacher_source == "online"
    if config.method == "zeroshot":
        return
    if config.stored_labels and config.fresh:
        yield "config.data.fresh=True: the lookup has labels for its own regions only; set teacher_source=online"
    if data.source == "features" and (online or config.fresh):
        yield (
            "config.data.source=features: features are stored for the lookup's regions and for the student only; "
            "fresh regions and an online teacher need data.source=images"
        )
    if config.grows and not config.stored_labels:
        yield (
            f"config.data.source=grow: method={config.method} with teacher_source={config.teacher_source} reads no labels "
            "of a lookup; set data.source=auto"
        )
    if data.resident == "True" and (online or data.source in ("images", "grow") or config.fresh):
        yield "config.data.resident=True: only the lookup's labels and features can lie on the device; set it to auto"
    if config.needs_lookup and not config.lookup.dir:
        yield "config.lookup.dir is empty: name the folder of the lookup (python -m launch.lookup build makes it)"
