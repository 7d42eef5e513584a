"""A task's step on eight fake devices against the same step on one: `run` starts the process, which calls `check`."""

import os
import subprocess
import sys
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from core_jax import train
from core_jax.train import sharding, step


def run(call: str, *arguments: str) -> None:
    """`module.function(*arguments)` of a test module in a process with eight devices; it must get to its end."""
    module, _, function = call.rpartition(".")
    code = f"import sys; from {module} import {function} as f; f(*sys.argv[1:]); print('equal')"
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    # Programs as users run them: without its optimisations the compiler rounds sums of devices in other places.
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.stdout.strip().endswith("equal"), done.stdout + done.stderr


def check(task: train.Task, mesh: str = "data:-1,model:2") -> None:
    """Loss, gradients and statistics of the first step: equal to 1e-5, with parameters that are really cut."""
    state, frozen, shardings = step.init(task, sharding.make_mesh(mesh), seed=1)
    params = task.init(step.init_key(1))
    batch = on_device(next(iter(task.train_data(1))))
    cut = NamedSharding(sharding.make_mesh(mesh), PartitionSpec("data"))
    whole = slope(task, params, batch)
    parts = train.Params(trainable=state["trainable"], frozen=frozen, stats=state["stats"])
    arrays = jax.tree.leaves((parts, shardings["opt_state"]))
    arrays = [x for x in arrays if isinstance(x, jax.Array)]
    assert any(not x.is_fully_replicated for x in arrays)
    same(slope(task, parts, jax.device_put(batch, cut)), whole)


def slope(task: train.Task, params: train.Params, batch: Any, key: Any = None) -> Any:
    """((loss, Aux), gradient)."""
    key = jax.random.key(3) if key is None else key
    return jax.jit(jax.value_and_grad(task.loss, has_aux=True))(
        params.trainable, params.frozen, params.stats, on_device(batch), key
    )


def on_device(batch: Any) -> dict[str, Any]:
    """The entries of a batch that a loss sees: texts stay on the host."""
    return {name: x for name, x in batch.items() if x.dtype.kind not in "USOT"}


def same(found: Any, expected: Any, bound: float = 1e-5) -> None:
    """Two results of `slope`, gradients measured by the largest of them: some are 0 but for rounding."""
    (value, aux), grads = jax.tree.map(np.asarray, found)
    (other, other_aux), other_grads = jax.tree.map(np.asarray, expected)
    np.testing.assert_allclose(value, other, rtol=bound)
    largest = max(np.abs(x).max() for x in jax.tree.leaves(other_grads))
    assert largest > 0
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=bound * largest)
    jax.tree.map(close, grads, other_grads)
    both = lambda a, b: np.testing.assert_allclose(a, b, rtol=bound, atol=bound)
    jax.tree.map(both, aux.stats, other_aux.stats)
    # Sums beside their counts: as the means that are logged.
    for name, (total, count) in aux.metrics.items():
        others = other_aux.metrics[name]
        np.testing.assert_allclose(
            total / max(count, 1), others[0] / max(others[1], 1), rtol=10 * bound, atol=bound
        )


def lowered(task: train.Task) -> str:
    """The program of loss and gradient, before XLA sees it."""
    params = task.init(step.init_key(1))
    batch = on_device(next(iter(task.train_data(1))))
    return (
        jax.jit(jax.grad(task.loss, has_aux=True))
        .lower(params.trainable, params.frozen, params.stats, batch, jax.random.key(0))
        .as_text()
    )


def products(text: str) -> list[str]:
    """The lines of matrix products and convolutions."""
    return [line for line in text.splitlines() if ".dot_general" in line or ".convolution" in line]
