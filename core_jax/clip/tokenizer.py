"""CLIP's tokenizer through the `tokenizers` library, equal to HuggingFace's and without torch or transformers.

A folder holds either `tokenizer.json` (read as it is) or the older `vocab.json` and `merges.txt`, from which CLIP's
byte-pair encoder is put together. A small word-level vocabulary (`word_level`) is enough for models with a small world;
there, words outside the vocabulary are errors rather than a silent "unknown".
"""

import functools
import json
import os
import pathlib
from collections.abc import Sequence

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from core_jax.clip.config import TextConfig

FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
)
_START, _END = "<|startoftext|>", "<|endoftext|>"
# HuggingFace's regular expression: special tokens, English contractions, letters, single digits, anything else.
_PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
)
# Id 2 is not the end token: HuggingFace reads `eos_token_id` 2 as the rule of OpenAI's first exports.
_WORD_SPECIALS = ("<pad>", "<start>", "<unknown>", "<end>")


class TokenizerError(ValueError):
    """Text that cannot be tokenised, or a tokenizer that does not fit its model."""


class Tokenizer:
    """The tokenizer in a model's folder; files are opened on first use.

    Attributes:
      start: id of the token before each sentence.
      eos: id of the token behind it, where the text tower reads its feature.
      pad: id that fills the rest of a row.
    """

    def __init__(self, folder: str | os.PathLike, text: TextConfig | None = None):
        """`text` (the model's) gives the default context length, and ids are checked against it."""
        self.folder = pathlib.Path(folder)
        self._text = text

    def __repr__(self) -> str:
        return f"Tokenizer({str(self.folder)!r})"

    @property
    def start(self) -> int:
        return self._specials[0]

    @property
    def eos(self) -> int:
        return self._specials[1]

    @property
    def pad(self) -> int:
        return self._specials[2]

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without start and end tokens.

        Raises:
          TokenizerError: a word is not in a word-level vocabulary.
        """
        return self._encode([text])[0]

    def __call__(
        self, texts: str | Sequence[str], context_length: int | None = None
    ) -> Int[np.ndarray, "n L"]:
        """Rows of start token, text, end token and padding.

        Args:
          texts: one text or several.
          context_length: L; the model's when not given.

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
                f"{len(long)} texts are longer than the {context_length} tokens (start and end token included) of the "
                "context; shorten them:\n  " + "\n  ".join(long)
            )
        out = np.full((len(rows), context_length), self.pad, np.int32)
        for i, row in enumerate(rows):
            out[i, : len(row)] = row
        self._check_model(out)
        return out

    def _encode(self, texts: list[str]) -> list[list[int]]:
        backend = self._backend
        wrong = [repr(t) for t in texts if not isinstance(t, str)]
        if wrong:
            raise TokenizerError(f"texts must be str, got {', '.join(wrong)}")
        encoded = backend.encode_batch(texts, add_special_tokens=False)
        if isinstance(backend.model, models.WordLevel):
            unknown = backend.token_to_id(backend.model.unk_token)
            problems = [
                f"{text[begin:end]!r} in {text!r}"
                for text, one in zip(texts, encoded)
                for id_, (begin, end) in zip(one.ids, one.offsets)
                if id_ == unknown
            ]
            if problems:
                raise TokenizerError(
                    f"{len(problems)} words are not in the vocabulary of {self.folder} "
                    f"({backend.get_vocab_size()} words):\n  " + "\n  ".join(problems)
                )
        return [one.ids for one in encoded]

    def _check_model(self, ids: np.ndarray) -> None:
        if self._text is None or not ids.size:
            return
        if ids.max() >= self._text.vocab_size:
            raise TokenizerError(
                f"the tokenizer of {self.folder} gives id {ids.max()}, but the text tower has {self._text.vocab_size} "
                "token embeddings: these files belong to another model"
            )
        if self._text.eos_token_id not in (2, self.eos):
            raise TokenizerError(
                f"the tokenizer of {self.folder} ends texts with id {self.eos}, but config.json says eos_token_id "
                f"{self._text.eos_token_id}: these files belong to another model"
            )

    @functools.cached_property
    def _backend(self) -> tokenizers.Tokenizer:
        whole = self.folder / "tokenizer.json"
        vocab, merges = self.folder / "vocab.json", self.folder / "merges.txt"
        if whole.is_file():
            try:
                backend = tokenizers.Tokenizer.from_file(str(whole))
            except Exception as error:  # the library raises nothing narrower
                raise TokenizerError(f"{whole} is not a tokenizer: {error}") from error
        elif vocab.is_file() and merges.is_file():
            backend = _byte_pair(vocab, merges)
        else:
            raise TokenizerError(
                f"{self.folder} has no tokenizer files: text needs tokenizer.json, or vocab.json and merges.txt, from the "
                "same model"
            )
        backend.no_padding()
        backend.no_truncation()
        return backend

    @functools.cached_property
    def _specials(self) -> tuple[int, int, int]:
        """Ids of start, end and padding: named by the configuration files, else by tokenizer.json itself."""
        named: dict[str, str] = {}
        for file in ("special_tokens_map.json", "tokenizer_config.json"):
            if (self.folder / file).is_file():
                content = json.loads((self.folder / file).read_text(encoding="utf-8"))
                for role in ("bos_token", "eos_token", "pad_token"):
                    token = content.get(role)
                    token = token.get("content") if isinstance(token, dict) else token
                    if token is not None:
                        named[role] = token
        around = self._backend.encode("").ids
        if len(around) == 2:
            named.setdefault("bos_token", self._backend.id_to_token(around[0]))
            named.setdefault("eos_token", self._backend.id_to_token(around[1]))
        named.setdefault("bos_token", _START)
        named.setdefault("eos_token", _END)
        padding = self._padding_of_file()
        named.setdefault("pad_token", padding or named["eos_token"])
        ids = {role: self._backend.token_to_id(token) for role, token in named.items()}
        absent = [f"{role} {named[role]!r}" for role, id_ in ids.items() if id_ is None]
        if absent:
            raise TokenizerError(f"{self.folder}: not in the vocabulary: {', '.join(absent)}")
        return ids["bos_token"], ids["eos_token"], ids["pad_token"]

    def _padding_of_file(self) -> str | None:
        whole = self.folder / "tokenizer.json"
        if not whole.is_file():
            return None
        padding = json.loads(whole.read_text(encoding="utf-8")).get("padding")
        return padding["pad_token"] if padding else None


def word_level(words: Sequence[str]) -> bytes:
    """Contents of a `tokenizer.json` whose vocabulary is a list of words.

    Text is lower-cased and split at white space and around punctuation. Ids: 0 padding "<pad>", 1 "<start>", 2 unknown,
    3 "<end>", then `words` in their order.

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


def _byte_pair(vocab: pathlib.Path, merges: pathlib.Path) -> tokenizers.Tokenizer:
    """CLIP's encoder from its two files, component by component as HuggingFace builds it."""
    try:
        model = models.BPE.from_file(
            str(vocab),
            str(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
            unk_token=_END,
        )
    except Exception as error:  # the library raises nothing narrower
        raise TokenizerError(
            f"{vocab} and {merges} are not a byte-pair encoder: {error}"
        ) from error
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    start, end = backend.token_to_id(_START), backend.token_to_id(_END)
    if start is None or end is None:
        raise TokenizerError(f"{vocab} lacks {_START!r} or {_END!r}: it is not a CLIP vocabulary")
    backend.post_processor = processors.RobertaProcessing(
        (_END, end), (_START, start), trim_offsets=False, add_prefix_space=False
    )
    backend.add_special_tokens([_START, _END])
    return backend
