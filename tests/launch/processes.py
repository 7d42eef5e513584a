"""Real processes of `launch.local_multiprocess` that train together, for the tests that count, stop and kill them."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import ml_collections

ROOT = pathlib.Path(__file__).parents[2]
_PATIENCE_S = 600

# A step of a tiny model takes no time at all: its batches come late, so that a signal falls into the middle of a run.
_SLOW = """
import sys
import time

from core_jax.train import feed

_next = feed.Feed.__next__
_first_s = [{first_s} if "--process_id=1" in sys.argv else 0]


def _late(self):
    time.sleep(_first_s.pop() if _first_s else {pause_s})
    return _next(self)


feed.Feed.__next__ = _late
"""


def write_config(
    path: pathlib.Path,
    config: ml_collections.ConfigDict,
    *,
    pause_s: float = 0.0,
    first_s: float = 0.0,
) -> pathlib.Path:
    """A configuration as a file; batches of its runs come `pause_s` late, the very first of process 1 `first_s`."""
    path.write_text(
        (_SLOW.format(pause_s=pause_s, first_s=first_s) if pause_s or first_s else "")
        + "\nimport ml_collections\n\n\ndef get_config():\n"
        + f"    return ml_collections.ConfigDict({config.to_dict()!r})\n"
    )
    return path


class Job:
    """A module of the project on several processes, started; used as a context, it is gone afterwards.

    Args:
      words: the module and its flags.
      processes: how many.
      own: flags of the launcher.
    """

    def __init__(self, *words: str, processes: int, own: tuple[str, ...] = ()):
        launcher = [sys.executable, "-m", "launch.local_multiprocess", f"--processes={processes}"]
        self._launcher = subprocess.Popen(
            [*launcher, *own, "--", *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_) -> None:
        if self._launcher.poll() is None:
            # It takes its processes along.
            self._launcher.terminate()
            self._launcher.communicate(timeout=_PATIENCE_S)

    def end(self) -> tuple[int, str]:
        """Wait for its end: exit status, and all that was printed."""
        printed = self._launcher.communicate(timeout=_PATIENCE_S)[0]
        return self._launcher.returncode, printed

    def wait_for(self, reached: Callable[[], bool]) -> None:
        """Wait until the job has come as far as that."""
        until = time.monotonic() + _PATIENCE_S
        while not reached():
            assert self._launcher.poll() is None, self.end()[1]
            assert time.monotonic() < until, "the job never came so far"
            time.sleep(0.01)

    def signal(self, process: int, number: signal.Signals) -> None:
        """Send a signal to one of its processes, and to no other."""
        os.kill(self._pid(process), number)

    def _pid(self, process: int) -> int:
        listed = subprocess.run(
            ["ps", "-A", "-ww", "-o", "pid=,ppid=,args="],
            capture_output=True,
            text=True,
            check=True,
        )
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        (found,) = [
            int(pid)
            for pid, parent, words in rows
            if int(parent) == self._launcher.pid and words.endswith(f"--process_id={process}")
        ]
        return found


def losses(workdir: pathlib.Path) -> list[float]:
    """The loss of every logged step."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line)["loss"] for line in lines if '"loss"' in line]
