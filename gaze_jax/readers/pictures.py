"""Pictures of gaze sets that stay on disk until they are asked for: files, and arrays of HDF5 files."""

import dataclasses
import pathlib
import types

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from PIL import Image

from core_jax.data import images
from gaze_jax.readers.common import ReaderError

Path = pathlib.Path
_GREY = (0.299, 0.587, 0.114)


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
