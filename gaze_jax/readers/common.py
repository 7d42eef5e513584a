"""What all readers share: pictures that stay on disk, and the way from a list of samples to a gaze set."""

import dataclasses
import hashlib
import pathlib
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image
from scipy.spatial.transform import Rotation

from core_jax.data import files, images
from gaze_jax.gaze_set import FACE, LEFT, RIGHT, GazeSet, Images, InMemory

Path = pathlib.Path
Problems = list[str]
_GREY = (0.299, 0.587, 0.114)
_SHOWN = 10
MIRROR = np.diag([-1.0, 1.0, 1.0])


class ReaderError(ValueError):
    """A data set that cannot be read; the message lists everything that is wrong."""


def some(problems: Sequence[str], most: int = _SHOWN) -> str:
    """The first problems of a kind and how many more there are."""
    shown = "\n  ".join(problems[:most])
    return shown + (f"\n  and {len(problems) - most} more" if len(problems) > most else "")


def require_h5py() -> types.ModuleType:
    """The module h5py.

    Raises:
      ReaderError: it is not installed; the message names the extra.
    """
    try:
        import h5py
    except ImportError as error:
        raise ReaderError(
            "this format needs h5py, which is not installed: pip install 'clip-methods-jax[gaze]'"
        ) from error
    return h5py


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileImages:
    """Pictures in files, decoded when they are asked for.

    Attributes:
      root: folder of the paths.
      paths: below it.
      size: (H, W, c) that every picture must have; c = 1 reads grey.
      mirror: which ones are mirrored after decoding.
      resize: whether a picture of another size is resized (bilinear), where a format has no size of its own.
      boxes: left, top, width, height of the part that is cut out first, as fractions of the picture; None takes all of it.
    """

    root: Path
    paths: tuple[str, ...] = dataclasses.field(repr=False)
    size: tuple[int, int, int]
    mirror: Bool[np.ndarray, " N"] = dataclasses.field(repr=False)
    resize: bool = False
    boxes: Float[np.ndarray, "N 4"] | None = dataclasses.field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.paths)

    def take(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W c"]:
        """See `gaze_set.Images`.

        Raises:
          ImageError: a picture is absent, damaged or of another size.
        """
        found = np.empty((len(rows), *self.size), np.uint8)
        for place, row in enumerate(rows):
            found[place] = self._one(int(row))
        return found

    def _one(self, row: int) -> np.ndarray:
        path = self.root / self.paths[row]
        picture = images.decode(path)
        if self.boxes is not None:
            picture = _cut(picture, self.boxes[row])
        if picture.shape[:2] != self.size[:2]:
            if not self.resize:
                raise images.ImageError(
                    f"{path} is {picture.shape[1]} x {picture.shape[0]} pixels, and the other pictures are "
                    f"{self.size[1]} x {self.size[0]}; replace the file or take it off the list"
                )
            size = (self.size[1], self.size[0])
            picture = np.asarray(
                Image.fromarray(picture).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0)
            )
        if self.size[2] == 1:
            picture = to_grey(picture)
        return picture[:, ::-1] if self.mirror[row] else picture


def _cut(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """The part of a picture in a box of fractions; at least one pixel, nothing beyond the border."""
    height, width = picture.shape[:2]
    x, y = (
        np.clip(np.rint(box[0] * width), 0, width - 1),
        np.clip(np.rint(box[1] * height), 0, height - 1),
    )
    right = np.clip(np.rint((box[0] + box[2]) * width), x + 1, width)
    bottom = np.clip(np.rint((box[1] + box[3]) * height), y + 1, height)
    return np.ascontiguousarray(picture[int(y) : int(bottom), int(x) : int(right)])


def to_grey(picture: UInt8[np.ndarray, "*n 3"]) -> UInt8[np.ndarray, "*n 1"]:
    """Luminance (ITU-R 601); equal channels stay exactly as they are."""
    if np.array_equal(picture[..., 0], picture[..., 1]) and np.array_equal(
        picture[..., 1], picture[..., 2]
    ):
        return np.ascontiguousarray(picture[..., :1])
    grey = np.rint(picture @ np.array(_GREY, np.float32))
    return np.clip(grey, 0, 255).astype(np.uint8)[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HdfImages:
    """Pictures in arrays of HDF5 files, read when they are asked for; files are opened per call, so workers may share it.

    Attributes:
      root: folder of the files.
      parts: (file, name of the array, number of pictures) in row order.
      size: (H, W, c).
      channels_first: whether the array is (N, c, H, W).
      bgr: whether channels are stored blue first.
      reduce: pictures are stored this much larger each way and averaged over blocks.
    """

    root: Path
    parts: tuple[tuple[str, str, int], ...]
    size: tuple[int, int, int]
    channels_first: bool = False
    bgr: bool = False
    reduce: int = 1

    def __len__(self) -> int:
        return sum(count for _, _, count in self.parts)

    def take(self, rows: Int[np.ndarray, " n"]) -> UInt8[np.ndarray, "n H W c"]:
        """See `gaze_set.Images`."""
        h5py = require_h5py()
        rows = np.asarray(rows, np.int64)
        found = np.empty((len(rows), *self.size), np.uint8)
        starts = np.cumsum([0, *(count for _, _, count in self.parts)])
        owner = np.searchsorted(starts, rows, side="right") - 1
        for number in np.unique(owner):
            file, name, _ = self.parts[number]
            places = np.flatnonzero(owner == number)
            # HDF5 wants rising row numbers without repetition.
            wanted, back = np.unique(rows[places] - starts[number], return_inverse=True)
            with h5py.File(self.root / file, "r") as opened:
                pictures = np.asarray(opened[name][wanted])[back.reshape(-1)]
            found[places] = self._ours(pictures)
        return found

    def _ours(self, pictures: np.ndarray) -> np.ndarray:
        if self.channels_first:
            pictures = pictures.transpose(0, 2, 3, 1)
        if self.bgr:
            pictures = pictures[..., ::-1]
        if self.reduce > 1:
            height, width, channels = self.size
            blocks = (len(pictures), height, self.reduce, width, self.reduce, channels)
            pictures = np.rint(pictures.reshape(blocks).mean(axis=(2, 4)))
        return pictures.astype(np.uint8)


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
        scale: float = 1.0,
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
            digest=self._digest(name, arrays["gaze"], pictures),
            part=part if any(part) else (),
            **arrays,
        )

    def _digest(self, name: str, gaze: np.ndarray, pictures: Images) -> str:
        """Labels, sources and, where they are in memory, pixels; files of pixels are too large to be read for this."""
        labels = hashlib.sha256(gaze.astype("<f4").tobytes()).hexdigest()
        pixels = ""
        if isinstance(pictures, InMemory):
            pixels = hashlib.sha256(np.ascontiguousarray(pictures.array).tobytes()).hexdigest()
        return files.digest([name, self.column("source"), self.column("person"), labels, pixels])


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
