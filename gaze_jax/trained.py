"""What a gaze run has learned, from its work directory alone: the data set that it was trained on is not needed."""

import dataclasses
import json
import os
import pathlib

import jax
import jax.numpy as jnp

from core_jax import train
from core_jax.train import Params
from core_jax.train.stack import unstack
from core_jax.train.step import init_key
from gaze_jax import config as configs
from gaze_jax.model import Model
from gaze_jax.networks import registry as networks
from gaze_jax.normalization import CAMERAS, VirtualCamera

# Entries beside a run's digests that say how its pictures were taken.
KIND, SIZE, CAMERA = "kind", "size", "camera"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained network.

    Attributes:
      model: the network.
      params: its arrays.
      config: what it was trained with.
      camera: the virtual camera of its training pictures; None for plain crops.
    """

    model: Model
    params: Params
    config: configs.Config
    camera: VirtualCamera | None


def load(workdir: str | os.PathLike, fold: int = 0) -> Trained:
    """A run's network and arrays.

    Args:
      workdir: of the run, finished or not.
      fold: which one of a run that trained all folds together.

    Raises:
      ConfigError: there is no gaze run, it has no such fold, or the CLIP beside it is another.
      CheckpointError: nothing was saved yet.
    """
    path = pathlib.Path(workdir) / "config.json"
    if not path.is_file():
        raise configs.ConfigError(
            f"{workdir}: no config.json; expected the work directory of a run"
        )
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("task") != "gaze":
        raise configs.ConfigError(f"{workdir}: a run of task {values.get('task')}; expected gaze")
    config = configs.read(values)
    arrays, pins = train.learned(workdir, ("trainable", "stats"))
    arrays = jax.tree.map(jnp.asarray, arrays)
    if config.data.fold == configs.ALL_FOLDS:
        count = len(jax.tree.leaves(arrays["trainable"])[0])
        if not 0 <= fold < count:
            raise configs.ConfigError(f"{workdir}: fold {fold}: expected 0 to {count - 1}")
        arrays = unstack(arrays, fold)
    elif fold:
        raise configs.ConfigError(f"{workdir}: fold {fold} of a run of one fold: expected 0")
    height, width, channels = (int(size) for size in pins[SIZE].split("x"))
    bare = _bare(config)
    others = [name for name, digest in networks.pins(bare).items() if pins.get(name) != digest]
    if others:
        raise configs.ConfigError(
            f"{workdir}: the {' and '.join(others)} of config.dfenet.clip={config.dfenet.clip} is not what this run was trained "
            "with: put the weights back that were there then"
        )
    model = networks.build(bare, (height, width, channels), kind=pins[KIND])
    # Towers that are not trained are no part of a checkpoint; random ones follow from the run's seed.
    frozen = model.init(init_key(values.get("seed", 0))).frozen
    return Trained(
        model=model,
        params=Params(trainable=arrays["trainable"], frozen=frozen, stats=arrays["stats"]),
        config=config,
        camera=CAMERAS[pins[CAMERA]] if pins[CAMERA] else None,
    )


def _bare(config: configs.Config) -> configs.Config:
    """The same network without what only training reads: files of first weights, sentences and the text tower behind them."""
    return dataclasses.replace(
        config,
        dfenet=dataclasses.replace(config.dfenet, ldm=False),
        cfe=dataclasses.replace(config.cfe, trunk_init="scratch", weights=""),
        face=dataclasses.replace(config.face, weights=""),
    )
