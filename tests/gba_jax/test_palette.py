"""Colours that people can tell apart and that stay; overlays with contours, names and a legend."""

import itertools

import numpy as np
import pytest
from PIL import Image

from gba_jax import palette


@pytest.fixture
def legends(monkeypatch):
    """What is written into legends."""
    seen = []
    original = palette._with_legend

    def spy(picture, entries, font):
        seen.append([(name, round(share, 4), colour) for name, share, colour in entries])
        return original(picture, entries, font)

    monkeypatch.setattr(palette, "_with_legend", spy)
    return seen


def test_a_colour_does_not_depend_on_how_many_there_are():
    many = palette.colours(2000)
    assert many.shape == (2000, 3)
    assert many.dtype == np.uint8
    for count in (1, 2, 9, 847):
        np.testing.assert_array_equal(palette.colours(count), many[:count])
    assert len({tuple(c) for c in many.tolist()}) == 2000


def test_colours_are_told_apart():
    """Distances in OKLab: 0.02 is about the least that is seen; the house's eight colours set the scale."""
    lab = palette.oklab(palette.colours(40))
    closest = lambda n: min(np.linalg.norm(a - b) for a, b in itertools.combinations(lab[:n], 2))
    assert closest(8) > 0.1
    assert closest(20) > 0.1
    assert closest(40) > 0.06
    # White lines and dark outlines of names are seen on all of them.
    assert lab[:, 0].min() > 0.4
    assert lab[:, 0].max() < 0.9


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((255, 255, 255), (1.0, 0.0, 0.0)),
        ((0, 0, 0), (0.0, 0.0, 0.0)),
        ((255, 0, 0), (0.62796, 0.22486, 0.12585)),
        ((0, 0, 255), (0.45201, -0.03246, -0.31153)),
    ],
)
def test_oklab_has_its_published_values(rgb, lab):
    np.testing.assert_allclose(palette.oklab(np.asarray([rgb], np.uint8))[0], lab, atol=1e-4)


def test_more_colours_than_there_are_repeat():
    whole = len(palette._all_colours())
    many = palette.colours(whole + 5)
    np.testing.assert_array_equal(many[whole:], many[:5])


def test_the_legend_lists_what_is_there_with_its_share(legends):
    labels = np.zeros((10, 10), np.int32)
    labels[:, :3] = 2
    labels[:2, 5:] = -1
    colours = palette.colours(4)
    palette.overlay(np.zeros((10, 10, 3), np.uint8), labels, ["a", "b", "c", "d"], colours)
    tone = lambda c: tuple(colours[c].tolist())
    assert legends == [[("a", 0.6, tone(0)), ("c", 0.3, tone(2)), ("unlabelled", 0.1, None)]]


def test_unlabelled_pixels_keep_their_colours_and_classes_get_theirs():
    image = np.full((800, 800, 3), 90, np.uint8)
    image[..., 0] = 200
    labels = np.full((800, 800), -1, np.int32)
    labels[:, 400:] = 1
    colours = palette.colours(2)
    drawn = np.asarray(palette.overlay(image, labels, ["a", "b"], colours))[:800, :800]
    np.testing.assert_array_equal(drawn[300:500, 50:350], image[300:500, 50:350])
    grey = np.asarray(Image.fromarray(image).convert("L"))[0, 0]
    expected = 0.5 * grey + 0.5 * colours[1].astype(float)
    np.testing.assert_allclose(drawn[100, 600], expected, atol=1)
    assert (drawn[100, 400] == 255).all()
    np.testing.assert_array_equal(drawn[100, 404], colours[1])


def test_small_pictures_are_enlarged_with_smooth_outlines():
    labels = np.where(np.add.outer(np.arange(16), np.arange(16)) < 16, 0, 1).astype(np.int32)
    large = palette._enlarge(labels, (160, 160))
    assert large.shape == (160, 160)
    np.testing.assert_array_equal(np.unique(large), [0, 1])
    # A diagonal stays one: the steps of nearest neighbours would be half a cell, 5 pixels, off.
    border = np.asarray([(row == 0).sum() for row in large[20:140]])
    np.testing.assert_allclose(border, 164.5 - np.arange(20, 140), atol=3)
    picture = palette.overlay(
        np.zeros((16, 16, 3), np.uint8), labels, ["a", "b"], palette.colours(2)
    )
    assert picture.width == 720
    assert picture.height > 720


@pytest.mark.parametrize(
    ("size", "count"), [((7, 2000), 1), ((2000, 7), 60), ((1, 1), 1), ((3, 500), 60)]
)
def test_pictures_of_extreme_sizes_have_a_legend(size, count):
    labels = np.arange(size[0] * size[1], dtype=np.int32).reshape(size) % count
    names = [f"a class with the number {i} and a name that does not end" for i in range(count)]
    picture = palette.overlay(np.zeros((*size, 3), np.uint8), labels, names, palette.colours(count))
    assert picture.mode == "RGB"
    assert picture.width >= size[1]
    assert picture.height >= size[0]
    assert max(picture.size) < 4000


def test_many_classes_are_summed_up(legends):
    labels = np.arange(2500, dtype=np.int32).reshape(50, 50)
    names = [f"class {i}" for i in range(2500)]
    picture = palette.overlay(np.zeros((50, 50, 3), np.uint8), labels, names, palette.colours(2500))
    assert len(legends[0]) == 2500
    assert picture.height < 2500


def test_names_stand_where_they_have_room():
    image, colours = np.full((800, 800, 3), 128, np.uint8), palette.colours(2)
    labels = np.zeros((800, 800), np.int32)
    labels[:20, :20] = 1
    drawn = np.asarray(palette.overlay(image, labels, ["meadow", "a"], colours))[:800, :800]
    blank = np.asarray(palette.overlay(image, labels, ["", "a"], colours))[:800, :800]
    rows, columns = np.nonzero((drawn != blank).any(axis=2))
    assert 300 < rows.min() < rows.max() < 500
    assert 300 < columns.min() < columns.max() < 520
    # A name that is longer than its region is not written.
    drawn, blank = (
        palette.overlay(image, labels, ["", name], colours) for name in ("far too long", "")
    )
    np.testing.assert_array_equal(np.asarray(drawn)[:800, :800], np.asarray(blank)[:800, :800])
