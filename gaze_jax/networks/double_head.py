"""The second head of CLIP-DFENet's double-head gaze regressor, in training only (arXiv 2502.20128).

It has no parameters. One mask a batch drops some of the F channels of the feature; the largest of what is left in the first
half is the yaw, in the second half the pitch, and both are held against the label. The feature itself has to carry the
gaze then, in many channels at once. The form is that of a public later revision of the method. Shapes: B samples, F channels.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

Mask = Literal["zero", "exclude"]


def draw(width: int, dropped: int, *, key: Array) -> Bool[Array, " F"]:
    """Which of F = `width` channels stay; exactly `dropped` do not.

    Raises:
      ValueError: a half of the channels could be left without any, or the width is odd.
    """
    if width % 2 or not 0 <= dropped < width // 2:
        raise ValueError(
            f"the second head drops {dropped} of {width} channels: the width must be even, and fewer than half of them "
            "may be dropped, so that each half keeps one"
        )
    return jax.random.permutation(key, width) >= dropped


def answer(f: Float[Array, "B F"], keep: Bool[Array, " F"], mask: Mask) -> Float[Array, "B 2"]:
    """(pitch, yaw) in radians, float32.

    Args:
      f: features.
      keep: as `draw` gives it.
      mask: "zero" sets dropped channels to 0, so that a half with one (5 of 32: with probability .978) cannot answer below
        0 and learns from positive angles alone, as the revision does; "exclude" leaves them out of the maximum.
    """
    absent = 0.0 if mask == "zero" else -jnp.inf
    left = jnp.where(keep[None], f.astype(jnp.float32), absent)
    halves = left.reshape(len(f), 2, -1)
    # By position: the gradient of a maximum compares its input with its result, and where the compiler computes the feature
    # twice the two may differ in the last bit, which divides by zero.
    place = jnp.argmax(halves, axis=2)
    best = jnp.take_along_axis(halves, place[:, :, None], axis=2)[:, :, 0]
    return best[:, ::-1]
