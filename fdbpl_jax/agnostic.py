"""Learning without class names: each batch is described by the names of a dictionary that are likeliest in it.

KDPL's class-agnostic loss (arXiv 2407.03056). The teacher's softmax over all V names of a dictionary is averaged over the
batch; the K names of largest mean are kept. Teacher and student are compared on these alone, each with a softmax of its own
over them, so the student's text tower runs K sentences a step and not V. Shapes: B regions, V names, K kept ones.

With a lookup the teacher's k stored names of each region stand for its softmax. Mass that was not stored is spread evenly over
the other V - k names, as in `losses.label_kls`; what of it falls on the K kept ones stays, and the labels are normalised again.

Which names are kept changes with every step, while shapes may not. A plan for K sentences is static all the same: sorted by
length, the i-th shortest of any K sentences is no longer than the (V - K + i)-th shortest of all.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from core_jax.train import Aux
from fdbpl_jax import data, losses, objective, text
from fdbpl_jax.inputs import Inputs

# Of the logarithm of a probability that is none.
_NEVER = -1e4
# Frozen arrays that have a row for every name.
_BY_NAME = ("classes", "template")


def loss(
    inputs: Inputs, trainable: dict, frozen: dict, stats: dict, batch: Any, key: PRNGKeyArray
) -> tuple[Float[Array, ""], Aux]:
    """`objective.loss` on the names that are likeliest in the batch; arguments and result as there."""
    batch = dict(batch)
    if "lookup" in frozen:
        batch |= data.gather(frozen["lookup"], batch["row"], batch["region"])
    config, names = inputs.config, len(inputs.train.classes)
    labels = objective.teacher_labels(inputs, frozen, batch)
    chosen = likeliest(labels, batch["mask"], names=names, top=config.data.dictionary_top)
    plans = dict(inputs.plans)
    if "train" in plans:
        chosen, plans["train"] = narrow(plans["train"], chosen)
    kept = restrict(labels, chosen, names=names, recover=config.loss.recover)
    batch = {name: value for name, value in batch.items() if name not in ("index", "rest")}
    batch |= {"logp": kept.logp, "entropy": kept.entropy}
    # A label among the kept names counts within them; others are no name's.
    among = batch["label"][:, None] == chosen[None, :]
    batch["label"] = jnp.where(jnp.any(among, axis=1), jnp.argmax(among, axis=1), -1)
    held = {
        name: jnp.take(value, chosen, axis=0) if name in _BY_NAME else value
        for name, value in frozen.items()
        if name not in ("lookup", "teacher")
    }
    # The labels are made: what follows reads them like those of a dense lookup.
    inputs = dataclasses.replace(inputs, teacher=None, plans=plans)
    return objective.loss(inputs, trainable, held, stats, batch, key)


def likeliest(
    labels: losses.SoftLabels, mask: Float[Array, "B"], *, names: int, top: int
) -> Int[Array, "K"]:
    """The names whose probability, averaged over the real regions, is largest, in descending order.

    Args:
      labels: dense or truncated labels over all names.
      mask: 1 for real regions, 0 for padding.
      names: V.
      top: how many to keep; all of them where there are fewer.

    Returns:
      Their numbers; ties go to the lower one.
    """
    shares = mask[:, None] * jnp.exp(labels.logp.astype(jnp.float32))
    if labels.index is None:
        total = jnp.sum(shares, axis=0)
    else:
        total = jnp.zeros(names, jnp.float32).at[labels.index.reshape(-1)].add(shares.reshape(-1))
    return jax.lax.top_k(jax.lax.stop_gradient(total), min(top, names))[1]


def restrict(
    labels: losses.SoftLabels, chosen: Int[Array, "K"], *, names: int, recover: str = "spread"
) -> losses.SoftLabels:
    """Labels over all names as dense ones over some of them, normalised over these.

    Args:
      labels: dense or truncated.
      chosen: numbers of the names to keep.
      names: V.
      recover: as `losses.label_kls` has it, for truncated labels.

    Returns:
      Dense labels in the order of `chosen`, and their entropy, in units of log K: a region whose kept names say nothing
      has an entropy of 1, however sure the teacher is of another name.
    """
    logp = labels.logp.astype(jnp.float32)
    if labels.index is None:
        return losses.dense_labels(jnp.take(logp, chosen, axis=-1))
    others = names - labels.index.shape[-1]
    elsewhere = jnp.full(len(logp), _NEVER, jnp.float32)
    if others and recover == "spread":
        assert labels.rest is not None
        elsewhere = labels.rest.astype(jnp.float32) - math.log(others)
    # B K k comparisons, and no array over all names for any region.
    same = labels.index[:, None, :] == chosen[None, :, None]
    stored = jnp.sum(jnp.where(same, logp[:, None, :], 0.0), axis=-1)
    found = jnp.where(jnp.any(same, axis=-1), stored, elsewhere[:, None])
    return losses.dense_labels(found)


def narrow(plan: text.Plan, chosen: Int[Array, "K"]) -> tuple[Int[Array, "K"], text.Plan]:
    """The plan of some classes of a plan, known only when it runs.

    Args:
      plan: of all classes.
      chosen: numbers of K of them, each once.

    Returns:
      (these numbers, the shortest sentence first; a plan of them in that order, with as many and as long buckets as any K
      sentences need).
    """
    length = max(bucket.ids.shape[1] for bucket in plan.buckets)
    count, order = len(chosen), plan.order

    def table(name: str) -> np.ndarray:
        each = [getattr(bucket, name) for bucket in plan.buckets]
        # Behind the end token, where nothing looks.
        padded = [np.pad(x, ((0, 0), (0, length - x.shape[1])), mode="edge") for x in each]
        return np.concatenate(padded)[order]

    ids, slots = table("ids"), table("slots")
    end = np.concatenate([bucket.end for bucket in plan.buckets])[order]
    longest = np.sort(end + 1)[len(end) - count :]
    sizes = (length,) if plan.mode == "full" else text.split_lengths(longest)
    behind = np.searchsorted(longest, sizes, side="right")
    chosen = jnp.take(chosen, jnp.argsort(jnp.take(jnp.asarray(end), chosen), stable=True))
    buckets = []
    for low, high, size in zip([0, *behind[:-1]], behind, sizes, strict=True):
        rows = chosen[low:high]
        take = lambda x, rows=rows: jnp.take(jnp.asarray(x), rows, axis=0)
        places = np.arange(low, high, dtype=np.int32)
        buckets.append(text.Bucket(places, take(ids[:, :size]), take(slots[:, :size]), take(end)))
    places = np.arange(count, dtype=np.int32)
    return chosen, dataclasses.replace(plan, buckets=tuple(buckets), order=places)
