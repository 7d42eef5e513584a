"""The region lookup: building it, its bytes, writing and reading it, against one torch.save file a picture.

One file a picture is the field's usual form: FKD (arXiv 2112.01528) and those after it save [coordinates, flips, labels] with
torch.save, numbers in float32, class indices among them. That is "FKD's form"; "our numbers" are the same arrays that a record
holds, 16 bits each, in a torch.save file a picture. Both hold what FDBPL trains on: box, flip, k indices and log-probabilities,
and in "our numbers" remaining mass and entropy. Without torch that side is left out.

Building is measured twice: the embedded pair's whole build (labels and the student's features), compiled beforehand; and what of
a build is no tower: decoding, cropping to 224 px, drawing, writing. The other rows are of a lookup with R = 100, k = 10 and
1,000 classes. Bytes are those of all files of either form, divided by regions. A visit takes two regions of a picture, in
random order, from files that the system has just written and still holds in memory. Writing ours syncs each shard to disk
and hashes it; torch.save does neither.

--lookup_pictures=2000 sets the number of pictures of those rows.
"""

import functools
import importlib.util
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import flags

from core_jax.data import records
from fdbpl_jax import layout
from fdbpl_jax import lookup as lookups
from launch import config as config_lib
from launch.benchmarks import embedded, free_teacher, timing

_PICTURES = flags.DEFINE_integer(
    "lookup_pictures",
    1000,
    "lookup: pictures of the lookup that is written and read",
    lower_bound=2,
)

REGIONS, TOP_K, CLASSES, PER_VISIT, SHARD = 100, 10, 1000, 2, 256
FORMS = ("FKD's form", "our numbers")
WORKS = {
    "all files: a region": "bytes",
    "writing: regions": "per s",
    "visits in random order": "per s",
    "reading everything: regions": "per s",
}


def run() -> list[dict[str, Any]]:
    """Measure and print all rows."""
    rows = timing.Rows("region lookup: ArrayRecord, torch.save")
    with_torch = importlib.util.find_spec("torch") is not None
    if not with_torch:
        print("  torch is not installed: its side of the rows is left out", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        embedded_build_row(rows, folder / "embedded", shots=2, regions=20)
        pipeline_row(rows, folder / "pipeline", pictures=200, regions=20, image_size=224)
        free_teacher.draw(folder / "images", _PICTURES.value)
        made = free_teacher.build(
            folder / "lookup",
            folder / "images",
            _PICTURES.value,
            regions=REGIONS,
            classes=CLASSES,
            top_k=TOP_K,
            image_size=8,
        )
        stored_rows(rows, lookups.open(made), folder / "again", with_torch=with_torch)
    return rows.rows


def embedded_build_row(
    rows: timing.Rows, folder: pathlib.Path, *, shots: int, regions: int
) -> None:
    """Regions that the embedded pair's build finishes in a second, on a second lookup: the first one compiles."""
    config = embedded.fdbpl(folder, shots=shots, regions=2)
    embedded.build_lookup(config.to_dict())
    changes = {"lookup.dir": str(folder / "second"), "lookup.regions": regions}
    config = config_lib.override(config, changes)
    seconds = _once(lambda: embedded.build_lookup(config.to_dict()))
    count = lookups.open(folder / "second").num_images * regions
    work = f"build, embedded pair, {count:,} regions: regions"
    rows.add(work, count / seconds, unit="per s")


def pipeline_row(
    rows: timing.Rows, folder: pathlib.Path, *, pictures: int, regions: int, image_size: int
) -> None:
    """Regions a second through everything but the towers."""
    root = folder / "images"
    free_teacher.draw(root, pictures)
    make = functools.partial(
        free_teacher.build, classes=CLASSES, top_k=TOP_K, image_size=image_size
    )
    make(folder / "first", root, 2, regions=1)
    seconds = _once(lambda: make(folder / "second", root, pictures, regions=regions))
    work = f"build without towers, {pictures * regions:,} regions at {image_size} px: regions"
    rows.add(work, pictures * regions / seconds, unit="per s")


def stored_rows(
    rows: timing.Rows, opened: lookups.Lookup, folder: pathlib.Path, *, with_torch: bool
) -> None:
    """Bytes, writing and reading of one lookup, ours and both forms of torch.save.

    Args:
      rows: where the rows go.
      opened: with top-k labels and without features.
      folder: receives what is written anew; must not be there.
      with_torch: whether the other side is measured.
    """
    per_region = opened.dtype.itemsize / opened.regions
    rows.add(
        f"record of R = {opened.regions}, k = {opened.top_k}: a region", per_region, unit="bytes"
    )
    order = np.random.default_rng(0).permutation(opened.num_images)
    ours = _ours(opened, folder / "records", order)
    for form in FORMS if with_torch else ("",):
        theirs = _torch(form, opened, folder / form, order) if form else {}
        for work, value in ours.items():
            against = f", {form}" if form else ""
            rows.add(f"{work}{against}", value, theirs.get(work), unit=WORKS[work])


def _ours(opened: lookups.Lookup, folder: pathlib.Path, order: np.ndarray) -> dict[str, float]:
    arrays, count, chosen = opened.arrays(), opened.num_images, np.arange(PER_VISIT)
    images = [opened.images[row] for row in range(count)]

    def write() -> None:
        for index, rows in enumerate(layout.shard_rows(count, SHARD)):
            own = {name: value[rows.start : rows.stop] for name, value in arrays.items()}
            payloads = layout.encode_labels(rows, images[rows.start : rows.stop], own)
            path = folder / records.shard_name("labels", index, -(-count // SHARD))
            records.write_shard(path, payloads, first_row=rows.start)

    def visit() -> None:
        for row in order:
            record = opened.record(int(row))
            for name in ("box", "flip", "index", "logp", "rest", "entropy"):
                record[name][chosen]

    return _works(opened, opened.folder, write, visit, opened.arrays)


def _torch(
    form: str, opened: lookups.Lookup, folder: pathlib.Path, order: np.ndarray
) -> dict[str, float]:
    from launch.benchmarks import torch_lookup

    arrays, chosen = opened.arrays(), np.arange(PER_VISIT)
    sizes = [(opened.images[row].height, opened.images[row].width) for row in order]
    pack = torch_lookup.FORMS[form]
    pictures = [
        pack({name: value[row] for name, value in arrays.items()}, *size)
        for row, size in zip(order, sizes)
    ]
    folder.mkdir(parents=True)
    paths = [folder / f"{row:07d}.tar" for row in order]

    def write() -> None:
        for picture, path in zip(pictures, paths):
            torch_lookup.save(picture, path)

    def visit() -> None:
        for path in paths:
            torch_lookup.take(torch_lookup.load(path), chosen)

    return _works(opened, folder, write, visit, lambda: torch_lookup.stack(sorted(paths)))


def _works(
    opened: lookups.Lookup,
    folder: pathlib.Path,
    write: Callable[[], Any],
    visit: Callable[[], Any],
    everything: Callable[[], Any],
) -> dict[str, float]:
    """One side's values of `WORKS`; `folder` holds its files, at the latest after `write`."""
    count = opened.num_images * opened.regions
    # The first call of each opens files, or makes them: what is repeated is told.
    write_s, visit_s, all_s = (timing.seconds(call) for call in (write, visit, everything))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    values = (size / count, count / write_s, opened.num_images / visit_s, count / all_s)
    return dict(zip(WORKS, values, strict=True))


def _once(call: Callable[[], Any]) -> float:
    return timing.seconds(call, repeats=1, warm_up=0)
