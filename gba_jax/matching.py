"""Which query answers for which segment: Hungarian matching of mask classification (DETR 2005.12872, Mask2Former).

Everything has a static shape and runs inside the jitted step on any device: the ground truth is padded to G slots, the
costs are taken at points, and the assignment is optax's shortest-augmenting-path Hungarian algorithm under vmap. Shapes:
B images, Q queries, G slots, C classes (void is column C), P points; a slot is real if its class is not -1.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int32

from gba_jax import points as pts

Matcher = Literal["jax", "scipy"]

# What stands in for nan and infinity: far above any cost, and finite, so that every search ends.
_HOPELESS = 1e6


@dataclasses.dataclass(frozen=True, kw_only=True)
class MatchConfig:
    """The weights of the matching cost.

    Attributes:
      class_weight: of minus the probability of the segment's class.
      bce_weight: of the mean binary cross-entropy at the points.
      dice_weight: of the dice loss at the points.
      points: P, uniform points of an image that all its masks share.
      matcher: "jax" (inside the program, any device) or "scipy" (a callback to the host, one process only).
    """

    class_weight: float = 2.0
    bce_weight: float = 5.0
    dice_weight: float = 5.0
    points: int = 12_544
    matcher: Matcher = "jax"


def match(
    class_logits: Float[Array, "B Q C+1"],
    mask_logits: Float[Array, "B Q h w"],
    segments: Int32[Array, "B H W"],
    classes: Int32[Array, "B G"],
    config: MatchConfig,
    *,
    key: Array,
) -> Int32[Array, "B G"]:
    """The query of every segment: the assignment with the smallest total cost, at points drawn with `key`.

    Args:
      class_logits: void last; classes masked out of a padded vocabulary are -inf.
      mask_logits: of any size.
      segments: slot of every pixel, -1 for none.
      classes: class of every slot, -1 for padding.
      config: cost weights and matcher.
      key: of the points.

    Returns:
      As `assign`; no gradient passes.
    """
    points = jax.random.uniform(key, (segments.shape[0], config.points, 2))
    cost = matching_cost(class_logits, mask_logits, segments, classes, points, config)
    return assign(cost, classes >= 0, config.matcher)


def matching_cost(
    class_logits: Float[Array, "B Q C+1"],
    mask_logits: Float[Array, "B Q h w"],
    segments: Int32[Array, "B H W"],
    classes: Int32[Array, "B G"],
    points: Float[Array, "B P 2"],
    config: MatchConfig,
) -> Float[Array, "B G Q"]:
    """The cost of every pair: w_class (-p_class) + w_bce BCE + w_dice dice, in float32.

    With x_p the query's logit and t_p the segment's share at point p, sigma the sigmoid:

      BCE = mean_p [softplus(x_p) - x_p t_p],   dice = 1 - (2 sum sigma(x_p) t_p + 1) / (sum sigma(x_p) + sum t_p + 1)

    Both are one matrix product each, for all pairs of an image.

    Args:
      class_logits: void last.
      mask_logits: of any size.
      segments: slot of every pixel, -1 for none.
      classes: class of every slot, -1 for padding.
      points: shared by all masks of an image.
      config: the three weights.

    Returns:
      Costs without gradient; rows of padding are meaningless.
    """
    class_logits, mask_logits = jax.lax.stop_gradient((class_logits, mask_logits))
    probability = jax.nn.softmax(class_logits.astype(jnp.float32), axis=-1)
    of_class = jnp.take_along_axis(
        jnp.swapaxes(probability, 1, 2), jnp.maximum(classes, 0)[..., None], axis=1
    )
    x = pts.sample(mask_logits, points[:, None])
    t = pts.sample_segments(segments, points[:, None], classes.shape[1])
    sigma = jax.nn.sigmoid(x)
    # At the devices' default precision, which may be bfloat16, near-ties would be decided by rounding.
    product = lambda a, b: jnp.einsum("bgp,bqp->bgq", a, b, precision=jax.lax.Precision.HIGHEST)
    entropy = jnp.mean(jax.nn.softplus(x), axis=-1)[:, None] - product(t, x) / points.shape[1]
    sizes = jnp.sum(t, axis=-1)[:, :, None] + jnp.sum(sigma, axis=-1)[:, None]
    dice = 1.0 - (2.0 * product(t, sigma) + 1.0) / (sizes + 1.0)
    return -config.class_weight * of_class + config.bce_weight * entropy + config.dice_weight * dice


def assign(
    cost: Float[Array, "B G Q"], real: Bool[Array, "B G"], matcher: Matcher = "jax"
) -> Int32[Array, "B G"]:
    """Minimum-cost assignment of every real row to a column of its own.

    Args:
      cost: one problem an image. nan and infinity count as hopeless, so that a diverging step still ends.
      real: which rows are to be assigned; they need not come first.
      matcher: see `MatchConfig`.

    Returns:
      The column of each row, -1 for rows that are not real.

    Raises:
      ValueError: fewer columns than rows, an unknown matcher, or "scipy" in a run of several processes.
    """
    batch, rows, columns = cost.shape
    bad = []
    if columns < rows:
        bad.append(
            f"{rows} segment slots and {columns} queries: every segment needs a query of its own; raise the number of "
            "queries or lower the padding of the segments"
        )
    if matcher not in ("jax", "scipy"):
        bad.append(f"matcher={matcher!r}: expected 'jax' or 'scipy'")
    elif matcher == "scipy" and jax.process_count() > 1:
        bad.append(f"matcher='scipy' with {jax.process_count()} processes: use matcher='jax'")
    if bad:
        raise ValueError("cannot match queries and segments:\n  " + "\n  ".join(bad))
    cost = jnp.nan_to_num(
        jax.lax.stop_gradient(cost), nan=_HOPELESS, posinf=_HOPELESS, neginf=-_HOPELESS
    )
    if matcher == "scipy":
        shape = jax.ShapeDtypeStruct((batch, rows), jnp.int32)
        return jax.pure_callback(_assign_on_host, shape, cost, real)
    return jax.vmap(_assign_one)(cost, real)


def _assign_one(cost: Float[Array, "G Q"], real: Bool[Array, "G"]) -> Int32[Array, "G"]:
    rows = cost.shape[0]
    # Every row gets a private column, free for padding and closed for real rows. A padded row thus takes one step of the
    # algorithm and never competes for a query, without any large number that would cost the others precision.
    free = jnp.eye(rows, dtype=bool) & ~real[:, None]
    private = jnp.where(free, 0.0, jnp.inf).astype(cost.dtype)
    table = jnp.concatenate([jnp.where(real[:, None], cost, jnp.inf), private], axis=1)
    row, column = optax.assignment.hungarian_algorithm(table)
    answer = jnp.full(rows, -1, jnp.int32).at[row].set(column.astype(jnp.int32))
    return jnp.where(real, answer, -1)


def _assign_on_host(cost: np.ndarray, real: np.ndarray) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    cost, real = np.asarray(cost), np.asarray(real)
    answer = np.full(real.shape, -1, np.int32)
    for image in range(len(cost)):
        _, answer[image, real[image]] = linear_sum_assignment(cost[image][real[image]])
    return answer
