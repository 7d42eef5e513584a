"""Gaze sets whose files hold whole camera frames: every sample is a place to look at in one, normalised when it is asked for.

What a virtual camera sees of a frame is made as for prediction (`people.views`): the lens' distortion is taken out, eyes
become grey and are histogram-equalised, right ones are mirrored. Labels are those of the normalisation of 2018, R g: never
scaled. A sample costs the decoding of its frame each time; samples of one frame in one call share it.
"""

import dataclasses
import functools
import multiprocessing
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int, UInt8

from core_jax.data import images
from gaze_jax.cameras import Intrinsics
from gaze_jax.gaze_set import FACE, RIGHT, GazeSet
from gaze_jax.normalization import CAMERAS, VirtualCamera, normalize
from gaze_jax.normalization import equalize_histogram as equalized
from gaze_jax.normalization import plan as plan_of
from gaze_jax.readers.common import (
    Problems,
    ReaderError,
    Samples,
    from_rotation_vector,
    head_of,
    left_form,
    read_mat,
)
from gaze_jax.readers.convention import Convention

Path = pathlib.Path

CALIBRATION = Path("Calibration", "Camera.mat")
MATRIX, DISTORTION = "cameraMatrix", "distCoeffs"
# From the reference point to the target, in the frame of the camera that took the picture.
CONVENTION = Convention(stored="vector", frame="camera")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Block:
    """Samples of one person and side, n rows.

    Attributes:
      person: the name.
      side: LEFT, RIGHT or FACE.
      camera: that took the frames.
      paths: of the frames, below the set's folder.
      source: of every sample, for messages and tables.
      turn: rotation vectors of the head, camera space.
      reference_mm: what the virtual camera looks at, camera space.
      target_mm: what the person looks at, camera space.
    """

    person: str
    side: int
    camera: Intrinsics
    paths: Sequence[str]
    source: Sequence[str]
    turn: Float[np.ndarray, "n 3"]
    reference_mm: Float[np.ndarray, "n 3"]
    target_mm: Float[np.ndarray, "n 3"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameImages:
    """Patches out of frames in files, normalised when they are asked for.

    Attributes:
      root: folder of the paths.
      paths: of the frame of every sample.
      cameras: that took them.
      whose: index into `cameras` of every sample.
      rotation: of the head, head frame to camera space.
      reference_mm: what the virtual camera looks at.
      side: LEFT, RIGHT or FACE.
      virtual: the virtual camera.
    """

    root: Path
    paths: tuple[str, ...] = dataclasses.field(repr=False)
    cameras: tuple[Intrinsics, ...] = dataclasses.field(repr=False)
    whose: Int[np.ndarray, " N"] = dataclasses.field(repr=False)
    rotation: Float[np.ndarray, "N 3 3"] = dataclasses.field(repr=False)
    reference_mm: Float[np.ndarray, "N 3"] = dataclasses.field(repr=False)
    side: Int[np.ndarray, " N"] = dataclasses.field(repr=False)
    virtual: VirtualCamera

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def size(self) -> tuple[int, int, int]:
        """(H, W, c): faces in colour, eyes grey."""
        return self.virtual.height, self.virtual.width, 3 if FACE in self.side else 1

    def take(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W c"]:
        """See `gaze_set.Images`.

        Raises:
          ImageError: a frame is absent or damaged.
        """
        import jax

        from gaze_jax.people import views

        found = np.empty((len(rows), *self.size), np.uint8)
        places: dict[str, list[int]] = {}
        for place, row in enumerate(rows):
            places.setdefault(self.paths[int(row)], []).append(place)
        # Beside the training step: frames are decoded on the host and patches go on as NumPy arrays.
        with jax.default_device(_host()):
            for path, wanted in places.items():
                camera = self.cameras[self.whose[int(rows[wanted[0]])]]
                frame = views.padded(images.decode(self.root / path), camera)
                for place in wanted:
                    row = int(rows[place])
                    patch, _ = normalize(
                        frame,
                        camera.matrix,
                        self.rotation[row],
                        self.reference_mm[row],
                        self.virtual,
                    )
                    patch = np.asarray(patch)
                    if self.side[row] != FACE:
                        patch = np.asarray(equalized(views.luminance(patch)))[..., None]
                    found[place] = patch[:, ::-1] if self.side[row] == RIGHT else patch
        return found


@functools.cache
def _host() -> Any:
    """The device that pictures are made on."""
    import jax

    if multiprocessing.current_process().daemon:
        # A worker that reads must not claim the accelerator of the process that trains.
        jax.config.update("jax_platforms", "cpu")
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names accelerators only.
        return jax.local_devices()[0]


def camera_of(path: Path) -> Intrinsics:
    """The camera of a person's `Camera.mat`.

    Raises:
      ReaderError: it is absent or holds no camera with at most five terms of distortion.
    """
    if not path.is_file():
        raise ReaderError(f"{path} does not exist")
    content = read_mat(path)
    absent = [name for name in (MATRIX, DISTORTION) if name not in content]
    if absent:
        raise ReaderError(f"{path} has no {', '.join(absent)}")
    terms = np.zeros(5)
    stored = np.asarray(content[DISTORTION], np.float64).reshape(-1)
    terms[: min(5, stored.size)] = stored[:5]
    if np.any(stored[5:] != 0):
        raise ReaderError(f"{path}: {stored.size} terms of distortion, expected at most 5")
    try:
        return Intrinsics(np.asarray(content[MATRIX], np.float64), terms)
    except ValueError as error:
        raise ReaderError(f"{path}: {error}") from error


def numbers(fields: Sequence[str], count: int, places: Sequence[slice]) -> np.ndarray:
    """The numbers of a line of a table.

    Args:
      fields: of the line, numbers only.
      count: how many there must be.
      places: of the points in camera space that the virtual camera looks at.

    Raises:
      ValueError: too few or too many fields, no finite numbers, or a point that is not in front of the camera.
    """
    if len(fields) != count:
        raise ValueError(f"{len(fields)} numbers, expected {count}")
    values = np.array([float(text) for text in fields])
    if not np.isfinite(values).all():
        raise ValueError("numbers that are not finite")
    for place in places:
        if values[place][2] <= 0:
            raise ValueError(f"{values[place].tolist()} mm is not in front of the camera")
    return values


def not_there(root: Path, paths: Sequence[str]) -> Problems:
    """One line for every file that a table names and that is not there; every folder is looked into once."""
    inside: dict[Path, set[str]] = {}
    found = []
    for path in dict.fromkeys(paths):
        folder, name = (root / path).parent, Path(path).name
        if folder not in inside:
            inside[folder] = (
                {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
            )
        if name not in inside[folder]:
            found.append(f"{root / path} does not exist")
    return found


def finish(*, name: str, root: Path, camera: str, blocks: Sequence[Block]) -> GazeSet:
    """The gaze set of at least one block; persons keep the order of the blocks."""
    virtual = CAMERAS[camera]
    counts = [len(block.paths) for block in blocks]
    join = lambda key: np.concatenate([getattr(block, key) for block in blocks])
    rotation, reference = from_rotation_vector(join("turn")), join("reference_mm")
    matrix = np.repeat(np.stack([block.camera.matrix for block in blocks]), counts, axis=0)
    # One program for all samples, and the very one that makes the patches.
    planned = plan_of(matrix, rotation, reference, virtual)
    norm, scale = (np.asarray(value, np.float64) for value in (planned.R, planned.scale))
    gaze = CONVENTION.canonical(np.einsum("nij,nj->ni", norm, join("target_mm") - reference))
    head = head_of(norm @ rotation)
    samples, start = Samples(), 0
    for block, count in zip(blocks, counts, strict=True):
        rows = slice(start, start + count)
        seen = left_form if block.side == RIGHT else np.asarray
        samples.add_block(
            gaze=seen(gaze[rows]),
            head=seen(head[rows]),
            person=block.person,
            side=block.side,
            source=block.source,
            norm=norm[rows],
            scale=scale[rows],
        )
        start += count
    pictures = FrameImages(
        root=root,
        paths=tuple(path for block in blocks for path in block.paths),
        cameras=tuple(block.camera for block in blocks),
        whose=np.repeat(np.arange(len(blocks)), counts),
        rotation=rotation,
        reference_mm=reference,
        side=samples.column("side"),
        virtual=virtual,
    )
    kind = "face" if pictures.size[2] == 3 else "eye"
    return samples.finish(
        name=name, kind=kind, pictures=pictures, size=pictures.size, camera=camera
    )
