"""CLIP's tokenizer through the `tokenizers` library, equal to HuggingFace's and without torch or transformers.

A small word-level vocabulary (`word_level`) is enough for models with a small world; there, words outside the vocabulary
are errors rather than a silent "unknown".
"""

import functools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import models, normalizers, pre_tokenizers, processors

from core_jax.clip.config import TextConfig
from core_jax.clip.tokenizer_files import Opened, TokenizerError, open_folder

# Id 2 is not the end token: HuggingFace reads `eos_token_id` 2 as the rule of OpenAI's first exports.
_WORD_SPECIALS = ("<pad>", "<start>", "<unknown>", "<end>")


class Tokenizer:
    """The tokenizer in a model's folder; files are opened on first use."""

    def __init__(self, folder: str | os.PathLike, text: TextConfig | None = None):
        """`text` (the model's) gives the default context length, and ids are checked against it."""
        self.folder = pathlib.Path(folder)
        self._text = text

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.folder)!r})"

    @property
    def start(self) -> int:
        """Id of the token before each sentence."""
        return self._opened.start

    @property
    def eos(self) -> int:
        """Id of the token behind each sentence, where the text tower reads its feature."""
        return self._opened.eos

    @property
    def pad(self) -> int:
        """Id that fills the rest of a row."""
        return self._opened.pad

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without start and end tokens.

        Raises:
          TokenizerError: a word is not in a word-level vocabulary.
        """
        return self._encode([text])[0]

    def word(self, id_: int) -> str:
        """The vocabulary entry of an id, for people to read: the mark at a word's end removed, "#7" where none exists."""
        entry = self._opened.backend.id_to_token(id_)
        return f"#{id_}" if entry is None else entry.removesuffix("</w>")

    def __call__(
        self, texts: str | Sequence[str], context_length: int | None = None
    ) -> Int[np.ndarray, "n L"]:
        """Rows of start token, text, end token and padding.

        Args:
          texts: one text or several.
          context_length: L; the model's when not given, 77 without a model.

        Returns:
          int32 ids.

        Raises:
          TokenizerError: texts do not fit into L tokens, hold unknown words, or give ids that the model does not have;
            each message lists all of them.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if context_length is None:
            context_length = self._text.context_length if self._text else 77
        rows = [[self.start, *ids, self.eos] for ids in self._encode(texts)]
        long = [f"{len(r)} tokens: {t!r}" for t, r in zip(texts, rows) if len(r) > context_length]
        if long:
            raise TokenizerError(
                f"{len(long)} of {len(texts)} texts are longer than the {context_length} tokens of the context, start and "
                "end token included; shorten them:\n  " + "\n  ".join(long)
            )
        out = np.full((len(rows), context_length), self.pad, np.int32)
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        return out

    def _encode(self, texts: list[str]) -> list[list[int]]:
        wrong = [repr(text) for text in texts if not isinstance(text, str)]
        if wrong:
            raise TokenizerError(f"texts must be str, got {', '.join(wrong)}")
        backend = self._opened.backend
        # One by one: a batch would start threads, and data loaders fork.
        encoded = [backend.encode(text, add_special_tokens=False) for text in texts]
        if isinstance(backend.model, models.WordLevel):
            self._check_known(texts, encoded)
        return [one.ids for one in encoded]

    def _check_known(self, texts: list[str], encoded: list[tokenizers.Encoding]) -> None:
        backend = self._opened.backend
        unknown = backend.token_to_id(backend.model.unk_token)
        problems = [
            f"{text[begin:end]!r} in {text!r}"
            for text, one in zip(texts, encoded)
            for id_, (begin, end) in zip(one.ids, one.offsets)
            if id_ == unknown
        ]
        if problems:
            raise TokenizerError(
                f"words that the vocabulary of {self.folder} ({backend.get_vocab_size()} words) does not hold; use others, or "
                "a model with a larger vocabulary:\n  " + "\n  ".join(problems)
            )

    @functools.cached_property
    def _opened(self) -> Opened:
        opened = open_folder(self.folder)
        if self._text is None:
            return opened
        largest = max(opened.start, opened.eos, opened.pad, *opened.backend.get_vocab().values())
        problems = []
        if largest >= self._text.vocab_size:
            problems.append(
                f"its largest id is {largest}, but the text tower has {self._text.vocab_size} token embeddings"
            )
        # 2 stands for the rule of OpenAI's first exports: the largest id of a sentence ends it.
        if self._text.eos_token_id not in (2, opened.eos):
            problems.append(
                f"it ends texts with id {opened.eos}, but config.json says eos_token_id {self._text.eos_token_id}"
            )
        if problems:
            raise TokenizerError(
                f"the tokenizer files of {self.folder} belong to another model: {'; '.join(problems)}"
            )
        return opened


def word_level(words: Sequence[str]) -> bytes:
    """Contents of a `tokenizer.json` whose vocabulary is a list of words.

    Text is lower-cased and split at white space and around punctuation. Ids: 0 padding "<pad>", 1 "<start>", 2
    "<unknown>" (an error when it is met), 3 "<end>", then `words` in their order from 4 on.

    Args:
      words: lower-case words and single punctuation marks, each once.

    Raises:
      TokenizerError: words that text could never be split into, or that occur twice; all are listed.
    """
    normalizer = normalizers.Lowercase()
    splitter = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    problems = []
    for i, word in enumerate(words):
        pieces = [p for p, _ in splitter.pre_tokenize_str(normalizer.normalize_str(word))]
        if pieces != [word]:
            problems.append(f"{word!r} is read as {pieces}")
        elif word in words[:i]:
            problems.append(f"{word!r} occurs twice")
    if problems:
        raise TokenizerError("words cannot form a vocabulary:\n  " + "\n  ".join(problems))
    vocab = {word: i for i, word in enumerate((*_WORD_SPECIALS, *words))}
    pad, start, unknown, end = _WORD_SPECIALS
    backend = tokenizers.Tokenizer(models.WordLevel(vocab, unk_token=unknown))
    backend.normalizer = normalizer
    backend.pre_tokenizer = splitter
    backend.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, vocab[start]), (end, vocab[end])]
    )
    backend.enable_padding(pad_id=vocab[pad], pad_token=pad)
    return (backend.to_str(pretty=True) + "\n").encode()
