"""The average of prompts over epochs, against plain NumPy; what it must leave alone; stopping and going on."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

from core_jax import train
from core_jax.train import sharding, step
from fdbpl_jax import average

EPOCHS, STEPS, MEAN, STD = 4, 3, 3.0, 0.8


def _weights(epochs, mean, std):
    """PromptSRC's: the density at every epoch, over their sum."""
    epoch = np.arange(1, epochs + 1, dtype=np.float64)
    density = np.exp(-0.5 * ((epoch - mean) / std) ** 2) / (std * np.sqrt(2 * np.pi))
    return density / density.sum()


def _optimizer():
    rate = lambda count: (
        jnp.asarray(0.1, jnp.float32) / (1 + jnp.asarray(count)).astype(jnp.float32)
    )
    return optax.chain(
        optax.add_decayed_weights(0.05), optax.trace(0.9), optax.scale_by_learning_rate(rate)
    )


def _averaged(**changes):
    settings = {"epochs": EPOCHS, "steps": STEPS, "mean": MEAN, "std": STD, **changes}
    return average.over_epochs(_optimizer(), **settings)


def _prompts():
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    return {"context": {"positive": draw(2, 3)}, "visual": draw(2, 1, 4)}


def _gradient(prompts, number):
    """Any function of the prompts and the step."""
    return jax.tree.map(lambda x: jnp.sin(3 * x) + 0.1 * number, prompts)


def _train(optimizer, tree, steps, state=None, first=0):
    """[(tree after each step)], and the optimizer's state."""
    state = optimizer.init(tree) if state is None else state
    update, trees = jax.jit(optimizer.update), []
    for number in range(first, first + steps):
        prompts = {name: x for name, x in tree.items() if name != average.NAME}
        gradient = _gradient(prompts, number)
        if average.NAME in tree:
            # As `jax.grad` gives it: the loss does not read the average.
            gradient[average.NAME] = jax.tree.map(jnp.zeros_like, tree[average.NAME])
        updates, state = update(gradient, state, tree)
        tree = optax.apply_updates(tree, updates)
        trees.append(tree)
    return trees, state


@pytest.mark.parametrize(
    ("epochs", "mean", "std"), [(20, 15, 1), (5, 6, 10), (50, 30, 30), (1, 15, 1)]
)
def test_weights_are_the_published_gaussian(epochs, mean, std):
    found = average.gaussian_weights(epochs, mean, std)
    np.testing.assert_allclose(found, _weights(epochs, mean, std), rtol=1e-12)
    np.testing.assert_allclose(found.sum(), 1, rtol=1e-12)


def test_weights_smaller_than_any_number_still_have_a_mean():
    # The density of every epoch is 0 in float64; the last is nearest to the mean.
    found = average.gaussian_weights(4, 100.0, 0.1)
    np.testing.assert_allclose(found, [0, 0, 0, 1], atol=1e-12)
    moves = _train(_averaged(mean=100.0, std=0.1), average.start(_prompts()), EPOCHS * STEPS)[0]
    last = moves[-1]
    np.testing.assert_allclose(last["average"]["visual"], last["visual"], rtol=1e-6)


def test_average_is_the_weighted_mean_of_the_epochs_so_far():
    trees, _ = _train(_averaged(), average.start(_prompts()), EPOCHS * STEPS)
    weights = _weights(EPOCHS, MEAN, STD)
    for epoch in range(1, EPOCHS + 1):
        ends = [trees[e * STEPS - 1] for e in range(1, epoch + 1)]
        share = weights[:epoch] / weights[:epoch].sum()
        for name, path in (("context", "positive"), ("visual", None)):
            pick = lambda tree, name=name, path=path: tree[name][path] if path else tree[name]
            expected = sum(w * np.asarray(pick(end), np.float64) for w, end in zip(share, ends))
            np.testing.assert_allclose(pick(ends[-1]["average"]), expected, rtol=1e-5, atol=1e-6)


def test_average_moves_only_where_an_epoch_ends():
    start = average.start(_prompts())
    trees, _ = _train(_averaged(), start, EPOCHS * STEPS)
    for number, (before, after) in enumerate(zip([start, *trees], trees), start=1):
        moved = [
            bool((a != b).any())
            for a, b in zip(jax.tree.leaves(before["average"]), jax.tree.leaves(after["average"]))
        ]
        assert moved == [number % STEPS == 0] * 2


def test_prompts_train_as_without_an_average():
    alone, state = _train(_optimizer(), _prompts(), EPOCHS * STEPS)
    beside, averaged_state = _train(_averaged(), average.start(_prompts()), EPOCHS * STEPS)
    for one, other in zip(alone, beside):
        jax.tree.map(np.testing.assert_array_equal, one, {n: other[n] for n in one})
    # No momentum of an average: the one count more is the transformation's own.
    assert len(jax.tree.leaves(averaged_state)) == len(jax.tree.leaves(state)) + 1


def test_an_epoch_of_one_step():
    trees, _ = _train(_averaged(steps=1), average.start(_prompts()), EPOCHS)
    weights = _weights(EPOCHS, MEAN, STD)
    expected = sum(w * np.asarray(tree["visual"], np.float64) for w, tree in zip(weights, trees))
    np.testing.assert_allclose(trees[-1]["average"]["visual"], expected, rtol=1e-5)


def test_prompts_are_needed():
    tree = average.start(_prompts())
    optimizer = average.over_epochs(optax.sgd(0.1), epochs=1, steps=1, mean=1, std=1)
    with pytest.raises(ValueError, match="average of prompts"):
        optimizer.update(tree, optimizer.init(tree))


def test_judged_prompts_are_the_average_where_there_is_one():
    prompts = _prompts()
    assert average.judged(prompts) is prompts
    tree = average.start(prompts)
    assert average.judged(tree) is tree["average"]
    assert set(average.judged(tree)) == set(prompts)


def test_several_runs_side_by_side():
    optimizer = _averaged()
    runs = jax.tree.map(lambda x: jnp.stack([x, 2 * x]), average.start(_prompts()))
    state = jax.vmap(optimizer.init)(runs)
    for number in range(STEPS):
        gradient = jax.vmap(lambda t, n=number: _gradient(t, n))(runs)
        updates, state = jax.vmap(optimizer.update)(gradient, state, runs)
        runs = optax.apply_updates(runs, updates)
    for index, scale in enumerate((1, 2)):
        tree = jax.tree.map(lambda x, scale=scale: scale * x, average.start(_prompts()))
        alone = _train(optimizer, tree, STEPS)[0][-1]
        own = jax.tree.map(lambda x, index=index: x[index], runs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), own, alone)


def test_a_stopped_run_goes_on_bit_for_bit():
    def loss(trainable, frozen, stats, batch, key):
        context = trainable["context"]["positive"]
        value = jnp.mean((context - batch["x"]) ** 2) + jnp.sum(jnp.cos(trainable["visual"]))
        return value, train.Aux()

    task = train.Task(
        init=lambda key: train.Params(trainable=average.start(_prompts())),
        loss=loss,
        train_data=lambda seed: iter(()),
        evaluate=lambda trainable, frozen, stats: {},
        optimizer=_averaged,
        sharding_rules=(("trainable/.*", PartitionSpec()),),
        total_steps=EPOCHS * STEPS,
    )
    state, frozen, shardings = step.init(task, sharding.make_mesh(), seed=1)
    assert jax.tree.structure(shardings) == jax.tree.structure(state)
    run, key, kept = step.make_step(task, shardings), jax.random.key(0), None
    batch = {"x": jnp.ones((2, 3))}
    for number in range(EPOCHS * STEPS):
        if number == STEPS + 1:
            kept = jax.tree.map(np.array, state)
        state, _ = run(state, frozen, batch, key)
    again = sharding.place(kept, shardings, copy=True)
    for _ in range(EPOCHS * STEPS - STEPS - 1):
        again, _ = run(again, frozen, batch, key)
    jax.tree.map(np.testing.assert_array_equal, again, state)
    moved = jax.tree.map(lambda a, b: bool((a != b).all()), again["trainable"], kept["trainable"])
    assert all(jax.tree.leaves(moved))
