"""Prediction on pictures: the chain against its definition, and every number and kind of face."""

import dataclasses
import functools
import json
import logging
from typing import Any

import jax
import numpy as np
import pytest

from gaze_jax import cameras, face_model
from gaze_jax.cameras import Intrinsics
from gaze_jax.normalization import CAMERAS, normalize
from gaze_jax.people import batches, face_gaze, placing, views
from gaze_jax.people.faces import Face, from_points
from gaze_jax.predict import Frame, GazeEstimator
from gaze_jax.screen import Screen
from tests.gaze_jax.gaze_toys import (
    ASTRONAUT,
    INTRINSICS,
    PARAMS,
    K,
    angle_deg,
    eye_toy,
    pixels,
    posed,
    ray_rotation,
    toy,
    turn,
    vector,
    with_dot,
)

networks = functools.cache(lambda predict: toy(predict=predict))
GREY = np.full((480, 640, 3), 128, np.uint8)
SHIFT_MM = np.array([40.0, -30.0, 620.0])


def estimator(model=None, camera="eth_face", **options):
    options = {"intrinsics": INTRINSICS, **options}
    return GazeEstimator(model or networks("constant"), PARAMS, CAMERAS[camera], **options)


@pytest.mark.parametrize("reference", ["eth", "mpii"])
@pytest.mark.parametrize("pose", [(0, 0, 0), (12, -25, 8), (-15, 30, -20)])
def test_a_face_comes_back_to_camera_space(reference, pose):
    rotation = turn(*pose)
    face, points = posed(rotation, SHIFT_MM)
    found = estimator(reference=reference).step(GREY, faces=[face])[0]
    origin = face_model.reference_point(points, reference)
    norm = ray_rotation(rotation, origin)
    assert angle_deg(found.camera_vector, norm.T @ vector(0.1, -0.2)) < 0.01
    assert angle_deg(found.normalised_vector, vector(0.1, -0.2)) < 0.01
    np.testing.assert_allclose(found.normalised_rad, [0.1, -0.2], atol=1e-4)
    np.testing.assert_allclose(vector(*found.camera_rad), found.camera_vector, atol=1e-5)
    np.testing.assert_allclose(found.origin_mm, origin, atol=0.05)
    np.testing.assert_allclose(found.norm, norm, atol=1e-4)
    np.testing.assert_allclose(np.rad2deg(found.head_rad), pose[:2], atol=0.02)
    assert found.scale == pytest.approx(600 / found.distance_mm, rel=1e-5)
    assert found.residual_px < 1e-3
    assert found.head_pose
    assert not found.problem


def test_the_patch_is_centred_on_the_reference_point_and_1_6_px_a_mm():
    rotation = turn(5, 10, 15)
    _, points = posed(rotation, SHIFT_MM)
    face, _ = posed(rotation, SHIFT_MM)
    origin = face_model.reference_point(points, "eth")
    norm = ray_rotation(rotation, origin)
    estimate = estimator(networks("dot"))
    centred = estimate.step(with_dot(pixels(origin)), faces=[face])[0]
    np.testing.assert_allclose(centred.normalised_rad, [0, 0], atol=0.004)
    # 20 mm to the left and 10 mm down of the virtual camera's picture: 32 and 16 pixels.
    moved = origin + norm.T @ np.array([-20.0, 10.0, 0.0])
    off = estimate.step(with_dot(pixels(moved)), faces=[face])[0]
    np.testing.assert_allclose(off.normalised_rad, [-0.16, 0.32], atol=0.006)
    # 224 pixels are 140 mm; the first one's middle is half a picture's width from the reference point.
    edges = np.array([[-112.5, -112.5], [111.5, -112.5], [111.5, 111.5], [-112.5, 111.5]]) / 1.6
    corners = origin + np.concatenate([edges, np.zeros((4, 1))], 1) @ norm
    np.testing.assert_allclose(off.crops_px, pixels(corners)[None], atol=0.05)


def test_both_eyes_are_looked_at_the_right_one_in_a_mirror():
    rotation = turn(4, -8, 5)
    face, points = posed(rotation, SHIFT_MM)
    placed = placing.place(face, INTRINSICS, face_model.POINTS, box_suffices=False)
    sides = {"left_eye": 0, "right_eye": 1}
    for kind, side in sides.items():
        origin = face_model.reference_point(points, kind)
        norm = ray_rotation(rotation, origin)
        moved = origin + norm.T @ np.array([8.0, 0.0, 0.0])
        image = views.padded(with_dot(pixels(moved), 1.5), INTRINSICS)
        options = {"eyes": True, "grey": True, "equalize": False, "reference": "eth"}
        seen = views.look(image, placed, INTRINSICS, CAMERAS["mpiigaze_eye"], **options)
        assert [view.side for view in seen] == [0, 1]
        patch = seen[side].patch
        assert patch.shape == (36, 60, 1)
        y, x = np.argwhere(patch[:, :, 0] < 80).mean(0)
        # Mirrored columns run from 59 down: the virtual camera's middle, column 30, becomes 29.
        assert (x, y) == pytest.approx((30 + 12.8, 18) if side == 0 else (29 - 12.8, 18), abs=0.8)
        expected = norm @ rotation
        pitch, yaw = np.arcsin(expected[1, 2]), np.arctan2(expected[0, 2], expected[2, 2])
        yaw = -yaw if side == 1 else yaw
        np.testing.assert_allclose(seen[side].head_rad, [pitch, yaw], atol=2e-3)
    # A network that always says the same says it of mirrored eyes mirrored.
    found = estimator(eye_toy(), "mpiigaze_eye").step(GREY, faces=[face])[0]
    norms = [ray_rotation(rotation, face_model.reference_point(points, kind)) for kind in sides]
    mean = norms[0].T @ vector(0.1, -0.2) + norms[1].T @ vector(0.1, 0.2)
    assert angle_deg(found.camera_vector, mean / np.linalg.norm(mean)) < 0.01
    np.testing.assert_allclose(found.origin_mm, found.eyes_mm)


def test_grey_patches_are_equalised_where_that_is_asked():
    ramp = np.broadcast_to(np.linspace(100, 140, 640).astype(np.uint8)[None, :, None], GREY.shape)
    face, _ = posed(np.eye(3), SHIFT_MM)
    placed = placing.place(face, INTRINSICS, face_model.POINTS, box_suffices=False)
    image = views.padded(np.ascontiguousarray(ramp), INTRINSICS)
    look = lambda equalize: (
        views.look(
            image,
            placed,
            INTRINSICS,
            CAMERAS["mpiigaze_eye"],
            eyes=True,
            grey=True,
            equalize=equalize,
            reference="eth",
        )[0].patch
    )
    assert np.ptp(look(False)) < 20
    assert np.ptp(look(True)) == 255


def test_the_head_pose_reaches_the_network():
    model = toy(uses_head=True, predict="head")
    face, points = posed(turn(10, 20), SHIFT_MM)
    found = estimator(model).step(GREY, faces=[face])[0]
    norm = ray_rotation(turn(10, 20), face_model.reference_point(points, "eth"))
    expected = norm @ turn(10, 20)
    pitch, yaw = np.arcsin(expected[1, 2]), np.arctan2(expected[0, 2], expected[2, 2])
    np.testing.assert_allclose(found.normalised_rad, [pitch, yaw], atol=2e-3)


def test_lens_distortion_is_undone_in_points_and_picture():
    bent = Intrinsics(K, np.array([-0.3, 0.1, 0.001, -0.002, 0.0]))
    rotation = turn(3, 12)
    shift = np.array([180.0, 110.0, 620.0])
    straight, points = posed(rotation, shift)
    names = list(straight.points_px)
    moved = cameras.project(np.stack([points[name] for name in names]), bent)
    face = from_points(dict(zip(names, moved)))
    origin = face_model.reference_point(points, "eth")
    image = with_dot(cameras.project(origin[None], bent)[0])
    found = estimator(networks("dot"), intrinsics=bent).step(image, faces=[face])[0]
    assert found.residual_px < 1e-3
    np.testing.assert_allclose(found.normalised_rad, [0, 0], atol=0.01)


@pytest.mark.parametrize("count", [0, 1, 10])
def test_any_number_of_faces_largest_first(count):
    faces = [posed(np.eye(3), np.array([0.0, 0.0, 500.0 + 60 * i]))[0] for i in range(count)][::-1]
    found = estimator().step(GREY, faces=faces)
    assert len(found) == count
    distances = [face.distance_mm for face in found]
    assert distances == sorted(distances)
    assert [face.face_id for face in found] == list(range(count))
    assert len(estimator(max_faces=3).step(GREY, faces=faces)) == min(3, count)


@pytest.mark.parametrize(
    "shift",
    [(-420.0, 0.0, 700.0), (0.0, 0.0, 2800.0), (-900.0, 0.0, 700.0)],
    ids=["cut by the border", "20 pixels", "outside"],
)
def test_faces_at_the_border_and_tiny_ones(shift):
    face, points = posed(turn(5, 10), np.array(shift))
    if shift[2] == 2800.0:
        assert 15 < np.ptp([x for x, _ in face.points_px.values()]) < 25
    found = estimator().step(GREY, faces=[face])[0]
    norm = ray_rotation(turn(5, 10), face_model.reference_point(points, "eth"))
    assert angle_deg(found.camera_vector, norm.T @ vector(0.1, -0.2)) < 0.05
    np.testing.assert_allclose(
        found.origin_mm, face_model.reference_point(points, "eth"), rtol=1e-3
    )


def test_a_box_is_enough_for_a_face_network_without_head_pose():
    box = Face((400.0, 180.0, 550.0, 360.0))
    found = estimator().step(GREY, faces=[box])[0]
    assert not found.head_pose
    assert np.isnan(found.head_rad).all()
    # 150 px wide at f = 600 is 150 mm at 600 mm.
    ray = np.linalg.inv(K) @ np.array([475.0, 270.0, 1.0])
    np.testing.assert_allclose(found.origin_mm, ray * 600, atol=1e-9)
    norm = ray_rotation(np.eye(3), found.origin_mm)
    assert angle_deg(found.camera_vector, norm.T @ vector(0.1, -0.2)) < 0.01
    for model, camera, why in (
        (toy(uses_head=True), "eth_face", "needs the head pose"),
        (eye_toy(), "mpiigaze_eye", "looks at eyes"),
    ):
        with pytest.raises(ValueError, match=f"1 faces are boxes without points, and toy {why}"):
            estimator(model, camera).step(GREY, faces=[box])


def test_a_box_lies_where_the_lens_has_put_it():
    bent = Intrinsics(K, np.array([-0.3, 0.1, 0.001, -0.002, 0.0]))
    middle = np.array([180.0, 110.0, 620.0])
    x, y = cameras.project(middle[None], bent)[0]
    placed = placing.place(
        Face((x - 50, y - 60, x + 50, y + 60)), bent, face_model.POINTS, box_suffices=True
    )
    assert angle_deg(placed.eyes_mm, middle) < 1e-6


def test_points_in_one_place_leave_the_other_faces():
    nowhere = from_points(dict.fromkeys(ASTRONAUT, (5.0, 5.0)))
    good, _ = posed(np.eye(3), SHIFT_MM)
    found = estimator(eye_toy(), "mpiigaze_eye").step(GREY, faces=[nowhere, good])
    assert [bool(face.problem) for face in found] == [False, True]


def test_points_that_are_no_head_leave_a_face_without_gaze():
    flat = from_points({name: (10.0 * i, 5.0 * i) for i, name in enumerate(ASTRONAUT)})
    good, _ = posed(np.eye(3), SHIFT_MM)
    found = estimator(eye_toy(), "mpiigaze_eye").step(GREY, faces=[flat, good])
    bad = next(face for face in found if face.problem)
    assert "the points fit no head" in bad.problem
    assert np.isnan(bad.camera_rad).all()
    row = bad.row()
    assert row["camera_yaw_deg"] is None
    json.dumps(row, allow_nan=False)
    # A network for faces without head pose falls back on the box.
    assert not estimator().step(GREY, faces=[flat])[0].problem


def test_a_row_holds_everything():
    face, _ = posed(turn(3, 4), SHIFT_MM)
    found = estimator().step(GREY, faces=[face])[0]
    row = json.loads(json.dumps(found.row(), allow_nan=False))
    again = face_gaze.from_row(row)
    for field in dataclasses.fields(found):
        before, after = getattr(found, field.name), getattr(again, field.name)
        if isinstance(before, np.ndarray):
            np.testing.assert_allclose(after, before, atol=1e-12, err_msg=field.name)
        else:
            assert after == before, field.name
    line = face_gaze.csv_row("a.png", 0, None, row)
    assert set(line) == set(face_gaze.CSV_COLUMNS)
    assert line["time_s"] == ""
    assert line["camera_x"] == row["camera_vector"][0]


def test_any_number_of_pictures_is_padded_to_a_few_sizes():
    sizes = []

    @jax.jit
    def double(params, images, heads):
        sizes.append(images.shape[0])
        return 2.0 * heads

    for count in (1, 2, 3, 4, 5, 7, 9, 31, 33, 70):
        heads = np.arange(2.0 * count).reshape(count, 2)
        found = batches.run(double, PARAMS, np.zeros((count, 2, 2, 1), np.uint8), heads)
        np.testing.assert_array_equal(found, 2 * heads)
    assert sorted(sizes) == [1, 2, 4, 8, 16, 32]


def test_pictures_of_many_sizes_share_a_program():
    estimate = estimator(networks("dot"), intrinsics=None)
    face, _ = posed(np.eye(3), SHIFT_MM)
    compiled: Any = normalize
    compiled.clear_cache()
    for height, width in ((480, 640), (470, 601), (400, 700)):
        estimate.step(GREY[:1, :1].repeat(height, 0).repeat(width, 1), faces=[face])
    assert compiled._cache_size() == 1


def test_without_intrinsics_there_is_one_warning(caplog):
    face, _ = posed(np.eye(3), SHIFT_MM)
    estimate = estimator(intrinsics=None)
    with caplog.at_level(logging.WARNING):
        estimate.batch([Frame(image=GREY, faces=[face])] * 3)
        assert estimate.intrinsics_of(GREY[:200, :300]).matrix[0, 0] == 300
    assert len(caplog.records) == 1
    assert estimate.intrinsics_of(GREY).matrix[0, 0] == 640


def test_videos_are_smoothed_and_numbered():
    face, _ = posed(np.eye(3), SHIFT_MM)
    other, _ = posed(np.eye(3), SHIFT_MM + np.array([-200.0, 0, 100]))
    estimate = estimator(networks("dot"), smooth=True)
    frames = [
        Frame(image=with_dot((320 + 8 * (i % 2), 260)), time_s=i / 30, faces=[face, other])
        for i in range(6)
    ]
    found = estimate.batch(frames)
    assert [[f.face_id for f in faces] for faces in found] == [[0, 1]] * 6
    yaws = np.array([[f.camera_rad[1] for f in faces] for faces in found])
    measured = np.array([[f.measured_rad[1] for f in faces] for faces in found])
    assert np.ptp(yaws[1:, 0]) < 0.6 * np.ptp(measured[1:, 0])
    assert all(f.smoothed for faces in found for f in faces)
    # Vectors, both spaces and angles say the same.
    last = found[-1][0]
    np.testing.assert_allclose(vector(*last.camera_rad), last.camera_vector, atol=1e-6)
    np.testing.assert_allclose(last.norm @ last.camera_vector, last.normalised_vector, atol=1e-6)
    # Having lived through what was written of the first frames is as good as having seen them.
    again = estimator(networks("dot"), smooth=True)
    for frame, faces in zip(frames[:3], found[:3]):
        again.replay(frame.time_s, [json.loads(json.dumps(f.row())) for f in faces])
    for faces, expected in zip(again.batch(frames[3:]), found[3:]):
        assert [f.row() for f in faces] == [f.row() for f in expected]
    # Pictures without a time stand alone.
    alone = estimate.step(frames[0].image, faces=[face])[0]
    assert not alone.smoothed


def test_the_point_on_the_screen():
    # The camera's own plane, mirrored as a user sees it: x_screen = -x, y_screen = y.
    screen = Screen(np.diag([-1.0, 1.0, -1.0]), np.zeros(3), np.array([4.0, 4.0]), (1920, 1080))
    face, _ = posed(turn(0, 0), np.array([-100.0, 0.0, 600.0]))
    found = estimator(screen=screen).step(GREY, faces=[face])[0]
    hit = found.origin_mm - found.origin_mm[2] / found.camera_vector[2] * found.camera_vector
    assert found.screen_mm is not None
    assert found.screen_px is not None
    np.testing.assert_allclose(found.screen_mm, [-hit[0], hit[1]], atol=0.1)
    np.testing.assert_allclose(found.screen_px, 4 * found.screen_mm)
    assert found.on_screen == bool((found.screen_px > 0).all())


def test_what_does_not_fit_is_refused():
    with pytest.raises(
        ValueError, match=r"mpiigaze_eye takes 60 x 36 pictures, toy looks at 224 x 224"
    ):
        estimator(camera="mpiigaze_eye")
    with pytest.raises(ValueError, match="nobody says where the faces are"):
        estimator().step(GREY)
    with pytest.raises(ValueError, match="no virtual camera is called 'x'"):
        views.default_camera(toy(), "x")
    with pytest.raises(ValueError, match="looks at 9 x 9 pictures"):
        views.default_camera(toy(size=(9, 9, 3)))
    assert views.default_camera(toy()).name == "eth_face"
    assert views.default_camera(eye_toy()).name == "mpiigaze_eye"


def test_a_real_face_goes_through_the_whole_chain():
    image = pytest.importorskip("skimage.data").astronaut()[:480]
    # The picture is a crop of a portrait, taken with a longer lens than its width.
    camera = Intrinsics(np.array([[1100.0, 0, 255.5], [0, 1100, 255.5], [0, 0, 1]]))
    face = from_points(ASTRONAUT)
    found = estimator(networks("dot"), intrinsics=camera).step(image, faces=[face])[0]
    assert found.head_pose
    # She faces the camera and smiles, which must not pass for a nod.
    assert np.abs(np.rad2deg(found.head_rad)).max() < 15
    assert 1200 < found.distance_mm < 2000
    placed = placing.place(face, camera, face_model.POINTS, box_suffices=False)
    options = {"eyes": True, "grey": True, "equalize": True, "reference": "eth"}
    padded = views.padded(image, camera)
    for view in views.look(padded, placed, camera, CAMERAS["mpiigaze_eye"], **options):
        # She looks at the camera: the iris, the darkest part of the lid's opening, lies near the middle.
        y, x = np.argwhere(view.patch[8:28, 12:48, 0] < 20).mean(0)
        assert (x, y) == pytest.approx((18, 10), abs=6)
