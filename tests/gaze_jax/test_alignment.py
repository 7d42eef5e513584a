"""The language module against loops over pairs, and its loss in closed form."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gaze_jax.networks import alignment

CUTS = alignment.FIXED_CUTS_RAD[5]
FAITHFUL = {"distance": "l1", "pair": "concat", "softmax": "samples", "tau": 0.07}
RECOMMENDED = {"distance": "angle", "pair": "difference", "softmax": "grades", "tau": 0.07}

align = jax.jit(alignment.align, static_argnames=("cuts", "distance", "pair", "softmax", "tau"))
scores = jax.jit(alignment.scores, static_argnums=2)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def _batch(rng, n=9, width=4, grades=5, pair="concat"):
    f = rng.normal(size=(n, width)).astype(np.float32)
    gaze = rng.uniform(-0.3, 0.3, (n, 2)).astype(np.float32)
    w = rng.normal(size=(grades, width * (2 if pair == "concat" else 1))).astype(np.float32)
    return f, gaze, w


def _cosine(a, b):
    return float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))


def _score(f, w, pair, g, i, j):
    f, w = f.astype(np.float64), w.astype(np.float64)
    both = np.concatenate([f[i], f[j]]) if pair == "concat" else np.abs(f[i] - f[j])
    return _cosine(both, w[g])


def _angle(a, b):
    vector = lambda t, p: np.array(
        [-math.cos(t) * math.sin(p), -math.sin(t), -math.cos(t) * math.cos(p)]
    )
    return math.acos(np.clip(np.dot(vector(*a), vector(*b)), -1, 1))


def _grade(a, b, distance, cuts=CUTS):
    d = np.abs(a - b).sum() if distance == "l1" else _angle(a, b)
    return sum(d >= cut for cut in cuts)


@pytest.mark.parametrize("pair", ["concat", "difference"])
def test_scores_without_a_tensor_of_pairs_equal_brute_force(rng, pair):
    f, _, w = _batch(rng, pair=pair)
    got = scores(f, w, pair)
    for g in range(len(w)):
        for i in range(len(f)):
            for j in range(len(f)):
                if i != j:
                    assert got[g, i, j] == pytest.approx(_score(f, w, pair, g, i, j), abs=1e-5)


@pytest.mark.parametrize("pair", ["concat", "difference"])
def test_no_array_of_all_pairs_and_channels(pair):
    n, width = 24, 32
    f, w = jnp.zeros((n, width)), jnp.zeros((5, width * (2 if pair == "concat" else 1)))
    forward = functools.partial(alignment.scores, kind=pair)
    jaxpr = jax.make_jaxpr(jax.grad(lambda f, w: forward(f, w).sum(), argnums=(0, 1)))(f, w)
    largest = max(np.prod(v.aval.shape, dtype=int) for e in jaxpr.eqns for v in e.outvars)
    assert largest <= n * (n - 1) // 2 * width


@pytest.mark.parametrize("pair", ["concat", "difference"])
@pytest.mark.parametrize("distance", ["l1", "angle"])
def test_loss_over_samples_equals_a_loop(rng, pair, distance):
    f, gaze, w = _batch(rng, pair=pair)
    n, count = len(f), len(w)
    total = 0.0
    for g in range(count):
        for i in range(n):
            others = [j for j in range(n) if j != i]
            exponent = {j: math.exp(_score(f, w, pair, g, i, j)) for j in others}
            for j in others:
                if _grade(gaze[i], gaze[j], distance) == g:
                    total -= math.log(exponent[j] / sum(exponent.values())) / n
    got = align(f, gaze, w, cuts=CUTS, **FAITHFUL | {"pair": pair, "distance": distance})
    assert got == pytest.approx(32 / n * total / count, rel=1e-5)


@pytest.mark.parametrize("pair", ["concat", "difference"])
def test_loss_over_grades_equals_a_loop(rng, pair):
    f, gaze, w = _batch(rng, pair=pair)
    pairs = [(i, j) for i in range(len(f)) for j in range(i + 1, len(f))]
    grades = [_grade(gaze[i], gaze[j], "angle") for i, j in pairs]
    total = weights = 0.0
    for (i, j), own in zip(pairs, grades):
        exponent = [math.exp(_score(f, w, pair, g, i, j) / 0.07) for g in range(len(w))]
        weight = np.clip(len(pairs) / (len(w) * grades.count(own)), 0.2, 5.0)
        total -= weight * math.log(exponent[own] / sum(exponent))
        weights += weight
    got = align(f, gaze, w, cuts=CUTS, **RECOMMENDED | {"pair": pair})
    assert got == pytest.approx(total / weights, rel=1e-5)


@pytest.mark.parametrize(("n", "expected"), [(2, 0.0), (16, 16.2), (32, 21.3)])
def test_equal_scores_have_the_closed_form(rng, n, expected):
    gaze = rng.uniform(-0.4, 0.4, (n, 2)).astype(np.float32)
    f, w = np.ones((n, 4), np.float32), np.ones((5, 8), np.float32)
    got = align(f, gaze, w, cuts=CUTS, **FAITHFUL)
    assert got == pytest.approx(32 * (n - 1) * math.log(n - 1) / (5 * n), rel=1e-5, abs=1e-5)
    assert got == pytest.approx(expected, abs=0.05)


def test_a_distance_on_a_cut_has_the_higher_grade():
    cuts = np.asarray(CUTS, np.float32)
    below = np.nextafter(cuts, np.float32(0))
    np.testing.assert_array_equal(alignment.grade(jnp.asarray(cuts), CUTS), [1, 2, 3, 4])
    np.testing.assert_array_equal(alignment.grade(jnp.asarray(below), CUTS), [0, 1, 2, 3])
    ends = jnp.asarray([0.0, 3.2])
    np.testing.assert_array_equal(alignment.grade(ends, CUTS), [0, 4])


@pytest.mark.parametrize("settings", [FAITHFUL, RECOMMENDED], ids=["faithful", "recommended"])
@pytest.mark.parametrize("spread", [0.0, 10.0], ids=["nearest", "farthest"])
def test_all_pairs_in_one_grade(rng, settings, spread):
    f, _, w = _batch(rng, n=4, pair=settings["pair"])
    # Equal labels are all of grade 0; for the farthest, each half a radian and more from every other.
    gaze = np.array([[0, 0], [0, 0.06], [0.06, 0], [0.06, 0.06]], np.float32) * spread
    loss = functools.partial(align, gaze=gaze, cuts=CUTS, **settings)
    value, grad = jax.value_and_grad(lambda f, w: loss(f, w=w), argnums=(0, 1))(f, w)
    assert np.isfinite(value)
    assert all(np.all(np.isfinite(g)) for g in grad)
    assert np.any(grad[0])
    rows = np.asarray(jnp.any(grad[1] != 0, axis=1))
    if settings["softmax"] == "samples":
        np.testing.assert_array_equal(rows, np.arange(5) == (0 if spread == 0 else 4))


@pytest.mark.parametrize("settings", [FAITHFUL, RECOMMENDED], ids=["faithful", "recommended"])
@pytest.mark.parametrize("fill", [0.0, 1.0])
def test_gradient_is_finite_for_equal_and_for_zero_features(rng, settings, fill):
    _, gaze, w = _batch(rng, pair=settings["pair"])
    f = jnp.full((len(gaze), 4), fill)
    grad = jax.grad(lambda f: align(f, gaze, w, cuts=CUTS, **settings))(f)
    assert np.all(np.isfinite(grad))


def test_quantile_cuts_divide_the_pairs_as_asked(rng):
    gaze = rng.uniform(-1, 1, (400, 2)).astype(np.float32)
    cuts = alignment.quantile_cuts_rad(gaze, 5, "l1")
    assert cuts == alignment.quantile_cuts_rad(gaze, 5, "l1")
    first, second = np.triu_indices(len(gaze), 1)
    distances = np.abs(gaze[first] - gaze[second]).sum(1)
    shares = [np.mean(distances < cut) for cut in cuts]
    np.testing.assert_allclose(shares, alignment.QUANTILES[5], atol=0.015)


def test_quantile_cuts_of_labels_that_do_not_differ_are_refused():
    with pytest.raises(ValueError, match="do not differ enough"):
        alignment.quantile_cuts_rad(np.zeros((9, 2), np.float32), 5, "angle")
    with pytest.raises(ValueError, match="at least two"):
        alignment.quantile_cuts_rad(np.zeros((1, 2), np.float32), 5, "angle")


def test_a_batch_of_one_and_wrong_cuts_are_refused(rng):
    f, gaze, w = _batch(rng)
    with pytest.raises(ValueError, match="batch_size of at least 2"):
        alignment.align(f[:1], gaze[:1], w, cuts=CUTS, **FAITHFUL)
    with pytest.raises(ValueError, match="2 cuts for 5 grades: expected 4"):
        alignment.align(f, gaze, w, cuts=(0.1, 0.2), **FAITHFUL)
    with pytest.raises(ValueError, match="expected 4"):
        alignment.align(f, gaze, w, cuts=CUTS, **RECOMMENDED)
