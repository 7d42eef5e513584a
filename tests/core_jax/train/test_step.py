"""The step against a plain numpy loop, its key, its donation, losses that break the protocol."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from core_jax import train
from core_jax.train import metrics, sharding, step
from tests.core_jax.train import toy

SEED, STEPS, NOISE = 3, 12, 0.3


def numpy_loop():
    """Gradient descent written out: w, b, mean and every step's loss, norm, absolute error."""
    batches = iter(toy.train_data(SEED))
    w, b, mean, lines = np.zeros(toy.WIDTH), 0.0, 0.0, []
    for number in range(STEPS):
        batch = next(batches)
        x, y = batch["x"].astype(np.float64), batch["y"].astype(np.float64)
        key = jax.random.fold_in(jax.random.key(SEED), number)
        noise = NOISE * np.asarray(jax.random.normal(key, (toy.BATCH,)), np.float64)
        error = x @ (2.0 * w) + b + noise - y
        grad_w, grad_b = 2.0 * x.T @ error / toy.BATCH, error.mean()
        norm = np.sqrt(np.sum(grad_w**2) + grad_b**2)
        lines.append((0.5 * np.mean(error**2), norm, np.mean(np.abs(error))))
        w, b = w - toy.RATE * grad_w, b - toy.RATE * grad_b
        mean = toy.DECAY * mean + (1 - toy.DECAY) * y.mean()
    return w, b, mean, np.array(lines)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted")
    options = train.FitOptions(seed=SEED, log_every=4, progress=False)
    return train.fit(toy.make(STEPS, noise=NOISE), options, workdir=folder), folder


def test_fit_equals_a_numpy_loop(fitted):
    state, folder = fitted
    w, b, mean, lines = numpy_loop()
    np.testing.assert_allclose(state["trainable"]["w"], w, rtol=1e-5)
    np.testing.assert_allclose(state["trainable"]["b"], b, rtol=1e-4)
    np.testing.assert_allclose(state["stats"]["mean"], mean, rtol=1e-4)
    assert int(state["step"]) == STEPS
    logged = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in logged] == [4, 8, 12]
    got = [[line[name] for name in ("loss", "grad_norm", "absolute_error")] for line in logged]
    np.testing.assert_allclose(got, lines.reshape(3, 4, 3).mean(axis=1), rtol=1e-5)
    assert all(line["steps_per_second"] > 0 and line["seconds"] > 0 for line in logged)


def test_restore_gives_the_last_parameters(fitted):
    state, folder = fitted
    params, number = train.restore(toy.make(STEPS, noise=NOISE), workdir=folder)
    assert number == STEPS
    np.testing.assert_array_equal(params.trainable["w"], state["trainable"]["w"])
    np.testing.assert_array_equal(params.stats["mean"], state["stats"]["mean"])
    np.testing.assert_array_equal(params.frozen["scale"], 2.0)


def test_the_state_is_donated_and_nothing_else():
    task = toy.make(optimizer=lambda: optax.adam(0.1))
    mesh = sharding.make_mesh()
    state, frozen, shardings = step.init(task, mesh, seed=0)
    batch = {
        name: jnp.asarray(value)
        for name, value in next(iter(toy.train_data(0))).items()
        if name != "name"
    }
    compiled = (
        step.make_step(task, shardings).lower(state, frozen, batch, jax.random.key(0)).compile()
    )
    state_bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    assert compiled.memory_analysis().alias_size_in_bytes == state_bytes > 0
    compiled(state, frozen, batch, jax.random.key(0))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((frozen, batch)))


def test_donation_leaves_the_arrays_of_the_task_alone():
    kept = jnp.ones(toy.WIDTH)
    task = toy.make(
        init=lambda key: train.Params(
            trainable={"w": kept, "b": jnp.zeros(())},
            frozen={"scale": kept, "noise": jnp.zeros(())},
            stats={"mean": jnp.zeros(())},
        )
    )
    state, _, _ = step.init(task, sharding.make_mesh(), seed=0)
    state["trainable"]["w"].delete()
    np.testing.assert_array_equal(kept, 1.0)


def test_the_key_of_init_is_no_key_of_a_step():
    steps = jax.vmap(lambda n: jax.random.key_data(jax.random.fold_in(jax.random.key(7), n)))(
        jnp.arange(1000, dtype=jnp.uint32)
    )
    ours = jax.random.key_data(jax.random.split(step.init_key(7), 8))
    assert not {tuple(k) for k in np.asarray(steps)} & {tuple(k) for k in np.asarray(ours)}


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda good: (good[0], good[1].metrics), "must return .loss, Aux."),
        (lambda good: good[0], "must return .loss, Aux."),
        (lambda good: (good[0][None], good[1]), "must be a floating scalar"),
        (lambda good: (good[0], train.Aux()), "changed the form of stats"),
    ],
)
def test_a_loss_that_breaks_the_protocol(returned, message, tmp_path):
    task = toy.make(loss=lambda *args: returned(toy.loss(*args)))
    with pytest.raises(TypeError, match=message):
        train.fit(task, train.FitOptions(seed=0), workdir=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_all_bad_metrics_are_named():
    one = jnp.ones(())
    with pytest.raises(ValueError, match="'loss' is a name") as caught:
        metrics.pack(one, one, {"loss": (one, one), "a": one, "b": (jnp.ones(2), one)})
    assert "'a' must be a pair" in str(caught.value)
    assert "'b' must be a pair" in str(caught.value)


def test_window_survives_json():
    window = metrics.Window(since=0.1)
    for value in (0.1, 0.7):
        window.add(("m",), np.array([value, 1.0, 3.0, 2.0], np.float32))
    again = metrics.Window.from_json(json.loads(json.dumps(window.to_json())))
    for each in (window, again):
        each.add(("m",), np.array([0.3, 1.0, 1.0, 0.0], np.float32))
    assert again.means() == window.means()
    assert again.means()["m"] == 7.0 / 4.0
    assert (again.steps, again.since) == (3, 0.1)
