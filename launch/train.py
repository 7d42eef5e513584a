"""Train a configuration and evaluate it.

python -m launch.train --config=configs/fdbpl_world.py --workdir=runs/x [--config.lr=0.01] [--resume] [--profile=10:15]

The work directory receives config.json, metrics.jsonl, tensorboard/, checkpoints/, timing.json and results.jsonl.
`--profile=10:15` adds profile/, a trace of the steps 10 to 15 for TensorBoard. SIGTERM, and on Google's machines the notice of
a preemption, make the run save and leave with status 75; `--resume` goes on.
`--config.seeds=1,2,3` and `--config.lrs=0.01,0.02` train several runs in one program (`launch.several`).
`--eval_only` trains nothing: it evaluates the newest checkpoint, as python -m launch.evaluate does.
"""

import copy
import sys
from collections.abc import Sequence

import ml_collections
from absl import flags

from launch import config, notice, runs, several, start, tasks

_CONFIG = config.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
_RESUME = flags.DEFINE_bool(
    "resume", False, "go on from the newest checkpoint of the work directory"
)
_EVAL_ONLY = flags.DEFINE_bool("eval_only", False, "evaluate the newest checkpoint, never train")
_MESH = flags.DEFINE_string(
    "mesh", None, "short for --config.fit.mesh: the devices, such as data:-1,model:2"
)

_PROFILE = flags.DEFINE_string(
    "profile", None, "FIRST:LAST, the steps of a trace in the work directory, such as 10:15"
)


def main(argv: Sequence[str]) -> None:
    """Train, then evaluate."""
    del argv
    given, task = _CONFIG.value, None
    if given is None and not _EVAL_ONLY.value:
        raise config.ConfigError("--config is missing: name a file such as configs/fdbpl_world.py")
    if given is not None and _MESH.value is not None:
        given = _with_mesh(given, _MESH.value)
    profile = _profile_steps(_PROFILE.value)
    if profile is not None and _EVAL_ONLY.value:
        raise config.ConfigError(
            f"--profile={_PROFILE.value} traces steps of a training, and --eval_only makes none"
        )
    notice.leave_when_told()
    start.start()
    notice.watch()
    from core_jax import train
    from launch import evaluate

    if given is not None and _EVAL_ONLY.value:
        runs.require_same(given, _WORKDIR.value)
    elif given is not None:
        try:
            train_it = several.train if tasks.several(given) else runs.train
            task = train_it(given, _WORKDIR.value, resume=_RESUME.value, profile=profile)
        except train.Preempted as error:
            print(error, file=sys.stderr)
            raise
    evaluate.show(evaluate.lines(_WORKDIR.value, task))


def _with_mesh(given: ml_collections.ConfigDict, mesh: str) -> ml_collections.ConfigDict:
    """The configuration with `config.fit.mesh`, whether or not its file has a line for it."""
    given = copy.deepcopy(given)
    with given.unlocked():
        given.update({"fit": {"mesh": ""}})
    return config.override(given, {"fit.mesh": mesh})


def _profile_steps(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, _, last = text.partition(":")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise config.ConfigError(
            f"--profile={text}: expected FIRST:LAST, two steps with 1 <= FIRST <= LAST, such as 10:15"
        )
    return int(first), int(last)


if __name__ == "__main__":
    config.run(main, runs.failures)
