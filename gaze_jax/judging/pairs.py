"""Judging a network that compares a picture with references: every mode, every k, many draws, clean and spoilt.

Within a draw the references of a smaller k are the first of those of a larger one, none of them is scored, and all k are
scored on the same pictures (`gaze_jax.splits.references`). Shapes: n pictures, M queries in all draws, W ways.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from core_jax.train import Params
from gaze_jax import modes
from gaze_jax.gaze_set import GazeSet
from gaze_jax.judging.pair_errors import PairErrors, Person, Tables, Way, possible
from gaze_jax.judging.settings import PURE_NOISE, JudgeConfig
from gaze_jax.judging.statistics import Entry
from gaze_jax.model import Model


def judge_pairs(
    model: Model,
    params: Params,
    gaze_set: GazeSet,
    split: Any,
    settings: JudgeConfig | None = None,
    *,
    blend: Mapping[int, float] | None = None,
    progress: bool = False,
) -> list[Entry]:
    """Errors of every person by mode, k and draw, then under corruption.

    Args:
      model: with `references`.
      params: its arrays.
      gaze_set: what is judged on.
      split: its `test` rows are judged; rows themselves will do.
      settings: what is judged.
      blend: b of "blend" by k (`fit_blend`); `modes.default_blend` where it names none.
      progress: whether a bar appears when it takes long.

    Returns:
      Per person: "single" once; every other mode and k once a draw; corrupted ones as means over their draws. "single"
      under corruption is there for corrupted queries only: references are nothing to it.

    Raises:
      ValueError: the model compares nothing, the pictures are not of its kind, or nobody has enough of them.
    """
    settings = settings or JudgeConfig()
    asked = possible(model, params, gaze_set, settings.modes)
    if not asked:
        raise ValueError(
            f"{model.name} has no head for any of the modes {', '.join(settings.modes)}"
        )
    rows = np.asarray(getattr(split, "test", split))
    judging = _open(model, params, gaze_set, rows, settings)
    shares = {k: (blend or {}).get(k, modes.default_blend(k)) for k in settings.k}
    found: list[Entry] = []
    for person in judging.persons(progress):
        clean = judging.codes(person)
        found += _clean(judging, person, clean, asked, shares, settings)
        for kind in settings.corruptions:
            make = _noisy if kind == PURE_NOISE else _corrupted
            found += make(judging, person, clean, asked, shares, settings, kind)
    return found


def fit_blend(
    model: Model,
    params: Params,
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    settings: JudgeConfig | None = None,
    *,
    steps: int = 20,
) -> dict[int, float]:
    """The b of "blend" that errs least on held-out training persons, for each k.

    Args:
      model: with references.
      params: its arrays.
      gaze_set: training data.
      rows: of persons that were not trained on, and are not judged either.
      settings: references, draws and pictures, as in judging.
      steps: b is tried at 0, 1 / steps, ..., 1.

    Returns:
      k -> b, the smallest of equals; empty for a model without both heads.
    """
    settings = settings or JudgeConfig()
    if not possible(model, params, gaze_set, ("blend",)):
        return {}
    tried = np.arange(steps + 1) / steps
    ways = tuple(Way("blend", k) for k in settings.k for _ in tried)
    judging = _open(model, params, gaze_set, rows, settings)
    over_persons = []
    for person in judging.persons(False):
        clean = judging.codes(person)
        chosen = judging.chosen(person, settings.draws)
        shares = np.tile(tried, len(settings.k))
        found = judging.errors(Tables(clean, clean, clean), chosen, ways, shares)
        over_persons.append(found[:, :, 0].mean(-1))
    best = np.mean(over_persons, axis=0).reshape(len(settings.k), -1).argmin(-1)
    return {k: float(tried[i]) for k, i in zip(settings.k, best)}


def _open(
    model: Model, params: Params, gaze_set: GazeSet, rows: np.ndarray, settings: JudgeConfig
) -> PairErrors:
    return PairErrors(
        model,
        params,
        gaze_set,
        rows,
        k=max(settings.k),
        draws=settings.draws,
        queries=settings.queries,
        pool_sides=settings.pool_sides,
        seed=settings.seed,
        batch_size=settings.batch_size,
    )


def _clean(
    judging: PairErrors,
    person: Person,
    clean: Any,
    asked: Sequence[str],
    shares: Mapping[int, float],
    settings: JudgeConfig,
) -> Iterator[Entry]:
    """The mode "single" on every picture, the other modes draw by draw."""
    tables = Tables(clean, clean, clean)
    if "single" in asked:
        yield _single(judging, person, tables)
    ways = tuple(Way(mode, k) for mode in asked if mode != "single" for k in settings.k)
    if not ways:
        return
    chosen = judging.chosen(person, settings.draws)
    errors = judging.errors(tables, chosen, ways, [shares[way.k] for way in ways])
    for way, of_draws in zip(ways, errors):
        for draw, values in enumerate(of_draws):
            n = int((chosen.draw == draw).sum())
            yield _entry(person, n, values, mode=way.mode, k=way.k, draw=draw)


def _corrupted(
    judging: PairErrors,
    person: Person,
    clean: Any,
    asked: Sequence[str],
    shares: Mapping[int, float],
    settings: JudgeConfig,
    kind: str,
) -> Iterator[Entry]:
    """Query, references or both gone bad in one way."""
    ways = tuple(Way(mode, k) for mode in asked if mode != "single" for k in settings.spoilt_k)
    draws = min(settings.draws, settings.corrupted_draws)
    chosen = judging.chosen(person, draws)
    for severity in settings.severities:
        spoilt = judging.codes(person, kind, severity)
        for who in settings.who:
            about = {"corrupted": who, "corruption": kind, "severity": float(severity)}
            query, reference = (
                spoilt if who in (part, "both") else clean for part in ("query", "references")
            )
            tables = Tables(query, reference, clean)
            if who == "query" and "single" in asked:
                yield dataclasses.replace(_single(judging, person, tables), **about)
            if ways:
                errors = judging.errors(tables, chosen, ways, [shares[way.k] for way in ways])
                yield from _means(person, chosen.draw, ways, errors, about)


def _noisy(
    judging: PairErrors,
    person: Person,
    clean: Any,
    asked: Sequence[str],
    shares: Mapping[int, float],
    settings: JudgeConfig,
    kind: str,
) -> Iterator[Entry]:
    """Some, at last all, of the references replaced by noise: the severity is their share."""
    ways = tuple(
        Way(mode, k, noisy)
        for mode in asked
        if mode != "single"
        for k in settings.spoilt_k
        for noisy in range(k + 1)
    )
    if not ways:
        return
    tables = Tables(clean, clean, judging.codes(person, kind, 1))
    chosen = judging.chosen(person, min(settings.draws, settings.corrupted_draws))
    errors = judging.errors(tables, chosen, ways, [shares[way.k] for way in ways])
    about = {"corrupted": "references", "corruption": kind}
    for way, values in zip(ways, errors):
        severity = {"severity": way.noisy / way.k}
        yield from _means(person, chosen.draw, (way,), values[None], about | severity)


def _single(judging: PairErrors, person: Person, tables: Tables) -> Entry:
    """Every picture compared with itself, as the query's code says."""
    own = Tables(tables.queries, tables.queries, tables.queries)
    errors = judging.errors(own, judging.alone(person), (Way("single", 1),), [0.0])
    return _entry(person, len(person.rows), errors[0, 0], mode="single")


def _means(
    person: Person,
    draw: Int[np.ndarray, " M"],
    ways: Sequence[Way],
    errors: Float[np.ndarray, "W D 3"],
    about: Mapping[str, Any],
) -> Iterator[Entry]:
    """One entry a way: the mean over the draws."""
    draws = errors.shape[1]
    for way, of_draws in zip(ways, errors):
        entry = _entry(person, len(draw) // draws, of_draws.mean(0), mode=way.mode, k=way.k)
        yield dataclasses.replace(entry, draws=draws, **about)


def _entry(person: Person, n: int, errors: Float[np.ndarray, "3"], **about: Any) -> Entry:
    angular, pitch, yaw = map(float, errors)
    return Entry(
        person=person.name,
        n=n,
        angular_error_deg=angular,
        pitch_error_deg=pitch,
        yaw_error_deg=yaw,
        **about,
    )
