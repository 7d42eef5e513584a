"""Accuracies of protocols over seeds: mean, sample standard deviation, 95 % interval, harmonic means by both definitions.

Standard deviations are of the sample (ddof = 1). Intervals are Student's: mean ± t(0.975, n - 1) std / sqrt(n) for n seeds;
one seed has neither. Everything that is averaged over data sets is averaged seed by seed first, so that its spread is one
over seeds.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from core_jax.train.report import Spread
from fdbpl_jax.evaluate import harmonic_mean
from launch import results
from launch.protocols import sets

AVERAGE = "average"
CONFIDENCE = 0.95


class Place(NamedTuple):
    """What series must share to stand in one table.

    Attributes:
      setting: inductive or transductive; those are never ranked together.
      trained_on: the data set that was learned from.
      student: the model.
      pictures: test, or val where settings are being chosen.
      shots: pictures of each class that were learned from, 0 for all of them; None where they are an axis.
      synthetic: pictures were rendered.
    """

    setting: str
    trained_on: str
    student: str
    pictures: str
    shots: int | None
    synthetic: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Series:
    """One method on one part of one data set over its seeds.

    Attributes:
      label: of the method or variant.
      method: what was trained, without the variant's name.
      place: see there.
      protocol: that it was made for.
      dataset, split: what was judged.
      values: seed -> accuracy in percent.
    """

    label: str
    method: str
    place: Place
    protocol: str
    dataset: str
    split: str
    values: Mapping[int, float]


class Pair(NamedTuple):
    """Base and new classes of one method on one data set, or on their average: accuracies by seed."""

    base: Mapping[int, float]
    new: Mapping[int, float]

    @property
    def hm_of_averages(self) -> float:
        """The harmonic mean of the accuracies, each averaged over seeds (and data sets) before."""
        return harmonic_mean(
            statistics.fmean(self.base.values()), statistics.fmean(self.new.values())
        )

    @property
    def hms(self) -> Spread | None:
        """The mean of the seeds' own harmonic means; None where no seed has both halves."""
        found = [
            harmonic_mean(self.base[seed], self.new[seed]) for seed in self.base if seed in self.new
        ]
        return Spread.of(found) if found else None


def half_width(spread: Spread) -> float | None:
    """Half the width of the 95 % interval of a mean, by Student's t; None for a single value."""
    if spread.count < 2:
        return None
    from scipy import special

    t = special.stdtrit(spread.count - 1, 0.5 + 0.5 * CONFIDENCE)
    return float(t * spread.std / math.sqrt(spread.count))


def series(rows: Iterable[dict[str, Any]]) -> list[Series]:
    """Result lines of protocols as series over seeds, in order of first appearance.

    Where two of them would be one row of a table, such as runs with other teachers, the later ones' labels get the name of their
    folder.
    """
    found, taken = [], set()
    for name, group in results.recipes(rows, (*results.SAME, "protocol")):
        first = group[0]
        trained_on, dataset = str(first["trained_on"]), str(first["dataset"])
        place = Place(
            setting=str(first.get("setting", "inductive")),
            trained_on=trained_on,
            student=results.model_name(first.get("student")),
            pictures=str(first.get("pictures", "test")),
            shots=int(first["shots"]),
            synthetic=sets.is_synthetic(trained_on) or sets.is_synthetic(dataset),
        )
        for split in dict.fromkeys(row["split"] for row in group):
            values = {row["seed"]: float(row["accuracy"]) for row in group if row["split"] == split}
            cell = (place, str(first["protocol"]), dataset, split)
            own = name if (name, cell) not in taken else f"{name} ({results.folder(first)})"
            taken.add((own, cell))
            found.append(
                Series(
                    label=own,
                    method=str(first["method"]),
                    place=place,
                    protocol=str(first["protocol"]),
                    dataset=dataset,
                    split=split,
                    values=values,
                )
            )
    return found


def average(each: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The mean over data sets, for every seed that has all of them."""
    seeds = [seed for seed in each[0] if all(seed in values for values in each)]
    return {seed: statistics.fmean(values[seed] for values in each) for seed in seeds}


def average_pair(pairs: Sequence[Pair]) -> Pair:
    """Base and new accuracies averaged over data sets, seed by seed."""
    return Pair(average([pair.base for pair in pairs]), average([pair.new for pair in pairs]))


def mean_of_hms(pairs: Sequence[Pair]) -> Spread | None:
    """Harmonic means of the single data sets, averaged over them seed by seed; None where no seed has all of them."""
    each = [
        {seed: harmonic_mean(pair.base[seed], pair.new[seed]) for seed in pair.base}
        for pair in pairs
        if set(pair.base) == set(pair.new)
    ]
    if len(each) < len(pairs):
        return None
    found = average(each)
    return Spread.of(found.values()) if found else None
