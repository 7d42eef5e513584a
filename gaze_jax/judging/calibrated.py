"""Judging calibration: any network's answers, corrected with k labelled pictures of each person and side, or of a whole set.

The pictures that a person is calibrated with are those that `judge_pairs` refers to (`gaze_jax.splits.references`), so the
two are compared draw by draw; or, with `points="grid"`, those nearest to a grid over the person's labels, a single draw of at
most nine. Shapes: n pictures, k labelled ones.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from core_jax.data import rng
from gaze_jax import calibrate, splits
from gaze_jax.gaze_set import GazeSet
from gaze_jax.judging import statistics
from gaze_jax.judging.pair_errors import enough
from gaze_jax.judging.settings import JudgeConfig
from gaze_jax.judging.statistics import Entry

# Beside this spread between persons nothing is shrunk: the plain mean of the residuals.
_ANY_RAD = 1e6
# Residuals of k pictures that are all alike still leave something to chance.
_LEAST_RAD = 1e-3


def judge_calibrated(
    predicted: Float[np.ndarray, "n 2"],
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    spreads: calibrate.Spreads,
    settings: JudgeConfig,
) -> list[Entry]:
    """Errors of every person by kind of calibration, k and draw.

    Args:
      predicted: what a network says of each picture alone, radians (`evaluate.predict_rows`).
      gaze_set: what is judged on.
      rows: of it, rising.
      spreads: of the same network's errors on persons that it was not trained on and that are not judged.
      settings: `calibrations`, `points`, `k`, `draws`, `pool_sides`, `seed`.

    Returns:
      Entries whose mode is the kind; kinds that need more than k pictures are passed over, and k that a grid has not.

    Raises:
      ValueError: nobody has more pictures than the largest k.
    """
    rows = np.asarray(rows, np.int64)
    grid = settings.points == "grid"
    counts = [k for k in settings.k if not grid or k <= len(calibrate.PLACES)]
    if not settings.calibrations or not counts:
        return []
    most, pooled = max(counts), settings.pool_sides
    known = enough(gaze_set, rows, most, pooled)
    if grid:
        draws = [_on_grid(gaze_set, known, most, pooled)]
    else:
        draws = splits.references(
            gaze_set, known, most, settings.draws, settings.seed, pool_sides=pooled
        )
    found: list[Entry] = []
    for number, draw in enumerate(draws):
        for kind in settings.calibrations:
            for k in counts:
                if k < calibrate.LEAST[_METHOD[kind]]:
                    continue
                answer = _corrected(kind, k, draw, predicted, gaze_set, rows, spreads)
                errors = statistics.errors(answer, gaze_set.gaze[draw.scored])
                person = gaze_set.person[draw.scored].tolist()
                about: Mapping[str, Any] = {"mode": kind, "k": k, "draw": number}
                found += statistics.entries(errors, person, gaze_set.persons, **about)
    return found


_METHOD = {"mean_offset": "offset", "offset": "offset", "affine": "affine"}


def _on_grid(
    gaze_set: GazeSet, rows: Int[np.ndarray, " n"], k: int, pool_sides: bool
) -> splits.Draw:
    """The pictures of every person and side that `calibrate.grid` chooses, and all others of theirs to be scored."""
    side = np.zeros(len(rows), np.int64) if pool_sides else gaze_set.side[rows]
    keys = np.stack([gaze_set.person[rows], side], axis=1)
    group = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)
    scored, chosen = [], []
    for number in range(group.max() + 1):
        own = rows[group == number]
        picks = calibrate.grid(gaze_set.gaze[own], k)
        scored.append(np.delete(own, picks))
        chosen.append(np.repeat(own[picks][None], len(own) - k, axis=0))
    scored, chosen = np.concatenate(scored), np.concatenate(chosen)
    order = np.argsort(scored, kind="stable")
    return splits.Draw(scored=scored[order], references=chosen[order])


def _corrected(
    kind: str,
    k: int,
    draw: splits.Draw,
    predicted: Float[np.ndarray, "n 2"],
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    spreads: calibrate.Spreads,
) -> Float[np.ndarray, "m 2"]:
    """The answers to the scored pictures, each corrected with the first k references of its person and side."""
    between, within = spreads
    if kind == "mean_offset":
        between = np.full(2, _ANY_RAD)
    answer = np.zeros((len(draw.scored), 2))
    places = np.searchsorted(rows, draw.scored)
    labelled, group = np.unique(draw.references[:, :k], axis=0, return_inverse=True)
    for number, own in enumerate(labelled):
        mine = group.reshape(-1) == number
        calibration = calibrate.fit(
            _METHOD[kind],
            predicted[np.searchsorted(rows, own)],
            gaze_set.gaze[own],
            between_sd=between,
            within_sd=within,
        )
        answer[mine] = calibrate.apply(calibration, predicted[places[mine]])
    return answer


def judge_adapted(
    predicted: Float[np.ndarray, "n 2"], gaze_set: GazeSet, settings: JudgeConfig
) -> list[Entry]:
    """Errors on a set that was not trained on after one correction for all of its persons: adaptation to a domain.

    Nothing is known of other domains that could shrink an offset: it is the plain mean, and the spread within the domain is
    that of the k residuals. Eyes of both sides are corrected alike, in left-eye form.

    Args:
      predicted: what a network says of every picture of the set, radians.
      gaze_set: the set.
      settings: `adapt_k`, `draws`, `seed`.

    Returns:
      Entries of modes "adapt_offset" and, from k = 7 on, "adapt_affine". Of each draw all k are scored on the same pictures,
      those that none of them was fitted to; a smaller k has the first of a larger one's.

    Raises:
      ValueError: the set has no more pictures than the largest k.
    """
    most = max(settings.adapt_k, default=0)
    if len(gaze_set) <= most:
        raise ValueError(
            f"{gaze_set.name}: config.test.adapt_k={settings.adapt_k} needs more than {most} pictures, it has {len(gaze_set)}"
        )
    found: list[Entry] = []
    for draw in range(settings.draws if most else 0):
        order = rng.permutation(f"adapt:{settings.seed}:{draw}:{gaze_set.name}", len(gaze_set))
        scored = np.sort(order[most:])
        for kind in ("offset", "affine"):
            for k in settings.adapt_k:
                if k < calibrate.LEAST[kind]:
                    continue
                x, true = predicted[order[:k]], gaze_set.gaze[order[:k]]
                off = np.stack([statistics.wrapped(part) for part in (true - x).T], axis=1)
                within = np.maximum(off.std(0), _LEAST_RAD)
                fitted = calibrate.fit(kind, x, true, between_sd=_ANY_RAD, within_sd=within)
                errors = statistics.errors(
                    calibrate.apply(fitted, predicted[scored]), gaze_set.gaze[scored]
                )
                about: Mapping[str, Any] = {"mode": f"adapt_{kind}", "k": k, "draw": draw}
                person = gaze_set.person[scored].tolist()
                found += statistics.entries(errors, person, gaze_set.persons, **about)
    return found
