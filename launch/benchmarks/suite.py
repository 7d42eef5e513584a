"""Running one benchmark and keeping what it measured; running all of them, and writing the page from what was kept."""

import dataclasses
import datetime
import json
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags

from core_jax.data import files
from launch import config
from launch.benchmarks import machine
from launch.benchmarks import page as pages


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A benchmark.

    Attributes:
      title: its heading on the page; the text below that is the docstring of the module of `run`.
      run: measures, prints and returns the rows, as `timing.Rows` has them.
      full: its flags in `all --full`, where that takes longer than without flags.
    """

    title: str
    run: Callable[[], list[dict[str, Any]]]
    full: tuple[str, ...] = ()


def run_one(name: str, benchmark: Benchmark, json_path: str | None) -> dict[str, Any]:
    """Measure one benchmark in this process.

    Args:
      name: as the command takes it.
      benchmark: what to run.
      json_path: where to keep what was measured, or None.

    Returns:
      What is kept: benchmark, arguments (the flags it was given), machine (`machine.facts`), date, seconds, peak_mb,
      busy_cores_before, rows.
    """
    busy = machine.busy_cores()
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    start = time.perf_counter()
    rows = benchmark.run()
    seconds, peak = time.perf_counter() - start, machine.peak_mb()
    result = {
        "benchmark": name,
        "arguments": _given(),
        "machine": machine.facts(),
        "date": date,
        "seconds": seconds,
        "peak_mb": peak,
        "busy_cores_before": busy,
        "rows": rows,
    }
    if json_path:
        files.atomic_write(json_path, json.dumps(result, indent=2) + "\n")
    return result


def run_all(
    benchmarks: Mapping[str, Benchmark],
    *,
    folder: pathlib.Path,
    page_file: pathlib.Path,
    only: Sequence[str] = (),
    full: bool = False,
) -> int:
    """Measure what has not been measured yet, each benchmark in a process of its own, and write the page.

    Args:
      benchmarks: by name, in the page's order.
      folder: NAME.json of each.
      page_file: written from all that is in the folder.
      only: measure these, whether they are there or not, and no others.
      full: the long sizes too.

    Returns:
      Exit status: 1 if some failed. The page is written all the same, without what was never measured.

    Raises:
      ConfigError: `only` names something else.
    """
    unknown = [name for name in only if name not in benchmarks]
    if unknown:
        raise config.ConfigError(
            f"--only={','.join(only)}: {', '.join(unknown)} is none of {', '.join(benchmarks)}"
        )
    todo = [
        name
        for name, benchmark in benchmarks.items()
        if (name in only if only else not _is_done(load(folder, name), benchmark, full))
    ]
    # Every process compiles for itself: times and peak memory must not depend on what ran before.
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    failed = []
    for place, name in enumerate(todo, start=1):
        print(f"\n[{place} of {len(todo)}] {name}", flush=True)
        arguments = benchmarks[name].full if full else ()
        command = [sys.executable, "-m", "launch.bench", name, *arguments]
        command.append(f"--json={folder / f'{name}.json'}")
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    sections = [
        pages.Section(
            name=name,
            title=benchmark.title,
            prose=sys.modules[benchmark.run.__module__].__doc__ or "",
            result=load(folder, name),
        )
        for name, benchmark in benchmarks.items()
    ]
    files.atomic_write(page_file, pages.page(sections))
    print(f"\n{page_file} is written from {folder}", flush=True)
    if failed:
        print(f"failed, and to be repeated with --only={','.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def load(folder: pathlib.Path, name: str) -> dict[str, Any] | None:
    """What a benchmark measured, as `run_one` keeps it; None if it has not."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _is_done(result: Mapping[str, Any] | None, benchmark: Benchmark, full: bool) -> bool:
    """Whether a result has the sizes that are asked for; the long ones include the others."""
    enough = [list(benchmark.full)] if full else [[], list(benchmark.full)]
    return result is not None and result["arguments"] in enough


def _given() -> list[str]:
    """The flags of this command line that say what is measured, as absl writes them."""
    found = (flags.FLAGS[name] for name in flags.FLAGS)
    return [flag.serialize() for flag in found if flag.present and flag.name != "json"]
