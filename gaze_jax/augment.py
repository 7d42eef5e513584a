"""From stored pictures to what an eye network sees, and the small changes it sees in training; all inside jit.

Shapes: B pictures of (H, W, c); uint8 in, float32 out.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

Normalise = Literal["scale", "image"]

SHIFT_PX = 2
GAIN = 0.3
BLUR_SD_PX = 1.0

# Half the width of the blur's kernel: three standard deviations.
_REACH = 3
# A picture of one colour has no contrast to be scaled up.
_SMALLEST_SD = 1.0 / 255.0


def normalise(
    images: UInt8[Array, "B H W c"] | Float[Array, "B H W c"], how: Normalise = "image"
) -> Float[Array, "B H W c"]:
    """Pixels as numbers.

    Args:
      images: 0 to 255.
      how: "scale" divides by 255; "image" brings every picture to mean 0 and standard deviation 1 over its pixels and
        channels, so that brightness and contrast are gone.
    """
    x = images.astype(jnp.float32) / 255.0
    if how == "scale":
        return x
    x = x - jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    sd = jnp.sqrt(jnp.mean(jnp.square(x), axis=(1, 2, 3), keepdims=True))
    return x / jnp.maximum(sd, _SMALLEST_SD)


def resize(
    images: Float[Array, "B H W c"], height: int, width: int
) -> Float[Array, "B height width c"]:
    """Bilinear with half-pixel centres; averaged over the pixels that fall together when it shrinks."""
    shape = (images.shape[0], height, width, images.shape[3])
    return images if images.shape == shape else jax.image.resize(images, shape, "bilinear")


def augment(images: UInt8[Array, "B H W c"], *, key: Array) -> Float[Array, "B H W c"]:
    """Each picture moved by up to 2 px, brighter or darker by up to 30 %, and half of them blurred (sd up to 1 px).

    None of it changes the label: an eye patch is never cut to the pixel.

    Returns:
      Pixels from 0 to 255.
    """
    shift_key, gain_key, blur_key = jax.random.split(key, 3)
    batch = images.shape[0]
    x = jax.vmap(_moved)(images, jax.random.randint(shift_key, (batch, 2), 0, 2 * SHIFT_PX + 1))
    x = x.astype(jnp.float32)
    # Twice the range, cut at zero: one half of the pictures stays as it is.
    sd = jnp.maximum(jax.random.uniform(blur_key, (batch,), minval=-1.0), 0.0) * BLUR_SD_PX
    x = gaussian_blur(x, sd, _REACH)
    gain = jax.random.uniform(gain_key, (batch,), minval=1.0 - GAIN, maxval=1.0 + GAIN)
    return jnp.clip(x * gain[:, None, None, None], 0.0, 255.0)


def gaussian_blur(
    images: Float[Array, "B H W c"], sd_px: Float[Array, " B"], reach: int
) -> Float[Array, "B H W c"]:
    """Each picture blurred by its own Gaussian, cut off `reach` pixels from its centre; edges repeat. 0 changes nothing.

    Rows and columns are mixed by matrices: a kernel for each picture would be a grouped convolution, slow on CPUs.
    """
    x = images
    for axis, sizes in ((1, "bij,bjwc->biwc"), (2, "bij,bhjc->bhic")):
        mix = jax.vmap(lambda sd, n=images.shape[axis]: _mixing(sd, n, reach))(sd_px)
        x = jnp.einsum(sizes, mix, x, precision="highest")
    return x


def _mixing(sd: Float[Array, ""], size: int, reach: int) -> Float[Array, "size size"]:
    """Row i: what pixel i takes from each pixel; those beyond the edge are the edge's."""
    offset = jnp.arange(-reach, reach + 1)
    # At sd 0 only the middle is left; the floor keeps the division finite.
    weight = jnp.exp(-0.5 * jnp.square(offset.astype(jnp.float32) / jnp.maximum(sd, 1e-3)))
    weight = weight / jnp.sum(weight)
    source = jnp.clip(jnp.arange(size)[:, None] + offset[None], 0, size - 1)
    taken = source[:, :, None] == jnp.arange(size)[None, None]
    return jnp.sum(jnp.where(taken, weight[None, :, None], 0.0), axis=1)


def _moved(image: Array, start: Array) -> Array:
    edges = ((SHIFT_PX, SHIFT_PX), (SHIFT_PX, SHIFT_PX), (0, 0))
    padded = jnp.pad(image, edges, mode="edge")
    return jax.lax.dynamic_slice(padded, (start[0], start[1], 0), image.shape)
