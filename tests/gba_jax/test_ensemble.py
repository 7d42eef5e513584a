"""CLIP's opinion on masks against explicit loops, and the mixture of two classifiers against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gba_jax import vocabulary
from gba_jax.hosts import ensemble

CLASSES, PADDED, WIDTH = 3, 32, 5

combine = jax.jit(ensemble.combine, static_argnames=("alpha", "beta"))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def text():
    words = vocabulary.build(["cat, kitten", "grass", "sky, clouds, blue"])
    rows = np.random.default_rng(1).normal(size=(6, WIDTH)).astype(np.float32)
    return vocabulary.pad(words, rows / np.linalg.norm(rows, axis=1, keepdims=True))


def _logits(rng, void):
    """Random logits (2, 4, C) or with void, masked behind the real classes."""
    logits = np.full((2, 4, PADDED), -np.inf, np.float32)
    logits[..., :CLASSES] = 3 * rng.normal(size=(2, 4, CLASSES))
    last = rng.normal(size=(2, 4, 1)).astype(np.float32)
    return np.concatenate([logits, last], -1) if void else logits


def _softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


SEEN = np.arange(PADDED) == 1


@pytest.mark.parametrize("size", [(3, 4), (5, 2), (12, 16)])
def test_masks_are_those_of_resized_logits(rng, size):
    logits = rng.normal(size=(2, 4, 6, 8)).astype(np.float32)
    theirs = torch.nn.functional.interpolate(
        torch.tensor(logits), size=size, mode="bilinear", align_corners=False
    )
    np.testing.assert_array_equal(ensemble.masks_at(logits, size), theirs.numpy() > 0)


def test_pooling_equals_a_loop(rng):
    maps, masks = rng.normal(size=(2, 3, 4, 7)).astype(np.float32), rng.random((2, 5, 3, 4)) > 0.6
    masks[1, 2] = False
    got = ensemble.pool(maps, masks)
    for b in range(2):
        for q in range(5):
            inside = [maps[b, i, j] for i in range(3) for j in range(4) if masks[b, q, i, j]]
            expected = np.mean(inside, axis=0) if inside else np.zeros(7)
            np.testing.assert_allclose(got[b, q], expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_opinion_of_clip_equals_a_loop(rng, text, dtype):
    """Pooled, projected, cosine with every word, the best synonym; an empty mask has finite logits."""
    maps = jnp.asarray(rng.normal(size=(2, 4, 4, 6)), dtype)
    head = rng.normal(size=(6, WIDTH)).astype(np.float32)
    logits = np.repeat(np.repeat(rng.normal(size=(2, 3, 4, 4)), 1, 2), 1, 3).astype(np.float32)
    logits[0, 1] = -1
    project = lambda x: x @ jnp.asarray(head, x.dtype)
    got = jax.jit(ensemble.out_of_vocabulary, static_argnums=2)(maps, logits, project, 20.0, text)
    assert got.shape == (2, 3, PADDED)
    assert got.dtype == jnp.float32
    assert np.all(np.isneginf(got[..., CLASSES:]))
    assert np.all(np.isfinite(got[..., :CLASSES]))
    np.testing.assert_array_equal(got[0, 1, :CLASSES], 0)
    words = {0: [0, 1], 1: [2], 2: [3, 4, 5]}
    for b, q in [(0, 0), (0, 2), (1, 0), (1, 1), (1, 2)]:
        feature = np.asarray(maps, np.float32)[b][logits[b, q] > 0].mean(axis=0) @ head
        for c, rows in words.items():
            cosines = [np.asarray(text.rows[r]) @ feature for r in rows] / np.linalg.norm(feature)
            tolerance = 1e-4 if dtype == jnp.float32 else 0.3
            assert abs(float(got[b, q, c]) - 20 * max(cosines)) < tolerance


@pytest.mark.parametrize(("alpha", "beta"), [(0.4, 0.8), (0.0, 1.0), (1.0, 0.3)])
def test_the_mixture_equals_numpy(rng, alpha, beta):
    inside, outside = _logits(rng, True), _logits(rng, False)
    got = combine(inside, outside, SEEN, alpha=alpha, beta=beta)
    p_in, p_out = _softmax(inside[..., :CLASSES]), _softmax(outside[..., :CLASSES])
    mixed = np.where(
        SEEN[:CLASSES],
        p_in ** (1 - alpha) * p_out**alpha,
        p_in ** (1 - beta) * p_out**beta,
    )
    void = _softmax(inside)[..., -1:]
    mixed = mixed / mixed.sum(-1, keepdims=True) * (1 - void)
    np.testing.assert_allclose(got[..., :CLASSES], mixed, atol=1e-6)
    np.testing.assert_allclose(got[..., -1:], void, atol=1e-6)
    np.testing.assert_array_equal(got[..., CLASSES:-1], 0)
    np.testing.assert_allclose(got.sum(-1), 1, atol=1e-6)


def test_exponents_of_zero_leave_the_trained_classifier_alone(rng):
    inside = _logits(rng, True)
    for outside in (_logits(rng, False), 100 * _logits(rng, False)):
        got = combine(inside, outside, SEEN, alpha=0.0, beta=0.0)
        np.testing.assert_allclose(got, _softmax(inside), atol=1e-6)


def test_empty_masks_keep_the_trained_opinion_where_asked_for(rng):
    inside, outside = _logits(rng, True), _logits(rng, False)
    masks = rng.normal(size=(2, 4, 6, 6)).astype(np.float32)
    masks[1, 3] = -1
    valid = ensemble.masks_at(masks, (3, 3)).any((2, 3))
    got = combine(inside, outside, SEEN, valid=valid)
    np.testing.assert_allclose(got[1, 3], _softmax(inside[1, 3]), atol=1e-6)
    np.testing.assert_array_equal(got[0], combine(inside, outside, SEEN)[0])


def test_gradients_are_finite_beside_masked_classes(rng):
    """Nobody trains through it, but a nan in a jacobian would show a nan in the sums."""
    inside, outside = _logits(rng, True), _logits(rng, False)
    grad = jax.grad(lambda x: combine(inside, x, SEEN)[..., 0].sum())(jnp.asarray(outside))
    assert np.all(np.isfinite(grad[..., :CLASSES]))


def test_problems_are_named_together(rng):
    with pytest.raises(ValueError, match=r"alpha=1\.5.*beta=-1.*\(32,\)"):
        ensemble.combine(
            _logits(rng, True)[..., 1:], _logits(rng, False), SEEN, alpha=1.5, beta=-1.0
        )
