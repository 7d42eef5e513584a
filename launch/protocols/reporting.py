"""What `launch.report` asks about result lines of protocols: tables and pictures."""

from collections.abc import Mapping, Sequence
from typing import Any

from core_jax.train.report import Spread, Table
from launch import gather
from launch.comparisons.base import Picture
from launch.protocols import figures as drawings
from launch.protocols import numbers
from launch.protocols import tables as made

_WHISKERS = "Means over seeds; whiskers: sample standard deviation."


def tables(rows: Sequence[dict[str, Any]]) -> dict[str, list[Table]]:
    """Tables by the file that they are written to."""
    return made.tables(numbers.series(rows))


def pictures(rows: Sequence[dict[str, Any]]) -> list[Picture]:
    """A figure for each table of means that has something to compare."""
    found = numbers.series(rows)
    shown: list[Picture] = []
    for protocol in dict.fromkeys(item.protocol for item in found):
        own = made.of_protocol(found, protocol)
        if protocol in made.HALVES:
            shown += _halves(own, protocol)
        if protocol in made.TRANSFERS:
            shown += _transfers(own, protocol)
        if protocol == "few_shot":
            shown += _curves(own)
    names: dict[str, int] = {}
    for index, picture in enumerate(shown):
        names[picture.name] = names.get(picture.name, 0) + 1
        if names[picture.name] > 1:
            name = picture.name.replace(".png", f"_{names[picture.name]}.png")
            shown[index] = picture._replace(name=name)
    return shown


def _halves(own: Sequence[numbers.Series], protocol: str) -> list[Picture]:
    from launch import figures

    found = []
    for place, by_label in made.pairs(own).items():
        names = list(dict.fromkeys(name for each in by_label.values() for name in each))
        whole = len(names) > 1
        for name in names:
            each = {label: pairs[name] for label, pairs in by_label.items() if name in pairs}
            found.append((place, name, each))
        if whole:
            each = {
                label: numbers.average_pair(list(pairs.values()))
                for label, pairs in by_label.items()
                if len(pairs) == len(names)
            }
            found.append((place, made.average_of(len(names)), each))
    shown = []
    for place, name, each in found:
        bars = [
            {
                "label": label,
                "base": Spread.of(pair.base.values()),
                "new": Spread.of(pair.new.values()),
                "hm": Spread(pair.hm_of_averages, pair.hms.std if pair.hms else 0.0, 1),
            }
            for label, pair in each.items()
            if pair.base and pair.new
        ]
        if not bars:
            continue
        title = made.heading(made.TITLES[protocol], place, name)
        caption = (
            f"{_WHISKERS} HM is that of averaged accuracies, its whisker that of the seeds' own."
        )
        file = f"{protocol}_{gather.slug(name)}.png"
        shown.append(Picture(title, file, figures.base_new_bars(bars, title), caption))
    return shown


def _transfers(own: Sequence[numbers.Series], protocol: str) -> list[Picture]:
    shown = []
    for place, by_label in made.transfers(own).items():
        names = list(dict.fromkeys(name for each in by_label.values() for name in each))
        others = [name for name in names if name != place.trained_on]
        rows = {label: made.with_average(each, names, others) for label, each in by_label.items()}
        groups = list(next(iter(rows.values())))
        spreads = {
            label: [Spread.of(v.values()) if v else None for v in row.values()]
            for label, row in rows.items()
        }
        title = made.heading(made.TITLES[protocol], place)
        figure = drawings.bars(groups, spreads, title)
        shown.append(Picture(title, f"{protocol}.png", figure, _WHISKERS))
    return shown


def _curves(own: Sequence[numbers.Series]) -> list[Picture]:
    shown = []
    for place, by_dataset in made.curves(own).items():
        panels: dict[str, Mapping[str, Mapping[int, Spread]]] = {
            name: {
                label: {n: Spread.of(values.values()) for n, values in curve.items()}
                for label, curve in by_label.items()
            }
            for name, by_label in by_dataset.items()
        }
        title = made.heading(made.TITLES["few_shot"], place, "")
        caption = f"{_WHISKERS} Level lines: zero-shot."
        shown.append(Picture(title, "few_shot.png", drawings.curves(panels, title), caption))
    return shown
