"""A lookup that grows against building it first, and against the teacher online: seconds of whole training runs.

"Ours" is the run that the row names, "other" always KDPL with its teacher online (arXiv 2407.03056): the same pictures, student,
batch and number of steps, all of them on the embedded world. Every run has a process of its own with nothing compiled; its
time is that of opening models and data, compiling, labelling, training and saving, without the start of Python.

A run of E epochs reads E regions of a picture, and R = 2 E are drawn, as by default: the build labels twice what one run
reads. FDBPL trains two prompts where KDPL trains one: "KDPL, data.source=grow" and "FDBPL, teacher online" tell what is
the lookup's doing and what the second prompt's. The second run is the first one again, from what that left; "another seed"
finds about half of what it reads.
"""

import pathlib
import tempfile
import time
from typing import Any

import ml_collections

from fdbpl_jax import build
from launch import config as config_lib
from launch import runs
from launch.benchmarks import embedded, timing
from launch.benchmarks.apart import apart

SHOTS, EPOCHS = 4, 20


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    with tempfile.TemporaryDirectory() as folder:
        return measure(pathlib.Path(folder), shots=SHOTS, epochs=EPOCHS)


def measure(folder: pathlib.Path, *, shots: int, epochs: int) -> list[dict[str, Any]]:
    """The rows.

    Args:
      folder: receives pictures, lookups and runs.
      shots: training pictures per class, of 128 classes.
      epochs: E.
    """
    rows = timing.Rows("embedded pair, whole runs: the row's, KDPL with the teacher online")
    base = embedded.fdbpl(folder, shots=shots, regions=2 * epochs)
    base = config_lib.override(base, {"epochs": epochs})
    fdbpl_online = {"teacher_source": "online", "method": "fdbpl"}
    grown = {"data.source": "grow", "lookup.dir": str(folder / "grown")}
    kdpl = grown | {"method": "kdpl", "lookup.dir": str(folder / "grown_kdpl")}
    online = _train(base, embedded.ONLINE, folder)
    rows.add("KDPL, teacher online", online)
    rows.add("KDPL, data.source=grow: first run", _train(base, kdpl, folder), online)
    rows.add("FDBPL, teacher online", _train(base, fdbpl_online, folder), online)
    rows.add("FDBPL, data.source=grow: first run", _train(base, grown, folder), online)
    rows.add("FDBPL, data.source=grow: second run", _train(base, grown, folder), online)
    rows.add(
        "FDBPL, data.source=grow: another seed", _train(base, grown | {"seed": 2}, folder), online
    )
    built, _ = apart(_build_seconds, base.to_dict())
    trained = _train(base, {}, folder)
    rows.add("FDBPL, lookup built beforehand: build + train", built + trained, online)
    rows.add("of it building", built)
    rows.add("of it training", trained, online)
    return rows.rows


def _train(base: ml_collections.ConfigDict, changes: dict[str, Any], folder: pathlib.Path) -> float:
    config = config_lib.override(base, changes)
    workdir = tempfile.mkdtemp(dir=folder)
    return apart(_train_seconds, config.to_dict(), workdir)[0]


def _train_seconds(config: dict[str, Any], workdir: str) -> float:
    start = time.perf_counter()
    runs.train(ml_collections.ConfigDict(config), workdir, progress=False)
    return time.perf_counter() - start


def _build_seconds(config: dict[str, Any]) -> float:
    start = time.perf_counter()
    build.build_from_config(config, progress=False)
    return time.perf_counter() - start
