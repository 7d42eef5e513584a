"""Prediction as runs were trained: virtual cameras, plain crops, rendered frames through the whole chain."""

import dataclasses
import functools
import types

import numpy as np
import pytest

from gaze_jax import face_model
from gaze_jax.cameras import Intrinsics
from gaze_jax.normalization import CAMERAS
from gaze_jax.people import views
from gaze_jax.people.faces import from_points
from gaze_jax.predict import GazeEstimator
from tests.gaze_jax.gaze_toys import (
    INTRINSICS,
    PARAMS,
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
SHIFT_MM = np.array([40.0, -30.0, 620.0])


@pytest.mark.parametrize("along_ray", [False, True])
def test_plain_crops(along_ray):
    face, points = posed(turn(5, 10, 20), SHIFT_MM)
    origin = face_model.reference_point(points, "eth")
    # 23 mm to the right in the picture's plane: a tenth of 224 pixels.
    image = with_dot(pixels(origin + np.array([23.0, 0.0, 0.0])))
    crop = views.PlainCrop(224, 224, along_ray=along_ray)
    model = networks("dot")
    estimate = GazeEstimator(model, PARAMS, crop, intrinsics=INTRINSICS)
    found = estimate.step(image, faces=[face])[0]
    norm = ray_rotation(np.eye(3), origin) if along_ray else np.eye(3)
    np.testing.assert_allclose(found.normalised_rad, [0, -0.224], atol=0.012)
    assert angle_deg(found.camera_vector, norm.T @ vector(*found.normalised_rad)) < 0.01
    np.testing.assert_allclose(found.norm, norm, atol=1e-5)
    assert found.scale == 1
    # 230 mm in the picture's plane, to a pixel.
    half = 115 * 600 / origin[2]
    corners = [pixels(origin) - half, pixels(origin) + half]
    np.testing.assert_allclose(found.crops_px[0, [0, 2]], corners, atol=1.1)


def test_a_camera_follows_the_size_of_the_pictures():
    fine = views.default_camera(toy(size=(448, 448, 3)), "mpiifacegaze")
    assert (fine.width, fine.focal_px, fine.distance_mm) == (448, 3200, 1000)
    with pytest.raises(
        ValueError, match="looks at 60 x 36 pictures, and no virtual camera takes such: eth_face"
    ):
        views.default_camera(eye_toy(), "eth_face")


@pytest.mark.slow
def test_rendered_frames_come_back_within_half_a_degree():
    from core_jax.train import Params
    from gaze_jax.render import domains, persons

    frames = domains.make("frames", "A", 2, 2)
    assert frames.landmarks is not None
    names = list(persons.points(frames.scenes.person))
    for row, image in enumerate(frames.images):
        oracle = Params(trainable={"gaze": np.asarray(frames.gaze[row], np.float32)})
        camera = Intrinsics(np.asarray(frames.scenes.intrinsics[row], np.float64))
        estimate = GazeEstimator(
            networks("constant"), oracle, CAMERAS["eth_face"], intrinsics=camera
        )
        (found,) = estimate.step(
            image, faces=[from_points(dict(zip(names, frames.landmarks[row])))]
        )
        truth = np.asarray(frames.norm[row]).T @ vector(*frames.gaze[row])
        assert angle_deg(found.camera_vector, truth) < 0.5
        assert np.rad2deg(np.abs(found.normalised_rad - frames.gaze[row])).max() < 1e-3


@pytest.mark.parametrize(
    ("dataset", "camera", "expected"),
    [
        ("eyes_A", "mpiigaze_eye", ("mpiigaze_eye", "eth", False)),
        ("mpiigaze", "mpiigaze_eye", ("mpiigaze_eye", "eth", True)),
        ("gazehub_mpiifacegaze", "eth_face", ("eth_face", "mpii", False)),
        ("mpiifacegaze", "mpiifacegaze", ("mpiifacegaze", "mpii", False)),
        ("faces_D", "eth_face", ("eth_face", "eth", False)),
        ("faces_C", "", ("plain crop", "eth", False)),
        ("faze", "faze_strip", ("faze_strip", "eyes", False)),
    ],
)
def test_a_run_is_looked_at_as_it_was_trained(dataset, camera, expected, monkeypatch):
    from gaze_jax import trained

    seen = CAMERAS[camera or "eth_face"]
    run = types.SimpleNamespace(
        model=eye_toy() if "eye" in camera else toy(size=(seen.height, seen.width, 3)),
        params=PARAMS,
        config=types.SimpleNamespace(data=types.SimpleNamespace(dataset=dataset)),
        camera=CAMERAS[camera] if camera else None,
    )
    monkeypatch.setattr(trained, "load", lambda workdir, fold: run)
    found = GazeEstimator.from_run("runs/x", max_faces=2)
    assert (found.camera.name, found.reference, found.equalize) == expected
    assert found.max_faces == 2
    if dataset == "faces_C":
        # With a virtual camera's name the pictures are normalised after all.
        assert GazeEstimator.from_run("runs/x", camera="eth_face").camera.name == "eth_face"
    along = dataclasses.replace(views.PlainCrop(224, 224, side_mm=300.0), along_ray=True)
    run.config.data.dataset, run.camera, run.model = "gazehub_gaze360", None, toy()
    assert GazeEstimator.from_run("runs/x").camera == along
