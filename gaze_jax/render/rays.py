"""Rays through the pixels of a picture, as separate planes: x, y, z are arrays of their own.

The CPU compiler then makes one loop of a whole shading function; arrays with a short last axis would defeat it. Planes are
(4, H, W): four rays a pixel (2 x 2 supersampling), averaged at the end.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

Vector = tuple[Array, Array, Array]
"""The x, y and z planes of vectors, or three scalars."""

SUBPIXELS = 4


def split(vector: Float[Array, "3"]) -> Vector:
    """One vector as three scalars."""
    return vector[0], vector[1], vector[2]


def dot(a: Vector, b: Vector) -> Array:
    """Scalar product, plane by plane."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def add(a: Vector, b: Vector) -> Vector:
    """The sum a + b."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def subtract(a: Vector, b: Vector) -> Vector:
    """The difference a - b."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def times(factor: Array, a: Vector) -> Vector:
    """The multiple factor * a."""
    return factor * a[0], factor * a[1], factor * a[2]


def unit(a: Vector) -> Vector:
    """The same direction at length 1."""
    return times(1.0 / jnp.sqrt(jnp.maximum(dot(a, a), 1e-12)), a)


def directions(
    matrix: Float[Array, "3 3"],
    height: int,
    width: int,
    corner: tuple[Array | int, Array | int] = (0, 0),
) -> Vector:
    """Unit rays through the pixels of a window.

    Args:
      matrix: maps (column, row, 1) to a direction; the inverse of a camera matrix, turned into the wanted frame.
      height: rows of the window.
      width: columns of the window.
      corner: (column, row) of its first pixel.

    Returns:
      Planes of shape (4, height, width).
    """
    offset = jnp.asarray([-0.25, 0.25], jnp.float32)
    dx = jnp.tile(offset, 2)[:, None, None]
    dy = jnp.repeat(offset, 2)[:, None, None]
    column = jnp.arange(width, dtype=jnp.float32)[None, None, :] + _number(corner[0]) + dx
    row = jnp.arange(height, dtype=jnp.float32)[None, :, None] + _number(corner[1]) + dy
    return unit(
        (_row(matrix[0], column, row), _row(matrix[1], column, row), _row(matrix[2], column, row))
    )


def _number(value: Array | int) -> Array:
    return jnp.asarray(value).astype(jnp.float32)


def _row(row: Array, x: Array, y: Array) -> Array:
    return row[0] * x + (row[1] * y + row[2])


def edge(distance_mm: Array, width_mm: float) -> Array:
    """Logistic edge: 0 far below, .5 at 0, 1 far above; the width in mm."""
    return 0.5 + 0.5 * jnp.tanh(distance_mm * (0.5 / width_mm))
