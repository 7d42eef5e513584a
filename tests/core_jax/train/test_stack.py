"""Stacked runs against the same runs alone."""

import dataclasses
import os
import re
import subprocess
import sys

import grain
import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

from core_jax import train
from core_jax.train import sharding, stack, step
from core_jax.train.feed import Feed
from tests.core_jax.train import toy

STEPS = 6


class Shifted(toy.Source):
    """The toy's rows with another target."""

    def __init__(self, shift):
        self.shift = shift

    def __getitem__(self, index):
        row = super().__getitem__(index)
        return {**row, "y": row["y"] + np.float32(self.shift)}

    def __repr__(self):
        return f"Shifted({self.shift})"


def optimizer():
    """Clipping looks at a whole run, so that it would mix them if it were not mapped."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.05))


def make(shift, **changes):
    data = lambda seed: toy.train_data(seed, Shifted(shift))
    return toy.make(STEPS, noise=0.1, optimizer=optimizer, train_data=data, **changes)


def fit(task, workdir, *, resume=False, **options):
    options = train.FitOptions(seed=1, progress=False, **options)
    return train.fit(task, options, workdir=workdir, resume=resume)


def test_each_run_is_what_it_is_alone(tmp_path):
    tasks = [make(shift) for shift in (0.0, 3.0, -1.0)]
    together = fit(stack.stack(tasks), tmp_path / "together")
    for index, task in enumerate(tasks):
        alone = fit(task, tmp_path / str(index))
        for group in ("trainable", "stats"):
            own = stack.unstack(together[group], index)
            jax.tree.map(
                lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
                own,
                alone[group],
            )


def test_resumed_equals_uninterrupted(tmp_path):
    tasks = [make(0.0), make(3.0)]
    straight = fit(stack.stack(tasks), tmp_path / "straight", save_every=2)
    cut = dataclasses.replace(stack.stack(tasks), total_steps=2)
    fit(cut, tmp_path / "cut", save_every=2)
    # The first part of the run is all that a killed one would have left.
    (tmp_path / "cut" / "timing.json").unlink()
    resumed = fit(stack.stack(tasks), tmp_path / "cut", save_every=2, resume=True)
    jax.tree.map(np.testing.assert_array_equal, straight, resumed)


def test_results_name_their_run():
    task = stack.stack([make(shift, selected=("w_norm",)) for shift in (0.0, 1.0)])
    params = task.init(jax.random.key(0))
    found = task.evaluate(params.trainable, params.frozen, params.stats)
    assert set(found) == set(task.selected) == {"0/w_norm", "1/w_norm"}


def test_different_numbers_of_steps_are_refused():
    with pytest.raises(ValueError, match=r"\[6, 7\]"):
        stack.stack([make(0.0), dataclasses.replace(make(0.0), total_steps=7)])
    with pytest.raises(ValueError, match="no steps"):
        stack.stack([])


def test_batches_are_those_of_the_runs():
    tasks = [make(0.0), make(3.0)]
    batch = next(iter(stack.stack(tasks).train_data(5)))
    for index, task in enumerate(tasks):
        own = next(iter(task.train_data(5)))
        np.testing.assert_array_equal(batch["y"][:, index], own["y"])
    assert isinstance(stack.stack(tasks).train_data(5), grain.IterDataset)


def trained(task, mesh):
    """(last state with the metrics of the last step, program of the step) of a stack."""
    state, frozen, shardings = step.init(task, mesh, seed=1)
    feed, key = Feed(task.train_data(1), mesh, host_keys=task.batch_ids), jax.random.key(1)
    batches = [next(feed)[0] for _ in range(STEPS)]
    feed.close()
    take = step.make_step(task, shardings).lower(state, frozen, batches[0], key).compile()
    for batch in batches:
        state, packed = take(state, frozen, batch, key)
    return {**state, "last": packed.values}, take.as_text()


def sharded():
    """On eight devices: runs cut over four of them, two and two alike, against all runs on every device."""
    rules = (("(trainable|stats)/.*", P()),)
    tasks = [make(0.5 * shift, sharding_rules=rules) for shift in range(8)]
    mesh = sharding.make_mesh((4, 2))
    expected, _ = trained(stack.stack(tasks), mesh)
    state, program = trained(stack.stack(tasks, mesh), mesh)
    for leaf in jax.tree.leaves((state["trainable"], state["stats"], state["opt_state"][1][0].mu)):
        assert leaf.sharding.spec == P("data")
        assert len(leaf.addressable_shards[0].data) == 2
    # Sums for the log and the optimizer's count of steps; no array of a network or a batch.
    assert not re.search(r"f32\S* (all-gather|all-to-all|collective-permute)\(", program)
    compare = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    jax.tree.map(compare, state, expected)
    # Seven runs do not divide: their batches are cut.
    odd = stack.stack(tasks[1:], mesh)
    assert odd.sharding_rules == ((rules[0][0], P(None)),)
    assert next(iter(odd.train_data(1)))["y"].shape == (toy.BATCH, 7)
    print("equal")


@pytest.mark.slow
def test_runs_cut_over_devices_are_those_on_every_device():
    env = {
        **os.environ,
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
    }
    command = "from tests.core_jax.train import test_stack; test_stack.sharded()"
    done = subprocess.run(
        [sys.executable, "-c", command], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.stdout.strip() == "equal", done.stderr
