"""What the processes of one job tell each other while they build a lookup, however long they wait for one another.

Their words go through the key-value store of JAX's coordinator. Collectives of the devices would be shorter, but some
of them give up when one process comes an hour after another. A process that is gone ends the wait of the others: JAX
misses its heartbeat and stops them.
"""

import dataclasses
import itertools
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any, Self

import jax
from absl import logging

from core_jax.data import files

Path = pathlib.Path

_LONGEST_PAUSE_S = 1.0
# Network file systems remember for up to a minute that a file was not there.
VISIBLE_WITHIN_S = 90.0

_meetings = itertools.count()


class CrewError(ValueError):
    """Another process of the job failed, or sees other files; the message says which one and why."""


@dataclasses.dataclass(frozen=True)
class Crew:
    """The processes that build together; `Crew(0, 1)` is one that builds alone.

    Attributes:
      process: number of this one.
      processes: how many there are.
    """

    process: int
    processes: int

    @classmethod
    def of_job(cls) -> Self:
        """All processes of the JAX job that this one belongs to."""
        return cls(jax.process_index(), jax.process_count())

    @property
    def leads(self) -> bool:
        """Whether this process does what is done once."""
        return self.process == 0

    def share(self, work: Callable[[], Any]) -> list[Any]:
        """Does some work in every process and returns when all have done it. Every process has to call it.

        Args:
          work: gives a JSON value.

        Returns:
          What it gave in each process, in their order.

        Raises:
          CrewError: it failed in other processes; where it failed itself, its own exception is raised.
        """
        if self.processes == 1:
            return [work()]
        failure, value = None, None
        try:
            value = work()
        except (ValueError, OSError, RuntimeError) as error:
            # The others are let to finish theirs, which may take hours: say it now.
            logging.error("process %d of %d failed: %s", self.process, self.processes, error)
            failure = error
        answers = self._meet([value, None if failure is None else str(failure)])
        if failure is not None:
            raise failure
        failed = [
            f"process {number} of {self.processes} failed: {problem}"
            for number, (_, problem) in enumerate(answers)
            if problem is not None
        ]
        if failed:
            raise CrewError("\n".join(failed))
        return [value for value, _ in answers]

    def _meet(self, value: Any) -> list[Any]:
        client = _store()
        if client is None:
            raise RuntimeError(f"{self.processes} processes, but none of them joined JAX's job")
        folder = f"lookup-build/{next(_meetings)}"
        client.key_value_set(f"{folder}/{self.process}", json.dumps(value))
        pause = 0.01
        while len(found := client.key_value_dir_get(folder)) < self.processes:
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)
        answers = {int(key.rsplit("/", 1)[1]): json.loads(text) for key, text in found}
        return [answers[number] for number in range(self.processes)]


def _store() -> Any:
    # JAX has no public door to its key-value store; Orbax goes through this one as well.
    from jax._src import distributed

    return distributed.global_state.client


def wait(condition: Callable[[], bool], problem: str) -> None:
    """Returns when a condition of the file system holds.

    Raises:
      CrewError: with `problem`, if it does not within `VISIBLE_WITHIN_S`.
    """
    deadline = time.monotonic() + VISIBLE_WITHIN_S
    while not condition():
        if time.monotonic() > deadline:
            raise CrewError(problem)
        time.sleep(_LONGEST_PAUSE_S)


def await_digest(path: Path, sha256: str) -> None:
    """Returns when a file is here as another process wrote it.

    Raises:
      CrewError: it does not come.
    """
    wait(lambda: path.is_file() and files.sha256_file(path) == sha256, unseen(path))


def unseen(path: Path) -> str:
    """The problem of a file that another process wrote and that is not here."""
    return (
        f"{path} is not here as another process of this job wrote it: the folder of a lookup must lie on a file system "
        "that all hosts share"
    )
