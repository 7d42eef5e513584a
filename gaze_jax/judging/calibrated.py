"""Judging personal calibration: any network's answers, corrected with k labelled pictures of each person and side.

The pictures that a person is calibrated with are those that `judge_pairs` refers to (`gaze_jax.splits.references`), so the
two are compared draw by draw. Shapes: n pictures, k labelled ones.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gaze_jax import calibrate, splits
from gaze_jax.gaze_set import GazeSet
from gaze_jax.judging import statistics
from gaze_jax.judging.pair_errors import enough
from gaze_jax.judging.pairs import JudgeConfig
from gaze_jax.judging.statistics import Entry

# Beside this spread between persons nothing is shrunk: the plain mean of the residuals.
_ANY_RAD = 1e6


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
      settings: `calibrations`, `k`, `draws`, `pool_sides`, `seed`.

    Returns:
      Entries whose mode is the kind; kinds that need more than k pictures are passed over.

    Raises:
      ValueError: nobody has more pictures than the largest k.
    """
    rows = np.asarray(rows, np.int64)
    if not settings.calibrations:
        return []
    known = enough(gaze_set, rows, max(settings.k), settings.pool_sides)
    draws = splits.references(
        gaze_set,
        known,
        max(settings.k),
        settings.draws,
        settings.seed,
        pool_sides=settings.pool_sides,
    )
    found: list[Entry] = []
    for number, draw in enumerate(draws):
        for kind in settings.calibrations:
            for k in settings.k:
                if k < calibrate.LEAST[_METHOD[kind]]:
                    continue
                answer = _corrected(kind, k, draw, predicted, gaze_set, rows, spreads)
                errors = statistics.errors(answer, gaze_set.gaze[draw.scored])
                person = gaze_set.person[draw.scored].tolist()
                about: Mapping[str, Any] = {"mode": kind, "k": k, "draw": number}
                found += statistics.entries(errors, person, gaze_set.persons, **about)
    return found


_METHOD = {"mean_offset": "offset", "offset": "offset", "affine": "affine"}


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
