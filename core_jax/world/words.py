"""Counter-based random numbers: word (seed, split, index, slot) is an integer hash, the same on every machine.

The generator is SplitMix64 (Steele, Lea and Flood 2014) read at arbitrary counters. Uniforms are the top 53 bits, so no
rounding is involved, and any scene can be drawn without drawing those before it.
"""

import hashlib

import numpy as np
from jaxtyping import Float32, Float64, Int, UInt64

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def stream(seed: int, *names: str) -> int:
    """64-bit key of a named random stream; different names give unrelated streams."""
    text = "/".join(("core_jax.world", str(int(seed)), *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")


def words(key: int, index: Int[np.ndarray, "B"], slots: int) -> UInt64[np.ndarray, "B slots"]:
    """`slots` random 64-bit words for every index of the stream `key`."""
    index = np.asarray(index).astype(np.uint64)
    z = np.full(index.shape, key, np.uint64) + index * _GOLDEN
    # Hash the index first: the slots of two scenes then start at unrelated counters and cannot overlap in practice.
    z = _mix(z)[:, None] + np.arange(1, slots + 1, dtype=np.uint64)[None, :] * _GOLDEN
    return _mix(z)


def uniform(bits: UInt64[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """Uniform numbers in [0, 1) from the top 53 bits of random words."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def pixel_noise(key: UInt64[np.ndarray, "B"], size: int) -> Float32[np.ndarray, "B 3 size size"]:
    """Uniform noise in [-1, 1] for every pixel and channel, 10 bits each out of one 32-bit hash per pixel."""
    pixel = np.arange(size * size, dtype=np.uint32) * np.uint32(0x9E3779B1)
    h = pixel[None, :] + (key >> np.uint64(32)).astype(np.uint32)[:, None]
    h ^= h >> np.uint32(16)
    h *= np.uint32(0x7FEB352D)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0x846CA68B)
    h ^= h >> np.uint32(16)
    out = np.empty((len(key), 3, size * size), np.float32)
    for channel in range(3):
        out[:, channel] = (h >> np.uint32(10 * channel)) & np.uint32(1023)
    out -= np.float32(511.5)
    out *= np.float32(1 / 511.5)
    return out.reshape(len(key), 3, size, size)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))
