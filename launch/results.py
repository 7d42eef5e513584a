"""Result lines of many runs, brought together: reading them for every task, and FDBPL's means, harmonic means and tables.

A work directory's results.jsonl has one line per data set, split and seed (runs of tasks that are not compared have
a line with "metrics" instead, which is passed over here). Lines are averaged only when everything but
the seed agrees (method, data set, shots, student, teacher, templates' digests), and inductive and transductive results
stand in tables of their own: a method that saw unlabelled test classes is never ranked with one that did not.
"""

import dataclasses
import json
import pathlib
import re
import statistics
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from core_jax.train.report import Spread, Table
from fdbpl_jax.evaluate import harmonic_mean
from launch.comparisons import base as comparisons

SAME = (
    "setting",
    "dataset",
    "trained_on",
    "pictures",
    "shots",
    "student",
    "teacher",
    "student_digest",
    "teacher_digest",
)
"""What lines must share, besides their label, to be averaged over seeds."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """One method on one data set over its seeds; accuracies in percent, times in seconds.

    `hm` is the harmonic mean of the seed-averaged base and new accuracies; its deviation is that of the harmonic means of
    the single seeds. `mean_of_hms` is given for averages over data sets only.
    """

    label: str
    setting: str
    dataset: str
    pictures: str
    shots: int | None
    student: str
    teacher: str
    seeds: tuple[int, ...]
    base: Spread | None = None
    new: Spread | None = None
    hm: Spread | None = None
    mean_of_hms: float | None = None
    all: Spread | None = None
    steps: int | None = None
    seconds_train: Spread | None = None
    seconds_build: float | None = None
    digests: str = ""


def read(folders: Iterable[str | pathlib.Path]) -> list[dict[str, Any]]:
    """All result lines below some folders, in the order of the folders' and files' names.

    A run evaluated twice counts once: of the lines of a file that agree in the comparison's KEY the last is kept.

    Raises:
      FileNotFoundError: a folder does not exist, or none of them holds results.
      ValueError: lines that are not JSON objects with the fields of a result, all of them in one message.
    """
    folders = [pathlib.Path(folder) for folder in folders]
    absent = [str(folder) for folder in folders if not folder.is_dir()]
    if absent:
        raise FileNotFoundError(f"--workdir: no such folder: {', '.join(absent)}")
    rows, problems = [], []
    for file in (file for folder in folders for file in sorted(folder.rglob("results.jsonl"))):
        latest: dict[tuple, dict] = {}
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            try:
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise TypeError("expected an object with named fields")
                if "metrics" in row and "method" not in row:
                    continue
                missing = comparisons.of_line(row).FIELDS - set(row)
                if missing:
                    raise ValueError(f"lacks {', '.join(sorted(missing))}")
            except (TypeError, ValueError) as error:
                problems.append(f"{file}:{number}: not a result line: {error}")
                continue
            row["run"] = str(file.parent)
            latest[tuple(row.get(name) for name in comparisons.of_line(row).KEY)] = row
        rows += latest.values()
    if problems:
        raise ValueError("\n".join(problems))
    if not rows:
        raise FileNotFoundError(
            f"no results.jsonl below {', '.join(map(str, folders))}; "
            "python -m launch.evaluate --workdir=... writes one"
        )
    return rows


def label(row: dict[str, Any]) -> str:
    """The name a line goes by in tables: its variant where it is one, else its method."""
    return str(row.get("variant") or comparisons.of_line(row).method(row))


def recipes(
    rows: Iterable[dict[str, Any]], same: Sequence[str]
) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Lines that are repetitions of one recipe, by label, in order of first appearance.

    Runs of one label whose configurations differ in more than seeds and folders stay apart: their labels get the name of
    their folder.

    Args:
      rows: result lines of one task.
      same: what lines must share, besides their label.
    """
    groups: dict[tuple, dict[str | None, list[dict]]] = {}
    for row in rows:
        key = (_title(row), *(row.get(name) for name in same))
        groups.setdefault(key, {}).setdefault(row.get("config_digest"), []).append(row)
    for (name, *_), configurations in groups.items():
        for group in configurations.values():
            yield (f"{name} ({folder(group[0])})" if len(configurations) > 1 else name), group


def _title(row: dict[str, Any]) -> str:
    """A line's label, with the templates that zero-shot's class features are averages over."""
    ensemble = row.get("switches", {}).get("templates", ()) if label(row) == "zeroshot" else ()
    return f"{label(row)} ({', '.join(ensemble)})" if ensemble else label(row)


def folder(row: dict[str, Any]) -> str:
    """The folder of a line's run without its seed and fold: that of its repetitions."""
    return re.sub(r"/seed\d+(/fold\d+)?$", "", row["run"])


def summarise(rows: Iterable[dict[str, Any]]) -> list[Summary]:
    """One summary per label and data set, over seeds, in order of first appearance."""
    return [dataclasses.replace(_summary(group), label=name) for name, group in recipes(rows, SAME)]


def averages(summaries: Sequence[Summary]) -> list[Summary]:
    """One summary per label over the data sets, for labels that have base and new on more than one.

    As in the literature, `hm` is the harmonic mean of the averaged accuracies; the mean of the data sets' harmonic means
    is another number, and stands in `mean_of_hms`.
    """
    groups: dict[tuple, list[Summary]] = {}
    for item in summaries:
        if item.base is not None and item.new is not None:
            key = (item.label, item.setting, item.pictures, item.student, item.shots)
            groups.setdefault(key, []).append(item)
    result = []
    for (name, setting, shown, student, shots), items in groups.items():
        if len(items) < 2:
            continue
        base = statistics.fmean(item.base.mean for item in items if item.base)
        new = statistics.fmean(item.new.mean for item in items if item.new)
        result.append(
            Summary(
                label=name,
                setting=setting,
                dataset=f"average of {len(items)}",
                pictures=shown,
                shots=shots,
                student=student,
                teacher=items[0].teacher,
                seeds=items[0].seeds,
                base=Spread(base, 0.0, 1),
                new=Spread(new, 0.0, 1),
                hm=Spread(harmonic_mean(base, new), 0.0, 1),
                mean_of_hms=statistics.fmean(item.hm.mean for item in items if item.hm),
            )
        )
    return result


def tables(summaries: Sequence[Summary]) -> list[Table]:
    """Base-to-new tables, one per data set and setting, then their averages, then results on whole class lists."""
    result = []
    both = [item for item in summaries if item.hm is not None]
    for items in grouped(both):
        result.append(_base_to_new(items))
    for items in grouped(averages(summaries)):
        result.append(_base_to_new(items))
    whole = [item for item in summaries if item.all is not None]
    for items in grouped(whole):
        result.append(_whole(items))
    return result


def details(summaries: Sequence[Summary]) -> Table:
    """What each row of the tables was made with: models, shots, seeds, digests."""
    return Table(
        title="What the rows are made of",
        columns=(
            "method",
            "data set",
            "setting",
            "shots",
            "seeds",
            "student",
            "teacher",
            "digests",
        ),
        rows=tuple(
            (
                item.label,
                item.dataset,
                item.setting,
                item.shots,
                ", ".join(map(str, item.seeds)),
                item.student,
                item.teacher,
                item.digests,
            )
            for item in summaries
        ),
    )


def _summary(rows: list[dict[str, Any]]) -> Summary:
    first = rows[0]
    accuracy = {
        split: {row["seed"]: float(row["accuracy"]) for row in rows if row["split"] == split}
        for split in ("base", "new", "all")
    }
    spread = {
        split: Spread.of(values.values()) if values else None for split, values in accuracy.items()
    }
    hm = None
    if spread["base"] and spread["new"]:
        single = [
            harmonic_mean(accuracy["base"][seed], accuracy["new"][seed])
            for seed in accuracy["base"]
            if seed in accuracy["new"]
        ]
        mean = harmonic_mean(spread["base"].mean, spread["new"].mean)
        hm = Spread(mean, Spread.of(single).std if single else 0.0, len(single))
    # A run's times stand in each of its lines: count every run once.
    train = {
        row["run"]: row["seconds_train"] for row in rows if row.get("seconds_train") is not None
    }
    build = [row["seconds_build"] for row in rows if row.get("seconds_build") is not None]
    names = ("student", "teacher", "lookup", "fewshot")
    digests = {
        name: sorted({str(row[f"{name}_digest"])[:8] for row in rows if row.get(f"{name}_digest")})
        for name in names
    }
    return Summary(
        label=label(first),
        setting=str(first.get("setting", "inductive")),
        dataset=str(first["dataset"]),
        pictures=str(first.get("pictures", "test")),
        shots=first.get("shots"),
        student=model_name(first.get("student")),
        teacher=model_name(first.get("teacher")),
        seeds=tuple(sorted({row["seed"] for row in rows})),
        base=spread["base"],
        new=spread["new"],
        hm=hm,
        all=spread["all"],
        steps=first.get("steps"),
        seconds_train=Spread.of(train.values()) if train else None,
        seconds_build=max(build) if build else None,
        digests="; ".join(
            f"{name} {' '.join(values)}" for name, values in digests.items() if values
        ),
    )


def model_name(name: str | None) -> str:
    """A model as tables name it: of a folder somewhere on a disk, its own name."""
    return pathlib.Path(name).name if name and pathlib.Path(name).is_absolute() else name or ""


def _base_to_new(items: Sequence[Summary]) -> Table:
    items = sorted(items, key=lambda item: -item.hm.mean if item.hm else 0.0)
    first = items[0]
    over = max(len(item.seeds) for item in items)
    note = "HM: harmonic mean of base and new. " + (
        "Mean ± standard deviation over seeds." if over > 1 else "One seed."
    )
    others = [f"{i.label} {i.mean_of_hms:.2f}" for i in items if i.mean_of_hms is not None]
    if others:
        note = f"HM: harmonic mean of the averages. Mean of HMs: {', '.join(others)}."
    return Table(
        title=heading("Base to new classes", first),
        columns=("method", "seeds", "base %", "new %", "HM %", "train s", "lookup build s"),
        rows=tuple(
            (
                item.label,
                len(item.seeds),
                item.base,
                item.new,
                item.hm,
                item.seconds_train,
                item.seconds_build,
            )
            for item in items
        ),
        best=("base %", "new %", "HM %"),
        note=note,
    )


def _whole(items: Sequence[Summary]) -> Table:
    items = sorted(items, key=lambda item: -item.all.mean if item.all else 0.0)
    first = items[0]
    return Table(
        title=heading("All classes", first),
        columns=("method", "seeds", "accuracy %", "train s", "lookup build s"),
        rows=tuple(
            (item.label, len(item.seeds), item.all, item.seconds_train, item.seconds_build)
            for item in items
        ),
        best=("accuracy %",),
    )


def grouped(items: Iterable[Summary]) -> list[list[Summary]]:
    """What may stand in one table, that is, be ranked together."""
    groups: dict[tuple, list[Summary]] = {}
    for item in items:
        key = (item.setting, item.dataset, item.pictures, item.student, item.shots)
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def heading(kind: str, item: Summary) -> str:
    """The title of what shows `item` and others that may stand beside it (`grouped`)."""
    shots = (
        "" if item.shots is None else f", {item.shots} shots" if item.shots else ", all pictures"
    )
    # Settings are chosen on validation pictures; their numbers must not pass for results.
    shown = "" if item.pictures == "test" else f", {item.pictures} pictures"
    return f"{kind}, {item.dataset} ({item.setting}{shots}{shown}, student {item.student})"
