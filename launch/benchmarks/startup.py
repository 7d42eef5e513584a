"""From the start of a process to its first training step, with a cold and with a warm cache of compiled programs.

The command is `python -m launch.train --config=configs/fdbpl_world.py`, on pictures and a lookup made beforehand, for FDBPL and
for KDPL with the teacher online. The clock runs from the start of the process until the metrics of its first step are in
metrics.jsonl, where the loop writes them once the second step is on its way. Each command runs twice with `--compile_cache` on one folder: empty at first ("other"),
and as the first run left it ("ours"). "Compiling" is what the training loop says of it in timing.json; what else is compiled,
before the loop and in the evaluation, is in neither.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from launch.benchmarks import embedded, timing
from launch.benchmarks.apart import apart

METHODS = {"FDBPL": {}, "KDPL, teacher online": embedded.ONLINE}
SHOTS, REGIONS = 2, 8
_POLL_S = 0.005


@dataclasses.dataclass(frozen=True)
class Start:
    """Seconds of a process until its first step was made, and of these the training loop's for compiling."""

    first_step_s: float
    compiling_s: float


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    rows = timing.Rows("embedded pair, process start to first step: warm cache, cold cache")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        config = embedded.fdbpl(folder, shots=SHOTS, regions=REGIONS)
        apart(embedded.build_lookup, config.to_dict())
        base = embedded.places(folder, shots=SHOTS, regions=REGIONS)
        # One epoch is enough steps for a first one, and every step is logged.
        base |= {"epochs": 1, "fit.log_every": 1}
        for method, changes in METHODS.items():
            own = pathlib.Path(tempfile.mkdtemp(dir=folder))
            cold, warm = (
                first_step(base | changes, own / which, own / "compiled")
                for which in ("cold", "warm")
            )
            rows.add(f"{method}: first step", warm.first_step_s, cold.first_step_s)
            rows.add(f"{method}, of it compiling", warm.compiling_s, cold.compiling_s)
    return rows.rows


def first_step(changes: Mapping[str, Any], workdir: pathlib.Path, cache: pathlib.Path) -> Start:
    """Run the command to its end.

    Args:
      changes: of `embedded.CONFIG`, by dotted key.
      workdir: of the run.
      cache: folder of compiled programs.

    Raises:
      OSError: the command failed; the message has what it said.
    """
    command = [sys.executable, "-m", "launch.train", f"--config={embedded.CONFIG}"]
    command += [f"--workdir={workdir}", f"--compile_cache={cache}"]
    command += [f"--config.{key}={value}" for key, value in changes.items()]
    log, metrics = workdir.with_suffix(".log"), workdir / "metrics.jsonl"
    first_step_s = None
    with open(log, "wb") as said:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT)
        while process.poll() is None:
            if first_step_s is None and metrics.is_file() and metrics.stat().st_size:
                first_step_s = time.perf_counter() - start
            time.sleep(_POLL_S)
    if process.returncode or first_step_s is None:
        raise OSError(f"{' '.join(command)} failed:\n{log.read_text(encoding='utf-8')}")
    timed = json.loads((workdir / "timing.json").read_text(encoding="utf-8"))
    return Start(first_step_s=first_step_s, compiling_s=timed["seconds"]["compile"])
