"""Shapes against polygons and discs written down apart from the distance functions."""

import math

import numpy as np
import pytest

from core_jax.world import SHAPES, TEXTURES, shapes

_RNG = np.random.default_rng(0)
_X, _Y = _RNG.uniform(-1.3, 1.3, (2, 40_000)).astype(np.float32)


def _inside_polygon(vertices: list[tuple[float, float]]) -> np.ndarray:
    """Even-odd rule, edge by edge."""
    inside = np.zeros(_X.shape, bool)
    for (x0, y0), (x1, y1) in zip(vertices, vertices[1:] + vertices[:1], strict=True):
        if y0 != y1:
            crosses = (y0 > _Y) != (y1 > _Y)
            inside ^= crosses & ((x1 - x0) * (_Y - y0) / (y1 - y0) + x0 > _X)
    return inside


def _disc(x: float, y: float, radius: float) -> np.ndarray:
    return np.abs((_X - x) + 1j * (_Y - y)) < radius


def _regular(corners: int, radii: list[float], lift: float = 0.0) -> list[tuple[float, float]]:
    angles = [math.pi / 2 + 2 * math.pi * k / corners for k in range(corners)]
    return [
        (radii[k % len(radii)] * math.cos(a), radii[k % len(radii)] * math.sin(a) + lift)
        for k, a in enumerate(angles)
    ]


def _expected(name: str) -> np.ndarray:
    if name == "circle":
        return _disc(0, 0, 0.9)
    if name == "ring":
        return _disc(0, 0, 0.94) & ~_disc(0, 0, 0.46)
    if name == "square":
        return _inside_polygon([(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)])
    if name == "triangle":
        return _inside_polygon(_regular(3, [1.1], lift=-0.15))
    if name == "star":
        return _inside_polygon(_regular(10, [1.08, _star_waist()]))
    if name == "cross":
        return _inside_polygon([(-0.28, -0.95), (0.28, -0.95), (0.28, 0.95), (-0.28, 0.95)]) | (
            _inside_polygon([(-0.95, -0.28), (0.95, -0.28), (0.95, 0.28), (-0.95, 0.28)])
        )
    if name == "diamond":
        return _inside_polygon([(0, -1), (0.66, 0), (0, 1), (-0.66, 0)])
    # A heart is a square on its corner with a half disc on each upper side.
    scale, lift = 1 / 0.62, -0.58 / 0.62
    corners = [(0, 0), (0.5, 0.5), (0, 1), (-0.5, 0.5)]
    body = _inside_polygon([(x * scale, y * scale + lift) for x, y in corners])
    lobes = [
        _disc(side * 0.25 * scale, 0.75 * scale + lift, math.sqrt(2) / 4 * scale)
        for side in (-1, 1)
    ]
    return body | lobes[0] | lobes[1]


def _star_waist() -> float:
    """Radius of the inner corners: the edge leaves the tip (0, 1.08) along (0.42 sin 36, 0.42 cos 36 - 1)."""
    bx, by = 0.42 * math.sin(math.pi / 5), 0.42 * math.cos(math.pi / 5) - 1
    t = 1.08 * math.sin(math.pi / 5) / (bx * math.cos(math.pi / 5) - by * math.sin(math.pi / 5))
    return math.hypot(t * bx, 1.08 + t * by)


@pytest.mark.parametrize("name", SHAPES)
def test_inside_is_negative(name):
    distance = shapes.distance(SHAPES.index(name), _X, _Y)
    assert distance.dtype == np.float32
    certain = np.abs(distance) > 1e-5
    assert certain.mean() > 0.999
    np.testing.assert_array_equal((distance < 0)[certain], _expected(name)[certain])


@pytest.mark.parametrize("name", SHAPES)
def test_distance_grows_one_to_one_at_the_outline(name):
    """The soft edge is one pixel wide only where the gradient is 1."""
    index, h = SHAPES.index(name), np.float32(1e-3)
    distance = shapes.distance(index, _X, _Y)
    near = np.abs(distance) < 0.03
    x, y = _X[near], _Y[near]
    dx = shapes.distance(index, x + h, y) - shapes.distance(index, x - h, y)
    dy = shapes.distance(index, x, y + h) - shapes.distance(index, x, y - h)
    slope = np.hypot(dx, dy) / (2 * h)
    assert np.quantile(np.abs(slope - 1), 0.95) < 2e-3
    assert slope.max() < 1.01


@pytest.mark.parametrize(
    ("name", "share"), [("plain", 1.0), ("striped", 0.5), ("checkered", 0.5), ("dotted", 0.7173)]
)
def test_share_of_the_first_tone(name, share):
    grid = (np.arange(500) / 100).astype(np.float32)
    u, v = np.broadcast_arrays(grid[None, :], grid[:, None])
    tone = shapes.tone(TEXTURES.index(name), u, v, np.full((1, 1), 100, np.float32))
    assert tone.shape == (500, 500)
    assert tone.min() >= 0.3 - 1e-6
    assert tone.max() <= 1 + 1e-6
    assert (tone - 0.3).mean() / 0.7 == pytest.approx(share, abs=0.01)


def test_textures_differ_in_what_they_repeat_along():
    """Stripes do not depend on v; a checker board turns into its negative after half a period of u or of v."""
    grid = (np.arange(200) / 100).astype(np.float32)
    u, v = np.broadcast_arrays(grid[None, :], grid[:, None])
    period = np.full((1, 1), 100, np.float32)
    half = np.float32(0.5)
    striped = lambda u, v: shapes.tone(TEXTURES.index("striped"), u, v, period)
    checkered = lambda u, v: shapes.tone(TEXTURES.index("checkered"), u, v, period)
    np.testing.assert_array_equal(striped(u, v), striped(u, v + np.float32(0.3)))
    for moved in (checkered(u + half, v), checkered(u, v + half)):
        np.testing.assert_allclose(checkered(u, v) + moved, 1.3, atol=1e-4)
