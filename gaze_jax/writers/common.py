"""What writers share: pictures as files and arrays, rotations of heads, and what a format can hold."""

import io
import pathlib
import re

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from scipy.spatial.transform import Rotation

from gaze_jax.gaze_set import RIGHT, GazeSet

Path = pathlib.Path
JPEG_QUALITY = 95


class WriterError(ValueError):
    """A set that a format cannot hold."""


def require(gaze_set: GazeSet, name: str, *, kind: str, head: bool = True) -> None:
    """Checks what a format needs.

    Args:
      gaze_set: the set.
      name: of the format.
      kind: the only kind of pictures it holds, "" for both.
      head: whether it needs head poses.

    Raises:
      WriterError: everything that is wrong.
    """
    problems = []
    if kind and gaze_set.kind != kind:
        problems.append(
            f"it holds pictures of one {gaze_set.kind} each, the format one {kind} each"
        )
    if head and not gaze_set.has_head.all():
        problems.append(f"{np.count_nonzero(~gaze_set.has_head)} samples have no head pose")
    if problems:
        raise WriterError(f"{gaze_set.name} cannot be written as {name}: {'; '.join(problems)}")


def require_size(gaze_set: GazeSet, name: str, size: tuple[int, int, int]) -> None:
    """Checks that pictures have the one size of a format.

    Raises:
      WriterError: they have not.
    """
    if gaze_set.size != size:
        raise WriterError(
            f"{gaze_set.name} cannot be written as {name}: pictures are {gaze_set.size}, the format's {size}"
        )


def by_person(gaze_set: GazeSet) -> dict[str, np.ndarray]:
    """Name of a file -> rows of a person: own names where all are of the form pXX, else p00, p01, ..."""
    names = gaze_set.persons
    if not all(re.fullmatch(r"p\d+", name) for name in names):
        names = tuple(f"p{number:02d}" for number in range(len(names)))
    rows = {name: np.flatnonzero(gaze_set.person == i) for i, name in enumerate(names)}
    return {name: own for name, own in rows.items() if len(own)}


def as_seen(gaze_set: GazeSet, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(pictures, gaze, head) of some rows with right eyes mirrored back, as a camera saw them."""
    pictures = np.array(gaze_set.images.take(rows))
    gaze, head = (np.array(x[rows], np.float64) for x in (gaze_set.gaze, gaze_set.head))
    right = gaze_set.side[rows] == RIGHT
    pictures[right] = pictures[right][:, :, ::-1]
    for angles in (gaze, head):
        angles[right, 1] *= -1
    return pictures, gaze, head


def head_rotation_vector(head: Float[np.ndarray, "N 2"]) -> Float[np.ndarray, "N 3"]:
    """Head angles (pitch, yaw) with roll 0 as rotation vectors: R_h = Ry(yaw) Rx(pitch)."""
    # Our Rx turns the other way round x than the usual one.
    angles = np.stack([head[:, 1], -head[:, 0]], axis=1)
    return Rotation.from_euler("YX", angles).as_rotvec()


def to_rotation_vector(rotation: Float[np.ndarray, "N 3 3"]) -> Float[np.ndarray, "N 3"]:
    """Matrices as rotation vectors, float64."""
    return Rotation.from_matrix(np.asarray(rotation, np.float64)).as_rotvec()


def save(path: Path, picture: UInt8[np.ndarray, "H W c"]) -> None:
    """Writes a picture, JPEG or PNG by its name.

    Not atomically: syncing each of thousands of files costs more than encoding them. The table that names the pictures is
    written last, so a set without it is incomplete and is written again.
    """
    image = Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)
    data = io.BytesIO()
    if path.suffix == ".png":
        image.save(data, "PNG")
    else:
        image.save(data, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.getvalue())


def numbers(values: Float[np.ndarray, " n"]) -> str:
    """Numbers as a comma list that float32 survives."""
    return ",".join(f"{value:.9g}" for value in values)
