"""The tables of each protocol: ours by setting, with their intervals, and what others published beside them.

Rows are ranked within one table only, and a table has one setting, one student and one training set.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from core_jax.train.report import Spread, Table
from launch.protocols import numbers, published
from launch.protocols.numbers import AVERAGE, Pair, Place, Series

TITLES = {
    "base_to_new": "Base to new classes",
    "cross_dataset": "Cross-dataset transfer",
    "domain_generalisation": "Domain generalisation",
    "few_shot": "Few-shot curve",
    "class_agnostic": "Class-agnostic training",
}
HALVES = ("base_to_new", "class_agnostic")
SHARED = ("cross_dataset", "domain_generalisation")
TRANSFERS = (*SHARED, "class_agnostic")
_OVER_SEEDS = "Mean ± sample standard deviation (ddof = 1) over seeds."
_INTERVAL = "Half the width of the 95 % interval of the mean, Student's t over seeds."


def tables(found: Sequence[Series]) -> dict[str, list[Table]]:
    """All tables by the file they are written to: each file holds tables of the same columns."""
    made: list[tuple[str, Table]] = []
    for protocol in dict.fromkeys(item.protocol for item in found):
        own = of_protocol(found, protocol)
        if protocol in HALVES:
            made += [("base_to_new", table) for table in _base_to_new(own, protocol)]
        if protocol in TRANSFERS:
            made += [(protocol, table) for table in _transfer(own, protocol)]
        if protocol == "few_shot":
            made += [(protocol, table) for table in _few_shot(own)]
        made += [("published", table) for table in references(own, protocol)]
    files: dict[str, list[Table]] = {}
    for name, table in made:
        files.setdefault(_file(name, table, files), []).append(table)
    return files


def of_protocol(found: Sequence[Series], protocol: str) -> list[Series]:
    """The series of a protocol; of the transfers also what is known of their training set, whichever of them made it.

    Cross-dataset transfer and domain generalisation share their runs, so the line of the training set itself may stand
    under the other one's name.
    """
    own = [item for item in found if item.protocol == protocol]
    if protocol not in SHARED:
        return own
    shared = {(item.label, item.place) for item in own}
    return [
        item
        for item in found
        if item.protocol == protocol
        or (
            item.protocol in SHARED
            and item.dataset == item.place.trained_on
            and (item.label, item.place) in shared
        )
    ]


def references(own: Sequence[Series], protocol: str) -> list[Table]:
    """What others published for the same protocol; nothing where any of the pictures are rendered."""
    judged = list(dict.fromkeys(item.dataset for item in own))
    if any(item.place.synthetic for item in own):
        return []
    if protocol == "base_to_new":
        return published.base_to_new(judged) + published.unseen(judged)
    if protocol == "cross_dataset":
        return published.crossing(judged)
    return published.domains(judged) if protocol == "domain_generalisation" else []


def pairs(own: Iterable[Series]) -> dict[Place, dict[str, dict[str, Pair]]]:
    """Base and new accuracies: place -> label -> data set -> pair. Places of one student share a key whatever they trained on."""
    halves: dict[tuple[Place, str, str], dict[str, Mapping[int, float]]] = {}
    for item in own:
        if item.split in ("base", "new") and item.dataset == item.place.trained_on:
            key = (item.place._replace(trained_on=""), item.label, item.dataset)
            halves.setdefault(key, {})[item.split] = item.values
    found: dict[Place, dict[str, dict[str, Pair]]] = {}
    for (place, label, dataset), values in halves.items():
        if len(values) == 2:
            by_label = found.setdefault(place, {}).setdefault(label, {})
            by_label[dataset] = Pair(values["base"], values["new"])
    return found


def transfers(own: Iterable[Series]) -> dict[Place, dict[str, dict[str, Mapping[int, float]]]]:
    """Accuracies over all classes: place -> label -> data set -> seed -> percent, the training set's first."""
    found: dict[Place, dict[str, dict[str, Mapping[int, float]]]] = {}
    for item in sorted(own, key=lambda item: item.dataset != item.place.trained_on):
        if item.split == "all":
            found.setdefault(item.place, {}).setdefault(item.label, {})[item.dataset] = item.values
    return found


def curves(
    own: Iterable[Series],
) -> dict[Place, dict[str, dict[str, dict[int, Mapping[int, float]]]]]:
    """Few-shot accuracies: place -> data set -> label -> shots -> seed -> percent; zero-shot stands at 0 shots."""
    found: dict[Place, dict[str, dict[str, dict[int, Mapping[int, float]]]]] = {}
    for item in own:
        if item.split == "all":
            place = item.place._replace(trained_on="", shots=None)
            shots = 0 if item.method == "zeroshot" else item.place.shots or 0
            by_label = found.setdefault(place, {}).setdefault(item.dataset, {})
            by_label.setdefault(item.label, {})[shots] = item.values
    for by_dataset in found.values():
        whole = averaged_curves(by_dataset)
        if whole:
            by_dataset[average_of(len(by_dataset))] = whole
    return found


def averaged_curves(
    by_dataset: Mapping[str, Mapping[str, Mapping[int, Mapping[int, float]]]],
) -> dict[str, dict[int, Mapping[int, float]]]:
    """The mean curve over data sets of every label that all of them have; empty for one data set."""
    if len(by_dataset) < 2:
        return {}
    first, *others = by_dataset.values()
    found: dict[str, dict[int, Mapping[int, float]]] = {}
    for label in first:
        for shots in first[label]:
            each = [curve.get(label, {}).get(shots) for curve in (first, *others)]
            whole = numbers.average([one for one in each if one]) if all(each) else {}
            if whole:
                found.setdefault(label, {})[shots] = whole
    return found


def average_of(count: int) -> str:
    """What the mean over some data sets is called."""
    return f"{AVERAGE} of {count}"


def heading(kind: str, place: Place, dataset: str = "") -> str:
    """The title of what shows series of one place."""
    where = f", {dataset}" if dataset else ""
    trained = f", trained on {place.trained_on}" if place.trained_on else ""
    shots = f", {place.shots} shots" if place.shots else ", all pictures"
    shots = "" if place.shots is None else shots
    shown = "" if place.pictures == "test" else f", {place.pictures} pictures"
    rendered = ", synthetic" if place.synthetic else ""
    return (
        f"{kind}{where} ({place.setting}{trained}{shots}{shown}{rendered}, student {place.student})"
    )


def _base_to_new(own: Sequence[Series], protocol: str) -> list[Table]:
    found = []
    for place, by_label in pairs(own).items():
        names = list(dict.fromkeys(name for each in by_label.values() for name in each))
        for name in names:
            rows = [
                _halves(label, place, each[name], each[name].hms)
                for label, each in by_label.items()
                if name in each
            ]
            found.append(_halves_table(heading(TITLES[protocol], place, name), rows))
        if len(names) > 1:
            rows = [
                _halves(
                    label,
                    place,
                    numbers.average_pair(list(each.values())),
                    numbers.mean_of_hms(list(each.values())),
                )
                for label, each in by_label.items()
                if len(each) == len(names)
            ]
            title = heading(TITLES[protocol], place, average_of(len(names)))
            if any(rows):
                found.append(_halves_table(title, [row for row in rows if row]))
    return found


def _halves(label: str, place: Place, pair: Pair, hms: Spread | None) -> tuple[Any, ...]:
    if not pair.base or not pair.new:
        return ()
    base, new = Spread.of(pair.base.values()), Spread.of(pair.new.values())
    return (
        *(label, place.setting, base.count),
        *(base, numbers.half_width(base), new, numbers.half_width(new)),
        *(pair.hm_of_averages, hms, numbers.half_width(hms) if hms else None),
    )


def _halves_table(title: str, rows: Sequence[tuple[Any, ...]]) -> Table:
    ranked = ("base %", "new %", "HM of averaged accuracies %", "mean of HMs %")
    return Table(
        title=title,
        columns=(
            *("method", "setting", "seeds", "base %", "± base (95 %)", "new %", "± new (95 %)"),
            *("HM of averaged accuracies %", "mean of HMs %", "± HMs (95 %)"),
        ),
        rows=tuple(sorted(rows, key=lambda row: -row[7])),
        best=ranked,
        note=f"{_OVER_SEEDS} HM of averaged accuracies: base and new are averaged over seeds and data sets first; mean of "
        f"HMs: each seed and data set has its own. (95 %): half the width of the interval of the mean, Student's t.",
    )


def _transfer(own: Sequence[Series], protocol: str) -> list[Table]:
    found = []
    for place, by_label in transfers(own).items():
        names = list(dict.fromkeys(name for each in by_label.values() for name in each))
        others = [name for name in names if name != place.trained_on]
        rows = {label: with_average(each, names, others) for label, each in by_label.items()}
        first = next(iter(rows.values()))
        title = heading(TITLES[protocol], place)
        columns = ("method", "setting", "seeds", *(f"{name} %" for name in first))
        found += _with_intervals(title, columns, place, rows, "")
    return found


def with_average(
    each: Mapping[str, Mapping[int, float]], names: Sequence[str], others: Sequence[str]
) -> dict[str, Mapping[int, float]]:
    """Accuracies of one method on some data sets, then their average over `others`, where these are several."""
    values: dict[str, Mapping[int, float]] = {name: each.get(name, {}) for name in names}
    if len(others) > 1:
        complete = all(name in each for name in others)
        whole = numbers.average([each[name] for name in others]) if complete else {}
        values[average_of(len(others))] = whole
    return values


def _with_intervals(
    title: str,
    columns: tuple[str, ...],
    place: Place,
    rows: Mapping[str, Mapping[Any, Mapping[int, float]]],
    note: str,
) -> list[Table]:
    """A table of means and deviations, ordered by its last column, and one of their intervals if there are several seeds."""
    spreads = {label: [_spread(values) for values in row.values()] for label, row in rows.items()}
    seeds = {label: max(len(values) for values in row.values()) for label, row in rows.items()}
    order = sorted(spreads, key=lambda label: _rank(spreads[label][-1]))
    means = tuple((label, place.setting, seeds[label], *spreads[label]) for label in order)
    notes = f"{_OVER_SEEDS} {note}".strip()
    found = [Table(title=title, columns=columns, rows=means, best=columns[3:], note=notes)]
    if max(seeds.values()) > 1:
        widths = tuple(
            (label, place.setting, seeds[label], *map(_half_width, spreads[label]))
            for label in order
        )
        found.append(
            Table(title=f"{title}: ± (95 %)", columns=columns, rows=widths, note=_INTERVAL)
        )
    return found


def _rank(last: Spread | None) -> tuple[bool, float]:
    """Largest first; rows without the last number behind all others, in the order they come."""
    return last is None, -last.mean if last else 0.0


def _half_width(spread: Spread | None) -> float | None:
    return numbers.half_width(spread) if spread else None


def _few_shot(own: Sequence[Series]) -> list[Table]:
    found = []
    for place, by_dataset in curves(own).items():
        shots = sorted({n for curves in by_dataset.values() for c in curves.values() for n in c})
        columns = ("method", "setting", "seeds", *(f"{n} shots %" for n in shots))
        for name, by_label in by_dataset.items():
            rows = {
                label: {n: curve.get(n, {}) for n in shots} for label, curve in by_label.items()
            }
            title = heading(TITLES["few_shot"], place, name)
            found += _with_intervals(title, columns, place, rows, "0 shots: zero-shot.")
    return found


def _spread(values: Mapping[int, float]) -> Spread | None:
    return Spread.of(values.values()) if values else None


def _file(name: str, table: Table, files: Mapping[str, Sequence[Table]]) -> str:
    number, chosen = 1, name
    while chosen in files and files[chosen][0].columns != table.columns:
        number += 1
        chosen = f"{name}_{number}"
    return chosen
