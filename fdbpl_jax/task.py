"""FDBPL and the methods beside it as one task: zero-shot, CoOp, KgCoOp, KDPL and FDBPL (arXiv 2505.18053).

One configuration, one loss function. With text-only prompts and stored features a step gathers features by id, computes
the text features of all prompt sets by shared prefix, and evaluates the losses: nothing else. The towers are in
`Params.frozen`; what is trained is the context alone. Shapes: B regions, C classes, S prompt sets, D embedding width.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax.sharding import PartitionSpec
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from core_jax import clip
from core_jax.train import Aux, Params, Task, memory
from core_jax.train.sharding import over_model
from fdbpl_jax import config as configs
from fdbpl_jax import data, evaluate, losses, prompts, regularisers, text
from fdbpl_jax.inputs import Inputs, open_inputs

SIGNS = ("positive", "negative")

# Contexts are small, towers are not; what a lookup has is read by row.
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
    trained = inputs.config.method != "zeroshot"
    return Task(
        init=functools.partial(init, inputs),
        loss=functools.partial(loss, inputs),
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
    """The context as it starts, and the frozen arrays that the method's step needs, no more."""
    config, student = inputs.config, inputs.student
    frozen: dict[str, Any] = {
        "student": {name: student.params[name] for name in ("text", "logit_scale")}
    }
    if config.method == "zeroshot":
        return Params(trainable={}, frozen=frozen)
    context = prompts.init_context(
        config.prompt,
        student,
        classes=len(inputs.train.classes),
        dual=config.effective_loss.dual,
        key=key,
    )
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
        classes = text.template_features(
            inputs.teacher, inputs.train.classes, [inputs.train.template]
        )
        frozen["teacher"] = {
            "vision": inputs.teacher.params["vision"],
            "text": jnp.asarray(classes),
            "logit_scale": inputs.teacher.params["logit_scale"],
        }
    if config.method == "kgcoop":
        template = text.template_features(student, inputs.train.classes, [inputs.train.template])
        frozen["template"] = jnp.asarray(template)
    return Params(trainable={"context": context}, frozen=frozen)


def stack(context: dict[str, Array]) -> Array:
    """The prompt sets, positive first: (S, M, d), or (S, C, M, d) with a context per class."""
    return jnp.stack([context[sign] for sign in SIGNS if sign in context])


def loss(
    inputs: Inputs, trainable: dict, frozen: dict, stats: dict, batch: Any, key: PRNGKeyArray
) -> tuple[Float[Array, ""], Aux]:
    """The method's loss on one batch; see `losses`."""
    config, batch = inputs.config, dict(batch)
    if "lookup" in frozen:
        batch |= data.gather(frozen["lookup"], batch["row"], batch["region"])
    # Frozen image towers keep nothing for a backward pass: there is nothing to compute again but the text.
    pieces = memory.Memory(accumulate=config.accumulate)
    network = functools.partial(_see, inputs, frozen)
    (regions, labels), _ = memory.run(network, {}, batch, memory=pieces, key=key)
    classes_of = functools.partial(
        text.class_features,
        frozen["student"],
        inputs.student.config,
        inputs.plans["train"],
        dtype=jnp.dtype(inputs.dtype),
    )
    features = (memory.again(classes_of) if config.remat else classes_of)(
        stack(trainable["context"])
    )
    cosines = _cosines(regions, features)
    logits = jnp.exp(frozen["student"]["logit_scale"]) * cosines
    mask = batch["mask"]
    if config.distilled:
        value, metrics = losses.fdbpl(
            labels, logits, regions, features, mask, config.effective_loss
        )
        classes = losses.top_class(labels)
        metrics["agreement"] = _hits(logits[0], classes, mask)
    else:
        metrics = {"loss_ce": losses.coop(logits[0], batch["label"], mask)}
        value, classes = losses.mean(metrics["loss_ce"]), batch["label"]
        if config.method == "kgcoop":
            metrics["loss_kg"] = regularisers.kgcoop(features[0], frozen["template"])
            value = value + config.loss.kgcoop_weight * losses.mean(metrics["loss_kg"])
    metrics["accuracy"] = _hits(logits[0], batch["label"], mask)
    for sign, row in zip(SIGNS, cosines, strict=False):
        similarity = jnp.take_along_axis(row, classes[:, None], axis=1)[:, 0]
        metrics[f"similarity_{sign}"] = jnp.sum(mask * similarity), jnp.sum(mask)
    return value, Aux(stats=stats, metrics=metrics)


def _cosines(regions: Float[Array, "B D"], features: Float[Array, "S C D"]) -> Array:
    # A factor of 100 follows: no bfloat16 or TF32 shortcut here.
    return jnp.einsum("bd,scd->sbc", regions, features, precision=jax.lax.Precision.HIGHEST)


def _hits(logits: Array, classes: Array, mask: Array) -> losses.Pair:
    right = (jnp.argmax(logits, axis=-1) == classes).astype(jnp.float32)
    return jnp.sum(mask * right), jnp.sum(mask)


def _see(
    inputs: Inputs, frozen: dict, stats: dict, batch: dict, key: PRNGKeyArray
) -> tuple[tuple[Array, losses.SoftLabels | None], dict]:
    """The features of regions and the teacher's labels of them; nothing is random."""
    del key
    labels = _labels(inputs, frozen, batch) if inputs.config.distilled else None
    return (_regions(inputs, frozen, batch), labels), stats


def _regions(inputs: Inputs, frozen: dict, batch: dict) -> Float[Array, "B D"]:
    """Unit-norm image features: stored ones, or the frozen tower's."""
    if "feature" in batch:
        return clip.unit(batch["feature"].astype(jnp.float32))
    return _encode(frozen["student"], inputs.student.config, batch["image"], batch, inputs.dtype)


def _encode(params: dict, config: clip.ClipConfig, image: Array, batch: dict, dtype: str) -> Array:
    image = jnp.where(batch["flip"][:, None, None, None], image[:, :, ::-1], image)
    pixels = clip.normalise(image, config, jnp.dtype(dtype))
    features = clip.encode_image(params, config, pixels)
    assert not isinstance(features, tuple)
    return clip.unit(features.astype(jnp.float32))


def _labels(inputs: Inputs, frozen: dict, batch: dict) -> losses.SoftLabels:
    """The teacher's labels: from the lookup, or made now by the teacher itself."""
    if inputs.teacher is None:
        return losses.SoftLabels(
            logp=batch["logp"],
            entropy=batch["entropy"],
            index=batch.get("index"),
            rest=batch.get("rest"),
        )
    teacher, config = frozen["teacher"], inputs.teacher.config
    image = batch.get("teacher_image", batch["image"])
    features = _encode(teacher, config, image, batch, inputs.dtype)
    cosines = _cosines(features, teacher["text"][None])[0]
    return losses.dense_labels(jnp.exp(teacher["logit_scale"]) * cosines)


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
    """SGD with momentum; weight decay is added to the gradient first and acts on the prompts too."""
    return optax.chain(
        optax.add_decayed_weights(config.weight_decay),
        optax.trace(config.momentum),
        optax.scale_by_learning_rate(learning_rate(config, steps)),
    )
