"""Noise images: the ways in which a picture of an eye goes bad, at severities 1 to 5; uint8 to uint8, inside jit.

The noise protocol is ours: DRNet (arXiv 2208.04298) claims robustness to noise images and does not define them publicly.
Sizes in pixels are meant for patches about 60 pixels wide. Lids that droop are no change of the picture: the renderer does
that one. Shapes: B pictures of (H, W, c); a severity for all or for each.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from gaze_jax import augment

SEVERITIES = (1, 2, 3, 4, 5)

_NOISE_SD = (0.05, 0.1125, 0.175, 0.2375, 0.3)
_MOTION_PX = (3, 5, 7, 9, 11)
_DEFOCUS_SD_PX = (0.5, 1.125, 1.75, 2.375, 3.0)
_GAIN = (0.8, 0.65, 0.5, 0.35, 0.2)
_OCCLUDED = (0.1, 0.2, 0.3, 0.4, 0.5)
_SHIFT_PX = (2, 4, 7, 10, 12)

# The sensor of the low-light pictures: noise without light, and the growth of its variance with light.
_READ_SD = 0.02
_SHOT_VARIANCE = 0.002

Severity = int | Int[Array, ""] | Int[Array, " B"]
Change = Callable[[Float[Array, "B H W c"], Int[Array, " B"], Array], Float[Array, "B H W c"]]


def apply(
    kind: str, images: UInt8[Array, "B H W c"], severity: Severity, *, key: Array
) -> UInt8[Array, "B H W c"]:
    """Pictures gone bad in one way.

    Args:
      kind: one of `KINDS`:
        gaussian_noise  sd .05 to .3 of the full range
        motion_blur     3 to 11 px along a random direction
        defocus         Gaussian of sd .5 to 3 px
        low_light       gain .8 to .2, then the noise of a sensor
        occluder        a rectangle of one grey over 10 to 50 % of the picture
        crop_shift      moved by 2 to 12 px in a random direction, edges repeat
        pure_noise      nothing but noise, at any severity
      images: the pictures.
      severity: 1 to 5, one number or one for each picture; may be traced. Outside it counts as the nearest.
      key: of everything random.

    Raises:
      ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} of corruption: expected one of {', '.join(KINDS)}")
    if kind == "pure_noise":
        return pure_noise(images.shape, key=key)
    level = jnp.broadcast_to(jnp.asarray(severity, jnp.int32), images.shape[:1])
    level = jnp.clip(level, 1, len(SEVERITIES)) - 1
    changed = _CHANGES[kind](images.astype(jnp.float32) / 255.0, level, key)
    return jnp.round(jnp.clip(changed, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def pure_noise(shape: tuple[int, ...], *, key: Array) -> UInt8[Array, "B H W c"]:
    """Independent pixels, every value equally likely."""
    return jax.random.bits(key, shape, jnp.uint8)


def sometimes(
    images: UInt8[Array, "B H W c"], probability: float, *, key: Array
) -> UInt8[Array, "B H W c"]:
    """Some pictures of a batch gone bad, as references are in training.

    One kind for the whole batch, so that only that one is computed; which pictures, and how badly, is drawn for each.
    """
    which, kind, level, noise = jax.random.split(key, 4)
    batch = images.shape[0]
    severity = jax.random.randint(level, (batch,), 1, len(SEVERITIES) + 1)
    branches = [
        lambda x, s, k, name=name: apply(name, x, s, key=k)  # pyright: ignore
        for name in KINDS
    ]
    number = jax.random.randint(kind, (), 0, len(KINDS))
    changed = jax.lax.switch(number, branches, images, severity, noise)
    hit = jax.random.bernoulli(which, probability, (batch, 1, 1, 1))
    return jnp.where(hit, changed, images)


def _gaussian_noise(x: Array, level: Array, key: Array) -> Array:
    return x + _pick(_NOISE_SD, level, x) * jax.random.normal(key, x.shape)


def _motion_blur(x: Array, level: Array, key: Array) -> Array:
    """The mean of copies moved along a line, one a pixel of its length."""
    angle = jax.random.uniform(key, level.shape, maxval=jnp.pi)
    reach = max(_MOTION_PX) // 2
    half = jnp.asarray(_MOTION_PX)[level] // 2

    def add(step: Array, total: Array) -> Array:
        along = (step - reach).astype(jnp.float32)
        offset = jnp.stack([along * jnp.sin(angle), along * jnp.cos(angle)], axis=1)
        within = (jnp.abs(step - reach) <= half)[:, None, None, None]
        return total + jnp.where(within, jax.vmap(_moved)(x, jnp.round(offset)), 0.0)

    total = jax.lax.fori_loop(0, 2 * reach + 1, add, jnp.zeros_like(x))
    return total / (2 * half + 1).astype(jnp.float32)[:, None, None, None]


def _defocus(x: Array, level: Array, key: Array) -> Array:
    del key
    return augment.gaussian_blur(x, jnp.asarray(_DEFOCUS_SD_PX)[level], 9)


def _low_light(x: Array, level: Array, key: Array) -> Array:
    dark = _pick(_GAIN, level, x) * x
    sd = jnp.sqrt(_READ_SD**2 + _SHOT_VARIANCE * dark)
    return dark + sd * jax.random.normal(key, x.shape)


def _occluder(x: Array, level: Array, key: Array) -> Array:
    """A rectangle of the picture's own proportions, wholly inside it."""
    place, grey = jax.random.split(key)
    batch, height, width, _ = x.shape
    side = jnp.sqrt(jnp.asarray(_OCCLUDED)[level])
    corner = jax.random.uniform(place, (batch, 2)) * (1.0 - side)[:, None]
    rows = _within(_centres(height), corner[:, 0], side)
    columns = _within(_centres(width), corner[:, 1], side)
    hidden = (rows[:, :, None] & columns[:, None, :])[:, :, :, None]
    return jnp.where(hidden, jax.random.uniform(grey, (batch, 1, 1, 1)), x)


def _crop_shift(x: Array, level: Array, key: Array) -> Array:
    angle = jax.random.uniform(key, level.shape, maxval=2.0 * jnp.pi)
    length = jnp.asarray(_SHIFT_PX, jnp.float32)[level]
    offset = jnp.stack([length * jnp.sin(angle), length * jnp.cos(angle)], axis=1)
    return jax.vmap(_moved)(x, jnp.round(offset))


_CHANGES: dict[str, Change] = {
    "gaussian_noise": _gaussian_noise,
    "motion_blur": _motion_blur,
    "defocus": _defocus,
    "low_light": _low_light,
    "occluder": _occluder,
    "crop_shift": _crop_shift,
}

KINDS = (*_CHANGES, "pure_noise")


def _pick(table: tuple[float, ...], level: Array, x: Array) -> Array:
    return jnp.asarray(table, x.dtype)[level][:, None, None, None]


def _centres(size: int) -> Array:
    return (jnp.arange(size, dtype=jnp.float32) + 0.5) / size


def _within(position: Array, start: Array, side: Array) -> Array:
    return (position[None] >= start[:, None]) & (position[None] < (start + side)[:, None])


def _moved(image: Float[Array, "H W c"], offset: Float[Array, "2"]) -> Float[Array, "H W c"]:
    """By whole pixels (rows, columns); edges repeat."""
    rows, columns = (
        jnp.clip(jnp.arange(n) - offset[i].astype(jnp.int32), 0, n - 1)
        for i, n in enumerate(image.shape[:2])
    )
    return image[rows][:, columns]
