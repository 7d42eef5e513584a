"""A work directory that begins with arrays made elsewhere, as if they were the first state of a run."""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax

from core_jax.data import files
from core_jax.train import checkpoint, metrics, sharding, writers
from core_jax.train import step as steps
from core_jax.train.sharding import path_name
from core_jax.train.task import Params, Task, Tree


class AdoptError(ValueError):
    """Arrays that a task cannot begin with; the message lists all of them."""


def adopt(
    task: Task,
    trainable: Tree,
    stats: Tree,
    *,
    workdir: str | pathlib.Path,
    config_json: Mapping[str, Any],
    seed: int,
) -> None:
    """Begin a work directory with given parameters: config.json and the checkpoint of step 0.

    What evaluates, predicts or resumes a run takes it for one. A run that is resumed from here trains all of its steps,
    from these arrays on; its task has to be elastic, since no position in its data was ever saved.

    Args:
      task: whose parameters these are.
      trainable: in place of what the task's `init` makes, of the same names and shapes; float32.
      stats: likewise.
      workdir: must not hold a run.
      config_json: the configuration that the task was built from.
      seed: of the run.

    Raises:
      AdoptError: arrays are missing, unknown or of another shape.
      WorkdirError: `workdir` holds something already.
    """
    # Before anything is computed.
    writers.check(pathlib.Path(workdir), dict(config_json), resume=False)

    def init(key: jax.Array) -> Params:
        made = task.init(key)
        _check({"trainable": made.trainable, "stats": made.stats}, trainable, stats)
        return dataclasses.replace(made, trainable=trainable, stats=stats)

    given = dataclasses.replace(task, init=init)
    state, _, _ = steps.init(given, sharding.make_mesh(), seed=seed)
    write_first(state, task.pins, workdir=workdir, config_json=config_json, seed=seed)


def write_first(
    state: Tree,
    pins: Mapping[str, str],
    *,
    workdir: str | pathlib.Path,
    config_json: Mapping[str, Any],
    seed: int,
) -> None:
    """Write config.json and a checkpoint of step 0 that holds just `state`: enough for `learned`, and for prediction.

    Args:
      state: {"trainable": ..., "stats": ...} at least.
      pins: digests that the arrays depend on.
      workdir: must not hold a run.
      config_json: the configuration.
      seed: of the run.

    Raises:
      WorkdirError: `workdir` holds something already.
    """
    workdir, config = pathlib.Path(workdir).absolute(), dict(config_json)
    writers.check(workdir, config, resume=False)
    writers.claim(workdir, config)
    # No process has read anything yet.
    nobody = checkpoint.Identity(
        config=files.digest(config), seed=seed, pins=pins, workers=0, processes=0
    )
    with contextlib.closing(checkpoint.Checkpoints(workdir / "checkpoints", nobody)) as saved:
        # The first start from here is no restart.
        extra = {"window": metrics.Window().to_json(), "seconds": {}, "restarts": -1}
        saved.save(0, state, {}, extra)


def _check(made: Tree, trainable: Tree, stats: Tree) -> None:
    expected, found = (
        {
            path_name(path): f"{leaf.dtype.name}{list(leaf.shape)}"
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (made, {"trainable": trainable, "stats": stats})
    )
    wrong = [
        f"{name}: {found.get(name, 'absent')}, expected {expected.get(name, 'nothing')}"
        for name in sorted(expected.keys() | found.keys())
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        raise AdoptError(
            "these arrays are not what the configuration's task trains:\n  " + "\n  ".join(wrong)
        )
