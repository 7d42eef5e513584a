"""A batch in pieces and values that are computed again: the same numbers, from less memory."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax.train import memory
from core_jax.train.memory import Memory
from core_jax.train.settings import ConfigError

LAYERS, WIDTH, SIZE = 9, 16, 96
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def layers():
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(0, 0.3, (WIDTH, WIDTH)), jnp.float32) for _ in range(LAYERS)]


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(SIZE, WIDTH)).astype(np.float32)
    return {"x": x, "number": np.arange(SIZE, dtype=np.int32)}


def network(layers):
    def see(stats, part, key):
        del key
        x = part["x"]
        for layer in layers:
            x = x + jnp.tanh(x @ layer) * jax.nn.softmax(x)
        return {"x": x, "number": part["number"]}, {"calls": stats["calls"] + 1}

    return see


def loss(layers, batch, how):
    """Every sample is compared with every other, which no mean over pieces can say."""
    stats = {"calls": jnp.zeros((), jnp.int32)}
    seen, stats = memory.run(network(layers), stats, batch, memory=how, key=KEY)
    alike = jax.nn.log_softmax(seen["x"] @ seen["x"].T)
    return -jnp.mean(jnp.diagonal(alike)), (seen["number"], stats)


def compiled(layers, batch, how, **options):
    step = jax.jit(jax.value_and_grad(lambda own: loss(own, batch, how), has_aux=True))
    return step.lower(layers).compile(options or None)


@pytest.mark.parametrize(
    "how", [Memory(accumulate=4), Memory(remat=True), Memory(accumulate=3, remat=True)]
)
def test_numbers_and_order_are_those_of_the_whole_batch(layers, batch, how):
    # In double precision: the order of sums, which each compiler chooses, is then far below the bound.
    with jax.enable_x64(True):
        layers = [jnp.asarray(layer, jnp.float64) for layer in layers]
        batch = batch | {"x": batch["x"].astype(np.float64)}
        (expected, _), gradient = compiled(layers, batch, memory.WHOLE)(layers)
        (value, (number, stats)), found = compiled(layers, batch, how)(layers)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    for a, b in zip(found, gradient, strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, atol=1e-12 * np.abs(b).max())
    np.testing.assert_array_equal(number, batch["number"])
    assert stats["calls"] == how.accumulate


def test_both_need_less_memory(layers, batch):
    # This compiler takes barriers away before it looks for common values, which undoes what is to be computed again.
    keep = {"xla_disable_hlo_passes": "cse_barrier_expander"}

    def need(how):
        sizes: Any = compiled(layers, batch, how, **keep).memory_analysis()
        return sizes.temp_size_in_bytes

    whole = need(memory.WHOLE)
    assert need(Memory(remat=True)) < 0.75 * whole
    assert need(Memory(accumulate=4)) < 0.75 * whole


def test_a_piece_has_every_nth_sample_a_key_of_its_own_and_the_statistics_before_it():
    def see(stats, part, key):
        noise = jax.random.normal(key, part["x"].shape)
        mean = 0.5 * stats["mean"] + 0.5 * jnp.mean(part["x"])
        return part["x"] + noise + mean, {"mean": mean}

    x, kept = np.arange(12, dtype=np.float32), {"mean": jnp.float32(1.0)}
    found, stats = memory.run(see, kept, {"x": x}, memory=Memory(accumulate=3), key=KEY)
    mean, expected = 1.0, np.zeros(12, np.float32)
    for piece in range(3):
        own = x[piece::3]
        mean = 0.5 * mean + 0.5 * own.mean()
        noise = jax.random.normal(jax.random.fold_in(KEY, piece), (4,))
        expected[piece::3] = own + np.asarray(noise) + mean
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(stats["mean"], mean, rtol=1e-6)


def test_a_whole_batch_has_the_key_itself():
    see = lambda stats, part, key: (jax.random.uniform(key, part["x"].shape), stats)
    found, _ = memory.run(see, {}, {"x": np.zeros(4)}, memory=Memory(), key=KEY)
    np.testing.assert_array_equal(found, jax.random.uniform(KEY, (4,)))


def test_pieces_that_do_not_divide_the_batch(layers, batch):
    with pytest.raises(ConfigError, match=r"config\.accumulate=5: a batch of 96"):
        loss(layers, batch, Memory(accumulate=5))


def test_again_takes_keys_integers_closures_and_functions_without_products():
    outside = jnp.arange(3.0)

    @jax.jit
    def both(x, n, key):
        def own(tree, key):
            return {
                "a": tree["x"] * outside + jax.random.normal(key, (3,)),
                "n": tree["n"],
                "one": 1.0,
            }

        value = lambda x, f: jnp.sum(f({"x": x, "n": n}, key)["a"] ** 2)
        plain, twice = (jax.value_and_grad(value)(x, f) for f in (own, memory.again(own)))
        return plain, twice, memory.again(own)({"x": x, "n": n}, key)

    plain, twice, found = both(outside + 1.0, jnp.int32(7), KEY)
    assert found["n"] == 7
    assert found["one"] == 1.0
    for a, b in zip(plain, twice, strict=True):
        np.testing.assert_array_equal(a, b)
    mapped = jax.vmap(memory.again(lambda x: jnp.sin(x) @ jnp.cos(x)))(jnp.ones((2, 4)))
    np.testing.assert_allclose(mapped, 4 * np.sin(1) * np.cos(1), rtol=1e-6)
