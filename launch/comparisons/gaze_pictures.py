"""The figures of gaze runs, drawn from their summaries and, for single pictures, from the runs themselves."""

from collections.abc import Mapping, Sequence
from typing import Any

from launch import gather, gaze_figures, gaze_maps
from launch.comparisons import gaze_samples, gaze_tables, shared
from launch.comparisons.base import Picture
from launch.comparisons.gaze_scores import PURE_NOISE, SINGLE, Condition, Summary, named

_PARTS = ("query", "references", "both")
# Persons beyond which bars say nothing that the table does not.
_MOST_PERSONS = 60


def of_group(items: Sequence[Summary], end: str) -> list[Picture]:
    """The figures of what stands in one table.

    Args:
      items: the methods.
      end: of the files' names.
    """
    found = [_bars(items, end)]
    for picture in (_by_k(items, end), _persons(items, end)):
        found += [picture] if picture else []
    return found + _corruption(items, end) + _pure_noise(items, end)


def of_domains(groups: Sequence[Sequence[Summary]]) -> list[Picture]:
    """Errors on sets that were seen in training and on others; one matrix where all learned from the same set."""
    # One epoch of each method: an unseen set has no best epoch of its own.
    found = {
        name: rows for (name, epoch), rows in gaze_tables.matrix(groups).items() if epoch == "last"
    }
    if not found:
        return []
    trained = {name for rows in found.values() for name in rows}
    if len(trained) == 1:
        (name,) = trained
        heading = f"trained on {name}"
        matrices = {heading: {label: rows[name] for label, rows in found.items()}}
        own = lambda heading, row, judged: judged == name
    else:
        matrices = {
            label: {f"trained on {name}": row for name, row in rows.items()}
            for label, rows in found.items()
        }
        own = lambda heading, row, judged: row == f"trained on {judged}"
    title = "Angular error in degrees across data sets"
    caption = (
        "Mean over persons, and its deviation over seeds. Framed: the set that was trained on."
    )
    figure = gaze_maps.domain_matrices(matrices, own, title)
    return [Picture("Across data sets", "domains.png", figure, caption)]


def of_samples(of_methods: Mapping[str, Sequence[gather.Run]]) -> list[Picture]:
    """Maps over directions, and the best and worst pictures of the method that errs least; where the data is still there."""
    samples = {}
    for label, own in of_methods.items():
        read = shared.if_still_there(
            lambda own=own: gaze_samples.of_runs(own), f"{label}'s answers"
        )
        if read is not None:
            samples[label] = read
    if not samples:
        return []
    maps = {label: (one.gaze_deg, one.error_deg) for label, one in samples.items()}
    title = "Angular error by true direction"
    figure = gaze_maps.angle_map(maps, f"{title}, one image")
    caption = "Lowest seed. Yaw runs as in the picture: positive looks to its left."
    found = [Picture(title, "directions.png", figure, caption)]
    best = min(samples, key=lambda label: float(samples[label].error_deg.mean()))
    title = f"Best and worst pictures of {best}"
    figure = gaze_maps.sample_grid(gaze_samples.extremes(samples[best]), title)
    caption = "By angular error from one image, lowest seed; below each picture whose it is."
    return [*found, Picture(title, "samples.png", figure, caption)]


def _bars(items: Sequence[Summary], end: str) -> Picture:
    rows = []
    for item in items:
        for one in item.main():
            interval = item.interval(one)
            if interval is None:
                continue
            seeds = list(item.of_seeds(one).values())
            about = {"label": item.label, "name": named(item.label, one), "seeds": seeds}
            rows.append({**about, **interval._asdict()})
    title = gaze_tables.heading("Angular error", items[0])
    caption = (
        "Bars: means over persons; whiskers: 95 % bootstrap interval over persons; dots: the seeds."
    )
    return Picture(title, f"errors{end}.png", gaze_figures.error_bars(rows, title), caption)


def _by_k(items: Sequence[Summary], end: str) -> Picture | None:
    lines: dict[tuple[str, str], dict[int, Any]] = {}
    for item in items:
        for one in item.clean():
            lines.setdefault((item.label, one.mode), {})[one.k or 0] = item.spread(one)
    if not any(k for values in lines.values() for k in values):
        return None
    title = gaze_tables.heading("Error by number of references", items[0])
    caption = "Means over persons, draws and seeds; whiskers: standard deviation over seeds."
    return Picture(title, f"references{end}.png", gaze_figures.error_by_k(lines, title), caption)


def _persons(items: Sequence[Summary], end: str) -> Picture | None:
    values = {
        (item.label, named(item.label, one)): item.of_persons(one)
        for item in items
        for one in item.main()
    }
    count = len({person for errors in values.values() for person in errors})
    if not 1 < count <= _MOST_PERSONS:
        return None
    title = gaze_tables.heading("Error by person", items[0])
    caption = "Persons from the smallest mean error to the largest; dashed: the methods' means over persons."
    return Picture(title, f"persons{end}.png", gaze_figures.person_bars(values, title), caption)


def _corruption(items: Sequence[Summary], end: str) -> list[Picture]:
    """A figure for each number of references that corruption was judged with."""
    found = []
    conditions = [(item, one) for item in items for one in item.values if one.corruption]
    conditions = [(item, one) for item, one in conditions if one.corruption != PURE_NOISE]
    for k in sorted({one.k for _, one in conditions if one.k} or {0}):
        panels: dict[tuple[str, str], dict[tuple[str, str], dict[float, float]]] = {}
        for part in _PARTS:
            for item, one in conditions:
                if one.corrupted != part or (one.k or k) != k:
                    continue
                curve = panels.setdefault((part, str(one.corruption)), {}).setdefault(
                    (item.label, one.mode), {}
                )
                curve[float(one.severity or 0)] = _mean(item, one)
                clean = item.spread(Condition(one.mode, one.k))
                if clean is not None:
                    curve[0.0] = clean.mean
        if not panels:
            continue
        about = (
            f"Error by severity of corruption, k = {k}" if k else "Error by severity of corruption"
        )
        title = gaze_tables.heading(about, items[0])
        caption = "Rows: which pictures were corrupted; references keep their labels."
        name = f"corruption_k{k}{end}.png" if k else f"corruption{end}.png"
        found.append(Picture(title, name, gaze_figures.noise_curves(panels, title), caption))
    return found


def _pure_noise(items: Sequence[Summary], end: str) -> list[Picture]:
    """Error against the share of references that are noise, a panel for each k; one image is a level."""
    panels: dict[tuple[str, str], dict[tuple[str, str], dict[float, float]]] = {}
    judged = [(i, one) for i in items for one in i.values if one.corruption == PURE_NOISE]
    for k in sorted({one.k for _, one in judged if one.k}):
        panel = panels.setdefault(("", f"k = {k}"), {})
        for item in items:
            single = item.spread(Condition(SINGLE))
            if single is not None:
                panel[item.label, SINGLE] = {0.0: single.mean, 1.0: single.mean}
        for item, one in judged:
            if one.k == k:
                curve = panel.setdefault((item.label, one.mode), {})
                curve[float(one.severity or 0)] = _mean(item, one)
    if not panels:
        return []
    title = gaze_tables.heading("References replaced by noise", items[0])
    caption = "Some references are pictures of pure noise that keep their labels; dotted: one image, no reference."
    figure = gaze_figures.noise_curves(panels, title, "share of references that are noise")
    return [Picture(title, f"pure_noise{end}.png", figure, caption)]


def _mean(item: Summary, condition: Condition) -> float:
    spread = item.spread(condition)
    assert spread is not None
    return spread.mean
