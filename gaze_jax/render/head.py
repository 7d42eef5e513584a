"""A head, analytically: ellipsoids in the head frame, of which every ray sees the nearest, with painted brows and lips.

Head frame, mm: x to the left ear, y down, z into the head, origin between the eyes. Neighbouring parts melt into each other
over `_MELT_MM` of depth, so that a nose grows out of a face. Everything is symmetric in x: a mirrored scene is a mirrored
picture. Named points of the face model lie on the surface to a few mm, except the eye corners, which are exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gaze_jax import face_model
from gaze_jax.render import colours
from gaze_jax.render.persons import Person
from gaze_jax.render.rays import Vector, add, dot, edge, split, subtract, times, unit

_MELT_MM = 3.5
# The distance of what is no head.
_FAR_MM = 1e5
_SKIN, _HAIR, _CLOTH = range(3)
# Centre, radii, material; x is mirrored for pairs.
_SKULL = ((0, 15, 85), (75, 105, 95), _SKIN)
_JAW = ((0, 75, 60), (55, 55, 65), _SKIN)
_TOP = ((0, -14, 99), (81, 101, 97), _HAIR)
_EAR = ((76, 20, 84), (7, 27, 17), _SKIN)
_NECK = ((0, 152, 92), (46, 85, 48), _SKIN)
_SHOULDERS = ((0, 285, 105), (230, 125, 95), _CLOTH)
_RIDGE = ((0, 25, -8), (9, 28, 14), _SKIN)
_TIP = ((0, 40, -14), (13, 10, 16), _SKIN)
_WING = ((12, 43, -10), (7, 6, 9), _SKIN)
_MUZZLE = ((0, 68, 37), (50, 40, 48), _SKIN)
# Everything painted on the face lies in this ball.
_FACE = ((0.0, 22.0, 15.0), 92.0)
# Glasses stand in this plane.
_GLASSES_Z = -15.0


class Head(NamedTuple):
    """One head before one camera, head frame.

    Attributes:
      camera: its centre. light: unit direction to the light. strength, ambient. specular: of the skin.
      skin, hair, lips, cloth: colours (C,).
      glasses, fringe: 1 where worn.
    """

    camera: Float[Array, "3"]
    light: Float[Array, "3"]
    strength: Float[Array, ""]
    ambient: Float[Array, ""]
    specular: Float[Array, ""]
    skin: Float[Array, "C"]
    hair: Float[Array, "C"]
    lips: Float[Array, "C"]
    cloth: Float[Array, "C"]
    glasses: Float[Array, ""]
    fringe: Float[Array, ""]


class _Part(NamedTuple):
    centre: Array
    radii: Array
    material: int


def _groups(person: Person) -> list[list[_Part]]:
    """The ellipsoids of one person, near ones together; those that carry named points follow them."""

    def part(
        what: tuple, shift: Array | float = 0.0, mirrored: bool = False, scale: Array | float = 1.0
    ) -> _Part:
        sign = jnp.asarray([-1.0 if mirrored else 1.0, 1.0, 1.0], jnp.float32)
        centre, radii = (jnp.asarray(numbers, jnp.float32) for numbers in what[:2])
        return _Part(sign * (centre * scale + shift), radii * scale, what[2])

    moved = lambda point, name: point - jnp.asarray(face_model.POINTS[name], jnp.float32)
    tip, wing = moved(person.tip, "nose_tip"), moved(person.nose, "nose_left")
    mouth = moved(person.mouth, "mouth_left") * jnp.asarray([0.0, 1.0, 1.0], jnp.float32)
    wide = jnp.stack([person.size, jnp.ones_like(person.size), jnp.ones_like(person.size)])
    ears = [part(_EAR, scale=wide), part(_EAR, scale=wide, mirrored=True)]
    wings = [part(_WING, shift=wing), part(_WING, shift=wing, mirrored=True)]
    return [
        [part(what, scale=wide) for what in (_SKULL, _JAW, _TOP)] + ears,
        [part(what, scale=wide) for what in (_NECK, _SHOULDERS)],
        [part(_RIDGE, shift=0.5 * tip), part(_TIP, shift=tip), *wings],
        [part(_MUZZLE, shift=mouth)],
    ]


def _touches(camera: Array, rays: Vector, centre: Array, radius: Array) -> Array:
    """Whether a small bundle of rays may meet a ball: as a cone around its middle ray."""
    middle = jnp.stack([jnp.mean(plane) for plane in rays])
    middle = middle / jnp.sqrt(jnp.sum(middle**2))
    spread = 1.0 - jnp.min(dot(split(middle), rays))
    to = centre - camera
    along = jnp.sum(to * middle)
    miss = jnp.sqrt(jnp.maximum(jnp.sum(to * to) - along * along, 0.0))
    # A cone's half width at the ball: its sine, from 1 - cos.
    return miss < radius + 1.05 * along * jnp.sqrt(2.0 * spread) + 1.0


class _Sum(NamedTuple):
    """What rays have met so far, weighted: planes."""

    weight: Array
    distance: Array
    hair: Array
    cloth: Array
    normal: Vector


def shade(
    head: Head, person: Person, rays: Vector, background: Float[Array, "C 4 H W"]
) -> tuple[Float[Array, "C 4 H W"], Float[Array, "4 H W"]]:
    """What rays see of a head without its eyes.

    Args:
      head: the head.
      person: whose it is, scalars.
      rays: unit directions, planes (4, H, W), of a small part of the picture: parts of the head that none of them can meet
        are left out.
      background: colours where they miss the head.

    Returns:
      (colours, distance to the surface in mm; far away where a ray misses).
    """
    zero = jnp.zeros_like(rays[0])
    met = _Sum(zero, zero, zero, zero, (zero, zero, zero))
    for group in _groups(person):
        centre = jnp.mean(jnp.stack([part.centre for part in group]), axis=0)
        reach = [jnp.linalg.norm(p.centre - centre) + jnp.max(p.radii) for p in group]
        met = jax.lax.cond(
            _touches(head.camera, rays, centre, jnp.max(jnp.stack(reach))),
            lambda so_far, group=group: _add_group(head.camera, group, rays, so_far),
            lambda so_far: so_far,
            met,
        )
    return jax.lax.cond(
        jnp.any(met.weight > 0.0),
        lambda: _surface(head, person, rays, met, background),
        lambda: (background, jnp.full_like(zero, _FAR_MM)),
    )


def _add_group(camera: Array, group: list[_Part], rays: Vector, met: _Sum) -> _Sum:
    far = jnp.sqrt(jnp.sum(camera**2))
    squares = (rays[0] * rays[0], rays[1] * rays[1], rays[2] * rays[2])
    for part in group:
        hit, along, facing = _meet(camera, part, rays, squares)
        # Nearest wins, softly: a single pass, no sorting. The exponent stays in float32's range.
        near = jnp.exp(jnp.clip((far - along) / _MELT_MM, -80.0, 60.0))
        near = jnp.where(hit, near, 0.0)
        met = _Sum(
            weight=met.weight + near,
            distance=met.distance + near * along,
            hair=met.hair + near if part.material == _HAIR else met.hair,
            cloth=met.cloth + near if part.material == _CLOTH else met.cloth,
            normal=add(met.normal, times(near, facing)),
        )
    return met


def _surface(
    head: Head, person: Person, rays: Vector, met: _Sum, background: Array
) -> tuple[Array, Array]:
    """Colours and distances of a bundle of rays of which some meet the head."""
    covered = met.weight > 0.0
    share = 1.0 / jnp.where(covered, met.weight, 1.0)
    distance, hair, cloth = met.distance * share, met.hair * share, met.cloth * share
    normal = unit(times(share, met.normal))
    point = add(split(head.camera), times(distance, rays))
    zero, one = jnp.zeros_like(distance), jnp.ones_like(distance)
    centre, radius = jnp.asarray(_FACE[0], jnp.float32), jnp.asarray(_FACE[1], jnp.float32)
    paint = jax.lax.cond(
        _touches(head.camera, rays, centre, radius),
        lambda: _paint(person, point),
        lambda: _Paint(one, zero, zero, zero),
    )
    lit = _light(head, normal)
    shine = _shine(head, normal, rays) * (1.0 - cloth)
    channels = []
    for channel in range(head.skin.shape[0]):
        colour = head.skin[channel] * paint.shade
        colour = colour + paint.lips * (head.lips[channel] - colour)
        colour = colour + paint.brows * (head.hair[channel] - colour)
        cover = jnp.maximum(hair, head.fringe * paint.fringe)
        colour = colour + cover * (head.hair[channel] - colour)
        colour = colour + cloth * (head.cloth[channel] - colour)
        channels.append(jnp.where(covered, colour * lit + shine, background[channel]))
    return jnp.stack(channels), jnp.where(covered, distance, _FAR_MM)


def _meet(camera: Array, part: _Part, rays: Vector, squares: Vector) -> tuple[Array, Array, Vector]:
    """(whether rays meet an ellipsoid, how far away, its unit normals there)."""
    inverse = 1.0 / part.radii**2
    start = camera - part.centre
    pull = split(inverse * start)
    # |start + t ray| = 1 in units of the radii: a t^2 + 2 b t + c = 0.
    a, b = dot(squares, split(inverse)), dot(rays, pull)
    inside = b * b - a * (jnp.sum(inverse * start * start) - 1.0)
    along = -(b + jnp.sqrt(jnp.maximum(inside, 0.0))) / a
    k = split(inverse)
    normal = unit(tuple(pull[i] + along * (k[i] * rays[i]) for i in range(3)))  # pyright: ignore
    return inside > 0.0, along, normal


def _light(head: Head, normal: Vector) -> Array:
    facing = dot(normal, split(head.light))
    return head.ambient + 0.1 + 0.5 * head.strength * jnp.maximum(0.12 + 0.88 * facing, 0.0)


def _shine(head: Head, normal: Vector, rays: Vector) -> Array:
    half = unit(subtract(split(head.light), rays))
    gloss = jnp.maximum(dot(normal, half), 0.0)
    for _ in range(4):
        gloss = gloss * gloss
    return 0.1 * head.specular * head.strength * gloss


class _Paint(NamedTuple):
    shade: Array
    lips: Array
    brows: Array
    fringe: Array


def _bump(x: Array, sd: float) -> Array:
    return jnp.exp((-0.5 / sd**2) * x * x)


def _paint(person: Person, point: Vector) -> _Paint:
    """What is painted on the front of the face: how dark, and how much of lips, brows and fringe."""
    x, y, z = jnp.abs(point[0]), point[1], point[2]
    front = edge(35.0 - z, 3.0)
    eye_x = 0.5 * person.eye_distance

    off = (x - eye_x - 1.0) / 19.0
    arch = -person.brow - 3.0 * (1.0 - off * off)
    thick = 2.4 - 0.9 * jnp.clip(off, -1.0, 1.0)
    ends = edge(1.0 - off, 0.06) * edge(off + 0.95, 0.06)
    brows = person.brow_strength * jnp.exp(-0.5 * ((y - arch) / thick) ** 2) * ends * front

    mouth_x, mouth_y = person.mouth[0], person.mouth[1]
    q = jnp.clip(1.0 - (x / mouth_x) ** 2, 0.0, 1.0)
    root = jnp.sqrt(q)
    top = mouth_y - 5.5 * root * (1.0 - 0.18 * _bump(x, 3.0))
    lips = edge(y - top, 0.5) * edge(mouth_y + 7.5 * root - y, 0.6) * jnp.minimum(4.0 * q, 1.0)
    between = _bump(y - mouth_y - 0.5, 0.8) * jnp.minimum(3.0 * q, 1.0)

    nostrils = _bump(x - 6.5, 2.6) * _bump(y - person.nose[1] - 4.5, 1.5)
    socket = _bump(x - eye_x + 11.0, 6.0) * _bump(y + 4.0, 7.0)
    under = _bump(x - eye_x, 11.0) * _bump(y - 13.0, 4.0)
    lid = _bump(x - eye_x, 13.0) * _bump(y + 6.5, 4.0)
    chin = _bump(x, 22.0) * _bump(y - mouth_y - 13.0, 3.0)
    philtrum = _bump(x, 10.0) * _bump(y - person.nose[1] - 9.0, 4.0)
    dark = 0.7 * nostrils + 0.2 * socket + 0.1 * under + 0.12 * lid + 0.14 * chin + 0.18 * philtrum
    shade = 1.0 - front * jnp.clip(dark + 0.55 * between, 0.0, 0.85)
    lips = lips * front * (1.0 - 0.6 * between)

    hairline = -person.brow + 1.0 + 3.5 * jnp.cos(0.16 * x) + 1.5 * jnp.cos(0.43 * x)
    return _Paint(shade, lips, brows, edge(hairline - y, 0.9) * edge(60.0 - z, 3.0))


def wear_glasses(
    head: Head, person: Person, rays: Vector, colour: Float[Array, "C 4 H W"]
) -> Float[Array, "C 4 H W"]:
    """Glasses before the eyes: dark rims, a bridge and lenses that take and reflect a little light."""
    ahead = jnp.maximum(rays[2], 0.05)
    distance = (_GLASSES_Z - head.camera[2]) / ahead
    x = jnp.abs(head.camera[0] + distance * rays[0])
    y = head.camera[1] + distance * rays[1] - 3.0
    across, down = (x - 0.5 * person.eye_distance) / 25.0, y / 18.0
    # A rounded square: the fourth norm.
    reach = jnp.sqrt(jnp.sqrt(jnp.maximum(across**4 + down**4, 1e-8)))
    rim = _bump(20.0 * (reach - 1.0), 1.0)
    bridge = edge(0.5 * person.eye_distance - 24.0 - x, 0.4) * _bump(y + 5.0, 1.1)
    lens = edge(20.0 * (1.0 - reach), 0.5)
    worn = jnp.where(rays[2] > 0.05, head.glasses, 0.0)
    frame = worn * jnp.clip(rim + bridge, 0.0, 1.0)
    glare = 0.14 * worn * lens * head.strength * _bump(x - 0.5 * person.eye_distance + y + 9.0, 4.0)
    seen = colour * (1.0 - 0.08 * worn * lens)[None] + glare[None]
    return seen + frame[None] * (0.06 - seen)


def make(
    person: Person,
    *,
    camera: Array,
    light: Array,
    strength: Array,
    ambient: Array,
    specular: Array,
    cloth: Array,
    glasses: Array,
    fringe: Array,
) -> Head:
    """A head in colour; every argument but the person in the head frame, as the attributes of `Head` say."""
    return Head(
        camera=camera,
        light=light,
        strength=strength,
        ambient=ambient,
        specular=specular,
        skin=colours.skin(person, 3),
        hair=colours.hair(person, 3),
        lips=colours.flesh(person, 3),
        cloth=cloth,
        glasses=glasses,
        fringe=fringe,
    )
