"""The region lookup: a teacher's labels of many regions per image, opened, checked and read.

`open` refuses a lookup that does not fit a run, with every reason in one message; `Lookup` then gives records one by
one (streaming) or as stacked arrays (resident on the device). Docs: docs/formats.md.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float16, Int64

from core_jax.data import files, records
from fdbpl_jax import layout, matching
from fdbpl_jax.datasets import Item

Path = pathlib.Path
Expected = matching.Expected

_HEADER = ("magic", "row", "size", "image")


class UnusableLookup(ValueError):
    """A lookup that is missing, incomplete, damaged, or made for other inputs; the message lists every reason."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lookup:
    """An opened lookup; picklable, so that worker processes can carry it.

    Attributes:
      folder: where it lies.
      manifest: manifest.json, parsed.
      images: row -> path, SHA-256, height, width, label; long lists stay in images.jsonl.
      student: the slug of the stored features this run uses, or None.
    """

    folder: Path
    manifest: Mapping[str, Any] = dataclasses.field(repr=False)
    images: Sequence[layout.ImageRow] = dataclasses.field(repr=False)
    student: str | None = None

    @property
    def num_images(self) -> int:
        """The number of rows."""
        return len(self.images)

    @property
    def regions(self) -> int:
        """R, regions stored per image."""
        return self.manifest["regions"]

    @property
    def top_k(self) -> int | None:
        """k, classes stored per region; None when dense."""
        return self.manifest["top_k"]

    @property
    def dense(self) -> bool:
        """Whether every class is stored, in class order."""
        return self.top_k is None

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in label order."""
        return tuple(self.manifest["classes"])

    @property
    def logit_scale(self) -> float:
        """The teacher's logit scale: exp of its stored logarithm."""
        return self.manifest["teacher"]["logit_scale"]

    @functools.cached_property
    def digest(self) -> str:
        """Pins the labels: every input and every label shard, but no student's features."""
        kept = {
            key: self.manifest[key] for key in self.manifest if key not in ("students", "versions")
        }
        return files.digest(kept)

    @functools.cached_property
    def dtype(self) -> np.dtype:
        """The record of one image's labels."""
        return layout.label_dtype(
            regions=self.regions, classes=len(self.manifest["classes"]), top_k=self.top_k
        )

    @functools.cached_property
    def feature_dtype(self) -> np.dtype:
        """The record of one image's features of this run's student."""
        return layout.feature_dtype(regions=self.regions, width=self._student()["width"])

    @property
    def nbytes(self) -> int:
        """Bytes of all records this run reads: what resident mode keeps on every device."""
        per_image = self.dtype.itemsize + (self.feature_dtype.itemsize if self.student else 0)
        return self.num_images * per_image

    @functools.cached_property
    def _labels(self) -> records.Reader:
        return records.Reader(self.folder, shards(self.manifest["shards"]))

    @functools.cached_property
    def _features(self) -> records.Reader:
        return records.Reader(self.folder, shards(self._student()["shards"]))

    def _student(self) -> Mapping[str, Any]:
        if self.student is None:
            raise UnusableLookup(
                f"{self.folder} was opened without stored features: open it with source='features' and the "
                "student's digest"
            )
        return self.manifest["students"][self.student]

    def rows_of(self, items: Sequence[Item]) -> Int64[np.ndarray, " n"]:
        """The rows of pictures, in their order.

        Raises:
          UnusableLookup: naming the pictures that have none.
        """
        rows = dict.fromkeys((item.path for item in items), -1)
        for row, image in enumerate(self.images):
            if image.path in rows:
                rows[image.path] = row
        absent = [item.path for item in items if rows[item.path] < 0]
        if absent:
            raise UnusableLookup(f"{self.folder}: {matching.absent_pictures(absent)}")
        return np.array([rows[item.path] for item in items], np.int64)

    def record(self, row: int) -> np.void:
        """One image's labels: fields box, flip, [index,] logp, [rest,] entropy as in docs/formats.md.

        Raises:
          records.RecordError: the record is damaged or not this row's.
        """
        return self._check(self._labels[row], row, self.dtype, self._labels)

    def features(self, row: int) -> Float16[np.ndarray, "R D"]:
        """One image's student features: unit norm up to float16 rounding, flips applied.

        Raises:
          records.RecordError: the record is damaged or not this row's.
        """
        return self._check(self._features[row], row, self.feature_dtype, self._features)["feature"]

    def arrays(self) -> dict[str, np.ndarray]:
        """Every record stacked, for resident mode; n is `num_images`, row order.

        Returns:
          box u16 (n, R, 4); flip bool (n, R); logp f16 (n, R, k or C); entropy f16 (n, R); index u16 (n, R, k) and
          rest f16 (n, R) unless dense; feature f16 (n, R, D) if the run uses stored features.

        Raises:
          records.RecordError: a record is damaged or out of place.
        """
        stacked = self._stack(self._labels, self.dtype)
        names = [name for name in self.dtype.names or () if name not in _HEADER]
        found = {name: np.ascontiguousarray(stacked[name]) for name in names}
        found["flip"] = found["flip"].astype(bool)
        if self.student:
            stacked = self._stack(self._features, self.feature_dtype)
            found["feature"] = np.ascontiguousarray(stacked["feature"])
        return found

    def _stack(self, reader: records.Reader, dtype: np.dtype) -> np.ndarray:
        payloads = reader.read_all()
        for row, payload in enumerate(payloads):
            self._check(payload, row, dtype, reader)
        return np.frombuffer(b"".join(payloads), dtype)

    def _check(self, payload: bytes, row: int, dtype: np.dtype, reader: records.Reader) -> np.void:
        image = self.images[row]
        if len(payload) != dtype.itemsize:
            reason = f"{len(payload)} bytes, expected {dtype.itemsize}"
        else:
            record = np.frombuffer(payload, dtype)[0]
            label = "size" in (dtype.names or ())
            magic = (layout.DENSE if self.dense else layout.TOP_K) if label else layout.FEATURES
            reason = None
            if record["magic"] != magic:
                reason = f"it starts with {bytes(record['magic'])!r}, expected {magic!r}"
            elif record["row"] != row:
                reason = f"it says it is row {record['row']}"
            elif not np.array_equal(record["image"], layout.image_bytes(image.sha256)):
                reason = f"it belongs to another picture than {image.path}"
            elif label and tuple(record["size"]) != (image.height, image.width):
                reason = f"its picture size is {tuple(record['size'].tolist())}, expected {(image.height, image.width)}"
            if reason is None:
                return record
        raise records.RecordError(
            f"record {row} in {self.folder / reader.shard_of(row)} is damaged: {reason}. Delete that shard and its "
            "sidecar and manifest.json, and run the build again"
        )


def shards(entries: Sequence[Mapping[str, Any]]) -> list[records.Shard]:
    """The shards a manifest lists."""
    return [records.Shard(**entry) for entry in entries]


def open(folder: str | os.PathLike, expected: Expected | None = None) -> Lookup:
    """Opens a lookup, or refuses with all reasons in one message.

    Args:
      folder: with manifest.json, images.jsonl and shards.
      expected: the run's assumptions; None only checks that the lookup is complete and well-formed.

    Returns:
      The lookup; `student` is set when the run uses stored features.

    Raises:
      UnusableLookup: listing unknown version, incompleteness, missing or truncated shards, wrong record size, class
        names or order, template, teacher, logit scale, crop settings, absent or changed pictures, K and R, student.
    """
    folder = Path(folder)
    manifest, reasons = _read_manifest(folder)
    if reasons:
        raise UnusableLookup(_refusal(folder, reasons))
    reasons = _shard_reasons(folder, manifest)
    images: Sequence[layout.ImageRow] = ()
    path = folder / layout.IMAGES
    if not path.is_file():
        reasons.append(f"{layout.IMAGES} is missing")
    elif files.sha256_file(path) != manifest["images"]["sha256"]:
        reasons.append(f"{layout.IMAGES} is not the one the manifest names")
    else:
        images = layout.load_images(path)
    student = None
    if expected is not None:
        student, more = matching.find_student(manifest, expected)
        reasons += more + matching.mismatches(manifest, images, expected)
    if reasons:
        raise UnusableLookup(_refusal(folder, reasons))
    return Lookup(folder=folder, manifest=manifest, images=images, student=student)


def _refusal(folder: Path, reasons: Sequence[str]) -> str:
    return (
        f"the lookup {folder} cannot be used, for {len(reasons)} reason{'s' if len(reasons) != 1 else ''}:\n  - "
        + "\n  - ".join(reasons)
    )


def _read_manifest(folder: Path) -> tuple[dict[str, Any], list[str]]:
    path = folder / layout.MANIFEST
    if not folder.is_dir():
        return {}, ["there is no such folder: build it with `python -m launch.lookup build`"]
    if not path.is_file():
        return {}, [
            f"{layout.MANIFEST} is missing: the build has not finished; run the same `build` command again"
        ]
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return {}, [f"{layout.MANIFEST} is not JSON ({error})"]
    if not isinstance(manifest, dict) or manifest.get("version") != layout.VERSION:
        version = manifest.get("version") if isinstance(manifest, dict) else None
        return {}, [
            f"its format version is {version!r}; this release reads version {layout.VERSION}"
        ]
    if manifest.get("complete") is not True:
        return {}, ["it is not complete: run the same `build` command again"]
    return manifest, []


def _shard_reasons(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    reasons = []
    parts = [("labels", manifest["shards"])]
    parts += [(f"features of {name}", s["shards"]) for name, s in manifest["students"].items()]
    for what, entries in parts:
        row = 0
        for shard in shards(entries):
            reasons += records.problems(folder, shard, digest=False)
            if shard.first_row != row:
                reasons.append(
                    f"{what}: shard {shard.name} starts at row {shard.first_row}, not {row}"
                )
            row += shard.count
        if row != manifest["images"]["count"]:
            reasons.append(f"{what}: {row} rows for {manifest['images']['count']} pictures")
    size = layout.label_dtype(
        regions=manifest["regions"], classes=len(manifest["classes"]), top_k=manifest["top_k"]
    ).itemsize
    if manifest["record_bytes"] != size:
        reasons.append(
            f"its records have {manifest['record_bytes']} bytes, but its R, k and C make {size}"
        )
    return reasons


def seconds_build(folder: str | os.PathLike) -> float:
    """Seconds of computing that a lookup has cost so far, over all jobs and restarts."""
    path = Path(folder) / layout.TIMING
    total = 0.0
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        # Several hosts append at once: on a network file system a line may be torn, and it is a log only.
        with contextlib.suppress(ValueError, TypeError, KeyError):
            total += json.loads(line)["seconds"]
    return total
