"""What a run writes beside its checkpoints: configuration, metrics, TensorBoard events, progress.

Only process 0 writes; every process reads.
"""

import errno
import itertools
import json
import math
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from core_jax.data import files

Path = pathlib.Path


# Prefix of the names that `Task.evaluate` returns.
EVALUATION = "eval/"

_LONGEST_WAIT_S = 24 * 3600
_meetings = itertools.count()


class WorkdirError(ValueError):
    """The work directory holds something that this run must not mix with."""


def check(workdir: Path, config: Mapping[str, Any], *, resume: bool) -> None:
    """Refuse a work directory that holds something else; nothing is written.

    Args:
      workdir: may be missing.
      config: the experiment's configuration, JSON-able.
      resume: the directory may hold an earlier part of the same run.

    Raises:
      WorkdirError: it holds a run with another configuration (all differences listed), or a run and
        `resume` is off.
    """
    path = workdir / "config.json"
    if path.exists():
        differences = _differences(json.loads(path.read_text()), _plain(config))
        if differences:
            raise WorkdirError(
                f"{workdir} holds a run with another configuration (there -> now):\n  "
                + "\n  ".join(differences)
                + "\nChoose another workdir, or start with the configuration of that run."
            )
        if not resume:
            raise WorkdirError(
                f"{workdir} already holds a run with this configuration. Pass --resume (resume=True) "
                "to go on with it, choose another workdir, or delete it."
            )
    elif (workdir / "checkpoints").exists():
        raise WorkdirError(
            f"{workdir} has checkpoints but no config.json, so nobody can tell what they belong to. "
            "Choose another workdir, or delete it."
        )


def claim(workdir: Path, config: Mapping[str, Any]) -> None:
    """Make the work directory and write its config.json, once every process has passed `check`."""
    if jax.process_count() > 1:
        _meet("claim workdir")
    path = workdir / "config.json"
    if jax.process_index() == 0 and not path.exists():
        files.atomic_write(path, json.dumps(_plain(config), indent=2, sort_keys=True) + "\n")


def _meet(name: str) -> None:
    """Return when every process has come here, however late: the last one may have read and compiled for long.

    The first collective on CPUs gives up when one comes half a minute after another. The coordinator waits, and ends the wait
    when a process is gone.
    """
    # JAX has no public door to it; Orbax goes through this one as well.
    from jax._src import distributed

    client: Any = distributed.global_state.client
    client.wait_at_barrier(f"{name}/{next(_meetings)}", 1000 * _LONGEST_WAIT_S)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(files.canonical_json(dict(config)))


def _differences(there: Any, now: Any, path: str = "") -> list[str]:
    if isinstance(there, dict) and isinstance(now, dict):
        return [
            line
            for key in sorted(there.keys() | now.keys())
            for line in _differences(
                there.get(key, "(absent)"),
                now.get(key, "(absent)"),
                f"{path}.{key}" if path else key,
            )
        ]
    return [] if there == now else [f"{path}: {there!r} -> {now!r}"]


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a JSONL file, without the half line that a killed process leaves."""
    if not path.exists():
        return []
    lines = path.read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines]


def lowest(
    path: Path, names: Sequence[str], last: float = math.inf
) -> dict[str, tuple[float, int]]:
    """The lowest values of evaluation results up to a step, and where they were first met.

    Args:
      path: metrics.jsonl.
      names: as the task gives them; those never met are left out.
      last: lines of later steps are not looked at.
    """
    found: dict[str, tuple[float, int]] = {}
    for line in read_jsonl(path):
        for name in names:
            value = line.get(EVALUATION + name)
            if (
                value is not None
                and line["step"] <= last
                and (name not in found or value < found[name][0])
            ):
                found[name] = (value, line["step"])
    return found


class History:
    """metrics.jsonl, a line per log: {"step": ..., name: value, ...}; what is not finite is null.

    Args:
      path: the file.
      step: lines of later steps are dropped: a run killed after its last checkpoint goes through
        them again.
    """

    def __init__(self, path: Path, *, step: int):
        lines = [line for line in read_jsonl(path) if line["step"] <= step]
        files.atomic_write(path, "".join(_line(line) for line in lines))
        self._path = path
        self._file = open(path, "a")  # noqa: SIM115 - lives as long as the run
        self._full = False

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line.

        Raises:
          DiskFullError: the disk is full; an unfinished line is dropped when the run resumes.
        """
        try:
            self._file.write(_line({"step": step, **values}))
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            self._full = True
            raise files.DiskFullError(
                error.errno,
                f"no space left on the device while writing step {step} to {self._path}. Free some "
                "space and start again with --resume",
            ) from error

    def close(self) -> None:
        """Close the file; the rest of a line that found no space, which `write` has told of, is dropped."""
        try:
            self._file.close()
        except OSError:
            if not self._full:
                raise


def _line(values: Mapping[str, Any]) -> str:
    clean = {
        k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()
    }
    return json.dumps(clean, allow_nan=False) + "\n"


class TensorBoard:
    """Event files for TensorBoard, through tensorboardX.

    Args:
      folder: where the event files go.
      step: events of later steps are marked as purged.
    """

    def __init__(self, folder: Path, *, step: int):
        tensorboardx = _import_tensorboardx()
        self._writer = tensorboardx.SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar per name; what is not finite has no place in a plot and is left out."""
        for name, value in values.items():
            if math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left and close."""
        self._writer.close()


def _import_tensorboardx() -> Any:
    # It imports torch wherever that is installed: seconds and hundreds of megabytes for a writer of
    # scalars.
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import tensorboardX
    finally:
        if hide:
            del sys.modules["torch"]
    return tensorboardX


class Progress:
    """A tqdm bar where standard error is a terminal, else one plain line per log.

    Args:
      total: number of steps.
      start: steps already done.
      shown: print at all.
    """

    def __init__(self, total: int, start: int, *, shown: bool):
        self._total, self._shown, self._bar = total, shown, None
        if shown and sys.stderr.isatty():
            import tqdm

            self._bar = tqdm.tqdm(total=total, initial=start, unit="step", dynamic_ncols=True)

    def advance(self) -> None:
        """One step is done."""
        if self._bar is not None:
            self._bar.update()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Show the newest values."""
        evaluation = any(name.startswith(EVALUATION) for name in values)
        # A term that nothing was counted for has no mean; a loss that is no number has stopped the run before.
        shown = {n: v for n, v in values.items() if evaluation or not math.isnan(v)}
        text = " ".join(f"{name}={value:.4g}" for name, value in shown.items())
        if self._bar is not None and not evaluation:
            self._bar.set_postfix_str(text, refresh=False)
        else:
            self.say(f"step {step}/{self._total} {text}")

    def say(self, text: str) -> None:
        """Show a line, above the bar if there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stderr)
        elif self._shown:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar on the screen."""
        if self._bar is not None:
            self._bar.close()


class Log:
    """All of these as one, on process 0; silent on the others.

    Args:
      workdir: the work directory.
      total: number of steps.
      start: steps already done.
      shown: show progress.
    """

    def __init__(self, workdir: Path, total: int, start: int, *, shown: bool):
        self._path = workdir / "metrics.jsonl"
        self._progress = Progress(total, start, shown=shown and jax.process_index() == 0)
        self._writers: list[Any] = [self._progress]
        if jax.process_index() == 0:
            self._writers += [
                History(self._path, step=start),
                TensorBoard(workdir / "tensorboard", step=start),
            ]

    def advance(self) -> None:
        """One step is done."""
        self._progress.advance()

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values everywhere."""
        for writer in self._writers:
            writer.write(step, values)

    def say(self, text: str) -> None:
        """Show a line that belongs into no file."""
        self._progress.say(text)

    def evaluated(self, step: int) -> bool:
        """Whether the evaluation of this step is on record; the same answer on every process."""
        names = [name for line in read_jsonl(self._path) if line["step"] == step for name in line]
        return any(name.startswith(EVALUATION) for name in names)

    def close(self) -> None:
        """Close all."""
        for writer in self._writers:
            writer.close()
