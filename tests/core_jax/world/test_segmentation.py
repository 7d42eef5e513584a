"""Segmentation scenes: maps, instances and boxes agree with each other and with the picture."""

import hashlib

import numpy as np
import pytest

from core_jax import world


@pytest.fixture(scope="module")
def rendered() -> list[world.SegmentationScene]:
    return world.render_segmentation_batch(0, "seg", np.arange(120), style="clean")


def test_golden_scenes():
    sha = hashlib.sha256()
    mix = (("clean", 1.0), ("sketch", 1.0))
    for scene in world.render_segmentation_batch(1, "golden", np.arange(12), style=mix, size=48):
        sha.update(scene.image.tobytes())
        sha.update(scene.semantic.astype("<i4").tobytes() + scene.instance.astype("<i4").tobytes())
    assert sha.hexdigest() == "4e975c3f715cd6c223c07e314df0c44f8438851d4a695cc0141a795dfd08eee8"


def test_maps_and_objects_agree(rendered):
    for scene in rendered:
        assert scene.semantic.dtype == scene.instance.dtype == np.int32
        assert scene.image.dtype == np.uint8
        numbers = [o.instance for o in scene.objects]
        assert numbers == list(range(1, len(numbers) + 1))
        assert set(np.unique(scene.instance)) <= {0, *numbers}
        np.testing.assert_array_equal(scene.semantic == 0, scene.instance == 0)
        for o in scene.objects:
            rows, columns = np.where(scene.instance == o.instance)
            assert o.area == len(rows)
            top, left = rows.min(), columns.min()
            assert o.box == (top, left, rows.max() - top + 1, columns.max() - left + 1)
            assert set(scene.semantic[rows, columns]) == {o.label}
            assert world.CLASSES[o.label - 1] == o.name


def test_two_to_five_objects_that_sometimes_overlap(rendered):
    counts = [len(scene.objects) for scene in rendered]
    assert max(counts) == 5
    assert np.mean(np.array(counts) >= 2) > 0.97  # a hidden object may leave one
    boxes_meet = 0
    for scene in rendered:
        boxes = [o.box for o in scene.objects]
        boxes_meet += any(
            a[0] < b[0] + b[2] and b[0] < a[0] + a[2] and a[1] < b[1] + b[3] and b[1] < a[1] + a[3]
            for i, a in enumerate(boxes)
            for b in boxes[:i]
        )
    assert 10 < boxes_meet < 115


def test_plain_objects_show_their_colour(rendered):
    from core_jax.world.attributes import PALETTE

    checked = 0
    for scene in rendered:
        for o in scene.objects:
            colour, texture, _ = o.name.split()
            if texture == "plain" and o.area > 60:
                inside = np.median(scene.image[scene.instance == o.instance], axis=0) / 255
                assert np.abs(inside - PALETTE[world.COLOURS.index(colour)]).max() < 0.08
                checked += 1
    assert checked > 20


def test_alone_equals_batch(rendered):
    for index in (0, 57, 119):
        scene = world.render_segmentation(0, "seg", index, style="clean")
        for key in ("image", "semantic", "instance"):
            np.testing.assert_array_equal(getattr(scene, key), getattr(rendered[index], key))
        assert scene.objects == rendered[index].objects


def test_labels_follow_the_class_list_and_only_the_named_are_drawn():
    classes, among = world.CLASSES[10:20], world.CLASSES[12:15]
    batch = world.render_segmentation_batch(
        0, "part", np.arange(40), size=32, classes=classes, among=among
    )
    labels = {o.label: o.name for scene in batch for o in scene.objects}
    assert labels == {3: classes[2], 4: classes[3], 5: classes[4]}


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"cannot be drawn from .*red plain ring"):
        world.render_segmentation(
            0, "a", 0, classes=("blue plain ring",), among=("red plain ring", "blue plain ring")
        )
    with pytest.raises(ValueError, match="an empty list"):
        world.render_segmentation(0, "a", 0, among=())
    with pytest.raises(ValueError, match="expected at least 8"):
        world.render_segmentation(0, "a", 0, size=2)
