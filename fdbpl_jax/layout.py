"""The bytes of a region lookup: record layouts, file names, the parts of its JSON files. Docs: docs/formats.md.

One record per image, fixed-size, packed, little-endian, decoded by one `np.frombuffer`.
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from core_jax.data import files, lines, records

Path = pathlib.Path

VERSION = 1
PLAN, IMAGES, MANIFEST, TIMING = "plan.json", "images.jsonl", "manifest.json", "timing.jsonl"
TOP_K, DENSE, FEATURES = b"RLK1", b"RLD1", b"RLF1"
MAX_CLASSES = 65_535
# Up to here all C log-probabilities of a region cost little more than the ten largest and their indices.
DENSE_CLASSES = 64
IMAGE_BYTES = 16


@dataclasses.dataclass(frozen=True)
class ImageRow:
    """A line of images.jsonl: line i describes row i.

    `label` serves reports, never the loss; -1: the picture's class is outside the label space.
    """

    path: str
    sha256: str
    height: int
    width: int
    label: int


def label_dtype(*, regions: int, classes: int, top_k: int | None) -> np.dtype:
    """The record of an image's labels.

    Args:
      regions: R, regions stored per image.
      classes: C, length of the class list.
      top_k: k, classes stored per region; None for all of them, in class order.
    """
    stored = (classes,) if top_k is None else (top_k,)
    fields = [
        ("magic", "S4"),
        ("row", "<u4"),
        ("size", "<u2", (2,)),
        ("image", "u1", (IMAGE_BYTES,)),
        ("box", "<u2", (regions, 4)),
        ("flip", "u1", (regions,)),
    ]
    if top_k is not None:
        fields.append(("index", "<u2", (regions, top_k)))
    fields.append(("logp", "<f2", (regions, *stored)))
    if top_k is not None:
        fields.append(("rest", "<f2", (regions,)))
    fields.append(("entropy", "<f2", (regions,)))
    return np.dtype(fields)


def feature_dtype(*, regions: int, width: int) -> np.dtype:
    """The record of an image's student features: R regions of D numbers, unit norm, flips applied."""
    return np.dtype(
        [
            ("magic", "S4"),
            ("row", "<u4"),
            ("image", "u1", (IMAGE_BYTES,)),
            ("feature", "<f2", (regions, width)),
        ]
    )


def image_bytes(sha256: str) -> np.ndarray:
    """The first half of an image file's SHA-256, as stored in its records."""
    return np.frombuffer(bytes.fromhex(sha256)[:IMAGE_BYTES], np.uint8)


def slug(model: str) -> str:
    """A model's folder or hub id as the part of a file name: its last component, plain characters only."""
    last = model.rstrip("/").replace(":", "-").split("/")[-1]
    return re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-") or "student"


def features_kind(student: str) -> str:
    """What a student's shards are called, given its slug."""
    return f"features-{student}"


def features_plan(student: str) -> str:
    """The file that pins a student's features before they are computed, given its slug."""
    return f"features-{student}.json"


def encode_labels(
    rows: Sequence[int], images: Sequence[ImageRow], arrays: Mapping[str, np.ndarray]
) -> Iterator[bytes]:
    """The payloads of consecutive rows.

    Args:
      rows: their numbers.
      images: what images.jsonl says of them.
      arrays: box, flip, logp, entropy, and index and rest unless dense; (n, R, ...) each.
    """
    dense = "index" not in arrays
    stored = arrays["logp"].shape[2]
    dtype = label_dtype(
        regions=arrays["box"].shape[1], classes=stored, top_k=None if dense else stored
    )
    for i, (row, image) in enumerate(zip(rows, images, strict=True)):
        record = np.zeros((), dtype)
        record["magic"], record["row"] = DENSE if dense else TOP_K, row
        record["size"], record["image"] = (image.height, image.width), image_bytes(image.sha256)
        for name in (dtype.names or ())[4:]:
            record[name] = arrays[name][i]
        yield record.tobytes()


def encode_features(
    rows: Sequence[int], images: Sequence[ImageRow], arrays: Mapping[str, np.ndarray]
) -> Iterator[bytes]:
    """The payloads of consecutive rows' features; `arrays["feature"]` is (n, R, D)."""
    _, count, width = arrays["feature"].shape
    dtype = feature_dtype(regions=count, width=width)
    for i, (row, image) in enumerate(zip(rows, images, strict=True)):
        record = np.zeros((), dtype)
        record["magic"], record["row"], record["image"] = FEATURES, row, image_bytes(image.sha256)
        record["feature"] = arrays["feature"][i]
        yield record.tobytes()


def shard_rows(images: int, shard_size: int) -> list[range]:
    """Rows of every shard: consecutive, `shard_size` each but for the last."""
    return [range(first, min(first + shard_size, images)) for first in range(0, images, shard_size)]


def shard_paths(folder: str | os.PathLike, kind: str, count: int) -> list[Path]:
    """Where the shards of a kind ("labels" or `features_kind`) lie."""
    return [Path(folder) / records.shard_name(kind, i, count) for i in range(count)]


def dump(value: dict) -> str:
    """A JSON file for people and programs: indented, in the order given."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def dump_image(row: ImageRow) -> str:
    """A line of images.jsonl."""
    return files.canonical_json(vars(row)) + "\n"


def dump_images(rows: Iterable[ImageRow]) -> str:
    """The text of images.jsonl."""
    return "".join(map(dump_image, rows))


def load_images(path: str | os.PathLike) -> Sequence[ImageRow]:
    """The rows of images.jsonl; long lists are read from the file when they are asked for."""
    return lines.read(path, _image_row)


def _image_row(value: dict[str, Any]) -> ImageRow:
    return ImageRow(**value)


def differences(ours: object, theirs: object, where: str = "") -> list[str]:
    """Every leaf in which two JSON values differ, as "path: theirs, now ours"; long lists by their first difference."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        found = []
        for key in dict.fromkeys([*theirs, *ours]):
            found += differences(
                ours.get(key), theirs.get(key), f"{where}.{key}" if where else str(key)
            )
        return found
    if ours == theirs:
        return []
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) != len(theirs):
        return [f"{where}: {len(theirs)} entries, now {len(ours)}"]
    if isinstance(ours, list) and isinstance(theirs, list):
        first = next(i for i, pair in enumerate(zip(ours, theirs)) if pair[0] != pair[1])
        return [f"{where}[{first}]: {theirs[first]!r}, now {ours[first]!r}"]
    return [f"{where}: {theirs!r}, now {ours!r}"]
