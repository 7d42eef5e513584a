"""Figures of segmentation reports: bars, colours and names are those of what was given, and no text lies on another."""

import matplotlib.colors
import numpy as np
import pytest

from core_jax.train.report import Spread
from launch import segmentation_figures as figures
from tests.launch.test_figures import overlaps

RNG = np.random.default_rng(0)
SPLITS = {"val": "seen words, known styles", "novel": "unseen words, known styles", "own": ""}
METHODS = ("zeroshot", "host", "sda", "cca", "both", "both+released", "both+norm_none")


@pytest.mark.parametrize("count", [1, 5, 7])
def test_bars_have_the_heights_of_their_means(count):
    values = {
        method: {split: {seed: 20 + 10 * RNG.random() for seed in (1, 2, 3)} for split in SPLITS}
        for method in METHODS[:count]
    }
    figure = figures.split_bars(values, SPLITS, "mIoU, world_scenes (CLIP world:student)")
    heights = sorted(bar.get_height() for axis in figure.axes for bar in axis.patches)
    means = [Spread.of(seeds.values()).mean for m in values.values() for seeds in m.values()]
    np.testing.assert_allclose(heights, sorted(means))
    dots = [c for axis in figure.axes for c in axis.collections if len(c.get_offsets()) == 3]
    assert len(dots) == count * len(SPLITS)
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == list(values)
    # Two splits a row where there are many methods, on one scale.
    assert len(figure.axes) == (2 if count > 6 else 1)
    assert len({axis.get_ylim() for axis in figure.axes}) == 1
    assert not overlaps(figure)


def test_a_score_that_is_missing_leaves_a_gap():
    figure = figures.split_bars({"host": {"val": {1: 3.0}}, "both": {}}, {"val": ""}, "mIoU")
    assert [bar.get_height() for bar in figure.axes[0].patches] == [3.0]
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["host", "both"]
    assert not overlaps(figure)


def test_label_maps_show_their_classes_in_the_rows_colours():
    truth = np.zeros((12, 16), np.int32)
    truth[:4, :4], truth[4:8, :8], truth[0, 0] = 3, 7, -1
    made = truth.copy()
    made[4:8, :8], made[0, 0] = 9, 0
    names = {k: f"class {k}" for k in range(10)}
    row = {"title": "+1.0 points", "image": np.zeros((12, 16, 3), np.uint8), "names": names}
    row |= {"truth": truth, "predictions": {"host": made, "+both": truth.clip(0)}}
    figure = figures.label_map_grid([row, row], "Successes")
    assert len(figure.axes) == 8
    tones = figures.class_colours(truth, [made])
    assert len(set(tones.values())) == 4
    drawn = figure.axes[2].images[0].get_array()
    for number in (0, 3, 9):
        shown = np.unique(drawn[made == number], axis=0)
        np.testing.assert_allclose(shown, [matplotlib.colors.to_rgb(tones[number])])
    # The ignored pixel of the ground truth is white.
    np.testing.assert_allclose(figure.axes[1].images[0].get_array()[0, 0], 1.0)
    texts = {t.get_text(): t.get_fontstyle() for t in figure.axes[2].texts if len(t.get_text()) > 1}
    assert texts == {"class 0": "normal", "class 9": "italic", "class 3": "normal"}
    assert figure.axes[2].get_title("right") == f"{100 * (1 - 32 / 191):.0f} %"
    assert not overlaps(figure)


def test_many_classes_are_counted_not_listed():
    truth = np.arange(64, dtype=np.int32).reshape(8, 8)
    row = {"title": "", "image": np.zeros((8, 8, 3), np.uint8), "truth": truth}
    row |= {"predictions": {"host": truth}, "names": ["a class with a name much too long"] * 64}
    figure = figures.label_map_grid([row], "Many")
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert texts[1] == "a class with a name much t…"
    assert texts[-1] == "and 58 more"
    assert not overlaps(figure)


def test_pixel_accuracy_leaves_out_what_is_ignored():
    truth = np.array([[0, 1, -1, 2]])
    assert figures.pixel_accuracy(np.array([[0, 1, 5, 0]]), truth) == pytest.approx(2 / 3)
    assert figures.pixel_accuracy(truth, np.full_like(truth, -1)) == 0.0


def test_areas_order_the_classes():
    assert figures.by_area(np.array([[4, 4, 4, -1], [2, 2, 9, -1]])) == [4, 2, 9]
