"""Overlays: the arrow points where the person looks, and nothing is drawn that was not asked for."""

import dataclasses

import numpy as np
import pytest

from gaze_jax.people import draw
from gaze_jax.people.face_gaze import FaceGaze
from tests.gaze_jax.gaze_toys import INTRINSICS, pixels, vector

GREY = np.full((480, 640, 3), 128, np.uint8)


def looking(pitch_deg, yaw_deg, *, eyes=(20.0, -10.0, 600.0), **changes):
    pitchyaw = np.deg2rad([pitch_deg, yaw_deg])
    gaze = vector(*pitchyaw)
    eyes = np.array(eyes)
    x, y = pixels(eyes)
    face = FaceGaze(
        face_id=0,
        box_px=(x - 70, y - 60, x + 70, y + 110),
        points_px={"nose_tip": (x, y + 40)},
        crops_px=np.asarray([[(x - 9, y - 9), (x + 9, y - 9), (x + 9, y + 9), (x - 9, y + 9)]]),
        camera_rad=pitchyaw,
        normalised_rad=pitchyaw,
        measured_rad=pitchyaw,
        camera_vector=gaze,
        normalised_vector=gaze,
        origin_mm=eyes,
        eyes_mm=eyes,
        norm=np.eye(3),
        scale=1.0,
        head_rotation=np.eye(3),
        head_rad=np.zeros(2),
        head_pose=True,
        residual_px=0.1,
        distance_mm=600.0,
    )
    return dataclasses.replace(face, **changes)


@pytest.mark.parametrize(
    ("pitch_deg", "yaw_deg", "x", "y"),
    [(0, 30, -1, 0), (0, -30, 1, 0), (30, 0, 0, -1), (-30, 0, 0, 1), (20, 40, -1, -1)],
)
def test_the_arrow_points_to_image_left_for_positive_yaw_and_up_for_positive_pitch(
    pitch_deg, yaw_deg, x, y
):
    face = looking(pitch_deg, yaw_deg, eyes=(0.0, 0.0, 600.0))
    start, end = draw.arrow(face, INTRINSICS)
    np.testing.assert_allclose(start, [319.5, 239.5])
    np.testing.assert_array_equal(np.sign(np.round(end - start, 6)), [x, y])
    drawn = np.asarray(draw.overlay(GREY, [face], INTRINSICS, parts=("arrow",))).astype(int)
    red = np.argwhere((drawn[..., 0] > 180) & (drawn[..., 1] < 80))
    middle = red.mean(0)[::-1] - start
    for found, expected in zip(middle, (x, y)):
        assert found * expected > 5 if expected else abs(found) < 1.5


def test_the_arrow_is_50_mm_seen_through_the_camera():
    face = looking(10, -20)
    start, end = draw.arrow(face, INTRINSICS)
    np.testing.assert_allclose(start, pixels(face.eyes_mm))
    np.testing.assert_allclose(end, pixels(face.eyes_mm + 50 * face.camera_vector))
    near = looking(0, 0, eyes=(1.0, 1.0, 30.0))
    assert np.isfinite(draw.arrow(near, INTRINSICS)).all()


def test_without_faces_the_picture_is_unchanged():
    drawn = draw.overlay(GREY, [], INTRINSICS)
    np.testing.assert_array_equal(np.asarray(drawn), GREY)


@pytest.mark.parametrize("part", draw.PARTS)
def test_every_part_can_be_drawn_alone(part):
    face = looking(5, 25)
    drawn = np.asarray(draw.overlay(GREY, [face], INTRINSICS, parts=(part,)))
    assert drawn.shape == GREY.shape
    assert 0 < (drawn != GREY).any(2).sum() < 6000
    np.testing.assert_array_equal(draw.overlay(GREY, [face], INTRINSICS, parts=()), GREY)


def test_crops_behind_the_camera_are_left_out():
    face = looking(5, 25, crops_px=np.full((2, 4, 2), np.nan))
    np.testing.assert_array_equal(draw.overlay(GREY, [face], INTRINSICS, parts=("crops",)), GREY)


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(ValueError, match="nothing to draw is called hat; known are arrow, box"):
        draw.overlay(GREY, [], INTRINSICS, parts=("hat",))


@pytest.mark.parametrize(
    "eyes", [(-330.0, -250.0, 600.0), (330, 260, 600), (0, 0, 6000), (900, 0, 600)]
)
def test_faces_at_borders_far_away_and_outside(eyes):
    face = looking(5, 25, eyes=eyes)
    drawn = draw.overlay(GREY, [face], INTRINSICS, parts=draw.PARTS)
    assert drawn.size == (640, 480)


def test_a_face_without_gaze_says_why_and_has_no_arrow():
    nothing = np.full(2, np.nan)
    face = looking(0, 0, camera_rad=nothing, camera_vector=np.full(3, np.nan), problem="no head")
    drawn = np.asarray(draw.overlay(GREY, [face], INTRINSICS, parts=("arrow",)))
    np.testing.assert_array_equal(drawn, GREY)
    assert (np.asarray(draw.overlay(GREY, [face], INTRINSICS)) != GREY).any()


def test_the_label():
    assert draw.label(looking(3.04, -12.36)) == "pitch +3.0° yaw -12.4°"
    assert draw.label(looking(0, 1, blink=True)).endswith(" blink")


def test_a_tiny_picture():
    face = looking(5, 25)
    assert draw.overlay(GREY[:5, :7], [face], INTRINSICS, parts=draw.PARTS).size == (7, 5)
