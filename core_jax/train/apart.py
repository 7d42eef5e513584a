"""Work directories of runs that one program has trained (`stack.stack_runs`): to each what it would have written alone.

A run's directory gets config.json, the checkpoint of its last step, metrics.jsonl and timing.json. It can be restored,
evaluated and resumed as if no other run had been beside it. The program's own directory keeps its checkpoints and the
TensorBoard curves of all runs.
"""

import contextlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from core_jax.data import files
from core_jax.train import checkpoint, metrics, writers
from core_jax.train.loop import FitOptions
from core_jax.train.stack import Run, unstack
from core_jax.train.step import State


def write(
    run: Run,
    state: State,
    folder: pathlib.Path,
    *,
    program: pathlib.Path,
    index: int,
    count: int,
    options: FitOptions,
    config_json: Mapping[str, Any],
) -> None:
    """Write the work directory of one run. Called on every process; doing it again changes nothing.

    Args:
      run: as it was stacked.
      state: last one of the program, as `fit` returns it.
      folder: receives the files; timing.json comes last.
      program: work directory of the program.
      index: the run's place among those of the program.
      count: runs of the program. A run's seconds are the program's divided by it.
      options: what the run would have been trained with alone.
      config_json: likewise.

    Raises:
      WorkdirError: `folder` holds another run.
      CheckpointError: the disk is full.
    """
    config, task = dict(config_json), run.task
    writers.check(folder, config, resume=True)
    writers.claim(folder, config)
    timing = json.loads((program / "timing.json").read_text(encoding="utf-8"))
    timing["seconds"] = {name: value / count for name, value in timing["seconds"].items()}
    identity = checkpoint.Identity(
        config=files.digest(config),
        seed=run.seed,
        pins=task.pins,
        workers=options.workers,
        processes=jax.process_count(),
        elastic=task.elastic,
    )
    own = {name: unstack(state[name], index) for name in ("trainable", "opt_state", "stats")}
    # As a feed says that it has handed out every batch, counted from the first.
    iterator = json.dumps(iter(task.train_data(run.seed)).get_state())
    position = {"iterator": iterator, "skip": task.total_steps}
    extra = {
        "window": metrics.Window().to_json(),
        "seconds": timing["seconds"],
        "restarts": timing["restarts"],
    }
    checkpoints = checkpoint.Checkpoints(folder.absolute() / "checkpoints", identity)
    with contextlib.closing(checkpoints):
        if checkpoints.latest() != task.total_steps:
            checkpoints.save(task.total_steps, {**own, "step": state["step"]}, position, extra)
    if jax.process_index() == 0:
        lines = writers.read_jsonl(program / "metrics.jsonl")
        mine = [_own(line, run.name, count) for line in lines]
        text = "".join(json.dumps(line) + "\n" for line in mine)
        files.atomic_write(folder / "metrics.jsonl", text)
        files.atomic_write(folder / "timing.json", json.dumps(timing, indent=2) + "\n")


def _own(line: Mapping[str, Any], name: str, count: int) -> dict[str, Any]:
    """What a line of the program's metrics says of one run."""
    found: dict[str, Any] = {"step": line["step"]}
    for before, after in ((f"{name}/", ""), (f"{writers.EVALUATION}{name}/", writers.EVALUATION)):
        found |= {
            after + key.removeprefix(before): value
            for key, value in line.items()
            if key.startswith(before)
        }
    if "seconds" in line:
        found["seconds"] = line["seconds"] / count
    return found
