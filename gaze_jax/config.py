"""The settings of a gaze run, and how a ConfigDict becomes them.

A preset and the published recipe of the network come first, what the configuration says replaces single values of them.
`read` checks everything it can without opening a file and reports every unknown key, wrong type and impossible value in one
message. Everything below it takes these frozen dataclasses.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

from core_jax.train import settings
from core_jax.train.settings import ConfigError
from gaze_jax import readers, splits
from gaze_jax.evaluate import JudgeConfig
from gaze_jax.networks import registry as networks
from gaze_jax.networks.cfe import CFEConfig
from gaze_jax.networks.dfenet import DFENetConfig
from gaze_jax.networks.drnet import DRNetConfig
from gaze_jax.networks.face_baselines import FaceConfig
from gaze_jax.readers import NAMES, RENDERED
from gaze_jax.recipe import Recipe

__all__ = ["Config", "ConfigError", "DataConfig", "ReaderOptions", "read"]

ALL_FOLDS = -1


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Options of a data set's reader beside `order` and `sign`; None is the reader's own choice.

    Attributes:
      subset: mpiigaze, mpiigaze_raw: "evaluation" or "all".
      size: mpiifacegaze, gaze360, plain: side of the square pictures, pixels.
      crop: gaze360: "head" or "face".
      file: faze: name of the file.
      grey: plain: whether pictures are read with one channel.
    """

    subset: str | None = None
    size: int | None = None
    crop: str | None = None
    file: str | None = None
    grey: bool | None = None

    def given(self) -> dict[str, Any]:
        """Those that have a value."""
        return {name: x for name, x in dataclasses.asdict(self).items() if x is not None}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, who is judged, and how references are chosen in training.

    Attributes:
      dataset: a name of `gaze_jax.readers.NAMES`.
      root: folder that holds the data set's files; rendered sets are made there once.
      protocol: one of `splits.PROTOCOLS`.
      fold: which fold of it; -1 trains all of them side by side in one program.
      clusters, held_out: of the protocols "clusters" / "within" and "last".
      validation: persons of the training part, its last ones, that are not trained on: what the mixture of modes ("blend") and
        personal calibration are fitted on.
      persons, per_person, render_seed: size and draw of a rendered set.
      order, sign: of labels, for data sets whose copies disagree; "" is the reader's own convention.
      options: what else the reader of the data set takes.
      self_pair: probability that a picture is its own reference; only for networks that compare.
      pool_sides: a left eye may refer to a right one of the same person.
      cross: data sets that are judged whole, unseen: "name", or "name:root".
      resident: the set lies on every device and batches are gathered there: "auto" (on accelerators, a set in memory of up to
        2 GiB), "True" or "False".
      workers: processes that read; 0 reads in threads of this one.
    """

    dataset: str = "eyes_A"
    root: str = "data/gaze"
    protocol: str = "last"
    fold: int = 0
    clusters: int = 4
    held_out: int = 10
    validation: int = 0
    persons: int = 15
    per_person: int = 200
    render_seed: int = 0
    order: str = ""
    sign: str = ""
    options: ReaderOptions = dataclasses.field(default_factory=ReaderOptions)
    self_pair: float = 0.1
    pool_sides: bool = False
    cross: tuple[str, ...] = ()
    resident: str = "auto"
    workers: int = 0

    def reader_options(self) -> dict[str, Any]:
        """What the reader of `dataset` is called with, where that is a set of files."""
        chosen = {"order": self.order, "sign": self.sign}
        return {name: x for name, x in chosen.items() if x} | self.options.given()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run.

    Attributes:
      model: one of `networks.NAMES`.
      preset: "recommended", or "faithful": as close to the publication as is known.
      drnet, dfenet, cfe, face: the networks' own settings; `cfe` is also the extractor of dfenet.
      pairwise: weight of the pairwise loss that any network may take in addition; 0 leaves it out.
      recipe: optimizer, schedule, epochs, batch size.
      steps: updates, in place of `recipe.epochs`; 0 follows the epochs.
      clip_norm: largest norm of the gradient; 0 does not clip.
      data: see there.
      test: how networks are judged.
      seed: of data order, initialisation and every step's randomness.
      dtype: what activations are computed in: "auto" (bfloat16 on accelerators), "float32", "bfloat16" or "parity"
        (`settings.compute_dtype`).
      accumulate, remat: see `core_jax.train.memory.Memory`.
      ghost_norm: with `accumulate`, batch normalisation may go by the statistics of pieces (arXiv 1705.08741): another
        training than with the whole batch.
    """

    model: str = "drnet"
    preset: str = "recommended"
    drnet: DRNetConfig = dataclasses.field(default_factory=DRNetConfig)
    dfenet: DFENetConfig = dataclasses.field(default_factory=DFENetConfig)
    cfe: CFEConfig = dataclasses.field(default_factory=CFEConfig)
    face: FaceConfig = dataclasses.field(default_factory=FaceConfig)
    pairwise: float = 0.0
    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    steps: int = 0
    clip_norm: float = 0.0
    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    test: JudgeConfig = dataclasses.field(default_factory=JudgeConfig)
    seed: int = 1
    dtype: str = "auto"
    accumulate: int = 1
    remat: bool = False
    ghost_norm: bool = False


_CHOICES = {
    "model": networks.NAMES,
    "preset": networks.PRESETS,
    "dtype": settings.DTYPES,
    "data.dataset": NAMES,
    "data.protocol": splits.PROTOCOLS,
    "data.order": ("", "pitch_yaw", "yaw_pitch"),
    "data.sign": ("", "ours", "negated"),
    "data.resident": ("auto", "True", "False"),
}
_AT_LEAST = {
    "pairwise": 0,
    "steps": 0,
    "clip_norm": 0,
    "accumulate": 1,
    "recipe.lr": 0,
    "recipe.epochs": 1,
    "recipe.batch_size": 1,
    "recipe.weight_decay": 0,
    "data.fold": ALL_FOLDS,
    "data.clusters": 2,
    "data.held_out": 1,
    "data.validation": 0,
    "data.persons": 1,
    "data.per_person": 1,
    "data.self_pair": 0,
    "data.workers": 0,
}


def read(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Config:
    """Settings from a ConfigDict or any nested mapping; keys that are absent or None keep the preset's and the recipe's values.

    Raises:
      ConfigError: unknown keys (with the nearest known one), wrong types and impossible values, all in one message.
    """
    given = config.to_dict() if isinstance(config, ml_collections.ConfigDict) else dict(config)
    start = networks.defaults(given.get("model", "drnet"), given.get("preset", "recommended"))
    return settings.read(
        Config, _under(start, given), choices=_CHOICES, at_least=_AT_LEAST, impossible=_impossible
    )


def _under(start: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` laid over `start`, group by group."""
    merged = dict(start)
    for name, value in given.items():
        if value is None:
            continue
        both = isinstance(value, Mapping) and isinstance(merged.get(name), Mapping)
        merged[name] = _under(merged[name], value) if both else value
    return merged


def _impossible(config: Config) -> Iterator[str]:
    """What is of the right type and still makes no sense."""
    data = config.data
    if data.self_pair > 1:
        yield f"config.data.self_pair={data.self_pair}: expected a probability, 0 to 1"
    yield from _unknown_options(data)
    for entry in data.cross:
        name, _, root = entry.partition(":")
        if name not in NAMES:
            yield f"config.data.cross has {entry!r}: no data set {name!r}; there are {', '.join(NAMES)}"
        if name == data.dataset and root in ("", data.root):
            yield f"config.data.cross has {entry!r}, which is what this run trains on: name unseen sets only"
    folds = ("lopo", "clusters", "within")
    if data.fold == ALL_FOLDS and data.protocol not in folds:
        yield (
            f"config.data.fold=-1 with config.data.protocol={data.protocol}: it has one fold only; all folds together are for "
            + ", ".join(folds)
        )
    if (
        data.fold == ALL_FOLDS
        and config.model == networks.DFENET
        and config.dfenet.ldm
        and config.dfenet.cuts == "quantile"
    ):
        yield (
            "config.data.fold=-1 with config.dfenet.cuts=quantile: all folds share one network, and its cuts would come from "
            "labels that other folds are judged on; train one fold after the other, or set config.dfenet.cuts=fixed"
        )
    if config.pairwise and networks.compares(config):
        yield (
            f"config.pairwise={config.pairwise} with config.model={config.model}: this network has a loss of differences already; "
            "set config.pairwise=0"
        )


def _unknown_options(data: DataConfig) -> Iterator[str]:
    """Options that the reader of the data set does not have."""
    if data.dataset not in NAMES:
        return
    # Rendered sets have keys of their own: persons, per_person, render_seed.
    known = () if data.dataset in RENDERED else readers.options(data.dataset)
    mine = [field.name for field in dataclasses.fields(ReaderOptions)]
    keys = [f"config.data.{'options.' if name in mine else ''}{name}" for name in known]
    for name, value in data.options.given().items():
        if name not in known:
            yield (
                f"config.data.options.{name}={value!r}: the reader of {data.dataset} has no such option; it has "
                + (", ".join(keys) or "none")
            )
