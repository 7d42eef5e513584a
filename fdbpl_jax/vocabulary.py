"""Distillation without class names: a large dictionary in their place, of which each batch takes the likeliest words.

KDPL's class-agnostic form (arXiv 2407.03056, section 3.3; there about 20,000 words and K = 1000): the teacher judges a batch
by all V words, the K with the largest mean probability become the classes of this step, and the loss compares teacher and
student on those, each with a softmax over K.

Which words these are changes with every step, while shapes may not. A plan for K chosen sentences is static all the same:
sorted by length, the i-th shortest of any K sentences is no longer than the (V - K + i)-th shortest of all.

Shapes: B regions, V words, K chosen classes, L tokens.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from fdbpl_jax import losses, text
from fdbpl_jax.prompts import Layout


class VocabularyError(ValueError):
    """A dictionary that cannot be used."""


@dataclasses.dataclass(frozen=True, eq=False)
class Dictionary:
    """The sentences of all words, and room for K of them.

    Attributes:
      whole: the plan of all words: how sentences are computed, and what they share.
      ids: token ids, behind the prefix in mode "prefix".
      slots: which context vector stands here, -1 for a token.
      end: position of the end token within `ids`.
      sizes: (number of sentences, tokens) of each bucket that chosen sentences go to, shortest first.
    """

    whole: text.Plan
    ids: Int[np.ndarray, "V L"]
    slots: Int[np.ndarray, "V L"]
    end: Int[np.ndarray, "V"]
    sizes: tuple[tuple[int, int], ...]

    @property
    def count(self) -> int:
        """K, the number of classes of a step."""
        return sum(rows for rows, _ in self.sizes)


def dictionary(layout: Layout, whole: text.Plan, *, count: int) -> Dictionary:
    """Lay out the words of a dictionary so that any K of them fit.

    Args:
      layout: the sentences of all words.
      whole: `text.plan` of it.
      count: K.

    Raises:
      VocabularyError: K is not between 2 and V.
    """
    words = len(layout.ids)
    if not 2 <= count <= words:
        raise VocabularyError(
            f"{count} classes a batch from a dictionary of {words} words: expected 2 to {words}"
        )
    if whole.mode != "prefix":
        (only,) = whole.buckets
        ids, slots, end = only.ids, only.slots, only.end
        return Dictionary(whole, ids, slots, end, ((count, ids.shape[1]),))
    ids, slots = (table[:, layout.front :] for table in (layout.ids, layout.slots))
    end = layout.end - layout.front
    longest = np.sort(end + 1)[words - count :]
    sizes = text.split_lengths(longest)
    behind = np.searchsorted(longest, sizes, side="right")
    rows = np.diff(behind, prepend=0)
    pairs = tuple((int(n), int(size)) for n, size in zip(rows, sizes, strict=True))
    return Dictionary(whole, ids, slots, end, pairs)


def plan(words: Dictionary, chosen: Int[Array, "K"]) -> tuple[Int[Array, "K"], text.Plan]:
    """The plan of the chosen words, for `text.class_features`; traced, with static shapes.

    Args:
      words: the dictionary.
      chosen: which words, from `top_classes`.

    Returns:
      (the chosen words, shortest sentence first: the order of the features; the plan).
    """
    end = jnp.asarray(words.end)
    chosen = jnp.take(chosen, jnp.argsort(jnp.take(end, chosen), stable=True))
    buckets, low = [], 0
    for rows, size in words.sizes:
        part = chosen[low : low + rows]
        ids, slots = (
            jnp.take(jnp.asarray(table), part, axis=0)[:, :size]
            for table in (words.ids, words.slots)
        )
        places = np.arange(low, low + rows, dtype=np.int32)
        buckets.append(text.Bucket(places, ids, slots, jnp.take(end, part)))
        low += rows
    order = np.arange(low, dtype=np.int32)
    return chosen, dataclasses.replace(words.whole, buckets=tuple(buckets), order=order)


def log_probabilities(labels: losses.SoftLabels, classes: int) -> Float[Array, "B V"]:
    """The teacher's log-probability of every word.

    Args:
      labels: of all V words: dense, or truncated to the largest; what is missing is then shared evenly.
      classes: V.
    """
    logp = labels.logp.astype(jnp.float32)
    if labels.index is None:
        return jax.nn.log_softmax(logp)
    others = classes - labels.index.shape[-1]
    if others == 0:
        found, rest = jax.nn.log_softmax(logp), jnp.zeros(len(logp), jnp.float32)
    else:
        assert labels.rest is not None
        found, rest = losses.spread(logp, labels.rest.astype(jnp.float32), others)
    rows = jnp.arange(len(logp))[:, None]
    every = jnp.broadcast_to(rest[:, None], (len(logp), classes))
    return every.at[rows, labels.index].set(found)


def top_classes(
    logp: Float[Array, "B V"], mask: Float[Array, "B"], *, count: int
) -> Int[Array, "K"]:
    """The K words that are likeliest for a batch: those with the largest mean probability over its real regions.

    Under a mesh B is the global batch. Where labels are truncated, words that no region stores are all alike.

    Args:
      logp: from `log_probabilities`.
      mask: 1 for real regions, 0 for padding.
      count: K.

    Returns:
      Indices, the likeliest first; ties go to the lower index.
    """
    total = jnp.sum(mask[:, None] * jnp.exp(logp), axis=0)
    return jax.lax.top_k(total, count)[1].astype(jnp.int32)


def restricted(logp: Float[Array, "B V"], chosen: Int[Array, "K"]) -> losses.SoftLabels:
    """The teacher's labels when there are the chosen words alone: a softmax, and an entropy, over K.

    Args:
      logp: from `log_probabilities`.
      chosen: in the order of the student's features, from `plan`.
    """
    return losses.dense_labels(jnp.take(logp, chosen, axis=1))
