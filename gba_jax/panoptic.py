"""Panoptic quality by COCO's rule (arXiv 1801.00868), and COCO's coding of segment ids in PNG files.

A panoptic map is an int32 array (H, W) of rows into a class table: segment n has class `classes[n]`, -1 is void (truth)
or unassigned (prediction). Rows without pixels are padding, whatever their class. Everything here is host code in exact
integers; images are added up per class and divided at the very end.
"""

import dataclasses
import math
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Int32, Int64, UInt8

_LARGEST_ID = 256**3 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class PanopticCounts:
    """What PQ is made of, per class; `+` adds images, data sets or processes.

    Attributes:
      iou: sum of IoU over the true positives.
      tp: matched pairs.
      fp: predictions without a partner, those on void or crowd left out.
      fn: ground-truth segments without a partner, crowds left out.
    """

    iou: Float[np.ndarray, "C"]
    tp: Int64[np.ndarray, "C"]
    fp: Int64[np.ndarray, "C"]
    fn: Int64[np.ndarray, "C"]

    def __add__(self, other: "PanopticCounts") -> "PanopticCounts":
        return PanopticCounts(
            iou=self.iou + other.iou,
            tp=self.tp + other.tp,
            fp=self.fp + other.fp,
            fn=self.fn + other.fn,
        )


def panoptic_counts(
    prediction: Int32[np.ndarray, "H W"],
    prediction_classes: Int[np.ndarray, "P"],
    truth: Int32[np.ndarray, "H W"],
    truth_classes: Int[np.ndarray, "G"],
    *,
    classes: int,
    crowd: Bool[np.ndarray, "G"] | None = None,
) -> PanopticCounts:
    """Matches the segments of one image: two of the same class with IoU > 0.5 are a true positive.

    The union of a pair leaves out the prediction's pixels on void. Crowd segments never match and are never missed. An
    unmatched prediction with more than half of its pixels on void or on crowds of its own class is dropped; any other is
    a false positive. IoU > 0.5 makes partners unique, so there is nothing to optimise. Where an image has several crowds
    of one class, all of them count, while COCO's script looks at the last only; its data have at most one.

    Args:
      prediction: segment of every pixel, -1 for none.
      prediction_classes: class of each predicted segment.
      truth: segment of every pixel, -1 for void.
      truth_classes: class of each true segment.
      classes: C.
      crowd: which true segments are crowds; None for none.

    Returns:
      Counts per class.

    Raises:
      ValueError: shapes differ, a pixel's segment is not in its table, or a segment with pixels has a class outside
        0..C-1 (all of it in one message).
    """
    prediction_classes, truth_classes = np.asarray(prediction_classes), np.asarray(truth_classes)
    is_crowd = np.zeros(len(truth_classes), bool) if crowd is None else np.asarray(crowd)
    bad = _problems("prediction", prediction, prediction_classes, classes)
    bad += _problems("truth", truth, truth_classes, classes)
    if prediction.shape != truth.shape:
        bad.append(f"prediction {prediction.shape} and truth {truth.shape} differ in shape")
    if is_crowd.shape != truth_classes.shape:
        bad.append(f"crowd {is_crowd.shape}: expected one entry per true segment")
    if bad:
        raise ValueError("cannot match this pair of panoptic maps:\n  " + "\n  ".join(bad))

    rows, columns = len(truth_classes) + 1, len(prediction_classes) + 1
    cells = (truth.astype(np.int64) + 1) * columns + (prediction.astype(np.int64) + 1)
    table = np.bincount(cells.ravel(), minlength=rows * columns).reshape(rows, columns)
    # Row 0 is void, column 0 is unassigned.
    void, shared = table[0, 1:], table[1:, 1:]
    truth_area, area = table[1:].sum(axis=1), table[:, 1:].sum(axis=0)
    union = truth_area[:, None] + area[None, :] - shared - void[None, :]
    same = truth_classes[:, None] == prediction_classes[None, :]
    # In integers: a pair at exactly one half must not match because of a rounding.
    match = same & ~is_crowd[:, None] & (2 * shared > union)
    excused = void + np.where(same & is_crowd[:, None], shared, 0).sum(axis=0)
    missed = (truth_area > 0) & ~is_crowd & ~match.any(axis=1)
    false = (area > 0) & ~match.any(axis=0) & (2 * excused <= area)

    true, predicted = np.nonzero(match)
    iou = shared[true, predicted] / union[true, predicted]
    count = lambda of: np.bincount(of, minlength=classes).astype(np.int64)
    return PanopticCounts(
        iou=np.bincount(truth_classes[true], weights=iou, minlength=classes),
        tp=count(truth_classes[true]),
        fp=count(prediction_classes[false]),
        fn=count(truth_classes[missed]),
    )


def _problems(name: str, segments: np.ndarray, table: np.ndarray, classes: int) -> list[str]:
    if not np.issubdtype(segments.dtype, np.signedinteger):
        return [f"the {name} map has dtype {segments.dtype}: expected int32, with -1 for void"]
    present = np.unique(segments)
    outside = present[(present < -1) | (present >= len(table))].tolist()
    if outside:
        return [
            f"{name}: segments {outside[:8]} are not in its table of {len(table)} classes and are not -1"
        ]
    used = present[present >= 0]
    wrong = [int(n) for n in used if not 0 <= table[n] < classes]
    return [f"{name}: segment {n} has class {table[n]}, outside 0..{classes - 1}" for n in wrong]


def panoptic_scores(counts: PanopticCounts, is_thing: Bool[np.ndarray, "C"]) -> dict[str, Any]:
    """PQ = SQ x RQ per class, and their means over all classes, over things and over stuff.

      SQ = sum IoU / TP,  RQ = TP / (TP + FP / 2 + FN / 2),  PQ = sum IoU / (TP + FP / 2 + FN / 2)

    Args:
      counts: the sum over all images.
      is_thing: True for countable classes.

    Returns:
      {"pq", "sq", "rq", the same with "_things" and "_stuff": float in [0, 1]; "pq_per_class", "sq_per_class",
      "rq_per_class": (C,)}. A class with neither prediction nor ground truth is nan and excluded; a class without a
      true positive has SQ 0. A mean over no class is nan.

    Raises:
      ValueError: `is_thing` does not have one bool per class.
    """
    is_thing = np.asarray(is_thing)
    if is_thing.shape != counts.tp.shape or is_thing.dtype != np.bool_:
        raise ValueError(
            f"is_thing {is_thing.shape} of {is_thing.dtype}: expected {counts.tp.shape} of bool, one per class"
        )
    size = counts.tp + 0.5 * counts.fp + 0.5 * counts.fn
    seen = size > 0
    # The maxima only keep the excluded classes from dividing by zero.
    nan = np.full(len(size), math.nan)
    per_class = {
        "pq": np.where(seen, counts.iou / np.maximum(size, 0.5), nan),
        "sq": np.where(seen, counts.iou / np.maximum(counts.tp, 1), nan),
        "rq": np.where(seen, counts.tp / np.maximum(size, 0.5), nan),
    }
    scores: dict[str, Any] = {}
    for suffix, group in (("", seen), ("_things", seen & is_thing), ("_stuff", seen & ~is_thing)):
        for name, values in per_class.items():
            scores[name + suffix] = float(values[group].mean()) if group.any() else math.nan
    return scores | {f"{name}_per_class": values for name, values in per_class.items()}


def ids_to_rgb(ids: Int[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W 3"]:
    """COCO's picture of segment ids: id = R + 256 G + 65536 B.

    Raises:
      ValueError: an id outside 0..16777215 (-1 has no colour: write void as 0).
    """
    ids = np.asarray(ids)
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) <= _LARGEST_ID:
        raise ValueError(
            f"segment ids from {ids.min()} to {ids.max()}: three bytes hold 0..{_LARGEST_ID}; void is 0"
        )
    wide = ids.astype(np.int64)
    return np.stack([(wide >> shift) & 255 for shift in (0, 8, 16)], axis=-1).astype(np.uint8)


def rgb_to_ids(rgb: UInt8[np.ndarray, "H W 3"]) -> Int32[np.ndarray, "H W"]:
    """Segment ids of a COCO panoptic picture; inverse of `ids_to_rgb`.

    Raises:
      ValueError: not a three-channel 8-bit picture (a palette or an alpha channel hides the ids).
    """
    rgb = np.asarray(rgb)
    if rgb.ndim != 3 or rgb.shape[-1] != 3 or rgb.dtype != np.uint8:
        raise ValueError(
            f"a panoptic picture of shape {rgb.shape} and dtype {rgb.dtype}: expected (H, W, 3) of uint8; convert it to RGB"
        )
    # Widened before the products: 256 G does not fit eight bits.
    return rgb.astype(np.int32) @ np.array([1, 256, 65536], np.int32)
