"""Sampling at points against torch's grid_sample, segment ids against explicit masks, and PointRend's choice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gba_jax import points as pts

sample = jax.jit(pts.sample)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _grid_sample(maps, points):
    """(N, H, W) maps and (N, P, 2) points in [0, 1] through torch, as detectron2's point_sample calls it."""
    values = torch.nn.functional.grid_sample(
        maps[:, None], 2.0 * points[:, :, None] - 1.0, mode="bilinear", align_corners=False
    )
    return values[:, 0, :, 0]


def _points(rng, *lead, count=40):
    """Uniform points, some on the border, where the neighbours outside are zero."""
    points = rng.uniform(size=(*lead, count, 2)).astype(np.float32)
    points[..., :4, :] = [[0, 0], [1, 1], [0.001, 0.5], [0.5, 0.999]]
    return points


def _exact(rng, *shape, count=40):
    """(maps, points) whose samples have no rounding: small whole numbers, at 64ths of a map with sides of powers of two."""
    maps = rng.integers(-8, 9, shape).astype(np.float32)
    points = rng.integers(0, 65, (shape[0], count, 2)).astype(np.float32) / 64
    return maps, points


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (6, 9)])
def test_samples_and_their_gradient_equal_torch(rng, size):
    maps, points = rng.normal(size=(3, *size)).astype(np.float32), _points(rng, 3)
    weight = rng.normal(size=(3, 40)).astype(np.float32)
    theirs = torch.tensor(maps, requires_grad=True)
    expected = _grid_sample(theirs, torch.tensor(points))
    (expected * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(sample(maps, points), expected.detach(), atol=1e-5)
    grad = jax.grad(lambda m: jnp.sum(sample(m, points) * weight))(jnp.asarray(maps))
    np.testing.assert_allclose(grad, theirs.grad.numpy(), atol=1e-5)


def test_shared_points_are_those_of_every_map(rng):
    maps, points = _exact(rng, 2, 5, 4, 8)
    got = sample(maps, points[:, None])
    assert got.shape == (2, 5, 40)
    for q in range(5):
        np.testing.assert_array_equal(got[:, q], sample(maps[:, q], points))


def test_half_precision_maps_are_read_in_float32(rng):
    maps, points = _exact(rng, 1, 4, 4)
    got = sample(jnp.asarray(maps, jnp.bfloat16), points)
    assert got.dtype == jnp.float32
    assert np.any(np.asarray(got) != np.asarray(got.astype(jnp.bfloat16), np.float32))
    np.testing.assert_array_equal(got, sample(maps, points))


@pytest.mark.parametrize("shared", [True, False])
def test_segment_ids_equal_explicit_masks(rng, shared):
    slots = 5
    segments = rng.integers(-1, slots - 1, (2, 6, 9)).astype(np.int32)
    points = _points(rng, 2, 1 if shared else slots)
    got = jax.jit(pts.sample_segments, static_argnums=2)(segments, points, slots)
    for g in range(slots):
        mask = torch.tensor(segments == g, dtype=torch.float32)
        expected = _grid_sample(mask, torch.tensor(points[:, 0 if shared else g]))
        np.testing.assert_allclose(got[:, g], expected, atol=1e-6)
    assert np.abs(got[:, :-1]).max() > 0
    assert not np.any(got[:, -1]), "a slot without pixels is zero everywhere"


def test_uncertain_points_are_the_best_candidates_and_fresh_ones(rng):
    maps = rng.normal(size=(2, 3, 8, 8)).astype(np.float32)
    key = jax.random.key(3)
    got = np.asarray(pts.uncertain_points(maps, 40, oversample=3.0, importance=0.75, key=key))
    assert got.shape == (2, 3, 40, 2)
    assert got.min() >= 0
    assert got.max() < 1
    first, second = jax.random.split(key)
    candidates = np.asarray(jax.random.uniform(first, (2, 3, 120, 2)))
    for b in range(2):
        for q in range(3):
            values = np.abs(sample(maps[b, q][None], candidates[b, q][None])[0])
            best = candidates[b, q][np.argsort(values, kind="stable")[:30]]
            np.testing.assert_allclose(got[b, q, :30], best)
    np.testing.assert_array_equal(got[:, :, 30:], jax.random.uniform(second, (2, 3, 10, 2)))


def test_points_gather_at_the_edge_of_a_mask():
    """Logits rise by 16 a pixel from the edge at x = 0.25: a third of the candidates lies within 1/6 of it."""
    column = 16.0 * (np.arange(64, dtype=np.float32) + 0.5 - 16.0)
    points = pts.uncertain_points(np.broadcast_to(column, (1, 64, 64)), 400, key=jax.random.key(0))
    near = np.abs(np.asarray(points)[0, :, 0] - 0.25) < 1 / 6
    assert near[:300].mean() > 0.95
    assert near[300:].mean() < 0.5


@pytest.mark.parametrize(("oversample", "importance"), [(3.0, 1.5), (0.5, 0.75), (3.0, -0.1)])
def test_impossible_choices_are_refused(oversample, importance):
    with pytest.raises(ValueError, match="expected importance in"):
        pts.uncertain_points(
            jnp.zeros((1, 4, 4)),
            40,
            oversample=oversample,
            importance=importance,
            key=jax.random.key(0),
        )
