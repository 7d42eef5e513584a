"""Seconds of one FDBPL or KDPL training step, from what a run has opened."""

import functools
import time

import jax

from core_jax.train import Task, sharding
from core_jax.train import step as step_lib
from fdbpl_jax import inputs, task

# Steps longer than this are timed once: their spread is far below what the rows tell apart.
_LONG_S = 10.0
_REPEATS = 20


def seconds(opened: inputs.Inputs) -> tuple[float, float]:
    """Times of a step, shortest of up to twenty, and of its input, the mean of ten.

    Returns:
      Seconds of one whole step, its input included, and of the input alone.
    """
    mesh = sharding.make_mesh(None)
    job = _task(opened)
    state, frozen, shardings = step_lib.init(job, mesh, seed=0)
    step, key = step_lib.make_step(job, shardings), jax.random.key(0)
    batches = iter(job.train_data(0))
    next(batches)
    batch, start = None, time.perf_counter()
    for _ in range(10):
        batch = next(batches)
    input_seconds = (time.perf_counter() - start) / 10
    placed = jax.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    compiled = step.lower(state, frozen, jax.device_put(batch, placed), key).compile()
    best = float("inf")
    for _ in range(_REPEATS):
        start = time.perf_counter()
        state, metrics = compiled(state, frozen, jax.device_put(next(batches), placed), key)
        jax.block_until_ready(metrics)
        best = min(best, time.perf_counter() - start)
        if best > _LONG_S:
            break
    return best, input_seconds


def _task(opened: inputs.Inputs) -> Task:
    """The task's own parts, without reading anything from a config file."""
    return Task(
        init=functools.partial(task.init, opened),
        loss=functools.partial(task.loss, opened),
        train_data=functools.partial(task.train_data, opened),
        evaluate=lambda *_: {},
        optimizer=functools.partial(task.optimizer, opened.config, 1),
        sharding_rules=(("trainable/.*", jax.sharding.PartitionSpec()),),
        total_steps=1,
    )
