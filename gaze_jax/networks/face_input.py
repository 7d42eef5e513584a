"""What a face network is given: uint8 pictures to floats, inside jit, in the form that its weights were made for.

Shapes: B pictures, H and W pixels, S the side that the network takes.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


@dataclasses.dataclass(frozen=True)
class Input:
    """(x / 255 - mean) / std of the channels in `order`, "rgb" or "bgr"; mean and std in that order, as shares of 255."""

    order: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


INPUTS = {
    "bgr": Input("bgr", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "imagenet": Input("rgb", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
"""By the name that configurations and weight files give them: OpenCV's order on [0, 1], and torchvision's."""


def prepare(
    images: UInt8[Array, "B H W 3"], name: str, size: int, dtype=jnp.float32
) -> Float[Array, "B S S 3"]:
    """Pixels as the network takes them.

    Args:
      images: RGB.
      name: one of `INPUTS`.
      size: S; pictures of another size are resized, bilinear, antialiased where they shrink.
      dtype: of the result; the arithmetic is float32.

    Raises:
      ValueError: pictures without three channels, or an unknown name.
    """
    if images.shape[-1] != 3:
        raise ValueError(
            f"pictures have shape {images.shape}, but a face network takes RGB: (B, H, W, 3)"
        )
    if name not in INPUTS:
        raise ValueError(f"input {name!r} is not one of {', '.join(INPUTS)}")
    form = INPUTS[name]
    pixels = images.astype(jnp.float32)
    if images.shape[1:3] != (size, size):
        pixels = jax.image.resize(pixels, (images.shape[0], size, size, 3), "bilinear")
    if form.order == "bgr":
        pixels = pixels[..., ::-1]
    mean, std = (
        255.0 * jnp.asarray(v, jnp.float32)[None, None, None] for v in (form.mean, form.std)
    )
    return ((pixels - mean) / std).astype(dtype)
