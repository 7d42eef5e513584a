"""Figures: what they show is what they were given, and no text lies on another."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Text

from core_jax.train import report
from launch import figures

RNG = np.random.default_rng(0)
LABELS = (
    "zeroshot",
    "coop",
    "kdpl_online",
    "fdbpl",
    "fdbpl, no negative prompt",
    "fdbpl, no cascade",
)


def overlaps(figure) -> list[tuple[str, str]]:
    """Pairs of visible texts of a figure whose boxes intersect."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with report.figure_style():
        canvas.draw()
    renderer = canvas.get_renderer()
    boxes = []
    # Ticks beyond the limits of their axis keep a label that is never drawn.
    unseen = set()
    for axis in (part for axes in figure.axes for part in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        for tick in axis.get_major_ticks():
            if not low <= tick.get_loc() <= high:
                unseen |= {tick.label1, tick.label2}
    for text in figure.findobj(Text):
        shown = text.get_visible() and text.get_text().strip() and text not in unseen
        if shown and text.get_rotation() % 90 == 0:
            boxes.append((text.get_text(), text.get_window_extent(renderer)))
    # One pixel of contact is no overlap.
    return [
        (a, b)
        for (a, box), (b, other) in itertools.combinations(boxes, 2)
        if min(box.x1, other.x1) - max(box.x0, other.x0) > 1
        and min(box.y1, other.y1) - max(box.y0, other.y0) > 1
    ]


def test_loss_curves_draw_each_run_where_it_has_the_metric():
    step = np.arange(10, 210, 10)
    runs = {"coop": {"step": step, "loss": RNG.random(20)}}
    runs["fdbpl"] = {"step": step, "loss": RNG.random(20), "negative": RNG.random(20)}
    figure = figures.loss_curves(runs, ["loss", "negative", "absent"])
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert [axis.get_title("left") for axis in shown] == ["loss", "negative"]
    raw = shown[0].lines[2]
    np.testing.assert_array_equal(raw.get_xdata(), step)
    np.testing.assert_array_equal(raw.get_ydata(), runs["fdbpl"]["loss"])
    assert len(shown[1].lines) == 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["coop", "fdbpl"]
    assert not overlaps(figure)


def test_loss_curves_leave_out_what_has_no_value():
    run = {"step": [1, 2, 3], "loss": [1.0, None, 3.0]}
    figure = figures.loss_curves({"coop": run}, ["loss"])
    np.testing.assert_array_equal(figure.axes[0].lines[0].get_xdata(), [1, 3])
    np.testing.assert_array_equal(figure.axes[0].lines[1].get_ydata(), [1.0, 3.0])


def test_smoothing_keeps_constants_lines_and_length():
    np.testing.assert_allclose(figures.smooth(np.full(200, 3.0)), 3.0)
    line = np.arange(200.0)
    np.testing.assert_allclose(figures.smooth(line), line)
    np.testing.assert_array_equal(figures.smooth(np.array([1.0, 5.0])), [1.0, 5.0])


@pytest.mark.parametrize("count", [1, 4, 6])
def test_bars_have_the_heights_of_their_numbers(count):
    rows = [
        {
            "label": name,
            "base": (60.0 + i, 1.0, 3),
            "new": (50.0 + i, 0.5, 3),
            "hm": (54.5 + i, 0.0, 3),
        }
        for i, name in enumerate(LABELS[:count])
    ]
    figure = figures.base_new_bars(rows, "Base to new")
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert heights == [row[key][0] for key in ("base", "new", "hm") for row in rows]
    bottom, top = figure.axes[0].get_ylim()
    assert bottom <= 49
    assert top > max(heights) + 1
    assert f"axis starts at {bottom:.0f}" in figure.axes[0].get_ylabel()
    assert not overlaps(figure)


def test_regions_lie_where_their_boxes_say():
    image = np.zeros((40, 60, 3), np.uint8)
    box = np.array([[0, 0, 40, 60], [10, 20, 5, 6], [3, 4, 10, 10]], np.uint16)
    example = {"image": image, "box": box, "w": np.array([0.0, 1.0, 0.5]), "title": "a ring"}
    figure = figures.regions([example] * 5)
    drawn = {patch.get_bbox().bounds for patch in figure.axes[0].patches}
    assert drawn == {(-0.5, -0.5, 60, 40), (19.5, 9.5, 6, 5), (3.5, 2.5, 10, 10)}
    assert not overlaps(figure)


def test_scatter_counts_the_points_above_the_diagonal():
    positive, negative = np.array([0.3, 0.4, 0.1, 0.5]), np.array([0.2, 0.2, 0.2, 0.2])
    figure = figures.similarity_scatter(positive, negative, np.array([0.9, 0.8, 0.1, 1.0]), "fdbpl")
    points = figure.axes[0].collections[0]
    order = [2, 1, 0, 3]
    np.testing.assert_allclose(points.get_offsets(), np.stack([negative, positive], 1)[order])
    np.testing.assert_allclose(points.get_array(), [0.1, 0.8, 0.9, 1.0])
    (low, high), (bottom, top) = figure.axes[0].get_xlim(), figure.axes[0].get_ylim()
    assert low < negative.min() <= negative.max() < high
    assert bottom < positive.min() <= positive.max() < top
    assert any("4 regions, 75.0 %" in text.get_text() for text in figure.axes[0].texts)
    assert not overlaps(figure)


def test_time_bars_stack_to_the_total():
    runs = {"coop": {"step": 100.0, "data wait": 20.0}, "fdbpl": {"step": 6.0, "saving": 1.0}}
    figure = figures.time_bars(runs, "Where the time went")
    axis = figure.axes[0]
    ends = {}
    for bar in axis.patches:
        y = round(bar.get_y() + bar.get_height() / 2)
        ends[y] = max(ends.get(y, 0.0), bar.get_x() + bar.get_width())
    assert ends == {0: 120.0, 1: 7.0}
    assert {"2 min 00 s", "7.0 s", "1 min 40 s"} <= {text.get_text() for text in axis.texts}
    assert not overlaps(figure)


@pytest.mark.parametrize("count", [1, 3])
def test_picture_grid_shows_names_and_percentages(count):
    picture = {
        "image": np.zeros((8, 8, 3), np.uint8),
        "title": "a/very/long/path/to/some/picture.png",
        "names": ["red striped ring", "blue dotted star with a very long name"],
        "probabilities": [0.75, 0.125],
    }
    figure = figures.picture_grid([picture] * count)
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert texts == ["red striped ring", "75.0 %", "blue dotted star with a ver…", "12.5 %"]
    assert not overlaps(figure)
