"""Several runs of one recipe in one program: folds of a cross-validation, side by side.

Every trainable array and statistic gets a leading axis F, loss and optimizer are mapped over it, and one jitted step
trains all F runs; frozen arrays are shared. Run i sees the key, the batches and the updates that it would see alone. On
several devices either the runs are cut over them, each device training its own, or every run's batch is.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.data import files
from core_jax.train.task import Aux, Batch, Params, Task, Tree


def stack(tasks: Sequence[Task], mesh: Mesh | None = None) -> Task:
    """One task that trains several.

    Args:
      tasks: F of them, built from one recipe: the same functions, frozen arrays, number of steps and batch shapes; their
        data, evaluation and pins may differ.
      mesh: that the loop trains on. When its axis "data" has several devices, their number divides F and there is one
        process, the axis F is cut over them, and but for sums and step counts no device needs another. Otherwise, without a mesh,
        too, batches are cut as those of a single run are, and every device holds all runs.

    Returns:
      A task whose trainable arrays and statistics have a leading axis F and whose batches an axis F after the batch axis, or
      before it when F is cut. Its loss is the sum over runs, so that each has its own gradient; metrics are sums over all;
      results of run i are named "i/...".

    Raises:
      ValueError: no task, or tasks with different numbers of steps.
    """
    steps = sorted({task.total_steps for task in tasks})
    if len(steps) != 1:
        raise ValueError(
            f"stacked tasks make {steps or 'no'} steps: expected at least one task, and one number of steps for all; set it "
            "in the configuration instead of epochs"
        )
    first, count = tasks[0], len(tasks)
    cut = mesh if mesh is not None and _divides(count, mesh) else None
    return Task(
        init=functools.partial(_init, first, count),
        loss=functools.partial(_loss, first, cut),
        train_data=functools.partial(_train_data, tasks, 1 if cut is None else 0),
        evaluate=functools.partial(_evaluate, tasks),
        optimizer=functools.partial(_optimizer, first),
        sharding_rules=tuple(
            (pattern, PartitionSpec(cut and "data", *spec) if _grows(pattern) else spec)
            for pattern, spec in first.sharding_rules
        ),
        total_steps=steps[0],
        batch_ids=first.batch_ids,
        selected=tuple(f"{i}/{name}" for i, task in enumerate(tasks) for name in task.selected),
        elastic=all(task.elastic for task in tasks),
        pins=_pins(tasks),
    )


def unstack(tree: Tree, index: int) -> Tree:
    """The arrays of one run."""
    return jax.tree.map(lambda x: x[index], tree)


def _divides(count: int, mesh: Mesh) -> bool:
    # A process reads its slice of every batch, which is no batch of some of the runs.
    parts = mesh.shape["data"]
    return parts > 1 and count % parts == 0 and jax.process_count() == 1


def _grows(pattern: str) -> bool:
    return not pattern.startswith("frozen")


def _pins(tasks: Sequence[Task]) -> dict[str, str]:
    """What all runs share as it is, the rest as one digest."""
    shared = set.intersection(*(set(task.pins.items()) for task in tasks))
    return {**dict(shared), "stacked": files.digest([dict(task.pins) for task in tasks])}


def _init(task: Task, count: int, key: PRNGKeyArray) -> Params:
    params = task.init(key)
    repeat = lambda tree: jax.tree.map(
        lambda x: jnp.broadcast_to(jnp.asarray(x), (count, *jnp.shape(x))), tree
    )
    return Params(
        trainable=repeat(params.trainable), frozen=params.frozen, stats=repeat(params.stats)
    )


def _loss(
    task: Task,
    cut: Mesh | None,
    trainable: Tree,
    frozen: Tree,
    stats: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Aux]:
    each = jax.vmap(task.loss, in_axes=(0, None, 0, 1 if cut is None else 0, None))
    if cut is not None:
        # Cut by hand: whatever a network is made of, its runs then stay apart. Gradients need no sums either.
        own, all_of_it = PartitionSpec("data"), PartitionSpec()
        each = jax.shard_map(
            each,
            mesh=cut,
            in_specs=(own, all_of_it, own, own, all_of_it),
            out_specs=own,
            axis_names={"data"},
            check_vma=False,
        )
    values, aux = each(trainable, frozen, stats, dict(batch), key)
    metrics = {
        name: (jnp.sum(total), jnp.sum(count)) for name, (total, count) in aux.metrics.items()
    }
    return jnp.sum(values), Aux(stats=aux.stats, metrics=metrics)


def _train_data(tasks: Sequence[Task], axis: int, seed: int) -> Any:
    from grain import experimental

    each = experimental.ZipIterDataset([task.train_data(seed) for task in tasks])
    return each.map(functools.partial(_side_by_side, axis))


def _side_by_side(axis: int, batches: Sequence[Batch]) -> dict[str, np.ndarray]:
    return {name: np.stack([batch[name] for batch in batches], axis=axis) for name in batches[0]}


def _optimizer(task: Task) -> optax.GradientTransformation:
    one = task.optimizer()

    def init(params: Any) -> optax.OptState:
        # optax asks for the form of the state with a stand-in that has no arrays.
        return jax.vmap(one.init)(params) if jax.tree.leaves(params) else one.init(params)

    def update(updates: Any, state: optax.OptState, params: Any = None) -> Any:
        return jax.vmap(one.update)(updates, state, params)

    return optax.GradientTransformation(init, update)


def _evaluate(
    tasks: Sequence[Task], trainable: Tree, frozen: Tree, stats: Tree
) -> dict[str, float]:
    return {
        f"{index}/{name}": value
        for index, task in enumerate(tasks)
        for name, value in task.evaluate(
            unstack(trainable, index), frozen, unstack(stats, index)
        ).items()
    }
