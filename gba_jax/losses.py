"""The losses of the segmentation hosts: mask classification (Mask2Former arXiv 2112.01527) and per-class cost maps.

Every term returns (sum, count), so that padded and accumulated batches and batches spread over devices stay exact;
`mean` divides at the very end. Everything is computed in float32. Shapes: B images, Q queries, G segment slots (class
-1 is padding), C classes (void is column C of class logits), P points a mask, (h, w) logits and (H, W) labels.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from gba_jax import matching
from gba_jax import points as pts

Pair = tuple[Float[Array, ""], Float[Array, ""]]

_SMALLEST_COUNT = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskLossConfig:
    """The weights of the losses of mask classification.

    Attributes:
      class_weight, bce_weight, dice_weight: weights of the three terms.
      no_object: weight of a query without a segment inside the cross-entropy.
      points: P, points a matched mask.
      oversample, importance: see `points.uncertain_points`.
      match: the matching cost.
    """

    class_weight: float = 2.0
    bce_weight: float = 5.0
    dice_weight: float = 5.0
    no_object: float = 0.1
    points: int = 12_544
    oversample: float = 3.0
    importance: float = 0.75
    match: matching.MatchConfig = dataclasses.field(default_factory=matching.MatchConfig)


def mean(pair: Pair) -> Float[Array, ""]:
    """The mean of a (sum, count) pair; 0 where nothing was counted."""
    total, count = pair
    return total / jnp.maximum(count, _SMALLEST_COUNT)


def class_term(
    logits: Float[Array, "B Q C+1"],
    classes: Int32[Array, "B G"],
    assignment: Int32[Array, "B G"],
    no_object: float = 0.1,
) -> Pair:
    """Cross-entropy of every query with the class of its segment, or with void, which weighs less.

      sum_q w_q (-log p_q[target_q]) / sum_q w_q,  w_q = 1 with a segment, else `no_object`

    Args:
      logits: void last; classes masked out of a padded vocabulary are -inf.
      classes: class of every slot.
      assignment: query of every slot, -1 for padding.
      no_object: the weight of void.

    Returns:
      (weighted sum, sum of weights).
    """
    batch, queries, void = logits.shape[0], logits.shape[1], logits.shape[2] - 1
    image = jnp.arange(batch)[:, None]
    # A padded slot writes to query Q, which is dropped; -1 would be the last query.
    query = jnp.where(assignment >= 0, assignment, queries)
    target = jnp.full((batch, queries), void, jnp.int32)
    target = target.at[image, query].set(classes, mode="drop")
    weight = jnp.where(target == void, no_object, 1.0).astype(jnp.float32)
    entropy = optax.losses.softmax_cross_entropy_with_integer_labels(
        logits.astype(jnp.float32), target
    )
    return jnp.sum(weight * entropy), jnp.sum(weight)


def mask_terms(
    mask_logits: Float[Array, "B Q h w"],
    segments: Int32[Array, "B H W"],
    assignment: Int32[Array, "B G"],
    config: MaskLossConfig,
    *,
    key: Array,
) -> tuple[Pair, Pair]:
    """Binary cross-entropy and dice of the matched masks, at points where each mask is uncertain.

    With x_p the logit and t_p the segment's share at point p, sigma the sigmoid:

      BCE = mean_p [softplus(x_p) - x_p t_p],   dice = 1 - (2 sum sigma(x_p) t_p + 1) / (sum sigma(x_p) + sum t_p + 1)

    Args:
      mask_logits: of any size.
      segments: slot of every pixel, -1 for none.
      assignment: query of every slot, -1 for padding.
      config: number and choice of the points.
      key: of the points.

    Returns:
      ((sum of BCE over matched masks, their number), the same for dice).
    """
    real = assignment >= 0
    own = jnp.maximum(assignment, 0)[:, :, None, None]
    matched = jnp.take_along_axis(mask_logits, own, axis=1)
    points = pts.uncertain_points(
        matched,
        config.points,
        oversample=config.oversample,
        importance=config.importance,
        key=key,
    )
    x = pts.sample(matched, points)
    t = pts.sample_segments(segments, points, assignment.shape[1])
    entropy = jnp.mean(optax.losses.sigmoid_binary_cross_entropy(x, t), axis=-1)
    # optax puts `smooth` beside the intersection itself: one half there is one in the formula above.
    dice = optax.losses.dice_loss(x[..., None], t[..., None], smooth=0.5, reduction="none", axis=-2)
    count = jnp.sum(real).astype(jnp.float32)
    pair = lambda values: (jnp.sum(jnp.where(real, values, 0.0)), count)
    return pair(entropy), pair(dice[..., 0])


def mask_classification(
    outputs: Sequence[tuple[Float[Array, "B Q C+1"], Float[Array, "B Q h w"]]],
    segments: Int32[Array, "B H W"],
    classes: Int32[Array, "B G"],
    config: MaskLossConfig,
    *,
    key: Array,
) -> tuple[Float[Array, ""], dict[str, Pair]]:
    """The whole loss of mask classification: every output of the decoder is matched and judged by itself.

    Args:
      outputs: (class logits, mask logits) of the learned queries and after every layer.
      segments: slot of every pixel, -1 for none.
      classes: class of every slot, -1 for padding.
      config: weights, points and matcher.
      key: of all points.

    Returns:
      (sum over the outputs of the weighted terms, {"loss_class", "loss_bce", "loss_dice": the last output's pairs}).
    """
    total, terms = jnp.zeros((), jnp.float32), {}
    for (class_logits, mask_logits), own in zip(outputs, jax.random.split(key, len(outputs))):
        match_key, point_key = jax.random.split(own)
        assignment = matching.match(
            class_logits, mask_logits, segments, classes, config.match, key=match_key
        )
        bce, dice = mask_terms(mask_logits, segments, assignment, config, key=point_key)
        terms = {
            "loss_class": class_term(class_logits, classes, assignment, config.no_object),
            "loss_bce": bce,
            "loss_dice": dice,
        }
        total = total + config.class_weight * mean(terms["loss_class"])
        total = total + config.bce_weight * mean(bce) + config.dice_weight * mean(dice)
    return total, terms


def per_class_bce(
    logits: Float[Array, "B C h w"],
    labels: Int32[Array, "B H W"],
    class_mask: Bool[Array, "C"],
    ignore: Literal["drop", "negative"] = "drop",
) -> Pair:
    """Cost aggregation's loss: every class against the rest at every pixel (CAT-Seg arXiv 2303.11797).

    Args:
      logits: one map a class, resized to the labels (bilinear, half-pixel centres, no antialias).
      labels: class of every pixel, -1 for pixels that do not count.
      class_mask: False for the padding of the vocabulary.
      ignore: "drop" leaves ignored pixels out; "negative" counts them as a negative of every class, as the public
        implementation does.

    Returns:
      (sum over valid pixels and real classes of the binary cross-entropy, their number).

    Raises:
      ValueError: another `ignore`.
    """
    if ignore not in ("drop", "negative"):
        raise ValueError(
            f"ignore={ignore!r}: expected 'drop' (leave ignored pixels out) or 'negative' (a negative of every class)"
        )
    batch, classes = logits.shape[:2]
    # Padding may carry infinite logits: put out before the resize, whose gradient would turn them into nan.
    real = class_mask[None, :, None, None]
    logits = jnp.where(real, logits.astype(jnp.float32), 0.0)
    logits = jax.image.resize(
        logits, (batch, classes, *labels.shape[1:]), "bilinear", antialias=False
    )
    # An ignored pixel's row of the one-hot code is zero, which is what "negative" asks for.
    target = jax.nn.one_hot(labels, classes, dtype=jnp.float32, axis=1)
    entropy = optax.losses.sigmoid_binary_cross_entropy(logits, target)
    valid = jnp.ones(labels.shape, bool) if ignore == "negative" else labels >= 0
    # Pixels and classes are counted apart: their product does not fit int32.
    pixels, words = (jnp.sum(x).astype(jnp.float32) for x in (valid, class_mask))
    return jnp.sum(jnp.where(valid[:, None] & real, entropy, 0.0)), pixels * words
