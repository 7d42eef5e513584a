"""The language-driven differential module of CLIP-DFENet (arXiv 2502.20128): features of two faces and sentences about them.

A sentence t_g tells how alike the gazes of two faces are, in G grades; the true grade of a pair follows from its labels.
Training pulls what the extractor makes of a pair towards W t_g of its grade. With f_i the features of sample i:

    pair        concat: s^g_ij = cos([f_i; f_j], W t_g)      difference: s^g_ij = cos(|f_i - f_j|, W t_g)
    softmax     samples:  (32 / n) (1 / G) sum_g mean_i ( - sum_{j != i} m^g_ij log softmax_{j != i} s^g_ij )
                grades:   mean over pairs i < j of  - w_g log softmax_g( s^g_ij / tau )[grade_ij]

m^g_ij is 1 for a pair of grade g. The first of each row is that of a public later revision of the method, the second ours:
the score of `concat` is linear in the two features, so that with norms nearly equal f_i cancels in a softmax over j.

Shapes: n samples, F channels of a feature, G grades, D width of a sentence's embedding, K width of W t_g (2F or F), P = 2
angles (pitch, yaw) in radians. Everything is float32.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core_jax.clip import unit
from core_jax.data import rng
from gaze_jax.geometry import angular_error_deg

Distance = Literal["l1", "angle"]
PairKind = Literal["concat", "difference"]
Softmax = Literal["samples", "grades"]

FIXED_CUTS_RAD = {2: (0.2,), 3: (0.1, 0.2), 5: (0.1, 0.2, 0.3, 0.5)}
"""Where one grade ends and the next begins, in radians: 5.7, 11.5, 17.2 and 28.6 degrees."""
QUANTILES = {2: (0.24,), 3: (0.07, 0.24), 5: (0.07, 0.24, 0.45, 0.80)}
"""The shares of pairs below each cut of a data set whose gazes spread as those of people at a laptop."""

# The factor of the revision's loss, which is written over a batch of any size n.
_SCALE = 32.0
_WEIGHT_RANGE = (0.2, 5.0)
_QUANTILE_PAIRS = 20_000
_SMALLEST_SQUARE = 1e-24
_ABSENT = -1e9


def distance_rad(
    a: Float[Array, "*lead 2"], b: Float[Array, "*lead 2"], kind: Distance
) -> Float[Array, "*lead"]:
    """How far apart two gazes are.

    Args:
      a: (pitch, yaw) in radians.
      b: likewise; leading axes broadcast.
      kind: "l1", |pitch difference| + |yaw difference|, or "angle", the angle between the directions.
    """
    if kind == "l1":
        shape = jnp.broadcast_shapes(a.shape, b.shape)
        return jnp.sum(jnp.abs(jnp.broadcast_to(a, shape) - jnp.broadcast_to(b, shape)), axis=-1)
    return jnp.deg2rad(angular_error_deg(a, b))


def grade(distance: Float[Array, "*lead"], cuts: Sequence[float]) -> Int[Array, "*lead"]:
    """The grade of every distance, 0 the nearest; a distance on a cut has the higher of the two.

    Args:
      distance: in radians.
      cuts: rising, in radians, one fewer than grades.
    """
    edges = jnp.asarray(cuts, jnp.float32)
    return jnp.searchsorted(edges, distance.astype(jnp.float32), side="right").astype(jnp.int32)


def quantile_cuts_rad(
    gaze: Float[np.ndarray, "N 2"], grades: int, kind: Distance
) -> tuple[float, ...]:
    """Cuts at which the pairs of a training set divide as those of an MPIIGaze-like range do at the fixed cuts.

    On wide ranges the fixed cuts call nearly every pair "not similar" and teach nothing about the others.

    Args:
      gaze: (pitch, yaw) of the training samples, radians.
      grades: G.
      kind: of the distance.

    Raises:
      ValueError: fewer than two samples, or labels so alike that two cuts fall together.
    """
    count = len(gaze)
    if count < 2:
        raise ValueError(f"cuts='quantile' of {count} samples: pairs need at least two")
    # The same pairs for the same labels, wherever it runs; the second is never the first.
    draws = rng.uniform(rng.philox_words(f"pair-cuts:{count}", 2 * _QUANTILE_PAIRS))
    first = np.floor(draws[:_QUANTILE_PAIRS] * count).astype(np.int64)
    step = 1 + np.floor(draws[_QUANTILE_PAIRS:] * (count - 1)).astype(np.int64)
    gaze = np.asarray(gaze, np.float32)
    distances = distance_rad(
        jnp.asarray(gaze[first]), jnp.asarray(gaze[(first + step) % count]), kind
    )
    cuts = np.quantile(np.asarray(distances, np.float64), QUANTILES[grades])
    if np.any(np.diff(np.concatenate([[0.0], cuts])) <= 0):
        listed = ", ".join(f"{c:.4f}" for c in cuts)
        raise ValueError(
            f"cuts='quantile' gives the cuts {listed} rad: the labels of the training set do not differ enough for "
            f"{grades} grades; use fewer grades or cuts='fixed'"
        )
    return tuple(float(c) for c in cuts)


def project(projection: dict[str, Array], anchors: Float[Array, "G D"]) -> Float[Array, "G K"]:
    """W t_g of every grade; `projection` is a Dense layer as `init_projection` makes it."""
    return anchors @ projection["kernel"] + projection["bias"][None]


def init_projection(width: int, out: int, *, key: Array) -> dict[str, Array]:
    """W from D = `width` to K = `out`: uniform in +-1 / sqrt(D), kernel and bias, as torch starts a linear layer."""
    bound = width**-0.5
    kernel, bias = jax.random.split(key)
    draw = lambda shape, own: jax.random.uniform(own, shape, jnp.float32, -bound, bound)
    return {"kernel": draw((width, out), kernel), "bias": draw((out,), bias)}


def scores(f: Float[Array, "n F"], w: Float[Array, "G K"], kind: PairKind) -> Float[Array, "G n n"]:
    """s^g_ij of all pairs, i the rows; the diagonal means nothing.

    Neither kind makes an (n, n, K) array: [f_i; f_j] . w = u . f_i + v . f_j with w = [u; v], and its norm comes from those
    of the two; of |f_i - f_j|, the same for (j, i), only the pairs i < j are made.

    Raises:
      ValueError: K does not fit F.
    """
    n, width = f.shape
    if w.shape[1] != (2 * width if kind == "concat" else width):
        raise ValueError(
            f"pair={kind!r}: W t has width {w.shape[1]} beside features of width {width}; expected "
            f"{2 * width if kind == 'concat' else width}"
        )
    f, w = f.astype(jnp.float32), unit(w.astype(jnp.float32))
    if kind == "concat":
        own, other = w[:, :width] @ f.T, w[:, width:] @ f.T
        square = jnp.sum(f * f, axis=1)
        norm = jnp.sqrt(jnp.maximum(square[:, None] + square[None], _SMALLEST_SQUARE))
        return (own[:, :, None] + other[:, None, :]) / norm[None]
    rows, columns = np.triu_indices(n, 1)
    upper = w @ unit(jnp.abs(f[rows] - f[columns])).T
    empty = jnp.zeros((w.shape[0], n, n), jnp.float32)
    return empty.at[:, rows, columns].set(upper).at[:, columns, rows].set(upper)


def over_samples(s: Float[Array, "G n n"], grades: Int[Array, "n n"]) -> Float[Array, ""]:
    """`softmax="samples"` above; at equal scores 32 (n - 1) ln(n - 1) / (G n).

    Args:
      s: as `scores` gives them.
      grades: of every pair; the diagonal is not looked at.
    """
    count, n = s.shape[0], s.shape[1]
    others = ~jnp.eye(n, dtype=bool)
    # Finite, so that the masked diagonal leaves no infinity for the gradient to multiply with 0.
    log_share = jax.nn.log_softmax(jnp.where(others[None], s, _ABSENT), axis=-1)
    mask = (grades[None] == jnp.arange(count, dtype=grades.dtype)[:, None, None]) & others[None]
    picked = jnp.where(mask, log_share, 0.0)
    return -_SCALE / (n * count * n) * jnp.sum(picked)


def over_grades(
    s: Float[Array, "G n n"], grades: Int[Array, "n n"], tau: float
) -> Float[Array, ""]:
    """`softmax="grades"` above: a classification of each pair.

    A grade weighs by the inverse of its share of the pairs, 1 / (G share), within [.2, 5]; the mean is by these weights, so
    that a batch whose pairs all have one grade counts as any other.

    Args:
      s: as `scores` gives them.
      grades: of every pair; those with i < j are looked at.
      tau: temperature.
    """
    count = s.shape[0]
    rows, columns = np.triu_indices(s.shape[1], 1)
    target = grades[rows, columns]
    logits = s[:, rows, columns].T / tau
    one_hot = jax.nn.one_hot(target, count, dtype=jnp.float32)
    share = jnp.mean(one_hot, axis=0)
    weights = jnp.clip(1.0 / (count * jnp.maximum(share, 1e-6)), *_WEIGHT_RANGE)
    own = one_hot @ weights
    entropy = -jnp.sum(one_hot * jax.nn.log_softmax(logits, axis=-1), axis=-1)
    return jnp.sum(own * entropy) / jnp.sum(own)


def align(
    f: Float[Array, "n F"],
    gaze: Float[Array, "n P"],
    w: Float[Array, "G K"],
    *,
    cuts: Sequence[float],
    distance: Distance,
    pair: PairKind,
    softmax: Softmax,
    tau: float,
) -> Float[Array, ""]:
    """L_align of a batch.

    Args:
      f: features.
      gaze: labels, (pitch, yaw) in radians.
      w: the projected sentences, grade 0 the most alike (`project`).
      cuts: G - 1 distances in radians (`FIXED_CUTS_RAD`, `quantile_cuts_rad`).
      distance: see `distance_rad`.
      pair: what of two features is compared, see the module's docstring.
      softmax: over what, likewise.
      tau: temperature, of softmax="grades" only.

    Raises:
      ValueError: a batch of one, which has no pairs, or another number of cuts than G - 1.
    """
    if len(f) < 2:
        raise ValueError(
            "the language module compares the pictures of a batch with each other, and this batch has only one: use a "
            "batch_size of at least 2, or switch ldm off"
        )
    if len(cuts) != len(w) - 1:
        raise ValueError(f"{len(cuts)} cuts for {len(w)} grades: expected {len(w) - 1}")
    grades = grade(distance_rad(gaze[:, None], gaze[None], distance), cuts)
    s = scores(f, w, pair)
    return over_samples(s, grades) if softmax == "samples" else over_grades(s, grades, tau)
