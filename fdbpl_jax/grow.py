"""A lookup that grows: a run labels the regions that it is about to read, keeps them, and reads what is there.

The visit stream (`fdbpl_jax.data`) says beforehand which regions a run reads, and when. What of the coming steps is not
there yet is labelled, a full batch of the towers at a time, while the steps before them are trained: as many teacher
passes as with the teacher online, and none for what is there. Batches are those of streamed features, so a run on a
lookup built beforehand gives the same parameters.

What was labelled is kept in `<lookup>/grown`: shards of one record a region, its part of the record that a build writes
(docs/formats.md), named by what they hold, so that several runs may grow one lookup. `remember` gives it to a build.
Shapes: n pictures, R regions of each, B regions of a step.
"""

import contextlib
import dataclasses
import hashlib
import itertools
import json
import operator
import os
import pathlib
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int

from core_jax.data import records
from fdbpl_jax import begin, crew, label, layout, matching, regions
from fdbpl_jax import lookup as lookups
from fdbpl_jax import plan as plans
from fdbpl_jax.config import ConfigError
from fdbpl_jax.target import Part, Target

Path = pathlib.Path
Pair = tuple[int, int]
FOLDER = "grown"
# What a record says of its picture is said of each region.
_HEADER = {"magic": "S4", "row": "<u4", "region": "<u2", "image": f"({layout.IMAGE_BYTES},)u1"}


class Kept:
    """The regions of one kind, labels or a student's features, in memory: those of a build and those that were grown.

    Args:
      part: the kind.
      images: the rows of the lookup.

    Attributes:
      table: structured (n, R); an entry without `magic` is not there. Memory is taken as it is filled.
      names: what a region's entry holds beside its header.
    """

    def __init__(self, part: Part, images: Sequence[layout.ImageRow]):
        self.part, self._images = part, images
        dtype = entry_dtype(part.record)
        self.names = tuple(name for name in dtype.names or () if name not in _HEADER)
        regions_each = part.record[self.names[0]].shape[0]
        self.table = np.zeros((len(images), regions_each), dtype)
        for path in shards(part):
            payloads = _payloads(path, dtype.itemsize)
            entries = np.frombuffer(b"".join(payloads), dtype)
            self.table[entries["row"], entries["region"]] = entries

    def read_built(self, shard_size: int) -> None:
        """Reads the shards of a build, complete or not, of `shard_size` pictures each."""
        ranges = layout.shard_rows(len(self._images), shard_size)
        for path, rows in zip(
            layout.shard_paths(self.part.folder, self.part.kind, len(ranges)), ranges
        ):
            payloads = _payloads(path, self.part.record.itemsize)
            if len(payloads) != len(rows):
                continue
            found = np.frombuffer(b"".join(payloads), self.part.record)
            some = self.table[rows.start : rows.stop]
            for name in self.names:
                some[name] = found[name]
            for name in ("magic", "row", "image"):
                some[name] = found[name][:, None]
            some["region"] = np.arange(some.shape[1])

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


def entry_dtype(record: np.dtype) -> np.dtype:
    """What is kept of one region, given the record of a picture's R regions."""
    own = [name for name in record.names or () if name not in ("size", *_HEADER)]
    fields = [(name, record[name].base, record[name].shape[1:]) for name in own]
    return np.dtype([*_HEADER.items(), *fields])


def shards(part: Part) -> list[Path]:
    """The shards of one kind that have grown so far."""
    return sorted((part.folder / FOLDER).glob(f"{part.kind}-*.arrayrecord"))


def _payloads(path: Path, size: int) -> list[bytes]:
    """The records of a shard; none where it is absent, or not what its sidecar says: then it is labelled again."""
    shard = records.read_sidecar(path)
    if shard is None or shard.name != path.name:
        return []
    if problems := records.problems(path.parent, shard, digest=True):
        logging.warning("%s is left out: %s", path, "; ".join(problems))
        return []
    payloads = records.Reader(path.parent, [shard]).read_all()
    return payloads if all(len(payload) == size for payload in payloads) else []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labeller(label.Labeller):
    """Labels what is not kept, region by region, and gives whole pictures as a `label.Labeller` does.

    Attributes:
      kept: the kinds.
    """

    kept: Sequence[Kept]

    def missing(self, rows: Int[np.ndarray, " B"], numbers: Int[np.ndarray, " B"]) -> list[Pair]:
        """Those of some regions, each (row, number), of which a kind is not there."""
        there = np.logical_and.reduce([kept.has(rows, numbers) for kept in self.kept])
        return list(zip(rows[~there].tolist(), numbers[~there].tolist()))

    def add(self, pairs: Iterable[Pair], *, write: bool) -> None:
        """Labels regions, and computes their features, where these are not there; at most `batch_size` of them.

        Args:
          pairs: (row, number) of each.
          write: also keep them on disk.

        Raises:
          label.PictureErrors: a picture has changed since it was scanned.
          files.DiskFullError: no space; shards that were written are kept.
        """
        pairs = sorted(pairs)
        lacking = [
            (kept, there) for kept in self.kept if not (there := kept.has(*np.array(pairs).T)).all()
        ]
        rows, drawn = [], []
        for row, group in itertools.groupby(pairs, key=operator.itemgetter(0)):
            chosen, whole = [number for _, number in group], self.draw(row)
            rows.append(row)
            drawn.append(regions.Regions(whole.box[chosen], whole.flip[chosen]))
        sizes = sorted({kept.part.output.tower.image_size for kept, _ in lacking})
        crops = list(self._crops(rows, drawn, sizes))
        box = np.concatenate([one.box for one in drawn])
        flip = np.concatenate([one.flip for one in drawn])
        # Programs of the build's own shapes: what a region gets depends neither on its place nor on its neighbours.
        batch = {
            size: self._padded(np.concatenate([crop[size] for crop in crops])) for size in sizes
        }
        outputs = []
        for kept, _ in lacking:
            output = kept.part.output
            features = output.tower.features(batch[output.tower.image_size], self._padded(flip))
            outputs.append(output.keep(features))
        for (kept, there), output in zip(lacking, outputs):
            arrays = {name: np.asarray(value)[: len(pairs)] for name, value in output.items()}
            arrays |= {"box": box, "flip": flip}
            new = [pair for pair, known in zip(pairs, there) if not known]
            entries = kept.put(new, {name: value[~there] for name, value in arrays.items()})
            if write:
                kept.write(entries)

    def _padded(self, values: np.ndarray) -> np.ndarray:
        return np.pad(values, [(0, self.batch_size - len(values)), *[(0, 0)] * (values.ndim - 1)])

    def __call__(
        self,
        rows: Sequence[int],
        outputs: Sequence[label.Output],
        *,
        tick: Callable[[int], Any] = lambda count: None,
    ) -> list[dict[str, np.ndarray]]:
        """All regions of some rows, as `label.Labeller` gives them."""
        asked = [next(kept for kept in self.kept if kept.part.output is one) for one in outputs]
        some = dataclasses.replace(self, kept=asked)
        grid = np.indices((len(rows), self.regions)).reshape(2, -1)
        todo = some.missing(np.array(rows)[grid[0]], grid[1])
        tick(len(rows) * self.regions - len(todo))
        for first in range(0, len(todo), self.batch_size):
            pairs = todo[first : first + self.batch_size]
            some.add(pairs, write=False)
            tick(len(pairs))
        return [{name: kept.table[rows][name] for name in kept.names} for kept in asked]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growing:
    """A lookup that is labelled as it is read.

    Attributes:
      lookup: its head: pictures, regions, inputs; nothing can be read from it before a build has completed it.
      labeller: what is there, and what makes the rest.
    """

    lookup: lookups.Lookup
    labeller: Labeller = dataclasses.field(repr=False)

    def reader(
        self, ids: Callable[[int], dict[str, np.ndarray]], steps: int
    ) -> Callable[[int], dict[str, np.ndarray]]:
        """A function from a step's number to its batch, labels and features included.

        Args:
          ids: from a step's number to `row` and `region` of its regions, and whatever else its batch holds.
          steps: of the run; what lies behind its end is never labelled.
        """
        return _Reader(self, ids, steps)

    def batch(
        self, rows: Int[np.ndarray, " B"], numbers: Int[np.ndarray, " B"]
    ) -> dict[str, np.ndarray]:
        """The entries of regions that are there, as `data.train_data` gives them from "features"."""
        found = {}
        for kept in self.labeller.kept:
            entries = kept.table[rows, numbers]
            found |= {name: np.ascontiguousarray(entries[name]) for name in kept.names}
        del found["box"]
        found["flip"] = found["flip"].astype(bool)
        if "index" in found:
            found["index"] = found["index"].astype(np.int32)
        return found


class _Reader:
    """See `Growing.reader`. Batches depend on their number alone; in order, full batches of the towers are labelled."""

    def __init__(self, growing: Growing, ids: Callable[[int], dict[str, np.ndarray]], steps: int):
        self._growing, self._ids, self._steps = growing, ids, steps
        # Regions of the steps before `_next` that wait for their labels, in the order they are read in.
        self._waiting: dict[Pair, None] = {}
        self._next = 0
        self._lock = threading.Lock()

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        ids = self._ids(number)
        with self._lock:
            while todo := self._missing(ids):
                self._label_some(todo, int(number))
            return ids | self._growing.batch(ids["row"], ids["region"])

    def _missing(self, ids: Mapping[str, np.ndarray]) -> list[Pair]:
        return self._growing.labeller.missing(ids["row"], ids["region"])

    def _label_some(self, todo: Sequence[Pair], number: int) -> None:
        labeller = self._growing.labeller
        waiting = dict.fromkeys([*todo, *self._waiting])
        self._next = max(self._next, number + 1)
        while len(waiting) < labeller.batch_size and self._next < self._steps:
            waiting |= dict.fromkeys(self._missing(self._ids(self._next)))
            self._next += 1
        pairs = list(waiting)
        labeller.add(pairs[: labeller.batch_size], write=True)
        self._waiting = dict.fromkeys(pairs[labeller.batch_size :])


def open(target: Target, expected: lookups.Expected) -> Growing:
    """Opens a lookup to grow: a new one, one that grew before, one whose build was interrupted, or a complete one.

    Every process of JAX's job has to call it. The head of a new lookup is written, nothing else.

    Args:
      target: the lookup, as a build of it would have it.
      expected: the run's assumptions, as `lookup.open` has them.

    Raises:
      label.PictureErrors: unreadable pictures.
      plan.PlanMismatch: the folder was begun with other inputs; nothing was written.
      lookup.UnusableLookup: pictures of the run are not among the lookup's, or have changed.
      ConfigError: it does not fit into memory.
    """
    settings, team = target.settings, crew.Crew.of_job()
    plans.check(target.dataset, settings, team.process, team.processes)
    parts = list(target.parts())
    _check_memory(target, parts)
    images = begin.begin([target], share=(team.process, team.processes), crew=team)
    if team.leads:
        # It serves a build that is interrupted before it has a head.
        shutil.rmtree(begin.scan_folder(target), ignore_errors=True)
    plan = json.loads((target.folder / layout.PLAN).read_text(encoding="utf-8"))
    if reasons := matching.mismatches(plan, images, expected):
        raise lookups.UnusableLookup(
            f"the lookup {target.folder} cannot grow by this run:\n  - " + "\n  - ".join(reasons)
        )
    kept = [Kept(part, images) for part in parts]
    for one in kept:
        one.read_built(settings.shard_size)
    labeller = Labeller(
        root=target.dataset.root,
        images=images,
        regions=settings.regions,
        seed=settings.seed,
        rule=settings.rule,
        batch_size=settings.batch_size,
        threads=settings.threads,
        kept=kept,
    )
    lookup = lookups.Lookup(folder=target.folder, manifest=plan, images=images)
    return Growing(lookup=lookup, labeller=labeller)


def _check_memory(target: Target, parts: Sequence[Part]) -> None:
    need = len(target.dataset.train) * sum(part.record.itemsize for part in parts)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise ConfigError(
            f"config.data.source=grow: all regions of {len(target.dataset.train):,} pictures take {need / 2**30:.0f} "
            f"GiB of memory, and this machine has {have / 2**30:.0f}; build the lookup beforehand (python -m "
            "launch.lookup build), or lower config.lookup.regions"
        )


def remember(labeller: label.Labeller, parts: Sequence[Part]) -> label.Labeller:
    """The labeller of a build, knowing what has grown of its parts: it labels the rest only."""
    if not any(map(shards, parts)):
        return labeller
    fields = {field.name: getattr(labeller, field.name) for field in dataclasses.fields(labeller)}
    return Labeller(**fields, kept=[Kept(part, labeller.images) for part in parts])


def forget(parts: Iterable[Part]) -> None:
    """Deletes what has grown of parts whose build is complete."""
    for part in parts:
        for path in shards(part):
            # The sidecar first: a shard without one does not exist.
            records.sidecar_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (part.folder / FOLDER).rmdir()  # other students' features may be left
