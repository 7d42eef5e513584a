"""Label files to labels: grey and palette pictures of 8 or 16 bits, segment ids in RGB, Pascal's .mat, raw ADE20K.

What a raw value means is a `LabelTable`; a value that it does not know is an error, never a class.
"""

import dataclasses
import functools
import pathlib
import warnings

import numpy as np
from jaxtyping import Int32
from PIL import Image

from gba_jax.datasets.common import IGNORE, DatasetError, some
from gba_jax.panoptic import rgb_to_ids

Path = pathlib.Path
_UNKNOWN = -2
_WIDE = 1 << 16
# A PNG with fewer than 8 bits of grey: pillow stretches its values over 0..255, this undoes it.
_STRETCHED = {2: 85, 4: 17}


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """Raw value to label.

    Attributes:
      values: raw value of each label, in label order.
      ignored: raw values of ignored pixels.
      largest: whether the largest value of the file's depth (255 or 65535) is ignored, too.
      others: whether every other value is ignored instead of being an error.
    """

    values: tuple[int, ...]
    ignored: tuple[int, ...] = ()
    largest: bool = False
    others: bool = False

    def __call__(self, path: Path) -> Int32[np.ndarray, "H W"]:
        """The labels in a grey or palette picture.

        Raises:
          DatasetError: see `read_index` and `apply`.
        """
        return self.apply(*read_index(path), path)

    def apply(self, raw: np.ndarray, bits: int, path: Path) -> Int32[np.ndarray, "H W"]:
        """Labels of raw values.

        Args:
          raw: integers.
          bits: depth of the file they are from, 8 or 16.
          path: what errors call it.

        Raises:
          DatasetError: values without a label, or 8 bits for more than 255 classes.
        """
        if bits == 8 and len(self.values) > 255:
            raise DatasetError(
                f"{path} has 8-bit labels, which cannot hold {len(self.values)} classes (at most 255, for 255 means "
                "ignored): write 16-bit pictures"
            )
        outside = (raw < 0) | (raw >= _WIDE)
        labels = _lookup(self, bits)[np.where(outside, 0, raw)]
        labels[outside] = _UNKNOWN
        unknown = labels == _UNKNOWN
        if unknown.any():
            found = np.unique(raw[unknown]).tolist()
            ignored = [*self.ignored, *([(1 << bits) - 1] if self.largest else [])]
            raise DatasetError(
                f"{path} holds the values {some(found)} in {int(unknown.sum())} pixels, which are no labels: expected "
                f"{_ranges(self.values)} for {len(self.values)} classes, and {_ranges(ignored)} where ignored. "
                "Check the class list and the file"
            )
        return labels


@functools.lru_cache(maxsize=8)
def _lookup(table: LabelTable, bits: int) -> np.ndarray:
    lookup = np.full(_WIDE, IGNORE if table.others else _UNKNOWN, np.int32)
    if table.largest:
        lookup[(1 << bits) - 1] = IGNORE
    lookup[list(table.ignored)] = IGNORE
    lookup[list(table.values)] = np.arange(len(table.values))
    return lookup


def read_index(path: Path) -> tuple[np.ndarray, int]:
    """The raw values of a one-channel picture, palette indices included, and its depth in bits (8 or 16).

    Raises:
      DatasetError: no readable picture, or one with colours.
    """
    raw, mode, depth = _open(path)
    if mode in ("L", "P"):
        return raw // _STRETCHED.get(depth, 1) if mode == "L" else raw, 8
    if mode == "1":
        return raw.astype(np.uint8), 8
    if mode.startswith("I"):
        return raw.astype(np.int64), 16
    raise DatasetError(
        f"{path} is a picture of mode {mode}: labels are numbers in one channel, so expected a grey or palette picture "
        "of 8 or 16 bits. Turn its colours into class numbers"
    )


def read_ids(path: Path) -> Int32[np.ndarray, "H W"]:
    """Segment ids in a colour picture: R + 256 G + 65536 B, the format of COCO panoptic."""
    return rgb_to_ids(_rgb(path))


def read_instances(path: Path) -> np.ndarray:
    """Segment ids in a one-channel picture."""
    return read_index(path)[0]


def read_raw_ade(path: Path, *, table: LabelTable) -> Int32[np.ndarray, "H W"]:
    """Labels of a `*_seg.png` of ADE20K: the class number is 256 (R // 10) + G."""
    rgb = _rgb(path).astype(np.int32)
    return table.apply(256 * (rgb[..., 0] // 10) + rgb[..., 1], 16, path)


def read_mat(path: Path, *, table: LabelTable) -> Int32[np.ndarray, "H W"]:
    """Labels of a Pascal Context .mat file, in its array `LabelMap`.

    Raises:
      DatasetError: no readable file, or without that array.
    """
    import scipy.io

    try:
        raw = scipy.io.loadmat(str(path))["LabelMap"]
    # Damaged files reach the parser's depths: zlib.error, struct.error, MatReadError, TypeError, ...
    except Exception as error:
        raise DatasetError(f"{path} holds no readable LabelMap ({error!r})") from error
    if raw.ndim != 2 or raw.dtype.kind not in "iu":
        raise DatasetError(
            f"{path}: LabelMap has dtype {raw.dtype} and shape {raw.shape}, expected integers (H, W)"
        )
    return table.apply(raw.astype(np.int64), 16, path)


def _rgb(path: Path) -> np.ndarray:
    raw, mode, _ = _open(path)
    if mode not in ("RGB", "RGBA"):
        raise DatasetError(
            f"{path} is a picture of mode {mode}: its ids are in its colours, expected RGB"
        )
    return raw[..., :3]


def _open(path: Path) -> tuple[np.ndarray, str, int]:
    """Pixels as stored, pillow's mode, and bits a channel where the file is a PNG (0 elsewhere)."""
    try:
        with open(path, "rb") as file:
            head = file.read(25)
        depth = head[24] if head[:4] == b"\x89PNG" else 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                return np.asarray(picture), picture.mode, depth
    # Damaged files reach pillow's decoders as whatever they trip over.
    except Exception as error:
        raise DatasetError(f"{path} is not a readable label picture ({error!r})") from error


def _ranges(values: tuple[int, ...] | list[int]) -> str:
    """Numbers as "0..10, 12, 20..30"."""
    spans: list[list[int]] = []
    for value in sorted(set(values)):
        if spans and value == spans[-1][1] + 1:
            spans[-1][1] = value
        else:
            spans.append([value, value])
    return some(f"{a}..{b}" if b > a else a for a, b in spans) or "nothing"
