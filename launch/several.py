"""Several runs of one configuration in one program: `--config.seeds=1,2,3`, `--config.lrs=0.01,0.02`, or both.

Models, lookup and features are in memory once, and one step trains all runs. WORKDIR is the program's: it is what an
interrupted training is resumed from. After the last step each run gets a work directory of its own as if it had been
trained alone: WORKDIR/seed1, WORKDIR/lr0.01, or WORKDIR/lr0.01/seed1.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import ml_collections

from launch import config as config_lib
from launch import runs, tasks

Path = pathlib.Path


def members(config: ml_collections.ConfigDict) -> dict[str, ml_collections.ConfigDict]:
    """The configurations of the runs that a configuration stands for, by their folders; empty if it is one run.

    Raises:
      ConfigError: its task trains one run at a time, or a seed or a learning rate stands there twice.
    """
    found = tasks.several(config)
    return {name: config_lib.override(config, changes) for name, changes in found.items()}


def train(
    config: ml_collections.ConfigDict,
    workdir: str | Path,
    *,
    resume: bool = False,
    progress: bool = True,
    profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Train all runs of a configuration in one program, then write each run's own work directory.

    Args:
      config: with several `members`.
      workdir: of the program.
      resume: go on from the program's newest checkpoint.
      progress: show progress.
      profile: first and last step of a trace in `workdir`/profile.

    Returns:
      The runs' tasks by their folders; `evaluate` can go on with them.

    Raises:
      ValueError: the configuration or its inputs cannot be used, or a folder holds something else.
    """
    from core_jax import train as train_lib
    from core_jax.train import apart, stack, trace, writers

    workdir, each = Path(workdir), members(config)
    values = {name: config_lib.to_json(own) for name, own in each.items()}
    options = dataclasses.replace(runs.fit_options(config, progress=progress), profile=profile)
    for name, own in values.items():
        writers.check(workdir / name, own, resume=True)
    built = dict(zip(each, tasks.build_several(list(each.values())), strict=True))
    stacked = [
        stack.Run(name=name, seed=runs.fit_options(each[name]).seed, task=task)
        for name, task in built.items()
    ]
    together, whole = stack.stack_runs(stacked), config_lib.to_json(config)
    if not together.total_steps:
        trace.check(profile, 0)
        runs.claim_untrained(workdir, whole, resume)
        for name, own in values.items():
            runs.claim_untrained(workdir / name, own, resume=True)
        return built
    state = train_lib.fit(together, options, workdir=workdir, config_json=whole, resume=resume)
    # Asked before any is written: processes must agree on it.
    missing = [name for name in each if not runs.is_trained(workdir / name)]
    for index, run in enumerate(stacked):
        if run.name in missing:
            apart.write(
                run,
                state,
                workdir / run.name,
                program=workdir,
                index=index,
                count=len(stacked),
                options=runs.fit_options(each[run.name]),
                config_json=values[run.name],
            )
    return built


def evaluate(workdir: str | Path, built: Mapping[str, Any] | None = None) -> list[dict]:
    """Evaluate every run of a program; each one's result lines are appended to its own results.jsonl.

    Args:
      workdir: of the program.
      built: what `train` returned; None builds the tasks.

    Returns:
      All lines, each with the name of its run as "run".

    Raises:
      ConfigError: the program has not made its last step.
    """
    each = members(config_lib.from_workdir(workdir))
    unfinished = [name for name in each if not runs.is_trained(Path(workdir) / name)]
    if unfinished:
        raise config_lib.ConfigError(
            f"--workdir={workdir}: {', '.join(unfinished)} not trained to the end: go on with launch.train --resume"
        )
    if built is None:
        built = dict(zip(each, tasks.build_several(list(each.values())), strict=True))
    return [
        {**line, "run": name}
        for name in each
        for line in runs.evaluate(Path(workdir) / name, task=built[name])
    ]
