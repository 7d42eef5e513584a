"""Why a run stops before its last step: a number that is not finite, or a notice to leave."""

import contextlib
import math
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.train.checkpoint import Checkpoints

# "Temporary failure, try again" of sysexits.h: schedulers can tell a preempted run from a failed
# one.
PREEMPTED_EXIT_CODE = 75


class NonFiniteError(ArithmeticError):
    """Loss, gradient or state stopped being finite."""


class Preempted(SystemExit):
    """The run was told to leave: it has saved, and ends the process with `PREEMPTED_EXIT_CODE`."""

    def __init__(self, step: int, folder: pathlib.Path):
        super().__init__(PREEMPTED_EXIT_CODE)
        self.step, self.folder = step, folder

    def __str__(self) -> str:
        return f"preempted: saved step {self.step} to {self.folder}; start again with --resume"


def check_step(
    step: int,
    values: np.ndarray,
    ids: Mapping[str, np.ndarray],
    checkpoints: Checkpoints,
) -> None:
    """Refuse a step whose loss or gradient is not finite.

    Args:
      step: number of the step.
      values: its packed metrics; loss and gradient norm come first.
      ids: names of the samples of its batch on this process.
      checkpoints: of the run; each was checked before it was written.

    Raises:
      NonFiniteError: naming the step, the samples and the last finite checkpoint.
    """
    if math.isfinite(values[0]) and math.isfinite(values[1]):
        return
    samples = "; ".join(f"{name}: {array.tolist()}" for name, array in ids.items())
    raise NonFiniteError(
        f"step {step}: loss {values[0]}, gradient norm {values[1]}. "
        f"Batch: {samples or 'unknown, Task.batch_ids is empty'}. {_advice(checkpoints)}"
    )


def check_state(step: int, state: Mapping[str, Any], checkpoints: Checkpoints) -> None:
    """Refuse to save a state that is not finite: a finite gradient may still make it overflow.

    Only trainables and statistics are looked at: optimizers may hold an infinity on purpose.

    Raises:
      NonFiniteError: naming the arrays, the step and the last finite checkpoint.
    """
    watched = {name: state[name] for name in ("trainable", "stats")}
    if bool(_all_finite(watched)):
        return
    bad = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(watched)
        if not bool(_all_finite(leaf))
    ]
    raise NonFiniteError(
        f"step {step}: loss and gradient are finite, but the update left these arrays with numbers "
        f"that are not: {', '.join(bad)}. {_advice(checkpoints)}"
    )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([True, *(jnp.all(jnp.isfinite(x)) for x in leaves)]))


def _advice(checkpoints: Checkpoints) -> str:
    latest = checkpoints.latest()
    where = (
        "There is no checkpoint yet"
        if latest is None
        else f"The last finite checkpoint is step {latest} in {checkpoints.folder}"
    )
    return f"{where}. Look at these samples, or lower the learning rate."


@contextlib.contextmanager
def told_to_leave() -> Iterator[threading.Event]:
    """An event that SIGTERM sets while the block runs.

    In a distributed run JAX itself listens for SIGTERM, on every process, and lets them agree on a
    step; outside the main thread Python cannot listen. In both cases the event stays unset.
    """
    event = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if jax.distributed.is_initialized() or not main:
        yield event
        return
    before = signal.signal(signal.SIGTERM, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGTERM, before)
