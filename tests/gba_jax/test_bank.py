"""The style bank against NumPy: choosing, queueing, drawing, refusing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gba_jax.adapters import bank

KEY = jax.random.key(0)
draw = jax.jit(bank.draw)
update = jax.jit(bank.update, static_argnames="refresh_steps")


def _rows(n, channels=3, seed=0):
    rng = np.random.default_rng(seed)
    mean, deviation = rng.gamma(2.0, 1.0, (2, n, channels)).astype(np.float32)
    return mean, deviation


def _loop(rows, valid, count):
    """Greedy farthest-point sampling as one would write it down."""
    index = np.flatnonzero(valid)
    kept = rows[index].astype(np.float64)
    deviation = kept.std(0)
    points = (kept - kept.mean(0)) / np.where(deviation > 0, deviation, 1.0)
    chosen = [int(np.argmin((points**2).sum(1)))]
    while len(chosen) < count:
        distance = [min(((p - points[c]) ** 2).sum() for c in chosen) for p in points]
        chosen.append(int(np.argmax(distance)))
    return index[chosen]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_farthest_points_are_those_of_the_loop(seed):
    rng = np.random.default_rng(seed)
    rows = (rng.normal(size=(120, 4)) * [1, 100, 1e-3, 0] + [0, 5, 1, 2]).astype(np.float32)
    valid = rng.uniform(size=120) < 0.7
    got = jax.jit(bank.farthest_points, static_argnums=2)(rows, valid, 24)
    np.testing.assert_array_equal(got, _loop(rows, valid, 24))
    assert len(set(np.asarray(got).tolist())) == 24


def test_fifo_keeps_the_last_rows_in_a_ring():
    state, pushed = bank.empty(2), []
    for step in range(9):
        mean, deviation = _rows(300, 2, seed=step)
        pushed.append(np.concatenate([mean, deviation], 1))
        state = update(state, (mean, deviation), refresh_steps=10_000)
        assert bool(state["ready"]) == (300 * (step + 1) >= bank.ENOUGH)
    last = np.concatenate(pushed)[-bank.FIFO :]
    sort = lambda x: x[np.lexsort(x.T)]
    np.testing.assert_array_equal(sort(np.asarray(state["fifo"])), sort(last))
    assert bank.FIFO <= int(state["pushed"]) < 2 * bank.FIFO


def test_rows_are_chosen_at_512_and_then_every_refresh_steps():
    state, chosen = bank.empty(2), []
    for step in range(8):
        state = update(state, _rows(200, 2, seed=step), refresh_steps=3)
        chosen.append(np.asarray(state["mean"]).copy())
        if step == 2:
            rows = np.asarray(state["fifo"])
            expected = rows[_loop(rows, np.arange(bank.FIFO) < 600, bank.STYLES)]
            np.testing.assert_array_equal(state["mean"], expected[:, :2])
            np.testing.assert_array_equal(state["deviation"], expected[:, 2:])
    changes = [i for i in range(1, 8) if (chosen[i] != chosen[i - 1]).any()]
    assert changes == [2, 5]
    assert not chosen[1].any()


def test_a_resumed_bank_is_the_same_bit_for_bit():
    def run(state, steps):
        for step in steps:
            state = update(state, _rows(300, 2, seed=step), refresh_steps=2)
        return state

    whole = run(bank.empty(2), range(6))
    saved = jax.tree.map(np.asarray, run(bank.empty(2), range(3)))
    resumed = run(jax.tree.map(jnp.asarray, saved), range(3, 6))
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
    types = lambda tree: jax.tree.map(lambda x: (x.shape, x.dtype), tree)
    assert types(whole) == types(bank.empty(2))


def test_a_batch_that_is_not_finite_is_left_out():
    state = update(bank.empty(2), _rows(4, 2), refresh_steps=5)
    mean, deviation = _rows(4, 2, seed=1)
    mean[2, 1] = np.nan
    after = update(state, (mean, deviation), refresh_steps=5)
    np.testing.assert_array_equal(after["fifo"], state["fifo"])
    assert int(after["pushed"]) == 4


@pytest.mark.optimised
def test_dirichlet_weights_sum_to_one():
    draws = np.asarray(jax.jit(bank.dirichlet, static_argnums=0)(20_000, key=KEY))
    assert np.isfinite(draws).all()
    assert draws.min() >= 0
    np.testing.assert_allclose(draws.sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(draws.mean(0), 1 / 64, atol=3e-3)
    # Concentrations that sum to 1 give a variance of p (1 - p) / 2.
    np.testing.assert_allclose(draws.var(0).mean(), (1 / 64) * (63 / 64) / 2, rtol=0.05)


def test_draw_takes_another_sample_until_ready_and_then_mixes_rows():
    own = _rows(4)
    state = bank.empty(3)
    mean, deviation = draw(state, own, key=KEY)
    partner = [int(np.flatnonzero((own[0] == row).all(1))[0]) for row in np.asarray(mean)]
    assert sorted(partner) == [0, 1, 2, 3]
    assert all(i != p for i, p in enumerate(partner))
    np.testing.assert_array_equal(deviation, own[1][partner])
    alone = draw(state, (own[0][:1], own[1][:1]), key=KEY)
    assert all((a / o[:1] > 0.2).all() and (a / o[:1] < 5).all() for a, o in zip(alone, own))
    assert (alone[0] != own[0][:1]).all()

    rows = _rows(bank.STYLES, seed=5)
    ready = {**state, "mean": rows[0], "deviation": rows[1], "ready": jnp.ones((), bool)}
    weights = bank.dirichlet(4, key=jax.random.split(KEY, 4)[0])
    mean, deviation = draw(ready, own, key=KEY)
    np.testing.assert_allclose(mean, np.asarray(weights) @ rows[0], rtol=1e-5)
    np.testing.assert_allclose(deviation, np.asarray(weights) @ rows[1], rtol=1e-5)


def test_fill_makes_a_bank_ready_and_refuses_what_is_none():
    mean, deviation = _rows(2500)
    filled = bank.fill(bank.empty(3), mean, deviation)
    assert bool(filled["ready"])
    kept = {tuple(row) for row in mean[-bank.FIFO :]}
    assert all(tuple(row) in kept for row in np.asarray(filled["mean"]))
    with pytest.raises(ValueError, match="100 images are too few"):
        bank.fill(bank.empty(3), mean[:100], deviation[:100])
    with pytest.raises(ValueError, match=r"\(images, 2\)"):
        bank.fill(bank.empty(2), mean, deviation)
    with pytest.raises(ValueError, match="all 64 rows of the style bank are 0"):
        bank.fill(bank.empty(3), 0 * mean, 0 * deviation)
    bank.check(bank.empty(3))
