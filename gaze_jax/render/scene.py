"""One moment before a camera: who, head pose, gaze target, light. What it looks like is the business of eye and head.

Camera frame and mm throughout. A scene is the same whatever looks at it: eye patch, face patch and raw frame are different
cameras. Angles are drawn where labels live, in the space of the normalised patch, so their ranges are the domain's.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from gaze_jax import geometry
from gaze_jax.gaze_set import FACE, LEFT, RIGHT
from gaze_jax.render import persons
from gaze_jax.render.draws import Draws
from gaze_jax.render.persons import Person

FRAME = (480, 640)
KINDS = ("eyes", "faces", "frames")
# An eye turns at most this far against the head (pitch, yaw): where a drawn pair asks for more, the head follows.
_EYE_IN_HEAD_DEG = (25.0, 35.0)
_MOST_HEAD_DEG = {"eyes": (40.0, 55.0), "faces": (50.0, 80.0), "frames": (50.0, 80.0)}
# An eye behind its nose is not seen: beyond this yaw the sample is turned to the other side.
_FAR_SIDE_DEG = -35.0

# Arrays with a leading axis N: of NumPy where scenes are drawn, of JAX and without that axis where they are shaded.
Column = Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Domain:
    """A look and a range of angles, degrees, in the manner of a known data set.

    Attributes:
      name: one letter. pitch, yaw: range of the gaze. head_sd: of head pitch and yaw.
      light: sd of its direction sideways; mean and sd of how far it comes from above.
      strength: range of the light's strength. ambient: light from everywhere.
      half: whether pictures are seen at half resolution and enlarged. noise: range of the noise's sd.
      blurred: probability of blur. plain: whether faces are plain crops, not normalised.
    """

    name: str
    pitch: tuple[float, float]
    yaw: tuple[float, float]
    head_sd: tuple[float, float]
    light: tuple[float, float, float] = (0.6, 0.5, 0.4)
    strength: tuple[float, float] = (0.4, 1.2)
    ambient: float = 0.45
    half: bool = False
    noise: tuple[float, float] = (0.005, 0.03)
    blurred: float = 0.0
    plain: bool = False


class Scene(NamedTuple):
    """N scenes, one row each; a jax pytree.

    Attributes:
      person: who, gathered. side: LEFT, RIGHT or FACE, what a patch shows.
      rotation, translation: head frame to camera frame.
      reference: the point that the patch looks at. norm, scale: of its normalisation, before any mirroring.
      visual: unit visual axes of the left and the right eye: the labels of the eyes.
      gaze_camera: unit gaze of the picture. target: what is looked at.
      gaze, head: (pitch, yaw) labels as the patch is stored.
      intrinsics: of the raw frame.
      light: unit direction to it. strength, ambient. gradient: of the skin's brightness (x, y) over 30 mm.
      pupil: radius. opening: of the upper lids, 0 or less closed. specular: of the glints.
      gain, noise: of the sensor. blur_px. glasses, fringe: 1 where worn.
      background: its colour, RGB. slope: how its brightness changes to the right and downwards. cloth: colour.
      noise_seed: names the sensor's noise.
      jpeg: quality 40-95, or 0 for a picture that is not compressed.
    """

    person: Person
    side: Column
    rotation: Column
    translation: Column
    reference: Column
    norm: Column
    scale: Column
    visual: Column
    gaze_camera: Column
    target: Column
    gaze: Column
    head: Column
    intrinsics: Column
    light: Column
    strength: Column
    ambient: Column
    gradient: Column
    pupil: Column
    opening: Column
    specular: Column
    gain: Column
    noise: Column
    blur_px: Column
    glasses: Column
    fringe: Column
    background: Column
    slope: Column
    cloth: Column
    noise_seed: Column
    jpeg: Column


def _turn(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    return np.einsum("nij,nj->ni", matrix, vector)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector, axis=-1, keepdims=True)


def _looking_at(point: np.ndarray, roll: np.ndarray) -> np.ndarray:
    """Rotations whose third row points at a point, turned by `roll` about it."""
    z = _unit(point.astype(np.float64))
    y = _unit(np.cross(z, np.broadcast_to([1.0, 0.0, 0.0], z.shape)))
    x = np.cross(y, z)
    c, s = np.cos(roll)[:, None], np.sin(roll)[:, None]
    return np.stack([c * x + s * y, c * y - s * x, z], axis=1)


def _angles(draws: Draws, domain: Domain, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Gaze and head (N, 2) in radians; of eyes in left-eye form."""
    gaze = [draws.uniform("pitch", *domain.pitch), draws.uniform("yaw", *domain.yaw)]
    head = [
        draws.normal("head_pitch", 0.0, domain.head_sd[0]),
        draws.normal("head_yaw", 0.0, domain.head_sd[1]),
    ]
    gaze, head = np.stack(gaze, axis=1), np.stack(head, axis=1)
    most, reach = np.asarray(_MOST_HEAD_DEG[kind]), np.asarray(_EYE_IN_HEAD_DEG)
    head = np.clip(np.clip(head, gaze - reach, gaze + reach), -most, most)
    gaze = np.clip(gaze, head - reach, head + reach)
    if kind == "eyes":
        turned = np.where(head[:, 1] < _FAR_SIDE_DEG, -1.0, 1.0)
        gaze[:, 1], head[:, 1] = turned * gaze[:, 1], turned * head[:, 1]
    return np.deg2rad(gaze).astype(np.float32), np.deg2rad(head).astype(np.float32)


def _as_seen(angles: np.ndarray, side: np.ndarray) -> np.ndarray:
    """Angles before a right eye is mirrored into left-eye form, and back."""
    return np.where(side[:, None] == RIGHT, angles * np.asarray([[1.0, -1.0]], np.float32), angles)


def _reference(draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """Cameras (N, 3, 3) of raw frames, one for each person, and where in front of them faces are (N, 3), mm."""
    focal, distance = draws.uniform("focal", 500, 1000), draws.uniform("distance", 400, 900)
    focal = np.full_like(focal, focal[0])
    height, width = FRAME
    column, row = draws.uniform("column", -90, 90), draws.uniform("row", -40, 40)
    zero, one = np.zeros_like(focal), np.ones_like(focal)
    rows = [[focal, zero, one * width / 2], [zero, focal, one * height / 2], [zero, zero, one]]
    intrinsics = np.stack([np.stack(entries, axis=-1) for entries in rows], axis=-2)
    ray = _unit(np.stack([column / focal, row / focal, one], axis=1))
    return intrinsics, distance[:, None] * ray


def sample(
    person: Person, domain: Domain, kind: str, *, count: int, text: str, distance_mm: float
) -> Scene:
    """Scenes of one person.

    Args:
      person: a single row.
      domain: ranges and look.
      kind: "eyes" (left and right take turns), "faces" or "frames".
      count: how many scenes; more of them begin with the same ones.
      text: names the random numbers.
      distance_mm: d_n of the virtual camera that patches are seen with.

    Raises:
      ValueError: another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}: expected one of {', '.join(KINDS)}")
    draws = Draws(text, count)
    uniform, normal, chance = draws.uniform, draws.normal, draws.chance
    who = persons.take(person, np.zeros(count, np.int64))
    eyes, plain = kind == "eyes", domain.plain and kind == "faces"
    side = np.arange(count) % 2 if eyes else np.full(count, FACE)
    gaze, head = _angles(draws, domain, kind)
    intrinsics, reference = _reference(draws)
    roll = normal("roll", 0.0, np.deg2rad(5.0))

    # Roll is what normalisation removes: the head has none in the patch and this much before the camera.
    norm = _looking_at(reference, roll)
    turned = np.asarray(geometry.head_pitchyaw_to_rotation(_as_seen(head, side)), np.float64)
    rotation = np.swapaxes(norm, 1, 2) @ turned
    seen = np.asarray(geometry.pitchyaw_to_vector(_as_seen(gaze, side)), np.float64)
    gaze_camera = _turn(np.swapaxes(norm, 1, 2), seen)
    if plain:
        # Labels of a plain crop are the camera's own angles.
        norm = np.broadcast_to(np.eye(3), norm.shape)
        head, gaze = _pitchyaw(-rotation[:, :, 2]), _pitchyaw(gaze_camera)

    anchor = persons.eye_middle(who, side) if eyes else persons.face_centre(who)
    off = np.stack([normal("off_x", 0, 0.8), normal("off_y", 0, 0.6), np.zeros(count)], axis=1)
    off = off if eyes else 0.0 * off
    translation = reference + _turn(np.swapaxes(norm, 1, 2), off) - _turn(rotation, anchor)

    balls = [
        _turn(rotation, persons.ball_centre(who, np.full(count, which))) + translation
        for which in (LEFT, RIGHT)
    ]
    away = draws.uniform("target_mm", 350, 900)[:, None]
    start = np.where(side[:, None] == RIGHT, balls[1], balls[0]) if eyes else reference
    target = start + away * gaze_camera
    visual = np.stack([_unit(target - ball) for ball in balls], axis=1)

    sideways, above, spread = domain.light
    light = np.stack(
        [
            normal("light_x", 0, sideways),
            -np.abs(normal("light_y", above, spread)),
            -np.ones(count),
        ],
        axis=1,
    )
    shut = (kind == "frames") & chance("closed", 0.03)
    dark = (kind == "frames") & chance("low_light", 0.15)
    blurred = chance("blurred", 0.2 if kind == "frames" else domain.blurred)
    worn = not eyes
    values = {
        "rotation": rotation,
        "translation": translation,
        "reference": reference,
        "norm": norm,
        "scale": distance_mm / np.linalg.norm(reference, axis=1) if not plain else np.ones(count),
        "visual": visual,
        "gaze_camera": gaze_camera,
        "target": target,
        "gaze": gaze,
        "head": head,
        "intrinsics": intrinsics,
        "light": _unit(light),
        "strength": uniform("strength", *domain.strength),
        "ambient": np.full(count, domain.ambient),
        "gradient": np.stack([normal("fade_x", 0, 0.12), normal("fade_y", 0, 0.08)], axis=1),
        "pupil": uniform("pupil", 1.2, 3.2),
        "opening": np.where(shut, -1.5, uniform("opening", 0.75, 1.1)),
        "specular": uniform("specular", 0.0, 0.9),
        "gain": uniform("gain", 0.6, 1.15) * np.where(dark, 0.4, 1.0),
        "noise": uniform("noise", *domain.noise) * np.where(dark, 1.6, 1.0),
        "blur_px": np.where(blurred, uniform("blur", 0.6, 1.6), 0.0),
        "glasses": worn * chance("glasses", 0.25),
        "fringe": worn * chance("fringe", 0.1),
        "background": _colour(draws, "background", 0.1, 0.9),
        "slope": np.stack([normal("slope_x", 0, 0.5), normal("slope_y", 0, 0.5)], axis=1),
        "cloth": _colour(draws, "cloth", 0.05, 0.8),
    }
    compressed = (kind == "frames") & chance("compressed", 0.3)
    return Scene(
        person=who,
        side=side.astype(np.int64),
        noise_seed=draws.integer("noise_seed", 0, 2**31 - 1).astype(np.uint32),
        jpeg=np.where(compressed, draws.integer("quality", 40, 95), 0).astype(np.int64),
        **{name: np.asarray(value, np.float32) for name, value in values.items()},
    )


def _colour(draws: Draws, name: str, low: float, high: float) -> np.ndarray:
    """Muted colours: one tone, each channel a little off."""
    tone = draws.uniform(f"{name}_tone", low, high)
    return np.stack([tone * draws.uniform(f"{name}_{c}", 0.8, 1.2) for c in "rgb"], axis=1)


def _pitchyaw(vector: Float[np.ndarray, "N 3"]) -> np.ndarray:
    return np.asarray(geometry.vector_to_pitchyaw(vector.astype(np.float32)))


def take(scene: Scene, rows: np.ndarray) -> Scene:
    """Some scenes, in any order."""
    return Scene(persons.take(scene.person, rows), *(column[rows] for column in scene[1:]))


def mirror(scene: Scene) -> Scene:
    """The scenes that pictures with reversed columns show: M g, M R M, left and right change places.

    The labels `gaze` and `head` are those of the mirrored patch, which for eyes in left-eye form do not change.
    """
    sign = np.asarray([-1.0, 1.0, 1.0], np.float32)
    both = sign[:, None] * sign[None, :]
    eyes = scene.side != FACE
    turned = np.where(eyes[:, None], np.float32(1), np.asarray([[1.0, -1.0]], np.float32))
    return scene._replace(
        side=np.where(eyes, 1 - scene.side, scene.side),
        rotation=scene.rotation * both,
        translation=scene.translation * sign,
        reference=scene.reference * sign,
        norm=scene.norm * both,
        visual=scene.visual[:, ::-1] * sign,
        gaze_camera=scene.gaze_camera * sign,
        target=scene.target * sign,
        gaze=scene.gaze * turned,
        head=scene.head * turned,
        light=scene.light * sign,
        slope=scene.slope * np.asarray([-1.0, 1.0], np.float32),
        gradient=scene.gradient * np.asarray([-1.0, 1.0], np.float32),
    )
