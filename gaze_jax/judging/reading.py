"""What judging one picture and judging pairs share: batches of one size, and which pictures a model takes.

Shapes: n pictures, B pictures a batch.
"""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, UInt8

from gaze_jax import corrupt
from gaze_jax.gaze_set import GazeSet
from gaze_jax.model import Model

# A bar appears when judging takes longer than this many seconds.
_PATIENCE_S = 2.0


def batches(
    gaze_set: GazeSet, rows: Int[np.ndarray, " n"], batch_size: int, title: str, progress: bool
) -> Iterator[tuple[int, int, dict[str, np.ndarray]]]:
    """The samples of some rows in batches of one size.

    Args:
      gaze_set: read a batch at a time.
      rows: of the set.
      batch_size: B; the last batch is filled up with its first sample.
      title: of the bar.
      progress: whether there is one.

    Yields:
      (place of the first sample among the rows, samples that count, `GazeSet.batch`).
    """
    from tqdm import auto as tqdm

    shown: dict[str, Any] = {"unit": "picture", "leave": False, "delay": _PATIENCE_S}
    with tqdm.tqdm(total=len(rows), desc=title, disable=not progress, **shown) as bar:
        for start in range(0, len(rows), batch_size):
            chosen = np.asarray(rows[start : start + batch_size])
            count = len(chosen)
            filled = np.concatenate([chosen, np.repeat(chosen[:1], batch_size - count)])
            yield start, count, gaze_set.batch(filled)
            bar.update(count)


def refuse(model: Model, gaze_set: GazeSet, rows: Int[np.ndarray, " n"]) -> None:
    """Refuse pictures that a model does not take.

    Raises:
      ValueError: pictures of another kind or other channels, or without the head pose that the model reads; all in one
        message.
    """
    problems = []
    if model.kind != gaze_set.kind:
        problems.append(
            f"{model.name} takes {model.kind} pictures, {gaze_set.name} has {gaze_set.kind}"
        )
    if model.size[2] != gaze_set.size[2]:
        problems.append(
            f"{model.name} takes {model.size[2]} channels, {gaze_set.name} has {gaze_set.size[2]}"
        )
    lacking = int((~gaze_set.has_head[rows]).sum()) if model.uses_head else 0
    if lacking:
        problems.append(
            f"{model.name} reads the head pose, which {lacking} of {len(rows)} pictures of {gaze_set.name} lack"
        )
    if problems:
        raise ValueError("; ".join(problems))


def corrupted(
    batch: Mapping[str, np.ndarray], kind: str, severity: int, seed: int
) -> UInt8[Array, "B H W c"]:
    """The pictures of a batch gone bad.

    What happens to a picture follows from (seed, kind, severity, row) alone, whatever stands beside it in the batch.

    Args:
      batch: of `GazeSet.batch`.
      kind: of `corrupt.KINDS`.
      severity: 1 to 5.
      seed: of everything random.
    """
    return _corrupted(batch["image"], batch["index"], np.int32(severity), np.int32(seed), kind=kind)


@functools.partial(jax.jit, static_argnames="kind")
def _corrupted(images: Array, rows: Array, severity: Array, seed: Array, *, kind: str) -> Array:
    key = jax.random.fold_in(jax.random.key(seed), severity)

    def spoil(image: Array, row: Array) -> Array:
        return corrupt.apply(kind, image[None], severity, key=jax.random.fold_in(key, row))[0]

    return jax.vmap(spoil)(images, rows)
