"""Result lines of segmentation runs, brought together: every measure of every split, seed by seed.

Lines are averaged only where everything but the seed agrees (`SAME` and the recipe). Measures that a line gives as null
have no value: a split without unseen words has no mIoU of unseen words.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core_jax.train.report import Spread
from launch import results

SAME = ("dataset", "host", "adapters", "clip", "vocabulary")
"""What lines must share, besides their label, to be averaged over seeds."""
MEASURES = (
    *("miou", "fwiou", "macc", "pacc", "absent", "seen", "unseen", "harmonic"),
    *("pq", "sq", "rq", "ap"),
)
SHIFT = "shift/"
"""What stands before the names of style shifts among the measures."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """One method on one data set over its seeds.

    Attributes:
      label: its name in tables.
      method: its name in the comparison.
      dataset, host, adapters, clip: as the lines say.
      vocabulary: number of classes told apart.
      seeds: of its runs.
      values: split -> measure -> seed -> value in percent; mIoU under a style shift is "shift/KIND".
      images: split -> pictures judged.
      steps: of training.
      seconds_train: of each run.
      digests: what else the lines are pinned to.
    """

    label: str
    method: str
    dataset: str
    host: str
    adapters: str
    clip: str
    vocabulary: int | None
    seeds: tuple[int, ...]
    values: Mapping[str, Mapping[str, Mapping[int, float]]]
    images: Mapping[str, int | None]
    steps: int | None
    seconds_train: Spread | None
    digests: str

    @property
    def place(self) -> tuple[str, str, int | None]:
        """What summaries must share to stand in one table."""
        return self.dataset, self.clip, self.vocabulary

    def of_seeds(self, split: str, measure: str) -> dict[int, float]:
        """A measure of each seed that has it."""
        return dict(self.values.get(split, {}).get(measure, {}))

    def spread(self, split: str, measure: str) -> Spread | None:
        """A measure over the seeds; None where no line has it."""
        values = self.of_seeds(split, measure)
        return Spread.of(values.values()) if values else None

    def gain(self, baseline: "Summary", split: str, measure: str) -> Spread | None:
        """Difference to the baseline's run of the same seed, over the seeds that both have."""
        ours, theirs = self.of_seeds(split, measure), baseline.of_seeds(split, measure)
        paired = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
        return Spread.of(paired) if paired else None

    def shifts(self) -> tuple[str, ...]:
        """The kinds of style shift that were judged on any split, without their prefix."""
        names = (name for split in self.values.values() for name in split)
        kinds = dict.fromkeys(name for name in names if name.startswith(SHIFT))
        return tuple(kind.removeprefix(SHIFT) for kind in kinds)


def summarise(rows: Iterable[dict[str, Any]]) -> list[Summary]:
    """One summary per label, data set, host, CLIP and vocabulary, in order of first appearance.

    Where one label stands for several hosts on the same data, the host is named beside it.
    """
    found = [_summary(name, group) for name, group in results.recipes(rows, SAME)]
    hosts = collections.Counter((item.place, item.label) for item in found)
    return [
        dataclasses.replace(item, label=f"{item.label} ({item.host})")
        if hosts[item.place, item.label] > 1
        else item
        for item in found
    ]


def baseline(item: Summary, among: Sequence[Summary]) -> Summary | None:
    """The same host without adapters; None for that host itself, and where it is not there or not unique."""
    hosts = [
        other
        for other in among
        if (other.method, other.host, other.place) == ("host", item.host, item.place)
    ]
    return hosts[0] if len(hosts) == 1 and hosts[0] is not item else None


def _summary(name: str, rows: Sequence[dict[str, Any]]) -> Summary:
    first = rows[0]
    values: dict[str, dict[str, dict[int, float]]] = {}
    for row in rows:
        split = values.setdefault(row["split"], {})
        shifts = {SHIFT + kind: value for kind, value in (row.get("shift") or {}).items()}
        for measure, value in {**{m: row.get(m) for m in MEASURES}, **shifts}.items():
            if value is not None:
                split.setdefault(measure, {})[row["seed"]] = float(value)
    # A run's time stands in each of its lines: count every run once.
    train = {
        row["run"]: row["seconds_train"] for row in rows if row.get("seconds_train") is not None
    }
    pinned = dict.fromkeys(key for row in rows for key in row if key.endswith("_digest"))
    digests = {
        key.removesuffix("_digest"): sorted({str(row[key])[:8] for row in rows if row.get(key)})
        for key in pinned
    }
    return Summary(
        label=name,
        method=results.label(first),
        dataset=str(first["dataset"]),
        host=str(first["host"]),
        adapters=str(first["adapters"]),
        clip=results.model_name(first.get("clip")),
        vocabulary=first.get("vocabulary"),
        seeds=tuple(sorted({row["seed"] for row in rows})),
        values=values,
        images={row["split"]: row.get("images") for row in rows},
        steps=first.get("steps"),
        seconds_train=Spread.of(train.values()) if train else None,
        digests="; ".join(f"{key} {' '.join(found)}" for key, found in digests.items() if found),
    )
