"""What a method hands to the training loop: a frozen dataclass of pure functions.

The loop knows nothing else about a method. Shapes: a batch is a flat dict of arrays whose first
axis is the batch axis B; the loop cuts that axis over the devices of the mesh axis "data".
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, PRNGKeyArray

Tree = dict[str, Any]
Batch = Mapping[str, Any]
Spec = jax.sharding.PartitionSpec
# A path's pattern, and a place: fixed, or a function of (shape, mesh) such as `sharding.over_model`.
Rules = tuple[tuple[str, Spec | Callable[[Sequence[int], jax.sharding.Mesh], Spec]], ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Params:
    """The arrays of a model, by what may happen to them. Three nested dicts, each possibly empty.

    Attributes:
      trainable: differentiated, updated by the optimizer, donated and checkpointed.
      frozen: never differentiated, donated or checkpointed; its digest belongs into `Task.pins`.
      stats: not differentiated but replaced after every step and checkpointed (batch-norm
        statistics).
    """

    trainable: Tree
    frozen: Tree = dataclasses.field(default_factory=dict)
    stats: Tree = dataclasses.field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Aux:
    """What a loss returns beside its value.

    Attributes:
      stats: the new statistics, in the structure, shapes and dtypes of `Params.stats`.
      metrics: name -> (sum, count), two scalars; sums stay exact when batches are padded or cut
        over devices.
    """

    stats: Tree = dataclasses.field(default_factory=dict)
    metrics: dict[str, tuple[Array, Array]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """One training problem, as pure functions.

    Attributes:
      init: key -> Params. The same key gives the same arrays on every process.
      loss: (trainable, frozen, stats, batch, key) -> (mean loss over the global batch, Aux).
      train_data: seed -> a grain data set that never ends and yields this process' slice of every
        batch; its iterator has `get_state` and `set_state`.
      evaluate: (trainable, frozen, stats) -> named results, units in the name.
      optimizer: () -> optax transformation over `trainable` only.
      sharding_rules: ordered (regex, place) pairs over the paths "trainable/...", "frozen/..." and "stats/...", a place
        being a PartitionSpec or `sharding.over_model`; the first pattern that matches a whole path decides. Every
        trainable path must be covered, every pattern must decide something; frozen arrays and
        statistics without a rule are replicated.
      total_steps: number of updates.
      key: seed -> what the keys of all steps are folded from: one key, or a vector of them, one for
        each run of a stack, of which the loss then gets as many.
      batch_ids: batch entries that name the samples; printed when the loss is not finite. They may
        be strings, which stay on the host.
      selected: names of results, the lower the better. The checkpoint of the step at which each was
        lowest is kept beside the newest ones.
      elastic: the batch of a step holds the same samples whatever the number of processes and data
        workers, so that a run may go on with other numbers of them.
      pins: digests of everything the run depends on; stored in every checkpoint and compared when
        it is restored.
    """

    init: Callable[[PRNGKeyArray], Params]
    loss: Callable[[Tree, Tree, Tree, Batch, PRNGKeyArray], tuple[Float[Array, ""], Aux]]
    train_data: Callable[[int], Any]
    evaluate: Callable[[Tree, Tree, Tree], dict[str, float]]
    optimizer: Callable[[], optax.GradientTransformation]
    sharding_rules: Rules
    total_steps: int
    key: Callable[[int], PRNGKeyArray] = jax.random.key
    batch_ids: tuple[str, ...] = ()
    selected: tuple[str, ...] = ()
    elastic: bool = False
    pins: Mapping[str, str] = dataclasses.field(default_factory=dict)
