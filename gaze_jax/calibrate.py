"""Personal calibration: what k labelled pictures of one person say about all others of that person.

Works for any model, on (pitch, yaw) in radians in normalised space. Every correction is Bayesian linear regression of the
model's residuals with a prior that pulls to "no correction", because plain offsets of few pictures make things worse:

    offset   b                    b ~ N(0, s_p^2): mean residual x k s_p^2 / (k s_p^2 + s_e^2)
    affine   b + (x - c) D        x the predictions, D ~ N(0, .1^2) each: 2 x 2 and 2 numbers, ridged to the identity
    ridge    b + (x - c) D        x the network's features scaled to mean square 1, D of variance s_p^2

s_p is the spread between persons and s_e the spread within a person of a model's errors on persons it was not trained on.
Mirrored samples are another side, with an offset of its own.
"""

import dataclasses
import logging

import numpy as np
from jaxtyping import Float, Int

Spreads = tuple[Float[np.ndarray, " 2"], Float[np.ndarray, " 2"]]
"""Standard deviation of a network's errors between persons and within them, radians, for each angle."""
KINDS = ("offset", "affine", "ridge")
LEAST = {"offset": 1, "affine": 7, "ridge": 9}
"""Labelled pictures that each kind needs."""
# Prior of the entries of an affine map about the identity.
_AFFINE_SD = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Calibration:
    """A correction: prediction + offset + (x - centre) @ weight.

    Attributes:
      kind: "offset" (x is empty), "affine" (x are the predictions) or "ridge" (x are features).
      count: k, labelled pictures it comes from.
      offset_rad: (pitch, yaw).
      centre: mean of x over the labelled pictures.
      weight: radians for each unit of x.
    """

    kind: str
    count: int
    offset_rad: Float[np.ndarray, " 2"]
    centre: Float[np.ndarray, " d"]
    weight: Float[np.ndarray, "d 2"]


def _turned(residual: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    """Residuals the short way round: a yaw of 359 degrees too many is 1 too few."""
    return (residual + np.pi) % (2 * np.pi) - np.pi


def _finite(**arrays: np.ndarray) -> None:
    wrong = [
        f"{int((~np.isfinite(array)).any(-1).sum())} of {len(array)} in {name}"
        for name, array in arrays.items()
        if not np.isfinite(array).all()
    ]
    if wrong:
        raise ValueError(f"rows that are not finite numbers: {', '.join(wrong)}; leave them out")


def fit(
    kind: str,
    predicted: Float[np.ndarray, "k 2"],
    true: Float[np.ndarray, "k 2"],
    features: Float[np.ndarray, "k d"] | None = None,
    *,
    between_sd: float | Float[np.ndarray, " 2"],
    within_sd: float | Float[np.ndarray, " 2"],
) -> Calibration:
    """The correction that k labelled pictures of one person, all of one side, call for.

    Args:
      kind: "offset", "affine" (k >= 7) or "ridge" (k >= 9); with fewer pictures it is an offset, and a warning says so.
      predicted: what the model says, radians.
      true: the labels, radians.
      features: for "ridge", the model's features.
      between_sd: s_p in radians, for both angles or for each; see `spreads`.
      within_sd: s_e likewise.

    Raises:
      ValueError: an unknown kind, no pictures, shapes that do not fit, numbers that are not finite, or spreads that are
        not positive.
    """
    predicted, true = np.asarray(predicted, np.float64), np.asarray(true, np.float64)
    if kind not in KINDS:
        raise ValueError(f"calibration {kind!r}: expected one of {', '.join(KINDS)}")
    if predicted.shape != true.shape or predicted.shape[1:] != (2,) or not len(predicted):
        raise ValueError(
            f"predictions of shape {predicted.shape} and labels of shape {true.shape}: expected (k, 2) both, k >= 1"
        )
    _finite(predictions=predicted, labels=true)
    count = len(predicted)
    between, within = _each(between_sd, within_sd)
    if count < LEAST[kind]:
        logging.warning(
            "%s calibration needs %d labelled pictures and has %d: an offset is fitted instead",
            kind,
            LEAST[kind],
            count,
        )
        kind = "offset"
    residual = _turned(true - predicted)
    # The shrunk mean, residual measured about the first one so that no mean straddles the turn of the yaw.
    mean = _turned(residual[0] + _turned(residual - residual[0]).mean(0))
    offset = mean * (count * between**2 / (count * between**2 + within**2))
    x = _inputs(kind, predicted, features)
    centre = x.mean(0)
    rest = _turned(residual - mean)
    return Calibration(
        kind=kind,
        count=count,
        offset_rad=offset,
        centre=centre,
        weight=_slopes(kind, x - centre, rest, between, within),
    )


def _each(between_sd: float | np.ndarray, within_sd: float | np.ndarray) -> Spreads:
    """Both for each angle."""
    between, within = (np.asarray(sd, np.float64) for sd in (between_sd, within_sd))
    good = (
        (between >= 0).all()
        and (within > 0).all()
        and np.isfinite([*between.flat, *within.flat]).all()
    )
    if not good or between.shape not in ((), (2,)) or within.shape not in ((), (2,)):
        raise ValueError(
            f"spread between persons {between.tolist()} and within {within.tolist()} rad: expected one number or one for "
            "each angle, between >= 0 and within > 0"
        )
    return np.broadcast_to(between, (2,)), np.broadcast_to(within, (2,))


def _inputs(
    kind: str, predicted: Float[np.ndarray, "n 2"], features: Float[np.ndarray, "n d"] | None
) -> Float[np.ndarray, "n d"]:
    """What the correction is linear in."""
    if kind == "offset":
        return np.zeros((len(predicted), 0))
    if kind == "affine":
        return predicted
    if features is None or np.ndim(features) != 2 or len(features) != len(predicted):
        shape = None if features is None else np.shape(features)
        raise ValueError(
            f"features of shape {shape} for {len(predicted)} predictions: a ridge calibration needs (n, d), one row each"
        )
    features = np.asarray(features, np.float64)
    _finite(features=features)
    return features


def _slopes(
    kind: str,
    x: Float[np.ndarray, "k d"],
    residual: Float[np.ndarray, "k 2"],
    between: Float[np.ndarray, " 2"],
    within: Float[np.ndarray, " 2"],
) -> Float[np.ndarray, "d 2"]:
    """Posterior mean of the slopes: v X^T (v X X^T + s_e^2 I)^-1 r, k x k however many features there are."""
    if kind == "offset":
        return np.zeros((0, 2))
    size = np.mean(np.sum(x * x, axis=1))
    columns = []
    for angle in range(2):
        prior = _AFFINE_SD if kind == "affine" else between[angle] / np.sqrt(max(size, 1e-30))
        kernel = prior**2 * (x @ x.T) + within[angle] ** 2 * np.eye(len(x))
        columns.append(prior**2 * x.T @ np.linalg.solve(kernel, residual[:, angle]))
    return np.stack(columns, axis=1)


def apply(
    calibration: Calibration,
    predicted: Float[np.ndarray, "n 2"],
    features: Float[np.ndarray, "n d"] | None = None,
) -> Float[np.ndarray, "n 2"]:
    """Corrected predictions, radians.

    Args:
      calibration: of this person and side, fitted on this model's predictions.
      predicted: what the model says.
      features: for "ridge", the model's features of the same pictures.

    Raises:
      ValueError: features that a ridge needs are missing or of another width.
    """
    predicted = np.asarray(predicted, np.float64)
    x = _inputs(calibration.kind, predicted, features)
    if x.shape[1] != len(calibration.centre):
        raise ValueError(
            f"features of width {x.shape[1]}: the calibration was fitted on {len(calibration.centre)}"
        )
    moved = predicted + calibration.offset_rad + (x - calibration.centre) @ calibration.weight
    return np.stack([moved[:, 0], _turned(moved[:, 1])], axis=1)


def spreads(errors: Float[np.ndarray, "n 2"], persons: Int[np.ndarray, " n"]) -> Spreads:
    """How much a model's errors vary between persons and within them: one-way analysis of variance, for each angle.

    Args:
      errors: label - prediction in radians, on persons the model was not trained on.
      persons: whose each is.

    Returns:
      (s_p, s_e), standard deviations in radians, as `fit` takes them. s_p is 0 where persons differ no more than chance
      explains.

    Raises:
      ValueError: fewer than two persons, or no person with two samples.
    """
    errors = _turned(np.asarray(errors, np.float64))
    _finite(errors=errors)
    _, group, counts = np.unique(np.asarray(persons), return_inverse=True, return_counts=True)
    people, total = len(counts), len(errors)
    if people < 2 or total <= people:
        raise ValueError(
            f"{total} errors of {people} persons: expected at least two persons and one with two samples"
        )
    means = np.stack([np.bincount(group, errors[:, i]) / counts for i in range(2)], axis=1)
    within = np.sum((errors - means[group]) ** 2, axis=0) / (total - people)
    apart = np.sum(counts[:, None] * (means - errors.mean(0)) ** 2, axis=0) / (people - 1)
    # Persons with many samples count more: the mean number of samples that unequal persons are worth.
    worth = (total - np.sum(counts**2) / total) / (people - 1)
    return np.sqrt(np.maximum(apart - within, 0.0) / worth), np.sqrt(within)


# The middle, two opposite corners, the other two, the edges: whoever stops early has seen the widest.
PLACES = ((1, 1), (0, 0), (2, 2), (0, 2), (2, 0), (1, 0), (1, 2), (0, 1), (2, 1))
"""Columns and rows of a 3 x 3 grid, in the order in which points of it are chosen."""


def grid(labels: Float[np.ndarray, "n 2"], count: int = 9) -> Int[np.ndarray, " count"]:
    """Pictures whose labels lie nearest to a 3 x 3 grid over the label range: better points than random ones.

    Args:
      labels: (pitch, yaw) in radians of one person's pictures of one side.
      count: at most 9; fewer take the middle first, then corners, then edges.

    Returns:
      Rows of `labels`, none twice.

    Raises:
      ValueError: a count outside 1-9, or more than there are pictures.
    """
    labels = np.asarray(labels, np.float64)
    if not 1 <= count <= min(9, len(labels)):
        raise ValueError(f"{count} points of a grid out of {len(labels)} pictures: expected 1 to 9")
    low, high = labels.min(0), labels.max(0)
    extent = np.where(high > low, high - low, 1.0)
    scaled = (labels - low) / extent
    rows: list[int] = []
    for place in PLACES[:count]:
        distance = np.sum((scaled - np.array(place) / 2) ** 2, axis=1)
        distance[rows] = np.inf
        rows.append(int(np.argmin(distance)))
    return np.array(rows)
