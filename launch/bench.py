"""Benchmarks: each measures both sides of a speed claim in one run and prints rows of (work, ours, other, ratio).

python -m launch.bench text_tower [--classes=10,100,1000] [--json=FILE]
python -m launch.bench fdbpl [--sizes=100,1000,embedded] [--json=FILE]
python -m launch.bench gba [--hosts=embedded,convnext_b] [--json=FILE]
python -m launch.bench gaze [--gaze=drnet,cfe,references,folds] [--json=FILE]
python -m launch.bench world [--json=FILE]

The ratio is other / ours: above 1, ours is faster. Run on an otherwise idle machine.
"""

import json
import platform
from collections.abc import Sequence

import jax
from absl import flags

from core_jax.data import files
from launch import config as config_lib
from launch.benchmarks import fdbpl, gaze, gba, text_tower, world

BENCHMARKS = {
    "fdbpl": fdbpl.run,
    "gaze": gaze.run,
    "gba": gba.run,
    "text_tower": text_tower.run,
    "world": world.run,
}

_JSON = flags.DEFINE_string("json", None, "also write the rows to this file")


def main(argv: Sequence[str]) -> None:
    """Run the benchmark that the first argument names."""
    rows = BENCHMARKS[argv[1]]()
    if _JSON.value:
        machine = {
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "platform": platform.platform(),
            "jax": jax.__version__,
        }
        text = json.dumps({"benchmark": argv[1], "machine": machine, "rows": rows}, indent=2)
        files.atomic_write(_JSON.value, text + "\n")


if __name__ == "__main__":
    config_lib.run(main, words=tuple(BENCHMARKS))
