"""Training shared by the methods: task protocol, step, sharding rules, checkpoints, loop, metrics."""

from core_jax.train.checkpoint import CheckpointError
from core_jax.train.loop import (
    PREEMPTED_EXIT_CODE,
    FitOptions,
    NonFiniteError,
    PreemptedError,
    fit,
)
from core_jax.train.step import State
from core_jax.train.task import Aux, Params, Task
from core_jax.train.writers import WorkdirError

__all__ = [
    "PREEMPTED_EXIT_CODE",
    "Aux",
    "CheckpointError",
    "FitOptions",
    "NonFiniteError",
    "Params",
    "PreemptedError",
    "State",
    "Task",
    "WorkdirError",
    "fit",
]
