"""One pass over regions of pictures: decoding and cropping in threads, the device kept busy with batches."""

import collections
import dataclasses
import hashlib
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from core_jax.data import images
from fdbpl_jax import layout, regions
from fdbpl_jax.towers import Student, Teacher

Path = pathlib.Path
# exp(-30) = 1e-13: beyond float32's resolution of a probability, and well inside float16's range of logarithms.
REST_FLOOR = -30.0
_IN_FLIGHT = 2


class PictureErrors(ValueError):
    """Pictures that cannot be labelled; the message lists them."""


def truncate(logits: Float[Array, "B C"], top_k: int | None) -> dict[str, Array]:
    """A teacher's logits as stored: log-probabilities after the full softmax, the largest k or all.

    Args:
      logits: float32, logit scale included.
      top_k: k; None keeps every class, in class order.

    Returns:
      logp f16 (B, k) descending, or (B, C); entropy f16 (B,), of the full distribution over log C; and with top_k
      index u16 (B, k), ties to the lower class, and rest f16 (B,), the log of the remaining mass.
    """
    logits = logits.astype(jnp.float32)
    count = logits.shape[1]
    logp = jax.nn.log_softmax(logits, axis=-1)
    entropy = -jnp.sum(jnp.exp(logp) * logp, axis=-1) / jnp.log(jnp.float32(count))
    found = {"entropy": jnp.clip(entropy, 0.0, 1.0).astype(jnp.float16)}
    if top_k is None:
        return found | {"logp": logp.astype(jnp.float16)}
    kept, index = jax.lax.top_k(logp, top_k)
    # 1 - sum of the kept would lose every digit of a small remainder: add up what is dropped instead.
    rows = jnp.arange(len(logp))[:, None]
    rest = jax.scipy.special.logsumexp(logp.at[rows, index].set(-jnp.inf), axis=-1)
    return found | {
        "index": index.astype(jnp.uint16),
        "logp": kept.astype(jnp.float16),
        "rest": jnp.maximum(rest, REST_FLOOR).astype(jnp.float16),
    }


_truncate = jax.jit(truncate, static_argnames="top_k")


def default_threads() -> int:
    """Threads for decoding: pillow releases the interpreter lock, so as many as there are cores, up to 16."""
    return max(2, min(16, os.cpu_count() or 1))


def in_order(
    function: Callable[[Any], Any], values: Iterable[Any], threads: int | None = None
) -> Iterator[Any]:
    """What a function gives for each value, in their order; threads compute a few ahead, never all."""
    threads = threads or default_threads()
    queue: collections.deque = collections.deque()
    with futures.ThreadPoolExecutor(threads) as pool:
        try:
            for value in values:
                queue.append(pool.submit(function, value))
                if len(queue) > threads + 2:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()


def read(path: Path) -> tuple[bytes, np.ndarray]:
    """A picture file's bytes and its pixels, u8 (H, W, 3).

    Raises:
      images.ImageError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise images.ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    return data, images.decode_bytes(data, str(path))


@dataclasses.dataclass(frozen=True)
class Output:
    """What is kept of the regions as one tower sees them: unit-norm features f32 (B, D) in, named arrays (B, ...) out.

    Outputs whose towers have the same `features` function share its pass.
    """

    tower: Teacher | Student
    keep: Callable[[Float[Array, "B D"]], dict[str, Array]]


def labels(teacher: Teacher, top_k: int | None) -> Output:
    """A teacher's labels as `truncate` gives them."""
    return Output(teacher, lambda features: _truncate(teacher.label(features), top_k=top_k))


def features(student: Student) -> Output:
    """A student's features: `feature` f16 (B, D)."""
    return Output(student, lambda features: {"feature": features.astype(jnp.float16)})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Labeller:
    """What turns rows of a lookup into its arrays.

    Attributes:
      root: the picture folder.
      images: the rows.
      regions: R.
      seed: of the boxes.
      rule: their law.
      batch_size: regions in one forward pass; the last of a call is padded, so everything compiles once.
      threads: that decode and crop.
    """

    root: Path
    images: Sequence[layout.ImageRow]
    regions: int
    seed: int
    rule: regions.CropRule
    batch_size: int
    threads: int | None = None

    def __call__(
        self,
        rows: Sequence[int],
        outputs: Sequence[Output],
        *,
        tick: Callable[[int], Any] = lambda count: None,
    ) -> list[dict[str, np.ndarray]]:
        """Labels and features of some rows.

        Args:
          rows: which; results depend on them alone, whatever was computed before or beside them.
          outputs: what is wanted of them.
          tick: is told of every batch how many regions it finished.

        Returns:
          For each output box u16 (n, R, 4), flip bool (n, R), and its arrays, each (n, R, ...).

        Raises:
          PictureErrors: a picture has changed since it was scanned.
        """
        towers = {output.tower.features: output.tower.image_size for output in outputs}
        sizes = sorted(set(towers.values()))
        drawn = [self.draw(row) for row in rows]
        total = len(rows) * self.regions
        found: list[dict[str, np.ndarray]] = [{} for _ in outputs]

        def collect(first: int, count: int, kept: Sequence[Mapping[str, Array]]) -> None:
            for arrays, new in zip(found, kept):
                for name, value in new.items():
                    flat = arrays.setdefault(name, np.zeros((total, *value.shape[1:]), value.dtype))
                    flat[first : first + count] = np.asarray(value)[:count]
            tick(count)

        pending: collections.deque = collections.deque()
        flips = np.concatenate([one.flip for one in drawn])
        for first, count, pixels in self._batches(self._crops(rows, drawn, sizes), total):
            flip = _padded(flips[first : first + count], self.batch_size)
            seen = {see: see(pixels[size], flip) for see, size in towers.items()}
            kept = [output.keep(seen[output.tower.features]) for output in outputs]
            pending.append((first, count, kept))
            # Reading a result waits for the device; with others queued behind it, the device does not wait for us.
            if len(pending) > _IN_FLIGHT:
                collect(*pending.popleft())
        while pending:
            collect(*pending.popleft())
        shape = (len(rows), self.regions)
        drawings = {
            name: np.stack([getattr(one, name) for one in drawn]) for name in ("box", "flip")
        }
        return [
            drawings
            | {name: flat.reshape(*shape, *flat.shape[1:]) for name, flat in arrays.items()}
            for arrays in found
        ]

    def draw(self, row: int) -> regions.Regions:
        """The stored regions of a row."""
        image = self.images[row]
        stream = regions.stored_stream(self.seed, image.sha256)
        return regions.draw(stream, image.height, image.width, self.regions, self.rule)

    def _crops(
        self, rows: Sequence[int], drawn: Sequence[regions.Regions], sizes: Sequence[int]
    ) -> Iterator[dict[int, np.ndarray]]:
        """The pixels of each row's regions, at every size that is wanted, decoded ahead in threads."""
        yield from in_order(
            lambda pair: self._crop(pair[0], pair[1], sizes), zip(rows, drawn), self.threads
        )

    def _crop(
        self, row: int, drawn: regions.Regions, sizes: Sequence[int]
    ) -> dict[int, np.ndarray]:
        known = self.images[row]
        path = self.root / known.path
        data, image = read(path)
        if hashlib.sha256(data).hexdigest() != known.sha256:
            raise PictureErrors(
                f"{path} has changed since the build began: put the old file back, or build into a folder of another name"
            )
        return {size: regions.crop(image, drawn.box, size) for size in sizes}

    def _batches(
        self, crops: Iterable[dict[int, np.ndarray]], total: int
    ) -> Iterator[tuple[int, int, dict[int, np.ndarray]]]:
        """(first region, regions, padded pixels by size), in order."""
        held: list[dict[int, np.ndarray]] = []
        first = waiting = 0
        for crop in crops:
            held.append(crop)
            waiting += self.regions
            while waiting >= self.batch_size or (waiting and first + waiting == total):
                count = min(waiting, self.batch_size)
                sizes = held[0].keys()
                joined = {size: np.concatenate([one[size] for one in held]) for size in sizes}
                yield (
                    first,
                    count,
                    {s: _padded(value[:count], self.batch_size) for s, value in joined.items()},
                )
                held = [{size: value[count:] for size, value in joined.items()}]
                first, waiting = first + count, waiting - count


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    if len(values) == count:
        return values
    return np.concatenate(
        [values, np.zeros((count - len(values), *values.shape[1:]), values.dtype)]
    )
