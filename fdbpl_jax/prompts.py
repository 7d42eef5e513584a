"""The text prompts: context vectors, and where they stand in each class's sentence.

A prompt is "[SOS] V name . [EOT]" with M learned vectors V in place of words (CoOp, arXiv 2109.01134); FDBPL
(arXiv 2505.18053) learns a positive and a negative V. Deep prompts (MaPLe, arXiv 2210.03117) are further vectors, which
take the place of V's states at the entrance of the blocks behind the first. The layout of all C sentences is static NumPy,
made once; training touches the vectors alone. Shapes: C classes, L tokens, M context vectors, J blocks with vectors of
their own, d token width.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from core_jax import clip

POSITIONS = ("end", "middle", "front")
# Of all learned vectors that start from no words, in CoOp's code and in MaPLe's.
STD = 0.02
# In front of words that are fewer than the vectors: the others, which stand before them, start as zeros.
FEWER = "..."


class PromptError(ValueError):
    """A prompt that cannot be built; the message names the classes or words concerned."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptConfig:
    """What is learned and where it stands.

    Attributes:
      context: M, number of context vectors.
      context_init, negative_init: words whose token embeddings start the positive and the negative context, M tokens
        each; empty for normal noise. "... a photo of a" starts the last vectors from the words and those before them as
        zeros, as ProGrad's code does. Underscores stand for spaces.
      words: fixed words directly in front of the class name. MaPLe learns the first 2 tokens of "a photo of a" alone:
        context=2, context_init="a photo", words="of a".
      depth: J, the number of blocks with vectors of their own: 1 for the context alone; above, deep prompts that start
        from noise.
      class_token_position: "end" (V name .), "middle" (half of V, name, other half, .) or "front" (name V .).
      class_specific: one context per class instead of one for all; deep prompts are shared all the same.
      text_mode: "auto", or one of text.MODES to force it.
    """

    context: int = 4
    context_init: str = "a photo of a"
    negative_init: str = "a photo of no"
    words: str = ""
    depth: int = 1
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
      front: tokens that all sentences share, [SOS] + V + fixed words, or 0 where the context does not stand in front.
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
    words: str = "",
    position: str = "end",
    context_length: int = 77,
) -> Layout:
    """Place M context vectors and each class name's tokens.

    Args:
      names: C class names.
      tokenizer: of the student.
      context: M.
      words: fixed words in front of every class name.
      position: "end", "middle" or "front".
      context_length: longest sentence the text tower takes.

    Returns:
      Layout. The ids are those of "words name." tokenised by itself, which are the full sentence's: a space always
      separates tokens. "middle" and "front" cut them behind the name as CoOp's code does, after as many tokens as
      "words name" has by itself; a full stop that merges with the name's last sign therefore stays at the name.

    Raises:
      PromptError: sentences over the context length, all of them named with their lengths.
    """
    if position not in POSITIONS:
        raise PromptError(
            f"prompt.class_token_position is {position!r}: expected one of {POSITIONS}"
        )
    slots = [(0, slot) for slot in range(context)]
    # How many context vectors stand before the name.
    before = {"end": context, "middle": context // 2, "front": 0}[position]
    fixed = plain(words)
    rows = []
    for name in names:
        phrase = plain(f"{fixed} {name}")
        tokens, cut = _tokens(tokenizer, f"{phrase}."), len(tokenizer.encode(phrase))
        body = [*slots[:before], *tokens[:cut], *slots[before:], *tokens[cut:]]
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
    front = 1 + context + len(tokenizer.encode(fixed)) if position == "end" else 0
    return Layout(table[..., 0], table[..., 1], end, front)


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
      PromptError: words that are not M tokens, or more than M behind "..."; all problems in one message.
    """
    words = {"positive": plain(config.context_init)}
    if dual:
        words["negative"] = plain(config.negative_init)
    ids = {
        sign: student.tokenizer.encode(text.removeprefix(FEWER).strip())
        for sign, text in words.items()
        if text
    }
    names = {"positive": "prompt.context_init", "negative": "prompt.negative_init"}
    problems = [
        f"{names[sign]}={words[sign]!r} has {len(tokens)} tokens"
        for sign, tokens in ids.items()
        if len(tokens) > config.context
        or (len(tokens) < config.context and not words[sign].startswith(FEWER))
    ]
    if problems:
        raise PromptError(
            f"prompt.context is {config.context}, but {' and '.join(problems)}: set prompt.context to the number of "
            "tokens (both contexts have the same), leave the words empty for a normal start, or begin fewer words with "
            f"{FEWER!r} for zeros before them"
        )
    width = student.config.text.width
    lead = (classes,) if config.class_specific else ()
    context = {}
    for sign, sign_key in zip(words, jax.random.split(key, len(words)), strict=True):
        if sign in ids:
            start = clip.embed_tokens(
                student.params, student.config, jnp.asarray(ids[sign], jnp.int32)
            )
            start = jnp.pad(start, ((config.context - len(start), 0), (0, 0)))
            start = jnp.broadcast_to(start, (*lead, *start.shape))
        else:
            start = STD * jax.random.normal(sign_key, (*lead, config.context, width))
        context[sign] = start.astype(jnp.float32)
    return context


def init_deep(
    config: PromptConfig, student: clip.Clip, *, dual: bool, key: Array
) -> dict[str, Float[Array, "J-1 M d"]]:
    """The trainable deep prompts: {"positive"} or {"positive", "negative"}, float32; {} at depth 1.

    Args:
      config: J and M.
      student: its text tower says how wide they are, and how many blocks there are.
      dual: also make the negative ones.
      key: for noise, N(0, 0.02^2); each sign takes its own.

    Raises:
      PromptError: a depth below 1 or above the number of blocks.
    """
    blocks, width = student.config.text.layers, student.config.text.width
    if not 1 <= config.depth <= blocks:
        raise PromptError(
            f"prompt.depth is {config.depth}: expected 1 (the context alone) to {blocks}, the blocks of the student's "
            "text tower"
        )
    if config.depth == 1:
        return {}
    signs = ("positive", "negative") if dual else ("positive",)
    shape = (config.depth - 1, config.context, width)
    keys = jax.random.split(key, len(signs))
    return {
        sign: STD * jax.random.normal(one, shape, jnp.float32)
        for sign, one in zip(signs, keys, strict=True)
    }


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
    nearest = np.argsort(square, axis=-1, kind="stable")[:, :count]
    # The square above is a difference of large numbers: good enough to choose by, not to show.
    distance = np.linalg.norm(learned[:, None] - table[nearest], axis=-1)
    return [
        [(student.tokenizer.word(int(i)), float(d)) for i, d in zip(ids, row, strict=True)]
        for ids, row in zip(nearest, distance, strict=True)
    ]
