"""Data normalisation: what a virtual camera would have seen that looks straight at an eye or a face.

Zhang, Sugano and Bulling, "Revisiting data normalization for appearance-based gaze estimation" (2018). The virtual camera
stands where the real one does, turned so that its axis passes through the reference point a and its x axis lies level with
the head's, and the picture is scaled as if |a| were the camera's nominal distance d_n:

    d = |a|   z = a / d   y = unit(z x R_h[:, 0])   x = unit(y x z)   R = rows [x; y; z]   S = diag(1, 1, d_n / d)
    W = K_n S R K^-1     patch = warp(image, W)     g_n = R g     head: R R_h, whose roll is gone

Gaze is never multiplied by S, which is the correction of 2018; data sets that were made with it are read with `scale`.
Camera space has x right, y down, z forward, millimetres; pixel centres are at integers.
"""

import dataclasses
import functools
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Float32, Num, UInt8

from gaze_jax import geometry
from gaze_jax.geometry import Gaze


@dataclasses.dataclass(frozen=True)
class VirtualCamera:
    """The camera that normalised pictures are taken with.

    Attributes:
      name: as data sets and configurations name it.
      width: pixels.
      height: pixels.
      focal_px: focal length.
      distance_mm: d_n, how far the reference point seems to be.
    """

    name: str
    width: int
    height: int
    focal_px: float
    distance_mm: float

    @property
    def matrix(self) -> Float32[np.ndarray, "3 3"]:
        """K_n, centred at (width / 2, height / 2)."""
        return np.array(
            [
                [self.focal_px, 0, self.width / 2],
                [0, self.focal_px, self.height / 2],
                [0, 0, 1],
            ],
            np.float32,
        )


CAMERAS = MappingProxyType(
    {
        camera.name: camera
        for camera in (
            VirtualCamera("mpiigaze_eye", 60, 36, 960.0, 600.0),
            VirtualCamera("mpiifacegaze", 224, 224, 1600.0, 1000.0),
            # GazeHub's pictures of faces too.
            VirtualCamera("eth_face", 224, 224, 960.0, 600.0),
            VirtualCamera("eth_face448", 448, 448, 960.0, 300.0),
            VirtualCamera("eth_eye", 128, 128, 1800.0, 600.0),
            VirtualCamera("faze_strip", 256, 64, 1300.0, 600.0),
        )
    }
)
"""The virtual cameras of the published data sets; the first three show 1.6 px a millimetre."""


class Normalization(NamedTuple):
    """What was done to a picture.

    Attributes:
      R: rotation from camera to normalised space, g_n = R g.
      scale: d_n / d.
      warp: W, homogeneous pixels of the picture to those of the patch.
    """

    R: Float[Array, "*lead 3 3"]
    scale: Float[Array, "*lead"]
    warp: Float[Array, "*lead 3 3"]


def _float32(value: Any) -> Array:
    return jnp.asarray(value).astype(jnp.float32)


def _rotation(head: Array, reference: Array) -> Float[Array, "*lead 3 3"]:
    z = geometry.unit(reference)
    across = jnp.cross(z, head[..., :, 0])
    # A head seen exactly from its side has no horizon of its own: the camera's serves.
    side = jnp.sum(across * across, axis=-1, keepdims=True) < 1e-12
    level = jnp.cross(z, jnp.broadcast_to(jnp.asarray([1.0, 0.0, 0.0]), z.shape))
    y = geometry.unit(jnp.where(side, level, across))
    return jnp.stack([geometry.unit(jnp.cross(y, z)), y, z], axis=-2)


def _inverse_intrinsics(matrix: Array) -> Array:
    """K^-1 of an upper triangular K in closed form, which loses nothing to a general solver's pivots."""
    fx, fy, skew = matrix[..., 0, 0], matrix[..., 1, 1], matrix[..., 0, 1]
    cx, cy = matrix[..., 0, 2], matrix[..., 1, 2]
    zero, one = jnp.zeros_like(fx), jnp.ones_like(fx)
    rows = [
        [1.0 / fx, -skew / (fx * fy), (skew * cy - cx * fy) / (fx * fy)],
        [zero, 1.0 / fy, -cy / fy],
        [zero, zero, one],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def plan(
    camera_matrix: Float[ArrayLike, "*lead 3 3"],
    head_rotation: Float[ArrayLike, "*lead 3 3"],
    reference_mm: Float[ArrayLike, "*lead 3"],
    virtual: VirtualCamera,
) -> Normalization:
    """The rotation, scale and warp that bring a reference point to the virtual camera's centre.

    Args:
      camera_matrix: K of the camera that took the picture.
      head_rotation: R_h, head frame to camera frame.
      reference_mm: a in camera space, not zero.
      virtual: the virtual camera.
    """
    return _plan(
        camera_matrix, head_rotation, reference_mm, virtual.matrix, np.float32(virtual.distance_mm)
    )


@jax.jit
def _plan(matrix: Any, head: Any, reference: Any, virtual: Any, distance_mm: Any) -> Normalization:
    """`plan` with the virtual camera as arrays: one program serves all of them."""
    matrix, head, reference = _float32(matrix), _float32(head), _float32(reference)
    rotation = _rotation(head, reference)
    scale = distance_mm / jnp.sqrt(jnp.sum(reference * reference, axis=-1))
    scaled = jnp.stack(
        [rotation[..., 0, :], rotation[..., 1, :], scale[..., None] * rotation[..., 2, :]], axis=-2
    )
    centre = jnp.broadcast_to(virtual, scaled.shape)
    warp = geometry.product(geometry.product(centre, scaled), _inverse_intrinsics(matrix))
    return Normalization(rotation, scale, warp)


def _sources(matrix: Array, planned: Normalization, virtual: VirtualCamera) -> tuple[Array, Array]:
    """(y, x) in the picture of every pixel of the patch; far outside where that lies behind the camera."""
    u, v = jnp.meshgrid(
        jnp.arange(virtual.width, dtype=jnp.float32), jnp.arange(virtual.height, dtype=jnp.float32)
    )
    # W^-1 = K R^T S^-1 K_n^-1, factor by factor: inverting W itself would lose digits.
    rays = jnp.stack(
        [
            (u - virtual.width / 2) / virtual.focal_px,
            (v - virtual.height / 2) / virtual.focal_px,
            jnp.broadcast_to(1.0 / planned.scale, u.shape),
        ]
    )
    back = geometry.product(matrix, planned.R.T)
    x, y, w = jnp.einsum("ij,jhw->ihw", back, rays, precision=jax.lax.Precision.HIGHEST)
    front = w > 1e-6
    w = jnp.where(front, w, 1.0)
    return jnp.where(front, y / w, -10.0), jnp.where(front, x / w, -10.0)


@functools.partial(jax.jit, static_argnames="virtual")
def normalize(
    image: Num[ArrayLike, "H W c"],
    camera_matrix: Float[ArrayLike, "3 3"],
    head_rotation: Float[ArrayLike, "3 3"],
    reference_mm: Float[ArrayLike, " 3"],
    virtual: VirtualCamera,
) -> tuple[Num[Array, "h w c"], Normalization]:
    """The patch that the virtual camera sees: bilinear, 0 beyond the picture.

    Compiled once for each shape of picture and virtual camera.

    Args:
      image: uint8 or float, free of lens distortion.
      camera_matrix: K of the camera that took it.
      head_rotation: R_h, head frame to camera frame.
      reference_mm: what the virtual camera looks at, in camera space.
      virtual: the virtual camera.

    Returns:
      The patch, rounded to uint8 where the picture is uint8 and float32 otherwise, and what was done.
    """
    image = jnp.asarray(image)
    planned = plan(camera_matrix, head_rotation, reference_mm, virtual)
    where = _sources(_float32(camera_matrix), planned, virtual)
    sample = lambda channel: jax.scipy.ndimage.map_coordinates(
        channel, where, order=1, mode="constant", cval=0.0
    )
    patch = jax.vmap(sample, in_axes=2, out_axes=2)(image.astype(jnp.float32))
    if image.dtype == jnp.uint8:
        patch = jnp.round(patch).astype(jnp.uint8)
    return patch, planned


def _turn(direction: Any, matrix: Array, old: str, new: str) -> Any:
    if isinstance(direction, Gaze):
        return Gaze.from_vector(geometry.rotate(matrix, direction.require(old).vector), new)
    direction = jnp.asarray(direction)
    if direction.shape[-1:] == (2,):
        vector = geometry.pitchyaw_to_vector(direction)
        return geometry.vector_to_pitchyaw(geometry.rotate(matrix, vector))
    return geometry.unit(geometry.rotate(matrix, direction))


def _diagonal(scale: Array) -> Float[Array, "*lead 3"]:
    return jnp.stack([jnp.ones_like(scale), jnp.ones_like(scale), scale], axis=-1)


def normalize_gaze(
    direction: Any,
    rotation: Float[ArrayLike, "*lead 3 3"],
    scale: Float[ArrayLike, "*lead"] | None = None,
) -> Any:
    """A direction in camera space as the virtual camera sees it: R g.

    Args:
      direction: vectors (..., 3), (pitch, yaw) in radians (..., 2), or a `Gaze` in camera space.
      rotation: R of the normalisation.
      scale: d_n / d, only for labels of data sets whose gaze was scaled too: unit(S R g).

    Returns:
      The same kind of thing; vectors have length 1.

    Raises:
      ValueError: a `Gaze` that is not in camera space.
    """
    matrix = _float32(rotation)
    if scale is not None:
        matrix = _diagonal(_float32(scale))[..., :, None] * matrix
    return _turn(direction, matrix, "camera", "normalised")


def denormalize(
    direction: Any,
    rotation: Float[ArrayLike, "*lead 3 3"],
    scale: Float[ArrayLike, "*lead"] | None = None,
) -> Any:
    """A direction in normalised space back in camera space: R^T g.

    Args:
      direction: vectors (..., 3), (pitch, yaw) in radians (..., 2), or a `Gaze` in normalised space.
      rotation: R of the normalisation.
      scale: d_n / d, only for labels that were scaled: unit(R^T S^-1 g).

    Returns:
      The same kind of thing; vectors have length 1.

    Raises:
      ValueError: a `Gaze` that is not in normalised space.
    """
    matrix = jnp.swapaxes(_float32(rotation), -1, -2)
    if scale is not None:
        matrix = matrix / _diagonal(_float32(scale))[..., None, :]
    return _turn(direction, matrix, "normalised", "camera")


@jax.jit
def equalize_histogram(grey: UInt8[ArrayLike, "..."]) -> UInt8[Array, "..."]:
    """Histogram equalisation of one grey picture: lut[i] = round(255 (cdf[i] - cdf_min) / (N - cdf_min)).

    Args:
      grey: one picture of any shape, at most four million pixels; a picture of one grey level stays as it is.

    Raises:
      ValueError: a larger picture, whose counts would not fit the integers this is computed in.
    """
    grey = jnp.asarray(grey)
    if grey.size > 4_000_000:
        raise ValueError(f"a grey picture of {grey.size} pixels: expected at most 4000000")
    counts = jnp.bincount(grey.ravel().astype(jnp.int32), length=256).astype(jnp.int32)
    cumulative = jnp.cumsum(counts)
    lowest = counts[jnp.argmax(counts > 0)]
    total = grey.size - lowest
    # Rounded in integers, half up: the same bytes on every device.
    lut = (510 * (cumulative - lowest) + total) // jnp.maximum(2 * total, 1)
    equal = jnp.take(jnp.clip(lut, 0, 255).astype(jnp.uint8), grey.astype(jnp.int32))
    return jnp.where(total > 0, equal, grey)
