"""ETH-XGaze (Zhang et al., ECCV 2020), normalised faces: `subjectXXXX.h5`, in the folder itself or in `train`.

face_patch (N, S, S, 3) uint8, blue first; face_gaze and face_head_pose (N, 2), (pitch, yaw); face_mat_norm (N, 3, 3), the
rotation of the normalisation. Files without face_gaze are the hidden test set and are left out, with a count. Copies with
(yaw, pitch) circulate: read them with order="yaw_pitch".
"""

import pathlib

import numpy as np
from absl import logging

from gaze_jax.gaze_set import FACE, GazeSet
from gaze_jax.readers.common import Problems, Samples
from gaze_jax.readers.convention import Convention, order_of
from gaze_jax.readers.pictures import HdfImages, require_h5py

Path = pathlib.Path

FETCH = "ETH-XGaze, normalised 224 x 224 faces (xgaze_224), from ETH Zurich"
CAMERAS = {224: "eth_face", 448: "eth_face448"}
PATCH, GAZE, HEAD, NORM = "face_patch", "face_gaze", "face_head_pose", "face_mat_norm"


def convention(order: str = "pitch_yaw") -> Convention:
    """The convention of the files, in the order that an option names."""
    return Convention(stored=order_of(order), colour="bgr")


def load(root: Path, *, order: str = "pitch_yaw") -> tuple[GazeSet | None, Problems]:
    """The normalised faces of the labelled persons.

    Args:
      root: holds subjectXXXX.h5, or a folder `train` with them.
      order: of the two angles, "pitch_yaw" or "yaw_pitch".
    """
    h5py, rule = require_h5py(), convention(order)
    folder = root / "train" if (root / "train").is_dir() else root
    samples, parts, problems = Samples(), [], []
    shapes, hidden = {}, 0
    for path in sorted(folder.glob("subject*.h5")):
        try:
            with h5py.File(path, "r") as file:
                if GAZE not in file:
                    hidden += 1
                    continue
                shape = file[PATCH].shape
                labels = [np.asarray(file[name], np.float64) for name in (GAZE, HEAD)]
                norm = np.asarray(file[NORM], np.float64) if NORM in file else None
        except (OSError, KeyError) as error:
            problems.append(f"{path} is no person of ETH-XGaze ({error})")
            continue
        if len(shape) != 4 or any(label.shape != (shape[0], 2) for label in labels):
            problems.append(
                f"{path}: {PATCH} {shape}, {GAZE} {labels[0].shape}, {HEAD} {labels[1].shape}, expected "
                "(N, S, S, 3), (N, 2), (N, 2)"
            )
            continue
        shapes.setdefault(tuple(shape[1:]), path.name)
        parts.append((path.name, PATCH, shape[0]))
        gaze, head = (rule.canonical(label) for label in labels)
        samples.add_block(
            gaze=gaze,
            head=head,
            person=path.stem,
            side=FACE,
            source=[f"{path.name}:{row}" for row in range(shape[0])],
            norm=None if norm is None else norm.reshape(-1, 3, 3),
        )
    if hidden:
        logging.warning(
            "%s: %d files without %s (the hidden test set) left out", folder, hidden, GAZE
        )
    if len(shapes) > 1:
        sizes = ", ".join(f"{shape} in {name}" for shape, name in shapes.items())
        return None, [*problems, f"pictures of different sizes: {sizes}"]
    if not len(samples):
        return None, [*problems, f"{folder} has no labelled files subject0000.h5, ..."]
    size = next(iter(shapes))
    found = samples.finish(
        name="eth_xgaze",
        kind="face",
        pictures=HdfImages(root=folder, parts=tuple(parts), size=size, bgr=True),
        size=size,
        camera=CAMERAS.get(size[0], ""),
    )
    return found, problems
