"""The pictures of gaze reports: pure functions from plain arrays and dicts to matplotlib figures. Angles are degrees."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from core_jax.train import report
from core_jax.train.report import GREY, INK, PALETTE, Spread
from launch import figures

# A method has the same colour in every picture, whichever others stand beside it.
COLOURS = {
    "mean": GREY,
    "absolute": PALETTE[0],
    "diffnn": PALETTE[1],
    "drnet": PALETTE[2],
    "lenet_eye": PALETTE[4],
    "resnet8_eye": PALETTE[5],
    "gazenet_eye": PALETTE[7],
    "gazetr_hybrid": PALETTE[5],
    "resnet18_face": PALETTE[4],
    "resnet50_face": PALETTE[7],
    "l2cs": PALETTE[3],
    "cfe": PALETTE[0],
    "ldm": PALETTE[4],
    "vfm": PALETTE[5],
    "dgr": PALETTE[3],
    "all": PALETTE[2],
}
# Modes of one method are told apart by their dashes and marks.
_DASHES = {
    "single": (0, (1, 1.6)),
    "calib": "-",
    "diffnn": "--",
    "blend": "-.",
    "mean_offset": (0, (5, 1, 1, 1, 1, 1)),
    "offset": (0, (7, 3)),
    "affine": (0, (3, 3)),
}
_MARKS = {
    **{"single": "D", "calib": "o", "diffnn": "s", "blend": "^"},
    **{"mean_offset": "x", "offset": "v", "affine": "P"},
}
_FEW = 4

Line = tuple[str, str]
"""(method, mode)."""


def colours(labels: Iterable[str]) -> dict[str, str]:
    """A colour for each label: methods have their own, others take turns with what is left."""
    return figures.colours(labels, COLOURS)


def error_bars(rows: Sequence[Mapping[str, Any]], title: str) -> Any:
    """The mean over persons of every method and condition, its interval over persons, and the seeds.

    Args:
      rows: {"label", "name", "mean", "low", "high", "seeds": numbers}, in the order to draw.
      title: of the figure.

    Returns:
      The figure: one horizontal bar a row.
    """
    from matplotlib.figure import Figure

    tones = colours(row["label"] for row in rows)
    with report.figure_style():
        figure = Figure(figsize=(8.4, 0.36 * len(rows) + 1.5))
        axis = figure.subplots()
        place = np.arange(len(rows), dtype=float)
        longest = max(max(row["high"], *row["seeds"]) for row in rows)
        for y, row in zip(place, rows):
            axis.barh(y, row["mean"], 0.68, color=tones[row["label"]])
            reach = [[max(0.0, row["mean"] - row["low"])], [max(0.0, row["high"] - row["mean"])]]
            whisker = {"fmt": "none", "ecolor": INK, "elinewidth": 1.1, "capsize": 3}
            axis.errorbar(row["mean"], y, xerr=reach, **whisker)
            if len(row["seeds"]) > 1:
                spots = y + np.linspace(-0.2, 0.2, len(row["seeds"]))
                dots = {"facecolor": "white", "edgecolor": INK, "linewidths": 0.7, "zorder": 3}
                axis.scatter(row["seeds"], spots, s=12, **dots)
            right = max(row["high"], *row["seeds"]) + 0.012 * longest
            axis.text(right, y, f"{row['mean']:.2f}", va="center", fontsize=8.5)
        axis.set_yticks(place, [row["name"] for row in rows])
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="y", visible=False)
        axis.invert_yaxis()
        axis.set_xlim(0, 1.09 * longest)
        axis.set_xlabel("angular error, degrees")
        axis.set_title(title)
    return figure


def error_by_k(lines: Mapping[Line, Mapping[int, Spread]], title: str) -> Any:
    """Error against the number of references.

    Args:
      lines: (method, mode) -> k -> Spread over seeds; k = 0 stands for one image without references and is drawn as a level.
      title: of the figure.

    Returns:
      The figure.
    """
    from matplotlib.figure import Figure

    ks = sorted({k for values in lines.values() for k in values if k})
    tones = colours(label for label, _ in lines)
    with report.figure_style():
        figure = Figure(figsize=(7.6, 4.2 + 0.2 * -(-len(lines) // 3)))
        axis = figure.subplots()
        for (label, mode), values in lines.items():
            tone = tones[label]
            if 0 in values:
                style = {"color": tone, "linestyle": _DASHES["single"], "linewidth": 1.6}
                axis.axhline(values[0].mean, label=_line_name(label, mode), **style)
                continue
            known = sorted(values)
            x, mean = [ks.index(k) for k in known], [values[k].mean for k in known]
            style = {"color": tone, "linestyle": _DASHES.get(mode, "-"), "capsize": 3}
            marks = {"marker": _MARKS.get(mode, "o"), "markersize": 5, "linewidth": 1.8}
            deviation = [values[k].std for k in known]
            axis.errorbar(x, mean, deviation, label=_line_name(label, mode), **style, **marks)
        axis.set_xticks(range(len(ks)), [str(k) for k in ks])
        axis.set_xlabel("references k")
        axis.set_ylabel("angular error, degrees")
        axis.set_title(title)
        figure.legend(loc="outside lower center", ncols=3, handlelength=3.2)
    return figure


def noise_curves(
    panels: Mapping[tuple[str, str], Mapping[Line, Mapping[float, float]]],
    title: str,
    xlabel: str = "severity (0: clean)",
) -> Any:
    """Error against the severity of corruption, all modes; a row of panels for each corrupted part, a column for each kind.

    Args:
      panels: (corrupted part, kind) -> (method, mode) -> severity -> error.
      title: of the figure.
      xlabel: below the lowest panels.

    Returns:
      The figure; all panels have the same scale.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import MultipleLocator

    rows = list(dict.fromkeys(part for part, _ in panels))
    columns = list(dict.fromkeys(kind for _, kind in panels))
    lines = list(dict.fromkeys(line for values in panels.values() for line in values))
    tones = colours(label for label, _ in lines)
    with report.figure_style():
        width = max(7.6, 2.35 * len(columns) + 0.6)
        across = max(3, int(width / 2.4))
        height = max(3.4, 2.3 * len(rows) + 0.6) + 0.22 * -(-len(lines) // across)
        figure = Figure(figsize=(width, height))
        axes = figure.subplots(len(rows), len(columns), squeeze=False, sharey=True, sharex=True)
        handles = {}
        for i, part in enumerate(rows):
            for j, kind in enumerate(columns):
                axis, drawn = axes[i, j], panels.get((part, kind), {})
                for line, values in drawn.items():
                    label, mode = line
                    x = sorted(values)
                    style = {"linestyle": _DASHES.get(mode, "-"), "marker": _MARKS.get(mode, "o")}
                    (handles[line],) = axis.plot(
                        x,
                        [values[one] for one in x],
                        color=tones[label],
                        markersize=3.5,
                        linewidth=1.5,
                        **style,
                    )
                axis.set_visible(bool(drawn))
                if i == 0:
                    axis.set_title(kind.replace("_", " "), fontsize=9.5)
            axes[i, 0].set_ylabel(f"{part}\nerror, degrees" if part else "error, degrees")
        axes[0, 0].set_ylim(0, None)
        for axis in axes[-1]:
            axis.set_xlabel(xlabel, fontsize=9)
            if max(one for values in panels.values() for x in values.values() for one in x) > 1:
                axis.xaxis.set_major_locator(MultipleLocator(1))
        names = [_line_name(*line) for line in handles]
        below = {"loc": "outside lower center", "ncols": across, "handlelength": 3.2}
        figure.legend(handles.values(), names, **below)
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
    return figure


def person_bars(values: Mapping[tuple[str, str], Mapping[str, float]], title: str) -> Any:
    """The error of every person under several methods, easiest person first.

    Args:
      values: (method, its name with the condition) -> person -> error.
      title: of the figure.

    Returns:
      The figure; the dashed lines are the means over persons, where there are few methods.
    """
    from matplotlib.figure import Figure

    persons = sorted({p for errors in values.values() for p in errors})
    persons.sort(key=lambda p: np.mean([e[p] for e in values.values() if p in e]))
    across, tones = len(values), colours(label for label, _ in values)
    seen: dict[str, int] = {}
    with report.figure_style():
        size = min(16.0, max(6.4, 0.11 * across * len(persons) + 2.0))
        figure = Figure(figsize=(size, 4.2))
        axis = figure.subplots()
        width = 0.84 / across
        for number, ((label, name), errors) in enumerate(values.items()):
            # Conditions of one method share its colour.
            seen[label] = seen.get(label, -1) + 1
            hatch = (None, "////", "....")[seen[label] % 3]
            known = [place for place, person in enumerate(persons) if person in errors]
            x = np.array(known) + (number - (across - 1) / 2) * width
            heights = [errors[persons[place]] for place in known]
            style = {"hatch": hatch, "edgecolor": "white", "linewidth": 0}
            axis.bar(x, heights, 0.92 * width, color=tones[label], label=name, **style)
            if across <= _FEW:
                mean = {"color": tones[label], "linestyle": "--", "linewidth": 1, "zorder": 3}
                axis.axhline(float(np.mean(heights)), **mean)
        axis.set_xticks(range(len(persons)), persons, rotation=60)
        axis.tick_params(axis="x", length=0)
        axis.grid(axis="x", visible=False)
        axis.set_xlim(-0.6, len(persons) - 0.4)
        axis.set_ylabel("angular error, degrees")
        axis.set_title(title)
        figure.legend(loc="outside lower left", ncols=min(across, int(size / 2.6)))
    return figure


def _line_name(label: str, mode: str) -> str:
    if mode == "single":
        return f"{label}, 1 image"
    return label if label == mode else f"{label}, {mode}"
