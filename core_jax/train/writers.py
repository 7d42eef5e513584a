"""What a run writes beside its checkpoints: config.json, metrics.jsonl, TensorBoard events, progress, timing.json.

Only process 0 writes; every process reads.
"""

import json
import math
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import jax

from core_jax.data import files

Path = pathlib.Path


class WorkdirError(ValueError):
    """The work directory holds something that this run must not mix with."""


def claim(workdir: Path, config: Mapping[str, Any], *, resume: bool) -> None:
    """Take a work directory for a run, or refuse it before anything is written.

    Args:
      workdir: made if missing.
      config: the experiment's configuration, JSON-able.
      resume: the directory may hold an earlier part of the same run.

    Raises:
      WorkdirError: it holds a run with another configuration (all differences listed), or a run and `resume` is off.
    """
    path = workdir / "config.json"
    ours = json.loads(files.canonical_json(dict(config)))
    if path.exists():
        differences = _differences(json.loads(path.read_text()), ours)
        if differences:
            raise WorkdirError(
                f"{workdir} holds a run with another configuration (there -> now):\n  "
                + "\n  ".join(differences)
                + "\nChoose another workdir, or start with the configuration of that run."
            )
        if not resume:
            raise WorkdirError(
                f"{workdir} already holds a run with this configuration. Pass --resume (resume=True) to go on with it, "
                "choose another workdir, or delete it."
            )
    elif (workdir / "checkpoints").exists():
        raise WorkdirError(
            f"{workdir} has checkpoints but no config.json, so nobody can tell what they belong to. Choose another "
            "workdir, or delete it."
        )
    _barrier("claim workdir")
    if jax.process_index() == 0 and not path.exists():
        files.atomic_write(path, json.dumps(ours, indent=2, sort_keys=True) + "\n")


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


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
    """The complete lines of a JSONL file; a last line that a killed process left unfinished is dropped."""
    if not path.exists():
        return []
    *lines, rest = path.read_text().split("\n")
    del rest
    return [json.loads(line) for line in lines]


class History:
    """metrics.jsonl: one line per log, {"step", names and values, "seconds", "steps_per_second"}; numbers that are not finite are null.

    Args:
      path: the file.
      step: lines of later steps are dropped: a run killed after its last checkpoint goes through them again.
    """

    def __init__(self, path: Path, *, step: int):
        lines = [line for line in read_jsonl(path) if line["step"] <= step]
        files.atomic_write(path, "".join(_line(line) for line in lines))
        self._file = open(path, "a")  # noqa: SIM115 - lives as long as the run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line."""
        self._file.write(_line({"step": step, **values}))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(
            str(folder), purge_step=step + 1 if step else None
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add one scalar per name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is left and close."""
        self._writer.close()


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
        text = " ".join(f"{name}={value:.4g}" for name, value in values.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
        elif self._shown:
            print(f"step {step}/{self._total} {text}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the bar on the screen."""
        if self._bar is not None:
            self._bar.close()
