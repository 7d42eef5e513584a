"""Rendered people: what stays the same in all pictures of one person.

Lengths in mm, angles in degrees. N people. Head frame: x to the left ear, y down, z into the head, origin between the eyes.
Faces are symmetric, so that a mirrored picture shows the same person. The angle kappa between the optical axis, which is
seen, and the visual axis, which is the label, is what personal calibration has to find.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32

from gaze_jax import face_model
from gaze_jax.render.draws import Draws

# The line through both corners of an eye turns back towards the ear by this much.
WRAP_RAD = 0.28

# Arrays with a leading axis N: of NumPy where scenes are drawn, of JAX and without that axis where they are shaded.
Column = Any


class Person(NamedTuple):
    """People, one row each; a jax pytree.

    Attributes:
      radius: of the eyeball. depth, ball_x, ball_y: its centre from the middle of the eye corners, x outwards.
      kappa: (horizontal, vertical) degrees. iris_radius, iris_tone, iris_hue (0 brown .. 1 blue), sclera_tone.
      frequency, phase: the texture of the iris.
      width: between the eye corners. upper, lower: heights of the lids. upper_power, lower_power: their shapes.
      follow: how far the upper lid follows the gaze. tilt: of the line through the corners.
      skin_tone, skin_hue; crease: above the upper lid; lash: strength of the lash line.
      eye_distance: between the middles of the eye corners.
      nose, mouth: left-hand points of the face model moved by this person's own shape; tip of the nose.
      hair_tone, brow: height above the eye, brow_strength; size: factor on the outline of the head.
    """

    radius: Column
    depth: Column
    ball_x: Column
    ball_y: Column
    kappa: Column
    iris_radius: Column
    iris_tone: Column
    iris_hue: Column
    sclera_tone: Column
    frequency: Column
    phase: Column
    width: Column
    upper: Column
    lower: Column
    upper_power: Column
    lower_power: Column
    follow: Column
    tilt: Column
    skin_tone: Column
    skin_hue: Column
    crease: Column
    lash: Column
    eye_distance: Column
    nose: Column
    mouth: Column
    tip: Column
    hair_tone: Column
    brow: Column
    brow_strength: Column
    size: Column


def names(count: int) -> tuple[str, ...]:
    """Names "person-00", "person-01", ...: sorted as they are numbered."""
    digits = max(2, len(str(count - 1)))
    return tuple(f"person-{index:0{digits}d}" for index in range(count))


def make(count: int, *, seed: int | str) -> Person:
    """People 0 .. count - 1 of a seed; more of them begin with the same ones.

    Args:
      count: how many.
      seed: any number or text.

    Raises:
      ValueError: count is below 1.
    """
    if count < 1:
        raise ValueError(f"persons is {count}: expected at least 1")
    draws = Draws(f"gaze/person/{seed}", count)
    uniform, normal = draws.uniform, draws.normal
    skin_tone = uniform("skin_tone", 0.25, 0.8)

    def moved(name: str) -> np.ndarray:
        point = face_model.POINTS[name]
        # The tip stays in the plane of symmetry.
        x = np.zeros(count, np.float32) if point[0] == 0.0 else normal(f"{name}_x", 0, 1)
        shift = [x, normal(f"{name}_y", 0, 1), normal(f"{name}_z", 0, 1)]
        return np.asarray(point, np.float32)[None] + np.stack(shift, axis=1)

    return Person(
        radius=uniform("radius", 11.5, 12.5),
        depth=uniform("depth", 8.5, 10.5),
        ball_x=uniform("ball_x", -0.6, 0.6),
        ball_y=uniform("ball_y", -0.6, 0.6),
        kappa=np.stack([normal("kappa_h", 5.0, 1.2), normal("kappa_v", 1.5, 1.0)], axis=1),
        iris_radius=uniform("iris_radius", 5.6, 6.3),
        iris_tone=uniform("iris_tone", 0.12, 0.45),
        iris_hue=uniform("iris_hue", 0.0, 1.0),
        sclera_tone=uniform("sclera_tone", 0.75, 0.95),
        # Whole numbers: the texture closes around the iris.
        frequency=np.stack(
            [draws.integer("f1", 5, 13), draws.integer("f2", 15, 29)], axis=1
        ).astype(np.float32),
        phase=uniform("phase", 0.0, 2.0 * np.pi),
        width=uniform("width", 26.0, 32.0),
        upper=uniform("upper", 4.2, 6.5),
        lower=uniform("lower", 3.0, 4.5),
        upper_power=uniform("upper_power", 0.6, 1.1),
        lower_power=uniform("lower_power", 0.6, 1.1),
        follow=uniform("follow", 0.7, 1.3),
        tilt=uniform("tilt", -0.12, 0.08),
        skin_tone=skin_tone,
        skin_hue=uniform("skin_hue", -1.0, 1.0),
        crease=uniform("crease", 1.5, 4.0),
        lash=uniform("lash", 0.2, 0.7),
        eye_distance=uniform("eye_distance", 58.0, 70.0),
        nose=moved("nose_left"),
        mouth=moved("mouth_left"),
        tip=moved("nose_tip"),
        # Blond goes with fair skin.
        hair_tone=0.04 + uniform("hair", 0, 1) * (0.05 + 0.6 * np.maximum(skin_tone - 0.4, 0.0)),
        brow=uniform("brow", 11.5, 15.0),
        brow_strength=uniform("brow_strength", 0.35, 0.8),
        size=uniform("size", 0.95, 1.05),
    )


def take(people: Person, rows: np.ndarray) -> Person:
    """Some people, in any order and as often as wanted."""
    return Person(*(column[rows] for column in people))


def corner_axis(person: Person) -> Float32[np.ndarray, "N 3"]:
    """From the middle of the left eye's corners to its outer corner, per mm of half width; head frame."""
    one = np.ones_like(person.tilt)
    return np.stack([np.cos(WRAP_RAD) * one, person.tilt, np.sin(WRAP_RAD) * one], axis=1)


def eye_middle(person: Person, side: np.ndarray) -> Float32[np.ndarray, "N 3"]:
    """The middle of the corners of one eye: the origin of its lids; head frame.

    Args:
      person: N people.
      side: (N,), 0 left or 1 right.
    """
    x = np.where(side == 0, 0.5, -0.5).astype(np.float32) * person.eye_distance
    return np.stack([x, np.zeros_like(x), np.zeros_like(x)], axis=1)


def ball_centre(person: Person, side: np.ndarray) -> Float32[np.ndarray, "N 3"]:
    """The centre of one eyeball; head frame. Arguments as for `eye_middle`."""
    outwards = np.where(side == 0, 1.0, -1.0).astype(np.float32)
    shift = np.stack([outwards * person.ball_x, person.ball_y, person.depth], axis=1)
    return eye_middle(person, side) + shift


def points(person: Person) -> dict[str, Float32[np.ndarray, "N 3"]]:
    """The named points of the face model on each person, head frame: the truth that landmarks show."""
    mirror = np.asarray([[-1.0, 1.0, 1.0]], np.float32)
    left = eye_middle(person, np.zeros(len(person.width), np.int64))
    half = 0.5 * person.width[:, None] * corner_axis(person)
    found = {
        "right_eye_outer": mirror * (left + half),
        "right_eye_inner": mirror * (left - half),
        "left_eye_inner": left - half,
        "left_eye_outer": left + half,
        "nose_right": mirror * person.nose,
        "nose_left": person.nose,
        "mouth_right": mirror * person.mouth,
        "mouth_left": person.mouth,
        "right_eye_centre": mirror * left,
        "left_eye_centre": left,
        "nose_tip": person.tip,
    }
    return {name: value.astype(np.float32) for name, value in found.items()}


def face_centre(person: Person) -> Float32[np.ndarray, "N 3"]:
    """The reference point of whole faces, `face_model.reference_point` of kind "eth"; head frame."""
    return face_model.reference_point(points(person), "eth").astype(np.float32)
