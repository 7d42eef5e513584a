"""Pictures to the square uint8 arrays that CLIP takes, on the host with pillow: HuggingFace's resize and centre crop.

Normalisation is not here: uint8 travels to the device and `normalise` runs inside jit.
"""

import numpy as np
import PIL.Image
from jaxtyping import UInt8


def resize(image: UInt8[np.ndarray, "H W 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """Bicubic with antialiasing (pillow's, as HuggingFace uses it).

    Args:
      image: RGB.
      size: (height, width) in pixels.
    """
    height, width = size
    picture = PIL.Image.fromarray(image)
    return np.asarray(picture.resize((width, height), PIL.Image.Resampling.BICUBIC))


def preprocess(
    image: UInt8[np.ndarray, "H W 3"] | PIL.Image.Image, size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """Shorter side to `size`, then the centre square: HuggingFace's `CLIPImageProcessor` before normalisation.

    Args:
      image: RGB array, or a pillow picture of any mode; what is transparent becomes white.
      size: side of the result in pixels.

    Raises:
      ValueError: an array that is not uint8 (H, W, 3), or an empty picture.
    """
    if isinstance(image, PIL.Image.Image):
        image = _rgb(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(
            f"expected an RGB picture as uint8 of shape (H, W, 3), got {image.dtype} of shape {image.shape}"
        )
    height, width = image.shape[:2]
    # The longer side is truncated, not rounded: HuggingFace's rule.
    if height <= width:
        resized = resize(image, (size, int(size * width / height)))
    else:
        resized = resize(image, (int(size * height / width), size))
    top, left = (resized.shape[0] - size) // 2, (resized.shape[1] - size) // 2
    return resized[top : top + size, left : left + size]


def _rgb(picture: PIL.Image.Image) -> np.ndarray:
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = PIL.Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = PIL.Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))
