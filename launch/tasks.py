"""The tasks that a configuration can name: `config.task`. One line for each; packages are imported only when named."""

from collections.abc import Callable, Sequence
from typing import Any

import ml_collections

from launch.config import ConfigError


def _fdbpl(config: ml_collections.ConfigDict) -> Any:
    from fdbpl_jax import task

    return task.build(config)


def _contrastive(config: ml_collections.ConfigDict) -> Any:
    from core_jax.train import contrastive

    return contrastive.build(config)


def _gba(config: ml_collections.ConfigDict) -> Any:
    from gba_jax import task

    return task.build(config)


def _gaze(config: ml_collections.ConfigDict) -> Any:
    from gaze_jax import task

    return task.build(config)


TASKS: dict[str, Callable[[ml_collections.ConfigDict], Any]] = {
    "contrastive": _contrastive,
    "fdbpl": _fdbpl,
    "gaze": _gaze,
    "gba": _gba,
}


def build(config: ml_collections.ConfigDict) -> Any:
    """The `core_jax.train.Task` that a configuration describes.

    Raises:
      ConfigError: `config.task` names no task.
    """
    name = config.get("task")
    if name not in TASKS:
        raise ConfigError(f"config.task={name}: expected one of {', '.join(sorted(TASKS))}")
    return TASKS[name](config)


def several(config: ml_collections.ConfigDict) -> dict[str, dict[str, Any]]:
    """What each run changes in a configuration of several (`config.seeds`, `config.lrs`), by its folder; else empty.

    Raises:
      ConfigError: the task trains one run at a time, or a seed or a learning rate stands there twice.
    """
    if not config.get("seeds") and not config.get("lrs"):
        return {}
    if config.get("task") != "fdbpl":
        raise ConfigError(
            f"config.seeds, config.lrs: of the tasks only fdbpl trains several runs in one program, not {config.get('task')}"
        )
    from fdbpl_jax import several

    return several.changes(config)


def build_several(configs: Sequence[ml_collections.ConfigDict]) -> list[Any]:
    """The tasks of the runs of `several`, around one copy of what they share."""
    from fdbpl_jax import several

    return several.build(configs)


def result_lines(
    config: ml_collections.ConfigDict,
    task: Any,
    params: Any,
    *,
    step: int | None = None,
    best: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """Evaluate a task and say what came out, as results.jsonl has it but for what every run has in common.

    Args:
      config: what the task was built from.
      task: from `build`.
      params: core_jax.train.Params.
      step: updates that they have seen; None: all of the run.
      best: which of `task.selected` were lowest at this step; None: it is the last step.

    Returns:
      For "fdbpl" a line per part of the classes, for "gba" one per judged split and for "gaze" one per person and way of
      judging (docs/workdir.md); for other tasks one line with "task" and "metrics".
    """
    if config.task == "gaze":
        from gaze_jax import task as gaze

        return gaze.result_lines(config.to_dict(), params, step=step, best=best)
    metrics = task.evaluate(params.trainable, params.frozen, params.stats)
    if config.task == "gba":
        from gba_jax import task as gba

        return gba.result_lines(config.to_dict(), metrics, task.pins)
    if config.task != "fdbpl":
        return [{"task": config.task, "metrics": {k: float(v) for k, v in metrics.items()}}]
    from fdbpl_jax import evaluate, towers

    values = config.to_dict()
    dtype = towers.compute_dtype(values.get("dtype", "auto"))
    return [{**line, "dtype": dtype} for line in evaluate.result_lines(values, metrics, task.pins)]
