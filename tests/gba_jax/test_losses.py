"""The segmentation losses against torch on explicit masks and against sums written out by hand."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from gba_jax import losses, matching
from gba_jax import points as pts
from gba_jax.losses import MaskLossConfig

B, Q, G, C = 2, 7, 5, 4
CONFIG = MaskLossConfig(points=60, match=matching.MatchConfig(points=80))
ASSIGNMENT = np.array([[4, 1, 6, -1, -1], [0, -1, 5, -1, -1]], np.int32)
CLASSES = np.array([[0, 3, 3, -1, -1], [2, -1, 1, -1, -1]], np.int32)

mask_terms = jax.jit(losses.mask_terms, static_argnames="config")
class_term = jax.jit(losses.class_term)
per_class_bce = jax.jit(losses.per_class_bce, static_argnames="ignore")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _problem(rng):
    class_logits = rng.normal(size=(B, Q, C + 1)).astype(np.float32)
    mask_logits = 3 * rng.normal(size=(B, Q, 6, 5)).astype(np.float32)
    segments = rng.integers(-1, 3, (B, 12, 10)).astype(np.int32)
    segments[1][segments[1] == 1] = 0
    return class_logits, mask_logits, segments


def test_class_term_equals_torchs_weighted_mean(rng):
    logits = _problem(rng)[0]
    target = np.full((B, Q), C)
    target[0, [4, 1, 6]], target[1, [0, 5]] = [0, 3, 3], [2, 1]
    theirs = torch.tensor(logits, requires_grad=True)
    weight = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.1])
    expected = torch.nn.functional.cross_entropy(
        theirs.reshape(-1, C + 1), torch.tensor(target.ravel()), weight=weight
    )
    expected.backward()
    pair = class_term(jnp.asarray(logits), CLASSES, ASSIGNMENT)
    assert float(pair[1]) == pytest.approx(5 + 0.1 * (B * Q - 5))
    np.testing.assert_allclose(losses.mean(pair), expected.item(), rtol=1e-5)
    value = lambda z: losses.mean(class_term(z, CLASSES, ASSIGNMENT))
    np.testing.assert_allclose(jax.grad(value)(logits), theirs.grad.numpy(), atol=1e-6)


def test_classes_of_a_padded_vocabulary_change_nothing(rng):
    logits = _problem(rng)[0]
    padding = np.full((B, Q, 3), -np.inf, np.float32)
    padded = np.concatenate([logits[..., :C], padding, logits[..., C:]], axis=-1)
    value = lambda z: losses.mean(class_term(z, CLASSES, ASSIGNMENT))
    np.testing.assert_allclose(value(jnp.asarray(padded)), value(jnp.asarray(logits)), rtol=1e-6)
    grad = np.asarray(jax.grad(value)(padded))
    np.testing.assert_allclose(
        np.delete(grad, np.s_[C : C + 3], 2), jax.grad(value)(logits), atol=1e-6
    )
    assert not grad[..., C : C + 3].any()


def _torch_mask_terms(mask_logits, segments, points):
    """Mask by mask on explicit masks: sampled and judged by torch, summed over the matched ones."""
    sample = lambda m, p: torch.nn.functional.grid_sample(
        m[None, None], torch.tensor(2 * p - 1)[None, :, None], align_corners=False
    ).reshape(-1)
    bce = dice = torch.zeros(())
    for b in range(B):
        for g in range(G):
            if (q := ASSIGNMENT[b, g]) >= 0:
                p = np.asarray(points[b, g])
                x = sample(mask_logits[b, q], p)
                t = sample(torch.tensor(segments[b] == g, dtype=torch.float32), p)
                s = torch.sigmoid(x)
                bce = bce + torch.nn.functional.binary_cross_entropy_with_logits(x, t)
                dice = dice + 1 - (2 * (s * t).sum() + 1) / (s.sum() + t.sum() + 1)
    return bce, dice


def test_mask_terms_and_their_gradient_equal_torch_on_explicit_masks(rng):
    _, mask_logits, segments = _problem(rng)
    key = jax.random.key(5)
    matched = np.take_along_axis(mask_logits, np.maximum(ASSIGNMENT, 0)[:, :, None, None], axis=1)
    points = pts.uncertain_points(jnp.asarray(matched), CONFIG.points, key=key)
    theirs = torch.tensor(mask_logits, requires_grad=True)
    expected = _torch_mask_terms(theirs, segments, points)
    (5 * expected[0] + 5 * expected[1]).backward()
    got = mask_terms(mask_logits, segments, ASSIGNMENT, CONFIG, key=key)
    for pair, value in zip(got, expected):
        np.testing.assert_allclose(pair[0], value.item(), rtol=1e-5)
        assert float(pair[1]) == 5.0

    def total(maps):
        bce, dice = losses.mask_terms(maps, segments, ASSIGNMENT, CONFIG, key=key)
        return 5 * bce[0] + 5 * dice[0]

    np.testing.assert_allclose(
        jax.jit(jax.grad(total))(mask_logits), theirs.grad.numpy(), atol=1e-5
    )


def test_bce_and_dice_of_a_mask_by_hand():
    """A logit of log 3 everywhere on a mask that covers everything: sigma = 3/4 at each of 40 points."""
    config = dataclasses.replace(CONFIG, points=40)
    # Large enough that no point lies within half a pixel of the border, where the zeros outside are mixed in.
    logits = jnp.full((1, 1, 1024, 1024), math.log(3.0))
    segments, first = jnp.zeros((1, 1024, 1024), jnp.int32), jnp.zeros((1, 1), jnp.int32)
    bce, dice = mask_terms(logits, segments, first, config, key=jax.random.key(0))
    np.testing.assert_allclose(bce[0], math.log(4 / 3), rtol=1e-5)
    np.testing.assert_allclose(dice[0], 1 - (2 * 30 + 1) / (30 + 40 + 1), rtol=1e-4)


def test_images_without_segments_are_finite_and_add_only_void(rng):
    class_logits, mask_logits, segments = _problem(rng)
    run = jax.jit(
        jax.value_and_grad(
            lambda c, m, s, k: losses.mask_classification(
                [(c, m), (c, m)], s, k, CONFIG, key=jax.random.key(0)
            ),
            argnums=(0, 1),
            has_aux=True,
        )
    )
    nothing = np.full((B, G), -1, np.int32)
    (value, terms), grads = run(class_logits, mask_logits, np.full_like(segments, -1), nothing)
    void = -np.asarray(jax.nn.log_softmax(class_logits))[..., C].mean()
    np.testing.assert_allclose(value, 2 * 2.0 * void, rtol=1e-5)
    assert float(terms["loss_bce"][1]) == float(losses.mean(terms["loss_dice"])) == 0.0
    assert all(np.isfinite(g).all() for g in grads)
    assert not np.any(grads[1])
    # One image of two: the other one's masks are all that is counted.
    classes = np.where(np.arange(B)[:, None] == 0, CLASSES, -1).astype(np.int32)
    (value, terms), grads = run(class_logits, mask_logits, segments, classes)
    assert float(terms["loss_bce"][1]) == 3.0
    assert np.isfinite(value)
    assert np.any(grads[1][0])
    assert not np.any(grads[1][1])


def test_the_whole_loss_is_the_weighted_sum_of_every_outputs_terms(rng):
    class_logits, mask_logits, segments = _problem(rng)
    outputs = [(class_logits, mask_logits), (2 * class_logits, -mask_logits)]
    key = jax.random.key(7)
    total, terms = jax.jit(functools.partial(losses.mask_classification, config=CONFIG))(
        outputs, segments, CLASSES, key=key
    )
    expected = 0.0
    for (c, m), own in zip(outputs, jax.random.split(key, 2)):
        first, second = jax.random.split(own)
        assignment = jax.jit(matching.match, static_argnames="config")(
            c, m, segments, CLASSES, CONFIG.match, key=first
        )
        means = [losses.mean(class_term(jnp.asarray(c), CLASSES, assignment))]
        means += map(losses.mean, mask_terms(m, segments, assignment, CONFIG, key=second))
        expected += float(np.dot([2.0, 5.0, 5.0], means))
    np.testing.assert_allclose(total, expected, rtol=1e-5)
    for name, value in zip(("loss_class", "loss_bce", "loss_dice"), means):
        np.testing.assert_allclose(losses.mean(terms[name]), value, rtol=1e-5)


@pytest.mark.parametrize("ignore", ["drop", "negative"])
def test_per_class_bce_and_its_gradient_equal_torch(rng, ignore):
    logits = 3 * rng.normal(size=(B, C, 5, 6)).astype(np.float32)
    labels = rng.integers(-1, C, (B, 13, 11)).astype(np.int32)
    theirs = torch.tensor(logits, requires_grad=True)
    resized = torch.nn.functional.interpolate(
        theirs, size=(13, 11), mode="bilinear", align_corners=False
    )
    target = torch.tensor(np.stack([labels == c for c in range(C)], 1), dtype=torch.float32)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(
        resized, target, reduction="none"
    )
    if ignore == "drop":
        entropy = entropy[torch.tensor(labels >= 0)[:, None].expand_as(entropy)]
    entropy.mean().backward()
    # Padding of the vocabulary, infinite as before a softmax, must not show.
    padded = np.concatenate([logits, np.full((B, 2, 5, 6), -np.inf, np.float32)], axis=1)
    mask = np.arange(C + 2) < C
    pair = per_class_bce(padded, labels, mask, ignore)
    assert float(pair[1]) == entropy.numel()
    np.testing.assert_allclose(losses.mean(pair), entropy.mean().item(), rtol=1e-5)
    grad = jax.grad(lambda z: losses.mean(per_class_bce(z, labels, mask, ignore)))(padded)
    np.testing.assert_allclose(grad[:, :C], theirs.grad.numpy(), atol=1e-6)
    assert not np.any(grad[:, C:])


def test_per_class_bce_without_valid_pixels_is_zero_and_a_wrong_switch_is_refused():
    logits, labels = jnp.ones((1, C, 2, 2)), jnp.full((1, 4, 4), -1, jnp.int32)
    pair = per_class_bce(logits, labels, jnp.ones(C, bool))
    assert (float(pair[0]), float(losses.mean(pair))) == (0.0, 0.0)
    with pytest.raises(ValueError, match="ignore='keep'"):
        losses.per_class_bce(logits, labels, jnp.ones(C, bool), "keep")  # type: ignore[arg-type]
