"""The pictures of protocols: few-shot curves, and bars of several data sets; plain numbers in, matplotlib figures out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from core_jax.train import report
from core_jax.train.report import INK, Spread
from launch import figures

# Of labels that share a colour.
_DASHES = ("-", ":", "-.")
_HATCHES = (None, "///", "...")


def curves(panels: Mapping[str, Mapping[str, Mapping[int, Spread]]], title: str) -> Any:
    """Accuracy against shots, a panel a data set, a line a method; whiskers are standard deviations.

    Args:
      panels: data set -> method -> shots -> spread; what stands at 0 shots is drawn as a level line.
      title: of the figure.

    Returns:
      The figure.
    """
    from matplotlib.figure import Figure

    columns = min(4, len(panels))
    height = -(-len(panels) // columns)
    shots = sorted({n for by in panels.values() for curve in by.values() for n in curve if n})
    styles = _styles(label for by in panels.values() for label in by)
    with report.figure_style():
        figure = Figure(figsize=(max(5.6, 3.9 * columns), 3.1 * height + 0.9))
        axes = figure.subplots(height, columns, squeeze=False)
        handles: dict[str, Any] = {}
        for number, (axis, (name, by_label)) in enumerate(zip(axes.flat, panels.items())):
            for label, curve in by_label.items():
                handles[label] = _curve(axis, curve, shots, styles[label])
            axis.set_title(name)
            axis.set_xscale("log", base=2)
            axis.set_xticks(shots, [str(n) for n in shots])
            axis.minorticks_off()
            axis.set_xlabel("shots (pictures of each class)")
            if number % columns == 0:
                axis.set_ylabel("accuracy in percent")
        for axis in list(axes.flat)[len(panels) :]:
            axis.set_visible(False)
        title = figures.fitted(title, figure.get_figwidth() - 0.2, size=13.0)
        figure.suptitle(title, x=0.01, ha="left")
        ordered = [label for label in styles if label in handles]
        beside = _beside(ordered, figure)
        figure.set_figheight(figure.get_figheight() + 0.21 * (-(-len(ordered) // beside) - 1))
        shown = [handles[label] for label in ordered]
        figure.legend(shown, ordered, loc="outside lower left", ncols=beside)
    return figure


def _beside(labels: Sequence[str], figure: Any) -> int:
    """How many labels of a legend find room beside each other."""
    inches = 0.75 + 0.09 * max(map(len, labels))
    return int(min(len(labels), max(1.0, figure.get_figwidth() // inches)))


def _styles(labels: Iterable[str]) -> dict[str, tuple[str, int]]:
    """(colour, how many labels before have the same one) of all labels of a figure."""
    tones = figures.colours(labels)
    before = [list(tones.values())[:position] for position in range(len(tones))]
    return {
        label: (tone, earlier.count(tone))
        for (label, tone), earlier in zip(tones.items(), before, strict=True)
    }


def _curve(
    axis: Any, curve: Mapping[int, Spread], shots: Sequence[int], style: tuple[str, int]
) -> Any:
    tone, again = style
    if 0 in curve:
        return axis.axhline(curve[0].mean, color=tone, linestyle="--", linewidth=1.4)
    known = [n for n in shots if n in curve]
    return axis.errorbar(
        known,
        [curve[n].mean for n in known],
        [curve[n].std for n in known],
        color=tone,
        ecolor=tone,
        linestyle=_DASHES[again % len(_DASHES)],
        marker="o",
        markersize=4.5,
        linewidth=1.8,
        elinewidth=1.1,
        capsize=3,
    )


def bars(groups: Sequence[str], rows: Mapping[str, Sequence[Spread | None]], title: str) -> Any:
    """Accuracies of several methods on several data sets; whiskers are standard deviations.

    Args:
      groups: names of the data sets, in order.
      rows: method -> a spread for each of them, or None where there is none.
      title: of the figure.

    Returns:
      The figure: a group of bars a data set, a bar a method.
    """
    from matplotlib.figure import Figure

    width = 0.84 / len(rows)
    known = [s for row in rows.values() for s in row if s is not None]
    lowest, highest = min(s.mean - s.std for s in known), max(s.mean + s.std for s in known)
    with report.figure_style():
        across = 1.4 + len(groups) * max(0.75, 0.34 * len(rows))
        figure = Figure(figsize=(min(18.0, max(6.4, across)), 4.6))
        axis = figure.subplots()
        place = np.arange(len(groups), dtype=float)
        for position, (label, (tone, again)) in enumerate(_styles(rows).items()):
            row = rows[label]
            shown = [i for i, spread in enumerate(row) if spread is not None]
            means = [s.mean for s in row if s is not None]
            x = place[shown] + width * (position - (len(rows) - 1) / 2)
            hatch = {"hatch": _HATCHES[again % len(_HATCHES)], "edgecolor": "white", "linewidth": 0}
            axis.bar(x, means, 0.92 * width, color=tone, label=label, **hatch)
            deviations = np.array([s.std for s in row if s is not None])
            several = deviations > 0
            if several.any():
                axis.errorbar(
                    x[several],
                    np.asarray(means)[several],
                    deviations[several],
                    fmt="none",
                    ecolor=INK,
                    elinewidth=1.0,
                    capsize=2.5,
                )
        axis.set_xticks(place, groups)
        axis.tick_params(axis="x", length=0)
        figures.turn_labels(axis, groups, figure.get_figwidth() - 0.7)
        axis.set_xlim(-0.6, len(groups) - 0.4)
        axis.grid(axis="x", visible=False)
        # Accuracies that differ by a few points need the room; the axis says where it starts.
        bottom = max(0.0, 10.0 * np.floor((lowest - 0.3 * (highest - lowest)) / 10.0))
        axis.set_ylim(bottom, highest + 0.06 * (highest - bottom) + 0.5)
        start = f" (axis starts at {bottom:.0f})" if bottom else ""
        axis.set_ylabel(f"accuracy in percent{start}")
        title = figures.fitted(title, figure.get_figwidth() - 0.2, size=13.0)
        figure.suptitle(title, x=0.01, ha="left")
        figure.legend(loc="outside lower left", ncols=_beside(list(rows), figure))
    return figure
