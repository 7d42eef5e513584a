"""Result lines of gaze runs, brought together: every way of judging, person by person and seed by seed.

Angles are degrees. Errors are always means over a person's pictures and draws first; numbers of several seeds are
averaged only where everything but the seed and the fold agrees (`SAME` and the recipe).
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from core_jax.train.report import Spread
from gaze_jax.judging import statistics as gaze_statistics
from gaze_jax.judging.statistics import Interval
from launch import results

SAME = ("dataset", "trained_on", "protocol", "selection", "preset")
"""What lines must share, besides their label, to be averaged over seeds and folds."""
ERROR = "angular_error_deg"
MEASURES = (ERROR, "pitch_error_deg", "yaw_error_deg")
SINGLE, PURE_NOISE = "single", "pure_noise"
ADAPTED = "adapted"
"""The protocol of a set that was not trained on, but some of whose labels corrected the answers to the others."""
MODES = (SINGLE, "calib", "diffnn", "blend")
"""The order of modes in tables; others, such as personal calibrations, come after them."""


class Condition(NamedTuple):
    """How persons were judged: mode, references, and what was corrupted."""

    mode: str
    k: int | None = None
    corrupted: str | None = None
    corruption: str | None = None
    severity: float | None = None

    @property
    def name(self) -> str:
        """Of a clean condition, in a few words."""
        if self.mode == SINGLE:
            return "1 image"
        return self.mode if self.k is None else f"{self.mode}, k = {self.k}"


class Judged(NamedTuple):
    """One line's errors of a person: of one draw of references, or a mean over several (None)."""

    draw: int | None
    n: int
    errors: tuple[float, ...]


Persons = Mapping[str, Sequence[Judged]]


def named(label: str, condition: Condition) -> str:
    """A method under a clean condition; Diff-NN, whose only mode has its name, is not named twice."""
    if label == condition.mode:
        return condition.name
    return f"{label}, {condition.name}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """One method on one data set under one protocol.

    Attributes:
      label: its name in tables.
      method, preset, dataset, protocol, selection: as the lines say.
      anchors: what stood for the sentences of CLIP-DFENet's language module; "" without it.
      trained_on: the data set it learned from; `dataset` unless that was unseen.
      synthetic: whether the judged pictures were rendered.
      seeds: of its runs.
      folds: how many were judged.
      values: condition -> seed -> person -> what was judged.
      steps: of training.
      digests: what else the lines are pinned to.
    """

    label: str
    method: str
    preset: str
    anchors: str
    dataset: str
    trained_on: str
    synthetic: bool
    protocol: str
    selection: str
    seeds: tuple[int, ...]
    folds: int
    values: Mapping[Condition, Mapping[int, Persons]]
    steps: int | None
    digests: str

    @property
    def place(self) -> tuple[str, str, str, str]:
        """What summaries must share to stand in one table."""
        return self.dataset, self.trained_on, self.protocol, self.selection

    def clean(self) -> list[Condition]:
        """The conditions without corruption: by mode in their order, then by k."""
        known = [one for one in self.values if one.corruption is None]
        place = {mode: number for number, mode in enumerate(MODES)}
        return sorted(
            known, key=lambda one: (place.get(one.mode, len(MODES)), one.mode, one.k or 0)
        )

    def main(self) -> list[Condition]:
        """What stands for the method where there is room for little: one image, and the most references."""
        conditions = self.clean()
        many = [one for one in conditions if one.k]
        most = max((one.k or 0 for one in many), default=0)
        many = [one for one in many if one.k == most]
        # A network's own use of references before a correction of its answers.
        own = [one for one in many if one.mode in MODES]
        return [one for one in conditions if not one.k] + (own or many)[-1:]

    def of_seeds(self, condition: Condition, measure: str = ERROR) -> dict[int, float]:
        """Mean over persons of each seed."""
        column = MEASURES.index(measure)
        return {
            seed: statistics.fmean(_mean(judged, column) for judged in persons.values())
            for seed, persons in self.values.get(condition, {}).items()
        }

    def spread(self, condition: Condition, measure: str = ERROR) -> Spread | None:
        """Mean over persons, and its deviation over seeds; None where nobody was judged so."""
        values = self.of_seeds(condition, measure)
        return Spread.of(values.values()) if values else None

    def of_persons(self, condition: Condition, measure: str = ERROR) -> dict[str, float]:
        """Mean over seeds of each person."""
        column, found = MEASURES.index(measure), {}
        for persons in self.values.get(condition, {}).values():
            for person, judged in persons.items():
                found.setdefault(person, []).append(_mean(judged, column))
        return {person: statistics.fmean(errors) for person, errors in sorted(found.items())}

    def interval(self, condition: Condition) -> Interval | None:
        """95 % interval of the mean over persons."""
        errors = self.of_persons(condition)
        return gaze_statistics.bootstrap(errors.values()) if errors else None

    def against(self, other: "Summary", ours: Condition, theirs: Condition) -> Interval | None:
        """Difference to another method on the persons that both were judged on."""
        mine, its = self.of_persons(ours), other.of_persons(theirs)
        return gaze_statistics.paired(mine, its) if set(mine) & set(its) else None

    def draw_deviation(self, condition: Condition) -> float | None:
        """Standard deviation over draws of the mean over persons, averaged over seeds; None for fewer than two draws."""
        found = []
        for persons in self.values.get(condition, {}).values():
            draws: dict[int, list[float]] = {}
            for judged in persons.values():
                for one in judged:
                    if one.draw is not None:
                        draws.setdefault(one.draw, []).append(one.errors[0])
            if len(draws) > 1:
                found.append(statistics.stdev(statistics.fmean(x) for x in draws.values()))
        return statistics.fmean(found) if found else None

    def pictures(self, condition: Condition) -> int:
        """Scored in each draw, over all persons."""
        persons = next(iter(self.values.get(condition, {}).values()), {})
        return sum(judged[0].n for judged in persons.values())


def summarise(rows: Iterable[dict[str, Any]]) -> list[Summary]:
    """One summary per label, data set, protocol and selection, in order of first appearance."""
    filled = [{**row, "trained_on": row.get("trained_on") or row["dataset"]} for row in rows]
    return [_summary(name, group) for name, group in results.recipes(filled, SAME)]


def grouped(summaries: Iterable[Summary], order: Sequence[str]) -> list[list[Summary]]:
    """What may stand in one table; methods in the order given, others after them as they come."""
    groups: dict[tuple, list[Summary]] = {}
    for item in summaries:
        groups.setdefault(item.place, []).append(item)
    place = {name: number for number, name in enumerate(order)}
    return [sorted(g, key=lambda item: place.get(item.label, len(place))) for g in groups.values()]


def _mean(judged: Sequence[Judged], column: int) -> float:
    return statistics.fmean(one.errors[column] for one in judged)


def _summary(name: str, rows: Sequence[dict[str, Any]]) -> Summary:
    first = rows[0]
    values: dict[Condition, dict[int, dict[str, list[Judged]]]] = {}
    for row in rows:
        condition = Condition(
            row.get("mode") or SINGLE,
            row.get("k"),
            row.get("corrupted"),
            row.get("corruption"),
            row.get("severity"),
        )
        judged = Judged(row.get("draw"), row["n"], tuple(float(row[m]) for m in MEASURES))
        persons = values.setdefault(condition, {}).setdefault(row["seed"], {})
        persons.setdefault(row["person"], []).append(judged)
    pinned = dict.fromkeys(key for row in rows for key in row if key.endswith("_digest"))
    digests = {
        key.removesuffix("_digest"): sorted({str(row[key])[:8] for row in rows if row.get(key)})
        for key in pinned
    }
    return Summary(
        label=name,
        method=results.label(first),
        preset=str(first.get("preset") or ""),
        anchors=str(first.get("anchors") or ""),
        dataset=str(first["dataset"]),
        trained_on=str(first["trained_on"]),
        synthetic=bool(first.get("synthetic")),
        protocol=str(first.get("protocol") or ""),
        selection=str(first.get("selection") or "last"),
        seeds=tuple(sorted({row["seed"] for row in rows})),
        folds=len({row.get("fold") for row in rows}),
        values=values,
        steps=first.get("steps"),
        digests="; ".join(f"{key} {' '.join(found)}" for key, found in digests.items() if found),
    )
