"""Three seeds in one program against the same three seeds in a row: FDBPL on the embedded world, from one lookup.

"Ours" is `--config.seeds=1,2,3`: one process opens, compiles, trains and evaluates all seeds. "Other" is a process for each
seed, one after the other. Every process starts with nothing compiled and no features of the judged pictures; its time is
without the start of Python. The rows below the first tell where the time goes; "a step" is one of all three seeds, its wait
for data included. Of memory "other" is the largest of the three.
"""

import json
import pathlib
import tempfile
import time
from collections.abc import Sequence
from typing import Any

import ml_collections

from launch import config as config_lib
from launch import runs, several
from launch.benchmarks import embedded, timing
from launch.benchmarks.apart import apart

SHOTS, REGIONS, EPOCHS, SEEDS = 2, 8, 20, (1, 2, 3)


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(pathlib.Path(folder), shots=SHOTS, epochs=EPOCHS, seeds=SEEDS)


def measure(
    folder: pathlib.Path, *, shots: int, epochs: int, seeds: Sequence[int]
) -> list[dict[str, Any]]:
    """The rows.

    Args:
      folder: receives pictures, lookup and runs.
      shots: training pictures per class, of 128 classes.
      epochs: E.
      seeds: of the runs.
    """
    rows = timing.Rows(f"embedded pair, {len(seeds)} seeds: in one program, in a row")
    base = embedded.fdbpl(folder, shots=shots, regions=REGIONS)
    base = config_lib.override(base, {"epochs": epochs, "seeds": tuple(seeds), "data.cache": ""})
    apart(embedded.build_lookup, base.to_dict())
    (whole, parts), peak = apart(_together, base.to_dict(), str(folder / "together"))
    alone = [
        apart(_alone, config.to_dict(), str(folder / name))
        for name, config in several.members(base).items()
    ]
    each = [result for result, _ in alone]
    rows.add(f"FDBPL, {len(seeds)} seeds: all", whole, sum(seconds for seconds, _ in each))
    for name, of_parts in (("compiling", ("compile",)), ("a step", ("step", "data_wait"))):
        steps = parts["steps"] if name == "a step" else 1
        ours, *others = (
            sum(one["seconds"][part] for part in of_parts) / steps
            for one in (parts, *(own for _, own in each))
        )
        rows.add(f"FDBPL, {len(seeds)} seeds: of it {name}", ours, sum(others))
    rows.add(f"FDBPL, {len(seeds)} seeds: peak memory", peak, max(mb for _, mb in alone), unit="MB")
    return rows.rows


def _together(config: dict[str, Any], workdir: str) -> tuple[float, dict[str, Any]]:
    start = time.perf_counter()
    built = several.train(ml_collections.ConfigDict(config), workdir, progress=False)
    several.evaluate(workdir, built)
    return time.perf_counter() - start, _timing(workdir)


def _alone(config: dict[str, Any], workdir: str) -> tuple[float, dict[str, Any]]:
    start = time.perf_counter()
    task = runs.train(ml_collections.ConfigDict(config), workdir, progress=False)
    runs.evaluate(workdir, task=task)
    return time.perf_counter() - start, _timing(workdir)


def _timing(workdir: str) -> dict[str, Any]:
    return json.loads((pathlib.Path(workdir) / "timing.json").read_text(encoding="utf-8"))
