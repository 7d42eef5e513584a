"""The figures of gaze reports: what is drawn where, not how it looks."""

import numpy as np
import pytest

from core_jax.train.report import PALETTE, Spread
from launch import gaze_figures, gaze_maps


def legend(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_variants_get_colours_that_no_method_beside_them_has():
    tones = gaze_figures.colours(["drnet", "drnet+w25", "absolute", "mine", "drnet"])
    assert len(set(tones.values())) == 4
    assert tones["drnet"] == gaze_figures.colours(["drnet"])["drnet"]
    many = gaze_figures.colours([f"x{i}" for i in range(20)])
    assert set(many.values()) == set(PALETTE)


def test_bars_are_the_means_with_their_interval():
    rows = [
        {"label": "a", "name": "a, 1 image", "mean": 5.0, "low": 4.0, "high": 7.0, "seeds": [4, 6]},
        {"label": "b", "name": "b, 1 image", "mean": 3.0, "low": 2.0, "high": 3.5, "seeds": [3]},
    ]
    (axis,) = gaze_figures.error_bars(rows, "t").axes
    assert [bar.get_width() for bar in axis.patches] == [5.0, 3.0]
    assert [text.get_text() for text in axis.get_yticklabels()] == ["a, 1 image", "b, 1 image"]
    reach = axis.collections[0].get_segments()[0][:, 0]
    np.testing.assert_allclose(reach, [4.0, 7.0])


def test_one_image_is_a_level_beside_the_curves():
    lines = {
        ("drnet", "single"): {0: Spread(6.0, 0.1, 3)},
        ("drnet", "calib"): {1: Spread(6.0, 0.1, 3), 9: Spread(5.5, 0.1, 3)},
        ("diffnn", "diffnn"): {9: Spread(5.0, 0.0, 1)},
    }
    figure = gaze_figures.error_by_k(lines, "t")
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["1", "9"]
    assert set(legend(figure)) == {"drnet, 1 image", "drnet, calib", "diffnn"}
    (level,) = [line for line in axis.lines if line.get_label() == "drnet, 1 image"]
    assert set(level.get_ydata()) == {6.0}


def test_noise_has_a_row_a_part_and_a_column_a_kind():
    curve = {("drnet", "calib"): {0.0: 5.0, 1.0: 6.0, 5.0: 9.0}}
    panels = {("query", "defocus"): curve, ("references", "low_light"): curve}
    figure = gaze_figures.noise_curves(panels, "t")
    shown = [axis for axis in figure.axes if axis.get_visible()]
    assert (len(figure.axes), len(shown)) == (4, 2)
    np.testing.assert_allclose(shown[0].lines[0].get_xydata(), [[0, 5], [1, 6], [5, 9]])
    assert shown[0].get_ylim()[0] == 0
    assert legend(figure) == ["drnet, calib"]


def test_persons_come_from_the_easiest_to_the_hardest():
    values = {
        ("a", "a, 1 image"): {"x": 5.0, "y": 2.0, "z": 3.0},
        ("b", "b, 1 image"): {"x": 5.0, "y": 2.5},
    }
    (axis,) = gaze_figures.person_bars(values, "t").axes
    assert [text.get_text() for text in axis.get_xticklabels()] == ["y", "z", "x"]
    assert [bar.get_height() for bar in axis.patches] == [2.0, 3.0, 5.0, 2.5, 5.0]


def test_maps_average_within_cells_and_leave_empty_ones_empty():
    gaze = np.array([[-10.0, -20.0], [-10.0, -20.0], [10.0, 20.0], [10.0, 20.0]])
    maps = {"a": (gaze, np.array([1.0, 3.0, 5.0, 5.0]))}
    figure = gaze_maps.angle_map(maps, "t", cells=2)
    axis = figure.axes[0]
    values = np.ma.filled(axis.collections[0].get_array(), np.nan).reshape(2, 2)
    np.testing.assert_allclose(values, [[2.0, np.nan], [np.nan, 5.0]])
    # As in the picture: positive yaws to the left.
    left, right = axis.get_xlim()
    assert left > right


def test_matrices_frame_the_set_that_was_trained_on():
    cells = {"r": {"A": Spread(5.0, 0.2, 3), "B": Spread(9.0, 0.0, 1)}, "s": {"B": None}}
    figure = gaze_maps.domain_matrices({"h": cells}, lambda h, r, j: j == "A", "t")
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.texts] == ["5.0\n±0.2", "9.0"]
    assert len(axis.patches) == 1


@pytest.mark.parametrize(
    ("gaze", "x", "y"),
    [((0.0, 20.0), -1, 0), ((0.0, -20.0), 1, 0), ((20.0, 0.0), 0, -1), ((-20.0, 0.0), 0, 1)],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_arrows_point_where_the_eye_looks(gaze, x, y, channels):
    """Yaw > 0 to image left, pitch > 0 up; in pictures y runs down."""
    sample = {
        "image": np.zeros((36, 60, channels), np.uint8),
        "gaze": gaze,
        "answer": (0.0, 0.0),
        "error": 20.0,
        "text": "p00",
    }
    axis = gaze_maps.sample_grid({"best": [sample]}, "t").axes[0]
    truth = next(one for one in axis.texts if one.arrow_patch is not None)
    start, tip = np.array([30.0, 18.0]), np.array(truth.xy)
    np.testing.assert_array_equal(truth.xyann, start)
    np.testing.assert_array_equal(np.sign(np.round(tip - start, 6)), [x, y])
    # The longest arrow stays inside the picture.
    assert 0 <= tip[0] <= 60
    assert 0 <= tip[1] <= 36
