"""The training loop: start or resume, step, log, evaluate, save, stop.

A run is a pure function of (task, seed): every step sees `fold_in(key(seed), step)` and the batch
of its number, so a resumed run equals an uninterrupted one bit for bit. Metrics are read one step
late, after the next step was dispatched: the devices never wait for the host. What is saved was
checked first: neither the step's loss and gradient nor the state itself may hold a number that is
not finite.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from core_jax.data import files
from core_jax.train import ahead, checkpoint, metrics, sharding, stop, trace, writers
from core_jax.train import step as steps
from core_jax.train.feed import Feed
from core_jax.train.task import Params, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a run is carried out; none of it changes the parameters, but for the seed.

    Attributes:
      seed: of parameters, data order and every step's key.
      log_every: steps between lines of metrics.jsonl.
      save_every: steps between checkpoints; one is always written at the end, and with every
        evaluation of a task that selects by its results.
      eval_every: steps between evaluations, with one at the end; 0 never evaluates.
      keep: number of checkpoints kept.
      mesh: "data:-1,model:2" (`sharding.read_mesh`), or sizes (data, model); "" puts all devices on data.
      progress: show progress on process 0.
      workers: grain worker processes of the task's data; recorded, since the iterator state depends
        on it.
      profile: (first, last) step of a jax.profiler trace in workdir/profile; None takes none. Of a
        resumed run only the steps that are left are traced.
    """

    seed: int
    log_every: int = 50
    save_every: int = 1000
    eval_every: int = 0
    keep: int = 2
    mesh: str | tuple[int, int] = ""
    progress: bool = True
    workers: int = 0
    profile: tuple[int, int] | None = None

    def __post_init__(self):
        least = {"log_every": 1, "save_every": 1, "eval_every": 0, "keep": 1, "workers": 0}
        bad = [
            f"{name}={getattr(self, name)} must be at least {bound}"
            for name, bound in least.items()
            if getattr(self, name) < bound
        ]
        if self.profile is not None and not 1 <= self.profile[0] <= self.profile[1]:
            bad.append(f"profile={self.profile} must be (first, last) with 1 <= first <= last")
        if bad:
            raise ValueError("FitOptions: " + "; ".join(bad))


def fit(
    task: Task,
    options: FitOptions,
    *,
    workdir: str | pathlib.Path,
    config_json: Mapping[str, Any] | None = None,
    resume: bool = False,
) -> steps.State:
    """Train a task to its last step.

    Args:
      task: what to train.
      options: how.
      workdir: receives config.json, metrics.jsonl, tensorboard/, checkpoints/ and, at the end,
        timing.json. Nothing is written before parameters, sharding rules and the first batch have
        proved sound and the step is compiled.
      config_json: the experiment's configuration; its digest is in every checkpoint.
      resume: go on from the newest checkpoint in `workdir`; from the start when there is none.

    Returns:
      The last state, {"trainable", "opt_state", "stats", "step"}.

    Raises:
      ValueError: the batches, the mesh or the steps to trace do not fit the task.
      WorkdirError: `workdir` holds another run, or this one and `resume` is off.
      CheckpointError: the checkpoint belongs to something else, or the disk is full.
      NonFiniteError: a loss, a gradient or the state is not finite; the last finite checkpoint
        stays.
      Preempted: a SystemExit; the run was told to leave, and has saved.
    """
    clock = metrics.Clock()
    workdir = pathlib.Path(workdir).absolute()
    config = dict(config_json or {})
    trace.check(options.profile, task.total_steps)
    writers.check(workdir, config, resume=resume)
    mesh = sharding.make_mesh(options.mesh)
    state, frozen, shardings = steps.init(task, mesh, seed=options.seed)
    step_fn = steps.make_step(task, shardings)
    key = task.key(options.seed)
    folder = workdir / "checkpoints"
    open_checkpoints = functools.partial(
        checkpoint.Checkpoints,
        folder,
        checkpoint.Identity(
            config=files.digest(config),
            seed=options.seed,
            pins=task.pins,
            workers=options.workers,
            processes=jax.process_count(),
            elastic=task.elastic,
        ),
        keep=options.keep,
    )
    with contextlib.ExitStack() as stack:
        notice = stack.enter_context(stop.told_to_leave())

        # Resume.
        start, window, restarts, position, checkpoints = 0, metrics.Window(), 0, None, None
        if resume and folder.exists():
            checkpoints = stack.enter_context(contextlib.closing(open_checkpoints()))
            if checkpoints.latest() is not None:
                state, position, meta = checkpoints.restore(state)
                start, window = meta["step"], metrics.Window.from_json(meta["window"])
                restarts = meta["restarts"] + 1
                clock.seconds.update(meta["seconds"])

        # Prove the inputs sound before anything is written.
        data = task.train_data(options.seed)
        feed = Feed(data, mesh, host_keys=task.batch_ids, saved=position, first=start)
        stack.callback(feed.close)
        clock.lap("setup")
        batches, told = iter(feed), []
        if start < task.total_steps:
            first = next(feed)
            clock.lap("data_wait")
            # All steps call this one program; that of `step_fn` itself would be compiled at its first call.
            step_fn = ahead.compile_step(step_fn, state, frozen, first[0], key)
            told.append(ahead.describe(ahead.memory(step_fn), clock.lap("compile")))
            batches = itertools.chain([first], feed)
        writers.claim(workdir, config)
        if checkpoints is None:
            checkpoints = stack.enter_context(contextlib.closing(open_checkpoints()))
        log = writers.Log(workdir, task.total_steps, start, shown=options.progress)
        stack.callback(log.close)
        profile = trace.Trace(workdir / "profile", options.profile, start)
        stack.callback(profile.stop)
        for text in (*told, *profile.problems):
            log.say(text)
        lowest = writers.lowest(workdir / "metrics.jsonl", task.selected, last=start)
        checkpoints.keep_also(step for _, step in lowest.values())
        pending: tuple[int, metrics.Packed, dict[str, np.ndarray]] | None = None

        def settle() -> None:
            """Read and check the metrics of the pending step; log when due."""
            nonlocal pending, window
            if pending is None:
                return
            (number, packed, ids), pending = pending, None
            values = np.asarray(packed.values)
            clock.lap("step")
            stop.check_step(number, values, ids, checkpoints)
            window.add(packed.names, values)
            if number % options.log_every == 0 or number == task.total_steps:
                log.write(number, {**window.means(), **clock.rates(window)})
                window = clock.window()
                clock.lap("logging")

        def save(number: int) -> None:
            stop.check_state(number, state, checkpoints)
            extra = {"window": window.to_json(), "seconds": clock.seconds, "restarts": restarts}
            checkpoints.save(number, state, feed.state(), extra)
            clock.lap("saving")

        def evaluate(number: int) -> None:
            results = task.evaluate(state["trainable"], frozen, state["stats"])
            named = {writers.EVALUATION + name: float(value) for name, value in results.items()}
            log.write(number, named)
            # What a task selects by is remembered here: files are process 0's, and read at the start only.
            for name in task.selected:
                value = float(results.get(name, math.inf))
                if value < lowest.get(name, (math.inf, 0))[0]:
                    lowest[name] = (value, number)
            checkpoints.keep_also(step for _, step in lowest.values())
            clock.lap("evaluation")

        def evaluation_due(number: int) -> bool:
            every = options.eval_every
            return bool(every) and (number % every == 0 or number == task.total_steps)

        # A run killed between a checkpoint and the evaluation of the same step.
        if start and evaluation_due(start) and not log.evaluated(start):
            evaluate(start)
        clock.lap("setup")

        for number, (batch, ids) in zip(
            range(start + 1, task.total_steps + 1), batches, strict=False
        ):
            clock.lap("data_wait")
            if profile.begins(number):
                settle()
                profile.start()
            with profile.step(number):
                state, packed = step_fn(state, frozen, batch, key)
            clock.lap("step")
            settle()  # the previous step, while this one runs
            pending = (number, packed, ids)
            log.advance()
            last = number == task.total_steps
            if profile.ends(number):
                settle()
                profile.stop()
            leave = notice.is_set() or checkpoints.reached_preemption(number)
            save_due = last or leave or number % options.save_every == 0
            save_due |= bool(task.selected) and evaluation_due(number)
            if save_due or evaluation_due(number):
                settle()
                if save_due:
                    save(number)
                if leave and not last:
                    raise stop.Preempted(number, folder)
                if evaluation_due(number):
                    evaluate(number)
        if jax.process_index() == 0:
            timing = {"seconds": clock.seconds, "steps": task.total_steps, "restarts": restarts}
            files.atomic_write(workdir / "timing.json", json.dumps(timing, indent=2) + "\n")
    return state


def restore(
    task: Task,
    *,
    workdir: str | pathlib.Path,
    step: int | None = None,
    mesh: str | tuple[int, int] = "",
) -> tuple[Params, int]:
    """Parameters of a run, for evaluation and prediction; also while it is still training.

    Args:
      task: the task the run was made with; its pins and the form of every array are compared.
      workdir: of the run.
      step: which checkpoint; None takes the newest.
      mesh: as `FitOptions` has it, free to differ from the run's.

    Returns:
      (parameters on their devices, step of the checkpoint).

    Raises:
      CheckpointError: there is none, or it belongs to something else.
    """
    folder = pathlib.Path(workdir).absolute() / "checkpoints"
    if not folder.exists():
        raise checkpoint.CheckpointError(
            f"{workdir} has no folder 'checkpoints': train there first (python -m launch.train)"
        )
    identity = checkpoint.Identity(config="", seed=0, pins=task.pins, workers=0, processes=0)
    with contextlib.closing(checkpoint.Checkpoints(folder, identity, read_only=True)) as saved:
        # Frozen arrays are not in the checkpoint: where they are random, the run's seed makes them.
        seed = saved.meta(step)["facts"]["seed"]
        state, frozen, _ = steps.init(task, sharding.make_mesh(mesh), seed=seed)
        state, _, meta = saved.restore(state, step=step, data=False)
    params = Params(trainable=state["trainable"], frozen=frozen, stats=state["stats"])
    return params, meta["step"]
