"""Builds, verifies or describes a region lookup: a teacher's labels, made once and read by many runs.

  python -m launch.lookup build --config=configs/fdbpl_world.py [--features=STUDENT|none] [--shards=i/n]
      [--also=DIR [--also_split=all|base|new] [--also_template="a sketch of a {}."]]
  python -m launch.lookup verify --config=configs/fdbpl_world.py [--lookup=DIR]      exit status 1 if it is not sound
  python -m launch.lookup verify --lookup=DIR --digests_only                         needs neither weights nor pictures
  python -m launch.lookup stats --lookup=DIR [--plot=FILE.png]

A build that was killed goes on with the same command and ends in the same bytes. Time: one teacher pass per region,
R = 100 per picture; the embedded world's config takes about a minute on two cores, an ImageNet teacher wants a GPU.
The processes of one job share the work, started by srun, on a TPU pod, or by
  python -m launch.local_multiprocess --processes=2 -- launch.lookup build --config=configs/fdbpl_world.py
Machines that share nothing but the folder take --shards=0/4 ... --shards=3/4, in any order and at any time.
`--also` writes a second lookup in the same pass: the same regions of the same pictures under other classes, another
template, or both.
"""

import os
import pathlib
import signal
import sys
from types import FrameType
from typing import Any, NoReturn

from absl import flags

from launch import config as config_lib
from launch import notice, runs, start

WORDS = ("build", "verify", "stats")
_CONFIG = config_lib.define()
_LOOKUP = flags.DEFINE_string(
    "lookup", None, "folder of the lookup; config.lookup.dir unless given"
)
_FEATURES = flags.DEFINE_string(
    "features",
    None,
    "model whose features are stored; 'none' stores none. Default: the config's student, unless data.source=images",
)
_SHARDS = flags.DEFINE_string(
    "shards", None, "i/n: this is the i-th of n jobs that know nothing of each other"
)
_ALSO = flags.DEFINE_string(
    "also", None, "build: folder of a second lookup, of the same pictures in another label space"
)
_ALSO_SPLIT = flags.DEFINE_enum(
    "also_split",
    None,
    ["base", "new", "all"],
    "its classes; those of config.data.split unless given",
)
_ALSO_TEMPLATE = flags.DEFINE_string(
    "also_template", None, "its sentence with one {} for a class name; the config's unless given"
)
_DIGESTS_ONLY = flags.DEFINE_bool("digests_only", False, "verify: compare digests and stop")
_PLOT = flags.DEFINE_string("plot", None, "stats: also plot the histograms into this PNG")


def main(argv: list[str]) -> int:
    """Runs one of `WORDS`; returns the exit status."""
    return {"build": _build, "verify": _verify, "stats": _stats}[argv[1]]()


def parse_shards(text: str | None) -> tuple[int, int] | None:
    """The numbers of "i/n".

    Raises:
      ValueError: it is something else.
    """
    if text is None:
        return None
    first, slash, count = text.partition("/")
    if not (slash and first.isdecimal() and count.isdecimal() and int(first) < int(count)):
        raise ValueError(f"--shards={text}: expected i/n with 0 <= i < n, such as 0/4")
    return int(first), int(count)


def _folder() -> str:
    folder = _LOOKUP.value or (_CONFIG.value.lookup.dir if _CONFIG.value is not None else None)
    if not folder:
        raise ValueError(
            "--lookup=DIR, or a --config with lookup.dir, names the lookup; neither was given"
        )
    return folder


def _config():
    if _CONFIG.value is None:
        raise ValueError(
            "--config=FILE is needed: it names the data set, the teacher and the student"
        )
    config = _CONFIG.value.copy_and_resolve_references()
    if _LOOKUP.value:
        config.lookup.dir = _LOOKUP.value
    return config


def _build() -> int:
    shards = parse_shards(_SHARDS.value)
    processes = start.found().processes
    if shards is not None and processes > 1:
        raise config_lib.ConfigError(
            f"--shards={_SHARDS.value} is for jobs that know nothing of each other, and the {processes} processes of "
            "this one share the work by themselves: leave it out"
        )
    config = _config()
    start.start()
    # After the start: in a job of several processes JAX takes SIGTERM for itself.
    before = signal.signal(signal.SIGTERM, _leave)
    notice.watch()
    try:
        return _build_here(config, shards)
    finally:
        signal.signal(signal.SIGTERM, before)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    """Ends the process at once: what is complete is on disk, and an orderly end would wait for the other processes."""
    del number, frame
    print("launch.lookup: told to leave; the same command goes on from here", file=sys.stderr)
    sys.stderr.flush()
    # 75, which launchers take as: start it again.
    os._exit(os.EX_TEMPFAIL)


def _build_here(config: Any, shards: tuple[int, int] | None) -> int:
    from fdbpl_jax import build, layout, lookup

    features = {None: None, "none": False}.get(_FEATURES.value, _FEATURES.value)
    first = build.build_from_config(
        config,
        features=features,
        shards=shards,
        also=_ALSO.value,
        also_split=_ALSO_SPLIT.value,
        also_template=_ALSO_TEMPLATE.value,
    )
    for folder in (first, pathlib.Path(_ALSO.value)) if _ALSO.value else (first,):
        if (folder / layout.MANIFEST).is_file():
            opened = lookup.open(folder)
            stored = ", ".join(opened.manifest["students"]) or "no student"
            print(
                f"{folder}: complete, {opened.num_images} pictures x {opened.regions} regions in "
                f"{len(opened.classes)} classes, features of {stored}; digest {opened.digest[:16]}"
            )
        else:
            print(f"{folder}: this job's shards are written; others are still missing")
    return 0


def _verify() -> int:
    if not _DIGESTS_ONLY.value:
        start.start()
    from fdbpl_jax import verify

    if _DIGESTS_ONLY.value:
        report = verify.Report(problems=tuple(verify.digests(_folder())))
    else:
        report = verify.verify_from_config(_folder(), _config())
    print(verify.text(report))
    return 1 if report.problems else 0


def _stats() -> int:
    from fdbpl_jax import summary

    found = summary.summarise(_folder())
    print(summary.text(found))
    if _PLOT.value:
        summary.plot(found, _PLOT.value)
        print(f"histograms in {_PLOT.value}")
    return 0


if __name__ == "__main__":
    config_lib.run(main, runs.failures, words=WORDS)
