"""One step's loss: what the prompted student says of a batch, against labels or a teacher, and what holds it to itself.

With text prompts and stored features a step gathers features by id, computes the text features of all prompt sets by
shared prefix, and evaluates the losses: nothing else. Visual prompts run the image tower, and PromptSRC's terms run it a
second time without them. Shapes: B regions, C classes, S prompt sets (positive, negative), D embedding width.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax import clip
from core_jax.train import Aux, memory
from fdbpl_jax import data, losses, projector, prompted, regularisers
from fdbpl_jax.inputs import Inputs

# Terms that look at the pictures as the frozen student sees them.
_PLAIN = {"prograd", "promptsrc"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Seen:
    """What the towers say of a batch; features of unit norm.

    Attributes:
      regions: the student's picture features, (B, D).
      plain: those without learned tokens; None where nothing asks for them.
      labels: the teacher's; None for hard labels.
      text: class features of each prompt set, positive first: (C, D), or (B, C, D) for a context per picture.
      cosines: (S, B, C).
      stats: new statistics.
    """

    regions: Float[Array, "B D"]
    plain: Float[Array, "B D"] | None
    labels: losses.SoftLabels | None
    text: Any
    cosines: Float[Array, "S B C"]
    stats: dict[str, Any]


def loss(
    inputs: Inputs, trainable: dict, frozen: dict, stats: dict, batch: Any, key: PRNGKeyArray
) -> tuple[Float[Array, ""], Aux]:
    """The method's loss on one batch; see `losses` and `regularisers`."""
    config, batch = inputs.config, dict(batch)
    if "lookup" in frozen:
        batch |= data.gather(frozen["lookup"], batch["row"], batch["region"])
    terms = functools.partial(_terms, inputs, frozen, stats, batch, key)
    if "prograd" in config.learns.regularisers:
        return regularisers.prograd_loss(terms, trainable, config.loss.prograd_lambda)
    (value, _), aux = terms(trainable)
    return value, aux


def _terms(
    inputs: Inputs, frozen: dict, stats: dict, batch: dict, key: PRNGKeyArray, trainable: dict
) -> tuple[tuple[Float[Array, ""], Float[Array, ""]], Aux]:
    """((the loss, the one that ProGrad's step must not raise), statistics and metrics)."""
    config, mask = inputs.config, batch["mask"]
    seen = see(inputs, trainable, frozen, stats, batch, key)
    logits = jnp.exp(frozen["student"]["logit_scale"]) * seen.cosines
    if config.distilled:
        assert seen.labels is not None
        value, metrics = losses.fdbpl(
            seen.labels, logits, seen.regions, seen.text, mask, config.effective_loss
        )
        classes = losses.top_class(seen.labels)
        metrics["agreement"] = _hits(logits[0], classes, mask)
        if config.learns.projector:
            # PromptKD's sum over the batch is divided by the classes, too.
            value = config.loss.kd_weight / logits.shape[-1] * value
    else:
        metrics = {"loss_ce": losses.coop(logits[0], batch["label"], mask)}
        value, classes = losses.mean(metrics["loss_ce"]), batch["label"]
    held, metrics_held, general = _held(inputs, frozen, seen, logits[0], mask)
    value = value if held is None else value + held
    metrics |= metrics_held
    metrics["accuracy"] = _hits(logits[0], batch["label"], mask)
    for sign, row in zip(prompted.SIGNS, seen.cosines, strict=False):
        similarity = jnp.take_along_axis(row, classes[:, None], axis=1)[:, 0]
        metrics[f"similarity_{sign}"] = jnp.sum(mask * similarity), jnp.sum(mask)
    return (value, general), Aux(stats=seen.stats, metrics=metrics)


def _held(
    inputs: Inputs, frozen: dict, seen: Seen, logits: Float[Array, "B C"], mask: Array
) -> tuple[Array | None, dict[str, losses.Pair], Float[Array, ""]]:
    """What regularisers add to the loss, their metrics, and ProGrad's general loss."""
    names, weights = inputs.config.learns.regularisers, inputs.config.loss
    added: list[tuple[str, float, losses.Pair]] = []
    if "kgcoop" in names:
        pair = regularisers.kgcoop(seen.text[0], frozen["template"])
        added.append(("loss_kg", weights.kgcoop_weight, pair))
    zero_shot = jnp.zeros_like(logits)
    if _PLAIN & set(names):
        plain = seen.regions if seen.plain is None else seen.plain
        zero_shot = _cosines(plain, frozen["template"][None])[0]
        zero_shot = jnp.exp(frozen["student"]["logit_scale"]) * zero_shot
    if "promptsrc" in names:
        plain = seen.regions if seen.plain is None else seen.plain
        added += [
            (
                "loss_src_text",
                weights.promptsrc_text,
                regularisers.promptsrc_text(seen.text[0], frozen["template"]),
            ),
            (
                "loss_src_image",
                weights.promptsrc_image,
                regularisers.promptsrc_image(seen.regions, plain, mask),
            ),
            (
                "loss_src_logits",
                weights.promptsrc_logits,
                regularisers.promptsrc_logits(zero_shot, logits, mask),
            ),
        ]
    metrics = {name: pair for name, _, pair in added}
    general = jnp.zeros((), logits.dtype)
    if "prograd" in names:
        metrics["loss_zero_shot"] = regularisers.zero_shot_kl(zero_shot, logits, mask)
        general = losses.mean(metrics["loss_zero_shot"])
    if not added:
        return None, metrics, general
    total = [weight * losses.mean(pair) for _, weight, pair in added]
    return functools.reduce(jnp.add, total), metrics, general


def see(
    inputs: Inputs, trainable: dict, frozen: dict, stats: dict, batch: dict, key: PRNGKeyArray
) -> Seen:
    """The towers on a batch."""
    config, learns = inputs.config, inputs.config.learns
    # A frozen image tower keeps nothing for a backward pass: there is nothing to compute again but the text.
    pieces = memory.Memory(accumulate=config.accumulate, remat=config.remat and learns.visual)
    network = functools.partial(_look, inputs, frozen, prompted.visual_tokens(trainable))
    (regions, plain, labels), _ = memory.run(network, {}, batch, memory=pieces, key=key)
    if learns.projector:
        # On the whole batch, whose statistics it takes.
        regions, moved = projector.apply(
            trainable["projector"], stats["projector"], regions, train=True
        )
        regions, stats = clip.unit(regions), {**stats, "projector": moved}
    features, cosines = _classes(inputs, trainable, frozen, regions)
    return Seen(
        regions=regions, plain=plain, labels=labels, text=features, cosines=cosines, stats=stats
    )


def _classes(
    inputs: Inputs, trainable: dict, frozen: dict, regions: Float[Array, "B D"]
) -> tuple[Any, Float[Array, "S B C"]]:
    """Class features of each prompt set, and the regions' cosines with them."""
    config, learns = inputs.config, inputs.config.learns
    again = memory.again if config.remat else lambda function: function
    arguments = (frozen["student"], inputs.student.config, inputs.plans.get("train"))
    options: dict[str, Any] = {"dtype": jnp.dtype(inputs.dtype)}
    prompts = {name: tree for name, tree in trainable.items() if name in ("context", "deep")}
    if learns.conditional:
        by_picture = functools.partial(prompted.features_by_picture, *arguments, **options)
        own = again(by_picture)({**prompts, "meta": trainable["meta"]}, regions)
        # A factor of 100 follows: no bfloat16 or TF32 shortcut here, nor in `_cosines`.
        highest = jax.lax.Precision.HIGHEST
        features = [own]
        cosines = [jnp.einsum("bd,bcd->bc", regions, own, precision=highest)]
        if "negative" in config.signs:
            options["signs"] = ("negative",)
            shared = functools.partial(prompted.class_features, *arguments, **options)
            features.append(again(shared)(prompts)[0])
            cosines.append(_cosines(regions, features[1][None])[0])
        return features, jnp.stack(cosines)
    features = frozen["classes"][None] if "classes" in frozen else None
    if config.signs:
        classes_of = functools.partial(prompted.class_features, *arguments, **options)
        learned = again(classes_of)(prompts)
        features = learned if features is None else jnp.concatenate([features, learned])
    assert features is not None
    return features, _cosines(regions, features)


def _cosines(regions: Float[Array, "B D"], features: Float[Array, "S C D"]) -> Array:
    return jnp.einsum("bd,scd->sbc", regions, features, precision=jax.lax.Precision.HIGHEST)


def _hits(logits: Array, classes: Array, mask: Array) -> losses.Pair:
    right = (jnp.argmax(logits, axis=-1) == classes).astype(jnp.float32)
    return jnp.sum(mask * right), jnp.sum(mask)


def _look(
    inputs: Inputs,
    frozen: dict,
    tokens: Array | None,
    stats: dict,
    batch: dict,
    key: PRNGKeyArray,
) -> tuple[tuple[Array, Array | None, losses.SoftLabels | None], dict]:
    """Features of regions, those without learned tokens, the teacher's labels; nothing is random."""
    del key
    learns = inputs.config.learns
    labels = teacher_labels(inputs, frozen, batch) if inputs.config.distilled else None
    plain = None
    if tokens is not None and _PLAIN & set(learns.regularisers):
        plain = _regions(inputs, frozen, batch, None)
    return (_regions(inputs, frozen, batch, tokens), plain, labels), stats


def _regions(
    inputs: Inputs, frozen: dict, batch: Mapping[str, Array], tokens: Array | None
) -> Float[Array, "B D"]:
    """Image features: stored ones, or the student's tower. Of unit norm, unless a projector is to take them."""
    if "feature" in batch:
        return clip.unit(batch["feature"].astype(jnp.float32))
    student, model = frozen["student"], inputs.student.config
    features = prompted.picture_features(
        student, model, batch["image"], batch["flip"], tokens, inputs.dtype
    )
    return features if inputs.config.learns.projector else clip.unit(features)


def teacher_labels(inputs: Inputs, frozen: dict, batch: Mapping[str, Array]) -> losses.SoftLabels:
    """The teacher's labels: from the lookup, or made now by the teacher itself."""
    if inputs.teacher is None:
        return losses.SoftLabels(
            logp=batch["logp"],
            entropy=batch["entropy"],
            index=batch.get("index"),
            rest=batch.get("rest"),
        )
    teacher, model = frozen["teacher"], inputs.teacher.config
    image = batch.get("teacher_image", batch["image"])
    features = prompted.picture_features(teacher, model, image, batch["flip"], None, inputs.dtype)
    cosines = _cosines(clip.unit(features), teacher["text"][None])[0]
    return losses.dense_labels(jnp.exp(teacher["logit_scale"]) * cosines)
