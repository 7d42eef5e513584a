"""Errors of gaze and what is said about them: always per person first, then over persons.

The headline of the field is the mean over persons of each person's mean angular error; the uncertainty that matters is
that of the persons, so intervals resample persons, not pictures. Angles come in as (pitch, yaw) in radians and every
error leaves in degrees. Shapes: n pictures, S persons.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gaze_jax import geometry

RESAMPLES = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """The mean errors of one person judged in one way.

    Attributes:
      person: name.
      n: pictures scored (of each draw, where several were averaged).
      mode: how references were used; "" for a model that looks at one picture.
      k: references; None where none were used.
      draw: number of the draw of references; None where there was none or several were averaged.
      draws: how many draws the errors are a mean of.
      corrupted: "query", "references" or "both"; None for clean pictures.
      corruption: kind, as in `gaze_jax.corrupt`, or "pure_noise"; None for clean pictures.
      severity: 1 to 5; for "pure_noise" the share of the references that were noise.
      angular_error_deg, pitch_error_deg, yaw_error_deg: means over the pictures.
    """

    person: str
    n: int
    angular_error_deg: float
    pitch_error_deg: float
    yaw_error_deg: float
    mode: str = ""
    k: int | None = None
    draw: int | None = None
    draws: int = 1
    corrupted: str | None = None
    corruption: str | None = None
    severity: float | None = None


class Errors(NamedTuple):
    """Errors of every picture in degrees, each (n,)."""

    angular_deg: Float[np.ndarray, " n"]
    pitch_deg: Float[np.ndarray, " n"]
    yaw_deg: Float[np.ndarray, " n"]


class Interval(NamedTuple):
    """A mean over persons and the interval that bootstrap puts around it."""

    mean: float
    low: float
    high: float


def errors(predicted: Float[np.ndarray, "n 2"], gaze: Float[np.ndarray, "n 2"]) -> Errors:
    """The angular error of every picture, and its two parts.

    Args:
      predicted: (pitch, yaw), radians.
      gaze: the truth, likewise.
    """
    # float64: labels 1e-6 rad apart are still told apart.
    predicted, gaze = np.asarray(predicted, np.float64), np.asarray(gaze, np.float64)
    parts = np.abs(np.rad2deg(np.stack([wrapped(d) for d in (predicted - gaze).T])))
    angular = np.asarray(geometry.angular_error_deg(np.float32(predicted), np.float32(gaze)))
    return Errors(angular.astype(np.float64), *parts)


def wrapped(angle_rad: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """The same directions in [-pi, pi): a yaw just left of straight back is near one just right of it."""
    return (angle_rad + np.pi) % (2 * np.pi) - np.pi


def entries(
    found: Errors, person: Sequence[Any], names: Sequence[str], **about: Any
) -> list[Entry]:
    """One entry per person that has pictures.

    Args:
      found: errors of n pictures.
      person: whose each picture is, as an index into `names`.
      names: of the persons.
      about: what else the entries say.
    """
    whose, made = np.asarray(person), []
    for number in np.unique(whose).tolist():
        mine = whose == number
        angular, pitch, yaw = (float(part[mine].mean()) for part in found)
        made.append(
            Entry(
                person=names[int(number)],
                n=int(mine.sum()),
                angular_error_deg=angular,
                pitch_error_deg=pitch,
                yaw_error_deg=yaw,
                **about,
            )
        )
    return made


def headline(found: Iterable[Entry]) -> dict[str, float]:
    """Means over persons of one way of judging; several draws of a person count as one.

    Returns:
      "angular_error_deg", "pitch_error_deg", "yaw_error_deg": over persons; "images_deg": angular, over pictures;
      "persons", "n": how many.

    Raises:
      ValueError: there are no entries.
    """
    persons: dict[str, list[Entry]] = {}
    for entry in found:
        persons.setdefault(entry.person, []).append(entry)
    if not persons:
        raise ValueError("no person was judged: there is no error to average")
    names = ("angular_error_deg", "pitch_error_deg", "yaw_error_deg")
    means = {
        name: [float(np.mean([getattr(e, name) for e in own])) for own in persons.values()]
        for name in names
    }
    counts = [own[0].n for own in persons.values()]
    return {
        **{name: float(np.mean(values)) for name, values in means.items()},
        "images_deg": float(np.average(means["angular_error_deg"], weights=counts)),
        "persons": float(len(counts)),
        "n": float(sum(counts)),
    }


def bootstrap(
    values: Iterable[float], resamples: int = RESAMPLES, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean over persons and its percentile bootstrap interval.

    Args:
      values: one error per person.
      resamples: how often S persons are drawn with replacement.
      seed: of the draws; the same seed gives the same interval.
      level: probability inside.

    Raises:
      ValueError: no values, or values that are not finite.
    """
    sample = np.asarray(list(values), np.float64)
    if not sample.size or not np.isfinite(sample).all():
        raise ValueError(f"bootstrap over persons: expected finite errors, one a person: {sample}")
    generator = np.random.Generator(np.random.Philox(seed))
    drawn = generator.integers(len(sample), size=(resamples, len(sample)))
    # Over 1,500 persons at once would be gigabytes: their sums are taken in parts.
    means = np.concatenate(
        [sample[part].mean(-1) for part in np.array_split(drawn, 16) if len(part)]
    )
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(sample.mean()), float(low), float(high))


def paired(
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean difference of two methods on the persons that both were judged on: below 0, `ours` is better.

    Raises:
      ValueError: they share no person.
    """
    shared = sorted(set(ours) & set(theirs))
    if not shared:
        raise ValueError(
            f"two methods without a common person cannot be paired: {sorted(ours)} and {sorted(theirs)}"
        )
    return bootstrap([ours[name] - theirs[name] for name in shared], resamples, seed, level)
