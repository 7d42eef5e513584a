"""What the benchmarks share: timing a call, and rows that are printed as they are measured."""

import statistics
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
    return [min(times) for times in rounds(calls, repeats=repeats, shortest_s=0)]


def rounds(
    calls: Sequence[Callable[[], Any]], *, repeats: int, shortest_s: float
) -> list[list[float]]:
    """Seconds of every call in every round, the calls taking turns; they have been called before.

    Args:
      calls: as `seconds` takes them.
      repeats: rounds.
      shortest_s: a turn repeats its call until this long has passed, and the mean counts: the threads of whoever came
        before have gone to sleep then.

    Returns:
      For each call, `repeats` times.
    """
    times = [[_turn(call, shortest_s) for call in calls] for _ in range(repeats)]
    return [list(column) for column in zip(*times, strict=True)]


def _turn(call: Callable[[], Any], shortest_s: float) -> float:
    start, count, passed = time.perf_counter(), 0, 0.0
    while not count or passed < shortest_s:
        jax.block_until_ready(call())
        count, passed = count + 1, time.perf_counter() - start
    return passed / count


def text(value: float | None, unit: str) -> str:
    """A measured value as rows show it, its unit behind it; nothing for None."""
    if value is None:
        return ""
    digits = {"s": ".4f" if value < 100 else ",.1f", "bytes": ",.1f"}.get(unit, ",.0f")
    return f"{value:{digits}} {unit}"


def ratio_text(ratio: float | None) -> str:
    """How many times better ours is, as rows show it; nothing for None."""
    return "" if ratio is None else f"{ratio:.2f}x"


def spread_text(spread: Sequence[float] | None) -> str:
    """The least and the most ratio of a round, as rows show them behind the ratio; nothing for None."""
    return "" if spread is None else f" ({spread[0]:.2f} to {spread[1]:.2f})"


class Rows:
    """Rows of a benchmark, printed as they come.

    Attributes:
      rows: JSON objects with work, ours, other, unit, ratio; note where one was added; spread, the least and the most
        ratio of a round, where rounds were compared.
    """

    def __init__(self, title: str):
        self.rows: list[dict[str, Any]] = []
        print(title, HEADER, sep="\n", flush=True)

    def add(
        self,
        work: str,
        ours: float,
        other: float | None = None,
        *,
        unit: str = "s",
        spread: Sequence[float] | None = None,
    ) -> None:
        """One comparison; `other` is left out where a row only tells a part.

        Args:
          work: what was done.
          ours: measured, in `unit`.
          other: likewise, of what it is compared with.
          unit: one of `UNITS`. The ratio is above 1 where ours is better.
          spread: the least and the most ratio of a round.
        """
        if other is None:
            ratio = None
        else:
            ratio = other / ours if UNITS[unit] else ours / other
        row: dict[str, Any] = {"work": work, "ours": ours, "other": other}
        row |= {"unit": unit, "ratio": ratio} | ({} if spread is None else {"spread": [*spread]})
        self.rows.append(row)
        line = f"{work:<66} {text(ours, unit):>14} {text(other, unit):>14} {ratio_text(ratio):>8}"
        print(f"{line}{spread_text(spread)}".rstrip(), flush=True)

    def add_rounds(
        self, work: str, ours: Sequence[float], other: Sequence[float] | None = None
    ) -> None:
        """One comparison of seconds from `rounds`: the medians, and the ratios of the rounds as spread."""
        if other is None:
            self.add(work, statistics.median(ours))
            return
        ratios = [theirs / own for own, theirs in zip(ours, other, strict=True)]
        spread = min(ratios), max(ratios)
        self.add(work, statistics.median(ours), statistics.median(other), spread=spread)

    def note(self, note: str) -> None:
        """A sentence that belongs to the last row."""
        self.rows[-1]["note"] = note
        print(f"  {note}", flush=True)
