"""Directions of gaze and of heads: angles, vectors, rotations, mirrors and the angle between two directions.

Camera frame: x right, y down, z forward. A gaze is a unit vector from the eye to the target, or (pitch, yaw) in radians:

    g = (-cos t sin p, -sin t, -cos t cos p)        pitch t > 0 looks up, yaw p > 0 looks towards image left

A head rotation maps the head frame to the camera frame and is the identity for a head that faces the camera; its angles
are those of its face normal -R[:, 2]. Every function takes any leading axes, runs under jit, vmap and grad, and computes
in float32. Angles come out of atan2 and never of asin or acos, whose float32 results are off by up to .03 degrees near
their ends; lengths go through a double `where`, so that gradients are finite at 0, 90 and 180 degrees too.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

SPACES = ("camera", "normalised")
# Squares below this count as zero: not far under it float32 gradients of a square root overflow.
_TINY = 1e-30


def _float32(value: Any) -> Array:
    return jnp.asarray(value).astype(jnp.float32)


def _sqrt(square: Float[Array, "*lead"]) -> Float[Array, "*lead"]:
    """Square root with gradient 0 where it is 0."""
    zero = square < _TINY
    return jnp.where(zero, 0.0, jnp.sqrt(jnp.where(zero, 1.0, square)))


def product(a: Float[ArrayLike, "*lead i j"], b: Float[ArrayLike, "*lead j k"]) -> Array:
    """Matrix product in full float32: accelerators otherwise round the factors to 8 or 10 bits."""
    return jnp.matmul(_float32(a), _float32(b), precision=jax.lax.Precision.HIGHEST)


@jax.jit
def rotate(
    rotation: Float[ArrayLike, "*#lead 3 3"], vector: Float[ArrayLike, "*#lead 3"]
) -> Float[Array, "*lead 3"]:
    """R v in full float32; one matrix serves many vectors and the other way round.

    Args:
      rotation: the matrices.
      vector: what they turn; need not have length 1.
    """
    return jnp.einsum(
        "...ij,...j->...i",
        _float32(rotation),
        _float32(vector),
        precision=jax.lax.Precision.HIGHEST,
    )


@jax.jit
def unit(vector: Float[ArrayLike, "*lead n"]) -> Float[Array, "*lead n"]:
    """The vector at length 1; a zero vector stays zero."""
    vector = _float32(vector)
    # Scaling by the largest component first keeps the squares of very long and very short vectors in range.
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(vector), axis=-1, keepdims=True))
    vector = vector / jnp.where(largest > 0.0, largest, 1.0)
    length = _sqrt(jnp.sum(vector * vector, axis=-1, keepdims=True))
    return vector / jnp.where(length > 0.0, length, 1.0)


@jax.jit
def pitchyaw_to_vector(pitchyaw: Float[ArrayLike, "*lead 2"]) -> Float[Array, "*lead 3"]:
    """The unit vector of (pitch, yaw).

    Args:
      pitchyaw: radians.
    """
    pitchyaw = _float32(pitchyaw)
    pitch, yaw = pitchyaw[..., 0], pitchyaw[..., 1]
    flat = jnp.cos(pitch)
    return -jnp.stack([flat * jnp.sin(yaw), jnp.sin(pitch), flat * jnp.cos(yaw)], axis=-1)


@jax.jit
def vector_to_pitchyaw(vector: Float[ArrayLike, "*lead 3"]) -> Float[Array, "*lead 2"]:
    """(pitch, yaw) of a vector of any length, radians: pitch in [-pi/2, pi/2], yaw in [-pi, pi].

    Straight up and straight down have no yaw: 0, with gradient 0.

    Args:
      vector: not zero; a zero vector gives angles 0.
    """
    x, y, z = jnp.moveaxis(-unit(vector), -1, 0)
    square = x * x + z * z
    pole = square < _TINY
    yaw = jnp.where(pole, 0.0, jnp.arctan2(x, jnp.where(pole, 1.0, z)))
    # At a zero vector atan2 would have the gradient 0 / 0.
    nothing = pole & (y == 0.0)
    pitch = jnp.arctan2(y, jnp.where(nothing, 1.0, _sqrt(square)))
    return jnp.stack([pitch, yaw], axis=-1)


@jax.jit
def angular_error_deg(
    a: Float[ArrayLike, "*#lead n"], b: Float[ArrayLike, "*#lead n"]
) -> Float[Array, "*lead"]:
    """The angle between two directions in degrees, exact from 0 to 180.

    Vectors: atan2(|a x b|, a . b). Angles: the haversine formula in both its forms, 2 atan2(sqrt(h), sqrt(1 - h)) with
    h = sin^2(dt / 2) + cos t cos t' sin^2(dp / 2) and 1 - h = sin^2((t + t') / 2) + cos t cos t' cos^2(dp / 2), which
    subtracts the angles before anything is rounded. The gradient is 0, not NaN, where both are equal.

    Args:
      a: vectors of any length, n = 3, or (pitch, yaw) in radians, n = 2.
      b: likewise; leading axes broadcast.

    Raises:
      ValueError: the last axes are not both 3 or both 2.
    """
    first, second = _float32(a), _float32(b)
    if first.shape[-1:] != second.shape[-1:] or first.shape[-1:] not in ((2,), (3,)):
        raise ValueError(
            f"shapes {first.shape} and {second.shape}: expected two arrays of vectors (..., 3) or two of (pitch, yaw) "
            "(..., 2)"
        )
    shape = jnp.broadcast_shapes(first.shape, second.shape)
    first, second = jnp.broadcast_to(first, shape), jnp.broadcast_to(second, shape)
    between = _between_angles if shape[-1] == 2 else _between_vectors
    return jnp.rad2deg(between(first, second))


def _between_vectors(a: Float[Array, "*lead 3"], b: Float[Array, "*lead 3"]) -> Array:
    # Compilers contract products and sums in ways of their own: only the comparison is 0 for certain.
    same = jnp.all(a == b, axis=-1)
    a, b = unit(a), unit(b)
    # a x (b - a) = a x b, without the cancellation at small angles.
    cross = jnp.cross(a, b - a)
    sine = _sqrt(jnp.where(same, 0.0, jnp.sum(cross * cross, axis=-1)))
    cosine = jnp.sum(a * b, axis=-1)
    # Both are 0 only for a zero vector, where the gradient of atan2 would be 0 / 0.
    nothing = (sine == 0.0) & (cosine == 0.0)
    return jnp.arctan2(sine, jnp.where(nothing, 1.0, cosine))


def _between_angles(a: Float[Array, "*lead 2"], b: Float[Array, "*lead 2"]) -> Array:
    half_sum, half = 0.5 * (a[..., 0] + b[..., 0]), 0.5 * (a - b)
    flat = jnp.cos(a[..., 0]) * jnp.cos(b[..., 0])
    near = jnp.sin(half[..., 0]) ** 2 + flat * jnp.sin(half[..., 1]) ** 2
    far = jnp.sin(half_sum) ** 2 + flat * jnp.cos(half[..., 1]) ** 2
    return 2.0 * jnp.arctan2(_sqrt(near), _sqrt(far))


@jax.jit
def rotation_to_head_pitchyaw(rotation: Float[ArrayLike, "*lead 3 3"]) -> Float[Array, "*lead 2"]:
    """(pitch, yaw) of a head in radians: pitch = asin(R[1, 2]), yaw = atan2(R[0, 2], R[2, 2]).

    Args:
      rotation: head frame to camera frame.
    """
    face = _float32(rotation)[..., :, 2]
    return vector_to_pitchyaw(-face)


def _matrix(rows: list[list[Array]]) -> Float[Array, "*lead 3 3"]:
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


@jax.jit
def head_pitchyaw_to_rotation(
    pitchyaw: Float[ArrayLike, "*lead 2"], roll: Float[ArrayLike, "*#lead"] = 0.0
) -> Float[Array, "*lead 3 3"]:
    """R = Ry(yaw) Rx(pitch) Rz(roll), head frame to camera frame.

    Args:
      pitchyaw: radians.
      roll: radians, > 0 turns the head's x axis towards its y axis: clockwise in the image.
    """
    pitchyaw = _float32(pitchyaw)
    angles = (
        pitchyaw[..., 0],
        pitchyaw[..., 1],
        jnp.broadcast_to(_float32(roll), pitchyaw.shape[:-1]),
    )
    (ct, st), (cp, sp), (cr, sr) = ((jnp.cos(angle), jnp.sin(angle)) for angle in angles)
    zero, one = jnp.zeros_like(ct), jnp.ones_like(ct)
    ry = _matrix([[cp, zero, sp], [zero, one, zero], [-sp, zero, cp]])
    rx = _matrix([[one, zero, zero], [zero, ct, st], [zero, -st, ct]])
    rz = _matrix([[cr, -sr, zero], [sr, cr, zero], [zero, zero, one]])
    return product(product(ry, rx), rz)


@jax.jit
def mirror_vector(vector: Float[ArrayLike, "*lead 3"]) -> Float[Array, "*lead 3"]:
    """M g with M = diag(-1, 1, 1): what a picture with reversed columns shows."""
    vector = _float32(vector)
    return jnp.concatenate([-vector[..., :1], vector[..., 1:]], axis=-1)


@jax.jit
def mirror_pitchyaw(pitchyaw: Float[ArrayLike, "*lead 2"]) -> Float[Array, "*lead 2"]:
    """(pitch, -yaw)."""
    pitchyaw = _float32(pitchyaw)
    return jnp.concatenate([pitchyaw[..., :1], -pitchyaw[..., 1:]], axis=-1)


@jax.jit
def mirror_rotation(rotation: Float[ArrayLike, "*lead 3 3"]) -> Float[Array, "*lead 3 3"]:
    """M R M with M = diag(-1, 1, 1): the head that a picture with reversed columns shows."""
    rotation = _float32(rotation)
    sign = jnp.asarray([[1, -1, -1], [-1, 1, 1], [-1, 1, 1]], jnp.float32)
    return rotation * jnp.broadcast_to(sign, rotation.shape)


@jax.jit
def rotation_vector_to_matrix(vector: Float[ArrayLike, "*lead 3"]) -> Float[Array, "*lead 3 3"]:
    """Rodrigues' formula R = I + a K + b K^2, a = sin w / w, b = (1 - cos w) / w^2.

    Args:
      vector: the axis times the angle w in radians.
    """
    vector = _float32(vector)
    angle = _sqrt(jnp.sum(vector * vector, axis=-1))
    # 1 - cos w cancels at small angles, its half-angle form does not; sinc(x) here is sin(pi x) / (pi x).
    a = jnp.sinc(angle / jnp.pi)[..., None, None]
    b = (0.5 * jnp.sinc(0.5 * angle / jnp.pi) ** 2)[..., None, None]
    x, y, z = jnp.moveaxis(vector, -1, 0)
    zero = jnp.zeros_like(x)
    k = _matrix([[zero, -z, y], [z, zero, -x], [-y, x, zero]])
    return jnp.broadcast_to(jnp.eye(3), k.shape) + a * k + b * product(k, k)


@jax.jit
def matrix_to_rotation_vector(matrix: Float[ArrayLike, "*lead 3 3"]) -> Float[Array, "*lead 3"]:
    """The axis times the angle in [0, pi] radians.

    Goes through the quaternion q: each row of 4 q q^T is linear in R, and the one with the largest diagonal is far from
    0 at every angle, 180 degrees included.

    Args:
      matrix: rotation matrices.
    """
    m = _float32(matrix)
    xx, yy, zz = m[..., 0, 0], m[..., 1, 1], m[..., 2, 2]
    wx, wy, wz = (m[..., i, j] - m[..., j, i] for i, j in ((2, 1), (0, 2), (1, 0)))
    xy, xz, yz = (m[..., i, j] + m[..., j, i] for i, j in ((1, 0), (2, 0), (2, 1)))
    rows = [
        [1.0 + xx + yy + zz, wx, wy, wz],
        [wx, 1.0 + xx - yy - zz, xy, xz],
        [wy, xy, 1.0 - xx + yy - zz, yz],
        [wz, xz, yz, 1.0 - xx - yy + zz],
    ]
    outer = jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)
    best = jnp.argmax(jnp.stack([row[i] for i, row in enumerate(rows)], axis=-1), axis=-1)
    q = unit(jnp.take_along_axis(outer, best[..., None, None], axis=-2)[..., 0, :])
    q = jnp.where(q[..., :1] < 0.0, -q, q)
    sine = _sqrt(jnp.sum(q[..., 1:] ** 2, axis=-1))
    small = sine < 1e-6
    factor = jnp.arctan2(sine, q[..., 0]) / jnp.where(small, 1.0, sine)
    return 2.0 * q[..., 1:] * jnp.where(small, 1.0, factor)[..., None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaze:
    """A direction of gaze that knows its space; what public functions hand out and take.

    Attributes:
      pitchyaw_rad: (pitch, yaw), radians.
      vector: the same as unit vectors.
      space: "camera" (the camera that took the picture) or "normalised" (the virtual camera).
    """

    pitchyaw_rad: Float[Array, "*lead 2"]
    vector: Float[Array, "*lead 3"]
    space: str = dataclasses.field(metadata={"static": True})

    def __post_init__(self) -> None:
        if self.space not in SPACES:
            raise ValueError(f"gaze in space {self.space!r}: expected one of {', '.join(SPACES)}")

    @classmethod
    def from_pitchyaw(cls, pitchyaw_rad: Float[ArrayLike, "*lead 2"], space: str) -> "Gaze":
        """Of (pitch, yaw) in radians."""
        return cls(_float32(pitchyaw_rad), pitchyaw_to_vector(pitchyaw_rad), space)

    @classmethod
    def from_vector(cls, vector: Float[ArrayLike, "*lead 3"], space: str) -> "Gaze":
        """Of vectors of any length."""
        return cls(vector_to_pitchyaw(vector), unit(vector), space)

    def require(self, space: str) -> "Gaze":
        """Itself.

        Raises:
          ValueError: it lies in another space.
        """
        if self.space != space:
            raise ValueError(
                f"gaze in {self.space} space where {space} space is expected: convert it with "
                "`normalize_gaze` or `denormalize`"
            )
        return self

    def error_deg(self, other: "Gaze") -> Float[Array, "*lead"]:
        """The angle to another gaze in degrees.

        Raises:
          ValueError: the other one lies in another space.
        """
        return angular_error_deg(self.vector, other.require(self.space).vector)
