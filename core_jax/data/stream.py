"""The order of an endless stream of pictures, and which part of it a process reads.

Position g = 0, 1, 2, ... of the stream reads, for n pictures, picture perm("images:<seed>:<g div n>", n)[g mod n]:
every pass visits each picture once, and the order is a pure function of (seed, g), whoever asks and in which order.
"""

import dataclasses
import functools

import numpy as np

from core_jax.data import rng

# More positions than any run reads: the stream has no end, and grain wants a length.
ENDLESS = 2**40


# A pass keeps one order for all of its positions.
@functools.lru_cache(maxsize=4)
def _order(seed: int, number: int, n: int) -> np.ndarray:
    return rng.permutation(f"images:{seed}:{number}", n).astype(np.int32)


def picture(seed: int, position: int, n: int) -> int:
    """Which of n pictures a position of the stream reads."""
    number, place = divmod(position, n)
    return int(_order(seed, number, n)[place])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Share:
    """Which positions belong to a process: the p-th slice of every step.

    Attributes:
      per_step: positions that all processes together read in a step; a multiple of their number.
      process: p.
      processes: how many there are.
    """

    per_step: int
    process: int
    processes: int

    @property
    def count(self) -> int:
        """Positions of a step that this process reads."""
        return self.per_step // self.processes

    def position(self, index: int) -> int:
        """The position in the stream of the index-th element of this process' own sequence."""
        step, place = divmod(index, self.count)
        return step * self.per_step + self.process * self.count + place
