"""Several runs of one recipe in one program: folds of a cross-validation, seeds, learning rates.

Every trainable array and statistic gets a leading axis F, one entry a run, and one jitted step trains all of them; frozen
arrays are shared. Run i sees the keys, the batches and the updates that it would see alone. `stack` takes folds, which
share a seed and an optimizer; `stack_runs` takes runs with seeds, optimizers and names of their own. On several devices
either the folds are cut over them, each device training its own, or every run's batch is.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.data import files
from core_jax.train import turns
from core_jax.train.step import init_key
from core_jax.train.task import Aux, Batch, Params, Task, Tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One of several runs in a program.

    Attributes:
      name: stands in front of its results and metrics.
      seed: of its first arrays, its data and the keys of its steps.
      task: what it trains.
    """

    name: str
    seed: int
    task: Task


def stack(tasks: Sequence[Task], mesh: Mesh | None = None) -> Task:
    """One task that trains several of one seed.

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
        evaluate=functools.partial(_evaluate, _numbered(tasks)),
        optimizer=functools.partial(_optimizer, first),
        sharding_rules=tuple(
            (pattern, _place(spec, cut) if _grows(pattern) else spec)
            for pattern, spec in first.sharding_rules
        ),
        total_steps=steps[0],
        batch_ids=first.batch_ids,
        selected=_selected(_numbered(tasks)),
        elastic=all(task.elastic for task in tasks),
        pins=_pins(tasks),
    )


def stack_runs(runs: Sequence[Run]) -> Task:
    """One task that trains several runs which may also differ in their seeds and in the numbers of their optimizers.

    Args:
      runs: as the tasks of `stack`, with different names; their optimizers have states of one form.

    Returns:
      A task as `stack` makes, without a cut over devices. It does not look at the seed that it is given. Metrics are those
      of each run, "NAME/...", its loss among them; so are results.

    Raises:
      ValueError: no run, runs that share a name, or runs with different numbers of steps.
    """
    tasks, named = [run.task for run in runs], {run.name: run.task for run in runs}
    if len(named) < len(runs):
        raise ValueError(f"stacked runs share a name: {', '.join(run.name for run in runs)}")
    return dataclasses.replace(
        stack(tasks),
        init=functools.partial(_init_runs, runs),
        loss=functools.partial(_loss_of_each, tuple(named), tasks[0]),
        train_data=lambda seed: _zip([run.task.train_data(run.seed) for run in runs], 1),
        evaluate=functools.partial(_evaluate, named),
        optimizer=functools.partial(_optimizer_of_each, tasks),
        key=lambda seed: jnp.stack([run.task.key(run.seed) for run in runs]),
        selected=_selected(named),
        pins={**_pins(tasks), "runs": files.digest([[run.name, run.seed] for run in runs])},
    )


def unstack(tree: Any, index: int) -> Any:
    """The arrays of one run."""
    return jax.tree.map(lambda x: x[index], tree)


def _numbered(tasks: Sequence[Task]) -> dict[str, Task]:
    return {str(index): task for index, task in enumerate(tasks)}


def _selected(named: Mapping[str, Task]) -> tuple[str, ...]:
    return tuple(f"{name}/{result}" for name, task in named.items() for result in task.selected)


def _divides(count: int, mesh: Mesh) -> bool:
    # A process reads its slice of every batch, which is no batch of some of the runs.
    parts = mesh.shape["data"]
    return parts > 1 and count % parts == 0 and jax.process_count() == 1


def _grows(pattern: str) -> bool:
    return not pattern.startswith("frozen")


def _place(spec: Any, cut: Mesh | None) -> PartitionSpec:
    """A rule's place behind the axis F; small models that are trained side by side are not cut over "model"."""
    return PartitionSpec(cut and "data", *(() if callable(spec) else spec))


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


def _init_runs(runs: Sequence[Run], key: PRNGKeyArray) -> Params:
    del key
    first = runs[0].task.init(init_key(runs[0].seed))
    kept = [(first.trainable, first.stats)]
    for run in runs[1:]:
        # One at a time, so that no two copies of the frozen arrays wait for each other.
        own = run.task.init(init_key(run.seed))
        kept.append((own.trainable, own.stats))
    trainable, stats = _side_by_side(kept)
    return Params(trainable=trainable, frozen=first.frozen, stats=stats)


def _loss(
    task: Task,
    cut: Mesh | None,
    trainable: Tree,
    frozen: Tree,
    stats: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Aux]:
    each = turns.loss_of_each(task.loss, 1 if cut is None else 0, None)
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


def _loss_of_each(
    names: Sequence[str],
    task: Task,
    trainable: Tree,
    frozen: Tree,
    stats: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Aux]:
    values, aux = turns.loss_of_each(task.loss, 1, 0)(trainable, frozen, stats, dict(batch), key)
    pairs = {**aux.metrics, "loss": (values, jnp.ones_like(values))}
    metrics = {
        f"{run}/{name}": (total[index], count[index])
        for index, run in enumerate(names)
        for name, (total, count) in pairs.items()
    }
    return jnp.sum(values), Aux(stats=aux.stats, metrics=metrics)


def _side_by_side(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _train_data(tasks: Sequence[Task], axis: int, seed: int) -> Any:
    return _zip([task.train_data(seed) for task in tasks], axis)


def _zip(datasets: Sequence[Any], axis: int) -> Any:
    """The batches of several data sets as one, with an axis F at `axis`."""
    from grain import experimental

    def together(batches: Sequence[Batch]) -> dict[str, np.ndarray]:
        return {name: np.stack([b[name] for b in batches], axis=axis) for name in batches[0]}

    return experimental.ZipIterDataset(datasets).map(together)


def _optimizer(task: Task) -> optax.GradientTransformation:
    one = task.optimizer()

    def init(params: Any) -> optax.OptState:
        # optax asks for the form of the state with a stand-in that has no arrays.
        return jax.vmap(one.init)(params) if jax.tree.leaves(params) else one.init(params)

    def update(updates: Any, state: optax.OptState, params: Any = None) -> Any:
        return jax.vmap(one.update)(updates, state, params)

    return optax.GradientTransformation(init, update)


def _optimizer_of_each(tasks: Sequence[Task]) -> optax.GradientTransformation:
    """Every run's own optimizer for its arrays; runs are few, and so are operations of an update."""
    each = [task.optimizer() for task in tasks]

    def init(params: Any) -> optax.OptState:
        # As in `_optimizer`.
        if not jax.tree.leaves(params):
            return each[0].init(params)
        return _side_by_side([one.init(unstack(params, i)) for i, one in enumerate(each)])

    def update(updates: Any, state: optax.OptState, params: Any = None) -> Any:
        return _side_by_side(
            [
                one.update(unstack(updates, i), unstack(state, i), unstack(params, i))
                for i, one in enumerate(each)
            ]
        )

    return optax.GradientTransformation(init, update)


def _evaluate(
    named: Mapping[str, Task], trainable: Tree, frozen: Tree, stats: Tree
) -> dict[str, float]:
    return {
        f"{run}/{name}": value
        for index, (run, task) in enumerate(named.items())
        for name, value in task.evaluate(
            unstack(trainable, index), frozen, unstack(stats, index)
        ).items()
    }
