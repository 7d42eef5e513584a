"""Gaze360 (Kellnhofer et al., ICCV 2019): `metadata.mat` and crops of heads, `imgs/REC/head/%06d/%06d.jpg`.

All numbers of the metadata count from 0. gaze_dir is a vector in the eye's own frame, x to the left, y up, z away from the
camera. Boxes (left, top, width, height) are fractions of the full frame, -1 where nothing was detected. `split` says 0 train,
1 val, 2 test, 3 unused; unused samples are left out, with a count. Crops are plain: no camera was normalised.
"""

import pathlib

import numpy as np
from absl import logging

from gaze_jax.gaze_set import FACE, GazeSet
from gaze_jax.readers.common import Problems, ReaderError, Samples, missing, read_mat
from gaze_jax.readers.convention import Convention
from gaze_jax.readers.pictures import FileImages

Path = pathlib.Path

FETCH = "Gaze360 with metadata.mat and imgs/, from gaze360.csail.mit.edu"
CONVENTION = Convention(stored="vector", axes=(-1, -1, 1), frame="camera")
PARTS = ("train", "val", "test", "")
CROPS = ("head", "face")
FIELDS = (
    "recording",
    "person_identity",
    "frame",
    "gaze_dir",
    "person_head_bbox",
    "person_face_bbox",
    "split",
)


def load(root: Path, *, size: int = 224, crop: str = "head") -> tuple[GazeSet | None, Problems]:
    """The heads, or the faces in them.

    Args:
      root: holds `metadata.mat` and `imgs`.
      size: side of the pictures in pixels; crops have any size and are resized.
      crop: "head" for the stored crop; "face" for the part of it in the face box, samples without one left out.
    """
    problems = missing(root / "metadata.mat", root / "imgs")
    if crop not in CROPS or size < 1:
        problems.append(
            f"crop={crop!r}, size={size}: expected {' or '.join(CROPS)} and a positive size"
        )
    if problems:
        return None, problems
    try:
        meta = read_mat(root / "metadata.mat")
    except ReaderError as error:
        return None, [str(error)]
    absent = [name for name in (*FIELDS, "recordings") if name not in meta]
    if absent:
        return None, [f"{root / 'metadata.mat'} has no {', '.join(absent)}"]
    recordings = [str(np.asarray(name).reshape(-1)[0]) for name in meta["recordings"].reshape(-1)]
    recording, person, frame, split = (
        np.asarray(meta[name]).reshape(-1).astype(np.int64)
        for name in ("recording", "person_identity", "frame", "split")
    )
    gaze = CONVENTION.canonical(meta["gaze_dir"])
    head, face = (np.asarray(meta[name], np.float64).reshape(-1, 4) for name in FIELDS[4:6])
    if len({len(column) for column in (recording, person, frame, split, gaze, head, face)}) > 1:
        return None, [f"{root / 'metadata.mat'}: its columns differ in length"]
    keep = split < 3
    if crop == "face":
        keep &= np.all(face >= 0, axis=1) & np.all(head[:, 2:] > 0, axis=1)
    if not keep.all():
        logging.warning(
            "gaze360: %d of %d samples left out (unused%s)",
            int((~keep).sum()),
            len(keep),
            ", or without a face box" if crop == "face" else "",
        )
    samples, paths = Samples(), []
    for row in np.flatnonzero(keep):
        name = recordings[recording[row]]
        paths.append(f"imgs/{name}/head/{person[row]:06d}/{frame[row]:06d}.jpg")
        samples.add(
            gaze=gaze[row],
            person=f"{name}/{person[row]:06d}",
            side=FACE,
            source=paths[-1],
            part=PARTS[split[row]],
        )
    if not paths:
        return None, [f"{root / 'metadata.mat'} has no samples that are used"]
    boxes = None
    if crop == "face":
        # From fractions of the frame to fractions of the stored head.
        boxes = np.concatenate(
            [(face[keep, :2] - head[keep, :2]) / head[keep, 2:], face[keep, 2:] / head[keep, 2:]],
            axis=1,
        )
    images = FileImages(
        root=root,
        paths=tuple(paths),
        size=(size, size, 3),
        mirror=np.zeros(len(paths), bool),
        resize=True,
        boxes=boxes,
    )
    found = samples.finish(
        name="gaze360", kind="face", pictures=images, size=images.size, space="camera"
    )
    return found, problems
