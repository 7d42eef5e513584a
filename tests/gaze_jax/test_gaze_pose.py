"""Head pose: exact points, noisy points, OpenCV's answers, and what cannot be a head."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaze_jax import face_model, pose

K = np.array([[700.0, 0, 320], [0, 705, 240], [0, 0, 1]])
CORNERS = [name for name in face_model.POINTS if "centre" not in name and "tip" not in name]
SETS = {
    "eight": CORNERS,
    "six": [name for name in CORNERS if "nose" not in name],
    "five": ["right_eye_centre", "left_eye_centre", "nose_tip", "mouth_right", "mouth_left"],
    "four": ["right_eye_outer", "left_eye_outer", "nose_tip", "mouth_left"],
}
DISTORTION = np.array([-0.2, 0.08, 1e-3, -2e-3, 0.01])


def _scene(rng, names, count, noise_px):
    """Heads within +-2 sd of what laptop users show: model, rotations, shifts, points."""
    model = np.array([face_model.POINTS[name] for name in names])
    for _ in range(count):
        pitch, yaw, roll = np.deg2rad(rng.normal(0, (12, 20, 8)))
        rotation = Rotation.from_euler("YXZ", [yaw, -pitch, roll]).as_matrix()
        depth = rng.uniform(400, 900)
        shift = np.array([rng.uniform(-0.3, 0.3), rng.uniform(-0.2, 0.2), 1]) * depth
        seen = (model @ rotation.T + shift) @ K.T
        points = seen[:, :2] / seen[:, 2:] + noise_px * rng.normal(size=(len(names), 2))
        yield model, rotation, shift, points


def _apart_deg(a, b):
    return np.rad2deg(Rotation.from_matrix(a.T @ b).magnitude())


@pytest.mark.parametrize("names", SETS)
def test_exact_points_give_the_exact_pose(names):
    for model, rotation, shift, points in _scene(np.random.default_rng(0), SETS[names], 25, 0.0):
        found = pose.solve(points, model, K)
        assert found.ok
        assert _apart_deg(found.rotation, rotation) < 1e-3
        np.testing.assert_allclose(found.translation_mm, shift, atol=0.01)
        assert found.residual_px < 1e-4


@pytest.mark.parametrize("count", [60, pytest.param(300, marks=pytest.mark.slow)])
def test_half_a_pixel_of_noise_on_six_points_never_ends_far_off(count):
    worst, oks = 0.0, 0
    for model, rotation, _, points in _scene(np.random.default_rng(1), SETS["six"], count, 0.5):
        found = pose.solve(points, model, K)
        worst, oks = max(worst, _apart_deg(found.rotation, rotation)), oks + found.ok
    assert worst < 10
    assert oks == count


@pytest.mark.parametrize("names", ["eight", "six", "five"])
def test_noisy_points_give_the_pose_of_opencv(names):
    cv2 = pytest.importorskip("cv2")
    for model, _, _, points in _scene(np.random.default_rng(2), SETS[names], 30, 0.5):
        found = pose.solve(points, model, K)
        _, turn, shift = cv2.solvePnP(model, points, K, None, flags=cv2.SOLVEPNP_EPNP)
        _, turn, shift = cv2.solvePnP(
            model, points, K, None, turn, shift, True, cv2.SOLVEPNP_ITERATIVE
        )
        theirs = cv2.Rodrigues(turn)[0]
        seen = (model @ theirs.T + shift[:, 0]) @ K.T
        residual = np.sqrt(np.mean(np.sum((seen[:, :2] / seen[:, 2:] - points) ** 2, -1)))
        # The same minimum, or a lower one than theirs.
        assert found.residual_px <= residual + 1e-6
        if residual - found.residual_px < 1e-6:
            assert _apart_deg(found.rotation, theirs) < 0.01


def test_a_flat_model_is_tilted_the_right_way():
    """Eye and mouth corners lie in one plane: both tilts are tried, and perspective decides."""
    names = ["right_eye_outer", "left_eye_outer", "mouth_right", "mouth_left"]
    right = 0
    for model, rotation, _, points in _scene(np.random.default_rng(3), names, 30, 0.0):
        right += _apart_deg(pose.solve(points, model, K).rotation, rotation) < 0.1
    assert right >= 28


def test_names_choose_the_points_and_a_lens_is_undone():
    cv2 = pytest.importorskip("cv2")
    scene = _scene(np.random.default_rng(4), SETS["eight"], 5, 0.0)
    for model, rotation, shift, _ in scene:
        bent, _ = cv2.projectPoints(model, cv2.Rodrigues(rotation)[0], shift, K, DISTORTION)
        named = {name: tuple(xy) for name, xy in zip(SETS["eight"], bent[:, 0])}
        named["left_ear"] = (0.0, 0.0)
        found = pose.solve(named, face_model.POINTS, K, DISTORTION)
        assert _apart_deg(found.rotation, rotation) < 1e-3
        np.testing.assert_allclose(found.translation_mm, shift, atol=0.01)
        assert _apart_deg(pose.solve(named, face_model.POINTS, K).rotation, rotation) > 0.01


def _near():
    """A face so near that its relief shows, and the points of it."""
    model = np.array([face_model.POINTS[name] for name in SETS["eight"]])
    return model, np.array([5.0, -30, 250])


def test_points_from_behind_the_camera_are_flagged():
    names = SETS["eight"]
    for model, rotation, shift, points in _scene(np.random.default_rng(6), names, 30, 0.3):
        assert pose.solve(points, model, K).ok
        seen = (model @ rotation.T + shift * np.array([1, 1, -1])) @ K.T
        found = pose.solve(seen[:, :2] / seen[:, 2:], model, K)
        assert not found.ok
        # What comes back lies in front of the camera all the same.
        assert (model @ found.rotation.T + found.translation_mm)[:, 2].min() > 0


def test_points_on_a_line_are_flagged():
    model, _ = _near()
    line = np.linspace([100.0, 50], [300, 200], len(model))
    assert not pose.solve(line, model, K).ok
    rod = np.linspace([-40.0, 0, 0], [40, 10, 5], 5)
    seen = (rod + np.array([0, 0, 600])) @ K.T
    assert not pose.solve(seen[:, :2] / seen[:, 2:], rod, K).ok


@pytest.mark.parametrize("bad", [np.full((8, 2), 50.0), np.full((8, 2), np.nan)])
def test_points_without_extent_or_value_are_flagged(bad):
    model, _ = _near()
    assert not pose.solve(bad, model, K).ok


def test_points_of_no_head_are_flagged():
    rng = np.random.default_rng(5)
    model, _ = _near()
    for _ in range(20):
        found = pose.solve(rng.uniform(0, 480, (8, 2)), model, K)
        assert not found.ok
        assert not np.isnan(found.rotation).any()


def test_too_few_points_and_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"1 named points of the model \(nose_tip\): a head pose"):
        pose.solve({"nose_tip": (1, 2), "chin": (3, 4)}, face_model.POINTS, K)
    with pytest.raises(ValueError, match="3 points: a head pose needs 4"):
        pose.solve(np.zeros((3, 2)), np.zeros((3, 3)), K)
    with pytest.raises(ValueError, match=r"shape \(5, 2\) and a model of shape \(4, 3\)"):
        pose.solve(np.zeros((5, 2)), np.zeros((4, 3)), K)
    with pytest.raises(ValueError, match="by name need a model by name"):
        pose.solve(np.zeros((5, 2)), face_model.POINTS, K)
