"""Changes of style that leave the content of a picture alone, to ask how much of a score survives them.

Eight kinds at three severities, jitted, on uint8 pictures; level 0 is the picture itself. Kinds and what a level means:

    noise        Gaussian, deviation 0.04, 0.08, 0.16 (of a range of 1)
    blur         Gaussian, deviation 1, 2, 4 pixels
    brightness   times 1.3, 1.7, 2.5 or divided by it
    contrast     distance from the picture's mean grey, times 1.5, 2.2, 4 or divided by it
    hue          turned by 20, 45, 90 degrees either way
    greyscale    a third, two thirds, all of the colour gone
    fda          low amplitudes of a reference picture, beta 0.01, 0.03, 0.09 (arXiv 2004.05498)
    apr          a third, two thirds, all of the amplitudes those of a reference picture (arXiv 2108.08487)

Every random choice (the noise, which way, which reference) comes from the picture's own key: a picture is changed in the
same way whatever batch it is in. Shapes: B images (H, W), N references.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8
from PIL import Image

from gba_jax import fourier
from gba_jax.datasets.common import Dataset

LEVELS: dict[str, tuple[float, float, float]] = {
    "noise": (0.04, 0.08, 0.16),
    "blur": (1.0, 2.0, 4.0),
    "brightness": (1.3, 1.7, 2.5),
    "contrast": (1.5, 2.2, 4.0),
    "hue": (20.0, 45.0, 90.0),
    "greyscale": (1 / 3, 2 / 3, 1.0),
    "fda": (0.01, 0.03, 0.09),
    "apr": (1 / 3, 2 / 3, 1.0),
}
KINDS = tuple(LEVELS)
# The kinds that borrow from a reference picture.
BORROWING = ("fda", "apr")

# ITU-R 601-2, the grey of pillow.
_GREY = (0.299, 0.587, 0.114)
# A Gaussian is cut off after so many deviations, as scipy does.
_TRUNCATE = 4.0


@dataclasses.dataclass(frozen=True)
class Shift:
    """A kind of `KINDS` and a severity, 0 (unchanged) to 3.

    Raises:
      ValueError: no such kind or severity.
    """

    kind: str
    severity: int

    def __post_init__(self):
        """Refuse what there is no level for."""
        problems = []
        if self.kind not in LEVELS:
            problems.append(f"kind={self.kind!r}: expected one of {', '.join(KINDS)}")
        if self.severity not in (0, 1, 2, 3):
            problems.append(f"severity={self.severity!r}: expected 0, 1, 2 or 3")
        if problems:
            raise ValueError("this is no style shift: " + "; ".join(problems))


SUITE = tuple(Shift(kind, severity) for kind in KINDS for severity in (1, 2, 3))


def reference_set(
    dataset: Dataset, count: int = 16, side: int = 256
) -> UInt8[np.ndarray, "N side side 3"]:
    """The reference pictures of a data set: `count` of them at even distances in its order, squeezed to a square."""
    places = np.unique(np.linspace(0, len(dataset) - 1, min(count, len(dataset))).round())
    pictures = (Image.fromarray(dataset[int(i)].image) for i in places)
    return np.stack(
        [np.asarray(p.resize((side, side), Image.Resampling.BILINEAR)) for p in pictures]
    )


@functools.partial(jax.jit, static_argnames=("shift",))
def apply(
    images: UInt8[Array, "B H W 3"],
    shift: Shift,
    references: UInt8[Array, "N h w 3"] | None = None,
    *,
    key: PRNGKeyArray,
) -> UInt8[Array, "B H W 3"]:
    """Pictures in another style.

    Args:
      images: of equal size.
      shift: what to do; one program each.
      references: whose amplitudes `fda` and `apr` take; resized to the pictures. Other kinds ignore them.
      key: one for each picture, (B,).

    Returns:
      uint8 pictures, rounded and clipped.

    Raises:
      ValueError: another number of keys than of pictures, or a kind that needs references has none.
      TypeError: pictures that are not uint8.
    """
    if images.dtype != jnp.uint8:
        raise TypeError(f"pictures of {images.dtype}: style shifts are made on uint8")
    if key.shape != images.shape[:1]:
        raise ValueError(
            f"keys of shape {key.shape} for {images.shape[0]} pictures: expected one each, as jax.random.split gives"
        )
    if shift.kind in BORROWING and (references is None or not references.shape[0]):
        raise ValueError(
            f"the style shift {shift.kind!r} takes amplitudes of reference pictures: pass references=, for example "
            "shifts.reference_set(training data)"
        )
    if shift.severity == 0:
        return images
    level = LEVELS[shift.kind][shift.severity - 1]
    x = images.astype(jnp.float32) / 255.0
    if shift.kind in BORROWING:
        assert references is not None
        x = _borrow(x, shift.kind, level, _fitted(references, x.shape), key)
    else:
        x = jax.vmap(lambda x, key: _CHANGES[shift.kind](x, level, key))(x, key)
    return jnp.round(jnp.clip(x, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def _noise(x: Array, level: float, key: Array) -> Array:
    return x + level * jax.random.normal(key, x.shape)


def _blur(x: Array, level: float, key: Array) -> Array:
    del key
    radius = int(_TRUNCATE * level + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / level) ** 2)
    weights = jnp.asarray(weights / weights.sum(), jnp.float32)
    pads = [(radius, radius), (radius, radius), (0, 0)]
    planes = jnp.moveaxis(jnp.pad(x, pads, mode="symmetric"), -1, 0)[:, None]
    for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
        kernel = weights.reshape(shape)
        planes = jax.lax.conv(planes, kernel, (1, 1), "VALID", precision="highest")
    return jnp.moveaxis(planes[:, 0], 0, -1)


def _brightness(x: Array, level: float, key: Array) -> Array:
    return x * _either_way(level, key)


def _contrast(x: Array, level: float, key: Array) -> Array:
    mean = jnp.mean(_grey(x))
    return mean + (x - mean) * _either_way(level, key)


def _hue(x: Array, level: float, key: Array) -> Array:
    """The hue of HSV turned; value and saturation stay."""
    turn = jnp.where(jax.random.bernoulli(key), level, -level) / 60.0
    value, low = jnp.max(x, axis=-1), jnp.min(x, axis=-1)
    chroma = value - low
    red, green, blue = jnp.moveaxis(x, -1, 0)
    safe = jnp.where(chroma > 0, chroma, 1.0)
    # In sixths of the circle, counted from the largest channel; grey has none and needs none.
    sixth = jnp.where(
        value == red,
        (green - blue) / safe,
        jnp.where(value == green, 2.0 + (blue - red) / safe, 4.0 + (red - green) / safe),
    )
    place = jnp.mod(sixth[..., None] + turn + jnp.asarray([5.0, 3.0, 1.0])[None, None], 6.0)
    falling = jnp.clip(jnp.minimum(place, 4.0 - place), 0.0, 1.0)
    return value[..., None] - chroma[..., None] * falling


def _greyscale(x: Array, level: float, key: Array) -> Array:
    del key
    return x + level * (_grey(x)[..., None] - x)


_CHANGES = {
    "noise": _noise,
    "blur": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "hue": _hue,
    "greyscale": _greyscale,
}


def _borrow(
    x: Float[Array, "B H W 3"], kind: str, level: float, references: Array, key: Array
) -> Float[Array, "B H W 3"]:
    number = jax.vmap(lambda key: jax.random.randint(key, (), 0, references.shape[0]))(key)
    if kind == "fda":
        return fourier.fda(x, references[number], beta=level)
    # The inverse transform is linear in the amplitudes: mixing pictures mixes amplitudes at the picture's own phase.
    return x + level * (fourier.amplitude_swap(x, references[number]) - x)


def _fitted(references: Array, like: tuple[int, ...]) -> Float[Array, "N H W 3"]:
    shape = (references.shape[0], *like[1:])
    return jax.image.resize(references.astype(jnp.float32) / 255.0, shape, "bilinear")


def _either_way(level: float, key: Array) -> Float[Array, ""]:
    return jnp.where(jax.random.bernoulli(key), level, 1.0 / level)


def _grey(x: Float[Array, "H W 3"]) -> Float[Array, "H W"]:
    return jnp.dot(x, jnp.asarray(_GREY), precision="highest")
