"""A jax.profiler trace of some steps of a run, to be looked at with TensorBoard or xprof."""

import contextlib
import pathlib

import jax


def check(steps: tuple[int, int] | None, total: int) -> None:
    """Refuse to trace steps that a run does not have.

    Raises:
      ValueError: the last one lies beyond `total`.
    """
    if steps is not None and steps[1] > total:
        raise ValueError(
            f"profile={steps[0]}:{steps[1]}: the run has {total} steps; expected FIRST:LAST with "
            f"1 <= FIRST <= LAST <= {total}"
        )


class Trace:
    """The trace of the steps `first` to `last`, both counted from 1 and included.

    With several processes each has a folder of its own, process-0 and so on: those on one machine would otherwise write
    to the same file.

    Args:
      folder: receives plugins/profile/..., as TensorBoard looks for it.
      steps: (first, last), or None for no trace.
      start: steps done by an earlier start of the run; they cannot be traced any more.

    Attributes:
      problems: lines that say what will be missing.
    """

    def __init__(self, folder: pathlib.Path, steps: tuple[int, int] | None, start: int):
        several = jax.process_count() > 1
        self._folder = folder / f"process-{jax.process_index()}" if several else folder
        self._running, self.problems = False, []
        first, self._last = steps or (0, 0)
        self._first = max(first, start + 1)
        if first != self._first and steps is not None:
            left = (
                f"steps {self._first} to {self._last} are" if self._last > start else "nothing is"
            )
            self.problems.append(
                f"profile={first}:{self._last}: the run goes on after step {start}, so {left} traced"
            )

    def begins(self, step: int) -> bool:
        """Whether this is the first step to trace."""
        return step == self._first <= self._last

    def start(self) -> None:
        """Begin; what is dispatched from now on is part of it."""
        jax.profiler.start_trace(self._folder)
        self._running = True

    def step(self, number: int) -> contextlib.AbstractContextManager:
        """Around the dispatch of a step: names it in the trace."""
        if not self._running:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation("train", step_num=number)

    def ends(self, step: int) -> bool:
        """Whether this is the last step to trace."""
        return self._running and step == self._last

    def stop(self) -> None:
        """Write what was traced, if a trace is running."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
