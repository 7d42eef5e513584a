"""Windows on a picture whose labels and colours are its coordinates, against loops and against resizing it whole."""

import numpy as np
import pytest
from PIL import Image

from gba_jax import geometry
from gba_jax.geometry import Picture, Placement, place

SIZE = 32
SHAPES = [(40, 56), (9, 5), (1, 1), (7, 2000), (2000, 7), (300, 200)]


def coordinates(height, width):
    """Labels number the pixels; red rises to the right and green downwards, each from 0 to 255; segments differ by one."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([x * 255 / max(1, width - 1), y * 255 / max(1, height - 1), 0 * x], -1)
    labels = (y * width + x).astype(np.int32)
    return Picture(np.round(image).astype(np.uint8), labels, labels + np.int32(1))


def whole(picture, placement, size):
    """The image resized whole, mirrored, and cut; labels pixel by pixel."""
    h, w = picture.labels.shape
    image = Image.fromarray(picture.image).resize(
        (placement.width, placement.height), Image.Resampling.BILINEAR
    )
    image = np.asarray(image)[:, ::-1] if placement.mirrored else np.asarray(image)
    seen = np.full((size, size, 3), 128, np.uint8)
    labels = np.full((size, size), -1)
    for i in range(size):
        for j in range(size):
            r, c = placement.top + i, placement.left + j
            if r < placement.height and c < placement.width:
                seen[i, j] = image[r, c]
                c = placement.width - 1 - c if placement.mirrored else c
                labels[i, j] = picture.labels[
                    int((r + 0.5) * h / placement.height), int((c + 0.5) * w / placement.width)
                ]
    return seen, labels


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize(
    ("height", "width", "top", "left"),
    [
        (40, 56, 0, 0),  # as it is, cut
        (40, 56, 8, 24),
        (80, 112, 31, 50),  # enlarged, cut
        (20, 28, 0, 0),  # shrunk, padded on both sides
        (90, 20, 58, 0),  # cut one way, padded the other
        (32, 32, 0, 0),  # squeezed
        (1, 3, 0, 0),
    ],
)
def test_a_window_shows_a_piece_of_the_resized_picture(height, width, top, left, mirrored):
    picture = coordinates(40, 56)
    placement = Placement(height=height, width=width, top=top, left=left, mirrored=mirrored)
    got = place(picture, placement, SIZE)
    image, labels = whole(picture, placement, SIZE)
    assert [part.dtype for part in got] == [np.uint8, np.int32, np.int32]
    np.testing.assert_array_equal(got.labels, labels)
    np.testing.assert_array_equal(got.segments, np.where(labels < 0, -1, labels + 1))
    np.testing.assert_allclose(got.image.astype(int), image.astype(int), atol=1)
    assert (got.image[labels < 0] == 128).all()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", geometry.RULES)
def test_colours_and_labels_tell_the_same_place(rule, shape):
    """Where a picture is enlarged, the colour of a pixel lies within half a source pixel of its label's."""
    picture = coordinates(*shape)
    rng = np.random.default_rng(0)
    for draws in [np.zeros(4), np.full(4, 1 - 2.0**-53), *rng.uniform(size=(6, 4))]:
        placement = geometry.RULES[rule](shape, SIZE, draws)
        seen = place(picture, placement, SIZE)
        inside = seen.labels >= 0
        assert inside.any()
        assert (seen.image[~inside] == 128).all()
        assert (seen.segments == np.where(inside, seen.labels + 1, -1)).all()
        if placement.height >= shape[0] and placement.width >= shape[1]:
            colour = picture.image.reshape(-1, 3)[seen.labels[inside]].astype(float)
            step = 255 / np.maximum(1, np.asarray(shape[::-1]) - 1)
            assert (np.abs(seen.image[inside] - colour)[:, :2] <= 0.5 * step + 1.5).all()


def test_resize_shows_everything():
    placement = geometry.resize((7, 2000), SIZE, np.zeros(4))
    assert placement == Placement(height=SIZE, width=SIZE)
    assert (place(coordinates(7, 2000), placement, SIZE).labels >= 0).all()


@pytest.mark.parametrize(
    ("rule", "side", "scale"), [("crop", min, (0.5, 2)), ("lsj", max, (0.1, 2))]
)
@pytest.mark.parametrize("shape", [(480, 640), (640, 480), (60, 40)])
def test_rules_draw_from_their_ranges(rule, side, scale, shape):
    size = 100
    found = [
        geometry.RULES[rule](shape, size, d)
        for d in np.random.default_rng(1).uniform(size=(2000, 4))
    ]
    sides = [side(p.height, p.width) for p in found]
    low, high = scale[0] * size, scale[1] * size
    assert low - 1 <= min(sides) <= 1.05 * low
    assert 0.98 * high <= max(sides) <= high + 1
    np.testing.assert_allclose(np.mean(sides), (low + high) / 2, rtol=0.05)
    assert 0.45 < np.mean([p.mirrored for p in found]) < 0.55
    for p in found:
        # The shape is kept, to a pixel.
        assert abs(p.height * shape[1] - p.width * shape[0]) <= max(shape)
        assert 0 <= p.top <= max(0, p.height - size)
        assert 0 <= p.left <= max(0, p.width - size)
    assert {p.top == max(0, p.height - size) for p in found} == {True, False}


def test_the_cost_does_not_depend_on_the_resized_size():
    # Resized whole, this picture would have 9 * 10^11 pixels.
    placement = Placement(height=1_000_000, width=900_000, top=500_000, left=450_000)
    assert len(np.unique(place(coordinates(5, 5), placement, SIZE).labels)) == 1
