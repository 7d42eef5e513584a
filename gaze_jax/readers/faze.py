"""FAZE (Park et al., ICCV 2019): strips of both eyes, one HDF5 file with a group a person.

`pXX/pixels` (N, 64, 256, 3) uint8 RGB; `pXX/labels` (N, 4 or more): gaze (pitch, yaw), head (pitch, yaw), then the nine
numbers of the rotation of the normalisation, row by row, where they are there.
"""

import pathlib

import numpy as np

from gaze_jax.gaze_set import FACE, GazeSet
from gaze_jax.readers.common import Problems, Samples
from gaze_jax.readers.convention import Convention, order_of
from gaze_jax.readers.pictures import HdfImages, require_h5py

Path = pathlib.Path

FETCH = "a .h5 file as the preprocessing of FAZE writes it, such as GazeCapture.h5 or MPIIGaze.h5"
CAMERA = "faze_strip"
SIZE = (64, 256, 3)


def convention(order: str = "pitch_yaw") -> Convention:
    """The convention of the files, in the order that an option names."""
    return Convention(stored=order_of(order))


def load(
    root: Path, *, order: str = "pitch_yaw", file: str = ""
) -> tuple[GazeSet | None, Problems]:
    """The strips of one file.

    Args:
      root: holds the file.
      order: of the two angles, "pitch_yaw" or "yaw_pitch".
      file: its name, where the folder holds more than one .h5.
    """
    paths = [root / file] if file else sorted(root.glob("*.h5"))
    if len(paths) != 1 or not paths[0].is_file():
        names = ", ".join(path.name for path in paths) or "none"
        return None, [
            f"{root} must hold one .h5 file, or file=NAME must name one of them; found {names}"
        ]
    h5py, rule = require_h5py(), convention(order)
    samples, parts, problems = Samples(), [], []
    try:
        opened = h5py.File(paths[0], "r")
    except OSError as error:
        return None, [f"{paths[0]} is no readable HDF5 file ({error})"]
    with opened:
        for person in sorted(opened):
            group = opened[person]
            if "pixels" not in group or "labels" not in group:
                problems.append(f"{paths[0]}: {person} has no pixels or no labels")
                continue
            shape, labels = group["pixels"].shape, np.asarray(group["labels"], np.float64)
            if shape != (len(labels), *SIZE) or labels.ndim != 2 or labels.shape[1] < 4:
                problems.append(
                    f"{paths[0]}: {person} has pixels {shape} and labels {labels.shape}, expected "
                    "(N, 64, 256, 3) and (N, 4 or more)"
                )
                continue
            parts.append((paths[0].name, f"{person}/pixels", len(labels)))
            samples.add_block(
                gaze=rule.canonical(labels[:, :2]),
                head=rule.canonical(labels[:, 2:4]),
                person=person,
                side=FACE,
                source=[f"{person}:{row}" for row in range(len(labels))],
                norm=labels[:, 4:13].reshape(-1, 3, 3) if labels.shape[1] >= 13 else None,
            )
    if not len(samples):
        return None, [*problems, f"{paths[0]} has no persons"]
    images = HdfImages(root=root, parts=tuple(parts), size=SIZE)
    return samples.finish(
        name="faze", kind="face", pictures=images, size=SIZE, camera=CAMERA
    ), problems
