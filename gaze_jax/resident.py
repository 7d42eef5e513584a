"""A gaze set that lies on the devices: the input pipeline sends numbers of rows, and pictures are gathered inside jit.

The order of rows is that of `gaze_jax.data`, so a step sees the same batch either way. One copy serves all folds that are
trained side by side. Shapes: N samples of the set, B of a batch.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped

from core_jax.train import Params
from core_jax.train.task import Aux, Batch, Tree
from gaze_jax.gaze_set import REFERENCE, GazeSet, InMemory

RESIDENT_BYTES = 2 * 2**30
"""Up to this size of its pictures "auto" puts a set on every device."""
_SET = "set"


def chosen(setting: str, gaze_set: GazeSet) -> bool:
    """Whether a set lies on the devices.

    Args:
      setting: "True", "False", or "auto": on accelerators, for a set in memory of at most `RESIDENT_BYTES`.
      gaze_set: the set; with "True" pictures that are not in memory are all read when a run starts.
    """
    if setting != "auto":
        return setting == "True"
    size = len(gaze_set) * int(np.prod(gaze_set.size))
    in_memory = isinstance(gaze_set.images, InMemory)
    return jax.default_backend() != "cpu" and in_memory and size <= RESIDENT_BYTES


def init(own: Callable[[PRNGKeyArray], Params], gaze_set: GazeSet, key: PRNGKeyArray) -> Params:
    """A network's parameters and, among the frozen arrays, the whole set."""
    params = own(key)
    arrays = gaze_set.batch(np.arange(len(gaze_set)))
    # A sample's number is what the batch says already.
    del arrays["index"]
    return Params(
        trainable=params.trainable, frozen={**params.frozen, _SET: arrays}, stats=params.stats
    )


def loss(
    own: Callable[..., tuple[Float[Array, ""], Aux]],
    trainable: Tree,
    frozen: Tree,
    stats: Tree,
    batch: Batch,
    key: PRNGKeyArray,
) -> tuple[Float[Array, ""], Aux]:
    """A network's loss of the rows that a batch names."""
    return own(trainable, frozen, stats, gather(frozen[_SET], batch), key)


def gather(
    arrays: Mapping[str, Shaped[Array, "N ..."]], batch: Mapping[str, Any]
) -> dict[str, Array]:
    """The samples that a batch names, equal to what `gaze_jax.data` reads; pure, for use inside jit.

    Args:
      arrays: `GazeSet.batch` of all rows.
      batch: "index" int32 (B,), and "ref_index" where pictures are compared.
    """
    # Rows are numbers of the set, never negative and never beyond it.
    take = lambda name, rows: jnp.take(arrays[name], rows, axis=0, mode="clip")
    found = {name: take(name, batch["index"]) for name in arrays}
    if "ref_index" in batch:
        names = [name for name in REFERENCE if name in arrays]
        found |= {f"ref_{name}": take(name, batch["ref_index"]) for name in names}
    # What follows is compiled as if the batch had come from the host.
    return jax.lax.optimization_barrier({**batch, **found})
