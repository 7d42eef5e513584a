"""Matching against scipy on random padded problems, and its costs against explicit masks in torch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from gba_jax import matching
from gba_jax.matching import MatchConfig


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _check(cost, real, answer):
    """Every real row has a query of its own, at scipy's total cost; padding has none."""
    for b in range(len(cost)):
        rows = np.flatnonzero(real[b])
        columns = answer[b, rows]
        assert (answer[b, ~real[b]] == -1).all()
        assert ((columns >= 0) & (columns < cost.shape[2])).all()
        assert len(set(columns.tolist())) == len(rows)
        best = cost[b][rows][linear_sum_assignment(cost[b][rows])].sum()
        np.testing.assert_allclose(cost[b, rows, columns].sum(), best, rtol=1e-5, atol=1e-4)


@pytest.mark.optimised
def test_a_thousand_padded_problems_cost_what_scipy_finds(rng):
    problems, slots, queries = 1000, 64, 100
    cost = rng.normal(size=(problems, slots, queries)).astype(np.float32)
    cost[::3] = 10.0 * rng.uniform(size=cost[::3].shape)
    cost[1::3] = rng.integers(0, 40, cost[1::3].shape)  # ties
    # Every amount of padding, from none real to all, and the real rows anywhere.
    real = rng.uniform(size=(problems, slots)) < rng.uniform(-0.1, 1.2, problems)[:, None]
    assert {0, slots} <= set(real.sum(axis=1).tolist())
    _check(cost, real, np.asarray(jax.jit(matching.assign)(cost, real)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (6, 6), (5, 20)])
@pytest.mark.parametrize("matcher", ["jax", "scipy"])
def test_small_shapes_and_both_matchers(rng, shape, matcher):
    cost = rng.normal(size=(20, *shape)).astype(np.float32)
    real = rng.uniform(size=(20, shape[0])) < 0.7
    assign = jax.jit(matching.assign, static_argnames="matcher")
    _check(cost, real, np.asarray(assign(cost, real, matcher)))


@pytest.mark.parametrize("matcher", ["jax", "scipy"])
def test_a_diverging_step_ends_and_hopeless_pairs_are_avoided(matcher):
    cost = np.full((2, 3, 4), np.nan, np.float32)
    cost[1] = [[np.inf, np.nan, 5, 1], [2, np.nan, np.inf, 1], [np.inf, np.inf, np.inf, 1]]
    answer = np.asarray(
        jax.jit(matching.assign, static_argnames="matcher")(cost, np.ones((2, 3), bool), matcher)
    )
    assert len(set(answer[0].tolist())) == 3
    np.testing.assert_array_equal(answer[1], [2, 0, 3])


def test_impossible_problems_are_refused_together():
    with pytest.raises(ValueError, match="5 segment slots and 4 queries") as error:
        matching.assign(jnp.zeros((1, 5, 4)), jnp.ones((1, 5), bool), "greedy")  # type: ignore[arg-type]
    assert "matcher='greedy'" in str(error.value)


B, Q, G, C, P = 2, 7, 5, 4, 50
matching_cost = jax.jit(matching.matching_cost, static_argnames="config")
match = jax.jit(matching.match, static_argnames="config")


def _problem(rng):
    segments = rng.integers(-1, 3, (B, 12, 10)).astype(np.int32)
    classes = np.array([[0, 3, 3, -1, -1], [2, 0, 1, -1, -1]], np.int32)
    class_logits = rng.normal(size=(B, Q, C + 1)).astype(np.float32)
    mask_logits = 3 * rng.normal(size=(B, Q, 6, 5)).astype(np.float32)
    return class_logits, mask_logits, segments, classes


def _torch_cost(class_logits, mask_logits, segments, classes, points):
    """Pair by pair on explicit masks, with torch's sampling and losses."""
    sample = lambda m, b: torch.nn.functional.grid_sample(
        torch.tensor(m, dtype=torch.float32)[None, None],
        torch.tensor(2 * points[b] - 1)[None, :, None],
        align_corners=False,
    ).reshape(-1)
    cost = np.full((B, G, Q), np.nan)
    for b in range(B):
        probability = torch.softmax(torch.tensor(class_logits[b]), -1)
        for g in np.flatnonzero(classes[b] >= 0):
            t = sample(segments[b] == g, b)
            for q in range(Q):
                x = sample(mask_logits[b, q], b)
                p = torch.sigmoid(x)
                bce = torch.nn.functional.binary_cross_entropy_with_logits(x, t)
                dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
                cost[b, g, q] = -2 * probability[q, classes[b, g]] + 5 * bce + 5 * dice
    return cost


def test_costs_equal_torch_on_explicit_masks(rng):
    problem = _problem(rng)
    points = rng.uniform(size=(B, P, 2)).astype(np.float32)
    got = np.asarray(matching_cost(*problem, points, MatchConfig()))
    expected = _torch_cost(*problem, points)
    real = problem[-1] >= 0
    np.testing.assert_allclose(got[real], expected[real], atol=1e-4)
    assert np.isfinite(got).all()
    _check(expected, real, np.asarray(matching.assign(got, real)))


def test_each_weight_weighs_its_own_term(rng):
    problem = _problem(rng)
    points = rng.uniform(size=(B, P, 2)).astype(np.float32)
    names = ("class_weight", "bce_weight", "dice_weight")
    nothing = dict.fromkeys(names, 0.0)
    total = matching_cost(*problem, points, MatchConfig())
    parts = [
        matching_cost(*problem, points, MatchConfig(**(nothing | {name: value})))
        for name, value in zip(names, (2.0, 5.0, 5.0))
    ]
    np.testing.assert_allclose(total, sum(parts), atol=1e-4)


def test_a_query_that_draws_a_segment_gets_it(rng):
    _, _, segments, classes = _problem(rng)
    order = np.array([4, 1, 6])
    mask_logits = np.full((B, Q, 12, 10), -8, np.float32)
    for g, q in enumerate(order):
        mask_logits[:, q][segments == g] = 8
    class_logits = np.zeros((B, Q, C + 1), np.float32)
    config = MatchConfig(points=200)
    answer = match(class_logits, mask_logits, segments, classes, config, key=jax.random.key(0))
    np.testing.assert_array_equal(answer, np.tile([4, 1, 6, -1, -1], (2, 1)))
    # Two segments of one class and equal masks are told apart by their class alone.
    class_logits[0, 2, 0] = 9
    answer = match(
        class_logits, np.zeros_like(mask_logits), segments, classes, config, key=jax.random.key(0)
    )
    assert answer[0, 0] == 2


@pytest.mark.parametrize("matcher", ["jax", "scipy"])
def test_matching_runs_inside_a_jitted_training_step(rng, matcher):
    problem = _problem(rng)
    config = dataclasses.replace(MatchConfig(points=P), matcher=matcher)

    @jax.jit
    def step(class_logits, mask_logits, segments, classes):
        def loss(class_logits, mask_logits):
            query = matching.match(
                class_logits, mask_logits, segments, classes, config, key=jax.random.key(1)
            )
            chosen = jnp.take_along_axis(class_logits, jnp.maximum(query, 0)[..., None], axis=1)
            return jnp.sum(chosen**2), query

        return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(class_logits, mask_logits)

    (_, query), (class_grad, mask_grad) = step(*problem)
    assert np.isfinite(class_grad).all()
    assert not np.any(mask_grad), "no gradient passes the matching"
    points = jax.random.uniform(jax.random.key(1), (B, P, 2))
    cost = np.asarray(matching_cost(*problem, points, config))
    _check(cost, problem[-1] >= 0, np.asarray(query))
