"""Prompt learning as one task: any learner (`learners`) under zero-shot, hard labels, KDPL or FDBPL (arXiv 2505.18053).

One configuration, one loss function (`objective.loss`). The towers are in `Params.frozen`; what is trained is the prompts
alone (`prompted.init`). Shapes: B regions, C classes, D embedding width.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from absl import logging
from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from core_jax import clip
from core_jax.train import Params, Task
from core_jax.train.sharding import over_model
from fdbpl_jax import agnostic, average, data, datasets, evaluate, prompted, text
from fdbpl_jax import config as configs
from fdbpl_jax.inputs import Inputs, named, open_inputs
from fdbpl_jax.objective import loss

__all__ = [
    "build",
    "init",
    "learning_rate",
    "loss",
    "of_inputs",
    "optimizer",
    "steps_per_epoch",
    "train_data",
]

# Prompts are small, towers are not; what a lookup has is read by row.
_RULES = (("trainable/.*", PartitionSpec()), ("frozen/(student|teacher)/.*", over_model))


def build(config: ml_collections.ConfigDict | Mapping[str, Any]) -> Task:
    """The task of a configuration such as `configs/fdbpl_world.py`.

    Raises:
      ValueError: unknown keys, wrong types, impossible values, or inputs that cannot be used; all of a kind at once.
    """
    settings = configs.read(config)
    if settings.seeds or settings.lrs:
        raise configs.ConfigError(
            f"config.seeds={settings.seeds}, config.lrs={settings.lrs}: several runs; `fdbpl_jax.several` builds them"
        )
    return of_inputs(open_inputs(settings))


def of_inputs(inputs: Inputs, judged: dict | None = None) -> Task:
    """The task of opened inputs; `judged` as `evaluate.Judge` takes it."""
    trained = inputs.config.trained
    return Task(
        init=functools.partial(init, inputs),
        loss=functools.partial(agnostic.loss if inputs.config.data.dictionary else loss, inputs),
        train_data=functools.partial(train_data, inputs),
        evaluate=evaluate.Judge(inputs, judged),
        optimizer=functools.partial(optimizer, inputs.config, steps_per_epoch(inputs)),
        sharding_rules=_RULES if trained else _RULES[1:],
        total_steps=inputs.config.epochs * steps_per_epoch(inputs) if trained else 0,
        batch_ids=("row", "region"),
        elastic=True,
        pins=inputs.pins,
    )


def steps_per_epoch(inputs: Inputs) -> int:
    """An epoch is as many regions as there are training pictures, and at least one step."""
    return data.total_steps(len(inputs.train.train), inputs.config.batch_size, 1)


def init(inputs: Inputs, key: PRNGKeyArray) -> Params:
    """The prompts as they start, and the frozen arrays that the step needs, no more."""
    config, student = inputs.config, inputs.student
    held = ("text", "logit_scale") if config.signs or not config.trained else ("logit_scale",)
    frozen: dict[str, Any] = {"student": {name: student.params[name] for name in held}}
    if not config.trained:
        return Params(trainable={}, frozen=frozen)
    names = inputs.train.classes
    if inputs.namer is not None:
        classes = named(config, inputs.namer, names, inputs.train.template)
        frozen["classes"] = jnp.asarray(classes)
    trainable, stats = prompted.init(
        config,
        student,
        classes=len(names),
        named_width=frozen["classes"].shape[1] if "classes" in frozen else None,
        key=key,
    )
    logging.info("%s learns %s numbers", config.label, f"{prompted.count(trainable):,}")
    if inputs.source in ("images", "fresh"):
        frozen["student"]["vision"] = student.params["vision"]
    if inputs.source == "resident":
        assert inputs.lookup is not None
        stored = inputs.lookup.arrays()
        # Features have their flip applied, and pixels are not read.
        frozen["lookup"] = {
            n: jnp.asarray(a) for n, a in stored.items() if n not in ("box", "flip")
        }
    if inputs.teacher is not None:
        labels = text.template_features(inputs.teacher, names, [inputs.train.template])
        frozen["teacher"] = {
            "vision": inputs.teacher.params["vision"],
            "text": jnp.asarray(labels),
            "logit_scale": inputs.teacher.params["logit_scale"],
        }
    if config.learns.regularisers:
        frozen["template"] = jnp.asarray(
            _held_to(config, student, names, inputs.templates("train"))
        )
    return Params(trainable=trainable, frozen=frozen, stats=stats)


def _held_to(
    config: configs.Config, student: clip.Clip, names: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "C D"]:
    """The frozen student's text features that regularisers hold to, unit norm."""
    if "promptsrc" not in config.learns.regularisers:
        return text.template_features(student, names, templates)
    # Its code averages them as the tower gives them, unlike CLIP's own ensembles.
    each = [clip.zeroshot.text_features(student, datasets.texts(names, one)) for one in templates]
    total = np.mean(each, axis=0)
    return total / np.linalg.norm(total, axis=-1, keepdims=True)


def train_data(inputs: Inputs, seed: int) -> Any:
    """The endless stream of batches, this process' slices of it; see `data`."""
    config = inputs.config
    assert inputs.source is not None
    return data.train_data(
        inputs.train.train,
        inputs.train.root,
        source=inputs.source,
        batch_size=config.batch_size,
        regions_per_visit=config.regions_per_visit,
        seed=seed,
        image_size=inputs.student.config.vision.image_size,
        teacher_size=inputs.teacher.config.vision.image_size if inputs.teacher else None,
        lookup=inputs.lookup,
        growing=inputs.growing,
        steps=config.epochs * steps_per_epoch(inputs),
        workers=config.data.workers,
    )


def learning_rate(config: configs.Config, steps: int) -> optax.Schedule:
    """KDPL's schedule, constant within an epoch e of `steps` steps, E epochs in all.

    lr(0) = warmup_lr; lr(e) = lr / 2 (1 + cos(pi (e - 1) / E)) for e >= 1.
    """
    epoch = np.arange(config.epochs)
    rates = 0.5 * config.lr * (1.0 + np.cos(np.pi * (epoch - 1) / config.epochs))
    table = np.where(epoch == 0, config.warmup_lr, rates).astype(np.float32)

    def schedule(count: ArrayLike) -> Array:
        return jnp.asarray(table)[jnp.minimum(jnp.asarray(count) // steps, config.epochs - 1)]

    return schedule


def optimizer(config: configs.Config, steps: int) -> optax.GradientTransformation:
    """SGD with momentum, and the learner's average over epochs; weight decay is added to the gradient first, on prompts too."""
    descent = optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )
    if not (config.trained and config.learns.average):
        return descent
    mean, std = config.average.mean, config.average.std
    return average.over_epochs(descent, epochs=config.epochs, steps=steps, mean=mean, std=std)
