"""The tables of gaze runs: errors by method, mode and k; differences; persons; domains; corruption."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from core_jax.train.report import Table
from launch.comparisons import gaze_published
from launch.comparisons.gaze_scores import ADAPTED, PURE_NOISE, Condition, Summary, named

BASELINES = ("absolute", "cfe")
"""What other methods are compared with, the first that is there."""
_ABOUT_SELECTION = {
    "last": "last epoch",
    "best": "best epoch on the test persons (selected on test)",
    "selected_on_test": "best epoch on the test persons (selected on test)",
}


def tables(groups: Sequence[Sequence[Summary]]) -> dict[str, list[Table]]:
    """All tables by file name."""
    kinds = {
        "results": [_errors(items) for items in groups],
        "difference": [table for items in groups for table in _differences(items)],
        "domains": _domains(groups),
        **gaze_published.tables(
            {item.dataset for items in groups for item in items},
            {item.trained_on for items in groups for item in items},
        ),
    }
    for number, items in enumerate(groups, 1):
        end = "" if number == 1 else f"_{number}"
        kinds[f"persons{end}"] = _persons(items)
        kinds[f"corruption{end}"] = _corruption(items)
        kinds[f"corruption_kinds{end}"] = _kinds(items)
        kinds[f"pure_noise{end}"] = _pure_noise(items)
    return {name: made for name, made in kinds.items() if made}


def heading(kind: str, item: Summary) -> str:
    """The title of what shows `item` and others that may stand beside it."""
    unseen = item.trained_on != item.dataset
    protocol = f"trained on {item.trained_on}" if unseen else f"protocol {item.protocol}"
    shown = ", adapted to it" if item.protocol == ADAPTED else ""
    shown += ", rendered" if item.synthetic else ""
    selection = _ABOUT_SELECTION.get(item.selection, item.selection)
    return f"{kind}, {item.dataset} ({protocol}{shown}, {selection})"


def details(summaries: Sequence[Summary]) -> Table:
    """What each row of the tables was made with."""
    columns = "method, preset, anchors, data set, trained on, protocol, selection, folds, seeds, steps, digests"
    rows = tuple(
        (
            item.label,
            item.preset,
            item.anchors,
            f"{item.dataset} (rendered)" if item.synthetic else item.dataset,
            item.trained_on,
            item.protocol,
            item.selection,
            item.folds,
            ", ".join(map(str, item.seeds)),
            item.steps,
            item.digests,
        )
        for item in summaries
    )
    return Table(title="What the rows are made of", columns=tuple(columns.split(", ")), rows=rows)


def _errors(items: Sequence[Summary]) -> Table:
    rows = []
    for item in items:
        for condition in item.clean():
            interval = item.interval(condition)
            rows.append(
                (
                    item.label,
                    condition.mode if condition.k else "1 image",
                    condition.k,
                    len(item.seeds),
                    len(item.of_persons(condition)),
                    item.pictures(condition),
                    item.spread(condition),
                    f"{interval.low:.2f} – {interval.high:.2f}" if interval else None,
                    item.draw_deviation(condition),
                    item.spread(condition, "pitch_error_deg"),
                    item.spread(condition, "yaw_error_deg"),
                )
            )
    several = max(len(item.seeds) for item in items) > 1
    return Table(
        title=heading("Angular error", items[0]),
        columns=(
            "method",
            "mode",
            "k",
            "seeds",
            "persons",
            "pictures",
            "error deg",
            "95 % interval",
            "sd of draws",
            "pitch deg",
            "yaw deg",
        ),
        rows=tuple(rows),
        lowest=("error deg",),
        note="Mean over persons of each person's mean; the interval resamples persons. "
        + ("Mean ± sample standard deviation over seeds." if several else "One seed."),
    )


def _differences(items: Sequence[Summary]) -> list[Table]:
    """Paired by person: every method with one image and with the most references, against one baseline."""
    base = next((item for name in BASELINES for item in items if item.label == name), None)
    if base is None or not base.main() or len(items) < 2:
        return []
    reference, rows = base.main()[0], []
    for item in items:
        for condition in item.main():
            found = item.against(base, condition, reference)
            if found is not None and (item is not base or condition != reference):
                rows.append((item.label, condition.name, found.mean, found.low, found.high))
    if not rows:
        return []
    return [
        Table(
            title=heading(f"Difference to {base.label} ({reference.name})", items[0]),
            columns=("method", "condition", "difference deg", "low", "high"),
            rows=tuple(rows),
            note="Below 0 is better than the baseline. Paired by person, 95 % bootstrap interval over persons.",
        )
    ]


def _persons(items: Sequence[Summary]) -> list[Table]:
    columns = {
        named(item.label, one): item.of_persons(one) for item in items for one in item.main()
    }
    names = sorted({person for errors in columns.values() for person in errors})
    if len(names) < 2:
        return []
    rows = [(name, *(errors.get(name) for errors in columns.values())) for name in names]
    return [
        Table(
            title=heading("Angular error in degrees by person", items[0]),
            columns=("person", *columns),
            rows=tuple(rows),
        )
    ]


def matrix(
    groups: Sequence[Sequence[Summary]],
) -> dict[tuple[str, str], dict[str, dict[str, Any]]]:
    """Errors across data sets: (method and condition, selection) -> trained on -> judged on -> Spread."""
    found: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for item in (item for items in groups for item in items if item.protocol != ADAPTED):
        for one in item.main():
            rows = found.setdefault((named(item.label, one), item.selection), {})
            rows.setdefault(item.trained_on, {})[item.dataset] = item.spread(one)
    return {
        key: rows
        for key, rows in found.items()
        if any(judged != trained for trained, row in rows.items() for judged in row)
    }


def _domains(groups: Sequence[Sequence[Summary]]) -> list[Table]:
    found = matrix(groups)
    judged = list(dict.fromkeys(d for rows in found.values() for row in rows.values() for d in row))
    rows = tuple(
        (name, selection, trained, *(row.get(one) for one in judged))
        for (name, selection), of_label in found.items()
        for trained, row in of_label.items()
    )
    if not rows:
        return []
    return [
        Table(
            title="Across data sets: angular error in degrees",
            columns=("method", "selection", "trained on", *judged),
            rows=rows,
            note="Columns are the judged sets. Where it is not the one trained on, no picture of it was seen.",
        )
    ]


def _corruption(items: Sequence[Summary]) -> list[Table]:
    """Errors by severity, means over the kinds."""
    return _spoilt(items, "by severity of corruption", "severity", lambda one: f"{one.severity:g}")


def _kinds(items: Sequence[Summary]) -> list[Table]:
    """Errors by kind, means over the severities."""
    return _spoilt(items, "by kind of corruption", "kind", lambda one: str(one.corruption))


def _spoilt(
    items: Sequence[Summary], title: str, what: str, column: Callable[[Condition], str]
) -> list[Table]:
    """Errors under corruption, a row for each mode, k and corrupted part, a column for each severity or kind."""
    rows: dict[tuple, dict[str, list[float]]] = {}
    for number, item in enumerate(items):
        for one in item.values:
            found = item.spread(one)
            if one.corruption not in (None, PURE_NOISE) and found is not None:
                row = rows.setdefault((number, one.mode, one.k, one.corrupted), {})
                row.setdefault(column(one), []).append(found.mean)
    if not rows:
        return []
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    return [
        Table(
            title=heading(f"Angular error in degrees {title}", items[0]),
            columns=("method", "mode", "k", "corrupted", "clean", *columns),
            rows=tuple(
                (
                    items[number].label,
                    mode if k else "1 image",
                    k,
                    corrupted,
                    items[number].spread(Condition(mode, k)),
                    *(statistics.fmean(row[name]) if name in row else None for name in columns),
                )
                for (number, mode, k, corrupted), row in rows.items()
            ),
            note=f"Columns: {what}; means over all else that was judged, and over seeds.",
        )
    ]


def _pure_noise(items: Sequence[Summary]) -> list[Table]:
    """Errors by the number of references that are noise."""
    rows = [
        (
            item.label,
            one.mode,
            one.k,
            round((one.severity or 0.0) * (one.k or 0)),
            item.spread(one),
        )
        for item in items
        for one in item.values
        if one.corruption == PURE_NOISE
    ]
    if not rows:
        return []
    return [
        Table(
            title=heading("References replaced by noise", items[0]),
            columns=("method", "mode", "k", "of them noise", "error deg"),
            rows=tuple(rows),
        )
    ]
