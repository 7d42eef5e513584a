"""The words of a task: classes with synonyms, their text rows in buckets of fixed size, and logits of rows as logits of classes.

A class is written "name, synonym, ..."; every word is a row of its own, and a class scores what its best word scores. Row and class counts
are padded to `bucket_size` with masks, so that another vocabulary in the same buckets runs the compiled program.

Shapes: V rows (padded), C classes (padded), D embedding width.
"""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int32

BUCKETS = (32, 64, 128, 256, 512, 1024, 1536)
_STEP = 512


class VocabularyError(ValueError):
    """Classes that cannot be told apart or are none; the message names all of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Vocabulary:
    """Classes and their words; made by `build`.

    Attributes:
      classes: first word of each class, to show to people.
      rows: every word, class by class: the strings that get a text embedding.
      class_of_row: which class a word belongs to, ascending.
      is_thing: whether a class is countable: its segments are told apart, those of other classes merged.
    """

    classes: tuple[str, ...]
    rows: tuple[str, ...]
    class_of_row: Int32[np.ndarray, "V"]
    is_thing: Bool[np.ndarray, "C"]

    @functools.cached_property
    def synonyms(self) -> tuple[tuple[str, ...], ...]:
        """The words of each class."""
        found: list[list[str]] = [[] for _ in self.classes]
        for word, index in zip(self.rows, self.class_of_row.tolist(), strict=True):
            found[index].append(word)
        return tuple(tuple(words) for words in found)

    def overlap(self, training: "Vocabulary") -> Bool[np.ndarray, "C"]:
        """Which classes share a word with the vocabulary a model was trained on (case and spaces do not count)."""
        known = {normalise(word) for word in training.rows}
        return np.asarray([any(normalise(w) in known for w in words) for words in self.synonyms])


class TextRows(NamedTuple):
    """A vocabulary's text embeddings, padded to buckets: a pytree of arrays, nothing static.

    Attributes:
      rows: unit text features; zero where padded.
      row_mask: False for padded rows.
      class_of_row: ascending; padded rows count to the last (padded) class and are masked.
      class_mask: False for padded classes.
    """

    rows: Float[Array, "V D"]
    row_mask: Bool[Array, "V"]
    class_of_row: Int32[Array, "V"]
    class_mask: Bool[Array, "C"]


def normalise(word: str) -> str:
    """A word as it is compared and embedded: lower case, single spaces."""
    return " ".join(word.lower().split())


def build(classes: Sequence[str], is_thing: Iterable[bool] | None = None) -> Vocabulary:
    """The vocabulary of a list of classes.

    Args:
      classes: "name" or "name, synonym, ..." each, in label order.
      is_thing: a flag a class; all False when not given, for without it nobody knows what can be counted.

    Raises:
      VocabularyError: no classes, blank names or synonyms, words that occur more than once, or another number of flags; all
        in one message.
    """
    if isinstance(classes, str):
        raise VocabularyError(
            f"classes is the single text {classes!r}: expected a list of class names"
        )
    words = [[" ".join(word.split()) for word in text.split(",")] for text in classes]
    flags = [False] * len(words) if is_thing is None else [bool(flag) for flag in is_thing]
    problems = [] if words else ["there are no classes: expected at least one name"]
    problems += [
        f"class {i} ({text!r}) has a blank name or synonym"
        for i, text in enumerate(classes)
        if not all(words[i])
    ]
    places: dict[str, list[int]] = collections.defaultdict(list)
    for i, names in enumerate(words):
        for name in filter(None, names):
            places[normalise(name)].append(i)
    problems += [
        f"the word {word!r} occurs {len(found)} times, in class {', '.join(map(str, found))}"
        for word, found in places.items()
        if len(found) > 1
    ]
    if len(flags) != len(words):
        problems.append(f"{len(flags)} is_thing flags for {len(words)} classes")
    if problems:
        raise VocabularyError("this is no vocabulary:\n  " + "\n  ".join(problems))
    return Vocabulary(
        classes=tuple(names[0] for names in words),
        rows=tuple(name for names in words for name in names),
        class_of_row=np.repeat(np.arange(len(words)), [len(n) for n in words]).astype(np.int32),
        is_thing=np.asarray(flags, bool),
    )


def bucket_size(count: int) -> int:
    """The padded size of `count` rows or classes: 32, 64, 128, 256, 512, 1024, 1536, then multiples of 512.

    Raises:
      ValueError: the count is not positive.
    """
    if count < 1:
        raise ValueError(f"a bucket for {count} rows: expected at least one")
    return next((size for size in BUCKETS if count <= size), -(-count // _STEP) * _STEP)


def pad(vocabulary: Vocabulary, features: Float[np.ndarray, "v D"]) -> TextRows:
    """Puts a vocabulary's unit text features into their buckets.

    Args:
      vocabulary: v words.
      features: their embeddings, in the order of `vocabulary.rows`.

    Raises:
      ValueError: another number of features than of words.
    """
    count, classes = len(vocabulary.rows), len(vocabulary.classes)
    if features.ndim != 2 or features.shape[0] != count:
        raise ValueError(
            f"text features of shape {features.shape} for {count} words: expected ({count}, D)"
        )
    size, class_size = bucket_size(count), bucket_size(classes)
    rows = np.zeros((size, features.shape[1]), np.float32)
    rows[:count] = features
    # The last class keeps the column ascending, which the maximum over rows relies on; the mask keeps it silent.
    class_of_row = np.full(size, class_size - 1, np.int32)
    class_of_row[:count] = vocabulary.class_of_row
    return TextRows(
        rows=jnp.asarray(rows),
        row_mask=jnp.asarray(np.arange(size) < count),
        class_of_row=jnp.asarray(class_of_row),
        class_mask=jnp.asarray(np.arange(class_size) < classes),
    )


def class_logits(row_logits: Float[Array, "... V"], text: TextRows) -> Float[Array, "... C"]:
    """A class's logit is the largest among its rows; -inf for masked classes, so that none ever wins.

    Args:
      row_logits: scores of the padded rows, for example scale * cosine.
      text: what they are scores of.

    Returns:
      Logits of the padded classes, in the dtype of `row_logits`.
    """
    masked = jnp.where(
        jnp.broadcast_to(text.row_mask, row_logits.shape),
        row_logits,
        jnp.asarray(-jnp.inf, row_logits.dtype),
    )
    best = jax.ops.segment_max(
        jnp.moveaxis(masked, -1, 0),
        text.class_of_row,
        num_segments=text.class_mask.shape[0],
        indices_are_sorted=True,
    )
    return jnp.moveaxis(best, 0, -1)
