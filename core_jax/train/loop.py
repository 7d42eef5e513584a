"""The training loop: start or resume, step, log, evaluate, save, stop.

A run is a pure function of (task, seed): every step sees `fold_in(key(seed), step)` and the batch of its number, so a
resumed run equals an uninterrupted one bit for bit. Metrics are read one step late, after the next step was dispatched:
the devices never wait for the host. What is saved was checked first: neither the step's loss and gradient nor the state
itself may hold a number that is not finite.
"""

import contextlib
import dataclasses
import json
import math
import pathlib
import signal
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from core_jax.data import files
from core_jax.train import checkpoint, metrics, sharding, writers
from core_jax.train import step as step_lib
from core_jax.train.feed import Feed
from core_jax.train.task import Task

# "Temporary failure, try again" of sysexits.h: schedulers can tell a preempted run from a failed one.
PREEMPTED_EXIT_CODE = 75


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a run is carried out; none of it changes the parameters, but for the seed.

    Attributes:
      seed: of parameters, data order and every step's key.
      log_every: steps between lines of metrics.jsonl.
      save_every: steps between checkpoints; one is always written at the end.
      eval_every: steps between evaluations, with one at the end; 0 never evaluates.
      keep: number of checkpoints kept.
      mesh_shape: (data, model); None puts all devices on data.
      progress: show progress on process 0.
      workers: grain worker processes of the task's data; recorded, since the iterator state depends on it.
      profile: (first, last) step of a jax.profiler trace in workdir/profile; None takes none.
    """

    seed: int
    log_every: int = 50
    save_every: int = 1000
    eval_every: int = 0
    keep: int = 2
    mesh_shape: tuple[int, int] | None = None
    progress: bool = True
    workers: int = 0
    profile: tuple[int, int] | None = None

    def __post_init__(self):
        bad = [
            f"{name}={getattr(self, name)} must be at least {least}"
            for name, least in dict(
                log_every=1, save_every=1, eval_every=0, keep=1, workers=0
            ).items()
            if getattr(self, name) < least
        ]
        if bad:
            raise ValueError("FitOptions: " + "; ".join(bad))


class NonFiniteError(ArithmeticError):
    """Loss, gradient or state stopped being finite."""


class PreemptedError(SystemExit):
    """The run was told to leave; it saved and exits with `PREEMPTED_EXIT_CODE`."""

    def __init__(self, step: int, folder: pathlib.Path):
        super().__init__(PREEMPTED_EXIT_CODE)
        self.step, self.folder = step, folder

    def __str__(self) -> str:
        return f"preempted: saved step {self.step} to {self.folder}; start again with --resume"


def fit(
    task: Task,
    options: FitOptions,
    *,
    workdir: str | pathlib.Path,
    config_json: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> step_lib.State:
    """Train a task to its last step.

    Args:
      task: what to train.
      options: how.
      workdir: receives config.json, metrics.jsonl, tensorboard/, checkpoints/ and, at the end, timing.json.
      config_json: the experiment's configuration; its digest is in every checkpoint.
      resume: go on from the newest checkpoint in `workdir`; from the start when there is none.

    Returns:
      The last state, {"trainable", "opt_state", "stats", "step"}.

    Raises:
      WorkdirError: `workdir` holds another run, or this one and `resume` is off.
      CheckpointError: the checkpoint belongs to something else, or the disk is full.
      NonFiniteError: a loss, a gradient or the state is not finite; the last finite checkpoint stays.
      PreemptedError: a SystemExit; the run was told to leave, and saved.
    """
    clock = metrics.Clock()
    workdir = pathlib.Path(workdir).absolute()
    config = dict(config_json or {})
    writers.claim(workdir, config, resume=resume)

    mesh = sharding.make_mesh(options.mesh_shape)
    state, frozen, shardings = step_lib.init(task, mesh, seed=options.seed)
    step_fn = step_lib.make_step(task, shardings)
    key = jax.random.key(options.seed)
    identity = checkpoint.Identity(
        config=files.digest(config),
        pins=task.pins,
        workers=options.workers,
        processes=jax.process_count(),
    )
    with contextlib.ExitStack() as stack:
        checkpoints = checkpoint.Checkpoints(workdir / "checkpoints", identity, keep=options.keep)
        stack.callback(checkpoints.close)
        start, position, window, restarts = 0, None, metrics.Window(), 0
        if resume and checkpoints.latest() is not None:
            state, position, meta = checkpoints.restore(state)
            start, window = meta["step"], metrics.Window.from_json(meta["window"])
            clock.seconds.update(meta["seconds"])
            restarts = meta["restarts"] + 1
        log = _Log(workdir, task.total_steps, start, options.progress)
        stack.callback(log.close)
        feed = Feed(task.train_data(options.seed), mesh, host_keys=task.batch_ids, saved=position)
        stack.callback(feed.close)
        told_to_leave = stack.enter_context(_sigterm())

        pending: tuple[int, metrics.Packed, dict] | None = None
        logged = (start - window.steps, clock.running)

        def settle() -> None:
            """Read the metrics of the pending step, check them, log when due."""
            nonlocal pending, window, logged
            if pending is None:
                return
            (step, packed, ids), pending = pending, None
            values = np.asarray(packed.values)
            clock.lap("step")
            if not (math.isfinite(values[0]) and math.isfinite(values[1])):
                raise _non_finite(step, values, ids, checkpoints)
            window.add(packed.names, values)
            if step % options.log_every == 0 or step == task.total_steps:
                seconds = clock.running
                rate = (step - logged[0]) / max(seconds - logged[1], 1e-9)
                log.write(step, {**window.means(), "seconds": seconds, "steps_per_second": rate})
                window, logged = metrics.Window(), (step, seconds)
                clock.lap("logging")

        def save(step: int) -> None:
            if checkpoints.latest() == step:
                return
            _check_state(step, state, checkpoints)
            extra = {
                "window": window.to_json(),
                "seconds": dict(clock.seconds),
                "restarts": restarts,
            }
            checkpoints.save(step, state, feed.state(), extra)
            clock.lap("saving")

        def evaluate(step: int) -> None:
            results = task.evaluate(state["trainable"], frozen, state["stats"])
            log.write(step, {f"eval/{name}": float(value) for name, value in results.items()})
            clock.lap("evaluation")

        def evaluation_due(step: int) -> bool:
            every = options.eval_every
            return bool(every) and (step % every == 0 or step == task.total_steps)

        # A run killed between a checkpoint and the evaluation of the same step.
        if start and evaluation_due(start) and not log.evaluated(start):
            evaluate(start)
        clock.lap("setup")
        for step in range(start + 1, task.total_steps + 1):
            batch, ids = next(feed)
            clock.lap("data_wait")
            with _profiled(step, options.profile, workdir):
                state, packed = step_fn(state, frozen, batch, key)
            clock.lap("compile" if step == start + 1 else "step")
            settle()
            pending = (step, packed, ids)
            log.advance()
            leaving = told_to_leave.is_set() or checkpoints.reached_preemption(step)
            save_due = step % options.save_every == 0 or step == task.total_steps
            if save_due or leaving or evaluation_due(step):
                settle()
                if save_due or leaving:
                    save(step)
                if leaving and step < task.total_steps:
                    raise PreemptedError(step, checkpoints.folder)
                if evaluation_due(step):
                    evaluate(step)
        if jax.process_index() == 0:
            timing = {"seconds": clock.seconds, "steps": task.total_steps, "restarts": restarts}
            files.atomic_write(workdir / "timing.json", json.dumps(timing, indent=2) + "\n")
    return state


class _Log:
    """All writers of process 0 as one; silent on the other processes."""

    def __init__(self, workdir: pathlib.Path, total: int, start: int, progress: bool):
        self._path = workdir / "metrics.jsonl"
        self._writers, self._progress = [], None
        if jax.process_index() == 0:
            self._progress = writers.Progress(total, start, shown=progress)
            self._writers = [
                writers.History(self._path, step=start),
                writers.TensorBoard(workdir / "tensorboard", step=start),
                self._progress,
            ]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for writer in self._writers:
            writer.write(step, values)

    def advance(self) -> None:
        if self._progress is not None:
            self._progress.advance()

    def evaluated(self, step: int) -> bool:
        lines = writers.read_jsonl(self._path)
        return any(
            line["step"] == step and any(k.startswith("eval/") for k in line) for line in lines
        )

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


def _non_finite(
    step: int,
    values: np.ndarray,
    ids: Mapping[str, np.ndarray],
    checkpoints: checkpoint.Checkpoints,
) -> NonFiniteError:
    listed = "; ".join(f"{name}={array.tolist()}" for name, array in ids.items())
    return NonFiniteError(
        f"step {step}: loss {values[0]}, gradient norm {values[1]}. Batch: {listed or 'Task.batch_ids is empty'}. "
        f"{_last_finite(checkpoints)}"
    )


def _last_finite(checkpoints: checkpoint.Checkpoints) -> str:
    latest = checkpoints.latest()
    if latest is None:
        return "There is no checkpoint yet. Lower the learning rate, or look at these samples."
    return (
        f"The last finite checkpoint is step {latest} in {checkpoints.folder}. Lower the learning rate, or look at these "
        "samples."
    )


@jax.jit
def _finite(tree: Any) -> jax.Array:
    leaves = [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.inexact)]
    return jnp.all(jnp.array([True, *(jnp.all(jnp.isfinite(x)) for x in leaves)]))


def _check_state(step: int, state: step_lib.State, checkpoints: checkpoint.Checkpoints) -> None:
    # A finite gradient can still make an update that overflows. Optimizers may hold an infinity on purpose.
    if not bool(_finite((state["trainable"], state["stats"]))):
        raise NonFiniteError(
            f"step {step}: loss and gradient are finite, but the update left trainables or stats that are not. "
            f"{_last_finite(checkpoints)}"
        )


@contextlib.contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """SIGTERM sets the event. In a distributed run JAX listens for it itself and agrees on a step."""
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


@contextlib.contextmanager
def _profiled(step: int, span: tuple[int, int] | None, workdir: pathlib.Path) -> Iterator[None]:
    if span is not None and step == span[0]:
        jax.profiler.start_trace(workdir / "profile")
    yield
    if span is not None and step == span[1]:
        jax.profiler.stop_trace()
