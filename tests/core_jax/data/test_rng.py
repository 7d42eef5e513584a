"""Counter-based random numbers against Philox written out in plain Python integers."""

import hashlib

import numpy as np
import pytest

from core_jax.data import rng

MASK = 2**64 - 1


def philox(text: str, count: int) -> list[int]:
    """Philox4x64-10 (Salmon et al. 2011), counters 1, 2, 3, ..., four words each."""
    digest = hashlib.sha256(text.encode()).digest()
    key = [int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:16], "little")]
    words: list[int] = []
    for block in range(1, -(-count // 4) + 1):
        c, k = [block, 0, 0, 0], list(key)
        for _ in range(10):
            low = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            c = [
                (low[1] >> 64) ^ c[1] ^ k[0],
                low[1] & MASK,
                (low[0] >> 64) ^ c[3] ^ k[1],
                low[0] & MASK,
            ]
            k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
        words += c
    return words[:count]


@pytest.mark.parametrize("text", ["", "boxes:0:abc", "images:3:17"])
def test_words_are_philox(text):
    assert rng.philox_words(text, 23).tolist() == philox(text, 23)


@pytest.mark.parametrize("start", [0, 1, 3, 4, 41, 82])
def test_a_later_start_is_a_slice(start):
    whole = rng.philox_words("x", 120)
    np.testing.assert_array_equal(rng.philox_words("x", 20, start), whole[start : start + 20])


def test_uniform_is_the_upper_53_bits():
    words = np.array([0, 2**64 - 1, 2**63, 2**11, 2**11 - 1], np.uint64)
    assert rng.uniform(words).tolist() == [0.0, 1 - 2**-53, 0.5, 2.0**-53, 0.0]


def test_permutation_sorts_the_words():
    words = philox("p", 37)
    assert rng.permutation("p", 37).tolist() == sorted(range(37), key=words.__getitem__)
    assert sorted(rng.permutation("p", 1000)) == list(range(1000))
    assert rng.permutation("p", 0).tolist() == []
