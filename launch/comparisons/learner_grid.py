"""Learners against supervisions: the rows of FDBPL's comparison as a grid, and as accuracy against training time.

What a row learns and from what is looked up in `launch.comparisons.fdbpl.METHODS`; variants stand in the plain tables alone.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from core_jax.train import report
from core_jax.train.report import GREY, PALETTE, Table
from launch import figures, results

SUPERVISIONS = {
    "ce": "hard labels",
    "kdpl_online": "KDPL online",
    "kdpl": "KDPL from lookup",
    "fdbpl": "FDBPL",
}
"""Supervision to what a grid calls it, in the order of its columns; the teacher of FDBPL is the lookup."""

_MARKERS = "osD^vP*Xd"

Grid = dict[str, dict[str, results.Summary]]


def grid(items: Sequence[results.Summary], methods: Mapping[str, Mapping[str, Any]]) -> Grid:
    """Learner to supervision to row, of rows that may be ranked together.

    Args:
      items: a group of `results.grouped`.
      methods: label to what it changes, as METHODS of the comparison.

    Returns:
      In the order of `methods`; without zero-shot, variants and rows of no learner.
    """
    rows = {item.label: item for item in items}
    found: Grid = {}
    for label, how in methods.items():
        supervision = str(how.get("method"))
        if how.get("teacher_source") == "online":
            supervision += "_online"
        if label in rows and "learner" in how and supervision in SUPERVISIONS:
            found.setdefault(str(how["learner"]), {})[supervision] = rows[label]
    return found


def zeroshot(items: Sequence[results.Summary]) -> results.Summary | None:
    """The student without training, if it is among the rows."""
    return next((item for item in items if item.label == "zeroshot"), None)


def tables(items: Sequence[results.Summary], found: Grid) -> list[Table]:
    """Harmonic means and training seconds, a row a learner and a column a supervision; none of one learner alone.

    Args:
      items: the rows, with zero-shot if it is among them.
      found: their grid.
    """
    if len(found) < 2:
        return []
    untrained = zeroshot(items)
    columns = ("learner", "zero-shot", *SUPERVISIONS.values())
    note = "Mean ± standard deviation over seeds. Zero-shot is the same student in every row."

    def rows(cell: str) -> tuple[tuple[Any, ...], ...]:
        first = getattr(untrained, cell) if untrained and cell == "hm" else None
        return tuple(
            (learner, first, *(getattr(row.get(name), cell, None) for name in SUPERVISIONS))
            for learner, row in found.items()
        )

    return [
        Table(
            title=results.heading("Harmonic mean of base and new, %", items[0]),
            columns=columns,
            rows=rows("hm"),
            best=columns[2:],
            note=note,
        ),
        Table(
            title=results.heading("Training, wall-clock seconds", items[0]),
            columns=columns,
            rows=rows("seconds_train"),
            lowest=columns[2:],
            note="Without building the lookup, which all runs share, and without evaluation.",
        ),
    ]


def figure(items: Sequence[results.Summary], found: Grid, title: str) -> Any:
    """Harmonic mean against training seconds: colour is supervision, shape is learner, whiskers are deviations.

    Args: as of `tables`.

    Returns:
      A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    colours = dict(zip(SUPERVISIONS, (PALETTE[4], PALETTE[5], PALETTE[0], PALETTE[1])))
    markers = dict(zip(found, _MARKERS, strict=False))
    untrained = zeroshot(items)
    with report.figure_style():
        drawn = Figure(figsize=(9.0, 5.4))
        axis = drawn.subplots()
        if untrained and untrained.hm:
            axis.axhline(untrained.hm.mean, color=GREY, linestyle="--", linewidth=1.2)
        for learner, row in found.items():
            for supervision, item in row.items():
                if item.hm and item.seconds_train:
                    axis.errorbar(
                        item.seconds_train.mean,
                        item.hm.mean,
                        xerr=item.seconds_train.std,
                        yerr=item.hm.std,
                        color=colours[supervision],
                        marker=markers[learner],
                        markersize=7,
                        linewidth=0.8,
                    )
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.set_title(figures.fitted(title, 6.0))
        axis.set(xlabel="training, s", ylabel="harmonic mean of base and new, %")
        used = [name for name in SUPERVISIONS if any(name in row for row in found.values())]
        plain: dict[str, Any] = {"linestyle": "none", "markersize": 7}
        handles = [
            Line2D([], [], color=colours[name], marker="o", label=SUPERVISIONS[name], **plain)
            for name in used
        ]
        handles += [
            Line2D([], [], color=report.INK, marker=markers[learner], label=learner, **plain)
            for learner in found
        ]
        if untrained and untrained.hm:
            handles.append(Line2D([], [], color=GREY, linestyle="--", label="zero-shot"))
        drawn.legend(handles=handles, loc="outside right upper")
    return drawn
