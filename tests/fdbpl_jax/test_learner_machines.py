"""Learners on several devices, in bfloat16, several runs in one program, and going on elsewhere after a stop."""

import dataclasses
import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from core_jax import train
from core_jax.train import sharding, stack, step
from fdbpl_jax import several, task
from fdbpl_jax.learners import LEARNERS
from tests.core_jax.train import eight

WAYS = [(learner, LEARNERS[learner].method) for learner in LEARNERS]
WAYS += [(learner, "fdbpl") for learner in ("coop", "cocoop", "vpt", "maple", "promptsrc")]
# Those that between them have everything that is learned, held to and counted.
NUMBERS = [("cocoop", "fdbpl"), ("promptsrc", "ce"), ("promptkd", "kdpl"), ("maple", "fdbpl")]
# A bias in front of a batch norm has rounding errors alone.
INERT = "projector/fc1/bias"
OPTIONS = train.FitOptions(seed=1, log_every=2, save_every=2, progress=False)


def _config(small, learner, method, **changes):
    words = "no photo" if learner == "maple" else "a photo of no"
    return small(learner, method, **({"prompt.negative_init": words} | changes))


def _first(made, seed=1):
    """Arrays and the first batch."""
    params = made.init(step.init_key(seed))
    return params, eight.on_device(next(iter(made.train_data(seed))))


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "method"), WAYS)
def test_what_is_learned_stays_float32_under_bfloat16(small, learner, method):
    made = task.build(_config(small, learner, method, dtype="bfloat16"))
    params, batch = _first(made)
    slope = jax.value_and_grad(made.loss, has_aux=True)
    with jax.numpy_dtype_promotion("standard"):  # flax promotes inside its norms
        (value, aux), gradient = jax.eval_shape(
            slope, params.trainable, params.frozen, params.stats, batch, jax.random.key(0)
        )
    kept = jax.tree.leaves((value, gradient, aux.stats, aux.metrics))
    assert {x.dtype.name for x in kept} == {"float32"}


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "method"), NUMBERS)
def test_a_step_in_bfloat16_is_near(small, learner, method):
    exact, half = (
        task.build(_config(small, learner, method, dtype=dtype))
        for dtype in ("float32", "bfloat16")
    )
    (value, _), _ = eight.slope(exact, *_first(exact))
    with jax.numpy_dtype_promotion("standard"):
        (near, _), _ = eight.slope(half, *_first(half))
    np.testing.assert_allclose(near, value, rtol=0.1)


def _seeds(small, learner, method):
    """Two runs that differ in their seeds, an epoch a step, as one program has them."""
    changes = {"average.mean": 1.0, "epochs": 2, "batch_size": 16}
    each = [_config(small, learner, method, seed=seed, data__seed=1, **changes) for seed in (1, 2)]
    return [
        stack.Run(name=f"seed{seed}", seed=seed, task=made)
        for seed, made in zip((1, 2), several.build(each), strict=True)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "method"), WAYS)
def test_every_learner_takes_several_seeds_in_one_program(small, learner, method):
    made = stack.stack_runs(_seeds(small, learner, method))
    params, batch = _first(made)
    slope = jax.value_and_grad(made.loss, has_aux=True)
    _, gradient = jax.eval_shape(
        slope, params.trainable, params.frozen, params.stats, batch, made.key(0)
    )
    assert {x.shape[0] for x in jax.tree.leaves(gradient)} == {2}


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "method"), NUMBERS)
def test_each_run_of_a_program_is_the_run_it_is_alone(small, learner, method):
    """Two steps with the optimizer: prompts, averages and statistics."""
    runs = _seeds(small, learner, method)
    together = _steps(stack.stack_runs(runs), 0)
    for index, run in enumerate(runs):
        alone = sharding.named_leaves(_steps(run.task, run.seed))
        mine = sharding.named_leaves(stack.unstack(together, index))
        assert mine.keys() == alone.keys()
        for name, expected in alone.items():
            if not name.endswith(INERT):
                largest = max(1e-2, np.abs(expected).max())
                np.testing.assert_allclose(mine[name], expected, atol=2e-5 * largest, err_msg=name)


def _steps(made, seed):
    """What is learned, with statistics, after two steps."""
    state, frozen, shardings = step.init(made, sharding.make_mesh(), seed=seed)
    run, data = step.make_step(made, shardings), iter(made.train_data(seed))
    for _ in range(2):
        state, _ = run(state, frozen, eight.on_device(next(data)), made.key(seed))
    return jax.tree.map(np.asarray, {name: state[name] for name in ("trainable", "stats")})


def on_eight(path):
    eight.check(task.build(json.loads(pathlib.Path(path).read_text())))


@pytest.mark.slow
@pytest.mark.parametrize(("learner", "method"), [*NUMBERS, ("prograd", "ce"), ("vpt", "fdbpl")])
def test_eight_devices_compute_what_one_does(small, tmp_path, learner, method):
    path = tmp_path / "config.json"
    path.write_text(_config(small, learner, method).to_json())
    eight.run("tests.fdbpl_jax.test_learner_machines.on_eight", str(path))


def go_on(path, workdir):
    """The rest of a run, on as many devices as there are."""
    made = task.build(json.loads(pathlib.Path(path).read_text()))
    state = train.fit(made, OPTIONS, workdir=workdir, resume=True)
    assert int(state["step"]) == made.total_steps
    assert len(jax.tree.leaves(state["trainable"])[0].devices()) == 8


@pytest.mark.slow
@pytest.mark.parametrize("learner", ["promptsrc", "promptkd"])
def test_a_stopped_run_goes_on_on_eight_devices(small, tmp_path, learner):
    config = small(learner, epochs=2, **{"average.mean": 1.5})
    made = task.build(config)
    straight = train.fit(made, OPTIONS, workdir=tmp_path / "straight")
    stopping = dataclasses.replace(made, train_data=functools.partial(_Stopping, made.train_data))
    with pytest.raises(_Stop):
        train.fit(stopping, OPTIONS, workdir=tmp_path / "cut")
    (tmp_path / "config.json").write_text(config.to_json())
    eight.run(
        "tests.fdbpl_jax.test_learner_machines.go_on",
        str(tmp_path / "config.json"),
        str(tmp_path / "cut"),
    )
    kept = train.restore(made, workdir=tmp_path / "cut")[0]
    last = train.Params(trainable=straight["trainable"], stats=straight["stats"])
    expected = sharding.named_leaves(last)
    found_leaves = sharding.named_leaves(train.Params(trainable=kept.trainable, stats=kept.stats))
    for name, found in found_leaves.items():
        if not name.endswith(INERT):
            largest = max(1e-2, float(jnp.abs(expected[name]).max()))
            np.testing.assert_allclose(found, expected[name], atol=1e-4 * largest, err_msg=name)


class _Stop(RuntimeError):
    pass


class _Stopping:
    """Three batches, then a stop: behind the checkpoint of the second."""

    def __init__(self, make, seed):
        self.inner, self.left = iter(make(seed)), 3

    def __iter__(self):
        return self

    def __next__(self):
        if not self.left:
            raise _Stop
        self.left -= 1
        return next(self.inner)

    def get_state(self):
        return self.inner.get_state()

    def set_state(self, state):
        self.inner.set_state(state)
