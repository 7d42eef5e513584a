"""One eye, analytically: a ball with sclera, iris and pupil behind two lids, shaded ray by ray.

Everything is in left-eye form in the head frame, mm: for a right eye the rays, the light and the gaze are mirrored first.
Lids lie in the plane through the eye corners with coordinates u (outwards) and v (down); the ball lies behind it. C colour
channels, 1 or 3.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from gaze_jax.render.persons import WRAP_RAD, Person
from gaze_jax.render.rays import Vector, dot, edge, split, subtract, times, unit

Scalar = Float[Array, ""]
_PUPIL_TONE = 0.03
# How far the skin of a head may lie from the plane of the lids.
_DEPTH_MM = 9.0


class Eye(NamedTuple):
    """One eye of one scene, left-eye form.

    Attributes:
      camera: centre of the camera. middle: between the eye corners. ball: centre of the eyeball.
      optical: unit optical axis. light: unit direction to the light. strength: of the light.
      pitch_deg: gaze against the head, which the lids follow. opening: of the upper lid, 0 closed .. 1.1.
      pupil_radius, specular: strength of the glint.
      iris, sclera, flesh: colours (C,).
    """

    camera: Float[Array, "3"]
    middle: Float[Array, "3"]
    ball: Float[Array, "3"]
    optical: Float[Array, "3"]
    light: Float[Array, "3"]
    strength: Scalar
    ambient: Scalar
    pitch_deg: Scalar
    opening: Scalar
    pupil_radius: Scalar
    specular: Scalar
    iris: Float[Array, "C"]
    sclera: Float[Array, "C"]
    flesh: Float[Array, "C"]


def shade(
    eye: Eye,
    person: Person,
    rays: Vector,
    skin: Float[Array, "C 4 H W"],
    surface: Float[Array, "4 H W"] | None = None,
) -> Float[Array, "C 4 H W"]:
    """What rays see: the eye where the lids are open, else the skin with the marks that lids and lashes leave on it.

    Args:
      eye: the eye.
      person: its person, scalars.
      rays: unit directions, planes (4, H, W).
      skin: colours behind, linear, 1 = white.
      surface: distance to the head in mm; where it is well before the plane of the lids, a nose hides them, and where a
        ray passes the head by there is no eye either. None: nothing is in the way.
    """
    u, v, plane = _plane(eye, rays)
    hidden = jnp.zeros_like(u)
    if surface is not None:
        hidden = edge(jnp.abs(plane - surface) - _DEPTH_MM, 1.0)
    q = jnp.clip(1.0 - (2.0 * u / person.width) ** 2, 0.0, 1.0)
    log_q = jnp.log(jnp.maximum(q, 1e-6))
    lower_height = person.lower - 0.02 * eye.pitch_deg
    upper_height = person.upper * eye.opening + 0.06 * person.follow * eye.pitch_deg
    # Closed lids meet on the lower one.
    upper_height = jnp.maximum(upper_height, -0.9 * lower_height)
    line = person.tilt * u
    upper = line - upper_height * jnp.exp(person.upper_power * log_q)
    lower = line + lower_height * jnp.exp(person.lower_power * log_q)

    within = jnp.minimum(4.0 * q, 1.0)
    shown = (1.0 - hidden) * within
    open_ = edge(v - upper, 0.22) * edge(lower - v, 0.22) * shown
    shadow = 1.0 - 0.55 * jnp.exp(-jnp.maximum(v - upper, 0.0) / 1.3)

    # Marks on the skin: the crease above the lid, the lash lines and the socket's shade.
    above = v - upper
    crease = 0.2 * within * jnp.exp(-0.5 * (above + person.crease) ** 2)
    lash = person.lash * jnp.exp(-2.0 * (above + 0.2) ** 2)
    lash_low = 0.35 * person.lash * jnp.exp(-2.0 * (v - lower - 0.1) ** 2)
    marks = 1.0 - (1.0 - hidden) * crease
    lashes = 1.0 - shown * jnp.clip(lash + lash_low, 0.0, 0.95)

    duct = edge(2.6 - 0.5 * person.width - u, 0.5)
    ball = _ball(eye, person, rays)
    channels = []
    for channel, seen in enumerate(ball):
        flesh = eye.flesh[channel] * (eye.ambient + 0.4 * eye.strength)
        inner = (seen + duct * (flesh - seen)) * shadow
        outer = skin[channel] * marks
        channels.append((outer + open_ * (inner - outer)) * lashes)
    return jnp.stack(channels)


def _plane(eye: Eye, rays: Vector) -> tuple[Array, Array, Array]:
    """(u, v, distance) in mm where rays meet the plane of the eye corners; far outside where they pass it by."""
    cosine, sine = math.cos(WRAP_RAD), math.sin(WRAP_RAD)
    start = subtract(split(eye.camera), split(eye.middle))
    # The plane's normal points into the head: rays that see its front run along it.
    along = cosine * rays[2] - sine * rays[0]
    distance = -(cosine * start[2] - sine * start[0]) / jnp.maximum(along, 0.02)
    x, y, z = (s + distance * r for s, r in zip(start, rays, strict=True))
    u = jnp.where(along > 0.02, cosine * x + sine * z, 1e3)
    return u, y, distance


def _ball(eye: Eye, person: Person, rays: Vector) -> list[Array]:
    """Colours of the eyeball, one plane a channel, lit, without the lid's shadow."""
    start = subtract(split(eye.camera), split(eye.ball))
    # The foot of the perpendicular keeps float32 exact: the camera is far away, the ball small.
    foot = subtract(start, times(dot(start, rays), rays))
    height = jnp.sqrt(jnp.maximum(person.radius**2 - dot(foot, foot), 0.0))
    normal = times(1.0 / person.radius, subtract(foot, times(height, rays)))
    axis = split(eye.optical)
    off = subtract(normal, axis)
    chord2 = dot(off, off)
    # Arc length from the pole: 2 R asin(chord / 2), by its series, exact to 1e-3 over the iris.
    arc = person.radius * jnp.sqrt(jnp.maximum(chord2, 1e-12)) * (1.0 + chord2 / 24.0)

    across = unit((axis[2], jnp.zeros_like(axis[0]), -axis[0]))
    up = (
        axis[1] * across[2] - axis[2] * across[1],
        axis[2] * across[0] - axis[0] * across[2],
        axis[0] * across[1] - axis[1] * across[0],
    )
    turn = jnp.arctan2(dot(off, up), dot(off, across) + 1e-9)
    texture = (
        1.0
        + 0.18 * jnp.sin(person.frequency[0] * turn + person.phase)
        + 0.1 * jnp.sin(person.frequency[1] * turn + 2.0 * arc)
    )
    rim = 1.0 - 0.45 * edge(arc - (person.iris_radius - 0.7), 0.15)
    iris_cover = edge(person.iris_radius - arc, 0.18)
    pupil_cover = edge(eye.pupil_radius - arc, 0.15)

    to_light = split(eye.light)
    lit = eye.ambient + 0.55 * eye.strength * jnp.maximum(dot(normal, to_light), 0.0)
    half = unit(subtract(to_light, rays))
    bulge = unit(subtract(times(jnp.asarray(1.35), normal), times(jnp.asarray(0.35), axis)))
    shine = jnp.exp(180.0 * jnp.log(jnp.maximum(dot(bulge, half), 1e-3)))
    glint = eye.specular * shine * (0.15 + 0.85 * iris_cover)
    fall = 1.0 - 0.02 * jnp.maximum(arc - 8.0, 0.0)
    colours = []
    for channel in range(eye.iris.shape[0]):
        iris = eye.iris[channel] * texture * rim
        iris = iris + pupil_cover * (_PUPIL_TONE - iris)
        white = eye.sclera[channel] * fall
        colours.append((white + iris_cover * (iris - white)) * lit + glint)
    return colours
