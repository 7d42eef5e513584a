"""What `launch.compare` and `launch.report` ask of a task; each module of this room answers for one."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import ml_collections

from launch.config import ConfigError

Line = Mapping[str, Any]
"""A line of results.jsonl, with the folder of its run as "run"."""


class Picture(NamedTuple):
    """A figure of a report: the heading above it, its file, the matplotlib figure, a sentence below it."""

    heading: str
    name: str
    figure: Any
    caption: str


class Comparison(Protocol):
    """A module that knows how runs of one task are compared.

    Attributes:
      METHODS: method to what it changes in the common configuration.
      VARIANTS: named changes of a method.
      ABLATION: what `--methods=ablation` stands for.
      DEFAULT: the methods compared unless others are named.
      FIELDS: what each of the task's result lines has.
      KEY: fields that tell the lines of one run apart; of lines that share them the last counts.
    """

    METHODS: dict[str, dict[str, Any]]
    VARIANTS: dict[str, dict[str, Any]]
    ABLATION: tuple[str, ...]
    DEFAULT: tuple[str, ...]
    FIELDS: frozenset[str]
    KEY: tuple[str, ...]

    def changes(
        self,
        base: ml_collections.ConfigDict,
        *,
        seed: int,
        seeds: Sequence[int],
        workdir: Path,
        lookup: str | Path | None,
    ) -> dict[str, Any]:
        """What one of the runs of a comparison changes, beside its method: seeds and folders."""
        ...

    def fitted(self, base: ml_collections.ConfigDict, changes: Mapping[str, Any]) -> dict[str, Any]:
        """All that a run changes, adapted to what the common configuration is about."""
        ...

    def folds(self, config: ml_collections.ConfigDict) -> int:
        """How many folds the protocol of a configuration has; 1 where nothing is cross-validated."""
        ...

    def prepare(self, configs: Sequence[ml_collections.ConfigDict]) -> None:
        """Make what the runs read and what is not there yet."""
        ...

    def score(self, lines: Sequence[Line]) -> str:
        """What came out of a run, in a few words."""
        ...

    def method(self, line: Line) -> str:
        """The method that a result line belongs to."""
        ...

    def tables(self, rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
        """Tables by the file that they are written to, one kind of columns a file, in the order of the report."""
        ...

    def details(self, rows: Sequence[dict[str, Any]]) -> Any:
        """The table of what each row was made with."""
        ...

    def pictures(self, rows: Sequence[dict[str, Any]], drawn: Sequence[Any]) -> list[Picture]:
        """All figures that the results and the runs (`gather.Run`) have data for."""
        ...


def _fdbpl() -> Comparison:
    from launch.comparisons import fdbpl

    return fdbpl


def _gba() -> Comparison:
    from launch.comparisons import gba

    return gba


def _gaze() -> Comparison:
    from launch.comparisons import gaze

    return gaze


COMPARISONS: dict[str, Callable[[], Comparison]] = {"fdbpl": _fdbpl, "gba": _gba, "gaze": _gaze}


def named(task: Any) -> Comparison:
    """The comparison of a task.

    Raises:
      ConfigError: runs of this task are not compared.
    """
    if task not in COMPARISONS:
        raise ConfigError(
            f"config.task={task}: no comparison of such runs; there is one for {', '.join(COMPARISONS)}"
        )
    return COMPARISONS[task]()


def of_line(line: Line) -> Comparison:
    """The comparison of a result line's task; FDBPL's lines, the first there were, do not name theirs."""
    return named(line.get("task", "fdbpl"))


def of(rows: Iterable[Line]) -> Comparison:
    """The comparison that some result lines belong to.

    Raises:
      ValueError: they are of several tasks.
    """
    tasks = sorted({row.get("task", "fdbpl") for row in rows})
    if len(tasks) > 1:
        raise ValueError(
            f"results of several tasks, {', '.join(tasks)}: they share no table; name folders of one of them"
        )
    return named(tasks[0])
