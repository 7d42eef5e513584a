"""Checkpoints: Orbax `Composite(state, data, meta)`, one folder per step.

- state: {"trainable", "opt_state", "stats", "step"}; the frozen arrays are pinned by digest
  instead.
- data: where the data iterator stands, one JSON file per process.
- meta: step, digest of the configuration, pins, worker and process counts, form of every array,
  running means, clock.
"""

import dataclasses
import errno
import json
import os
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from core_jax.data import files
from core_jax.train.sharding import path_name

# What the form of the data's saved position depends on.
_LAYOUT = ("data workers", "processes")
# What only matters to a run that goes on.
_RUN_FACTS = ("digest of the configuration", "seed", *_LAYOUT)


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or does not belong to this run."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Identity:
    """What a checkpoint is bound to.

    Attributes:
      config: digest of the configuration.
      seed: of the run.
      pins: name -> digest, from the task.
      workers: grain worker processes; grain does not notice a change, it would give other batches.
      processes: JAX processes, for the same reason.
      elastic: the data can go on from the number of a step alone, whatever workers and processes
        there are now (`Task.elastic`).
    """

    config: str
    seed: int
    pins: Mapping[str, str]
    workers: int
    processes: int
    elastic: bool = False

    def facts(self, *, data: bool = True) -> dict[str, Any]:
        """Flat JSON form; without `data`, only what the parameters themselves depend on."""
        facts = {f"pin {name}": value for name, value in self.pins.items()}
        if data:
            facts |= dict(
                zip(_RUN_FACTS, (self.config, self.seed, self.workers, self.processes), strict=True)
            )
        return facts


class Checkpoints:
    """The checkpoints of one run.

    Args:
      folder: absolute; made if missing.
      identity: written into every checkpoint, compared when one is restored.
      keep: number of checkpoints kept, the newest ones; `keep_also` adds others.
      read_only: never write or clean up; another process may be training there.
    """

    def __init__(
        self, folder: pathlib.Path, identity: Identity, *, keep: int = 1, read_only: bool = False
    ):
        # Seconds to import: what only describes a task should not pay for it.
        import orbax.checkpoint as ocp

        self.folder, self._identity, self._ocp = folder, identity, ocp
        self._kept = _Kept(ocp.checkpoint_managers.LatestN(keep))
        self._manager = ocp.CheckpointManager(
            folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._kept,
                enable_async_checkpointing=False,
                # Orbax' own read_only warns about every option it then sets.
                create=not read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def latest(self) -> int | None:
        """Step of the newest complete checkpoint."""
        return self._manager.latest_step()

    def reached_preemption(self, step: int) -> bool:
        """Whether a distributed run was told to leave and this is the step all agreed on."""
        return self._manager.reached_preemption(step)

    def keep_also(self, steps: Iterable[int]) -> None:
        """Checkpoints that stay beside the newest ones, in place of those named before."""
        self._kept.steps = frozenset(steps)

    def save(
        self, step: int, state: Any, data: Mapping[str, Any], extra: Mapping[str, Any]
    ) -> None:
        """Write one checkpoint; afterwards it is complete on disk.

        Args:
          step: updates done.
          state: nested dict of global arrays.
          data: JSON-able position of this process' data iterator.
          extra: JSON-able things to give back on restore.

        Raises:
          CheckpointError: the disk is full; earlier checkpoints are untouched.
        """
        import grain

        args = self._ocp.args
        meta = {"step": step, "facts": self._identity.facts(), "arrays": _forms(state), **extra}
        try:
            self._manager.save(
                step,
                args=args.Composite(
                    state=args.StandardSave(state),
                    data=grain.checkpoint.CheckpointSave(_Position(data)),
                    meta=args.JsonSave(meta),
                ),
                force=True,
            )
        except Exception as error:
            if not _disk_full(error):
                raise
            raise CheckpointError(
                f"no space left on the device while saving step {step} to {self.folder}; the last "
                f"complete checkpoint is step {self._last_complete(step)}. Free some space and "
                "start again with --resume."
            ) from error

    def restore(
        self, state: Any, *, step: int | None = None, data: bool = True
    ) -> tuple[Any, dict[str, Any] | None, dict[str, Any]]:
        """Read a checkpoint into the shapes, dtypes and shardings of `state`.

        Args:
          state: a state of this run; only its form is looked at.
          step: which checkpoint; None takes the newest.
          data: the run goes on, so the position of its data matters; else only the pins and the
            arrays must agree.

        Returns:
          (state, position of the data iterator, meta). The position is None without `data`, and where
          it was saved by another number of processes or data workers: elastic data then go on from
          meta["step"].

        Raises:
          CheckpointError: there is none, or it belongs to something else (all differences in one
            message).
        """
        import grain

        args = self._ocp.args
        meta = self.meta(step)
        number: int = meta["step"]
        self._compare(number, meta, state, data)
        now = self._identity.facts()
        position = None
        if data and all(meta["facts"][name] == now[name] for name in _LAYOUT):
            position = _Position({})
        items: dict[str, Any] = {"state": args.StandardRestore(jax.tree.map(_abstract, state))}
        if position is not None:
            items["data"] = grain.checkpoint.CheckpointRestore(position)
        restored = self._manager.restore(number, args=args.Composite(**items))
        return restored["state"], position and position.data, meta

    def meta(self, step: int | None = None) -> dict[str, Any]:
        """What is written about a checkpoint; None takes the newest.

        Raises:
          CheckpointError: there is none.
        """
        args = self._ocp.args
        item = args.Composite(meta=args.JsonRestore())
        return self._manager.restore(self._find(step), args=item)["meta"]

    def close(self) -> None:
        """Release Orbax' threads."""
        self._manager.close()

    def _find(self, step: int | None) -> int:
        steps = sorted(self._manager.all_steps())
        if step is None and steps:
            return steps[-1]
        if step is None or step not in steps:
            raise CheckpointError(f"no checkpoint of step {step} in {self.folder}: it has {steps}")
        return step

    def _compare(self, step: int, meta: Mapping[str, Any], state: Any, data: bool) -> None:
        ours = {**self._identity.facts(data=data), **_forms(state)}
        theirs = {**meta["facts"], **meta["arrays"]}
        free = () if data else _RUN_FACTS
        if data and self._identity.elastic:
            free = _LAYOUT
        names = [*theirs, *(name for name in ours if name not in theirs)]
        wrong = [name for name in names if name not in free and theirs.get(name) != ours.get(name)]
        if not wrong:
            return
        problems = [
            f"{name}: {theirs.get(name, 'absent')} there, {ours.get(name, 'absent')} now"
            for name in wrong
        ]
        reason = (
            "The order of this task's data depends on the number of processes and data workers.\n"
            if set(wrong) & set(_LAYOUT)
            else ""
        )
        raise CheckpointError(
            f"the checkpoint of step {step} in {self.folder} does not belong to this run:\n  "
            + "\n  ".join(problems)
            + f"\n{reason}Start with what the checkpoint was made with, or choose another workdir."
        )

    def _last_complete(self, failed: int) -> int | None:
        self._manager.reload()
        return max((s for s in self._manager.all_steps() if s != failed), default=None)


class _Kept:
    """Which checkpoints stay when one is added: those of another policy, and some by their steps."""

    def __init__(self, others: Any):
        self.steps: frozenset[int] = frozenset()
        self._others = others

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        others = self._others.should_preserve(checkpoints, context=context)
        return [other or info.step in self.steps for other, info in zip(others, checkpoints)]


class _Position:
    """The data position in the shape grain's checkpoint handler asks for."""

    def __init__(self, data: Mapping[str, Any]):
        self.data = dict(data)

    def get_state(self) -> bytes:
        return json.dumps(self.data).encode()

    def set_state(self, state: bytes) -> None:
        self.data = json.loads(state)

    def start_prefetch(self) -> None:
        """Nothing to start: the handler calls it on what it restored."""


def _abstract(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def _forms(state: Any) -> dict[str, str]:
    leaves = jax.tree_util.tree_leaves_with_path(state)
    return {path_name(path): f"{leaf.dtype.name}{list(leaf.shape)}" for path, leaf in leaves}


def _disk_full(error: BaseException | None) -> bool:
    # TensorStore reports it as ValueError with the system's words; Orbax chains and groups
    # exceptions.
    while error is not None:
        if isinstance(error, files.DiskFullError) or os.strerror(errno.ENOSPC) in str(error):
            return True
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__ or error.__context__
    return False
