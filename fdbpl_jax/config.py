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
from fdbpl_jax import exclusions, learners
from fdbpl_jax.learners import LEARNERS, Learner
from fdbpl_jax.losses import LossConfig
from fdbpl_jax.prompts import POSITIONS, PromptConfig
from fdbpl_jax.text import MODES
from fdbpl_jax.visual import VisualConfig

__all__ = ["AverageConfig", "Config", "ConfigError", "DataConfig", "LookupConfig", "read"]

METHODS = ("zeroshot", "ce", "kdpl", "fdbpl")
DISTILLED = ("kdpl", "fdbpl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, and how they reach the device.

    Attributes:
      dataset: a name of `datasets.NAMES`.
      root: folder that holds the data set's folder.
      template: sentence with one {} that a class name is put into; empty takes the data set's own.
      templates: sentences, or names of lists in `templates.LISTS`, whose text features are averaged wherever the frozen
        student's classes are meant: zero-shot, VPT's, and what regularisers hold to. Empty: the template alone, for VPT
        its authors' sentence.
      shots: training pictures per class; 0 takes all.
      seed: seed of the few-shot lists.
      split: classes to train on: "base" (then both halves are judged), "new", or "all".
      transductive: with split=base, train on the pictures of all classes, base and new, without their labels (PromptKD).
      dictionary: text file with a name in each line: learn without class names, from what a teacher says of these names
        (`agnostic`); empty learns from the data set's own.
      dictionary_top: names that a batch is described by, the likeliest in it.
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
    templates: tuple[str, ...] = ()
    shots: int = 16
    seed: int = 1
    split: str = "base"
    transductive: bool = False
    dictionary: str = ""
    dictionary_top: int = 1000
    source: str = "auto"
    fresh: str = "auto"
    resident: str = "auto"
    workers: int = 0
    judge: str = "test"
    cache: str = ""

    @property
    def train_split(self) -> str:
        """The classes whose pictures are trained on, which are also the teacher's label space."""
        return "all" if self.transductive else self.split


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
class AverageConfig:
    """PromptSRC's average over epochs; read by learners that have one.

    Attributes:
      mean: of the Gaussian over epochs 1, 2, ... that weighs them, in epochs.
      std: likewise.
    """

    mean: float = 15.0
    std: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run.

    Attributes:
      method: the supervision, one of METHODS: "ce" is hard labels; "kdpl" is "fdbpl" with loss.dual=False and
        loss.weight=none.
      learner: what is learned, one of `learners.LEARNERS`; "zeroshot" learns nothing.
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
    learner: str = "coop"
    teacher: str = "world:teacher"
    student: str = "world:student"
    teacher_source: str = "lookup"
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    lookup: LookupConfig = dataclasses.field(default_factory=LookupConfig)
    prompt: PromptConfig = dataclasses.field(default_factory=PromptConfig)
    visual: VisualConfig = dataclasses.field(default_factory=VisualConfig)
    average: AverageConfig = dataclasses.field(default_factory=AverageConfig)
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
    def learns(self) -> Learner:
        """What the learner consists of."""
        return LEARNERS[self.learner]

    @property
    def trained(self) -> bool:
        """Whether anything is learned."""
        return self.method != "zeroshot"

    @property
    def distilled(self) -> bool:
        """Whether a teacher's labels are learned from."""
        return self.method in DISTILLED

    @property
    def online(self) -> bool:
        """Whether the teacher runs on every batch."""
        return self.distilled and self.teacher_source == "online"

    @property
    def label(self) -> str:
        """What the run is called in results.jsonl."""
        return learners.label(self.method, self.learner, online=self.online)

    @property
    def signs(self) -> tuple[str, ...]:
        """The text contexts that are learned, among "positive" and "negative"."""
        positive = ("positive",) if self.learns.text else ()
        return (*positive, "negative") if self.effective_loss.dual else positive

    @property
    def frozen_pictures(self) -> bool:
        """Whether a picture's features stay what they are, so that stored ones are right."""
        return not (self.trained and self.learns.visual)

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
        return self.trained and self.data.source == "grow"

    @property
    def needs_lookup(self) -> bool:
        """Whether training reads the lookup: its labels, its features, or only its boxes."""
        return self.trained and not self.fresh


_CHOICES = {
    "learner": tuple(LEARNERS),
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
    "data.dictionary_top": 2,
    "data.workers": 0,
    "lookup.regions": 1,
    "lookup.top_k": 1,
    "lookup.shard_size": 1,
    "lookup.batch_size": 1,
    "prompt.context": 1,
    "prompt.depth": 1,
    "visual.tokens": 1,
    "visual.depth": 1,
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
    "loss.prograd_lambda": 0,
    "loss.promptsrc_text": 0,
    "loss.promptsrc_image": 0,
    "loss.promptsrc_logits": 0,
    "loss.kd_weight": 0,
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
    if config.method in LEARNERS:
        yield (
            f"config.method={config.method!r}: that is a learner; set config.learner={config.method} and "
            f"config.method={LEARNERS[config.method].method}, or another supervision of {', '.join(METHODS[1:])}"
        )
    elif config.method not in METHODS:
        yield f"config.method={config.method!r}: expected one of {', '.join(METHODS)}"
    yield from exclusions.numbers(config)
    # What a learner has cannot be asked of one that does not exist.
    if config.learner in LEARNERS:
        yield from exclusions.sources(config)
        yield from exclusions.learners(config)
