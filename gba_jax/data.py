"""What a training step reads: a grain pipeline over a segmentation data set.

Position g = 0, 1, 2, ... of the endless stream reads picture perm("images:<seed>:<g div n>", n)[g mod n] of n, seen
through the window that the four random numbers "window:<seed>:<g>" place (`gba_jax.geometry`). Step t reads positions
t B ... (t + 1) B - 1, and process p of P the p-th slice of them: contents depend neither on the number of processes nor
on the number of workers, and a restored iterator goes on bit for bit.

Batch, for B pictures, windows of S x S pixels and G slots: `image` u8 (B, S, S, 3), not normalised; `label` i32
(B, S, S), -1 ignored; `segment` i32 (B, S, S), slot of every pixel, -1 for none; `classes` i32 (B, G), class of every
slot, -1 for padding; `dropped` i32 (B,), segments beyond the G largest; `image_id` text (B,).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int32

from core_jax.data import files, rng, stream
from gba_jax import geometry
from gba_jax.datasets import IGNORE, Dataset, Sample


def train_data(
    dataset: Dataset,
    *,
    batch_size: int,
    size: int,
    seed: int,
    augment: str,
    slots: int = 64,
    workers: int = 0,
    threads: int = 2,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Any:
    """An endless, seeded, checkpointable grain data set of this process' slice of every batch.

    Args:
      dataset: the training pictures.
      batch_size: B, pictures per step over all processes.
      size: S, side of the window in pixels.
      seed: of the order of pictures and of their windows.
      augment: a key of `geometry.RULES`.
      slots: G, segments of a picture that are kept, the largest in the window first.
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
    _check(dataset, batch_size, size, augment, slots, processes)
    share = stream.Share(per_step=batch_size, process=process, processes=processes)
    source = _Windows(
        dataset=dataset, share=share, seed=seed, size=size, augment=augment, slots=slots
    )

    import grain

    # Read-ahead is counted in pictures; two steps of it hide a slow file without filling the memory with pixels.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * share.count)
    elements = grain.MapDataset.source(source).to_iter_dataset(options)
    if workers:
        elements = elements.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=4)
        )
    # Batching comes last: before the workers it would make the order depend on how many there are.
    return elements.batch(share.count, batch_fn=_stack)


def digest(dataset: Dataset) -> str:
    """SHA-256 of a data set's name, split, classes and list of pictures: everything but pixels and the place on disk."""
    ids = [item.image_id for item in dataset.items]
    return files.digest([dataset.name, dataset.split, dataset.classes, ids])


def table_slots(
    rows: Int32[np.ndarray, "H W"], classes: Int32[np.ndarray, "S"], slots: int
) -> tuple[Int32[np.ndarray, "H W"], Int32[np.ndarray, "G"], int]:
    """Puts the segments that a window shows into G slots, the largest first.

    Args:
      rows: position in the table of every pixel's segment, -1 for none.
      classes: class of every segment of the table, -1 for those that are not to be learned.
      slots: G.

    Returns:
      (slot of every pixel, -1 for none; class of every slot, -1 for padding; number of segments beyond G).
    """
    area = np.bincount(rows[rows >= 0], minlength=len(classes))
    order = np.argsort(-area, kind="stable")
    order = order[(area[order] > 0) & (classes[order] >= 0)]
    kept = order[:slots]
    # One place more than segments: that of the pixels without any.
    slot = np.full(len(classes) + 1, IGNORE, np.int32)
    slot[kept] = np.arange(len(kept))
    table = np.full(slots, IGNORE, np.int32)
    table[: len(kept)] = classes[kept]
    return slot[rows], table, len(order) - len(kept)


def _check(
    dataset: Dataset, batch_size: int, size: int, augment: str, slots: int, processes: int
) -> None:
    problems = []
    if not len(dataset):
        problems.append(f"data set {dataset.name!r}, split {dataset.split!r}, holds no pictures")
    if batch_size < 1 or batch_size % processes:
        problems.append(
            f"batch_size={batch_size} must be a positive multiple of {processes} process(es)"
        )
    problems += [
        f"{name}={value} must be positive"
        for name, value in (("size", size), ("slots", slots))
        if value < 1
    ]
    if augment not in geometry.RULES:
        problems.append(f"augment={augment!r} is none of {', '.join(geometry.RULES)}")
    if problems:
        raise ValueError("the training data cannot be read: " + "; ".join(problems))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Windows:
    """Indices of this process' sequence -> the windows read there."""

    dataset: Dataset
    share: stream.Share
    seed: int
    size: int
    augment: str
    slots: int

    def __len__(self) -> int:
        return stream.ENDLESS

    def __repr__(self) -> str:
        # The same on every machine: no folder, no address.
        return (
            f"Windows(data={digest(self.dataset)[:16]}, seed={self.seed}, size={self.size}, augment={self.augment}, "
            f"slots={self.slots}, batch={self.share.per_step}, slice={self.share.process}/{self.share.processes})"
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        position = self.share.position(int(index))
        sample = self.dataset[stream.picture(self.seed, position, len(self.dataset))]
        draws = rng.uniform(rng.philox_words(f"window:{self.seed}:{position}", geometry.DRAWS))
        placement = geometry.RULES[self.augment](sample.labels.shape, self.size, draws)
        rows, classes = self._table(sample)
        seen = geometry.place(
            geometry.Picture(sample.image, sample.labels, rows), placement, self.size
        )
        segment, table, dropped = table_slots(seen.segments, classes, self.slots)
        return {
            "image": seen.image,
            "label": seen.labels,
            "segment": segment,
            "classes": table,
            "dropped": np.int32(dropped),
            "image_id": sample.image_id,
        }

    def _table(self, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Row of every pixel's segment, and class of every row; without segments a row is a class."""
        if sample.segments is None:
            return sample.labels, np.arange(len(self.dataset.classes), dtype=np.int32)
        segments = sample.segments
        return segments.map, np.where(segments.crowd, np.int32(IGNORE), segments.classes)


def _stack(entries: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    return {name: np.stack([entry[name] for entry in entries]) for name in entries[0]}
