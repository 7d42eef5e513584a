"""Batches on the devices ahead of time, and an iterator state that belongs to the batch last used.

A thread pulls host batches, cuts them over the mesh and keeps a few ready. Because it runs ahead,
the iterator's own state is of no use to a checkpoint: every `SNAPSHOT_EVERY` batches the thread
keeps the state as JSON, and a checkpoint holds the last one at or before the batch in use and how
many batches to skip from there.
"""

import itertools
import json
import queue
import threading
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SNAPSHOT_EVERY = 16
_DEPTH = 2


class Feed:
    """Iterator over (device batch, host arrays that name its samples).

    Args:
      dataset: grain data set of this process' slices; batches are flat dicts of arrays with the
        batch axis first. Entries of strings stay on the host.
      mesh: the batch axis is cut over its axis "data".
      host_keys: entries whose host arrays are handed out beside the batch.
      saved: what `state` returned, to go on right after that batch.
      first: batches to leave out where nothing is `saved`. Grain goes to the next one at once where
        every element is found by its number; else those before it are read and dropped.
    """

    def __init__(
        self,
        dataset: Any,
        mesh: Mesh,
        *,
        host_keys: tuple[str, ...] = (),
        saved: Mapping[str, Any] | None = None,
        first: int = 0,
    ):
        _allow_flags()
        self._iterator = iter(dataset)
        self._sharding = NamedSharding(mesh, PartitionSpec("data"))
        self._host_keys = host_keys
        self._queue: queue.Queue = queue.Queue(maxsize=_DEPTH)
        self._stop = threading.Event()
        if saved is not None:
            self._iterator.set_state(json.loads(saved["iterator"]))
        elif first and _jump(self._iterator, first):
            first = 0
        self._position = dict(saved or {"iterator": self._snapshot(), "skip": first})
        self._thread = threading.Thread(target=self._produce, name="feed", daemon=True)
        self._thread.start()

    def __iter__(self) -> "Feed":
        return self

    def __next__(self) -> tuple[dict[str, jax.Array], dict[str, np.ndarray]]:
        item = self._queue.get()
        if isinstance(item, BaseException):
            raise item
        batch, ids, self._position = item
        return batch, ids

    def state(self) -> dict[str, Any]:
        """Where the batch last handed out lies.

        Returns:
          {"iterator": JSON of an earlier state of the iterator, "skip": batches from there on}.
        """
        return self._position

    def close(self) -> None:
        """Stop the thread and the iterator's own threads and processes."""
        self._stop.set()
        # A source that hangs must not keep the process from ending: the thread is a daemon.
        self._thread.join(timeout=10)
        if hasattr(self._iterator, "close"):
            self._iterator.close()

    def _produce(self) -> None:
        try:
            snapshot, skip = self._position["iterator"], self._position["skip"]
            for _ in range(skip):
                if self._stop.is_set():
                    return
                next(self._iterator)
            for count in itertools.count(skip):
                if count and count % SNAPSHOT_EVERY == 0:
                    snapshot, skip = self._snapshot(), 0
                host = next(self._iterator)
                skip += 1
                batch, ids = self._split(host)
                placed = jax.make_array_from_process_local_data(self._sharding, batch)
                if not self._put((placed, ids, {"iterator": snapshot, "skip": skip})):
                    return
        except StopIteration:
            self._put(DataEndedError())
        except BaseException as error:  # handed to the loop, which raises it
            self._put(error)

    def _snapshot(self) -> str:
        return json.dumps(self._iterator.get_state())

    def _put(self, item: Any) -> bool:
        while not self._stop.is_set():
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def _split(self, host: Mapping[str, Any]) -> tuple[dict, dict]:
        arrays = {name: np.asarray(value) for name, value in host.items()}
        missing = [name for name in self._host_keys if name not in arrays]
        scalars = [name for name, array in arrays.items() if not array.ndim]
        sizes = {name: len(array) for name, array in arrays.items() if array.ndim}
        parts = self._sharding.mesh.shape["data"]
        problems = []
        if missing:
            problems.append(f"Task.batch_ids names {missing}, the batch has {sorted(arrays)}")
        if scalars:
            problems.append(f"{scalars} have no batch axis")
        if len(set(sizes.values())) > 1:
            problems.append(f"batch axes differ: {sizes}")
        elif sizes and next(iter(sizes.values())) * jax.process_count() % parts:
            problems.append(
                f"a batch of {next(iter(sizes.values()))} samples on each of {jax.process_count()} "
                f"processes does not divide over {parts} devices of the mesh axis 'data'"
            )
        if problems:
            raise ValueError("bad batch from Task.train_data:\n  " + "\n  ".join(problems))
        on_device = {
            name: array for name, array in arrays.items() if array.dtype.kind not in "USOT"
        }
        return on_device, {name: arrays[name] for name in self._host_keys}


def _jump(iterator: Any, batches: int) -> bool:
    """Move a fresh iterator on without reading; False where its data set cannot, and then nothing has moved."""
    import grain

    if not isinstance(iterator, grain.DatasetIterator):
        return False
    try:
        grain.experimental.set_next_index(iterator, batches)
    except (NotImplementedError, ValueError):
        return False
    return True


class DataEndedError(RuntimeError):
    """`Task.train_data` ran out of batches."""

    def __init__(self):
        super().__init__(
            "Task.train_data ended before Task.total_steps: it must be endless (`.repeat()`)"
        )


def _allow_flags() -> None:
    # grain's mp_prefetch reads absl flags and raises where nobody parsed them: notebooks, tests,
    # plain scripts.
    from absl import flags

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
