"""What earlier runs have learned: as predictors for a user's pictures, and as a start for other runs.

Needed are the run's work directory and its CLIP; the data set that it was trained on is not.
"""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from core_jax import train
from core_jax.train import Params
from gba_jax import config as configs
from gba_jax import inputs, predict, templates, vocabulary
from gba_jax.model import FINETUNED, partition

# Among the statistics of a run: the words it was trained on.
WORDS = "trained_words"


def predictor(
    config: ml_collections.ConfigDict | Mapping[str, Any],
    trainable: Mapping[str, Any],
    stats: Mapping[str, Any],
    pins: Mapping[str, str] | None = None,
) -> predict.Predictor:
    """What a run has learned, ready for a user's pictures and words; its data set is not needed.

    Args:
      config: what the run was trained with.
      trainable: as `core_jax.train.learned` reads it; {} for a host that is not trained.
      stats: likewise.
      pins: digests that the run depends on, likewise; None checks nothing.

    Raises:
      ValueError: settings or a CLIP that cannot be used, or other weights, tokenizer or templates than the run's.
    """
    settings = configs.read(config)
    opened = inputs.open_clip(settings)
    _require_pins(settings, inputs.model_pins(settings, opened), pins or {})
    state = {name: x for name, x in stats.items() if name != WORDS}
    host = inputs.segmenter(settings, opened.backbone, pictures=1)
    tuned, still = partition(opened.params, FINETUNED[settings.clip_finetune])
    del tuned  # The trained ones are among the trainables.
    arrays = jax.tree.map(jnp.asarray, (dict(trainable), {"clip": still}, state))
    words = inputs.unpack_words(stats[WORDS]) if WORDS in stats else ()
    return predict.of(
        host,
        Params(trainable=arrays[0], frozen=arrays[1], stats=arrays[2]),
        encoder=opened.encoder,
        sentences=templates.resolve(settings.templates),
        plan=inputs.plan(settings, opened.backbone),
        training=vocabulary.build(words) if words else None,
        cache=settings.text_cache or None,
    )


def _require_pins(
    settings: configs.Config, found: Mapping[str, str], pins: Mapping[str, str]
) -> None:
    """Refuse a model that has changed since a run was trained with it."""
    changed = [
        f"{name}: {pins[name][:12]} in training, {digest[:12]} now"
        for name, digest in found.items()
        if pins.get(name, digest) != digest
    ]
    if changed:
        raise configs.ConfigError(
            f"the CLIP {settings.clip} with templates {settings.templates} is not what the run was trained with: put the old "
            "files back, or train again\n  " + "\n  ".join(changed)
        )


def load(workdir: str | os.PathLike) -> predict.Predictor:
    """The predictor of a run's work directory: `gba_jax.load("runs/gba")`.

    Raises:
      ConfigError: it is no work directory of a segmentation run.
      CheckpointError: there is no checkpoint yet.
    """
    path = pathlib.Path(workdir) / "config.json"
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise configs.ConfigError(f"{workdir} is no work directory of a run: {error}") from error
    if values.get("task") != "gba":
        raise configs.ConfigError(
            f"{workdir} holds a run of task {values.get('task')}: expected gba"
        )
    if not configs.read(values).trained:
        return predictor(values, {}, {})
    arrays, pins = train.learned(workdir, ("trainable", "stats"))
    return predictor(values, arrays["trainable"], arrays["stats"], pins)


def start_from(workdir: str, trainable: dict[str, Any]) -> dict[str, Any]:
    """The trainables with the host (and what else is not the adapters') of another run.

    Raises:
      ConfigError: that run has no checkpoint, or its host has other arrays; all are listed.
    """
    try:
        found = train.learned(workdir)[0]["trainable"]
    except train.CheckpointError as error:
        raise configs.ConfigError(f"config.init_from={workdir}: {error}") from error
    form = lambda tree: {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.shape(x)
        for path, x in jax.tree_util.tree_leaves_with_path(tree)
    }
    wanted = {group: tree for group, tree in trainable.items() if group != "gba"}
    given = {group: tree for group, tree in found.items() if group != "gba"}
    ours, theirs = form(wanted), form(given)
    wrong = [
        f"{name}: {theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} here"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if wrong:
        raise configs.ConfigError(
            f"config.init_from={workdir} has another host ({len(wrong)} differences):\n  "
            + "\n  ".join(wrong[:20])
        )
    return trainable | jax.tree.map(jnp.asarray, given)
