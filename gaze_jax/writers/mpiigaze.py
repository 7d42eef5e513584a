"""MPIIGaze's normalised eyes: MATLAB v5 files a day, and the lists of the evaluation subset. See `readers.mpiigaze`."""

import os
import pathlib

import numpy as np

from core_jax.data import files
from gaze_jax.gaze_set import LEFT, RIGHT, GazeSet
from gaze_jax.readers import mpiigaze as layout
from gaze_jax.writers.common import as_seen, by_person, head_rotation_vector, require, require_size

Path = pathlib.Path


def write_mpiigaze(gaze_set: GazeSet, root: str | os.PathLike, *, per_day: int = 200) -> None:
    """Writes `Data/Normalized` and the lists below `Evaluation Subset`.

    A file holds as many left as right eyes: where one side has fewer, black pictures fill up, which no list names.

    Args:
      gaze_set: eyes of 36 x 60 grey pixels with head poses.
      root: gets the folders.
      per_day: pictures of a side in a file.

    Raises:
      WriterError: the set holds something else.
    """
    require(gaze_set, "mpiigaze", kind="eye")
    require_size(gaze_set, "mpiigaze", (layout.HEIGHT, layout.WIDTH, 1))
    root = Path(root)
    for person, rows in by_person(gaze_set).items():
        sides = {
            side: rows[gaze_set.side[rows] == n] for side, n in (("left", LEFT), ("right", RIGHT))
        }
        count = max(len(own) for own in sides.values())
        names = {}
        for day, start in enumerate(range(0, count, per_day), 1):
            length = min(per_day, count - start)
            own = {side: found[start : start + length] for side, found in sides.items()}
            labels = [f"{number:04d}.jpg" for number in range(1, length + 1)]
            _write_day(
                gaze_set, root / layout.NORMALIZED / person / f"day{day:02d}.mat", own, labels
            )
            for side, found in own.items():
                names |= {
                    int(row): f"day{day:02d}/{label} {side}" for row, label in zip(found, labels)
                }
        text = "".join(f"{names[int(row)]}\n" for row in rows)
        files.atomic_write(root / layout.LISTS / f"{person}.txt", text)


def _write_day(
    gaze_set: GazeSet, path: Path, own: dict[str, np.ndarray], labels: list[str]
) -> None:
    import scipy.io

    data = {}
    for side, rows in own.items():
        pictures, gaze, head = as_seen(gaze_set, rows)
        filled = {
            "image": pictures[..., 0],
            "gaze": layout.CONVENTION.store(gaze),
            "pose": head_rotation_vector(head) if len(rows) else np.zeros((0, 3)),
        }
        data[side] = {
            name: _fill(value, len(labels), gaze_set.size)
            if name == "image"
            else _fill(value, len(labels), (3,))
            for name, value in filled.items()
        }
        if len(labels) == 1:
            # MATLAB drops the first axis of a single picture, and so does this.
            data[side] = {
                name: value[0] if name == "image" else value for name, value in data[side].items()
            }
    names = np.array(labels, object)[:, None]
    with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
        scipy.io.savemat(file, {"data": data, "filenames": names}, do_compression=True)


def _fill(value: np.ndarray, count: int, shape: tuple[int, ...]) -> np.ndarray:
    filled = np.zeros((count, *(shape[:2] if len(shape) == 3 else shape)), value.dtype)
    filled[: len(value)] = value
    return filled
