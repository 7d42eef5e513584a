"""Contexts that depend on the picture: CoCoOp's meta-net (arXiv 2203.05557).

A network of two layers reads a picture's feature and says one vector, which is added to every context vector. So each
picture has a prompt set of its own, and `text.class_features` takes the B contexts as S = B prompt sets.

Shapes: B pictures, M context vectors, d token width, D embedding width.
"""

from typing import Any

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax import clip
from fdbpl_jax import linear

# The hidden layer is this many times narrower than a feature.
_NARROWER = 16


def init(student: clip.Clip, *, key: PRNGKeyArray) -> dict[str, linear.Linear]:
    """The meta-net as it starts.

    Args:
      student: its widths D and d are read.
      key: of both layers.

    Returns:
      {"fc1": D -> D // 16, "fc2": D // 16 -> d}, each {"kernel", "bias"}, float32. A hidden layer has one unit at least.
    """
    first, second = jax.random.split(key)
    width = student.config.projection_dim
    hidden = max(1, width // _NARROWER)
    return {
        "fc1": linear.init(width, hidden, key=first),
        "fc2": linear.init(hidden, student.config.text.width, key=second),
    }


def contexts(
    meta: dict[str, Any], context: Float[Array, "M d"], features: Float[Array, "B D"]
) -> Float[Array, "B M d"]:
    """The context of each picture: context + fc2(relu(fc1(u_b))), the same shift for all M vectors (section 3.2).

    Args:
      meta: from `init`.
      context: what all pictures share.
      features: u, unit norm.
    """
    shift = linear.apply(meta["fc2"], jax.nn.relu(linear.apply(meta["fc1"], features)))
    return context[None, :, :] + shift[:, None, :]
