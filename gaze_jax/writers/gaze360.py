"""Gaze360's `metadata.mat` and crops of heads. See `readers.gaze360`."""

import os
import pathlib

import numpy as np

from core_jax.data import files
from gaze_jax.gaze_set import GazeSet
from gaze_jax.readers import gaze360 as layout
from gaze_jax.writers.common import require, save

Path = pathlib.Path

_BOX = np.array([0.25, 0.25, 0.5, 0.5])


def write_gaze360(gaze_set: GazeSet, root: str | os.PathLike) -> None:
    """Writes `metadata.mat` and `imgs/`, a recording a person; the whole crop is the face, eyes count as not detected.

    Args:
      gaze_set: faces; samples without a part are "unused" where others have one, else all are "train".
      root: gets both.

    Raises:
      WriterError: the set holds eyes.
    """
    import scipy.io

    require(gaze_set, "gaze360", kind="face", head=False)
    root, count = Path(root), len(gaze_set)
    frame = np.zeros(count, np.int64)
    for person in range(len(gaze_set.persons)):
        rows = np.flatnonzero(gaze_set.person == person)
        frame[rows] = np.arange(len(rows))
        for row in rows:
            path = root / f"imgs/rec_{person:03d}/head/000000/{frame[row]:06d}.jpg"
            save(path, gaze_set.images.take(np.array([row]))[0])
    part = gaze_set.part or ("train",) * count
    boxes = np.tile(_BOX, (count, 1))
    content = {
        "recordings": np.array([f"rec_{i:03d}" for i in range(len(gaze_set.persons))], object)[
            None
        ],
        "recording": gaze_set.person[None].astype(np.int64),
        "person_identity": np.zeros((1, count), np.int64),
        "frame": frame[None],
        "gaze_dir": layout.CONVENTION.store(gaze_set.gaze),
        "person_head_bbox": boxes,
        "person_face_bbox": boxes,
        "person_eye_left_bbox": np.full((count, 4), -1.0),
        "person_eye_right_bbox": np.full((count, 4), -1.0),
        "split": np.array([[layout.PARTS.index(one) for one in part]], np.int64),
        "splits": np.array(["train", "val", "test", "unused"], object)[None],
    }
    with files.atomic_path(root / "metadata.mat") as temporary, open(temporary, "wb") as file:
        scipy.io.savemat(file, content)
