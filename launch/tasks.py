"""The tasks that a configuration can name: `config.task`. One line for each; packages are imported only when named."""

from collections.abc import Callable
from typing import Any

import ml_collections

from launch.config import ConfigError


def _fdbpl(config: ml_collections.ConfigDict) -> Any:
    from fdbpl_jax import task

    return task.build(config)


def _contrastive(config: ml_collections.ConfigDict) -> Any:
    from core_jax.train import contrastive

    return contrastive.build(config)


TASKS: dict[str, Callable[[ml_collections.ConfigDict], Any]] = {
    "contrastive": _contrastive,
    "fdbpl": _fdbpl,
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
