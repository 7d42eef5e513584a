"""Counter-based random numbers keyed by a text: the same words on every machine, in any order, in any process.

A text such as "boxes:0:<digest>" names a stream. Its Philox4x64-10 key is the first 16 bytes of the text's SHA-256,
read as two little-endian 64-bit words; word i of the stream is then a pure function of (text, i).
"""

import hashlib

import numpy as np
from jaxtyping import Float64, Int64, UInt64

# Philox makes its words four at a time: one increment of the counter each.
_BLOCK = 4


def philox_words(text: str, count: int, start: int = 0) -> UInt64[np.ndarray, " count"]:
    """Raw 64-bit words start .. start + count - 1 of the stream named `text`."""
    key = np.frombuffer(hashlib.sha256(text.encode()).digest()[:16], "<u8").astype(np.uint64)
    skip = start % _BLOCK
    generator = np.random.Philox(key=key, counter=start // _BLOCK)
    return generator.random_raw(skip + count)[skip:]


def uniform(words: UInt64[np.ndarray, "..."]) -> Float64[np.ndarray, "..."]:
    """Words as numbers in [0, 1): the upper 53 bits times 2^-53, exact in float64."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def permutation(text: str, n: int) -> Int64[np.ndarray, " n"]:
    """The permutation of 0 .. n - 1 named `text`: a stable argsort of its first n raw words."""
    return np.argsort(philox_words(text, n), kind="stable").astype(np.int64)
