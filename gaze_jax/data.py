"""What a training step of gaze reads: a grain pipeline over the rows of a gaze set, with references where a model compares.

Position g = 0, 1, 2, ... of the endless stream reads row perm("images:<seed>:<g div n>", n)[g mod n] of n training rows. Its
reference comes from words 2 g and 2 g + 1 of the stream "pairs:<seed>": with the first the query is its own reference
(`Pairs.self_probability`), with the second one of the person's other pictures of the same side is chosen, each alike. Step t
reads positions t B ... (t + 1) B - 1, and process p of P the p-th slice of them: contents depend neither on the number of
processes nor on the number of workers, and a restored iterator goes on bit for bit.

Batch: that of `GazeSet.batch`; with pairs also "ref_image" uint8 (B, H, W, c), "ref_gaze" and "ref_head" float32 (B, 2),
"ref_index" int32 (B,). Pixels are neither normalised nor augmented: that happens on the device.
"""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from core_jax.data import files, rng, stream
from gaze_jax.gaze_set import REFERENCE, GazeSet

_SHOWN = 5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pairs:
    """How the reference of a query is chosen.

    Attributes:
      self_probability: how often the query is its own reference, which teaches a model to answer from one picture.
      pool_sides: whether a left eye may refer to a right one of the same person; all are in left-eye form.
    """

    self_probability: float = 0.0
    pool_sides: bool = False


class Order:
    """Which rows every step reads; cheap, so that a set that lies on the device needs nothing else of the pipeline.

    Args:
      gaze_set: the set.
      rows: the training rows.
      seed: of the order and of the pairs.
      share: which positions of a step belong to this process.
      pairs: how references are chosen; None for a model that looks at one picture.

    Raises:
      ValueError: a person has only one picture to refer to.
    """

    def __init__(
        self,
        gaze_set: GazeSet,
        rows: Int[np.ndarray, " n"],
        *,
        seed: int,
        share: stream.Share,
        pairs: Pairs | None = None,
    ):
        self._rows = np.asarray(rows, np.int64)
        self._seed, self._share, self._pairs = seed, share, pairs
        if pairs is not None:
            side = np.zeros_like(gaze_set.side) if pairs.pool_sides else gaze_set.side
            keys = np.stack([gaze_set.person[self._rows], side[self._rows]], axis=1)
            groups, group = np.unique(keys, axis=0, return_inverse=True)
            self._group = group.reshape(-1)
            # Members of a group lie together: a group is where it starts and how many it has.
            self._members = np.argsort(self._group, kind="stable")
            self._size = np.bincount(self._group)
            self._start = np.cumsum(self._size) - self._size
            self._place = np.empty_like(self._members)
            self._place[self._members] = np.arange(len(self._rows)) - np.repeat(
                self._start, self._size
            )
            _check_groups(gaze_set, groups[self._size < 2])

    def step(self, number: int) -> dict[str, Int[np.ndarray, " b"]]:
        """The rows of this process' slice of a step: "index", and "ref_index" with pairs."""
        count, n = self._share.count, len(self._rows)
        first = self._share.position(int(number) * count)
        places = np.array(
            [stream.picture(self._seed, first + i, n) for i in range(count)], np.int64
        )
        found = {"index": self._rows[places]}
        if self._pairs is None:
            return found
        words = rng.philox_words(f"pairs:{self._seed}", 2 * count, 2 * first).reshape(count, 2)
        draws = rng.uniform(words)
        group = self._group[places]
        other = (draws[:, 1] * (self._size[group] - 1)).astype(np.int64)
        # The query itself is left out: from its own place on, the next member is meant.
        other += other >= self._place[places]
        chosen = self._members[self._start[group] + other]
        itself = draws[:, 0] < self._pairs.self_probability
        return found | {"ref_index": self._rows[np.where(itself, places, chosen)]}


def train_data(
    gaze_set: GazeSet,
    rows: Int[np.ndarray, " n"],
    *,
    batch_size: int,
    seed: int,
    pairs: Pairs | None = None,
    workers: int = 0,
    threads: int = 2,
    rows_only: bool = False,
    process_index: int | None = None,
    process_count: int | None = None,
) -> Any:
    """An endless, seeded, checkpointable grain data set of this process' slice of every batch.

    Args:
      gaze_set: the set.
      rows: its training rows, without repetition.
      batch_size: B, queries per step over all processes.
      seed: of the order and of the pairs.
      pairs: how references are chosen; None for a model that looks at one picture.
      workers: processes that read; 0 reads in threads of this one.
      threads: that read ahead in each process.
      rows_only: batches hold "index" and "ref_index" and nothing else, for a set that lies on the device
        (`gaze_jax.resident`); the position of a stream is the same either way.
      process_index: this process, `jax.process_index()` unless given.
      process_count: all processes, `jax.process_count()` unless given.

    Returns:
      A grain IterDataset of dicts of NumPy arrays; its iterator has get_state and set_state.

    Raises:
      ValueError: listing what does not fit together.
    """
    process = jax.process_index() if process_index is None else process_index
    processes = jax.process_count() if process_count is None else process_count
    rows = np.asarray(rows, np.int64)
    _check(gaze_set, rows, batch_size, pairs, processes)
    share = stream.Share(per_step=batch_size, process=process, processes=processes)
    order = Order(gaze_set, rows, seed=seed, share=share, pairs=pairs)
    name = (
        f"Steps(data={gaze_set.digest[:16]}, rows={files.digest(rows.tolist())[:16]}, seed={seed}, pairs={pairs}, "
        f"batch={batch_size}, slice={process}/{processes})"
    )
    source = _Steps(
        gaze_set=gaze_set, order=order, count=share.count, rows_only=rows_only, name=name
    )

    import grain

    # A whole step is one element: a set in memory is gathered at once, and the stream has no end that could be cut.
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    steps = grain.MapDataset.source(source).to_iter_dataset(options)
    if workers:
        steps = steps.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers, per_worker_buffer_size=2)
        )
    return steps


def total_steps(count: int, batch_size: int, epochs: int) -> int:
    """Steps of a run over `count` rows: at least one an epoch, the incomplete last batch of an epoch not counted."""
    return epochs * max(1, count // batch_size)


def _check(
    gaze_set: GazeSet, rows: np.ndarray, batch_size: int, pairs: Pairs | None, processes: int
) -> None:
    problems = []
    if not len(rows):
        problems.append(f"no training rows of {gaze_set.name!r} were given")
    elif rows.min() < 0 or rows.max() >= len(gaze_set) or len(np.unique(rows)) < len(rows):
        problems.append(f"the rows must be different numbers below {len(gaze_set)}")
    if batch_size < 1 or batch_size % processes:
        problems.append(
            f"batch_size={batch_size} must be a positive multiple of {processes} process(es)"
        )
    if pairs is not None and not 0 <= pairs.self_probability <= 1:
        problems.append(f"self_probability={pairs.self_probability} must lie between 0 and 1")
    if problems:
        raise ValueError("the training data cannot be read: " + "; ".join(problems))


def _check_groups(gaze_set: GazeSet, lonely: np.ndarray) -> None:
    if len(lonely):
        shown = [f"{gaze_set.persons[person]} (side {side})" for person, side in lonely[:_SHOWN]]
        more = f" and {len(lonely) - _SHOWN} more" if len(lonely) > _SHOWN else ""
        raise ValueError(
            f"{gaze_set.name}: pairs need two training pictures of a person and side, and there is only one of "
            f"{', '.join(shown)}{more}. Leave these persons out, or pool the sides"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Steps:
    """Number of a step -> what this process reads in it."""

    gaze_set: GazeSet
    order: Order
    count: int
    rows_only: bool
    name: str

    def __len__(self) -> int:
        return stream.ENDLESS // self.count

    def __repr__(self) -> str:
        # grain compares this when an iterator is restored: no folder, no address.
        return self.name

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        rows = self.order.step(int(index))
        if self.rows_only:
            return {key: numbers.astype(np.int32) for key, numbers in rows.items()}
        batch = self.gaze_set.batch(rows["index"])
        if "ref_index" in rows:
            reference = self.gaze_set.batch(rows["ref_index"])
            batch |= {f"ref_{key}": reference[key] for key in REFERENCE}
        return batch
