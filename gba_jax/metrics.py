"""Semantic segmentation scores from a confusion matrix: mIoU, fwIoU, mACC, pACC, seen / unseen, absent-class rate.

A batch is counted inside jit in int32, which is exact up to 2^31 pixels; batches are added on the host in int64. Labels
are int32 with -1 for pixels that do not count, so a vocabulary may have thousands of classes. Shapes: B images, C
classes; maps may have any leading axes. All scores are shares in [0, 1]; nan stands for "nothing was there to score".
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Int64

IGNORE = -1
# The cells of a (C + 1, C + 1) matrix are numbered in int32.
_MOST_CLASSES = 46_339


def _check(prediction: Array, label: Array, classes: int) -> None:
    """Raises unless both maps can be counted; everything that is wrong, in one message."""
    bad = [
        f"the {name} map has dtype {x.dtype}: expected int32, narrower types cannot hold -1 and large labels"
        for name, x in (("prediction", prediction), ("label", label))
        if x.dtype != jnp.int32
    ]
    if prediction.shape != label.shape:
        bad.append(
            f"prediction {prediction.shape} and label {label.shape} differ in shape: resize the scores to the label "
            "before the arg-max"
        )
    if not 1 <= classes <= _MOST_CLASSES:
        bad.append(f"classes={classes}: expected 1..{_MOST_CLASSES}")
    if bad:
        raise ValueError("cannot count this pair of maps:\n  " + "\n  ".join(bad))


@functools.partial(jax.jit, static_argnames="classes")
def confusion(
    prediction: Int32[Array, "*shape"], label: Int32[Array, "*shape"], classes: int
) -> Int32[Array, "C+1 C+1"]:
    """The confusion matrix of one batch: [i, j] counts the pixels of class i that were called j.

    The last column counts pixels that were given no class (a prediction outside 0..C-1, as a background policy makes
    them): they are missed, and nobody's false positive. The last row counts labels outside 0..C-1 other than -1, which
    are an error of the reader; `segmentation_scores` refuses them, because nothing inside jit can.

    Args:
      prediction: class of every pixel.
      label: ground truth, -1 where a pixel does not count.
      classes: C.

    Returns:
      (C + 1, C + 1) exact counts.

    Raises:
      ValueError: dtypes other than int32, different shapes, or a C whose matrix int32 cannot number.
    """
    _check(prediction, label, classes)
    row = jnp.where((label >= 0) & (label < classes), label, classes)
    column = jnp.where((prediction >= 0) & (prediction < classes), prediction, classes)
    cell = (row * (classes + 1) + column).reshape(-1)
    counts = jnp.zeros((classes + 1) ** 2, jnp.int32)
    counts = counts.at[cell].add((label != IGNORE).reshape(-1).astype(jnp.int32))
    return counts.reshape(classes + 1, classes + 1)


def accumulate(
    total: Int64[np.ndarray, "C+1 C+1"] | None, batch: Int32[Array, "C+1 C+1"]
) -> Int64[np.ndarray, "C+1 C+1"]:
    """The running total with one batch more, in int64 on the host; `total` is None before the first batch."""
    counts = np.asarray(batch).astype(np.int64)
    return counts if total is None else total + counts


def segmentation_scores(
    confusion: Int[np.ndarray, "C+1 C+1"],
) -> dict[str, Any]:
    """The scores of a whole data set; classes absent from the ground truth are excluded from every mean.

    With n_ij the matrix, g_i = sum_j n_ij the ground truth and p_j = sum_i n_ij the predictions:

      IoU_i = n_ii / (g_i + p_i - n_ii),  mIoU = mean IoU_i,  fwIoU = sum g_i IoU_i / sum g_i,
      mACC = mean n_ii / g_i,  pACC = sum n_ii / sum g_i

    Args:
      confusion: the sum of `confusion` over all batches.

    Returns:
      {"miou", "fwiou", "macc", "pacc": float, "iou": (C,) float64}; `iou` is nan for classes absent from the ground
      truth, and everything is nan when no pixel counted.

    Raises:
      ValueError: the matrix is not square or has no class, or some labels were outside the vocabulary.
    """
    counts = np.asarray(confusion).astype(np.int64)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or len(counts) < 2:
        raise ValueError(
            f"a confusion matrix of shape {counts.shape}: expected (C + 1, C + 1), as `confusion` returns it"
        )
    classes = len(counts) - 1
    foreign = int(counts[-1].sum())
    if foreign:
        raise ValueError(
            f"{foreign:,} pixels carry labels outside 0..{classes - 1} and are not -1 either: the reader's label table "
            "and the vocabulary differ"
        )
    hits = np.diagonal(counts)[:-1].astype(np.float64)
    truth = counts[:-1].sum(axis=1).astype(np.float64)
    called = counts[:-1, :-1].sum(axis=0).astype(np.float64)
    present = truth > 0
    iou, accuracy = np.full(classes, np.nan), np.full(classes, np.nan)
    iou[present] = hits[present] / (truth + called - hits)[present]
    accuracy[present] = hits[present] / truth[present]
    scores: dict[str, Any] = {"iou": iou}
    if not present.any():
        return scores | dict.fromkeys(("miou", "fwiou", "macc", "pacc"), math.nan)
    scores["miou"] = float(iou[present].mean())
    scores["fwiou"] = float((truth[present] * iou[present]).sum() / truth.sum())
    scores["macc"] = float(accuracy[present].mean())
    scores["pacc"] = float(hits.sum() / truth.sum())
    return scores


def seen_unseen_scores(
    iou: Float[np.ndarray, "C"], seen: Bool[np.ndarray, "C"]
) -> dict[str, float]:
    """Mean IoU over seen and over unseen classes, and their harmonic mean 2 s u / (s + u).

    Args:
      iou: IoU per class, nan for those absent from the ground truth (they are excluded).
      seen: True for classes that share a name with the training vocabulary.

    Returns:
      {"seen", "unseen", "harmonic"}: a side without a class is nan, and so is then the harmonic mean.

    Raises:
      ValueError: the two do not have one entry per class.
    """
    iou, seen = np.asarray(iou, np.float64), np.asarray(seen)
    if iou.ndim != 1 or seen.shape != iou.shape or seen.dtype != np.bool_:
        raise ValueError(
            f"iou {iou.shape} and the overlap mask {seen.shape} of {seen.dtype}: expected (C,) and (C,) of bool"
        )
    means = []
    for side in (seen, ~seen):
        values = iou[side & ~np.isnan(iou)]
        means.append(float(values.mean()) if len(values) else math.nan)
    s, u = means
    harmonic = 0.0 if s + u == 0 else 2 * s * u / (s + u)
    return {"seen": s, "unseen": u, "harmonic": harmonic}


@functools.partial(jax.jit, static_argnames="classes")
def absent_class_counts(
    prediction: Int32[Array, "B H W"], label: Int32[Array, "B H W"], classes: int
) -> tuple[Int32[Array, ""], Int32[Array, ""]]:
    """The absent-class rate as a pair: how many valid pixels were given a word that is not in their image.

    A word is in an image if any pixel of its label map carries it. A pixel that was given no class has no wrong word.

    Args:
      prediction: class of every pixel; outside 0..C-1 for none.
      label: ground truth; pixels outside 0..C-1 do not count.
      classes: C.

    Returns:
      (pixels with an absent class, valid pixels), exact; the rate is their quotient.

    Raises:
      ValueError: as `confusion`.
    """
    _check(prediction, label, classes)
    label, prediction = (x.reshape(x.shape[0], -1) for x in (label, prediction))
    valid = (label >= 0) & (label < classes)
    called = (prediction >= 0) & (prediction < classes)

    def present_at(label: Array, valid: Array, prediction: Array) -> Array:
        words = jnp.zeros(classes, bool).at[jnp.where(valid, label, classes)].set(True, mode="drop")
        return words.at[prediction].get(mode="clip")

    present = jax.vmap(present_at)(label, valid, prediction)
    absent = valid & called & ~present
    return jnp.sum(absent, dtype=jnp.int32), jnp.sum(valid, dtype=jnp.int32)
