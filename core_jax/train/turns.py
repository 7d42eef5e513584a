"""The losses of several runs in one program, whose arrays have a leading axis F: at once, or each in its turn.

Accelerators map over the runs. On CPUs they take turns: a batch of convolutions by weights of their own is slow there, and
the memory of one run is used again by the next.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from core_jax.train.task import Aux, Batch, Tree

Loss = Callable[[Tree, Tree, Tree, Batch, PRNGKeyArray], tuple[Array, Aux]]


def loss_of_each(loss: Loss, batch_axis: int, key_axis: int | None) -> Loss:
    """The loss of all runs, from that of one: (losses (F,), Aux of arrays with an axis F in front).

    Args:
      loss: as `Task.loss`.
      batch_axis: where the axis F of the batch's arrays is.
      key_axis: 0 for a vector of keys; None where all runs share one.

    Returns:
      A function like `loss`, of trainable arrays and statistics with a leading axis F; frozen arrays are shared. On CPUs it
      can be differentiated with respect to the trainable arrays and the losses alone.
    """
    if not in_turns():
        return jax.vmap(loss, in_axes=(0, None, 0, batch_axis, key_axis))

    def of_each(
        trainable: Tree, frozen: Tree, stats: Tree, batch: Batch, key: PRNGKeyArray
    ) -> tuple[Float[Array, " F"], Aux]:
        count = len(jax.tree.leaves(trainable)[0])
        batches = jax.tree.map(lambda x: jnp.moveaxis(x, batch_axis, 0), batch)
        keys = jnp.broadcast_to(key, (count,)) if key_axis is None else key

        @jax.custom_vjp
        def losses(trainable: Tree) -> tuple[Array, Aux]:
            one = lambda own: loss(own[0], frozen, *own[1:])
            return jax.lax.map(one, (trainable, stats, batches, keys))

        def forward(trainable: Tree) -> tuple[tuple[Array, Aux], Tree]:
            # A run's gradient is taken before the next run begins: only one run's activations are ever kept.
            both = jax.value_and_grad(loss, has_aux=True)
            one = lambda own: both(own[0], frozen, *own[1:])
            return jax.lax.map(one, (trainable, stats, batches, keys))

        def backward(gradients: Tree, given: tuple[Array, Aux]) -> tuple[Tree]:
            def scale(x: Array) -> Array:
                return x * given[0].reshape(-1, *[1] * (x.ndim - 1)).astype(x.dtype)

            return (jax.tree.map(scale, gradients),)

        losses.defvjp(forward, backward)
        return losses(trainable)

    return of_each


def in_turns() -> bool:
    """Whether runs take turns on the devices that there are."""
    return jax.default_backend() == "cpu"
