"""MPIIFaceGaze (Zhang et al., CVPR Workshops 2017), normalised faces: `pXX.mat`, HDF5.

`Data/data` (3000, 3, 448, 448) holds the pictures, blue first; `Data/label` (3000, 16) gaze (pitch, yaw), head (pitch, yaw)
and six landmarks. Public code disagrees on the sign of the angles: where `check` says so, read with sign="negated".
"""

import pathlib

import numpy as np

from gaze_jax.gaze_set import FACE, GazeSet
from gaze_jax.readers.common import Problems, Samples
from gaze_jax.readers.convention import Convention, negated_of
from gaze_jax.readers.pictures import HdfImages, require_h5py

Path = pathlib.Path

FETCH = (
    "the normalised MPIIFaceGaze, p00.mat to p14.mat, from the Max Planck Institute for Informatics"
)
CAMERA = "mpiifacegaze"
STORED = 448
SIZES = (224, 448)
DATA, LABEL = "Data/data", "Data/label"


def convention(sign: str = "ours") -> Convention:
    """The convention of the files, as an option understands their sign."""
    return Convention(stored="pitch_yaw", negated=negated_of(sign), colour="bgr")


def load(root: Path, *, sign: str = "ours", size: int = 224) -> tuple[GazeSet | None, Problems]:
    """The normalised faces.

    Args:
      root: holds pXX.mat.
      sign: "ours" for pitch > 0 up and yaw > 0 towards image left, "negated" for files with both the other way.
      size: side of the pictures in pixels: 448 as stored, or 224, averaged over blocks.
    """
    if size not in SIZES:
        return None, [f"size={size}: expected one of {SIZES}"]
    h5py, rule = require_h5py(), convention(sign)
    samples, parts, problems = Samples(), [], []
    paths = sorted(root.glob("p*.mat"))
    for path in paths:
        try:
            with h5py.File(path, "r") as file:
                shape, label = file[DATA].shape, np.asarray(file[LABEL], np.float64)
        except (OSError, KeyError, AttributeError) as error:
            problems.append(f"{path} is no person of MPIIFaceGaze ({error})")
            continue
        if shape != (len(label), 3, STORED, STORED) or label.ndim != 2 or label.shape[1] < 4:
            problems.append(
                f"{path}: data {shape} and label {label.shape}, expected (N, 3, 448, 448) and (N, 16)"
            )
            continue
        parts.append((path.name, DATA, len(label)))
        samples.add_block(
            gaze=rule.canonical(label[:, :2]),
            head=rule.canonical(label[:, 2:4]),
            person=path.stem,
            side=FACE,
            source=[f"{path.name}:{row}" for row in range(len(label))],
        )
    if not paths:
        problems.append(f"{root} has no files p00.mat, p01.mat, ...")
    if not len(samples):
        return None, problems
    images = HdfImages(
        root=root,
        parts=tuple(parts),
        size=(size, size, 3),
        channels_first=True,
        bgr=True,
        reduce=STORED // size,
    )
    found = samples.finish(
        name="mpiifacegaze", kind="face", pictures=images, size=images.size, camera=CAMERA
    )
    return found, problems
