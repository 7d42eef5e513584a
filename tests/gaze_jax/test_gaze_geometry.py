"""Angles, vectors, rotations and mirrors against float64 numpy and scipy, at every angle, with finite gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from gaze_jax import geometry as geo

TOLERANCE_DEG = 1e-4
# Everything that breaks asin, acos and norms: the ends, the poles, the back, and next to them.
PITCHES = np.deg2rad([-90, -89.999, -45, -1e-3, 0, 1e-5, 20, 89.99, 90])
YAWS = np.deg2rad([-180, -179.999, -90, -30, -1e-4, 0, 1e-5, 16, 90, 135, 180])
GRID = np.stack(np.meshgrid(PITCHES, YAWS, indexing="ij"), -1)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _vector(pitchyaw):
    t, p = pitchyaw[..., 0], pitchyaw[..., 1]
    return np.stack([-np.cos(t) * np.sin(p), -np.sin(t), -np.cos(t) * np.cos(p)], -1)


def _angle_deg(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    sine = np.linalg.norm(np.cross(a, b), axis=-1)
    return np.rad2deg(np.arctan2(sine, np.sum(a * b, axis=-1)))


def _units(rng, *shape):
    v = rng.normal(size=(*shape, 3))
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def test_the_convention():
    names = {"up": (0.3, 0.0), "image left": (0.0, 0.3), "camera": (0.0, 0.0)}
    vectors = {name: np.asarray(geo.pitchyaw_to_vector(np.array(at))) for name, at in names.items()}
    assert vectors["up"][1] < 0
    assert vectors["image left"][0] < 0
    np.testing.assert_array_equal(vectors["camera"], [0, 0, -1])


def test_angles_to_vectors_and_back_at_every_angle():
    vector = geo.pitchyaw_to_vector(GRID)
    assert vector.dtype == jnp.float32
    assert _angle_deg(vector, _vector(GRID)).max() < TOLERANCE_DEG
    back = np.asarray(geo.vector_to_pitchyaw(vector), np.float64)
    assert _angle_deg(_vector(back), _vector(GRID)).max() < TOLERANCE_DEG
    flat = np.abs(np.abs(GRID[..., 0]) - np.pi / 2) > 0.1
    difference = (back - GRID + np.pi) % (2 * np.pi) - np.pi
    assert np.rad2deg(np.abs(difference[flat])).max() < TOLERANCE_DEG
    assert np.rad2deg(np.abs(difference[..., 0])).max() < TOLERANCE_DEG


@pytest.mark.parametrize("length", [1e-25, 1e-3, 7.0, 1e25])
def test_vectors_of_any_length(rng, length):
    v = _units(rng, 50)
    back = np.asarray(geo.vector_to_pitchyaw(v * length), np.float64)
    assert _angle_deg(_vector(back), v).max() < TOLERANCE_DEG
    assert _angle_deg(geo.unit(v * length), v).max() < TOLERANCE_DEG
    np.testing.assert_array_equal(geo.unit(np.zeros(3)), 0)


def test_the_error_is_exact_from_0_to_180_degrees(rng):
    angles = np.r_[0, 1e-10, 1e-6, 1e-3, 0.5, np.pi / 2, 3, np.pi - 1e-3, np.pi - 1e-6, np.pi]
    a = _units(rng, 40)
    side = np.cross(a, _units(rng, 40))
    side /= np.linalg.norm(side, axis=-1, keepdims=True)
    a = a[:, None]
    b = np.cos(angles)[:, None] * a + np.sin(angles)[:, None] * side[:, None]
    # What float32 makes of the vectors is not the function's error.
    a, b = a.astype(np.float32), b.astype(np.float32)
    got = np.asarray(geo.angular_error_deg(a, b))
    assert got.shape == (40, len(angles))
    expected = _angle_deg(np.broadcast_to(a, b.shape), b)
    np.testing.assert_allclose(got, expected, atol=TOLERANCE_DEG / 2)
    middle = slice(4, 7)
    cosine = np.sum(a * b, -1)[:, middle]
    np.testing.assert_allclose(got[:, middle], np.rad2deg(np.arccos(cosine)), atol=2e-4)


@pytest.mark.parametrize("delta", [1e-6, 1e-9])
def test_tiny_errors_are_exact(delta):
    a, b = np.array([0.0, 0.0, -1.0]), np.array([delta, 0.0, -1.0])
    np.testing.assert_allclose(geo.angular_error_deg(a, b), np.rad2deg(delta), rtol=1e-5)
    low = np.array([0.2, 0.0], np.float32)
    high = low + np.array([0.0, delta], np.float32)
    expected = np.rad2deg(np.cos(0.2) * delta)
    np.testing.assert_allclose(geo.angular_error_deg(low, high), expected, rtol=1e-5)


def test_the_error_of_angles_is_that_of_their_vectors():
    a = GRID.reshape(-1, 1, 2).astype(np.float32)
    b = GRID.reshape(1, -1, 2).astype(np.float32)
    expected = _angle_deg(_vector(a.astype(np.float64)), _vector(b.astype(np.float64)))
    np.testing.assert_allclose(geo.angular_error_deg(a, b), expected, atol=TOLERANCE_DEG / 2)


def test_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(4, 3\) and \(4, 2\): expected two arrays"):
        geo.angular_error_deg(np.zeros((4, 3)), np.zeros((4, 2)))


def _gradient(function):
    """Of the sum over samples: one program for all points that are asked about."""
    return jax.jit(jax.grad(lambda *x: jnp.sum(function(*x)), argnums=0))


AXES = np.concatenate([np.eye(3), -np.eye(3), np.zeros((1, 3)), [[0.6, 0.0, -0.8], [0, 0.6, 0.8]]])


def test_gradients_of_the_error_are_finite_everywhere():
    a, b = np.stack(np.meshgrid(np.arange(9), np.arange(9)), -1).reshape(-1, 2).T
    of_vectors, of_angles = _gradient(geo.angular_error_deg), _gradient(geo.angular_error_deg)
    axes = jnp.asarray(AXES, jnp.float32)
    assert np.isfinite(of_vectors(axes[a], axes[b])).all()
    np.testing.assert_array_equal(of_vectors(axes[a], axes[a]), 0)
    grid = jnp.asarray(GRID.reshape(-1, 2), jnp.float32)
    np.testing.assert_array_equal(of_angles(grid, grid), 0)
    assert np.isfinite(of_angles(grid, grid[::-1])).all()


def test_gradients_of_angles_and_rotations_are_finite_everywhere(rng):
    scales = (1.0, 1e-12, 1e12)
    near = [AXES + 1e-9 * rng.normal(size=AXES.shape)]
    where = jnp.asarray(np.concatenate([AXES * s for s in scales] + near), jnp.float32)
    assert np.isfinite(_gradient(geo.vector_to_pitchyaw)(where)).all()
    angles = (0, 1e-20, 1e-7, 1, np.pi)
    turns = jnp.asarray(np.concatenate([AXES * angle for angle in angles]), jnp.float32)
    assert np.isfinite(_gradient(geo.rotation_vector_to_matrix)(turns)).all()
    matrices = jnp.asarray(Rotation.from_rotvec(turns).as_matrix(), jnp.float32)
    assert np.isfinite(_gradient(geo.matrix_to_rotation_vector)(matrices)).all()


def test_the_gradient_of_the_error_is_the_direction_to_turn():
    """A step of the yaw by 1 rad changes the angle between (0, 0) and (0, .1) by 1 rad."""
    b = jnp.asarray([0.0, 0.1])
    np.testing.assert_allclose(
        jax.grad(geo.angular_error_deg, argnums=1)(jnp.zeros(2), b),
        [0, np.rad2deg(1)],
        rtol=1e-5,
    )


def test_head_angles_and_rotations(rng):
    angles = np.stack([rng.uniform(-1.5, 1.5, 60), rng.uniform(-3.1, 3.1, 60)], -1)
    roll = rng.uniform(-1, 1, 60)
    got = np.asarray(geo.head_pitchyaw_to_rotation(angles, roll), np.float64)
    # scipy's x rotation has the other sign: a positive pitch looks up, against the right-hand rule.
    euler = np.stack([angles[:, 1], -angles[:, 0], roll], -1)
    expected = Rotation.from_euler("YXZ", euler).as_matrix()
    np.testing.assert_allclose(got, expected, atol=1e-6)
    back = np.asarray(geo.rotation_to_head_pitchyaw(got), np.float64)
    np.testing.assert_allclose(np.rad2deg(back), np.rad2deg(angles), atol=TOLERANCE_DEG)
    np.testing.assert_allclose(back[:, 0], np.arcsin(expected[:, 1, 2]), atol=1e-5)
    assert _angle_deg(_vector(back), -expected[:, :, 2]).max() < TOLERANCE_DEG
    np.testing.assert_array_equal(geo.head_pitchyaw_to_rotation(np.zeros(2)), np.eye(3))


def test_mirrors(rng):
    m = np.diag([-1.0, 1, 1])
    angles = rng.uniform(-1, 1, (5, 4, 2)).astype(np.float32)
    v, r = geo.pitchyaw_to_vector(angles), geo.head_pitchyaw_to_rotation(angles, angles[..., 0])
    np.testing.assert_allclose(geo.mirror_vector(v), np.asarray(v) @ m, atol=0)
    np.testing.assert_allclose(geo.mirror_rotation(r), m @ np.asarray(r) @ m, atol=0)
    mirrored = np.asarray(geo.mirror_pitchyaw(angles))
    np.testing.assert_array_equal(mirrored, angles * np.array([1, -1], np.float32))
    np.testing.assert_allclose(geo.pitchyaw_to_vector(mirrored), geo.mirror_vector(v), atol=1e-7)
    heads = geo.rotation_to_head_pitchyaw(geo.mirror_rotation(r))
    np.testing.assert_allclose(heads, mirrored, atol=1e-6)
    # Mirroring the head and what it looks at is mirroring what the head makes of it.
    np.testing.assert_allclose(
        geo.rotate(geo.mirror_rotation(r), geo.mirror_vector(v)),
        geo.mirror_vector(geo.rotate(r, v)),
        atol=1e-6,
    )


def test_rotation_vectors_at_every_angle(rng):
    axis = np.concatenate([_units(rng, 20), np.eye(3), -np.eye(3)])
    angle = np.array([0, 1e-12, 1e-6, 1e-3, 1, 2.5, np.pi - 1e-6, np.pi])
    turns = (axis[:, None] * angle[:, None]).reshape(-1, 3)
    expected = Rotation.from_rotvec(turns).as_matrix()
    matrices = np.asarray(geo.rotation_vector_to_matrix(turns), np.float64)
    np.testing.assert_allclose(matrices, expected, atol=5e-7)
    back = np.asarray(geo.matrix_to_rotation_vector(expected), np.float64)
    error = Rotation.from_rotvec(back) * Rotation.from_matrix(expected).inv()
    assert np.rad2deg(error.magnitude()).max() < TOLERANCE_DEG
    below = np.linalg.norm(turns, axis=-1) < 3
    np.testing.assert_allclose(back[below], turns[below], atol=1e-6)


def test_one_rotation_for_many_vectors_and_under_vmap(rng):
    r = Rotation.random(3, random_state=0).as_matrix().astype(np.float32)
    v = rng.normal(size=(3, 4, 3)).astype(np.float32)
    expected = np.einsum("bij,bnj->bni", r, v)
    np.testing.assert_allclose(geo.rotate(r[0], v[0]), expected[0], atol=1e-5)
    np.testing.assert_allclose(geo.rotate(r[:, None], v), expected, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(geo.rotate)(r, v), expected, atol=1e-5)


def test_spaces_do_not_mix():
    a = geo.Gaze.from_pitchyaw(np.array([0.1, 0.2]), "camera")
    b = geo.Gaze.from_vector(a.vector * 3, "camera")
    np.testing.assert_allclose(a.error_deg(b), 0, atol=TOLERANCE_DEG)
    other = geo.Gaze.from_pitchyaw(np.array([0.1, 0.2]), "normalised")
    with pytest.raises(ValueError, match="gaze in normalised space where camera space is expected"):
        a.error_deg(other)
    with pytest.raises(ValueError, match="'world': expected one of camera, normalised"):
        geo.Gaze.from_pitchyaw(np.zeros(2), "world")
    doubled = jax.jit(lambda g: jax.tree.map(lambda x: 2 * x, g))(a)
    assert doubled.space == "camera", "the space survives jit"
