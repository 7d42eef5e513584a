"""Signed distances of the eight shapes and the tones of the four textures, in the object's own coordinates.

Only additions, multiplications, divisions, square roots, minima and maxima of float32 are used: these are exact by
IEEE 754 (each correctly rounded), so the pixels do not depend on the machine, unlike sin, exp or pow. The star and the
heart follow Inigo Quilez, "2D distance functions" (iquilezles.org/articles/distfunctions2d).

Coordinates: x to the right, y upwards, one unit is the object's radius. Negative distances are inside.
"""

import numpy as np
from jaxtyping import Float32

from core_jax.world.attributes import SECOND_TONE, SHAPES, TEXTURES

_F = np.float32
_HALF_SQRT3 = _F(0.8660254)
_COS36, _SIN36 = _F(0.809017), _F(0.58778524)


def _circle(x, y):
    return np.sqrt(x * x + y * y) - _F(0.9)


def _square(x, y):
    return np.maximum(np.abs(x), np.abs(y)) - _F(0.8)


def _triangle(x, y):
    y = y + _F(0.15)
    return np.maximum(-y, _HALF_SQRT3 * np.abs(x) + _F(0.5) * y) - _F(0.55)


def _star(x, y):
    radius, inner = _F(1.08), _F(0.42)
    x = np.abs(x)
    for kx in (_COS36, -_COS36):
        fold = _F(2) * np.maximum(kx * x - _SIN36 * y, _F(0))
        x, y = x - fold * kx, y + fold * _SIN36
    x, y = np.abs(x), y - radius
    bx, by = inner * _SIN36, inner * _COS36 - _F(1)
    along = np.clip((x * bx + y * by) / (bx * bx + by * by), _F(0), radius)
    dx, dy = x - bx * along, y - by * along
    return np.copysign(np.sqrt(dx * dx + dy * dy), y * bx - x * by)


def _cross(x, y):
    x, y = np.abs(x), np.abs(y)
    return np.maximum(np.minimum(x, y) - _F(0.28), np.maximum(x, y) - _F(0.95))


def _ring(x, y):
    return np.abs(np.sqrt(x * x + y * y) - _F(0.7)) - _F(0.24)


def _diamond(x, y):
    width = _F(0.66)
    return (np.abs(x) + width * np.abs(y) - width) * _F(0.8346223)


def _heart(x, y):
    scale = _F(0.62)
    x, y = np.abs(x) * scale, y * scale + _F(0.58)
    lx, ly = x - _F(0.25), y - _F(0.75)
    lobe = np.sqrt(lx * lx + ly * ly) - _F(0.35355338)
    foot = _F(0.5) * np.maximum(x + y, _F(0))
    top = x * x + (y - _F(1)) * (y - _F(1))
    side = (x - foot) * (x - foot) + (y - foot) * (y - foot)
    body = np.copysign(np.sqrt(np.minimum(top, side)), x - y)
    return np.where(x + y > _F(1), lobe, body) / scale


_DISTANCES = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "diamond": _diamond,
    "heart": _heart,
}
_BY_INDEX = tuple(_DISTANCES[name] for name in SHAPES)


def distance(
    shape: int, x: Float32[np.ndarray, "*n"], y: Float32[np.ndarray, "*n"]
) -> Float32[np.ndarray, "*n"]:
    """Signed distance to the outline of shape `SHAPES[shape]`, in radii (a lower bound away from it for some)."""
    return _BY_INDEX[shape](x, y)


def tone(
    texture: int,
    u: Float32[np.ndarray, "*n"],
    v: Float32[np.ndarray, "*n"],
    period: Float32[np.ndarray, "*n"],
) -> Float32[np.ndarray, "*n"]:
    """Brightness factor of texture `TEXTURES[texture]`: 1 on the first tone, `SECOND_TONE` on the second.

    Args:
      texture: index into `TEXTURES`.
      u: first texture coordinate in periods.
      v: second texture coordinate in periods.
      period: length of a period in pixels, which sets the width of the soft edges to one pixel.

    Returns:
      The factor in [SECOND_TONE, 1].
    """
    name = TEXTURES[texture]
    if name == "plain":
        return np.ones(np.broadcast_shapes(u.shape, v.shape, period.shape), np.float32)
    if name == "striped":
        first = _soft(_wave(u) * period)
    elif name == "dotted":
        du, dv = u - np.floor(u) - _F(0.5), v - np.floor(v) - _F(0.5)
        first = _soft((np.sqrt(du * du + dv * dv) - _F(0.3)) * period)
    else:
        a, b = _soft(_wave(u) * period), _soft(_wave(v) * period)
        first = a + b - _F(2) * a * b
    return _F(SECOND_TONE) + _F(1 - SECOND_TONE) * first


def _wave(u: np.ndarray) -> np.ndarray:
    """Signed distance, in periods, to the next border of a square wave."""
    return np.abs(u - np.floor(u) - _F(0.5)) - _F(0.25)


def _soft(pixels: np.ndarray) -> np.ndarray:
    return np.clip(_F(0.5) + pixels, _F(0), _F(1))
