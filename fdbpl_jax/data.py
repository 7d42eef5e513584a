"""What a training step reads: the visit stream, and grain pipelines that turn visits into batches.

A visit takes K regions of one image. Visit v = 0, 1, 2, ... is a pure function of (seed, v), for n images with R
stored regions each:

  pass e = v div n;              image i = perm("images:<seed>:<e>", n)[v mod n]
  cycle c = e div (R / K);       turn j = e mod (R / K)
  regions = perm("regions:<seed>:<image SHA-256>:<c>", R)[j K : (j + 1) K]

Step t reads visits t B/K ... (t + 1) B/K - 1, and process p of P the p-th slice of them: contents depend neither on
the number of processes nor on the number of workers, and no region of an image repeats within R/K passes.

Batch: `image` u8 (B, S, S, 3) or `feature` f16 (B, D); `flip` bool (B,) (already applied to features); `index` i32 and
`logp` f16 (B, k), `rest`, `entropy` f16 (B,) (dense: no index and rest, logp (B, C)); `mask` f32, `label`, `row`,
`region` i32 (B,). Pixels are not normalised.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int64

from core_jax.data import images, rng, stream
from fdbpl_jax import grow, regions
from fdbpl_jax import lookup as lookups
from fdbpl_jax.datasets import Item

Path = pathlib.Path
SOURCES = ("resident", "features", "images", "grow", "fresh")


# An image keeps one order of its regions for R / K passes.
@functools.lru_cache(maxsize=65_536)
def _region_order(seed: int, sha256: str, cycle: int, count: int) -> np.ndarray:
    return rng.permutation(f"regions:{seed}:{sha256}:{cycle}", count).astype(np.uint16)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Visits:
    """The visit stream of a run.

    Attributes:
      seed: of the run.
      num_images: n.
      per_visit: K.
      stored: R; 0 when regions are drawn afresh.
      digests: SHA-256 of every image file, where R > 0.
    """

    seed: int
    num_images: int
    per_visit: int
    stored: int = 0
    digests: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def image(self, visit: int) -> int:
        """The position, in the list of training pictures, of the image that a visit reads."""
        return stream.picture(self.seed, visit, self.num_images)

    def regions(self, visit: int) -> Int64[np.ndarray, " K"]:
        """The stored regions that a visit reads; drawn afresh, they are all numbered -1."""
        if not self.stored:
            return np.full(self.per_visit, -1, np.int64)
        cycle, turn = divmod(visit // self.num_images, self.stored // self.per_visit)
        order = _region_order(self.seed, self.digests[self.image(visit)], cycle, self.stored)
        return order[turn * self.per_visit : (turn + 1) * self.per_visit].astype(np.int64)


def total_steps(num_images: int, batch_size: int, epochs: int) -> int:
    """Steps of a run; an epoch is as many regions as there are images, and at least one step."""
    return epochs * max(1, num_images // batch_size)


def train_data(
    items: Sequence[Item],
    root: Path,
    *,
    source: str,
    batch_size: int,
    regions_per_visit: int,
    seed: int,
    image_size: int,
    teacher_size: int | None = None,
    lookup: lookups.Lookup | None = None,
    growing: grow.Growing | None = None,
    steps: int = 0,
    rule: regions.CropRule = regions.FRESH_RULE,
    workers: int = 0,
    threads: int = 2,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Any:
    """An endless, seeded, checkpointable grain data set of this process' slice of every batch.

    Args:
      items: the run's training pictures, in the order of the few-shot list.
      root: the picture folder; read for "images" and "fresh" only.
      source: "resident": only row, region, label and mask, for a lookup that lies on the device (`gather`);
        "features": stored student features with the labels; "images": pixels of stored regions with the labels; "grow":
        what "features" gives, of a lookup that is labelled as it is read;
        "fresh": pixels of regions drawn for each visit from (seed, visit), without labels of a teacher.
      batch_size: B, regions per step over all processes.
      regions_per_visit: K.
      seed: of the order of images and regions.
      image_size: side of the student's pictures in pixels.
      teacher_size: side of an online teacher's pictures; where it differs, batches also hold `teacher_image`.
      lookup: opened; needed unless the source is "fresh".
      growing: the same lookup; needed where the source is "grow".
      steps: of the run, needed there too: the data end with it, for nothing behind its end is to be labelled.
      rule: the law of fresh regions.
      workers: processes that decode; 0 decodes in threads of this one.
      threads: that read ahead in each process.
      process_index: this process, `jax.process_index()` unless given.
      process_count: all processes, `jax.process_count()` unless given.

    Returns:
      A grain IterDataset of dicts of NumPy arrays; its iterator has get_state and set_state.

    Raises:
      ValueError: listing what does not fit together.
    """
    process = jax.process_index() if process_index is None else process_index
    processes = jax.process_count() if process_count is None else process_count
    _check(items, source, batch_size, regions_per_visit, processes, lookup)
    if (source == "grow") != (growing is not None):
        raise ValueError(f"source={source!r}: a growing lookup is given if and only if it is read")
    if source == "fresh":
        lookup = None
    rows = np.full(len(items), -1) if lookup is None else lookup.rows_of(items)
    visits = Visits(
        seed=seed,
        num_images=len(items),
        per_visit=regions_per_visit,
        stored=0 if lookup is None else lookup.regions,
        digests=() if lookup is None else tuple(lookup.images[row].sha256 for row in rows),
    )
    share = stream.Share(
        per_step=batch_size // regions_per_visit, process=process, processes=processes
    )
    ids = _Ids(visits=visits, share=share, rows=rows, labels=np.array([i.label for i in items]))

    import grain

    if source in ("resident", "grow"):
        # A whole step is one element: ids cost microseconds, and what grows is labelled in the order of the steps, by
        # one thread of this process. There is nothing for workers to do.
        read = ids.step if growing is None else growing.reader(ids.step, steps)
        count = stream.ENDLESS // share.count if growing is None else steps
        whole = grain.MapDataset.range(count).map(read)
        return whole.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=16))
    load = _Load(
        ids=ids,
        paths=tuple(item.path for item in items),
        root=Path(root),
        sizes=_sizes(source, image_size, teacher_size),
        lookup=lookup,
        features=source == "features",
        rule=rule,
    )
    # Read-ahead is counted in visits; two steps of it hide a slow file without filling the memory with pixels.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * share.count)
    elements = grain.MapDataset.range(stream.ENDLESS).map(load).to_iter_dataset(options)
    if workers:
        elements = elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4)
        )
    # Batching comes last: before the workers it would make the order depend on how many there are.
    return elements.batch(share.count, batch_fn=_join)


def _sizes(source: str, image_size: int, teacher_size: int | None) -> dict[str, int]:
    if source == "features":
        return {}
    sizes = {"image": image_size}
    if teacher_size is not None and teacher_size != image_size:
        sizes["teacher_image"] = teacher_size
    return sizes


def _check(
    items: Sequence[Item],
    source: str,
    batch_size: int,
    per_visit: int,
    processes: int,
    lookup: lookups.Lookup | None,
) -> None:
    problems = []
    if source not in SOURCES:
        problems.append(f"source={source!r} is none of {', '.join(SOURCES)}")
    if not items:
        problems.append("the list of training pictures is empty")
    if per_visit < 1 or batch_size < 1 or batch_size % max(1, per_visit * processes):
        problems.append(
            f"batch_size={batch_size} must be a multiple of regions_per_visit={per_visit} times {processes} "
            "process(es)"
        )
    if source != "fresh" and lookup is None:
        problems.append(f"source={source!r} reads a lookup, and none was given")
    if lookup is not None and source != "fresh" and lookup.regions % max(1, per_visit):
        problems.append(
            f"the {lookup.regions} stored regions are no multiple of regions_per_visit={per_visit}"
        )
    if source == "features" and lookup is not None and lookup.student is None:
        problems.append(
            "source='features', but the lookup was opened without stored features of this run's student"
        )
    if problems:
        raise ValueError("the training data cannot be read: " + "; ".join(problems))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Ids:
    """Positions of this process' sequence -> ids of what is read there."""

    visits: Visits
    share: stream.Share
    rows: np.ndarray = dataclasses.field(repr=False)
    labels: np.ndarray = dataclasses.field(repr=False)

    def visit(self, position: int) -> tuple[int, int, dict[str, np.ndarray]]:
        """(visit, place of the image in the list, ids of its K regions)."""
        visit = self.share.position(int(position))
        place, count = self.visits.image(visit), self.visits.per_visit
        ids = {
            "row": np.full(count, self.rows[place], np.int32),
            "region": self.visits.regions(visit).astype(np.int32),
            "label": np.full(count, self.labels[place], np.int32),
            "mask": np.ones(count, np.float32),
        }
        return visit, place, ids

    def step(self, number: int) -> dict[str, np.ndarray]:
        """The ids of all visits of a step; equal to joining them one by one, at a tenth of the cost."""
        first, count = int(number) * self.share.count, self.visits.per_visit
        visits = [self.share.position(first + i) for i in range(self.share.count)]
        places = np.repeat([self.visits.image(visit) for visit in visits], count)
        chosen = np.concatenate([self.visits.regions(visit) for visit in visits])
        return {
            "row": self.rows[places].astype(np.int32),
            "region": chosen.astype(np.int32),
            "label": self.labels[places].astype(np.int32),
            "mask": np.ones(len(places), np.float32),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Load:
    """A position of this process' sequence -> the K regions read there."""

    ids: _Ids
    paths: tuple[str, ...] = dataclasses.field(repr=False)
    root: Path
    sizes: dict[str, int]
    lookup: lookups.Lookup | None
    features: bool
    rule: regions.CropRule

    def __call__(self, position: int) -> dict[str, np.ndarray]:
        visit, place, entry = self.ids.visit(position)
        image = images.decode(self.root / self.paths[place]) if self.sizes else None
        if self.lookup is None:
            assert image is not None
            height, width = image.shape[:2]
            name = regions.fresh_stream(self.ids.visits.seed, visit)
            box, flip = regions.draw(name, height, width, len(entry["region"]), self.rule)
        else:
            chosen = entry["region"]
            record = self.lookup.record(int(entry["row"][0]))
            box, flip = record["box"][chosen], record["flip"][chosen].astype(bool)
            entry |= _labels(record, chosen)
            if self.features:
                entry["feature"] = self.lookup.features(int(entry["row"][0]))[chosen]
            if image is not None and image.shape[:2] != tuple(record["size"].tolist()):
                raise images.ImageError(
                    f"{self.root / self.paths[place]} is now {image.shape[0]} x {image.shape[1]} pixels, and was "
                    f"{' x '.join(map(str, record['size']))} when the lookup was built"
                )
        for name, size in self.sizes.items():
            assert image is not None
            entry[name] = regions.crop(image, box, size)
        return entry | {"flip": flip}


def _labels(record: np.void, chosen: np.ndarray) -> dict[str, np.ndarray]:
    stored = record.dtype.names or ()
    names = [name for name in ("index", "logp", "rest", "entropy") if name in stored]
    found = {name: record[name][chosen] for name in names}
    if "index" in found:
        found["index"] = found["index"].astype(np.int32)
    return found


def _join(entries: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([entry[name] for entry in entries]) for name in entries[0]}


def gather(
    arrays: dict[str, Array], row: Int[Array, " B"], region: Int[Array, " B"]
) -> dict[str, Array]:
    """A resident lookup's entries of a batch, equal to what streaming yields; pure, for use inside jit.

    Args:
      arrays: `Lookup.arrays()` on the device.
      row: the batch's rows.
      region: the batch's regions.

    Returns:
      flip, logp, entropy, and index (int32), rest, feature where the lookup has them; without boxes.
    """
    found = {name: value[row, region] for name, value in arrays.items() if name != "box"}
    if "index" in found:
        found["index"] = found["index"].astype(jnp.int32)
    return found
