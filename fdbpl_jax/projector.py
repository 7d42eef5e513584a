"""From the student's feature space to the teacher's: PromptKD's projector (arXiv 2403.02781).

Two linear layers with batch normalisation and a ReLU between them. It takes image features as the tower gives them, not of
unit norm, and what it returns is brought to unit norm by whoever compares it with the teacher's text features, as the
authors' code does. Batch normalisation is torch's: eps 1e-5, running statistics that keep 0.9 of their value a step, with
the variance divided by n - 1; the batch is normalised by the variance divided by n.

Shapes: B pictures, D width of the student's features, T of the teacher's.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.nn import batch_norm
from fdbpl_jax import linear

_NORM = batch_norm.BatchNorm()


def init(
    width: int, teacher_width: int, *, key: PRNGKeyArray
) -> tuple[dict[str, Any], dict[str, Float[Array, "T"]]]:
    """The projector as it starts, and its running statistics.

    Args:
      width: D.
      teacher_width: T.
      key: of both layers.

    Returns:
      ({"fc1": D -> T, "norm": {"scale", "bias"} of T, "fc2": T -> T}, {"mean", "var"} of T), float32.
    """
    first, second = jax.random.split(key)
    trainable = {
        "fc1": linear.init(width, teacher_width, key=first),
        "norm": {"scale": jnp.ones(teacher_width), "bias": jnp.zeros(teacher_width)},
        "fc2": linear.init(teacher_width, teacher_width, key=second),
    }
    return trainable, {"mean": jnp.zeros(teacher_width), "var": jnp.ones(teacher_width)}


def apply(
    trainable: dict[str, Any],
    stats: Mapping[str, Float[Array, "T"]],
    features: Float[Array, "B D"],
    *,
    train: bool,
) -> tuple[Float[Array, "B T"], dict[str, Any]]:
    """Project a batch: fc2(relu(norm(fc1(x)))).

    Under a mesh B is the global batch, so its statistics are those of all devices' pictures; call it on the whole batch, not on
    its pieces.

    Args:
      trainable: from `init`.
      stats: likewise, or from the step before.
      features: image features, not of unit norm.
      train: normalise by the batch and move the running statistics; else by those, which then stay.

    Returns:
      (features in the teacher's space, not of unit norm; new statistics).

    Raises:
      ValueError: a batch of one in training, which has no variance.
    """
    hidden = linear.apply(trainable["fc1"], features)
    variables = {"params": trainable["norm"], batch_norm.STATS: stats}
    if train:
        hidden, moved = _NORM.apply(variables, hidden, True, mutable=[batch_norm.STATS])
        stats = moved[batch_norm.STATS]
    else:
        hidden = _NORM.apply(variables, hidden)
    assert isinstance(hidden, jax.Array)
    return linear.apply(trainable["fc2"], jax.nn.relu(hidden)), dict(stats)
