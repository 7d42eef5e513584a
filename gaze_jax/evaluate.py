"""Judging a gaze network: errors of every person, of every mode, with few or many, clean or spoilt references.

Pictures are read and encoded once and compared in jitted batches of one size. The headline is the mean over persons
of each person's mean angular error (`gaze_jax.judging.statistics`). Shapes: n pictures, B pictures a batch, P = 2 (pitch, yaw)
in radians.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int

from core_jax.train import Params
from gaze_jax import calibrate
from gaze_jax.gaze_set import GazeSet
from gaze_jax.judging import statistics
from gaze_jax.judging.calibrated import judge_adapted, judge_calibrated
from gaze_jax.judging.pairs import fit_blend, judge_pairs
from gaze_jax.judging.reading import batches, corrupted, refuse
from gaze_jax.judging.settings import PURE_NOISE, WHO, JudgeConfig
from gaze_jax.judging.statistics import Entry
from gaze_jax.model import Model

__all__ = [
    "WHO",
    "JudgeConfig",
    "fit_blend",
    "judge",
    "judge_pairs",
    "predict_rows",
    "result_lines",
]


class Split(Protocol):
    """What judging reads of a split (`gaze_jax.splits`)."""

    @property
    def test(self) -> Int[np.ndarray, " n"]:
        """The rows that are judged."""
        ...


def predict_rows(
    model: Model,
    params: Params,
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    batch_size: int = 256,
    progress: bool = False,
) -> Float32[np.ndarray, "n 2"]:
    """What a model says of each picture alone, (pitch, yaw) in radians.

    Args:
      model: with a `predict`.
      params: its arrays.
      gaze_set: read a batch at a time.
      rows: of the set.
      batch_size: B; the last batch is filled up, so that there is one program.
      progress: whether a bar appears when it takes long.

    Raises:
      ValueError: the model is not defined for one picture, or the pictures are not of its kind.
    """
    if model.predict is None:
        raise ValueError(
            f"{model.name} says nothing of one picture alone: it needs references; use judge_pairs"
        )
    refuse(model, gaze_set, rows)
    found = np.zeros((len(rows), 2), np.float32)
    for start, count, batch in batches(gaze_set, rows, batch_size, "judging", progress):
        answer = _predict(params, batch["image"], batch["head"], model=model)
        found[start : start + count] = np.asarray(answer)[:count]
    return found


def judge(
    model: Model,
    params: Params,
    gaze_set: GazeSet,
    split: Split | Int[np.ndarray, " n"],
    settings: JudgeConfig | None = None,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Errors of a model from one picture each.

    Args:
      model: with a `predict`.
      params: its arrays.
      gaze_set: what is judged on.
      split: its `test` rows are judged; rows themselves will do.
      settings: how pictures are corrupted, and the size of batches; references are `judge_pairs`'s.
      progress: whether a bar appears when it takes long.

    Returns:
      `statistics.headline`'s numbers, "median_deg" and "p90_deg" over pictures, "low_deg" and "high_deg", the bootstrap
      interval of the headline; and "entries", a `statistics.Entry` per person, then those of corrupted pictures. All but
      the entries is of clean pictures.

    Raises:
      ValueError: see `predict_rows`; no rows.
    """
    rows = np.asarray(getattr(split, "test", split))
    if not len(rows):
        raise ValueError(f"{gaze_set.name}: the split has no test pictures to judge")
    settings = settings or JudgeConfig()
    predicted = predict_rows(model, params, gaze_set, rows, settings.batch_size, progress)
    errors = statistics.errors(predicted, gaze_set.gaze[rows])
    entries = statistics.entries(errors, gaze_set.person[rows].tolist(), gaze_set.persons)
    interval = statistics.bootstrap(entry.angular_error_deg for entry in entries)
    median, p90 = np.quantile(errors.angular_deg, [0.5, 0.9])
    return {
        **statistics.headline(entries),
        "median_deg": float(median),
        "p90_deg": float(p90),
        "low_deg": interval.low,
        "high_deg": interval.high,
        "entries": entries + _corrupted(model, params, gaze_set, rows, settings, progress),
    }


def _corrupted(
    model: Model,
    params: Params,
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    settings: JudgeConfig,
    progress: bool,
) -> list[Entry]:
    """Errors of pictures gone bad. There are no references: every picture is a query."""
    kinds = [kind for kind in settings.corruptions if kind != PURE_NOISE]
    found: list[Entry] = []
    for kind in kinds if "query" in settings.who else ():
        for severity in settings.severities:
            predicted = np.zeros((len(rows), 2), np.float32)
            title = f"{kind} {severity}"
            for start, count, batch in batches(
                gaze_set, rows, settings.batch_size, title, progress
            ):
                spoilt = corrupted(batch, kind, severity, settings.seed)
                answer = _predict(params, spoilt, batch["head"], model=model)
                predicted[start : start + count] = np.asarray(answer)[:count]
            errors = statistics.errors(predicted, gaze_set.gaze[rows])
            of_persons = statistics.entries(
                errors, gaze_set.person[rows].tolist(), gaze_set.persons
            )
            about = {"corrupted": "query", "corruption": kind, "severity": float(severity)}
            found += [dataclasses.replace(entry, **about) for entry in of_persons]
    return found


def calibrated(
    model: Model,
    params: Params,
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    held_out: tuple[GazeSet, Int[np.ndarray, " m"]],
    settings: JudgeConfig,
) -> list[Entry]:
    """Errors of every person after personal calibration (`judge_calibrated`).

    Args:
      model: what is calibrated.
      params: its arrays.
      gaze_set: what is judged on.
      rows: of it.
      held_out: a set and its rows of training persons that were not trained on: how far the model errs on strangers.
      settings: what is judged.

    Returns:
      Entries; none for a model without an answer to one picture, without kinds of calibration, and with fewer than two
      persons held out.
    """
    spreads = (
        held_out_spreads(model, params, *held_out, settings) if settings.calibrations else None
    )
    if spreads is None:
        return []
    rows = np.sort(np.asarray(rows, np.int64))
    predicted = predict_rows(model, params, gaze_set, rows, settings.batch_size)
    return judge_calibrated(predicted, gaze_set, rows, spreads, settings)


def adapted(model: Model, params: Params, gaze_set: GazeSet, settings: JudgeConfig) -> list[Entry]:
    """Errors on a whole set that was not trained on, after adaptation to it (`judge_adapted`).

    Args:
      model: what is adapted; one that says nothing of one picture has no entries.
      params: its arrays.
      gaze_set: the set.
      settings: what is judged.
    """
    if model.predict is None or not settings.adapt_k:
        return []
    rows = np.arange(len(gaze_set))
    predicted = predict_rows(model, params, gaze_set, rows, settings.batch_size)
    return judge_adapted(predicted, gaze_set, settings)


def held_out_spreads(
    model: Model,
    params: Params,
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    settings: JudgeConfig,
) -> calibrate.Spreads | None:
    """How far a network errs on strangers, between persons and within them: what `calibrate.fit` shrinks by.

    Args:
      model: the network.
      params: its arrays.
      gaze_set: holds the strangers.
      rows: of persons that it was not trained on and that are not judged.
      settings: `pool_sides`, `batch_size`.

    Returns:
      None for a model without an answer to one picture, and with fewer than two persons.
    """
    if model.predict is None or len(np.unique(gaze_set.person[rows])) < 2:
        return None
    off = gaze_set.gaze[rows] - predict_rows(model, params, gaze_set, rows, settings.batch_size)
    # An offset belongs to a person's side: a mirrored eye is another one.
    whose = gaze_set.person[rows] * 3 + (0 if settings.pool_sides else gaze_set.side[rows])
    return calibrate.spreads(off, whose)


def result_lines(
    entries: Iterable[Entry], gaze_set: GazeSet, common: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Lines of results.jsonl, one an entry.

    Args:
      entries: from `judge` ("entries") and `judge_pairs`.
      gaze_set: what was judged on.
      common: what all lines share: method, preset, protocol, fold, epoch, selection.
    """
    about = {
        "task": "gaze",
        "dataset": gaze_set.name,
        "synthetic": gaze_set.synthetic,
        "data_digest": gaze_set.digest,
    }
    return [{**about, **common, **dataclasses.asdict(entry)} for entry in entries]


@functools.partial(jax.jit, static_argnames=("model",))
def _predict(params: Params, images: Any, head: Any, *, model: Model) -> Any:
    assert model.predict is not None
    return model.predict(params, images, head).astype(jnp.float32)
