"""The vision module against numpy loops over faces."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.nn import STATS
from gaze_jax.networks import fusion

WIDTH, SIDE, CHANNELS = 6, 3, 5


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _made(kind, rng):
    module = fusion.Fusion(kind, WIDTH)
    x = rng.normal(size=(2, SIDE, SIDE, WIDTH)).astype(np.float32)
    clip_map = rng.normal(size=(2, SIDE, SIDE, CHANNELS)).astype(np.float32)
    variables = jax.jit(module.init)(jax.random.key(0), x, clip_map)
    # Every leaf random, running statistics too: zeros and ones hide mistakes.
    variables = jax.tree.map(
        lambda v: jnp.asarray(rng.uniform(0.5, 1.5, v.shape), jnp.float32), variables
    )
    return module, variables, x, clip_map


def _c(variables, clip_map):
    p, s = variables["params"], variables[STATS]["reduce_bn"]
    y = clip_map @ np.asarray(p["reduce_conv"]["kernel"])[0, 0] + p["reduce_conv"]["bias"]
    y = (y - s["mean"]) / np.sqrt(s["var"] + 1e-5)
    return np.maximum(y * p["reduce_bn"]["scale"] + p["reduce_bn"]["bias"], 0)


def _affinity(p, x, c):
    del p
    x, c = x.reshape(-1, WIDTH).T, c.reshape(-1, WIDTH).T  # (channels, places)
    s = (WIDTH * SIDE * SIDE) ** -0.5
    sig = 1 / (1 + np.exp(-c))
    return (x + (_softmax(s * x @ x.T) + _softmax(s * sig @ sig.T)) @ x).T


def _film(p, x, c):
    both = c.reshape(-1, WIDTH).mean(0) @ p["film"]["kernel"] + p["film"]["bias"]
    return x.reshape(-1, WIDTH) * (1 + both[:WIDTH]) + both[WIDTH:]


def _cross_attention(p, x, c):
    dense = lambda name, y: y.reshape(-1, WIDTH) @ p[name]["kernel"] + p[name]["bias"]
    weights = _softmax(dense("query", x) @ dense("key", c).T * WIDTH**-0.5)
    return x.reshape(-1, WIDTH) + weights @ dense("value", c)


LOOPS = {"affinity": _affinity, "film": _film, "cross_attention": _cross_attention}


@pytest.mark.parametrize("kind", LOOPS)
def test_every_kind_equals_a_loop(kind, rng):
    module, variables, x, clip_map = _made(kind, rng)
    got = jax.jit(module.apply)(variables, x, clip_map)
    params = jax.tree.map(np.asarray, variables["params"])
    c = np.asarray(_c(jax.tree.map(np.asarray, variables), clip_map))
    for b in range(len(x)):
        expected = LOOPS[kind](params, x[b], c[b]).reshape(x[b].shape)
        np.testing.assert_allclose(got[b], expected, atol=1e-5)


def test_film_starts_as_no_fusion(rng):
    module, _, x, clip_map = _made("film", rng)
    variables = module.init(jax.random.key(0), x, clip_map)
    np.testing.assert_array_equal(module.apply(variables, x, clip_map), x)


@pytest.mark.parametrize(("side", "expected"), [(7, "same"), (14, "blocks"), (8, "bilinear")])
def test_maps_come_to_the_grid_of_the_extractor(side, expected, rng):
    clip_map = rng.normal(size=(2, side, side, 3)).astype(np.float32)
    got = fusion.to_grid(jnp.asarray(clip_map), 7)
    assert got.shape == (2, 7, 7, 3)
    if expected == "same":
        np.testing.assert_array_equal(got, clip_map)
    if expected == "blocks":
        for i in range(7):
            for j in range(7):
                block = clip_map[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((1, 2))
                np.testing.assert_allclose(got[:, i, j], block, atol=1e-6)
    constant = fusion.to_grid(jnp.full((1, side, side, 1), 2.5), 7)
    np.testing.assert_allclose(constant, 2.5, rtol=1e-6)
