"""Less memory for the same step: a batch in pieces, and values that are computed again instead of kept.

Both change when things are computed and not what. A network runs over a batch piece after piece, only what it says of each
sample is kept, and the loss then sees the whole batch; the backward pass goes through the pieces once more and adds up
their gradients (GradCache, arXiv 2101.06983). So whatever a loss counts or compares within a batch (pairs of samples, all
pictures with all captions, valid pixels) is that of the whole batch, which averaging the losses of pieces would not give.
Shapes: B samples of a batch, N pieces.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray

from core_jax.train.settings import ConfigError
from core_jax.train.task import Batch

# (statistics, batch, key) -> (what the network says of every sample, new statistics)
Network = Callable[[Any, Any, PRNGKeyArray], tuple[Any, Any]]

# What training mostly keeps between the passes: the products of these.
_HEAVY = ("dot_general", "conv_general_dilated")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """What a step does to need less memory.

    Attributes:
      accumulate: N; 1 runs the batch as a whole.
      remat: compute most values again in the backward pass.
    """

    accumulate: int = 1
    remat: bool = False


WHOLE = Memory()
"""Nothing of it."""


def run(network: Network, stats: Any, batch: Batch, *, memory: Memory, key: PRNGKeyArray) -> Any:
    """A network on a batch.

    Sample i belongs to piece i mod N, so that devices that share the batch share every piece, without moving a sample.
    With N > 1 each piece has a key of its own, and statistics go from piece to piece: a network whose samples have
    nothing to do with each other and that draws nothing gives what it gives for N = 1.

    Args:
      network: called with (stats, batch, key) of a piece; its outputs have the batch axis first. What it is
        differentiated by beyond that it may close over.
      stats: what it replaces while it runs; {} for nothing.
      batch: arrays with the batch axis first.
      memory: how.
      key: for N = 1 the network gets this very key.

    Returns:
      (outputs of all samples, in their order; the last statistics).

    Raises:
      ConfigError: N does not divide the batch.
    """
    own = again(network) if memory.remat else network
    count = memory.accumulate
    if count == 1:
        return own(stats, dict(batch), key)
    size = next(iter(batch.values())).shape[0]
    if size % count:
        raise ConfigError(
            f"config.accumulate={count}: a batch of {size} does not divide into as many pieces; choose a divisor of it"
        )

    def piece(stats: Any, args: Any) -> tuple[Any, Any]:
        number, part = args
        outputs, stats = jax.checkpoint(own)(stats, part, jax.random.fold_in(key, number))
        return stats, outputs

    cut = lambda x: jnp.moveaxis(x.reshape(size // count, count, *x.shape[1:]), 1, 0)
    join = lambda x: jnp.moveaxis(x, 0, 1).reshape(size, *x.shape[2:])
    pieces = jnp.arange(count), jax.tree.map(cut, dict(batch))
    stats, outputs = jax.lax.scan(piece, stats, pieces)
    return jax.tree.map(join, outputs), stats


def again(function: Callable) -> Callable:
    """The same function, which keeps little for its backward pass (Chen et al., arXiv 1604.06174).

    Its operations are cut into about as many parts as the root of the number of its matrix products and convolutions, at
    the places where least is alive. What is alive there is kept; the rest of a part is computed once more when its
    gradient is due, for at most one forward pass in all.

    Args:
      function: of arrays and nested containers of arrays; it may close over others.
    """

    def recomputed(*args: Any) -> Any:
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*args)
        jaxpr = closed.jaxpr
        names = [*jaxpr.constvars, *jaxpr.invars]
        values = dict(zip(names, [*closed.consts, *jax.tree.leaves(args)], strict=True))
        for start, stop in _parts(jaxpr):
            _run_part(jaxpr, start, stop, values)
        results = [x.val if _is_literal(x) else values[x] for x in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(shape), results)

    return recomputed


def _run_part(jaxpr: Any, start: int, stop: int, values: dict[Any, Any]) -> None:
    """Evaluate some operations as one whose inner values are not kept; `values` receives what is used later."""
    part, later = jaxpr.eqns[start:stop], jaxpr.eqns[stop:]
    made = {x for eqn in part for x in eqn.outvars}
    needed = _used(part) - made
    given = [x for x in values if x in needed]
    wanted = _used(later) | {x for x in jaxpr.outvars if not _is_literal(x)}
    kept = [x for eqn in part for x in eqn.outvars if x in wanted]
    inside = jaxpr.replace(constvars=[], invars=given, outvars=kept, eqns=part)
    run = jax.checkpoint(lambda *inputs: jax.core.eval_jaxpr(inside, [], *inputs))
    values.update(zip(kept, run(*(values[x] for x in given)), strict=True))


def _parts(jaxpr: Any) -> list[tuple[int, int]]:
    """Where to cut: (first, behind the last) operation of every part."""
    eqns = jaxpr.eqns
    heavy = sum(eqn.primitive.name in _HEAVY for eqn in _all(eqns))
    count = max(1, min(len(eqns), round(math.sqrt(heavy))))
    made = [sum(_bytes(x) for x in eqn.outvars) for eqn in eqns]
    alive = _alive(jaxpr, made)
    total, place, cuts = sum(made), 0, [0]
    behind = 0
    for number in range(1, count):
        # Anywhere within half a part around its even share, where least is alive.
        low, high = ((number + shift) * total / count for shift in (-0.4, 0.4))
        best, least = None, math.inf
        while place < len(eqns) and behind + made[place] <= high:
            behind += made[place]
            if behind >= low and alive[place] < least:
                best, least = place + 1, alive[place]
            place += 1
        if best is not None and cuts[-1] < best < len(eqns):
            cuts.append(best)
    return list(zip(cuts, [*cuts[1:], len(eqns)], strict=True))


def _alive(jaxpr: Any, made: Sequence[int]) -> list[int]:
    """Bytes that exist behind every operation and are used later; inputs do not count, they stay anyway."""
    eqns = jaxpr.eqns
    last = {x: i for i, eqn in enumerate(eqns) for x in eqn.invars if not _is_literal(x)}
    last |= {x: len(eqns) for x in jaxpr.outvars if not _is_literal(x)}
    ending = [0] * (len(eqns) + 1)
    for i, eqn in enumerate(eqns):
        for x in eqn.outvars:
            ending[last.get(x, i)] += _bytes(x)
    alive, sizes = 0, []
    for i in range(len(eqns)):
        alive += made[i] - ending[i]
        sizes.append(alive)
    return sizes


def _all(eqns: Sequence[Any]) -> list[Any]:
    """The operations, and those inside them."""
    found = []
    for eqn in eqns:
        found.append(eqn)
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                jaxpr = getattr(inner, "jaxpr", inner)
                if hasattr(jaxpr, "eqns"):
                    found += _all(jaxpr.eqns)
    return found


def _used(eqns: Sequence[Any]) -> set[Any]:
    return {x for eqn in eqns for x in eqn.invars if not _is_literal(x)}


def _is_literal(x: Any) -> bool:
    return hasattr(x, "val")


def _bytes(x: Any) -> int:
    aval = x.aval
    return math.prod(getattr(aval, "shape", ())) * getattr(
        getattr(aval, "dtype", None), "itemsize", 1
    )
