"""How far a long job is: a bar in a terminal, a plain line every ten seconds elsewhere."""

import sys
import time
from typing import Self

_SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """Counts units of work on standard error, with their rate and the time left; a context manager."""

    def __init__(self, total: int, unit: str, name: str, *, show: bool = True):
        self._total, self._unit, self._name = total, unit, name
        self._done, self._start, self._bar = 0, time.monotonic(), None
        self._lines = show and total > 0 and not sys.stderr.isatty()
        self._last = self._start
        if show and total > 0 and not self._lines:
            import tqdm

            self._bar = tqdm.tqdm(total=total, unit=f" {unit}", desc=name, dynamic_ncols=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._lines and self._done:
            self._print()

    def advance(self, count: int) -> None:
        """Reports that `count` more units are done."""
        self._done += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._lines and time.monotonic() - self._last >= _SECONDS_BETWEEN_LINES:
            self._print()

    def _print(self) -> None:
        self._last = time.monotonic()
        rate = self._done / max(1e-9, self._last - self._start)
        left = (self._total - self._done) / max(1e-9, rate)
        print(
            f"{self._name}: {self._done:,} / {self._total:,} {self._unit}, {rate:,.0f} {self._unit}/s, "
            f"{left:,.0f} s left",
            file=sys.stderr,
            flush=True,
        )
