"""Text embeddings of words, kept on disk: a new vocabulary encodes only the words that no earlier one had.

A cache is a folder for one text tower, tokenizer and set of templates. `manifest.json` names the three by their digests;
each `words-<digest>.arrayrecord` (with the sidecar of `core_jax.data.records`) holds words that were encoded together. A
record is the word's key, 32 bytes, and its unit embedding, little-endian float32 (D,). The key is the SHA-256 of the
three digests and the word in lower case with single spaces, which is also how the word is encoded.

Shards are only ever added, each atomically and under a name of its own, so several processes may share a folder.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from core_jax import clip
from core_jax.clip import tokenizer_files
from core_jax.data import files, records
from gba_jax.templates import Templates
from gba_jax.vocabulary import normalise

BATCH = 128
MANIFEST = "manifest.json"
_FORMAT = {"format": "text-embeddings", "version": 1}
_KEY_BYTES = 32


class TextCacheError(ValueError):
    """A cache that belongs to something else or cannot be read, or embeddings that are none."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encoder:
    """A text tower with its tokenizer, and the digests that name the two.

    Attributes:
      encode: n sentences to (n, D) features of any norm.
      weights: digest of everything in the tower that the features depend on.
      tokenizer: digest of the tokenizer.
    """

    encode: Callable[[Sequence[str]], Float[np.ndarray, "n D"]]
    weights: str
    tokenizer: str


def clip_encoder(model: clip.Clip) -> Encoder:
    """The text side of a loaded CLIP; its image tower may change without making the cache foreign."""
    weights = clip.weights_digest({"text": model.params["text"]})
    config = dataclasses.asdict(model.config.text)
    folder = model.tokenizer.folder
    parts = {
        name: files.sha256_file(folder / name)
        for name in tokenizer_files.FILES
        if (folder / name).is_file()
    }
    return Encoder(
        encode=lambda texts: clip.zeroshot.text_features(model, texts),
        weights=files.digest([weights, config]),
        tokenizer=files.digest(parts),
    )


def embed(
    words: Sequence[str], *, encoder: Encoder, templates: Templates
) -> Float[np.ndarray, "n D"]:
    """Unit embeddings of words: each in every template, made unit, averaged, made unit again.

    Args:
      words: at least one.
      encoder: called with at most `BATCH` sentences at a time.
      templates: the sentences.

    Returns:
      float32 rows in the order of the words.

    Raises:
      TextCacheError: the encoder returns another shape, or features that are zero or not finite.
    """
    sentences = [line for word in words for line in templates.fill(normalise(word))]
    parts = []
    for first in range(0, len(sentences), BATCH):
        batch = sentences[first : first + BATCH]
        part = np.asarray(encoder.encode(batch), np.float64)
        if part.ndim != 2 or part.shape[0] != len(batch):
            raise TextCacheError(
                f"the encoder returned shape {part.shape} for {len(batch)} sentences: expected ({len(batch)}, D)"
            )
        parts.append(part)
    features = np.concatenate(parts).reshape(len(words), len(templates.lines), -1)
    mean = _unit(features, words).mean(axis=1)
    return _unit(mean, words).astype(np.float32)


def text_rows(
    words: Sequence[str],
    *,
    encoder: Encoder,
    templates: Templates,
    folder: str | os.PathLike | None = None,
) -> Float[np.ndarray, "n D"]:
    """As `embed`, through the cache in `folder` if one is given.

    Raises:
      TextCacheError: see `embed` and `TextCache`.
    """
    if folder is None:
        return embed(words, encoder=encoder, templates=templates)
    return TextCache(folder, encoder=encoder, templates=templates).rows(words)


class TextCache:
    """The embeddings in a folder, read once, and written to whenever a word is new."""

    def __init__(self, folder: str | os.PathLike, *, encoder: Encoder, templates: Templates):
        """Opens a cache or prepares an empty one; nothing is written before the first word.

        Raises:
          TextCacheError: the folder's manifest names other digests (all differences are listed) or cannot be read.
          RecordError: a shard is damaged.
        """
        self._folder, self._encoder, self._templates = pathlib.Path(folder), encoder, templates
        self._identity = {
            **_FORMAT,
            "weights": encoder.weights,
            "tokenizer": encoder.tokenizer,
            "templates": templates.digest,
        }
        self._known: dict[bytes, np.ndarray] = {}
        manifest = self._read_manifest()
        if manifest is not None:
            self._load(manifest["width"])

    def __len__(self) -> int:
        return len(self._known)

    def key(self, word: str) -> bytes:
        """What a word is stored under."""
        identity = [self._identity[name] for name in ("weights", "tokenizer", "templates")]
        return hashlib.sha256(files.canonical_json([*identity, normalise(word)]).encode()).digest()

    def rows(self, words: Sequence[str]) -> Float[np.ndarray, "n D"]:
        """Unit embeddings of words in their order; those not yet in the cache are encoded and added.

        Raises:
          TextCacheError: see `embed`; or the new embeddings have another width than the stored ones.
          DiskFullError: the device is full; what stood in the cache still does.
        """
        keys = [self.key(word) for word in words]
        new = {k: word for k, word in zip(keys, words, strict=True) if k not in self._known}
        if new:
            rows = embed(list(new.values()), encoder=self._encoder, templates=self._templates)
            self._add(list(new), rows)
        return np.stack([self._known[k] for k in keys])

    def _add(self, keys: list[bytes], rows: np.ndarray) -> None:
        width = rows.shape[1]
        stored = {len(row) for row in self._known.values()} - {width}
        if stored:
            raise TextCacheError(
                f"new embeddings are {width} wide, those in {self._folder} {stored.pop()}: the encoder's digests do not "
                "name what it computes; use another folder"
            )
        manifest = {**self._identity, "width": width, "template_lines": self._templates.lines}
        path = self._folder / MANIFEST
        if not path.is_file():
            text = json.dumps(manifest, indent=1, ensure_ascii=False) + "\n"
            files.atomic_write(path, text)
        name = f"words-{hashlib.sha256(b''.join(keys)).hexdigest()[:16]}.arrayrecord"
        payloads = [key + row.astype("<f4").tobytes() for key, row in zip(keys, rows, strict=True)]
        records.write_shard(self._folder / name, payloads, first_row=0)
        self._known.update(zip(keys, rows, strict=True))

    def _read_manifest(self) -> dict | None:
        path = self._folder / MANIFEST
        if not path.is_file():
            return None
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found = {name: manifest.get(name) for name in self._identity}
            width = manifest["width"]
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise TextCacheError(
                f"{path} is no manifest of a text cache ({error!r}); delete the folder, or use another"
            ) from error
        problems = [
            f"{name}: the folder has {found[name]!r}, this run {value!r}"
            for name, value in self._identity.items()
            if found[name] != value
        ]
        if not isinstance(width, int) or width < 1:
            problems.append(f"width: the folder has {width!r}, expected a positive whole number")
        if problems:
            raise TextCacheError(
                f"the text cache {self._folder} was made with other inputs; use another folder, or delete this one:\n  "
                + "\n  ".join(problems)
            )
        return manifest

    def _load(self, width: int) -> None:
        files.remove_leftovers(self._folder)
        shards = [
            shard
            for path in sorted(self._folder.glob("words-*.json"))
            if (shard := records.read_sidecar(path)) is not None
        ]
        problems = [p for s in shards for p in records.problems(self._folder, s, digest=True)]
        for shard in [] if problems else shards:
            for payload in records.Reader(self._folder, [shard]).read_all():
                if len(payload) != _KEY_BYTES + 4 * width:
                    problems.append(f"shard {shard.name} holds records of {len(payload)} bytes")
                    break
                row = np.frombuffer(payload, "<f4", offset=_KEY_BYTES)
                self._known[payload[:_KEY_BYTES]] = row
        if problems:
            raise records.RecordError(
                f"the text cache {self._folder} is damaged; delete these shards and their .json files, the words are "
                "encoded again:\n  " + "\n  ".join(problems)
            )


def _unit(features: np.ndarray, words: Sequence[str]) -> np.ndarray:
    """Rows of norm 1; a word whose features have no direction is an error, naming it and its like."""
    norm = np.linalg.norm(features, axis=-1, keepdims=True)
    bad = ~(np.isfinite(norm) & (norm > 0)).reshape(len(words), -1).all(axis=1)
    if bad.any():
        names = ", ".join(repr(words[i]) for i in np.flatnonzero(bad).tolist())
        raise TextCacheError(
            f"the encoder gives zero or non-finite features for {names}: check its weights"
        )
    return features / norm
