"""Boxes against the rule written out in plain Python; prefixes; geometry."""

import math

import numpy as np
import pytest

from core_jax.data import rng
from fdbpl_jax import regions
from fdbpl_jax.regions import CropRule


def oracle(stream, height, width, region, scale, ratio):
    """One region, step by step, as section 4.1 of the method's description has it."""
    words = [int(w) for w in rng.philox_words(stream, 41 * (region + 1))[41 * region :]]
    u = [(word >> 11) * 2.0**-53 for word in words]
    box = None
    for attempt in range(10):
        area_u, aspect_u, top_u, left_u = u[4 * attempt : 4 * attempt + 4]
        area = height * width * (scale[0] + (scale[1] - scale[0]) * area_u)
        low, high = math.log(ratio[0]), math.log(ratio[1])
        aspect = math.exp(low + (high - low) * aspect_u)
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            box = (math.floor(top_u * (height - h + 1)), math.floor(left_u * (width - w + 1)), h, w)
            break
    if box is None:
        if width / height < ratio[0]:
            w, h = width, min(height, round(width / ratio[0]))
        elif width / height > ratio[1]:
            w, h = min(width, round(height * ratio[1])), height
        else:
            w, h = width, height
        box = ((height - h) // 2, (width - w) // 2, h, w)
    return box, u[40] < 0.5


@pytest.mark.parametrize(
    ("height", "width"), [(64, 64), (375, 500), (1, 1), (3, 200), (200, 3), (40, 90)]
)
@pytest.mark.parametrize("rule", [CropRule(), CropRule(scale=(0.9, 1.0), ratio=(0.5, 2.0))])
def test_boxes_equal_the_rule(height, width, rule):
    stream = regions.stored_stream(3, "ab" * 32)
    found = regions.draw(stream, height, width, 60, rule)
    assert (found.box.dtype, found.flip.dtype) == (np.uint16, bool)
    for r in range(60):
        box, flip = oracle(stream, height, width, r, rule.scale, rule.ratio)
        assert tuple(found.box[r].tolist()) == box
        assert bool(found.flip[r]) == flip


def test_elongated_pictures_fall_back_to_the_middle():
    found = regions.draw("boxes:0:x", 10, 400, 20, CropRule(scale=(0.9, 1.0)))
    assert {tuple(box) for box in found.box.tolist()} == {(0, 193, 10, 13)}


def test_fifty_are_a_prefix_of_a_hundred_and_a_start_is_a_slice():
    long = regions.draw("boxes:0:x", 100, 120, 100)
    for short, first in ((regions.draw("boxes:0:x", 100, 120, 50), 0),
                         (regions.draw("boxes:0:x", 100, 120, 50, start=30), 30)):  # fmt: skip
        np.testing.assert_array_equal(short.box, long.box[first : first + 50])
        np.testing.assert_array_equal(short.flip, long.flip[first : first + 50])


def test_boxes_lie_inside_and_spread_over_the_scale():
    height, width = 300, 400
    box, flip = regions.draw("boxes:1:y", height, width, 4000)
    top, left, h, w = box.astype(np.int64).T
    assert np.all((top + h <= height) & (left + w <= width) & (h > 0) & (w > 0))
    area = h * w / (height * width)
    assert 0.079 < area.min() < 0.1
    assert 0.87 < area.max() < 0.94
    assert 0.45 < flip.mean() < 0.55
    assert np.all((w / h > 0.74) & (w / h < 1.35))


def test_streams_differ():
    a, b = (regions.draw(regions.stored_stream(0, x), 64, 64, 20).box for x in ("a", "b"))
    assert not np.array_equal(a, b)
    assert regions.fresh_stream(1, 2) == "fresh:1:2"


def test_crop_keeps_order_and_size():
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3), np.uint8)
    box = np.array([[0, 0, 9, 9], [5, 6, 9, 9]], np.uint16)
    found = regions.crop(image, box, 9)
    np.testing.assert_array_equal(found, [image[:9, :9], image[5:14, 6:15]])


def test_bad_rules_and_sizes_are_refused():
    with pytest.raises(ValueError, match=r"scale.*ratio"):
        CropRule(scale=(0.5, 0.1), ratio=(0, 1))
    with pytest.raises(ValueError, match="must not exceed 1"):
        CropRule(scale=(0.5, 1.1))
    with pytest.raises(ValueError, match="65535"):
        regions.draw("x", 70_000, 5, 1)
