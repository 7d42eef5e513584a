"""Screen points: planes in closed form, rays that miss, and the regression where no pose is known."""

import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaze_jax import geometry as geo
from gaze_jax import screen as sc

LAPTOP = sc.beside_camera((1600, 900), (320.0, 180.0), (160.0, -10.0))
EYE = np.array([20.0, 30.0, 600.0])


def _look(screen, mm, origin=EYE):
    """The gaze from the origin to a point of the screen."""
    target = screen.rotation @ np.array([*mm, 0.0]) + screen.translation_mm
    return (target - origin) / np.linalg.norm(target - origin)


@pytest.mark.parametrize("seed", range(3))
def test_any_plane_gives_back_the_point_that_was_looked_at(seed):
    rng = np.random.default_rng(seed)
    screen = sc.Screen(
        Rotation.from_euler("xyz", rng.normal((0, np.pi, 0), 0.3)).as_matrix(),
        rng.normal(0, 100, 3),
        np.array([4.0, 5.0]),
    )
    mm = rng.uniform(-150, 150, (30, 2))
    gaze = np.stack([_look(screen, at) for at in mm])
    got_mm, px, on_screen = sc.point(np.broadcast_to(EYE, (30, 3)), gaze, screen)
    np.testing.assert_allclose(got_mm, mm, atol=1e-8)
    np.testing.assert_allclose(px, mm * [4, 5], atol=1e-7)
    assert on_screen.all()
    angles = np.asarray(geo.vector_to_pitchyaw(gaze))
    np.testing.assert_allclose(sc.point(EYE, angles[0], screen)[0], mm[0], atol=2e-3)


def test_a_camera_in_the_plane_of_its_screen():
    """The ray reaches z = 0 after -o_z / g_z; what is right in the camera's picture is left for its user."""
    gaze = np.array([-0.1, 0.2, -1.0])
    step = -EYE[2] / gaze[2]
    hit = EYE + step * gaze
    mm, px, on_screen = sc.point(EYE, gaze, LAPTOP)
    np.testing.assert_allclose(mm, [160 - hit[0], -10 + hit[1]])
    np.testing.assert_allclose(px, mm * 5)
    assert on_screen
    to_camera = sc.point(EYE, -EYE, LAPTOP)
    np.testing.assert_allclose(to_camera[0], [160, -10], atol=1e-9)
    assert not to_camera[2], "the camera is above what lights up"


def test_a_camera_that_looks_further_up_than_its_screen_faces():
    tilted = sc.beside_camera((1600, 900), (320.0, 180.0), (160.0, -10.0), np.deg2rad(10))
    outwards = -tilted.rotation[:, 2]
    np.testing.assert_allclose(outwards, [0, np.sin(np.deg2rad(10)), np.cos(np.deg2rad(10))])
    np.testing.assert_allclose(sc.point(EYE, -EYE, tilted)[0], [160, -10], atol=1e-9)


def test_rays_that_do_not_meet_the_screen_are_not_clamped():
    away, along = np.array([0, 0.1, 1.0]), np.array([1.0, 0.2, 0.0])
    for gaze in (away, along):
        mm, px, on_screen = sc.point(EYE, gaze, LAPTOP)
        assert np.isnan(mm).all()
        assert np.isnan(px).all()
        assert not on_screen
    mm, px, on_screen = sc.point(EYE, _look(LAPTOP, (-500.0, 20.0)), LAPTOP)
    np.testing.assert_allclose(mm, [-500, 20])
    assert not on_screen
    mm, _, on_screen = sc.point(EYE, np.full(3, np.nan), LAPTOP)
    assert np.isnan(mm).all()
    assert not on_screen


def test_gaze_of_the_virtual_camera_is_refused():
    gaze = geo.Gaze.from_pitchyaw(np.array([-0.1, 0.2]), "camera")
    assert np.isfinite(sc.point(EYE, gaze, LAPTOP)[0]).all()
    with pytest.raises(ValueError, match="normalised space where camera space"):
        sc.point(EYE, geo.Gaze.from_pitchyaw(np.zeros(2), "normalised"), LAPTOP)


def test_screens_from_files(tmp_path):
    path = tmp_path / "screen.json"
    flat = {"size_px": [1600, 900], "size_mm": [320, 180], "camera_mm": [160, -10], "tilt_deg": 0}
    posed = {
        "rotation": LAPTOP.rotation.tolist(),
        "translation_mm": LAPTOP.translation_mm.tolist(),
        "px_per_mm": [5, 5],
        "size_px": [1600, 900],
    }
    for content in (flat, posed):
        path.write_text(json.dumps(content))
        got = sc.read(path)
        np.testing.assert_allclose(got.rotation, LAPTOP.rotation)
        np.testing.assert_allclose(got.translation_mm, LAPTOP.translation_mm)
        np.testing.assert_allclose(got.px_per_mm, 5)
        assert got.size_px == (1600, 900)
    path.write_text(json.dumps({"size_px": [1600, 900]}))
    with pytest.raises(ValueError, match="keys size_px; expected camera_mm, size_mm, size_px"):
        sc.read(path)
    path.write_text("{")
    with pytest.raises(ValueError, match=r"screen\.json: not JSON"):
        sc.read(path)
    path.write_text(json.dumps(posed | {"rotation": np.diag([-1, 1, 1]).tolist()}))
    with pytest.raises(ValueError, match="no mirror"):
        sc.read(path)
    path.write_text(json.dumps(posed | {"rotation": np.ones((3, 3)).tolist(), "px_per_mm": 0}))
    with pytest.raises(ValueError, match=r"rotation matrix.*; \[0.0, 0.0\] pixels a millimetre"):
        sc.read(path)


def test_the_regression_is_ridge_on_six_terms_and_finds_the_screen():
    rng = np.random.default_rng(0)
    mm = np.stack(np.meshgrid([20, 160, 300], [15, 90, 165]), -1).reshape(-1, 2).astype(float)
    angles = np.asarray(geo.vector_to_pitchyaw(np.stack([_look(LAPTOP, at) for at in mm])))
    fitted = sc.fit_ridge(angles, mm * 5)
    other = rng.uniform([20, 15], [300, 165], (40, 2))
    seen = np.asarray(geo.vector_to_pitchyaw(np.stack([_look(LAPTOP, at) for at in other])))
    assert np.abs(fitted.point(seen) / 5 - other).max() < 2, "millimetres"
    # The same by stacking the ridge as extra rows of a least-squares problem.
    t, p = angles.astype(np.float64).T
    terms = np.stack([t, p, t * t, p * p, t * p], -1)
    scaled = (terms - terms.mean(0)) / terms.std(0)
    rows = np.concatenate([scaled, np.sqrt(0.5 * 9) * np.eye(5)])
    px = mm * 5
    weight = np.linalg.lstsq(rows, np.concatenate([px - px.mean(0), np.zeros((5, 2))]))[0]
    strong = sc.fit_ridge(angles, px, strength=0.5)
    np.testing.assert_allclose(strong.point(angles), px.mean(0) + scaled @ weight, atol=1e-6)


def test_looks_that_cannot_be_used_are_refused():
    with pytest.raises(ValueError, match="k >= 5"):
        sc.fit_ridge(np.zeros((4, 2)), np.zeros((4, 2)))
    with pytest.raises(ValueError, match="not finite"):
        sc.fit_ridge(np.full((5, 2), np.nan), np.zeros((5, 2)))
