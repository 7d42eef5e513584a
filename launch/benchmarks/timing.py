"""What the benchmarks share: timing a call, and rows that are printed as they are measured."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

UNITS = {"s": True, "MB": True, "bytes": True, "per s": False}
"""The units of rows, and whether less is better. MB are 2^20 bytes."""

HEADER = f"{'work':<66} {'ours':>14} {'other':>14} {'ratio':>8}"


def seconds(call: Callable[[], Any], *, repeats: int = 3, warm_up: int = 1) -> float:
    """Shortest wall-clock time of a call in seconds; what it returns is waited for.

    Args:
      call: takes nothing and returns arrays (JAX's are blocked on).
      repeats: timed calls.
      warm_up: calls before them, which compile.
    """
    for _ in range(warm_up):
        jax.block_until_ready(call())
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        best = min(best, time.perf_counter() - start)
    return best


def in_turns(calls: Sequence[Callable[[], Any]], *, repeats: int = 3) -> list[float]:
    """Shortest time of each call as `seconds` has it, the calls taking turns: a slow spell of the machine hits all."""
    for call in calls:
        jax.block_until_ready(call())
    rounds = [[seconds(call, repeats=1, warm_up=0) for call in calls] for _ in range(repeats)]
    return [min(times) for times in zip(*rounds, strict=True)]


def text(value: float | None, unit: str) -> str:
    """A measured value as rows show it, its unit behind it; nothing for None."""
    if value is None:
        return ""
    digits = {"s": ".4f" if value < 100 else ",.1f", "bytes": ",.1f"}.get(unit, ",.0f")
    return f"{value:{digits}} {unit}"


def ratio_text(ratio: float | None) -> str:
    """How many times better ours is, as rows show it; nothing for None."""
    return "" if ratio is None else f"{ratio:.2f}x"


class Rows:
    """Rows of a benchmark, printed as they come.

    Attributes:
      rows: JSON objects with work, ours, other, unit, ratio, and note where one was added.
    """

    def __init__(self, title: str):
        self.rows: list[dict[str, Any]] = []
        print(title, HEADER, sep="\n", flush=True)

    def add(self, work: str, ours: float, other: float | None = None, *, unit: str = "s") -> None:
        """One comparison; `other` is left out where a row only tells a part.

        Args:
          work: what was done.
          ours: measured, in `unit`.
          other: likewise, of what it is compared with.
          unit: one of `UNITS`. The ratio is above 1 where ours is better.
        """
        if other is None:
            ratio = None
        else:
            ratio = other / ours if UNITS[unit] else ours / other
        row = {"work": work, "ours": ours, "other": other, "unit": unit, "ratio": ratio}
        self.rows.append(row)
        line = f"{work:<66} {text(ours, unit):>14} {text(other, unit):>14} {ratio_text(ratio):>8}"
        print(line.rstrip(), flush=True)

    def note(self, note: str) -> None:
        """A sentence that belongs to the last row."""
        self.rows[-1]["note"] = note
        print(f"  {note}", flush=True)
