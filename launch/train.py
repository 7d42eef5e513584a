"""Train a configuration and evaluate it.

python -m launch.train --config=configs/fdbpl_world.py --workdir=runs/x [--config.lr=0.01] [--resume]

The work directory receives config.json, metrics.jsonl, tensorboard/, checkpoints/, timing.json and results.jsonl.
`--eval_only` trains nothing: it evaluates the newest checkpoint, as python -m launch.evaluate does.
"""

import sys
from collections.abc import Sequence

from absl import flags

from launch import config, runs, start

_CONFIG = config.define()
_WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run", required=True)
_RESUME = flags.DEFINE_bool(
    "resume", False, "go on from the newest checkpoint of the work directory"
)
_EVAL_ONLY = flags.DEFINE_bool("eval_only", False, "evaluate the newest checkpoint, never train")


def main(argv: Sequence[str]) -> None:
    """Train, then evaluate."""
    del argv
    given, task = _CONFIG.value, None
    if given is None and not _EVAL_ONLY.value:
        raise config.ConfigError("--config is missing: name a file such as configs/fdbpl_world.py")
    start.start()
    from core_jax import train
    from launch import evaluate

    if given is not None and _EVAL_ONLY.value:
        runs.require_same(given, _WORKDIR.value)
    elif given is not None:
        try:
            task = runs.train(given, _WORKDIR.value, resume=_RESUME.value)
        except train.Preempted as error:
            print(error, file=sys.stderr)
            raise
    evaluate.show(runs.evaluate(_WORKDIR.value, task=task))


if __name__ == "__main__":
    config.run(main, runs.failures)
