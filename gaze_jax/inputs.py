"""What a gaze run opens before it starts: the data set, who is trained on and judged, the network."""

import dataclasses
import functools
from typing import Any

import numpy as np
from jaxtyping import Int

from core_jax.data import files
from core_jax.train.settings import ConfigError
from gaze_jax import data, readers, recipe, splits, trained
from gaze_jax.config import Config, DataConfig
from gaze_jax.gaze_set import GazeSet
from gaze_jax.model import Model
from gaze_jax.networks import registry as networks
from gaze_jax.readers import registry

Rows = Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything a run is made of.

    Attributes:
      config: the settings.
      gaze_set: what is trained on and, but for `data.cross`, judged.
      split: the fold.
      train: the rows that are trained on.
      validation: the rows of the training part's persons that are kept back (`data.validation`).
      model: the network.
      steps_per_epoch: updates that pass over the training rows.
      total_steps: of the run.
    """

    config: Config
    gaze_set: GazeSet
    split: splits.Split
    train: Rows
    validation: Rows
    model: Model
    steps_per_epoch: int
    total_steps: int

    @property
    def pins(self) -> dict[str, str]:
        """Digests of what the run depends on."""
        return {
            "data": self.gaze_set.digest,
            "rows": files.digest(self.train.tolist()),
            "split": self.split.name,
            **networks.pins(self.config),
            trained.KIND: self.gaze_set.kind,
            trained.SIZE: "x".join(map(str, self.gaze_set.size)),
            trained.CAMERA: self.gaze_set.camera,
        }


def open_set(settings: DataConfig, entry: str = "") -> GazeSet:
    """The data set of a configuration, or one that an entry of `data.cross` names.

    Raises:
      ReaderError: everything that is wrong with it.
    """
    name, _, root = entry.partition(":")
    name, root = name or settings.dataset, root or settings.root
    options: dict[str, Any] = {}
    if name in registry.RENDERED:
        options = {
            "persons": settings.persons,
            "per_person": settings.per_person,
            "seed": settings.render_seed,
        }
    elif not entry:
        options = settings.reader_options()
    return _read(name, root, tuple(options.items()))


@functools.lru_cache(maxsize=4)
def _read(name: str, root: str, options: tuple) -> GazeSet:
    """Folds, seeds and methods of one comparison share what they read."""
    return readers.read(name, root, **dict(options))


def open_inputs(config: Config) -> Inputs:
    """Opens what one fold of a configuration needs.

    Raises:
      ValueError: the data, the split or the network cannot be used.
    """
    settings = config.data
    gaze_set = open_set(settings)
    split = splits.make(
        gaze_set,
        settings.protocol,
        settings.fold,
        clusters=settings.clusters,
        held_out=settings.held_out,
    )
    train, validation = _keep_back(gaze_set, split.train, settings.validation)
    model = networks.build(config, gaze_set.size, gaze_set.gaze[train], kind=gaze_set.kind)
    _check(config, gaze_set, model, train)
    per_epoch = max(1, len(train) // config.recipe.batch_size)
    return Inputs(
        config=config,
        gaze_set=gaze_set,
        split=split,
        train=train,
        validation=validation,
        model=model,
        steps_per_epoch=per_epoch,
        total_steps=config.steps
        or data.total_steps(len(train), config.recipe.batch_size, config.recipe.epochs),
    )


def folds(config: Config) -> int:
    """How many folds the protocol of a configuration has."""
    settings = config.data
    return splits.folds(open_set(settings), settings.protocol, clusters=settings.clusters)


def optimizer(inputs: Inputs) -> Any:
    """The optimizer of a run; schedules end with its last step, whatever `steps` says."""
    own = inputs.config.recipe
    per_epoch = float(inputs.steps_per_epoch)
    if inputs.config.steps:
        per_epoch = inputs.config.steps / own.epochs
    return recipe.optimizer(own, per_epoch, clip_norm=inputs.config.clip_norm)


def _keep_back(gaze_set: GazeSet, rows: Rows, count: int) -> tuple[Rows, Rows]:
    """Training rows without those of the last `count` persons, and these."""
    persons = np.unique(gaze_set.person[rows])
    if count >= len(persons):
        raise ConfigError(
            f"config.data.validation={count}: the training part has {len(persons)} person(s), and somebody must be left to train on"
        )
    back = np.isin(gaze_set.person[rows], persons[len(persons) - count :])
    return rows[~back], rows[back]


def _check(config: Config, gaze_set: GazeSet, model: Model, train: Rows) -> None:
    problems = []
    if model.kind != gaze_set.kind:
        problems.append(
            f"config.model={config.model} looks at {model.kind}s and {gaze_set.name} has {gaze_set.kind}s: choose another of the two"
        )
    without = int((~gaze_set.has_head).sum())
    if model.uses_head and without:
        off = " or set config.drnet.uses_head=False" if config.model == networks.DRNET else ""
        problems.append(
            f"config.model={config.model} reads the head pose, and {without} of {len(gaze_set)} samples of {gaze_set.name} have none: "
            f"choose another model{off}"
        )
    if config.recipe.batch_size > len(train):
        problems.append(
            f"config.recipe.batch_size={config.recipe.batch_size} is more than the {len(train)} training samples"
        )
    if problems:
        raise ConfigError("; ".join(problems))
