"""Cheap networks with known answers, and faces with known poses, for tests of prediction."""

import jax.numpy as jnp
import numpy as np

from core_jax.train import Params
from gaze_jax import face_model
from gaze_jax.cameras import Intrinsics
from gaze_jax.model import Model, References
from gaze_jax.people.faces import from_points

K = np.array([[600.0, 0, 319.5], [0, 600, 239.5], [0, 0, 1]])
INTRINSICS = Intrinsics(K)
PARAMS = Params(trainable={"gaze": np.array([0.1, -0.2], np.float32)})
# Eight corners of eyes, nose and mouth, as detectors give them.
CORNERS = [name for name in face_model.POINTS if name in face_model.DLIB68]
# Measured in scikit-image's picture of Eileen Collins.
ASTRONAUT = {
    "right_eye_outer": (194.0, 100.3),
    "right_eye_inner": (212.5, 102.6),
    "left_eye_inner": (237.7, 104.6),
    "left_eye_outer": (258.9, 102.6),
    "nose_right": (215.6, 130.0),
    "nose_left": (236.5, 130.9),
    "nose_tip": (226.0, 127.0),
    "mouth_right": (204.1, 140.5),
    "mouth_left": (243.4, 142.0),
}


def toy(kind="face", size=(224, 224, 3), *, uses_head=False, predict="constant", references=False):
    """A network that says `gaze`, or how far the dark dot of a patch lies from its centre ("dot"), in hundreds of pixels.

    "head" says the head pose it was given. References compare mean brightness.
    """

    def constant(params, images, head):
        del head
        return jnp.broadcast_to(params.trainable["gaze"][None], (images.shape[0], 2))

    def dot(params, images, head):
        del params, head
        dark = (jnp.mean(images.astype(jnp.float32), axis=3) < 60).astype(jnp.float32)
        height, width = images.shape[1:3]
        total = jnp.maximum(dark.sum((1, 2)), 1.0)
        y = jnp.sum(dark * jnp.arange(height, dtype=jnp.float32)[None, :, None], (1, 2)) / total
        x = jnp.sum(dark * jnp.arange(width, dtype=jnp.float32)[None, None, :], (1, 2)) / total
        return jnp.stack([(height / 2 - y) / 100.0, (width / 2 - x) / 100.0], axis=1)

    answers = {"constant": constant, "dot": dot, "head": lambda params, images, head: head}
    mean = lambda images: jnp.mean(images.astype(jnp.float32), axis=(1, 2, 3))[:, None] / 255.0

    def compare(params, query, known):
        del params
        change = jnp.tile(query["mean"] - known["mean"], (1, 2))
        return (None if predict == "none" else jnp.zeros_like(change)), change

    pair = References(encode=lambda params, images, head: {"mean": mean(images)}, compare=compare)
    return Model(
        name="toy",
        kind=kind,
        size=size,
        uses_head=uses_head,
        init=lambda key: PARAMS,
        loss=lambda *args: (jnp.zeros(()), None),
        predict=answers.get(predict),
        features=lambda params, images, head: jnp.tile(mean(images), (1, 3)),
        references=pair if references else None,
    )


def eye_toy(**options):
    return toy("eye", (36, 60, 1), **options)


def turn(pitch_deg, yaw_deg, roll_deg=0.0):
    """Head rotation Ry Rx Rz in float64."""
    p, y, r = np.deg2rad([pitch_deg, yaw_deg, roll_deg])
    rx = np.array([[1, 0, 0], [0, np.cos(p), np.sin(p)], [0, -np.sin(p), np.cos(p)]])
    ry = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    rz = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return ry @ rx @ rz


def pixels(points_mm, matrix=K):
    """Pinhole projection of (..., 3)."""
    flat = points_mm @ matrix.T
    return flat[..., :2] / flat[..., 2:]


def posed(rotation, shift_mm, matrix=K):
    """A face whose corners lie where this pose puts them: (Face, named points in camera space)."""
    points = {name: rotation @ np.array(p) + shift_mm for name, p in face_model.POINTS.items()}
    face = from_points({name: pixels(points[name], matrix) for name in CORNERS})
    return face, points


def ray_rotation(rotation, reference):
    """R of the normalisation by its definition, in float64."""
    z = reference / np.linalg.norm(reference)
    y = np.cross(z, rotation[:, 0])
    y /= np.linalg.norm(y)
    return np.stack([np.cross(y, z), y, z])


def vector(pitch, yaw):
    """Unit vector of (pitch, yaw) in radians."""
    return np.array([-np.cos(pitch) * np.sin(yaw), -np.sin(pitch), -np.cos(pitch) * np.cos(yaw)])


def angle_deg(a, b):
    return np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b)), np.dot(a, b)))


def with_dot(at, radius=2.5):
    """A grey picture with a dark dot."""
    y, x = np.mgrid[:480, :640]
    image = np.full((480, 640, 3), 128, np.uint8)
    image[np.hypot(x - at[0], y - at[1]) <= radius] = 0
    return image
