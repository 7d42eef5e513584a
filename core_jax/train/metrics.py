"""Metrics of a step as one small vector, means over a window of steps, and the clock of a run.

A step's metrics leave the device as one float32 vector [loss, gradient norm, sum_1, count_1, sum_2,
count_2, ...]: one transfer a step, whatever the number of names.
"""

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

RESERVED = ("step", "loss", "grad_norm", "seconds", "steps_per_second", "data_wait_share")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Packed:
    """Metrics of one step; the names are static: jit carries them beside the vector for free."""

    values: Float[Array, " 2+2*N"]
    names: tuple[str, ...] = dataclasses.field(metadata={"static": True})


def pack(
    loss: Float[Array, ""],
    grad_norm: Float[Array, ""],
    metrics: Mapping[str, tuple[Array, Array]],
) -> Packed:
    """Stack the metrics of one step into one vector.

    Args:
      loss: scalar.
      grad_norm: scalar, L2 norm of the gradient of the trainables.
      metrics: name -> (sum, count), scalars of any real dtype.

    Returns:
      Packed, names sorted.

    Raises:
      ValueError: a name is taken by the loop, or an entry is not a pair of scalars (all of them in
        one message).
    """
    names = tuple(sorted(metrics))
    bad = [f"{name!r} is a name the loop uses itself" for name in names if name in RESERVED]
    for name in names:
        pair = metrics[name]
        if not isinstance(pair, (tuple, list)) or [jnp.shape(x) for x in pair] != [(), ()]:
            bad.append(f"{name!r} must be a pair of scalars (sum, count), got {pair!r}")
    if bad:
        raise ValueError("metrics returned by the task's loss:\n  " + "\n  ".join(bad))
    flat = [loss, grad_norm, *(x for name in names for x in metrics[name])]
    return Packed(jnp.stack([jnp.asarray(x).astype(jnp.float32) for x in flat]), names)


class Window:
    """Running means since the last log line, kept in float64 on the host.

    Args:
      since: training seconds at its first step, from `Clock.training`.
      waited: those of them in which the loop waited for data.
    """

    def __init__(self, since: float = 0.0, waited: float = 0.0):
        self.since, self.waited, self.steps = since, waited, 0
        self._names: tuple[str, ...] = ()
        self._total: np.ndarray | None = None

    def add(self, names: tuple[str, ...], values: Float[np.ndarray, " 2+2*N"]) -> None:
        """Add the vector of one step."""
        self._names, self.steps = names, self.steps + 1
        # A fresh sum, not `+=`: the first vector is a view of a device buffer.
        self._total = values.astype(np.float64) if self._total is None else self._total + values

    def means(self) -> dict[str, float]:
        """Name -> mean: over steps for loss and gradient norm, over counts for the others."""
        if self._total is None:
            return {}
        loss, norm, *pairs = self._total.tolist()
        means = {"loss": loss / self.steps, "grad_norm": norm / self.steps}
        for name, total, count in zip(self._names, pairs[::2], pairs[1::2], strict=True):
            means[name] = total / count if count else math.nan
        return means

    def to_json(self) -> dict[str, Any]:
        """JSON form, exact: Python prints floats so that they read back the same."""
        total = None if self._total is None else self._total.tolist()
        return {
            "since": self.since,
            "waited": self.waited,
            "steps": self.steps,
            "names": list(self._names),
            "total": total,
        }

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> "Window":
        """Inverse of `to_json`."""
        window = cls(saved["since"], saved["waited"])
        window.steps, window._names = saved["steps"], tuple(saved["names"])
        if saved["total"] is not None:
            window._total = np.asarray(saved["total"], np.float64)
        return window


class Clock:
    """Seconds by part of a run. The parts add up to the whole, and checkpoints keep them.

    Parts: setup, compile, data_wait, step, evaluation, saving, logging.
    """

    def __init__(self):
        parts = ("setup", "compile", "data_wait", "step", "evaluation", "saving", "logging")
        self.seconds: dict[str, float] = dict.fromkeys(parts, 0.0)
        self._last = time.perf_counter()

    def lap(self, part: str) -> float:
        """Book the seconds since the previous lap on `part`, and return them."""
        now = time.perf_counter()
        passed, self._last = now - self._last, now
        self.seconds[part] += passed
        return passed

    @property
    def training(self) -> float:
        """Seconds of waiting for data and stepping; compiling, evaluating and saving left out."""
        return self.seconds["data_wait"] + self.seconds["step"]

    def window(self) -> Window:
        """An empty window that begins now."""
        return Window(self.training, self.seconds["data_wait"])

    def rates(self, window: Window) -> dict[str, float]:
        """How fast the steps of a window were.

        Returns:
          "seconds" of training since the start of the run; of the window "steps_per_second" and "data_wait_share", the
          part of its time, 0 to 1, in which this process had no batch to go on with.
        """
        seconds = max(self.training - window.since, 1e-9)
        return {
            "seconds": self.training,
            "steps_per_second": window.steps / seconds,
            "data_wait_share": (self.seconds["data_wait"] - window.waited) / seconds,
        }
