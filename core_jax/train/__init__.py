"""Training shared by the methods: task protocol, step, sharding rules, checkpoints, loop."""

from core_jax.train.adopt import AdoptError, adopt, write_first
from core_jax.train.checkpoint import CheckpointError
from core_jax.train.feed import DataEndedError
from core_jax.train.learned import learned
from core_jax.train.loop import FitOptions, fit, restore
from core_jax.train.step import State
from core_jax.train.stop import PREEMPTED_EXIT_CODE, NonFiniteError, Preempted
from core_jax.train.task import Aux, Params, Task
from core_jax.train.writers import WorkdirError

__all__ = [
    "PREEMPTED_EXIT_CODE",
    "AdoptError",
    "Aux",
    "CheckpointError",
    "DataEndedError",
    "FitOptions",
    "NonFiniteError",
    "Params",
    "Preempted",
    "State",
    "Task",
    "WorkdirError",
    "adopt",
    "fit",
    "learned",
    "restore",
    "write_first",
]
