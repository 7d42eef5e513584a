"""A lookup that grows: a run labels the regions that it is about to read, keeps them, and reads what is there.

The visit stream (`fdbpl_jax.data`) says beforehand which regions a run reads, and when. What of the coming steps is not
there yet is labelled, a full batch of the towers at a time, while the steps before them are trained: as many teacher
passes as with the teacher online, and none for what is there. Batches are those of streamed features, so a run on a
lookup built beforehand gives the same parameters. What was labelled lies in `<lookup>/grown` (`fdbpl_jax.grown`), and
several runs may grow one lookup. B regions of a step.
"""

import collections
import contextlib
import dataclasses
import json
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures

import numpy as np
from jaxtyping import Int

from core_jax.data import files, records
from fdbpl_jax import begin, crew, grown, label, layout, matching
from fdbpl_jax import lookup as lookups
from fdbpl_jax import plan as plans
from fdbpl_jax.config import ConfigError
from fdbpl_jax.target import Part, Target

# Where nearly all is there, looking for a full batch of what is not may go on to the end of a long run.
STEPS_AHEAD = 1000
_BATCHES_AHEAD = 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growing:
    """A lookup that is labelled as it is read.

    Attributes:
      lookup: its head: pictures, regions, inputs; nothing can be read from it before a build has completed it.
      labeller: what is there, and what makes the rest.
      writer: of what that makes. All of it is on disk when a reader's last step is read, when nobody holds this any
        more, and when Python ends: also by an error, or told to leave.
      lock: of whoever labels.
    """

    lookup: lookups.Lookup
    labeller: grown.Labeller = dataclasses.field(repr=False)
    writer: grown.Writer = dataclasses.field(repr=False, default_factory=grown.Writer)
    lock: threading.Lock = dataclasses.field(repr=False, default_factory=threading.Lock)

    def __post_init__(self):
        weakref.finalize(self, self.writer.flush)

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
    """See `Growing.reader`. A batch depends on its number alone, but steps in order make full batches of the towers."""

    def __init__(self, growing: Growing, ids: Callable[[int], dict[str, np.ndarray]], steps: int):
        self._growing, self._ids, self._steps = growing, ids, steps
        self._pool = futures.ThreadPoolExecutor(1)
        self._coming: collections.deque[tuple[list[grown.Pair], futures.Future]]
        self._coming = collections.deque()
        self._begin(0)

    def __call__(self, number: int) -> dict[str, np.ndarray]:
        number, ids = int(number), self._ids(number)
        with self._growing.lock:
            if number != self._next:
                self._begin(number)
            self._next = -1  # after a step that fails, the next one begins anew
            while self._missing(ids):
                self._look_ahead(number)
                batch = self._coming.popleft()[1].result()
                self._growing.writer.add(self._growing.labeller.finish(batch))
            if number == self._steps - 1:
                self._growing.writer.flush()
            self._next = number + 1
            return ids | self._growing.batch(ids["row"], ids["region"])

    def _missing(self, ids: dict[str, np.ndarray]) -> list[grown.Pair]:
        return self._growing.labeller.missing(ids["row"], ids["region"])

    def _begin(self, number: int) -> None:
        """Forgets what was looked at ahead: the steps are read from this one on."""
        for _, future in self._coming:
            future.cancel()
        self._coming.clear()
        self._next = self._scanned = number
        self._waiting: dict[grown.Pair, None] = {}

    def _look_ahead(self, number: int) -> None:
        """Has what is missing of the coming steps cropped, full batches: while the device sees one, the next is made."""
        size, end = self._growing.labeller.batch_size, min(self._steps, number + STEPS_AHEAD)
        coming = {pair for pairs, _ in self._coming for pair in pairs}
        self._scanned = max(self._scanned, number)
        while len(self._coming) < _BATCHES_AHEAD:
            while len(self._waiting) < size and self._scanned < end:
                missing = self._missing(self._ids(self._scanned))
                self._waiting |= dict.fromkeys(pair for pair in missing if pair not in coming)
                self._scanned += 1
            if len(self._waiting) < size and self._coming:
                return  # what is needed now is on its way, and later steps may fill the rest
            pairs = list(self._waiting)
            self._waiting, pairs = dict.fromkeys(pairs[size:]), pairs[:size]
            self._coming.append((pairs, self._pool.submit(self._growing.labeller.prepare, pairs)))
            coming.update(pairs)


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
    named = target.origin.get("label_space") != "dictionary"
    plans.check(target.dataset, settings, team.process, team.processes, named=named)
    parts = list(target.parts())
    _check_memory(target, parts)
    images = begin.begin([target], share=(team.process, team.processes), crew=team, progress=True)
    plan = json.loads((target.folder / layout.PLAN).read_text(encoding="utf-8"))
    if reasons := matching.mismatches(plan, images, expected):
        raise lookups.UnusableLookup(
            f"the lookup {target.folder} cannot grow by this run:\n  - " + "\n  - ".join(reasons)
        )
    files.remove_leftovers(target.folder / grown.FOLDER)
    kept = [grown.Kept(part, images) for part in parts]
    for one in kept:
        one.read_built(settings.shard_size)
    labeller = grown.Labeller(
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


def remember(labeller: label.Labeller, parts: Sequence[Part]) -> label.Labeller:
    """The labeller of a build, knowing what has grown of its parts: it labels the rest only."""
    if not any(map(grown.shards, parts)):
        return labeller
    fields = {field.name: getattr(labeller, field.name) for field in dataclasses.fields(labeller)}
    return grown.Labeller(**fields, kept=[grown.Kept(part, labeller.images) for part in parts])


def forget(parts: Iterable[Part]) -> None:
    """Deletes what has grown of parts whose build is complete."""
    for part in parts:
        for path in grown.shards(part):
            # The sidecar first: a shard without one does not exist.
            records.sidecar_path(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        files.remove_leftovers(part.folder / grown.FOLDER)
        with contextlib.suppress(OSError):
            (part.folder / grown.FOLDER).rmdir()  # other students' features may be left


def _check_memory(target: Target, parts: Sequence[Part]) -> None:
    regions = len(target.dataset.train) * target.settings.regions
    need = regions * sum(grown.entry_dtype(part.record).itemsize for part in parts)
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if need > have:
        raise ConfigError(
            f"config.data.source=grow: all regions of {len(target.dataset.train):,} pictures take {need / 2**30:.0f} "
            f"GiB of memory, and this machine has {have / 2**30:.0f}; build the lookup beforehand (python -m "
            "launch.lookup build), or lower config.lookup.regions"
        )
