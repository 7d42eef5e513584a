"""Anchors of the language module: unit embeddings of sentences that say how alike two gazes are (arXiv 2502.20128).

They are made once by CLIP's text tower and kept as a record, so that training needs no text tower. Without a CLIP there are
two stand-ins: `ordinal` vectors turn away from each other evenly, as sentences of falling likeness should, and `random` ones
have no order, which shows what the order adds. Shapes: G grades, D width of an embedding.

A record is a JSON file: {"format", "version", "identity": {"name", "weights", "tokenizer", "sentences"}, "vectors": G lists of
D numbers, "digest": SHA-256 of identity and vectors}.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from core_jax.data import files, rng

GRADES = (2, 3, 5)
SENTENCE = "The directions of gaze in the two faces in the photo are {}."
_LIKENESS = {
    2: ("similar", "not similar"),
    3: ("identical", "similar", "not similar"),
    5: ("identical", "highly similar", "moderately similar", "slightly similar", "not similar"),
}
_FORMAT = {"format": "gaze-anchors", "version": 1}
_NOISE = 0.05


class AnchorsError(ValueError):
    """Anchors that cannot be made, or a record that cannot be used."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """A text tower with its tokenizer, and what names the two.

    Attributes:
      encode: n sentences to (n, D) features of any norm.
      name: for people.
      weights: digest of everything in the tower that the features depend on.
      tokenizer: digest of the tokenizer.
    """

    encode: Callable[[Sequence[str]], np.ndarray]
    name: str
    weights: str
    tokenizer: str

    def identity(self, lines: Sequence[str]) -> dict[str, Any]:
        """What the anchors of these sentences depend on."""
        names = {"name": self.name, "weights": self.weights, "tokenizer": self.tokenizer}
        return names | {"sentences": list(lines)}


def sentences(grades: int) -> tuple[str, ...]:
    """The sentence of every grade, the most alike first.

    Raises:
      AnchorsError: a number of grades without sentences.
    """
    if grades not in _LIKENESS:
        raise AnchorsError(f"grades={grades}: expected one of {', '.join(map(str, GRADES))}")
    return tuple(SENTENCE.format(word) for word in _LIKENESS[grades])


def encode(encoder: TextEncoder, lines: Sequence[str]) -> Float32[np.ndarray, "G D"]:
    """Unit embeddings of sentences.

    Raises:
      AnchorsError: features of another shape, zero or not finite, or two sentences with the same.
      TokenizerError: the tokenizer does not know a word.
    """
    features = np.asarray(encoder.encode(list(lines)), np.float64)
    if features.ndim != 2 or len(features) != len(lines):
        raise AnchorsError(
            f"{encoder.name} gave features of shape {features.shape} for {len(lines)} sentences: expected "
            f"({len(lines)}, D)"
        )
    norm = np.linalg.norm(features, axis=1, keepdims=True)
    bad = [line for line, n in zip(lines, norm[:, 0]) if not (np.isfinite(n) and n > 0)]
    if bad:
        raise AnchorsError(f"{encoder.name} gives zero or non-finite features for {bad}")
    vectors = (features / norm).astype(np.float32)
    if len(np.unique(vectors, axis=0)) < len(lines):
        raise AnchorsError(
            f"{encoder.name} gives the same features for different sentences: {list(lines)}"
        )
    return vectors


def open_record(
    path: str | os.PathLike, encoder: TextEncoder | None, lines: Sequence[str]
) -> Float32[np.ndarray, "G D"]:
    """The anchors in a record; made and stored first where there is none.

    Args:
      path: of the JSON file.
      encoder: the text tower; None accepts the record of any tower.
      lines: the sentences.

    Raises:
      AnchorsError: there is no record and no encoder, or a record that is damaged, of other sentences or of another tower.
      DiskFullError: the device is full.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        if encoder is None:
            raise AnchorsError(f"{path} does not exist, and there is no CLIP to make anchors with")
        vectors = encode(encoder, lines)
        body = {"identity": encoder.identity(lines), "vectors": vectors.tolist()}
        text = json.dumps({**_FORMAT, **body, "digest": files.digest(body)}, indent=1)
        files.atomic_write(path, text + "\n")
        return vectors
    identity, vectors = _read(path)
    expected = {"sentences": list(lines)} if encoder is None else encoder.identity(lines)
    problems = [
        f"{name}: the record has {identity.get(name)!r}, this run {value!r}"
        for name, value in expected.items()
        # The same tower may lie in two folders.
        if name != "name" and identity.get(name) != value
    ]
    if problems:
        raise AnchorsError(
            f"the anchors in {path} are others; delete the file, or name another:\n  "
            + "\n  ".join(problems)
        )
    return vectors


def ordinal(grades: int, width: int, *, seed: int = 0) -> Float32[np.ndarray, "G D"]:
    """Unit vectors at angles g pi / (2 (G - 1)) in a random plane, moved by noise of norm .05, made unit again.

    The cosine with the first falls from 1 to about 0: a stand-in for sentences, and results have to say so.

    Args:
      grades: G, at least 2.
      width: D, at least 2.
      seed: of the plane and the noise.
    """
    name = f"anchors:ordinal:{seed}"
    plane, _ = np.linalg.qr(_normal(f"{name}:plane", width, 2))
    angles = np.arange(grades) * np.pi / (2 * (grades - 1))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ plane.T
    noise = _normal(f"{name}:noise", grades, width)
    return _unit(vectors + _NOISE * _unit(noise)).astype(np.float32)


def random(grades: int, width: int, *, seed: int = 0) -> Float32[np.ndarray, "G D"]:
    """Independent random unit vectors."""
    return _unit(_normal(f"anchors:random:{seed}", grades, width)).astype(np.float32)


def _read(path: pathlib.Path) -> tuple[dict[str, Any], np.ndarray]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        body = {name: record[name] for name in ("identity", "vectors")}
        sound = record.get("digest") == files.digest(body)
        sound &= {name: record.get(name) for name in _FORMAT} == _FORMAT
        vectors = np.asarray(body["vectors"], np.float32)
        sound &= vectors.ndim == 2 and isinstance(body["identity"], dict)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AnchorsError(
            f"{path} is no record of anchors ({error!r}); delete it, or name another"
        ) from error
    if not sound:
        raise AnchorsError(
            f"{path} does not match its own digest or format: delete it, it is made again"
        )
    return body["identity"], vectors


def _normal(name: str, *shape: int) -> np.ndarray:
    """Standard normal numbers of a stream, by Box and Muller's transform of its uniform ones."""
    count = int(np.prod(shape))
    first, second = np.split(rng.uniform(rng.philox_words(name, 2 * count)), 2)
    # 1 - u is never 0, whose logarithm is infinite.
    return (np.sqrt(-2 * np.log1p(-first)) * np.cos(2 * np.pi * second)).reshape(shape)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
