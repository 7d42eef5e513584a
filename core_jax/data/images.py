"""Pictures as uint8 arrays: decoding at full size, and the crop of a region.

One `crop_resize` serves whoever labels regions and whoever trains on them, so both see the same pixels.
"""

import io
import os
import pathlib
import warnings

import numpy as np
from jaxtyping import UInt8
from PIL import Image, UnidentifiedImageError

# What a folder reader takes for a picture; every one of these is decoded by pillow itself.
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")


class ImageError(ValueError):
    """A picture that cannot be read; the message names the file."""


def is_image_name(name: str) -> bool:
    """Whether a file of this name counts as a picture; hidden files never do."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def decode(path: str | os.PathLike) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in a file, at full size, RGB, as stored: an EXIF orientation is not applied.

    Raises:
      ImageError: the file is absent, no picture, or damaged.
    """
    try:
        data = pathlib.Path(path).read_bytes()
    except OSError as error:
        raise ImageError(f"{path} cannot be read: {error.strerror or error}") from error
    return decode_bytes(data, str(path))


def decode_bytes(data: bytes, name: str) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in the bytes of a file; transparency is dropped, 16-bit grey is cut to its upper 8 bits.

    Args:
      data: the whole file.
      name: what error messages call it.

    Raises:
      ImageError: the bytes are no picture, or a damaged one.
    """
    try:
        with warnings.catch_warnings():
            # A picture of unusual size is decoded all the same; beyond twice pillow's limit it raises.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                return rgb(picture)
    except UnidentifiedImageError as error:
        # Its own message names the bytes in memory, not the file.
        raise ImageError(
            f"{name} is not a readable picture (of no format that pillow knows); replace the file or take it off the list"
        ) from error
    # Damaged files reach pillow's decoders as whatever they trip over: SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        raise ImageError(
            f"{name} is not a readable picture ({type(error).__name__}: {error}); "
            "replace the file or take it off the list"
        ) from error


def rgb(picture: Image.Image) -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of any pillow picture: transparency is dropped, 16-bit grey is cut to its upper 8 bits."""
    if picture.mode.startswith("I"):
        grey = np.asarray(picture).astype(np.int64)
        grey = np.clip(grey >> 8, 0, 255).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    if picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    return np.array(picture.convert("RGB"), dtype=np.uint8)


def crop_resize(
    image: UInt8[np.ndarray, "H W 3"], box: tuple[int, int, int, int], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The pixels of a box, resized to a square: bicubic, antialiased, blind to what lies outside the box.

    Args:
      image: a decoded picture.
      box: (top, left, height, width) in pixels.
      size: side of the result in pixels.

    Raises:
      ValueError: the box is empty or reaches beyond the picture.
    """
    top, left, height, width = (int(value) for value in box)
    if not (
        0 <= top < top + height <= image.shape[0] and 0 <= left < left + width <= image.shape[1]
    ):
        raise ValueError(
            f"the box (top {top}, left {left}, height {height}, width {width}) does not lie inside a picture of "
            f"height {image.shape[0]} and width {image.shape[1]}"
        )
    # Cropping first matters: pillow's own `box=` argument lets the filter read pixels beyond the crop.
    crop = Image.fromarray(np.ascontiguousarray(image[top : top + height, left : left + width]))
    return np.asarray(crop.resize((size, size), Image.Resampling.BICUBIC))
