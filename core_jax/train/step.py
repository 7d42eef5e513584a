"""The training step: a pure, jitted function of (state, frozen, batch, key).

State is the nested dict {"trainable", "opt_state", "stats", "step"}; it alone is donated. Gradients
are taken with respect to the trainables only, so the frozen towers cost their forward and what the
trainables' gradient needs.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import ArrayLike, PRNGKeyArray

from core_jax.train import metrics, sharding
from core_jax.train.task import Aux, Batch, Task, Tree

State = dict[str, Any]
StepFn = Callable[[State, Tree, Batch, PRNGKeyArray], tuple[State, metrics.Packed]]

# Steps count from zero, so no step folds this number into the key.
_INIT_FOLD = np.uint32(2**32 - 1)


def init_key(seed: int) -> PRNGKeyArray:
    """Key of `Task.init`, apart from the key of every step and from the keys split from those."""
    return jax.random.fold_in(jax.random.key(seed), _INIT_FOLD)


def fold_in(key: PRNGKeyArray, number: ArrayLike) -> PRNGKeyArray:
    """`jax.random.fold_in` of a number into a key, or into each of a vector of keys."""
    if key.ndim == 0:
        return jax.random.fold_in(key, number)
    return jax.vmap(jax.random.fold_in, in_axes=(0, None))(key, number)


def init(task: Task, mesh: Mesh, *, seed: int) -> tuple[State, Tree, State]:
    """First state of a run, on its devices.

    Args:
      task: its `init`, `optimizer` and `sharding_rules` are used.
      mesh: from `sharding.make_mesh`.
      seed: seed of the run.

    Returns:
      (state, frozen, shardings of the state).
    """
    params = task.init(init_key(seed))
    optimizer = task.optimizer()
    placed = sharding.params_shardings(params, task.sharding_rules, mesh)
    opt_shardings = sharding.opt_state_shardings(
        optimizer, params.trainable, placed.trainable, mesh
    )
    replicated = NamedSharding(mesh, PartitionSpec())
    trainable = sharding.place(params.trainable, placed.trainable, copy=True)
    state = {
        "trainable": trainable,
        "opt_state": _init_optimizer(optimizer, trainable, opt_shardings),
        "stats": sharding.place(params.stats, placed.stats, copy=True),
        "step": sharding.place(np.zeros((), np.int32), replicated, copy=True),
    }
    shardings = {
        "trainable": placed.trainable,
        "opt_state": opt_shardings,
        "stats": placed.stats,
        "step": replicated,
    }
    return state, sharding.place(params.frozen, placed.frozen, copy=False), shardings


def make_step(task: Task, shardings: State) -> StepFn:
    """Build the jitted step.

    Args:
      task: its `loss` and `optimizer` are used.
      shardings: of the state, as `init` returns them.

    Returns:
      step(state, frozen, batch, key) -> (new state, packed metrics). The loss sees `fold_in(key,
      state["step"])`, so a step depends on nothing but its arguments; `key` comes from `Task.key`. The
      state is donated: the old one must not be used again.
    """
    optimizer = task.optimizer()
    replicated = shardings["step"]

    def checked_loss(
        trainable: Tree, frozen: Tree, stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[jax.Array, Aux]:
        return _checked(task.loss(trainable, frozen, stats, batch, key), stats)

    def step(
        state: State, frozen: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[State, metrics.Packed]:
        key = fold_in(key, state["step"])
        (loss, aux), grads = jax.value_and_grad(checked_loss, has_aux=True)(
            state["trainable"], frozen, state["stats"], batch, key
        )
        with _lenient():
            updates, opt_state = optimizer.update(grads, state["opt_state"], state["trainable"])
            trainable = optax.apply_updates(state["trainable"], updates)
        new = {
            "trainable": trainable,
            "opt_state": opt_state,
            "stats": aux.stats,
            "step": state["step"] + 1,
        }
        return _strong(new), metrics.pack(loss, optax.tree.norm(grads), aux.metrics)

    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, replicated))


def _init_optimizer(
    optimizer: optax.GradientTransformation, trainable: Tree, shardings: Any
) -> optax.OptState:
    with _lenient():
        # jit drops the shardings of its inputs unless the outputs' are given.
        init = jax.jit(lambda t: _strong(optimizer.init(t)), out_shardings=shardings)
        return init(trainable)


def _strong(tree: Any) -> Any:
    # A weakly typed leaf that becomes a strong one, or the reverse, would compile the step again.
    return jax.tree.map(lambda x: jax.lax.convert_element_type(x, jnp.result_type(x)), tree)


@contextlib.contextmanager
def _lenient() -> Iterator[None]:
    # optax raises an integer count to a power: not our code, so not under our tests' strict rules.
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def _checked(returned: Any, stats: Tree) -> tuple[jax.Array, Aux]:
    """The loss's value, or an error that names what breaks the protocol; runs while tracing."""
    if not isinstance(returned, tuple) or len(returned) != 2 or not isinstance(returned[1], Aux):
        raise TypeError(f"the task's loss must return (loss, Aux), got {returned!r}")
    loss, aux = returned
    if jnp.shape(loss) != () or not jnp.issubdtype(jnp.result_type(loss), jnp.floating):
        raise TypeError(f"the task's loss must be a floating scalar, got {loss!r}")
    before, after = (
        jax.tree.map(lambda x: (jnp.shape(x), jnp.result_type(x).name), tree)
        for tree in (stats, aux.stats)
    )
    if before != after:
        raise TypeError(f"the task's loss changed the form of stats: from {before} to {after}")
    return loss, aux
