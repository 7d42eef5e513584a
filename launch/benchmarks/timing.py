"""What the benchmarks share: timing a call, and printing rows as they are measured."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import jax

HEADER = f"{'work':<58} {'ours (s)':>10} {'other (s)':>10} {'ratio':>8}"


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


class Rows:
    """Rows of a benchmark, printed as they come."""

    def __init__(self, title: str):
        self.rows: list[dict[str, Any]] = []
        print(title, HEADER, sep="\n", flush=True)

    def add(self, work: str, ours: float, other: float | None = None) -> None:
        """One comparison, in seconds; `other` is left out where a row only tells a part."""
        ratio = None if other is None else other / ours
        self.rows.append({"work": work, "ours": ours, "other": other, "ratio": ratio})
        tail = f"{'':>10} {'':>8}" if other is None else f"{other:>10.4f} {ratio:>7.2f}x"
        print(f"{work:<58} {ours:>10.4f} {tail}".rstrip(), flush=True)
