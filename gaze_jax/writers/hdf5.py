"""The formats in HDF5: MPIIFaceGaze, ETH-XGaze, FAZE. See the readers of the same names."""

import contextlib
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

from core_jax.data import files
from gaze_jax import self_test
from gaze_jax.gaze_set import GazeSet
from gaze_jax.normalization import CAMERAS
from gaze_jax.readers import eth_xgaze, faze, mpiifacegaze
from gaze_jax.readers.pictures import require_h5py
from gaze_jax.writers.common import WriterError, as_seen, by_person, require, require_size

Path = pathlib.Path


@contextlib.contextmanager
def _file(path: Path) -> Iterator[Any]:
    h5py = require_h5py()
    with files.atomic_path(path) as temporary, h5py.File(temporary, "w") as opened:
        yield opened


def write_mpiifacegaze(gaze_set: GazeSet, root: str | os.PathLike, *, sign: str = "ours") -> None:
    """Writes pXX.mat; pictures of 224 pixels are doubled, landmarks are unknown and 0.

    Args:
      gaze_set: square RGB faces of 224 or 448 pixels with head poses.
      root: gets the files.
      sign: "ours" or "negated".

    Raises:
      WriterError: the set holds something else.
    """
    require(gaze_set, "mpiifacegaze", kind="face")
    size = gaze_set.size[0]
    if gaze_set.size not in ((224, 224, 3), (448, 448, 3)):
        raise WriterError(
            f"{gaze_set.name}: pictures are {gaze_set.size}, MPIIFaceGaze's (448, 448, 3)"
        )
    rule, factor = mpiifacegaze.convention(sign), mpiifacegaze.STORED // size
    for person, rows in by_person(gaze_set).items():
        pictures, gaze, head = as_seen(gaze_set, rows)
        pictures = pictures.repeat(factor, axis=1).repeat(factor, axis=2)
        label = np.zeros((len(rows), 16))
        label[:, :2], label[:, 2:4] = rule.store(gaze), rule.store(head)
        with _file(Path(root) / f"{person}.mat") as file:
            file["Data/data"] = np.ascontiguousarray(pictures[..., ::-1].transpose(0, 3, 1, 2))
            file["Data/label"] = label


def write_eth_xgaze(
    gaze_set: GazeSet, root: str | os.PathLike, *, order: str = "pitch_yaw"
) -> None:
    """Writes `train/subjectXXXX.h5`; landmarks are unknown and 0, all pictures are camera 0's.

    Args:
      gaze_set: square RGB faces with head poses.
      root: gets the folder.
      order: of the two angles.

    Raises:
      WriterError: the set holds something else.
    """
    require(gaze_set, "eth_xgaze", kind="face")
    require_size(gaze_set, "eth_xgaze", (gaze_set.size[0], gaze_set.size[0], 3))
    rule = eth_xgaze.convention(order)
    for number, rows in enumerate(by_person(gaze_set).values()):
        pictures, gaze, head = as_seen(gaze_set, rows)
        with _file(Path(root) / "train" / f"subject{number:04d}.h5") as file:
            file[eth_xgaze.PATCH] = np.ascontiguousarray(pictures[..., ::-1])
            file[eth_xgaze.GAZE] = rule.store(gaze)
            file[eth_xgaze.HEAD] = rule.store(head)
            file[eth_xgaze.NORM] = gaze_set.norm[rows].astype(np.float64)
            file["facial_landmarks"] = np.zeros((len(rows), 68, 2))
            file["frame_index"] = np.arange(len(rows), dtype=np.int32)[:, None]
            file["cam_index"] = np.zeros((len(rows), 1), np.int32)


def write_faze(gaze_set: GazeSet, root: str | os.PathLike, *, name: str = "faze.h5") -> None:
    """Writes one file of strips of 64 x 256 pixels.

    Args:
      gaze_set: RGB faces with head poses; of others the strip around the eyes is cut out and enlarged.
      root: gets the file.
      name: of the file.

    Raises:
      WriterError: the set holds something else.
    """
    require(gaze_set, "faze", kind="face")
    rule = faze.convention()
    with _file(Path(root) / name) as file:
        for person, rows in by_person(gaze_set).items():
            pictures, gaze, head = as_seen(gaze_set, rows)
            norm = gaze_set.norm[rows].reshape(-1, 9)
            file[f"{person}/pixels"] = _strips(gaze_set, rows, pictures)
            file[f"{person}/labels"] = np.concatenate(
                [rule.store(gaze), rule.store(head), norm], axis=1
            )


def _strips(gaze_set: GazeSet, rows: np.ndarray, pictures: np.ndarray) -> np.ndarray:
    """The pictures themselves, or what FAZE's virtual camera sees of faces: the part around the eyes, larger."""
    height, width = faze.SIZE[:2]
    if pictures.shape[1:] == faze.SIZE:
        return pictures
    eyes = self_test.Eyes(gaze_set)
    if pictures.shape[3] != 3 or not eyes.known:
        raise WriterError(
            f"{gaze_set.name}: pictures are {gaze_set.size} of the camera {gaze_set.camera!r}, expected {faze.SIZE}, or "
            "RGB faces of a virtual camera, out of which strips can be cut"
        )
    strip, own = CAMERAS[faze.CAMERA], CAMERAS[gaze_set.camera]
    pixels = own.focal_px / own.distance_mm * pictures.shape[2] / own.width
    half = np.array([width, height]) / 2 * strip.distance_mm / strip.focal_px * pixels
    size = np.array([pictures.shape[2], pictures.shape[1]])
    found = []
    for row, picture in zip(rows.tolist(), pictures, strict=True):
        # A head that is turned far has eyes near the border: the strip stays inside.
        middle = np.clip(eyes.centres(row).mean(0), half, size - half)
        box = (*(middle - half), *(middle + half))
        image = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR, box=box)
        found.append(np.asarray(image))
    return np.stack(found)
