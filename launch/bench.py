"""Benchmarks: each measures both sides of a speed claim in one run and prints rows of (work, ours, other, ratio).

python -m launch.bench NAME [its own flags] [--json=FILE]
python -m launch.bench all [--full] [--only=gba,gaze] [--workdir=runs/bench] [--page=docs/performance.md]

NAME is a key of `BENCHMARKS`; what it measures and its flags stand at the top of launch/benchmarks/NAME.py. `all` runs
each in a process of its own, keeps what it measured in the work directory and writes the page from all that is there. An
interrupted `all` goes on with the same command; `--only` measures again what it names; `--full` adds the long ones.
About 40 minutes on two cores, hours with --full.

The ratio is above 1 where ours is better. Run on an otherwise idle machine.
"""

import pathlib
from collections.abc import Sequence

from absl import flags

from launch import config as config_lib
from launch.benchmarks import (
    fdbpl,
    gaze,
    gba,
    grow,
    lookup,
    memory,
    prompts,
    scaling,
    seeds,
    startup,
    suite,
    text_tower,
    world,
)
from launch.benchmarks.suite import Benchmark

# In the page's order.
BENCHMARKS = {
    "fdbpl": Benchmark(
        "FDBPL from the lookup against KDPL with the teacher online",
        fdbpl.run,
        full=("--sizes=100,1000,embedded",),
    ),
    "lookup": Benchmark("The region lookup against one torch.save file a picture", lookup.run),
    "grow": Benchmark("A lookup that grows while the first run trains", grow.run),
    "seeds": Benchmark("Three seeds in one program against three in a row", seeds.run),
    "memory": Benchmark("Peak memory", memory.run, full=("--memory=embedded,100,1000",)),
    "startup": Benchmark("From the start of a process to its first step", startup.run),
    "scaling": Benchmark(
        "By number of classes and of pictures",
        scaling.run,
        full=("--picture_counts=1000,10000,100000,1000000",),
    ),
    "text_tower": Benchmark(
        "The text tower's three ways", text_tower.run, full=("--classes=10,100,1000",)
    ),
    "prompts": Benchmark(
        "One step of every prompt learner against torch",
        prompts.run,
        full=("--towers=tiny,b32",),
    ),
    "gba": Benchmark(
        "What GBA's adapters cost, and its Fourier operations",
        gba.run,
        full=("--hosts=embedded,convnext_b",),
    ),
    "gaze": Benchmark("Gaze networks", gaze.run),
    "world": Benchmark("Pictures of the embedded world", world.run),
}

_JSON = flags.DEFINE_string("json", None, "also write what was measured to this file")
_WORKDIR = flags.DEFINE_string("workdir", "runs/bench", "all: folder of what was measured")
_PAGE = flags.DEFINE_string("page", "docs/performance.md", "all: the page to write")
_ONLY = flags.DEFINE_list("only", [], "all: measure these again, and nothing else")
_FULL = flags.DEFINE_bool("full", False, "all: the long sizes too")


def main(argv: Sequence[str]) -> int:
    """Run the benchmark that the first argument names, or all; returns the exit status."""
    if argv[1] == "all":
        return suite.run_all(
            BENCHMARKS,
            folder=pathlib.Path(_WORKDIR.value),
            page_file=pathlib.Path(_PAGE.value),
            only=_ONLY.value,
            full=_FULL.value,
        )
    suite.run_one(argv[1], BENCHMARKS[argv[1]], _JSON.value)
    return 0


if __name__ == "__main__":
    config_lib.run(main, words=(*BENCHMARKS, "all"))
