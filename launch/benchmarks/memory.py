"""Peak memory of training from the lookup against training with the teacher online: whole processes, of their own.

Each process opens what its run needs, compiles the step and makes steps; its peak resident memory is the row. FDBPL reads
labels and stored features and loads no teacher; KDPL loads teacher and image tower and runs them on decoded pictures. The
first row is a process that has only imported everything and found its devices. At published size (student ViT-B/32,
teacher ViT-L/14, random weights, B = 32) and for the embedded pair. On accelerators this is the host's memory alone.

--memory=embedded,100,1000 chooses the embedded pair and the numbers of classes at published size.
"""

import pathlib
import tempfile
from typing import Any

import jax
from absl import flags

from fdbpl_jax import config as configs
from fdbpl_jax import inputs
from launch import config as config_lib
from launch.benchmarks import embedded, published, steps, timing
from launch.benchmarks.apart import apart

_SIZES = flags.DEFINE_list("memory", ["embedded", "100"], "memory: embedded, class counts")


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    rows = timing.Rows("peak memory: FDBPL from the lookup, KDPL with the teacher online")
    rows.add("libraries and devices alone", apart(jax.device_count)[1], unit="MB")
    with tempfile.TemporaryDirectory() as folder:
        for size in _SIZES.value:
            if size == "embedded":
                embedded_row(rows, pathlib.Path(folder), shots=2, regions=8)
            else:
                published_row(rows, pathlib.Path(folder), int(size))
    return rows.rows


def embedded_row(rows: timing.Rows, folder: pathlib.Path, *, shots: int, regions: int) -> None:
    """The shipped pair on real pictures and a real lookup, made in a process that is not measured."""
    config = embedded.fdbpl(folder, shots=shots, regions=regions)
    apart(embedded.build_lookup, config.to_dict())
    online = config_lib.override(config, embedded.ONLINE)
    _, ours = apart(_embedded, config.to_dict())
    _, other = apart(_embedded, online.to_dict())
    work = f"embedded pair, {shots * 128} pictures, R = {regions}: training"
    rows.add(work, ours, other, unit="MB")


def published_row(rows: timing.Rows, folder: pathlib.Path, count: int) -> None:
    """Random weights at published size; the random lookup has 64 pictures of 100 regions."""
    published.write_pictures(folder)
    _, ours = apart(_published, "fdbpl", count, folder)
    _, other = apart(_published, "kdpl", count, folder)
    rows.add(f"B/32, L/14, {count} classes: training", ours, other, unit="MB")


def _embedded(config: dict[str, Any]) -> None:
    steps.seconds(inputs.open_inputs(configs.read(config)))


def _published(method: str, count: int, folder: pathlib.Path) -> None:
    teacher = published.teacher() if method == "kdpl" else None
    steps.seconds(published.opened(method, "auto", published.student(), teacher, count, folder))
