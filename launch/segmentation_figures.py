"""The pictures of segmentation reports: pure functions from plain arrays and dicts to matplotlib figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from core_jax.train import report
from core_jax.train.report import GREY, INK, PALETTE, Spread
from launch import figures

# Told apart under the common colour blindnesses: Okabe and Ito's first, then lighter and darker relatives of them.
_CLASSES = (*PALETTE, "#F0E442", "#004C78", "#7BD3B4", "#8C3A00", "#F3B6D6", "#5B6B2F", "#B9A3E3")
_FIRST = "#DADDE1"
_REST = "#4A515B"
_IGNORED = "#FFFFFF"
_NAMES = 6
_SIDE_BY_SIDE = 6
# Of the grid of label maps, in inches: side of a map, space between maps, at the left and on top, above a row, a line.
_SIDE, _GAP, _LEFT, _TOP, _HEAD, _LINE = 1.9, 0.12, 0.55, 0.42, 0.24, 0.165


def split_bars(
    values: Mapping[str, Mapping[str, Mapping[int, float]]], splits: Mapping[str, str], title: str
) -> Any:
    """A score of each split by method: mean over seeds, its standard deviation, and the seeds themselves.

    Args:
      values: method -> split -> seed -> percent, in the order to draw.
      splits: split -> what it asks for, shown below its name.
      title: of the figure.

    Returns:
      The figure; with many methods two splits a row, else all side by side.
    """
    from matplotlib.figure import Figure

    across = len(splits) if len(values) <= _SIDE_BY_SIDE else min(2, len(splits))
    lines = -(-len(splits) // across)
    size = max(6.0, 0.8 + across * max(2.1, 0.6 + 0.42 * len(values)))
    with report.figure_style():
        figure = Figure(figsize=(size, 3.7 * lines + 0.9))
        axes = figure.subplots(lines, squeeze=False, sharey=True)[:, 0]
        names, handles = list(splits), []
        for number, axis in enumerate(axes):
            shown = names[number * across : (number + 1) * across]
            handles = _draw_bars(axis, values, shown)
            texts = [f"{split}\n{splits[split]}" if splits[split] else split for split in shown]
            axis.set_xticks(np.arange(len(shown)), texts)
            axis.set_xlim(-0.5, across - 0.5)
            axis.tick_params(axis="x", length=0, pad=6)
            axis.grid(axis="x", visible=False)
            axis.set_ylabel("percent")
        axes[0].set_ylim(0, None)
        columns = min(len(values), max(2, int(size / 1.8)))
        above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
        axes[0].legend(handles=handles, ncols=columns, handlelength=1.2, **above)
        axes[0].set_title(title, pad=12 + 16 * -(-len(values) // columns))
    return figure


def _draw_bars(
    axis: Any, values: Mapping[str, Mapping[str, Mapping[int, float]]], splits: Sequence[str]
) -> list[Any]:
    """Draws one row of splits; returns what the legend shows."""
    from matplotlib import patches

    width, handles, tones = min(0.2, 0.84 / len(values)), [], figures.colours(values)
    for position, (label, of_splits) in enumerate(values.items()):
        tone, hatch = tones[label], _hatch(label, position)
        shift = (position - (len(values) - 1) / 2) * width
        style = {"facecolor": tone, "hatch": hatch, "edgecolor": "white", "linewidth": 0}
        # Of its own, so that a method without a score in these splits is named too.
        handles.append(patches.Patch(label=label, **style))
        for x, split in enumerate(splits):
            seeds = list(of_splits.get(split, {}).values())
            if not seeds:
                continue
            mean, std, _ = Spread.of(seeds)
            axis.bar(x + shift, mean, 0.9 * width, **style)
            if std > 0:
                axis.errorbar(
                    x + shift, mean, std, fmt="none", ecolor=INK, elinewidth=1.1, capsize=3
                )
                spots = x + shift + np.linspace(-0.22, 0.22, len(seeds)) * width
                dots = {"facecolor": "white", "edgecolor": INK, "linewidths": 0.7}
                axis.scatter(spots, seeds, s=13, zorder=3, **dots)
            axis.annotate(
                f"{mean:.1f}",
                (x + shift, max(mean + std, *seeds)),
                (0, 4),
                textcoords="offset points",
                ha="center",
                va="bottom",
                fontsize=8,
            )
    axis.margins(y=0.1)
    return handles


def label_map_grid(rows: Sequence[Mapping[str, Any]], title: str) -> Any:
    """Pictures with their ground truth and what several methods made of them; the classes' names below each map.

    Within a row a class has one colour: those of the ground truth come first, then what else is predicted, by area.
    Names of classes that are not in the picture are in italics.

    Args:
      rows: {"title": str, "image": uint8 [H W 3], "truth": int [H W] with -1 where ignored, "predictions": {method: int
        [H W]}, "names": class -> name}; the same methods in every row.
      title: of the figure.

    Returns:
      The figure.
    """
    from matplotlib.figure import Figure

    across = 2 + len(rows[0]["predictions"])
    width = _LEFT + across * (_SIDE + _GAP)
    tall = [_SIDE * row["truth"].shape[0] / row["truth"].shape[1] for row in rows]
    below = [_LINE * (_most_names(row) + 1.5) for row in rows]
    height = _TOP + sum(tall) + sum(below) + _HEAD * len(rows)
    with report.figure_style():
        figure = Figure(figsize=(width, height))
        # The places below are exact.
        figure.set_layout_engine("none")
        y = height - _TOP
        for row, picture, legend in zip(rows, tall, below):
            y -= _HEAD + picture
            places = [
                ((_LEFT + k * (_SIDE + _GAP)) / width, y / height, _SIDE / width, picture / height)
                for k in range(across)
            ]
            _draw_row([figure.add_axes(place) for place in places], row)
            y -= legend
        figure.text(_GAP / width, 1 - 0.08 / height, title, va="top", fontsize=13, weight="bold")
    return figure


def _draw_row(axes: Sequence[Any], row: Mapping[str, Any]) -> None:
    truth = np.asarray(row["truth"])
    maps = {name: np.asarray(made) for name, made in row["predictions"].items()}
    tones = class_colours(truth, list(maps.values()))
    axes[0].imshow(row["image"])
    axes[0].set_ylabel(row["title"], fontsize=9.5, labelpad=6)
    for axis, labels in zip(axes[1:], (truth, *maps.values())):
        _draw_map(axis, labels, truth, tones, row["names"])
        if labels is not truth:
            share = f"{100 * pixel_accuracy(labels, truth):.0f} %"
            axis.set_title(share, loc="right", fontsize=9.5, fontweight="normal", pad=4)
    for axis, name in zip(axes, ("picture", "ground truth", *maps)):
        axis.set_title(name, fontsize=9.5, pad=4)
        axis.set(xticks=[], yticks=[])
        axis.grid(visible=False)
        axis.spines[:].set_visible(False)


def pixel_accuracy(made: np.ndarray, truth: np.ndarray) -> float:
    """Share of the pixels that are not ignored whose class is right; 0 where all are ignored."""
    judged = truth >= 0
    return float(np.mean(made[judged] == truth[judged])) if judged.any() else 0.0


def class_colours(truth: np.ndarray, made: Sequence[np.ndarray]) -> dict[int, str]:
    """A colour for each class of a row of maps: those of the ground truth by area, then what else was predicted.

    The largest class of the ground truth is pale, so that the rest stands out; beyond the palette's end classes share
    one dark tone.
    """
    present = by_area(truth)
    others = [
        name for name in by_area(np.concatenate([m.ravel() for m in made])) if name not in present
    ]
    tones = [_FIRST, *_CLASSES] + [_REST] * (len(present) + len(others))
    return dict(zip([*present, *others], tones))


def by_area(labels: np.ndarray) -> list[int]:
    """The classes of a label map, largest first; ignored pixels are no class."""
    found, count = np.unique(labels[labels >= 0], return_counts=True)
    return found[np.argsort(-count, kind="stable")].tolist()


def _draw_map(
    axis: Any,
    labels: np.ndarray,
    truth: np.ndarray,
    tones: Mapping[int, str],
    names: Mapping[int, str] | Sequence[str],
) -> None:
    """A label map in its colours, and below it the names of its largest classes; those not in the picture in italics."""
    from matplotlib import colors

    order = by_area(labels)
    picture = np.empty((*labels.shape, 3))
    picture[:] = colors.to_rgb(_IGNORED)
    for number in order:
        picture[labels == number] = colors.to_rgb(tones[number])
    axis.imshow(picture, interpolation="nearest")
    present = set(by_area(truth))
    style = {"xycoords": "axes fraction", "textcoords": "offset points", "va": "center"}
    for position, number in enumerate(order[:_NAMES]):
        y = -72 * _LINE * (position + 0.8)
        axis.annotate("■", (0, 0), (0, y), color=tones[number], fontsize=9, **style)
        slant = "normal" if number in present else "italic"
        text = figures.short(names[number], 27)
        axis.annotate(text, (0, 0), (11, y), fontsize=7.5, fontstyle=slant, **style)
    if len(order) > _NAMES:
        text, y = f"and {len(order) - _NAMES} more", -72 * _LINE * (_NAMES + 0.8)
        axis.annotate(text, (0, 0), (11, y), color=GREY, fontsize=7.5, **style)


def _most_names(row: Mapping[str, Any]) -> int:
    """Lines of names that the longest list below a map of a row takes."""
    return min(
        _NAMES + 1, max(len(by_area(m)) for m in (row["truth"], *row["predictions"].values()))
    )


def _hatch(label: str, position: int) -> str | None:
    """Methods are plain; variants, whose colours may repeat, are hatched in turns."""
    return None if label in figures.COLOURS else ("///", "...", "\\\\\\")[position % 3]
