"""What all readers share: errors, rotations, MATLAB files, and the way from samples to a gaze set."""

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from core_jax.data import files
from gaze_jax.gaze_set import FACE, LEFT, RIGHT, GazeSet, Images, InMemory

Path = pathlib.Path
Problems = list[str]
_SHOWN = 10
MIRROR = np.diag([-1.0, 1.0, 1.0])


class ReaderError(ValueError):
    """A data set that cannot be read; the message lists everything that is wrong."""


def some(problems: Sequence[str], most: int = _SHOWN) -> str:
    """The first problems of a kind and how many more there are."""
    shown = "\n  ".join(problems[:most])
    return shown + (f"\n  and {len(problems) - most} more" if len(problems) > most else "")


class Samples:
    """Samples of a set while it is read, in blocks; `finish` makes the gaze set.

    Columns: "gaze" and "head" (n, 2), "has_head", "person" (names), "side", "norm" (n, 3, 3), "scale", "source", "part".
    """

    def __init__(self):
        self._blocks: list[dict[str, Any]] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(
        self,
        *,
        gaze: np.ndarray,
        person: str,
        side: int,
        source: str,
        head: np.ndarray | None = None,
        norm: np.ndarray | None = None,
        scale: float = 1.0,
        part: str = "",
    ) -> None:
        """One sample, in canonical form; without `norm` it is the identity."""
        self.add_block(
            gaze=gaze[None],
            person=person,
            side=side,
            source=[source],
            head=None if head is None else head[None],
            norm=None if norm is None else norm[None],
            scale=scale,
            part=part,
        )

    def add_block(
        self,
        *,
        gaze: Float[np.ndarray, "n 2"],
        person: str,
        side: int,
        source: Sequence[str],
        head: Float[np.ndarray, "n 2"] | None = None,
        norm: Float[np.ndarray, "n 3 3"] | None = None,
        scale: float | Float[np.ndarray, " n"] = 1.0,
        part: str = "",
    ) -> None:
        """Samples of one person, side and part, in canonical form."""
        count = len(gaze)
        self._count += count
        self._blocks.append(
            {
                "gaze": np.asarray(gaze, np.float32),
                "head": np.zeros((count, 2), np.float32)
                if head is None
                else np.asarray(head, np.float32),
                "has_head": np.full(count, head is not None),
                "norm": np.tile(np.eye(3, dtype=np.float32), (count, 1, 1))
                if norm is None
                else np.asarray(norm, np.float32),
                "scale": np.full(count, scale, np.float32),
                "side": np.full(count, side, np.int32),
                "person": [person] * count,
                "source": list(source),
                "part": [part] * count,
            }
        )

    def column(self, name: str) -> Any:
        """One column of all samples so far, an array or a list of texts."""
        columns = [block[name] for block in self._blocks]
        if name in ("person", "source", "part"):
            return [text for column in columns for text in column]
        return np.concatenate(columns)

    def finish(
        self,
        *,
        name: str,
        kind: str,
        pictures: Images,
        size: tuple[int, int, int],
        camera: str = "",
        space: str = "normalised",
    ) -> GazeSet:
        """The gaze set; persons are numbered in the order of their sorted names."""
        names = self.column("person")
        persons = tuple(sorted(set(names)))
        number = {person: i for i, person in enumerate(persons)}
        part = tuple(self.column("part"))
        arrays = {
            key: self.column(key) for key in ("gaze", "head", "has_head", "side", "norm", "scale")
        }
        return GazeSet(
            name=name,
            kind=kind,
            images=pictures,
            size=size,
            person=np.array([number[person] for person in names], np.int32),
            persons=persons,
            source=tuple(self.column("source")),
            camera=camera,
            space=space,
            digest=self._digest(name, arrays, pictures),
            part=part if any(part) else (),
            **arrays,
        )

    def _digest(self, name: str, arrays: dict[str, np.ndarray], pictures: Images) -> str:
        """Labels, sources and, where they are in memory, pixels; files of pixels are too large to be read for this."""
        known = [arrays[key] for key in sorted(arrays)]
        if isinstance(pictures, InMemory):
            known.append(pictures.array)
        digests = [hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest() for x in known]
        texts = [self.column(key) for key in ("source", "person", "part")]
        return files.digest([name, *texts, *digests])


def read_mat(path: Path, **options: Any) -> dict[str, Any]:
    """The variables of a MATLAB v5 file.

    Args:
      path: of the file.
      options: of `scipy.io.loadmat`.

    Raises:
      ReaderError: it is absent, of another version, or damaged.
    """
    import scipy.io

    try:
        return scipy.io.loadmat(path, **options)
    # Damaged files reach the reader's parts as whatever they trip over: zlib.error, struct.error, TypeError, ...
    except Exception as error:
        raise ReaderError(
            f"{path} is not a readable MATLAB v5 file ({type(error).__name__}: {error})"
        ) from error


def head_of(rotation: Float[np.ndarray, "N 3 3"]) -> Float[np.ndarray, "N 2"]:
    """(pitch, yaw) of heads, radians: those of the direction -R[:, 2], which leaves the face."""
    x, y, z = np.moveaxis(np.asarray(rotation, np.float64)[..., 2], -1, 0)
    return np.stack([np.arctan2(y, np.hypot(x, z)), np.arctan2(x, z)], axis=-1)


def from_rotation_vector(vector: Float[np.ndarray, "N 3"]) -> Float[np.ndarray, "N 3 3"]:
    """Rotation vectors (axis times angle in radians) as matrices, float64."""
    return Rotation.from_rotvec(np.asarray(vector, np.float64)).as_matrix()


def left_form(pitchyaw: np.ndarray) -> np.ndarray:
    """Angles of a mirrored picture: the yaw is negated."""
    return np.asarray(pitchyaw) * np.array([1.0, -1.0])


def side_name(side: int) -> str:
    """The word for a side: left, right or face."""
    return {LEFT: "left", RIGHT: "right", FACE: "face"}[int(side)]


def missing(*places: Path) -> Problems:
    """One line for every file or folder that is not there."""
    return [f"{place} does not exist" for place in places if not place.exists()]
