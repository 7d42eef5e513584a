"""What has grown of a lookup: regions that runs labelled, one record each, and the labeller that makes the rest.

They lie in `<lookup>/grown`, as shards `<kind>-<digest>.arrayrecord` with a sidecar each, named by the regions they hold.
A record is the region's part of the record that a build writes of its picture (docs/formats.md), behind `magic` S4, `row`
u4, `region` u2 and `image` u1 (16,). Shapes: n pictures, R regions of each.
"""

import copy
import dataclasses
import hashlib
import itertools
import operator
import pathlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int

from core_jax.data import records
from fdbpl_jax import label, layout, regions
from fdbpl_jax.target import Part

Path = pathlib.Path
Pair = tuple[int, int]
FOLDER = "grown"
WRITE_EVERY_S = 30.0
# What a record says of its picture is said of each region.
_HEADER = {"magic": "S4", "row": "<u4", "region": "<u2", "image": f"({layout.IMAGE_BYTES},)u1"}


class Kept:
    """The regions of one kind, labels or a student's features, that are there, in memory.

    Args:
      part: the kind; what has grown of it is read.
      images: the rows of the lookup.

    Attributes:
      table: structured (n, R); an entry without `magic` is not there. Memory is taken as it is filled.
      names: what an entry holds beside its header.
    """

    def __init__(self, part: Part, images: Sequence[layout.ImageRow]):
        self.part, self._images = part, images
        dtype = entry_dtype(part.record)
        self.names = tuple(name for name in dtype.names or () if name not in _HEADER)
        regions_each = part.record[self.names[0]].shape[0]
        self.table = np.zeros((len(images), regions_each), dtype)
        for path in shards(part):
            entries = np.frombuffer(b"".join(_payloads(path, dtype.itemsize)), dtype)
            if self._fit(path, entries, entries["region"] < regions_each):
                self.table[entries["row"], entries["region"]] = entries

    def read_built(self, shard_size: int) -> None:
        """Reads the shards of a build, complete or not, of `shard_size` pictures each."""
        ranges = layout.shard_rows(len(self._images), shard_size)
        paths = layout.shard_paths(self.part.folder, self.part.kind, len(ranges))
        for path, rows in zip(paths, ranges):
            payloads = _payloads(path, self.part.record.itemsize)
            if len(payloads) != len(rows):
                continue
            found = np.frombuffer(b"".join(payloads), self.part.record)
            if not self._fit(path, found, found["row"] == np.array(rows)):
                continue
            some = self.table[rows.start : rows.stop]
            for name in self.names:
                some[name] = found[name]
            for name in ("magic", "row", "image"):
                some[name] = found[name][:, None]
            some["region"] = np.arange(some.shape[1])

    def _fit(self, path: Path, entries: np.ndarray, placed: np.ndarray) -> bool:
        """Whether all records of a shard are `placed`, of this kind and of these pictures; else it is left out."""
        fit = placed & (entries["magic"] == self.part.magic) & (entries["row"] < len(self._images))
        rows, where = np.unique(entries["row"][fit], return_inverse=True)
        digests = [layout.image_bytes(self._images[row].sha256) for row in rows.tolist()]
        theirs = np.array(digests, np.uint8).reshape(-1, layout.IMAGE_BYTES)[where]
        fit[fit] = (entries["image"][fit] == theirs).all(axis=1)
        if not fit.all():
            logging.warning(
                "%s is left out: %d of its %d records are not %s of this lookup's pictures",
                path,
                len(fit) - fit.sum(),
                len(fit),
                self.part.kind,
            )
        return bool(fit.all())

    def of(self, rows: Sequence[int]) -> "Kept":
        """A copy of some rows, numbered from 0: what it is given is not kept here."""
        some = copy.copy(self)
        some.table, some._images = self.table[list(rows)], [self._images[row] for row in rows]
        return some

    def has(self, rows: Any, numbers: Any) -> np.ndarray:
        """Which of some regions are there."""
        return self.table["magic"][rows, numbers] != b""

    def put(self, pairs: Sequence[Pair], arrays: Mapping[str, np.ndarray]) -> np.ndarray:
        """Keeps regions in memory; returns their entries."""
        rows, numbers = np.array(pairs).T
        entries = np.zeros(len(pairs), self.table.dtype)
        entries["magic"], entries["row"], entries["region"] = self.part.magic, rows, numbers
        entries["image"] = [layout.image_bytes(self._images[row].sha256) for row in rows.tolist()]
        for name in self.names:
            entries[name] = arrays[name]
        self.table[rows, numbers] = entries
        return entries

    def write(self, entries: np.ndarray) -> None:
        """Writes regions as a shard."""
        which = np.stack([entries["row"], entries["region"].astype("<u4")], axis=1)
        digest = hashlib.sha256(which.tobytes()).hexdigest()[:16]
        path = self.part.folder / FOLDER / f"{self.part.kind}-{digest}.arrayrecord"
        payloads = (entry.tobytes() for entry in entries)
        records.write_shard(path, payloads, first_row=0, options=self.part.options)


class Writer:
    """Writes regions in a thread of its own: a shard of each kind for what came in WRITE_EVERY_S seconds.

    A process that is killed loses what came in that time and what is being written: that is labelled again.
    """

    def __init__(self):
        self._held: dict[Kept, list[np.ndarray]] = {}
        self._pool = futures.ThreadPoolExecutor(1)
        self._writing: futures.Future | None = None
        self._last_s = time.monotonic()

    def add(self, found: Iterable[tuple[Kept, np.ndarray]]) -> None:
        """Takes new entries of some kinds.

        Raises:
          files.DiskFullError: no space for those before; shards that were written stay.
        """
        for kept, entries in found:
            self._held.setdefault(kept, []).append(entries)
        if time.monotonic() - self._last_s >= WRITE_EVERY_S:
            self._wait()
            self._writing = self._pool.submit(_write, self._take())

    def flush(self) -> None:
        """Returns when all is written. Errors as in `add`."""
        self._wait()
        # Here and not in the thread: Python starts no more work in threads when it ends.
        _write(self._take())

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _take(self) -> dict[Kept, list[np.ndarray]]:
        held, self._held, self._last_s = self._held, {}, time.monotonic()
        return held


def _write(held: Mapping[Kept, Sequence[np.ndarray]]) -> None:
    for kept, entries in held.items():
        kept.write(np.concatenate(entries))


def entry_dtype(record: np.dtype) -> np.dtype:
    """What is kept of one region, given the record of a picture's R regions."""
    own = [name for name in record.names or () if name not in ("size", *_HEADER)]
    fields = [(name, record[name].base, record[name].shape[1:]) for name in own]
    return np.dtype([*_HEADER.items(), *fields])


def shards(part: Part) -> list[Path]:
    """The shards of one kind that have grown so far."""
    # The whole name: one student's may begin with another's.
    digest = "[0-9a-f]" * 16
    return sorted((part.folder / FOLDER).glob(f"{part.kind}-{digest}.arrayrecord"))


def _payloads(path: Path, size: int) -> list[bytes]:
    """The records of a shard; none where it is absent or not what its sidecar says: then it is labelled again."""
    shard = records.read_sidecar(path)
    if shard is None or shard.name != path.name:
        return []
    if problems := records.problems(path.parent, shard, digest=True):
        logging.warning("%s is left out: %s", path, "; ".join(problems))
        return []
    payloads = records.Reader(path.parent, [shard]).read_all()
    return payloads if all(len(payload) == size for payload in payloads) else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Regions (row, number) whose pixels are ready: boxes, flips, and u8 (B, S, S, 3) by size S, padded to a batch."""

    pairs: Sequence[Pair]
    box: np.ndarray = dataclasses.field(repr=False)
    flip: np.ndarray = dataclasses.field(repr=False)
    pixels: Mapping[int, np.ndarray] = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labeller(label.Labeller):
    """Labels what is not there, region by region, and gives whole pictures as a `label.Labeller` does.

    Attributes:
      kept: the kinds.
    """

    kept: Sequence[Kept]

    def missing(self, rows: Int[np.ndarray, " B"], numbers: Int[np.ndarray, " B"]) -> list[Pair]:
        """Those of some regions, each (row, number), of which a kind is not there."""
        there = np.logical_and.reduce([kept.has(rows, numbers) for kept in self.kept])
        return list(zip(rows[~there].tolist(), numbers[~there].tolist()))

    def prepare(self, pairs: Iterable[Pair]) -> Batch:
        """Decodes and crops regions, at most `batch_size` of them.

        Raises:
          label.PictureErrors: a picture has changed since it was scanned.
        """
        pairs, rows, drawn = sorted(pairs), [], []
        for row, group in itertools.groupby(pairs, key=operator.itemgetter(0)):
            chosen, whole = [number for _, number in group], self.draw(row)
            rows.append(row)
            drawn.append(regions.Regions(whole.box[chosen], whole.flip[chosen]))
        where = np.array(pairs).T
        lacking = [kept.part.output.tower for kept in self.kept if not kept.has(*where).all()]
        sizes = sorted({tower.image_size for tower in lacking})
        crops = list(self._crops(rows, drawn, sizes))
        return Batch(
            pairs=pairs,
            box=np.concatenate([one.box for one in drawn]),
            flip=np.concatenate([one.flip for one in drawn]),
            pixels={
                size: self._padded(np.concatenate([crop[size] for crop in crops])) for size in sizes
            },
        )

    def finish(self, batch: Batch) -> list[tuple[Kept, np.ndarray]]:
        """Labels regions and computes their features, each where that is not there, and keeps it in memory.

        Returns:
          The kinds of which there is something new, and its entries.
        """
        where = np.array(batch.pairs).T
        found, seen, flip = [], {}, self._padded(batch.flip)
        for kept in self.kept:
            new = ~kept.has(*where)
            if new.any():
                tower = kept.part.output.tower
                # Programs of the build's own shapes: a region gets the same whatever its place and its neighbours.
                if tower.features not in seen:
                    seen[tower.features] = tower.features(batch.pixels[tower.image_size], flip)
                found.append((kept, new, kept.part.output.keep(seen[tower.features])))
        made = []
        # Read when all are under way: the device does not wait in between.
        for kept, new, output in found:
            arrays = {name: np.asarray(value)[: len(new)] for name, value in output.items()}
            arrays |= {"box": batch.box, "flip": batch.flip}
            pairs = [pair for pair, is_new in zip(batch.pairs, new) if is_new]
            made.append((kept, kept.put(pairs, {n: value[new] for n, value in arrays.items()})))
        return made

    def _padded(self, values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, self.batch_size - len(values)), *[(0, 0)] * (values.ndim - 1)])

    def __call__(
        self,
        rows: Sequence[int],
        outputs: Sequence[label.Output],
        *,
        tick: Callable[[int], Any] = lambda count: None,
    ) -> list[dict[str, np.ndarray]]:
        """All regions of some rows, as `label.Labeller` gives them; what is labelled for that is not kept."""
        asked = [next(kept for kept in self.kept if kept.part.output is one) for one in outputs]
        asked = [kept.of(rows) for kept in asked]
        some = dataclasses.replace(self, images=[self.images[row] for row in rows], kept=asked)
        pairs = np.indices((len(rows), self.regions)).reshape(2, -1).T
        there = np.stack([kept.has(*pairs.T) for kept in asked], axis=1)
        tick(int(there.all(axis=1).sum()))
        parts = []
        # Batches of regions that lack the same: no tower sees what is there.
        for kinds in np.unique(there, axis=0):
            todo = [] if kinds.all() else pairs[(there == kinds).all(axis=1)].tolist()
            cuts = range(0, len(todo), self.batch_size)
            parts += [[*map(tuple, todo[cut : cut + self.batch_size])] for cut in cuts]
        for batch in label.in_order(some.prepare, parts, 1):
            some.finish(batch)
            tick(len(batch.pairs))
        return [{name: kept.table[name] for name in kept.names} for kept in asked]
