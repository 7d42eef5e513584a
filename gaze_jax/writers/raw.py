"""Rendered camera frames in the recorded layouts of MPIIGaze and MPIIFaceGaze. See the readers of the same names.

A person has one camera and one day; frames are JPEG files, as they are there. Poses, centres and targets are the exact ones
of the scenes; the target on the screen, and of MPIIGaze the landmarks, are unknown and 0.
"""

import os
import pathlib
from collections.abc import Iterator

import numpy as np

from core_jax.data import files
from gaze_jax import face_model
from gaze_jax.readers import frames as layout
from gaze_jax.readers import mpiifacegaze_raw, mpiigaze_raw
from gaze_jax.render import persons, scene
from gaze_jax.render.domains import Rendered
from gaze_jax.render.scene import Scene
from gaze_jax.writers.common import WriterError, save, to_rotation_vector

Path = pathlib.Path

_DAY = "day01"
_LANDMARKS = (
    "right_eye_outer",
    "right_eye_inner",
    "left_eye_inner",
    "left_eye_outer",
    "mouth_right",
    "mouth_left",
)


def write_mpiigaze_raw(rendered: Rendered, root: str | os.PathLike) -> None:
    """Writes `Data/Original`, and lists of the evaluation subset that name every eye.

    Args:
      rendered: frames.
      root: gets the folders.

    Raises:
      WriterError: it holds no frames.
    """
    root = Path(root)
    for person, rows, what in _each(rendered, "mpiigaze_raw"):
        folder = root / mpiigaze_raw.ORIGINAL / person
        table = np.zeros((len(rows), mpiigaze_raw.COLUMNS))
        table[:, mpiigaze_raw.TARGET] = what.target
        table[:, mpiigaze_raw.TURN] = to_rotation_vector(what.rotation)
        table[:, mpiigaze_raw.SHIFT] = what.translation
        for side, place in mpiigaze_raw.CENTRES.items():
            table[:, place] = _centre(what, f"{side}_eye")
        names = [mpiigaze_raw.frame_name(i) for i in range(len(rows))]
        _frames(rendered, rows, folder, names)
        files.atomic_write(
            folder / _DAY / mpiigaze_raw.ANNOTATION, "".join(f"{_text(row)}\n" for row in table)
        )
        eyes = [f"{_DAY}/{name} {side}\n" for name in names for side in mpiigaze_raw.SIDES]
        files.atomic_write(root / mpiigaze_raw.LISTS / f"{person}.txt", "".join(eyes))


def write_mpiifacegaze_raw(rendered: Rendered, root: str | os.PathLike) -> None:
    """Writes pXX/pXX.txt, frames and cameras.

    Args:
      rendered: frames.
      root: gets the folders.

    Raises:
      WriterError: it holds no frames.
    """
    for person, rows, what in _each(rendered, "mpiifacegaze_raw"):
        folder = Path(root) / person
        assert rendered.landmarks is not None
        numbers = np.zeros((len(rows), mpiifacegaze_raw.COLUMNS - 2))
        places = [list(persons.points(what.person)).index(name) for name in _LANDMARKS]
        numbers[:, 2:14] = rendered.landmarks[rows][:, places].reshape(len(rows), 12)
        numbers[:, mpiifacegaze_raw.TURN] = to_rotation_vector(what.rotation)
        numbers[:, mpiifacegaze_raw.SHIFT] = what.translation
        numbers[:, mpiifacegaze_raw.CENTRE] = _centre(what, "mpii")
        numbers[:, mpiifacegaze_raw.TARGET] = what.target
        names = [mpiigaze_raw.frame_name(i) for i in range(len(rows))]
        _frames(rendered, rows, folder, names)
        lines = [
            f"{_DAY}/{name} {_text(row)} {mpiifacegaze_raw.EYES[i % 2]}\n"
            for i, (name, row) in enumerate(zip(names, numbers, strict=True))
        ]
        files.atomic_write(folder / f"{person}.txt", "".join(lines))


def _each(rendered: Rendered, name: str) -> Iterator[tuple[str, np.ndarray, Scene]]:
    """(name of the folder, rows, scenes) of every person."""
    if rendered.kind != "frames":
        raise WriterError(
            f"{name} holds camera frames, and these are rendered {rendered.kind}: render gaze/frames_A or another"
        )
    for number in range(len(rendered.persons)):
        rows = np.flatnonzero(rendered.person == number)
        yield f"p{number:02d}", rows, scene.take(rendered.scenes, rows)


def _centre(what: Scene, kind: str) -> np.ndarray:
    """(n, 3): where a reference point of every head is, camera space, millimetres."""
    named = face_model.reference_point(persons.points(what.person), kind).astype(np.float64)
    turned = np.einsum("nij,nj->ni", what.rotation.astype(np.float64), named)
    return turned + what.translation


def _frames(rendered: Rendered, rows: np.ndarray, folder: Path, names: list[str]) -> None:
    """The person's frames and camera."""
    import scipy.io

    for row, name in zip(rows, names, strict=True):
        save(folder / _DAY / name, rendered.images[row])
    camera = {
        layout.MATRIX: rendered.scenes.intrinsics[rows[0]].astype(np.float64),
        layout.DISTORTION: np.zeros((1, 5)),
    }
    path = folder / layout.CALIBRATION
    with files.atomic_path(path) as temporary, open(temporary, "wb") as file:
        scipy.io.savemat(file, camera)


def _text(values: np.ndarray) -> str:
    return " ".join(f"{value:.9g}" for value in values)
