"""What a finished gaze run makes of single pictures: for maps over directions, and for its best and worst pictures."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from gaze_jax.gaze_set import GazeSet
from launch import gather, runs

_MOST = 2000
_SHOWN = 8


@dataclasses.dataclass(frozen=True)
class Samples:
    """Answers of a run to some of its test pictures, from one picture each.

    Attributes:
      gaze_set: where the pictures are.
      rows: of it.
      answer_rad: (pitch, yaw) of each.
      error_deg: angular errors.
    """

    gaze_set: GazeSet
    rows: Int[np.ndarray, " n"]
    answer_rad: Float[np.ndarray, "n 2"]
    error_deg: Float[np.ndarray, " n"]

    @property
    def gaze_deg(self) -> Float[np.ndarray, "n 2"]:
        """The true (pitch, yaw)."""
        return np.degrees(self.gaze_set.gaze[self.rows])

    def picked(self, places: Int[np.ndarray, " m"]) -> list[dict[str, Any]]:
        """Some samples as `gaze_figures.sample_grid` takes them."""
        rows = self.rows[places]
        return [
            {
                "image": image,
                "gaze": np.degrees(self.gaze_set.gaze[row]),
                "answer": np.degrees(self.answer_rad[place]),
                "error": float(self.error_deg[place]),
                "text": self.gaze_set.persons[self.gaze_set.person[row]],
            }
            for image, row, place in zip(self.gaze_set.images.take(rows), rows, places)
        ]


def of_runs(of_folds: Sequence[gather.Run]) -> Samples | None:
    """The answers of the runs of one method's folds together; None as for `of_run`."""
    each = [of_run(run, _MOST // len(of_folds)) for run in of_folds]
    parts = [(one.rows, one.answer_rad, one.error_deg) for one in each if one is not None]
    if not parts or each[0] is None:
        return None
    return Samples(each[0].gaze_set, *(np.concatenate(column) for column in zip(*parts)))


def of_run(run: gather.Run, most: int = _MOST) -> Samples | None:
    """The answers of a run to its test pictures, evenly spaced where there are many; all folds that it trained.

    Returns:
      None for a network that answers nothing without a reference, and where nothing was held out.
    """
    from core_jax.train import Params
    from core_jax.train.stack import unstack
    from gaze_jax import config, evaluate, task
    from gaze_jax.judging import statistics

    restored = runs.restore(run.folder)
    opened = task.opened_folds(config.read(restored.config))
    first, parts = opened[0], []
    if first.model.predict is None or not len(first.split.test):
        return None
    for number, one in enumerate(opened):
        params = restored.params
        if len(opened) > 1:
            params = Params(
                trainable=unstack(params.trainable, number),
                frozen=params.frozen,
                stats=unstack(params.stats, number),
            )
        rows = _spaced(one.split.test, most // len(opened))
        size = one.config.test.batch_size
        parts.append((rows, evaluate.predict_rows(one.model, params, one.gaze_set, rows, size)))
    rows, answer = (np.concatenate(part) for part in zip(*parts))
    errors = statistics.errors(answer, first.gaze_set.gaze[rows])
    return Samples(first.gaze_set, rows, answer, errors.angular_deg)


def extremes(samples: Samples) -> Mapping[str, list[dict[str, Any]]]:
    """The samples of the smallest and of the largest errors, and some of the middle."""
    order = np.argsort(samples.error_deg, kind="stable")
    middle = len(order) // 2
    count = min(_SHOWN, max(1, len(order) // 3))
    half = count // 2
    return {
        "best": samples.picked(order[:count]),
        "median": samples.picked(order[middle - half : middle - half + count]),
        "worst": samples.picked(order[::-1][:count]),
    }


def _spaced(rows: Int[np.ndarray, " n"], most: int) -> Int[np.ndarray, " m"]:
    if len(rows) <= most:
        return rows
    return rows[np.linspace(0, len(rows) - 1, max(1, most)).round().astype(int)]
