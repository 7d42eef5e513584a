"""The pictures of a report: pure functions from plain arrays and dicts to matplotlib figures.

Every function takes its data ready to draw and returns the figure; nothing here reads a file.
"""

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from core_jax.train import report
from core_jax.train.report import GREY, INK, PALETTE

# A method has the same colour in every picture, whichever others stand beside it.
COLOURS = {
    "zeroshot": GREY,
    "coop": PALETTE[4],
    "kgcoop": PALETTE[3],
    "kdpl_online": PALETTE[5],
    "kdpl": PALETTE[0],
    "fdbpl": PALETTE[1],
    "host": "#4A515B",
    "sda": PALETTE[0],
    "cca": PALETTE[2],
    "both": PALETTE[1],
}
PARTS = {"base": "#B8C4D6", "new": "#5B7DB1", "HM": "#1F3A68"}
WEIGHTS = "plasma"
# Methods side by side in one panel of bars.
PANEL = 12


def colours(labels: Iterable[str], own: Mapping[str, str] = COLOURS) -> dict[str, str]:
    """A colour for each label: methods have their own, others take turns with what is left.

    Args:
      labels: all that stand in one picture.
      own: colours of methods.
    """
    labels = list(dict.fromkeys(labels))
    used = {own[label] for label in labels if label in own}
    left = [tone for tone in PALETTE if tone not in used] or list(PALETTE)
    others = [label for label in labels if label not in own]
    turns = {label: left[number % len(left)] for number, label in enumerate(others)}
    return {label: own.get(label) or turns[label] for label in labels}


def dashes(label: str, position: int) -> str:
    """Methods are solid lines; variants, whose colours may repeat, are broken ones that take turns."""
    return "-" if label in COLOURS else ("--", ":", "-.")[position % 3]


def fitted(title: str, inches: float, *, size: float = 11.0) -> str:
    """A bold title in lines that are no longer than so many inches, in a size of letters given in points."""
    return textwrap.fill(title, max(20, int(inches / (0.0083 * size))), break_on_hyphens=False)


def turn_labels(axis: Any, labels: Sequence[str], inches: float) -> None:
    """Turn the labels below a horizontal axis of so many inches, where they have no room beside each other."""
    if 0.085 * max(map(len, labels)) + 0.1 > inches / len(labels):
        for text in axis.get_xticklabels():
            text.set(rotation=25, ha="right", rotation_mode="anchor")


def loss_curves(runs: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str]) -> Any:
    """Metrics against the step, one panel a metric, one line a run.

    Args:
      runs: label -> {"step": [...], metric: [...]}, as read from metrics.jsonl; a run without a metric has no line.
      names: the metrics to draw.

    Returns:
      The figure.
    """
    from matplotlib.figure import Figure

    names = [name for name in names if any(name in run for run in runs.values())]
    columns = min(3, max(1, len(names)))
    height = -(-max(1, len(names)) // columns)
    with report.figure_style():
        figure = Figure(figsize=(4.2 * columns, 2.9 * height + 0.5))
        axes = figure.subplots(height, columns, squeeze=False)
        handles, tones = {}, colours(runs)
        for axis, name in zip(axes.flat, names):
            for position, (label, run) in enumerate(runs.items()):
                if name not in run:
                    continue
                step, value = np.asarray(run["step"]), np.asarray(run[name], float)
                # A term whose count was 0 has no mean; metrics.jsonl says null.
                step, value = step[np.isfinite(value)], value[np.isfinite(value)]
                tone = tones[label]
                axis.plot(step, value, color=tone, alpha=0.22, linewidth=1)
                style = {"color": tone, "linestyle": dashes(label, position), "linewidth": 1.8}
                (handles[label],) = axis.plot(step, smooth(value), label=label, **style)
            axis.set_title(name)
            axis.set_xlabel("step")
            axis.margins(x=0.02)
        for axis in axes.flat[len(names) :]:
            axis.set_visible(False)
        if handles:
            figure.legend(
                handles.values(),
                handles.keys(),
                loc="outside upper left",
                ncols=min(5, len(handles)),
            )
    return figure


def smooth(value: np.ndarray, share: float = 0.05) -> np.ndarray:
    """Centred running mean over a share of the series; the window shrinks at the ends instead of inventing values."""
    reach = int(len(value) * share / 2)
    if reach == 0:
        return value
    total = np.concatenate([[0.0], np.cumsum(value)])
    centre = np.arange(len(value))
    around = np.minimum(np.minimum(centre, len(value) - 1 - centre), reach)
    return (total[centre + around + 1] - total[centre - around]) / (2 * around + 1)


def base_new_bars(rows: Sequence[Mapping[str, Any]], title: str) -> Any:
    """Base, new and harmonic mean of each method, with the standard deviation over seeds.

    Args:
      rows: {"label", "base": (mean, std, ...), "new": ..., "hm": ...} in percent, in the order to draw.
      title: of the figure.

    Returns:
      The figure.
    """
    from matplotlib.figure import Figure

    panels = -(-len(rows) // PANEL)
    each = -(-len(rows) // panels)
    lowest = min(row[key][0] - row[key][1] for row in rows for key in ("base", "new", "hm"))
    highest = max(row[key][0] + row[key][1] for row in rows for key in ("base", "new", "hm"))
    # Accuracies that differ by a few points need the room; the axis says where it starts.
    bottom = max(0.0, 5.0 * np.floor((lowest - 0.6 * (highest - lowest) - 5.0) / 5.0))
    start = f" (axis starts at {bottom:.0f})" if bottom else ""
    with report.figure_style():
        figure = Figure(figsize=(max(6.0, 1.55 * each + 1.6), 4.4 * panels))
        axes = figure.subplots(panels, 1, squeeze=False)[:, 0]
        for number, axis in enumerate(axes):
            part = rows[number * each : (number + 1) * each]
            _base_new_panel(axis, part)
            axis.set_xlim(-0.6, each - 0.4)
            axis.set_ylim(bottom, highest + 0.08 * (highest - bottom))
            axis.set_ylabel(f"accuracy in percent{start}")
            turn_labels(
                axis,
                [row["label"] for row in part],
                (figure.get_figwidth() - 0.7) * len(part) / each,
            )
        axes[0].set_title(fitted(title, figure.get_figwidth() - 0.7), pad=26)
        axes[0].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=3, borderaxespad=0.2)
    return figure


def _base_new_panel(axis: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Three bars a row, with whiskers and numbers."""
    place = np.arange(len(rows), dtype=float)
    for shift, (name, tone) in zip((-0.27, 0.0, 0.27), PARTS.items()):
        mean = [row[name.lower()][0] for row in rows]
        std = [row[name.lower()][1] for row in rows]
        axis.bar(place + shift, mean, 0.25, color=tone, label=name)
        shown = [s > 0 for s in std]
        if any(shown):
            axis.errorbar(
                (place + shift)[shown],
                np.asarray(mean)[shown],
                np.asarray(std)[shown],
                fmt="none",
                ecolor=INK,
                elinewidth=1.1,
                capsize=3,
            )
        for x, m, s in zip(place + shift, mean, std):
            at = {"textcoords": "offset points", "ha": "center", "fontsize": 8}
            axis.annotate(f"{m:.1f}", (x, m + s), (0, 3), **at)
    axis.set_xticks(place, [row["label"] for row in rows])
    axis.tick_params(axis="x", length=0)
    axis.grid(axis="x", visible=False)


def regions(examples: Sequence[Mapping[str, Any]], most: int = 9) -> Any:
    """Stored regions drawn on their pictures, coloured by informativeness w.

    Args:
      examples: {"image": uint8 [H W 3], "box": int [R 4] (top, left, height, width), "w": [R] in [0, 1], "title": str}.
      most: regions drawn on each picture; evenly spaced over the order of w, so that all kinds are seen.

    Returns:
      The figure.
    """
    from matplotlib import cm, colors, patches, patheffects
    from matplotlib.figure import Figure

    columns = min(4, len(examples))
    height = -(-len(examples) // columns)
    scale = cm.ScalarMappable(colors.Normalize(0.0, 1.0), WEIGHTS)
    with report.figure_style():
        figure = Figure(figsize=(2.7 * columns + 1.1, 2.95 * height + 0.6))
        axes = figure.subplots(height, columns, squeeze=False)
        for axis, example in zip(axes.flat, examples):
            image = np.asarray(example["image"])
            axis.imshow(image)
            order = np.argsort(example["w"], kind="stable")
            chosen = order[
                np.unique(np.linspace(0, len(order) - 1, min(most, len(order))).astype(int))
            ]
            for region in chosen:
                top, left, tall, wide = (float(v) for v in example["box"][region])
                axis.add_patch(
                    patches.Rectangle(
                        (left - 0.5, top - 0.5),
                        wide,
                        tall,
                        fill=False,
                        linewidth=1.6,
                        edgecolor=scale.cmap(float(example["w"][region])),
                        # A light edge keeps dark tones apart from dark pictures.
                        path_effects=[
                            patheffects.withStroke(linewidth=2.8, foreground="#FFFFFFB0")
                        ],
                        clip_on=False,
                    )
                )
            axis.set_title(example["title"], fontsize=9)
            axis.set_xlim(-0.5, image.shape[1] - 0.5)
            axis.set_ylim(image.shape[0] - 0.5, -0.5)
            axis.axis("off")
        for axis in axes.flat[len(examples) :]:
            axis.set_visible(False)
        figure.colorbar(
            scale,
            ax=axes,
            shrink=0.85,
            pad=0.02,
            label="informativeness w",
        )
        figure.suptitle("Regions of the lookup, coloured by informativeness", x=0.01, ha="left")
    return figure


def similarity_scatter(
    positive: np.ndarray, negative: np.ndarray, w: np.ndarray, title: str
) -> Any:
    """Similarity of each region with its class's positive prompt against that with its negative prompt.

    Args:
      positive: cosine with the positive text feature of the teacher's class, [N].
      negative: the same with the negative text feature, [N].
      w: informativeness of the regions, [N].
      title: of the figure.

    Returns:
      The figure; points above the line (equal similarity) are nearer to the positive prompt.
    """
    from matplotlib import cm, colors
    from matplotlib.figure import Figure

    with report.figure_style():
        figure = Figure(figsize=(6.6, 4.8))
        axis = figure.subplots()
        order = np.argsort(w, kind="stable")
        axis.scatter(
            negative[order],
            positive[order],
            c=w[order],
            cmap=WEIGHTS,
            vmin=0.0,
            vmax=1.0,
            s=16,
            alpha=0.8,
            linewidths=0,
        )
        for values, limit in ((negative, axis.set_xlim), (positive, axis.set_ylim)):
            low, high = float(values.min()), float(values.max())
            room = 0.04 * (high - low) or 0.01
            limit(low - room, high + room)
        axis.axline((0.0, 0.0), slope=1.0, color=GREY, linewidth=1, zorder=0)
        axis.set_xlabel("cosine with the negative prompt")
        axis.set_ylabel("cosine with the positive prompt")
        above = 100.0 * float(np.mean(positive > negative))
        axis.set_title(title, pad=20)
        axis.annotate(
            f"{len(positive)} regions, {above:.1f} % of them nearer to the positive prompt (above the line)",
            (0.0, 1.0),
            (0, 6),
            xycoords="axes fraction",
            textcoords="offset points",
            fontsize=9,
        )
        scale = cm.ScalarMappable(colors.Normalize(0.0, 1.0), WEIGHTS)
        figure.colorbar(scale, ax=axis, label="informativeness w", shrink=0.9, pad=0.02)
    return figure


def time_bars(runs: Mapping[str, Mapping[str, float]], title: str) -> Any:
    """Where the time of each run went: one stacked bar a run.

    Args:
      runs: label -> {part: seconds}.
      title: of the figure.

    Returns:
      The figure.
    """
    from matplotlib.figure import Figure

    parts = list(dict.fromkeys(part for run in runs.values() for part in run))
    longest = max(sum(run.values()) for run in runs.values()) or 1.0
    with report.figure_style():
        figure = Figure(figsize=(8.4, 0.52 * len(runs) + 1.9))
        axis = figure.subplots()
        place = np.arange(len(runs), dtype=float)
        left = np.zeros(len(runs))
        for position, part in enumerate(parts):
            width = np.array([run.get(part, 0.0) for run in runs.values()])
            axis.barh(
                place, width, 0.62, left=left, color=PALETTE[position % len(PALETTE)], label=part
            )
            for y, x, value in zip(place, left, width):
                if value > 0.09 * longest:
                    axis.text(
                        x + value / 2,
                        y,
                        report.seconds(value),
                        ha="center",
                        va="center",
                        fontsize=8,
                        color="white",
                    )
            left += width
        for y, total in zip(place, left):
            axis.text(total + 0.01 * longest, y, report.seconds(total), va="center", fontsize=9)
        axis.set_yticks(place, list(runs))
        axis.tick_params(axis="y", length=0)
        axis.invert_yaxis()
        axis.grid(axis="y", visible=False)
        axis.set_xlim(0, 1.14 * longest)
        axis.set_xlabel("seconds")
        axis.set_title(title)
        figure.legend(
            *axis.get_legend_handles_labels(), loc="outside lower center", ncols=min(6, len(parts))
        )
    return figure


def picture_grid(pictures: Sequence[Mapping[str, Any]]) -> Any:
    """Pictures with their most probable classes.

    Args:
      pictures: {"image": uint8 [H W 3], "title": str, "names": k names, "probabilities": k numbers in [0, 1]}, best first.

    Returns:
      The figure: a picture and its bars side by side, two such pairs a row.
    """
    from matplotlib.figure import Figure

    across = min(2, len(pictures))
    height = -(-len(pictures) // across)
    with report.figure_style():
        figure = Figure(figsize=(5.6 * across, 2.3 * height))
        axes = figure.subplots(height, 2 * across, squeeze=False, width_ratios=[1.0, 1.35] * across)
        for axis in axes.flat[2 * len(pictures) :]:
            axis.set_visible(False)
        for position, picture in enumerate(pictures):
            shown, bars = axes.flat[2 * position], axes.flat[2 * position + 1]
            shown.imshow(picture["image"])
            shown.axis("off")
            shown.set_title(short(picture["title"], 28), fontsize=9, fontweight="normal")
            place = np.arange(len(picture["names"]))
            chance = np.asarray(picture["probabilities"], float)
            bars.barh(place, 1.0, 0.16, color="#EDF0F3")
            bars.barh(place, chance, 0.16, color=[PALETTE[0]] + ["#8FB8D8"] * (len(place) - 1))
            for y, name, p in zip(place, picture["names"], chance):
                words = {"va": "bottom", "fontsize": 8.5}
                bars.text(0.0, y - 0.13, short(name, 28), **words)
                bars.text(1.0, y - 0.13, f"{100 * p:.1f} %", ha="right", **words)
            bars.set_xlim(0, 1)
            bars.set_ylim(-0.75, len(place) - 0.7)
            bars.set_yticks([])
            bars.set_xticks([])
            bars.invert_yaxis()
            bars.grid(visible=False)
            for spine in bars.spines.values():
                spine.set_visible(False)
    return figure


def short(text: str, most: int) -> str:
    """A text, cut to so many characters."""
    return text if len(text) <= most else text[: most - 1] + "…"
