"""The virtual camera: its geometry in closed form, its warp against OpenCV's, and the histogram against its formula."""

import jax
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaze_jax import face_model, normalization
from gaze_jax import geometry as geo
from gaze_jax.normalization import CAMERAS, VirtualCamera

K = np.array([[650.0, 0, 320], [0, 655, 240], [0, 0, 1]])
A = np.array([60.0, -40, 650])
HEAD = Rotation.from_euler("YXZ", [-0.3, -0.1, 0.25]).as_matrix()
SMALL = VirtualCamera("small", 40, 24, 400.0, 600.0)


@pytest.fixture(scope="module")
def picture():
    """Blobs with steep sides, so that a shift of a tenth of a pixel shows."""
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (13, 17, 3))
    return np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)


def _small_k():
    return np.diag([0.2, 0.2, 1.0]) @ K


def _project(matrix, points):
    pixels = points @ np.asarray(matrix, np.float64).T
    return pixels[..., :2] / pixels[..., 2:]


@pytest.mark.parametrize("name", CAMERAS)
def test_the_reference_point_is_in_the_middle_and_the_head_is_level(name):
    camera = CAMERAS[name]
    made = normalization.plan(K, HEAD, A, camera)
    np.testing.assert_allclose(made.R @ made.R.T, np.eye(3), atol=1e-6)
    np.testing.assert_allclose((np.asarray(made.R) @ HEAD)[1, 0], 0, atol=1e-6)
    np.testing.assert_allclose(made.scale, camera.distance_mm / np.linalg.norm(A), rtol=1e-6)
    middle = _project(made.warp, _project(K, A)[None] @ np.eye(2, 3) + [0, 0, 1])
    np.testing.assert_allclose(middle[0], [camera.width / 2, camera.height / 2], atol=2e-3)
    # A step of 10 mm across the line of sight, at the reference point.
    aside = A + 10 * np.asarray(made.R, np.float64)[0]
    moved = _project(made.warp, _project(K, aside)[None] @ np.eye(2, 3) + [0, 0, 1])
    step_px = 10 * camera.focal_px / camera.distance_mm
    np.testing.assert_allclose(moved - middle, [[step_px, 0]], atol=5e-3)


def test_ten_millimetres_are_sixteen_pixels():
    for name in ("mpiigaze_eye", "mpiifacegaze", "eth_face"):
        assert 10 * CAMERAS[name].focal_px / CAMERAS[name].distance_mm == 16


def test_plan_is_the_written_formula_for_many_heads():
    rng = np.random.default_rng(1)
    heads = Rotation.from_euler("YXZ", rng.normal(0, 0.3, (20, 3))).as_matrix()
    points = rng.uniform([-200, -150, 300], [200, 150, 1000], (20, 3))
    got = normalization.plan(np.broadcast_to(K, (20, 3, 3)), heads, points, CAMERAS["eth_face"])
    for i, (head, a) in enumerate(zip(heads, points)):
        d = np.linalg.norm(a)
        z = a / d
        y = np.cross(z, head[:, 0])
        y /= np.linalg.norm(y)
        x = np.cross(y, z)
        r = np.stack([x / np.linalg.norm(x), y, z])
        np.testing.assert_allclose(got.R[i], r, atol=1e-6)
        k_n = CAMERAS["eth_face"].matrix.astype(np.float64)
        warp = k_n @ np.diag([1, 1, 600 / d]) @ r @ np.linalg.inv(K)
        np.testing.assert_allclose(got.warp[i], warp, rtol=1e-4, atol=1e-3)


def test_a_head_seen_from_its_side_still_has_a_rotation():
    head = Rotation.from_euler("Y", 90, degrees=True).as_matrix()
    r = np.asarray(normalization.plan(K, head, np.array([0, 0, 600.0]), SMALL).R)
    np.testing.assert_allclose(r @ r.T, np.eye(3), atol=1e-6)


def test_gaze_there_and_back():
    rng = np.random.default_rng(2)
    angles = np.stack([rng.uniform(-1.5, 1.5, 50), rng.uniform(-3, 3, 50)], -1)
    vectors = np.asarray(geo.pitchyaw_to_vector(angles), np.float64)
    r = np.asarray(normalization.plan(K, HEAD, A, SMALL).R)
    for scale in (None, np.float32(1.2)):
        there = normalization.normalize_gaze(vectors, r, scale)
        back = normalization.denormalize(there, r, scale)
        assert np.max(geo.angular_error_deg(back, vectors)) < 1e-4
        expected = vectors @ r.T * np.array([1, 1, scale or 1])
        expected /= np.linalg.norm(expected, axis=-1, keepdims=True)
        np.testing.assert_allclose(there, expected, atol=1e-6)
        there = normalization.normalize_gaze(angles, r, scale)
        assert there.shape == (50, 2)
        back = normalization.denormalize(there, r, scale)
        assert np.max(geo.angular_error_deg(back, angles.astype(np.float32))) < 1e-4


def test_a_scaled_label_of_20_degrees_is_stored_as_16_9():
    stored = normalization.normalize_gaze(np.deg2rad([0.0, 20.0]), np.eye(3), np.float32(600 / 500))
    np.testing.assert_allclose(np.rad2deg(stored), [0, 16.87], atol=0.01)


def test_gaze_that_knows_its_space_cannot_be_converted_twice():
    gaze = geo.Gaze.from_pitchyaw(np.array([0.1, 0.2]), "camera")
    r = normalization.plan(K, HEAD, A, SMALL).R
    there = normalization.normalize_gaze(gaze, r)
    assert there.space == "normalised"
    assert float(gaze.error_deg(normalization.denormalize(there, r))) < 1e-4
    with pytest.raises(ValueError, match="normalised space where camera space"):
        normalization.normalize_gaze(there, r)
    with pytest.raises(ValueError, match="camera space where normalised space"):
        normalization.denormalize(gaze, r)


@pytest.mark.parametrize("at", [(10.0, -8.0, 650.0), (-280.0, 200.0, 600.0)], ids=["in", "edge"])
def test_the_patch_is_that_of_opencv(picture, at):
    cv2 = pytest.importorskip("cv2")
    patch, made = normalization.normalize(picture, _small_k(), HEAD, np.array(at), SMALL)
    assert patch.shape == (24, 40, 3)
    assert patch.dtype == np.uint8
    warp = np.asarray(made.warp, np.float64)
    theirs = cv2.warpPerspective(picture, warp, (SMALL.width, SMALL.height))
    difference = np.abs(np.asarray(patch).astype(int) - theirs.astype(int))
    assert difference.mean() <= 1
    assert theirs.any()


def test_every_pixel_is_the_bilinear_sample_of_the_picture(picture):
    patch, made = normalization.normalize(
        picture.astype(np.float32), _small_k(), HEAD, np.array([-280.0, 200.0, 600.0]), SMALL
    )
    patch, inverse = np.asarray(patch), np.linalg.inv(np.asarray(made.warp, np.float64))
    black = 0
    for v in range(0, 24, 3):
        for u in range(0, 40, 3):
            x, y = _project(inverse, np.array([u, v, 1.0]))
            expected = np.zeros(3)
            for j in (int(np.floor(y)), int(np.floor(y)) + 1):
                for i in (int(np.floor(x)), int(np.floor(x)) + 1):
                    if 0 <= j < picture.shape[0] and 0 <= i < picture.shape[1]:
                        expected += (1 - abs(x - i)) * (1 - abs(y - j)) * picture[j, i]
            black += not expected.any()
            np.testing.assert_allclose(patch[v, u], expected, atol=0.1)
    assert black, "the patch reaches beyond the picture"


def test_a_reference_point_behind_the_camera_shows_nothing(picture):
    patch, _ = normalization.normalize(
        picture, _small_k(), HEAD, np.array([0.0, 0.0, -600.0]), SMALL
    )
    assert not np.asarray(patch).any()


def test_a_mirrored_scene_is_a_mirrored_patch(picture):
    """Columns are symmetric about width / 2, so the mirrored patch is one column to the right."""
    m = np.diag([-1.0, 1, 1])
    k = np.array([[130.0, 0, (picture.shape[1] - 1) / 2], [0, 131, 50], [0, 0, 1]])
    a = np.array([10.0, -8, 650])
    patch, made = normalization.normalize(picture, k, HEAD, a, SMALL)
    other, mirrored = normalization.normalize(picture[:, ::-1], k, m @ HEAD @ m, m @ a, SMALL)
    np.testing.assert_allclose(mirrored.R, geo.mirror_rotation(made.R), atol=1e-6)
    flipped = np.asarray(other)[:, ::-1].astype(int)
    difference = np.abs(np.asarray(patch).astype(int)[:, 1:] - flipped[:, :-1])
    assert difference.max() <= 1


def test_the_histogram_is_equalised_as_written():
    rng = np.random.default_rng(3)
    grey = rng.normal(90, 15, (36, 60)).clip(0, 255).astype(np.uint8)
    counts = np.bincount(grey.ravel(), minlength=256)
    cdf = np.cumsum(counts)
    low = cdf[cdf > 0].min()
    lut = np.round(255.0 * (cdf - low) / (grey.size - low))
    got = np.asarray(normalization.equalize_histogram(grey))
    np.testing.assert_array_equal(got, lut[grey])
    flat = np.full((3, 4, 1), 77, np.uint8)
    np.testing.assert_array_equal(normalization.equalize_histogram(flat), flat)
    batch = jax.vmap(normalization.equalize_histogram)(np.stack([grey, grey[::-1]]))
    np.testing.assert_array_equal(batch[1], got[::-1])
    cv2 = pytest.importorskip("cv2")
    assert np.abs(got.astype(int) - cv2.equalizeHist(grey)).max() <= 1


def test_reference_points():
    points = face_model.in_camera(face_model.POINTS, HEAD, A)
    at = {name: HEAD @ np.array(p) + A for name, p in face_model.POINTS.items()}
    eyes = [at[f"{s}_eye_{e}"] for s in ("left", "right") for e in ("inner", "outer")]
    mouth = [at["mouth_left"], at["mouth_right"]]
    nose = [at["nose_left"], at["nose_right"]]
    expected = {
        "mpii": np.mean(eyes + mouth, 0),
        "eth": (np.mean(eyes, 0) + np.mean(nose, 0)) / 2,
        "eyes": np.mean(eyes, 0),
        "left_eye": np.mean(eyes[:2], 0),
        "right_eye": np.mean(eyes[2:], 0),
    }
    for kind, point in expected.items():
        np.testing.assert_allclose(face_model.reference_point(points, kind), point, atol=1e-9)
    with pytest.raises(ValueError, match="'nose': expected one of mpii, eth"):
        face_model.reference_point(points, "nose")
    with pytest.raises(ValueError, match="'eth' needs nose_right, nose_left"):
        face_model.reference_point({n: p for n, p in points.items() if "nose" not in n}, "eth")


def test_face_models_are_told_apart_by_their_digest():
    points = dict(face_model.POINTS)
    backwards = {name: list(points[name]) for name in reversed(points)}
    assert face_model.digest(backwards) == face_model.digest()
    points["nose_tip"] = (0.0, 40.0, -31.0)
    assert face_model.digest(points) != face_model.digest()
    for table in (face_model.DLIB68, face_model.MEDIAPIPE):
        assert set(table) < set(face_model.POINTS)
        assert len(set(table.values())) == 8
    for name, (x, y, z) in face_model.POINTS.items():
        if "right" in name:
            assert face_model.POINTS[name.replace("right", "left")] == (-x, y, z)
