"""Named random numbers for rendered people and scenes: each a pure function of (text, name, row).

A name has a stream of its own, so one more name changes no other number, and row i is the same whatever the number of rows:
a bigger set begins with the smaller one.
"""

import numpy as np
from jaxtyping import Bool, Float32, Int64

from core_jax.data import rng


class Draws:
    """Random columns of one table.

    Args:
      text: names the table, such as "gaze/person/A:0".
      rows: numbers per column.
    """

    def __init__(self, text: str, rows: int):
        self._text, self._rows = text, rows

    def _words(self, name: str, width: int) -> np.ndarray:
        words = rng.philox_words(f"{self._text}/{name}", self._rows * width)
        return words.reshape(self._rows, width)

    def _unit(self, name: str, width: int) -> np.ndarray:
        return rng.uniform(self._words(name, width))

    def uniform(self, name: str, low: float, high: float) -> Float32[np.ndarray, " N"]:
        """Uniform numbers in [low, high)."""
        return (low + (high - low) * self._unit(name, 1)[:, 0]).astype(np.float32)

    def normal(self, name: str, mean: float, sd: float) -> Float32[np.ndarray, " N"]:
        """Normal numbers, by Box and Muller."""
        radius, turn = self._unit(name, 2).T
        standard = np.sqrt(-2.0 * np.log1p(-radius)) * np.cos(2.0 * np.pi * turn)
        return (mean + sd * standard).astype(np.float32)

    def chance(self, name: str, probability: float) -> Bool[np.ndarray, " N"]:
        """True with a probability."""
        return self._unit(name, 1)[:, 0] < probability

    def integer(self, name: str, low: int, high: int) -> Int64[np.ndarray, " N"]:
        """Whole numbers in low .. high, both included."""
        return low + np.floor((high + 1 - low) * self._unit(name, 1)[:, 0]).astype(np.int64)
