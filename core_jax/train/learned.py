"""What a run has learned, from its work directory alone: no task, no data and no model is opened."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from core_jax.train.checkpoint import CheckpointError


def learned(
    workdir: str | os.PathLike, groups: Sequence[str] = ("trainable",)
) -> tuple[dict[str, Any], dict[str, str]]:
    """The arrays of a run's newest checkpoint, without the optimizer's.

    Args:
      workdir: of a run, finished or not.
      groups: of "trainable" and "stats".

    Returns:
      ({group: nested dict of NumPy arrays}, the digests that they depend on).

    Raises:
      CheckpointError: there is no checkpoint.
    """
    import orbax.checkpoint as ocp

    folder = pathlib.Path(workdir).absolute() / "checkpoints"
    if not folder.is_dir():
        raise CheckpointError(f"{workdir}: no checkpoint yet; train there first")
    sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        step = manager.latest_step()
        if step is None:
            raise CheckpointError(f"{workdir}: no complete checkpoint yet; train there first")
        args = ocp.args
        meta = manager.restore(step, args=args.Composite(meta=args.JsonRestore()))["meta"]
        abstract: dict[str, Any] = {}
        for name, form in meta["arrays"].items():
            *path, leaf = name.split("/")
            if path and path[0] in groups:
                dtype, _, shape = form.partition("[")
                sizes = tuple(int(size) for size in shape.rstrip("]").split(",") if size.strip())
                place = functools.reduce(lambda tree, key: tree.setdefault(key, {}), path, abstract)
                place[leaf] = jax.ShapeDtypeStruct(sizes, dtype, sharding=sharding)
        restore = args.PyTreeRestore(
            item=abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=True,
        )
        state = manager.restore(step, args=args.Composite(state=restore))["state"]
    facts = meta["facts"].items()
    pins = {name.removeprefix("pin "): fact for name, fact in facts if name.startswith("pin ")}
    return {group: jax.tree.map(np.asarray, state.get(group, {})) for group in groups}, pins
