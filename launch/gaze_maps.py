"""Maps, matrices and picture grids of gaze reports: pure functions from plain arrays and dicts to matplotlib figures."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from core_jax.train import report
from core_jax.train.report import INK, Spread
from launch import figures

_ERRORS = "YlOrRd"
_TRUTH, _ANSWER = "#00C46A", "#FF3B30"


def angle_map(
    maps: Mapping[str, tuple[np.ndarray, np.ndarray]], title: str, cells: int = 12
) -> Any:
    """Mean error over the true directions: where in the range a method errs.

    Args:
      maps: method -> (true (pitch, yaw) in degrees (n, 2), angular errors (n,)); the same scale for all.
      title: of the figure.
      cells: along each axis.

    Returns:
      The figure: yaw runs as in the picture, positive to the left; cells without a picture stay empty.
    """
    from matplotlib import cm, colors
    from matplotlib.figure import Figure

    gaze = np.concatenate([gaze for gaze, _ in maps.values()])
    # Rare extremes would make every cell wide.
    (low_t, low_p), (high_t, high_p) = np.percentile(gaze, [0.5, 99.5], axis=0)
    pitch, yaw = np.linspace(low_t, high_t, cells + 1), np.linspace(low_p, high_p, cells + 1)
    found = {}
    for label, (directions, errors) in maps.items():
        count, *_ = np.histogram2d(*directions.T, bins=(pitch, yaw))
        total, *_ = np.histogram2d(*directions.T, bins=(pitch, yaw), weights=errors)
        found[label] = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    top = max(float(np.nanpercentile(mean, 98)) for mean in found.values())
    scale = cm.ScalarMappable(colors.Normalize(0.0, top), _ERRORS)
    across = min(3, len(found))
    lines = -(-len(found) // across)
    with report.figure_style():
        figure = Figure(figsize=(3.5 * across + 1.2, 3.1 * lines + 0.6))
        axes = figure.subplots(lines, across, squeeze=False, sharex=True, sharey=True)
        for axis in axes.flat[len(found) :]:
            axis.set_visible(False)
        for axis, (label, mean) in zip(axes.flat, found.items()):
            axis.pcolormesh(yaw, pitch, mean, cmap=_ERRORS, norm=scale.norm)
            axis.set_title(label, fontsize=10)
            axis.grid(visible=False)
            axis.set_xlim(high_p, low_p)
        for axis in axes[-1]:
            axis.set_xlabel("yaw, degrees")
        for axis in axes[:, 0]:
            axis.set_ylabel("pitch, degrees")
        figure.colorbar(scale, ax=axes, label="mean error, degrees", shrink=0.9, pad=0.02)
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def domain_matrices(
    matrices: Mapping[str, Mapping[str, Mapping[str, Spread | None]]],
    own: Callable[[str, str, str], bool],
    title: str,
) -> Any:
    """Errors on data sets that were seen in training and on others.

    Args:
      matrices: heading -> row -> judged on -> Spread.
      own: whether a cell (heading, row, judged on) is of the set that was trained on.
      title: of the figure.

    Returns:
      The figure; framed cells are of the set that was trained on.
    """
    from matplotlib import colors, patches
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for rows in matrices.values() for name in rows))
    judged = list(
        dict.fromkeys(n for rows in matrices.values() for row in rows.values() for n in row)
    )
    means = [
        x.mean for rows in matrices.values() for row in rows.values() for x in row.values() if x
    ]
    norm = colors.Normalize(0.0, max(means))
    across = min(3, len(matrices))
    lines = -(-len(matrices) // across)
    longest = max(map(len, names))
    size = (0.95 * len(judged) + 0.075 * longest + 0.5, 0.5 * len(names) + 1.1)
    with report.figure_style():
        figure = Figure(figsize=(max(5.0, across * size[0] + 0.4), lines * size[1] + 0.8))
        axes = figure.subplots(lines, across, squeeze=False)
        for axis in axes.flat[len(matrices) :]:
            axis.set_visible(False)
        for axis, (label, rows) in zip(axes.flat, matrices.items()):
            cells = [[rows.get(a, {}).get(b) for b in judged] for a in names]
            values = [[np.nan if x is None else x.mean for x in row] for row in cells]
            axis.imshow(values, cmap=_ERRORS, norm=norm, aspect="auto")
            for i, row in enumerate(cells):
                for j, cell in enumerate(row):
                    if cell is None:
                        continue
                    tone = "white" if norm(cell.mean) > 0.65 else INK
                    text = f"{cell.mean:.1f}" + (f"\n±{cell.std:.1f}" if cell.count > 1 else "")
                    axis.text(j, i, text, ha="center", va="center", color=tone, fontsize=8.5)
                    if own(label, names[i], judged[j]):
                        frame = {"fill": False, "edgecolor": INK, "linewidth": 1.6}
                        axis.add_patch(patches.Rectangle((j - 0.48, i - 0.46), 0.96, 0.92, **frame))
            axis.set_xticks(range(len(judged)), judged, fontsize=8.5)
            axis.set_yticks(range(len(names)), names, fontsize=8.5)
            axis.tick_params(length=0)
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
            axis.set_title(label, fontsize=10)
            axis.set_xlabel("judged on", fontsize=9)
        figure.suptitle(title, x=0.01, ha="left")
    return figure


def sample_grid(rows: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Any:
    """Pictures with the true and the answered direction as arrows.

    Args:
      rows: heading -> {"image": uint8 [H W c], "gaze": true (pitch, yaw), "answer": likewise, "error", "text"}, degrees.
      title: of the figure.

    Returns:
      The figure: a row a heading; arrows start in the middle of the picture, and the longest reaches a border.
    """
    from matplotlib.figure import Figure

    across = max(len(samples) for samples in rows.values())
    height, width = next(iter(rows.values()))[0]["image"].shape[:2]
    ends = np.abs(
        [_projected(s[name]) for row in rows.values() for s in row for name in ("gaze", "answer")]
    )
    scale = 0.47 / max(float((ends * [1.0, width / height]).max()), 1e-3)
    wide = 1.75 if width > 1.3 * height else 1.5
    tall = wide * height / width + 0.42
    with report.figure_style():
        figure = Figure(figsize=(wide * across + 0.6, tall * len(rows) + 0.8))
        axes = figure.subplots(len(rows), across, squeeze=False)
        for axis in axes.flat:
            axis.set(xticks=[], yticks=[])
            axis.grid(visible=False)
            axis.spines[:].set_visible(False)
        for line, (heading, samples) in zip(axes, rows.items()):
            line[0].set_ylabel(heading, fontsize=9.5)
            for axis, sample in zip(line, samples):
                _draw_sample(axis, sample, scale)
        figure.suptitle(title, x=0.01, ha="left")
        marks = [_line(_TRUTH), _line(_ANSWER)]
        figure.legend(marks, ["truth", "answer"], loc="outside lower left", ncols=2)
    return figure


def _draw_sample(axis: Any, sample: Mapping[str, Any], scale: float) -> None:
    image = sample["image"]
    height, width = image.shape[:2]
    shown = image[..., 0] if image.shape[-1] == 1 else image
    axis.imshow(shown, cmap="gray", vmin=0, vmax=255)
    axis.set_title(f"{sample['error']:.1f}°", fontsize=9, fontweight="normal", pad=3)
    axis.set_xlabel(figures.short(sample["text"], 22), fontsize=7.5, labelpad=2)
    for name, tone in (("gaze", _TRUTH), ("answer", _ANSWER)):
        x, y = scale * _projected(sample[name])
        style = {"arrowstyle": "-|>", "color": tone, "linewidth": 1.6, "shrinkA": 0, "shrinkB": 0}
        axis.annotate(
            "",
            (width / 2 + width * x, height / 2 + width * y),
            (width / 2, height / 2),
            arrowprops=style,
            annotation_clip=False,
        )
    axis.set_xlim(-0.5, width - 0.5)
    axis.set_ylim(height - 0.5, -0.5)


def _projected(gaze_deg: Any) -> np.ndarray:
    """A direction in the picture, x right and y down: yaw > 0 looks towards image left, pitch > 0 up."""
    pitch, yaw = np.radians(gaze_deg)
    return np.array([-np.cos(pitch) * np.sin(yaw), -np.sin(pitch)])


def _line(tone: str) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([], [], color=tone, linewidth=2)
