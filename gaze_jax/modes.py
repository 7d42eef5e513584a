"""From comparisons with k references to one answer: DRNet's modes (arXiv 2208.04298) and Diff-NN's (arXiv 1904.09459).

`single` compares a picture with itself, so it has k = 1 and needs nobody's calibration. Angles are (pitch, yaw) in radians.
Shapes: B queries, k references, P = 2.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MODES = ("single", "calib", "diffnn", "blend")

# How far a reference may be from the query before it hardly counts.
SPREAD_RAD = math.radians(5.0)


def combine(
    mode: str,
    absolute: Float[Array, "B k P"] | None,
    difference: Float[Array, "B k P"] | None,
    reference_gaze: Float[Array, "B k P"] | None,
    blend: float | Float[Array, ""] = 0.5,
) -> Float[Array, "B P"]:
    """One answer for every query.

      single, calib: mean_j g^_j
      diffnn:        sum_j a_j (g_Fj + d^_j),  a = softmax_j(-|d^_j|^2 / 2 s^2),  s = 5 degrees
      blend:         (1 - b) calib + b diffnn

    Args:
      mode: one of `MODES`.
      absolute: g^ of the query by each comparison; not looked at by "diffnn".
      difference: d^ = query - reference; not looked at by "single" and "calib".
      reference_gaze: what is known of the references; likewise.
      blend: b of "blend", 0 to 1; see `default_blend`.

    Raises:
      ValueError: an unknown mode, or one for which the model has no head.
    """
    if mode not in MODES:
        raise ValueError(f"mode={mode!r}: expected one of {', '.join(MODES)}")
    missing = [
        name
        for name, value, needed in (
            ("absolute", absolute, mode != "diffnn"),
            ("difference", difference, mode in ("diffnn", "blend")),
            ("reference_gaze", reference_gaze, mode in ("diffnn", "blend")),
        )
        if needed and value is None
    ]
    if missing:
        raise ValueError(
            f"mode {mode!r} needs {' and '.join(missing)}, which this model does not give: choose another mode"
        )
    if mode == "diffnn":
        return _diffnn(difference, reference_gaze)
    calibrated = jnp.mean(absolute.astype(jnp.float32), axis=1)  # pyright: ignore
    if mode != "blend":
        return calibrated
    b = jnp.asarray(blend, jnp.float32)
    return (1.0 - b) * calibrated + b * _diffnn(difference, reference_gaze)


def default_blend(k: int) -> float:
    """The b to use where none was fitted: equal shares from three references on, else the gaze head alone."""
    return 0.5 if k >= 3 else 0.0


def _diffnn(difference, reference_gaze) -> Float[Array, "B P"]:
    difference = difference.astype(jnp.float32)
    squared = jnp.sum(jnp.square(difference), axis=-1)
    share = jax.nn.softmax(-squared / (2.0 * SPREAD_RAD**2), axis=1)
    return jnp.sum(share[:, :, None] * (reference_gaze + difference), axis=1)
