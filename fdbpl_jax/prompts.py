"""The prompt learner: context vectors, and where they stand in each class's sentence.

A prompt is "[SOS] V name . [EOT]" with M learned vectors V in place of words (CoOp, arXiv 2109.01134); FDBPL
(arXiv 2505.18053) learns a positive and a negative V. The layout of all C sentences is static NumPy, made once; the
context is the only array that training touches. Shapes: C classes, L tokens, M context vectors, d token width.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core_jax import clip

POSITIONS = ("end", "middle", "front")
# CoOp's standard deviation for context that starts from no words.
_STD = 0.02


class PromptError(ValueError):
    """A prompt that cannot be built; the message names the classes or words concerned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What is learned and where it stands.

    Attributes:
      context: M, number of context vectors.
      context_init, negative_init: words whose token embeddings start the positive and the negative context, M tokens
        each; empty for normal noise.
      class_token_position: "end" (V name .), "middle" (half of V, name, other half, .) or "front" (name V .).
      class_specific: one context per class instead of one for all.
      text_mode: "auto", or one of text.MODES to force it.
    """

    context: int = 4
    context_init: str = "a photo of a"
    negative_init: str = "a photo of no"
    class_token_position: str = "end"
    class_specific: bool = False
    text_mode: str = "auto"


@dataclasses.dataclass(frozen=True, eq=False)
class Layout:
    """The sentences of C classes, start and end tokens included, padded to the longest.

    Attributes:
      ids: token ids; the start token's id where a context vector stands.
      slots: which context vector stands here, -1 for a token.
      end: position of the first end token.
      front: tokens that all sentences share, [SOS] + V, or 0 where the context does not stand in front.
    """

    ids: Int[np.ndarray, "C L"]
    slots: Int[np.ndarray, "C L"]
    end: Int[np.ndarray, "C"]
    front: int


def plain(name: str) -> str:
    """A class name as it stands in a sentence: underscores become spaces."""
    return " ".join(name.replace("_", " ").split())


def layout(
    names: Sequence[str],
    tokenizer: clip.Tokenizer,
    *,
    context: int,
    position: str = "end",
    context_length: int = 77,
) -> Layout:
    """Place M context vectors and each class name's tokens.

    Args:
      names: C class names.
      tokenizer: of the student.
      context: M.
      position: "end", "middle" or "front".
      context_length: longest sentence the text tower takes.

    Returns:
      Layout; with "end", the ids behind the context are those of "name." tokenised by itself, which are the full
      sentence's.

    Raises:
      PromptError: sentences over the context length, all of them named with their lengths.
    """
    slots = [(0, slot) for slot in range(context)]
    stop = _tokens(tokenizer, ".")
    rows = []
    for name in map(plain, names):
        if position == "end":
            body = [*slots, *_tokens(tokenizer, f"{name}.")]
        elif position == "middle":
            half = context // 2
            body = [*slots[:half], *_tokens(tokenizer, name), *slots[half:], *stop]
        elif position == "front":
            body = [*_tokens(tokenizer, name), *slots, *stop]
        else:
            raise PromptError(
                f"prompt.class_token_position is {position!r}: expected one of {POSITIONS}"
            )
        rows.append([(tokenizer.start, -1), *body, (tokenizer.eos, -1)])
    long = [
        f"{name!r} ({len(row)})"
        for name, row in zip(names, rows, strict=True)
        if len(row) > context_length
    ]
    if long:
        raise PromptError(
            f"prompts of more than {context_length} tokens, for the classes: {', '.join(long)}; shorten these names "
            f"or use fewer than {context} context vectors"
        )
    length = max(map(len, rows))
    table = np.full((len(rows), length, 2), (tokenizer.pad, -1), np.int32)
    for row, tokens in zip(table, rows, strict=True):
        row[: len(tokens)] = tokens
    end = np.array([len(row) - 1 for row in rows], np.int32)
    return Layout(table[..., 0], table[..., 1], end, 1 + context if position == "end" else 0)


def _tokens(tokenizer: clip.Tokenizer, text: str) -> list[tuple[int, int]]:
    return [(token, -1) for token in tokenizer.encode(text)]


def init_context(
    config: PromptConfig, student: clip.Clip, *, classes: int, dual: bool, key: Array
) -> dict[str, Float[Array, "M d"] | Float[Array, "C M d"]]:
    """The trainable context: {"positive"} or {"positive", "negative"}, float32.

    Args:
      config: words or noise, M, shared or per class.
      student: its token embeddings start the context.
      classes: C, used with `class_specific`.
      dual: also make the negative context.
      key: for noise; each context takes its own.

    Raises:
      PromptError: words that are not M tokens; all problems in one message.
    """
    words = {"positive": config.context_init}
    if dual:
        words["negative"] = config.negative_init
    ids = {sign: student.tokenizer.encode(text) for sign, text in words.items() if text.strip()}
    names = {"positive": "prompt.context_init", "negative": "prompt.negative_init"}
    problems = [
        f"{names[sign]}={words[sign]!r} has {len(tokens)} tokens"
        for sign, tokens in ids.items()
        if len(tokens) != config.context
    ]
    if problems:
        raise PromptError(
            f"prompt.context is {config.context}, but {' and '.join(problems)}: set prompt.context to the number of "
            "tokens (both contexts have the same), or leave the words empty for a normal start"
        )
    width = student.config.text.width
    lead = (classes,) if config.class_specific else ()
    context = {}
    for sign, sign_key in zip(words, jax.random.split(key, len(words)), strict=True):
        if sign in ids:
            start = clip.embed_tokens(
                student.params, student.config, jnp.asarray(ids[sign], jnp.int32)
            )
            start = jnp.broadcast_to(start, (*lead, *start.shape))
        else:
            start = _STD * jax.random.normal(sign_key, (*lead, config.context, width))
        context[sign] = start.astype(jnp.float32)
    return context


def nearest_words(
    context: Float[Array, "M d"], student: clip.Clip, *, count: int = 3
) -> list[list[tuple[str, float]]]:
    """The vocabulary words nearest to each learned vector: a glimpse of what a context says.

    Args:
      context: one context, not class-specific.
      student: its token embeddings are searched.
      count: words per vector.

    Returns:
      M lists of (word, Euclidean distance), nearest first, as CoOp prints them.
    """
    table = np.asarray(student.params["text"]["token_embedding"], np.float32)
    learned = np.asarray(context, np.float32)
    square = (table**2).sum(-1)[None, :] - 2 * learned @ table.T + (learned**2).sum(-1)[:, None]
    distance = np.sqrt(np.maximum(square, 0.0))
    nearest = np.argsort(distance, axis=-1, kind="stable")[:, :count]
    return [
        [(student.tokenizer.word(int(i)), float(row[i])) for i in ids]
        for row, ids in zip(distance, nearest, strict=True)
    ]
