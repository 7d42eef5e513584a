"""Colours from tones: one tone per material for grey pictures, tinted without changing its brightness for RGB.

Linear, 1 = white, shapes (C,): C = 1 or 3.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from gaze_jax.render.persons import Person

_LUMA = (0.299, 0.587, 0.114)
_BROWN, _BLUE = (1.75, 0.8, 0.35), (0.72, 1.05, 1.5)
_FAIR, _WARM = (1.3, 0.92, 0.72), (1.38, 0.88, 0.62)


def tinted(tone: Array, tint: Array, channels: int) -> Float[Array, "C"]:
    """A tone in the hue of a tint (3,), or alone."""
    if channels == 1:
        return jnp.reshape(tone, (1,))
    return tone * tint / jnp.sum(tint * jnp.asarray(_LUMA, jnp.float32))


def _between(weight: Array, first: tuple, second: tuple) -> Array:
    a, b = jnp.asarray(first, jnp.float32), jnp.asarray(second, jnp.float32)
    return a + weight * (b - a)


def skin(person: Person, channels: int) -> Float[Array, "C"]:
    """Skin; darker skin is warmer."""
    warmth = jnp.clip(1.0 - person.skin_tone + 0.2 * person.skin_hue, 0.0, 1.0)
    return tinted(person.skin_tone, _between(warmth, _FAIR, _WARM), channels)


def iris(person: Person, channels: int) -> Float[Array, "C"]:
    """Iris: dark ones are brown, light ones may be blue."""
    hue = person.iris_hue * jnp.clip((person.iris_tone - 0.12) / 0.2, 0.0, 1.0)
    return tinted(person.iris_tone, _between(hue, _BROWN, _BLUE), channels)


def sclera(person: Person, channels: int) -> Float[Array, "C"]:
    """The white of the eye."""
    return tinted(person.sclera_tone, jnp.asarray((1.04, 0.99, 0.95), jnp.float32), channels)


def flesh(person: Person, channels: int) -> Float[Array, "C"]:
    """The inner corner of the eye, and lips."""
    tone = 0.2 + 0.45 * person.skin_tone
    return tinted(tone, jnp.asarray((1.6, 0.78, 0.75), jnp.float32), channels)


def hair(person: Person, channels: int) -> Float[Array, "C"]:
    """Hair and brows, from black to dark blond."""
    return tinted(person.hair_tone, jnp.asarray((1.3, 0.95, 0.6), jnp.float32), channels)
